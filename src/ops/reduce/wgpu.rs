use bytemuck::{Pod, Zeroable};

use super::{Kind, plan};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Class, Constant, Kernel, WgpuDevice, fold_groups};
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{
    LOOPS, Width, block, by_width, check_loops, element, kernel, of_width, output, reduction, threads,
};
use crate::ops::launch::windows;
use crate::{DType, Result, Shape, Tensor};

const ROWS: &str = include_str!("../../../kernels/reduce/rows.wgsl");
const COLUMNS: &str = include_str!("../../../kernels/reduce/columns.wgsl");
const ARG: &[&str] = &[include_str!("../../../kernels/reduce/arg.wgsl")];

const BLOCK: u32 = 256;
/// A row of more elements is cut into pieces of this many, to keep a GPU busy with few rows.
const ROW_PIECE: usize = 4096;
/// The same down columns, where one thread walks a piece.
const COLUMN_PIECE: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Rows {
    n: u32,
    piece: u32,
    pieces: u32,
    groups: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Columns {
    n: u32,
    piece: u32,
    pieces: u32,
    inner: u32,
    threads: u32,
    pad: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Arg {
    n: u32,
    inner: u32,
    threads: u32,
    pad: u32,
}

/// From elements of `from` to those of `to`.
fn rows_kernel(class: Class, width: Width, kind: Kind, from: DType, to: DType) -> Kernel {
    kernel("reduce_rows", reduction!(class, width, [ROWS]), of_width(width, from, to))
        .with("KIND", kind as u32)
        .with("BLOCK", block(class, BLOCK))
}

fn columns_kernel(width: Width, kind: Kind, from: DType, to: DType) -> Kernel {
    kernel("reduce_columns", by_width!(width, [COLUMNS]), of_width(width, from, to)).with("KIND", kind as u32)
}

fn arg_kernel(kind: Kind, dtype: DType) -> Kernel {
    kernel("arg_reduce", ARG, [("KIND", Constant::U32(kind as u32)), element(dtype)])
}

pub fn reduce(device: &WgpuDevice, kind: Kind, x: &Tensor, dim: usize, result: DType) -> Result<Vec<Tensor>> {
    let (shape, (outer, n, inner)) = plan(x, dim);
    if n == 0 {
        return Ok(vec![Tensor::zeros(shape, result, &x.device())?]);
    }
    let piece = if inner == 1 { ROW_PIECE } else { COLUMN_PIECE };
    let mut x = x.reshape((outer, n, inner))?;
    if let Some(result) = half_by_half(device, &x, n.min(piece), |x| reduce(device, kind, x, 1, result))? {
        return Ok(vec![result.reshape(shape)?]);
    }
    // Partial results stay in f32: 16-bit results are rounded once.
    while x.dims()[1] > piece {
        x = pass(device, kind, &x, piece, DType::F32)?;
    }
    let n = x.dims()[1];
    Ok(vec![pass(device, kind, &x, n, result)?.reshape(shape)?])
}

/// The results of one half of the columns and of the other, if `rows` rows of all are more than a binding shows.
fn half_by_half(
    device: &WgpuDevice,
    x: &Tensor,
    rows: usize,
    f: impl Fn(&Tensor) -> Result<Vec<Tensor>>,
) -> Result<Option<Tensor>> {
    let (outer, n, inner) = x.dims3()?;
    if inner == 1 || rows.min(n) * inner * size_of::<f32>() <= device.max_binding_bytes() {
        return Ok(None);
    }
    let half = inner.div_ceil(2);
    let [left, right] = [(0, half), (half, inner - half)];
    let of = |(start, len)| f(&x.narrow(2, start, len)?)?.swap_remove(0).reshape((outer, len));
    Tensor::cat(&[of(left)?, of(right)?], 1).map(Some)
}

/// One result for every `piece` elements of dimension 1 of three.
fn pass(device: &WgpuDevice, kind: Kind, x: &Tensor, piece: usize, result: DType) -> Result<Tensor> {
    let (outer, n, inner) = x.dims3()?;
    let pieces = n.div_ceil(piece);
    let out = output("reduce", device, &Shape::from((outer, pieces, inner)), result)?;
    // Items lie along what is contiguous.
    let width = if inner == 1 { Width::of([n, piece]) } else { Width::of([inner]) };
    let launch = |x: &Tensor, out: &Tensor, n: usize, pieces: usize| {
        let bindings = [Binding::Read(&x.wgpu()?), Binding::Write(&out.wgpu()?)];
        if inner == 1 {
            let groups = out.elements();
            let [n, piece] = [n, piece].map(|n| width.items(n) as u32);
            let params = Rows { n, piece, pieces: pieces as u32, groups: groups as u32 };
            let kernel = rows_kernel(device.class(), width, kind, x.dtype(), result);
            return device.run(&kernel, &bindings, &params, fold_groups(groups));
        }
        let items = width.items(out.elements());
        let params = Columns {
            n: n as u32,
            piece: piece as u32,
            pieces: pieces as u32,
            inner: width.items(inner) as u32,
            threads: items as u32,
            pad: [0; 3],
        };
        device.run(&columns_kernel(width, kind, x.dtype(), result), &bindings, &params, threads(items))
    };
    windows::rows(outer, [windows::view(x), windows::output(&out)], |[x, out]| {
        if windows::fits(x) {
            return launch(x, out, n, pieces);
        }
        // One of the outer ones is too large in itself.
        windows::rows(pieces, [windows::view(x).in_groups(piece, n), windows::output(out)], |[x, out]| {
            launch(x, out, x.dims()[0], out.dims()[0])
        })
    })?;
    Ok(out)
}

pub fn arg_reduce(device: &WgpuDevice, kind: Kind, x: &Tensor, dim: usize) -> Result<Vec<Tensor>> {
    let (shape, (outer, n, inner)) = plan(x, dim);
    let halves = half_by_half(device, &x.reshape((outer, n, inner))?, n, |x| arg_reduce(device, kind, x, 1))?;
    if let Some(result) = halves {
        return Ok(vec![result.reshape(shape)?]);
    }
    check_loops("arg_reduce", device, n, "elements along the dimension", LOOPS)?;
    let out = output("arg_reduce", device, &shape, DType::U32)?;
    let kernel = arg_kernel(kind, x.dtype());
    windows::rows(outer, [windows::view(x), windows::output(&out)], |[x, out]| {
        let columns = out.elements();
        device.run(
            &kernel,
            &[Binding::Read(&x.wgpu()?), Binding::Write(&out.wgpu()?)],
            &Arg { n: n as u32, inner: inner as u32, threads: columns as u32, pad: 0 },
            threads(columns),
        )
    })?;
    Ok(vec![out])
}

#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        for kind in [Kind::Sum, Kind::Max, Kind::Min] {
            for to in [dtype, DType::F32] {
                all.extend(Width::ALL.map(|width| rows_kernel(class, width, kind, dtype, to)));
                all.extend(Width::ALL.map(|width| columns_kernel(width, kind, dtype, to)));
            }
        }
        all.extend([Kind::Max, Kind::Min].map(|kind| arg_kernel(kind, dtype)));
    }
    all.into_iter().map(Launched::from).collect()
}
