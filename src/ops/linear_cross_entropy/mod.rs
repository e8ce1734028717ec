//! A linear head and its cross entropy in one op, which holds the logits of a few rows at a time.
//!
//! The logits are by far the largest tensor of a language model's training step, and nobody wants them: only the loss,
//! and the gradients of what they were made from. So a chunk of rows goes all the way, from logits to loss to its
//! share of the gradients, before the next one begins (as in Liger Kernel, Hsu et al. 2024). The gradients are made in the
//! forward pass, where the logits are, for an upstream gradient of 1; where the losses of rows are kept apart each has its
//! own, and backward makes the logits once more.

use crate::autograd::{Backward, Target};
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply, apply1};
use crate::ops::cross_entropy::{self, CrossEntropyOptions, Reduction};
use crate::ops::embedding::check_ids;
use crate::ops::matmul::{check_float, product_to};
use crate::{DType, Error, Result, Tensor};

const NAME: &str = "linear_cross_entropy";

/// Without a wish, so many bytes of logits are in memory at a time: what every device can bind at once, and rows enough
/// for products at full speed.
const CHUNK_BYTES: usize = 128 << 20;

/// Which gradients are wanted, of x `[N, C]` and of w `[V, C]`.
#[derive(Clone, Copy)]
struct Wanted {
    x: bool,
    w: bool,
}

/// What is computed of `x w^T`, `rows` rows at a time.
#[derive(Clone, Copy)]
struct Chunks {
    ignore_index: Option<u32>,
    rows: usize,
}

/// What losses and gradients are multiplied by.
enum Scale {
    /// Known to the host: nothing has to be uploaded for it.
    Number(f64),
    /// One number for all rows, or one for each: `[N, 1]`.
    Tensor(Tensor),
}

impl Scale {
    fn times(&self, t: &Tensor) -> Result<Tensor> {
        match self {
            Scale::Number(scale) if *scale == 1.0 => Ok(t.clone()),
            Scale::Number(scale) => t.affine(*scale, 0.0),
            Scale::Tensor(scale) => t.mul(&scale.to_dtype(t.dtype())?),
        }
    }
}

impl Chunks {
    /// The losses of all rows and, as far as they are wanted (else empty), the gradients of the sum of the losses times
    /// `scale`.
    fn run(
        &self,
        x: &Tensor,
        w: &Tensor,
        targets: &Tensor,
        scale: &Scale,
        wanted: Wanted,
    ) -> Result<[Tensor; 3]> {
        let ((n, c), (v, _)) = (x.dims2()?, w.dims2()?);
        let (dtype, device) = (x.dtype(), x.device());
        let losses = Tensor::uninit(n, loss_dtype(dtype), &device)?;
        let dx = Tensor::uninit(if wanted.x { (n, c) } else { (0, c) }, dtype, &device)?;
        // Of no rows nothing would be written there.
        let dw = match (wanted.w, n) {
            (true, 1..) => Tensor::uninit((v, c), dtype, &device)?,
            (true, 0) => w.zeros_like()?,
            (false, _) => Tensor::uninit((0, c), dtype, &device)?,
        };
        let scaled_x = if wanted.w { scale.times(x)? } else { x.clone() };
        for start in (0..n).step_by(self.rows) {
            let chunk = |t: &Tensor| t.narrow(0, start, self.rows.min(n - start));
            let logits = chunk(x)?.linear(w, None)?;
            let gradient = wanted.x || wanted.w;
            let loss = cross_entropy::row_losses(&logits, &chunk(targets)?, self.ignore_index, gradient)?;
            chunk(&losses)?.assign(&loss)?;
            // If they are wanted, the gradients of the logits are now in their place.
            if wanted.w {
                product_to(&logits.t()?, &chunk(&scaled_x)?, &Target { grad: dw.clone(), add: start > 0 })?;
            }
            if wanted.x {
                product_to(&logits, w, &Target { grad: chunk(&dx)?, add: false })?;
            }
        }
        Ok([losses, if wanted.x { scale.times(&dx)? } else { dx }, dw])
    }
}

/// Inputs `[x, w, targets]`: x `[N, C]`, w `[V, C]`, targets `[N]`; outputs the loss and, if it is one number, the wanted
/// gradients.
struct LinearCrossEntropy {
    chunks: Chunks,
    reduction: Reduction,
    scale: f64,
    wanted: Wanted,
}

impl LinearCrossEntropy {
    fn run(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let [x, w, targets] = x else { unreachable!("three inputs") };
        if self.reduction == Reduction::None {
            let unwanted = Wanted { x: false, w: false };
            let [losses, ..] = self.chunks.run(x, w, targets, &Scale::Number(1.0), unwanted)?;
            return Ok(vec![losses]);
        }
        let scale = self.factor(targets, loss_dtype(x.dtype()))?;
        let [losses, dx, dw] = self.chunks.run(x, w, targets, &scale, self.wanted)?;
        Ok(vec![scale.times(&losses.sum_all()?)?, dx, dw])
    }

