use super::params::{Params, Place, in_lines, place};
use super::{Order, Sizes, Spec};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{
    Binding, Buffer, Class, Kernel, Matrices, MatrixUse, WgpuDevice, Work, fold_groups,
};
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{HALVES_QUADS, HALVES_SCALARS, LOOPS, MATRICES_8, MATRICES_16, PHILOX, check_loops, check_size, output};
use crate::ops::launch::windows;
use crate::{DType, Device, Result, Shape, Tensor};

const PARAMS: &str = include_str!("../../../kernels/attention/params.wgsl");
const MASK: &str = include_str!("../../../kernels/attention/mask.wgsl");
const COMMON: &str = include_str!("../../../kernels/attention/common.wgsl");
const TILE: &str = include_str!("../../../kernels/attention/tile.wgsl");
const LANES: &str = include_str!("../../../kernels/attention/lanes.wgsl");
const KEYS: &str = include_str!("../../../kernels/attention/keys.wgsl");
const QUERIES: &str = include_str!("../../../kernels/attention/queries.wgsl");
const FORWARD: &str = include_str!("../../../kernels/attention/forward.wgsl");
const COMBINE: &str = include_str!("../../../kernels/attention/combine.wgsl");
const ROWSUM: &str = include_str!("../../../kernels/attention/rowsum.wgsl");
const BACKWARD: &str = include_str!("../../../kernels/attention/backward.wgsl");
const DQ: &str = include_str!("../../../kernels/attention/dq.wgsl");
const DKDV: &str = include_str!("../../../kernels/attention/dkdv.wgsl");
const COOPERATIVE: &str = include_str!("../../../kernels/attention/cooperative.wgsl");
const COOPERATIVE_FORWARD: &str = include_str!("../../../kernels/attention/cooperative_forward.wgsl");
const COOPERATIVE_BACKWARD: &str = include_str!("../../../kernels/attention/cooperative_backward.wgsl");
const COOPERATIVE_DQ: &str = include_str!("../../../kernels/attention/cooperative_dq.wgsl");
const COOPERATIVE_DKDV: &str = include_str!("../../../kernels/attention/cooperative_dkdv.wgsl");

/// Kernels read four elements at a time, and count in such quads.
const QUAD: usize = 4;

/// What every WebGPU device has.
const WORKGROUP_MEMORY: usize = 16 << 10;

/// With more, an RDNA 2 has room for fewer than three waves a SIMD, and arithmetic waits.
const GPU_WORKGROUP_MEMORY: usize = 13 << 10;

/// `LANES` of kernels/attention/lanes.wgsl.
const READERS: u32 = 8;

/// Iterations up to which lavapipe's compiler unrolls a loop over the quads of a row, so that they stay in registers.
const UNROLLED: usize = 32;

/// What passes by cooperative matrices may use, and up to what head size: an adapter that has these has more than WebGPU's least.
const COOPERATIVE_MEMORY: usize = 32 << 10;
const COOPERATIVE_HEAD: usize = 128;

/// Queries of a head that are so few that keys are cut instead.
const FEW: usize = 16;

/// Workgroups that keys are cut for: what a large GPU runs at a time, and a processor. WebGPU does not tell how many
/// that are.
const GROUPS: usize = 512;
const SOFTWARE_GROUPS: usize = 4;

/// The passes that own rows and visit others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Queries,
    Keys,
}

impl Pass {
    #[cfg(test)]
    const ALL: [Pass; 3] = [Pass::Forward, Pass::Queries, Pass::Keys];

    fn name(self) -> &'static str {
        if self == Pass::Forward { "attention" } else { "attention_backward" }
    }

    fn work(self, head_dim: usize, params: &Params) -> Work {
        // Products that a pair of rows takes part in: scores and values; scores, dP and dQ; scores, dP, dV and dK.
        let products = match self {
            Pass::Forward => 2,
            Pass::Queries => 3,
            Pass::Keys => 4,
        };
        Work { flops: 2 * products * head_dim as u64 * params.pairs(), bytes: None }
    }
}

/// How a pass is cut, see kernels/attention/common.wgsl.
#[derive(Clone, Copy)]
struct Teams {
    pass: Pass,
    split: u32,
    rows: u32,
    block: u32,
    tile: u32,
    step: u32,
    /// Visited rows come from lane to lane, not through workgroup memory.
    lanes: bool,
    /// Values come after keys and take their place, for a tile of one step.
    apart: bool,
}

