//! Global memory: allocations with gaps between them, and for every byte whether it has been written.
//!
//! Blocks on several host threads share it, so bytes are atomics, accessed relaxed: a kernel with a race gets some value,
//! as on hardware, and the simulator stays sound.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::report::{Error, Report, ReportKind};

/// Where allocations begin. The windows of the other spaces (see [`super::exec`]) are below.
const HEAP: u64 = 0x0000_7000_0000_0000;
/// What `cudaMalloc` promises.
const ALIGN: u64 = 256;
/// Bytes between allocations that belong to nobody.
const GUARD: u64 = 4096;
/// Freed ranges that are remembered, to name them when they are used.
const QUARANTINE: usize = 4096;

/// Bytes that several threads may touch.
pub struct Buffer {
    words: Box<[AtomicU64]>,
}

impl Buffer {
    pub fn zeroed(bytes: u64) -> Self {
        let words = vec![0u64; bytes.div_ceil(8) as usize].into_boxed_slice();
        // SAFETY: AtomicU64 has the size, alignment and bit validity of u64. Collecting atomics instead would touch every
        // page, where zeroed pages come from the system untouched.
        Self { words: unsafe { Box::from_raw(Box::into_raw(words) as *mut [AtomicU64]) } }
    }

    fn pointer(&self, offset: u64, bytes: usize) -> *mut u8 {
        assert!(offset + bytes as u64 <= 8 * self.words.len() as u64, "an access past its buffer");
        self.words.as_ptr().cast::<u8>().cast_mut().wrapping_add(offset as usize)
    }

    /// Up to 8 bytes, zero-extended. The offset is a multiple of the size.
    #[inline(always)]
    pub fn load(&self, offset: u64, bytes: u8) -> u64 {
        let pointer = self.pointer(offset, bytes.into());
        debug_assert!(offset.is_multiple_of(bytes.into()));
        // SAFETY: in bounds (asserted), aligned like the offset, since the buffer is to 8; all accesses are atomic.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(pointer).load(Relaxed).into(),
                2 => AtomicU16::from_ptr(pointer.cast()).load(Relaxed).into(),
                4 => AtomicU32::from_ptr(pointer.cast()).load(Relaxed).into(),
                _ => AtomicU64::from_ptr(pointer.cast()).load(Relaxed),
            }
        }
    }

    /// Up to 8 bytes of `value`. The offset is a multiple of the size.
    #[inline(always)]
    pub fn store(&self, offset: u64, bytes: u8, value: u64) {
        let pointer = self.pointer(offset, bytes.into());
        debug_assert!(offset.is_multiple_of(bytes.into()));
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(pointer).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(pointer.cast()).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(pointer.cast()).store(value as u32, Relaxed),
                _ => AtomicU64::from_ptr(pointer.cast()).store(value, Relaxed),
            }
        }
    }

    pub fn read(&self, offset: u64, into: &mut [u8]) {
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let bytes = if at.is_multiple_of(8) && rest.len() >= 8 { 8 } else { 1 };
            let (piece, tail) = rest.split_at_mut(bytes);
            piece.copy_from_slice(&self.load(at, bytes as u8).to_le_bytes()[..bytes]);
            (at, rest) = (at + bytes as u64, tail);
        }
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            if at.is_multiple_of(8)
                && let Some((word, tail)) = rest.split_first_chunk()
            {
                self.store(at, 8, u64::from_le_bytes(*word));
                (at, rest) = (at + 8, tail);
            } else {
                self.store(at, 1, rest[0].into());
                (at, rest) = (at + 1, &rest[1..]);
            }
        }
    }

    pub fn fill(&self, offset: u64, bytes: u64, value: u8) {
        let word = u64::from_le_bytes([value; 8]);
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let step = if at.is_multiple_of(8) && at + 8 <= end { 8 } else { 1 };
            self.store(at, step, word);
            at += u64::from(step);
        }
    }
}

/// Who touched a piece of global memory last during a launch: see [`super::exec::global`].
pub struct Touched {
    pub write: AtomicU64,
    pub read: AtomicU64,
}

/// One allocation.
pub struct Allocation {
    pub base: u64,
    pub size: u64,
    pub data: Buffer,
    /// A byte of 1 for every byte that has been written.
    pub written: Buffer,
    /// For every 4, 2 or 1 bytes; made by the first launch that looks for races here.
    touched: [OnceLock<Box<[Touched]>>; 3],
}

impl Allocation {
    fn new(base: u64, size: u64) -> Self {
        let (data, written) = (Buffer::zeroed(size), Buffer::zeroed(size));
        Self { base, size, data, written, touched: Default::default() }
    }

    /// Wipes the race shadow.
    pub fn forget_accesses(&self) {
        for touched in self.touched.iter().filter_map(OnceLock::get).flat_map(|shadow| shadow.iter()) {
            touched.write.store(0, Relaxed);
            touched.read.store(0, Relaxed);
        }
    }

    /// The race shadow with an entry for every `1 << shift` bytes.
    pub fn touched(&self, shift: u32) -> &[Touched] {
        self.touched[shift as usize].get_or_init(|| {
            let count = self.size.div_ceil(1 << shift) as usize;
            let zeros = vec![0u64; 2 * count].into_boxed_slice();
            // SAFETY: a Touched is two AtomicU64, each with the layout of u64; the slice has 2 * count of them.
            unsafe {
                let pairs = std::ptr::slice_from_raw_parts_mut(Box::into_raw(zeros).cast::<Touched>(), count);
                Box::from_raw(pairs)
            }
        })
    }
}

