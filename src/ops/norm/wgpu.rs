use bytemuck::{Pod, Zeroable};

use super::{Kind, Norm, NormBackward, rows};
use crate::device::wgpu::{Binding, Kernel, WgpuDevice, fold_groups};
use crate::op::Op;
use crate::ops::launch::wgpu::{block, output, reduction};
use crate::{DType, Result, Shape, Tensor};

const BACKWARD_WEIGHT: &[&str] = &[include_str!("../../../kernels/norm/backward_weight.wgsl")];

const BLOCK: u32 = 128;
/// Rows whose shares of the weight's gradient one workgroup adds up.
const CHUNK: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    rows: u32,
    cols: u32,
    eps: f32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    rows: u32,
    cols: u32,
    chunk: u32,
    chunks: u32,
}

pub fn forward(device: &WgpuDevice, op: &Norm, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (shape, dtype, rows, cols) = (x[0].shape(), x[0].dtype(), rows(&x[0]), x[1].elements());
    let (y, y_buffer) = output("norm", device, shape, dtype)?;
    let (stats, stats_buffer) = output("norm", device, &Shape::from((rows, 2)), DType::F32)?;
    // A kernel's every binding is bound, if only to a spare.
    let sum_shape = if op.residual { shape.clone() } else { Shape::from(1) };
    let (sum, sum_buffer) = output("norm", device, &sum_shape, dtype)?;
    let (values, weight) = (x[0].wgpu()?, x[1].wgpu()?);
    let residual = op.residual(x).map(Tensor::wgpu).transpose()?;
    let bias = op.bias(x).map(Tensor::wgpu).transpose()?;
    let kernel = Kernel::builtin("norm", reduction!(device, "../../../kernels/norm/forward.wgsl"), "forward")
        .with("BLOCK", block(device, BLOCK))
        .with("RMS", op.kind == Kind::Rms)
        .with("HAS_BIAS", op.bias)
        .with("RESIDUAL", op.residual)
        .with("T", dtype);
    device.run(
        &kernel,
        &[
            Binding::Read(&values),
            Binding::Read(residual.as_ref().unwrap_or(&values)),
            Binding::Read(&weight),
            Binding::Read(bias.as_ref().unwrap_or(&weight)),
            Binding::Write(&y_buffer),
            Binding::Write(&stats_buffer),
            Binding::Write(&sum_buffer),
        ],
        &Forward { rows: rows as u32, cols: cols as u32, eps: op.eps as f32, pad: 0 },
        fold_groups(rows),
    )?;
    Ok(if op.residual { vec![y, sum, stats] } else { vec![y, stats] })
}

pub fn backward(device: &WgpuDevice, op: &NormBackward, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (shape, dtype, rows, cols) = (x[0].shape(), x[0].dtype(), rows(&x[0]), x[1].elements());
    let (h, weight, stats, dy) = (x[0].wgpu()?, x[1].wgpu()?, x[2].wgpu()?, x[3].wgpu()?);
    let dsum = if op.dsum { x[4].wgpu()? } else { dy.clone() };
    let chunks = rows.div_ceil(CHUNK);
    let params = Backward { rows: rows as u32, cols: cols as u32, chunk: CHUNK as u32, chunks: chunks as u32 };

    let (dh, dh_buffer) = output("norm_backward", device, shape, dtype)?;
    let source = reduction!(device, "../../../kernels/norm/backward.wgsl");
    let kernel = Kernel::builtin("norm_backward", source, "backward")
        .with("BLOCK", block(device, BLOCK))
        .with("RMS", op.kind == Kind::Rms)
        .with("HAS_DSUM", op.dsum)
        .with("T", dtype);
    let bindings = [
        Binding::Read(&h),
        Binding::Read(&weight),
        Binding::Read(&dy),
        Binding::Read(&stats),
        Binding::Read(&dsum),
        Binding::Write(&dh_buffer),
    ];
    device.run(&kernel, &bindings, &params, fold_groups(rows))?;

    let partials = device.alloc("norm_backward", chunks * 2 * cols * 4)?;
    let out = op.output_dtype(1, dtype);
    let weight_kernel = |entry| {
        Kernel::builtin("norm_backward_weight", BACKWARD_WEIGHT, entry)
            .with("BLOCK", BLOCK)
            .with("HAS_BIAS", op.bias)
            .with("ACCUMULATE", false)
            .with("T", dtype)
            .with("OUT", out)
    };
    let column_groups = cols.div_ceil(BLOCK as usize);
    let bindings = [Binding::Read(&h), Binding::Read(&dy), Binding::Read(&stats), Binding::Write(&partials)];
    device.run(&weight_kernel("chunk_sums"), &bindings, &params, fold_groups(column_groups * chunks))?;
    let (dweight, dweight_buffer) = output("norm_backward", device, x[1].shape(), out)?;
    let (dbias, dbias_buffer) = output("norm_backward", device, x[1].shape(), out)?;
    let bindings = [Binding::Read(&partials), Binding::Write(&dweight_buffer), Binding::Write(&dbias_buffer)];
    device.run(&weight_kernel("totals"), &bindings, &params, fold_groups(column_groups))?;

    Ok(if op.bias { vec![dh, dweight, dbias] } else { vec![dh, dweight] })
}
