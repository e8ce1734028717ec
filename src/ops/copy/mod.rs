//! Copies: contiguous memory, other dtypes, other devices, and assignment in place.

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
use crate::tensor::Data;
use crate::{DType, Device, Error, Result, Tensor};

/// Its input in row-major order, converted to `dtype`.
struct Copy {
    dtype: DType,
}

impl Op for Copy {
    fn name(&self) -> &'static str {
        "to_dtype"
    }

    fn any_dtype(&self) -> bool {
        true
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![cpu::converted(&x[0], self.dtype)?])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![cuda::converted(device, &x[0], self.dtype)?])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![wgpu::converted(device, &x[0], self.dtype)?])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::NOTHING)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?.to_dtype(ctx.input_dtype(0))?)])
    }
}

/// Its input on another device.
struct Transfer {
    to: Device,
    from: Device,
}

impl Transfer {
    fn run(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let out = crate::tensor::with_element!(x.dtype(), T => {
            Tensor::from_slice(&x.to_vec::<T>()?, x.shape(), &self.to)?
        });
        Ok(vec![out])
    }
}

impl Op for Transfer {
    fn name(&self) -> &'static str {
        "to_device"
    }

    fn any_dtype(&self) -> bool {
        true
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(&x[0])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, _device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(&x[0])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, _device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(&x[0])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::NOTHING)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?.to_device(&self.from)?)])
    }
}

impl Tensor {
    /// The same values converted to `dtype`: rounded to nearest even, or truncated and saturated
    /// when they become ids. A tensor of that dtype is returned as it is.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        if dtype == DType::F64 && !self.device().is_cpu() {
            let dtypes = [self.dtype(), dtype];
            return Err(Error::dtype("to_dtype", &dtypes, "f64 lives on the CPU only; use to_device first"));
        }
        // Ids carry no gradient.
        let input = if dtype.is_float() { self.clone() } else { self.detach() };
        apply1(Copy { dtype }, &[&input])
    }

    /// The same values in row-major order; a copy only if they are not.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }

    /// The same values in memory of their own.
    pub fn copy(&self) -> Result<Tensor> {
        apply1(Copy { dtype: self.dtype() }, &[self])
    }

    /// The same values on another device. From a GPU it waits for the values.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if *device == self.device() {
            return Ok(self.clone());
        }
        apply1(Transfer { to: device.clone(), from: self.device() }, &[self])
    }

    /// Overwrites this tensor's memory, and so every view of it, with `values` converted to its
    /// dtype. A graph that saved the old values refuses to run backward.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::DeviceMismatch`] if the devices do.
    pub fn assign(&self, values: &Tensor) -> Result<()> {
        if values.shape() != self.shape() {
            return Err(Error::shape("assign", &[self.shape(), values.shape()], "the shapes must be equal"));
        }
        if values.device() != self.device() {
            let (left, right) = (self.device().to_string(), values.device().to_string());
            return Err(Error::DeviceMismatch { op: "assign", left, right });
        }
        // Within one memory, reading and writing would mix.
        let values = if values.same_storage(self) { values.detach().copy()? } else { values.detach() };
        let values = crate::no_grad(|| values.to_dtype(self.dtype()))?;
        match &self.storage().data {
            Data::Cpu(_) => cpu::assign(self, &values),
            #[cfg(feature = "cuda")]
            Data::Cuda { device, .. } => cuda::assign(device, self, &values),
            #[cfg(feature = "wgpu")]
            Data::Wgpu { device, .. } => wgpu::assign(device, self, &values),
        }
    }
}
