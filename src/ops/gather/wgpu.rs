use bytemuck::{Pod, Zeroable};

#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Kernel, WgpuDevice};
use crate::ops::fill::wgpu::zeros;
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{LOOPS, check_loops, element, kernel, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Result, Shape, Tensor};

const GATHER: &[&str] = &[include_str!("../../../kernels/gather/gather.wgsl")];
const SCATTER_ADD: &[&str] = &[include_str!("../../../kernels/gather/scatter_add.wgsl")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    threads: u32,
    n: u32,
    inner: u32,
    size: u32,
}

fn gather_kernel(dtype: DType) -> Kernel {
    kernel("gather", GATHER, [element(dtype)])
}

fn scatter_add_kernel(dtype: DType) -> Kernel {
    kernel("scatter_add", SCATTER_ADD, [element(dtype)])
}

pub fn gather(device: &WgpuDevice, x: &Tensor, ids: &Tensor) -> Result<Vec<Tensor>> {
    let ((outer, size, inner), (_, n, _)) = (x.dims3()?, ids.dims3()?);
    let y = output("gather", device, ids.shape(), x.dtype())?;
    windows::rows(outer, [windows::view(x), windows::view(ids), windows::output(&y)], |[x, ids, y]| {
        let elements = y.elements();
        device.run(
            &gather_kernel(x.dtype()),
            &[Binding::Read(&x.wgpu()?), Binding::Read(&ids.wgpu()?), Binding::Write(&y.wgpu()?)],
            &Params { threads: elements as u32, n: n as u32, inner: inner as u32, size: size as u32 },
            threads(elements),
        )
    })?;
    Ok(vec![y])
}

pub fn scatter_add(device: &WgpuDevice, dy: &Tensor, ids: &Tensor, size: usize) -> Result<Vec<Tensor>> {
    let (outer, n, inner) = ids.dims3()?;
    check_loops("scatter_add", device, n, "ids along the dimension", LOOPS)?;
    let dx = zeros("scatter_add", device, &Shape::from((outer, size, inner)), DType::F32)?;
    windows::rows(outer, [windows::view(dy), windows::view(ids), windows::update(&dx)], |[dy, ids, dx]| {
        let columns = dx.elements().checked_div(size).unwrap_or(0);
        device.run(
            &scatter_add_kernel(dy.dtype()),
            &[Binding::Read(&dy.wgpu()?), Binding::Read(&ids.wgpu()?), Binding::Write(&dx.wgpu()?)],
            &Params { threads: columns as u32, n: n as u32, inner: inner as u32, size: size as u32 },
            threads(columns),
        )
    })?;
    Ok(vec![dx])
}

#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    FLOATS.into_iter().flat_map(|dtype| [gather_kernel(dtype), scatter_add_kernel(dtype)]).map(Launched::from).collect()
}
