// Attention with ordinary multiply-adds in f32, forward: the full precision of f32 operands, and what runs where tensor
// cores do not have the type (bf16 before sm_80). See forward.cu for the method; this differs in how the work is cut.
//
// Threads form a grid of TEAMS rows and 16 columns. A row of threads owns QUERIES queries (forward.cuh says which),
// interleaved with those of the other rows; its threads share the keys of a tile between them (scores), and then the
// columns of v (sums). In between, weights go through shared memory within a warp. All reads of shared memory are of 16
// bytes: four elements along D of q and k, four weights of a query, four columns of v.
//
// q, k and v lie in shared memory as f32, row by row as in global memory, swizzled (common/tile.cuh). k and v have one
// place each: the next k is on its way while weights and sums are computed, the next v during the scores.
//
// Constants: D        head size, a multiple of 8 up to 256
//            TEAMS    rows of threads, even
//            BLOCK    16 * TEAMS
//            QUERIES  a team owns, a multiple of 4
//            TILE     keys a tile, a multiple of 16
//            GROUPED, SPLIT, DROPOUT: bool  see forward.cuh
//            T        float, or f16 or bf16 which become f32 on the way to shared memory: q, k, v, o
// Parts:     common/ptx.cuh, common/tile.cuh, common/philox.cuh, attention/common.cuh, attention/simt.cuh,
//            attention/forward.cuh, then this
// Arguments: q [B, NH, Tq, D], k and v [B, NKV, Tk, D], o|null [B, NH, Tq, D] out: through the strides of Params, which
//            with all starts are multiples of 4 elements; lse [B, NH, Tq] f32 out, with SPLIT [chunks, ..];
//            partial_o|null [chunks, B, NH, Tq, D] f32 out, instead of o with SPLIT; Params
// Grid:      see forward.cuh; BAND = TEAMS * QUERIES
// Shared:    dynamic, 4 (BAND + 2 TILE) D + 4 BAND WEIGHTS bytes, WEIGHTS = TILE rounded up to an odd multiple of 16
// Registers: QUERIES * (D / 16 + TILE / 16) for sums and scores
// Figures:   for four elements along D a thread reads QUERIES + TILE / 16 quads for 4 QUERIES TILE / 16 multiply-adds:
//            10 and 64 at 8 queries and a tile of 32.
// Bound by:  the multiply-adds, and memory where queries are few: GROUPED ones of up to BAND rows read the
//            2 sizeof(T) D Tk bytes of their key head once.

constexpr u32 BAND = TEAMS * QUERIES;
constexpr u32 KEYS = TILE / LANES; // a thread scores
// Two rows, of a warp's two teams, begin 16 banks apart.
constexpr u32 WEIGHTS = TILE % 32 == 16 ? TILE : TILE + 16;

