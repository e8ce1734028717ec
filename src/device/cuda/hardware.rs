//! A GPU, through the CUDA driver, which is loaded when the first device is asked for.
//!
//! One stream per device keeps all work in order. Memory comes from the driver's stream-ordered pool, told
//! to keep what is freed. Host memory goes through pinned staging, because a copy from pageable memory
//! makes the driver wait.

use std::collections::HashMap;
use std::ffi::{CString, c_void};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use parking_lot::Mutex;

use super::driver::{Driver, Fault, Function, Grid, Image, Properties};
use crate::Error;

/// Bytes of one pinned staging block. Copies of more bytes go in pieces.
const STAGING: usize = 4 << 20;

/// Shared memory that every function may use without asking for it.
const SHARED_DEFAULT: u32 = 48 << 10;

pub struct Hardware {
    properties: Properties,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pool: sys::CUmemoryPool,
    staging: Mutex<Vec<Staging>>,
    /// Dynamic shared memory that each function has been allowed so far.
    shared: Mutex<HashMap<u64, u32>>,
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
        Self::open(ordinal).map_err(|error| refuse(words(error)))
    }

    fn open(ordinal: usize) -> Result<Self, DriverError> {
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
            let stream = result::ctx::set_current(context)
                .and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking));
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    // The error that made this fail is the one to tell.
                    let _ = result::primary_ctx::release(device);
                    return Err(error);
                }
            };
            let (staging, shared) = Default::default();
            Ok(Hardware { properties, device, context, stream, pool, staging, shared })
        }
    }

    /// Makes the context current on this thread, and runs `f`.
    fn with<T>(&self, f: impl FnOnce() -> Result<T, DriverError>) -> Result<T, Fault> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.and_then(|()| f()).map_err(fault)
    }

    /// A staging block that the device has read, or a new one.
    ///
    /// # Safety
    /// The context must be current.
    unsafe fn staging(&self) -> Result<Staging, DriverError> {
        let mut free = self.staging.lock();
        // SAFETY: the events are ours.
        if let Some(i) = free.iter().position(|s| unsafe { result::event::query(s.read) }.is_ok()) {
            return Ok(free.swap_remove(i));
        }
        drop(free);
        // SAFETY: freed in `drop`.
        unsafe {
            let read = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            let memory = match result::malloc_host(STAGING, 0) {
                Ok(memory) => memory,
                Err(error) => {
                    let _ = result::event::destroy(read);
                    return Err(error);
                }
            };
            Ok(Staging { memory, read })
        }
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        let staging = std::mem::take(&mut *self.staging.lock());
        // After a fault the driver refuses all of this, and there is nobody left to tell.
        let _ = self.with(|| {
            // SAFETY: everything that used these handles went before.
            unsafe {
                let _ = result::stream::synchronize(self.stream);
                for block in staging {
                    let _ = result::free_host(block.memory);
                    let _ = result::event::destroy(block.read);
                }
                let _ = result::stream::destroy(self.stream);
                result::primary_ctx::release(self.device)
            }
        });
    }
}

impl Driver for Hardware {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        // SAFETY: all uses of the memory are on this stream.
        self.with(|| unsafe { result::malloc_async(self.stream, bytes as usize) }).map_err(
            |fault| match fault {
                Fault::OutOfMemory(_) => Fault::OutOfMemory(bytes),
                other => other,
            },
        )
    }

    fn free(&self, address: u64) {
        // An error here is one that earlier work has met, and every later call tells it too.
        // SAFETY: the address came from `alloc`, and its last user is queued.
        let _ = self.with(|| unsafe { result::free_async(address, self.stream) });
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        for (i, piece) in bytes.chunks(STAGING).enumerate() {
            self.with(|| {
                // SAFETY: the staging block holds the piece until the event says that it was read.
                unsafe {
                    let staging = self.staging()?;
                    let pinned = std::slice::from_raw_parts_mut(staging.memory.cast::<u8>(), piece.len());
                    pinned.copy_from_slice(piece);
                    let copied = result::memcpy_htod_async(to + (i * STAGING) as u64, pinned, self.stream)
                        .and_then(|()| result::event::record(staging.read, self.stream));
                    self.staging.lock().push(staging);
                    copied
                }
            })?;
        }
        Ok(())
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        for (i, piece) in bytes.chunks_mut(STAGING).enumerate() {
            self.with(|| {
                // SAFETY: the device has written the staging block when the stream is done.
                unsafe {
                    let staging = self.staging()?;
                    let pinned = std::slice::from_raw_parts_mut(staging.memory.cast::<u8>(), piece.len());
                    let done = result::memcpy_dtoh_async(pinned, from + (i * STAGING) as u64, self.stream)
                        .and_then(|()| result::stream::synchronize(self.stream));
                    if done.is_ok() {
                        piece.copy_from_slice(pinned);
                    }
                    self.staging.lock().push(staging);
                    done
                }
            })?;
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
        let entry = CString::new(entry).map_err(|error| Fault::Refused(error.to_string()))?;
        // SAFETY: the image is whole. The module is never unloaded: it goes with the context.
        let function = self.with(|| unsafe {
            let module = result::module::load_data(image.as_ptr().cast())?;
            result::module::get_function(module, entry)
        })?;
        Ok(Function(function as u64))
    }

    fn launch(&self, function: Function, grid: Grid, arguments: &[&[u8]]) -> Result<(), Fault> {
        let raw = function.0 as sys::CUfunction;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(|a| a.as_ptr() as *mut c_void).collect();
        let [x, y, z] = grid.blocks;
        self.with(|| {
            let mut shared = self.shared.lock();
            let allowed = shared.entry(function.0).or_insert(SHARED_DEFAULT);
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
        // SAFETY: the pool is the device's own, and outlives its context.
        self.with(|| unsafe { result::mem_pool::trim_to(self.pool, 0) })
    }
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
        | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | E::CUDA_ERROR_DEINITIALIZED
        | E::CUDA_ERROR_UNKNOWN => Fault::Lost(words(error)),
        _ => Fault::Refused(words(error)),
    }
}
