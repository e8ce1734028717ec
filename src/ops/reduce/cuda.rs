use bytemuck::{Pod, Zeroable};

use super::{Kind, plan};
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{BLOCK, REDUCE, blocks, check_size, output, width};
use crate::{DType, Result, Shape, Tensor};

const FOLD: &str = cuda_source!("reduce/fold.cuh");
const ROWS: &[&str] = &[REDUCE, FOLD, cuda_source!("reduce/rows.cu")];
const COLUMNS: &[&str] = &[FOLD, cuda_source!("reduce/columns.cu")];
const ARG: &[&str] = &[FOLD, cuda_source!("reduce/arg.cu")];

/// A row of more elements is cut into pieces of this many, to keep a GPU busy with few rows.
const ROW_PIECE: usize = 8192;
/// Elements of a column that one thread adds up; what a block's threads do together is a piece.
const SLICE: usize = 16;
/// Rows up to this length are a warp's, longer ones a block's.
const WARP_ROW: usize = 1024;

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
    groups: u32,
    inner: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Arg {
    n: u32,
    inner: u32,
    results: u32,
    pad: u32,
}

/// Threads that share a row of so many elements.
fn team(n: usize) -> u32 {
    if n <= WARP_ROW { 32 } else { BLOCK }
}

/// From elements of `from` to those of `to`.
fn of_kind(kernel: Kernel, kind: Kind, from: DType, to: DType) -> Kernel {
    kernel.with("BLOCK", BLOCK).with("KIND", kind as u32).with("T", from).with("U", to)
}

fn rows_kernel(team: u32, width: usize) -> Kernel {
    Kernel::builtin("reduce_rows", ROWS, "rows").with("TEAM", team).with("WIDTH", width as u32)
}

fn columns_kernel((columns, slices): (usize, usize), width: usize) -> Kernel {
    Kernel::builtin("reduce_columns", COLUMNS, "columns")
        .with("COLUMNS", columns as u32)
        .with("SLICES", slices as u32)
        .with("WIDTH", width as u32)
}

fn arg_kernel(entry: &'static str, team: u32, kind: Kind, dtype: DType) -> Kernel {
    Kernel::builtin("arg_reduce", ARG, entry)
        .with("BLOCK", BLOCK)
        .with("TEAM", team)
        .with("KIND", kind as u32)
        .with("T", dtype)
}

pub fn reduce(device: &CudaDevice, kind: Kind, x: &Tensor, dim: usize, result: DType) -> Result<Vec<Tensor>> {
    let (shape, (outer, n, inner)) = plan(x, dim);
    if n == 0 {
        return Ok(vec![Tensor::zeros(shape, result, &x.device())?]);
    }
    let mut x = x.reshape((outer, n, inner))?;
    // Partial results stay in f32: 16-bit results are rounded once.
    loop {
        let piece = piece(&x)?;
        let last = x.dims()[1] <= piece;
        x = pass(device, kind, &x, piece, if last { result } else { DType::F32 })?;
        if last {
            return Ok(vec![x.reshape(shape)?]);
        }
    }
}

/// How the columns of [outer, n, inner] are divided over a block: lines side by side, and slices of each.
fn columns_and_slices(n: usize, inner: usize, width: usize) -> (usize, usize) {
    let columns = (inner / width).next_power_of_two().min(32);
    let slices = n.div_ceil(SLICE / 4).next_power_of_two().min(BLOCK as usize / columns);
    (columns, slices)
}

/// Elements of dimension 1 of three that one team or block reduces: by sizes alone.
fn piece(x: &Tensor) -> Result<usize> {
    let (_, n, inner) = x.dims3()?;
    if inner == 1 {
        return Ok(ROW_PIECE);
    }
    let (_, slices) = columns_and_slices(n, inner, width(x.dtype(), inner, []));
    Ok(SLICE * slices)
}

