mod tune;

use bytemuck::{Pod, Zeroable};

use super::{Activation, Operand, Product};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{
    Binding, Buffer, Class, Kernel, MatmulClass, MatmulTile, Matrices, MatrixUse, WgpuDevice, Work, fold_groups,
};
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{
    ACTIVATIONS, HALVES_QUADS, HALVES_SCALARS, LOOPS, MATRICES_8, MATRICES_16, Width, by_width, of_width, output,
};
use crate::ops::launch::windows;
use crate::{DType, Device, Result, Shape, Tensor};

const EPILOGUE: &str = include_str!("../../../kernels/matmul/epilogue.wgsl");
const A_QUADS: &str = include_str!("../../../kernels/matmul/a_quads.wgsl");
const A_SCALARS: &str = include_str!("../../../kernels/matmul/a_scalars.wgsl");
const B_QUADS: &str = include_str!("../../../kernels/matmul/b_quads.wgsl");
const B_SCALARS: &str = include_str!("../../../kernels/matmul/b_scalars.wgsl");
const BLOCKS: &str = include_str!("../../../kernels/matmul/blocks.wgsl");
const LANES: &str = include_str!("../../../kernels/matmul/lanes.wgsl");
const LANES_SUBGROUP: &str = include_str!("../../../kernels/matmul/lanes_subgroup.wgsl");
const DIRECT: &str = include_str!("../../../kernels/matmul/direct.wgsl");
const TILED: &str = include_str!("../../../kernels/matmul/tiled.wgsl");
const THIN: &str = include_str!("../../../kernels/matmul/thin.wgsl");
const COOPERATIVE: &str = include_str!("../../../kernels/matmul/cooperative.wgsl");
const SPLITS: &str = include_str!("../../../kernels/matmul/splits.wgsl");

/// `Params` of kernels/matmul/epilogue.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    inner: u32,
    a_offset: u32,
    b_offset: u32,
    d_offset: u32,
    a_strides: [u32; 4],
    b_strides: [u32; 4],
    residual_offset: u32,
    pre_offset: u32,
    d_stride: u32,
    share: u32,
}

/// A product and where its results go: tensors of four dimensions, all but the bias, that are narrowed together.
#[derive(Clone)]
struct Task {
    a: Tensor,
    b: Tensor,
    bias: Option<Tensor>,
    activation: Activation,
    residual: Option<Tensor>,
    d: Tensor,
    pre: Option<Tensor>,
    /// Whether the results are added to `d`.
    add: bool,
}

/// The dimensions of a product along which it is cut.
#[derive(Clone, Copy)]
enum Along {
    Batch(usize),
    M,
    N,
    K,
}

pub fn product(device: &WgpuDevice, p: &Product<'_>) -> Result<Vec<Tensor>> {
    let (b1, b2, m, _, n) = p.sizes();
    let shape = Shape::from((b1, b2, m, n));
    let output = || output("matmul", device, &shape, p.a.dtype());
    let (d, pre) = (output()?, if p.keep_pre { Some(output()?) } else { None });
    Task {
        a: p.a.clone(),
        b: p.b.clone(),
        bias: p.bias.cloned(),
        activation: p.activation,
        residual: p.residual.map(Tensor::contiguous).transpose()?,
        d: d.clone(),
        pre: pre.clone(),
        add: false,
    }
    .run(device)?;
    Ok([d].into_iter().chain(pre).collect())
}

/// `to = a b`, or `to += a b`; `to` is contiguous.
pub fn accumulate(device: &WgpuDevice, p: &Product<'_>, to: &Tensor, add: bool) -> Result<()> {
    to.storage().written();
    let (b1, b2, m, _, n) = p.sizes();
    Task { add, ..Task::plain(p.a, p.b, &to.reshape((b1, b2, m, n))?) }.run(device)
}

impl Task {
    fn plain(a: &Tensor, b: &Tensor, d: &Tensor) -> Self {
        let (a, b, d) = (a.clone(), b.clone(), d.clone());
        Task { a, b, bias: None, activation: Activation::Identity, residual: None, d, pre: None, add: false }
    }

    /// What a plan makes of a product of whole numbers.
    fn result(device: &WgpuDevice, a: &Tensor, b: &Tensor, plan: Plan) -> Result<Vec<f32>> {
        // Memory comes back as an earlier product left it: what a plan leaves out must not look right.
        let shape = (1, a.dims()[1], a.dims()[2], b.dims()[3]);
        let d = Tensor::full(0.5, shape, a.dtype(), &Device::Wgpu(device.clone()))?;
        Task::plain(a, b, &d).launch_as(device, plan)?;
        d.to_dtype(DType::F32)?.to_vec::<f32>()
    }

