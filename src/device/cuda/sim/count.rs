//! What a launch did, counted.
//!
//! - An instruction counts once for every warp that issues it, and once for every lane that it does something for.
//! - Global memory moves in sectors of 32 bytes. The fewest that a warp's access needs is its distinct bytes over 32.
//! - Shared memory has 32 banks of 4 bytes; a *wavefront* serves one word from each. A warp's access takes as many as the
//!   most distinct words that it wants of one bank. Accesses of 8 bytes go by half warps and of 16 by quarters; a row
//!   of `ldmatrix` is 16 bytes, and a matrix is one access. The fewest is the distinct words over 32.

use std::collections::BTreeMap;
use std::fmt;

use super::exec::Launch;
use super::lanes::{WARP, lanes_of};
use super::program::{Code, Kind, Program};

/// Memory traffic, and the least with which it could have been done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warp instructions that accessed this memory.
    pub accesses: u64,
    /// Distinct bytes that the warp instructions asked for.
    pub bytes: u64,
    /// Sectors or wavefronts.
    pub moved: u64,
    /// The fewest that would have served the same bytes.
    pub fewest: u64,
}

impl Traffic {
    fn add(&mut self, other: &Self) {
        self.accesses += other.accesses;
        self.bytes += other.bytes;
        self.moved += other.moved;
        self.fewest += other.fewest;
    }
}

/// What one thread of the host counts while it runs blocks.
#[derive(Clone)]
pub struct Tally {
    /// By instruction of the program: times issued, lanes.
    insts: Vec<(u64, u64)>,
    steps: u64,
    pub divergent_branches: u64,
    pub loads: Traffic,
    pub stores: Traffic,
    pub shared: Traffic,
}

impl Tally {
    pub fn new(insts: usize) -> Self {
        let insts = vec![(0, 0); insts];
        let (loads, stores, shared) = Default::default();
        Self { insts, steps: 0, divergent_branches: 0, loads, stores, shared }
    }

    #[inline(always)]
    pub fn count(&mut self, pc: u32, run: u32) {
        let (issued, lanes) = &mut self.insts[pc as usize];
        *issued += 1;
        *lanes += u64::from(run.count_ones());
        self.steps += 1;
    }

    /// Takes back an instruction that had to wait; it is counted when it runs.
    pub fn uncount(&mut self, pc: u32, run: u32) {
        let (issued, lanes) = &mut self.insts[pc as usize];
        *issued -= 1;
        *lanes -= u64::from(run.count_ones());
    }

    /// A clock that ticks with every instruction.
    pub fn time(&self) -> u64 {
        self.steps
    }

    /// An access to global memory by the lanes of `run`, each of `bytes` bytes at a multiple of that.
    #[inline(always)]
    pub fn global_access(&mut self, addresses: &[u64; WARP], bytes: u64, run: u32, store: bool) {
        let traffic = if store { &mut self.stores } else { &mut self.loads };
        traffic.accesses += 1;
        let (mut places, mut sectors, mut previous, mut ascending) = (0, 0, u64::MAX, true);
        for lane in lanes_of(run) {
            let address = addresses[lane];
            ascending &= previous == u64::MAX || address >= previous;
            places += u64::from(address != previous);
            sectors += u64::from(address >> 5 != previous >> 5 || previous == u64::MAX);
            previous = address;
        }
        if !ascending {
            let mut sorted: [u64; WARP] = [u64::MAX; WARP];
            lanes_of(run).for_each(|lane| sorted[lane] = addresses[lane]);
            sorted.sort_unstable();
            let sorted = &sorted[..run.count_ones() as usize];
            places = sorted.chunk_by(|a, b| a == b).count() as u64;
            sectors = sorted.chunk_by(|a, b| a >> 5 == b >> 5).count() as u64;
        }
        traffic.bytes += places * bytes;
        traffic.moved += sectors;
        traffic.fewest += (places * bytes).div_ceil(32);
    }

