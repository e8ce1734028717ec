// What the passes of attention by cooperative matrices share. Operands are f16, products are added up in f32.
//
// A workgroup owns a band of two rows of matrices (queries, or keys), which stay in workgroup memory, and visits others, TILE
// at a time, which come there. Scores, the products of queries with keys, pass through workgroup memory, where invocations make
// weights of them, in f16. Weights multiply visited rows, and the sums of that, [BAND][D], stay in matrices during the whole visit.
//
// A part of these, two rows of matrices by OWN columns, belongs to a subgroup. Up to WORKERS subgroups have parts; further ones
// multiply scores and load like all others. Parts that are too many for the subgroups there are come in a later turn.
//
// Constants: D        head size, a multiple of EDGE
//            EDGE     of a matrix, 8 or 16
//            TILE     rows a tile, EDGE or a multiple of it
//            THREADS  workgroup size, a power of two of 32 or more: four subgroups of the largest size
//            T        f16
// Parts:     common/matrices8.wgsl or matrices16.wgsl, common/halves_quads.wgsl or halves_scalars.wgsl, attention/params.wgsl,
//            attention/mask.wgsl, this, then a pass, which has ROWS in workgroup memory; QUERIES and KEYS, whose products are
//            computed at a time; SCORE_LINE, from one row of scores to the next; LAYERS of scores; WEIGHT_LAYERS of
//            weights; read_quad(); finish()
// Workgroup memory: up to 32 KiB. An adapter with cooperative matrices is none that has WebGPU's least.
// Bindings:  1 q [B, NH, Tq, D], 2 k and 3 v [B, NKV, Tk, D]: strided, unit stride along D

@group(0) @binding(1) var<storage, read> q: array<vec4<T>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<T>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<T>>;

const BAND: u32 = 2u * EDGE;
const COLUMNS: u32 = D / EDGE; // of matrices
const OWN: u32 = select(1u, 2u, COLUMNS > 4u);
const PARTS: u32 = (COLUMNS + OWN - 1u) / OWN;
const WORKERS: u32 = 4u;
const MATRIX: u32 = EDGE * EDGE;
// Invocations that share a query's scores, or a key's.
const TEAM: u32 = THREADS / BAND;
// Of a tile those of one invocation, and whether all of them are there.
const SHARE: u32 = (TILE + TEAM - 1u) / TEAM;
const WHOLE: bool = SHARE * TEAM == TILE;
// Rows begin 16 bytes beyond the end of those before: loads want rows aligned so, and in different banks.
const LINE: u32 = D + 8u;
const HALVES: u32 = ROWS * LINE; // the rows
const WEIGHT_LINE: u32 = TILE + select(0u, 8u, TILE > EDGE); // memory is short where tiles are
const SCORE_LAYER: u32 = QUERIES * SCORE_LINE;
const WEIGHT_LAYER: u32 = BAND * WEIGHT_LINE;
const SCORES: u32 = QUERIES * KEYS / MATRIX; // matrices of a layer

var<workgroup> scores: array<f32, LAYERS * SCORE_LAYER>;           // [layer][query][key]
var<workgroup> weights: array<T, WEIGHT_LAYERS * WEIGHT_LAYER>; // [layer][owned row][visited row]

// Which of the matrices in memory, where its first row starts, from one row to the next, and how many rows there are.
struct Source {
    which: u32,
    start: u32,
    stride: u32,
    len: u32,
}

fn queries(b: u32, h: u32) -> Source {
    return Source(0u, place(p.q, b, h, 0u), p.q.z, p.Tq);
}

fn keys(b: u32, h: u32) -> Source {
    return Source(1u, place(p.k, b, h, 0u), p.k.z, p.Tk);
}

fn values(b: u32, h: u32) -> Source {
    return Source(2u, place(p.v, b, h, 0u), p.v.z, p.Tk);
}

// Loads `count` rows from `first` on into workgroup memory, as its rows from `to` on. Beyond the last they are zeros.
fn load(x: Source, first: u32, count: u32, to: u32, lid: u32) {
    let quads = count * (D / 4u);
    for (var i = 0u; i < (quads + THREADS - 1u) / THREADS; i++) {
        let n = i * THREADS + lid;
        let row = n / (D / 4u);
        let quad = n % (D / 4u);
        if (quads % THREADS == 0u || n < quads) {
            var quad4 = vec4<T>();
            if (first + row < x.len) {
                quad4 = read_quad(x.which, x.start + (first + row) * x.stride + quad);
            }
            put((to + row) * LINE + quad * 4u, quad4);
        }
    }
}

