//! Elements by index along one dimension.

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
use crate::ops::embedding::check_ids;
use crate::{Dim, Error, Result, Tensor};

/// Inputs `[x, ids]`: x `[outer, V, inner]`, ids `[outer, n, inner]`; output
/// `y[o, i, j] = x[o, ids[o, i, j], j]`.
struct Gather;

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::gather(&x[0], &x[1])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::gather(device, &x[0], &x[1])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::gather(device, &x[0], &x[1])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::inputs(&[1]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let op = ScatterAdd { size: ctx.input_shape(0)[1] };
        Ok(vec![Some(apply1(op, &[&ctx.grad(0)?, ctx.input(1)?])?), None])
    }
}

/// Inputs `[dy, ids]`, both `[outer, n, inner]`; output `dx[o, v, j]`, the sum of `dy[o, i, j]` over all i
/// with `ids[o, i, j] == v`, in the order of i.
struct ScatterAdd {
    size: usize,
}

impl Op for ScatterAdd {
    fn name(&self) -> &'static str {
        "gather_backward"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::scatter_add(&x[0], &x[1], self.size)
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::scatter_add(device, &x[0], &x[1], self.size)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::scatter_add(device, &x[0], &x[1], self.size)
    }
}

impl Tensor {
    /// Elements along `dim` by `ids`: `y[.., i, ..] = x[.., ids[.., i, ..], ..]`. `ids` are u32 and of
    /// this tensor's shape but for dimension `dim`. Repeated ids add up in the gradient, in order.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes differ, [`Error::Index`] if an id is out of range.
    pub fn gather(&self, ids: &Tensor, dim: impl Dim) -> Result<Tensor> {
        let name = "gather";
        let dim = dim.index(self.shape(), name)?;
        if ids.rank() != self.rank() || ids.shape().with(dim, self.dims()[dim]) != *self.shape() {
            let reason = format!("ids must have the same sizes in every dimension but {dim}");
            return Err(Error::shape(name, &[self.shape(), ids.shape()], reason));
        }
        if !self.dtype().is_float() {
            return Err(Error::dtype(name, &[self.dtype(), ids.dtype()], "a float tensor is needed"));
        }
        check_ids(name, ids, self.dims()[dim], None)?;
        let x = self.reshape(self.shape().around(dim))?;
        apply1(Gather, &[&x, &ids.reshape(ids.shape().around(dim))?])?.reshape(ids.shape())
    }

    /// The slices of `dim` that `ids` (u32, 1-D) name, in their order. Repeated ids add up in the
    /// gradient, in order.
    ///
    /// # Errors
    /// As [`Tensor::gather`].
    pub fn index_select(&self, ids: &Tensor, dim: impl Dim) -> Result<Tensor> {
        let name = "index_select";
        let dim = dim.index(self.shape(), name)?;
        let [n] = ids.dims_n::<1>(name)?;
        check_ids(name, ids, self.dims()[dim], None)?;
        // Rows of a table, once `dim` comes first: the kernels of `embedding`.
        let front = self.transpose(0, dim)?;
        let (rows, shape) = (front.dims()[0], front.shape().with(0, n));
        let columns = front.shape().without(0).elements();
        front.reshape((rows, columns))?.embedding(ids)?.reshape(shape)?.transpose(0, dim)
    }
}
