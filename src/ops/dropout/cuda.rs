use bytemuck::{Pod, Zeroable};

use super::Drop;
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{BLOCK, PHILOX, output, threads, width};
use crate::{Result, Tensor};

const DROPOUT: &[&str] = &[PHILOX, cuda_source!("dropout/dropout.cu")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    threshold: u32,
    scale: f32,
    pad: u32,
    seed: u64,
    offset: u64,
}

pub fn dropout(device: &CudaDevice, drop: &Drop, x: &Tensor) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("dropout", device, x.shape(), x.dtype())?;
    let (threshold, scale) = drop.threshold_and_scale();
    let (count, values) = (x.elements(), x.cuda()?);
    let width = width(x.dtype(), count, [&values]);
    let (seed, offset) = (drop.stream.seed, drop.stream.offset);
    device.launch(
        &Kernel::builtin("dropout", DROPOUT, "dropout")
            .with("BLOCK", BLOCK)
            .with("WIDTH", width as u32)
            .with("T", x.dtype()),
        &[Binding::Read(&values), Binding::Write(&buffer)],
        &Params { count: count as u32, threshold, scale: scale as f32, pad: 0, seed, offset },
        // A block of random bits serves four elements.
        threads(count.div_ceil(width.max(4))),
    )?;
    Ok(vec![out])
}
