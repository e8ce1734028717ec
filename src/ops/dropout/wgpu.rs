use bytemuck::{Pod, Zeroable};

use super::Drop;
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Kernel, WgpuDevice};
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{PHILOX, THREADS, Width, by_width, of_width, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Result, Tensor};

const DROPOUT: &str = include_str!("../../../kernels/dropout/dropout.wgsl");

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    threshold: u32,
    scale: f32,
    first: u32,
    seed: u64,
    offset: u64,
}

fn kernel(width: Width, dtype: DType) -> Kernel {
    Kernel::builtin("dropout", by_width!(width, [PHILOX, DROPOUT]), "dropout")
        .with("BLOCK", THREADS as u32)
        .with_all(of_width(width, dtype, dtype))
}

pub fn dropout(device: &WgpuDevice, drop: &Drop, x: &Tensor) -> Result<Vec<Tensor>> {
    let (x, out) = (x.contiguous()?, output("dropout", device, x.shape(), x.dtype())?);
    let (threshold, scale) = drop.threshold_and_scale();
    let (seed, offset) = (drop.stream.seed, drop.stream.offset);
    // A thread serves the four elements of one block of random bits.
    let mut first = 0;
    windows::elements([windows::view(&x), windows::output(&out)], |[x, out]| {
        let count = x.elements();
        let params =
            Params { count: count as u32, threshold, scale: scale as f32, first: first as u32, seed, offset };
        first += count / 4;
        device.run(
            &kernel(Width::of([count]), x.dtype()),
            &[Binding::Read(&x.wgpu()?), Binding::Write(&out.wgpu()?)],
            &params,
            threads(count.div_ceil(4)),
        )
    })?;
    Ok(vec![out])
}

#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    Width::ALL.into_iter().flat_map(|width| FLOATS.map(|dtype| kernel(width, dtype).into())).collect()
}
