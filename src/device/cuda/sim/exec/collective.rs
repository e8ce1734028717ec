//! What the lanes of a warp do together: shuffles, votes, matches, reductions and matrices.

use super::memory::accessor;
use super::warp::{Next, Warp, bits};
use super::{Block, Fault};
use crate::device::cuda::sim::lanes::{FULL, WARP, lanes_of};
use crate::device::cuda::sim::math::mma::{self, Mma, Register};
use crate::device::cuda::sim::program::{Class, Matrix, Reduce, Shuffle, Slot, Vote};
use crate::device::cuda::sim::report::ReportKind;

impl Block<'_> {
    /// Whether all lanes that the members of `run` name are here. If not, the fragment waits for them; lanes that will
    /// never come are a fault.
    fn gather(&self, warp: &Warp, masks: &[u64; WARP], pc: u32, run: u32) -> Result<Option<Next>, Fault> {
        let mut named = 0;
        for lane in lanes_of(run) {
            let mask = masks[lane] as u32;
            if mask >> lane & 1 == 0 && self.launch.checks.lanes {
                let message = format!("lane {lane} is not in its own member mask {mask:#010x}");
                return Err(self.report(ReportKind::AbsentLane, pc, Some(warp.thread(lane)), message));
            }
            named |= mask;
        }
        let absent = named & !run;
        if absent == 0 {
            return Ok(None);
        }
        let gone = absent & !warp.live;
        if gone != 0 {
            if !self.launch.checks.lanes {
                return Ok(None);
            }
            return Err(self.absent(warp, gone, pc, run));
        }
        Ok(Some(Next::Wait(run)))
    }

    /// As [`Block::gather`] for instructions of the whole warp.
    fn gather_all(&self, warp: &Warp, pc: u32, run: u32) -> Result<Option<Next>, Fault> {
        if run == FULL {
            return Ok(None);
        }
        self.gather(warp, &[FULL.into(); WARP], pc, run)
    }

    #[cold]
    fn absent(&self, warp: &Warp, gone: u32, pc: u32, run: u32) -> Fault {
        let lane = gone.trailing_zeros();
        let why = if warp.born >> lane & 1 == 1 { "has exited" } else { "does not exist in this block" };
        let here = run.trailing_zeros() as usize;
        let message = format!("the instruction needs lane {lane}, which {why}");
        self.report(ReportKind::AbsentLane, pc, Some(warp.thread(here)), message)
    }

    /// A report that all fragments of a warp wait for each other.
    pub fn stuck(&self, warp: &Warp) -> Fault {
        let Some(first) = warp.fragments.iter().min_by_key(|fragment| fragment.pc) else {
            return self.report(ReportKind::AbsentLane, 0, None, "a warp has nothing to run");
        };
        let here = first.mask.trailing_zeros() as usize;
        let elsewhere = warp.fragments.iter().find(|fragment| fragment.pc != first.pc);
        let message = match elsewhere {
            Some(other) => {
                let place = self.launch.place(other.pc);
                format!(
                    "lanes {:#010x} wait for lanes that wait elsewhere: {:#010x} at PTX line {}",
                    first.mask, other.mask, place.ptx_line
                )
            }
            None => format!("lanes {:#010x} wait for lanes that have exited", first.mask),
        };
        self.report(ReportKind::AbsentLane, first.pc, Some(warp.thread(here)), message)
    }

    #[inline(never)]
    pub fn shuffle(
        &mut self,
        warp: &Warp,
        mode: Shuffle,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        let masks = self.registers.values(srcs[3]);
        if let Some(wait) = self.gather(warp, &masks, pc, run)? {
            return Ok(wait);
        }
        let value = self.registers.word(srcs[0]).all();
        let b = self.registers.word(srcs[1]).all();
        let c = self.registers.word(srcs[2]).all();
        let mut result = [0; WARP];
        let mut valid = 0;
        for lane in lanes_of(run) {
            // Section 9.7.9.6 of the PTX ISA: clamp value and segment mask.
            let (offset, clamp, segment) = (b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31);
            let own = lane as u32;
            let max_lane = own & segment | clamp & !segment;
            let min_lane = own & segment;
            let (from, held) = match mode {
                Shuffle::Up => (own.wrapping_sub(offset), own as i32 - offset as i32 >= max_lane as i32),
                Shuffle::Down => (own + offset, own + offset <= max_lane),
                Shuffle::Butterfly => (own ^ offset, own ^ offset <= max_lane),
                Shuffle::Index => {
                    let from = min_lane | offset & !segment;
                    (from, from <= max_lane)
                }
            };
            let from = if held { from } else { own };
            if self.launch.checks.lanes && masks[lane] >> from & 1 == 0 {
                let message = format!(
                    "a shuffle reads lane {from}, which is not in the member mask {:#010x}",
                    masks[lane]
                );
                return Err(self.report(ReportKind::AbsentLane, pc, Some(warp.thread(lane)), message));
            }
            result[lane] = value[from as usize];
            valid |= u32::from(held) << lane;
        }
        self.registers.word(dsts[0]).store(run, &result);
        if let Some(&pred) = dsts.get(1) {
            self.registers.set_pred(pred, run, valid);
        }
        Ok(Next::Step)
    }

    #[inline(never)]
    pub fn vote(
        &mut self,
        warp: &Warp,
        mode: Vote,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        let masks = self.registers.values(srcs[1]);
        if let Some(wait) = self.gather(warp, &masks, pc, run)? {
            return Ok(wait);
        }
        let holds = self.registers.pred(srcs[0]);
        let votes = masks.map(|mask| (holds & mask as u32, mask as u32));
        match mode {
            Vote::Ballot => self.registers.word(dsts[0]).store(run, &votes.map(|(ballot, _)| ballot)),
            _ => {
                let decided = bits(|lane| {
                    let (ballot, mask) = votes[lane];
                    match mode {
                        Vote::All => ballot == mask,
                        Vote::Any => ballot != 0,
                        _ => ballot == mask || ballot == 0,
                    }
                });
                self.registers.set_pred(dsts[0], run, decided);
            }
        }
        Ok(Next::Step)
    }

    pub fn match_lanes(
        &mut self,
        warp: &Warp,
        all: bool,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        let masks = self.registers.values(srcs[1]);
        if let Some(wait) = self.gather(warp, &masks, pc, run)? {
            return Ok(wait);
        }
        let values = self.registers.values(srcs[0]);
        let equal: [u32; WARP] = std::array::from_fn(|lane| {
            lanes_of(run & masks[lane] as u32)
                .filter(|&other| values[other] == values[lane])
                .fold(0, |mask, other| mask | 1 << other)
        });
        if all {
            let agreed = bits(|lane| equal[lane] == masks[lane] as u32);
            let result = std::array::from_fn(|lane| if agreed >> lane & 1 == 1 { equal[lane] } else { 0 });
            self.registers.word(dsts[0]).store(run, &result);
            if let Some(&pred) = dsts.get(1) {
                self.registers.set_pred(pred, run, agreed);
            }
        } else {
            self.registers.word(dsts[0]).store(run, &equal);
        }
        Ok(Next::Step)
    }

    #[inline(never)]
    pub fn redux(
        &mut self,
        warp: &Warp,
        reduce: Reduce,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        let masks = self.registers.values(srcs[1]);
        if let Some(wait) = self.gather(warp, &masks, pc, run)? {
            return Ok(wait);
        }
        let values = self.registers.word(srcs[0]).all();
        let combine = |a: u32, b: u32| match reduce {
            Reduce::Add => a.wrapping_add(b),
            Reduce::MinU => a.min(b),
            Reduce::MaxU => a.max(b),
            Reduce::MinS => (a as i32).min(b as i32) as u32,
            Reduce::MaxS => (a as i32).max(b as i32) as u32,
            Reduce::And => a & b,
            Reduce::Or => a | b,
            Reduce::Xor => a ^ b,
        };
        let mut result = [0; WARP];
        for lane in lanes_of(run) {
            let members = lanes_of(masks[lane] as u32 & run).map(|member| values[member]);
            result[lane] = members.reduce(combine).unwrap_or_default();
        }
        self.registers.word(dsts[0]).store(run, &result);
        Ok(Next::Step)
    }

    /// The lowest member leads.
    pub fn elect(
        &mut self,
        warp: &Warp,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        let masks = self.registers.values(srcs[0]);
        if let Some(wait) = self.gather(warp, &masks, pc, run)? {
            return Ok(wait);
        }
        let leaders = masks.map(|mask| (mask as u32).trailing_zeros());
        self.registers.word(dsts[0]).store(run, &leaders);
        if let Some(&pred) = dsts.get(1) {
            self.registers.set_pred(pred, run, bits(|lane| leaders[lane] as usize == lane));
        }
        Ok(Next::Step)
    }

    /// `bar.warp.sync`: the members may be at different places, as long as each of them is at one.
    pub fn warp_sync(&mut self, warp: &mut Warp, srcs: &[Slot], pc: u32, run: u32) -> Result<Next, Fault> {
        let masks = self.registers.values(srcs[0]);
        let program = self.launch.program;
        let at_sync = |at: u32| {
            matches!(program.insts[at as usize].code, crate::device::cuda::sim::program::Code::WarpSync)
        };
        let others = warp.fragments.iter().filter(|fragment| fragment.waits && at_sync(fragment.pc));
        let waiting = others.fold(0, |mask, fragment| mask | fragment.mask);
        let here = run | waiting;
        let named = lanes_of(run).fold(0, |named, lane| named | masks[lane] as u32);
        if named & !here != 0 {
            // Reports lanes that are gone; waits for those that are elsewhere.
            if let Some(wait) = self.gather(warp, &masks, pc, run)? {
                return Ok(wait);
            }
        }
        if named & !run != 0 {
            for fragment in
                warp.fragments.iter_mut().filter(|fragment| fragment.waits && at_sync(fragment.pc))
            {
                fragment.pc += 1;
                fragment.waits = false;
            }
        }
        warp.clock.tick(warp.index);
        Ok(Next::Step)
    }

    fn fragment(&self, slots: &[Slot]) -> [Register; 8] {
        let mut fragment = [[0; WARP]; 8];
        for (register, &slot) in fragment.iter_mut().zip(slots) {
            *register = self.registers.word(slot).all();
        }
        fragment
    }

    #[inline(never)]
    pub fn mma(
        &mut self,
        warp: &Warp,
        mma: &Mma,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        if let Some(wait) = self.gather_all(warp, pc, run)? {
            return Ok(wait);
        }
        let [for_a, for_b, for_c] = mma.registers();
        let a = self.fragment(&srcs[..for_a]);
        let b = self.fragment(&srcs[for_a..for_a + for_b]);
        let c = self.fragment(&srcs[for_a + for_b..]);
        let mut d = [[0; WARP]; 8];
        mma.run(&a[..for_a], &b[..for_b], &c[..for_c], &mut d[..for_c]);
        for (&dst, values) in dsts.iter().zip(&d) {
            self.registers.word(dst).store(run, values);
        }
        Ok(Next::Step)
    }

    pub fn mma_f64(
        &mut self,
        warp: &Warp,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        if let Some(wait) = self.gather_all(warp, pc, run)? {
            return Ok(wait);
        }
        let fragment = |slot: Slot| self.registers.long(slot).all().map(f64::from_bits);
        let c = [fragment(srcs[2]), fragment(srcs[3])];
        let d = mma::mma_f64(&fragment(srcs[0]), &fragment(srcs[1]), &c);
        for (&dst, values) in dsts.iter().zip(d) {
            self.registers.long(dst).store(run, &values.map(f64::to_bits));
        }
        Ok(Next::Step)
    }

    pub fn move_matrix(
        &mut self,
        warp: &Warp,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        if let Some(wait) = self.gather_all(warp, pc, run)? {
            return Ok(wait);
        }
        let moved = mma::transpose(&self.registers.word(srcs[0]).all());
        self.registers.word(dsts[0]).store(run, &moved);
        Ok(Next::Step)
    }

    /// Checks the row addresses that lanes 0 to `8 * count` hold.
    fn check_rows(
        &self,
        warp: &Warp,
        address: Slot,
        offset: i64,
        count: usize,
        what: &str,
        pc: u32,
    ) -> Result<super::memory::Addresses, Fault> {
        let mut addresses = self.addresses(address, offset);
        if address.class() == Class::Long {
            // ldmatrix without `.shared` takes generic addresses.
            for address in &mut addresses {
                if super::memory::window_of(*address) == crate::device::cuda::sim::program::MemSpace::Shared {
                    *address -= super::SHARED_WINDOW;
                }
            }
        }
        let rows = if count == 4 { FULL } else { (1 << (8 * count)) - 1 };
        let inside = self.check_shared(warp, &addresses, 16, what, pc, rows)?;
        for lane in lanes_of(rows & !inside) {
            addresses[lane] = 0;
        }
        Ok(addresses)
    }

    #[inline(never)]
    pub fn load_matrix(
        &mut self,
        warp: &Warp,
        form: Matrix,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        if let Some(wait) = self.gather_all(warp, pc, run)? {
            return Ok(wait);
        }
        let what = "a row of ldmatrix";
        let addresses = self.check_rows(warp, srcs[0], form.offset, dsts.len(), what, pc)?;
        let checks = self.launch.checks;
        let mut by = accessor(warp, checks, pc);
        for (matrix, &dst) in dsts.iter().enumerate() {
            let mut rows = [[0u8; 16]; 8];
            for (row, bytes) in rows.iter_mut().enumerate() {
                let lane = 8 * matrix + row;
                let at = addresses[lane] as usize;
                by.thread = warp.thread(lane);
                if checks.shared()
                    && let Err(wrong) = self.shared.read(at, 16, &by)
                {
                    self.wrong_read(&wrong, what, at as u64, 16, by.thread, pc)?;
                }
                bytes.copy_from_slice(&self.shared.bytes[at..at + 16]);
            }
            self.tally.shared_rows(&addresses[8 * matrix..8 * matrix + 8]);
            let values =
                if form.transposed { mma::load_matrix_transposed(&rows) } else { mma::load_matrix(&rows) };
            self.registers.word(dst).store(run, &values);
        }
        Ok(Next::Step)
    }

    #[inline(never)]
    pub fn store_matrix(
        &mut self,
        warp: &Warp,
        form: Matrix,
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        if let Some(wait) = self.gather_all(warp, pc, run)? {
            return Ok(wait);
        }
        let what = "a row of stmatrix";
        let addresses = self.check_rows(warp, srcs[0], form.offset, srcs.len() - 1, what, pc)?;
        let checks = self.launch.checks;
        let mut by = accessor(warp, checks, pc);
        for (matrix, &src) in srcs[1..].iter().enumerate() {
            let values = self.registers.word(src).all();
            let rows = mma::store_matrix(&if form.transposed { mma::transpose(&values) } else { values });
            for (row, bytes) in rows.iter().enumerate() {
                let lane = 8 * matrix + row;
                let at = addresses[lane] as usize;
                by.thread = warp.thread(lane);
                if checks.shared()
                    && let Err(wrong) = self.shared.write(at, bytes, &by, std::convert::identity)
                {
                    return Err(self.wrong_shared(&wrong, what, at as u64, 16, by.thread, pc));
                }
                self.shared.bytes[at..at + 16].copy_from_slice(bytes);
            }
            self.tally.shared_rows(&addresses[8 * matrix..8 * matrix + 8]);
        }
        Ok(Next::Step)
    }
}
