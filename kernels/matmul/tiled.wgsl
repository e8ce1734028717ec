// Matmul by tiles in workgroup memory and registers, for GPUs.
//
// A workgroup computes a BM x BN tile of the product, or of one share of its K. It walks along K in slices of BK: BM x BK of A
// and BK x BN of B go to workgroup memory, each element read once; then every invocation adds the outer products of the BK
// columns and rows to the TM x TN sums that it keeps in registers. Nobody waits for memory: the next slice is asked for before the
// arithmetic of the present one, and put into workgroup memory after it.
//
// The two numbers that decide a tile: BM BN / (2 (BM + BN)) operations for each byte of f32 from memory (16 for 64 x 64,
// 32 for 128 x 128), and TM TN / (4 (TM + TN)) multiply-adds for each byte from workgroup memory (1/2 for 4 x 4, 1 for 8 x 8), of
// which a GPU reads one for every one or two multiply-adds that it could do.
//
// Constants: BM, BN, BK  the tile; BK 8, 16 or 32, BM of TM, BN of TN
//            TM, TN      the part of one invocation, multiples of 4
//            BM / TM and BN / TN are multiples of 8.
//            A_ALONG_M, B_ALONG_N: bool, which way to read
//            C           the type of products: f32, or f16 where T is
//            SHORT_SUMS: bool, whether sums of 8 products are of that type too, and only their sums f32
//            and those of epilogue.wgsl
// Parts:     those of epilogue.wgsl, matmul/a_quads.wgsl or a_scalars.wgsl, matmul/b_quads.wgsl
//            or b_scalars.wgsl, matmul/blocks.wgsl, then this
// Bindings:  see epilogue.wgsl
// Grid:      ceil(M / BM) * ceil(N / BN) * batch * shares workgroups, folded over x and y. With several shares, share s writes
//            the batch b as the batch s * p.batch + b of d.
// Workgroup memory: BK (BM + BN) elements of C

const STEP: u32 = select(4u, 8u, SHORT_SUMS);
const THREADS_N: u32 = BN / TN;
const THREADS: u32 = (BM / TM) * THREADS_N;
const QUADS_M: u32 = TM / 4u;
const QUADS_N: u32 = TN / 4u;
const DEPTH: u32 = BK / 4u;               // blocks of 4x4 along K in a slice
const WIDTH: u32 = (BM + BN) / 4u;        // quads in a row of the slice: those of A, then those of B
const BLOCKS_A: u32 = BM / 4u * DEPTH;    // blocks of A in a slice; those of B are numbered after them
const BLOCKS: u32 = WIDTH * DEPTH;
const LOADS: u32 = (BLOCKS + THREADS - 1u) / THREADS; // blocks that an invocation moves

var<workgroup> slice: array<vec4<C>, BK * WIDTH>; // [k][m / 4, n / 4]

// Rows of the slice have their quads in another order for each four of K, so that neighbours who write quads of one number
// and different k meet different banks.
fn shuffled(quad: u32, k4: u32) -> u32 {
    return quad ^ (k4 * (8u / DEPTH));
}

// Whether an invocation's block i is of A, and whether it is one at all. Known when compiled, for whole workgroups.
fn is_of_a(i: u32, lid: u32) -> bool {
    return (i + 1u) * THREADS <= BLOCKS_A || (i * THREADS < BLOCKS_A && i * THREADS + lid < BLOCKS_A);
}
fn is_block(i: u32, lid: u32) -> bool {
    return (i + 1u) * THREADS <= BLOCKS || i * THREADS + lid < BLOCKS;
}

// Where a block lies in its slice: (x / 4, k / 4). Neighbours lie along the operand's unit stride.
fn block_at(block: u32, quads: u32, along_k: bool) -> vec2<u32> {
    if (along_k) {
        return vec2(block / DEPTH, block % DEPTH);
    }
    return vec2(block % quads, block / quads);
}

