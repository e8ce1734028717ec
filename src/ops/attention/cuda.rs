use super::params::{self, Params, Place, place};
use super::{Order, Sizes, Spec};
use crate::device::cuda::{Binding, Buffer, CudaDevice, Grid, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::sim::Architecture;
use crate::ops::launch::cuda::{check_size, check_strides, is_aligned, output};
use crate::{DType, Result, Shape, Tensor};

const PTX: &str = cuda_source!("common/ptx.cuh");
const TILE: &str = cuda_source!("common/tile.cuh");
const PHILOX: &str = cuda_source!("common/philox.cuh");
const COMMON: &str = cuda_source!("attention/common.cuh");
const ROWS_MMA: &str = cuda_source!("attention/mma.cuh");
const ROWS_SIMT: &str = cuda_source!("attention/simt.cuh");
const FORWARD: &str = cuda_source!("attention/forward.cuh");
const BACKWARD: &str = cuda_source!("attention/backward.cuh");

const FORWARD_MMA: &[&str] =
    &[PTX, TILE, PHILOX, COMMON, ROWS_MMA, FORWARD, cuda_source!("attention/forward.cu")];
const FORWARD_SIMT: &[&str] =
    &[PTX, TILE, PHILOX, COMMON, ROWS_SIMT, FORWARD, cuda_source!("attention/forward_simt.cu")];
const COMBINE: &[&str] = &[PHILOX, COMMON, cuda_source!("attention/combine.cu")];
const BACKWARD_STATS: &[&str] = &[PHILOX, COMMON, cuda_source!("attention/backward_stats.cu")];
const BACKWARD_MMA: &[&str] =
    &[PTX, TILE, PHILOX, COMMON, ROWS_MMA, BACKWARD, cuda_source!("attention/backward.cu")];
const BACKWARD_SIMT: &[&str] =
    &[PTX, TILE, PHILOX, COMMON, ROWS_SIMT, BACKWARD, cuda_source!("attention/backward_simt.cu")];

/// Whether a device's tensor cores multiply this type.
fn tensor_cores(capability: (u32, u32), dtype: DType) -> bool {
    match dtype {
        DType::F16 => capability >= (7, 5),
        DType::BF16 => capability >= (8, 0),
        _ => false,
    }
}

/// How the forward is cut, see kernels/attention/forward.cuh, forward.cu and forward_simt.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// The heads that read a key head share blocks.
    grouped: bool,
    block: Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Mma { warps: usize, rows: usize, tile: usize, keep_q: bool },
    Simt { teams: usize, queries: usize, tile: usize },
}

impl Plan {
    /// `shared` is what a block may have.
    fn of(capability: (u32, u32), shared: usize, dtype: DType, sizes: &Sizes, dropout: bool) -> Plan {
        // A few queries, as when text is generated.
        let few = sizes.q_len <= 16;
        let grouped = few && !dropout;
        let rows = sizes.q_len * if grouped { sizes.heads / sizes.kv_heads } else { 1 };
        let block = match tensor_cores(capability, dtype) {
            true if few => Block::mma_of_few(shared, sizes.head_dim, rows),
            true => Block::mma(capability, shared, sizes.head_dim, dropout),
            false => Block::simt(shared, sizes.head_dim, rows),
        };
        Plan { grouped, block }
    }

    /// Blocks that visit one chunk of keys, over all heads.
    fn blocks(&self, sizes: &Sizes) -> usize {
        let Sizes { batch, heads, kv_heads, q_len, .. } = *sizes;
        let (heads, rows) = if self.grouped { (kv_heads, heads / kv_heads * q_len) } else { (heads, q_len) };
        rows.div_ceil(self.block.band()) * batch * heads
    }

