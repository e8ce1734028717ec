//! Constructors: constants, ranges and random numbers.

#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::tensor::host::check_gpu_dtype;
use crate::device::cpu::CpuVec;
use crate::tensor::{IdRange, with_element};
use crate::{DType, Device, Element, Error, Result, Shape, Tensor};

impl Tensor {
    /// Memory with arbitrary contents, for an op that writes all of it.
    pub(crate) fn uninit(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        shape.check("uninit")?;
        match device {
            Device::Cpu => {
                with_element!(dtype, T => Tensor::from_cpu(CpuVec::<T>::new(shape.elements())?, shape))
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let buffer = cuda.alloc("uninit", shape.elements() * dtype.size())?;
                Tensor::from_cuda(cuda, buffer, shape, dtype)
            }
            #[cfg(feature = "wgpu")]
            Device::Wgpu(wgpu) => crate::ops::launch::wgpu::output("uninit", wgpu, &shape, dtype),
        }
    }

    /// All zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        Self::full(0.0, shape, dtype, device)
    }

    /// All ones.
    pub fn ones(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        Self::full(1.0, shape, dtype, device)
    }

    /// Zeros of this tensor's shape and dtype, on its device.
    pub fn zeros_like(&self) -> Result<Tensor> {
        Self::zeros(self.shape(), self.dtype(), &self.device())
    }

    /// Ones of this tensor's shape and dtype, on its device.
    pub fn ones_like(&self) -> Result<Tensor> {
        Self::ones(self.shape(), self.dtype(), &self.device())
    }

    /// `value` everywhere.
    pub fn full(value: f64, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        shape.check("full")?;
        let tensor = match device {
            Device::Cpu => with_element!(dtype, T => {
                Tensor::from_cpu(CpuVec::filled(shape.elements(), T::from_f64(value))?, shape)?
            }),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                check_gpu_dtype("full", dtype, device)?;
                if value == 0.0 && value.is_sign_positive() {
                    let tensor = Tensor::uninit(shape, dtype, device)?;
                    cuda.fill_zero(&tensor.cuda()?)?;
                    tensor
                } else {
                    let one =
                        with_element!(dtype, T => Tensor::from_slice(&[T::from_f64(value)], (), device)?);
                    one.broadcast_as(shape)?.copy()?
                }
            }
            #[cfg(feature = "wgpu")]
            Device::Wgpu(gpu) => {
                check_gpu_dtype("full", dtype, device)?;
                with_element!(dtype, T => {
                    wgpu::full("full", gpu, bytemuck::bytes_of(&T::from_f64(value)), &shape, dtype)?
                })
            }
        };
        if dtype == DType::U32 {
            let value = Some(u32::from_f64(value));
            *tensor.storage().ids.lock() = Some(IdRange { largest: value, second: None });
        }
        Ok(tensor)
    }

    /// `start, start + 1, ...` up to but without `end`; empty if `end <= start`.
    pub fn arange(start: u32, end: u32, device: &Device) -> Result<Tensor> {
        Self::new(&(start..end).collect::<Vec<_>>(), device)
    }

    /// Uniform random numbers in `[low, high)`, a function of the device's seed alone: the same bits
    /// on every device. Each call takes the next stream ([`Device::set_seed`]).
    pub fn rand(
        low: f64,
        high: f64,
        shape: impl Into<Shape>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let stream = device.next_stream();
        Self::random("rand", shape, dtype, device, |out| stream.fill_uniform(low, high, out), |out| {
            stream.fill_uniform(low, high, out)
        })
    }

    /// Normal random numbers, by Box and Muller's method from the same bits as [`Tensor::rand`].
    /// They are drawn on the host, because logarithms and cosines differ in the last bit between
    /// devices.
    pub fn randn(
        mean: f64,
        std: f64,
        shape: impl Into<Shape>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let stream = device.next_stream();
        Self::random("randn", shape, dtype, device, |out| stream.fill_normal(mean, std, out), |out| {
            stream.fill_normal(mean, std, out)
        })
    }

    /// Draws on the host, in f64 for f64 and in f32 for every other type.
    fn random(
        op: &'static str,
        shape: impl Into<Shape>,
        dtype: DType,
        device: &Device,
        draw_f32: impl FnOnce(&mut [f32]),
        draw_f64: impl FnOnce(&mut [f64]),
    ) -> Result<Tensor> {
        let shape = shape.into();
        shape.check(op)?;
        if !dtype.is_float() {
            return Err(Error::dtype(op, &[dtype], "random numbers are floats"));
        }
        let values = if dtype == DType::F64 {
            let mut values = CpuVec::<f64>::new(shape.elements())?;
            draw_f64(&mut values);
            Tensor::from_cpu(values, shape)?
        } else {
            let mut values = CpuVec::<f32>::new(shape.elements())?;
            draw_f32(&mut values);
            Tensor::from_cpu(values, shape)?
        };
        values.to_dtype(dtype)?.to_device(device)
    }
}