    /// In pieces whose every tensor one binding can show.
    fn run(self, device: &WgpuDevice) -> Result<()> {
        match self.cut(device)? {
            None => self.launch(device),
            Some((Along::K, _)) if let Some(pre) = &self.pre => {
                // An activation has to wait for the whole sum.
                let sum = Task { d: pre.clone(), pre: None, activation: Activation::Identity, ..self.clone() };
                sum.run(device)?;
                self.d.assign(&self.activation.forward(pre)?)
            }
            Some((along, size)) => {
                // Whole lines of 64 keep what is aligned aligned.
                let half = (size / 2).next_multiple_of(if size > 64 { 64 } else { 1 });
                self.narrow(along, 0, half).run(device)?;
                self.narrow(along, half, size - half).run(device)
            }
        }
    }

    /// Where to cut, and the size there: where it makes the window of a tensor that is too large smaller, or sums that are
    /// too long for a software adapter shorter.
    fn cut(&self, device: &WgpuDevice) -> Result<Option<(Along, usize)>> {
        let k = self.a.dims()[3];
        if device.is_software() && k > LOOPS {
            return Ok(Some((Along::K, k)));
        }
        let outputs = [Some(&self.d), self.residual.as_ref(), self.pre.as_ref()];
        let outputs_fit = outputs.into_iter().flatten().all(windows::fits);
        let (a_fits, b_fits) = (windows::fits(&self.a), windows::fits(&self.b));
        if outputs_fit && a_fits && b_fits {
            return Ok(None);
        }
        let (b1, b2, m, n) = self.d.dims4()?;
        // Of a matrix, the dimension of the larger stride.
        let (a, b) = (&self.a.layout().strides, &self.b.layout().strides);
        let along = match () {
            _ if b1 > 1 => Along::Batch(0),
            _ if b2 > 1 => Along::Batch(1),
            _ if !a_fits && m > 1 && (a[2] >= a[3] || k == 1) => Along::M,
            _ if !b_fits && n > 1 && (b[3] >= b[2] || k == 1) => Along::N,
            _ if (!a_fits || !b_fits) && k > 1 => Along::K,
            _ if !outputs_fit && m > 1 => Along::M,
            _ if !outputs_fit && n > 1 => Along::N,
            _ => return Ok(None),
        };
        Ok(Some(match along {
            Along::Batch(0) => (along, b1),
            Along::Batch(_) => (along, b2),
            Along::M => (along, m),
            Along::N => (along, n),
            Along::K => (along, k),
        }))
    }

    fn narrow(&self, along: Along, start: usize, len: usize) -> Task {
        let part = |x: &Tensor, dim: Option<usize>| match dim {
            Some(dim) => x.with_layout(x.layout().narrow(dim, start, len)),
            None => x.clone(),
        };
        let (a, b, d) = match along {
            Along::Batch(dim) => (Some(dim), Some(dim), Some(dim)),
            Along::M => (Some(2), None, Some(2)),
            Along::N => (None, Some(3), Some(3)),
            Along::K => (Some(3), Some(2), None),
        };
        // Of sums that are cut, the first part brings what is added once, and the others are added to it.
        let later = matches!(along, Along::K) && start > 0;
        let bias = if matches!(along, Along::N) { Some(0) } else { None };
        Task {
            a: part(&self.a, a),
            b: part(&self.b, b),
            bias: self.bias.as_ref().filter(|_| !later).map(|x| part(x, bias)),
            activation: self.activation,
            residual: self.residual.as_ref().filter(|_| !later).map(|x| part(x, d)),
            d: part(&self.d, d),
            pre: self.pre.as_ref().map(|x| part(x, d)),
            add: self.add || later,
        }
    }

    /// Of one launch: every operand once.
    fn work(&self) -> Work {
        let (m, k, n) = (self.d.dims()[2], self.a.dims()[3], self.d.dims()[3]);
        let batch = self.d.elements().checked_div(m * n).unwrap_or(0);
        let results = 1 + usize::from(self.add) + [&self.residual, &self.pre].into_iter().flatten().count();
        let elements = self.a.elements() + self.b.elements() + results * self.d.elements();
        Work {
            flops: (2 * batch * m * k * n) as u64,
            bytes: Some((elements * self.d.dtype().size()) as u64),
        }
    }

