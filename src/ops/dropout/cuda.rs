use bytemuck::{Pod, Zeroable};

use super::Drop;
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{BLOCK, PHILOX, output, threads, width};
use crate::{DType, Result, Tensor};

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

fn kernel(width: usize, dtype: DType) -> Kernel {
    let kernel = Kernel::builtin("dropout", DROPOUT, "dropout").with("BLOCK", BLOCK);
    kernel.with("WIDTH", width as u32).with("T", dtype)
}

pub fn dropout(device: &CudaDevice, drop: &Drop, x: &Tensor) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("dropout", device, x.shape(), x.dtype())?;
    let (threshold, scale) = drop.threshold_and_scale();
    let (count, values) = (x.elements(), x.cuda()?);
    let width = width(x.dtype(), count, [&values]);
    let (seed, offset) = (drop.stream.seed, drop.stream.offset);
    device.launch(
        &kernel(width, x.dtype()),
        &[Binding::Read(&values), Binding::Write(&buffer)],
        &Params { count: count as u32, threshold, scale: scale as f32, pad: 0, seed, offset },
        // A block of random bits serves four elements.
        threads(count.div_ceil(width.max(4))),
    )?;
    Ok(vec![out])
}

/// Every type, in lines and one by one.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let floats = [DType::F32, DType::F16, DType::BF16].into_iter();
    let widths = floats.flat_map(|dtype| [1, 16 / dtype.size()].map(|width| (width, dtype)));
    widths.map(|(width, dtype)| Launched::plain(kernel(width, dtype), BLOCK, width > 1)).collect()
}
