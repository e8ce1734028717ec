// What the passes of attention share: parameters, which keys a query sees, and the tile in workgroup memory.
//
// Rows of D elements are handled as quads (vec4). An invocation *owns* ROWS rows and keeps them, with what it sums up
// for them, in registers; where D is too long for that, a team of SPLIT neighbours owns them together, member m the
// quads m, m + SPLIT, m + 2 SPLIT .., and the partial scores are added up through workgroup memory. The rows that are
// visited (keys for queries, queries for keys) are staged TILE at a time in workgroup memory and used STEP at a time.
// All invocations read the tile at the same address (their team's member apart), which GPUs broadcast.
//
// Constants: D        head size, a multiple of 8
//            SPLIT    invocations a team, a power of two
//            ROWS     rows a team owns
//            BLOCK    workgroup size, a multiple of 4 SPLIT, so that a band of keys starts at a multiple of 4
//            TILE     rows a tile, 4 or a multiple of 8; it decides how much workgroup memory is used
//            DROPOUT: bool
//            T        f32 or f16: q, k, v, o and their gradients; arithmetic is f32
// Parts:     common/philox.wgsl, attention/lanes[_subgroup].wgsl, then this, then a pass
//
// Query i sees the keys j with i + low <= j < i + high, an interval that moves by one a query. The launcher chooses
//   high = Tk - Tq + 1 if causal, so that the last query sees the last key; else Tk, which is above every j - i
//   low  = high - window with a window; else -Tq, which is below every j - i

const QUADS: u32 = (D / 4u + SPLIT - 1u) / SPLIT; // of a row that one invocation holds
const LINE: u32 = QUADS * SPLIT;                  // of a row in the tile; those beyond D / 4 are zeros
const TEAMS: u32 = BLOCK / SPLIT;
const BAND: u32 = TEAMS * ROWS;                   // rows a workgroup owns
const STEP: u32 = min(TILE, 8u);
const FOURS: u32 = STEP / 4u;
// A tile lies in memory as [matrix][quad][row]. One quad of padding keeps a team's members, which read different
// quads of the same row, in different banks.
const STRIDE: u32 = TILE + 1u;
const MATRIX: u32 = LINE * STRIDE;

// Scores, log-sum-exps and dropout's random bits belong to query head b * NH + h.
struct Params {
    // In quads: strides of batch, head and position, and the place of the first element.
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    o: vec4<u32>,
    dout: vec4<u32>,
    dq: vec4<u32>,
    dk: vec4<u32>, // of dv too
    B: u32,
    NH: u32,
    NKV: u32,
    Tq: u32,
    Tk: u32,
    low: i32,
    high: i32,
    scale: f32,
    seed: vec2<u32>,
    offset: u32,     // of the random stream
    threshold: u32,  // random bits below it drop
    keep_scale: f32, // 1 / (1 - p)
    first_head: u32, // of dropout's random bits
    chunk: u32, // of CUDA's alone, as is the next
    chunks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

// The tile: two matrices, and in dkdv a row of statistics.
var<workgroup> tile: array<vec4<f32>, 2u * MATRIX + STRIDE>;

// WGSL lets a device assume that there are no infinities, so this stands for minus infinity: as the log-sum-exp of a
// query that sees no key, and as a masked score.
const LOWEST: f32 = -1e38;

// Scores are kept times log2(e), as exp2 is what the hardware has.
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;

// Some rows first .. first + count - 1 that a row visits.
struct Interval {
    first: u32,
    count: u32,
}

fn between(first: i32, end: i32, len: u32) -> Interval {
    let start = clamp(first, 0, i32(len));
    return Interval(u32(start), u32(max(min(end, i32(len)) - start, 0)));
}

fn keys_of(i: u32) -> Interval {
    return between(i32(i) + p.low, i32(i) + p.high, p.Tk);
}

fn queries_of(j: u32) -> Interval {
    return between(i32(j) - p.high + 1, i32(j) - p.low + 1, p.Tq);
}

// Which of the rows n .. n + 3 are in it. Below `first` the difference wraps around to a large number.
fn contains(x: Interval, n: u32) -> vec4<bool> {
    return vec4(n, n + 1u, n + 2u, n + 3u) - x.first < vec4(x.count);
}

// A workgroup visits all rows that one of its rows visits: both ends grow with the row, so they are the first one's
// start and the last one's end. The start is rounded down to where a block of random bits begins.
struct Visit {
    start: u32,
    end: u32,
}

fn visit(first: Interval, last: Interval) -> Visit {
    return Visit(first.first & ~3u, last.first + last.count);
}

// Quad c of the tile rows at .. at + 3, with at = c * STRIDE + row, as columns; `part` is fetch(at).
fn four(part: vec4<f32>, at: u32, g: u32) -> mat4x4<f32> {
    return mat4x4(
        pick(part, at, g * 4u),
        pick(part, at, g * 4u + 1u),
        pick(part, at, g * 4u + 2u),
        pick(part, at, g * 4u + 3u),
    );
}

// sum + y * rows: to each the dot product of its column with y. Every product is added to the sum at once, as a GPU does
// in one instruction; in y * rows the first of four is multiplied, and the sum of the four then added.
fn with_dots(sum: vec4<f32>, y: vec4<f32>, rows: mat4x4<f32>) -> vec4<f32> {
    return vec4(
        sum.x + y.x * rows[0].x + y.y * rows[0].y + y.z * rows[0].z + y.w * rows[0].w,
        sum.y + y.x * rows[1].x + y.y * rows[1].y + y.z * rows[1].z + y.w * rows[1].w,
        sum.z + y.x * rows[2].x + y.y * rows[2].y + y.z * rows[2].z + y.w * rows[2].w,
        sum.w + y.x * rows[3].x + y.y * rows[3].y + y.z * rows[3].z + y.w * rows[3].w,
    );
}

// sum + rows * w, in the same way: the columns, weighted by w.
fn with_rows(sum: vec4<f32>, rows: mat4x4<f32>, w: vec4<f32>) -> vec4<f32> {
    return sum + rows[0] * w.x + rows[1] * w.y + rows[2] * w.z + rows[3] * w.w;
}

fn across(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

// The four keys from 4 * quad on that query i of a head keeps, as bits 0 to 3.
fn kept_keys(quad: u32, i: u32, head: u32) -> u32 {
    let random = philox(vec4(quad, i, p.first_head + head, p.offset), p.seed);
    let bits = select(vec4(0u), vec4(1u, 2u, 4u, 8u), random >= vec4(p.threshold));
    return bits.x | bits.y | bits.z | bits.w;
}
