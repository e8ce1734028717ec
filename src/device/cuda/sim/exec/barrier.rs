//! Barriers of a block: `bar.sync`, `bar.arrive`, `bar.red`.

use super::warp::{Next, Warp};
use super::{Block, Fault};
use crate::device::cuda::sim::lanes::WARP;
use crate::device::cuda::sim::program::{Barrier, Class, Slot};
use crate::device::cuda::sim::report::ReportKind;

/// One of a block's sixteen barriers.
#[derive(Default)]
pub struct State {
    /// Threads to wait for; None: all that live.
    expected: Option<u32>,
    arrived: u32,
    /// Warps that have arrived, waiting or not.
    warps: Vec<usize>,
    /// Where the results of a reduction go: warp, destination, lanes, and what to make of the counts.
    results: Vec<(usize, Slot, u32, Barrier)>,
    /// Threads whose predicate held, and threads that took part.
    held: u32,
    counted: u32,
}

impl Block<'_> {
    #[inline(never)]
    pub fn barrier(
        &mut self,
        warp: &mut Warp,
        barrier: Barrier,
        slots: &[Slot],
        pc: u32,
        mask: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        let reduces = matches!(barrier, Barrier::And | Barrier::Or | Barrier::Popc);
        let (dsts, srcs) = slots.split_at(usize::from(reduces));
        if run != warp.live {
            // Blocks are laid out so that lanes that can still come here would have come first, unless this fragment
            // was let past them because they spin.
            let behind = warp.fragments.iter().any(|fragment| fragment.pc < pc);
            if behind && run == mask {
                return Ok(Next::Wait(run));
            }
            if self.launch.checks.barriers {
                return Err(self.divergent(warp, pc, run));
            }
        }
        let thread = warp.thread(run.trailing_zeros() as usize);
        let lane = run.trailing_zeros() as usize;
        let (value, operands) = match srcs.split_last() {
            Some((&last, rest)) if last.class() == Class::Pred => (Some(last), rest),
            _ => (None, srcs),
        };
        let id = self.registers.values(operands[0])[lane];
        let expected = operands.get(1).map(|&count| self.registers.values(count)[lane] as u32);
        if id >= 16 || expected.is_some_and(|count| count == 0 || !count.is_multiple_of(32)) {
            let message = format!("barrier {id} for {expected:?} threads: there are 16, for whole warps");
            return Err(self.report(ReportKind::Barrier, pc, Some(thread), message));
        }
        let held = value.map(|value| self.registers.pred(value) & run);
        let state = &mut self.barriers[id as usize];
        if !state.warps.is_empty() && state.expected != expected {
            let message =
                format!("barrier {id} for {expected:?} threads while others use it for {:?}", state.expected);
            return Err(self.report(ReportKind::Barrier, pc, Some(thread), message));
        }
        state.expected = expected;
        // A warp counts as a whole where a number of threads is given.
        state.arrived += if expected.is_some() { WARP as u32 } else { warp.live.count_ones() };
        state.warps.push(warp.index);
        if let Some(held) = held {
            state.held += held.count_ones();
            state.counted += run.count_ones();
            state.results.push((warp.index, dsts[0], run, barrier));
        }
        if barrier != Barrier::Arrive {
            warp.barrier = Some((id as u32, pc));
        }
        let complete = match expected {
            Some(expected) => state.arrived >= expected,
            None => {
                let others = self.warps.iter().map(|other| other.live.count_ones()).sum::<u32>();
                state.arrived >= others + warp.live.count_ones()
            }
        };
        if complete {
            self.release(id as usize, Some(warp))?;
        }
        // Even the last warp to arrive gives the others their turn.
        Ok(if barrier == Barrier::Arrive { Next::Step } else { Next::Barrier })
    }

    /// Lets everybody go who waits at a barrier. `current` is the running warp, which is not in its place.
    fn release(&mut self, id: usize, mut current: Option<&mut Warp>) -> Result<(), Fault> {
        if let Some(unwritten) = self.unwritten.take() {
            return Err(unwritten);
        }
        let state = std::mem::take(&mut self.barriers[id]);
        let mut members = state.warps;
        if state.expected.is_none() {
            // Whoever has exited has arrived.
            let gone = (0..self.warps.len()).filter(|&i| self.warps[i].live == 0 && !members.contains(&i));
            let gone: Vec<usize> =
                gone.filter(|&i| current.as_ref().is_none_or(|warp| warp.index != i)).collect();
            members.extend(gone);
        }
        let index_of = current.as_ref().map(|warp| warp.index);
        // The clocks of all members move to the same time, of which all of them know.
        let mut heard = vec![0; self.warps.len()];
        let mut now = 0;
        for &member in &members {
            let clock = match &current {
                Some(warp) if Some(member) == index_of => &warp.clock,
                _ => &self.warps[member].clock,
            };
            now = now.max(clock.now);
            heard.iter_mut().zip(&clock.heard).for_each(|(known, &other)| *known = (*known).max(other));
        }
        now += 1;
        members.iter().for_each(|&member| heard[member] = now);
        for &member in &members {
            let warp = match &mut current {
                Some(warp) if Some(member) == index_of => &mut **warp,
                _ => &mut self.warps[member],
            };
            warp.clock.now = now;
            warp.clock.synced = now;
            warp.clock.heard.clone_from(&heard);
            warp.clock.update(member);
            if warp.barrier.is_some_and(|(waiting, _)| waiting as usize == id) {
                warp.barrier = None;
            }
        }
        for (member, dst, lanes, barrier) in state.results {
            self.registers.select(member);
            match barrier {
                Barrier::Popc => self.registers.word(dst).store(lanes, &[state.held; WARP]),
                Barrier::And => self.registers.set_pred(dst, lanes, mask_of(state.held == state.counted)),
                _ => self.registers.set_pred(dst, lanes, mask_of(state.held > 0)),
            }
        }
        if let Some(index) = index_of {
            self.registers.select(index);
        }
        Ok(())
    }

    /// After a warp has exited: barriers may be complete without it.
    pub fn exited(&mut self) -> Result<(), Fault> {
        let live: u32 = self.warps.iter().map(|warp| warp.live.count_ones()).sum();
        for id in 0..self.barriers.len() {
            let state = &self.barriers[id];
            if !state.warps.is_empty() && state.expected.is_none() && state.arrived >= live && live > 0 {
                self.release(id, None)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn divergent(&self, warp: &Warp, pc: u32, run: u32) -> Fault {
        let missing = warp.live & !run;
        let lane = run.trailing_zeros() as usize;
        let away = missing.trailing_zeros() as usize;
        let elsewhere = warp.fragments.iter().find(|fragment| fragment.mask >> away & 1 == 1);
        let place = elsewhere.map(|fragment| self.launch.place(fragment.pc));
        let message = format!(
            "{} of the {} threads of a warp reach a barrier; thread {}{} does not",
            run.count_ones(),
            warp.live.count_ones(),
            warp.thread(away),
            place.map_or(String::new(), |place| format!(", at PTX line {},", place.ptx_line)),
        );
        self.report(ReportKind::Barrier, pc, Some(warp.thread(lane)), message)
    }

    /// Nobody can run, but not everybody has exited.
    pub fn deadlock(&self) -> Fault {
        let mut waiting = self.warps.iter().filter_map(|warp| warp.barrier.map(|at| (warp, at)));
        let Some((warp, (id, pc))) = waiting.next() else {
            return self.report(ReportKind::Barrier, 0, None, "nothing can run");
        };
        let thread = warp.thread(warp.live.trailing_zeros() as usize);
        let state = &self.barriers[id as usize];
        let expected =
            state.expected.map_or("all threads of the block".to_owned(), |n| format!("{n} threads"));
        let elsewhere = waiting.find(|(_, (other, _))| *other != id).map(|(warp, (other, pc))| {
            let place = self.launch.place(pc);
            format!("; thread {} waits at barrier {other}, PTX line {}", 32 * warp.index, place.ptx_line)
        });
        let message = format!(
            "{} threads wait at barrier {id} for {expected}, for ever{}",
            state.arrived,
            elsewhere.unwrap_or_default()
        );
        self.report(ReportKind::Barrier, pc, Some(thread), message)
    }

    /// When a block ends, nobody may have arrived at a barrier that was never complete. Copies that nobody has waited for
    /// may be left: nobody can have touched their data.
    pub fn check_end(&self) -> Result<(), Fault> {
        for (id, state) in self.barriers.iter().enumerate() {
            if !state.warps.is_empty() && self.launch.checks.barriers {
                let thread = (32 * state.warps[0]) as u32;
                let message = format!("a thread arrived at barrier {id}, but the block ended before all did");
                return Err(self.report(ReportKind::Barrier, 0, Some(thread), message));
            }
        }
        Ok(())
    }
}

fn mask_of(holds: bool) -> u32 {
    if holds { u32::MAX } else { 0 }
}
