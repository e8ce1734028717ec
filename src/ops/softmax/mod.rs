//! Softmax and its logarithm along one dimension.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use crate::autograd::Backward;
use crate::device::cpu::CpuVec;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply1};
use crate::ops::with_real;
use crate::{D, Dim, Error, Result, Tensor};

/// Over the last dimension.
#[derive(Clone, Copy)]
struct Softmax {
    log: bool,
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = x[0].contiguous()?;
        with_real!(x.dtype(), R => {
            let mut y = CpuVec::<R>::new(x.elements())?;
            cpu::forward(self.log, x.dim(D::Minus1)?, &x.cpu::<R>()?, &mut y);
            Ok(vec![Tensor::from_cpu(y, x.shape())?])
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::forward(device, self.log, &x[0])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::forward(device, self.log, &x[0])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::outputs(&[0]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply1(SoftmaxBackward { log: self.log }, &[ctx.output(0)?, &ctx.grad(0)?])?)])
    }
}

/// Inputs `[y, dy]`, output dx.
struct SoftmaxBackward {
    log: bool,
}

impl Op for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax_backward"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (y, dy) = (x[0].contiguous()?, x[1].contiguous()?);
        with_real!(y.dtype(), R => {
            let mut dx = CpuVec::<R>::new(y.elements())?;
            cpu::backward(self.log, y.dim(D::Minus1)?, &y.cpu::<R>()?, &dy.cpu::<R>()?, &mut dx);
            Ok(vec![Tensor::from_cpu(dx, y.shape())?])
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::backward(device, self.log, &x[0], &x[1])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::backward(device, self.log, &x[0], &x[1])
    }
}

fn softmax(x: &Tensor, dim: impl Dim, log: bool) -> Result<Tensor> {
    let op = Softmax { log };
    let dim = dim.index(x.shape(), op.name())?;
    if !x.dtype().is_float() {
        return Err(Error::dtype(op.name(), &[x.dtype()], "a float tensor is needed"));
    }
    let last = x.rank() - 1;
    // The kernels work on the last dimension.
    if dim == last { apply1(op, &[x]) } else { apply1(op, &[&x.transpose(dim, last)?])?.transpose(dim, last) }
}

impl Tensor {
    /// `exp(x) / sum(exp(x))` along `dim`, with the largest element subtracted first. A slice of
    /// -infinity alone gives NaN, as in PyTorch.
    pub fn softmax(&self, dim: impl Dim) -> Result<Tensor> {
        softmax(self, dim, false)
    }

    /// The logarithm of [`Tensor::softmax`], without its underflow.
    pub fn log_softmax(&self, dim: impl Dim) -> Result<Tensor> {
        softmax(self, dim, true)
    }
}
