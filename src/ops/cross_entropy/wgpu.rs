use bytemuck::{Pod, Zeroable};

use super::{CrossEntropy, Gradient, Reduction};
use crate::device::wgpu::{Binding, Kernel, WgpuDevice, fold_groups};
use crate::ops::launch::wgpu::{block, output, reduction};
use crate::{DType, Result, Shape, Tensor};

const BLOCK: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    classes: u32,
    ignore: u32,
    pad: u32,
}

pub fn forward(device: &WgpuDevice, op: &CrossEntropy, logits: &Tensor, targets: &Tensor) -> Result<Vec<Tensor>> {
    let (rows, classes) = logits.dims2()?;
    let ignore = op.options.ignore_index;
    let params = Params { rows: rows as u32, classes: classes as u32, ignore: ignore.unwrap_or(0), pad: 0 };
    let kernel = |entry| {
        Kernel::builtin("cross_entropy", reduction!(device, "../../../kernels/cross_entropy/forward.wgsl"), entry)
            .with("BLOCK", block(device, BLOCK))
            .with("HAS_IGNORE", ignore.is_some())
            .with("GRADIENT", op.gradient.is_some())
            .with("IN_PLACE", op.gradient == Some(Gradient::InPlace))
            .with("T", logits.dtype())
    };
    let (logits_buffer, labels) = (logits.wgpu()?, targets.wgpu()?);

    // What the gradient and the sum of the losses are multiplied by.
    let mean = op.options.reduction == Reduction::Mean;
    let factor = if mean {
        let factor = device.alloc("cross_entropy", 4)?;
        let bindings = [Binding::Read(&labels), Binding::Write(&factor)];
        device.run(&kernel("count"), &bindings, &params, [1, 1, 1])?;
        factor
    } else {
        Tensor::ones(1, DType::F32, &logits.device())?.wgpu()?
    };

    let (losses, losses_buffer) = output("cross_entropy", device, &Shape::from(rows), DType::F32)?;
    // A kernel's every binding is bound, if only to a spare.
    let (read, dlogits) = match op.gradient {
        None => (logits_buffer, output("cross_entropy", device, &Shape::from(1), logits.dtype())?),
        Some(Gradient::Apart) => {
            (logits_buffer, output("cross_entropy", device, logits.shape(), logits.dtype())?)
        }
        Some(Gradient::InPlace) => {
            logits.storage().written();
            (labels.clone(), (logits.clone(), logits_buffer))
        }
    };
    let (dlogits, dlogits_buffer) = dlogits;
    let lse = device.alloc("cross_entropy", rows * 4)?;
    device.run(
        &kernel("forward"),
        &[
            Binding::Read(&read),
            Binding::Read(&labels),
            Binding::Read(&factor),
            Binding::Write(&losses_buffer),
            Binding::Write(&lse),
            Binding::Write(&dlogits_buffer),
        ],
        &params,
        fold_groups(rows),
    )?;

    let loss = if op.options.reduction == Reduction::None {
        losses
    } else {
        let (loss, buffer) = output("cross_entropy", device, &Shape::default(), DType::F32)?;
        let bindings = [Binding::Read(&losses_buffer), Binding::Read(&factor), Binding::Write(&buffer)];
        device.run(&kernel("mean"), &bindings, &params, [1, 1, 1])?;
        loss
    };
    Ok(if op.gradient.is_some() { vec![loss, dlogits] } else { vec![loss] })
}