// Adds the outer products of four columns of A and rows of B.
fn add_four(sums: ptr<function, array<array<vec4<C>, QUADS_N>, TM>>, thread_m: u32, thread_n: u32, k4: u32) {
    let from_a = k4 * WIDTH + shuffled(thread_m, k4 / 4u);
    let from_b = k4 * WIDTH + BM / 4u + shuffled(thread_n, k4 / 4u);
    for (var k = 0u; k < 4u; k++) {
        var b: array<vec4<C>, QUADS_N>;
        for (var j = 0u; j < QUADS_N; j++) {
            b[j] = slice[from_b + k * WIDTH + j * THREADS_N];
        }
        for (var i = 0u; i < QUADS_M; i++) {
            let a = slice[from_a + k * WIDTH + i * (BM / TM)];
            for (var j = 0u; j < QUADS_N; j++) {
                (*sums)[i * 4u][j] += a.x * b[j];
                (*sums)[i * 4u + 1u][j] += a.y * b[j];
                (*sums)[i * 4u + 2u][j] += a.z * b[j];
                (*sums)[i * 4u + 3u][j] += a.w * b[j];
            }
        }
    }
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
    let batch = group / (tiles_m * tiles_n) % p.batch;
    let share = group / (tiles_m * tiles_n * p.batch);
    let first = share * p.share;
    if (first >= p.K) {
        return;
    }
    let end = min(p.K, first + p.share);
    let a_start = p.a_offset + (batch / p.inner) * p.a.z + (batch % p.inner) * p.a.w;
    let b_start = p.b_offset + (batch / p.inner) * p.b.z + (batch % p.inner) * p.b.w;
    let thread_n = lid % THREADS_N;
    let thread_m = lid / THREADS_N;

    // Of the blocks that this invocation moves: their lines, where they lie along K, and where they go.
    var lines: array<array<vec4<u32>, 4>, LOADS>;
    var depth: array<u32, LOADS>;
    var to: array<u32, LOADS>;
    for (var i = 0u; i < LOADS; i++) {
        let block = i * THREADS + lid;
        if (is_of_a(i, lid)) {
            let at = block_at(block, BM / 4u, !A_ALONG_M);
            lines[i] = a_lines(a_start, m0 + at.x * 4u);
            depth[i] = at.y * 4u;
            to[i] = at.y * 4u * WIDTH + shuffled(at.x, at.y);
        } else {
            let at = block_at(block - BLOCKS_A, BN / 4u, !B_ALONG_N);
            lines[i] = b_lines(b_start, n0 + at.x * 4u);
            depth[i] = at.y * 4u;
            to[i] = at.y * 4u * WIDTH + BM / 4u + shuffled(at.x, at.y);
        }
    }

    var next: array<mat4x4<T>, LOADS>;
    var sums: array<array<vec4<f32>, QUADS_N>, TM>;
    for (var k0 = first; ; k0 += BK) {
        // Beyond the end, what is read from addresses within is not used.
        for (var i = 0u; i < LOADS; i++) {
            if (is_of_a(i, lid)) {
                next[i] = a_block(lines[i], k0 + depth[i]);
            } else if (is_block(i, lid)) {
                next[i] = b_block(lines[i], k0 + depth[i]);
            }
        }

        // The slice that is there is the one before.
        if (k0 > first) {
            for (var k1 = 0u; k1 < BK; k1 += STEP) {
                var parts: array<array<vec4<C>, QUADS_N>, TM>;
                if (!SHORT_SUMS) {
                    for (var i = 0u; i < TM; i++) {
                        for (var j = 0u; j < QUADS_N; j++) {
                            parts[i][j] = vec4<C>(sums[i][j]);
                        }
                    }
                }
                add_four(&parts, thread_m, thread_n, k1);
                if (SHORT_SUMS) {
                    add_four(&parts, thread_m, thread_n, k1 + 4u);
                }
                for (var i = 0u; i < TM; i++) {
                    for (var j = 0u; j < QUADS_N; j++) {
                        if (SHORT_SUMS) {
                            sums[i][j] += vec4<f32>(parts[i][j]);
                        } else {
                            sums[i][j] = vec4<f32>(parts[i][j]);
                        }
                    }
                }
            }
        }
        if (k0 >= end) {
            break;
        }

        workgroupBarrier();
        for (var i = 0u; i < LOADS; i++) {
            if (k0 + BK > p.K) {
                next[i] = within(next[i], k0 + depth[i]);
            }
            if (is_block(i, lid)) {
                for (var j = 0u; j < 4u; j++) {
                    slice[to[i] + j * WIDTH] = vec4<C>(next[i][j]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let m = m0 + (i / 4u * (BM / TM) + thread_m) * 4u + i % 4u;
        if (m < p.M) {
            for (var j = 0u; j < QUADS_N; j++) {
                finish(sums[i][j], share * p.batch + batch, m, n0 + (j * THREADS_N + thread_n) * 4u);
            }
        }
    }
}