    /// An access to shared memory by the lanes of `run`.
    #[inline(always)]
    pub fn shared_access(&mut self, addresses: &[u64; WARP], bytes: usize, run: u32) {
        self.shared.accesses += 1;
        let lanes = match bytes {
            0..=4 => 32,
            8 => 16,
            _ => 8,
        };
        for first in (0..WARP).step_by(lanes) {
            let group = run >> first & (u32::MAX >> (32 - lanes));
            if group != 0 {
                self.wavefronts(&addresses[first..first + lanes], bytes, group);
            }
        }
    }

    /// The eight rows of one matrix of `ldmatrix` or `stmatrix`.
    pub fn shared_rows(&mut self, addresses: &[u64]) {
        self.shared.accesses += 1;
        self.wavefronts(addresses, 16, 0xff);
    }

    /// The wavefronts of one group of lanes.
    #[inline(always)]
    fn wavefronts(&mut self, addresses: &[u64], bytes: usize, group: u32) {
        // Often every lane has banks of its own, or all want the same word.
        let width = bytes.div_ceil(4).max(1) as u32;
        let mut taken = 0u32;
        let mut clash = false;
        for lane in lanes_of(group) {
            let banks = (u32::MAX >> (32 - width.min(32))).rotate_left((addresses[lane] >> 2) as u32 & 31);
            clash |= taken & banks != 0;
            taken |= banks;
        }
        if !clash {
            self.shared.bytes += u64::from(group.count_ones()) * bytes as u64;
            self.shared.moved += 1;
            self.shared.fewest += 1;
            return;
        }
        self.conflicts(addresses, bytes, group);
    }

    #[inline(never)]
    fn conflicts(&mut self, addresses: &[u64], bytes: usize, group: u32) {
        let mut starts: Vec<u64> = lanes_of(group).map(|lane| addresses[lane]).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut words: Vec<u64> =
            starts.iter().flat_map(|start| (start >> 2)..=(start + bytes as u64 - 1) >> 2).collect();
        words.dedup();
        let mut banks = [0u64; 32];
        words.iter().for_each(|word| banks[(word & 31) as usize] += 1);
        self.shared.bytes += (starts.len() * bytes) as u64;
        self.shared.moved += banks.iter().max().copied().unwrap_or(0);
        self.shared.fewest += (words.len() as u64).div_ceil(32);
    }

    pub fn add(&mut self, other: &Self) {
        for ((issued, lanes), (more, more_lanes)) in self.insts.iter_mut().zip(&other.insts) {
            *issued += more;
            *lanes += more_lanes;
        }
        self.steps += other.steps;
        self.divergent_branches += other.divergent_branches;
        self.loads.add(&other.loads);
        self.stores.add(&other.stores);
        self.shared.add(&other.shared);
    }
}

/// How often instructions of a kind ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Once for every warp.
    pub warps: u64,
    /// Once for every lane.
    pub lanes: u64,
}

/// Tensor-core instructions of one shape and type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TensorCount {
    /// Warp instructions.
    pub instructions: u64,
    /// Two for each multiplication and addition.
    pub flops: u64,
}

/// How the launch sits on a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Static and dynamic, in bytes.
    pub shared_bytes: u32,
}

/// What one launch did.
#[derive(Clone, Debug, PartialEq)]
pub struct Counters {
    /// The entry point's name.
    pub kernel: String,
    /// Its grid, blocks and shared memory.
    pub shape: Shape,
    /// Instructions by kind.
    pub kinds: BTreeMap<Kind, Count>,
    /// By name: `m16n8k16 bf16`.
    pub tensor: BTreeMap<String, TensorCount>,
    /// Branches, predicated ones and loops' included.
    pub branches: Count,
    /// Those of them after which the lanes of a warp go two ways.
    pub divergent_branches: u64,
    /// Sectors of 32 bytes.
    pub global_loads: Traffic,
    /// Sectors of 32 bytes.
    pub global_stores: Traffic,
    /// Wavefronts.
    pub shared: Traffic,
    /// By source line (file, line): how often its instructions ran. What was inlined from another file, such as a function
    /// of a header, counts for the line of the kernel's own file that called it. Where the line is not known, the file is empty and the line 0.
    pub lines: BTreeMap<(String, u32), Count>,
}

