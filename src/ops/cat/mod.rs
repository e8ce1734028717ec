//! Concatenation and stacking.

use crate::autograd::Backward;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply1};
use crate::{Dim, Error, Result, Tensor};

struct Cat {
    dim: usize,
    sizes: Vec<usize>,
}

impl Cat {
    /// One strided copy for each input: what differs between devices is in `assign`.
    fn run(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = x[0].shape().with(self.dim, self.sizes.iter().sum());
        let out = Tensor::uninit(shape, x[0].dtype(), &x[0].device())?;
        let mut start = 0;
        for (x, &size) in x.iter().zip(&self.sizes) {
            out.narrow(self.dim, start, size)?.assign(x)?;
            start += size;
        }
        Ok(vec![out])
    }
}

impl Op for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(x)
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let elements = x.iter().fold(0, |n: usize, x| n.saturating_add(x.elements()));
        crate::ops::launch::cuda::check_size(self.name(), device, elements)?;
        self.run(x)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, _device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(x)
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::NOTHING)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
        let mut start = 0;
        let part = |&size: &usize| {
            start += size;
            grad.narrow(self.dim, start - size, size).map(Some)
        };
        self.sizes.iter().map(part).collect()
    }
}

impl Tensor {
    /// Joins tensors along dimension `dim`; their other sizes and their dtypes must agree.
    ///
    /// # Errors
    /// [`Error::Argument`] without a tensor, [`Error::Shape`] or [`Error::DType`] where they differ.
    pub fn cat<T: AsRef<Tensor>>(tensors: &[T], dim: impl Dim) -> Result<Tensor> {
        let tensors: Vec<&Tensor> = tensors.iter().map(AsRef::as_ref).collect();
        let dim = dim.index(first("cat", &tensors)?.shape(), "cat")?;
        join("cat", &tensors, dim)
    }

    /// Joins tensors of one shape along a new dimension `dim`.
    ///
    /// # Errors
    /// As [`Tensor::cat`].
    pub fn stack<T: AsRef<Tensor>>(tensors: &[T], dim: usize) -> Result<Tensor> {
        let tensors: Vec<&Tensor> = tensors.iter().map(AsRef::as_ref).collect();
        let first = first("stack", &tensors)?;
        for other in &tensors[1..] {
            if other.shape() != first.shape() {
                return Err(Error::shape("stack", &[first.shape(), other.shape()], "shapes must agree"));
            }
        }
        let unsqueezed = tensors.iter().map(|t| t.unsqueeze(dim)).collect::<Result<Vec<_>>>()?;
        join("stack", &unsqueezed.iter().collect::<Vec<_>>(), dim)
    }
}

fn first<'a>(name: &'static str, tensors: &[&'a Tensor]) -> Result<&'a Tensor> {
    tensors.first().copied().ok_or_else(|| Error::argument(name, "tensors", "must not be empty"))
}

fn join(name: &'static str, tensors: &[&Tensor], dim: usize) -> Result<Tensor> {
    let first = first(name, tensors)?;
        for other in &tensors[1..] {
            if other.rank() != first.rank() || other.shape().with(dim, first.dims()[dim]) != *first.shape() {
                let reason = format!("sizes must agree in every dimension but {dim}");
                return Err(Error::shape(name, &[first.shape(), other.shape()], reason));
            }
            if other.dtype() != first.dtype() {
                return Err(Error::dtype(name, &[first.dtype(), other.dtype()], "dtypes must agree"));
            }
        }
        let sizes: Vec<usize> = tensors.iter().map(|t| t.dims()[dim]).collect();
        first.shape().with(dim, sizes.iter().fold(0, |a, &b| a.saturating_add(b))).check(name)?;
        apply1(Cat { dim, sizes }, tensors)
}

impl AsRef<Tensor> for Tensor {
    fn as_ref(&self) -> &Tensor {
        self
    }
}
