// How the rows that are visited come to those that need them: through workgroup memory, which GPUs broadcast from as all
// teams read the same quads. lanes.wgsl is the other way.
//
// A tile lies there as [matrix][quad][row]. One quad of padding keeps a team's members, which read different quads of
// the same row, in different banks. Where the matrices come apart, the second takes the place of the first.

const LINE: u32 = D / 4u; // quads of a row
const STRIDE: u32 = TILE + 1u;
const MATRIX: u32 = LINE * STRIDE;
const SECOND: u32 = select(MATRIX, 0u, APART);

var<workgroup> tile: array<vec4<f32>, SECOND + MATRIX>;
var<workgroup> tile_stats: array<vec2<f32>, select(2u, TILE, HAS_STATS)>;

// Loads rows from `first` on: of both matrices, or of the one whose turn it is.
fn load(first: u32, second: bool, lid: u32) {
    for (var n = lid; n < TILE * LINE; n += BLOCK) {
        // What is beyond the last row counts for nothing, so that it may be that.
        let row = min(first + n / LINE, visited_rows() - 1u);
        let quad = n % LINE;
        let at = quad * STRIDE + n / LINE;
        if (!APART || !second) {
            tile[at] = read_a(row, quad);
        }
        if (!APART || second) {
            tile[SECOND + at] = read_b(row, quad);
        }
    }
}

// Loads the tile of rows from `first` on, for which the last one is given up. Until tile_ready() nobody may read it.
fn load_tile(first: u32, lid: u32) {
    workgroupBarrier();
    load(first, false, lid);
    if (HAS_STATS) {
        for (var n = lid; n < TILE; n += BLOCK) {
            tile_stats[n] = read_stats(min(first + n, visited_rows() - 1u));
        }
    }
}

// Loads the second matrix, if it comes apart. A barrier must come before, after the first was read, and one after.
fn turn_tile(first: u32, lid: u32) {
    if (APART) {
        load(first, true, lid);
    }
}

fn tile_ready() {
    workgroupBarrier();
}

// Which part of each row this invocation reads: that of this member of the team.
fn reader(lid: u32) -> u32 {
    return lid % SPLIT;
}

// STEP rows of the tile, as one invocation has them: here, where its first quad of them lies, and its last. Some members
// have no last one where D / 4 is no multiple of SPLIT. Theirs is the row's, which counts for nothing: what they own has
// zeros there.
alias Step = vec2<u32>;
const UNEVEN: bool = QUADS * SPLIT > LINE;
alias Stats = u32;

// The `row`th of the tile, but seen to be small by a compiler, which then puts offsets from it into instructions.
fn in_tile(row: u32) -> u32 {
    return row % TILE;
}

// The rows from the `row`th of the tile from `first` on, of the first matrix and of the second.
fn step_a(first: u32, row: u32, reader: u32) -> Step {
    let last = min((QUADS - 1u) * SPLIT + reader, LINE - 1u);
    return vec2(reader, last) * STRIDE + in_tile(row);
}

fn step_b(first: u32, row: u32, reader: u32) -> Step {
    return SECOND + step_a(first, row, reader);
}

fn step_stats(first: u32, row: u32, reader: u32) -> Stats {
    return in_tile(row);
}

// The cth quad that is this invocation's, of row i of the step.
fn pick(step: ptr<function, Step>, c: u32, i: u32) -> vec4<f32> {
    let quad = select((*step).x + c * SPLIT * STRIDE, (*step).y, UNEVEN && c == QUADS - 1u);
    return tile[quad + i];
}

fn pick_stats(stats: ptr<function, Stats>, i: u32) -> vec2<f32> {
    return tile_stats[*stats + i];
}

// sum + dot(x, y). Every product is added to the sum at once, as a GPU does in one instruction; of a dot product on its
// own the first is multiplied, and the sum of the four then added.
fn with_dot(sum: f32, x: vec4<f32>, y: vec4<f32>) -> f32 {
    return sum + x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
}

// Owned rows are read and written a round of quads at a time: all of a row.
const ROUND: u32 = QUADS;
alias Round = array<vec4<f32>, ROUND>;

// The quads of row r from `round` on become these.
fn put(rows: ptr<private, Rows>, r: u32, round: u32, quads: ptr<function, Round>) {
    (*rows)[r] = *quads;
}

// The quads of row r from `round` on.
fn take(rows: ptr<private, Rows>, r: u32, round: u32) -> Round {
    return (*rows)[r];
}