    fn launch(self, device: &WgpuDevice) -> Result<()> {
        let (b1, b2, m, n) = self.d.dims4()?;
        if self.d.elements() == 0 {
            return Ok(());
        }
        let access = Access::new(&self.a, &self.b);
        let plan = Plan::new(device, self.a.dtype(), [m, n, self.a.dims()[3], b1 * b2], access)?;
        self.launch_as(device, plan)
    }

    /// In one launch, or two if the plan cuts K. There are results.
    fn launch_as(self, device: &WgpuDevice, plan: Plan) -> Result<()> {
        let (b1, b2, m, n) = self.d.dims4()?;
        let (batch, k) = (b1 * b2, self.a.dims()[3]);
        // A sum of no products is 0: that of one product of zeros, as a kernel has to read something.
        let zero = match k {
            0 => Some(Tensor::zeros((1, 1, 1, 1), self.a.dtype(), &self.a.device())?),
            _ => None,
        };
        let (a, b) = (zero.as_ref().unwrap_or(&self.a), zero.as_ref().unwrap_or(&self.b));
        let ((a_buffer, a_offset), (b_buffer, b_offset)) = (a.wgpu_window()?, b.wgpu_window()?);
        let (d_buffer, d_offset) = self.d.wgpu_window()?;
        let residual = self.residual.as_ref().map(Tensor::wgpu_window).transpose()?;
        let pre = self.pre.as_ref().map(Tensor::wgpu_window).transpose()?;
        let bias = self.bias.as_ref().map(Tensor::wgpu).transpose()?;
        let offset = |window: &Option<(Buffer, usize)>| window.as_ref().map_or(0, |(_, offset)| *offset as u32);
        let access = Access::new(a, b);
        let (a, b) = (Operand::new(a, 2, 3), Operand::new(b, 3, 2));
        let params = Params {
            m: m as u32,
            n: n as u32,
            k: k.max(1) as u32,
            batch: batch as u32,
            inner: b2 as u32,
            a_offset: a_offset as u32,
            b_offset: b_offset as u32,
            d_offset: d_offset as u32,
            a_strides: a.strides,
            b_strides: b.strides,
            residual_offset: offset(&residual),
            pre_offset: offset(&pre),
            d_stride: self.d.layout().strides[2] as u32,
            share: plan.share(k) as u32,
        };
        let places = [params.d_offset, params.residual_offset, params.pre_offset, params.d_stride];
        let finish = Finish {
            width: Width::of(places.map(|place| place as usize).into_iter().chain([n])),
            bias: bias.is_some(),
            pre: pre.is_some(),
            activation: self.activation,
            residual: residual.is_some(),
            add: self.add,
        };
        let (dtype, out) = (self.a.dtype(), self.d.dtype());
        // The place of an output that is not wanted.
        let spare = if pre.is_none() { Some(device.alloc("matmul", 4)?) } else { None };
        let finished = |first, second| {
            [
                Binding::Read(first),
                Binding::Read(second),
                Binding::Read(bias.as_ref().unwrap_or(first)),
                Binding::Read(residual.as_ref().map_or(first, |(residual, _)| residual)),
                Binding::Write(&d_buffer),
                Binding::Write(pre.as_ref().map(|(pre, _)| pre).or(spare.as_ref()).unwrap_or(&d_buffer)),
            ]
        };
        let groups = plan.groups(m, n, batch);
        if plan.shares == 1 {
            let kernel = plan.kernel(access, finish, dtype, out).work(self.work());
            return device.run(&kernel, &finished(&a_buffer, &b_buffer), &params, groups);
        }
        let columns = n.next_multiple_of(4);
        let sums = device.alloc("matmul", plan.shares * batch * m * columns * 4)?;
        let nowhere = device.alloc("matmul", 4)?;
        let bindings = [
            Binding::Read(&a_buffer),
            Binding::Read(&b_buffer),
            Binding::Read(&a_buffer),
            Binding::Read(&a_buffer),
            Binding::Write(&sums),
            Binding::Write(&nowhere),
        ];
        // Their rows have room for whole quads.
        let whole = Finish { width: Width::Four, ..Finish::default() };
        let kernel = plan.kernel(access, whole, dtype, DType::F32).work(self.work());
        let shares = Params { d_offset: 0, d_stride: columns as u32, ..params };
        device.run(&kernel, &bindings, &shares, groups)?;
        let groups = fold_groups((batch * m * columns / 4).div_ceil(SPLITS_BLOCK as usize));
        device.run(&splits_kernel(finish, dtype, out), &finished(&sums, &sums), &params, groups)
    }
}

