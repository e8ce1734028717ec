// Attention's backward with ordinary multiply-adds in f32: the full precision of f32 operands, and what runs where
// tensor cores do not have the type (bf16 before sm_80). See backward.cuh for the method.
//
// Threads form a grid of TEAMS rows and 16 columns. A row of threads owns ROWS rows; its threads share the visited rows
// of a tile between them (scores and dP), and then the columns of a and b (sums). In between, dS and P go through
// shared memory within a warp. All reads of shared memory are of 16 bytes: four elements along D of two rows, four
// weights of a row, four columns.
//
// Everything lies in shared memory as f32, row by row as in global memory, swizzled (common/tile.cuh). a and b of a tile
// have one place each, and come while the other is used.
//
// Constants: D        head size, a multiple of 8 up to 256
//            TEAMS    rows of threads, even
//            BLOCK    16 * TEAMS
//            ROWS     a team owns, a multiple of 4
//            TILE     visited rows, 16 or 32
//            OWN_KEYS, DX, DV: bool  see backward.cuh
//            DROPOUT: bool
//            T        float, or f16 or bf16 which become f32 on the way to shared memory: all matrices
// Parts:     common/ptx.cuh, common/tile.cuh, common/philox.cuh, attention/common.cuh, attention/simt.cuh,
//            attention/backward.cuh, then this
// Arguments: q [B, NH, Tq, D], k and v [B, NKV, Tk, D], dO [B, NH, Tq, D], stats [B, NH, Tq rounded up to even, 2] f32
//            (backward_stats.cu), dx|null out, dv|null out, Params. dv has the strides of dk. All but stats through the
//            strides of Params, which with all starts are multiples of 4 elements.
// Grid:      ceil(rows / BAND) * B * heads blocks with BAND = TEAMS * ROWS: Tk and NKV with OWN_KEYS, else Tq and NH
// Shared:    dynamic, 8 TILE D bytes for two visited matrices, 4 BAND D for each owned one, and for weights
//            4 BAND TILE bytes for dx and as much for dv
// Registers: ROWS * (D / 16 + TILE / 8) for sums, scores and dP; ROWS * D / 16 more with DX and DV
// Figures:   for four elements along D a thread reads ROWS + TILE / 16 quads for 4 ROWS TILE / 16 multiply-adds: 6 and
//            32 at 4 rows and a tile of 32.

constexpr u32 BAND = TEAMS * ROWS;
constexpr u32 SEEN = TILE / LANES; // visited rows that a thread scores

// A team's rows come in fours: four keys share a block of dropout's random bits.
inline u32 row_of(u32 r, u32 team) {
    return (r / 4 * TEAMS + team) * 4 + r % 4;
}

// Where the weights of a row begin to lie that teams exchange. Those of a warp's two teams lie 16 banks apart: with
// TILE = 16 as they are next to each other, with 32 as one has its halves exchanged.
inline u32 weight_place(u32 r, u32 team, u32 column) {
    return (r * TEAMS + team) * TILE + (TILE % 32 == 0 ? column ^ team % 2 * 16 : column);
}

// x += own visited^T, for this thread's rows and columns.
inline void multiply(float (&x)[ROWS][SEEN], const unsigned char* own, const unsigned char* visited, u32 team,
                     u32 member) {
#pragma unroll 2
    for (u32 chunk = 0; chunk < CHUNKS; chunk++) {
        float4 y[SEEN];
#pragma unroll
        for (u32 n = 0; n < SEEN; n++) {
            y[n] = quad(visited, n * LANES + member, chunk);
        }
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            const float4 w = quad(own, row_of(r, team), chunk);
#pragma unroll
            for (u32 n = 0; n < SEEN; n++) {
                float& s = x[r][n];
                s = fmaf(w.x, y[n].x, s);
                s = fmaf(w.y, y[n].y, s);
                s = fmaf(w.z, y[n].z, s);
                s = fmaf(w.w, y[n].w, s);
            }
        }
    }
}

