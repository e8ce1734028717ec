//! The recorder: one open compute pass, submitted in batches.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::fault::Gpu;
use super::memory::{ALIGNMENT, Block, Buffer};
use super::pipeline::{PipelineId, Pipelines};
use super::prepared::PreparedDispatches;
use super::staging::Staging;
use super::timing::Timer;
use crate::device::HostCost;
use crate::device::kernel::Kernel;
use crate::{Error, Result};

/// The most of one submission.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    /// Enough commands to make its cost small, few enough that the device starts early.
    pub commands: u32,
    /// Operations, as far as kernels tell them: systems take a GPU for hung that is at one submission for seconds.
    pub flops: u64,
}

impl Batch {
    pub fn of(kind: wgpu::DeviceType) -> Self {
        match kind {
            // What starts early here takes cores and caches away from what is still recorded, and nobody watches it.
            wgpu::DeviceType::Cpu => Batch { commands: MAX_BATCH_COMMANDS, flops: u64::MAX },
            // A second at 4 TFLOP/s, and at 0.4.
            wgpu::DeviceType::DiscreteGpu => Batch { commands: 128, flops: 4_000_000_000_000 },
            _ => Batch { commands: 128, flops: 400_000_000_000 },
        }
    }
}

pub(super) const MAX_BATCH_COMMANDS: u32 = 256;

/// Parameters and small writes of one batch. [`MAX_BATCH_COMMANDS`] small parameter blocks fill it.
const RING_BYTES: usize = 64 << 10;

/// Writes of up to this many host bytes travel with the parameters.
pub(super) const SMALL_WRITE: usize = 8 << 10;

/// The largest parameter block.
pub(super) const MAX_PARAMS: usize = 16 << 10;

/// Batches the host may be ahead of the device. wgpu keeps the commands of each in memory.
const MAX_IN_FLIGHT: usize = 64;

/// What errors that belong to no single kernel give as the kernel.
const BATCH: &str = "(a batch of commands)";

/// One buffer as a dispatch binds it.
pub(super) struct Bound<'a> {
    pub buffer: &'a Buffer,
    pub write: bool,
}

/// Commands in the making.
struct Open {
    // A pass ends when it drops, and that must be before its encoder goes: fields drop in this order.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: wgpu::CommandEncoder,
    /// The pipeline that is set in the pass.
    pipeline: Option<PipelineId>,
}

impl Open {
    /// Those in `open`, or new ones.
    fn or_new<'a>(open: &'a mut Option<Open>, gpu: &Gpu) -> Result<&'a mut Open> {
        match open {
            Some(open) => Ok(open),
            none => {
                let encoder =
                    gpu.guard(BATCH, 0, || gpu.device.create_command_encoder(&Default::default()))?;
                Ok(none.insert(Open { pass: None, encoder, pipeline: None }))
            }
        }
    }

    fn pass(&mut self) -> &mut wgpu::ComputePass<'static> {
        let Open { pass, encoder, .. } = self;
        pass.get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime())
    }

    /// A pass that is timed.
    fn timed_pass(&mut self, timestamp_writes: wgpu::ComputePassTimestampWrites<'_>) {
        self.end_pass();
        let descriptor =
            wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(timestamp_writes) };
        self.pass = Some(self.encoder.begin_compute_pass(&descriptor).forget_lifetime());
    }

    /// The encoder outside of any pass, as copies and fills need it.
    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.end_pass();
        &mut self.encoder
    }

    fn end_pass(&mut self) {
        self.pass = None;
        self.pipeline = None;
    }
}

/// Commands that are recorded and not yet submitted, and all that recording needs.
pub(super) struct Recorder {
    open: Option<Open>,
    /// Dispatches, copies and fills in the open batch.
    commands: u32,
    /// Operations of its kernels.
    flops: u64,
    /// With as much it is submitted.
    most: Batch,
    /// The kernels of the open batch, for the error if wgpu refuses it.
    kernels: Vec<&'static str>,
    /// The parameters of the open batch's dispatches, and its small writes, each at a multiple of [`ALIGNMENT`]; written to
    /// `ring` in one go when the batch is submitted. Writes and submissions run in order, so that the
    /// one ring serves every batch.
    params: Vec<u8>,
    ring: wgpu::Buffer,
    /// What larger writes of the open batch are copied from.
    pub staging: Staging,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    pipelines: Pipelines,
    prepared: PreparedDispatches,
    /// What was done since it was last asked for, without the buffers, which others allocate.
    counts: HostCost,
    /// Batches that wgpu has refused, ever.
    pub refused: u64,
    /// While kernels are timed.
    pub timer: Option<Timer>,
}

