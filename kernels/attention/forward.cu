// Attention on tensor cores, forward: o = dropout(softmax(q k^T scale + mask)) v, without ever storing the scores.
//
// A block owns BAND queries (forward.cuh says which), a warp 16 or 32 of them, and walks over the keys they see, TILE at
// a time. The softmax is computed online: `top` is the largest score so far, `total` and `sums` are the sums of
// exp(score - top) and of exp(score - top) * v. When a larger score comes, both are rescaled (Milakov and Gimelshein,
// "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022; Dao, "FlashAttention-2", 2023:
// queries, not keys, are divided over warps, and the division by the total comes last). Keys that no query of a warp
// sees are skipped: whole tiles, and sixteen at a time of a tile of which it sees a part.
//
// Scores come out of mma as fragments of 16 x 8, and two of those, rounded to T, are just the fragment of 16 x 16 that
// the product with v takes: weights never leave registers. While a tile is used the next one comes to shared memory
// by asynchronous copies, swizzled (common/tile.cuh); one barrier a tile.
//
// exp(x) is computed as 2^(x log2(e)), with scale * log2(e) in the same multiply-add that subtracts the largest score.
// That needs a positive scale, so a negative one's sign goes into q.
//
// A query that sees no key gets o = 0 and lse = minus infinity.
//
// Constants: D        head size, a multiple of 8 up to 256; rows are padded with zeros to a multiple of 16
//            WARPS    a block
//            BLOCK    32 * WARPS
//            ROWS     fragments of 16 queries a warp owns, 1 or 2
//            TILE     keys a tile, a multiple of 16
//            KEEP_Q: bool  q stays in registers and not in shared memory; then 16 ROWS WARPS <= 2 TILE
//            GROUPED, SPLIT, DROPOUT: bool  see forward.cuh
//            T        f16 or bf16: q, k, v, o
// Parts:     common/ptx.cuh, common/tile.cuh, common/philox.cuh, attention/common.cuh, attention/mma.cuh,
//            attention/forward.cuh, then this
// Arguments: q [B, NH, Tq, D], k and v [B, NKV, Tk, D], o|null [B, NH, Tq, D] out: through the strides of Params, which
//            with all starts are multiples of 8 elements; lse [B, NH, Tq] f32 out, with SPLIT [chunks, ..];
//            partial_o|null [chunks, B, NH, Tq, D] f32 out, instead of o with SPLIT; Params
// Grid:      see forward.cuh
// Shared:    dynamic, with P = D rounded up to a multiple of 16: 8 TILE P bytes for two stages of k and v, and without
//            KEEP_Q 2 BAND P more
// Registers: ROWS * (P / 2 + TILE / 2 + KEEP_Q * P / 4) for sums, scores and q
// Figures:   a warp reads each tile as P TILE / 128 ldmatrix of 4 cycles for ROWS P TILE / 64 mma: with ROWS = 2 four
//            mma of 8 cycles on each of an A100's four tensor cores for each ldmatrix of all four warps, 32 and 16
//            cycles. A block reads k and v once for BAND queries.
// Bound by:  the products, and memory where queries are few: GROUPED ones of up to BAND rows read the 4 D Tk bytes of
//            their key head once. Of 8 key heads with D = 128 and Tk = 16384 that is 64 MiB, 43 us of an A100's memory.

constexpr u32 BAND = 16 * ROWS * WARPS;
constexpr u32 MATRIX = TILE * CHUNKS * 16; // bytes of a tile of k or v
constexpr u32 STAGE = 2 * MATRIX;

template <bool VALUE> struct Flag {
    static constexpr bool value = VALUE;
};