// sums += weights visited, for this thread's rows and quads of columns.
inline void accumulate(float (&sums)[ROWS][COLUMNS][4], const float* weights, const unsigned char* visited, u32 team,
                       u32 member) {
#pragma unroll 1
    for (u32 j = 0; j < TILE; j += 4) {
        float w[ROWS][4];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            const float4 x = *reinterpret_cast<const float4*>(weights + weight_place(r, team, j));
            w[r][0] = x.x, w[r][1] = x.y, w[r][2] = x.z, w[r][3] = x.w;
        }
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++) {
                if (CHUNKS % LANES == 0 || c * LANES + member < CHUNKS) {
                    const float4 x = quad(visited, j + e, c * LANES + member);
#pragma unroll
                    for (u32 r = 0; r < ROWS; r++) {
                        sums[r][c][0] = fmaf(w[r][e], x.x, sums[r][c][0]);
                        sums[r][c][1] = fmaf(w[r][e], x.y, sums[r][c][1]);
                        sums[r][c][2] = fmaf(w[r][e], x.z, sums[r][c][2]);
                        sums[r][c][3] = fmaf(w[r][e], x.w, sums[r][c][3]);
                    }
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
backward(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ dout,
         const float2* __restrict__ stats, T* __restrict__ dx, T* __restrict__ dv, const Params p) {
    extern __shared__ __align__(128) unsigned char shared[];
    unsigned char* const own_a = shared;
    unsigned char* const own_b = own_a + BAND * D * 4;
    unsigned char* const tile_a = shared + OWNED_MATRICES * BAND * D * 4;
    unsigned char* const tile_b = tile_a + TILE * D * 4;
    float* const weights_a = reinterpret_cast<float*>(tile_b + TILE * D * 4);
    float* const weights_b = weights_a + (DX ? BAND * TILE : 0);

    const Task task = Task::of(BAND, p);
    const u32 team = threadIdx.x / LANES, member = threadIdx.x % LANES, lane = threadIdx.x % WARP_SIZE;
    const Interval visited =
        visit(seen_by(task.row, p), seen_by(min(task.row + BAND, task.rows) - 1, p));
    const u32 visited_rows = OWN_KEYS ? p.Tq : p.Tk;

    // The tiles of a and of b are visited in the same order, each a group of copies of its own; empty ones past the end
    // keep counting them simple.
    struct Next {
        u32 head;
        i32 row;
    };
    auto fetch_tile = [&](Next& next, unsigned char* to, const T* from, const Rows& rows) {
        if (next.head < task.end_head && next.row < visited.end) {
            const T* start = from + rows.start(task.b, task.visited_head(next.head, p));
            fetch<TILE>(to, start + (u64)next.row * rows.position, rows.position, (i32)visited_rows - next.row);
            next.row += TILE;
            if (next.row >= visited.end) {
                next = {next.head + 1, visited.first};
            }
        }
        copy_commit();
    };
    Next next_a = {task.first_head, visited.first}, next_b = next_a;
    auto fetch_a = [&] { fetch_tile(next_a, tile_a, OWN_KEYS ? q : k, OWN_KEYS ? p.q : p.k); };
    auto fetch_b = [&] { fetch_tile(next_b, tile_b, OWN_KEYS ? dout : v, OWN_KEYS ? p.dout : p.v); };
    auto fetch_own = [&](unsigned char* to, const T* from, const Rows& rows) {
        fetch<BAND>(to, from + rows.start(task.b, task.own_head) + (u64)task.row * rows.position, rows.position,
                    (i32)(task.rows - task.row));
    };
    fetch_own(own_a, OWN_KEYS ? k : q, OWN_KEYS ? p.k : p.q);
    if constexpr (DX) {
        fetch_own(own_b, OWN_KEYS ? v : dout, OWN_KEYS ? p.v : p.dout);
    }
    fetch_b(); // in one group with the owned rows
    fetch_a();

    const float scale = p.scale * LOG2_E;
    float sums_a[ROWS][COLUMNS][4] = {}, sums_b[ROWS][COLUMNS][4] = {};
    // Of the query of a row, or of a column.
    float2 row_stats[ROWS], column_stats[SEEN];
    if constexpr (!OWN_KEYS) {
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            const u32 i = min(task.row + row_of(r, team), p.Tq - 1);
            row_stats[r] = stats_of(stats, task.b, task.own_head, p)[i];
        }
    }

    for (u32 head = task.first_head; head < task.end_head; head++) {
        const u32 random_head = task.b * p.NH + head;
        for (i32 first = visited.first; first < visited.end; first += TILE) {
            if constexpr (OWN_KEYS) {
#pragma unroll
                for (u32 n = 0; n < SEEN; n++) {
                    const u32 i = min(first + n * LANES + member, p.Tq - 1);
                    column_stats[n] = stats_of(stats, task.b, head, p)[i];
                }
            }
            copy_wait<1>(); // b is there, a may not be
            __syncthreads();
            float slopes[ROWS][SEEN] = {}; // dP, then dS
            if constexpr (DX) {
                multiply(slopes, own_b, tile_b, team, member);
            }
            if constexpr (DV) {
                copy_wait<0>();
            } else {
                __syncthreads(); // b is read
                fetch_b();
                copy_wait<1>(); // a is there, the next b may not be
            }
            __syncthreads();
            float weights[ROWS][SEEN] = {}; // scores, then P, then P Z
            multiply(weights, own_a, tile_a, team, member);

#pragma unroll
            for (u32 r = 0; r < ROWS; r++) {
                const Interval seen = seen_by(task.row + row_of(r, team), p);
#pragma unroll
                for (u32 n = 0; n < SEEN; n++) {
                    const float2 query = OWN_KEYS ? column_stats[n] : row_stats[r];
                    const float weight = exp2f(fmaf(weights[r][n], scale, -query.x));
                    weights[r][n] = seen.contains(first + n * LANES + member) ? weight : 0.0f;
                }
            }
            u32 kept[ROWS / 4][SEEN]; // of a column, four rows' bits; of one row with owned queries
            if constexpr (DROPOUT) {
#pragma unroll
                for (u32 r = 0; r < ROWS; r += 4) {
#pragma unroll
                    for (u32 n = 0; n < SEEN; n++) {
                        const u32 row = task.row + row_of(r, team), column = first + n * LANES + member;
                        if constexpr (OWN_KEYS) {
                            kept[r / 4][n] = kept_keys(row / 4, column, random_head, p);
                        } else {
                            // A block of random bits serves four keys, those of four neighbours: each draws it for
                            // another query, and all get all.
                            const u32 mine = kept_keys(column / 4, row + lane % 4, random_head, p);
                            kept[r / 4][n] = 0;
#pragma unroll
                            for (u32 e = 0; e < 4; e++) {
                                kept[r / 4][n] |=
                                    (__shfl_sync(FULL_WARP, mine, lane / 4 * 4 + e) >> lane % 4 & 1) << e;
                            }
                        }
                    }
                }
            }
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
                for (u32 n = 0; n < SEEN; n++) {
                    const float2 query = OWN_KEYS ? column_stats[n] : row_stats[r];
                    float weight = weights[r][n], slope = slopes[r][n];
                    if constexpr (DROPOUT) {
                        const bool keep = kept[r / 4][n] >> r % 4 & 1;
                        slope = keep ? slope * p.keep_scale : 0.0f;
                        weights[r][n] = keep ? weight : 0.0f;
                    }
                    slope = weight * (slope - query.y);
                    const u32 place = weight_place(r, team, n * LANES + member);
                    if constexpr (DX) {
                        weights_a[place] = slope;
                    }
                    if constexpr (DV) {
                        weights_b[place] = weights[r][n];
                    }
                }
            }
            __syncwarp();
            if constexpr (DV) {
                accumulate(sums_b, weights_b, tile_b, team, member);
                __syncthreads(); // b is read
                fetch_b();
            }
            if constexpr (DX) {
                accumulate(sums_a, weights_a, tile_a, team, member);
            }
            __syncthreads(); // a is read, and the weights
            fetch_a();
        }
    }
    copy_wait<0>();

    auto store = [&](T* to, const float (&sums)[ROWS][COLUMNS][4], float factor) {
        const Rows& rows = OWN_KEYS ? p.dk : p.dq;
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            const u32 row = task.row + row_of(r, team);
            if (row < task.rows) {
                T* line = to + rows.start(task.b, task.own_head) + (u64)row * rows.position;
#pragma unroll
                for (u32 c = 0; c < COLUMNS; c++) {
                    if (CHUNKS % LANES == 0 || c * LANES + member < CHUNKS) {
                        float x[4];
#pragma unroll
                        for (u32 e = 0; e < 4; e++) {
                            x[e] = sums[r][c][e] * factor;
                        }
                        Vec<T, 4>::of_floats(x).store(line + (c * LANES + member) * 4);
                    }
                }
            }
        }
    };
    if constexpr (DX) {
        store(dx, sums_a, p.scale);
    }
    if constexpr (DV) {
        // What was kept by dropout.
        store(dv, sums_b, p.keep_scale);
    }
}
