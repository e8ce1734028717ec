//! GPUs through wgpu: memory, compiled kernels and a queue. Knows no op.
//!
//! Calls record into one open compute pass, which is submitted when it has some 128 commands or much work; only
//! [`WgpuDevice::download`] and [`WgpuDevice::synchronize`] wait for results. The parts: `adapter`
//! opens a device, `memory` pools its buffers, `pipeline` compiles kernels, `queue` records and
//! submits, `fault` turns what wgpu reports into typed errors.

mod adapter;
#[cfg(test)]
mod amd;
mod fault;
#[cfg(test)]
pub(crate) mod launched;
mod memory;
mod pipeline;
mod prepared;
mod queue;
mod staging;
#[cfg(test)]
mod tests;
mod timing;
mod tuning;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

pub use adapter::{AdapterChoice, AdapterDescription, Selector};
pub(crate) use memory::ALIGNMENT;
pub use memory::Buffer;
pub use tuning::{CooperativeMatrices, MatmulTile};
pub(crate) use tuning::{MatmulClass, Matrices, MatrixUse, Tuned};

pub use super::kernel::{Constant, Kernel, Work};

use crate::device::{HostCost, MemoryStats, Profile, Profiling};
use crate::random::Stream;
use crate::{Error, Result};
use fault::{Faults, Gpu};
use memory::{Block, Pool, size_class};
use queue::{Batch, Bound, MAX_PARAMS, Recorder, SMALL_WRITE};
use staging::{CHUNK, Staging};
use timing::{Clock, Timer};
use tuning::Tuning;

/// Downloads go through one of at most this size at a time, and wait for each.
const READ_CHUNK: usize = 16 << 20;

/// The size of the one host-visible buffer that is kept for the next small download.
const KEPT_READBACK: u64 = 256 << 10;

/// Kernels count elements by `u32`, and Metal's drivers sizes of bindings: where a limit is above this, windows are made all the same.
const MOST_BOUND: u64 = 1 << 31;

/// A GPU that wgpu drives: Vulkan, Metal or Direct3D 12.
///
/// A handle: clones are the same device, and two devices are equal if they are clones. Threads may
/// share it; commands run in the order in which they were recorded.
#[derive(Clone)]
pub struct WgpuDevice(Arc<Inner>);

struct Inner {
    recorder: Mutex<Recorder>,
    /// A host-visible buffer of [`KEPT_READBACK`] bytes, while no download uses it.
    readback: Mutex<Option<wgpu::Buffer>>,
    pool: Arc<Pool>,
    /// Allocated from the driver since it was last asked.
    buffers: AtomicU64,
    adapter: wgpu::AdapterInfo,
    features: wgpu::Features,
    limits: wgpu::Limits,
    checked: bool,
    /// Whether a software adapter gets the kernels for GPUs.
    gpu_kernels: bool,
    tuning: Mutex<Tuning>,
    /// Held by who changes or reads what the recorder times.
    timing: Mutex<()>,
    /// Those of a device that the crate has opened: of others it is not known how large they are.
    matrices: Option<Matrices>,
    /// Whether they were found to compute right, for each use that was tried.
    cooperative: Mutex<FxHashMap<MatrixUse, bool>>,
    /// The random numbers of this device, see `Device::set_seed`.
    generator: Mutex<Stream>,
    // Last: the others' wgpu objects go before their device does.
    gpu: Gpu,
}

/// A buffer as a kernel uses it.
#[derive(Clone, Copy, Debug)]
pub enum Binding<'a> {
    /// `var<storage, read>`
    Read(&'a Buffer),
    /// `var<storage, read_write>`
    Write(&'a Buffer),
}

/// What decides, of a device, which kernels an op launches there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    /// The adapter runs on the CPU.
    pub software: bool,
    /// Where kernels may use subgroup operations, how many invocations the smallest subgroup has.
    pub subgroups: Option<u32>,
    /// Kernels are compiled with bounds checks, which keep some compilers from unrolling loops.
    pub checked: bool,
}

/// Folds a linear count of workgroups over x and y, each at most 65535 while that is enough.
///
/// A kernel finds its linear index as `wid.x + wid.y * nwg.x`, and must expect indices past the end.
pub fn fold_groups(groups: usize) -> [u32; 3] {
    let y = groups.div_ceil(65535).max(1);
    let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    [clamp(groups.div_ceil(y)), clamp(y), 1]
}

