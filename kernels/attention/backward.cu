// Attention's backward on tensor cores. See backward.cuh for the method.
//
// A warp owns 16 or 32 rows of its block's, and walks over the visited rows, TILE at a time in shared memory and STEP
// at a time in registers. Steps that none of its rows sees are skipped. Scores and dP come out of mma as fragments of
// 16 x 8, and two of those, become P Z and dS and rounded to T, are just the fragment of 16 x 16 that the second
// products take: they never leave registers. While a tile is used the next one comes to shared memory by asynchronous
// copies, swizzled (common/tile.cuh); one barrier a tile.
//
// Constants: D        head size, a multiple of 8 up to 256; rows are padded with zeros to a multiple of 16
//            WARPS    a block
//            BLOCK    32 * WARPS
//            ROWS     fragments of 16 rows a warp owns, 1 or 2
//            TILE     visited rows a tile, a multiple of STEP
//            STEP     a multiple of 16
//            KEEP: bool  owned rows stay in registers and not in shared memory; then BAND <= 2 TILE
//            OWN_KEYS, DX, DV: bool  see backward.cuh
//            DROPOUT: bool
//            T        f16 or bf16: all matrices
// Parts:     common/ptx.cuh, common/tile.cuh, common/philox.cuh, attention/common.cuh, attention/mma.cuh,
//            attention/backward.cuh, then this
// Arguments: q [B, NH, Tq, D], k and v [B, NKV, Tk, D], dO [B, NH, Tq, D], stats [B, NH, Tq rounded up to even, 2] f32
//            (backward_stats.cu), dx|null out, dv|null out, Params. dv has the strides of dk. All but stats through the
//            strides of Params, which with all starts are multiples of 8 elements.
// Grid:      ceil(rows / BAND) * B * heads blocks with BAND = 16 ROWS WARPS: Tk and NKV with OWN_KEYS, else Tq and NH
// Shared:    dynamic, with P = D rounded up to a multiple of 16: 8 TILE P bytes for two stages of both visited matrices,
//            with OWN_KEYS 16 TILE more for statistics, and without KEEP 2 BAND P for each owned matrix
// Registers: ROWS * (P / 2 + STEP + KEEP * P / 2) for sums, scores and dP, and rows; ROWS * P / 2 more with DX and DV

