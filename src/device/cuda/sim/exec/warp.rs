//! A warp: fragments of lanes, each with its program counter, and the loop that runs them.
//!
//! The fragment with the lowest program counter runs until it reaches another's, where the two become one. Blocks are laid
//! out so (see [`crate::device::cuda::sim::flow`]) that this is where the lanes' ways meet. A fragment that waits for lanes elsewhere
//! (`shfl.sync` and the like) stands still until they arrive; one that spins gives way to the others now and then.

use super::shared::Clock;
use super::{Block, Fault, Launch};
use crate::device::cuda::sim::lanes::{FULL, WARP};
use crate::device::cuda::sim::program::{Code, Inst, PredOp, Slot, Special};
use crate::device::cuda::sim::report::ReportKind;

/// Warp instructions after which another warp gets its turn.
const SLICE: u32 = 1 << 16;
/// Warp instructions after which another fragment does: fewer, so that it comes to that within a slice.
const PATIENCE: u32 = 1 << 12;

/// Lanes at the same place.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub pc: u32,
    pub mask: u32,
    /// Stands still until lanes that it needs arrive.
    pub waits: bool,
}

/// A warp between two instructions.
#[derive(Default)]
pub struct Warp {
    pub index: usize,
    /// Lanes that have not exited.
    pub live: u32,
    /// Lanes that ever were: the last warp of a block may have fewer than 32.
    pub born: u32,
    pub fragments: Vec<Fragment>,
    /// Waits at a block barrier: its id and instruction.
    pub barrier: Option<(u32, u32)>,
    pub clock: Clock,
    pub copies: Vec<super::memory::Copy>,
    /// Copy groups that each lane has committed.
    pub groups: [u32; WARP],
    /// `%tid` by axis.
    coordinates: [[u64; WARP]; 3],
}

impl Warp {
    pub fn new(index: u32, launch: &Launch) -> Self {
        let threads = launch.threads();
        let (warps, lanes) = (threads.div_ceil(32), (threads - 32 * index).min(32));
        let mask = if lanes == 32 { FULL } else { (1 << lanes) - 1 };
        Self {
            index: index as usize,
            live: mask,
            born: mask,
            fragments: vec![Fragment { pc: 0, mask, waits: false }],
            barrier: None,
            clock: Clock::new(index as usize, warps as usize),
            copies: Vec::new(),
            groups: [0; WARP],
            coordinates: [0, 1, 2].map(|axis| {
                std::array::from_fn(|lane| launch.thread_at(32 * index + lane as u32)[axis].into())
            }),
        }
    }

    /// As new, for the next block.
    pub fn restart(&mut self) {
        self.live = self.born;
        self.fragments.clear();
        self.fragments.push(Fragment { pc: 0, mask: self.born, waits: false });
        self.barrier = None;
        self.clock = Clock::new(self.index, self.clock.heard.len());
        self.copies.clear();
        self.groups = [0; WARP];
    }

    pub fn runnable(&self) -> bool {
        self.live != 0 && self.barrier.is_none()
    }

    /// The thread of a lane within the block.
    pub fn thread(&self, lane: usize) -> u32 {
        (32 * self.index + lane) as u32
    }
}

/// Why a warp stopped running.
pub enum Stop {
    /// Its slice is over.
    Yield,
    /// It waits at a block barrier.
    Barrier,
    /// All its lanes have exited.
    Done,
}

/// What comes after an instruction.
pub enum Next {
    /// The following instruction.
    Step,
    /// The lanes of the mask wait here for others; the rest goes on.
    Wait(u32),
    /// The warp waits at a barrier, and goes on behind it.
    Barrier,
}