impl Teams {
    /// For `owned` rows, of a head or of some, that visit `visited` others.
    fn new(class: Class, spec: &Spec, head_dim: usize, pass: Pass, owned: usize, visited: usize) -> Self {
        let quads = head_dim / QUAD;
        let cut = |split: usize, rows: usize, block: usize, step: usize, apart: bool, limit: usize| {
            let mut plans = [16, 8, 4].into_iter().map(|tile| {
                let [split, rows, block, step] = [split, rows, block, step.min(tile)].map(|n| n as u32);
                Teams { pass, split, rows, block, tile: tile as u32, step, lanes: false, apart }
            });
            plans.find(|plan| plan.workgroup_memory(head_dim, spec.dropout.is_some()) <= limit)
        };
        if class.software {
            // Registers are memory there, and the cost is in loads, which rows share. But the code of a step must fit into
            // what a processor caches of instructions: more rows or longer steps are slower, and take longer to compile.
            let unrolled = quads <= UNROLLED;
            if unrolled && class.subgroups.is_some_and(|smallest| smallest >= READERS) {
                let rows = if pass == Pass::Forward && head_dim <= 64 && owned > 8 { 2 } else { 1 };
                let dropout = spec.dropout.is_some();
                let plans = [1, 2, 4, 8].into_iter().map(|step| {
                    // Dropout's bits are drawn for a tile.
                    let tile = if dropout { 16 } else { step };
                    Teams { pass, split: 1, rows, block: READERS, tile, step, lanes: true, apart: false }
                });
                let mut plans = plans.filter(|plan| quads.is_multiple_of((READERS / plan.step) as usize));
                let last = plans.clone().next_back().expect("a step of eight rows is always there");
                return plans.find(|plan| visited <= plan.most_visited(head_dim, dropout, class.checked)).unwrap_or(last);
            }
            let split = if unrolled { 1 } else { 4 };
            let rows = if head_dim <= 64 && owned > 64 { 2 } else { 1 };
            let plan = cut(split, rows, if owned <= 8 { 8 * split } else { 64 }, 8, false, WORKGROUP_MEMORY);
            return plan.expect("a tile of 4 fits");
        }
        // Rows of a team and quads that a member has of each. With 128 registers for what is owned and summed up, of two
        // matrices or of four, the rest fits into the 168 with which an RDNA 2 runs three waves a SIMD.
        let cuts: &[(usize, usize)] = match pass {
            Pass::Forward if owned <= FEW && quads > 32 => &[(1, 8)],
            Pass::Forward if owned <= FEW => &[(1, 4)],
            Pass::Forward if quads <= 8 => &[(2, 8)],
            Pass::Forward => &[(4, 4), (2, 8)],
            _ => &[(2, 4), (1, 8)],
        };
        let plans = cuts.iter().filter_map(|&(rows, held)| {
            let split = quads.div_ceil(held).next_power_of_two();
            // A team of one, which waits for nobody, keeps what it reads of the tile in registers.
            let spills = pass != Pass::Forward && split == 1 && rows * quads > 4;
            // The longer a step, the more multiply-adds for what is done once a step. There are registers for it where a
            // team of the forward has one row or one member; and memory, if values take the place of keys.
            let apart = pass == Pass::Forward && rows == 1 && split > 1;
            let step = match pass {
                Pass::Forward if apart || split == 1 && quads <= 4 => 16,
                Pass::Forward if split == 1 => 8,
                _ => 4,
            };
            if spills { None } else { cut(split, rows, 64, step, apart, GPU_WORKGROUP_MEMORY) }
        });
        // Quads beyond the row are computed and not used.
        let padding = |plan: &Teams| quads.next_multiple_of(plan.split as usize) - quads;
        plans.min_by_key(|plan| 8 * padding(plan) > quads).expect("the last fits")
    }

    /// Rows that a workgroup owns.
    fn band(&self) -> usize {
        (self.block / self.split * self.rows) as usize
    }

    /// How many rows an invocation can visit on a software adapter, see [`LOOPS`]; `rolled` where that does not unroll
    /// loops over quads, of which a step has three.
    fn most_visited(&self, head_dim: usize, dropout: bool, rolled: bool) -> usize {
        let [split, block, tile, step] = [self.split, self.block, self.tile, self.step].map(|n| n as usize);
        let quads = (head_dim / QUAD).div_ceil(split);
        let loads = if self.apart { 2 } else { 1 };
        let load = if self.lanes { 0 } else { loads * (tile * head_dim / QUAD).div_ceil(block) + 1 };
        let draw = if dropout { (tile / 4 * self.band()).div_ceil(block) + 1 } else { 0 };
        let of_step = if rolled { 1 + 3 * quads } else { 1 };
        LOOPS / (1 + load + draw + tile / step * of_step) * tile
    }