// Changes the signs of COUNT rows in shared memory. Each thread takes what it copied there itself, so this needs its
// own wait before it and the copies' barrier after it.
template <u32 COUNT> inline void negate(u32 at) {
    for (u32 id = threadIdx.x; id < COUNT * CHUNKS; id += BLOCK) {
        const u32 place = at + Line::place(id / CHUNKS, id % CHUNKS);
        u32 words[4];
        load_shared16(words, place);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            words[i] ^= 0x80008000;
        }
        store_shared16(place, words);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
forward(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ o,
        float* __restrict__ lse, float* __restrict__ partial_o, const Params p) {
    extern __shared__ __align__(128) unsigned char shared[];
    const u32 stages = shared_address(shared);
    const Task task = Task::of(BAND, p);
    const Interval visited = task.visited;
    const u32 warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, g = lane / 4, t = lane % 4;
    const u32 own_row = warp * 16 * ROWS, warp_row = task.row + own_row;

    const T* next_k = k + p.k.start(task.b, task.kv_head) + (u64)visited.first * p.k.position;
    const T* next_v = v + p.v.start(task.b, task.kv_head) + (u64)visited.first * p.v.position;
    auto fetch_tile = [&](i32 j0, u32 stage) {
        if (j0 < visited.end) {
            fetch<TILE>(stage, next_k, p.k.position, (i32)p.Tk - j0);
            fetch<TILE>(stage + MATRIX, next_v, p.v.position, (i32)p.Tk - j0);
            next_k += (u64)TILE * p.k.position;
            next_v += (u64)TILE * p.v.position;
        }
        copy_commit();
    };

    // q comes to the second stage, which is free until its fragments are read, or to its own place.
    static_assert(!KEEP_Q || BAND <= 2 * TILE, "q fits into a stage");
    const u32 place_q = stages + (KEEP_Q ? 1 : 2) * STAGE;
    fetch_lines<BAND>(place_q, [&](u32 row) { return q + task.place(row, p.q, p); }, (i32)(task.rows - task.row));
    copy_commit();
    fetch_tile(visited.first, stages);
    if (p.scale < 0.0f) {
        copy_wait<1>();
        negate<BAND>(place_q);
    }

    // Where this lane's row of the matrices of a fragment lies: for q and v (transposed) upper left, lower left, upper
    // right, lower right; for k, whose rows are columns of its transpose, left columns' upper and lower half, then the
    // right ones'. All rows are added in eights: the swizzle is the lane's own, and even chunk numbers are xored in.
    const u32 row_qv = lane % 16, chunk_qv = lane / 16 ^ Line::mask(lane);
    const u32 row_k = lane / 16 * 8 + lane % 8, chunk_k = lane / 8 % 2 ^ Line::mask(lane);
    auto load_q = [&](u32(&fragment)[4], u32 rows, u32 step) {
        const u32 row = own_row + rows * 16 + row_qv;
        load_matrices<false>(fragment, place_q + (row * CHUNKS + (step * 2 ^ chunk_qv)) * 16);
    };
    constexpr u32 STEPS = PADDED / 16;
    u32 fragment_q[ROWS][KEEP_Q ? STEPS : 1][4];
    if constexpr (KEEP_Q) {
        copy_wait<1>();
        __syncthreads();
#pragma unroll
        for (u32 rows = 0; rows < ROWS; rows++) {
#pragma unroll
            for (u32 step = 0; step < STEPS; step++) {
                load_q(fragment_q[rows][step], rows, step);
            }
        }
    }

    // A scale of 0 must not turn the minus infinity of masked scores into NaN.
    const float scale = fmaxf(fabsf(p.scale) * LOG2_E, 1e-30f);
    // Of this lane's rows g and g + 8 of each fragment.
    float sums[ROWS][CHUNKS][4] = {};
    float top[ROWS][2], total[ROWS][2] = {};
#pragma unroll
    for (u32 rows = 0; rows < ROWS; rows++) {
        top[rows][0] = top[rows][1] = -INFINITE;
    }
    const Interval first_keys = task.keys(warp_row, p), last_keys = task.keys(warp_row + 16 * ROWS - 1, p);

    // Sixteen keys of a tile that no query of this warp sees.
    auto unseen = [&](i32 j0, u32 keys) {
        const i32 first = j0 + (i32)(keys * 16);
        return first >= last_keys.end || first + 16 <= first_keys.first;
    };

    // What a tile adds. Every query of the warp sees most tiles whole, and these have code of their own.
    auto use_tile = [&](auto whole, i32 j0, u32 tile_k, u32 tile_v) {
        constexpr bool WHOLE = decltype(whole)::value;
        float scores[ROWS][TILE / 8][4] = {};
#pragma unroll
        for (u32 step = 0; step < STEPS; step++) {
            u32 fragment[ROWS][4];
#pragma unroll
            for (u32 rows = 0; rows < ROWS; rows++) {
                if constexpr (KEEP_Q) {
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        fragment[rows][i] = fragment_q[rows][step][i];
                    }
                } else {
                    load_q(fragment[rows], rows, step);
                }
            }
#pragma unroll
            for (u32 keys = 0; keys < TILE / 16; keys++) {
                if (!WHOLE && unseen(j0, keys)) {
                    continue;
                }
                u32 fragment_k[4];
                load_matrices<false>(fragment_k,
                                     tile_k + ((keys * 16 + row_k) * CHUNKS + (step * 2 ^ chunk_k)) * 16);
#pragma unroll
                for (u32 rows = 0; rows < ROWS; rows++) {
                    mma<T>(scores[rows][2 * keys], fragment[rows], fragment_k[0], fragment_k[1]);
                    mma<T>(scores[rows][2 * keys + 1], fragment[rows], fragment_k[2], fragment_k[3]);
                }
            }
        }

        if constexpr (!WHOLE) {
#pragma unroll
            for (u32 rows = 0; rows < ROWS; rows++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const Interval keys = task.keys(warp_row + rows * 16 + g + i / 2 * 8, p);
#pragma unroll
                    for (u32 n = 0; n < TILE / 8; n++) {
                        if (!keys.contains(j0 + n * 8 + t * 2 + i % 2)) {
                            scores[rows][n][i] = -INFINITE;
                        }
                    }
                }
            }
        }

        // Weights, not yet divided by the total.
#pragma unroll
        for (u32 rows = 0; rows < ROWS; rows++) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float largest = top[rows][half];
#pragma unroll
                for (u32 n = 0; n < TILE / 8; n++) {
                    largest = fmaxf(largest, fmaxf(scores[rows][n][2 * half], scores[rows][n][2 * half + 1]));
                }
                largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
                largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
                // Of a query that has seen no key yet all is 0, not the NaN of infinity - infinity.
                const float base = largest == -INFINITE ? 0.0f : largest * scale;
                const float shrink = exp2_approx(fmaf(top[rows][half], scale, -base));
                top[rows][half] = largest;
                float added = 0.0f;
#pragma unroll
                for (u32 n = 0; n < TILE / 8; n++) {
#pragma unroll
                    for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                        float& score = scores[rows][n][i];
                        score = exp2_approx(fmaf(score, scale, -base));
                        added += score;
                    }
                }
                // The softmax's total counts what dropout drops. Lanes add up their own columns until the end.
                total[rows][half] = fmaf(total[rows][half], shrink, added);
