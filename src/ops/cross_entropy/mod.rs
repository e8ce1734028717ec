//! Cross entropy of logits and ids: loss and gradient from one pass over the logits.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use crate::autograd::Backward;
use crate::device::cpu::{CpuVec, Real};
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply1};
use crate::ops::embedding::check_ids;
use crate::ops::with_real;
use crate::{DType, Error, Result, Shape, Tensor};

/// What becomes of the losses of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean over the rows that are not ignored, a scalar; 0 if all are.
    #[default]
    Mean,
    /// Their sum, a scalar.
    Sum,
    /// All of them, with 0 for ignored rows.
    None,
}

/// How [`Tensor::cross_entropy_with`] counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropyOptions {
    /// Rows with this target have neither loss nor gradient.
    pub ignore_index: Option<u32>,
    /// What becomes of the losses of the rows.
    pub reduction: Reduction,
    /// What the loss is multiplied by, for loss scaling or for micro-batches. [`Tensor::linear_cross_entropy`] makes its
    /// gradients so large from the start, so that those of 16 bits are rounded but once, and no pass over them is needed.
    pub scale: f64,
}

impl Default for CrossEntropyOptions {
    fn default() -> Self {
        CrossEntropyOptions { ignore_index: None, reduction: Reduction::Mean, scale: 1.0 }
    }
}

/// Inputs `[logits, targets]`: logits `[N, V]`, targets `[N]`; outputs the loss, f32 (f64 for f64),
/// and, if one is wanted, the gradient of the logits for an upstream gradient of 1.
struct CrossEntropy {
    options: CrossEntropyOptions,
    gradient: Option<Gradient>,
}

/// Where the gradient of the logits goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gradient {
    /// To memory of its own.
    Apart,
    /// Over the logits, which are contiguous and which nobody else sees.
    InPlace,
}