/// How a kernel reads A and B.
#[derive(Clone, Copy)]
struct Access {
    /// The smaller stride is along M or N, and not along K.
    across: [bool; 2],
    /// Four elements at a time.
    quads: [bool; 2],
}

impl Access {
    fn new(a: &Tensor, b: &Tensor) -> Access {
        let operands = [(a, Operand::new(a, 2, 3)), (b, Operand::new(b, 3, 2))];
        Access {
            across: operands.each_ref().map(|(_, operand)| operand.across),
            quads: operands.map(|(x, operand)| x.layout().offset.is_multiple_of(4) && operand.in_lines_of(4)),
        }
    }
}

/// What becomes of the sums, see kernels/matmul/epilogue.wgsl.
#[derive(Clone, Copy, Default)]
struct Finish {
    /// In which they are written.
    width: Width,
    bias: bool,
    pre: bool,
    activation: Activation,
    residual: bool,
    add: bool,
}

impl Finish {
    fn specialise(self, kernel: Kernel, dtype: DType, out: DType) -> Kernel {
        kernel
            .with("BIAS", self.bias)
            .with("SAVE_PRE", self.pre)
            .with("ACTIVATION", self.activation.code())
            .with("RESIDUAL", self.residual)
            .with("ACCUMULATE", self.add)
            .with_all(of_width(self.width, dtype, out))
    }
}

/// Which kernel, its shape, and into how many shares K is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    kind: Kind,
    shares: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// For software adapters: invocations along N, each with `rows` x 4 sums. So many share their reading of A, if any.
    Direct { rows: u32, sharing: Option<u32> },
    /// Of up to 8 rows, for GPUs.
    Thin { rows: u32 },
    /// For GPUs; products and short sums may be f16.
    Tiled { tile: Tile, f16: bool },
    /// Of f16, for devices with cooperative matrices; `span` of them are a side of a quarter of the tile.
    Cooperative { matrices: Matrices, span: u32 },
}

impl Kind {
    /// Products in f16 where they may be, and pay.
    fn tiled(tile: Tile, f16: bool) -> Kind {
        Kind::Tiled { tile, f16: f16 && tile.has_room() }
    }
}

/// The part of the product of a workgroup of tiled.wgsl, the depth of its slices, and the part of one invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    m: u32,
    n: u32,
    k: u32,
    own: [u32; 2],
}

/// The tiles that [`MatmulTile`] names, in its order: the largest first.
///
/// Operations for a byte of f32 from memory, multiply-adds for a byte from workgroup memory, and the share of multiply-adds in the
/// cycles that AMD's compiler predicts for the main loop (benches/results/2026-11-22-wgsl-matmul.md):
///
/// | tile | invocations | from memory | from workgroup memory | multiply-adds |
/// |---|---|---|---|---|
/// | 128 x 128 | 256 | 32 | 1 | 86 to 89 % |
/// | 128 x 64 | 128 | 21 | 1 | 80 to 83 % |
/// | 64 x 64 | 64 | 16 | 1 | 83 to 84 % |
/// | 32 x 64 | 64 | 11 | 2/3 | 63 to 69 % |
/// | 32 x 32 | 64 | 8 | 1/2 | 74 to 78 % |
const TILES: [Tile; MatmulTile::ALL.len()] = [
    Tile { m: 128, n: 128, k: 16, own: [8, 8] },
    Tile { m: 128, n: 64, k: 16, own: [8, 8] },
    Tile { m: 64, n: 64, k: 16, own: [8, 8] },
    Tile { m: 32, n: 64, k: 16, own: [4, 8] },
    Tile { m: 32, n: 32, k: 32, own: [4, 4] },
];

impl Tile {
    fn named(name: MatmulTile) -> Tile {
        let of_name = |tile: &&Tile| (tile.m, tile.n) == (name.rows(), name.columns());
        *TILES.iter().find(of_name).expect("every name has a tile")
    }

    /// The largest tile of which there are enough to fill the device, and which loses little at the edges.
    fn best(fill: usize, [m, n, k, batch]: [usize; 4]) -> Tile {
        let smallest = TILES[TILES.len() - 1];
        let suits = |tile: &&Tile| {
            // Rather smaller tiles than a cut of K, but a cut rather than tiles that are bound by workgroup memory.
            let cuts = if tile.m * tile.n > 64 * 64 { 1 } else { most_shares(k) };
            tile.groups(m, n) * batch * cuts >= fill && tile.loses_little(&smallest, m, n)
        };
        *TILES.iter().find(suits).unwrap_or(&smallest)
    }

