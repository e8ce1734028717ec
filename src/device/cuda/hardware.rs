//! A GPU, through the CUDA driver, which is loaded when the first device is asked for.
//!
//! One stream per device keeps all work in order. Memory comes from the driver's stream-ordered pool, told
//! to keep what is freed. Host memory goes through pinned staging, because a copy from pageable memory
//! makes the driver wait.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_void};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use parking_lot::Mutex;

use super::driver::{Driver, Fault, Function, Grid, Image, Properties, check_arguments};
use crate::Error;

/// Bytes of one pinned staging block. Copies of more bytes go in pieces.
const STAGING: usize = 4 << 20;

/// Staging blocks that wait for the device to have read them. Whoever needs one more waits for the oldest.
const MOST_STAGING: usize = 8;

/// The CUDA versions from which on drivers have memory pools, and tell a function's parameters.
const HAS_POOLS: (i32, i32) = (11, 2);
const TELLS_PARAMETERS: (i32, i32) = (12, 4);

/// Shared memory that every function may use without asking for it.
const SHARED_DEFAULT: u32 = 48 << 10;

pub struct Hardware {
    properties: Properties,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pool: sys::CUmemoryPool,
    /// The oldest comes first.
    staging: Mutex<VecDeque<Staging>>,
    functions: Mutex<HashMap<u64, Loaded>>,
}

// SAFETY: the handles may be used by any thread: the driver locks, every method makes the context current
// on its thread first, and the staging blocks are behind a lock.
unsafe impl Send for Hardware {}
// SAFETY: as above.
unsafe impl Sync for Hardware {}

/// Pinned host memory, and the moment up to which the device may be reading it.
struct Staging {
    memory: *mut c_void,
    read: sys::CUevent,
}

/// What is known of a function.
struct Loaded {
    entry: String,
    /// Bytes of each parameter, where the driver tells them.
    parameters: Option<Vec<usize>>,
    /// Dynamic shared memory that it has been allowed so far.
    shared: u32,
}

impl Hardware {
    /// The GPU that CUDA numbers `ordinal`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] without a driver, without such a device, or with a driver that has no memory
    /// pools (before CUDA 11.2).
    pub fn new(ordinal: usize) -> crate::Result<Self> {
        let refuse = |reason: String| Error::NoDevice { requested: format!("cuda:{ordinal}"), reason };
        // SAFETY: looking for a library runs its initialisers; the driver's are made for that.
        if !unsafe { sys::is_culib_present() } {
            return Err(refuse("no CUDA driver on this machine; install NVIDIA's driver (libcuda)".into()));
        }
        // Every driver tells it. Of functions that one does not have the binding would panic.
        let version = driver_version().map_err(|error| refuse(words(error)))?;
        if version < HAS_POOLS {
            let (major, minor) = version;
            return Err(refuse(format!(
                "the driver is of CUDA {major}.{minor}; 11.2 is the oldest that will do"
            )));
        }
        Self::open(ordinal, version).map_err(|error| refuse(words(error)))
    }

