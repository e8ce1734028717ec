use bytemuck::{Pod, Zeroable};

use super::RotaryPairs;
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Kernel, WgpuDevice};
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{THREADS, Width, by_width, of_width, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Result, Tensor};

const ROTARY: &str = include_str!("../../../kernels/rotary/rotary.wgsl");

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    batch: u32,
    heads: u32,
    steps: u32,
    d: u32,
    rotated: u32,
    start: u32,
    x_offset: u32,
    x_b: u32,
    x_h: u32,
    x_t: u32,
    pad: [u32; 2],
}

fn kernel(pairs: RotaryPairs, inverse: bool, width: Width, dtype: DType) -> Kernel {
    Kernel::builtin("rotary", by_width!(width, [ROTARY]), "rotary")
        .with("BLOCK", THREADS as u32)
        .with("INTERLEAVED", pairs == RotaryPairs::Interleaved)
        .with("DIRECTION", if inverse { -1.0f32 } else { 1.0 })
        .with_all(of_width(width, dtype, dtype))
}

pub fn rotate(
    device: &WgpuDevice,
    pairs: RotaryPairs,
    inverse: bool,
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
) -> Result<Vec<Tensor>> {
    let (batch, steps, d) = x.dims3()?;
    let y = output("rotary", device, x.shape(), x.dtype())?;
    let width = match pairs {
        RotaryPairs::Halves => Width::of([d / 2]),
        RotaryPairs::Interleaved => Width::One,
    };
    let kernel = kernel(pairs, inverse, width, x.dtype());
    let items = width.items(d);
    let (cos, sin) = (cos.wgpu()?, sin.wgpu()?);
    windows::rows(batch, [windows::view(x), windows::output(&y)], |[x, y]| {
        let params = Params {
            batch: x.dims()[0] as u32,
            heads: 1,
            steps: steps as u32,
            d: items as u32,
            rotated: items as u32,
            start: 0,
            x_offset: 0,
            x_b: (steps * items) as u32,
            x_h: 0,
            x_t: items as u32,
            pad: [0; 2],
        };
        let bindings = [
            Binding::Read(&x.wgpu()?),
            Binding::Read(&cos),
            Binding::Read(&sin),
            Binding::Write(&y.wgpu()?),
        ];
        device.run(&kernel, &bindings, &params, threads(width.items(x.elements()) / 2))
    })?;
    Ok(vec![y])
}

#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        for (pairs, width) in [
            (RotaryPairs::Halves, Width::Four),
            (RotaryPairs::Halves, Width::One),
            (RotaryPairs::Interleaved, Width::One),
        ] {
            all.extend([false, true].map(|inverse| Launched::from(kernel(pairs, inverse, width, dtype))));
        }
    }
    all
}