    /// The plan, unless it visits more than that.
    fn check(
        self,
        device: &WgpuDevice,
        spec: &Spec,
        head_dim: usize,
        visited: usize,
        unit: &'static str,
    ) -> Result<Plan> {
        // The kernels for GPUs rely on nothing of lavapipe.
        let class = device.class();
        let rolled = class.checked || !class.software;
        let most = self.most_visited(head_dim, spec.dropout.is_some(), rolled);
        check_loops(self.pass.name(), device, visited, unit, most)?;
        Ok(Plan::Teams(self))
    }

    /// In bytes, by the declarations in the sources.
    fn workgroup_memory(&self, head_dim: usize, dropout: bool) -> usize {
        let [split, rows, block, tile, step] =
            [self.split, self.rows, self.block, self.tile, self.step].map(|n| n as usize);
        let matrices = if self.apart { 1 } else { 2 };
        let runs = (split / rows).clamp(1, step);
        let shared = if split > 1 { 4 * rows * step * (block + block / split) + 4 * self.band() * (1 + runs) } else { 0 };
        let kept = if dropout { (tile / 4 * self.band()).max(block) } else { 0 };
        let stats = if self.pass == Pass::Keys { 8 * tile } else { 0 };
        let rows = if self.lanes { 0 } else { 4 * matrices * head_dim * (tile + 1) + stats };
        // Arrays that are not needed have a quad each.
        let spare = 96;
        rows + shared + 4 * kept + spare
    }

    /// `out` is what the forward's result is stored as.
    fn kernel(&self, spec: &Spec, head_dim: usize, [dtype, out]: [DType; 2], params: &Params) -> Kernel {
        let entry = match self.pass {
            Pass::Forward => "forward",
            Pass::Queries => "dq",
            Pass::Keys => "dkdv",
        };
        let source: &[&str] = match (self.pass, self.lanes) {
            (Pass::Forward, false) => &[PHILOX, PARAMS, MASK, COMMON, TILE, KEYS, FORWARD],
            (Pass::Forward, true) => &[PHILOX, PARAMS, MASK, COMMON, LANES, KEYS, FORWARD],
            (Pass::Queries, false) => &[PHILOX, PARAMS, MASK, COMMON, TILE, KEYS, BACKWARD, DQ],
            (Pass::Queries, true) => &[PHILOX, PARAMS, MASK, COMMON, LANES, KEYS, BACKWARD, DQ],
            (Pass::Keys, false) => &[PHILOX, PARAMS, MASK, COMMON, TILE, QUERIES, BACKWARD, DKDV],
            (Pass::Keys, true) => &[PHILOX, PARAMS, MASK, COMMON, LANES, QUERIES, BACKWARD, DKDV],
        };
        let kernel = Kernel::builtin(self.pass.name(), source, entry)
            .with("D", head_dim as u32)
            .with("SPLIT", self.split)
            .with("ROWS", self.rows)
            .with("BLOCK", self.block)
            .with("TILE", self.tile)
            .with("STEP", self.step)
            .with("DROPOUT", spec.dropout.is_some())
            .with("T", dtype);
        let kernel = if self.pass == Pass::Forward { kernel.with("APART", self.apart).with("O", out) } else { kernel };
        kernel.work(self.pass.work(head_dim, params))
    }
}

/// How a pass by cooperative matrices is cut, see kernels/attention/cooperative.wgsl.
#[derive(Clone, Copy)]
struct Cooperative {
    pass: Pass,
    matrices: Matrices,
    tile: u32,
}

impl Cooperative {
    /// For rows that visit so many others, if the device has matrices and the sizes suit them: f16 without dropout, and more than
    /// a few queries.
    fn new(
        device: &WgpuDevice,
        spec: &Spec,
        sizes: &Sizes,
        dtype: DType,
        pass: Pass,
        visited: usize,
    ) -> Option<Self> {
        let suits = dtype == DType::F16 && spec.dropout.is_none() && sizes.q_len > FEW;
        let memory = device.limits().max_compute_workgroup_storage_size as usize;
        let plan = Cooperative::cut(device.matrices().filter(|_| suits)?, pass, sizes.head_dim, memory)?;
        let within = !device.is_software() || visited <= plan.most_visited(sizes.head_dim);
        within.then_some(plan)
    }