impl Counters {
    pub(super) fn new(launch: &Launch, tally: &Tally) -> Self {
        let program: &Program = launch.program;
        let mut counters = Self {
            kernel: program.name.clone(),
            shape: Shape { grid: launch.grid, block: launch.block, shared_bytes: launch.shared_bytes() },
            kinds: BTreeMap::new(),
            tensor: BTreeMap::new(),
            branches: Count::default(),
            divergent_branches: tally.divergent_branches,
            global_loads: tally.loads,
            global_stores: tally.stores,
            shared: tally.shared,
            lines: BTreeMap::new(),
        };
        for (inst, &(warps, lanes)) in program.insts.iter().zip(&tally.insts) {
            let Some(kind) = inst.kind else { continue };
            if warps == 0 {
                continue;
            }
            let add = |count: &mut Count| {
                count.warps += warps;
                count.lanes += lanes;
            };
            add(counters.kinds.entry(kind).or_default());
            let loc = program.places[inst.place as usize].loc;
            let own = launch.sources.own(loc).map(|source| (source.file, source.line)).unwrap_or_default();
            add(counters.lines.entry(own).or_default());
            let mut multiply = |name: &str, products: usize| {
                let count = counters.tensor.entry(name.to_owned()).or_default();
                let instructions = lanes / WARP as u64;
                count.instructions += instructions;
                count.flops += instructions * 2 * products as u64;
            };
            match &inst.code {
                Code::Branch { .. } | Code::BranchTable(_) => add(&mut counters.branches),
                Code::Mma(tensor) => multiply(&tensor.name, tensor.mma.products()),
                Code::MmaF64 => multiply("m8n8k4 f64", 8 * 8 * 4),
                _ => {}
            }
        }
        counters
    }

    /// Instructions of a kind.
    pub fn kind(&self, kind: Kind) -> Count {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// All instructions.
    pub fn total(&self) -> Count {
        self.kinds.values().fold(Count::default(), |sum, count| Count {
            warps: sum.warps + count.warps,
            lanes: sum.lanes + count.lanes,
        })
    }

    /// Floating-point operations of the tensor cores, all shapes together.
    pub fn tensor_flops(&self) -> u64 {
        self.tensor.values().map(|count| count.flops).sum()
    }

    /// Blocks and warps that a multiprocessor holds at a time, for so many registers a thread.
    pub fn occupancy(&self, limits: &Limits, registers: u32) -> Occupancy {
        limits.occupancy(self.shape.block.iter().product(), registers, self.shape.shared_bytes)
    }
}

/// What a multiprocessor has to give (CUDA C++ Programming Guide, table of technical specifications per compute
/// capability).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Resident warps.
    pub warps: u32,
    /// Resident blocks.
    pub blocks: u32,
    /// 32-bit registers.
    pub registers: u32,
    /// Bytes for all blocks together; each block takes 1 KiB more than it asks for from compute capability 8.0 on.
    pub shared_bytes: u32,
    /// What each block takes besides, in bytes.
    pub reserved_shared: u32,
}

/// What kernels are compiled for, by NVIDIA's name: compute capability 8.6 is `Sm86`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Architecture {
    /// Turing: T4, RTX 20.
    Sm75,
    /// Ampere: A100.
    #[default]
    Sm80,
    /// Ampere: A10, RTX 30.
    Sm86,
    /// Ada: L4, L40, RTX 40.
    Sm89,
    /// Hopper: H100, H200.
    Sm90,
    /// Blackwell: RTX 50.
    Sm120,
}

impl Architecture {
    /// All that there are.
    pub const ALL: [Architecture; 6] = {
        use Architecture::*;
        [Sm75, Sm80, Sm86, Sm89, Sm90, Sm120]
    };

    /// Major and minor.
    pub fn compute_capability(self) -> (u32, u32) {
        match self {
            Architecture::Sm75 => (7, 5),
            Architecture::Sm80 => (8, 0),
            Architecture::Sm86 => (8, 6),
            Architecture::Sm89 => (8, 9),
            Architecture::Sm90 => (9, 0),
            Architecture::Sm120 => (12, 0),
        }
    }