    /// Into how many chunks keys are cut so that a few queries give work to all multiprocessors, and the keys of a
    /// chunk, whole tiles. `shared` is what a block may have, which is about what a multiprocessor has.
    fn chunks(&self, sizes: &Sizes, window: Option<usize>, shared: usize, multiprocessors: usize) -> (usize, usize) {
        // What the queries of a block see.
        let seen = window.map_or(sizes.k_len, |w| w.saturating_add(sizes.q_len + 2).min(sizes.k_len));
        if !self.grouped || seen == 0 {
            return (1, seen);
        }
        let tile = self.block.tile();
        // Partial results are written and read again: no more than a quarter of the chunk's keys and values. And what
        // chunks of a few tiles save, the second kernel costs.
        let rows = self.block.band().min(sizes.q_len * (sizes.heads / sizes.kv_heads));
        let most = seen / (8 * rows).max(4 * tile);
        // Several blocks a multiprocessor, because one waits for memory most of the time.
        let resident = (shared / self.block.shared(sizes.head_dim)).clamp(1, 4);
        let wanted = multiprocessors * resident / self.blocks(sizes).max(1);
        let chunk = seen.div_ceil(wanted.min(most).max(1)).next_multiple_of(tile);
        (seen.div_ceil(chunk), chunk)
    }

    fn kernel(&self, head_dim: usize, split: bool, dropout: bool, dtype: DType) -> Kernel {
        self.block
            .kernel()
            .with("D", head_dim as u32)
            .with("GROUPED", self.grouped)
            .with("SPLIT", split)
            .with("DROPOUT", dropout)
            .with("T", dtype)
    }

    fn grid(&self, sizes: &Sizes, chunks: usize) -> Grid {
        let (threads, shared) = (self.block.threads(), self.block.shared(sizes.head_dim));
        Grid {
            blocks: [self.blocks(sizes) as u32, chunks as u32, 1],
            threads: threads as u32,
            shared: shared as u32,
        }
    }
}

impl Block {
    /// No more warps than have rows.
    fn mma_of_few(shared: usize, d: usize, rows: usize) -> Block {
        let warps = rows.div_ceil(16).next_power_of_two().min(4);
        let block = |tile| Block::Mma { warps, rows: 1, tile, keep_q: d <= 128 };
        match d {
            ..=64 => block(64),
            65..=192 if block(32).shared(d) <= shared => block(32),
            _ => block(16),
        }
    }

    fn mma(capability: (u32, u32), shared: usize, d: usize, dropout: bool) -> Block {
        let (warps, rows, tile, keep_q) = match d {
            // The bits of dropout take the registers of the second row.
            97..=128 if dropout && capability >= (12, 0) => (4, 1, 32, true),
            ..=128 if dropout => (4, 1, 64, true),
            ..=64 => (4, 2, 64, false),
            // Three registers too many there.
            97..=128 if capability >= (12, 0) => (4, 1, 64, true),
            65..=128 => (4, 2, 32, false),
            _ if shared >= 128 << 10 => (8, 1, 32, false),
            // The bits of dropout are too many there.
            193.. if capability >= (12, 0) => (4, 1, 16, false),
            _ if shared > 64 << 10 => (4, 1, 32, false),
            _ => (4, 1, 16, false),
        };
        Block::Mma { warps, rows, tile, keep_q }
    }

    fn simt(shared: usize, d: usize, rows: usize) -> Block {
        let (teams, queries, tile) = match d {
            ..=64 => (8, 8, 32),
            65..=128 => (8, 4, 32),
            _ if shared > 64 << 10 => (8, 4, 16),
            _ => (4, 4, 16),
        };
        match rows {
            ..=8 => Block::Simt { teams: 2, queries: 4, tile },
            9..=16 => Block::Simt { teams: 4, queries: 4, tile },
            _ => Block::Simt { teams, queries, tile },
        }
    }

    /// Elements of which rows must start at multiples.
    fn line(&self) -> usize {
        if matches!(self, Block::Mma { .. }) { 8 } else { 4 }
    }

    /// Queries of a block.
    fn band(&self) -> usize {
        match *self {
            Block::Mma { warps, rows, .. } => 16 * rows * warps,
            Block::Simt { teams, queries, .. } => teams * queries,
        }
    }

    /// Keys that are in shared memory at a time.
    fn tile(&self) -> usize {
        match *self {
            Block::Mma { tile, .. } | Block::Simt { tile, .. } => tile,
        }
    }

