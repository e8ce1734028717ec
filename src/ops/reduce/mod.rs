//! Reductions over one dimension, and the sums that undo broadcasting.

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
use crate::tensor::IdRange;
use crate::{DType, Dim, Error, Result, Shape, Tensor};

/// Which reduction. The numbers are those of kernels/reduce/reduce.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sum = 0,
    Max = 1,
    Min = 2,
}

/// Over dimension `dim`, which stays with size 1.
struct Reduce {
    kind: Kind,
    dim: usize,
    /// The result is wanted as it is computed from 16 bits, in f32.
    wide: bool,
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Sum => "sum",
            Kind::Max => "max",
            Kind::Min => "min",
        }
    }

    fn output_dtype(&self, _i: usize, dtype: DType) -> DType {
        if self.wide { DType::F32 } else { dtype }
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::reduce(self.kind, &x[0], self.dim)
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::reduce(device, self.kind, &x[0], self.dim, self.output_dtype(0, x[0].dtype()))
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::reduce(device, self.kind, &x[0], self.dim, self.output_dtype(0, x[0].dtype()))
    }

    fn saves(&self) -> Option<Saves> {
        Some(match self.kind {
            Kind::Sum => Saves::NOTHING,
            _ => Saves { inputs: &[0], outputs: &[0] },
        })
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (dy, shape) = (ctx.grad(0)?, ctx.input_shape(0));
        let dx = match self.kind {
            Kind::Sum => dy.broadcast_as(shape)?,
            _ => {
                // Elements that share the extreme value share its gradient.
                let ties = ctx.input(0)?.eq(ctx.output(0)?)?.to_dtype(dy.dtype())?;
                ties.mul(&dy.div(&ties.sum_keepdim(self.dim)?)?)?
            }
        };
        Ok(vec![Some(dx)])
    }
}

/// The index of the largest or smallest element; the first of equal ones.
struct ArgReduce {
    kind: Kind,
    dim: usize,
}

impl Op for ArgReduce {
    fn name(&self) -> &'static str {
        if self.kind == Kind::Max { "argmax" } else { "argmin" }
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::arg_reduce(self.kind, &x[0], self.dim)
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::arg_reduce(device, self.kind, &x[0], self.dim)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::arg_reduce(device, self.kind, &x[0], self.dim)
    }
}

impl Tensor {
    fn reduce(&self, kind: Kind, dim: impl Dim, keep: bool) -> Result<Tensor> {
        let op = Reduce { kind, dim: dim.index(self.shape(), "reduce")?, wide: false };
        if !self.dtype().is_float() {
            return Err(Error::dtype(op.name(), &[self.dtype()], "a float tensor is needed"));
        }
        if kind != Kind::Sum && self.dims()[op.dim] == 0 {
            return Err(Error::shape(op.name(), &[self.shape()], "an empty dimension has no extreme value"));
        }
        let dim = op.dim;
        let reduced = apply1(op, &[self])?;
        if keep { Ok(reduced) } else { reduced.squeeze(dim) }
    }

    /// The sum over dimension `dim`, without that dimension. Accumulated in f32 (f64 for f64).
    pub fn sum(&self, dim: impl Dim) -> Result<Tensor> {
        self.reduce(Kind::Sum, dim, false)
    }

    /// The sum over dimension `dim`, which stays with size 1.
    pub fn sum_keepdim(&self, dim: impl Dim) -> Result<Tensor> {
        self.reduce(Kind::Sum, dim, true)
    }

