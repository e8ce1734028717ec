use bytemuck::{Pod, Zeroable};

use super::Drop;
use crate::device::wgpu::{Binding, Kernel, WgpuDevice};
use crate::ops::launch::wgpu::{PHILOX, THREADS, output, threads};
use crate::{Result, Tensor};

const DROPOUT: &[&str] = &[PHILOX, include_str!("../../../kernels/dropout/dropout.wgsl")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    threshold: u32,
    scale: f32,
    pad: u32,
    seed: u64,
    offset: u64,
}

pub fn dropout(device: &WgpuDevice, drop: &Drop, x: &Tensor) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("dropout", device, x.shape(), x.dtype())?;
    let (threshold, scale) = drop.threshold_and_scale();
    let (count, scale) = (x.elements() as u32, scale as f32);
    let (seed, offset) = (drop.stream.seed, drop.stream.offset);
    device.run(
        &Kernel::builtin("dropout", DROPOUT, "dropout").with("BLOCK", THREADS as u32).with("T", x.dtype()),
        &[Binding::Read(&x.wgpu()?), Binding::Write(&buffer)],
        &Params { count, threshold, scale, pad: 0, seed, offset },
        // A thread serves the four elements of one block of random bits.
        threads(x.elements().div_ceil(4)),
    )?;
    Ok(vec![out])
}