    fn threads(&self) -> usize {
        match *self {
            Block::Mma { warps, .. } => 32 * warps,
            Block::Simt { teams, .. } => 16 * teams,
        }
    }

    /// Bytes of shared memory.
    fn shared(&self, d: usize) -> usize {
        let band = self.band();
        match *self {
            Block::Mma { tile, keep_q, .. } => {
                let padded = d.next_multiple_of(16);
                8 * tile * padded + if keep_q { 0 } else { 2 * band * padded }
            }
            Block::Simt { tile, .. } => {
                let weights = if tile % 32 == 16 { tile } else { tile + 16 };
                4 * (band + 2 * tile) * d + 4 * band * weights
            }
        }
    }

    fn kernel(&self) -> Kernel {
        match *self {
            Block::Mma { warps, rows, tile, keep_q } => Kernel::builtin("attention", FORWARD_MMA, "forward")
                .with("WARPS", warps as u32)
                .with("BLOCK", 32 * warps as u32)
                .with("ROWS", rows as u32)
                .with("TILE", tile as u32)
                .with("KEEP_Q", keep_q),
            Block::Simt { teams, queries, tile } => Kernel::builtin("attention", FORWARD_SIMT, "forward")
                .with("TEAMS", teams as u32)
                .with("BLOCK", 16 * teams as u32)
                .with("QUERIES", queries as u32)
                .with("TILE", tile as u32),
        }
    }
}

/// Warps of a block of the kernel that makes one softmax of the chunks'.
const COMBINE_WARPS: u32 = 4;

fn combine_kernel(head_dim: usize, dtype: DType) -> Kernel {
    Kernel::builtin("attention_combine", COMBINE, "combine")
        .with("D", head_dim as u32)
        .with("WARPS", COMBINE_WARPS)
        .with("BLOCK", 32 * COMBINE_WARPS)
        .with("T", dtype)
}

/// A block a query; `queries` counts those of all heads.
fn combine_grid(queries: usize) -> Grid {
    Grid { blocks: [queries as u32, 1, 1], threads: 32 * COMBINE_WARPS, shared: 0 }
}

/// What loads of `line` elements may read: the tensor's memory from its first element on, or a copy's, and where its
/// rows lie there.
fn in_lines(op: &'static str, device: &CudaDevice, x: &Tensor, line: usize) -> Result<(Buffer, Place)> {
    check_strides(op, device, x)?;
    let starts = is_aligned(&x.cuda_strided()?, line * x.dtype().size());
    let x = params::in_lines(x, line, starts)?;
    Ok((x.cuda_strided()?, place(&x.layout().strides, 0, 1)))
}

pub(super) fn forward(device: &CudaDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, q_len, head_dim, .. } = sizes;
    check_size("attention", device, x[1].elements())?;
    let (o, o_buffer) = output("attention", device, &Shape::from(x[0].elements()), dtype)?;
    let (lse, lse_buffer) = output("attention", device, &Shape::from((batch, heads, q_len)), DType::F32)?;

    let (shared, dropout) = (device.shared_per_block() as usize, spec.dropout.is_some());
    let plan = Plan::of(device.compute_capability(), shared, dtype, &sizes, dropout);
    let (chunks, chunk) = plan.chunks(&sizes, spec.window, shared, device.multiprocessors() as usize);
    let place = |x: &Tensor| in_lines("attention", device, x, plan.block.line());
    let ((q, q_at), (k, k_at), (v, v_at)) = (place(&x[0])?, place(&x[1])?, place(&x[2])?);
    let params = Params { q: q_at, k: k_at, v: v_at, ..Params::new(&sizes, spec, 1) };
    let params = Params { chunk: chunk as u32, chunks: chunks as u32, ..params };

    let queries = batch * heads * q_len;
    let of_chunks = |width| device.alloc("attention", chunks * queries * width * 4);
    let partials = if chunks > 1 { Some((of_chunks(head_dim)?, of_chunks(1)?)) } else { None };
    let (o_to, lse_to, partial_o) = match &partials {
        None => (Some(&o_buffer), &lse_buffer, None),
        Some((partial_o, partial_lse)) => (None, partial_lse, Some(partial_o)),
    };
    device.launch(
        &plan.kernel(head_dim, partials.is_some(), dropout, dtype),
        &[
            Binding::Read(&q),
            Binding::Read(&k),
            Binding::Read(&v),
            Binding::write(o_to),
            Binding::Write(lse_to),
            Binding::write(partial_o),
        ],
        &params,
        plan.grid(&sizes, chunks),
    )?;
    if let Some((partial_o, partial_lse)) = &partials {
        device.launch(
            &combine_kernel(head_dim, dtype),
            &[
                Binding::Read(partial_o),
                Binding::Read(partial_lse),
                Binding::Write(&o_buffer),
                Binding::Write(&lse_buffer),
            ],
            &params,
            combine_grid(queries),
        )?;
    }
    Ok(vec![sizes.tensor(Order::HeadsInside, o, heads, q_len)?, lse])
}

