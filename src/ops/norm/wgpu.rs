use bytemuck::{Pod, Zeroable};

use super::{Kind, Norm, NormBackward, rows};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Class, Kernel, WgpuDevice, fold_groups};
use crate::op::Op;
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{HELD, PHILOX, Pace, Width, by_width, of_width, output, reduction};
use crate::ops::launch::windows;
use crate::{DType, Result, Shape, Tensor};

const FORWARD: &str = include_str!("../../../kernels/norm/forward.wgsl");
const BACKWARD: &str = include_str!("../../../kernels/norm/backward.wgsl");
const BACKWARD_WEIGHT: &str = include_str!("../../../kernels/norm/backward_weight.wgsl");

const BLOCK: u32 = 128;
/// Rows whose shares of the weight's gradient one workgroup adds up.
const CHUNK: usize = 32;

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
    first: u32,
    pad: [u32; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    rows: u32,
    cols: u32,
    chunk: u32,
    chunks: u32,
}

/// What comes before the sums of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Residual,
    /// And dropout before that.
    Dropout,
}

impl Before {
    fn of(op: &Norm) -> Self {
        match (op.residual, op.dropout) {
            (false, _) => Before::Nothing,
            (true, None) => Before::Residual,
            (true, Some(_)) => Before::Dropout,
        }
    }
}

fn forward_kernel(class: Class, pace: Pace, rms: bool, bias: bool, before: Before, dtype: DType) -> Kernel {
    Kernel::builtin("norm", reduction!(class, pace.width, [HELD, PHILOX, FORWARD]), "forward")
        .with("BLOCK", pace.block)
        .with("HELD", pace.held)
        .with("RMS", rms)
        .with("HAS_BIAS", bias)
        .with("RESIDUAL", before != Before::Nothing)
        .with("DROPOUT", before == Before::Dropout)
        .with_all(of_width(pace.width, dtype, dtype))
}

fn backward_kernel(class: Class, pace: Pace, rms: bool, dsum: bool, dtype: DType) -> Kernel {
    Kernel::builtin("norm_backward", reduction!(class, pace.width, [HELD, BACKWARD]), "backward")
        .with("BLOCK", pace.block)
        .with("HELD", pace.held)
        .with("RMS", rms)
        .with("HAS_DSUM", dsum)
        .with_all(of_width(pace.width, dtype, dtype))
}

/// Workgroup of the sums over rows, and items of an invocation. A software adapter runs a workgroup one vector register after
/// the other, and what each reads of a row had better be long.
fn weight_block(class: Class) -> (u32, u32) {
    if class.software { (8, 4) } else { (BLOCK, 1) }
}

fn weight_kernel(
    class: Class,
    entry: &'static str,
    width: Width,
    bias: bool,
    dtype: DType,
    out: DType,
) -> Kernel {
    let (block, items) = weight_block(class);
    Kernel::builtin("norm_backward_weight", by_width!(width, [BACKWARD_WEIGHT]), entry)
        .with("BLOCK", block)
        .with("ITEMS", items)
        .with("HAS_BIAS", bias)
        .with("ACCUMULATE", false)
        .with_all(of_width(width, dtype, out))
}

pub(super) fn forward(device: &WgpuDevice, op: &Norm, x: &[Tensor]) -> Result<Vec<Tensor>> {
    if op.dropout.is_some() && Width::of([x[1].elements()]) != Width::Four {
        let (op, x) = op.apart(x)?;
        return forward(device, &op, &x);
    }
    let (shape, dtype, rows, cols) = (x[0].shape(), x[0].dtype(), rows(&x[0]), x[1].elements());
    let y = output("norm", device, shape, dtype)?;
    let stats = output("norm", device, &Shape::from((rows, 2)), DType::F32)?;
    // A kernel's every binding is bound, if only to a spare, which holds one item at least.
    let sum_shape = if op.residual { shape.clone() } else { Shape::from((rows, 4)) };
    let sum = output("norm", device, &sum_shape, dtype)?;
    let weight = x[1].wgpu()?;
    let bias = op.bias(x).map(Tensor::wgpu).transpose()?;
    let pace = Pace::new("norm", device, cols, BLOCK)?;
    let kernel = forward_kernel(device.class(), pace, op.kind == Kind::Rms, op.bias, Before::of(op), dtype);
    let (threshold, scale) = op.dropout.map_or((0, 1.0), |dropout| dropout.threshold_and_scale());
    let (seed, offset) = op.dropout.map_or((0, 0), |dropout| (dropout.stream.seed, dropout.stream.offset));
    let mut first = 0;
    let parts = [
        windows::view(&x[0]),
        windows::view(op.residual(x).unwrap_or(&x[0])),
        windows::output(&y),
        windows::output(&stats),
        windows::output(&sum),
    ];
    windows::rows(rows, parts, |[x, residual, y, stats, sum]| {
        let rows = stats.dims()[0];
        let values = x.wgpu()?;
        let residual = if op.residual { residual.wgpu()? } else { values.clone() };
        let items = pace.width.items(cols);
        let params = Forward {
            rows: rows as u32,
            cols: items as u32,
            eps: op.eps as f32,
            threshold,
            seed,
            offset,
            scale: scale as f32,
            first: first as u32,
            pad: [0; 2],
        };
        first += rows * items;
        device.run(
            &kernel,
            &[
                Binding::Read(&values),
                Binding::Read(&residual),
                Binding::Read(&weight),
                Binding::Read(bias.as_ref().unwrap_or(&weight)),
                Binding::Write(&y.wgpu()?),
                Binding::Write(&stats.wgpu()?),
                Binding::Write(&sum.wgpu()?),
            ],
            &params,
            fold_groups(rows),
        )
    })?;
    Ok(if op.residual { vec![y, sum, stats] } else { vec![y, stats] })
}

