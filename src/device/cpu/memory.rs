//! Pooled memory: buffers come back to a free list and serve the next request of their size class.
//!
//! A training step asks for the same sizes again and again. Handing large buffers back to the
//! operating system in between costs a page fault for every 4 KiB at their next first touch,
//! which at GPT sizes is as long as a matmul.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use parking_lot::Mutex;

use crate::device::MemoryStats;
use crate::{Element, Error, Result};

/// One cache line, and the widest vector register.
const ALIGN: usize = 64;

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

#[derive(Default)]
struct Pool {
    free: HashMap<usize, Vec<NonNull<u8>>>,
    stats: MemoryStats,
}

// SAFETY: the free list owns its allocations; nothing else points at them.
unsafe impl Send for Pool {}

/// Rounds up to a size class: eight steps an octave, so at most an eighth is wasted.
pub(crate) fn size_class(bytes: usize, smallest: usize) -> usize {
    let bytes = bytes.max(smallest);
    let step = (bytes.next_power_of_two() / 16).max(smallest);
    bytes.next_multiple_of(step)
}

/// An allocation of the pool: aligned, always initialised (a fresh one is zero, a reused one holds
/// what its last owner wrote), returned when dropped.
pub struct Memory {
    ptr: NonNull<u8>,
    /// The size class: what was really allocated.
    class: usize,
    bytes: usize,
}

// SAFETY: `Memory` owns its bytes like a `Vec<u8>`; sharing follows Rust's borrows.
unsafe impl Send for Memory {}
// SAFETY: as above; `&Memory` only reads.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout(class: usize) -> Layout {
        Layout::from_size_align(class, ALIGN).expect("size classes are checked in new")
    }

    /// Memory of this many bytes, or [`Error::OutOfMemory`].
    pub fn new(bytes: usize) -> Result<Self> {
        let failed = || Error::OutOfMemory {
            device: "cpu".into(),
            bytes: bytes as u64,
            hint: "; release_memory() hands cached buffers back",
        };
        if bytes > isize::MAX as usize / 2 {
            return Err(failed());
        }
        let class = size_class(bytes, ALIGN);
        let mut guard = POOL.lock();
        let pool = guard.get_or_insert_with(Pool::default);
        let ptr = match pool.free.get_mut(&class).and_then(Vec::pop) {
            Some(ptr) => {
                pool.stats.cached -= class as u64;
                ptr
            }
            // SAFETY: the layout is not of size zero.
            None => NonNull::new(unsafe { alloc_zeroed(Self::layout(class)) }).ok_or_else(failed)?,
        };
        pool.stats.in_use += class as u64;
        pool.stats.peak = pool.stats.peak.max(pool.stats.in_use + pool.stats.cached);
        Ok(Memory { ptr, class, bytes })
    }

    /// The size that was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes as elements.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        // SAFETY: initialised, aligned for every element, alive as long as `self` is borrowed;
        // every bit pattern is a valid `T`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    /// The bytes as elements to write.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut guard = POOL.lock();
        let pool = guard.get_or_insert_with(Pool::default);
        pool.free.entry(self.class).or_default().push(self.ptr);
        pool.stats.in_use -= self.class as u64;
        pool.stats.cached += self.class as u64;
    }
}

/// Bytes held by tensors and bytes kept for reuse.
pub(crate) fn stats() -> MemoryStats {
    POOL.lock().as_ref().map_or(MemoryStats::default(), |pool| pool.stats)
}

/// Hands every cached buffer back to the operating system.
pub(crate) fn release() {
    let Some(pool) = &mut *POOL.lock() else { return };
    for (class, buffers) in pool.free.drain() {
        for ptr in buffers {
            // SAFETY: allocated in `new` with this layout, and owned by the free list alone.
            unsafe { dealloc(ptr.as_ptr(), Memory::layout(class)) };
        }
    }
    pool.stats.cached = 0;
}

/// A typed, pooled array that an op fills and turns into a tensor.
///
/// It starts with arbitrary values, not zeros: an op writes every element.
pub struct CpuVec<T: Element> {
    pub(crate) memory: Memory,
    element: PhantomData<T>,
}

impl<T: Element> CpuVec<T> {
    /// Room for `len` elements.
    pub fn new(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>());
        Ok(CpuVec { memory: Memory::new(bytes)?, element: PhantomData })
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Result<Self> {
        Self::filled(len, T::from_f64(0.0))
    }

    /// `len` times `value`.
    pub fn filled(len: usize, value: T) -> Result<Self> {
        let mut v = Self::new(len)?;
        v.fill(value);
        Ok(v)
    }

    /// A copy of `values`.
    pub fn copied(values: &[T]) -> Result<Self> {
        let mut v = Self::new(values.len())?;
        v.copy_from_slice(values);
        Ok(v)
    }
}

impl<T: Element> Deref for CpuVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.memory.as_slice()
    }
}

impl<T: Element> DerefMut for CpuVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.memory.as_mut_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        for bytes in [0, 1, 64, 65, 1000, 4097, 123_456_789] {
            let class = size_class(bytes, ALIGN);
            assert!(class >= bytes.max(1) && class.is_multiple_of(ALIGN));
            assert!(bytes < 1024 || class - bytes <= bytes / 8, "{bytes} -> {class}");
            assert_eq!(size_class(class, ALIGN), class);
        }
    }

    #[test]
    fn absurd_sizes_are_a_typed_error() {
        assert!(matches!(CpuVec::<f64>::new(usize::MAX), Err(Error::OutOfMemory { .. })));
    }
}
