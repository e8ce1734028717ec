//! Elementwise choice between two tensors.

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
use crate::{DType, Error, Result, Tensor};

/// `mask[i] != 0 ? a[i] : b[i]`, inputs `[mask, a, b]` of one shape.
struct Where;

impl Op for Where {
    fn name(&self) -> &'static str {
        "where_cond"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::select(&x[0], &x[1], &x[2])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::select(device, &x[0], &x[1], &x[2])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::select(device, &x[0], &x[1], &x[2])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::inputs(&[0]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (dy, mask) = (ctx.grad(0)?, ctx.input(0)?);
        let zero = Tensor::zeros((), dy.dtype(), &dy.device())?;
        let chosen = |i, a, b| if ctx.needs(i) { mask.where_cond(a, b).map(Some) } else { Ok(None) };
        Ok(vec![None, chosen(1, &dy, &zero)?, chosen(2, &zero, &dy)?])
    }
}

impl Tensor {
    /// Where this u32 tensor is not 0 the element of `a`, else the element of `b`; all three broadcast.
    ///
    /// # Errors
    /// [`Error::DType`] unless this tensor is u32 and `a` and `b` are floats of one dtype.
    pub fn where_cond(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let op = Where;
        let dtypes = [self.dtype(), a.dtype(), b.dtype()];
        if self.dtype() != DType::U32 || a.dtype() != b.dtype() || !a.dtype().is_float() {
            return Err(Error::dtype(op.name(), &dtypes, "a u32 condition and two floats of one dtype are needed"));
        }
        let shape = self.shape().broadcast(&a.shape().broadcast(b.shape(), op.name())?, op.name())?;
        let (mask, a, b) = (self.broadcast_as(&shape)?, a.broadcast_as(&shape)?, b.broadcast_as(&shape)?);
        apply1(op, &[&mask, &a, &b])
    }
}
