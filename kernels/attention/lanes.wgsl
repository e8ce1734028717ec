// How the rows that are visited come to those that need them, for software adapters: those load any memory lane by lane,
// workgroup memory as well, and that is what costs. So each lane loads another quad of a step, once, and hands it round.
//
// Needs subgroups of at least LANES; further lanes of wider ones load the same again and nobody asks them. SPLIT must be
// 1, and QUADS a multiple of LANES / STEP.

const LANES: u32 = 8u;
const TOGETHER: u32 = LANES / STEP; // quads of a row that are loaded at a time

// There is no tile. But dropout's bits are shared.
fn load_tile(first: u32, lid: u32) {}

fn turn_tile(first: u32, lid: u32) {}

fn tile_ready() {
    if (DROPOUT) {
        workgroupBarrier();
    }
}

// This invocation's place among the LANES that share their reading.
fn reader(lid: u32) -> u32 {
    return subgroupExclusiveAdd(1u) % LANES;
}

// STEP rows, as one invocation has them: [quads that are loaded together], of which it has one.
alias Step = array<vec4<f32>, QUADS / TOGETHER>;
alias Stats = vec2<f32>;

// The row that this invocation reads. What is beyond the last counts for nothing, so that it may be that.
fn own_row(first: u32, row: u32, reader: u32) -> u32 {
    return min(first + row + reader % STEP, visited_rows() - 1u);
}

// The rows from the `row`th after `first` on, of the first matrix and of the second.
fn step_a(first: u32, row: u32, reader: u32) -> Step {
    var step: Step;
    for (var n = 0u; n < QUADS / TOGETHER; n++) {
        step[n] = read_a(own_row(first, row, reader), n * TOGETHER + reader / STEP);
    }
    return step;
}

fn step_b(first: u32, row: u32, reader: u32) -> Step {
    var step: Step;
    for (var n = 0u; n < QUADS / TOGETHER; n++) {
        step[n] = read_b(own_row(first, row, reader), n * TOGETHER + reader / STEP);
    }
    return step;
}

fn step_stats(first: u32, row: u32, reader: u32) -> Stats {
    return read_stats(own_row(first, row, reader));
}

// The cth quad of row i of the step.
fn pick(step: ptr<function, Step>, c: u32, i: u32) -> vec4<f32> {
    return subgroupShuffle((*step)[c / TOGETHER], c % TOGETHER * STEP + i);
}

fn pick_stats(stats: ptr<function, Stats>, i: u32) -> vec2<f32> {
    return subgroupShuffle(*stats, i);
}

// sum + dot(x, y), with few additions that wait for one another: there are no multiply-adds here.
fn with_dot(sum: f32, x: vec4<f32>, y: vec4<f32>) -> f32 {
    return sum + ((x.x * y.x + x.y * y.y) + (x.z * y.z + x.w * y.w));
}

// Owned rows are read and written a round of a few quads at a time, as a load or a store is much code, and takes the time
// to compile it. Each round touches all quads and changes its own: nothing that a variable indexes stays in registers.
const ROUND: u32 = 2u;
alias Round = array<vec4<f32>, ROUND>;

// The quads of row r from `round` on become these.
fn put(rows: ptr<private, Rows>, r: u32, round: u32, quads: ptr<function, Round>) {
    for (var c = 0u; c < QUADS; c++) {
        (*rows)[r][c] = select((*rows)[r][c], (*quads)[c % ROUND], c / ROUND == round / ROUND);
    }
}

// The quads of row r from `round` on.
fn take(rows: ptr<private, Rows>, r: u32, round: u32) -> Round {
    var quads: Round;
    for (var c = 0u; c < QUADS; c++) {
        quads[c % ROUND] = select(quads[c % ROUND], (*rows)[r][c], c / ROUND == round / ROUND);
    }
    return quads;
}
