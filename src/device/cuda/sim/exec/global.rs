//! Global memory as a block sees it: bounds, whether bytes were written, and races between blocks.
//!
//! While a launch runs, each granule of global memory (4 bytes, or as few as the kernel's narrowest access) remembers a
//! block, thread and instruction that wrote it, and one that read it, marked with the launch. Blocks have no order within a
//! launch, so a write and any other access of the same granule by two blocks is a race, unless both are atomic. Kernels
//! with fences order their blocks themselves; there the check would only guess, and is off.
//!
//! Blocks on several host threads leave their marks at the same time. Each leaves its own first and then looks at the
//! other's, in an order on which all threads agree (`SeqCst`), so at least one of the two sees the other. A race is the
//! fault of the later block, whichever of the two finds it: the earlier one goes on, because it may be at fault itself with
//! a block before it, and that is then what is reported.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use super::memory::Addresses;
use super::registers::extend;
use super::warp::Warp;
use super::{Block, Fault};
use crate::device::cuda::sim::lanes::{WARP, lanes_of};
use crate::device::cuda::sim::memory::{Allocation, Touched, View};
use crate::device::cuda::sim::program::{Access, Slot};
use crate::device::cuda::sim::report::{Other, ReportKind, triple};

/// The allocations that the lanes of an access hit.
pub enum Hit {
    /// All the same one.
    One(usize),
    /// Several, or none for lanes that are out of bounds.
    Each(Box<[Option<usize>; WARP]>),
}

impl Hit {
    /// A lane's allocation and the offset in it.
    #[inline(always)]
    pub fn get<'v>(&self, view: &'v View, lane: usize, address: u64) -> Option<(&'v Allocation, u64)> {
        let index = match self {
            Self::One(index) => *index,
            Self::Each(each) => each[lane]?,
        };
        let allocation = &*view.allocations[index];
        Some((allocation, address - allocation.base))
    }
}

/// An entry of the race shadow: launch, block, thread, instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark(u64);

impl Mark {
    /// Of a reader: another block has read too.
    const MANY: u64 = 1 << 19;
    /// Of a writer: an atomic, which does not race with its like.
    const ATOMIC: u64 = 1 << 19;
    const BLOCK: u64 = ((1 << 24) - 1) << 30;

    fn new(tag: u32, block: u64, thread: u32, pc: u32) -> Self {
        let pc = u64::from(pc) & (Self::MANY - 1);
        Self(u64::from(tag) << 54 | block << 30 & Self::BLOCK | u64::from(thread) << 20 | pc)
    }

    fn same_launch(self, other: Self) -> bool {
        self.0 >> 54 == other.0 >> 54
    }

    fn same_block(self, other: Self) -> bool {
        self.0 >> 30 == other.0 >> 30
    }

    fn block(self) -> u64 {
        (self.0 & Self::BLOCK) >> 30
    }

    fn many(self) -> bool {
        self.0 & Self::MANY != 0
    }

    fn is_atomic(self) -> bool {
        self.0 & Self::ATOMIC != 0
    }

    fn atomic(self) -> Self {
        Self(self.0 | Self::ATOMIC)
    }

    fn thread(self) -> u32 {
        (self.0 >> 20) as u32 & 0x3ff
    }

    fn pc(self) -> u32 {
        (self.0 & (Self::MANY - 1)) as u32
    }
}

/// What a block does to a granule.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Load,
    Store,
    Atomic,
}

impl Does {
    /// What left the mark of a writer.
    fn writer(mark: Mark) -> Self {
        if mark.is_atomic() { Self::Atomic } else { Self::Store }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Load => "a load",
            Self::Store => "a store",
            Self::Atomic => "an atomic",
        }
    }
}

/// Changes an entry as `change` says and gives what it was; None leaves it as it is.
#[inline(always)]
fn exchange(entry: &AtomicU64, change: impl Fn(Mark) -> Option<Mark>) -> Mark {
    let (Ok(old) | Err(old)) = entry.fetch_update(SeqCst, SeqCst, |old| change(Mark(old)).map(|new| new.0));
    Mark(old)
}

