//! Loads, stores, atomics and asynchronous copies: which lanes go where, and what they may do there.

use super::registers::extend;
use super::shared::{Accessor, Entry, Wrong};
use super::warp::Warp;
use super::{Block, CONST_WINDOW, Fault, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use crate::device::cuda::sim::lanes::{WARP, lanes_of};
use crate::device::cuda::sim::program::{Access, Atom, AtomOp, AtomType, Class, MemSpace, Slot};
use crate::device::cuda::sim::report::ReportKind;

/// The space in whose window a generic address lies.
pub fn window_of(address: u64) -> MemSpace {
    match address & !(WINDOW - 1) {
        SHARED_WINDOW => MemSpace::Shared,
        LOCAL_WINDOW => MemSpace::Local,
        CONST_WINDOW => MemSpace::Const,
        PARAM_WINDOW => MemSpace::Param,
        _ => MemSpace::Global,
    }
}

/// The generic address of a space's first byte.
pub fn window_base(space: MemSpace) -> u64 {
    match space {
        MemSpace::Shared => SHARED_WINDOW,
        MemSpace::Local => LOCAL_WINDOW,
        MemSpace::Const => CONST_WINDOW,
        MemSpace::Param => PARAM_WINDOW,
        MemSpace::Global | MemSpace::Generic => 0,
    }
}

/// Local memory: as many bytes for each thread of the block, and whether they were written.
pub struct Local {
    per_thread: usize,
    bytes: Vec<u8>,
    written: Vec<bool>,
}

impl Local {
    pub fn new(per_thread: u32, warps: usize) -> Self {
        let per_thread = per_thread as usize;
        let total = per_thread * WARP * warps;
        Self { per_thread, bytes: vec![0; total], written: vec![false; total] }
    }

    pub fn clear(&mut self) {
        self.written.fill(false);
    }

    pub fn byte(&self, thread: u32, at: u64) -> Option<u8> {
        self.range(thread, at, 1).map(|range| self.bytes[range.start])
    }

    /// Where a thread's bytes are, if they are within its share.
    fn range(&self, thread: u32, at: u64, bytes: u8) -> Option<std::ops::Range<usize>> {
        let end = at.checked_add(bytes.into())?;
        let base = thread as usize * self.per_thread;
        (end <= self.per_thread as u64).then(|| base + at as usize..base + end as usize)
    }
}

/// One lane's `cp.async` on its way.
pub struct Copy {
    lane: u8,
    bytes: u8,
    group: u32,
    to: u32,
    pc: u32,
    data: [u8; 16],
}

pub type Addresses = [u64; WARP];

/// Groups of lanes whose addresses are in the same space, with the addresses relative to it.
fn by_space(addresses: &Addresses, run: u32) -> impl Iterator<Item = (MemSpace, u32, Addresses)> + '_ {
    let mut left = run;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let space = window_of(addresses[left.trailing_zeros() as usize]);
        let mask = lanes_of(left)
            .filter(|&lane| window_of(addresses[lane]) == space)
            .fold(0, |m, lane| m | 1 << lane);
        left &= !mask;
        let base = window_base(space);
        Some((space, mask, addresses.map(|address| address.wrapping_sub(base))))
    })
}

