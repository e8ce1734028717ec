use bytemuck::{Pod, Zeroable};

use super::{Operand, Product};
use crate::device::wgpu::{Binding, Buffer, Kernel, WgpuDevice, fold_groups};
use crate::ops::launch::wgpu::{ACTIVATIONS, output};
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
}

pub fn product(device: &WgpuDevice, p: &Product<'_>) -> Result<Vec<Tensor>> {
    let (b1, b2, m, _, n) = p.sizes();
    let shape = Shape::from((b1, b2, m, n));
    let (d, d_buffer) = output("matmul", device, &shape, p.a.dtype())?;
    let place = Place { buffer: &d_buffer, offset: 0, dtype: d.dtype() };
    if !p.keep_pre {
        launch(device, p, place, None, false)?;
        return Ok(vec![d]);
    }
    let (pre, pre_buffer) = output("matmul", device, &shape, p.a.dtype())?;
    launch(device, p, place, Some(&pre_buffer), false)?;
    Ok(vec![d, pre])
}

/// `to = a b`, or `to += a b`; `to` is contiguous.
pub fn accumulate(device: &WgpuDevice, p: &Product<'_>, to: &Tensor, add: bool) -> Result<()> {
    to.storage().written();
    launch(device, p, Place { buffer: &to.wgpu_storage()?, offset: to.layout().offset, dtype: to.dtype() }, None, add)
}

/// Where a product goes.
struct Place<'a> {
    buffer: &'a Buffer,
    /// In elements.
    offset: usize,
    /// That of the operands, or f32.
    dtype: DType,
}

/// Writes the product, or with `add` adds it, to `d`.
fn launch(
    device: &WgpuDevice,
    p: &Product<'_>,
    d: Place<'_>,
    pre: Option<&Buffer>,
    add: bool,
) -> Result<()> {
    let (b1, b2, m, k, n) = p.sizes();
    let batch = b1 * b2;
    if batch * m * n == 0 {
        return Ok(());
    }
    // A sum of no products is 0: that of one product of zeros, as a kernel has to read something.
    let zero = match k {
        0 => Some(Tensor::zeros((1, 1, 1, 1), p.a.dtype(), &p.a.device())?),
        _ => None,
    };
    let (a, b) = (zero.as_ref().unwrap_or(p.a), zero.as_ref().unwrap_or(p.b));
    let (a_buffer, b_buffer) = (a.wgpu_storage()?, b.wgpu_storage()?);
    let (a, b) = (Operand::new(a, 2, 3), Operand::new(b, 3, 2));
    let params = Params {
        m: m as u32,
        n: n as u32,
        k: k.max(1) as u32,
        batch: batch as u32,
        inner: b2 as u32,
        a_offset: a.offset,
        b_offset: b.offset,
        d_offset: d.offset as u32,
        a_strides: a.strides,
        b_strides: b.strides,
    };

    let plan = Plan::new(device, m, n, batch);
    let (source, entry) = plan.source(a.in_lines_of(4), b.in_lines_of(4));
    let kernel = Kernel::builtin("matmul", source, entry)
        .with("A_ALONG_M", a.across)
        .with("B_ALONG_N", b.across)
        .with("BIAS", p.bias.is_some())
        .with("SAVE_PRE", pre.is_some())
        .with("ACTIVATION", p.activation.code())
        .with("RESIDUAL", p.residual.is_some())
        .with("ACCUMULATE", add)
        .with("T", p.a.dtype())
        .with("D", d.dtype);

    let bias = p.bias.map(Tensor::wgpu).transpose()?;
    let residual = p.residual.map(Tensor::wgpu).transpose()?;
    // The place of an output that is not wanted.
    let spare = if pre.is_none() { Some(device.alloc("matmul", 4)?) } else { None };
    let bindings = [
        Binding::Read(&a_buffer),
        Binding::Read(&b_buffer),
        Binding::Read(bias.as_ref().unwrap_or(&a_buffer)),
        Binding::Read(residual.as_ref().unwrap_or(&a_buffer)),
        Binding::Write(d.buffer),
        Binding::Write(pre.or(spare.as_ref()).unwrap_or(d.buffer)),
    ];
    device.run(&plan.specialise(kernel), &bindings, &params, plan.groups(m, n, batch))
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
    fn new(device: &WgpuDevice, m: usize, n: usize, batch: usize) -> Self {
        if device.is_software() {
            let rows = if m > 16 { 32 } else { (m as u32).next_multiple_of(8) };
            Plan::Direct { rows, subgroups: device.has_subgroups() }
        } else if batch * m.div_ceil(64) * n.div_ceil(64) < FULL_GRID {
            Plan::Tiled { tile: (32, 4), depth: 32 }
        } else {
            Plan::Tiled { tile: (64, 8), depth: 16 }
        }
    }

    fn source(self, a_quads: bool, b_quads: bool) -> (&'static [&'static str], &'static str) {
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

    fn specialise(self, kernel: Kernel) -> Kernel {
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