// Over the 16 threads of a team.
template <typename F> inline float team_reduce(float x, F combine) {
#pragma unroll
    for (u32 step = 1; step < LANES; step *= 2) {
        x = combine(x, __shfl_xor_sync(FULL_WARP, x, step));
    }
    return x;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
forward(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ o,
        float* __restrict__ lse, float* __restrict__ partial_o, const Params p) {
    extern __shared__ __align__(128) unsigned char shared[];
    unsigned char* const tile_q = shared;
    unsigned char* const tile_k = tile_q + BAND * D * 4;
    unsigned char* const tile_v = tile_k + TILE * D * 4;
    float* const weights = reinterpret_cast<float*>(tile_v + TILE * D * 4);

    const Task task = Task::of(BAND, p);
    const Interval visited = task.visited;
    const u32 team = threadIdx.x / LANES, member = threadIdx.x % LANES, lane = threadIdx.x % WARP_SIZE;

    const T* const from_k = k + p.k.start(task.b, task.kv_head);
    const T* const from_v = v + p.v.start(task.b, task.kv_head);
    // A group each, empty beyond the last tile, so that counting them stays simple.
    auto fetch_k = [&](i32 j0) {
        if (j0 < visited.end) {
            fetch<TILE>(tile_k, from_k + (u64)j0 * p.k.position, p.k.position, (i32)p.Tk - j0);
        }
        copy_commit();
    };
    auto fetch_v = [&](i32 j0) {
        if (j0 < visited.end) {
            fetch<TILE>(tile_v, from_v + (u64)j0 * p.v.position, p.v.position, (i32)p.Tk - j0);
        }
        copy_commit();
    };
    fetch_lines<BAND>(tile_q, [&](u32 row) { return q + task.place(row, p.q, p); }, (i32)(task.rows - task.row));
    fetch_k(visited.first); // in one group with q
    fetch_v(visited.first);

    const float scale = p.scale * LOG2_E;
    float sums[QUERIES][COLUMNS][4] = {};
    float top[QUERIES], total[QUERIES] = {};
#pragma unroll
    for (u32 r = 0; r < QUERIES; r++) {
        top[r] = -INFINITE;
    }

    for (i32 j0 = visited.first; j0 < visited.end; j0 += TILE) {
        copy_wait<1>(); // k is there, v may not be
        __syncthreads();
        float scores[QUERIES][KEYS] = {};
#pragma unroll 2
        for (u32 chunk = 0; chunk < CHUNKS; chunk++) {
            float4 y[KEYS];
#pragma unroll
            for (u32 n = 0; n < KEYS; n++) {
                y[n] = quad(tile_k, n * LANES + member, chunk);
            }
#pragma unroll
            for (u32 r = 0; r < QUERIES; r++) {
                const float4 x = quad(tile_q, r * TEAMS + team, chunk);
#pragma unroll
                for (u32 n = 0; n < KEYS; n++) {
                    float& s = scores[r][n];
                    s = fmaf(x.x, y[n].x, s);
                    s = fmaf(x.y, y[n].y, s);
                    s = fmaf(x.z, y[n].z, s);
                    s = fmaf(x.w, y[n].w, s);
                }
            }
        }
        __syncthreads(); // k is read
        fetch_k(j0 + TILE);

#pragma unroll
        for (u32 r = 0; r < QUERIES; r++) {
            const Interval keys = task.keys(task.row + r * TEAMS + team, p);
            float largest = top[r];
#pragma unroll
            for (u32 n = 0; n < KEYS; n++) {
                float& s = scores[r][n];
                s = keys.contains(j0 + n * LANES + member) ? s * scale : -INFINITE;
                largest = fmaxf(largest, s);
            }
            largest = team_reduce(largest, [](float x, float y) { return fmaxf(x, y); });
            // Of a query that has seen no key yet all is 0, not the NaN of infinity - infinity.
            const float base = largest == -INFINITE ? 0.0f : largest;
            const float shrink = exp2f(top[r] - base);
            top[r] = largest;
            float added = 0.0f;
#pragma unroll
            for (u32 n = 0; n < KEYS; n++) {
                scores[r][n] = exp2f(scores[r][n] - base);
                added += scores[r][n];
            }
            // The softmax's total counts what dropout drops. Threads add up their own keys until the end.
            total[r] = fmaf(total[r], shrink, added);
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++) {
#pragma unroll
                for (u32 e = 0; e < 4; e++) {
                    sums[r][c][e] *= shrink;
                }
            }
        }
        if constexpr (DROPOUT) {
            // A block of random bits serves four keys, those of four neighbours: each draws it for another query, and
            // all get all.
#pragma unroll
            for (u32 n = 0; n < KEYS; n++) {
#pragma unroll
                for (u32 r = 0; r < QUERIES; r += 4) {
                    const u32 i = task.row + (r + lane % 4) * TEAMS + team;
                    const u32 mine = kept_keys((j0 + n * LANES + member) / 4, i, task.head, p);
#pragma unroll
                    for (u32 e = 0; e < 4; e++) {
                        if (!(__shfl_sync(FULL_WARP, mine, lane / 4 * 4 + e) >> lane % 4 & 1)) {
                            scores[r + e][n] = 0.0f;
                        }
                    }
                }
            }
        }
#pragma unroll
        for (u32 r = 0; r < QUERIES; r++) {
#pragma unroll
            for (u32 n = 0; n < KEYS; n++) {
                weights[(r * TEAMS + team) * WEIGHTS + n * LANES + member] = scores[r][n];
            }
        }

        copy_wait<1>(); // v is there, the next k may not be
        __syncthreads();
#pragma unroll 1
        for (u32 j = 0; j < TILE; j += 4) {
            float w[QUERIES][4];
#pragma unroll
            for (u32 r = 0; r < QUERIES; r++) {
                const float4 x = *reinterpret_cast<const float4*>(weights + (r * TEAMS + team) * WEIGHTS + j);
                w[r][0] = x.x, w[r][1] = x.y, w[r][2] = x.z, w[r][3] = x.w;
            }
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
#pragma unroll
                for (u32 c = 0; c < COLUMNS; c++) {
                    if (CHUNKS % LANES == 0 || c * LANES + member < CHUNKS) {
                        const float4 x = quad(tile_v, j + e, c * LANES + member);
#pragma unroll
                        for (u32 r = 0; r < QUERIES; r++) {
                            sums[r][c][0] = fmaf(w[r][e], x.x, sums[r][c][0]);
                            sums[r][c][1] = fmaf(w[r][e], x.y, sums[r][c][1]);
                            sums[r][c][2] = fmaf(w[r][e], x.z, sums[r][c][2]);
                            sums[r][c][3] = fmaf(w[r][e], x.w, sums[r][c][3]);
                        }
                    }
                }
            }
        }
        __syncthreads(); // v is read, and the weights
        fetch_v(j0 + TILE);
    }
    copy_wait<0>();

#pragma unroll
    for (u32 r = 0; r < QUERIES; r++) {
        const u32 row = r * TEAMS + team;
        const float sum = team_reduce(total[r], [](float x, float y) { return x + y; });
        const float norm = sum > 0.0f ? p.keep_scale / sum : 0.0f;
        if (task.row + row < task.rows) {
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++) {
                if (CHUNKS % LANES == 0 || c * LANES + member < CHUNKS) {
                    float x[4];
#pragma unroll
                    for (u32 e = 0; e < 4; e++) {
                        x[e] = sums[r][c][e] * norm;
                    }
                    const u32 column = (c * LANES + member) * 4;
                    if constexpr (SPLIT) {
                        Vec<float, 4>::of_floats(x).store(partial_o + task.number(row, p) * D + column);
                    } else {
                        Vec<T, 4>::of_floats(x).store(o + task.place(row, p.o, p) + column);
                    }
                }
            }
            if (member == 0) {
                lse[task.number(row, p)] = sum > 0.0f ? (top[r] + log2f(sum)) * LN_2 : -INFINITE;
            }
        }
    }
}
