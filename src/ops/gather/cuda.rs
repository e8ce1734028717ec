use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{BLOCK, check_size, output, threads};
use crate::{DType, Result, Shape, Tensor};

const GATHER: &[&str] = &[cuda_source!("gather/gather.cu")];
const SCATTER_ADD: &[&str] = &[cuda_source!("gather/scatter_add.cu")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    /// Threads that have work.
    items: u32,
    n: u32,
    inner: u32,
    size: u32,
}

fn gather_kernel(dtype: DType) -> Kernel {
    Kernel::builtin("gather", GATHER, "gather").with("BLOCK", BLOCK).with("T", dtype)
}

fn scatter_add_kernel(dtype: DType) -> Kernel {
    Kernel::builtin("scatter_add", SCATTER_ADD, "scatter_add").with("BLOCK", BLOCK).with("T", dtype)
}

pub fn gather(device: &CudaDevice, x: &Tensor, ids: &Tensor) -> Result<Vec<Tensor>> {
    let ((_, size, inner), (_, n, _)) = (x.dims3()?, ids.dims3()?);
    check_size("gather", device, size)?;
    let (y, buffer) = output("gather", device, ids.shape(), x.dtype())?;
    let items = y.elements();
    device.launch(
        &gather_kernel(x.dtype()),
        &[Binding::Read(&x.cuda()?), Binding::Read(&ids.cuda()?), Binding::Write(&buffer)],
        &Params { items: items as u32, n: n as u32, inner: inner as u32, size: size as u32 },
        threads(items),
    )?;
    Ok(vec![y])
}

pub fn scatter_add(device: &CudaDevice, dy: &Tensor, ids: &Tensor, size: usize) -> Result<Vec<Tensor>> {
    let (outer, n, inner) = ids.dims3()?;
    check_size("scatter_add", device, n)?;
    let (dx, buffer) = output("scatter_add", device, &Shape::from((outer, size, inner)), DType::F32)?;
    device.fill_zero(&buffer)?;
    let items = outer * inner;
    device.launch(
        &scatter_add_kernel(dy.dtype()),
        &[Binding::Read(&dy.cuda()?), Binding::Read(&ids.cuda()?), Binding::Write(&buffer)],
        &Params { items: items as u32, n: n as u32, inner: inner as u32, size: size as u32 },
        threads(items),
    )?;
    Ok(vec![dx])
}

/// Every type.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let kernels = [DType::F32, DType::F16, DType::BF16].map(|dtype| [gather_kernel(dtype), scatter_add_kernel(dtype)]);
    kernels.into_iter().flatten().map(|kernel| Launched::plain(kernel, BLOCK, false)).collect()
}