#pragma unroll
                for (u32 n = 0; n < CHUNKS; n++) {
                    sums[rows][n][2 * half] *= shrink;
                    sums[rows][n][2 * half + 1] *= shrink;
                }
                if constexpr (DROPOUT) {
                    // A block of random bits serves four keys, the columns of two lanes: the even one draws it for one
                    // fragment, the odd one for the next, and they exchange.
                    const u32 i = warp_row + rows * 16 + g + half * 8;
#pragma unroll
                    for (u32 n = 0; n < TILE / 8; n += 2) {
                        const u32 mine = kept_keys(j0 / 4 + (n + t % 2) * 2 + t / 2, i, task.head, p);
                        const u32 other = __shfl_xor_sync(FULL_WARP, mine, 1);
                        const u32 kept[2] = {t % 2 ? other : mine, t % 2 ? mine : other};
#pragma unroll
                        for (u32 e = 0; e < 4; e++) {
                            if (!(kept[e / 2] >> (t % 2 * 2 + e % 2) & 1)) {
                                scores[rows][n + e / 2][2 * half + e % 2] = 0.0f;
                            }
                        }
                    }
                }
            }
        }

        // Their values.
#pragma unroll
        for (u32 keys = 0; keys < TILE / 16; keys++) {
            if (!WHOLE && unseen(j0, keys)) {
                continue;
            }
            u32 weights[ROWS][4];
#pragma unroll
            for (u32 rows = 0; rows < ROWS; rows++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const float(&pair)[4] = scores[rows][2 * keys + i / 2];
                    weights[rows][i] = pack<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
                }
            }