/// Which gradients a launch of the backward gives. Its blocks own rows of q, or else of k and v.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gives {
    Q,
    KV,
    K,
    V,
}

impl Gives {
    /// The launches of a backward. The sums of wide rows of dk and of dv do not fit into registers together.
    fn all(head_dim: usize) -> &'static [Gives] {
        if head_dim <= 128 { &[Gives::Q, Gives::KV] } else { &[Gives::Q, Gives::K, Gives::V] }
    }

    fn owns_keys(self) -> bool {
        self != Gives::Q
    }

    /// dq or dk.
    fn dx(self) -> bool {
        self != Gives::V
    }

    fn dv(self) -> bool {
        matches!(self, Gives::KV | Gives::V)
    }
}

/// How a launch of the backward is cut, see kernels/attention/backward.cu and backward_simt.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackwardPlan {
    Mma { warps: usize, rows: usize, tile: usize, step: usize, keep: bool },
    Simt { teams: usize, rows: usize, tile: usize },
}

impl BackwardPlan {
    /// `shared` is what a block may have.
    fn of(
        capability: (u32, u32),
        shared: usize,
        dtype: DType,
        d: usize,
        gives: Gives,
        dropout: bool,
    ) -> BackwardPlan {
        let fits = |plan: &BackwardPlan| plan.shared(d, gives) <= shared;
        if !tensor_cores(capability, dtype) {
            let plans = [(8, 32), (8, 16), (4, 16), (2, 16)];
            let mut plans = plans.map(|(teams, tile)| BackwardPlan::Simt { teams, rows: 4, tile }).into_iter();
            return plans.find(fits).expect("the last fits everywhere");
        }
        if d > 128 {
            // As many warps as fit; the products of steps of 32 rows take the registers of wider rows' sums.
            let steps: &[usize] = if d <= 192 || gives == Gives::V { &[32, 16] } else { &[16] };
            let plan = |warps, step| BackwardPlan::Mma { warps, rows: 1, tile: step, step, keep: false };
            let mut plans = [8, 4, 2, 1].into_iter().flat_map(|warps| steps.iter().map(move |&step| plan(warps, step)));
            return plans.find(fits).expect("the last fits everywhere");
        }
        let (rows, tile, step, keep) = match (gives.owns_keys(), d) {
            // The bits of dropout take the registers of the second row.
            (true, ..=64) if !dropout => (2, 32, 16, false),
            // So that two blocks fit into the 100 KiB of a multiprocessor.
            (true, 97..) if shared < 128 << 10 => (1, 16, 16, false),
            (true, _) => (1, 32, 32, false),
            (false, ..=64) if !dropout => (2, 64, 16, true),
            (false, _) => (1, 32, 32, true),
        };
        BackwardPlan::Mma { warps: 4, rows, tile, step, keep }
    }

    /// Rows that a block owns.
    fn band(&self) -> usize {
        match *self {
            BackwardPlan::Mma { warps, rows, .. } => 16 * rows * warps,
            BackwardPlan::Simt { teams, rows, .. } => teams * rows,
        }
    }

