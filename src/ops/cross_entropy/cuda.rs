use bytemuck::{Pod, Zeroable};

use super::{CrossEntropy, Gradient, Reduction};
use crate::device::cuda::{Binding, Buffer, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{EXPONENTIALS, REDUCE, ROWS, RowPlan, blocks, output, starts_a_line, width};
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
fn plan(dtype: DType, classes: usize, logits: &Buffer) -> (RowPlan, bool) {
    const STEPS: usize = 7;
    let line = 16 / dtype.size();
    let skewed = !classes.is_multiple_of(line) && classes >= 32 * line && starts_a_line(logits);
    let width = if skewed { line } else { width(dtype, classes, [logits]) };
    let lines = if skewed { (classes + line - 1).div_ceil(line) } else { classes.div_ceil(width) };
    let fits = |&(_, team): &(usize, usize)| lines.div_ceil(team) <= STEPS;
    let plan = match [(128, 32), (256, 256), (1024, 1024)].into_iter().find(fits) {
        Some((block, team)) => RowPlan { block, team, width, steps: lines.div_ceil(team) },
        None => RowPlan { block: 1024, team: 1024, width, steps: 0 },
    };
    (plan, skewed)
}

pub fn forward(
    device: &CudaDevice,
    op: &CrossEntropy,
    logits: &Tensor,
    targets: &Tensor,
) -> Result<Vec<Tensor>> {
    let (rows, classes) = logits.dims2()?;
    let ignore = op.options.ignore_index;
    let params = Params { rows: rows as u32, classes: classes as u32, ignore: ignore.unwrap_or(0), pad: 0 };
    let (read, labels) = (logits.cuda()?, targets.cuda()?);
    let (plan, skewed) = plan(logits.dtype(), classes, &read);
    let kernel = |plan: &RowPlan, skewed: bool, entry| {
        plan.specialise(Kernel::builtin("cross_entropy", SOURCE, entry))
            .with("HAS_IGNORE", ignore.is_some())
            .with("GRADIENT", op.gradient.is_some())
            .with("IN_PLACE", op.gradient == Some(Gradient::InPlace))
            .with("SKEWED", skewed)
            .with("T", logits.dtype())
    };
    // For what one block does alone.
    let alone = RowPlan { block: 1024, team: 1024, width: 1, steps: 0 };

    // What the gradient and the sum of the losses are multiplied by.
    let factor = if op.options.reduction == Reduction::Mean {
        let factor = device.alloc("cross_entropy", 4)?;
        let bindings = [Binding::Read(&labels), Binding::Write(&factor)];
        device.launch(&kernel(&alone, false, "count"), &bindings, &params, blocks(1, 1024))?;
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
        &kernel(&plan, skewed, "forward"),
        &[
            Binding::read((op.gradient != Some(Gradient::InPlace)).then_some(&read)),
            Binding::Read(&labels),
            Binding::read(factor.as_ref()),
            Binding::Write(&losses_buffer),
            Binding::write(dlogits.as_ref().map(|(_, buffer)| buffer)),
        ],
        &params,
        plan.grid(rows, usize::MAX),
    )?;

    let loss = if op.options.reduction == Reduction::None {
        losses
    } else {
        let (loss, buffer) = output("cross_entropy", device, &Shape::default(), DType::F32)?;
        let bindings =
            [Binding::Read(&losses_buffer), Binding::read(factor.as_ref()), Binding::Write(&buffer)];
        device.launch(&kernel(&alone, false, "mean"), &bindings, &params, blocks(1, 1024))?;
        loss
    };
    Ok([Some(loss), dlogits.map(|(tensor, _)| tensor)].into_iter().flatten().collect())
}
