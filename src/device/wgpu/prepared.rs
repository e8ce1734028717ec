//! Dispatches that were recorded before, with what it takes to record them again.

use std::collections::HashSet;
use std::num::NonZeroU64;

use indexmap::IndexMap;
use indexmap::map::Entry;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::fault::Gpu;
use super::memory::{ALIGNMENT, BINDING_UNIT};
use super::pipeline::{PipelineId, Pipelines, Signature, writes};
use super::queue::Bound;
use crate::Result;
use crate::device::kernel::Kernel;

/// How many are kept before those that were not recorded again go.
pub(super) const KEPT: usize = 4096;

/// What a dispatch binds: the window of its parameters and which buffers it writes, then of each buffer its block, and offset and
/// size in units of what they are multiples of.
type Bindings = SmallVec<[u64; 1 + 2 * 8]>;

fn bindings(window: u32, bound: &[Bound<'_>]) -> Bindings {
    let mut bindings = SmallVec::new();
    bindings.push(u64::from(writes(bound)) << 32 | u64::from(window));
    for Bound { buffer, .. } in bound {
        let (offset, size) = (buffer.offset() / ALIGNMENT, buffer.binding_size() / BINDING_UNIT);
        bindings.extend([buffer.block().id, offset << 32 | size]);
    }
    bindings
}

/// What tells dispatches apart.
#[derive(PartialEq, Eq, Hash)]
struct Dispatch {
    bindings: Bindings,
    pipeline: PipelineId,
}

/// What records a dispatch.
struct Prepared {
    group: wgpu::BindGroup,
    /// Which one followed when this was recorded last.
    next: usize,
    /// It was recorded since the last sweep.
    recent: bool,
}

/// All that are known, in the order in which they came first.
///
/// A training step records the same dispatches each time round. So the next one is expected where it was the last time, and mostly
/// found there without a search; and what follows upon each other lies next to each other, which counts when a batch of kernels has
/// emptied the processor's caches.
#[derive(Default)]
pub(super) struct PreparedDispatches {
    known: IndexMap<Dispatch, Prepared, FxBuildHasher>,
    /// The one that was recorded last.
    last: usize,
    /// How many the last sweep left.
    swept: usize,
    /// One was made since the last batch.
    grew: bool,
    /// How many pipelines there were when all were let go to be made anew.
    settled: usize,
    /// Bind groups that nobody has counted yet.
    pub made: u64,
}

impl PreparedDispatches {
    /// What records `kernel` with these buffers and this window of parameters in the ring, made at the first time.
    pub fn get(
        &mut self,
        gpu: &Gpu,
        pipelines: &mut Pipelines,
        kernel: &Kernel,
        (ring, window): (&wgpu::Buffer, u32),
        bound: &[Bound<'_>],
    ) -> Result<(PipelineId, &wgpu::BindGroup)> {
        let bindings = bindings(window, bound);
        let expected = self.known.get_index(self.last).map_or(0, |(_, last)| last.next);
        let index = match self.known.get_index(expected) {
            Some((known, _))
                if known.bindings == bindings && pipelines.compiled(known.pipeline).0 == kernel =>
            {
                expected
            }
            _ => {
                let signature = Signature::of(kernel, window, bound);
                let pipeline = pipelines.get(gpu, kernel, signature)?;
                let index = match self.known.entry(Dispatch { bindings, pipeline }) {
                    Entry::Occupied(known) => known.index(),
                    Entry::Vacant(place) => {
                        let layout = pipelines.layout(signature);
                        let group = create_group(gpu, kernel.name, layout, (ring, window), bound)?;
                        self.made += 1;
                        self.grew = true;
                        let index = place.index();
                        place.insert(Prepared { group, next: index + 1, recent: true });
                        index
                    }
                };
                if let Some((_, last)) = self.known.get_index_mut(self.last) {
                    last.next = index;
                }
                index
            }
        };
        self.last = index;
        let (dispatch, prepared) = self.known.get_index_mut(index).expect("it was found or inserted");
        prepared.recent = true;
        Ok((dispatch.pipeline, &prepared.group))
    }

    /// Between batches. Lets go, once there are many, of those that were not recorded since they were last swept.
    ///
    /// And of all, once after kernels were compiled, when a batch needed nothing new: what wgpu keeps of them lies wherever compilers
    /// left room. Made anew one after the other, it lies together in the order of its use.
    pub fn sweep(&mut self, pipelines: &Pipelines) {
        let steady = !std::mem::take(&mut self.grew);
        if steady && self.settled != pipelines.count() {
            self.settled = pipelines.count();
            self.known.clear();
        } else if self.known.len() >= KEPT.max(2 * self.swept) {
            self.retain(|_, prepared| std::mem::take(&mut prepared.recent));
            self.swept = self.known.len();
        }
    }

    /// Lets go of those that bind one of these blocks: they would keep the memory alive.
    pub fn forget(&mut self, blocks: &HashSet<u64>) {
        self.retain(|known, _| !known.bindings[1..].chunks(2).any(|bound| blocks.contains(&bound[0])));
    }

    fn retain(&mut self, keep: impl FnMut(&Dispatch, &mut Prepared) -> bool) {
        self.known.retain(keep);
        self.known.values_mut().enumerate().for_each(|(i, prepared)| prepared.next = i + 1);
    }
}

fn create_group(
    gpu: &Gpu,
    kernel: &'static str,
    layout: &wgpu::BindGroupLayout,
    (ring, window): (&wgpu::Buffer, u32),
    bindings: &[Bound<'_>],
) -> Result<wgpu::BindGroup> {
    let entry = |binding, buffer, offset, size| wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer,
            offset,
            size: NonZeroU64::new(size),
        }),
    };
    let mut entries: SmallVec<[wgpu::BindGroupEntry<'_>; 9]> = SmallVec::new();
    entries.push(entry(0, ring, 0, u64::from(window)));
    for (binding, Bound { buffer, .. }) in (1..).zip(bindings) {
        let (raw, offset) = buffer.raw();
        entries.push(entry(binding, raw, offset, buffer.binding_size()));
    }
    gpu.guard(kernel, 0, || {
        gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    })
}
