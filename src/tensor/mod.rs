//! [`Tensor`]: a strided view onto device memory, plus its place in the gradient graph.

pub mod autograd;
pub(crate) mod host;
pub mod op;
mod recompute;
mod storage;
mod var;

use std::fmt;
use std::sync::Arc;

use autograd::Edge;
pub(crate) use host::with_element;
pub use recompute::checkpoint;
pub(crate) use storage::{Data, IdRange, Storage};
pub use var::Var;

use crate::device::cpu::CpuVec;
#[cfg(feature = "cuda")]
use crate::device::cuda::{self, CudaDevice};
#[cfg(feature = "wgpu")]
use crate::device::wgpu::{Buffer, WgpuDevice};
use crate::{DType, Device, Element, Error, Layout, Result, Shape};

/// A tensor: cheap to clone, immutable but for the explicit in-place methods.
///
/// Views (`reshape`, `transpose`, `narrow`, `broadcast_as` ...) share memory. Every method that
/// computes returns a [`Result`] with a typed [`Error`]; work on a GPU is queued, and only reading
/// values back waits for it.
#[derive(Clone)]
pub struct Tensor(Arc<Inner>);

struct Inner {
    storage: Arc<Storage>,
    layout: Layout,
    dtype: DType,
    edge: Edge,
}

impl Tensor {
    fn over(storage: Arc<Storage>, layout: Layout, dtype: DType) -> Self {
        Tensor(Arc::new(Inner { storage, layout, dtype, edge: Edge::None }))
    }

    /// A tensor over memory that an op's CPU body has filled.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of values is not the shape's.
    pub fn from_cpu<T: Element>(values: CpuVec<T>, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        check_len("from_cpu", &shape, values.len())?;
        let storage = Storage::cpu(values.memory, shape.elements());
        Ok(Self::over(Arc::new(storage), Layout::contiguous(shape), T::DTYPE))
    }

    /// A tensor over a buffer of `device`, in row-major order from the buffer's start.
    ///
    /// # Errors
    /// [`Error::Shape`] if the buffer is too small.
    #[cfg(feature = "wgpu")]
    pub fn from_wgpu(
        device: &WgpuDevice,
        buffer: Buffer,
        shape: impl Into<Shape>,
        dtype: DType,
    ) -> Result<Self> {
        let shape = shape.into();
        check_bytes("from_wgpu", &shape, dtype, buffer.bytes())?;
        let storage = Storage::wgpu(device, buffer, shape.elements());
        Ok(Self::over(Arc::new(storage), Layout::contiguous(shape), dtype))
    }

    /// A tensor over a buffer of a CUDA device, in row-major order from the buffer's start.
    ///
    /// # Errors
    /// [`Error::Shape`] if the buffer is too small, [`Error::Argument`] if it starts inside an element: at an address
    /// that is no multiple of the dtype's size.
    #[cfg(feature = "cuda")]
    pub fn from_cuda(
        device: &CudaDevice,
        buffer: cuda::Buffer,
        shape: impl Into<Shape>,
        dtype: DType,
    ) -> Result<Self> {
        let shape = shape.into();
        check_bytes("from_cuda", &shape, dtype, buffer.bytes())?;
        if !buffer.address().is_multiple_of(dtype.size() as u64) {
            let (start, size) = (buffer.address(), dtype.size());
            let reason = format!("starts at {start:#x}, which is no multiple of {dtype}'s {size} bytes");
            return Err(Error::argument("from_cuda", "buffer", reason));
        }
        let storage = Storage::cuda(device, buffer, shape.elements());
        Ok(Self::over(Arc::new(storage), Layout::contiguous(shape), dtype))
    }

    /// The sizes.
    pub fn shape(&self) -> &Shape {
        &self.0.layout.shape
    }

