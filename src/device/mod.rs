//! Where memory lives and kernels run. Nothing here knows an op.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) mod cache;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod kernel;
mod profile;
#[cfg(all(test, any(feature = "cuda-sim", feature = "wgpu")))]
mod table;
#[cfg(feature = "wgpu")]
pub mod wgpu;

use std::fmt;

use parking_lot::Mutex;

pub use profile::{HostCost, KernelCost, Profile, Profiling};

use crate::random::Stream;
use crate::{DType, Error, Result};
#[cfg(feature = "cuda")]
use cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use wgpu::WgpuDevice;

/// Where a tensor's memory lives and its kernels run. Cloning is cheap.
#[derive(Clone, Debug, PartialEq)]
pub enum Device {
    /// The processor and its memory.
    Cpu,
    /// An NVIDIA GPU through CUDA, or the simulator of one.
    #[cfg(feature = "cuda")]
    Cuda(CudaDevice),
    /// A GPU, or a software adapter.
    #[cfg(feature = "wgpu")]
    Wgpu(WgpuDevice),
}

/// Bytes of device memory, rounded up to the pool's size classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Held by tensors.
    pub in_use: u64,
    /// Kept for reuse; [`Device::release_memory`] hands it back.
    pub cached: u64,
    /// The most that both have been together.
    pub peak: u64,
}

impl Device {
    /// The best device of this machine: an NVIDIA GPU through CUDA, else a real GPU through wgpu, else the CPU. A
    /// software Vulkan adapter is never chosen here; ask for it with [`Device::wgpu`].
    pub fn best() -> Device {
        #[cfg(feature = "cuda")]
        if let Ok(device) = Device::cuda(0) {
            return device;
        }
        #[cfg(feature = "wgpu")]
        if let Ok(device) = Device::wgpu("") {
            return device;
        }
        Device::Cpu
    }

    /// A GPU through wgpu (Vulkan, Metal or Direct3D 12).
    ///
    /// `selector` is empty for the first real GPU, `software` for a software adapter such as
    /// lavapipe, a number as listed by [`WgpuDevice::adapters`], or a part of the adapter's name.
    ///
    /// # Errors
    /// [`Error::NoDevice`], with the adapters there are.
    #[cfg(feature = "wgpu")]
    pub fn wgpu(selector: &str) -> Result<Device> {
        Ok(Device::Wgpu(WgpuDevice::new(&selector.into())?))
    }

    /// The NVIDIA GPU that CUDA numbers `ordinal`.
    ///
    /// # Errors
    /// As [`CudaDevice::new`]: [`Error::NoDevice`], with what to install, without a driver, the compiler
    /// NVRTC, or such a GPU.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device::Cuda(CudaDevice::new(ordinal)?))
    }

    /// A simulated NVIDIA GPU, on which the CUDA kernels run, checked and counted, on the processor: see
    /// [`cuda::sim`]. It needs NVRTC, but neither a GPU nor a driver.
    ///
    /// # Errors
    /// [`Error::NoDevice`] without NVRTC.
    #[cfg(feature = "cuda-sim")]
    pub fn cuda_sim() -> Result<Device> {
        Ok(Device::Cuda(CudaDevice::simulated(cuda::sim::Options::default(), 108)?))
    }

    /// True for [`Device::Cpu`].
    pub fn is_cpu(&self) -> bool {
        matches!(self, Device::Cpu)
    }

    /// The type in which kernels of this device take tensors of `dtype`. Others are widened before
    /// a kernel and rounded once after it.
    pub fn compute_dtype(&self, dtype: DType) -> DType {
        match (self, dtype) {
            #[cfg(feature = "wgpu")]
            (Device::Wgpu(device), DType::F16) if device.has_f16() => DType::F16,
            #[cfg(feature = "cuda")]
            (Device::Cuda(_), DType::F16 | DType::BF16) => dtype,
            (_, DType::F16 | DType::BF16) => DType::F32,
            _ => dtype,
        }
    }

    /// Restarts this device's random numbers: everything random that follows is a function of `seed`.
    pub fn set_seed(&self, seed: u64) {
        *self.generator().lock() = Stream { seed, offset: 0 };
    }

    /// The stream for the next random op; each call gives a new one.
    pub(crate) fn next_stream(&self) -> Stream {
        let mut generator = self.generator().lock();
        let stream = *generator;
        generator.offset = generator.offset.wrapping_add(1);
        stream
    }

    /// Where the random numbers stand; [`Device::set_generator`] continues from there.
    pub fn generator_state(&self) -> Stream {
        *self.generator().lock()
    }

    /// Continues the random numbers from a state that [`Device::generator_state`] gave.
    pub fn set_generator(&self, state: Stream) {
        *self.generator().lock() = state;
    }

    fn generator(&self) -> &Mutex<Stream> {
        static CPU: Mutex<Stream> = Mutex::new(Stream { seed: 0, offset: 0 });
        match self {
            Device::Cpu => &CPU,
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => device.generator(),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => device.generator(),
        }
    }

    /// Memory of this device held by this process's tensors and pool.
    pub fn memory(&self) -> MemoryStats {
        match self {
            Device::Cpu => cpu::stats(),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => device.memory(),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => device.memory(),
        }
    }

    /// Hands cached memory back to the system or driver.
    ///
    /// # Errors
    /// An error that queued work has met.
    pub fn release_memory(&self) -> Result<()> {
        match self {
            Device::Cpu => {
                cpu::release();
                Ok(())
            }
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => device.release_memory(),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => device.release_memory(),
        }
    }

    /// Measures from here on what `profiling` says, and forgets what was measured before.
    ///
    /// # Errors
    /// [`Error::NotSupported`] on devices that cannot: so far all but wgpu's, and for [`Profiling::Kernels`] those of
    /// wgpu's that have no timestamps.
    pub fn profile(&self, profiling: Profiling) -> Result<()> {
        match self {
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => device.profile(profiling),
            _ if profiling == Profiling::Off => Ok(()),
            _ => Err(Error::NotSupported { op: "profile", device: self.to_string() }),
        }
    }

    /// What was measured since [`Device::profile`] or the last call. Waits for queued work if kernels are measured; what the host does
    /// later for commands that were recorded before counts as later.
    ///
    /// # Errors
    /// [`Error::NotSupported`] on devices that cannot be measured; an error that queued work has met.
    pub fn take_profile(&self) -> Result<Profile> {
        match self {
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => device.take_profile(),
            _ => Err(Error::NotSupported { op: "profile", device: self.to_string() }),
        }
    }

    /// Waits until all queued work is done, and returns the first error it met.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => device.synchronize(),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => device.synchronize(),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => device.fmt(f),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => device.fmt(f),
        }
    }
}