    /// Whether invocations have enough sums for arithmetic in f16: conversions would cost the others what it saves.
    fn has_room(&self) -> bool {
        self.own == [8, 8]
    }

    fn groups(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m as usize) * n.div_ceil(self.n as usize)
    }

    /// At the edges, beside a smaller tile.
    fn loses_little(&self, smaller: &Tile, m: usize, n: usize) -> bool {
        8 * self.padded(m, n) <= 9 * smaller.padded(m, n)
    }

    fn padded(&self, m: usize, n: usize) -> usize {
        m.next_multiple_of(self.m as usize) * n.next_multiple_of(self.n as usize)
    }
}

/// Workgroup size of the direct kernel: more invocations would share nothing.
const DIRECT_BLOCK: u32 = 8;

/// How many invocations share their reading: a whole DIRECT_BLOCK, or what every subgroup has.
fn sharing(class: Class) -> Option<u32> {
    class.subgroups.map(|smallest| if smallest >= DIRECT_BLOCK { DIRECT_BLOCK } else { LEAST_SHARING })
}

const LEAST_SHARING: u32 = 4;

/// The workgroup of the thin kernel, and how many of its lanes lie along N, with four columns each.
const THIN_BLOCK: u32 = 256;
const THIN_LANES_N: u32 = 4;

/// The most rows of the thin kernel.
const THIN_ROWS: usize = 8;

/// `SPAN` of the cooperative kernel, the larger first, and `BK`.
const SPANS: [u32; 2] = [4, 2];
const COOPERATIVE_DEPTH: u32 = 32;

/// Workgroup size of the kernel that adds shares up.
const SPLITS_BLOCK: u32 = 256;

/// Into how many shares K may be cut: shorter ones cost more to add up than they bring.
fn most_shares(k: usize) -> usize {
    if k >= 1024 { k / 256 } else { 1 }
}

impl Plan {
    fn new(device: &WgpuDevice, dtype: DType, sizes: [usize; 4], access: Access) -> Result<Plan> {
        let [m, ..] = sizes;
        let class = device.class();
        let f16 = dtype == DType::F16 && device.allows_f16_arithmetic();
        let kind = match device.matmul_tile() {
            Some(name) => Kind::tiled(Tile::named(name), f16),
            None if m > THIN_ROWS && let Some(matrices) = cooperative(device, dtype)? => {
                Kind::Cooperative { matrices, span: span(device, matrices, sizes) }
            }
            None if class.software => {
                let rows = if m > 16 { 32 } else { (m as u32).next_multiple_of(8) };
                Kind::Direct { rows, sharing: sharing(class) }
            }
            None if m <= THIN_ROWS => Kind::Thin { rows: (m as u32).next_power_of_two() },
            None => {
                let Access { across, quads } = access;
                let measured = tune::tile(device, MatmulClass { sizes, across, quads, dtype, f16 })?;
                let by_size = || Tile::best(device.workgroups_to_fill(), sizes);
                Kind::tiled(measured.map_or_else(by_size, Tile::named), f16)
            }
        };
        Ok(Plan::of(kind, device, sizes))
    }

    /// With as many shares of K as fill the device.
    fn of(kind: Kind, device: &WgpuDevice, [m, n, k, batch]: [usize; 4]) -> Plan {
        let plan = Plan { kind, shares: 1 };
        if matches!(kind, Kind::Direct { .. }) {
            return plan;
        }
        // By sizes and the kind of device alone, so that sums are the same whenever they are computed; and as many as one binding
        // shows.
        let sums = batch * m * n.next_multiple_of(4) * 4;
        let most = most_shares(k).min(device.max_binding_bytes() / sums.max(1)).max(1);
        let shares = (device.workgroups_to_fill() / plan.workgroups(m, n, batch)).clamp(1, most);
        let plan = Plan { shares, ..plan };
        // Shares of whole slices may be fewer.
        Plan { shares: k.max(1).div_ceil(plan.share(k)), ..plan }
    }