/// One result for every `piece` elements of dimension 1 of three.
fn pass(device: &CudaDevice, kind: Kind, x: &Tensor, piece: usize, result: DType) -> Result<Tensor> {
    let (outer, n, inner) = x.dims3()?;
    check_size("reduce", device, n)?;
    let pieces = n.div_ceil(piece);
    let (out, buffer) = output("reduce", device, &Shape::from((outer, pieces, inner)), result)?;
    let source = x.cuda()?;
    let bindings = [Binding::Read(&source), Binding::Write(&buffer)];
    let of_kind = |kernel| of_kind(kernel, kind, x.dtype(), result);
    let groups = outer * pieces;
    if inner == 1 {
        let team = team(n.min(piece));
        let kernel = of_kind(rows_kernel(team, width(x.dtype(), n, [&source])));
        let params = Rows { n: n as u32, piece: piece as u32, pieces: pieces as u32, groups: groups as u32 };
        device.launch(&kernel, &bindings, &params, blocks(groups.div_ceil((BLOCK / team) as usize), BLOCK))?;
    } else {
        let width = width(x.dtype(), inner, [&source]);
        let (columns, slices) = columns_and_slices(n, inner, width);
        let kernel = of_kind(columns_kernel((columns, slices), width));
        let params = Columns {
            n: n as u32,
            piece: piece as u32,
            pieces: pieces as u32,
            groups: groups as u32,
            inner: inner as u32,
            pad: 0,
        };
        let grid = inner.div_ceil(width * columns) * groups.div_ceil(BLOCK as usize / (columns * slices));
        device.launch(&kernel, &bindings, &params, blocks(grid, BLOCK))?;
    }
    Ok(out)
}

pub fn arg_reduce(device: &CudaDevice, kind: Kind, x: &Tensor, dim: usize) -> Result<Vec<Tensor>> {
    let (shape, (_, n, inner)) = plan(x, dim);
    check_size("arg_reduce", device, n)?;
    let (out, buffer) = output("arg_reduce", device, &shape, DType::U32)?;
    let results = shape.elements();
    let (entry, results_a_block) =
        if inner == 1 { ("rows", BLOCK / team(n)) } else { ("columns", BLOCK) };
    device.launch(
        &arg_kernel(entry, team(n), kind, x.dtype()),
        &[Binding::Read(&x.cuda()?), Binding::Write(&buffer)],
        &Arg { n: n as u32, inner: inner as u32, results: results as u32, pad: 0 },
        blocks(results.div_ceil(results_a_block as usize), BLOCK),
    )?;
    Ok(vec![out])
}

/// Every type with sums, to partial sums too, and the other functions of f32; of the divisions of columns those at the
/// ends.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut push = |kernel: Kernel, kind, to, wide| {
            all.push(Launched::plain(of_kind(kernel, kind, dtype, to), BLOCK, wide));
        };
        for width in [1, 16 / dtype.size()] {
            for (kind, to) in [(Kind::Sum, dtype), (Kind::Sum, DType::F32), (Kind::Max, dtype), (Kind::Min, dtype)] {
                for team in [team(WARP_ROW), team(WARP_ROW + 1)] {
                    push(rows_kernel(team, width), kind, to, width > 1);
                }
                if kind == Kind::Sum || dtype == DType::F32 {
                    for (n, inner) in [(2, 2), (2, 1024), (1024, 2), (1024, 32), (1024, 1024)] {
                        let cut = columns_and_slices(n, inner * width, width);
                        push(columns_kernel(cut, width), kind, to, width > 1);
                    }
                }
            }
        }
        for kind in [Kind::Max, Kind::Min] {
            for (entry, team) in [("rows", team(WARP_ROW)), ("rows", team(WARP_ROW + 1)), ("columns", 32)] {
                all.push(Launched::plain(arg_kernel(entry, team, kind, dtype), BLOCK, false));
            }
        }
    }
    all
}