    fn open(ordinal: usize, version: (i32, i32)) -> Result<Self, DriverError> {
        result::init()?;
        let device = result::device::get(ordinal.try_into().unwrap_or(i32::MAX))?;
        let name = result::device::get_name(device)?;
        // SAFETY: `device` comes from the driver; the primary context, once retained, lives until `drop`
        // releases it, and is current while the stream and the pool are made.
        unsafe {
            let attribute = |a| result::device::get_attribute(device, a).map(|value| value as u32);
            use sys::CUdevice_attribute as A;
            let compute_capability = (
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            );
            let properties = Properties {
                name: format!("cuda:{ordinal} ({name})"),
                compute_capability,
                image: Image::Cubin,
                cuda: Some(version),
                multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                memory: result::device::total_mem(device)? as u64,
                shared_per_block: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            };
            let pool = result::device::get_default_mem_pool(device)?;
            let mut keep = u64::MAX;
            result::mem_pool::set_attribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut keep).cast(),
            )?;
            let context = result::primary_ctx::retain(device)?;
            let stream = current(context, || result::stream::create(result::stream::StreamKind::NonBlocking));
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    // The error that made this fail is the one to tell.
                    let _ = result::primary_ctx::release(device);
                    return Err(error);
                }
            };
            let (staging, functions) = Default::default();
            Ok(Hardware { properties, device, context, stream, pool, staging, functions })
        }
    }

    /// Runs `f` with the context current on this thread.
    fn with<T>(&self, f: impl FnOnce() -> Result<T, DriverError>) -> Result<T, Fault> {
        // SAFETY: the context lives as long as `self`.
        unsafe { current(self.context, f) }.map_err(fault)
    }

    /// A staging block that the device has read, or a new one; of many, the one that it reads next, once it has.
    fn staging(&self) -> Result<Staging, Fault> {
        let oldest = {
            let mut waiting = self.staging.lock();
            // SAFETY: the events are ours.
            let is_read = |s: &Staging| self.with(|| unsafe { result::event::query(s.read) }).is_ok();
            let take = waiting.len() >= MOST_STAGING || waiting.front().is_some_and(is_read);
            if take { waiting.pop_front() } else { None }
        };
        match oldest {
            Some(block) => self.when_read(block),
            None => match self.new_staging() {
                // The host has no more to pin: what there is serves in turn.
                Err(Fault::HostMemory(bytes)) => {
                    let oldest = self.staging.lock().pop_front();
                    oldest.map_or(Err(Fault::HostMemory(bytes)), |block| self.when_read(block))
                }
                other => other,
            },
        }
    }

    /// The block, once the device has read it.
    fn when_read(&self, block: Staging) -> Result<Staging, Fault> {
        // SAFETY: the event is ours.
        match self.with(|| unsafe { result::event::synchronize(block.read) }) {
            Ok(()) => Ok(block),
            Err(fault) => {
                self.staging.lock().push_back(block);
                Err(fault)
            }
        }
    }

    fn new_staging(&self) -> Result<Staging, Fault> {
        // SAFETY: freed by `free_staging`.
        let read = self.with(|| result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        self.with(|| unsafe { result::malloc_host(STAGING, 0) })
            .map(|memory| Staging { memory, read })
            .map_err(|fault| {
                let _ = self.with(|| unsafe { result::event::destroy(read) });
                match fault {
                    Fault::OutOfMemory(_) => Fault::HostMemory(STAGING as u64),
                    other => other,
                }
            })
    }

    /// Gives the staging blocks back that wait, once the device has read them.
    fn free_staging(&self) -> Result<(), Fault> {
        let blocks = std::mem::take(&mut *self.staging.lock());
        self.with(|| {
            let free = |Staging { memory, read }: Staging| {
                // SAFETY: both are ours, and nobody reads the block any more.
                let [done, memory, event] = unsafe {
                    [
                        result::event::synchronize(read),
                        result::free_host(memory),
                        result::event::destroy(read),
                    ]
                };
                done.and(memory).and(event)
            };
            // All of them, whatever becomes of one.
            blocks.into_iter().map(free).fold(Ok(()), Result::and)
        })
    }

    /// Bytes of each parameter of a function, if the driver tells them.
    fn parameters(&self, function: sys::CUfunction) -> Result<Option<Vec<usize>>, Fault> {
        if self.properties.cuda < Some(TELLS_PARAMETERS) {
            return Ok(None);
        }
        let mut parameters = Vec::new();
        loop {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: two integers are written, unless there is no such parameter.
            let told = self.with(|| unsafe {
                match sys::cuFuncGetParamInfo(function, parameters.len(), &mut offset, &mut size) {
                    sys::CUresult::CUDA_ERROR_INVALID_VALUE => Ok(false),
                    other => other.result().map(|()| true),
                }
            })?;
            match told {
                true => parameters.push(size),
                false => return Ok(Some(parameters)),
            }
        }
    }
}

