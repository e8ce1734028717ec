//! The little of a CUDA driver that this backend needs: the seam between the device, which is the same
//! everywhere, and what runs its kernels, a GPU ([`hardware`](super::hardware)) or a simulator.
//!
//! Everything is queued in one order. What returns data waits for it, and a fault of queued work shows at
//! the next call that notices it.

/// What a device is, as far as kernels are chosen and compiled by it.
#[derive(Clone, Debug)]
pub struct Properties {
    /// As errors and `Display` name it.
    pub name: String,
    /// Major and minor, as in `sm_86`.
    pub compute_capability: (u32, u32),
    /// What [`Driver::load`] takes.
    pub image: Image,
    /// Major and minor of the CUDA that the driver is of; none where there is no driver.
    pub cuda: Option<(i32, i32)>,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of device memory.
    pub memory: u64,
    /// Bytes of shared memory that a block may ask for, dynamic memory beyond 48 KiB included.
    pub shared_per_block: u32,
}

/// What NVRTC makes for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// Machine code of the device itself, which no driver need translate.
    Cubin,
    /// PTX.
    Ptx,
}

/// A fault as a driver tells it; [`CudaDevice`](super::CudaDevice) makes it an [`Error`](crate::Error).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No memory for so many bytes.
    OutOfMemory(u64),
    /// The host has no memory to pin for so many bytes on their way.
    HostMemory(u64),
    /// The device does not work any more, in the driver's words.
    Lost(String),
    /// One call was refused, and the device goes on.
    Refused(String),
}

/// A loaded kernel, as its driver numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(pub u64);

/// How a kernel is spread out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x (up to 2^31 - 1), y and z (up to 65535).
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

/// A device's driver.
pub trait Driver: Send + Sync {
    fn properties(&self) -> &Properties;

    /// The address of `bytes` (at least 1) of memory, a multiple of 256; its contents are unspecified.
    fn alloc(&self, bytes: u64) -> Result<u64, Fault>;

    /// Frees an allocation once the work queued so far is done.
    fn free(&self, address: u64);

    /// Queues a copy from the host. The source may change as soon as this returns.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), Fault>;

    /// Waits for the work queued so far, and copies to the host.
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault>;

    /// Queues zeros.
    fn zero(&self, at: u64, bytes: u64) -> Result<(), Fault>;

    /// Loads the function `entry` of an image made for [`Properties::image`].
    fn load(&self, image: &[u8], entry: &str) -> Result<Function, Fault>;

    /// Queues a launch. `arguments` are the bytes of each parameter of the function, in order.
    fn launch(&self, function: Function, grid: Grid, arguments: &[&[u8]]) -> Result<(), Fault>;

    /// Waits for the work queued so far.
    fn synchronize(&self) -> Result<(), Fault>;

    /// Bytes that the driver keeps for reuse.
    fn cached(&self) -> u64;

    /// Hands those bytes back to the system, once the work queued so far is done.
    fn release(&self) -> Result<(), Fault>;
}

/// Refuses arguments that are not the function's parameters, of so many bytes each: a driver would read beyond them.
pub fn check_arguments(entry: &str, parameters: &[usize], arguments: &[&[u8]]) -> Result<(), Fault> {
    if parameters.iter().copied().eq(arguments.iter().map(|bytes| bytes.len())) {
        return Ok(());
    }
    let given: Vec<usize> = arguments.iter().map(|bytes| bytes.len()).collect();
    Err(Fault::Refused(format!("`{entry}` takes arguments of {parameters:?} bytes, and got {given:?}")))
}
