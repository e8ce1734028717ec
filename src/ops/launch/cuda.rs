//! What the CUDA bodies of several ops share: outputs, and how wide their kernels may read.

use crate::device::cuda::{Buffer, CudaDevice};
use crate::{DType, Device, Error, Result, Shape, Tensor};

/// Bytes of the widest load of a thread.
const LINE: usize = 16;

/// The memory of a new contiguous tensor, to be written by a kernel.
pub fn output(
    op: &'static str,
    device: &CudaDevice,
    shape: &Shape,
    dtype: DType,
) -> Result<(Tensor, Buffer)> {
    check_size(op, device, shape.elements())?;
    let tensor = Tensor::uninit(shape, dtype, &Device::Cuda(device.clone()))?;
    let buffer = tensor.cuda_storage()?;
    Ok((tensor, buffer))
}

/// Kernels count rows and elements with 32 bits.
pub fn check_size(op: &'static str, device: &CudaDevice, elements: usize) -> Result<()> {
    let limit = i32::MAX as u64;
    if elements as u64 > limit {
        let (size, device) = (elements as u64, device.to_string());
        return Err(Error::TooLarge { op, size, unit: "elements", limit, device });
    }
    Ok(())
}

/// How many neighbours of a row of `columns` a thread may load at once: 16 bytes of them if rows and buffers
/// start at multiples of that, else 1.
pub fn width<'a>(dtype: DType, columns: usize, buffers: impl IntoIterator<Item = &'a Buffer>) -> usize {
    let width = LINE / dtype.size();
    let whole = columns.is_multiple_of(width)
        && buffers.into_iter().all(|buffer| buffer.address().is_multiple_of(LINE as u64));
    if whole { width } else { 1 }
}