impl CrossEntropy {
    fn run<R: Real>(&self, logits: &Tensor, targets: &Tensor) -> Result<Vec<Tensor>> {
        let (logits, targets) = (logits.contiguous()?, targets.contiguous()?);
        let (n, v) = logits.dims2()?;
        let targets = targets.cpu::<u32>()?;
        let ignore = self.options.ignore_index;
        let scale = match self.options.reduction {
            Reduction::Mean => 1.0 / cpu::count(&targets, ignore).max(1) as f64,
            _ => 1.0,
        };
        let mut losses = CpuVec::<R>::new(n)?;
        let mut gradient = |logits: Option<&[R]>, dlogits: &mut [R]| {
            cpu::forward_backward(logits, &targets, ignore, R::from_f64(scale), &mut losses, dlogits)
        };
        let dlogits = match self.gradient {
            None => {
                cpu::forward(&logits.cpu::<R>()?, &targets, ignore, &mut losses);
                None
            }
            Some(Gradient::Apart) => {
                let mut dlogits = CpuVec::<R>::new(n * v)?;
                gradient(Some(&logits.cpu::<R>()?), &mut dlogits);
                Some(Tensor::from_cpu(dlogits, (n, v))?)
            }
            Some(Gradient::InPlace) => {
                gradient(None, &mut logits.cpu_mut::<R>()?);
                Some(logits)
            }
        };
        let loss = match self.options.reduction {
            Reduction::None => Tensor::from_cpu(losses, n)?,
            // In f64, so that the order of additions does not show.
            _ => {
                let sum: f64 = losses.iter().map(|l| l.to_f64()).sum();
                Tensor::from_cpu(CpuVec::filled(1, R::from_f64(sum * scale))?, ())?
            }
        };
        Ok([loss].into_iter().chain(dlogits).collect())
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn output_dtype(&self, _i: usize, dtype: DType) -> DType {
        if dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        with_real!(x[0].dtype(), R => self.run::<R>(&x[0], &x[1]))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::forward(device, self, &x[0], &x[1])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::forward(device, self, &x[0], &x[1])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::outputs(&[1]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let dlogits = ctx.output(1)?;
        if ctx.grad_is_one(0) {
            return Ok(vec![Some(dlogits.clone()), None]);
        }
        let dloss = ctx.grad(0)?.to_dtype(dlogits.dtype())?;
        // [N] becomes [N, 1]; a scalar stays one.
        let dloss = if dloss.rank() == 1 { dloss.unsqueeze(1)? } else { dloss };
        Ok(vec![Some(dlogits.mul(&dloss)?), None])
    }
}

/// The losses of all rows of logits `[N, V]`, which, with `gradient`, are overwritten with the gradient of their sum. The
/// logits are contiguous, of a dtype that the device computes in, and nobody else's; targets `[N]` have been checked.
pub(crate) fn row_losses(
    logits: &Tensor,
    targets: &Tensor,
    ignore_index: Option<u32>,
    gradient: bool,
) -> Result<Tensor> {
    let options = CrossEntropyOptions { ignore_index, reduction: Reduction::None, scale: 1.0 };
    let gradient = gradient.then_some(Gradient::InPlace);
    crate::no_grad(|| apply1(CrossEntropy { options, gradient }, &[logits, targets]))
}

impl Tensor {
    /// The mean cross entropy, in nats, of logits `[.., V]` and target ids (u32, `[..]`):
    /// `-log(softmax(logits)[target])`. The loss is f32 (f64 for f64).
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes differ, [`Error::Index`] if a target is not below V.
    pub fn cross_entropy(&self, targets: &Tensor) -> Result<Tensor> {
        self.cross_entropy_with(targets, CrossEntropyOptions::default())
    }

    /// [`Tensor::cross_entropy`] with an ignore index and another reduction.
    pub fn cross_entropy_with(&self, targets: &Tensor, options: CrossEntropyOptions) -> Result<Tensor> {
        let logits = self.check_cross_entropy(targets, options)?;
        loss(logits, self.shape(), targets, options, Gradient::Apart)
    }

    /// [`Tensor::cross_entropy_with`] of logits that are not needed any more: their gradient is written
    /// over them, which for a large vocabulary halves the largest memory of a training step. It takes
    /// memory of its own only if other tensors share that of the logits, or if their dtype is one that
    /// the device has no arithmetic for.
    pub fn into_cross_entropy(self, targets: &Tensor, options: CrossEntropyOptions) -> Result<Tensor> {
        let logits = self.check_cross_entropy(targets, options)?;
        let shape = self.shape().clone();
        drop(self);
        let alone = logits.handles() == 1 && logits.storage_handles() == 1 && logits.is_contiguous();
        let native = logits.device().compute_dtype(logits.dtype()) == logits.dtype();
        loss(logits, &shape, targets, options, if alone && native { Gradient::InPlace } else { Gradient::Apart })
    }

    /// The logits as `[N, V]`, once everything about them has been checked.
    fn check_cross_entropy(&self, targets: &Tensor, options: CrossEntropyOptions) -> Result<Tensor> {
        let name = "cross_entropy";
        let Some((&v, rows)) = self.dims().split_last() else {
            return Err(Error::shape(name, &[self.shape()], "logits need a dimension for the classes"));
        };
        if targets.dims() != rows {
            let reason = "targets must have the shape of the logits without the last dimension";
            return Err(Error::shape(name, &[self.shape(), targets.shape()], reason));
        }
        if !self.dtype().is_float() {
            return Err(Error::dtype(name, &[self.dtype(), targets.dtype()], "logits must be floats"));
        }
        check_ids(name, targets, v, options.ignore_index)?;
        self.reshape((targets.elements(), v))
    }
}

/// The loss of checked logits `[N, V]`, which came as `shape`.
fn loss(
    logits: Tensor,
    shape: &Shape,
    targets: &Tensor,
    options: CrossEntropyOptions,
    gradient: Gradient,
) -> Result<Tensor> {
    let gradient = (logits.requires_grad() && crate::is_recording()).then_some(gradient);
    let loss = apply1(CrossEntropy { options, gradient }, &[&logits, &targets.flatten_all()?])?;
    let rows = &shape.dims()[..shape.rank() - 1];
    let loss = if options.scale == 1.0 { loss } else { loss.affine(options.scale, 0.0)? };
    if options.reduction == Reduction::None { loss.reshape(rows.to_vec()) } else { Ok(loss) }
}
