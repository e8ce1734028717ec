// Matmul by tiles in workgroup memory and registers, for GPUs.
//
// A workgroup computes a BM x BN tile of the product. It walks along K in steps of BK: a BM x BK slice of A and a
// BK x BN slice of B go to workgroup memory, each element read once; then every invocation adds the outer products
// of the BK columns and rows to the TM x TN sums that it keeps in registers. The next slices are on their way from
// memory while the present ones are used.
//
// Constants: BM, BN, BK  the tile; BK a multiple of 4, BM of TM, BN of TN
//            TM, TN      the part of one invocation, multiples of 4
//            The blocks of 4x4 in the slices, BM BK / 16 and BN BK / 16, are multiples of the (BM / TM) (BN / TN)
//            invocations, so that each reads as many.
//            A_ALONG_M, B_ALONG_N: bool, which way to read
//            and those of epilogue.wgsl
// Parts:     activation/functions.wgsl, matmul/epilogue.wgsl, matmul/a_quads.wgsl or a_scalars.wgsl, matmul/b_quads.wgsl
//            or b_scalars.wgsl, matmul/blocks.wgsl, then this
// Bindings:  see epilogue.wgsl
// Grid:      ceil(M / BM) * ceil(N / BN) * batch workgroups, folded over x and y
// Workgroup memory: 16 BK (BM / 4 + BN / 4 + 2) bytes

const THREADS_N: u32 = BN / TN;
const THREADS_M: u32 = BM / TM;
const THREADS: u32 = THREADS_M * THREADS_N;
const QUADS_M: u32 = TM / 4u;
const QUADS_N: u32 = TN / 4u;
const SLICE_K: u32 = BK / 4u; // blocks of 4x4 along K in a slice
const LOADS_A: u32 = BM * BK / 16u / THREADS; // blocks that one invocation reads
const LOADS_B: u32 = BN * BK / 16u / THREADS;
// One quad of padding keeps the writes of neighbouring invocations, which differ in k, in different banks.
const STRIDE_A: u32 = BM / 4u + 1u;
const STRIDE_B: u32 = BN / 4u + 1u;

var<workgroup> slice_a: array<vec4<f32>, BK * STRIDE_A>; // [k][m / 4]
var<workgroup> slice_b: array<vec4<f32>, BK * STRIDE_B>; // [k][n / 4]

// Where a block lies in its slice: (x / 4, k / 4). Neighbours lie along the operand's unit stride.
fn block_at(block: u32, quads: u32, along_k: bool) -> vec2<u32> {
    if (along_k) {
        return vec2(block / SLICE_K, block % SLICE_K);
    }
    return vec2(block % quads, block / quads);
}

@compute @workgroup_size(THREADS)
fn tiled(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = wid.x + wid.y * nwg.x;
    let tiles_m = (p.M + BM - 1u) / BM;
    let tiles_n = (p.N + BN - 1u) / BN;
    let m0 = (group / tiles_n % tiles_m) * BM;
    let n0 = (group % tiles_n) * BN;
    let batch = group / (tiles_m * tiles_n);
    if (batch >= p.batch) {
        return;
    }
    let a_start = p.a_offset + (batch / p.inner) * p.a.z + (batch % p.inner) * p.a.w;
    let b_start = p.b_offset + (batch / p.inner) * p.b.z + (batch % p.inner) * p.b.w;
    let thread_n = lid % THREADS_N;
    let thread_m = lid / THREADS_N;

    var sums: array<array<vec4<f32>, QUADS_N>, TM>;
    var next_a: array<mat4x4<f32>, LOADS_A>;
    var next_b: array<mat4x4<f32>, LOADS_B>;
    for (var i = 0u; i < LOADS_A; i++) {
        let at = block_at(i * THREADS + lid, BM / 4u, !A_ALONG_M);
        next_a[i] = a_block(a_start, m0 + at.x * 4u, at.y * 4u);
    }
    for (var i = 0u; i < LOADS_B; i++) {
        let at = block_at(i * THREADS + lid, BN / 4u, !B_ALONG_N);
        next_b[i] = b_block(b_start, n0 + at.x * 4u, at.y * 4u);
    }

    for (var k0 = 0u; k0 < p.K; k0 += BK) {
        for (var i = 0u; i < LOADS_A; i++) {
            let at = block_at(i * THREADS + lid, BM / 4u, !A_ALONG_M);
            let to = at.y * 4u * STRIDE_A + at.x;
            slice_a[to] = next_a[i][0];
            slice_a[to + STRIDE_A] = next_a[i][1];
            slice_a[to + 2u * STRIDE_A] = next_a[i][2];
            slice_a[to + 3u * STRIDE_A] = next_a[i][3];
        }
        for (var i = 0u; i < LOADS_B; i++) {
            let at = block_at(i * THREADS + lid, BN / 4u, !B_ALONG_N);
            let to = at.y * 4u * STRIDE_B + at.x;
            slice_b[to] = next_b[i][0];
            slice_b[to + STRIDE_B] = next_b[i][1];
            slice_b[to + 2u * STRIDE_B] = next_b[i][2];
            slice_b[to + 3u * STRIDE_B] = next_b[i][3];
        }
        workgroupBarrier();

        // The last step reads a slice beyond K: zeros, from addresses within.
        for (var i = 0u; i < LOADS_A; i++) {
            let at = block_at(i * THREADS + lid, BM / 4u, !A_ALONG_M);
            next_a[i] = a_block(a_start, m0 + at.x * 4u, k0 + BK + at.y * 4u);
        }
        for (var i = 0u; i < LOADS_B; i++) {
            let at = block_at(i * THREADS + lid, BN / 4u, !B_ALONG_N);
            next_b[i] = b_block(b_start, n0 + at.x * 4u, k0 + BK + at.y * 4u);
        }

        for (var k = 0u; k < BK; k++) {
            var b: array<vec4<f32>, QUADS_N>;
            for (var j = 0u; j < QUADS_N; j++) {
                b[j] = slice_b[k * STRIDE_B + j * THREADS_N + thread_n];
            }
            for (var i = 0u; i < QUADS_M; i++) {
                let a = slice_a[k * STRIDE_A + i * THREADS_M + thread_m];
                for (var j = 0u; j < QUADS_N; j++) {
                    sums[i * 4u][j] += a.x * b[j];
                    sums[i * 4u + 1u][j] += a.y * b[j];
                    sums[i * 4u + 2u][j] += a.z * b[j];
                    sums[i * 4u + 3u][j] += a.w * b[j];
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let m = m0 + (i / 4u * THREADS_M + thread_m) * 4u + i % 4u;
        if (m < p.M) {
            for (var j = 0u; j < QUADS_N; j++) {
                finish(sums[i][j], batch, m, n0 + (j * THREADS_N + thread_n) * 4u);
            }
        }
    }
}
