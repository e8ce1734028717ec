//! A launch: blocks on the host's threads, and what is left of it.
//!
//! Blocks are taken in ascending order, and if one fails, those below it still run to their ends. So the fault that is
//! reported is that of the lowest block, whatever the number of threads; a race between two blocks is the fault of the
//! later one. Counters are sums, and printed text is put in the
//! order of the blocks.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::count::{Counters, Tally};
use super::exec::{Block, Fault, Launch};

/// What a launch leaves, besides memory.
pub struct Outcome {
    pub counters: Counters,
    pub printed: String,
    pub fault: Option<Fault>,
}

/// Runs all blocks of a launch.
pub fn run(launch: &Launch, threads: usize) -> Outcome {
    let blocks: u64 = launch.grid.iter().map(|&extent| u64::from(extent)).product();
    let threads = if launch.program.ordered { 1 } else { threads.min(blocks as usize) };
    let next = AtomicU64::new(0);
    // Blocks from this one on need not run.
    let stop = AtomicU64::new(blocks);
    let faults = Mutex::new(Vec::new());
    let printed = Mutex::new(Vec::new());
    let work = || {
        let mut block = Block::new(launch);
        loop {
            let index = next.fetch_add(1, Relaxed);
            if index >= stop.load(Relaxed) {
                return block.tally;
            }
            let result = block.run(index);
            let text = std::mem::take(&mut block.printed);
            if !text.is_empty() {
                printed.lock().push((index, text));
            }
            let own = result.err().map(|fault| (index, fault));
            for (index, fault) in own.into_iter().chain(block.later.take()) {
                stop.fetch_min(index, Relaxed);
                faults.lock().push((index, fault));
            }
        }
    };
    let tallies: Vec<Tally> = if threads <= 1 {
        vec![work()]
    } else {
        (0..threads).into_par_iter().with_max_len(1).map(|_| work()).collect()
    };
    let mut tally = Tally::new(launch.program.insts.len());
    tallies.iter().for_each(|other| tally.add(other));
    let first = faults.into_inner().into_iter().min_by_key(|(index, _)| *index);
    let mut printed = printed.into_inner();
    printed.sort_by_key(|(index, _)| *index);
    let last = first.as_ref().map_or(u64::MAX, |(index, _)| *index);
    let texts = printed.into_iter().filter(|(index, _)| *index <= last).map(|(_, text)| text);
    Outcome {
        counters: Counters::new(launch, &tally),
        printed: texts.collect(),
        fault: first.map(|(_, fault)| fault),
    }
}
