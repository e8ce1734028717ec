use bytemuck::{Pod, Zeroable};

use crate::device::wgpu::{Binding, WgpuDevice};
use crate::shape::Dims8;
use crate::ops::launch::wgpu::{STRIDED, Walk, element, kernel, output, threads};
use crate::{Result, Tensor};

const SELECT: &[&str] = &[STRIDED, include_str!("../../../kernels/select/select.wgsl")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    offsets: [u32; 3],
    sizes: Dims8,
    strides: [Dims8; 3],
}

pub fn select(device: &WgpuDevice, mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("where_cond", device, a.shape(), a.dtype())?;
    let Walk { n, rank, sizes, strides, offsets } = Walk::new([mask.layout(), a.layout(), b.layout()]);
    device.run(
        &kernel("where_cond", SELECT, [("RANK", rank), element(a.dtype())]),
        &[
            Binding::Read(&mask.wgpu_storage()?),
            Binding::Read(&a.wgpu_storage()?),
            Binding::Read(&b.wgpu_storage()?),
            Binding::Write(&buffer),
        ],
        &Params { n, offsets, sizes, strides },
        threads(a.elements()),
    )?;
    Ok(vec![out])
}