    /// With the largest tile that so much workgroup memory has room for.
    fn cut(matrices: Matrices, pass: Pass, head_dim: usize, memory: usize) -> Option<Self> {
        let edge = matrices.edge;
        if head_dim > COOPERATIVE_HEAD || !head_dim.is_multiple_of(edge as usize) {
            return None;
        }
        let tiles: &[u32] = if pass == Pass::Forward { &[2] } else { &[2, 1] };
        let mut plans = tiles.iter().map(|tile| Cooperative { pass, matrices, tile: tile * edge });
        plans.find(|plan| plan.workgroup_memory(head_dim) <= memory.min(COOPERATIVE_MEMORY))
    }

    /// Rows that a workgroup owns.
    fn band(&self) -> usize {
        2 * self.matrices.edge as usize
    }

    /// In bytes, by the declarations in the sources.
    fn workgroup_memory(&self, head_dim: usize) -> usize {
        let (band, tile) = (self.band(), self.tile as usize);
        let line = 2 * (head_dim + 8);
        let scores = |queries: usize, line: usize| 4 * queries * line;
        let weights = 2 * band * if self.tile > self.matrices.edge { tile + 8 } else { tile };
        match self.pass {
            Pass::Forward => {
                let statistics = 4 * (self.matrices.threads as usize + band) + 16;
                (band + tile) * line + scores(band, tile + 4) + weights + statistics
            }
            Pass::Queries => 2 * (band + tile) * line + 2 * scores(band, tile + 4) + weights,
            Pass::Keys => 2 * (band + tile) * line + 2 * scores(tile, band) + 2 * weights,
        }
    }

    /// How many rows an invocation can visit on a software adapter, see [`LOOPS`].
    fn most_visited(&self, head_dim: usize) -> usize {
        let (tile, edge, threads) = (self.tile as usize, self.matrices.edge as usize, self.matrices.threads as usize);
        let load = 5 * (tile * head_dim / QUAD).div_ceil(threads) + 1;
        let scores = 2 * self.band() * tile / (edge * edge);
        let of_team = 2 * (tile * self.band()).div_ceil(threads) + threads / self.band();
        // Parts that one turn has no subgroups for.
        let turns = (head_dim / edge).div_ceil(8);
        LOOPS / (turns * (1 + 2 * load + scores * (1 + head_dim / edge) + of_team + 2 * tile / edge)) * tile
    }

    fn kernel(&self, head_dim: usize, params: &Params) -> Kernel {
        macro_rules! with_matrices {
            ($($rest:ident),*) => {
                match (self.matrices.edge, self.matrices.quads) {
                    (8, true) => &[MATRICES_8, HALVES_QUADS, PARAMS, MASK, COOPERATIVE, $($rest),*],
                    (8, false) => &[MATRICES_8, HALVES_SCALARS, PARAMS, MASK, COOPERATIVE, $($rest),*],
                    (_, true) => &[MATRICES_16, HALVES_QUADS, PARAMS, MASK, COOPERATIVE, $($rest),*],
                    (_, false) => &[MATRICES_16, HALVES_SCALARS, PARAMS, MASK, COOPERATIVE, $($rest),*],
                }
            };
        }
        let (source, entry): (&[&str], _) = match self.pass {
            Pass::Forward => (with_matrices!(COOPERATIVE_FORWARD), "forward_cooperative"),
            Pass::Queries => (with_matrices!(COOPERATIVE_BACKWARD, COOPERATIVE_DQ), "dq_cooperative"),
            Pass::Keys => (with_matrices!(COOPERATIVE_BACKWARD, COOPERATIVE_DKDV), "dkdv_cooperative"),
        };
        Kernel::builtin(self.pass.name(), source, entry)
            .with("D", head_dim as u32)
            .with("EDGE", self.matrices.edge)
            .with("TILE", self.tile)
            .with("THREADS", self.matrices.threads)
            .with("T", DType::F16)
            .work(self.pass.work(head_dim, params))
    }
}

/// One way or the other.
#[derive(Clone, Copy)]
enum Plan {
    Teams(Teams),
    Cooperative(Cooperative),
}

impl Plan {
    fn band(&self) -> usize {
        match self {
            Plan::Teams(teams) => teams.band(),
            Plan::Cooperative(cooperative) => cooperative.band(),
        }
    }

