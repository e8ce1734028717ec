use bytemuck::{Pod, Zeroable};

use super::{CrossEntropy, Gradient, Reduction};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Class, Kernel, WgpuDevice, fold_groups};
#[cfg(test)]
use crate::ops::launch::wgpu::{FLOATS, Width};
use crate::ops::launch::wgpu::{ONLINE_SOFTMAX, Pace, by_width, of_width, output, reduction};
use crate::ops::launch::windows;
use crate::{DType, Result, Shape, Tensor};

const FORWARD: &str = include_str!("../../../kernels/cross_entropy/forward.wgsl");

const BLOCK: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    classes: u32,
    ignore: u32,
    pad: u32,
}

fn kernel(
    class: Class,
    entry: &'static str,
    pace: Pace,
    ignores: bool,
    gradient: Option<Gradient>,
    dtype: DType,
) -> Kernel {
    Kernel::builtin("cross_entropy", reduction!(class, pace.width, [ONLINE_SOFTMAX, FORWARD]), entry)
        .with("BLOCK", pace.block)
        .with("HAS_IGNORE", ignores)
        .with("GRADIENT", gradient.is_some())
        .with("IN_PLACE", gradient == Some(Gradient::InPlace))
        .with_all(of_width(pace.width, dtype, dtype))
}

pub(super) fn forward(device: &WgpuDevice, op: &CrossEntropy, logits: &Tensor, targets: &Tensor) -> Result<Vec<Tensor>> {
    let (rows, classes) = logits.dims2()?;
    let ignore = op.options.ignore_index;
    let params = |rows: usize| Params {
        rows: rows as u32,
        classes: classes as u32,
        ignore: ignore.unwrap_or(0),
        pad: 0,
    };
    let pace = Pace::new("cross_entropy", device, classes, BLOCK)?;
    let kernel = |entry| kernel(device.class(), entry, pace, ignore.is_some(), op.gradient, logits.dtype());

    // What the gradient and the sum of the losses are multiplied by.
    let factor = match op.options.reduction {
        Reduction::Mean => {
            let factor = device.alloc("cross_entropy", 4)?;
            let bindings = [Binding::Read(&targets.wgpu()?), Binding::Write(&factor)];
            device.run(&kernel("count"), &bindings, &params(rows), [1, 1, 1])?;
            factor
        }
        Reduction::Sum | Reduction::None => Tensor::ones(1, DType::F32, &logits.device())?.wgpu()?,
    };

    let losses = output("cross_entropy", device, &Shape::from(rows), DType::F32)?;
    let lse = output("cross_entropy", device, &Shape::from(rows), DType::F32)?;
    // A kernel's every binding is bound, if only to a spare, which holds one item at least.
    let spare = || output("cross_entropy", device, &Shape::from((rows, 4)), logits.dtype());
    let (logits, dlogits) = match op.gradient {
        None => (logits.clone(), spare()?),
        Some(Gradient::Apart) => {
            (logits.clone(), output("cross_entropy", device, logits.shape(), logits.dtype())?)
        }
        Some(Gradient::InPlace) => {
            logits.storage().written();
            (spare()?, logits.clone())
        }
    };
    let parts = [
        windows::view(&logits),
        windows::view(targets),
        windows::output(&losses),
        windows::output(&lse),
        windows::update(&dlogits),
    ];
    windows::rows(rows, parts, |[logits, targets, losses, lse, dlogits]| {
        let rows = targets.elements();
        device.run(
            &kernel("forward"),
            &[
                Binding::Read(&logits.wgpu()?),
                Binding::Read(&targets.wgpu()?),
                Binding::Read(&factor),
                Binding::Write(&losses.wgpu()?),
                Binding::Write(&lse.wgpu()?),
                Binding::Write(&dlogits.wgpu()?),
            ],
            &params(rows),
            fold_groups(rows),
        )
    })?;

    let loss = if op.options.reduction == Reduction::None {
        losses
    } else {
        let loss = output("cross_entropy", device, &Shape::default(), DType::F32)?;
        let bindings =
            [Binding::Read(&losses.wgpu()?), Binding::Read(&factor), Binding::Write(&loss.wgpu()?)];
        device.run(&kernel("mean"), &bindings, &params(rows), [1, 1, 1])?;
        loss
    };
    Ok(if op.gradient.is_some() { vec![loss, dlogits] } else { vec![loss] })
}

#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        for ignores in [false, true] {
            for gradient in [None, Some(Gradient::Apart), Some(Gradient::InPlace)] {
                for entry in ["count", "forward", "mean"] {
                    // It holds nothing in registers.
                    let paces = Width::ALL.into_iter().flat_map(|width| Pace::all(class, width, BLOCK));
                    let paces = paces.filter(|pace| pace.held == 0);
                    all.extend(paces.map(|pace| kernel(class, entry, pace, ignores, gradient, dtype).into()));
                }
            }
        }
    }
    all
}
