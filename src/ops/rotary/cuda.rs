use bytemuck::{Pod, Zeroable};

use super::RotaryPairs;
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{BLOCK, output, threads, width};
use crate::{DType, Result, Tensor};

const ROTARY: &[&str] = &[cuda_source!("rotary/rotary.cu")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    steps: u32,
    d: u32,
    pad: u32,
}

fn kernel(interleaved: bool, pairs: usize, inverse: bool, dtype: DType) -> Kernel {
    Kernel::builtin("rotary", ROTARY, "rotary")
        .with("BLOCK", BLOCK)
        .with("INTERLEAVED", interleaved)
        .with("PAIRS", pairs as u32)
        .with("DIRECTION", if inverse { -1.0f32 } else { 1.0 })
        .with("T", dtype)
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
    let interleaved = pairs == RotaryPairs::Interleaved;
    let buffers = [&values, &cosines, &sines];
    let pairs = match interleaved {
        true => width(x.dtype(), d, buffers).div_ceil(2),
        false => width(DType::F32, d / 2, buffers),
    };
    device.launch(
        &kernel(interleaved, pairs, inverse, x.dtype()),
        &[
            Binding::Read(&values),
            Binding::Read(&cosines),
            Binding::Read(&sines),
            Binding::Write(&buffer),
        ],
        &Params { rows: (batch * steps) as u32, steps: steps as u32, d: d as u32, pad: 0 },
        threads(x.elements() / (2 * pairs)),
    )?;
    Ok(vec![y])
}

/// Every type and way of pairing, in lines and pair by pair, forward and backward.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (interleaved, most) in [(true, 16 / dtype.size() / 2), (false, 4)] {
            for (pairs, inverse) in [(most, false), (most, true), (1, false)] {
                all.push(Launched::plain(kernel(interleaved, pairs, inverse, dtype), BLOCK, pairs == most));
            }
        }
    }
    all
}
