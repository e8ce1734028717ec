//! What goes wrong on the device's side, as typed errors.
//!
//! wgpu reports most failures beside the call that caused them, and panics on those nobody listens
//! to. Every creating or submitting call of the engine therefore runs inside [`Gpu::guard`], which
//! returns its first error; what slips past (a failure while dropping, say) is kept in [`Faults`]
//! and comes back from the next call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::timing::Clock;
use crate::{Error, Result};

/// What errors that arrived outside of any guarded call give as the kernel.
pub(super) const UNCAPTURED: &str = "(uncaptured)";

/// Failures that arrived outside of any guarded call.
pub(super) struct Faults {
    device: String,
    /// True while `stray` holds something or the device is lost: all that a healthy call reads.
    any: AtomicBool,
    /// Why the device is gone. Once set, every call fails with it.
    lost: OnceLock<String>,
    /// The first error that no guard caught. Reported once.
    stray: Mutex<Option<Error>>,
}

impl Faults {
    pub fn new(device: String) -> Arc<Self> {
        Arc::new(Faults {
            device,
            any: AtomicBool::new(false),
            lost: OnceLock::new(),
            stray: Mutex::new(None),
        })
    }

    /// Fails if the device is lost or an earlier failure is still to be reported.
    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.any.load(Ordering::Acquire) { self.report() } else { Ok(()) }
    }

    #[cold]
    fn report(&self) -> Result<()> {
        self.check_lost()?;
        let stray = {
            let mut stray = self.stray.lock();
            self.any.store(self.lost.get().is_some(), Ordering::Release);
            stray.take()
        };
        stray.map_or(Ok(()), Err)
    }

    fn check_lost(&self) -> Result<()> {
        match self.lost.get() {
            Some(reason) => Err(Error::DeviceLost { device: self.device.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub fn set_lost(&self, reason: String) {
        // The first reason is the cause, later ones are its echo.
        let _ = self.lost.set(reason);
        // Under this lock `report` says that nothing is left.
        let _order = self.stray.lock();
        self.any.store(true, Ordering::Release);
    }

    pub fn set_stray(&self, error: wgpu::Error) {
        let error = translate(error, &self.device, UNCAPTURED, 0);
        let mut stray = self.stray.lock();
        stray.get_or_insert(error);
        self.any.store(true, Ordering::Release);
    }
}

fn translate(error: wgpu::Error, device: &str, kernel: &'static str, bytes: u64) -> Error {
    let device = device.to_string();
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory {
            device,
            bytes,
            hint: ", and the pool has nothing left to give back; a smaller batch may fit",
        },
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            Error::Kernel { kernel, device, reason: description.trim().to_string() }
        }
    }
}

/// The device and its queue, as the parts of the engine share them.
pub(super) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub faults: Arc<Faults>,
    /// What errors call the device, e.g. `wgpu:0 (llvmpipe, Vulkan)`.
    pub name: String,
    /// The host's time for commands.
    pub clock: Clock,
}

impl Gpu {
    /// Runs wgpu calls and returns the first error that they raise, told as one of `kernel`, or of an
    /// allocation of `bytes`. An error scope costs a lock and a map lookup: for slow calls only.
    pub fn guard<T>(&self, kernel: &'static str, bytes: u64, calls: impl FnOnce() -> T) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let out = calls();
        let internal = pollster::block_on(internal.pop());
        let validation = pollster::block_on(validation.pop());
        let memory = pollster::block_on(memory.pop());
        // A lost device makes every object invalid, and those complaints hide the cause.
        self.faults.check_lost()?;
        match memory.or(internal).or(validation) {
            Some(error) => Err(translate(error, &self.name, kernel, bytes)),
            None => Ok(out),
        }
    }

    /// Blocks until `submission` (or all that was submitted) is done.
    pub fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None })
    }

    /// Lets wgpu free what finished work held on to, without waiting.
    pub fn collect(&self) -> Result<()> {
        self.poll(wgpu::PollType::Poll)
    }

    fn poll(&self, how: wgpu::PollType) -> Result<()> {
        self.faults.check_lost()?;
        // wgpu panics if the device is lost while it waits. It holds no lock by then, and the device
        // answers nothing but `DeviceLost` afterwards, so no broken state can be seen.
        let result = catch_unwind(AssertUnwindSafe(|| self.device.poll(how)));
        self.faults.check_lost()?;
        let reason = match result {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the wait for its work failed".to_string(),
        };
        self.faults.set_lost(reason);
        self.faults.check_lost()
    }
}