#pragma unroll
            for (u32 step = 0; step < STEPS; step++) {
                u32 fragment_v[4];
                load_matrices<true>(fragment_v, tile_v + ((keys * 16 + row_qv) * CHUNKS + (step * 2 ^ chunk_qv)) * 16);
#pragma unroll
                for (u32 rows = 0; rows < ROWS; rows++) {
                    mma<T>(sums[rows][2 * step], weights[rows], fragment_v[0], fragment_v[1]);
                    if (2 * step + 1 < D / 8) {
                        mma<T>(sums[rows][2 * step + 1], weights[rows], fragment_v[2], fragment_v[3]);
                    }
                }
            }
        }
    };

    u32 turn = 0;
    for (i32 j0 = visited.first; j0 < visited.end; j0 += TILE, turn ^= 1) {
        copy_wait<0>();
        __syncthreads();
        fetch_tile(j0 + TILE, stages + (turn ^ 1) * STAGE);
        const u32 tile_k = stages + turn * STAGE, tile_v = tile_k + MATRIX;
        if (j0 >= last_keys.first && j0 + (i32)TILE <= first_keys.end) {
            use_tile(Flag<true>(), j0, tile_k, tile_v);
        } else if (j0 < last_keys.end && j0 + (i32)TILE > first_keys.first) {
            use_tile(Flag<false>(), j0, tile_k, tile_v);
        }
    }

    // o leaves through shared memory, so that a warp writes lines of 16 bytes a lane. It lies over the stages. Partial
    // sums leave at once: four lanes have 32 bytes of a row.
    static_assert(BAND <= 4 * TILE, "o fits");
    copy_wait<0>();
    __syncthreads();
#pragma unroll
    for (u32 rows = 0; rows < ROWS; rows++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float& sum = total[rows][half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            const float norm = sum > 0.0f ? p.keep_scale / sum : 0.0f;
            const u32 row = own_row + rows * 16 + g + half * 8;
            const bool there = task.row + row < task.rows;
#pragma unroll
            for (u32 n = 0; n < D / 8; n++) {
                const float a = sums[rows][n][2 * half] * norm, b = sums[rows][n][2 * half + 1] * norm;
                if constexpr (!SPLIT) {
                    *reinterpret_cast<u32*>(shared + Line::place(row, n) + t * 4) = pack<T>(a, b);
                } else if (there) {
                    store8(partial_o + task.number(row, p) * D + n * 8 + t * 2, __float_as_uint(a), __float_as_uint(b));
                }
            }
            if (t == 0 && there) {
                lse[task.number(row, p)] =
                    sum > 0.0f ? fmaf(top[rows][half], scale, log2_approx(sum)) * LN_2 : -INFINITE;
            }
        }
    }
    if constexpr (!SPLIT) {
        __syncwarp();
        store_lines<16 * ROWS>([&](u32 row) { return o + task.place(row, p.o, p); }, task.rows - task.row, shared,
                               own_row);
    }
}
