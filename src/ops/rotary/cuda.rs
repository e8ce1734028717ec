use bytemuck::{Pod, Zeroable};

use super::RotaryPairs;
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{BLOCK, output, threads, width};
use crate::{Result, Tensor};

const ROTARY: &[&str] = &[cuda_source!("rotary/rotary.cu")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    steps: u32,
    d: u32,
    pad: u32,
}

pub fn rotate(
    device: &CudaDevice,
    pairs: RotaryPairs,
    inverse: bool,
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
) -> Result<Vec<Tensor>> {
    let (batch, steps, d) = x.dims3()?;
    let (y, buffer) = output("rotary", device, x.shape(), x.dtype())?;
    let (values, cosines, sines) = (x.cuda()?, cos.cuda()?, sin.cuda()?);
    let width = width(x.dtype(), d / 2, [&values, &cosines, &sines]);
    let kernel = Kernel::builtin("rotary", ROTARY, "rotary")
        .with("BLOCK", BLOCK)
        .with("WIDTH", width as u32)
        .with("INTERLEAVED", pairs == RotaryPairs::Interleaved)
        .with("DIRECTION", if inverse { -1.0f32 } else { 1.0 })
        .with("T", x.dtype());
    device.launch(
        &kernel,
        &[
            Binding::Read(&values),
            Binding::Read(&cosines),
            Binding::Read(&sines),
            Binding::Write(&buffer),
        ],
        &Params { rows: (batch * steps) as u32, steps: steps as u32, d: d as u32, pad: 0 },
        threads(x.elements() / (2 * width)),
    )?;
    Ok(vec![y])
}