    /// What a multiprocessor has.
    pub fn limits(self) -> Limits {
        let (warps, blocks, shared_kib) = match self {
            Architecture::Sm75 => (32, 16, 64),
            Architecture::Sm80 => (64, 32, 164),
            Architecture::Sm86 => (48, 16, 100),
            Architecture::Sm89 => (48, 24, 100),
            Architecture::Sm90 => (64, 32, 228),
            Architecture::Sm120 => (48, 24, 100),
        };
        let reserved_shared = if self == Architecture::Sm75 { 0 } else { 1024 };
        Limits { warps, blocks, registers: 65536, shared_bytes: shared_kib * 1024, reserved_shared }
    }
}

impl Limits {
    /// Bytes of shared memory that one block may have.
    pub fn shared_per_block(&self) -> u32 {
        self.shared_bytes - self.reserved_shared
    }

    /// How many blocks of this kind a multiprocessor holds.
    pub fn occupancy(&self, threads: u32, registers: u32, shared_bytes: u32) -> Occupancy {
        let warps = threads.div_ceil(32).max(1);
        // Registers come in pieces of 256 a warp, shared memory in pieces of 128 bytes.
        let per_warp = (registers.max(1) * 32).next_multiple_of(256);
        // Warps sit on four partitions, and each partition has a fourth of the registers.
        let by_registers = (self.registers / 4 / per_warp * 4) / warps;
        let shared = (shared_bytes + self.reserved_shared).next_multiple_of(128);
        let by_shared = self.shared_bytes.checked_div(shared).unwrap_or(u32::MAX);
        let candidates = [
            (self.warps / warps, Limit::Warps),
            (self.blocks, Limit::Blocks),
            (by_registers, Limit::Registers),
            (by_shared, Limit::Shared),
        ];
        let (blocks, limit) =
            candidates.into_iter().min_by_key(|(blocks, _)| *blocks).unwrap_or((0, Limit::Warps));
        Occupancy { blocks, warps: blocks * warps, of_warps: self.warps, limit }
    }
}

/// What keeps more blocks from a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// There is no room for another block's warps.
    Warps,
    /// There are as many blocks as there may be.
    Blocks,
    /// The registers are taken.
    Registers,
    /// The shared memory is taken.
    Shared,
}

/// Blocks and warps resident on a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Resident blocks.
    pub blocks: u32,
    /// Resident warps.
    pub warps: u32,
    /// As many as there could be.
    pub of_warps: u32,
    /// What keeps more from it.
    pub limit: Limit,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let triple = |[x, y, z]: [u32; 3]| format!("{x} x {y} x {z}");
        let Shape { grid, block, shared_bytes } = self.shape;
        writeln!(
            f,
            "{}: grid {}, block {}, {shared_bytes} B shared",
            self.kernel,
            triple(grid),
            triple(block)
        )?;
        writeln!(f, "  {:<24}{:>16}{:>16}", "instructions", "warps", "lanes")?;
        let row = |f: &mut fmt::Formatter, name: &str, count: Count| {
            writeln!(f, "    {name:<22}{:>16}{:>16}", count.warps, count.lanes)
        };
        for (kind, count) in &self.kinds {
            row(f, kind.name(), *count)?;
        }
        row(f, "all", self.total())?;
        writeln!(f, "  {:<24}{:>16}{:>16}", "branches", self.branches.warps, "")?;
        writeln!(f, "    {:<22}{:>16}{:>16}", "divergent", self.divergent_branches, "")?;
        if !self.tensor.is_empty() {
            writeln!(f, "  {:<24}{:>16}{:>16}", "tensor cores", "instructions", "flops")?;
            for (name, count) in &self.tensor {
                writeln!(f, "    {name:<22}{:>16}{:>16}", count.instructions, count.flops)?;
            }
        }
        writeln!(f, "  {:<24}{:>16}{:>16}{:>16}", "memory", "bytes", "moved", "fewest")?;
        for (name, traffic) in [
            ("global loads, sectors", self.global_loads),
            ("global stores, sectors", self.global_stores),
            ("shared, wavefronts", self.shared),
        ] {
            writeln!(f, "    {name:<22}{:>16}{:>16}{:>16}", traffic.bytes, traffic.moved, traffic.fewest)?;
        }
        Ok(())
    }
}
