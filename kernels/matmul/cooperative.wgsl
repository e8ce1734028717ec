// Matmul by cooperative matrices, for devices that have them: what WGSL calls tensor cores. Operands of f16, sums of f32.
//
// A workgroup computes a tile, each of its first four subgroups a quarter of SPAN x SPAN matrices. As in tiled.wgsl slices of A
// and B go through workgroup memory, and the next one is on its way during the arithmetic; here each slice keeps its operand's
// orientation, since a cooperative matrix is loaded from rows as well as from columns. The sums leave through workgroup memory
// too.
//
// What bounds it: with matrices of 16 x 16 a tile of 128 x 128 multiplies and adds 32 times for each byte that it reads of A and B,
// one of 64 x 64 only 16 times; and a quarter of 4 x 4 matrices 16 times for each byte from workgroup memory, one of
// 2 x 2 only 8 times. Tensor cores want more than the small ones bring: they are for products that have no room for large ones.
//
// Any size of subgroups is right: a driver may pick one, and then tells how many there are. Those beyond four multiply
// nothing, but load and finish like all others; where there are fewer, the quarters take turns.
//
// Constants: EDGE        of a matrix, 8 or 16
//            SPAN        of a quarter in matrices, 2 or 4
//            THREADS     workgroup size, a power of two up to 256: four subgroups of the largest size
//            A_ALONG_M, B_ALONG_N: bool, which way to read
//            and those of epilogue.wgsl, with T = f16
// Parts:     those of epilogue.wgsl, matmul/a_quads.wgsl or a_scalars.wgsl, matmul/b_quads.wgsl
//            or b_scalars.wgsl, common/matrices8.wgsl or matrices16.wgsl, common/halves_quads.wgsl or
//            halves_scalars.wgsl, then this
// Bindings:  see epilogue.wgsl
// Grid:      ceil(M / SIDE) * ceil(N / SIDE) * batch * shares workgroups, folded over x and y; shares as in tiled.wgsl
// Workgroup memory, of a SPAN of 4 and of 2: 24 and 14 KiB with matrices of 16 x 16, 11 and 6 KiB with 8 x 8

const QUARTER: u32 = SPAN * EDGE;
const SIDE: u32 = 2u * QUARTER; // of the tile
const PARTS: u32 = 4u;
const BK: u32 = 32u;
const QUADS: u32 = SIDE * BK / 4u; // of a slice of one operand
const LOADS: u32 = QUADS / THREADS;
// Rows of a slice begin 16 bytes beyond the end of those before: loads want rows aligned so, and in different banks.
const STRIDE_K: u32 = BK + 8u;   // of a slice whose rows lie along K
const STRIDE_X: u32 = SIDE + 8u; // of one whose rows lie along M or N
const SLICE: u32 = max(SIDE * STRIDE_K, BK * STRIDE_X);
const HALVES: u32 = 2u * SLICE; // that of A, then that of B
const MATRIX: u32 = EDGE * EDGE;

var<workgroup> results: array<f32, PARTS * MATRIX>; // of each quarter one matrix, row by row

// Of quad i of a slice: its first row or column of the operand, and its first k.
fn quad_at(i: u32, along_k: bool) -> vec2<u32> {
    if (along_k) {
        return vec2(i / (BK / 4u), i % (BK / 4u) * 4u);
    }
    return vec2(i % (SIDE / 4u) * 4u, i / (SIDE / 4u));
}

// Where an element lies in its slice.
fn place(x: u32, k: u32, along_k: bool) -> u32 {
    return select(k * STRIDE_X + x, x * STRIDE_K + k, along_k);
}

// Zeros for what lies beyond K.
fn within(quad: vec4<f16>, k: u32, along_k: bool) -> vec4<f16> {
    let at = select(vec4(k), k + vec4(0u, 1u, 2u, 3u), along_k);
    return select(vec4<f16>(), quad, at < vec4(p.K));
}

alias Quads = array<vec4<f16>, LOADS>;

