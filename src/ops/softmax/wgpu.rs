use bytemuck::{Pod, Zeroable};

#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Class, Kernel, WgpuDevice, fold_groups};
#[cfg(test)]
use crate::ops::launch::wgpu::{FLOATS, all_held};
use crate::ops::launch::wgpu::{HELD, ONLINE_SOFTMAX, Width, block, by_width, held, of_width, output, reduction};
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

/// How a kernel goes through the rows of a tensor.
struct Rows {
    rows: usize,
    width: Width,
    items: usize,
    held: u32,
}

impl Rows {
    fn of(class: Class, x: &Tensor) -> Result<Self> {
        let cols = x.dim(D::Minus1)?;
        let width = Width::of([cols]);
        let rows = x.elements().checked_div(cols).unwrap_or(0);
        Ok(Rows { rows, width, items: width.items(cols), held: held(class, width, cols, BLOCK) })
    }
}

fn specialise(class: Class, kernel: Kernel, log: bool, width: Width, held: u32, dtype: DType) -> Kernel {
    kernel
        .with("BLOCK", block(class, BLOCK))
        .with("HELD", held)
        .with("LOG", log)
        .with_all(of_width(width, dtype, dtype))
}

fn forward_kernel(class: Class, log: bool, width: Width, held: u32, dtype: DType) -> Kernel {
    let source = reduction!(class, width, [ONLINE_SOFTMAX, HELD, FORWARD]);
    specialise(class, Kernel::builtin("softmax", source, "forward"), log, width, held, dtype)
}

fn backward_kernel(class: Class, log: bool, width: Width, held: u32, dtype: DType) -> Kernel {
    let source = reduction!(class, width, [HELD, BACKWARD]);
    specialise(class, Kernel::builtin("softmax_backward", source, "backward"), log, width, held, dtype)
}

pub fn forward(device: &WgpuDevice, log: bool, x: &Tensor) -> Result<Vec<Tensor>> {
    let y = output("softmax", device, x.shape(), x.dtype())?;
    let Rows { rows, width, items, held } = Rows::of(device.class(), x)?;
    let kernel = forward_kernel(device.class(), log, width, held, x.dtype());
    windows::rows(rows, [windows::view(x), windows::output(&y)], |[x, y]| {
        let rows = Rows::of(device.class(), x)?.rows;
        let bindings = [Binding::Read(&x.wgpu()?), Binding::Write(&y.wgpu()?)];
        device.run(&kernel, &bindings, &Params { rows: rows as u32, cols: items as u32, pad: [0; 2] }, fold_groups(rows))
    })?;
    Ok(vec![y])
}

pub fn backward(device: &WgpuDevice, log: bool, y: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let dx = output("softmax_backward", device, y.shape(), y.dtype())?;
    let Rows { rows, width, items, held } = Rows::of(device.class(), y)?;
    let kernel = backward_kernel(device.class(), log, width, held, y.dtype());
    let parts = [windows::view(y), windows::view(dy), windows::output(&dx)];
    windows::rows(rows, parts, |[y, dy, dx]| {
        let rows = Rows::of(device.class(), y)?.rows;
        let bindings = [Binding::Read(&y.wgpu()?), Binding::Read(&dy.wgpu()?), Binding::Write(&dx.wgpu()?)];
        device.run(&kernel, &bindings, &Params { rows: rows as u32, cols: items as u32, pad: [0; 2] }, fold_groups(rows))
    })?;
    Ok(vec![dx])
}

#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        for (log, width) in [false, true].into_iter().flat_map(|log| Width::ALL.map(|width| (log, width))) {
            all.extend(all_held(class).into_iter().map(|held| forward_kernel(class, log, width, held, dtype)));
            all.extend(all_held(class).into_iter().map(|held| backward_kernel(class, log, width, held, dtype)));
        }
    }
    all.into_iter().map(Launched::from).collect()
}
