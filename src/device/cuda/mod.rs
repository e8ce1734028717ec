//! NVIDIA GPUs: memory, compiled kernels and a stream. Knows no op.
//!
//! CUDA's driver and NVRTC, its compiler, are loaded when the first device is opened: nothing of CUDA is
//! needed to build. Calls queue work and return; only [`CudaDevice::download`] and
//! [`CudaDevice::synchronize`] wait. The parts: `driver` is the seam behind which a GPU (`hardware`) or, with
//! the feature `cuda-sim`, a simulator ([`sim`]) runs the kernels; `compile` makes them and keeps them on disk.

mod compile;
mod driver;
mod hardware;
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) mod resources;
#[cfg(feature = "cuda-sim")]
pub mod sim;
#[cfg(feature = "cuda-sim")]
mod simulated;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bytemuck::NoUninit;
use parking_lot::Mutex;
use smallvec::SmallVec;

pub use super::kernel::{Constant, Kernel};
pub(crate) use compile::cuda_source;
pub use driver::Grid;
use driver::{Driver, Fault, Function, Properties};
use hardware::Hardware;

use crate::device::MemoryStats;
use crate::random::Stream;
use crate::{Error, Result};

/// The PTX of `kernel`, compiled for the [architecture](sim::Architecture) that is simulated by default: what [`sim::Simulator::load`] takes.
///
/// [`CudaDevice::launch`] does this by itself. The way by hand, through a [`sim::Simulator`], gives more: blocks
/// of several dimensions, parameters of any types, the [counters](sim::Counters) of each launch and
/// [reports](sim::Report) as data.
///
/// # Errors
/// [`Error::NoDevice`] without NVRTC, [`Error::Kernel`] with the
/// compiler's log.
#[cfg(feature = "cuda-sim")]
pub fn compile_ptx(kernel: &Kernel) -> Result<String> {
    let device = simulated::properties(sim::Architecture::default(), 1);
    let image = compile::image(kernel, &device)?;
    let refuse =
        |fault| Error::Kernel { kernel: kernel.name, device: device.name, reason: format!("{fault:?}") };
    simulated::ptx(&image).map(str::to_owned).map_err(refuse)
}

/// The oldest compute capability that the kernels are for, and that NVRTC 13 compiles for.
const OLDEST: (u32, u32) = (7, 5);

/// The compute capability from which on tensor cores multiply f32 rounded to TF32.
pub(crate) const TF32_SINCE: (u32, u32) = (8, 0);

/// A CUDA device: a GPU, or the simulator of one.
///
/// A handle: clones are the same device, and two devices are equal if they are clones. Threads may
/// share it; work runs in the order in which it was queued.
#[derive(Clone)]
pub struct CudaDevice(Arc<Inner>);

struct Inner {
    driver: Box<dyn Driver>,
    functions: Mutex<HashMap<Kernel, Function>>,
    /// The random numbers of this device, see `Device::set_seed`.
    generator: Mutex<Stream>,
    /// See [`CudaDevice::set_allow_tf32`].
    tf32: AtomicBool,
    /// See [`CudaDevice::set_multiprocessors`].
    multiprocessors: AtomicU32,
    in_use: AtomicU64,
    peak: AtomicU64,
    #[cfg(feature = "cuda-sim")]
    simulator: Option<sim::Simulator>,
}

impl Inner {
    fn over(driver: impl Driver + 'static) -> Self {
        Inner {
            multiprocessors: AtomicU32::new(driver.properties().multiprocessors),
            driver: Box::new(driver),
            functions: Mutex::default(),
            generator: Mutex::new(Stream { seed: 0, offset: 0 }),
            tf32: AtomicBool::new(false),
            in_use: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            #[cfg(feature = "cuda-sim")]
            simulator: None,
        }
    }
}

