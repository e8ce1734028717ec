use bytemuck::{Pod, Zeroable};

use super::{Kind, Norm, NormBackward, rows};
use crate::device::cuda::{Binding, CudaDevice, Grid, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::op::Op;
use crate::ops::launch::cuda::{PHILOX, REDUCE, ROWS, RowPlan, output, width};
use crate::{DType, Result, Shape, Tensor};

const PARTIALS: &str = cuda_source!("norm/partials.cuh");
const FORWARD: &[&str] = &[REDUCE, ROWS, PHILOX, cuda_source!("norm/forward.cu")];
const BACKWARD: &[&str] = &[REDUCE, ROWS, PARTIALS, cuda_source!("norm/backward.cu")];
const BACKWARD_WEIGHT: &[&str] = &[PARTIALS, cuda_source!("norm/backward_weight.cu")];

/// Threads a block of backward_weight.cu.
const BLOCK: u32 = 128;
/// Rows whose shares of the weight's gradient one block of it adds up.
const CHUNK: usize = 32;
/// The most blocks of backward.cu, each of which leaves a row of sums: a function of nothing, so that the
/// order of additions is one of sizes alone.
const SHARES: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    rows: u32,
    cols: u32,
    eps: f32,
    threshold: u32,
    seed: u64,
    offset: u64,
    scale: f32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    rows: u32,
    cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BackwardWeight {
    rows: u32,
    cols: u32,
    chunk: u32,
    chunks: u32,
}

/// Elements that a lane keeps where a warp has a row. Backward has twice as much to keep, and so has f32, as weight
/// and bias stay as they lie in memory.
fn kept(dtype: DType, backward: bool) -> usize {
    if dtype.size() == 2 && !backward { 32 } else { 16 }
}

fn forward_kernel(plan: &RowPlan, rms: bool, bias: bool, residual: bool, dropout: bool, dtype: DType) -> Kernel {
    plan.specialise(Kernel::builtin("norm", FORWARD, "forward"))
        .with("RMS", rms)
        .with("HAS_BIAS", bias)
        .with("RESIDUAL", residual)
        .with("DROPOUT", dropout)
        .with("T", dtype)
}

fn backward_kernel(plan: &RowPlan, rms: bool, dsum: bool, bias: bool, dtype: DType) -> Kernel {
    plan.specialise(Kernel::builtin("norm_backward", BACKWARD, "backward"))
        .with("RMS", rms)
        .with("HAS_DSUM", dsum)
        .with("WEIGHTS", plan.steps > 0)
        .with("HAS_BIAS", bias)
        .with("T", dtype)
}

fn weight_kernel(entry: &'static str, width: usize, bias: bool, dtype: DType, out: DType) -> Kernel {
    Kernel::builtin("norm_backward_weight", BACKWARD_WEIGHT, entry)
        .with("BLOCK", BLOCK)
        .with("WIDTH", width as u32)
        .with("HAS_BIAS", bias)
        .with("ACCUMULATE", false)
        .with("T", dtype)
        .with("OUT", out)
}

pub(super) fn forward(device: &CudaDevice, op: &Norm, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (shape, dtype, rows, cols) = (x[0].shape(), x[0].dtype(), rows(&x[0]), x[1].elements());
    let (y, y_buffer) = output("norm", device, shape, dtype)?;
    let (stats, stats_buffer) = output("norm", device, &Shape::from((rows, 2)), DType::F32)?;
    let sum = if op.residual { Some(output("norm", device, shape, dtype)?) } else { None };
    let (values, weight) = (x[0].cuda()?, x[1].cuda()?);
    let residual = op.residual(x).map(Tensor::cuda).transpose()?;
    let bias = op.bias(x).map(Tensor::cuda).transpose()?;
    let inputs = [Some(&values), Some(&weight), residual.as_ref(), bias.as_ref()];
    let plan = RowPlan::of(cols, width(dtype, cols, inputs.into_iter().flatten()), kept(dtype, false));
    if op.dropout.is_some() && plan.width == 1 {
        let (op, x) = op.apart(x)?;
        return forward(device, &op, &x);
    }
    let kernel = forward_kernel(&plan, op.kind == Kind::Rms, op.bias, op.residual, op.dropout.is_some(), dtype);
    let (threshold, scale) = op.dropout.map_or((0, 1.0), |dropout| dropout.threshold_and_scale());
    let (seed, offset) = op.dropout.map_or((0, 0), |dropout| (dropout.stream.seed, dropout.stream.offset));
    device.launch(
        &kernel,
        &[
            Binding::Read(&values),
            Binding::read(residual.as_ref()),
            Binding::Read(&weight),
            Binding::read(bias.as_ref()),
            Binding::Write(&y_buffer),
            Binding::Write(&stats_buffer),
            Binding::write(sum.as_ref().map(|(_, buffer)| buffer)),
        ],
        &Forward {
            rows: rows as u32,
            cols: cols as u32,
            eps: op.eps as f32,
            threshold,
            seed,
            offset,
            scale: scale as f32,
            pad: 0,
        },
        // As many as a device holds at once: each then reads weight and bias once.
        plan.grid(rows, (2048 / plan.block) * device.multiprocessors() as usize),
    )?;
    Ok([Some(y), sum.map(|(tensor, _)| tensor), Some(stats)].into_iter().flatten().collect())
}

pub(super) fn backward(device: &CudaDevice, op: &NormBackward, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (shape, dtype, rows, cols) = (x[0].shape(), x[0].dtype(), rows(&x[0]), x[1].elements());
    let (h, weight, stats, dy) = (x[0].cuda()?, x[1].cuda()?, x[2].cuda()?, x[3].cuda()?);
    let dsum = if op.dsum { Some(x[4].cuda()?) } else { None };
    let (dh, dh_buffer) = output("norm_backward", device, shape, dtype)?;
    let inputs = [Some(&h), Some(&weight), Some(&dy), dsum.as_ref()];
    let wide = width(dtype, cols, inputs.into_iter().flatten());
    let plan = RowPlan::of(cols, wide, kept(dtype, true));
    // Rows in registers give their share of the weight's gradient along the way.
    let along = plan.steps > 0;
    let grid = plan.grid(rows, SHARES);
    let chunks = if along { grid.blocks[0] as usize } else { rows.div_ceil(CHUNK) };
    let partials = device.alloc("norm_backward", chunks * 2 * cols * 4)?;
    let kernel = backward_kernel(&plan, op.kind == Kind::Rms, op.dsum, op.bias, dtype);
    device.launch(
        &kernel,
        &[
            Binding::Read(&h),
            Binding::Read(&weight),
            Binding::Read(&dy),
            Binding::Read(&stats),
            Binding::read(dsum.as_ref()),
            Binding::Write(&dh_buffer),
            Binding::write(along.then_some(&partials)),
        ],
        &Backward { rows: rows as u32, cols: cols as u32 },
        grid,
    )?;

    let params =
        BackwardWeight { rows: rows as u32, cols: cols as u32, chunk: CHUNK as u32, chunks: chunks as u32 };
    let out = op.output_dtype(1, dtype);
    let weight_kernel = |entry| weight_kernel(entry, wide, op.bias, dtype, out);
    if !along {
        let columns = cols.div_ceil(wide * BLOCK as usize);
        device.launch(
            &weight_kernel("chunk_sums"),
            &[Binding::Read(&h), Binding::Read(&dy), Binding::Read(&stats), Binding::Write(&partials)],
            &params,
            Grid { blocks: [(columns * chunks) as u32, 1, 1], threads: BLOCK, shared: 0 },
        )?;
    }
    let (dweight, dweight_buffer) = output("norm_backward", device, x[1].shape(), out)?;
    let dbias = if op.bias { Some(output("norm_backward", device, x[1].shape(), out)?) } else { None };
    device.launch(
        &weight_kernel("totals"),
        &[
            Binding::Read(&partials),
            Binding::Write(&dweight_buffer),
            Binding::write(dbias.as_ref().map(|(_, buffer)| buffer)),
        ],
        &params,
        Grid { blocks: [cols.div_ceil(32) as u32, 1 + u32::from(op.bias), 1], threads: BLOCK, shared: 0 },
    )?;
    Ok([Some(dh), Some(dweight), dbias.map(|(tensor, _)| tensor)].into_iter().flatten().collect())
}

/// Every plan, with all that a kernel can do and with the least.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for backward in [false, true] {
            for plan in RowPlan::all(dtype, kept(dtype, backward)) {
                for (rms, rest) in [(false, true), (true, false)] {
                    let kernels = match backward {
                        false => [false, true].map(|dropout| {
                            let fused = !dropout || plan.width > 1;
                            fused.then(|| forward_kernel(&plan, rms, rest, rest || dropout, dropout, dtype))
                        }),
                        true => [Some(backward_kernel(&plan, rms, rest, rest, dtype)), None],
                    };
                    for kernel in kernels.into_iter().flatten() {
                        all.push(Launched::plain(kernel, plan.block as u32, plan.width > 1));
                    }
                }
            }
        }
        for width in [1, 16 / dtype.size()] {
            for bias in [false, true] {
                let sums = weight_kernel("chunk_sums", width, bias, dtype, dtype);
                all.push(Launched::plain(sums, BLOCK, width > 1));
                for out in [dtype, DType::F32] {
                    all.push(Launched::plain(weight_kernel("totals", width, bias, dtype, out), BLOCK, false));
                }
            }
        }
    }
    all
}
