use bytemuck::{Pod, Zeroable};

#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Class, Kernel, WgpuDevice, fold_groups};
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{block, output, reduction};
use crate::ops::launch::windows;
use crate::{D, DType, Result, Tensor};

const BLOCK: u32 = 128;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    pad: [u32; 2],
}

impl Params {
    fn of(x: &Tensor) -> Result<Self> {
        let cols = x.dim(D::Minus1)?;
        Ok(Params { rows: x.elements().checked_div(cols).unwrap_or(0) as u32, cols: cols as u32, pad: [0; 2] })
    }
}

fn specialise(class: Class, kernel: Kernel, log: bool, dtype: DType) -> Kernel {
    kernel.with("BLOCK", block(class, BLOCK)).with("LOG", log).with("T", dtype)
}

fn forward_kernel(class: Class, log: bool, dtype: DType) -> Kernel {
    let source = reduction!(class, "../../../kernels/softmax/forward.wgsl");
    specialise(class, Kernel::builtin("softmax", source, "forward"), log, dtype)
}

fn backward_kernel(class: Class, log: bool, dtype: DType) -> Kernel {
    let source = reduction!(class, "../../../kernels/softmax/backward.wgsl");
    specialise(class, Kernel::builtin("softmax_backward", source, "backward"), log, dtype)
}

pub fn forward(device: &WgpuDevice, log: bool, x: &Tensor) -> Result<Vec<Tensor>> {
    let y = output("softmax", device, x.shape(), x.dtype())?;
    let kernel = forward_kernel(device.class(), log, x.dtype());
    windows::rows(Params::of(x)?.rows as usize, [windows::view(x), windows::output(&y)], |[x, y]| {
        let params = Params::of(x)?;
        let bindings = [Binding::Read(&x.wgpu()?), Binding::Write(&y.wgpu()?)];
        device.run(&kernel, &bindings, &params, fold_groups(params.rows as usize))
    })?;
    Ok(vec![y])
}

pub fn backward(device: &WgpuDevice, log: bool, y: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let dx = output("softmax_backward", device, y.shape(), y.dtype())?;
    let kernel = backward_kernel(device.class(), log, y.dtype());
    let parts = [windows::view(y), windows::view(dy), windows::output(&dx)];
    windows::rows(Params::of(y)?.rows as usize, parts, |[y, dy, dx]| {
        let params = Params::of(y)?;
        let bindings = [Binding::Read(&y.wgpu()?), Binding::Read(&dy.wgpu()?), Binding::Write(&dx.wgpu()?)];
        device.run(&kernel, &bindings, &params, fold_groups(params.rows as usize))
    })?;
    Ok(vec![dx])
}

#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        for log in [false, true] {
            all.extend([forward_kernel(class, log, dtype), backward_kernel(class, log, dtype)].map(Launched::from));
        }
    }
    all
}