// What this invocation moves of the slice that begins at k0; `starts` are of A and B, `tile` is the first row and column.
fn fetch(a4: ptr<function, Quads>, b4: ptr<function, Quads>, starts: vec2<u32>, tile: vec2<u32>, k0: u32, lid: u32) {
    for (var i = 0u; i < LOADS; i++) {
        let at_a = quad_at(i * THREADS + lid, !A_ALONG_M);
        let at_b = quad_at(i * THREADS + lid, !B_ALONG_N);
        (*a4)[i] = a_quad(a_line(starts.x, tile.x + at_a.x), k0 + at_a.y);
        (*b4)[i] = b_quad(b_line(starts.y, tile.y + at_b.x), k0 + at_b.y);
    }
}

fn load_a(m: u32, k: u32) -> Left {
    let at = place(m, k, !A_ALONG_M) / WIDE;
    if (A_ALONG_M) {
        return coopLoad<Left>(&halves[at], STRIDE_X / WIDE);
    }
    return coopLoadT<Left>(&halves[at], STRIDE_K / WIDE);
}

fn load_b(n: u32, k: u32) -> Right {
    let at = (SLICE + place(n, k, !B_ALONG_N)) / WIDE;
    if (B_ALONG_N) {
        return coopLoadT<Right>(&halves[at], STRIDE_X / WIDE);
    }
    return coopLoad<Right>(&halves[at], STRIDE_K / WIDE);
}

// Where a quarter of the tile begins: row and column.
fn quarter(part: u32) -> vec2<u32> {
    return vec2(part / 2u, part % 2u) * QUARTER;
}

// Which quarters are at their turn, from the first up to the end, and which of them is the subgroup's, if there is one.
struct Turn {
    part: u32,
    first: u32,
    end: u32,
}

