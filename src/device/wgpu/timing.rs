//! The device's time for each kernel, by timestamp queries around it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::fault::Gpu;
use super::queue::MAX_BATCH_COMMANDS;
use crate::device::profile::KernelCost;
use crate::{Error, Result};

/// Two timestamps a dispatch, of 8 bytes each.
const QUERIES: u32 = 2 * MAX_BATCH_COMMANDS;
const QUERY_BYTES: u64 = 8;

/// Batches whose times wait to be read.
const MAX_PENDING: usize = 16;

/// One dispatch.
struct Call {
    counted: bool,
    kernel: (&'static str, &'static str),
    flops: u64,
    bytes: u64,
}

/// Measures the kernels of one batch after the other.
pub(super) struct Timer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Seconds a tick.
    period: f64,
    /// Whose dispatches are counted: one thread's, or everybody's.
    of: Option<ThreadId>,
    /// The dispatches of the open batch.
    open: Vec<Call>,
    /// Those of a batch that is about to be submitted.
    sealed: Option<(wgpu::Buffer, Vec<Call>)>,
    /// Those of submitted batches, and where their times arrive.
    pending: Vec<(wgpu::Buffer, Vec<Call>)>,
    costs: HashMap<(&'static str, &'static str), KernelCost>,
}

impl Timer {
    /// # Errors
    /// [`Error::NotSupported`] if the device was opened without timestamps.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::NotSupported { op: "the profile of kernels", device: gpu.name.clone() });
        }
        let (queries, resolved) = gpu.guard("(profile)", 0, || {
            let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: QUERIES,
            });
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            (queries, buffer(gpu, u64::from(QUERIES) * QUERY_BYTES, usage))
        })?;
        Ok(Timer {
            queries,
            resolved,
            period: f64::from(gpu.queue.get_timestamp_period()) * 1e-9,
            of: None,
            open: Vec::new(),
            sealed: None,
            pending: Vec::new(),
            costs: HashMap::new(),
        })
    }

    /// Of what this thread records alone.
    pub fn of_this_thread(gpu: &Gpu) -> Result<Self> {
        Ok(Timer { of: Some(std::thread::current().id()), ..Timer::new(gpu)? })
    }

    /// The next dispatch, and what its pass writes.
    pub fn dispatch(
        &mut self,
        kernel: (&'static str, &'static str),
        flops: u64,
        bytes: u64,
    ) -> wgpu::ComputePassTimestampWrites<'_> {
        let first = 2 * self.open.len() as u32;
        let counted = self.of.is_none_or(|thread| thread == std::thread::current().id());
        self.open.push(Call { counted, kernel, flops, bytes });
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    /// To be recorded at the end of the open batch.
    pub fn resolve(&mut self, gpu: &Gpu, encoder: &mut wgpu::CommandEncoder) {
        // Still there if that batch was refused.
        self.sealed = None;
        if self.open.is_empty() {
            return;
        }
        let count = 2 * self.open.len() as u32;
        let bytes = u64::from(count) * QUERY_BYTES;
        let times = buffer(gpu, bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &times, 0, bytes);
        self.sealed = Some((times, std::mem::take(&mut self.open)));
    }

    /// The batch is on its way. Reads times, once many have piled up.
    pub fn submitted(&mut self, gpu: &Gpu) -> Result<()> {
        self.pending.extend(self.sealed.take());
        if self.pending.len() < MAX_PENDING { Ok(()) } else { self.collect(gpu) }
    }

    /// The costs so far, in any order. All is submitted.
    pub fn take(&mut self, gpu: &Gpu) -> Result<Vec<KernelCost>> {
        self.collect(gpu)?;
        Ok(self.costs.drain().map(|(_, cost)| cost).collect())
    }

    fn collect(&mut self, gpu: &Gpu) -> Result<()> {
        let failed = |reason: String| Error::Kernel { kernel: "(profile)", device: gpu.name.clone(), reason };
        // What cannot be read now never can.
        let pending = std::mem::take(&mut self.pending);
        let (sender, mapped) = std::sync::mpsc::channel();
        gpu.guard("(profile)", 0, || {
            for (times, _) in &pending {
                let sender = sender.clone();
                times.map_async(wgpu::MapMode::Read, .., move |result| {
                    // Nobody listens any more if the wait failed.
                    let _ = sender.send(result);
                });
            }
        })?;
        gpu.wait(None)?;
        for _ in &pending {
            // Another thread's wait may be the one to run the callback, a moment after ours returned.
            mapped.recv().map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        }
        for (times, calls) in pending {
            let view = times.get_mapped_range(..).map_err(|e| failed(e.to_string()))?;
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&view[..]);
            for (call, ticks) in calls.into_iter().zip(ticks.chunks(2)).filter(|(call, _)| call.counted) {
                let (name, entry) = call.kernel;
                let cost = self.costs.entry(call.kernel).or_insert_with(|| KernelCost {
                    kernel: format!("{name}/{entry}"),
                    calls: 0,
                    time: Duration::ZERO,
                    flops: 0,
                    bytes: 0,
                });
                cost.calls += 1;
                cost.time += Duration::from_secs_f64(ticks[1].saturating_sub(ticks[0]) as f64 * self.period);
                cost.flops += call.flops;
                cost.bytes += call.bytes;
            }
        }
        Ok(())
    }
}

fn buffer(gpu: &Gpu, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("profile"),
        size,
        usage,
        mapped_at_creation: false,
    })
}

/// The host's time. The clock is read only while somebody wants to know.
#[derive(Default)]
pub(super) struct Clock {
    on: AtomicBool,
    /// In nanoseconds. What ends while another thread reads it may count in two parts, of which one is negative, and waits for the other.
    recording: AtomicI64,
    submitting: AtomicI64,
}

impl Clock {
    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
        self.recording.store(0, Ordering::Relaxed);
        self.submitting.store(0, Ordering::Relaxed);
    }

    /// The time for recording, and that for submitting.
    pub fn take(&self) -> (Duration, Duration) {
        let take = |time: &AtomicI64| {
            let taken = time.swap(0, Ordering::Relaxed);
            if taken < 0 {
                time.fetch_add(taken, Ordering::Relaxed);
            }
            Duration::from_nanos(taken.max(0) as u64)
        };
        (take(&self.recording), take(&self.submitting))
    }

    /// Counts the time of `f` as recording.
    pub fn record<T>(&self, f: impl FnOnce() -> T) -> T {
        self.read(f, |time| self.recording.fetch_add(time, Ordering::Relaxed))
    }

    /// Counts the time of `f`, inside of what is recording, as submitting.
    pub fn submit<T>(&self, f: impl FnOnce() -> T) -> T {
        self.read(f, |time| {
            self.submitting.fetch_add(time, Ordering::Relaxed);
            self.recording.fetch_sub(time, Ordering::Relaxed)
        })
    }

    /// Does not count the time of `f`, inside of what is recording.
    pub fn pause<T>(&self, f: impl FnOnce() -> T) -> T {
        self.read(f, |time| self.recording.fetch_sub(time, Ordering::Relaxed))
    }

    fn read<T>(&self, f: impl FnOnce() -> T, count: impl FnOnce(i64) -> i64) -> T {
        if !self.on.load(Ordering::Relaxed) {
            return f();
        }
        let start = Instant::now();
        let out = f();
        count(start.elapsed().as_nanos() as i64);
        out
    }
}