    /// Bytes of shared memory.
    fn shared(&self, d: usize, gives: Gives) -> usize {
        let band = self.band();
        let [keys, dx, dv] = [gives.owns_keys(), gives.dx(), gives.dv()].map(usize::from);
        match *self {
            BackwardPlan::Mma { tile, keep, .. } => {
                let padded = d.next_multiple_of(16);
                8 * tile * padded + keys * 16 * tile + if keep { 0 } else { (1 + dx) * 2 * band * padded }
            }
            BackwardPlan::Simt { tile, .. } => 4 * ((1 + dx) * band + 2 * tile) * d + (dx + dv) * 4 * band * tile,
        }
    }

    fn kernel(&self, gives: Gives, head_dim: usize) -> Kernel {
        let name = "attention_backward";
        match *self {
            BackwardPlan::Mma { warps, rows, tile, step, keep } => Kernel::builtin(name, BACKWARD_MMA, "backward")
                .with("WARPS", warps as u32)
                .with("BLOCK", 32 * warps as u32)
                .with("ROWS", rows as u32)
                .with("TILE", tile as u32)
                .with("STEP", step as u32)
                .with("KEEP", keep),
            BackwardPlan::Simt { teams, rows, tile } => Kernel::builtin(name, BACKWARD_SIMT, "backward")
                .with("TEAMS", teams as u32)
                .with("BLOCK", 16 * teams as u32)
                .with("ROWS", rows as u32)
                .with("TILE", tile as u32),
        }
        .with("OWN_KEYS", gives.owns_keys())
        .with("DX", gives.dx())
        .with("DV", gives.dv())
        .with("D", head_dim as u32)
    }

    fn grid(&self, sizes: &Sizes, gives: Gives) -> Grid {
        let (rows, heads) = match gives.owns_keys() {
            false => (sizes.q_len, sizes.heads),
            true => (sizes.k_len, sizes.kv_heads),
        };
        let threads = match *self {
            BackwardPlan::Mma { warps, .. } => 32 * warps,
            BackwardPlan::Simt { teams, .. } => 16 * teams,
        };
        let blocks = rows.div_ceil(self.band()) * sizes.batch * heads;
        let shared = self.shared(sizes.head_dim, gives);
        Grid { blocks: [blocks as u32, 1, 1], threads: threads as u32, shared: shared as u32 }
    }
}

/// Threads of a block of the kernel that computes the queries' statistics.
const STATS_BLOCK: usize = 128;

fn stats_kernel(head_dim: usize, dtype: DType) -> Kernel {
    Kernel::builtin("attention_stats", BACKWARD_STATS, "stats")
        .with("D", head_dim as u32)
        .with("BLOCK", STATS_BLOCK as u32)
        .with("T", dtype)
}

/// Eight threads a query; `queries` counts those of all heads.
fn stats_grid(queries: usize) -> Grid {
    Grid { blocks: [(8 * queries).div_ceil(STATS_BLOCK) as u32, 1, 1], threads: STATS_BLOCK as u32, shared: 0 }
}