    /// The sum of all elements, a scalar.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.flatten_all()?.sum(0)
    }

    /// The mean over dimension `dim`, without that dimension.
    pub fn mean(&self, dim: impl Dim) -> Result<Tensor> {
        let n = self.dim(dim)?;
        self.sum(dim)?.affine(1.0 / n as f64, 0.0)
    }

    /// The mean over dimension `dim`, which stays with size 1.
    pub fn mean_keepdim(&self, dim: impl Dim) -> Result<Tensor> {
        let n = self.dim(dim)?;
        self.sum_keepdim(dim)?.affine(1.0 / n as f64, 0.0)
    }

    /// The mean of all elements, a scalar.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.flatten_all()?.mean(0)
    }

    /// The largest element along `dim`. Equal ones share the gradient.
    pub fn max(&self, dim: impl Dim) -> Result<Tensor> {
        self.reduce(Kind::Max, dim, false)
    }

    /// [`Tensor::max`] with `dim` kept at size 1.
    pub fn max_keepdim(&self, dim: impl Dim) -> Result<Tensor> {
        self.reduce(Kind::Max, dim, true)
    }

    /// The smallest element along `dim`. Equal ones share the gradient.
    pub fn min(&self, dim: impl Dim) -> Result<Tensor> {
        self.reduce(Kind::Min, dim, false)
    }

    /// [`Tensor::min`] with `dim` kept at size 1.
    pub fn min_keepdim(&self, dim: impl Dim) -> Result<Tensor> {
        self.reduce(Kind::Min, dim, true)
    }

    fn arg_reduce(&self, kind: Kind, dim: impl Dim) -> Result<Tensor> {
        let op = ArgReduce { kind, dim: dim.index(self.shape(), "argmax")? };
        if !self.dtype().is_float() {
            return Err(Error::dtype(op.name(), &[self.dtype()], "a float tensor is needed"));
        }
        let (dim, bound) = (op.dim, self.dims()[op.dim]);
        if bound == 0 {
            return Err(Error::shape(op.name(), &[self.shape()], "an empty dimension has no extreme value"));
        }
        // An index has no gradient.
        let index = apply1(op, &[&self.detach()])?.squeeze(dim)?;
        *index.storage().ids.lock() = Some(IdRange::below(bound as u32));
        Ok(index)
    }

    /// The index of the largest element along `dim`, u32; the first of equal ones. It has no gradient.
    pub fn argmax(&self, dim: impl Dim) -> Result<Tensor> {
        self.arg_reduce(Kind::Max, dim)
    }

    /// The index of the smallest element along `dim`, u32; the first of equal ones. It has no gradient.
    pub fn argmin(&self, dim: impl Dim) -> Result<Tensor> {
        self.arg_reduce(Kind::Min, dim)
    }

    /// Sums over the dimensions along which `shape` would be broadcast to this tensor's shape: the
    /// gradient of [`Tensor::broadcast_as`].
    ///
    /// # Errors
    /// [`Error::Shape`] if `shape` does not broadcast to this tensor's.
    pub fn sum_to(&self, shape: &Shape) -> Result<Tensor> {
        if shape.broadcast(self.shape(), "sum_to")? != *self.shape() {
            return Err(Error::shape("sum_to", &[self.shape(), shape], "the second does not broadcast to it"));
        }
        self.sum_to_as(shape, self.dtype())
    }

    /// [`Tensor::sum_to`] a shape that broadcasts, in `dtype`: this tensor's, or f32 for sums of 16 bits that are not
    /// to be rounded.
    pub(crate) fn sum_to_as(&self, shape: &Shape, dtype: DType) -> Result<Tensor> {
        let sum = |x: &Tensor, dim| {
            apply1(Reduce { kind: Kind::Sum, dim, wide: dtype != x.dtype() }, &[x])
        };
        let missing = self.rank() - shape.rank();
        let mut total = self.clone();
        // Leading dimensions go in one pass.
        if missing > 0 {
            let mut dims = vec![self.dims()[..missing].iter().product()];
            dims.extend_from_slice(&self.dims()[missing..]);
            total = sum(&total.reshape(dims)?, 0)?.squeeze(0)?;
        }
        for (dim, &size) in shape.dims().iter().enumerate() {
            if size == 1 && total.dims()[dim] != 1 {
                total = sum(&total, dim)?;
            }
        }
        total.to_dtype(dtype)
    }
}

/// The shape after reducing `dim`, and the input as `[outer, n, inner]`.
fn plan(x: &Tensor, dim: usize) -> (Shape, (usize, usize, usize)) {
    (x.shape().with(dim, 1), x.shape().around(dim))
}