impl<'a> Block<'a> {
    /// Checks bounds and alignment of an access by the lanes of `run`.
    #[inline(always)]
    pub fn check_global(
        &mut self,
        warp: &Warp,
        addresses: &Addresses,
        bytes: u64,
        what: &str,
        pc: u32,
        run: u32,
    ) -> Result<Hit, Fault> {
        if self.launch.checks.alignment {
            self.check_alignment(warp, addresses, bytes, what, pc, run)?;
        }
        let (mut low, mut high, mut or) = (u64::MAX, 0, 0);
        for (lane, &address) in addresses.iter().enumerate() {
            let active = run >> lane & 1 == 1;
            low = low.min(if active { address } else { u64::MAX });
            high = high.max(if active { address } else { 0 });
            or |= if active { address } else { 0 };
        }
        let view = self.launch.view;
        let holds = |index: usize| {
            view.allocations.get(index).is_some_and(|allocation| {
                low >= allocation.base && high - allocation.base + bytes <= allocation.size
            })
        };
        if or & (bytes - 1) == 0 && high >= low {
            if holds(self.hint) {
                return Ok(Hit::One(self.hint));
            }
            if let Some(index) = view.find(low)
                && holds(index)
            {
                self.hint = index;
                return Ok(Hit::One(index));
            }
        }
        self.hit_each(warp, addresses, bytes, what, pc, run)
    }

    #[inline(never)]
    fn hit_each(
        &mut self,
        warp: &Warp,
        addresses: &Addresses,
        bytes: u64,
        what: &str,
        pc: u32,
        run: u32,
    ) -> Result<Hit, Fault> {
        let mut each = Box::new([None; WARP]);
        let view = self.launch.view;
        for lane in lanes_of(run) {
            let found = self.global_range(warp.thread(lane), addresses[lane], bytes, what, pc)?;
            if found.is_some() && addresses[lane] & (bytes - 1) == 0 {
                each[lane] = view.find(addresses[lane]);
            }
        }
        Ok(Hit::Each(each))
    }

    /// The allocation around a range; None out of bounds where that is not checked.
    pub fn global_range(
        &self,
        thread: u32,
        address: u64,
        bytes: u64,
        what: &str,
        pc: u32,
    ) -> Result<Option<(&'a Allocation, u64)>, Fault> {
        let view: &'a View = self.launch.view;
        if let Some(index) = view.find(address) {
            let allocation = &*view.allocations[index];
            let offset = address - allocation.base;
            if bytes <= allocation.size - offset {
                return Ok(Some((allocation, offset)));
            }
        }
        if !self.launch.checks.bounds {
            return Ok(None);
        }
        Err(self.out_of_bounds(thread, address, bytes, what, pc))
    }

    #[cold]
    fn out_of_bounds(&self, thread: u32, address: u64, bytes: u64, what: &str, pc: u32) -> Fault {
        let view = self.launch.view;
        if let Some((base, size)) = view.find_freed(address) {
            let offset = address - base;
            let message = format!(
                "{what} of {bytes} bytes at offset {offset} of an allocation of {size} bytes at {base:#x}, which has been freed"
            );
            return self.report(ReportKind::UseAfterFree, pc, Some(thread), message);
        }
        let after =
            view.nearest(address).filter(|(allocation, offset)| *offset < allocation.size + (1 << 30));
        let before = view.allocations.iter().find(|allocation| allocation.base > address);
        let message = match (after, before) {
            (Some((allocation, offset)), _) if offset < allocation.size => format!(
                "{what} of {bytes} bytes at offset {offset} of an allocation of {} bytes, past its end",
                allocation.size
            ),
            (_, Some(next)) if next.base - address <= 1024 => format!(
                "{what} of {bytes} bytes at {address:#x}, {} bytes before an allocation of {} bytes",
                next.base - address,
                next.size
            ),
            (Some((allocation, offset)), _) => {
                let size = allocation.size;
                let past = match offset - size {
                    0 => "just past its end".to_owned(),
                    past => format!("{past} bytes past its end"),
                };
                format!("{what} of {bytes} bytes at offset {offset} of an allocation of {size} bytes, {past}")
            }
            _ => format!("{what} of {bytes} bytes at {address:#x}, where there is no allocation"),
        };
        self.report(ReportKind::OutOfBounds, pc, Some(thread), message)
    }

