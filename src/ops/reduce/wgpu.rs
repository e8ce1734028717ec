use bytemuck::{Pod, Zeroable};

use super::{Kind, plan};
use crate::device::wgpu::{Binding, Constant, WgpuDevice, fold_groups};
use crate::ops::launch::wgpu::{block, element, kernel, output, reduction, threads};
use crate::{DType, Result, Shape, Tensor};

const COLUMNS: &[&str] = &[include_str!("../../../kernels/reduce/columns.wgsl")];
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

pub fn reduce(device: &WgpuDevice, kind: Kind, x: &Tensor, dim: usize, result: DType) -> Result<Vec<Tensor>> {
    let (shape, (outer, n, inner)) = plan(x, dim);
    if n == 0 {
        return Ok(vec![Tensor::zeros(shape, result, &x.device())?]);
    }
    let piece = if inner == 1 { ROW_PIECE } else { COLUMN_PIECE };
    let mut x = x.reshape((outer, n, inner))?;
    // Partial results stay in f32: 16-bit results are rounded once.
    while x.dims()[1] > piece {
        x = pass(device, kind, &x, piece, DType::F32)?;
    }
    let n = x.dims()[1];
    Ok(vec![pass(device, kind, &x, n, result)?.reshape(shape)?])
}

/// One result for every `piece` elements of dimension 1 of three.
fn pass(device: &WgpuDevice, kind: Kind, x: &Tensor, piece: usize, result: DType) -> Result<Tensor> {
    let (outer, n, inner) = x.dims3()?;
    let pieces = n.div_ceil(piece);
    let shape = Shape::from((outer, pieces, inner));
    let (out, buffer) = output("reduce", device, &shape, result)?;
    let source = x.wgpu()?;
    let bindings = [Binding::Read(&source), Binding::Write(&buffer)];
    let constants = [("KIND", Constant::U32(kind as u32)), element(x.dtype()), ("U", Constant::Type(result))];
    let outputs = shape.elements();
    if inner == 1 {
        let params = Rows { n: n as u32, piece: piece as u32, pieces: pieces as u32, groups: outputs as u32 };
        let source = reduction!(device, "../../../kernels/reduce/rows.wgsl");
        let kernel = kernel("reduce_rows", source, constants).with("BLOCK", block(device, BLOCK));
        device.run(&kernel, &bindings, &params, fold_groups(outputs))?;
    } else {
        let params = Columns {
            n: n as u32,
            piece: piece as u32,
            pieces: pieces as u32,
            inner: inner as u32,
            threads: outputs as u32,
            pad: [0; 3],
        };
        device.run(&kernel("reduce_columns", COLUMNS, constants), &bindings, &params, threads(outputs))?;
    }
    Ok(out)
}

pub fn arg_reduce(device: &WgpuDevice, kind: Kind, x: &Tensor, dim: usize) -> Result<Vec<Tensor>> {
    let (shape, (_, n, inner)) = plan(x, dim);
    let (out, buffer) = output("arg_reduce", device, &shape, DType::U32)?;
    let params = Arg { n: n as u32, inner: inner as u32, threads: shape.elements() as u32, pad: 0 };
    device.run(
        &kernel("arg_reduce", ARG, [("KIND", Constant::U32(kind as u32)), element(x.dtype())]),
        &[Binding::Read(&x.wgpu()?), Binding::Write(&buffer)],
        &params,
        threads(shape.elements()),
    )?;
    Ok(vec![out])
}
