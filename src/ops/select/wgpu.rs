use bytemuck::{Pod, Zeroable};

#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Constant, Kernel, WgpuDevice};
#[cfg(test)]
use crate::ops::launch::wgpu::{FLOATS, WALKS};
use crate::ops::launch::wgpu::{STRIDED, Walk, Width, by_width, of_width, output, threads};
use crate::ops::launch::windows;
use crate::shape::Dims8;
use crate::{DType, Result, Tensor};

const SELECT: &str = include_str!("../../../kernels/select/select.wgsl");

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    offsets: [u32; 3],
    sizes: Dims8,
    strides: [Dims8; 3],
}

fn select_kernel(rank: Constant, width: Width, dtype: DType) -> Kernel {
    Kernel::builtin("where_cond", by_width!(width, [STRIDED, SELECT]), "main")
        .with("RANK", rank)
        .with_all(of_width(width, DType::U32, dtype))
}

pub fn select(device: &WgpuDevice, mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    let out = output("where_cond", device, a.shape(), a.dtype())?;
    let parts = [windows::view(mask), windows::view(a), windows::view(b), windows::output(&out)];
    windows::elements(parts, |[mask, a, b, out]| {
        let Walk { width, buffers, offsets, n, rank, sizes, strides, .. } = Walk::new([mask, a, b])?;
        device.run(
            &select_kernel(rank, width, a.dtype()),
            &[
                Binding::Read(&buffers[0]),
                Binding::Read(&buffers[1]),
                Binding::Read(&buffers[2]),
                Binding::Write(&out.wgpu()?),
            ],
            &Params { n: n as u32, offsets, sizes, strides },
            threads(n),
        )
    })?;
    Ok(vec![out])
}

#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    let all = WALKS.into_iter().flat_map(|(rank, width)| FLOATS.map(|dtype| select_kernel(rank, width, dtype)));
    all.map(Launched::from).collect()
}
