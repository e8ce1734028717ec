//! Device memory: a pool of blocks by size class, and the [`Buffer`]s that lease them.
//!
//! A block goes back to the pool the moment its last [`Buffer`] drops, even while commands that use
//! it wait or run: whoever leases it next uses it in later commands of the same queue, which run
//! after those. Host writes are such commands too.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::device::MemoryStats;
use crate::{Error, Result};

/// Offsets of bindings are multiples of this on every adapter, and so are block sizes.
pub(crate) const ALIGNMENT: u64 = 256;

/// Sizes of bindings are multiples of this, which holds at least one `vec4<f32>`.
pub(super) const BINDING_UNIT: u64 = 16;

/// Size classes per doubling, beyond those that [`ALIGNMENT`] makes coarser: at most an eighth is wasted.
const CLASSES_PER_OCTAVE: u64 = 8;

/// Block ids are unique in the process, so that a foreign block can never be taken for an own one.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// One allocation of the driver.
pub(super) struct Block {
    pub id: u64,
    pub raw: wgpu::Buffer,
}

impl Block {
    pub fn new(raw: wgpu::Buffer) -> Arc<Self> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Arc::new(Block { id, raw })
    }

    pub fn size(&self) -> u64 {
        self.raw.size()
    }
}

/// The block size that serves a request: `ALIGNMENT` or a multiple, in steps of an eighth of an octave.
pub(super) fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(1);
    let octave = 1u64 << bytes.ilog2();
    bytes.next_multiple_of((octave / CLASSES_PER_OCTAVE).max(ALIGNMENT))
}

#[derive(Default)]
struct State {
    /// Free blocks by size and id. Taking the lowest id makes a loop that allocates and frees alike
    /// get the same blocks each time round, and with them its cached bind groups.
    free: BTreeMap<(u64, u64), Arc<Block>>,
    stats: MemoryStats,
}

/// The blocks of one device.
pub(super) struct Pool {
    /// What errors call the device.
    device: String,
    state: Mutex<State>,
}

impl Pool {
    pub fn new(device: String) -> Arc<Self> {
        Arc::new(Pool { device, state: Mutex::default() })
    }

    pub fn stats(&self) -> MemoryStats {
        self.state.lock().stats
    }

    /// A free block of exactly this class.
    pub fn take(self: &Arc<Self>, class: u64, bytes: usize) -> Option<Buffer> {
        let mut state = self.state.lock();
        let (&key, _) = state.free.range((class, 0)..=(class, u64::MAX)).next()?;
        let block = state.free.remove(&key)?;
        state.stats.cached -= class;
        state.stats.in_use += class;
        drop(state);
        Some(self.lease(block, bytes))
    }

    /// Takes a new block into the accounts.
    pub fn adopt(self: &Arc<Self>, block: Arc<Block>, bytes: usize) -> Buffer {
        {
            let stats = &mut self.state.lock().stats;
            stats.in_use += block.size();
            stats.peak = stats.peak.max(stats.in_use + stats.cached);
        }
        self.lease(block, bytes)
    }

    fn lease(self: &Arc<Self>, block: Arc<Block>, bytes: usize) -> Buffer {
        Buffer { lease: Arc::new(Lease { block, pool: self.clone() }), offset: 0, bytes }
    }

    /// Empties the free list.
    pub fn drain(&self) -> Vec<Arc<Block>> {
        let mut state = self.state.lock();
        state.stats.cached = 0;
        std::mem::take(&mut state.free).into_values().collect()
    }
}

/// The right to use a block; dropping it frees the block for reuse.
struct Lease {
    block: Arc<Block>,
    pool: Arc<Pool>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let size = self.block.size();
        let mut state = self.pool.state.lock();
        state.stats.in_use -= size;
        state.stats.cached += size;
        state.free.insert((size, self.block.id), self.block.clone());
    }
}

