//! Dispatches that were recorded before, with what it takes to record them again.

use std::collections::HashSet;

use indexmap::{Equivalent, IndexMap};
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::memory::{ALIGNMENT, BINDING_UNIT};
use super::pipeline::{PipelineId, Signature};
use super::queue::Bound;
use crate::Result;
use crate::device::kernel::Kernel;

/// How many are kept before those that were not recorded again go.
pub(super) const KEPT: usize = 4096;

/// A kernel, and what it binds: the window of its parameters and which buffers it writes, then of each buffer its block, and
/// offset and size in units of what they are multiples of.
#[derive(PartialEq, Eq, Hash)]
struct Dispatch<K> {
    bindings: SmallVec<[u64; 1 + 2 * 8]>,
    kernel: K,
}

impl<'a> Dispatch<&'a Kernel> {
    fn new(kernel: &'a Kernel, window: u32, bound: &[Bound<'_>]) -> Self {
        let mut bindings = SmallVec::new();
        bindings.push(u64::from(Signature::of(bound).writes) << 32 | u64::from(window));
        for Bound { buffer, .. } in bound {
            let (offset, size) = (buffer.offset() / ALIGNMENT, buffer.binding_size() / BINDING_UNIT);
            bindings.extend([buffer.block().id, offset << 32 | size]);
        }
        Dispatch { bindings, kernel }
    }
}

impl Equivalent<Dispatch<Kernel>> for Dispatch<&Kernel> {
    fn equivalent(&self, known: &Dispatch<Kernel>) -> bool {
        self.bindings == known.bindings && *self.kernel == known.kernel
    }
}

/// What records a dispatch.
pub(super) struct Prepared {
    pub pipeline: PipelineId,
    pub group: wgpu::BindGroup,
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
    known: IndexMap<Dispatch<Kernel>, Prepared, FxBuildHasher>,
    /// The one that was recorded last.
    last: usize,
    /// How many the last sweep left.
    swept: usize,
    /// Bind groups that nobody has counted yet.
    pub made: u64,
}

impl PreparedDispatches {
    /// What records `kernel` with these buffers and this window of parameters; `prepare` makes it at the first time.
    pub fn get(
        &mut self,
        kernel: &Kernel,
        window: u32,
        bound: &[Bound<'_>],
        prepare: impl FnOnce() -> Result<(PipelineId, wgpu::BindGroup)>,
    ) -> Result<&Prepared> {
        let wanted = Dispatch::new(kernel, window, bound);
        let expected = self.known.get_index(self.last).map_or(0, |(_, last)| last.next);
        let index = match self.known.get_index(expected) {
            Some((known, _)) if wanted.equivalent(known) => expected,
            _ => {
                let index = match self.known.get_index_of(&wanted) {
                    Some(index) => index,
                    None => {
                        let (pipeline, group) = prepare()?;
                        self.made += 1;
                        let known = Dispatch { bindings: wanted.bindings, kernel: kernel.clone() };
                        let next = self.known.len() + 1;
                        let prepared = Prepared { pipeline, group, next, recent: true };
                        self.known.insert_full(known, prepared).0
                    }
                };
                if let Some((_, last)) = self.known.get_index_mut(self.last) {
                    last.next = index;
                }
                index
            }
        };
        self.last = index;
        let prepared = &mut self.known[index];
        prepared.recent = true;
        Ok(prepared)
    }

    /// Lets go, once there are many, of those that were not recorded since they were last swept. Between batches.
    pub fn sweep(&mut self) {
        if self.known.len() >= KEPT.max(2 * self.swept) {
            self.retain(|_, prepared| std::mem::take(&mut prepared.recent));
            self.swept = self.known.len();
        }
    }

    /// Lets go of those that bind one of these blocks: they would keep the memory alive.
    pub fn forget(&mut self, blocks: &HashSet<u64>) {
        self.retain(|known, _| !known.bindings[1..].chunks(2).any(|bound| blocks.contains(&bound[0])));
    }

    fn retain(&mut self, keep: impl FnMut(&Dispatch<Kernel>, &mut Prepared) -> bool) {
        self.known.retain(keep);
        self.known.values_mut().enumerate().for_each(|(i, prepared)| prepared.next = i + 1);
    }
}
