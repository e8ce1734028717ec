//! The recorder: one open compute pass, submitted in batches.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::fault::Gpu;
use super::memory::{ALIGNMENT, Block, Buffer};
use super::pipeline::{PipelineId, Pipelines};
use super::prepared::PreparedDispatches;
use super::timing::Timer;
use crate::device::HostCost;
use crate::device::kernel::Kernel;
use crate::{Error, Result};

/// Commands in one submission: enough to make its cost small, few enough that the device starts early. What starts early on a
/// software adapter takes cores and caches away from what is still recorded.
pub(super) const fn batch_commands(software: bool) -> u32 {
    if software { MAX_BATCH_COMMANDS } else { 128 }
}
pub(super) const MAX_BATCH_COMMANDS: u32 = 256;

/// Parameters and small writes of one batch. [`MAX_BATCH_COMMANDS`] small parameter blocks fill it.
const RING_BYTES: usize = 64 << 10;

/// Writes of up to this many host bytes travel with the parameters.
const SMALL_WRITE: usize = 8 << 10;

/// The largest parameter block.
pub(super) const MAX_PARAMS: usize = 16 << 10;

/// Host bytes handed to wgpu in one write, and in all before they are submitted: wgpu keeps a staging
/// copy of each until then.
const WRITE_CHUNK: usize = 16 << 20;
const STAGED_BYTES: usize = 32 << 20;

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
    /// With as many it is submitted.
    most_commands: u32,
    /// The kernels of the open batch, for the error if wgpu refuses it.
    kernels: Vec<&'static str>,
    /// The number of the open batch; from 1, so that no fresh block seems to be used in it.
    batch: u64,
    /// The parameters of the open batch's dispatches, and its small writes, each at a multiple of [`ALIGNMENT`]; written to
    /// `ring` in one go when the batch is submitted. Writes and submissions run in order, so that the
    /// one ring serves every batch.
    params: Vec<u8>,
    ring: wgpu::Buffer,
    /// Host bytes written since the last submission.
    staged: usize,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    pipelines: Pipelines,
    prepared: PreparedDispatches,
    /// What was done since it was last asked for, without the buffers, which others allocate.
    counts: HostCost,
    /// While kernels are timed.
    pub timer: Option<Timer>,
}

impl Recorder {
    pub fn new(gpu: &Gpu, checked: bool, most_commands: u32) -> Result<Self> {
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
            most_commands,
            kernels: Vec::new(),
            batch: 1,
            params: Vec::with_capacity(RING_BYTES),
            ring,
            staged: 0,
            in_flight: VecDeque::with_capacity(MAX_IN_FLIGHT + 1),
            pipelines: Pipelines::new(checked),
            prepared: PreparedDispatches::default(),
            counts: HostCost::default(),
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
        bindings.iter().for_each(|binding| self.mark(binding.buffer));
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
        let size = src.copy_size();
        self.copy_out(gpu, (src, 0), dst.raw(), size)?;
        self.mark(dst);
        self.recorded(gpu)
    }

    /// Records a copy of `size` bytes of `src`, from an offset on, to a raw buffer.
    pub fn copy_out(
        &mut self,
        gpu: &Gpu,
        (src, from): (&Buffer, u64),
        (dst, to): (&wgpu::Buffer, u64),
        size: u64,
    ) -> Result<()> {
        let (raw, start) = src.raw();
        Open::or_new(&mut self.open, gpu)?.encoder().copy_buffer_to_buffer(raw, start + from, dst, to, size);
        self.mark(src);
        Ok(())
    }

    /// Records filling with zeros.
    pub fn fill_zero(&mut self, gpu: &Gpu, dst: &Buffer) -> Result<()> {
        let (raw, start) = dst.raw();
        Open::or_new(&mut self.open, gpu)?.encoder().clear_buffer(raw, start, Some(dst.copy_size()));
        self.mark(dst);
        self.recorded(gpu)
    }

    /// Writes host bytes, as many as `dst` has.
    pub fn write(&mut self, gpu: &Gpu, dst: &Buffer, bytes: &[u8]) -> Result<()> {
        let (raw, start) = dst.raw();
        if (1..=SMALL_WRITE).contains(&bytes.len()) {
            // A copy among the other commands: no staging buffer, and nothing has to be submitted before it.
            let window = self.reserve(gpu, bytes.len())?;
            let from = self.params.len() as u64;
            self.append(bytes, window);
            let encoder = Open::or_new(&mut self.open, gpu)?.encoder();
            encoder.copy_buffer_to_buffer(&self.ring, from, raw, start, dst.copy_size());
            self.mark(dst);
            return self.recorded(gpu);
        }
        for (i, chunk) in bytes.chunks(WRITE_CHUNK).enumerate() {
            // wgpu runs a write before all that is not yet submitted. Commands of the open batch that
            // use this memory, for an earlier tensor perhaps, have to go first.
            if dst.block().batch.load(Ordering::Relaxed) == self.batch {
                self.flush(gpu)?;
            }
            let at = start + (i * WRITE_CHUNK) as u64;
            let (words, tail) = chunk.split_at(chunk.len() & !3);
            gpu.guard(BATCH, chunk.len() as u64, || {
                if !words.is_empty() {
                    gpu.queue.write_buffer(raw, at, words);
                }
                if !tail.is_empty() {
                    let mut word = [0; 4];
                    word[..tail.len()].copy_from_slice(tail);
                    gpu.queue.write_buffer(raw, at + words.len() as u64, &word);
                }
            })?;
            self.staged += chunk.len();
            if self.staged >= STAGED_BYTES {
                self.flush(gpu)?;
            }
        }
        Ok(())
    }

    /// Submits what is recorded and written. Waits only if the device is [`MAX_IN_FLIGHT`] batches behind.
    pub fn flush(&mut self, gpu: &Gpu) -> Result<()> {
        if self.open.is_none() && self.staged == 0 {
            return Ok(());
        }
        let open = self.open.take();
        let params = std::mem::take(&mut self.params);
        let timer = &mut self.timer;
        let submitted = gpu.guard(BATCH, 0, || {
            let commands = open.map(|mut open| {
                open.end_pass();
                if let Some(timer) = timer {
                    timer.resolve(gpu, &mut open.encoder);
                }
                open.encoder.finish()
            });
            if !params.is_empty() {
                gpu.queue.write_buffer(&self.ring, 0, &params);
            }
            gpu.clock.submit(|| gpu.queue.submit(commands))
        });
        self.params = params;
        self.params.clear();
        self.counts.submits += 1;
        self.commands = 0;
        self.staged = 0;
        self.batch += 1;
        self.prepared.sweep(&self.pipelines);
        let mut kernels = std::mem::take(&mut self.kernels);
        let submitted = submitted.map_err(|error| of_kernels(error, &mut kernels));
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

    fn mark(&self, buffer: &Buffer) {
        buffer.block().batch.store(self.batch, Ordering::Relaxed);
    }

    fn recorded(&mut self, gpu: &Gpu) -> Result<()> {
        self.commands += 1;
        if self.commands >= self.most_commands { self.flush(gpu) } else { Ok(()) }
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
