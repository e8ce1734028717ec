//! The order of a kernel's basic blocks, and the registers that its values share.
//!
//! A warp runs the fragment of its lanes with the lowest program counter, so lanes that took different ways meet again
//! where those ways do only if that place comes after them all. [`order`] lays the blocks out so: every block after its
//! predecessors, loops in one piece and before whatever follows them.
//!
//! NVRTC writes almost every value into a register of its own. [`assign`] lets values share registers when they are not
//! alive at the same time, so that a warp's registers stay in the cache. Lanes that wait elsewhere do not mind: each lane
//! walks the same graph, and a masked write leaves the others' values alone.

use super::program::{Class, Code, Inst, Program, Slot};

/// Orders the blocks of a freshly decoded program and assigns its registers.
pub fn arrange(program: &mut Program) {
    let graph = Graph::new(&program.insts);
    let layout = order(&graph);
    relocate(program, &graph, &layout);
    assign(program);
}

/// Basic blocks: ranges of instructions and their successors.
struct Graph {
    starts: Vec<usize>,
    ends: Vec<usize>,
    successors: Vec<Vec<usize>>,
}

fn targets(inst: &Inst) -> &[u32] {
    match &inst.code {
        Code::Branch { target } => std::slice::from_ref(target),
        Code::BranchTable(targets) => targets,
        _ => &[],
    }
}

impl Graph {
    fn new(insts: &[Inst]) -> Self {
        let mut leader = vec![false; insts.len() + 1];
        leader[0] = true;
        for (at, inst) in insts.iter().enumerate() {
            targets(inst).iter().for_each(|&target| leader[target as usize] = true);
            leader[at + 1] |= inst.code.ends_block();
        }
        let starts: Vec<usize> = (0..insts.len()).filter(|&at| leader[at]).collect();
        let ends: Vec<usize> = starts.iter().skip(1).copied().chain([insts.len()]).collect();
        let block_of = |at: u32| starts.partition_point(|&start| start <= at as usize) - 1;
        let successors = ends
            .iter()
            .enumerate()
            .map(|(block, &end)| {
                let last = &insts[end - 1];
                let falls = !last.code.ends_block() || last.guard.is_some();
                let mut all: Vec<usize> = targets(last).iter().map(|&target| block_of(target)).collect();
                if falls && block + 1 < starts.len() {
                    all.push(block + 1);
                }
                all.sort_unstable();
                all.dedup();
                all
            })
            .collect();
        Self { starts, ends, successors }
    }

    fn len(&self) -> usize {
        self.starts.len()
    }

    /// Blocks that can be reached, in reverse postorder.
    fn reachable(&self) -> Vec<usize> {
        let mut postorder = Vec::new();
        let mut seen = vec![false; self.len()];
        let mut stack = vec![(0, 0)];
        seen[0] = true;
        while let Some((block, next)) = stack.last_mut() {
            match self.successors[*block].get(*next) {
                Some(&successor) => {
                    *next += 1;
                    if !seen[successor] {
                        seen[successor] = true;
                        stack.push((successor, 0));
                    }
                }
                None => {
                    postorder.push(*block);
                    stack.pop();
                }
            }
        }
        postorder.reverse();
        postorder
    }

    fn predecessors(&self, reachable: &[usize]) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new(); self.len()];
        for &block in reachable {
            self.successors[block].iter().for_each(|&successor| all[successor].push(block));
        }
        all
    }
}

/// Immediate dominators (Cooper, Harvey and Kennedy, 2001); of unreachable blocks and the first, the block itself.
fn dominators(graph: &Graph, reachable: &[usize], predecessors: &[Vec<usize>]) -> Vec<usize> {
    let mut number = vec![usize::MAX; graph.len()];
    reachable.iter().enumerate().for_each(|(i, &block)| number[block] = i);
    let mut dominator: Vec<Option<usize>> = vec![None; graph.len()];
    dominator[0] = Some(0);
    let mut changed = true;
    while changed {
        changed = false;
        for &block in &reachable[1..] {
            let mut known = predecessors[block].iter().copied().filter(|&p| dominator[p].is_some());
            let Some(first) = known.next() else { continue };
            let found = known.fold(first, |mut a, mut b| {
                while a != b {
                    let later = if number[a] > number[b] { &mut a } else { &mut b };
                    *later = dominator[*later].unwrap_or(0);
                }
                a
            });
            changed |= dominator[block] != Some(found);
            dominator[block] = Some(found);
        }
    }
    dominator.iter().enumerate().map(|(block, dominator)| dominator.unwrap_or(block)).collect()
}

/// The bodies of the natural loops, one for each header.
fn loops(
    graph: &Graph,
    predecessors: &[Vec<usize>],
    dominator: &[usize],
    reachable: &[usize],
) -> Vec<Vec<bool>> {
    let dominates = |a: usize, mut b: usize| {
        while b != a && dominator[b] != b {
            b = dominator[b];
        }
        a == b
    };
    let mut all = Vec::new();
    for &header in reachable {
        let mut body = vec![false; graph.len()];
        let mut stack: Vec<usize> =
            predecessors[header].iter().copied().filter(|&p| dominates(header, p)).collect();
        if stack.is_empty() {
            continue;
        }
        body[header] = true;
        while let Some(block) = stack.pop() {
            if !std::mem::replace(&mut body[block], true) {
                stack.extend(&predecessors[block]);
            }
        }
        all.push(body);
    }
    all
}