    fn kernel(&self, spec: &Spec, head_dim: usize, dtypes: [DType; 2], params: &Params) -> Kernel {
        match self {
            Plan::Teams(teams) => teams.kernel(spec, head_dim, dtypes, params),
            Plan::Cooperative(cooperative) => cooperative.kernel(head_dim, params),
        }
    }
}

/// The forward by cooperative matrices, if they serve it and were found to compute right.
fn cooperative_forward(device: &WgpuDevice, spec: &Spec, sizes: &Sizes, dtype: DType) -> Result<Option<Plan>> {
    let plan = Cooperative::new(device, spec, sizes, dtype, Pass::Forward, sizes.k_len);
    let Some(plan) = plan.map(Plan::Cooperative) else { return Ok(None) };
    let by = MatrixUse::Attention { head_dim: sizes.head_dim };
    let serves = device.matrices_serve(by, || forward_agrees(device, sizes.head_dim, plan))?;
    Ok(serves.then_some(plan))
}

/// The passes of the backward, as [`cooperative_forward`].
fn cooperative_backward(
    device: &WgpuDevice,
    spec: &Spec,
    sizes: &Sizes,
    dtype: DType,
) -> Result<Option<[Plan; 2]>> {
    let of = |pass, visited| Cooperative::new(device, spec, sizes, dtype, pass, visited).map(Plan::Cooperative);
    let visited = sizes.q_len * (sizes.heads / sizes.kv_heads);
    let (Some(queries), Some(keys)) = (of(Pass::Queries, sizes.k_len), of(Pass::Keys, visited)) else {
        return Ok(None);
    };
    let (plans, by) = ([queries, keys], MatrixUse::AttentionBackward { head_dim: sizes.head_dim });
    let serves = device.matrices_serve(by, || backward_agrees(device, sizes.head_dim, plans))?;
    Ok(serves.then_some(plans))
}

/// Whether a plan computes what teams do.
fn forward_agrees(device: &WgpuDevice, head_dim: usize, plan: Plan) -> Result<bool> {
    let (spec, x) = example(device, head_dim)?;
    agree(&forward_by(device, &spec, &x[..3], None)?, &forward_by(device, &spec, &x[..3], Some(plan))?)
}

fn backward_agrees(device: &WgpuDevice, head_dim: usize, plans: [Plan; 2]) -> Result<bool> {
    let (spec, [q, k, v, dout]) = example(device, head_dim)?;
    let x = [q, k, v];
    let outputs = forward_by(device, &spec, &x, None)?;
    let x = [&x[..], &outputs, &[dout]].concat();
    agree(&backward_by(device, &spec, &x, None)?, &backward_by(device, &spec, &x, Some(plans))?)
}