    /// The sizes, as a slice.
    pub fn dims(&self) -> &[usize] {
        self.shape().dims()
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    /// The number of elements (candle: `elem_count`).
    pub fn elements(&self) -> usize {
        self.shape().elements()
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Where the memory is.
    pub fn device(&self) -> Device {
        self.0.storage.device()
    }

    /// Where the elements lie in the storage.
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// True if the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.0.layout.is_contiguous()
    }

    /// True if an operation on this tensor is recorded for backward (outside of `no_grad`).
    pub fn requires_grad(&self) -> bool {
        !matches!(self.0.edge, Edge::None)
    }

    /// The same values without their place in the gradient graph.
    pub fn detach(&self) -> Tensor {
        if self.requires_grad() { self.clone().with_edge(Edge::None) } else { self.clone() }
    }

    /// The sizes of a 1-D tensor.
    pub fn dims1(&self) -> Result<usize> {
        self.dims_n::<1>("dims1").map(|[a]| a)
    }

    /// The sizes of a 2-D tensor.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        self.dims_n::<2>("dims2").map(|[a, b]| (a, b))
    }

    /// The sizes of a 3-D tensor.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        self.dims_n::<3>("dims3").map(|[a, b, c]| (a, b, c))
    }

    /// The sizes of a 4-D tensor.
    pub fn dims4(&self) -> Result<(usize, usize, usize, usize)> {
        self.dims_n::<4>("dims4").map(|[a, b, c, d]| (a, b, c, d))
    }

    pub(crate) fn dims_n<const N: usize>(&self, op: &'static str) -> Result<[usize; N]> {
        self.dims()
            .try_into()
            .map_err(|_| Error::shape(op, &[self.shape()], format!("{N} dimensions are needed")))
    }

    /// The size of one dimension.
    pub fn dim(&self, dim: impl crate::Dim) -> Result<usize> {
        Ok(self.shape()[dim.index(self.shape(), "dim")?])
    }

    pub(crate) fn edge(&self) -> &Edge {
        &self.0.edge
    }

    pub(crate) fn with_edge(mut self, edge: Edge) -> Tensor {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.edge = edge;
            return self;
        }
        let Inner { storage, layout, dtype, .. } = &*self.0;
        let (storage, layout, dtype) = (storage.clone(), layout.clone(), *dtype);
        Tensor(Arc::new(Inner { storage, layout, dtype, edge }))
    }

    /// Another view of the same memory.
    pub(crate) fn with_layout(&self, layout: Layout) -> Tensor {
        Self::over(self.0.storage.clone(), layout, self.dtype())
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// True if both are views of the same memory.
    pub fn same_storage(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0.storage, &other.0.storage)
    }

    /// True if both are handles of the same tensor.
    pub(crate) fn is(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    pub(crate) fn storage_handles(&self) -> usize {
        Arc::strong_count(&self.0.storage)
    }

    /// True if nobody else can see this tensor's memory and it is contiguous: it may be written in place.
    pub(crate) fn is_owned(&self) -> bool {
        let whole = self.0.layout.offset == 0 && self.is_contiguous();
        whole && self.handles() == 1 && self.storage_handles() == 1
    }

    /// This tensor if it [is owned](Self::is_owned), else a copy.
    pub(crate) fn into_owned(self) -> Result<Tensor> {
        if self.is_owned() { Ok(self) } else { self.copy() }
    }
}

pub(crate) fn check_len(op: &'static str, shape: &Shape, len: usize) -> Result<()> {
    shape.check(op)?;
    if shape.elements() != len {
        return Err(Error::shape(op, &[shape], format!("{len} values were given for this shape")));
    }
    Ok(())
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn check_bytes(op: &'static str, shape: &Shape, dtype: DType, bytes: usize) -> Result<()> {
    shape.check(op)?;
    if bytes < shape.elements() * dtype.size() {
        let reason = format!("the buffer has {bytes} bytes, too few for {dtype} of this shape");
        return Err(Error::shape(op, &[shape], reason));
    }
    Ok(())
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor[{}; {}, {}]", self.shape(), self.dtype(), self.device())
    }
}

/// Tensors and devices are shared by threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Tensor>();
    shared::<Var>();
    shared::<Device>();
};