    /// The scale and, of a mean, 1 / (the number of targets that count).
    fn factor(&self, targets: &Tensor, dtype: DType) -> Result<Scale> {
        let ignore = match (self.reduction, self.chunks.ignore_index) {
            (Reduction::Mean, Some(ignore)) => ignore,
            (Reduction::Mean, None) => {
                return Ok(Scale::Number(self.scale / targets.elements().max(1) as f64));
            }
            _ => return Ok(Scale::Number(self.scale)),
        };
        // Targets that count are below V, which f32 holds exactly; no other becomes one of them.
        let ignore = Tensor::full(ignore.into(), (), dtype, &targets.device())?;
        let count = targets.to_dtype(dtype)?.ne(&ignore)?.to_dtype(dtype)?.sum_all()?;
        let scale = count.clamp(1.0, f64::from(f32::MAX))?.recip()?.affine(self.scale, 0.0)?;
        Ok(Scale::Tensor(scale))
    }
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_dtype(&self, _i: usize, dtype: DType) -> DType {
        loss_dtype(dtype)
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(x)
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, _device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(x)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, _device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(x)
    }

    fn saves(&self) -> Option<Saves> {
        Some(match self.reduction {
            Reduction::None => Saves::inputs(&[0, 1, 2]),
            Reduction::Mean | Reduction::Sum => Saves::outputs(&[1, 2]),
        })
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let Wanted { x, w } = self.wanted;
        let [dx, dw] = match self.reduction {
            Reduction::None => {
                let op = Gradients { chunks: self.chunks, wanted: self.wanted };
                let grads = apply(op, &[ctx.input(0)?, ctx.input(1)?, ctx.input(2)?, &ctx.grad(0)?])?;
                grads.try_into().expect("two gradients")
            }
            _ if ctx.grad_is_one(0) => [ctx.output(1)?.clone(), ctx.output(2)?.clone()],
            _ => {
                let scale = Scale::Tensor(ctx.grad(0)?);
                [scale.times(ctx.output(1)?)?, scale.times(ctx.output(2)?)?]
            }
        };
        Ok(vec![x.then_some(dx), w.then_some(dw), None])
    }
}

/// Inputs `[x, w, targets, dloss]`, where dloss is `[N]`; outputs `[dx, dw]`.
struct Gradients {
    chunks: Chunks,
    wanted: Wanted,
}

impl Gradients {
    fn run(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let [x, w, targets, dloss] = x else { unreachable!("four inputs") };
        let scale = Scale::Tensor(dloss.unsqueeze(1)?);
        let [_, dx, dw] = self.chunks.run(x, w, targets, &scale, self.wanted)?;
        Ok(vec![dx, dw])
    }
}

impl Op for Gradients {
    fn name(&self) -> &'static str {
        "linear_cross_entropy_backward"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(x)
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, _device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(x)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, _device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(x)
    }
}

fn loss_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

impl Tensor {
    /// `self.linear(w, None)?.cross_entropy_with(targets, options)` without ever holding all logits: x `[.., C]`, w
    /// `[V, C]`, targets u32 `[..]`. The loss is f32 (f64 for f64).
    ///
    /// The logits of `rows` rows are in memory at a time; `None` chooses so many that they take 128 MiB. Memory for the
    /// gradients of x and w is taken in the forward pass; with [`Reduction::None`] it is in the backward pass, which
    /// computes the logits again. Gradients of w are added up over the chunks in their dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes differ, [`Error::DType`] unless x and w are floats of one dtype, [`Error::Index`] if a
    /// target is neither below V nor ignored, [`Error::Argument`] for 0 rows.
    pub fn linear_cross_entropy(
        &self,
        w: &Tensor,
        targets: &Tensor,
        options: CrossEntropyOptions,
        rows: Option<usize>,
    ) -> Result<Tensor> {
        let mismatch = |reason| Err(Error::shape(NAME, &[self.shape(), w.shape(), targets.shape()], reason));
        let (Some((&c, shape)), &[v, w_c]) = (self.dims().split_last(), w.dims()) else {
            return mismatch("x needs a dimension and w two");
        };
        if w_c != c {
            return mismatch("the last size of x must be the last of w");
        }
        if targets.dims() != shape {
            return mismatch("targets must have the shape of x without the last dimension");
        }
        check_float(NAME, &[self, w])?;
        check_ids(NAME, targets, v, options.ignore_index)?;
        let rows = match rows {
            Some(0) => return Err(Error::argument(NAME, "rows", "(0) must be positive")),
            Some(rows) => rows,
            None => match CHUNK_BYTES / (v * self.dtype().size()).max(1) {
                // Whole tiles of the products.
                rows @ 64.. => rows - rows % 64,
                rows => rows.max(1),
            },
        };
        let recording = crate::is_recording();
        let wanted = Wanted { x: recording && self.requires_grad(), w: recording && w.requires_grad() };
        let chunks = Chunks { ignore_index: options.ignore_index, rows };
        let op = LinearCrossEntropy { chunks, reduction: options.reduction, scale: options.scale, wanted };
        let x = self.reshape((targets.elements(), c))?;
        let loss = apply1(op, &[&x, w, &targets.flatten_all()?])?;
        match options.reduction {
            Reduction::None if options.scale != 1.0 => loss.affine(options.scale, 0.0)?.reshape(shape.to_vec()),
            Reduction::None => loss.reshape(shape.to_vec()),
            _ => Ok(loss),
        }
    }
}
