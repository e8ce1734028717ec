use bytemuck::{Pod, Zeroable};

#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Constant, Kernel, WgpuDevice};
#[cfg(test)]
use crate::ops::launch::wgpu::{FLOATS, RANKS};
use crate::shape::Dims8;
use crate::ops::launch::wgpu::{STRIDED, Walk, element, kernel, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Result, Tensor};

const SELECT: &[&str] = &[STRIDED, include_str!("../../../kernels/select/select.wgsl")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    offsets: [u32; 3],
    sizes: Dims8,
    strides: [Dims8; 3],
}

fn select_kernel(rank: Constant, dtype: DType) -> Kernel {
    kernel("where_cond", SELECT, [("RANK", rank), element(dtype)])
}

pub fn select(device: &WgpuDevice, mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    let out = output("where_cond", device, a.shape(), a.dtype())?;
    let parts = [windows::view(mask), windows::view(a), windows::view(b), windows::output(&out)];
    windows::elements(parts, |[mask, a, b, out]| {
        let Walk { buffers, offsets, n, rank, sizes, strides } = Walk::new([mask, a, b])?;
        device.run(
            &select_kernel(rank, a.dtype()),
            &[
                Binding::Read(&buffers[0]),
                Binding::Read(&buffers[1]),
                Binding::Read(&buffers[2]),
                Binding::Write(&out.wgpu()?),
            ],
            &Params { n, offsets, sizes, strides },
            threads(a.elements()),
        )
    })?;
    Ok(vec![out])
}

#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    let ranks = RANKS.into_iter().map(Constant::U32);
    ranks.flat_map(|rank| FLOATS.map(|dtype| select_kernel(rank, dtype).into())).collect()
}
