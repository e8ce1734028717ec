use bytemuck::{Pod, Zeroable};

use super::{Activation, Operand, Product};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Buffer, Class, Kernel, WgpuDevice, Work, fold_groups};
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{ACTIVATIONS, output};
use crate::ops::launch::windows;
use crate::{DType, Result, Shape, Tensor};

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
    pad: u32,
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
    Task {
        a: p.a.clone(),
        b: p.b.clone(),
        bias: None,
        activation: Activation::Identity,
        residual: None,
        d: to.reshape((b1, b2, m, n))?,
        pre: None,
        add,
    }
    .run(device)
}

impl Task {
    /// In pieces whose every tensor one binding can show.
    fn run(self, device: &WgpuDevice) -> Result<()> {
        match self.cut()? {
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

    /// Where to cut, and the size there: where it makes the window of a tensor that is too large smaller.
    fn cut(&self) -> Result<Option<(Along, usize)>> {
        let outputs = [Some(&self.d), self.residual.as_ref(), self.pre.as_ref()];
        let outputs_fit = outputs.into_iter().flatten().all(windows::fits);
        let (a_fits, b_fits) = (windows::fits(&self.a), windows::fits(&self.b));
        if outputs_fit && a_fits && b_fits {
            return Ok(None);
        }
        let (b1, b2, m, n) = self.d.dims4()?;
        let k = self.a.dims()[3];
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

    /// In one launch.
    fn launch(self, device: &WgpuDevice) -> Result<()> {
        let (b1, b2, m, n) = self.d.dims4()?;
        let (batch, k) = (b1 * b2, self.a.dims()[3]);
        if batch * m * n == 0 {
            return Ok(());
        }
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
            pad: 0,
        };

        let plan = Plan::new(device.class(), m, n, batch);
        let access = Access { across: [a.across, b.across], quads: [a.in_lines_of(4), b.in_lines_of(4)] };
        let finish = Finish {
            bias: bias.is_some(),
            pre: pre.is_some(),
            activation: self.activation,
            residual: residual.is_some(),
            add: self.add,
        };
        let kernel = plan.kernel(access, finish, self.a.dtype(), self.d.dtype()).work(self.work());
        // The place of an output that is not wanted.
        let spare = if pre.is_none() { Some(device.alloc("matmul", 4)?) } else { None };
        let bindings = [
            Binding::Read(&a_buffer),
            Binding::Read(&b_buffer),
            Binding::Read(bias.as_ref().unwrap_or(&a_buffer)),
            Binding::Read(residual.as_ref().map_or(&a_buffer, |(residual, _)| residual)),
            Binding::Write(&d_buffer),
            Binding::Write(pre.as_ref().map(|(pre, _)| pre).or(spare.as_ref()).unwrap_or(&d_buffer)),
        ];
        device.run(&kernel, &bindings, &params, plan.groups(m, n, batch))
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

/// What becomes of the sums, see kernels/matmul/epilogue.wgsl.
#[derive(Clone, Copy)]
struct Finish {
    bias: bool,
    pre: bool,
    activation: Activation,
    residual: bool,
    add: bool,
}

/// Which kernel, and its shape.
#[derive(Clone, Copy)]
enum Plan {
    /// For software adapters: invocations along N, each with `rows` x 4 sums.
    Direct { rows: u32, subgroups: bool },
    /// For GPUs: workgroups of `tile.0` x `tile.0` sums, each invocation with `tile.1` x `tile.1`.
    Tiled { tile: (u32, u32), depth: u32 },
}

/// Workgroup size of the direct kernel: more invocations would share nothing.
const DIRECT_BLOCK: u32 = 8;

/// Subgroups have 4 invocations at least.
const SHARING_LANES: u32 = 4;

/// Tiles of 64 x 64 need this many workgroups to fill a GPU.
const FULL_GRID: usize = 128;

impl Plan {
    fn new(class: Class, m: usize, n: usize, batch: usize) -> Self {
        if class.software {
            let rows = if m > 16 { 32 } else { (m as u32).next_multiple_of(8) };
            Plan::Direct { rows, subgroups: class.subgroups.is_some() }
        } else if batch * m.div_ceil(64) * n.div_ceil(64) < FULL_GRID {
            Plan::Tiled { tile: (32, 4), depth: 32 }
        } else {
            Plan::Tiled { tile: (64, 8), depth: 16 }
        }
    }

    fn source(self, [a_quads, b_quads]: [bool; 2]) -> (&'static [&'static str], &'static str) {
        macro_rules! with_operands {
            ($($rest:ident),*) => {
                match (a_quads, b_quads) {
                    (true, true) => &[ACTIVATIONS, EPILOGUE, A_QUADS, B_QUADS, BLOCKS, $($rest),*],
                    (true, false) => &[ACTIVATIONS, EPILOGUE, A_QUADS, B_SCALARS, BLOCKS, $($rest),*],
                    (false, true) => &[ACTIVATIONS, EPILOGUE, A_SCALARS, B_QUADS, BLOCKS, $($rest),*],
                    (false, false) => &[ACTIVATIONS, EPILOGUE, A_SCALARS, B_SCALARS, BLOCKS, $($rest),*],
                }
            };
        }
        match self {
            Plan::Direct { subgroups: true, .. } => (with_operands!(LANES_SUBGROUP, DIRECT), "direct"),
            Plan::Direct { .. } => (with_operands!(LANES, DIRECT), "direct"),
            Plan::Tiled { .. } => (with_operands!(TILED), "tiled"),
        }
    }

    fn kernel(self, access: Access, finish: Finish, dtype: DType, out: DType) -> Kernel {
        let (source, entry) = self.source(access.quads);
        let kernel = Kernel::builtin("matmul", source, entry)
            .with("A_ALONG_M", access.across[0])
            .with("B_ALONG_N", access.across[1])
            .with("BIAS", finish.bias)
            .with("SAVE_PRE", finish.pre)
            .with("ACTIVATION", finish.activation.code())
            .with("RESIDUAL", finish.residual)
            .with("ACCUMULATE", finish.add)
            .with("T", dtype)
            .with("D", out);
        match self {
            Plan::Direct { rows, .. } => {
                kernel.with("BLOCK", DIRECT_BLOCK).with("ROWS", rows).with("LANES", SHARING_LANES)
            }
            Plan::Tiled { tile: (tile, own), depth } => kernel
                .with("BM", tile)
                .with("BN", tile)
                .with("BK", depth)
                .with("TM", own)
                .with("TN", own),
        }
    }

    fn groups(self, m: usize, n: usize, batch: usize) -> [u32; 3] {
        let (rows, columns) = match self {
            Plan::Direct { rows, .. } => (rows, 4 * DIRECT_BLOCK),
            Plan::Tiled { tile: (tile, _), .. } => (tile, tile),
        };
        fold_groups(m.div_ceil(rows as usize) * n.div_ceil(columns as usize) * batch)
    }
}

/// Every plan and way to read, with the least and the most that becomes of the sums.
#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let plain = Finish { bias: false, pre: false, activation: Activation::Identity, residual: false, add: false };
    let add = Finish { add: true, ..plain };
    let rich = |activation| Finish { bias: true, pre: true, activation, residual: true, add: false };
    let mut all = Vec::new();
    for dtype in FLOATS {
        for m in [1, 9, 17, 64, 1024] {
            let plan = Plan::new(class, m, 1024, 1);
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
            for across in [[false, false], [false, true], [true, false], [true, true]] {
                for quads in [[false, false], [false, true], [true, false], [true, true]] {
                    push(across, quads, plain, dtype);
                }
            }
            push([true, true], [true, true], add, dtype);
            push([true, true], [true, true], add, DType::F32);
            for activation in [Activation::Identity, Activation::Gelu, Activation::GeluErf, Activation::Silu] {
                push([false, true], [true, true], rich(activation), dtype);
            }
        }
    }
    all
}