// Finishes matrix (row, column) of each quarter that is at its turn; `sums` is the subgroup's.
fn finish_matrix(sums: Sums, row: u32, column: u32, turn: Turn, batch: u32, tile: vec2<u32>, lid: u32) {
    if (turn.part < turn.end) {
        coopStoreT(sums, &results[turn.part * MATRIX], EDGE);
    }
    workgroupBarrier();
    for (var i = turn.first * MATRIX + lid * 4u; i < turn.end * MATRIX; i += THREADS * 4u) {
        let matrix = tile + quarter(i / MATRIX) + vec2(row, column) * EDGE;
        let to = matrix + vec2(i % MATRIX / EDGE, i % EDGE);
        if (to.x < p.M) {
            finish(vec4(results[i], results[i + 1u], results[i + 2u], results[i + 3u]), batch, to.x, to.y);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn cooperative(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let group = wid.x + wid.y * nwg.x;
    let tiles_m = (p.M + SIDE - 1u) / SIDE;
    let tiles_n = (p.N + SIDE - 1u) / SIDE;
    let tile = vec2(group / tiles_n % tiles_m, group % tiles_n) * SIDE;
    let batch = group / (tiles_m * tiles_n) % p.batch;
    let share = group / (tiles_m * tiles_n * p.batch);
    let begin = share * p.share;
    if (begin >= p.K) {
        return;
    }
    let end = min(p.K, begin + p.share);
    let a_start = p.a_offset + (batch / p.inner) * p.a.z + (batch % p.inner) * p.a.w;
    let b_start = p.b_offset + (batch / p.inner) * p.b.z + (batch % p.inner) * p.b.w;
    let starts = vec2(a_start, b_start);
    let to = share * p.batch + batch;

    // One turn where there are four subgroups.
    for (var first = 0u; first < PARTS; first += subgroups) {
        let turn = Turn(first + subgroup, first, min(first + subgroups, PARTS));
        let at = quarter(turn.part);
        var sums00: Sums; var sums01: Sums; var sums02: Sums; var sums03: Sums;
        var sums10: Sums; var sums11: Sums; var sums12: Sums; var sums13: Sums;
        var sums20: Sums; var sums21: Sums; var sums22: Sums; var sums23: Sums;
        var sums30: Sums; var sums31: Sums; var sums32: Sums; var sums33: Sums;
        var next_a: Quads;
        var next_b: Quads;
        fetch(&next_a, &next_b, starts, tile, begin, lid);
        for (var k0 = begin; k0 < end; k0 += BK) {
            workgroupBarrier();
            for (var i = 0u; i < LOADS; i++) {
                let at_a = quad_at(i * THREADS + lid, !A_ALONG_M);
                let at_b = quad_at(i * THREADS + lid, !B_ALONG_N);
                put(place(at_a.x, at_a.y, !A_ALONG_M), within(next_a[i], k0 + at_a.y, !A_ALONG_M));
                put(SLICE + place(at_b.x, at_b.y, !B_ALONG_N), within(next_b[i], k0 + at_b.y, !B_ALONG_N));
            }
            workgroupBarrier();
            // Beyond the end, what is read from addresses within is not used.
            fetch(&next_a, &next_b, starts, tile, k0 + BK, lid);
            if (turn.part < PARTS) {
                for (var k = 0u; k < BK; k += EDGE) {
                    let a0 = load_a(at.x, k);
                    let a1 = load_a(at.x + EDGE, k);
                    let b0 = load_b(at.y, k);
                    let b1 = load_b(at.y + EDGE, k);
                    sums00 = coopMultiplyAdd(a0, b0, sums00);
                    sums01 = coopMultiplyAdd(a0, b1, sums01);
                    sums10 = coopMultiplyAdd(a1, b0, sums10);
                    sums11 = coopMultiplyAdd(a1, b1, sums11);
                    if (SPAN == 4u) {
                        let a2 = load_a(at.x + 2u * EDGE, k);
                        let a3 = load_a(at.x + 3u * EDGE, k);
                        let b2 = load_b(at.y + 2u * EDGE, k);
                        let b3 = load_b(at.y + 3u * EDGE, k);
                        sums02 = coopMultiplyAdd(a0, b2, sums02);
                        sums03 = coopMultiplyAdd(a0, b3, sums03);
                        sums12 = coopMultiplyAdd(a1, b2, sums12);
                        sums13 = coopMultiplyAdd(a1, b3, sums13);
                        sums20 = coopMultiplyAdd(a2, b0, sums20);
                        sums21 = coopMultiplyAdd(a2, b1, sums21);
                        sums22 = coopMultiplyAdd(a2, b2, sums22);
                        sums23 = coopMultiplyAdd(a2, b3, sums23);
                        sums30 = coopMultiplyAdd(a3, b0, sums30);
                        sums31 = coopMultiplyAdd(a3, b1, sums31);
                        sums32 = coopMultiplyAdd(a3, b2, sums32);
                        sums33 = coopMultiplyAdd(a3, b3, sums33);
                    }
                }
            }
        }
        finish_matrix(sums00, 0u, 0u, turn, to, tile, lid);
        finish_matrix(sums01, 0u, 1u, turn, to, tile, lid);
        finish_matrix(sums10, 1u, 0u, turn, to, tile, lid);
        finish_matrix(sums11, 1u, 1u, turn, to, tile, lid);
        if (SPAN == 4u) {
            finish_matrix(sums02, 0u, 2u, turn, to, tile, lid);
            finish_matrix(sums03, 0u, 3u, turn, to, tile, lid);
            finish_matrix(sums12, 1u, 2u, turn, to, tile, lid);
            finish_matrix(sums13, 1u, 3u, turn, to, tile, lid);
            finish_matrix(sums20, 2u, 0u, turn, to, tile, lid);
            finish_matrix(sums21, 2u, 1u, turn, to, tile, lid);
            finish_matrix(sums22, 2u, 2u, turn, to, tile, lid);
            finish_matrix(sums23, 2u, 3u, turn, to, tile, lid);
            finish_matrix(sums30, 3u, 0u, turn, to, tile, lid);
            finish_matrix(sums31, 3u, 1u, turn, to, tile, lid);
            finish_matrix(sums32, 3u, 2u, turn, to, tile, lid);
            finish_matrix(sums33, 3u, 3u, turn, to, tile, lid);
        }
    }
}
