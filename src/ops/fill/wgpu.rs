use bytemuck::{Pod, Zeroable};

#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Kernel, WgpuDevice};
use crate::ops::launch::wgpu::{kernel, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Result, Shape, Tensor};

const FILL: &[&str] = &[include_str!("../../../kernels/fill/fill.wgsl")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    quads: u32,
    word: u32,
}

fn fill_kernel() -> Kernel {
    kernel("fill", FILL, [])
}

/// Up to this many bytes of zeros are written by the kernel. A device fills more of them faster, but that ends the pass which the
/// ops around are recorded into.
const FEW: usize = 64 << 10;

/// A new contiguous tensor of the same element everywhere, of these bytes.
pub fn full(
    op: &'static str,
    device: &WgpuDevice,
    element: &[u8],
    shape: &Shape,
    dtype: DType,
) -> Result<Tensor> {
    let out = output(op, device, shape, dtype)?;
    let bytes = |tensor: &Tensor| tensor.elements() * dtype.size();
    if bytes(&out) > FEW && element.iter().all(|&byte| byte == 0) {
        device.fill_zero(&out.wgpu_storage()?)?;
        return Ok(out);
    }
    let word = u32::from_ne_bytes(std::array::from_fn(|i| element[i % element.len()]));
    windows::elements([windows::output(&out)], |[out]| {
        let quads = bytes(out).div_ceil(16);
        let params = Params { quads: quads as u32, word };
        device.run(&fill_kernel(), &[Binding::Write(&out.wgpu()?)], &params, threads(quads))
    })?;
    Ok(out)
}

/// A new contiguous tensor of zeros.
pub fn zeros(op: &'static str, device: &WgpuDevice, shape: &Shape, dtype: DType) -> Result<Tensor> {
    full(op, device, &[0], shape, dtype)
}

#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    vec![fill_kernel().into()]
}
