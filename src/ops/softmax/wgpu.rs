use bytemuck::{Pod, Zeroable};

#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Class, Kernel, WgpuDevice, fold_groups};
#[cfg(test)]
use crate::ops::launch::wgpu::{FLOATS, Width};
use crate::ops::launch::wgpu::{HELD, ONLINE_SOFTMAX, Pace, by_width, of_width, output, reduction};
use crate::ops::launch::windows;
use crate::{D, DType, Result, Tensor};

const FORWARD: &str = include_str!("../../../kernels/softmax/forward.wgsl");
const BACKWARD: &str = include_str!("../../../kernels/softmax/backward.wgsl");

const BLOCK: u32 = 128;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    pad: [u32; 2],
}

fn specialise(kernel: Kernel, log: bool, pace: Pace, dtype: DType) -> Kernel {
    kernel
        .with("BLOCK", pace.block)
        .with("HELD", pace.held)
        .with("LOG", log)
        .with_all(of_width(pace.width, dtype, dtype))
}

fn forward_kernel(class: Class, log: bool, pace: Pace, dtype: DType) -> Kernel {
    let source = reduction!(class, pace.width, [ONLINE_SOFTMAX, HELD, FORWARD]);
    specialise(Kernel::builtin("softmax", source, "forward"), log, pace, dtype)
}

fn backward_kernel(class: Class, log: bool, pace: Pace, dtype: DType) -> Kernel {
    let source = reduction!(class, pace.width, [HELD, BACKWARD]);
    specialise(Kernel::builtin("softmax_backward", source, "backward"), log, pace, dtype)
}

/// Rows, and elements of each.
fn sizes(x: &Tensor) -> Result<(usize, usize)> {
    let cols = x.dim(D::Minus1)?;
    Ok((x.elements().checked_div(cols).unwrap_or(0), cols))
}

pub fn forward(device: &WgpuDevice, log: bool, x: &Tensor) -> Result<Vec<Tensor>> {
    let y = output("softmax", device, x.shape(), x.dtype())?;
    let (rows, cols) = sizes(x)?;
    let pace = Pace::new("softmax", device, cols, BLOCK)?;
    let kernel = forward_kernel(device.class(), log, pace, x.dtype());
    let cols = pace.width.items(cols) as u32;
    windows::rows(rows, [windows::view(x), windows::output(&y)], |[x, y]| {
        let rows = sizes(x)?.0;
        let bindings = [Binding::Read(&x.wgpu()?), Binding::Write(&y.wgpu()?)];
        device.run(&kernel, &bindings, &Params { rows: rows as u32, cols, pad: [0; 2] }, fold_groups(rows))
    })?;
    Ok(vec![y])
}

pub fn backward(device: &WgpuDevice, log: bool, y: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let dx = output("softmax_backward", device, y.shape(), y.dtype())?;
    let (rows, cols) = sizes(y)?;
    let pace = Pace::new("softmax_backward", device, cols, BLOCK)?;
    let kernel = backward_kernel(device.class(), log, pace, y.dtype());
    let cols = pace.width.items(cols) as u32;
    let parts = [windows::view(y), windows::view(dy), windows::output(&dx)];
    windows::rows(rows, parts, |[y, dy, dx]| {
        let rows = sizes(y)?.0;
        let bindings = [Binding::Read(&y.wgpu()?), Binding::Read(&dy.wgpu()?), Binding::Write(&dx.wgpu()?)];
        device.run(&kernel, &bindings, &Params { rows: rows as u32, cols, pad: [0; 2] }, fold_groups(rows))
    })?;
    Ok(vec![dx])
}

#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        for (log, width) in [false, true].into_iter().flat_map(|log| Width::ALL.map(|width| (log, width))) {
            for pace in Pace::all(class, width, BLOCK) {
                all.push(forward_kernel(class, log, pace, dtype));
                all.push(backward_kernel(class, log, pace, dtype));
            }
        }
    }
    all.into_iter().map(Launched::from).collect()
}
