//! Views: other shapes and strides over the same memory, without a copy.

use crate::autograd::Backward;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply, apply1};
use crate::shape::Dims;
use crate::{D, Dim, Error, Layout, Result, Shape, Tensor};

/// A view of its one input.
enum View {
    /// To this layout, whose elements are the input's in the same order.
    Reshape(Layout),
    /// Dimension `i` of the result is dimension `order[i]` of the input.
    Permute(Dims),
    Broadcast(Shape),
    Narrow {
        dim: usize,
        start: usize,
        len: usize,
    },
}

impl View {
    fn view(&self, x: &Tensor) -> Tensor {
        x.with_layout(match self {
            View::Reshape(layout) => layout.clone(),
            View::Permute(order) => x.layout().permute(order),
            View::Broadcast(shape) => x.layout().broadcast(shape),
            View::Narrow { dim, start, len } => x.layout().narrow(*dim, *start, *len),
        })
    }

    /// Views keep what is known of ids: a part of them is below the same bound.
    fn run(self, x: &Tensor) -> Result<Tensor> {
        apply1(self, &[x])
    }
}

impl Op for View {
    fn name(&self) -> &'static str {
        match self {
            View::Reshape(_) => "reshape",
            View::Permute(_) => "permute",
            View::Broadcast(_) => "broadcast_as",
            View::Narrow { .. } => "narrow",
        }
    }

    fn any_dtype(&self) -> bool {
        true
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![self.view(&x[0])])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, _device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![self.view(&x[0])])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, _device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![self.view(&x[0])])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::NOTHING)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (grad, shape) = (ctx.grad(0)?, ctx.input_shape(0));
        Ok(vec![Some(match self {
            View::Reshape(_) => grad.reshape(shape)?,
            View::Permute(order) => {
                let mut inverse = order.clone();
                order.iter().enumerate().for_each(|(i, &o)| inverse[o] = i);
                grad.permute(&inverse)?
            }
            View::Broadcast(_) => grad.sum_to_as(shape, ctx.grad_dtype(0))?,
            View::Narrow { dim, start, len } => {
                // Devices write a part in place of types that they compute in, not always of others.
                let compute = grad.device().compute_dtype(grad.dtype());
                let whole = Tensor::zeros(shape, compute, &grad.device())?;
                whole.narrow(*dim, *start, *len)?.assign(&grad)?;
                whole.to_dtype(grad.dtype())?
            }
        })])
    }
}

/// Consecutive parts of one dimension, whose gradients are one concatenation.
struct Split {
    dim: usize,
    sizes: Vec<usize>,
}

impl Split {
    fn views(&self, x: &Tensor) -> Vec<Tensor> {
        let mut start = 0;
        let part = |&len: &usize| {
            let view = x.with_layout(x.layout().narrow(self.dim, start, len));
            start += len;
            view
        };
        self.sizes.iter().map(part).collect()
    }
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn outputs(&self) -> usize {
        self.sizes.len()
    }

    fn any_dtype(&self) -> bool {
        true
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(self.views(&x[0]))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, _device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(self.views(&x[0]))
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, _device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(self.views(&x[0]))
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::NOTHING)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grads = (0..self.sizes.len()).map(|i| ctx.grad(i)).collect::<Result<Vec<_>>>()?;
        Ok(vec![Some(Tensor::cat(&grads, self.dim)?)])
    }
}

