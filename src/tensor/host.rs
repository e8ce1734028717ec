//! Between tensors and the host: constructors from values, values from tensors, device copies, and
//! the slices that CPU bodies work on.

use parking_lot::{MappedRwLockReadGuard, MappedRwLockWriteGuard, RwLockReadGuard, RwLockWriteGuard};

use super::{Data, IdRange, Tensor, check_len};
use crate::device::cpu::CpuVec;
#[cfg(feature = "cuda")]
use crate::device::cuda;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::{Buffer, WgpuDevice};
use crate::{DType, Device, Element, Error, Result, Shape};

/// Runs a block with `$t` as the Rust type of a dtype.
macro_rules! with_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::F16 => {
                type $t = half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            $crate::DType::U32 => {
                type $t = u32;
                $body
            }
        }
    };
}
pub(crate) use with_element;

impl Tensor {
    /// A tensor of `shape` with these values, in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many values as the shape has elements.
    pub fn from_slice<T: Element>(values: &[T], shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        check_len("from_slice", &shape, values.len())?;
        let tensor = match device {
            Device::Cpu => Tensor::from_cpu(CpuVec::copied(values)?, shape)?,
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                check_gpu_dtype("from_slice", T::DTYPE, device)?;
                let buffer = cuda.upload("from_slice", bytemuck::cast_slice(values))?;
                Tensor::from_cuda(cuda, buffer, shape, T::DTYPE)?
            }
            #[cfg(feature = "wgpu")]
            Device::Wgpu(wgpu) => {
                check_gpu_dtype("from_slice", T::DTYPE, device)?;
                let buffer = wgpu.upload("from_slice", bytemuck::cast_slice(values))?;
                Tensor::from_wgpu(wgpu, buffer, shape, T::DTYPE)?
            }
        };
        if T::DTYPE == DType::U32 {
            *tensor.storage().ids.lock() = Some(IdRange::of(bytemuck::cast_slice(values)));
        }
        Ok(tensor)
    }

    /// [`Tensor::from_slice`], as candle names it for a vector.
    pub fn from_vec<T: Element>(values: Vec<T>, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        Self::from_slice(&values, shape, device)
    }

    /// A 1-D tensor with these values.
    pub fn new<T: Element>(values: &[T], device: &Device) -> Result<Tensor> {
        Self::from_slice(values, values.len(), device)
    }

    /// All values in row-major order, converted to `T`; waits for the device.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let t = self.detach().contiguous()?;
        with_element!(t.dtype(), S => {
            let convert = |values: &[S]| -> Vec<T> {
                if S::DTYPE == T::DTYPE {
                    bytemuck::cast_slice(values).to_vec()
                } else {
                    values.iter().map(|v| T::from_f64(v.to_f64())).collect()
                }
            };
            match &t.storage().data {
                Data::Cpu(_) => Ok(convert(&t.cpu::<S>()?)),
                #[cfg(feature = "cuda")]
                Data::Cuda { device, .. } => {
                    let bytes = device.download(&t.cuda()?)?;
                    Ok(convert(&bytemuck::allocation::pod_collect_to_vec::<u8, S>(&bytes)))
                }
                #[cfg(feature = "wgpu")]
                Data::Wgpu { device, .. } => {
                    let bytes = device.download(&t.wgpu()?)?;
                    let size = t.elements() * t.dtype().size();
                    Ok(convert(&bytemuck::allocation::pod_collect_to_vec::<u8, S>(&bytes[..size])))
                }
            }
        })
    }

    /// The values of a 1-D tensor.
    pub fn to_vec1<T: Element>(&self) -> Result<Vec<T>> {
        self.dims_n::<1>("to_vec1")?;
        self.to_vec()
    }

    /// The values of a 2-D tensor, row by row.
    pub fn to_vec2<T: Element>(&self) -> Result<Vec<Vec<T>>> {
        let [rows, columns] = self.dims_n::<2>("to_vec2")?;
        let values = self.to_vec()?;
        Ok((0..rows).map(|r| values[r * columns..][..columns].to_vec()).collect())
    }

    /// The value of a tensor with one element, of any shape.
    pub fn to_scalar<T: Element>(&self) -> Result<T> {
        if self.elements() != 1 {
            return Err(Error::shape("to_scalar", &[self.shape()], "one element is needed"));
        }
        Ok(self.to_vec()?[0])
    }

    /// The CPU values of a contiguous tensor, for an op's body.
    ///
    /// # Errors
    /// [`Error::DType`] if `T` is not the dtype, [`Error::NoDevice`] if the tensor is elsewhere.
    pub fn cpu<T: Element>(&self) -> Result<MappedRwLockReadGuard<'_, [T]>> {
        debug_assert!(self.is_contiguous());
        self.cpu_strided()
    }

    /// The CPU values from this view's first element to its last, to be walked by its strides.
    pub fn cpu_strided<T: Element>(&self) -> Result<MappedRwLockReadGuard<'_, [T]>> {
        self.check_element::<T>()?;
        match &self.storage().data {
            Data::Cpu(memory) => {
                let (start, end) = self.span();
                // One tensor may be two operands of an op, so that a thread reads it twice.
                Ok(RwLockReadGuard::map(memory.read_recursive(), |m| &m.as_slice()[start..end]))
            }
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => Err(self.wrong_device("the CPU")),
        }
    }

    /// [`Tensor::cpu_strided`] for writing in place.
    pub(crate) fn cpu_mut<T: Element>(&self) -> Result<MappedRwLockWriteGuard<'_, [T]>> {
        self.check_element::<T>()?;
        match &self.storage().data {
            Data::Cpu(memory) => {
                self.storage().written();
                let (start, end) = self.span();
                Ok(RwLockWriteGuard::map(memory.write(), |m| &mut m.as_mut_slice()[start..end]))
            }
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => Err(self.wrong_device("the CPU")),
        }
    }

    /// The memory of the elements of a contiguous view on wgpu, for an op's body.
    ///
    /// A view that is not contiguous, or does not start where a binding may, is copied first.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the tensor is elsewhere.
    #[cfg(feature = "wgpu")]
    pub fn wgpu(&self) -> Result<Buffer> {
        let offset = self.layout().offset * self.dtype().size();
        if !self.is_contiguous() || !offset.is_multiple_of(crate::device::wgpu::ALIGNMENT as usize) {
            return self.detach().copy()?.wgpu_storage();
        }
        let buffer = self.wgpu_storage()?;
        let bytes = self.elements() * self.dtype().size();
        match (offset, bytes) {
            (0, _) if bytes == buffer.bytes() => Ok(buffer),
            // Bindings are whole words; what lies behind an odd half is never read.
            _ => buffer.slice(offset, bytes.next_multiple_of(4).min(buffer.bytes() - offset)),
        }
    }

    /// What a binding shows of this view, and the place of the view's first element in it: the whole storage if it can
    /// be bound, else the part of it that the view spans, from where a binding may start.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the tensor is elsewhere.
    #[cfg(feature = "wgpu")]
    pub fn wgpu_window(&self) -> Result<(Buffer, usize)> {
        let (buffer, (start, end)) = (self.wgpu_storage()?, self.span());
        if buffer.bytes() <= self.wgpu_device()?.max_binding_bytes() {
            return Ok((buffer, self.layout().offset));
        }
        let size = self.dtype().size();
        let first = (start * size) & !(crate::device::wgpu::ALIGNMENT as usize - 1);
        let bytes = (end * size - first).next_multiple_of(4).min(buffer.bytes() - first);
        Ok((buffer.slice(first, bytes)?, start - first / size))
    }

    /// The memory of the whole storage on wgpu; the view's first element is at `layout().offset`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the tensor is elsewhere.
    #[cfg(feature = "wgpu")]
    pub fn wgpu_storage(&self) -> Result<Buffer> {
        match &self.storage().data {
            Data::Wgpu { buffer, .. } => Ok(buffer.read().clone()),
            _ => Err(self.wrong_device("wgpu")),
        }
    }

    #[cfg(feature = "wgpu")]
    pub(crate) fn wgpu_device(&self) -> Result<WgpuDevice> {
        match &self.storage().data {
            Data::Wgpu { device, .. } => Ok(device.clone()),
            _ => Err(self.wrong_device("wgpu")),
        }
    }

    fn span(&self) -> (usize, usize) {
        match self.layout().end() {
            0 => (0, 0),
            end => (self.layout().offset, end),
        }
    }

    /// The memory of the elements of a contiguous view on a CUDA device, for an op's body. A view that is not
    /// contiguous is copied first.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the tensor is elsewhere.
    #[cfg(feature = "cuda")]
    pub fn cuda(&self) -> Result<cuda::Buffer> {
        if self.is_contiguous() { self.cuda_strided() } else { self.detach().copy()?.cuda_storage() }
    }

    /// The memory from this view's first element to its last on a CUDA device, to be walked by its strides.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the tensor is elsewhere.
    #[cfg(feature = "cuda")]
    pub fn cuda_strided(&self) -> Result<cuda::Buffer> {
        let (size, (start, end)) = (self.dtype().size(), self.span());
        self.cuda_storage()?.slice(start * size, (end - start) * size)
    }

    /// The memory of the whole storage on a CUDA device; the view's first element is at `layout().offset`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the tensor is elsewhere.
    #[cfg(feature = "cuda")]
    pub fn cuda_storage(&self) -> Result<cuda::Buffer> {
        match &self.storage().data {
            Data::Cuda { buffer, .. } => Ok(buffer.clone()),
            _ => Err(self.wrong_device("CUDA")),
        }
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn wrong_device(&self, requested: &str) -> Error {
        let reason = format!("the tensor is on {}", self.device());
        Error::NoDevice { requested: requested.into(), reason }
    }

    fn check_element<T: Element>(&self) -> Result<()> {
        if T::DTYPE != self.dtype() {
            let reason = format!("the elements were asked for as {}", T::DTYPE);
            return Err(Error::dtype("slice", &[self.dtype()], reason));
        }
        Ok(())
    }
}

/// GPUs get no f64: wgpu has none, and CUDA's kernels are none of them written for it.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) fn check_gpu_dtype(op: &'static str, dtype: DType, device: &Device) -> Result<()> {
    if dtype == DType::F64 && !device.is_cpu() {
        return Err(Error::dtype(op, &[dtype], "f64 lives on the CPU only; use to_dtype first"));
    }
    Ok(())
}