    #[inline(always)]
    pub fn check_initialised(
        &self,
        allocation: &Allocation,
        offset: u64,
        bytes: u8,
        what: &str,
        thread: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let all = 0x0101_0101_0101_0101u64 >> (64 - 8 * u32::from(bytes));
        if allocation.written.load(offset, bytes) == all || !self.launch.checks.uninitialised {
            return Ok(());
        }
        Err(self.uninitialised(allocation, offset, bytes.into(), what, thread, pc))
    }

    #[cold]
    fn uninitialised(
        &self,
        allocation: &Allocation,
        offset: u64,
        bytes: u64,
        what: &str,
        thread: u32,
        pc: u32,
    ) -> Fault {
        let message = format!(
            "{what} of {bytes} bytes at offset {offset} of an allocation of {} bytes, which nobody has written",
            allocation.size
        );
        self.report(ReportKind::Uninitialised, pc, Some(thread), message)
    }

    /// The mark that this block leaves, if races are looked for.
    #[inline(always)]
    fn mark(&self, thread: u32, pc: u32) -> Option<Mark> {
        let looks = self.launch.checks.races && !self.launch.program.fences;
        looks.then(|| Mark::new(self.launch.tag, self.index, thread, pc))
    }

    /// The entries of the race shadow for a range of an allocation, with their places.
    #[inline(always)]
    fn touched<'v>(
        &self,
        allocation: &'v Allocation,
        offset: u64,
        bytes: u64,
    ) -> impl Iterator<Item = (u64, &'v Touched)> + use<'v> {
        let shift = self.launch.program.global_shift;
        let (first, last) = (offset >> shift, (offset + bytes - 1) >> shift);
        let entries = &allocation.touched(shift)[first as usize..=last as usize];
        (first..).map(move |granule| granule << shift).zip(entries)
    }

    #[inline(always)]
    pub fn note_global_read(
        &mut self,
        allocation: &Allocation,
        offset: u64,
        bytes: u64,
        thread: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let Some(mark) = self.mark(thread, pc) else { return Ok(()) };
        for (at, touched) in self.touched(allocation, offset, bytes) {
            // The first block that reads keeps its name here, whenever it comes.
            exchange(&touched.read, |read| {
                if !read.same_launch(mark) {
                    return Some(mark);
                }
                let first = if mark.block() < read.block() { mark } else { read };
                let with_others = Mark(first.0 | Mark::MANY);
                (!read.same_block(mark) && with_others.0 != read.0).then_some(with_others)
            });
            let write = Mark(touched.write.load(SeqCst));
            if write.same_launch(mark) && !write.same_block(mark) {
                self.global_race((mark, Does::Load), (write, Does::writer(write)), allocation, at)?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn note_global_write(
        &mut self,
        allocation: &Allocation,
        offset: u64,
        bytes: u64,
        thread: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let Some(mark) = self.mark(thread, pc) else { return Ok(()) };
        self.note_global_change(allocation, offset, bytes, mark, Does::Store)
    }

    #[inline(never)]
    pub fn note_global_atomic(
        &mut self,
        allocation: &Allocation,
        offset: u64,
        bytes: u64,
        thread: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let Some(mark) = self.mark(thread, pc) else { return Ok(()) };
        self.note_global_change(allocation, offset, bytes, mark.atomic(), Does::Atomic)
    }

    /// A write, or an atomic: `mark` says so too. A block's first write stays in the shadow, but gives way to a store if
    /// it was an atomic. Kernels with atomics run their blocks in order, so of the blocks with an atomic the first is enough.
    #[inline(always)]
    fn note_global_change(
        &mut self,
        allocation: &Allocation,
        offset: u64,
        bytes: u64,
        mark: Mark,
        does: Does,
    ) -> Result<(), Fault> {
        let atomic = does == Does::Atomic;
        for (at, touched) in self.touched(allocation, offset, bytes) {
            let write = exchange(&touched.write, |write| {
                let replaces =
                    !write.same_launch(mark) || write.same_block(mark) && write.is_atomic() && !atomic;
                replaces.then_some(mark)
            });
            let harmless = write.same_block(mark) || atomic && write.is_atomic();
            if write.same_launch(mark) && !harmless {
                self.global_race((mark, does), (write, Does::writer(write)), allocation, at)?;
            }
            let read = Mark(touched.read.load(SeqCst));
            if read.same_launch(mark) && (!read.same_block(mark) || read.many()) {
                self.global_race((mark, does), (read, Does::Load), allocation, at)?;
            }
        }
        Ok(())
    }

    /// Two blocks that race for the granule at `offset`. It is the later one's fault: if that is the other, this one goes on.
    #[cold]
    fn global_race(
        &mut self,
        mine: (Mark, Does),
        theirs: (Mark, Does),
        allocation: &Allocation,
        offset: u64,
    ) -> Result<(), Fault> {
        // Of several readers the shadow knows only the first: if that is this block, the others come later and have no name. A
        // race that names its blocks is then reported first.
        let unnamed = theirs.0.same_block(mine.0);
        let other = if unnamed { u64::MAX } else { theirs.0.block() };
        let first = other > self.index;
        if first && self.later.as_ref().is_some_and(|(known, _)| *known <= other) {
            return Ok(());
        }
        let ((later, did), (earlier, does)) = if first && !unnamed { (theirs, mine) } else { (mine, theirs) };
        let whom = if unnamed {
            "another block".to_owned()
        } else {
            format!("block {}", triple(self.launch.block_at(earlier.block())))
        };
        let message = format!(
            "{} at offset {offset} of an allocation of {} bytes, where {whom} has {} in the same launch",
            did.noun(),
            allocation.size,
            does.noun()
        );
        let mut report = self.report(ReportKind::GlobalRace, later.pc(), Some(later.thread()), message);
        report.block = self.launch.block_at(later.block());
        report.other = (!unnamed).then(|| Other {
            block: self.launch.block_at(earlier.block()),
            ..self.other(earlier.thread(), earlier.pc())
        });
        if first {
            self.later = Some((other, report));
            return Ok(());
        }
        Err(report)
    }

    #[inline(never)]
    pub fn load_global(
        &mut self,
        warp: &Warp,
        access: &Access,
        dsts: &[Slot],
        addresses: &Addresses,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let bytes = u64::from(access.bytes);
        let total = bytes * u64::from(access.count);
        let hit = self.check_global(warp, addresses, total, "a load", pc, run)?;
        self.tally.global_access(addresses, total, run, false);
        let checks = self.launch.checks;
        let view = self.launch.view;
        for lane in lanes_of(run) {
            let Some((allocation, offset)) = hit.get(view, lane, addresses[lane]) else { continue };
            if checks.uninitialised {
                let piece = total.min(8);
                for part in (0..total).step_by(piece as usize) {
                    let thread = warp.thread(lane);
                    self.check_initialised(allocation, offset + part, piece as u8, "a load", thread, pc)?;
                }
            }
            if checks.races && !access.strong {
                self.note_global_read(allocation, offset, total, warp.thread(lane), pc)?;
            }
        }
        for (element, &dst) in dsts.iter().enumerate() {
            let mut values = [0; WARP];
            for lane in lanes_of(run) {
                let Some((allocation, offset)) = hit.get(view, lane, addresses[lane]) else { continue };
                let value = allocation.data.load(offset + element as u64 * bytes, access.bytes);
                values[lane] = extend(value, access.bytes, access.signed);
            }
            self.registers.set_values(dst, run, &values);
        }
        Ok(())
    }

    #[inline(never)]
    pub fn store_global(
        &mut self,
        warp: &Warp,
        access: &Access,
        sources: &[Slot],
        addresses: &Addresses,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let bytes = u64::from(access.bytes);
        let total = bytes * u64::from(access.count);
        let hit = self.check_global(warp, addresses, total, "a store", pc, run)?;
        self.tally.global_access(addresses, total, run, true);
        let checks = self.launch.checks;
        let view = self.launch.view;
        for lane in lanes_of(run) {
            let Some((allocation, offset)) = hit.get(view, lane, addresses[lane]) else { continue };
            if checks.races && !access.strong {
                self.note_global_write(allocation, offset, total, warp.thread(lane), pc)?;
            }
            let piece = total.min(8);
            for part in (0..total).step_by(piece as usize) {
                allocation.written.store(offset + part, piece as u8, 0x0101_0101_0101_0101);
            }
        }
        for (element, &source) in sources.iter().enumerate() {
            let values = self.registers.values(source);
            for lane in lanes_of(run) {
                let Some((allocation, offset)) = hit.get(view, lane, addresses[lane]) else { continue };
                allocation.data.store(offset + element as u64 * bytes, access.bytes, values[lane]);
            }
        }
        Ok(())
    }
}