/// What a launch sees: the allocations by address, and what has been freed.
#[derive(Default)]
pub struct View {
    pub allocations: Vec<Arc<Allocation>>,
    pub freed: Vec<(u64, u64)>,
}

impl View {
    /// The index of the allocation that holds an address.
    #[inline]
    pub fn find(&self, address: u64) -> Option<usize> {
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        let index = after.checked_sub(1)?;
        (address - self.allocations[index].base < self.allocations[index].size).then_some(index)
    }

    /// The freed range that holds an address.
    pub fn find_freed(&self, address: u64) -> Option<(u64, u64)> {
        self.freed.iter().copied().find(|&(base, size)| address >= base && address - base < size)
    }

    /// The allocation that ends last before an address, and how far before.
    pub fn nearest(&self, address: u64) -> Option<(&Allocation, u64)> {
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        let allocation = &self.allocations[after.checked_sub(1)?];
        Some((allocation, address - allocation.base))
    }
}

#[derive(Default)]
struct State {
    live: BTreeMap<u64, Arc<Allocation>>,
    freed: VecDeque<(u64, u64)>,
    next: u64,
    view: Option<Arc<View>>,
}

/// The memory of a simulated device.
pub struct Memory {
    state: Mutex<State>,
    /// Whether the host may read only what was written.
    check_reads: bool,
}

impl Memory {
    pub fn new(check_reads: bool) -> Self {
        Self { state: Mutex::default(), check_reads }
    }

    pub fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        if bytes > 1 << 40 {
            return Err(Error::Memory(format!("an allocation of {bytes} bytes")));
        }
        let mut state = self.state.lock();
        let base = HEAP + state.next;
        state.next = (state.next + bytes + GUARD).next_multiple_of(ALIGN);
        state.live.insert(base, Arc::new(Allocation::new(base, bytes)));
        state.view = None;
        Ok(base)
    }

    pub fn free(&self, address: u64) -> Result<(), Error> {
        let mut state = self.state.lock();
        let Some(allocation) = state.live.remove(&address) else {
            let freed = state.freed.iter().any(|&(base, _)| base == address);
            let why = if freed { "has been freed before" } else { "is no allocation" };
            return Err(Error::Memory(format!("free: {address:#x} {why}")));
        };
        if state.freed.len() == QUARANTINE {
            state.freed.pop_front();
        }
        state.freed.push_back((address, allocation.size));
        state.view = None;
        Ok(())
    }

    pub fn view(&self) -> Arc<View> {
        let mut state = self.state.lock();
        if let Some(view) = &state.view {
            return view.clone();
        }
        let allocations = state.live.values().filter(|allocation| allocation.size > 0).cloned().collect();
        let view = Arc::new(View { allocations, freed: state.freed.iter().copied().collect() });
        state.view = Some(view.clone());
        view
    }

    /// The allocation around `[address, address + bytes)` and the offset in it.
    fn locate(&self, what: &str, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), Error> {
        let state = self.state.lock();
        let found = state.live.range(..=address).next_back();
        if let Some((base, allocation)) = found
            && let offset = address - base
            && offset <= allocation.size
            && bytes <= allocation.size - offset
        {
            return Ok((allocation.clone(), offset));
        }
        let why = if state.freed.iter().any(|&(base, size)| address >= base && address - base < size) {
            "lies in freed memory"
        } else {
            "is not within one allocation"
        };
        Err(Error::Memory(format!("{what}: {bytes} bytes at {address:#x} {why}")))
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let (allocation, offset) = self.locate("write", address, bytes.len() as u64)?;
        allocation.data.write(offset, bytes);
        allocation.written.fill(offset, bytes.len() as u64, 1);
        Ok(())
    }

    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        let (allocation, offset) = self.locate("read", address, into.len() as u64)?;
        if self.check_reads
            && let Some(byte) =
                (0..into.len() as u64).find(|byte| allocation.written.load(offset + byte, 1) == 0)
        {
            let message = format!(
                "the host reads byte {} of the allocation of {} bytes at {:#x}, which nobody has written",
                offset + byte,
                allocation.size,
                allocation.base
            );
            return Err(Error::Report(Box::new(Report {
                kind: ReportKind::Uninitialised,
                kernel: None,
                block: [0; 3],
                thread: None,
                other: None,
                ptx_line: None,
                source: None,
                inlined: Vec::new(),
                message,
            })));
        }
        allocation.data.read(offset, into);
        Ok(())
    }

    pub fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), Error> {
        let (allocation, offset) = self.locate("fill", address, bytes)?;
        allocation.data.fill(offset, bytes, value);
        allocation.written.fill(offset, bytes, 1);
        Ok(())
    }

    /// Forgets that a range was written, for allocators that hand memory out again.
    pub fn forget(&self, address: u64, bytes: u64) -> Result<(), Error> {
        let (allocation, offset) = self.locate("forget", address, bytes)?;
        allocation.written.fill(offset, bytes, 0);
        Ok(())
    }

    /// Copies bytes, and whether they were written.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Error> {
        let (source, source_offset) = self.locate("copy", from, bytes)?;
        let (target, target_offset) = self.locate("copy", to, bytes)?;
        let mut buffer = vec![0; bytes as usize];
        for (from, to) in [(&source.data, &target.data), (&source.written, &target.written)] {
            from.read(source_offset, &mut buffer);
            to.write(target_offset, &buffer);
        }
        Ok(())
    }
}
