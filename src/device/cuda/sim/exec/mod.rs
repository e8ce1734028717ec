//! Runs one block after another: warps of 32 lanes, in lockstep where they agree.

mod barrier;
mod collective;
pub mod global;
mod memory;
mod print;
mod registers;
mod shared;
mod warp;

use super::Checks;
use super::count::Tally;
use super::memory::View;
use super::program::{Place, Program};
use super::report::{Other, Report, ReportKind, Source};
use super::source::Sources;
use registers::Registers;
use shared::Shared;
use warp::{Stop, Warp};

/// Where shared, local, constant and parameter memory lie among generic addresses.
pub const SHARED_WINDOW: u64 = 0x0000_0100_0000_0000;
pub const LOCAL_WINDOW: u64 = 0x0000_0200_0000_0000;
pub const CONST_WINDOW: u64 = 0x0000_0300_0000_0000;
pub const PARAM_WINDOW: u64 = 0x0000_0400_0000_0000;
/// Bytes of each window.
pub const WINDOW: u64 = 1 << 32;

pub type Fault = Box<Report>;

/// Everything that the blocks of a launch share.
pub struct Launch<'a> {
    pub program: &'a Program,
    pub view: &'a View,
    pub constants: &'a [u8],
    pub sources: &'a Sources,
    pub params: &'a [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub checks: Checks,
    /// Warp instructions that one block may take.
    pub budget: u64,
    /// Marks this launch's entries in the race shadow of global memory.
    pub tag: u32,
}

impl Launch<'_> {
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    pub fn shared_bytes(&self) -> u32 {
        self.program.static_shared + self.dynamic_shared
    }

    fn block_at(&self, index: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32]
    }

    fn thread_at(&self, index: u32) -> [u32; 3] {
        let [x, y, _] = self.block;
        [index % x, index / x % y, index / x / y]
    }

    fn place(&self, pc: u32) -> Place {
        let place = self.program.insts.get(pc as usize).map(|inst| self.program.places[inst.place as usize]);
        place.unwrap_or_default()
    }

    /// An instruction's line, and the calls through which it was inlined.
    fn source(&self, place: Place) -> (Option<Source>, Vec<Source>) {
        let mut chain = self.sources.chain(place.loc);
        (chain.next(), chain.collect())
    }
}

/// One block in progress; used again for the next.
pub struct Block<'a> {
    launch: &'a Launch<'a>,
    index: u64,
    coordinates: [u32; 3],
    registers: Registers,
    shared: Shared,
    local: memory::Local,
    warps: Vec<Warp>,
    barriers: [barrier::State; 16],
    /// A read of shared memory that nobody had written. It is reported at the next barrier, because until then somebody
    /// may write there, and then it is a race.
    unwritten: Option<Fault>,
    /// A race with a block after this one, found here: the lowest such block, or `u64::MAX` if that is not known, and its report.
    pub later: Option<(u64, Fault)>,
    /// Warp instructions left.
    budget: u64,
    /// The tally's clock when the block began.
    started: u64,
    /// The allocation that the last access hit.
    hint: usize,
    pub tally: Tally,
    pub printed: String,
}

impl<'a> Block<'a> {
    pub fn new(launch: &'a Launch<'a>) -> Self {
        let warps = launch.threads().div_ceil(32) as usize;
        let program = launch.program;
        Self {
            launch,
            index: 0,
            coordinates: [0; 3],
            registers: Registers::new(program, launch.params, warps),
            shared: Shared::new(launch.shared_bytes() as usize, program.shared_granule),
            local: memory::Local::new(program.local_bytes, warps),
            warps: (0..warps as u32).map(|warp| Warp::new(warp, launch)).collect(),
            barriers: Default::default(),
            unwritten: None,
            later: None,
            budget: 0,
            started: 0,
            hint: 0,
            tally: Tally::new(program.insts.len()),
            printed: String::new(),
        }
    }

    /// Runs the block with this index to its end.
    pub fn run(&mut self, index: u64) -> Result<(), Fault> {
        let result = self.run_warps(index);
        match (result, self.unwritten.take()) {
            (Err(fault), Some(unwritten)) => {
                Err(if fault.kind == ReportKind::SharedRace { fault } else { unwritten })
            }
            (Ok(()), Some(unwritten)) => Err(unwritten),
            (result, None) => result,
        }
    }

    fn run_warps(&mut self, index: u64) -> Result<(), Fault> {
        self.index = index;
        self.coordinates = self.launch.block_at(index);
        self.budget = self.launch.budget;
        self.started = self.tally.time();
        self.barriers = Default::default();
        self.shared.clear();
        self.local.clear();
        self.warps.iter_mut().for_each(Warp::restart);
        loop {
            let mut progress = false;
            for index in 0..self.warps.len() {
                if !self.warps[index].runnable() {
                    continue;
                }
                progress = true;
                let mut warp = std::mem::take(&mut self.warps[index]);
                self.registers.select(index);
                let stop = self.run_warp(&mut warp);
                self.warps[index] = warp;
                match stop? {
                    Stop::Yield | Stop::Barrier => {}
                    Stop::Done => self.exited()?,
                }
            }
            if self.warps.iter().all(|warp| warp.live == 0) {
                return self.check_end();
            }
            if !progress {
                return Err(self.deadlock());
            }
        }
    }

    /// A report about an instruction that a thread of this block runs.
    fn report(&self, kind: ReportKind, pc: u32, thread: Option<u32>, message: impl Into<String>) -> Fault {
        let place = self.launch.place(pc);
        let (source, inlined) = self.launch.source(place);
        Box::new(Report {
            kind,
            kernel: Some(self.launch.program.name.clone()),
            block: self.coordinates,
            thread: thread.map(|thread| self.launch.thread_at(thread)),
            other: None,
            ptx_line: Some(place.ptx_line),
            source,
            inlined,
            message: message.into(),
        })
    }

    /// The other party of a race, a thread of this block.
    fn other(&self, thread: u32, pc: u32) -> Other {
        let place = self.launch.place(pc);
        let (source, inlined) = self.launch.source(place);
        Other {
            block: self.coordinates,
            thread: Some(self.launch.thread_at(thread)),
            ptx_line: Some(place.ptx_line),
            source,
            inlined,
        }
    }
}