impl Recorder {
    pub fn new(gpu: &Gpu, checked: bool, most: Batch) -> Result<Self> {
        let ring = gpu.guard("(setup)", RING_BYTES as u64, || {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size: RING_BYTES as u64,
                usage: wgpu::BufferUsages::UNIFORM
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        Ok(Recorder {
            open: None,
            commands: 0,
            flops: 0,
            most,
            kernels: Vec::new(),
            params: Vec::with_capacity(RING_BYTES),
            ring,
            staging: Staging::default(),
            in_flight: VecDeque::with_capacity(MAX_IN_FLIGHT + 1),
            pipelines: Pipelines::new(checked),
            prepared: PreparedDispatches::default(),
            counts: HostCost::default(),
            refused: 0,
            timer: None,
        })
    }

    /// Records one dispatch. The caller has checked that the bindings can be bound together, the groups
    /// against the limits, and that `params` are at most [`MAX_PARAMS`].
    pub fn dispatch(
        &mut self,
        gpu: &Gpu,
        kernel: &Kernel,
        bindings: &[Bound<'_>],
        params: &[u8],
        [x, y, z]: [u32; 3],
    ) -> Result<()> {
        let window = self.reserve(gpu, params.len())?;

        let Recorder { pipelines, prepared, ring, .. } = self;
        let (pipeline, group) = prepared.get(gpu, pipelines, kernel, (ring, window as u32), bindings)?;
        self.counts.dispatches += 1;

        let offset = self.params.len();
        let open = Open::or_new(&mut self.open, gpu)?;
        if let Some(timer) = &mut self.timer {
            let bound = || bindings.iter().map(|b| b.buffer.bytes() as u64).sum();
            let bytes = kernel.work.bytes.unwrap_or_else(bound);
            open.timed_pass(timer.dispatch((kernel.name, kernel.entry), kernel.work.flops, bytes));
        }
        if open.pipeline != Some(pipeline) {
            open.pass().set_pipeline(pipelines.compiled(pipeline).1);
            open.pipeline = Some(pipeline);
        }
        let pass = open.pass();
        pass.set_bind_group(0, group, &[offset as u32]);
        pass.dispatch_workgroups(x, y, z);

        self.append(params, window);
        self.flops = self.flops.saturating_add(kernel.work.flops);
        if self.kernels.last() != Some(&kernel.name()) {
            self.kernels.push(kernel.name());
        }
        self.recorded(gpu)
    }

    /// Makes room in the ring, and says how much of it `bytes` bytes take.
    fn reserve(&mut self, gpu: &Gpu, bytes: usize) -> Result<usize> {
        let window = bytes.max(1).next_multiple_of(ALIGNMENT as usize);
        if self.params.len() + window > RING_BYTES {
            self.flush(gpu)?;
        }
        Ok(window)
    }

    fn append(&mut self, bytes: &[u8], window: usize) {
        let end = self.params.len() + window;
        self.params.extend_from_slice(bytes);
        self.params.resize(end, 0);
    }

    /// Records a copy between blocks of memory that differ.
    pub fn copy(&mut self, gpu: &Gpu, src: &Buffer, dst: &Buffer) -> Result<()> {
        let (from, to) = (src.raw(), dst.raw());
        self.raw_copy(gpu, from, to, src.copy_size())?;
        self.recorded(gpu)
    }

    /// Records a copy of `size` bytes between raw buffers that differ, each from an offset on, and does not submit it.
    pub fn raw_copy(
        &mut self,
        gpu: &Gpu,
        (src, from): (&wgpu::Buffer, u64),
        (dst, to): (&wgpu::Buffer, u64),
        size: u64,
    ) -> Result<()> {
        Open::or_new(&mut self.open, gpu)?.encoder().copy_buffer_to_buffer(src, from, dst, to, size);
        Ok(())
    }

    /// Records filling with zeros.
    pub fn fill_zero(&mut self, gpu: &Gpu, dst: &Buffer) -> Result<()> {
        let (raw, start) = dst.raw();
        Open::or_new(&mut self.open, gpu)?.encoder().clear_buffer(raw, start, Some(dst.copy_size()));
        self.recorded(gpu)
    }

    /// Writes up to [`SMALL_WRITE`] host bytes, as many as `dst` has: they are copied from the ring.
    pub fn write_small(&mut self, gpu: &Gpu, dst: &Buffer, bytes: &[u8]) -> Result<()> {
        let window = self.reserve(gpu, bytes.len())?;
        let from = self.params.len() as u64;
        self.append(bytes, window);
        let encoder = Open::or_new(&mut self.open, gpu)?.encoder();
        let (raw, start) = dst.raw();
        encoder.copy_buffer_to_buffer(&self.ring, from, raw, start, dst.copy_size());
        self.recorded(gpu)
    }

    /// Writes some host bytes, at most a chunk of them, to `dst` from an offset on: by way of `chunk`, or else of the one that is open.
    /// False, and nothing is written, if that has no room.
    pub fn write_staged(
        &mut self,
        gpu: &Gpu,
        bytes: &[u8],
        (dst, at): (&Buffer, u64),
        chunk: Option<wgpu::Buffer>,
    ) -> Result<bool> {
        if let Some(chunk) = chunk {
            if self.staging.is_full() {
                self.flush(gpu)?;
            }
            self.staging.open(chunk);
        } else if !self.staging.has_room(bytes.len()) {
            return Ok(false);
        }
        let (chunk, from, size) = self.staging.put(bytes).map_err(|error| Error::Kernel {
            kernel: "write",
            device: gpu.name.clone(),
            reason: error.to_string(),
        })?;
        let (raw, start) = dst.raw();
        let encoder = Open::or_new(&mut self.open, gpu)?.encoder();
        encoder.copy_buffer_to_buffer(chunk, from, raw, start + at, size);
        self.recorded(gpu).map(|()| true)
    }

    /// Submits what is recorded. Waits only if the device is [`MAX_IN_FLIGHT`] batches behind.
    pub fn flush(&mut self, gpu: &Gpu) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let params = std::mem::take(&mut self.params);
        let Recorder { timer, staging, ring, .. } = self;
        let submitted = gpu.guard(BATCH, 0, || {
            open.end_pass();
            if let Some(timer) = timer {
                timer.resolve(gpu, &mut open.encoder);
            }
            let commands = open.encoder.finish();
            if !params.is_empty() {
                gpu.queue.write_buffer(ring, 0, &params);
            }
            staging.unmap();
            let submitted = gpu.clock.submit(|| gpu.queue.submit([commands]));
            staging.recall();
            submitted
        });
        self.params = params;
        self.params.clear();
        self.counts.submits += 1;
        self.commands = 0;
        self.flops = 0;
        self.prepared.sweep(&self.pipelines);
        let mut kernels = std::mem::take(&mut self.kernels);
        let submitted = submitted.map_err(|error| of_kernels(error, &mut kernels));
        self.refused += u64::from(submitted.is_err());
        kernels.clear();
        self.kernels = kernels;

        self.in_flight.push_back(submitted?);
        if self.in_flight.len() > MAX_IN_FLIGHT {
            gpu.clock.pause(|| gpu.wait(self.in_flight.pop_front()))?;
        }
        match &mut self.timer {
            Some(timer) => gpu.clock.pause(|| timer.submitted(gpu)),
            None => Ok(()),
        }
    }

    /// Has kernels timed by another timer, or none, from the next batch on, as one is timed whole or not at all. Returns the one before,
    /// and how submitting its last batch went.
    pub fn set_timer(&mut self, gpu: &Gpu, timer: Option<Timer>) -> (Option<Timer>, Result<()>) {
        let changes = timer.is_some() || self.timer.is_some();
        let flushed = if changes { gpu.clock.record(|| self.flush(gpu)) } else { Ok(()) };
        (std::mem::replace(&mut self.timer, timer), flushed)
    }

    /// What was done since the last call.
    pub fn take_counts(&mut self) -> HostCost {
        HostCost {
            bind_groups: std::mem::take(&mut self.prepared.made),
            compiled: std::mem::take(&mut self.pipelines.made),
            ..std::mem::take(&mut self.counts)
        }
    }

    /// The last submission; none before the first.
    pub fn last_submission(&self) -> Option<wgpu::SubmissionIndex> {
        self.in_flight.back().cloned()
    }

    /// Forgets what binds these blocks: it would keep the memory alive.
    pub fn forget(&mut self, blocks: &[Arc<Block>]) {
        let ids: HashSet<u64> = blocks.iter().map(|block| block.id).collect();
        self.prepared.forget(&ids);
    }

    fn recorded(&mut self, gpu: &Gpu) -> Result<()> {
        self.commands += 1;
        let full = self.commands >= self.most.commands || self.flops >= self.most.flops;
        if full { self.flush(gpu) } else { Ok(()) }
    }
}

/// Names the kernels of a batch in its error: wgpu says what is wrong, but not in which dispatch.
fn of_kernels(error: Error, kernels: &mut Vec<&'static str>) -> Error {
    let Error::Kernel { device, reason, .. } = error else { return error };
    kernels.sort_unstable();
    kernels.dedup();
    match kernels[..] {
        [kernel] => Error::Kernel { kernel, device, reason },
        _ => Error::Kernel {
            kernel: BATCH,
            device,
            reason: format!("one of {}: {reason}", kernels.join(", ")),
        },
    }
}