/// The blocks in the order in which they are laid out: topological but for the loops' back edges, each loop in one piece
/// and before the blocks that it leaves for.
fn order(graph: &Graph) -> Vec<usize> {
    let reachable = graph.reachable();
    let predecessors = graph.predecessors(&reachable);
    let dominator = dominators(graph, &reachable, &predecessors);
    let loops = loops(graph, &predecessors, &dominator, &reachable);
    let is_back = |from: usize, to: usize| {
        let mut at = from;
        while at != to && dominator[at] != at {
            at = dominator[at];
        }
        at == to
    };
    // before[b]: the blocks that must precede b.
    let mut waiting = vec![0usize; graph.len()];
    let mut after = vec![Vec::new(); graph.len()];
    let mut require = |first: usize, second: usize| {
        after[first].push(second);
        waiting[second] += 1;
    };
    for &block in &reachable {
        for &successor in &graph.successors[block] {
            if !is_back(block, successor) {
                require(block, successor);
            }
        }
    }
    for body in &loops {
        let mut exits: Vec<usize> = (0..graph.len())
            .filter(|&block| body[block])
            .flat_map(|block| graph.successors[block].iter().copied())
            .filter(|&to| !body[to])
            .collect();
        exits.sort_unstable();
        exits.dedup();
        for exit in exits {
            // An exit to the header of an enclosing loop goes back, not on.
            let goes_back =
                (0..graph.len()).any(|b| body[b] && graph.successors[b].contains(&exit) && is_back(b, exit));
            if !goes_back {
                (0..graph.len()).filter(|&block| body[block]).for_each(|block| require(block, exit));
            }
        }
    }
    let mut ready = vec![0];
    let mut placed = vec![false; graph.len()];
    let mut layout: Vec<usize> = Vec::with_capacity(reachable.len());
    while !ready.is_empty() {
        let last = layout.last().copied();
        let together = |block: usize| {
            last.map_or(0, |last| loops.iter().filter(|body| body[last] && body[block]).count())
        };
        let best =
            (0..ready.len()).max_by_key(|&i| (together(ready[i]), std::cmp::Reverse(ready[i]))).unwrap_or(0);
        let block = ready.swap_remove(best);
        placed[block] = true;
        layout.push(block);
        for &next in &after[block] {
            waiting[next] -= 1;
            if waiting[next] == 0 && !placed[next] {
                ready.push(next);
            }
        }
    }
    // Blocks of irreducible loops wait for each other: they stay in the order of the text.
    let mut rest: Vec<usize> = reachable.iter().copied().filter(|&block| !placed[block]).collect();
    rest.sort_unstable();
    layout.extend(rest);
    layout
}

/// Moves the blocks to their places and makes the jumps right again.
fn relocate(program: &mut Program, graph: &Graph, layout: &[usize]) {
    let mut moved = Vec::with_capacity(program.insts.len());
    let mut start_of = vec![0u32; graph.len()];
    for (i, &block) in layout.iter().enumerate() {
        start_of[block] = moved.len() as u32;
        moved.extend_from_slice(&program.insts[graph.starts[block]..graph.ends[block]]);
        let Some(last) = moved.last() else { continue };
        let falls = !last.code.ends_block() || last.guard.is_some();
        let place = last.place;
        if falls && layout.get(i + 1) != Some(&(block + 1)) {
            // Not an instruction of the PTX text: it does not count. Targets are old places until below.
            let target = graph.ends[block] as u32;
            let code = Code::Branch { target };
            moved.push(Inst { code, guard: None, first: 0, dsts: 0, srcs: 0, kind: None, place });
        }
    }
    let new_place = |old: u32| start_of[graph.starts.partition_point(|&start| start <= old as usize) - 1];
    for inst in &mut moved {
        match &mut inst.code {
            Code::Branch { target } => *target = new_place(*target),
            Code::BranchTable(targets) => targets.iter_mut().for_each(|target| *target = new_place(*target)),
            _ => {}
        }
    }
    program.insts = moved;
}

/// A set of virtual registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn remove(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    fn union(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(word, &bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| 64 * word + bit)
        })
    }
}

fn written<'a>(inst: &Inst, slots: &'a [Slot]) -> impl Iterator<Item = usize> + use<'a> {
    let first = inst.first as usize;
    slots[first..first + usize::from(inst.dsts)].iter().map(|slot| slot.index())
}

fn read<'a>(inst: &Inst, slots: &'a [Slot]) -> impl Iterator<Item = usize> + use<'a> {
    let first = inst.first as usize + usize::from(inst.dsts);
    let operands = slots[first..first + usize::from(inst.srcs)].iter().copied();
    operands.chain(inst.guard.map(|(slot, _)| slot)).filter(|slot| !slot.is_constant()).map(Slot::index)
}