pub(super) fn backward(device: &CudaDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, kv_heads, q_len, k_len, head_dim } = sizes;
    let name = "attention_backward";
    let (capability, shared, dropout) =
        (device.compute_capability(), device.shared_per_block() as usize, spec.dropout.is_some());

    // Loads of 16 bytes.
    let place = |x: &Tensor| in_lines(name, device, x, 16 / dtype.size());
    let ((q, q_at), (k, k_at), (v, v_at)) = (place(&x[0])?, place(&x[1])?, place(&x[2])?);
    let ((o, o_at), (dout, dout_at)) = (place(&x[3])?, place(&x[5])?);
    let (q_order, k_order) = (Order::of_gradient(&x[0]), Order::of_gradient(&x[1]));
    let outputs = Params::new(&sizes, spec, 1).with_gradients(&sizes, [q_order, k_order], 1);
    let params = Params { q: q_at, k: k_at, v: v_at, o: o_at, dout: dout_at, ..outputs };

    let queries = batch * heads * q_len.next_multiple_of(2);
    let stats = device.alloc(name, queries * 8)?;
    device.launch(
        &stats_kernel(head_dim, dtype),
        &[
            Binding::Read(&o),
            Binding::Read(&dout),
            Binding::Read(&x[4].cuda()?),
            Binding::Write(&stats),
        ],
        &params,
        stats_grid(queries),
    )?;

    let (dq, dq_buffer) = output(name, device, &Shape::from(x[0].elements()), dtype)?;
    let (dk, dk_buffer) = output(name, device, &Shape::from(x[1].elements()), dtype)?;
    let (dv, dv_buffer) = output(name, device, &Shape::from(x[1].elements()), dtype)?;
    for &gives in Gives::all(head_dim) {
        let plan = BackwardPlan::of(capability, shared, dtype, head_dim, gives, dropout);
        let dx = if gives.owns_keys() { &dk_buffer } else { &dq_buffer };
        device.launch(
            &plan.kernel(gives, head_dim).with("DROPOUT", dropout).with("T", dtype),
            &[
                Binding::Read(&q),
                Binding::Read(&k),
                Binding::Read(&v),
                Binding::Read(&dout),
                Binding::Read(&stats),
                Binding::write(gives.dx().then_some(dx)),
                Binding::write(gives.dv().then_some(&dv_buffer)),
            ],
            &params,
            plan.grid(&sizes, gives),
        )?;
    }
    Ok(vec![
        sizes.tensor(q_order, dq, heads, q_len)?,
        sizes.tensor(k_order, dk, kv_heads, k_len)?,
        sizes.tensor(k_order, dv, kv_heads, k_len)?,
    ])
}

/// The head sizes at which plans change or registers are scarce, for many queries and for few; with dropout, and of bf16,
/// which differs from f16 in one letter of `mma`, some of them.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched(architecture: Architecture) -> Vec<Launched> {
    let (capability, shared) = (architecture.compute_capability(), architecture.limits().shared_per_block() as usize);
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for head_dim in [8, 40, 64, 72, 96, 112, 128, 136, 192, 256] {
            for dropout in [false, true] {
                if (dropout || dtype == DType::BF16) && ![64, 128, 256].contains(&head_dim) {
                    continue;
                }
                let mut plans = Vec::new();
                let few: &[(usize, usize)] = if head_dim % 64 == 0 { &[(1, 1), (1, 16), (4, 16)] } else { &[] };
                for &(heads, q_len) in [(1, 1024)].iter().chain(few) {
                    let sizes = Sizes { batch: 1, heads, kv_heads: 1, q_len, k_len: 1024, head_dim };
                    let plan = Plan::of(capability, shared, dtype, &sizes, dropout);
                    if plans.contains(&plan) {
                        continue;
                    }
                    plans.push(plan);
                    let tensor_cores = matches!(plan.block, Block::Mma { .. });
                    for split in [false, true].into_iter().filter(|&split| plan.grouped || !split) {
                        all.push(Launched {
                            kernel: plan.kernel(head_dim, split, dropout, dtype),
                            grid: plan.grid(&sizes, 1),
                            tensor_cores,
                            wide: dtype == DType::F32 || tensor_cores,
                            local: false,
                        });
                    }
                }
                for &gives in Gives::all(head_dim) {
                    let plan = BackwardPlan::of(capability, shared, dtype, head_dim, gives, dropout);
                    let tensor_cores = matches!(plan, BackwardPlan::Mma { .. });
                    let (q_len, k_len) = (1024, 1024);
                    let sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, q_len, k_len, head_dim };
                    all.push(Launched {
                        kernel: plan.kernel(gives, head_dim).with("DROPOUT", dropout).with("T", dtype),
                        grid: plan.grid(&sizes, gives),
                        tensor_cores,
                        wide: dtype == DType::F32 || tensor_cores,
                        local: false,
                    });
                }
            }
            all.push(Launched::plain(stats_kernel(head_dim, dtype), STATS_BLOCK as u32, true));
            all.push(Launched::plain(combine_kernel(head_dim, dtype), 32 * COMBINE_WARPS, true));
        }
    }
    all
}