impl Tensor {
    /// The same elements in row-major order under another shape; a view where strides allow it,
    /// else a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        shape.check("reshape")?;
        if shape.elements() != self.elements() {
            return Err(Error::shape("reshape", &[self.shape(), &shape], "the element counts differ"));
        }
        match self.layout().reshape(&shape) {
            _ if shape == *self.shape() => Ok(self.clone()),
            Some(layout) => View::Reshape(layout).run(self),
            None => self.contiguous()?.reshape(shape),
        }
    }

    /// One dimension of all elements.
    pub fn flatten_all(&self) -> Result<Tensor> {
        self.reshape(self.elements())
    }

    /// Joins the dimensions from `first` to `last`, both included.
    pub fn flatten(&self, first: impl Dim, last: impl Dim) -> Result<Tensor> {
        let (first, last) = (first.index(self.shape(), "flatten")?, last.index(self.shape(), "flatten")?);
        if first > last {
            return Err(Error::argument("flatten", "first", format!("({first}) comes after last ({last})")));
        }
        let mut dims = Dims::from_slice(self.dims());
        let joined = dims.drain(first..=last).product();
        dims.insert(first, joined);
        self.reshape(dims)
    }

    /// Without dimension `dim`, which must have size 1.
    pub fn squeeze(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.index(self.shape(), "squeeze")?;
        if self.dims()[dim] != 1 {
            return Err(Error::shape("squeeze", &[self.shape()], format!("dimension {dim} is not of size 1")));
        }
        self.reshape(self.shape().without(dim))
    }

    /// With a new dimension of size 1 before dimension `dim`; `dim` may be the rank, to append one.
    pub fn unsqueeze(&self, dim: usize) -> Result<Tensor> {
        if dim > self.rank() {
            return Err(Error::Dim { op: "unsqueeze", dim: dim as isize, shape: self.shape().clone() });
        }
        let mut dims = Dims::from_slice(self.dims());
        dims.insert(dim, 1);
        self.reshape(dims)
    }

    /// A view with two dimensions swapped.
    pub fn transpose(&self, a: impl Dim, b: impl Dim) -> Result<Tensor> {
        let (a, b) = (a.index(self.shape(), "transpose")?, b.index(self.shape(), "transpose")?);
        let mut order: Dims = (0..self.rank()).collect();
        order.swap(a, b);
        self.permute(&order)
    }

    /// A view with the last two dimensions swapped.
    pub fn t(&self) -> Result<Tensor> {
        self.transpose(D::Minus2, D::Minus1)
    }

    /// A view whose dimension `i` is dimension `order[i]` of this tensor.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `order` names every dimension once.
    pub fn permute(&self, order: &[usize]) -> Result<Tensor> {
        let mut sorted = Dims::from_slice(order);
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..self.rank()) {
            let reason = format!("{order:?} does not name each of {} dimensions once", self.rank());
            return Err(Error::argument("permute", "order", reason));
        }
        View::Permute(order.into()).run(self)
    }

    /// A view of `len` indices of dimension `dim`, from `start` on.
    ///
    /// # Errors
    /// [`Error::Index`] if they reach past the end.
    pub fn narrow(&self, dim: impl Dim, start: usize, len: usize) -> Result<Tensor> {
        let dim = dim.index(self.shape(), "narrow")?;
        let bound = self.dims()[dim];
        if start > bound || len > bound - start {
            let index = start.saturating_add(len).saturating_sub(1) as u64;
            return Err(Error::Index { op: "narrow", index, bound: bound as u64 });
        }
        View::Narrow { dim, start, len }.run(self)
    }

    /// Index `i` of the first dimension, without that dimension.
    pub fn get(&self, i: usize) -> Result<Tensor> {
        self.narrow(0, i, 1)?.squeeze(0)
    }

    /// A view in which dimensions of size 1, and missing ones on the left, are repeated to `shape`.
    pub fn broadcast_as(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        shape.check("broadcast_as")?;
        if self.shape().broadcast(&shape, "broadcast_as")? != shape {
            return Err(Error::shape("broadcast_as", &[self.shape(), &shape], "the first does not broadcast"));
        }
        if shape == *self.shape() { Ok(self.clone()) } else { View::Broadcast(shape).run(self) }
    }

    /// Views of consecutive parts of dimension `dim` with these sizes. The gradients of all parts
    /// come together in one pass, which `narrow` for each cannot do.
    pub fn split(&self, sizes: &[usize], dim: impl Dim) -> Result<Vec<Tensor>> {
        let dim = dim.index(self.shape(), "split")?;
        let total = sizes.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
        if total != Some(self.dims()[dim]) {
            let reason = format!("the sizes {sizes:?} do not add up to dimension {dim}");
            return Err(Error::shape("split", &[self.shape()], reason));
        }
        if sizes.is_empty() {
            return Ok(Vec::new());
        }
        apply(Split { dim, sizes: sizes.to_vec() }, &[self])
    }

    /// [`Tensor::split`] into `chunks` parts of equal size, the last ones one shorter where it does
    /// not divide; into fewer if the dimension has fewer indices.
    pub fn chunk(&self, chunks: usize, dim: impl Dim) -> Result<Vec<Tensor>> {
        let index = dim.index(self.shape(), "chunk")?;
        if chunks == 0 {
            return Err(Error::argument("chunk", "chunks", "must be at least 1"));
        }
        let size = self.dims()[index];
        let chunks = chunks.min(size.max(1));
        let sizes: Vec<usize> = (0..chunks).map(|i| size / chunks + usize::from(i < size % chunks)).collect();
        self.split(&sizes, index)
    }
}
