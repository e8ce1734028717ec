//! The memory behind one or more tensors.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::Device;
use crate::device::cpu::Memory;
#[cfg(feature = "cuda")]
use crate::device::cuda::{self, CudaDevice};
#[cfg(feature = "wgpu")]
use crate::device::wgpu::{Buffer, WgpuDevice};

/// The memory of a tensor and of all its views.
///
/// The lock is what makes in-place updates (of parameters and gradients) safe in Rust's sense.
/// The memory may move to another place of the same device (into an optimizer's arena): every
/// view follows, because all of them come here for it.
pub(crate) struct Storage {
    pub data: Data,
    /// Of the tensor that it was made for. Its memory may be some bytes longer.
    pub elements: usize,
    /// Counts in-place writes, so that backward notices when a saved tensor has changed.
    version: AtomicU64,
    /// For u32 storage: what is known of its values (see `ops::index`).
    pub ids: Mutex<Option<IdRange>>,
}

pub(crate) enum Data {
    Cpu(RwLock<Memory>),
    /// Never moves: CUDA kernels reach any number of tensors through pointers.
    #[cfg(feature = "cuda")]
    Cuda {
        device: CudaDevice,
        buffer: cuda::Buffer,
    },
    #[cfg(feature = "wgpu")]
    Wgpu {
        device: WgpuDevice,
        buffer: RwLock<Buffer>,
    },
}

/// An upper bound of the values in u32 storage: the largest, and the largest below that one, which
/// is the bound once the largest turns out to be an ignore index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRange {
    pub largest: Option<u32>,
    pub second: Option<u32>,
}

impl IdRange {
    pub fn of(values: &[u32]) -> Self {
        let largest = values.iter().copied().max();
        let second = values.iter().copied().filter(|&v| Some(v) != largest).max();
        IdRange { largest, second }
    }

    pub fn below(bound: u32) -> Self {
        IdRange { largest: bound.checked_sub(1), second: bound.checked_sub(2) }
    }

    /// The largest value that is not `ignore`.
    pub fn largest_but(&self, ignore: Option<u32>) -> Option<u32> {
        if ignore.is_some() && self.largest == ignore { self.second } else { self.largest }
    }
}

impl Storage {
    pub fn cpu(memory: Memory, elements: usize) -> Self {
        Self::new(Data::Cpu(RwLock::new(memory)), elements)
    }

    #[cfg(feature = "wgpu")]
    pub fn wgpu(device: &WgpuDevice, buffer: Buffer, elements: usize) -> Self {
        Self::new(Data::Wgpu { device: device.clone(), buffer: RwLock::new(buffer) }, elements)
    }

    #[cfg(feature = "cuda")]
    pub fn cuda(device: &CudaDevice, buffer: cuda::Buffer, elements: usize) -> Self {
        Self::new(Data::Cuda { device: device.clone(), buffer }, elements)
    }

    fn new(data: Data, elements: usize) -> Self {
        Storage { data, elements, version: AtomicU64::new(0), ids: Mutex::new(None) }
    }

    pub fn device(&self) -> Device {
        match &self.data {
            Data::Cpu(_) => Device::Cpu,
            #[cfg(feature = "cuda")]
            Data::Cuda { device, .. } => Device::Cuda(device.clone()),
            #[cfg(feature = "wgpu")]
            Data::Wgpu { device, .. } => Device::Wgpu(device.clone()),
        }
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// To be called by whoever writes in place.
    pub fn written(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        *self.ids.lock() = None;
    }
}