/// A buffer as a kernel uses it.
#[derive(Clone, Copy, Debug)]
pub enum Binding<'a> {
    /// `const T*`
    Read(&'a Buffer),
    /// `T*`
    Write(&'a Buffer),
    /// A null pointer, for what the kernel's constants say it does without.
    Absent,
}

impl<'a> Binding<'a> {
    /// [`Binding::Read`], or [`Binding::Absent`] without a buffer.
    pub fn read(buffer: Option<&'a Buffer>) -> Self {
        buffer.map_or(Binding::Absent, Binding::Read)
    }

    /// [`Binding::Write`], or [`Binding::Absent`] without a buffer.
    pub fn write(buffer: Option<&'a Buffer>) -> Self {
        buffer.map_or(Binding::Absent, Binding::Write)
    }
}

/// What `TILEWRIGHT_MULTIPROCESSORS` says, if it is set: see [`CudaDevice::set_multiprocessors`].
fn multiprocessors_from_environment() -> Result<Option<u32>> {
    let Ok(text) = std::env::var("TILEWRIGHT_MULTIPROCESSORS") else { return Ok(None) };
    match text.parse() {
        Ok(count) if count > 0 => Ok(Some(count)),
        _ => {
            let reason = format!("is `{text}`, and no number above 0");
            Err(Error::argument("cuda", "TILEWRIGHT_MULTIPROCESSORS", reason))
        }
    }
}

impl CudaDevice {
    /// The GPU that CUDA numbers `ordinal`.
    ///
    /// # Errors
    /// [`Error::NoDevice`], which says what to install, without a driver, NVRTC or such a device, with a driver or an
    /// NVRTC before CUDA 11.2, or with an NVRTC that is newer than what the driver loads; [`Error::Argument`] if
    /// `TILEWRIGHT_MULTIPROCESSORS` is set and no number above 0.
    pub fn new(ordinal: usize) -> Result<Self> {
        let hardware = Hardware::new(ordinal)?;
        let Properties { name, compute_capability: (major, minor), .. } = hardware.properties();
        if (*major, *minor) < OLDEST {
            let reason =
                format!("its compute capability is {major}.{minor}; 7.5 (Turing) is the oldest that will do");
            return Err(Error::NoDevice { requested: name.clone(), reason });
        }
        compile::Nvrtc::find(&hardware.properties().name)?.check_driver(hardware.properties())?;
        let device = CudaDevice(Arc::new(Inner::over(hardware)));
        if let Some(count) = multiprocessors_from_environment()? {
            device.set_multiprocessors(count);
        }
        Ok(device)
    }

    /// A simulated GPU with so many multiprocessors, by which ops choose how they cut their work.
    ///
    /// # Errors
    /// [`Error::NoDevice`], which says what to install, without NVRTC.
    #[cfg(feature = "cuda-sim")]
    pub fn simulated(options: sim::Options, multiprocessors: u32) -> Result<Self> {
        compile::Nvrtc::find("cuda-sim")?;
        let driver = simulated::Simulated::new(options, multiprocessors);
        let simulator = driver.simulator().clone();
        Ok(CudaDevice(Arc::new(Inner { simulator: Some(simulator), ..Inner::over(driver) })))
    }

    /// The simulator, with the counters of what ran on it; `None` on a GPU.
    #[cfg(feature = "cuda-sim")]
    pub fn simulator(&self) -> Option<&sim::Simulator> {
        self.0.simulator.as_ref()
    }

    /// True for a simulated GPU.
    pub fn is_simulated(&self) -> bool {
        #[cfg(feature = "cuda-sim")]
        return self.0.simulator.is_some();
        #[cfg(not(feature = "cuda-sim"))]
        false
    }

    fn properties(&self) -> &Properties {
        self.0.driver.properties()
    }

    /// Major and minor, as in `sm_86`.
    pub fn compute_capability(&self) -> (u32, u32) {
        self.properties().compute_capability
    }

    /// For how many streaming multiprocessors ops cut their work: those that there are, unless
    /// [`CudaDevice::set_multiprocessors`] has said otherwise.
    pub fn multiprocessors(&self) -> u32 {
        self.0.multiprocessors.load(Ordering::Relaxed)
    }

    /// Has ops cut their work as for so many multiprocessors (at least 1): of few, small tensors are computed in the ways
    /// of large ones, which tests make use of. Results change by the order of sums alone. The environment variable
    /// `TILEWRIGHT_MULTIPROCESSORS` says it for every GPU that is opened.
    pub fn set_multiprocessors(&self, count: u32) {
        self.0.multiprocessors.store(count.max(1), Ordering::Relaxed);
    }

    /// Bytes of the device's memory.
    pub fn total_memory(&self) -> u64 {
        self.properties().memory
    }

    /// Bytes of shared memory that one block may use.
    pub fn shared_per_block(&self) -> u32 {
        self.properties().shared_per_block
    }

    /// Whether products of f32 matrices may round their operands to TF32, 10 bits of mantissa, so that the tensor cores
    /// multiply them: several times faster, with errors of 2^-11 an operand instead of 2^-24. Sums stay f32. Off at
    /// first; attention is always in full precision.
    ///
    /// # Errors
    /// [`Error::Argument`] below compute capability 8.0, whose tensor cores do not have it.
    pub fn set_allow_tf32(&self, allow: bool) -> Result<()> {
        let (major, minor) = self.compute_capability();
        if allow && (major, minor) < TF32_SINCE {
            let reason = format!("needs compute capability 8.0, and {self} has {major}.{minor}");
            return Err(Error::argument("set_allow_tf32", "allow", reason));
        }
        self.0.tf32.store(allow, Ordering::Relaxed);
        Ok(())
    }

    /// See [`CudaDevice::set_allow_tf32`].
    pub fn allows_tf32(&self) -> bool {
        self.0.tf32.load(Ordering::Relaxed)
    }

    /// Memory for `bytes` bytes; its contents are unspecified.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], also for more than the device has at all.
    pub fn alloc(&self, op: &'static str, bytes: usize) -> Result<Buffer> {
        let size = (bytes as u64).max(1);
        if size > self.properties().memory {
            return Err(self.error(op, Fault::OutOfMemory(size)));
        }
        let address = self.0.driver.alloc(size).map_err(|fault| self.error(op, fault))?;
        let in_use = self.0.in_use.fetch_add(size, Ordering::Relaxed) + size;
        self.0.peak.fetch_max(in_use, Ordering::Relaxed);
        let lease = Arc::new(Lease { device: self.clone(), address, size });
        Ok(Buffer { lease, offset: 0, bytes })
    }

    /// Memory with these bytes.
    pub fn upload(&self, op: &'static str, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.alloc(op, bytes.len())?;
        if !bytes.is_empty() {
            self.0.driver.upload(buffer.address(), bytes).map_err(|fault| self.error(op, fault))?;
        }
        Ok(buffer)
    }

    /// The bytes of a buffer; waits for what was queued before.
    pub fn download(&self, buffer: &Buffer) -> Result<Vec<u8>> {
        self.own("download", buffer)?;
        let mut bytes = vec![0; buffer.bytes];
        if !bytes.is_empty() {
            let done = self.0.driver.download(buffer.address(), &mut bytes);
            done.map_err(|fault| self.error("download", fault))?;
        }
        Ok(bytes)
    }

    /// Sets all bytes to zero.
    pub fn fill_zero(&self, buffer: &Buffer) -> Result<()> {
        self.own("fill_zero", buffer)?;
        if buffer.bytes == 0 {
            return Ok(());
        }
        let done = self.0.driver.zero(buffer.address(), buffer.bytes as u64);
        done.map_err(|fault| self.error("fill_zero", fault))
    }

    /// Launches `kernel` on buffers and parameters, compiled at its first launch.
    ///
    /// The kernel must stay inside its buffers: only the simulator checks that. No thread runs if the grid
    /// is empty.
    ///
    /// # Errors
    /// [`Error::Kernel`] if it does not compile, if its parameters are others than the bindings and `params` (which
    /// drivers tell from CUDA 12.4 on; with an older one that is the caller's to see to), or if the simulator finds a
    /// fault in it;
    /// [`Error::DeviceLost`] if earlier work has broken the device.
    pub fn launch(
        &self,
        kernel: &Kernel,
        bindings: &[Binding<'_>],
        params: &impl NoUninit,
        grid: Grid,
    ) -> Result<()> {
        let mut pointers: SmallVec<[u64; 12]> = SmallVec::new();
        for binding in bindings {
            pointers.push(match binding {
                Binding::Read(buffer) | Binding::Write(buffer) => {
                    self.own(kernel.name, buffer)?;
                    buffer.address()
                }
                Binding::Absent => 0,
            });
        }
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let function = self.function(kernel)?;
        let mut arguments: SmallVec<[&[u8]; 13]> = pointers.iter().map(bytemuck::bytes_of).collect();
        arguments.push(bytemuck::bytes_of(params));
        self.0.driver.launch(function, grid, &arguments).map_err(|fault| self.kernel_error(kernel, fault))
    }

    fn function(&self, kernel: &Kernel) -> Result<Function> {
        if let Some(&function) = self.0.functions.lock().get(kernel) {
            return Ok(function);
        }
        // Without the lock: another thread may compile another kernel meanwhile, or, rarely, the same.
        let image = compile::image(kernel, self.properties())?;
        let loaded =
            self.0.driver.load(&image, kernel.entry).map_err(|fault| self.kernel_error(kernel, fault))?;
        Ok(*self.0.functions.lock().entry(kernel.clone()).or_insert(loaded))
    }

    /// Waits until all queued work is done, and returns an error that it met.
    pub fn synchronize(&self) -> Result<()> {
        self.0.driver.synchronize().map_err(|fault| self.error("synchronize", fault))
    }

    /// Hands cached memory back to the system.
    pub fn release_memory(&self) -> Result<()> {
        self.0.driver.release().map_err(|fault| self.error("release_memory", fault))
    }

    /// How much memory tensors hold, and how much the driver keeps for them.
    pub fn memory(&self) -> MemoryStats {
        let in_use = self.0.in_use.load(Ordering::Relaxed);
        MemoryStats { in_use, cached: self.0.driver.cached(), peak: self.0.peak.load(Ordering::Relaxed) }
    }

    pub(crate) fn generator(&self) -> &Mutex<Stream> {
        &self.0.generator
    }

    fn own(&self, op: &'static str, buffer: &Buffer) -> Result<()> {
        if buffer.lease.device == *self {
            return Ok(());
        }
        let (left, right) = (buffer.lease.device.to_string(), self.to_string());
        Err(Error::DeviceMismatch { op, left, right })
    }

    fn error(&self, op: &'static str, fault: Fault) -> Error {
        let device = self.to_string();
        match fault {
            Fault::OutOfMemory(bytes) => {
                Error::OutOfMemory { device, bytes, hint: "; release_memory() hands cached buffers back" }
            }
            Fault::HostMemory(bytes) => {
                let device = format!("the host, which pins memory for copies from and to {device}");
                Error::OutOfMemory { device, bytes, hint: "" }
            }
            Fault::Lost(reason) => Error::DeviceLost { device, reason },
            Fault::Refused(reason) => Error::Kernel { kernel: op, device, reason },
        }
    }

    fn kernel_error(&self, kernel: &Kernel, fault: Fault) -> Error {
        self.error(kernel.name, fault)
    }
}

impl PartialEq for CudaDevice {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Display for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.properties().name)
    }
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CudaDevice").field(&self.properties().name).finish()
    }
}

/// An allocation; dropping it frees the memory once the work queued so far is done.
struct Lease {
    device: CudaDevice,
    address: u64,
    size: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.device.0.driver.free(self.address);
        self.device.0.in_use.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// A piece of one device's memory. Clones and slices share it; the last one frees it.
#[derive(Clone)]
pub struct Buffer {
    lease: Arc<Lease>,
    offset: u64,
    bytes: usize,
}

impl Buffer {
    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the bytes are: a `CUdeviceptr`, for kernels of your own on the same device.
    pub fn address(&self) -> u64 {
        self.lease.address + self.offset
    }

    /// The `bytes` bytes from `offset` on, sharing this buffer's memory.
    ///
    /// # Errors
    /// [`Error::Argument`] if the range is not inside this buffer.
    pub fn slice(&self, offset: usize, bytes: usize) -> Result<Buffer> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let reason = format!("{bytes} at {offset} ends outside a buffer of {}", self.bytes);
            return Err(Error::argument("slice", "bytes", reason));
        }
        Ok(Buffer { lease: self.lease.clone(), offset: self.offset + offset as u64, bytes })
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("address", &format_args!("{:#x}", self.address()))
            .field("bytes", &self.bytes)
            .field("device", &self.lease.device)
            .finish()
    }
}
