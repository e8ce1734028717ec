use bytemuck::{Pod, Zeroable};

use crate::device::wgpu::{Binding, Kernel, WgpuDevice, fold_groups};
use crate::ops::launch::wgpu::{block, output, reduction};
use crate::ops::launch::windows;
use crate::{D, Result, Tensor};

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

fn specialise(device: &WgpuDevice, kernel: Kernel, log: bool, x: &Tensor) -> Kernel {
    kernel.with("BLOCK", block(device, BLOCK)).with("LOG", log).with("T", x.dtype())
}

pub fn forward(device: &WgpuDevice, log: bool, x: &Tensor) -> Result<Vec<Tensor>> {
    let y = output("softmax", device, x.shape(), x.dtype())?;
    let source = reduction!(device, "../../../kernels/softmax/forward.wgsl");
    let kernel = specialise(device, Kernel::builtin("softmax", source, "forward"), log, x);
    windows::rows(Params::of(x)?.rows as usize, [windows::view(x), windows::output(&y)], |[x, y]| {
        let params = Params::of(x)?;
        let bindings = [Binding::Read(&x.wgpu()?), Binding::Write(&y.wgpu()?)];
        device.run(&kernel, &bindings, &params, fold_groups(params.rows as usize))
    })?;
    Ok(vec![y])
}

pub fn backward(device: &WgpuDevice, log: bool, y: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let dx = output("softmax_backward", device, y.shape(), y.dtype())?;
    let source = reduction!(device, "../../../kernels/softmax/backward.wgsl");
    let kernel = specialise(device, Kernel::builtin("softmax_backward", source, "backward"), log, y);
    let parts = [windows::view(y), windows::view(dy), windows::output(&dx)];
    windows::rows(Params::of(y)?.rows as usize, parts, |[y, dy, dx]| {
        let params = Params::of(y)?;
        let bindings = [Binding::Read(&y.wgpu()?), Binding::Read(&dy.wgpu()?), Binding::Write(&dx.wgpu()?)];
        device.run(&kernel, &bindings, &params, fold_groups(params.rows as usize))
    })?;
    Ok(vec![dx])
}
