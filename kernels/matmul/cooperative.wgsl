// Matmul by cooperative matrices, for GPUs that have them: what WGSL calls tensor cores. Operands of f16, sums of f32.
//
// A workgroup of four subgroups computes a 64 x 64 tile, each subgroup a quarter in four matrices of 16 x 16. As in tiled.wgsl slices of A
// and B go through workgroup memory, and the next one is on its way during the arithmetic; here each slice keeps its operand's
// orientation, since a cooperative matrix is loaded from rows as well as from columns. A matrix' elements belong to no
// invocation that one could name: the sums leave through workgroup memory too.
//
// The matrices are four variables and not an array, which drivers have been seen to get wrong. `wgpu_cooperative_matrix` is an
// extension of naga's; no other compiler knows it.
//
// Constants: SUBGROUP    invocations of a subgroup, exactly
//            A_ALONG_M, B_ALONG_N: bool, which way to read
//            and those of epilogue.wgsl, with T = f16
// Parts:     those of epilogue.wgsl, matmul/a_quads.wgsl or a_scalars.wgsl, matmul/b_quads.wgsl
//            or b_scalars.wgsl, then this
// Bindings:  see epilogue.wgsl
// Grid:      ceil(M / 64) * ceil(N / 64) * batch * shares workgroups, folded over x and y; shares as in tiled.wgsl
// Workgroup memory: 14 KiB

const SUBGROUPS: u32 = 4u;
const THREADS: u32 = SUBGROUPS * SUBGROUP;
const SIDE: u32 = 64u;  // of the tile
const EDGE: u32 = 16u;  // of a matrix
const BK: u32 = 32u;
const QUADS: u32 = SIDE * BK / 4u; // of a slice of one operand
const LOADS: u32 = QUADS / THREADS;
// Rows of a slice begin 16 bytes beyond the end of those before: loads want rows aligned so, and in different banks.
const STRIDE_K: u32 = BK + 8u;   // of a slice whose rows lie along K
const STRIDE_X: u32 = SIDE + 8u; // of one whose rows lie along M or N
const SLICE: u32 = SIDE * STRIDE_K;

var<workgroup> slice_a: array<f16, SLICE>;
var<workgroup> slice_b: array<f16, SLICE>;
var<workgroup> results: array<f32, SUBGROUPS * EDGE * EDGE>; // of each subgroup one matrix, row by row

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

fn load_a(m: u32, k: u32) -> coop_mat16x16<f16, A> {
    if (A_ALONG_M) {
        return coopLoad<coop_mat16x16<f16, A>>(&slice_a[k * STRIDE_X + m], STRIDE_X);
    }
    return coopLoadT<coop_mat16x16<f16, A>>(&slice_a[m * STRIDE_K + k], STRIDE_K);
}

fn load_b(n: u32, k: u32) -> coop_mat16x16<f16, B> {
    if (B_ALONG_N) {
        return coopLoadT<coop_mat16x16<f16, B>>(&slice_b[k * STRIDE_X + n], STRIDE_X);
    }
    return coopLoad<coop_mat16x16<f16, B>>(&slice_b[n * STRIDE_K + k], STRIDE_K);
}

// Finishes one matrix of each subgroup, which begins at row m and column n.
fn finish_matrix(sums: coop_mat16x16<f32, C>, subgroup: u32, lane: u32, batch: u32, m: u32, n: u32) {
    let mine = subgroup * EDGE * EDGE;
    coopStoreT(sums, &results[mine], EDGE);
    workgroupBarrier();
    for (var i = lane * 4u; i < EDGE * EDGE; i += SUBGROUP * 4u) {
        let row = m + i / EDGE;
        let at = mine + i;
        if (row < p.M) {
            let sum = vec4(results[at], results[at + 1u], results[at + 2u], results[at + 3u]);
            finish(sum, batch, row, n + i % EDGE);
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
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let group = wid.x + wid.y * nwg.x;
    let tiles_m = (p.M + SIDE - 1u) / SIDE;
    let tiles_n = (p.N + SIDE - 1u) / SIDE;
    let m0 = (group / tiles_n % tiles_m) * SIDE;
    let n0 = (group % tiles_n) * SIDE;
    let batch = group / (tiles_m * tiles_n) % p.batch;
    let share = group / (tiles_m * tiles_n * p.batch);
    let first = share * p.share;
    if (first >= p.K) {
        return;
    }
    let end = min(p.K, first + p.share);
    let a_start = p.a_offset + (batch / p.inner) * p.a.z + (batch % p.inner) * p.a.w;
    let b_start = p.b_offset + (batch / p.inner) * p.b.z + (batch % p.inner) * p.b.w;
    // The quarter of this subgroup.
    let m = subgroup / 2u * 2u * EDGE;
    let n = subgroup % 2u * 2u * EDGE;

    for (var i = lid; i < SUBGROUPS * EDGE * EDGE; i += THREADS) {
        results[i] = 0.0;
    }
    workgroupBarrier();
    let zeros = coopLoadT<coop_mat16x16<f32, C>>(&results[subgroup * EDGE * EDGE], EDGE);
    var sums00 = zeros;
    var sums01 = zeros;
    var sums10 = zeros;
    var sums11 = zeros;
    var next_a: Quads;
    var next_b: Quads;
    fetch(&next_a, &next_b, vec2(a_start, b_start), vec2(m0, n0), first, lid);
    for (var k0 = first; k0 < end; k0 += BK) {
        workgroupBarrier();
        for (var i = 0u; i < LOADS; i++) {
            let at_a = quad_at(i * THREADS + lid, !A_ALONG_M);
            let at_b = quad_at(i * THREADS + lid, !B_ALONG_N);
            let a4 = within(next_a[i], k0 + at_a.y, !A_ALONG_M);
            let b4 = within(next_b[i], k0 + at_b.y, !B_ALONG_N);
            let to_a = place(at_a.x, at_a.y, !A_ALONG_M);
            let to_b = place(at_b.x, at_b.y, !B_ALONG_N);
            for (var c = 0u; c < 4u; c++) {
                slice_a[to_a + c] = a4[c];
                slice_b[to_b + c] = b4[c];
            }
        }
        workgroupBarrier();
        // Beyond the end, what is read from addresses within is not used.
        fetch(&next_a, &next_b, vec2(a_start, b_start), vec2(m0, n0), k0 + BK, lid);
        for (var k = 0u; k < BK; k += EDGE) {
            let a0 = load_a(m, k);
            let a1 = load_a(m + EDGE, k);
            let b0 = load_b(n, k);
            let b1 = load_b(n + EDGE, k);
            sums00 = coopMultiplyAdd(a0, b0, sums00);
            sums01 = coopMultiplyAdd(a0, b1, sums01);
            sums10 = coopMultiplyAdd(a1, b0, sums10);
            sums11 = coopMultiplyAdd(a1, b1, sums11);
        }
    }

    let to = share * p.batch + batch;
    finish_matrix(sums00, subgroup, lane, to, m0 + m, n0 + n);
    finish_matrix(sums01, subgroup, lane, to, m0 + m, n0 + n + EDGE);
    finish_matrix(sums10, subgroup, lane, to, m0 + m + EDGE, n0 + n);
    finish_matrix(sums11, subgroup, lane, to, m0 + m + EDGE, n0 + n + EDGE);
}