constexpr u32 BAND = 16 * ROWS * WARPS;
constexpr u32 STEPS = PADDED / 16;
constexpr u32 OWNED = BAND * CHUNKS * 16; // bytes of an owned matrix
constexpr u32 MATRIX = TILE * CHUNKS * 16; // of a tile of a visited one
constexpr u32 STAGE = 2 * MATRIX + (OWN_KEYS ? TILE * sizeof(float2) : 0);
static_assert(!KEEP || OWNED <= STAGE, "the owned matrices fit into the stages");

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
backward(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ dout,
         const float2* __restrict__ stats, T* __restrict__ dx, T* __restrict__ dv, const Params p) {
    extern __shared__ __align__(128) unsigned char shared[];
    const u32 stages = shared_address(shared), owned = stages + (KEEP ? 0 : 2 * STAGE);
    const Task task = Task::of(BAND, p);
    const u32 warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, g = lane / 4, t = lane % 4;
    const u32 own_row = warp * 16 * ROWS, warp_row = task.row + own_row;
    const Interval visited = visit(seen_by(task.row, p), seen_by(min(task.row + BAND, task.rows) - 1, p));

    u32 next_head = task.first_head;
    i32 next_row = visited.first;
    auto fetch_tile = [&](u32 stage) {
        if (next_head < task.end_head && next_row < visited.end) {
            const u32 head = task.visited_head(next_head, p);
            const Rows &a = OWN_KEYS ? p.q : p.k, &b = OWN_KEYS ? p.dout : p.v;
            const i32 there = (i32)(OWN_KEYS ? p.Tq : p.Tk) - next_row;
            fetch<TILE>(stage, (OWN_KEYS ? q : k) + a.start(task.b, head) + (u64)next_row * a.position, a.position,
                        there);
            fetch<TILE>(stage + MATRIX, (OWN_KEYS ? dout : v) + b.start(task.b, head) + (u64)next_row * b.position,
                        b.position, there);
            if (OWN_KEYS && threadIdx.x < TILE / 2) {
                const u32 pair = 2 * threadIdx.x;
                copy_async16(stage + 2 * MATRIX + threadIdx.x * 16,
                             stats_of(stats, task.b, head, p) + next_row + pair, (i32)pair < there);
            }
            next_row += TILE;
            if (next_row >= visited.end) {
                next_row = visited.first;
                next_head++;
            }
        }
        copy_commit();
    };
    auto fetch_own = [&](u32 to, const T* from, const Rows& rows) {
        fetch<BAND>(to, from + rows.start(task.b, task.own_head) + (u64)task.row * rows.position, rows.position,
                    (i32)(task.rows - task.row));
    };
    fetch_own(owned, OWN_KEYS ? k : q, OWN_KEYS ? p.k : p.q);
    if constexpr (DX) {
        fetch_own(owned + OWNED, OWN_KEYS ? v : dout, OWN_KEYS ? p.v : p.dout);
    }

    // Where this lane's row of the matrices of a fragment lies: upper left, lower left, upper right and lower right,
    // and for the transpose of visited rows left columns' upper and lower half, then the right ones'. All rows are
    // added in eights: the swizzle is the lane's own, and even chunk numbers are xored in.
    const u32 row_left = lane % 16, chunk_left = lane / 16 ^ Line::mask(lane);
    const u32 row_right = lane / 16 * 8 + lane % 8, chunk_right = lane / 8 % 2 ^ Line::mask(lane);
    auto load_own = [&](u32(&fragment)[4], u32 matrix, u32 rows, u32 step) {
        const u32 row = own_row + rows * 16 + row_left;
        load_matrices<false>(fragment, owned + matrix * OWNED + (row * CHUNKS + (step * 2 ^ chunk_left)) * 16);
    };
    u32 kept[OWNED_MATRICES][ROWS][KEEP ? STEPS : 1][4];
    if constexpr (KEEP) {
        copy_commit();
        copy_wait<0>();
        __syncthreads();
#pragma unroll
        for (u32 matrix = 0; matrix < OWNED_MATRICES; matrix++) {
#pragma unroll
            for (u32 rows = 0; rows < ROWS; rows++) {
#pragma unroll
                for (u32 step = 0; step < STEPS; step++) {
                    load_own(kept[matrix][rows][step], matrix, rows, step);
                }
            }
        }
        __syncthreads();
    }
    fetch_tile(stages);

    // Of this lane's rows g and g + 8 of each fragment, or of its columns of a step.
    float2 row_stats[ROWS][2];
    if constexpr (!OWN_KEYS) {
#pragma unroll
        for (u32 i = 0; i < 2 * ROWS; i++) {
            const u32 query = min(warp_row + g + i * 8, p.Tq - 1);
            row_stats[i / 2][i % 2] = stats_of(stats, task.b, task.own_head, p)[query];
        }
    }
    // Masked scores are infinities that become 2^-infinity, which takes a scale that is not 0.
    const float scale = copysignf(fmaxf(fabsf(p.scale) * LOG2_E, 1e-30f), p.scale), masked = copysignf(INFINITE, -scale);
    float sums_a[ROWS][CHUNKS][4] = {}, sums_b[ROWS][CHUNKS][4] = {};

    // x += own visited^T
    auto multiply = [&](float(&x)[ROWS][STEP / 8][4], u32 matrix, u32 tile) {
#pragma unroll
        for (u32 step = 0; step < STEPS; step++) {
            u32 fragment[ROWS][4];
#pragma unroll
            for (u32 rows = 0; rows < ROWS; rows++) {
                if constexpr (KEEP) {
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        fragment[rows][i] = kept[matrix][rows][step][i];
                    }
                } else {
                    load_own(fragment[rows], matrix, rows, step);
                }
            }
#pragma unroll
            for (u32 n = 0; n < STEP / 16; n++) {
                u32 seen[4];
                load_matrices<false>(seen, tile + ((n * 16 + row_right) * CHUNKS + (step * 2 ^ chunk_right)) * 16);
#pragma unroll
                for (u32 rows = 0; rows < ROWS; rows++) {
                    mma<T>(x[rows][2 * n], fragment[rows], seen[0], seen[1]);
                    mma<T>(x[rows][2 * n + 1], fragment[rows], seen[2], seen[3]);
                }
            }
        }
    };

    // sums += x visited
    auto accumulate = [&](float(&sums)[ROWS][CHUNKS][4], const float(&x)[ROWS][STEP / 8][4], u32 tile) {
#pragma unroll
        for (u32 n = 0; n < STEP / 16; n++) {
            u32 fragment[ROWS][4];
#pragma unroll
            for (u32 rows = 0; rows < ROWS; rows++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const float(&pair)[4] = x[rows][2 * n + i / 2];
                    fragment[rows][i] = pack<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
                }
            }
#pragma unroll
            for (u32 step = 0; step < STEPS; step++) {
                u32 seen[4];
                load_matrices<true>(seen, tile + ((n * 16 + row_left) * CHUNKS + (step * 2 ^ chunk_left)) * 16);
#pragma unroll
                for (u32 rows = 0; rows < ROWS; rows++) {
                    mma<T>(sums[rows][2 * step], fragment[rows], seen[0], seen[1]);
                    if (2 * step + 1 < D / 8) {
                        mma<T>(sums[rows][2 * step + 1], fragment[rows], seen[2], seen[3]);
                    }
                }
            }
        }
    };

    // What dropout keeps of this lane's eight elements of the fragments 2 n and 2 n + 1 of a step: four bits each, in
    // the order of mma. A block of random bits serves four keys and several lanes, each of which draws two of theirs.
    auto kept_elements = [&](u32 rows, u32 n, i32 first, u32 head) {
        const u32 row = warp_row + rows * 16 + g, column = first + n * 16;
        u32 bits = 0;
        if constexpr (OWN_KEYS) {
            // Keys are rows, and four neighbours of them have this lane's four columns: one each, for both halves.
            const u32 query = column + 2 * t + g % 2 + g % 4 / 2 * 8;
            const u32 mine = kept_keys(row / 4, query, head, p) | kept_keys(row / 4 + 2, query, head, p) << 4;
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                const u32 theirs = __shfl_sync(FULL_WARP, mine, (lane & ~12) | e << 2) >> g % 4;
                bits |= ((theirs & 1) | (theirs >> 4 & 1) << 2) << (e / 2 * 4 + e % 2);
            }
        } else {
            // Keys are columns, of two lanes: the even one draws for one fragment, the odd one for the next.
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32 mine = kept_keys(column / 4 + t % 2 * 2 + t / 2, row + half * 8, head, p);
                const u32 other = __shfl_xor_sync(FULL_WARP, mine, 1);
                const u32 both = t % 2 ? other | mine << 4 : mine | other << 4;
                bits |= (both >> t % 2 * 2 & 0x33) << half * 2;
            }
        }
        return bits;
    };

    // What a step of a tile adds. `whole`: all rows of the warp see all of it.
    auto use_step = [&](bool whole, i32 first, u32 tile_a, u32 tile_b, u32 column_stats, u32 head) {
        float weights[ROWS][STEP / 8][4] = {}; // scores, then P, then P Z
        multiply(weights, 0, tile_a);
        if (!whole) {
#pragma unroll
            for (u32 i = 0; i < 4 * ROWS; i++) {
                const Interval seen = seen_by(warp_row + g + i / 2 * 8, p);
#pragma unroll
                for (u32 n = 0; n < STEP / 8; n++) {
                    if (!seen.contains(first + n * 8 + t * 2 + i % 2)) {
                        weights[i / 4][n][i % 4] = masked;
                    }
                }
            }
        }
        float slopes[ROWS][STEP / 8][4] = {}; // dP, then dS
        if constexpr (DX) {
            multiply(slopes, 1, tile_b);
        }
        u32 keep[ROWS] = {};
#pragma unroll
        for (u32 n = 0; n < STEP / 8; n++) {
            float2 query[2];
            if constexpr (OWN_KEYS) {
                u32 pair[4];
                load_shared16(pair, column_stats + (n * 8 + 2 * t) * sizeof(float2));
                query[0] = make_float2(__uint_as_float(pair[0]), __uint_as_float(pair[1]));
                query[1] = make_float2(__uint_as_float(pair[2]), __uint_as_float(pair[3]));
            }
#pragma unroll
            for (u32 rows = 0; rows < ROWS; rows++) {
                if (DROPOUT && n % 2 == 0) {
                    keep[rows] = kept_elements(rows, n / 2, first, head);
                }
                const u32 kept_here = keep[rows] >> n % 2 * 4;
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const float2 of = OWN_KEYS ? query[i % 2] : row_stats[rows][i / 2];
                    float& weight = weights[rows][n][i];
                    float& slope = slopes[rows][n][i];
                    weight = exp2_approx(fmaf(weight, scale, -of.x));
                    if constexpr (DROPOUT) {
                        slope = kept_here >> i & 1 ? slope * p.keep_scale : 0.0f;
                    }
                    slope = weight * (slope - of.y);
                    if (DROPOUT && !(kept_here >> i & 1)) {
                        weight = 0.0f;
                    }
                }
            }
        }
        if constexpr (DV) {
            accumulate(sums_b, weights, tile_b);
        }
        if constexpr (DX) {
            accumulate(sums_a, slopes, tile_a);
        }
    };

    const Interval first_seen = seen_by(warp_row, p), last_seen = seen_by(warp_row + 16 * ROWS - 1, p);
    u32 turn = 0;
    for (u32 head = task.first_head; head < task.end_head; head++) {
        for (i32 tile = visited.first; tile < visited.end; tile += TILE, turn ^= 1) {
            copy_wait<0>();
            __syncthreads();
            fetch_tile(stages + (turn ^ 1) * STAGE);
            const u32 stage = stages + turn * STAGE;
#pragma unroll 1
            for (u32 at = 0; at < TILE; at += STEP) {
                const i32 first = tile + (i32)at, end = first + (i32)STEP;
                if (warp_row < task.rows && first < last_seen.end && end > first_seen.first) {
                    use_step(first >= last_seen.first && end <= first_seen.end, first, stage + at * CHUNKS * 16,
                             stage + MATRIX + at * CHUNKS * 16, stage + 2 * MATRIX + at * sizeof(float2),
                             task.b * p.NH + head);
                }
            }
        }
    }

    // Sums leave through shared memory, so that a warp writes lines of 16 bytes a lane.
    copy_wait<0>();
    __syncthreads();
    auto store = [&](u32 matrix, T* to, const float(&sums)[ROWS][CHUNKS][4], float factor) {
        unsigned char* const staged = shared + (KEEP ? 0 : 2 * STAGE) + matrix * OWNED;
        const Rows& rows_out = OWN_KEYS ? p.dk : p.dq;
#pragma unroll
        for (u32 rows = 0; rows < ROWS; rows++) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
#pragma unroll
                for (u32 n = 0; n < D / 8; n++) {
                    *reinterpret_cast<u32*>(staged + Line::place(own_row + rows * 16 + g + half * 8, n) + t * 4) =
                        pack<T>(sums[rows][n][2 * half] * factor, sums[rows][n][2 * half + 1] * factor);
                }
            }
        }
        __syncwarp();
        store_rows<16 * ROWS>(to + rows_out.start(task.b, task.own_head) + (u64)task.row * rows_out.position,
                              rows_out.position, task.rows - task.row, staged, own_row);
    };
    if constexpr (DX) {
        store(0, dx, sums_a, p.scale);
    }
    if constexpr (DV) {
        // What was kept by dropout.
        store(OWNED_MATRICES - 1, dv, sums_b, p.keep_scale);
    }
}