    /// The depth of a share: whole slices.
    fn share(&self, k: usize) -> usize {
        let slice = match self.kind {
            Kind::Tiled { tile, .. } => tile.k as usize,
            Kind::Cooperative { .. } => COOPERATIVE_DEPTH as usize,
            Kind::Direct { .. } | Kind::Thin { .. } => 4,
        };
        k.max(1).div_ceil(self.shares.max(1)).next_multiple_of(slice)
    }

    fn source(self, [a_quads, b_quads]: [bool; 2], width: Width) -> (&'static [&'static str], &'static str) {
        macro_rules! with_operands {
            ($($rest:ident),*) => {
                match (a_quads, b_quads) {
                    (true, true) => by_width!(width, [ACTIVATIONS, EPILOGUE, A_QUADS, B_QUADS, $($rest),*]),
                    (true, false) => by_width!(width, [ACTIVATIONS, EPILOGUE, A_QUADS, B_SCALARS, $($rest),*]),
                    (false, true) => by_width!(width, [ACTIVATIONS, EPILOGUE, A_SCALARS, B_QUADS, $($rest),*]),
                    (false, false) => by_width!(width, [ACTIVATIONS, EPILOGUE, A_SCALARS, B_SCALARS, $($rest),*]),
                }
            };
        }
        match self.kind {
            Kind::Direct { sharing: Some(_), .. } => (with_operands!(BLOCKS, LANES_SUBGROUP, DIRECT), "direct"),
            Kind::Direct { .. } => (with_operands!(BLOCKS, LANES, DIRECT), "direct"),
            Kind::Thin { .. } => (with_operands!(BLOCKS, THIN), "thin"),
            Kind::Tiled { .. } => (with_operands!(BLOCKS, TILED), "tiled"),
            Kind::Cooperative { matrices, .. } => {
                let source = match (matrices.edge, matrices.quads) {
                    (8, true) => with_operands!(MATRICES_8, HALVES_QUADS, COOPERATIVE),
                    (8, false) => with_operands!(MATRICES_8, HALVES_SCALARS, COOPERATIVE),
                    (_, true) => with_operands!(MATRICES_16, HALVES_QUADS, COOPERATIVE),
                    (_, false) => with_operands!(MATRICES_16, HALVES_SCALARS, COOPERATIVE),
                };
                (source, "cooperative")
            }
        }
    }

    fn kernel(self, access: Access, finish: Finish, dtype: DType, out: DType) -> Kernel {
        let (source, entry) = self.source(access.quads, finish.width);
        let kernel = Kernel::builtin("matmul", source, entry)
            .with("A_ALONG_M", access.across[0])
            .with("B_ALONG_N", access.across[1]);
        let kernel = finish.specialise(kernel, dtype, out);
        match self.kind {
            Kind::Direct { rows, sharing } => {
                kernel.with("BLOCK", DIRECT_BLOCK).with("ROWS", rows).with("LANES", sharing.unwrap_or(LEAST_SHARING))
            }
            Kind::Thin { rows } => {
                kernel.with("BLOCK", THIN_BLOCK).with("ROWS", rows).with("LANES_N", THIN_LANES_N)
            }
            Kind::Tiled { tile, f16 } => kernel
                .with("BM", tile.m)
                .with("BN", tile.n)
                .with("BK", tile.k)
                .with("TM", tile.own[0])
                .with("TN", tile.own[1])
                .with("C", if f16 { DType::F16 } else { DType::F32 })
                .with("SHORT_SUMS", f16),
            Kind::Cooperative { matrices: Matrices { edge, threads, .. }, span } => {
                kernel.with("EDGE", edge).with("SPAN", span).with("THREADS", threads)
            }
        }
    }

    /// Of one share.
    fn workgroups(&self, m: usize, n: usize, batch: usize) -> usize {
        let groups = match self.kind {
            Kind::Direct { rows, .. } => {
                m.div_ceil(rows as usize) * n.div_ceil(4 * DIRECT_BLOCK as usize)
            }
            Kind::Thin { .. } => n.div_ceil(4 * THIN_LANES_N as usize),
            Kind::Tiled { tile, .. } => tile.groups(m, n),
            Kind::Cooperative { matrices, span } => cooperative_tile(matrices, span).groups(m, n),
        };
        groups * batch
    }

    fn groups(&self, m: usize, n: usize, batch: usize) -> [u32; 3] {
        fold_groups(self.workgroups(m, n, batch) * self.shares)
    }
}