pub(super) fn backward(device: &WgpuDevice, op: &NormBackward, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (shape, dtype, rows, cols) = (x[0].shape(), x[0].dtype(), rows(&x[0]), x[1].elements());
    let (h, weight, stats, dy) = (&x[0], x[1].wgpu()?, &x[2], &x[3]);
    let pace = Pace::new("norm_backward", device, cols, BLOCK)?;
    let items = pace.width.items(cols);
    let params = |rows: usize| Backward {
        rows: rows as u32,
        cols: items as u32,
        chunk: CHUNK as u32,
        chunks: rows.div_ceil(CHUNK) as u32,
    };

    let dh = output("norm_backward", device, shape, dtype)?;
    let kernel = backward_kernel(device.class(), pace, op.kind == Kind::Rms, op.dsum, dtype);
    let dsum = if op.dsum { &x[4] } else { dy };
    let parts =
        [windows::view(h), windows::view(dy), windows::view(stats), windows::view(dsum), windows::output(&dh)];
    windows::rows(rows, parts, |[h, dy, stats, dsum, dh]| {
        let rows = stats.dims()[0];
        let dy = dy.wgpu()?;
        let dsum = if op.dsum { dsum.wgpu()? } else { dy.clone() };
        let bindings = [
            Binding::Read(&h.wgpu()?),
            Binding::Read(&weight),
            Binding::Read(&dy),
            Binding::Read(&stats.wgpu()?),
            Binding::Read(&dsum),
            Binding::Write(&dh.wgpu()?),
        ];
        device.run(&kernel, &bindings, &params(rows), fold_groups(rows))
    })?;

    let chunks = rows.div_ceil(CHUNK);
    let partials = output("norm_backward", device, &Shape::from((chunks, 2 * cols)), DType::F32)?;
    let out = op.output_dtype(1, dtype);
    let class = device.class();
    let weight_kernel = |entry| weight_kernel(class, entry, pace.width, op.bias, dtype, out);
    let (block, items_each) = weight_block(class);
    let rows_of = |x| windows::view(x).in_groups(CHUNK, rows);
    windows::rows(chunks, [rows_of(h), rows_of(dy), rows_of(stats), windows::output(&partials)], |parts| {
        let [h, dy, stats, partials] = parts;
        let (rows, chunks) = (stats.dims()[0], partials.dims()[0]);
        let bindings = [
            Binding::Read(&h.wgpu()?),
            Binding::Read(&dy.wgpu()?),
            Binding::Read(&stats.wgpu()?),
            Binding::Write(&partials.wgpu()?),
        ];
        let groups = fold_groups(items.div_ceil((block * items_each) as usize) * chunks);
        device.run(&weight_kernel("chunk_sums"), &bindings, &params(rows), groups)
    })?;
    let dweight = output("norm_backward", device, x[1].shape(), out)?;
    let dbias = output("norm_backward", device, x[1].shape(), out)?;
    let bindings = [
        Binding::Read(&partials.wgpu()?),
        Binding::Write(&dweight.wgpu()?),
        Binding::Write(&dbias.wgpu()?),
    ];
    device.run(&weight_kernel("totals"), &bindings, &params(rows), fold_groups(items.div_ceil(block as usize)))?;

    Ok(if op.bias { vec![dh, dweight, dbias] } else { vec![dh, dweight] })
}

#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let mut all = Vec::new();
    let both = [false, true];
    for dtype in FLOATS {
        for width in Width::ALL {
            for pace in Pace::all(class, width, BLOCK) {
                for (rms, second) in both.into_iter().flat_map(|rms| both.map(|second| (rms, second))) {
                    for before in [Before::Nothing, Before::Residual, Before::Dropout] {
                        if before != Before::Dropout || width == Width::Four {
                            all.push(forward_kernel(class, pace, rms, second, before, dtype));
                        }
                    }
                    all.push(backward_kernel(class, pace, rms, second, dtype));
                }
            }
            for (bias, out) in both.into_iter().flat_map(|bias| [dtype, DType::F32].map(|out| (bias, out))) {
                all.extend(["chunk_sums", "totals"].map(|entry| weight_kernel(class, entry, width, bias, dtype, out)));
            }
        }
    }
    all.into_iter().map(Launched::from).collect()
}