impl Block<'_> {
    /// The addresses that the lanes name.
    #[inline(always)]
    pub fn addresses(&self, base: Slot, offset: i64) -> Addresses {
        match base.class() {
            Class::Long => {
                let base = self.registers.long(base);
                std::array::from_fn(|lane| base.get(lane).wrapping_add_signed(offset))
            }
            // 32-bit addresses are of shared and other small spaces.
            _ => {
                let base = self.registers.word(base);
                std::array::from_fn(|lane| u64::from(base.get(lane).wrapping_add(offset as u32)))
            }
        }
    }

    #[inline(always)]
    pub fn load(
        &mut self,
        warp: &Warp,
        access: &Access,
        slots: &[Slot],
        dsts: usize,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let (dsts, address) = (&slots[..dsts], slots[dsts]);
        let addresses = self.addresses(address, access.offset);
        match access.space {
            MemSpace::Global => self.load_global(warp, access, dsts, &addresses, pc, run),
            MemSpace::Shared => self.load_shared(warp, access, dsts, &addresses, pc, run),
            MemSpace::Generic => self.load_generic(warp, access, dsts, &addresses, pc, run),
            _ => self.load_small(warp, access, dsts, &addresses, pc, run),
        }
    }

    #[inline(never)]
    fn load_generic(
        &mut self,
        warp: &Warp,
        access: &Access,
        dsts: &[Slot],
        addresses: &Addresses,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        for (space, mask, addresses) in by_space(addresses, run) {
            match space {
                MemSpace::Global => self.load_global(warp, access, dsts, &addresses, pc, mask)?,
                MemSpace::Shared => self.load_shared(warp, access, dsts, &addresses, pc, mask)?,
                _ => self.load_small(warp, &Access { space, ..*access }, dsts, &addresses, pc, mask)?,
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub fn store(
        &mut self,
        warp: &Warp,
        access: &Access,
        slots: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(slots[0], access.offset);
        match access.space {
            MemSpace::Global => self.store_global(warp, access, &slots[1..], &addresses, pc, run),
            MemSpace::Shared => self.store_shared(warp, access, &slots[1..], &addresses, pc, run),
            _ => self.store_generic(warp, access, &slots[1..], &addresses, pc, run),
        }
    }

    #[inline(never)]
    fn store_generic(
        &mut self,
        warp: &Warp,
        access: &Access,
        values: &[Slot],
        addresses: &Addresses,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        if access.space == MemSpace::Local {
            return self.store_local(warp, access, values, addresses, pc, run);
        }
        for (space, mask, addresses) in by_space(addresses, run) {
            match space {
                MemSpace::Global => self.store_global(warp, access, values, &addresses, pc, mask)?,
                MemSpace::Shared => self.store_shared(warp, access, values, &addresses, pc, mask)?,
                MemSpace::Local => self.store_local(warp, access, values, &addresses, pc, mask)?,
                _ => {
                    let thread = warp.thread(mask.trailing_zeros() as usize);
                    let message = "a store to constant memory";
                    return Err(self.report(ReportKind::OutOfBounds, pc, Some(thread), message));
                }
            }
        }
        Ok(())
    }

    /// Reports the first lane whose address is not a multiple of the access's size.
    #[inline(always)]
    pub fn check_alignment(
        &self,
        warp: &Warp,
        addresses: &Addresses,
        bytes: u64,
        what: &str,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let mut low = 0;
        for (lane, address) in addresses.iter().enumerate() {
            low |= if run >> lane & 1 == 1 { *address } else { 0 };
        }
        if low & (bytes - 1) == 0 {
            return Ok(());
        }
        self.misaligned(warp, addresses, bytes, what, pc, run)
    }

    #[cold]
    fn misaligned(
        &self,
        warp: &Warp,
        addresses: &Addresses,
        bytes: u64,
        what: &str,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let Some(lane) = lanes_of(run).find(|&lane| addresses[lane] & (bytes - 1) != 0) else {
            return Ok(());
        };
        let message =
            format!("{what} of {bytes} bytes at {:#x}, which is not a multiple of {bytes}", addresses[lane]);
        Err(self.report(ReportKind::Misaligned, pc, Some(warp.thread(lane)), message))
    }

    /// Checks alignment and bounds of an access to shared memory; returns the lanes that are in bounds.
    #[inline(always)]
    pub fn check_shared(
        &self,
        warp: &Warp,
        addresses: &Addresses,
        bytes: u64,
        what: &str,
        pc: u32,
        run: u32,
    ) -> Result<u32, Fault> {
        if self.launch.checks.alignment {
            self.check_alignment(warp, addresses, bytes, what, pc, run)?;
        }
        let size = u64::from(self.launch.shared_bytes());
        let mut inside = 0;
        for (lane, &address) in addresses.iter().enumerate() {
            let fits = address.saturating_add(bytes) <= size && address & (bytes - 1) == 0;
            inside |= u32::from(fits) << lane;
        }
        let outside = run & !inside;
        if outside == 0 || !self.launch.checks.bounds {
            return Ok(run & inside);
        }
        let lane = outside.trailing_zeros() as usize;
        let message = format!(
            "{what} of {bytes} bytes at {:#x} of shared memory, of which the block has {size} bytes",
            addresses[lane]
        );
        Err(self.report(ReportKind::OutOfBounds, pc, Some(warp.thread(lane)), message))
    }

    /// Reports a faulty read; one of unwritten memory not before it is sure that it is no race.
    #[cold]
    pub fn wrong_read(
        &mut self,
        wrong: &Wrong,
        what: &str,
        at: u64,
        bytes: u64,
        thread: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let fault = self.wrong_shared(wrong, what, at, bytes, thread, pc);
        if *wrong != Wrong::Unwritten {
            return Err(fault);
        }
        self.unwritten.get_or_insert(fault);
        Ok(())
    }

    /// Makes a report of what the shadow of shared memory found.
    #[cold]
    pub fn wrong_shared(
        &self,
        wrong: &Wrong,
        what: &str,
        at: u64,
        bytes: u64,
        thread: u32,
        pc: u32,
    ) -> Fault {
        let range = format!("{bytes} bytes at {at:#x} of shared memory");
        match wrong {
            Wrong::Unwritten => {
                let message = format!(
                    "{what} of {range}, which no thread of the block has written{}",
                    self.missing_barrier()
                );
                self.report(ReportKind::Uninitialised, pc, Some(thread), message)
            }
            Wrong::Pending(entry) => {
                let message = format!(
                    "{what} of {range}, into which a cp.async of thread {} is still under way",
                    entry.thread()
                );
                let mut report = self.report(ReportKind::AsyncCopy, pc, Some(thread), message);
                report.other = Some(self.other(entry.thread(), entry.pc()));
                report
            }
            Wrong::Race(entry, wrote) => {
                let did = if *wrote { "wrote" } else { "read" };
                let message = format!(
                    "{what} of {range}, which thread {} {did} with no barrier between the two",
                    entry.thread()
                );
                let mut report = self.report(ReportKind::SharedRace, pc, Some(thread), message);
                report.other = Some(self.other(entry.thread(), entry.pc()));
                report
            }
        }
    }

    /// What may be the cause of a read of unwritten shared memory: if other warps are still on their way, this one may
    /// be ahead of those that write. The running warp is not in its place.
    fn missing_barrier(&self) -> &'static str {
        if self.warps.iter().any(Warp::runnable) { " yet: is a barrier missing?" } else { "" }
    }

    #[inline(never)]
    fn load_shared(
        &mut self,
        warp: &Warp,
        access: &Access,
        dsts: &[Slot],
        addresses: &Addresses,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let bytes = usize::from(access.bytes);
        let total = bytes * usize::from(access.count);
        let run = self.check_shared(warp, addresses, total as u64, "a load", pc, run)?;
        self.tally.shared_access(addresses, total, run);
        let checks = self.launch.checks;
        if checks.shared() {
            let mut by = accessor(warp, checks, pc);
            for lane in lanes_of(run) {
                by.thread = warp.thread(lane);
                let at = addresses[lane] as usize;
                let checked = if access.strong {
                    self.shared.volatile_read(at, total, &by)
                } else {
                    self.shared.read(at, total, &by)
                };
                if let Err(wrong) = checked {
                    self.wrong_read(&wrong, "a load", addresses[lane], total as u64, by.thread, pc)?;
                }
            }
        }
        for (element, &dst) in dsts.iter().enumerate() {
            let mut values = [0; WARP];
            for lane in lanes_of(run) {
                let value = self.shared.load(addresses[lane] as usize + element * bytes, bytes);
                values[lane] = extend(value, access.bytes, access.signed);
            }
            self.registers.set_values(dst, run, &values);
        }
        Ok(())
    }

    #[inline(never)]
    fn store_shared(
        &mut self,
        warp: &Warp,
        access: &Access,
        sources: &[Slot],
        addresses: &Addresses,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let bytes = usize::from(access.bytes);
        let total = bytes * usize::from(access.count);
        let run = self.check_shared(warp, addresses, total as u64, "a store", pc, run)?;
        self.tally.shared_access(addresses, total, run);
        let mut data = [[0u8; 32]; WARP];
        for (element, &source) in sources.iter().enumerate() {
            let values = self.registers.values(source);
            for (data, value) in data.iter_mut().zip(values) {
                data[element * bytes..][..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            }
        }
        let checks = self.launch.checks;
        let mut by = accessor(warp, checks, pc);
        let kind = if access.strong { Entry::atomic } else { std::convert::identity };
        for lane in lanes_of(run) {
            let at = addresses[lane] as usize;
            if checks.shared() {
                by.thread = warp.thread(lane);
                if let Err(wrong) = self.shared.write(at, &data[lane][..total], &by, kind) {
                    return Err(self.wrong_shared(
                        &wrong,
                        "a store",
                        addresses[lane],
                        total as u64,
                        by.thread,
                        pc,
                    ));
                }
            }
            self.shared.bytes[at..at + total].copy_from_slice(&data[lane][..total]);
        }
        Ok(())
    }

    /// Local, constant and parameter memory.
    #[inline(never)]
    fn load_small(
        &mut self,
        warp: &Warp,
        access: &Access,
        dsts: &[Slot],
        addresses: &Addresses,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let total = access.bytes * access.count;
        if self.launch.checks.alignment {
            self.check_alignment(warp, addresses, total.into(), "a load", pc, run)?;
        }
        let mut data = [[0u8; 32]; WARP];
        for lane in lanes_of(run) {
            let thread = warp.thread(lane);
            let at = addresses[lane];
            let (memory, range, name) = match access.space {
                MemSpace::Local => (&self.local.bytes[..], self.local.range(thread, at, total), "local"),
                MemSpace::Const => {
                    (self.launch.constants, within(self.launch.constants, at, total), "constant")
                }
                _ => (self.launch.params, within(self.launch.params, at, total), "parameter"),
            };
            let Some(range) = range else {
                if !self.launch.checks.bounds {
                    continue;
                }
                let message = format!("a load of {total} bytes at {at:#x} of {name} memory, past its end");
                return Err(self.report(ReportKind::OutOfBounds, pc, Some(thread), message));
            };
            if access.space == MemSpace::Local
                && self.launch.checks.uninitialised
                && !self.local.written[range.clone()].iter().all(|&written| written)
            {
                let message =
                    format!("a load of {total} bytes at {at:#x} of local memory, which nobody has written");
                return Err(self.report(ReportKind::Uninitialised, pc, Some(thread), message));
            }
            data[lane][..total.into()].copy_from_slice(&memory[range]);
        }
        let bytes = usize::from(access.bytes);
        for (element, &dst) in dsts.iter().enumerate() {
            let values = data.map(|data| {
                let mut value = [0; 8];
                value[..bytes].copy_from_slice(&data[element * bytes..][..bytes]);
                extend(u64::from_le_bytes(value), access.bytes, access.signed)
            });
            self.registers.set_values(dst, run, &values);
        }
        Ok(())
    }

    fn store_local(
        &mut self,
        warp: &Warp,
        access: &Access,
        sources: &[Slot],
        addresses: &Addresses,
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let total = access.bytes * access.count;
        if self.launch.checks.alignment {
            self.check_alignment(warp, addresses, total.into(), "a store", pc, run)?;
        }
        let bytes = usize::from(access.bytes);
        for lane in lanes_of(run) {
            let thread = warp.thread(lane);
            let Some(range) = self.local.range(thread, addresses[lane], total) else {
                if !self.launch.checks.bounds {
                    continue;
                }
                let message = format!(
                    "a store of {total} bytes at {:#x} of local memory, past its end",
                    addresses[lane]
                );
                return Err(self.report(ReportKind::OutOfBounds, pc, Some(thread), message));
            };
            self.local.written[range.clone()].fill(true);
            for (element, &source) in sources.iter().enumerate() {
                let value = self.registers.values(source)[lane];
                let at = range.start + element * bytes;
                self.local.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            }
        }
        Ok(())
    }

    /// Atomics, lane after lane.
    #[inline(never)]
    pub fn atom(
        &mut self,
        warp: &Warp,
        atom: &Atom,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(srcs[0], atom.offset);
        let operand = self.registers.values(srcs[1]);
        let new = srcs.get(2).map_or([0; WARP], |&slot| self.registers.values(slot));
        let bytes = u64::from(atom.bytes);
        let mut old = [0; WARP];
        for (space, mask, addresses) in by_space(&addresses, run) {
            // In the shared state space addresses are plain offsets.
            let shared = atom.space == MemSpace::Shared || space == MemSpace::Shared;
            if shared {
                let mask = self.check_shared(warp, &addresses, bytes, "an atomic", pc, mask)?;
                self.tally.shared_access(&addresses, bytes as usize, mask);
                let checks = self.launch.checks;
                let mut by = accessor(warp, checks, pc);
                for lane in lanes_of(mask) {
                    let at = addresses[lane] as usize;
                    by.thread = warp.thread(lane);
                    if checks.shared()
                        && let Err(wrong) = self.shared.atomic(at, bytes as usize, &by)
                    {
                        return Err(self.wrong_shared(
                            &wrong,
                            "an atomic",
                            addresses[lane],
                            bytes,
                            by.thread,
                            pc,
                        ));
                    }
                    old[lane] = self.shared.load(at, bytes as usize);
                    let value = update(atom, old[lane], operand[lane], new[lane]);
                    self.shared.store(at, bytes as usize, value);
                }
            } else if space == MemSpace::Global {
                let lanes = self.check_global(warp, &addresses, bytes, "an atomic", pc, mask)?;
                self.tally.global_access(&addresses, bytes, mask, false);
                for lane in lanes_of(mask) {
                    let Some((allocation, offset)) = lanes.get(self.launch.view, lane, addresses[lane])
                    else {
                        continue;
                    };
                    self.check_initialised(
                        allocation,
                        offset,
                        atom.bytes,
                        "an atomic",
                        warp.thread(lane),
                        pc,
                    )?;
                    self.note_global_atomic(allocation, offset, bytes, warp.thread(lane), pc)?;
                    old[lane] = allocation.data.load(offset, atom.bytes);
                    let value = update(atom, old[lane], operand[lane], new[lane]);
                    allocation.data.store(offset, atom.bytes, value);
                    allocation.written.fill(offset, bytes, 1);
                }
            } else {
                let thread = warp.thread(mask.trailing_zeros() as usize);
                let message = "an atomic on memory that is neither global nor shared";
                return Err(self.report(ReportKind::OutOfBounds, pc, Some(thread), message));
            }
        }
        if atom.returns {
            self.registers.set_values(dsts[0], run, &old);
        }
        Ok(())
    }

    /// Takes the source's bytes now; they land in shared memory when the lane waits for them.
    #[inline(never)]
    pub fn async_copy(
        &mut self,
        warp: &mut Warp,
        bytes: u8,
        offsets: [i64; 2],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let to = self.addresses(srcs[0], offsets[0]);
        let from = self.addresses(srcs[1], offsets[1]);
        let sizes = self.registers.values(srcs[2]);
        let total = u64::from(bytes);
        let run = self.check_shared(warp, &to, total, "a cp.async", pc, run)?;
        self.tally.shared_access(&to, bytes.into(), run);
        let reading = lanes_of(run).filter(|&lane| sizes[lane] > 0).fold(0, |mask, lane| mask | 1 << lane);
        if self.launch.checks.alignment {
            self.check_alignment(warp, &from, total, "a cp.async", pc, reading)?;
        }
        self.tally.global_access(&from, total, reading, false);
        let complete = lanes_of(reading).all(|lane| sizes[lane] == total);
        let whole = match complete {
            true => Some(self.check_global(warp, &from, total, "a cp.async", pc, reading)?),
            false => None,
        };
        let mut data = [[0u8; 16]; WARP];
        for lane in lanes_of(reading) {
            let size = sizes[lane].min(total);
            if sizes[lane] > total {
                let message = format!("a cp.async of {total} bytes with a source of {}", sizes[lane]);
                return Err(self.report(ReportKind::OutOfBounds, pc, Some(warp.thread(lane)), message));
            }
            let found = match &whole {
                Some(hit) => hit.get(self.launch.view, lane, from[lane]),
                None => self.global_range(warp.thread(lane), from[lane], size, "a cp.async", pc)?,
            };
            let Some((allocation, offset)) = found else { continue };
            let piece = if size.is_multiple_of(8) { 8 } else { 1 };
            for part in (0..size).step_by(piece) {
                let thread = warp.thread(lane);
                self.check_initialised(allocation, offset + part, piece as u8, "a cp.async", thread, pc)?;
            }
            if self.launch.checks.races {
                self.note_global_read(allocation, offset, size, warp.thread(lane), pc)?;
            }
            allocation.data.read(offset, &mut data[lane][..size as usize]);
        }
        let checks = self.launch.checks;
        for lane in lanes_of(run) {
            let (lane, at, data) = (lane, to[lane], data[lane]);
            if checks.shared() {
                let mut by = accessor(warp, checks, pc);
                by.thread = warp.thread(lane);
                let kind = if checks.async_copies { Entry::pending } else { std::convert::identity };
                let bytes_there = &data[..bytes.into()];
                if let Err(wrong) = self.shared.write(at as usize, bytes_there, &by, kind) {
                    return Err(self.wrong_shared(&wrong, "a cp.async", at, total, by.thread, pc));
                }
            }
            let group = warp.groups[lane];
            warp.copies.push(Copy { lane: lane as u8, bytes, group, to: at as u32, pc, data });
        }
        Ok(())
    }

    /// Lands the copies of all but the `pending` latest groups, or all.
    #[inline(never)]
    pub fn async_wait(&mut self, warp: &mut Warp, pending: Option<u32>, run: u32) {
        let mut copies = std::mem::take(&mut warp.copies);
        copies.retain(|copy| {
            let lane = usize::from(copy.lane);
            let waits = run >> lane & 1 == 1;
            let done = pending.is_none_or(|pending| copy.group + pending < warp.groups[lane]);
            if waits && done {
                let entry = Entry::new(warp.clock.now, warp.thread(lane), copy.pc);
                self.shared.land(copy.to as usize, &copy.data[..copy.bytes.into()], entry);
            }
            !(waits && done)
        });
        warp.copies = copies;
    }
}

pub fn accessor(warp: &Warp, checks: crate::device::cuda::sim::Checks, pc: u32) -> Accessor<'_> {
    Accessor {
        clock: &warp.clock,
        warp: warp.index,
        thread: 0,
        pc,
        races: checks.races,
        uninitialised: checks.uninitialised,
        copies: checks.async_copies,
    }
}

fn within(memory: &[u8], at: u64, bytes: u8) -> Option<std::ops::Range<usize>> {
    let end = at.checked_add(bytes.into())?;
    (end <= memory.len() as u64).then_some(at as usize..end as usize)
}

/// What an atomic leaves in memory.
fn update(atom: &Atom, old: u64, operand: u64, new: u64) -> u64 {
    use crate::device::cuda::sim::math::half::{Bf16, F16, Modifiers, add, add_x2};
    let bits = 8 * u32::from(atom.bytes);
    let mask = u64::MAX >> (64 - bits);
    let (a, b) = (old & mask, operand & mask);
    let signed = |value: u64| extend(value, atom.bytes, true) as i64;
    let value = match (atom.op, atom.kind) {
        (AtomOp::Add, AtomType::F32) => {
            let sum = f32::from_bits(a as u32) + f32::from_bits(b as u32);
            crate::device::cuda::sim::math::float::canonical(sum).to_bits().into()
        }
        (AtomOp::Add, AtomType::F64) => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        (AtomOp::Add, AtomType::F16) => add::<F16>(a as u16, b as u16, Modifiers::default()).into(),
        (AtomOp::Add, AtomType::Bf16) => add::<Bf16>(a as u16, b as u16, Modifiers::default()).into(),
        (AtomOp::Add, AtomType::F16x2) => add_x2::<F16>(a as u32, b as u32, Modifiers::default()).into(),
        (AtomOp::Add, AtomType::Bf16x2) => add_x2::<Bf16>(a as u32, b as u32, Modifiers::default()).into(),
        (AtomOp::Add, _) => a.wrapping_add(b),
        (AtomOp::Min, AtomType::Signed) => signed(a).min(signed(b)) as u64,
        (AtomOp::Max, AtomType::Signed) => signed(a).max(signed(b)) as u64,
        (AtomOp::Min, _) => a.min(b),
        (AtomOp::Max, _) => a.max(b),
        (AtomOp::And, _) => a & b,
        (AtomOp::Or, _) => a | b,
        (AtomOp::Xor, _) => a ^ b,
        (AtomOp::Exch, _) => b,
        (AtomOp::Cas, _) => {
            if a == b {
                new
            } else {
                a
            }
        }
        (AtomOp::Inc, _) => {
            if a >= b {
                0
            } else {
                a + 1
            }
        }
        (AtomOp::Dec, _) => {
            if a == 0 || a > b {
                b
            } else {
                a - 1
            }
        }
    };
    value & mask
}
