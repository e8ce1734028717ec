//! Dropout by counter-based random numbers: the mask is drawn again in backward, never stored.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use crate::autograd::Backward;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply1};
use crate::random::Stream;
use crate::{Error, Result, Tensor};

/// The random part of a dropout: which elements go is a function of this alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Drop {
    /// The probability that an element is dropped.
    pub p: f64,
    pub stream: Stream,
}

impl Drop {
    /// The bound that random bits are compared with, and the scale of what is kept.
    pub fn threshold_and_scale(&self) -> (u32, f64) {
        (crate::random::drop_threshold(self.p), 1.0 / (1.0 - self.p))
    }
}

pub(crate) fn check_probability(op: &'static str, p: f64) -> Result<()> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::argument(op, "p", format!("({p}) must be at least 0 and less than 1")));
    }
    Ok(())
}

pub(crate) struct Dropout(pub Drop);

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::dropout(&self.0, &x[0])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::dropout(device, &self.0, &x[0])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::dropout(device, &self.0, &x[0])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::NOTHING)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply1(Dropout(self.0), &[&ctx.grad(0)?])?)])
    }
}

impl Tensor {
    /// Sets each element to 0 with probability `p` and divides the others by `1 - p` (Srivastava et
    /// al., 2014). The mask depends on the device's seed and on how many random ops came before, and
    /// is the same on every device. Call it in training only.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `0 <= p < 1`.
    pub fn dropout(&self, p: f64) -> Result<Tensor> {
        check_probability("dropout", p)?;
        if !self.dtype().is_float() {
            return Err(Error::dtype("dropout", &[self.dtype()], "a float tensor is needed"));
        }
        if p == 0.0 {
            return Ok(self.clone());
        }
        apply1(Dropout(Drop { p, stream: self.device().next_stream() }), &[self])
    }
}
