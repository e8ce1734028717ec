// How the rows that are visited come to those that need them: through workgroup memory, which GPUs broadcast from as all
// teams read the same quads. lanes.wgsl is the other way.
//
// A tile lies there as [matrix][quad][row]. One quad of padding keeps a team's members, which read different quads of
// the same row, in different banks.

const LINE: u32 = QUADS * SPLIT; // quads of a row; those beyond D / 4 are zeros
const STRIDE: u32 = TILE + 1u;
const MATRIX: u32 = LINE * STRIDE;

var<workgroup> tile: array<vec4<f32>, 2u * MATRIX>;
var<workgroup> tile_stats: array<vec2<f32>, select(1u, TILE, HAS_STATS)>;

// Loads the tile of rows from `first` on, for which the last one is given up. Until tile_ready() nobody may read it.
fn load_tile(first: u32, lid: u32) {
    workgroupBarrier();
    for (var n = lid; n < TILE * LINE; n += BLOCK) {
        let row = first + n / LINE;
        let quad = n % LINE;
        // Zeros beyond the last row: workgroup memory may hold NaN, and 0 * NaN is NaN.
        var a = vec4<f32>();
        var b = vec4<f32>();
        if (row < visited_rows() && quad < D / 4u) {
            a = read_a(row, quad);
            b = read_b(row, quad);
        }
        let at = quad * STRIDE + n / LINE;
        tile[at] = a;
        tile[MATRIX + at] = b;
    }
    if (HAS_STATS) {
        for (var n = lid; n < TILE; n += BLOCK) {
            var stats = vec2<f32>();
            if (first + n < visited_rows()) {
                stats = read_stats(first + n);
            }
            tile_stats[n] = stats;
        }
    }
}

fn tile_ready() {
    workgroupBarrier();
}

// Which part of each row this invocation reads: that of this member of the team.
fn reader(lid: u32) -> u32 {
    return lid % SPLIT;
}

// STEP rows of the tile, as one invocation has them: here, where they lie.
alias Step = u32;
alias Stats = u32;

// The `row`th of the tile, but seen to be small by a compiler, which then puts offsets from it into instructions.
fn in_tile(row: u32) -> u32 {
    return row % TILE;
}

// The rows from the `row`th of the tile from `first` on, of the first matrix and of the second.
fn step_a(first: u32, row: u32, reader: u32) -> Step {
    return reader * STRIDE + in_tile(row);
}

fn step_b(first: u32, row: u32, reader: u32) -> Step {
    return MATRIX + step_a(first, row, reader);
}

fn step_stats(first: u32, row: u32, reader: u32) -> Stats {
    return in_tile(row);
}

// The cth quad that is this invocation's, of row i of the step.
fn pick(step: ptr<function, Step>, c: u32, i: u32) -> vec4<f32> {
    return tile[*step + c * SPLIT * STRIDE + i];
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
