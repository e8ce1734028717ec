use bytemuck::{Pod, Zeroable};

use super::{CrossEntropy, Gradient, Reduction};
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{EXPONENTIALS, REDUCE, ROWS, RowPlan, blocks, check_size, output, starts_a_line};
use crate::{DType, Result, Shape, Tensor};

const SOURCE: &[&str] = &[REDUCE, ROWS, EXPONENTIALS, cuda_source!("cross_entropy/forward.cu")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    classes: u32,
    ignore: u32,
    pad: u32,
}

/// How a row of logits is divided, and whether rows begin inside lines. A row stays in registers as it lies in
/// memory, in up to 28 of them a thread.
/// `aligned` if the logits start with a line.
fn plan(dtype: DType, classes: usize, aligned: bool) -> (RowPlan, bool) {
    const STEPS: usize = 7;
    let line = 16 / dtype.size();
    let whole = classes.is_multiple_of(line);
    let skewed = aligned && !whole && classes >= 32 * line;
    let width = if skewed || aligned && whole { line } else { 1 };
    let lines = if skewed { (classes + line - 1).div_ceil(line) } else { classes.div_ceil(width) };
    let fits = |&(_, team): &(usize, usize)| lines.div_ceil(team) <= STEPS;
    let plan = match [(128, 32), (256, 256), (1024, 1024)].into_iter().find(fits) {
        Some((block, team)) => RowPlan { block, team, width, steps: lines.div_ceil(team) },
        None => RowPlan { block: 1024, team: 1024, width, steps: 0 },
    };
    (plan, skewed)
}

/// For what one block does alone.
const ALONE: RowPlan = RowPlan { block: 1024, team: 1024, width: 1, steps: 0 };

fn kernel(
    entry: &'static str,
    (plan, skewed): &(RowPlan, bool),
    ignores: bool,
    gradient: Option<Gradient>,
    dtype: DType,
) -> Kernel {
    plan.specialise(Kernel::builtin("cross_entropy", SOURCE, entry))
        .with("HAS_IGNORE", ignores)
        .with("GRADIENT", gradient.is_some())
        .with("IN_PLACE", gradient == Some(Gradient::InPlace))
        .with("SKEWED", *skewed)
        .with("T", dtype)
}

pub(super) fn forward(
    device: &CudaDevice,
    op: &CrossEntropy,
    logits: &Tensor,
    targets: &Tensor,
) -> Result<Vec<Tensor>> {
    let (rows, classes) = logits.dims2()?;
    check_size("cross_entropy", device, rows.max(classes))?;
    let ignore = op.options.ignore_index;
    let params = Params { rows: rows as u32, classes: classes as u32, ignore: ignore.unwrap_or(0), pad: 0 };
    let (read, labels) = (logits.cuda()?, targets.cuda()?);
    let plan = plan(logits.dtype(), classes, starts_a_line(&read));
    let kernel = |entry, plan| kernel(entry, plan, ignore.is_some(), op.gradient, logits.dtype());

    // What the gradient and the sum of the losses are multiplied by.
    let factor = if op.options.reduction == Reduction::Mean {
        let factor = device.alloc("cross_entropy", 4)?;
        let bindings = [Binding::Read(&labels), Binding::Write(&factor)];
        device.launch(&kernel("count", &(ALONE, false)), &bindings, &params, blocks(1, 1024))?;
        Some(factor)
    } else {
        None
    };

    let (losses, losses_buffer) = output("cross_entropy", device, &Shape::from(rows), DType::F32)?;
    let dlogits = match op.gradient {
        None => None,
        Some(Gradient::Apart) => Some(output("cross_entropy", device, logits.shape(), logits.dtype())?),
        Some(Gradient::InPlace) => {
            logits.storage().written();
            Some((logits.clone(), read.clone()))
        }
    };
    device.launch(
        &kernel("forward", &plan),
        &[
            Binding::read((op.gradient != Some(Gradient::InPlace)).then_some(&read)),
            Binding::Read(&labels),
            Binding::read(factor.as_ref()),
            Binding::Write(&losses_buffer),
            Binding::write(dlogits.as_ref().map(|(_, buffer)| buffer)),
        ],
        &params,
        plan.0.grid(rows, usize::MAX),
    )?;

    let loss = if op.options.reduction == Reduction::None {
        losses
    } else {
        let (loss, buffer) = output("cross_entropy", device, &Shape::default(), DType::F32)?;
        let bindings =
            [Binding::Read(&losses_buffer), Binding::read(factor.as_ref()), Binding::Write(&buffer)];
        device.launch(&kernel("mean", &(ALONE, false)), &bindings, &params, blocks(1, 1024))?;
        loss
    };
    Ok([Some(loss), dlogits.map(|(tensor, _)| tensor)].into_iter().flatten().collect())
}

/// Every plan and type, with the gradient over the logits and without one.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for classes in [10, 256, 257, 1000, 1021, 8000, 8003, 32000, 50257, 131072, 131071] {
            let plan = plan(dtype, classes, true);
            for (ignores, gradient) in [(false, None), (true, Some(Gradient::InPlace))] {
                let kernel = kernel("forward", &plan, ignores, gradient, dtype);
                all.push(Launched::plain(kernel, plan.0.block as u32, plan.0.width > 1));
            }
        }
        for entry in ["count", "mean"] {
            let kernel = kernel(entry, &(ALONE, false), true, Some(Gradient::InPlace), dtype);
            all.push(Launched::plain(kernel, ALONE.block as u32, false));
        }
    }
    all
}