/// Major and minor of the CUDA that the driver is of.
fn driver_version() -> Result<(i32, i32), DriverError> {
    let mut version = 0;
    // SAFETY: an integer is written.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok((version / 1000, version % 1000 / 10))
}

/// Runs `f` with this context current on this thread, and leaves the one that was current before: other users of CUDA
/// in this process may count on theirs.
///
/// # Safety
/// The context must be alive.
unsafe fn current<T>(
    context: sys::CUcontext,
    f: impl FnOnce() -> Result<T, DriverError>,
) -> Result<T, DriverError> {
    // SAFETY: as the caller promises.
    unsafe { sys::cuCtxPushCurrent_v2(context) }.result()?;
    let done = f();
    let mut popped = std::ptr::null_mut();
    // SAFETY: a handle is written.
    let left = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) }.result();
    done.and_then(|value| left.map(|()| value))
}

impl Drop for Hardware {
    fn drop(&mut self) {
        // After a fault the driver refuses all of this, and there is nobody left to tell.
        let _ = self.synchronize();
        let _ = self.free_staging();
        // SAFETY: everything that used these handles went before.
        unsafe {
            let _ = self.with(|| result::stream::destroy(self.stream));
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Driver for Hardware {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        // SAFETY: all uses of the memory are on this stream.
        self.with(|| unsafe { result::malloc_async(self.stream, bytes as usize) })
            .map_err(|fault| sized(fault, bytes))
    }

    fn free(&self, address: u64) {
        // An error here is one that earlier work has met, and every later call tells it too.
        // SAFETY: the address came from `alloc`, and its last user is queued.
        let _ = self.with(|| unsafe { result::free_async(address, self.stream) });
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        for (i, piece) in bytes.chunks(STAGING).enumerate() {
            let staging = self.staging()?;
            // SAFETY: the staging block holds the piece until the event says that it was read.
            let copied = self.with(|| unsafe {
                let pinned = std::slice::from_raw_parts_mut(staging.memory.cast::<u8>(), piece.len());
                pinned.copy_from_slice(piece);
                result::memcpy_htod_async(to + (i * STAGING) as u64, pinned, self.stream)
                    .and_then(|()| result::event::record(staging.read, self.stream))
            });
            self.staging.lock().push_back(staging);
            copied?;
        }
        Ok(())
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        for (i, piece) in bytes.chunks_mut(STAGING).enumerate() {
            let staging = self.staging()?;
            // SAFETY: the device has written the staging block when the stream is done.
            let copied = self.with(|| unsafe {
                let pinned = std::slice::from_raw_parts_mut(staging.memory.cast::<u8>(), piece.len());
                result::memcpy_dtoh_async(pinned, from + (i * STAGING) as u64, self.stream)
                    .and_then(|()| result::stream::synchronize(self.stream))
                    .map(|()| piece.copy_from_slice(pinned))
            });
            self.staging.lock().push_front(staging);
            copied?;
        }
        Ok(())
    }

    fn zero(&self, at: u64, bytes: u64) -> Result<(), Fault> {
        // SAFETY: the caller's buffer is live, and freed in this stream's order.
        self.with(|| unsafe { result::memset_d8_async(at, 0, bytes as usize, self.stream) })
    }

    fn load(&self, image: &[u8], entry: &str) -> Result<Function, Fault> {
        // PTX is read up to a NUL; machine code knows its own size.
        let image = [image, b"\0"].concat();
        let name = CString::new(entry).map_err(|error| Fault::Refused(error.to_string()))?;
        // SAFETY: the image is whole. The module is never unloaded: it goes with the context.
        let function = self
            .with(|| unsafe {
                let module = result::module::load_data(image.as_ptr().cast())?;
                result::module::get_function(module, name)
            })
            .map_err(|fault| sized(fault, image.len() as u64))?;
        let parameters = self.parameters(function)?;
        let loaded = Loaded { entry: entry.to_owned(), parameters, shared: SHARED_DEFAULT };
        self.functions.lock().insert(function as u64, loaded);
        Ok(Function(function as u64))
    }

    fn launch(&self, function: Function, grid: Grid, arguments: &[&[u8]]) -> Result<(), Fault> {
        let raw = function.0 as sys::CUfunction;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(|a| a.as_ptr() as *mut c_void).collect();
        let [x, y, z] = grid.blocks;
        let mut functions = self.functions.lock();
        let Some(loaded) = functions.get_mut(&function.0) else {
            return Err(Fault::Refused("the function is not one of this device's".into()));
        };
        if let Some(parameters) = &loaded.parameters {
            check_arguments(&loaded.entry, parameters, arguments)?;
        }
        let allowed = &mut loaded.shared;
        self.with(|| {
            // SAFETY: the function is loaded, the driver copies the arguments before it returns and does
            // not write to them, and ops launch only kernels that stay inside their buffers.
            unsafe {
                if grid.shared > *allowed {
                    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    let (attribute, bytes) = (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, grid.shared);
                    result::function::set_function_attribute(raw, attribute, bytes as i32)?;
                    *allowed = bytes;
                }
                let block = (grid.threads, 1, 1);
                result::launch_kernel(raw, (x, y, z), block, grid.shared, self.stream, &mut pointers)
            }
        })
    }

    fn synchronize(&self) -> Result<(), Fault> {
        // SAFETY: the stream lives as long as `self`.
        self.with(|| unsafe { result::stream::synchronize(self.stream) })
    }

    fn cached(&self) -> u64 {
        use sys::CUmemPool_attribute as A;
        let attribute = |attribute| {
            let mut value = 0u64;
            // SAFETY: these attributes are 64-bit counts.
            self.with(|| unsafe {
                result::mem_pool::get_attribute(self.pool, attribute, (&raw mut value).cast())
            })
            .map(|()| value)
        };
        let reserved = attribute(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        let used = attribute(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
        reserved.unwrap_or(0).saturating_sub(used.unwrap_or(0))
    }

    fn release(&self) -> Result<(), Fault> {
        self.synchronize()?;
        self.free_staging()?;
        // SAFETY: the pool is the device's own, and outlives its context.
        self.with(|| unsafe { result::mem_pool::trim_to(self.pool, 0) })
    }
}

/// The fault, with the bytes that there was no memory for.
fn sized(fault: Fault, bytes: u64) -> Fault {
    if let Fault::OutOfMemory(_) = fault { Fault::OutOfMemory(bytes) } else { fault }
}

fn words(error: DriverError) -> String {
    let text = error.error_string().map(|s| s.to_string_lossy().into_owned());
    text.unwrap_or_else(|_| format!("{error:?}"))
}

/// Which errors end a context: those that the driver documents as leaving the process inconsistent.
fn fault(error: DriverError) -> Fault {
    use sys::cudaError_enum as E;
    match error.0 {
        E::CUDA_ERROR_OUT_OF_MEMORY => Fault::OutOfMemory(0),
        E::CUDA_ERROR_ILLEGAL_ADDRESS
        | E::CUDA_ERROR_LAUNCH_TIMEOUT
        | E::CUDA_ERROR_ASSERT
        | E::CUDA_ERROR_HARDWARE_STACK_ERROR
        | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | E::CUDA_ERROR_MISALIGNED_ADDRESS
        | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | E::CUDA_ERROR_INVALID_PC
        | E::CUDA_ERROR_LAUNCH_FAILED
        | E::CUDA_ERROR_ECC_UNCORRECTABLE
        | E::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | E::CUDA_ERROR_CONTAINED
        | E::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | E::CUDA_ERROR_EXTERNAL_DEVICE
        | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | E::CUDA_ERROR_DEINITIALIZED
        | E::CUDA_ERROR_UNKNOWN => Fault::Lost(words(error)),
        _ => Fault::Refused(words(error)),
    }
}