/// Gives every virtual register a place in the warp's register file.
fn assign(program: &mut Program) {
    let insts = &program.insts;
    let slots = &program.slots;
    let guards = insts.iter().filter_map(|inst| inst.guard.map(|(slot, _)| slot));
    let all = slots.iter().copied().chain(guards).filter(|slot| !slot.is_constant());
    let count = all.clone().map(|slot| slot.index() + 1).max().unwrap_or(0);
    let mut class = vec![Class::Word; count];
    all.for_each(|slot| class[slot.index()] = slot.class());

    // What is alive where each block begins, until nothing changes.
    let graph = Graph::new(insts);
    let mut alive = vec![Set::new(count); graph.len()];
    let live_out = |alive: &[Set], block: usize| {
        let mut out = Set::new(count);
        graph.successors[block].iter().for_each(|&successor| out.union(&alive[successor]));
        out
    };
    let step = |inst: &Inst, live: &mut Set| {
        if inst.guard.is_none() {
            written(inst, slots).for_each(|index| live.remove(index));
        }
        read(inst, slots).for_each(|index| live.insert(index));
    };
    let mut changed = true;
    while changed {
        changed = false;
        for block in (0..graph.len()).rev() {
            let mut live = live_out(&alive, block);
            insts[graph.starts[block]..graph.ends[block]].iter().rev().for_each(|inst| step(inst, &mut live));
            if live != alive[block] {
                alive[block] = live;
                changed = true;
            }
        }
    }

    // One interval for each register: instruction i reads at 2 i and writes at 2 i + 1.
    let mut interval = vec![(usize::MAX, 0); count];
    let extend = |interval: &mut Vec<(usize, usize)>, index: usize, at: usize| {
        let (start, end) = &mut interval[index];
        (*start, *end) = ((*start).min(at), (*end).max(at));
    };
    for block in 0..graph.len() {
        alive[block].iter().for_each(|index| extend(&mut interval, index, 2 * graph.starts[block]));
        live_out(&alive, block).iter().for_each(|index| extend(&mut interval, index, 2 * graph.ends[block]));
        let (start, end) = (graph.starts[block], graph.ends[block]);
        for (at, inst) in (start..end).zip(&insts[start..end]) {
            read(inst, slots).for_each(|index| extend(&mut interval, index, 2 * at));
            written(inst, slots).for_each(|index| extend(&mut interval, index, 2 * at + 1));
        }
    }
    let mut by_start: Vec<usize> = (0..count).filter(|&index| interval[index].0 != usize::MAX).collect();
    by_start.sort_unstable_by_key(|&index| interval[index]);
    let mut place = vec![0u32; count];
    let mut used: [Vec<usize>; 3] = Default::default();
    for index in by_start {
        let (start, end) = interval[index];
        // `used[class][slot]` is where its last value so far dies.
        let ends = &mut used[class[index] as usize];
        let free = ends.iter().position(|&end| end < start).unwrap_or(ends.len());
        if free == ends.len() {
            ends.push(end);
        } else {
            ends[free] = end;
        }
        place[index] = free as u32;
    }
    program.registers = used.map(|ends| ends.len());
    let resolve = |slot: &mut Slot| {
        if !slot.is_constant() {
            *slot = Slot::register(slot.class(), place[slot.index()]);
        }
    };
    program.slots.iter_mut().for_each(resolve);
    program.insts.iter_mut().filter_map(|inst| inst.guard.as_mut()).for_each(|(slot, _)| resolve(slot));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of these edges, block 0 first.
    fn graph(successors: &[&[usize]]) -> Graph {
        let starts: Vec<usize> = (0..successors.len()).collect();
        let ends = starts.iter().map(|start| start + 1).collect();
        Graph { starts, ends, successors: successors.iter().map(|list| list.to_vec()).collect() }
    }

    #[test]
    fn a_join_comes_after_both_branches() {
        // 0 -> 2, 3; both -> 1, which is first in the text.
        assert_eq!(order(&graph(&[&[2, 3], &[], &[1], &[1]])), [0, 2, 3, 1]);
    }

    #[test]
    fn a_loop_comes_before_its_exit() {
        // 0 -> 1; 1 (header) -> 2, 3; 2 (exit); 3 -> 4; 4 -> 1, 2.
        assert_eq!(order(&graph(&[&[1], &[2, 3], &[], &[4], &[1, 2]])), [0, 1, 3, 4, 2]);
    }

    #[test]
    fn nested_loops_stay_together() {
        // 1 is the outer header, 3 the inner loop on itself, 5 its latch, 2 what follows the outer loop.
        let layout = order(&graph(&[&[1], &[2, 3], &[4], &[3, 5], &[], &[1]]));
        assert_eq!(layout, [0, 1, 3, 5, 2, 4]);
    }

    #[test]
    fn irreducible_loops_and_dead_blocks() {
        // 1 and 2 jump into each other; 3 is never reached.
        let layout = order(&graph(&[&[1, 2], &[2], &[1], &[1]]));
        assert_eq!(layout.len(), 3);
        assert_eq!(layout[0], 0);
    }
}