/// A pooled piece of one device's memory.
///
/// Clones and slices share the memory, which goes back to the device's pool when the last of them
/// drops. A new buffer's bytes are unspecified: zeros, or what an earlier buffer left.
#[derive(Clone)]
pub struct Buffer {
    lease: Arc<Lease>,
    offset: u64,
    bytes: usize,
}

impl Buffer {
    /// The size in bytes, as it was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The `bytes` bytes from `offset` on, sharing this buffer's memory.
    ///
    /// # Errors
    /// [`Error::Argument`] if the range is not inside this buffer, if `offset` is no multiple of 256, or
    /// if the range ends inside the buffer and not at a multiple of 4: devices copy and fill whole words.
    pub fn slice(&self, offset: usize, bytes: usize) -> Result<Buffer> {
        let refuse = |argument, reason: String| Err(Error::argument("slice", argument, reason));
        let Some(end) = offset.checked_add(bytes).filter(|&end| end <= self.bytes) else {
            return refuse("bytes", format!("{bytes} at {offset} ends outside a buffer of {}", self.bytes));
        };
        if !(offset as u64).is_multiple_of(ALIGNMENT) {
            return refuse("offset", format!("is {offset}, it must be a multiple of {ALIGNMENT}"));
        }
        if end != self.bytes && !end.is_multiple_of(4) {
            return refuse("bytes", format!("is {bytes}, it must be a multiple of 4 or end the buffer"));
        }
        // Nothing, at the end of a block, could not be bound there: a binding shows some bytes.
        let offset = if bytes == 0 { 0 } else { offset as u64 };
        Ok(Buffer { lease: self.lease.clone(), offset: self.offset + offset, bytes })
    }

    /// True if both are parts, overlapping or not, of one allocation.
    pub fn same_memory(&self, other: &Buffer) -> bool {
        Arc::ptr_eq(&self.lease, &other.lease)
    }

    /// The wgpu buffer that holds these bytes, and where in it they start.
    ///
    /// Flush the device before using it in commands of your own, and submit those before the device
    /// records more that depends on them. The allocation may be larger than [`Buffer::bytes`].
    pub fn raw(&self) -> (&wgpu::Buffer, u64) {
        (&self.lease.block.raw, self.offset)
    }

    pub(super) fn block(&self) -> &Block {
        &self.lease.block
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes rounded up to what a copy moves: padding inside the block, which nobody else sees.
    pub(super) fn copy_size(&self) -> u64 {
        (self.bytes as u64).next_multiple_of(4)
    }

    /// The bytes rounded up to what a binding needs.
    pub(super) fn binding_size(&self) -> u64 {
        (self.bytes as u64).max(1).next_multiple_of(BINDING_UNIT)
    }

    pub(super) fn overlaps(&self, other: &Buffer) -> bool {
        self.same_memory(other)
            && self.offset < other.offset + other.bytes as u64
            && other.offset < self.offset + self.bytes as u64
    }

    pub(super) fn check_pool(&self, op: &'static str, pool: &Arc<Pool>) -> Result<()> {
        if Arc::ptr_eq(&self.lease.pool, pool) {
            return Ok(());
        }
        let left = self.lease.pool.device.clone();
        Err(Error::DeviceMismatch { op, left, right: pool.device.clone() })
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("block", &self.lease.block.id)
            .field("offset", &self.offset)
            .field("bytes", &self.bytes)
            .field("device", &self.lease.pool.device)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_are_aligned_fixed_points_and_waste_little() {
        let mut classes = std::collections::BTreeSet::new();
        for bytes in (0..100_000).chain([1 << 30, (1 << 30) + 1, (1 << 31) - 1]) {
            let class = size_class(bytes);
            assert!(class >= bytes.max(1) && class.is_multiple_of(ALIGNMENT));
            assert!(class - bytes.max(1) < ALIGNMENT.max(bytes / 8 + 1), "{bytes} -> {class}");
            assert_eq!(size_class(class), class);
            classes.insert(class);
        }
        assert!(classes.range(1 << 14..1 << 15).count() == 8);
    }
}