/// A small attention with a rest at every edge, a mask, heads that share keys, and keys that grow, so that sums are rescaled:
/// q, k, v and the gradient of o.
fn example(device: &WgpuDevice, head_dim: usize) -> Result<(Spec, [Tensor; 4])> {
    let scale = 4.0 / (head_dim as f64).sqrt();
    let spec = Spec { causal: true, scale, window: None, dropout: None };
    let of = |heads: usize, len: usize, seed: u32, growth: f32| {
        let value = |i: usize| {
            let row = i / head_dim % len;
            let whole = ((i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 16) % 9;
            (whole as f32 / 4.0 - 1.0) * (1.0 + growth * row as f32 / len as f32)
        };
        let values: Vec<f32> = (0..heads * len * head_dim).map(value).collect();
        let x = Tensor::from_vec(values, (1, heads, len, head_dim), &Device::Wgpu(device.clone()))?;
        x.to_dtype(DType::F16)
    };
    Ok((spec, [of(2, 75, 1, 0.0)?, of(1, 83, 2, 3.0)?, of(1, 83, 3, 0.0)?, of(2, 75, 4, 0.0)?]))
}

/// Whether results are the same but for the rounding of weights to f16, which is 32 times finer than this.
fn agree(plain: &[Tensor], others: &[Tensor]) -> Result<bool> {
    for (plain, other) in plain.iter().zip(others) {
        let [plain, other] = [plain, other].map(|x| x.to_dtype(DType::F32)?.to_vec::<f32>());
        let (plain, other) = (plain?, other?);
        let bound = plain.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 64.0;
        if !plain.iter().zip(&other).all(|(plain, other)| (plain - other).abs() <= bound) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Threads of the workgroups that deal with one row or quad each.
const THREADS: usize = 64;

fn rowsum_kernel(head_dim: usize, dtype: DType) -> Kernel {
    Kernel::builtin("attention_rowsum", &[PARAMS, ROWSUM], "rowsum")
        .with("D", head_dim as u32)
        .with("BLOCK", THREADS as u32)
        .with("T", dtype)
}

fn combine_kernel(head_dim: usize, dtype: DType) -> Kernel {
    Kernel::builtin("attention_combine", &[PARAMS, COMBINE], "combine")
        .with("D", head_dim as u32)
        .with("BLOCK", THREADS as u32)
        .with("T", dtype)
}

/// Of a forward: whether the heads that read a key head share workgroups, and into how many chunks of how many keys
/// these are cut.
#[derive(Clone, Copy)]
struct Chunks {
    grouped: bool,
    keys: usize,
    count: usize,
}

impl Chunks {
    fn new(class: Class, spec: &Spec, sizes: &Sizes) -> Self {
        let Sizes { batch, heads, kv_heads, q_len, k_len, .. } = *sizes;
        // What the queries of a workgroup see.
        let seen = spec.window.map_or(k_len, |window| window.saturating_add(q_len + 2).min(k_len));
        if q_len > FEW || spec.dropout.is_some() || seen == 0 {
            return Chunks { grouped: false, keys: 0, count: 1 };
        }
        // Partial results are written and read again: no more than a quarter of the chunk's keys and values.
        let least = (8 * q_len * (heads / kv_heads)).max(64);
        let groups = if class.software { SOFTWARE_GROUPS } else { GROUPS };
        let wanted = groups.div_ceil((batch * kv_heads).max(1));
        let keys = seen.div_ceil(wanted).max(least).next_multiple_of(16);
        Chunks { grouped: true, keys, count: seen.div_ceil(keys) }
    }
}

/// The tensor, or a copy of it, as kernels read it: in quads.
fn in_quads(x: &Tensor) -> Result<Tensor> {
    in_lines(x, QUAD, x.layout().offset.is_multiple_of(QUAD))
}

/// What is bound of it, and its place in that.
fn window(x: &Tensor) -> Result<(Buffer, Place)> {
    let (buffer, offset) = x.wgpu_window()?;
    Ok((buffer, place(&x.layout().strides, offset, QUAD)))
}

pub fn forward(device: &WgpuDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let plan = cooperative_forward(device, spec, &Sizes::of(&x[0], &x[1]), x[0].dtype())?;
    forward_by(device, spec, x, plan)
}

/// As planned, or else by teams.
fn forward_by(device: &WgpuDevice, spec: &Spec, x: &[Tensor], plan: Option<Plan>) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, q_len, head_dim, .. } = sizes;
    check_size("attention", device, x[1].elements())?;
    let (q, k, v) = (in_quads(&x[0])?, in_quads(&x[1])?, in_quads(&x[2])?);
    let o = output("attention", device, &Shape::from((batch, heads * q_len * head_dim)), dtype)?;
    let lse = output("attention", device, &Shape::from((batch, heads, q_len)), DType::F32)?;

    let chunks = Chunks::new(device.class(), spec, &sizes);
    let sharers = if chunks.grouped { heads / sizes.kv_heads } else { 1 };
    let visited = if chunks.count > 1 { chunks.keys } else { sizes.k_len };
    let by_teams = || {
        let teams = Teams::new(device.class(), spec, head_dim, Pass::Forward, q_len * sharers, visited);
        teams.check(device, spec, head_dim, visited, "keys")
    };
    let plan = plan.map_or_else(by_teams, Ok)?;
    let mut first_head = 0;
    let parts = [windows::view(&q), windows::view(&k), windows::view(&v), windows::output(&o), windows::output(&lse)];
    windows::batches(parts, |[q, k, v, o, lse]| {
        let batch = lse.dims()[0];
        let ((q, q_at), (k, k_at), (v, v_at)) = (window(q)?, window(k)?, window(v)?);
        let params = Params {
            q: q_at,
            k: k_at,
            v: v_at,
            first_head,
            chunk: chunks.keys as u32,
            chunks: chunks.count as u32,
            ..Params::new(&Sizes { batch, ..sizes }, spec, QUAD)
        };
        first_head += (batch * heads) as u32;
        let groups = (q_len * sharers).div_ceil(plan.band()) * batch * (heads / sharers) * chunks.count;
        let run = |o: &Buffer, lse: &Buffer, out: DType, params: &Params| {
            let kernel = plan.kernel(spec, head_dim, [dtype, out], params);
            let inputs = [&q, &k, &v].map(Binding::Read);
            let outputs = [o, lse].map(Binding::Write);
            device.run(&kernel, &[&inputs[..], &outputs[..]].concat(), params, fold_groups(groups))
        };
        let (o, lse) = (o.wgpu()?, lse.wgpu()?);
        if chunks.count == 1 {
            return run(&o, &lse, dtype, &params);
        }
        let queries = batch * heads * q_len;
        let of_chunks = |width| device.alloc("attention", chunks.count * queries * width * 4);
        let (chunk_o, chunk_lse) = (of_chunks(head_dim)?, of_chunks(1)?);
        let dense = place(&[heads * q_len * head_dim, q_len * head_dim, head_dim], 0, QUAD);
        run(&chunk_o, &chunk_lse, DType::F32, &Params { o: dense, ..params })?;
        device.run(
            &combine_kernel(head_dim, dtype),
            &[Binding::Read(&chunk_o), Binding::Read(&chunk_lse), Binding::Write(&o), Binding::Write(&lse)],
            &params,
            fold_groups((queries * head_dim / QUAD).div_ceil(THREADS)),
        )
    })?;
    Ok(vec![sizes.tensor(Order::HeadsInside, o, heads, q_len)?, lse])
}

pub fn backward(device: &WgpuDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let plans = cooperative_backward(device, spec, &Sizes::of(&x[0], &x[1]), x[0].dtype())?;
    backward_by(device, spec, x, plans)
}

/// As planned, by query and by key, or else by teams.
fn backward_by(
    device: &WgpuDevice,
    spec: &Spec,
    x: &[Tensor],
    plans: Option<[Plan; 2]>,
) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, kv_heads, q_len, k_len, head_dim } = sizes;
    let (q_order, k_order) = (Order::of_gradient(&x[0]), Order::of_gradient(&x[1]));
    let (q, k, v, o, lse) = (in_quads(&x[0])?, in_quads(&x[1])?, in_quads(&x[2])?, in_quads(&x[3])?, &x[4]);
    let dout = in_quads(&x[5])?;
    let name = "attention_backward";
    let of_queries = Shape::from((batch, heads * q_len * head_dim));
    let of_keys = Shape::from((batch, kv_heads * k_len * head_dim));
    let delta = output(name, device, &Shape::from((batch, heads, q_len)), DType::F32)?;
    let dq = output(name, device, &of_queries, dtype)?;
    let (dk, dv) = (output(name, device, &of_keys, dtype)?, output(name, device, &of_keys, dtype)?);

    let by_teams = || -> Result<_> {
        let by_query = Teams::new(device.class(), spec, head_dim, Pass::Queries, q_len, k_len);
        let visited = q_len * (heads / kv_heads);
        let by_key = Teams::new(device.class(), spec, head_dim, Pass::Keys, k_len, visited);
        Ok([
            by_query.check(device, spec, head_dim, k_len, "keys")?,
            by_key.check(device, spec, head_dim, visited, "queries of a key head")?,
        ])
    };
    let [by_query, by_key] = plans.map_or_else(by_teams, Ok)?;
    let mut first_head = 0;
    let [q, k, v, o, dout, lse] = [&q, &k, &v, &o, &dout, lse].map(windows::view);
    let outputs = [&delta, &dq, &dk, &dv].map(windows::output);
    let [delta, dq_part, dk_part, dv_part] = outputs;
    windows::batches([q, k, v, o, dout, lse, delta, dq_part, dk_part, dv_part], |parts| {
        let [q, k, v, o, dout, lse, delta, dq, dk, dv] = parts;
        let batch = delta.dims()[0];
        let ((q, q_at), (k, k_at), (v, v_at)) = (window(q)?, window(k)?, window(v)?);
        let ((o, o_at), (dout, dout_at)) = (window(o)?, window(dout)?);
        let part = Sizes { batch, ..sizes };
        let outputs = Params::new(&part, spec, QUAD).with_gradients(&part, [q_order, k_order], QUAD);
        let params = Params { q: q_at, k: k_at, v: v_at, o: o_at, dout: dout_at, first_head, ..outputs };
        first_head += (batch * heads) as u32;
        let (lse, delta) = (lse.wgpu()?, delta.wgpu()?);

        device.run(
            &rowsum_kernel(head_dim, dtype),
            &[Binding::Read(&o), Binding::Read(&dout), Binding::Write(&delta)],
            &params,
            fold_groups((batch * heads * q_len).div_ceil(THREADS)),
        )?;
        let inputs = [&q, &k, &v, &dout, &lse, &delta].map(Binding::Read);
        device.run(
            &by_query.kernel(spec, head_dim, [dtype; 2], &params),
            &[&inputs[..], &[Binding::Write(&dq.wgpu()?)]].concat(),
            &params,
            fold_groups(q_len.div_ceil(by_query.band()) * batch * heads),
        )?;
        device.run(
            &by_key.kernel(spec, head_dim, [dtype; 2], &params),
            &[&inputs[..], &[Binding::Write(&dk.wgpu()?), Binding::Write(&dv.wgpu()?)]].concat(),
            &params,
            fold_groups(k_len.div_ceil(by_key.band()) * batch * kv_heads),
        )
    })?;
    Ok(vec![
        sizes.tensor(q_order, dq, heads, q_len)?,
        sizes.tensor(k_order, dk, kv_heads, k_len)?,
        sizes.tensor(k_order, dv, kv_heads, k_len)?,
    ])
}