// Computes the nth matrix of a layer of scores: products of rows of workgroup memory, those of the queries and those of the keys.
fn score(n: u32, layer: u32, query_rows: u32, key_rows: u32) {
    let i = n / (KEYS / EDGE) * EDGE;
    let j = n % (KEYS / EDGE) * EDGE;
    var sums: Sums;
    for (var d = 0u; d < D; d += EDGE) {
        let left = coopLoadT<Left>(&halves[((query_rows + i) * LINE + d) / WIDE], LINE / WIDE);
        let right = coopLoad<Right>(&halves[((key_rows + j) * LINE + d) / WIDE], LINE / WIDE);
        sums = coopMultiplyAdd(left, right, sums);
    }
    coopStoreT(sums, &scores[layer * SCORE_LAYER + i * SCORE_LINE + j], SCORE_LINE);
}

// Adds to a part, whose first column of matrices is `column`, the weighted sums of the visited rows, which lie from `start` on.
fn add_weighted(
    part00: ptr<function, Sums>,
    part01: ptr<function, Sums>,
    part10: ptr<function, Sums>,
    part11: ptr<function, Sums>,
    layer: u32,
    start: u32,
    column: u32,
) {
    for (var n = 0u; n < TILE; n += EDGE) {
        let weights0 = coopLoadT<Left>(&weights[layer * WEIGHT_LAYER + n], WEIGHT_LINE);
        let weights1 = coopLoadT<Left>(&weights[layer * WEIGHT_LAYER + EDGE * WEIGHT_LINE + n], WEIGHT_LINE);
        let at = ((start + n) * LINE + column * EDGE) / WIDE;
        let x0 = coopLoadT<Right>(&halves[at], LINE / WIDE);
        *part00 = coopMultiplyAdd(weights0, x0, *part00);
        *part10 = coopMultiplyAdd(weights1, x0, *part10);
        if (OWN > 1u && column + 1u < COLUMNS) {
            let x1 = coopLoadT<Right>(&halves[at + EDGE / WIDE], LINE / WIDE);
            *part01 = coopMultiplyAdd(weights0, x1, *part01);
            *part11 = coopMultiplyAdd(weights1, x1, *part11);
        }
    }
}

// Which columns of matrices of the sums are a subgroup's: that part and this turn. There may be none.
struct Turn {
    first: u32,   // part
    workers: u32, // subgroups that have one
    slot: u32,    // this one among them
    column: u32,
}

fn take_turn(first: u32, subgroup: u32, subgroups: u32) -> Turn {
    return Turn(first, min(subgroups, WORKERS), subgroup, (first + subgroup) * OWN);
}

fn has_part(turn: Turn) -> bool {
    return turn.slot < turn.workers && turn.column < COLUMNS;
}

// Has all invocations finish one matrix of each part, which begins at `row` of the band and `shift` columns of matrices from the
// part's first, after all of them are done with `scores`. `sums` is that of this subgroup.
fn finish_matrix(sums: Sums, which: u32, turn: Turn, row: u32, shift: u32, lid: u32) {
    if (has_part(turn)) {
        coopStoreT(sums, &scores[turn.slot * MATRIX], EDGE);
    }
    workgroupBarrier();
    for (var n = lid * 4u; n < turn.workers * MATRIX; n += THREADS * 4u) {
        let column = (turn.first + n / MATRIX) * OWN + shift;
        if (column < COLUMNS) {
            let sums4 = vec4(scores[n], scores[n + 1u], scores[n + 2u], scores[n + 3u]);
            finish(which, row + n % MATRIX / EDGE, (column * EDGE + n % EDGE) / 4u, sums4);
        }
    }
    workgroupBarrier();
}

fn finish_part(part00: Sums, part01: Sums, part10: Sums, part11: Sums, which: u32, turn: Turn, lid: u32) {
    finish_matrix(part00, which, turn, 0u, 0u, lid);
    finish_matrix(part10, which, turn, EDGE, 0u, lid);
    if (OWN > 1u) {
        finish_matrix(part01, which, turn, 0u, 1u, lid);
        finish_matrix(part11, which, turn, EDGE, 1u, lid);
    }
}