/// The device's cooperative matrices, if they serve this dtype and were found to compute right.
fn cooperative(device: &WgpuDevice, dtype: DType) -> Result<Option<Matrices>> {
    let Some(matrices) = device.matrices().filter(|_| dtype == DType::F16) else { return Ok(None) };
    let agrees = || {
        for span in SPANS {
            let plan = Plan { kind: Kind::Cooperative { matrices, span }, shares: 1 };
            if !agrees_with_plain(device, plan)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(device.matrices_serve(MatrixUse::Products, agrees)?.then_some(matrices))
}

/// What a workgroup of cooperative.wgsl computes, no part of which is one invocation's own.
fn cooperative_tile(matrices: Matrices, span: u32) -> Tile {
    let side = 2 * span * matrices.edge;
    Tile { m: side, n: side, k: COOPERATIVE_DEPTH, own: [0; 2] }
}

/// The larger one where its tiles fill the device and lose little at the edges.
fn span(device: &WgpuDevice, matrices: Matrices, [m, n, _, batch]: [usize; 4]) -> u32 {
    let [large, small] = SPANS;
    let [tile, smaller] = SPANS.map(|span| cooperative_tile(matrices, span));
    let fills = tile.groups(m, n) * batch >= device.workgroups_to_fill();
    if fills && tile.loses_little(&smaller, m, n) { large } else { small }
}

/// Whether a plan computes what the plain tiled kernel does, bit by bit: of f16 products of whole numbers whose sums f16 has too,
/// with a rest at every edge, read by elements and by quads, in both orientations.
fn agrees_with_plain(device: &WgpuDevice, plan: Plan) -> Result<bool> {
    let plain = Plan { kind: Kind::Tiled { tile: TILES[0], f16: false }, shares: 1 };
    for ([m, k, n], turned) in [([83, 45, 71], false), ([72, 40, 136], true)] {
        let a = whole_numbers(device, [1, m, k], turned, true, DType::F16)?;
        let b = whole_numbers(device, [1, k, n], turned, true, DType::F16)?;
        if Task::result(device, &a, &b, plan)? != Task::result(device, &a, &b, plain)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Batches of matrices of -2 to 2, whose products and sums f32 has exactly, in whatever order they are added. `turned` lie along
/// the other dimension; those that are not by quads are a part of larger ones, whose size is odd.
fn whole_numbers(
    device: &WgpuDevice,
    [batch, rows, columns]: [usize; 3],
    turned: bool,
    quads: bool,
    dtype: DType,
) -> Result<Tensor> {
    let (lines, length) = if turned { (columns, rows) } else { (rows, columns) };
    let stride = if quads { length } else { length | 1 };
    let whole = |i: u32| (i.wrapping_mul(2_654_435_761) >> 16) as f32 % 5.0 - 2.0;
    let values: Vec<f32> = (0..(batch * lines * stride) as u32).map(whole).collect();
    let x = Tensor::from_vec(values, (1, batch, lines, stride), &Device::Wgpu(device.clone()))?;
    let x = x.to_dtype(dtype)?.narrow(3, 0, length)?;
    if turned { x.t() } else { Ok(x) }
}

fn splits_kernel(finish: Finish, dtype: DType, out: DType) -> Kernel {
    let source = by_width!(finish.width, [ACTIVATIONS, EPILOGUE, SPLITS]);
    let kernel = Kernel::builtin("matmul", source, "splits");
    finish.specialise(kernel, dtype, out).with("BLOCK", SPLITS_BLOCK)
}

/// Every plan and way to read, with the least and the most that becomes of the sums.
#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let plain = Width::ALL.map(|width| Finish { width, ..Finish::default() });
    let add = plain.map(|finish| Finish { add: true, ..finish });
    let rich = |(activation, width)| Finish { width, bias: true, pre: true, activation, residual: true, add: false };
    let activations = [Activation::Identity, Activation::Gelu, Activation::GeluErf, Activation::Silu];
    let rich: Vec<Finish> =
        activations.into_iter().flat_map(|activation| Width::ALL.map(|width| rich((activation, width)))).collect();
    let both = [false, true];
    let pairs = || both.into_iter().flat_map(move |a| both.map(|b| [a, b]));
    let mut all = Vec::new();
    for dtype in FLOATS {
        let kinds: Vec<Kind> = if class.software {
            let sharing = sharing(class);
            [8, 16, 32].map(|rows| Kind::Direct { rows, sharing }).to_vec()
        } else {
            let tiled = TILES.map(|tile| Kind::Tiled { tile, f16: false });
            let f16 = TILES.into_iter().filter(|tile| dtype == DType::F16 && tile.has_room());
            let f16 = f16.map(|tile| Kind::Tiled { tile, f16: true });
            let thin = [1, 2, 4, 8].map(|rows| Kind::Thin { rows });
            let cooperative = Matrices::ALL.into_iter().filter(|_| dtype == DType::F16 && class.subgroups.is_some());
            let cooperative =
                cooperative.flat_map(|matrices| SPANS.map(|span| Kind::Cooperative { matrices, span }));
            thin.into_iter().chain(tiled).chain(f16).chain(cooperative).collect()
        };
        for kind in kinds {
            let plan = Plan { kind, shares: 1 };
            let mut push = |across, [a, b]: [bool; 2], finish, out| {
                let variant = match (a, b) {
                    (true, true) => "quads",
                    (true, false) => "quads scalars",
                    (false, true) => "scalars quads",
                    (false, false) => "scalars",
                };
                let kernel = plan.kernel(Access { across, quads: [a, b] }, finish, dtype, out);
                all.push(Launched { kernel, variant });
            };
            for across in pairs() {
                for quads in pairs() {
                    plain.into_iter().for_each(|finish| push(across, quads, finish, dtype));
                }
            }
            for out in [dtype, DType::F32] {
                add.into_iter().for_each(|finish| push([true, true], [true, true], finish, out));
            }
            push([false, false], [true, true], plain[1], DType::F32);
            rich.iter().for_each(|&finish| push([false, true], [true, true], finish, dtype));
        }
        if !class.software {
            for &finish in plain.iter().chain(&add).chain(&rich) {
                all.push(splits_kernel(finish, dtype, dtype).into());
            }
            all.extend(add.map(|finish| splits_kernel(finish, dtype, DType::F32).into()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lets cooperative matrices in lets every right plan in, and would keep a wrong one out.
    #[test]
    fn plans_are_compared_with_the_plain_one() -> Result<()> {
        let device = match WgpuDevice::new(&"software".into()) {
            Ok(device) if device.has_f16() => device,
            other => {
                println!("NOT RUN: there is no software adapter with f16: {other:?}");
                return Ok(());
            }
        };
        // Eight rows of all.
        assert!(!agrees_with_plain(&device, Plan { kind: Kind::Thin { rows: 8 }, shares: 1 })?);
        for tile in TILES {
            for (f16, shares) in [(false, 1), (true, 1), (false, 2)] {
                let plan = Plan { kind: Kind::Tiled { tile, f16 }, shares };
                assert!(agrees_with_plain(&device, plan)?, "{plan:?}");
            }
        }
        let direct = Plan { kind: Kind::Direct { rows: 32, sharing: sharing(device.class()) }, shares: 1 };
        assert!(agrees_with_plain(&device, direct)?);
        Ok(())
    }

    /// Fewer subgroups than quarters of a tile, as many, and more.
    #[test]
    fn cooperative_matrices_in_any_number_of_subgroups() -> Result<()> {
        let Some((device, matrices)) = Matrices::of_software() else { return Ok(()) };
        // Software adapters take seconds to compile each.
        for (threads, span, quads, shares) in [(8, 2, true, 2), (16, 4, false, 1), (32, 4, true, 2), (128, 2, false, 1)] {
            let matrices = Matrices { threads, quads, ..matrices };
            let plan = Plan { kind: Kind::Cooperative { matrices, span }, shares };
            assert!(agrees_with_plain(&device, plan)?, "{plan:?}");
        }
        Ok(())
    }

    /// The largest tile that fills the device and loses little at the edges; a cut of K where there are too few.
    #[test]
    fn tiles_suit_the_sizes() {
        let chosen = |sizes| {
            let tile = Tile::best(128, sizes);
            (tile.m, tile.n)
        };
        assert_eq!(chosen([4096, 4096, 768, 1]), (128, 128));
        assert_eq!(chosen([1024, 1024, 1024, 1]), (128, 64));
        assert_eq!(chosen([768, 768, 768, 1]), (64, 64));
        assert_eq!(chosen([384, 384, 8192, 1]), (64, 64));
        assert_eq!(chosen([384, 384, 64, 1]), (32, 32));
        assert_eq!(chosen([20, 50_257, 768, 1]), (32, 64));
        assert_eq!(chosen([64, 64, 64, 128]), (64, 64));
        assert_eq!(chosen([64, 64, 64, 96]), (32, 64));
        assert_eq!(chosen([1, 1, 1, 1]), (32, 32));
    }
}