impl Block<'_> {
    /// Runs a warp until it must wait, ends, or has had its turn.
    pub fn run_warp(&mut self, warp: &mut Warp) -> Result<Stop, Fault> {
        let program = self.launch.program;
        let mut slice = SLICE;
        let mut patience = PATIENCE;
        'fragments: loop {
            // When the slice is over too, the one that has just run is taken up again and named if that was the budget.
            let other = patience == 0 && slice > 0;
            let Some(chosen) = self.choose(warp, other)? else { return Ok(Stop::Done) };
            if patience == 0 {
                patience = PATIENCE;
            }
            let Fragment { mut pc, mut mask, .. } = warp.fragments.swap_remove(chosen);
            // The nearest place ahead where another fragment is.
            let meet =
                warp.fragments.iter().map(|other| other.pc).filter(|&at| at > pc).min().unwrap_or(u32::MAX);
            loop {
                if pc == meet || slice == 0 || patience == 0 {
                    join(&mut warp.fragments, Fragment { pc, mask, waits: false });
                    if slice == 0 {
                        self.spend(warp, SLICE, pc, mask)?;
                        return Ok(Stop::Yield);
                    }
                    continue 'fragments;
                }
                slice -= 1;
                if !warp.fragments.is_empty() {
                    patience -= 1;
                }
                let inst = &program.insts[pc as usize];
                let run = match inst.guard {
                    None => mask,
                    Some((slot, negated)) => {
                        let holds = self.registers.pred(slot);
                        mask & if negated { !holds } else { holds }
                    }
                };
                self.tally.count(pc, run);
                match &inst.code {
                    Code::Branch { target } => {
                        if run == mask {
                            let backwards = *target <= pc;
                            pc = *target;
                            if !warp.fragments.is_empty() && (backwards || pc > meet) {
                                join(&mut warp.fragments, Fragment { pc, mask, waits: false });
                                continue 'fragments;
                            }
                        } else if run == 0 {
                            pc += 1;
                        } else {
                            self.tally.divergent_branches += 1;
                            join(&mut warp.fragments, Fragment { pc: *target, mask: run, waits: false });
                            join(
                                &mut warp.fragments,
                                Fragment { pc: pc + 1, mask: mask & !run, waits: false },
                            );
                            continue 'fragments;
                        }
                    }
                    Code::BranchTable(targets) => {
                        if self.branch_table(warp, inst, targets, pc, mask, run)? {
                            self.tally.divergent_branches += 1;
                        }
                        continue 'fragments;
                    }
                    Code::Exit => {
                        warp.live &= !run;
                        mask &= !run;
                        if mask == 0 {
                            continue 'fragments;
                        }
                        pc += 1;
                    }
                    _ if run == 0 => pc += 1,
                    _ => match self.step(warp, inst, pc, mask, run)? {
                        Next::Step => pc += 1,
                        Next::Wait(lanes) => {
                            join(&mut warp.fragments, Fragment { pc, mask: lanes, waits: true });
                            if mask != lanes {
                                join(
                                    &mut warp.fragments,
                                    Fragment { pc: pc + 1, mask: mask & !lanes, waits: false },
                                );
                            }
                            self.tally.uncount(pc, run);
                            continue 'fragments;
                        }
                        Next::Barrier => {
                            join(&mut warp.fragments, Fragment { pc: pc + 1, mask, waits: false });
                            self.spend(warp, SLICE - slice, pc, mask)?;
                            return Ok(Stop::Barrier);
                        }
                    },
                }
                if mask == 0 {
                    continue 'fragments;
                }
            }
        }
    }

    /// Takes steps off the block's budget. The lanes `mask` at `pc` are those that ran last.
    fn spend(&mut self, warp: &Warp, steps: u32, pc: u32, mask: u32) -> Result<(), Fault> {
        self.budget = self.budget.saturating_sub(steps.into());
        if self.budget > 0 {
            return Ok(());
        }
        let thread = warp.thread(mask.trailing_zeros() as usize);
        let message = format!("after {} instructions of a block it still runs", self.launch.budget);
        Err(self.report(ReportKind::Budget, pc, Some(thread), message))
    }

    /// The fragment to run next: that with the lowest program counter, or if that one spins, the one after it.
    fn choose(&self, warp: &Warp, other: bool) -> Result<Option<usize>, Fault> {
        let runnable = || (0..warp.fragments.len()).filter(|&i| !warp.fragments[i].waits);
        let lowest = runnable().min_by_key(|&i| warp.fragments[i].pc);
        let Some(lowest) = lowest else {
            if warp.fragments.is_empty() {
                return Ok(None);
            }
            return Err(self.stuck(warp));
        };
        if other {
            let after = |&i: &usize| warp.fragments[i].pc > warp.fragments[lowest].pc;
            return Ok(Some(
                runnable().filter(after).min_by_key(|&i| warp.fragments[i].pc).unwrap_or(lowest),
            ));
        }
        Ok(Some(lowest))
    }

    /// Splits the fragment by the targets of its lanes; tells whether they differ.
    fn branch_table(
        &mut self,
        warp: &mut Warp,
        inst: &Inst,
        targets: &[u32],
        pc: u32,
        mask: u32,
        run: u32,
    ) -> Result<bool, Fault> {
        let index = self.registers.word(self.operands(inst)[0]).all();
        if mask != run {
            join(&mut warp.fragments, Fragment { pc: pc + 1, mask: mask & !run, waits: false });
        }
        let mut first = None;
        let mut differ = false;
        for lane in crate::device::cuda::sim::lanes::lanes_of(run) {
            let Some(&target) = targets.get(index[lane] as usize) else {
                let message =
                    format!("a branch by table with {} entries to entry {}", targets.len(), index[lane]);
                return Err(self.report(ReportKind::OutOfBounds, pc, Some(warp.thread(lane)), message));
            };
            differ |= *first.get_or_insert(target) != target;
            join(&mut warp.fragments, Fragment { pc: target, mask: 1 << lane, waits: false });
        }
        Ok(differ)
    }

    #[inline(always)]
    pub fn operands(&self, inst: &Inst) -> &'_ [Slot] {
        let first = inst.first as usize;
        &self.launch.program.slots[first..first + usize::from(inst.dsts) + usize::from(inst.srcs)]
    }

    /// Runs one instruction that is no branch, for the lanes `run` of a fragment of lanes `mask`.
    #[inline(always)]
    fn step(&mut self, warp: &mut Warp, inst: &Inst, pc: u32, mask: u32, run: u32) -> Result<Next, Fault> {
        let program = self.launch.program;
        let first = inst.first as usize;
        let slots = &program.slots[first..first + usize::from(inst.dsts) + usize::from(inst.srcs)];
        let r = &self.registers;
        // SAFETY, for all functions of registers: the decoder chose those that this processor can run.
        unsafe {
            match &inst.code {
                Code::WofW(f) => f(r.word(slots[0]), r.word(slots[1]), run),
                Code::WofL(f) => f(r.word(slots[0]), r.long(slots[1]), run),
                Code::LofW(f) => f(r.long(slots[0]), r.word(slots[1]), run),
                Code::LofL(f) => f(r.long(slots[0]), r.long(slots[1]), run),
                Code::WofWW(f) => f(r.word(slots[0]), r.word(slots[1]), r.word(slots[2]), run),
                Code::WofLL(f) => f(r.word(slots[0]), r.long(slots[1]), r.long(slots[2]), run),
                Code::LofWW(f) => f(r.long(slots[0]), r.word(slots[1]), r.word(slots[2]), run),
                Code::LofLW(f) => f(r.long(slots[0]), r.long(slots[1]), r.word(slots[2]), run),
                Code::LofLL(f) => f(r.long(slots[0]), r.long(slots[1]), r.long(slots[2]), run),
                Code::WofWWW(f) => {
                    f(r.word(slots[0]), r.word(slots[1]), r.word(slots[2]), r.word(slots[3]), run);
                }
                Code::LofWWL(f) => {
                    f(r.long(slots[0]), r.word(slots[1]), r.word(slots[2]), r.long(slots[3]), run);
                }
                Code::LofLWW(f) => {
                    f(r.long(slots[0]), r.long(slots[1]), r.word(slots[2]), r.word(slots[3]), run);
                }
                Code::LofLLL(f) => {
                    f(r.long(slots[0]), r.long(slots[1]), r.long(slots[2]), r.long(slots[3]), run);
                }
                Code::WofWWWW(f) => f(
                    r.word(slots[0]),
                    r.word(slots[1]),
                    r.word(slots[2]),
                    r.word(slots[3]),
                    r.word(slots[4]),
                    run,
                ),
                Code::LofLLWW(f) => f(
                    r.long(slots[0]),
                    r.long(slots[1]),
                    r.long(slots[2]),
                    r.word(slots[3]),
                    r.word(slots[4]),
                    run,
                ),
                Code::PofW(f) => r.set_pred(slots[0], run, f(r.word(slots[1]))),
                Code::PofL(f) => r.set_pred(slots[0], run, f(r.long(slots[1]))),
                Code::PofWW(f) => r.set_pred(slots[0], run, f(r.word(slots[1]), r.word(slots[2]))),
                Code::PofLL(f) => r.set_pred(slots[0], run, f(r.long(slots[1]), r.long(slots[2]))),
                Code::Pred(op) => {
                    let a = r.pred(slots[1]);
                    let value = match op {
                        PredOp::Move => a,
                        PredOp::Not => !a,
                        PredOp::And => a & r.pred(slots[2]),
                        PredOp::Or => a | r.pred(slots[2]),
                        PredOp::Xor => a ^ r.pred(slots[2]),
                    };
                    r.set_pred(slots[0], run, value);
                }
                Code::SelectWord => {
                    let (a, b, p) = (r.word(slots[1]), r.word(slots[2]), r.pred(slots[3]));
                    let chosen = std::array::from_fn(|i| if p >> i & 1 == 1 { a.get(i) } else { b.get(i) });
                    r.word(slots[0]).store(run, &chosen);
                }
                Code::SelectLong => {
                    let (a, b, p) = (r.long(slots[1]), r.long(slots[2]), r.pred(slots[3]));
                    let chosen = std::array::from_fn(|i| if p >> i & 1 == 1 { a.get(i) } else { b.get(i) });
                    r.long(slots[0]).store(run, &chosen);
                }
                Code::Load(access) => self.load(warp, access, slots, inst.dsts.into(), pc, run)?,
                Code::Store(access) => self.store(warp, access, slots, pc, run)?,
                Code::Nop | Code::Fence => {}
                _ => return self.step_rare(warp, inst, pc, mask, run),
            }
        }
        Ok(Next::Step)
    }

    /// The instructions that loops are not made of, or that take long anyway.
    #[inline(never)]
    fn step_rare(
        &mut self,
        warp: &mut Warp,
        inst: &Inst,
        pc: u32,
        mask: u32,
        run: u32,
    ) -> Result<Next, Fault> {
        let program = self.launch.program;
        let first = inst.first as usize;
        let slots = &program.slots[first..first + usize::from(inst.dsts) + usize::from(inst.srcs)];
        let (dsts, srcs) = slots.split_at(inst.dsts.into());
        match &inst.code {
            Code::Mma(tensor) => return self.mma(warp, &tensor.mma, dsts, srcs, pc, run),
            Code::MmaF64 => return self.mma_f64(warp, dsts, srcs, pc, run),
            Code::LoadMatrix(form) => return self.load_matrix(warp, *form, dsts, srcs, pc, run),
            Code::StoreMatrix(form) => return self.store_matrix(warp, *form, srcs, pc, run),
            Code::MoveMatrix => return self.move_matrix(warp, dsts, srcs, pc, run),
            Code::Shuffle(mode) => return self.shuffle(warp, *mode, dsts, srcs, pc, run),
            Code::Vote(mode) => return self.vote(warp, *mode, dsts, srcs, pc, run),
            Code::MatchAny | Code::MatchAll => {
                let all = matches!(inst.code, Code::MatchAll);
                return self.match_lanes(warp, all, dsts, srcs, pc, run);
            }
            Code::Redux(reduce) => return self.redux(warp, *reduce, dsts, srcs, pc, run),
            Code::Elect => return self.elect(warp, dsts, srcs, pc, run),
            Code::WarpSync => return self.warp_sync(warp, srcs, pc, run),
            Code::Barrier(barrier) => return self.barrier(warp, *barrier, slots, pc, mask, run),
            Code::Special(special) => {
                let values = self.special(warp, *special);
                self.registers.set_values(dsts[0], run, &values);
            }
            Code::Activemask => self.registers.word(dsts[0]).store(run, &[run; WARP]),
            Code::CarryWord { subtract } => {
                let (a, b) = (self.registers.values(srcs[0]), self.registers.values(srcs[1]));
                let carry = self.registers.pred(srcs[2]);
                let results: [(u32, bool); WARP] = std::array::from_fn(|i| {
                    let (a, b, c) = (a[i] as u32, b[i] as u32, carry >> i & 1 == 1);
                    if *subtract {
                        crate::device::cuda::sim::math::int::sub_borrow(a, b, c)
                    } else {
                        crate::device::cuda::sim::math::int::add_carry(a, b, c)
                    }
                });
                self.registers.word(dsts[0]).store(run, &results.map(|(value, _)| value));
                self.registers.set_pred(dsts[1], run, bits(|i| results[i].1));
            }
            Code::CarryLong { subtract } => {
                let (a, b) = (self.registers.values(srcs[0]), self.registers.values(srcs[1]));
                let carry = self.registers.pred(srcs[2]);
                let results: [(u64, bool); WARP] = std::array::from_fn(|i| {
                    let (a, b, c) = (a[i], b[i], carry >> i & 1 == 1);
                    if *subtract {
                        crate::device::cuda::sim::math::int::sub_borrow_u64(a, b, c)
                    } else {
                        crate::device::cuda::sim::math::int::add_carry_u64(a, b, c)
                    }
                });
                self.registers.long(dsts[0]).store(run, &results.map(|(value, _)| value));
                self.registers.set_pred(dsts[1], run, bits(|i| results[i].1));
            }
            Code::Pack { bits } => {
                let mut packed = [0u64; WARP];
                for (i, &src) in srcs.iter().enumerate() {
                    let part = self.registers.values(src);
                    let mask = u64::MAX >> (64 - bits);
                    for (packed, part) in packed.iter_mut().zip(part) {
                        *packed |= (part & mask) << (i as u32 * u32::from(*bits));
                    }
                }
                self.registers.set_values(dsts[0], run, &packed);
            }
            Code::Unpack { bits } => {
                let packed = self.registers.values(srcs[0]);
                for (i, &dst) in dsts.iter().enumerate() {
                    let mask = u64::MAX >> (64 - bits);
                    let part = packed.map(|value| value >> (i as u32 * u32::from(*bits)) & mask);
                    self.registers.set_values(dst, run, &part);
                }
            }
            Code::Convert(conversion) => self.convert(conversion, dsts, srcs, run),
            Code::IsSpace(space) => {
                let values = self.registers.values(srcs[0]);
                let held = bits(|i| super::memory::window_of(values[i]) == *space);
                self.registers.set_pred(dsts[0], run, held);
            }
            Code::ToGeneric(space) | Code::FromGeneric(space) => {
                let base = super::memory::window_base(*space);
                let add = matches!(inst.code, Code::ToGeneric(_));
                let values = self.registers.values(srcs[0]);
                let moved =
                    values.map(|value| if add { value.wrapping_add(base) } else { value.wrapping_sub(base) });
                self.registers.set_values(dsts[0], run, &moved);
            }
            Code::Atom(atom) => self.atom(warp, atom, dsts, srcs, pc, run)?,
            Code::AsyncCopy { bytes, dst_offset, src_offset, .. } => {
                self.async_copy(warp, *bytes, [*dst_offset, *src_offset], srcs, pc, run)?;
            }
            Code::AsyncCommit => {
                for lane in crate::device::cuda::sim::lanes::lanes_of(run) {
                    warp.groups[lane] += 1;
                }
            }
            Code::AsyncWait { pending } => self.async_wait(warp, Some(*pending), run),
            Code::AsyncWaitAll => self.async_wait(warp, None, run),
            Code::Trap => {
                let thread = warp.thread(run.trailing_zeros() as usize);
                return Err(self.report(
                    ReportKind::Assertion,
                    pc,
                    Some(thread),
                    "the kernel ran into a trap",
                ));
            }
            Code::Print => self.print(warp, dsts, srcs, pc, run)?,
            Code::Assert => return Err(self.assertion(warp, srcs, pc, run)),
            other => unreachable!("{other:?} is run elsewhere"),
        }
        Ok(Next::Step)
    }

    fn convert(
        &mut self,
        conversion: &crate::device::cuda::sim::program::Conversion,
        dsts: &[Slot],
        srcs: &[Slot],
        run: u32,
    ) {
        use crate::device::cuda::sim::math::convert::{Type, cvt};
        let (from, to, m) = (conversion.from, conversion.to, conversion.modifiers);
        let sources: Vec<[u64; WARP]> = srcs.iter().map(|&src| self.registers.values(src)).collect();
        let signed = matches!(to, Type::S8 | Type::S16 | Type::S32 | Type::S64);
        let values = std::array::from_fn(|i| match (&sources[..], conversion.pair) {
            ([high, low], _) => cvt(high[i], from, to, m) << to.bits() | cvt(low[i], from, to, m),
            ([packed, ..], true) => {
                let high = packed[i] >> from.bits();
                cvt(high, from, to, m) << to.bits() | cvt(packed[i], from, to, m)
            }
            ([one, ..], false) => {
                super::registers::extend(cvt(one[i], from, to, m), (to.bits() / 8) as u8, signed)
            }
            ([], _) => 0,
        });
        self.registers.set_values(dsts[0], run, &values);
    }

    fn special(&self, warp: &Warp, special: Special) -> [u64; WARP] {
        let launch = self.launch;
        let same = |value: u64| [value; WARP];
        let each = |f: &dyn Fn(u32) -> u64| std::array::from_fn(|lane| f(lane as u32));
        match special {
            Special::Tid(axis) => warp.coordinates[usize::from(axis)],
            Special::Ntid(axis) => same(launch.block[usize::from(axis)].into()),
            Special::Ctaid(axis) => same(self.coordinates[usize::from(axis)].into()),
            Special::Nctaid(axis) => same(launch.grid[usize::from(axis)].into()),
            Special::LaneId => each(&u64::from),
            Special::WarpId => same(warp.index as u64),
            Special::NwarpId => same(u64::from(launch.threads().div_ceil(32))),
            Special::LaneMaskEq => each(&|lane| 1 << lane),
            Special::LaneMaskLt => each(&|lane| (1 << lane) - 1),
            Special::LaneMaskLe => each(&|lane| (2 << lane) - 1),
            Special::LaneMaskGt => each(&|lane| u64::from(FULL) & !((2 << lane) - 1)),
            Special::LaneMaskGe => each(&|lane| u64::from(FULL) & !((1 << lane) - 1)),
            // Time is counted in instructions of the block, so that it is the same in every run.
            Special::Clock | Special::Clock64 | Special::GlobalTimer => {
                same(self.tally.time() - self.started)
            }
            Special::ClockHi => same((self.tally.time() - self.started) >> 32),
            Special::SmId => same(self.index % 108),
            Special::NsmId => same(108),
            Special::GridId => same(launch.tag.into()),
            Special::DynamicShared => same(launch.dynamic_shared.into()),
            Special::TotalShared => same(launch.shared_bytes().into()),
        }
    }
}

/// A mask of the lanes for which something holds.
pub fn bits(holds: impl Fn(usize) -> bool) -> u32 {
    (0..WARP).fold(0, |mask, lane| mask | u32::from(holds(lane)) << lane)
}

/// Adds lanes to the fragment at their place, or as one of their own. Lanes that were waiting there try again.
fn join(fragments: &mut Vec<Fragment>, new: Fragment) {
    match fragments.iter_mut().find(|fragment| fragment.pc == new.pc) {
        Some(fragment) => {
            fragment.mask |= new.mask;
            fragment.waits = false;
        }
        None => fragments.push(new),
    }
}