/// A limit of bytes for what is rounded up to whole units of [`ALIGNMENT`].
fn whole_blocks(limit: u64) -> usize {
    usize::try_from(limit & !(ALIGNMENT - 1)).unwrap_or(usize::MAX)
}

impl WgpuDevice {
    /// Opens the device that `selector` asks for.
    ///
    /// # Errors
    /// [`Error::NoDevice`], with the adapters that there are, if none fits or it does not open; [`Error::Argument`] for a tile in
    /// `TILEWRIGHT_MATMUL_TILE` that there is not.
    pub fn new(selector: &Selector) -> Result<Self> {
        let (device, queue, index, matrices) = adapter::open(selector)?;
        let adapter = device.adapter_info();
        let name = format!("wgpu:{index} ({}, {:?})", adapter.name, adapter.backend);
        let faults = Faults::new(name.clone());
        let uncaptured = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| uncaptured.set_stray(error)));
        let clock = Clock::default();
        Self::assemble(Gpu { device, queue, faults, name, clock }, adapter, Some(selector), matrices)
    }

    /// A device beside wgpu code of your own, on its device and queue.
    ///
    /// Takes over the device's lost callback; failures of the engine's own calls never reach your
    /// uncaptured-error handler. Call [`WgpuDevice::flush`] before submitting commands that use its
    /// results. What wgpu calls back when work is done or memory is mapped, it may call from within the engine: use this device
    /// there for nothing, as it would wait for itself, and do not panic, which ends in the engine's caller, or is taken for the loss of
    /// the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`]; [`Error::Argument`] as [`WgpuDevice::new`].
    pub fn from_parts(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        let adapter = device.adapter_info();
        let name = format!("wgpu ({}, {:?})", adapter.name, adapter.backend);
        let faults = Faults::new(name.clone());
        let clock = Clock::default();
        Self::assemble(Gpu { device, queue, faults, name, clock }, adapter, None, None)
    }

    /// `opened` is what the crate was asked for, if it has opened the device.
    fn assemble(
        gpu: Gpu,
        adapter: wgpu::AdapterInfo,
        opened: Option<&Selector>,
        matrices: Option<Matrices>,
    ) -> Result<Self> {
        let tuning = Mutex::new(Tuning::from_environment()?);
        let checked = opened.is_some_and(|selector| selector.checked)
            || std::env::var("TILEWRIGHT_CHECKED").is_ok_and(|v| v == "1");
        let lost = gpu.faults.clone();
        gpu.device.set_device_lost_callback(move |reason, message| {
            let message = message.trim();
            lost.set_lost(if message.is_empty() { format!("{reason:?}") } else { message.to_string() });
        });
        let recorder = Mutex::new(Recorder::new(&gpu, checked, Batch::of(adapter.device_type))?);
        Ok(WgpuDevice(Arc::new(Inner {
            recorder,
            readback: Mutex::new(None),
            pool: Pool::new(gpu.name.clone()),
            buffers: AtomicU64::new(0),
            adapter,
            features: gpu.device.features(),
            limits: gpu.device.limits(),
            checked,
            gpu_kernels: opened.is_some_and(|selector| selector.gpu_kernels),
            tuning,
            timing: Mutex::new(()),
            matrices,
            cooperative: Mutex::default(),
            generator: Mutex::new(Stream { seed: 0, offset: 0 }),
            gpu,
        })))
    }

    /// The adapters of this machine, software ones too; none without a graphics driver.
    pub fn adapters() -> Vec<AdapterDescription> {
        adapter::adapters()
    }

    /// The hardware's name, as its driver gives it.
    pub fn name(&self) -> &str {
        &self.0.adapter.name
    }

    /// True if the adapter runs on the CPU.
    pub fn is_software(&self) -> bool {
        self.0.adapter.device_type == wgpu::DeviceType::Cpu
    }

    /// True if every kernel runs with run-time checks.
    pub fn is_checked(&self) -> bool {
        self.0.checked
    }

    /// True if kernels may use `f16`.
    pub fn has_f16(&self) -> bool {
        self.0.features.contains(wgpu::Features::SHADER_F16)
    }

    /// True if kernels may use subgroup operations. The subgroup size is not known beforehand.
    pub fn has_subgroups(&self) -> bool {
        self.0.features.contains(wgpu::Features::SUBGROUP)
    }

    pub(crate) fn class(&self) -> Class {
        let subgroups = self.has_subgroups().then_some(self.0.adapter.subgroup_min_size);
        Class { software: self.is_software() && !self.0.gpu_kernels, subgroups, checked: self.is_checked() }
    }

    /// The limits that the device was opened with.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.0.limits
    }

    /// The most bytes of one buffer. A kernel sees a large one in windows: [`WgpuDevice::max_binding_bytes`].
    pub fn max_buffer_bytes(&self) -> usize {
        whole_blocks(self.0.limits.max_buffer_size)
    }

    /// The most bytes of a buffer that one binding shows, 2 GiB or less; [`Buffer::slice`] makes windows of larger buffers.
    pub fn max_binding_bytes(&self) -> usize {
        let limit = self.0.limits.max_storage_buffer_binding_size.min(MOST_BOUND);
        whole_blocks(limit).min(self.max_buffer_bytes())
    }

    /// The wgpu device and queue, for commands of your own: see [`WgpuDevice::flush`], and [`WgpuDevice::from_parts`] of callbacks.
    pub fn raw(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.0.gpu.device, &self.0.gpu.queue)
    }

    /// Memory of `bytes` bytes, reused from the pool if it has a block of that size class. Its content
    /// is unspecified.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above [`WgpuDevice::max_buffer_bytes`]; [`Error::OutOfMemory`] if the driver
    /// has none even after the pool was given back.
    pub fn alloc(&self, op: &'static str, bytes: usize) -> Result<Buffer> {
        let Inner { pool, gpu, .. } = &*self.0;
        gpu.faults.check()?;
        let limit = self.max_buffer_bytes();
        if bytes > limit {
            return Err(self.too_large(op, bytes as u64, "bytes in one buffer", limit as u64));
        }
        let class = size_class(bytes as u64).min(limit as u64);
        if let Some(buffer) = pool.take(class, bytes) {
            return Ok(buffer);
        }
        Ok(pool.adopt(self.new_block(op, class)?, bytes))
    }

    fn new_block(&self, op: &'static str, size: u64) -> Result<Arc<Block>> {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        Ok(Block::new(self.with_memory(|| self.new_buffer(op, &descriptor))?))
    }

    fn new_buffer(&self, op: &'static str, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer> {
        let Inner { gpu, buffers, .. } = &*self.0;
        let buffer =
            gpu.clock.record(|| gpu.guard(op, descriptor.size, || gpu.device.create_buffer(descriptor)))?;
        buffers.fetch_add(1, Ordering::Relaxed);
        Ok(buffer)
    }

    /// What `make` makes of the driver's memory. Where there is none, what the pool keeps is given back first.
    fn with_memory<T>(&self, make: impl Fn() -> Result<T>) -> Result<T> {
        match make() {
            Err(Error::OutOfMemory { .. }) => {
                self.synchronize()?;
                self.release_memory()?;
                make()
            }
            made => made,
        }
    }

    /// A new buffer that holds `bytes`.
    ///
    /// # Errors
    /// As [`WgpuDevice::alloc`].
    pub fn upload(&self, op: &'static str, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.alloc(op, bytes.len())?;
        self.write(op, &buffer, bytes)?;
        Ok(buffer)
    }

    /// Overwrites a buffer with `bytes`, after all that was recorded before.
    ///
    /// More than a MiB is written in pieces, between which commands of other threads may run. Those before the one that fails
    /// are written.
    ///
    /// # Errors
    /// [`Error::Argument`] if the lengths differ; [`Error::DeviceMismatch`]; [`Error::OutOfMemory`] if the driver has no memory for
    /// what the host writes, even after the pool was given back.
    pub fn write(&self, op: &'static str, dst: &Buffer, bytes: &[u8]) -> Result<()> {
        let gpu = self.ready(op, &[dst])?;
        if bytes.len() != dst.bytes() {
            let reason = format!("has {} bytes for a buffer of {}", bytes.len(), dst.bytes());
            return Err(Error::argument(op, "bytes", reason));
        }
        if (1..=SMALL_WRITE).contains(&bytes.len()) {
            return gpu.clock.record(|| self.0.recorder.lock().write_small(gpu, dst, bytes));
        }
        for (i, piece) in bytes.chunks(CHUNK).enumerate() {
            let to = (dst, (i * CHUNK) as u64);
            let write =
                |chunk| gpu.clock.record(|| self.0.recorder.lock().write_staged(gpu, piece, to, chunk));
            if !write(None)? {
                write(Some(self.chunk(op)?))?;
            }
        }
        Ok(())
    }

    /// Mapped memory for what is written: a chunk that was read, or else a new one. The recorder is not locked, which waiting would need.
    fn chunk(&self, op: &'static str) -> Result<wgpu::Buffer> {
        self.with_memory(|| {
            let kept = self.0.recorder.lock().staging.kept();
            kept.map_or_else(|| self.new_buffer(op, &Staging::DESCRIPTOR), Ok)
        })
    }

    /// The bytes of `buf` after all that was recorded before. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`]; [`Error::OutOfMemory`] as [`WgpuDevice::write`]; whatever went wrong on the device before.
    pub fn download(&self, buf: &Buffer) -> Result<Vec<u8>> {
        let mut out = vec![0; buf.bytes()];
        self.download_into(buf, &mut out)?;
        Ok(out)
    }

    /// [`WgpuDevice::download`] into memory of your own, of as many bytes.
    ///
    /// # Errors
    /// [`Error::Argument`] if the lengths differ, and as [`WgpuDevice::download`].
    pub fn download_into(&self, buf: &Buffer, out: &mut [u8]) -> Result<()> {
        let gpu = self.ready("download", &[buf])?;
        if out.len() != buf.bytes() {
            let reason = format!("has {} bytes for a buffer of {}", out.len(), buf.bytes());
            return Err(Error::argument("download", "out", reason));
        }
        for (i, out) in out.chunks_mut(READ_CHUNK).enumerate() {
            let size = (out.len() as u64).next_multiple_of(4);
            let staging = self.readback(size)?;
            let submission = gpu.clock.record(|| {
                let mut recorder = self.0.recorder.lock();
                let (raw, start) = buf.raw();
                recorder.raw_copy(gpu, (raw, start + (i * READ_CHUNK) as u64), (&staging, 0), size)?;
                recorder.flush(gpu)?;
                Ok(recorder.last_submission())
            })?;
            let range = staging.slice(..size);
            let (sender, mapped) = std::sync::mpsc::channel();
            gpu.guard("download", size, || {
                range.map_async(wgpu::MapMode::Read, move |result| {
                    // Nobody listens any more if the wait failed.
                    let _ = sender.send(result);
                });
            })?;
            gpu.wait(submission)?;
            let failed =
                |reason: String| Error::Kernel { kernel: "download", device: gpu.name.clone(), reason };
            // Another thread's wait may be the one to run the callback, a moment after ours returned.
            match mapped.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(failed(error.to_string())),
                Err(error) => return Err(failed(error.to_string())),
            }
            let view = range.get_mapped_range().map_err(|error| failed(error.to_string()))?;
            out.copy_from_slice(&view[..out.len()]);
            drop(view);
            staging.unmap();
            if staging.size() == KEPT_READBACK {
                *self.0.readback.lock() = Some(staging);
            }
        }
        Ok(())
    }

    fn readback(&self, size: u64) -> Result<wgpu::Buffer> {
        if size <= KEPT_READBACK
            && let Some(kept) = self.0.readback.lock().take()
        {
            return Ok(kept);
        }
        let descriptor = wgpu::BufferDescriptor {
            label: Some("readback"),
            size: size.max(KEPT_READBACK),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        self.with_memory(|| self.new_buffer("download", &descriptor))
    }

    /// Records one dispatch of `kernel` over `groups` workgroups; none if one of them is 0.
    ///
    /// `params` becomes the uniform at binding 0, `bindings` the storage buffers from binding 1 on. A
    /// buffer that shares memory with a written one is read from a copy that is made first.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's words if the kernel does not compile, binds more than the
    /// device allows, or writes the same bytes through two bindings; [`Error::TooLarge`] for
    /// a buffer above [`WgpuDevice::max_binding_bytes`], parameters above 16 KiB or more workgroups than a
    /// dimension has; [`Error::DeviceMismatch`].
    pub fn run<P: bytemuck::Pod>(
        &self,
        kernel: &Kernel,
        bindings: &[Binding<'_>],
        params: &P,
        groups: [u32; 3],
    ) -> Result<()> {
        let Inner { gpu, pool, limits, .. } = &*self.0;
        let op = kernel.name();
        gpu.faults.check()?;

        let limit = limits.max_storage_buffers_per_shader_stage.min(32);
        if bindings.len() > limit as usize {
            let reason = format!("{} storage buffers, the device binds {limit}", bindings.len());
            return Err(Error::Kernel { kernel: op, device: gpu.name.clone(), reason });
        }
        let params = bytemuck::bytes_of(params);
        let limit = MAX_PARAMS.min(limits.max_uniform_buffer_binding_size as usize);
        if params.len() > limit {
            return Err(self.too_large(op, params.len() as u64, "bytes of parameters", limit as u64));
        }
        let limit = limits.max_compute_workgroups_per_dimension;
        if let Some(&n) = groups.iter().find(|&&n| n > limit) {
            return Err(self.too_large(op, n.into(), "workgroups in one dimension", limit.into()));
        }

        // wgpu tracks whole buffers: within a dispatch one is either read or written.
        let mut copies: SmallVec<[(usize, Buffer); 2]> = SmallVec::new();
        let mut bound: SmallVec<[Bound<'_>; 8]> = SmallVec::new();
        for &binding in bindings {
            let (buffer, write) = match binding {
                Binding::Read(buffer) => (buffer, false),
                Binding::Write(buffer) => (buffer, true),
            };
            buffer.check_pool(op, pool)?;
            if buffer.bytes() > self.max_binding_bytes() {
                let limit = self.max_binding_bytes() as u64;
                return Err(self.too_large(op, buffer.bytes() as u64, "bytes in one binding", limit));
            }
            bound.push(Bound { buffer, write });
        }
        if groups.contains(&0) {
            return Ok(());
        }

        for (i, Bound { buffer, write }) in bound.iter().enumerate() {
            let mut written = bound[..].iter().enumerate().filter(|(j, b)| *j != i && b.write);
            if *write {
                if written.any(|(_, other)| other.buffer.overlaps(buffer)) {
                    let reason = "two bindings write the same memory".to_string();
                    return Err(Error::Kernel { kernel: op, device: gpu.name.clone(), reason });
                }
            } else if written.any(|(_, other)| other.buffer.same_memory(buffer)) {
                let copy = self.alloc(op, buffer.bytes())?;
                self.copy(buffer, &copy)?;
                copies.push((i, copy));
            }
        }
        for (i, copy) in &copies {
            bound[*i].buffer = copy;
        }
        gpu.clock.record(|| self.0.recorder.lock().dispatch(gpu, kernel, &bound, params, groups))
    }

    /// Records filling `buf` with zero bytes.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`].
    pub fn fill_zero(&self, buf: &Buffer) -> Result<()> {
        let gpu = self.ready("fill_zero", &[buf])?;
        if buf.bytes() == 0 {
            return Ok(());
        }
        gpu.clock.record(|| self.0.recorder.lock().fill_zero(gpu, buf))
    }

    /// Records copying `src` to `dst`, which has as many bytes and may share its memory.
    ///
    /// # Errors
    /// [`Error::Argument`] if the sizes differ; [`Error::DeviceMismatch`].
    pub fn copy(&self, src: &Buffer, dst: &Buffer) -> Result<()> {
        let gpu = self.ready("copy", &[src, dst])?;
        if src.bytes() != dst.bytes() {
            let reason = format!("has {} bytes for a destination of {}", src.bytes(), dst.bytes());
            return Err(Error::argument("copy", "src", reason));
        }
        if src.bytes() == 0 {
            return Ok(());
        }
        if !src.same_memory(dst) {
            return gpu.clock.record(|| self.0.recorder.lock().copy(gpu, src, dst));
        }
        if src.offset() == dst.offset() {
            return Ok(());
        }
        // wgpu refuses copies within one buffer.
        let between = self.alloc("copy", src.bytes())?;
        gpu.clock.record(|| {
            let mut recorder = self.0.recorder.lock();
            recorder.copy(gpu, src, &between)?;
            recorder.copy(gpu, &between, dst)
        })
    }

    /// Submits what is recorded, without waiting for it: only once the device is 64 batches behind,
    /// for the oldest of them, as each holds host memory.
    ///
    /// # Errors
    /// What wgpu finds wrong in the commands recorded since the last submission, which are then lost.
    pub fn flush(&self) -> Result<()> {
        self.0.gpu.faults.check()?;
        let gpu = &self.0.gpu;
        gpu.clock.record(|| self.0.recorder.lock().flush(gpu))
    }

    /// Submits what is recorded and waits until the device is idle.
    ///
    /// # Errors
    /// As [`WgpuDevice::flush`].
    pub fn synchronize(&self) -> Result<()> {
        self.flush()?;
        self.0.gpu.wait(None)
    }

    /// Gives the pool's free memory back to the driver, as soon as the commands that use it are done.
    ///
    /// # Errors
    /// As [`WgpuDevice::flush`].
    pub fn release_memory(&self) -> Result<()> {
        let free = self.0.pool.drain();
        self.0.recorder.lock().forget(&free);
        *self.0.readback.lock() = None;
        drop(free);
        self.flush()?;
        self.0.gpu.collect()?;
        self.0.recorder.lock().staging.release();
        Ok(())
    }

    /// How much memory the device's pool holds.
    pub fn memory(&self) -> MemoryStats {
        self.0.pool.stats()
    }

    /// Measures from here on what `profiling` says, and forgets what was measured before.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for [`Profiling::Kernels`] on a device without timestamps; as
    /// [`WgpuDevice::flush`].
    pub fn profile(&self, profiling: Profiling) -> Result<()> {
        let gpu = &self.0.gpu;
        gpu.faults.check()?;
        let _alone = self.0.timing.lock();
        let mut recorder = self.0.recorder.lock();
        let timer = if profiling == Profiling::Kernels { Some(Timer::new(gpu)?) } else { None };
        // If wgpu refuses what was recorded before, the profile is as it was asked for all the same.
        let (_, submitted) = recorder.set_timer(gpu, timer);
        recorder.take_counts();
        self.0.buffers.store(0, Ordering::Relaxed);
        gpu.clock.set(profiling != Profiling::Off);
        submitted
    }

    /// What was measured since [`WgpuDevice::profile`] or the last call. Waits for the device if kernels are measured; what
    /// the host does later for commands that were recorded before counts as later.
    ///
    /// # Errors
    /// As [`WgpuDevice::flush`].
    pub fn take_profile(&self) -> Result<Profile> {
        let gpu = &self.0.gpu;
        gpu.faults.check()?;
        let _alone = self.0.timing.lock();
        let mut recorder = self.0.recorder.lock();
        if recorder.timer.is_some() {
            gpu.clock.record(|| recorder.flush(gpu))?;
        }
        let buffers = self.0.buffers.swap(0, Ordering::Relaxed);
        let (recording, submitting) = gpu.clock.take();
        let host = HostCost { buffers, recording, submitting, ..recorder.take_counts() };
        let kernels = match &mut recorder.timer {
            Some(timer) => timer.take(gpu)?,
            None => Vec::new(),
        };
        let mut profile = Profile::default();
        profile.add(Profile { host, kernels });
        Ok(profile)
    }

    pub(crate) fn generator(&self) -> &Mutex<Stream> {
        &self.0.generator
    }

    /// Checks that the device works and the buffers are its own.
    fn ready(&self, op: &'static str, buffers: &[&Buffer]) -> Result<&Gpu> {
        self.0.gpu.faults.check()?;
        buffers.iter().try_for_each(|buffer| buffer.check_pool(op, &self.0.pool))?;
        Ok(&self.0.gpu)
    }

    fn too_large(&self, op: &'static str, size: u64, unit: &'static str, limit: u64) -> Error {
        Error::TooLarge { op, size, unit, limit, device: self.0.gpu.name.clone() }
    }
}

impl PartialEq for WgpuDevice {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for WgpuDevice {}

impl fmt::Display for WgpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.gpu.name)
    }
}

impl fmt::Debug for WgpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checked = if self.0.checked { ", checked" } else { "" };
        write!(f, "WgpuDevice({self}{checked})")
    }
}