/// With common head sizes and uncommon ones.
#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    use crate::ops::dropout::Drop;
    use crate::random::Stream;

    let mut all = Vec::new();
    for dtype in FLOATS {
        for head_dim in [8, 16, 24, 32, 40, 64, 72, 96, 112, 128, 136, 192, 256] {
            for p in [None, Some(0.1)] {
                let dropout = p.map(|p| Drop { p, stream: Stream { seed: 0, offset: 0 } });
                let spec = Spec { causal: true, scale: 1.0, window: None, dropout };
                for (owned, visited) in [(8, 1024), (64, 1024), (1024, 1024), (1024, 100_000), (1024, 200_000)] {
                    let sizes =
                        Sizes { batch: 1, heads: 1, kv_heads: 1, q_len: owned, k_len: owned, head_dim };
                    let params = Params::new(&sizes, &spec, QUAD);
                    for pass in Pass::ALL {
                        let plan = Teams::new(class, &spec, head_dim, pass, owned, visited);
                        all.push(plan.kernel(&spec, head_dim, [dtype; 2], &params).into());
                        if p.is_none() && dtype == DType::F16 && class.subgroups.is_some() && !class.software {
                            let cut = |matrices| Cooperative::cut(matrices, pass, head_dim, COOPERATIVE_MEMORY);
                            let plans = Matrices::ALL.into_iter().filter_map(cut);
                            all.extend(plans.map(|plan| plan.kernel(head_dim, &params).into()));
                        }
                        if pass == Pass::Forward && p.is_none() {
                            all.push(plan.kernel(&spec, head_dim, [dtype, DType::F32], &params).into());
                        }
                    }
                }
            }
            all.push(rowsum_kernel(head_dim, dtype).into());
            all.push(combine_kernel(head_dim, dtype).into());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fewer subgroups than parts, as many, and more; tiles of one row of matrices and of two; parts in one turn and in several.
    #[test]
    fn cooperative_matrices_in_any_number_of_subgroups() -> Result<()> {
        let Some((device, matrices)) = Matrices::of_software() else { return Ok(()) };
        for (threads, tile, head_dim) in [(16, 16, 40), (32, 8, 40), (64, 16, 128), (128, 8, 64), (256, 8, 16)] {
            let matrices = Matrices { threads, quads: tile == 8, ..matrices };
            let of = |pass, tile| Plan::Cooperative(Cooperative { pass, matrices, tile });
            assert!(forward_agrees(&device, head_dim, of(Pass::Forward, 16))?, "{threads} invocations, D = {head_dim}");
            let plans = [of(Pass::Queries, tile), of(Pass::Keys, tile)];
            let what = format!("{threads} invocations, D = {head_dim}, tiles of {tile}");
            assert!(backward_agrees(&device, head_dim, plans)?, "{what}");
        }
        Ok(())
    }

    /// What lets a plan in would keep a wrong one out.
    #[test]
    fn differences_beyond_rounding_are_found() -> Result<()> {
        let values: Vec<f32> = (0..64).map(|i| i as f32 / 32.0 - 1.0).collect();
        let of = |values: &[f32]| Tensor::from_vec(values.to_vec(), values.len(), &Device::Cpu);
        let plain = [of(&values)?];
        let nearly: Vec<f32> = values.iter().map(|x| x * 1.001).collect();
        assert!(agree(&plain, &[of(&nearly)?])?);
        for wrong in [0.0, 1.0, f32::NAN] {
            let mut values = values.clone();
            values[20] = wrong;
            assert!(!agree(&plain, &[of(&values)?])?, "{wrong}");
        }
        Ok(())
    }
}
