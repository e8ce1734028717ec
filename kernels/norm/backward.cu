// Layer norm and RMS norm, backward to the input, and in the same pass to weight and bias.
//
// With xhat = (h - mean) * rstd and g = dy * weight, over a row of C:
//
//   dh  = rstd * (g - mean(g) - xhat * mean(g * xhat))     RMS: without mean(g)
//   dh += dsum                                             HAS_DSUM: the gradient that reached `sum` directly
//
//   dweight = sum over rows of dy * xhat                   WEIGHTS: this block's share of them, to `partials`;
//   dbias   = sum over rows of dy                          with HAS_BIAS
//
// h is the forward's `sum` if it added a residual, else x; dh is the gradient of x and of the residual alike.
//
// With WEIGHTS, h and dy are read once for all three gradients. Each thread adds up its columns over the rows of its
// team in registers; the teams of a block then add theirs in the order of their numbers. Which rows a block takes
// follows from the grid alone, so a grid that depends on sizes only gives the same bits on every device.
// backward_weight.cu adds up the partials; it also serves alone where rows are too long for registers.
//
// Constants: those of common/rows.cuh, and RMS, HAS_DSUM, WEIGHTS, HAS_BIAS: bool. WEIGHTS needs STEPS > 0.
// Parts:     common/reduce.cuh, common/rows.cuh, norm/partials.cuh, then this
// Arguments: h [rows, C], weight [C], dy [rows, C], stats [rows, 2] f32: mean, rstd, dsum [rows, C] (null unless
//            HAS_DSUM), dh [rows, C] out, partials [gridDim.x, 2, C] f32 out (null unless WEIGHTS; without HAS_BIAS the
//            second halves are not written), Params
// Grid:      any number of blocks; each team takes every (gridDim.x * TEAMS)th row
// Registers: h and dy in f32, weight as it lies in memory, with WEIGHTS two sums a column.
// Shared:    a few sums where TEAM > 32; with WEIGHTS and TEAM = 32 a row of sums for weight and one for bias.
// Bound by:  memory. It moves h, dy and dh once (and dsum), and 8 bytes of statistics a row.

struct Params {
    u32 rows;
    u32 C;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
backward(const T* __restrict__ h, const T* __restrict__ weight, const T* __restrict__ dy,
         const float* __restrict__ stats, const T* __restrict__ dsum, T* __restrict__ dh,
         float* __restrict__ partials, const Params p) {
    static_assert(RESIDENT || !WEIGHTS, "sums over rows are kept for columns in registers");
    const Share share = {threadIdx.x % TEAM, p.C};
    const u32 lines = share.lines();
    const float scale = 1.0f / p.C;
    u32 turn = 0;

    Line weights[KEPT];
    float dweight[KEPT][WIDTH], dbias[KEPT][WIDTH];
    if constexpr (RESIDENT) {
#pragma unroll
        for (u32 s = 0; s < STEPS; s++) {
            u32 c = share.column(s);
            if (share.has(s)) {
                weights[s] = Line::load(weight + c);
            }
#pragma unroll
            for (u32 i = 0; i < WIDTH; i++) {
                dweight[s][i] = dbias[s][i] = 0.0f;
            }
        }
    }

    for (u32 row = blockIdx.x * TEAMS + threadIdx.x / TEAM; row < p.rows; row += gridDim.x * TEAMS) {
        const u64 base = (u64)row * p.C;
        const float2 stat = reinterpret_cast<const float2*>(stats)[row];
        const float mean = stat.x, rstd = stat.y;
        float xhat[KEPT][WIDTH], g[KEPT][WIDTH];

        auto fetch = [&](u32 s, u32 c) {
            u32 at = RESIDENT ? s : 0;
            float d[WIDTH], w[WIDTH];
            Line::load(h + base + c).to_floats(xhat[at]);
            Line::load(dy + base + c).to_floats(d);
            (RESIDENT ? weights[at] : Line::load(weight + c)).to_floats(w);
#pragma unroll
            for (u32 i = 0; i < WIDTH; i++) {
                xhat[at][i] = (xhat[at][i] - mean) * rstd;
                g[at][i] = d[i] * w[i];
                if constexpr (WEIGHTS) {
                    dweight[at][i] += d[i] * xhat[at][i];
                    dbias[at][i] += d[i];
                }
            }
        };

        float2 sums = make_float2(0.0f, 0.0f);
#pragma unroll (UNROLL)
        for (u32 s = 0; s < lines; s++) {
            u32 at = RESIDENT ? s : 0;
            u32 c = share.column(s);
            if (share.has(s)) {
                fetch(s, c);
#pragma unroll
                for (u32 i = 0; i < WIDTH; i++) {
                    sums.x += g[at][i];
                    sums.y += g[at][i] * xhat[at][i];
                }
            }
        }
        float mean_g = 0.0f, mean_gx;
        if constexpr (RMS) {
            mean_gx = team_sum(sums.y, turn) * scale;
        } else {
            sums = team_sum2(sums, turn);
            mean_g = sums.x * scale;
            mean_gx = sums.y * scale;
        }

#pragma unroll (UNROLL)
        for (u32 s = 0; s < lines; s++) {
            u32 at = RESIDENT ? s : 0;
            u32 c = share.column(s);
            if (share.has(s)) {
                if constexpr (!RESIDENT) {
                    fetch(s, c);
                }
                float v[WIDTH];
#pragma unroll
                for (u32 i = 0; i < WIDTH; i++) {
                    v[i] = rstd * (g[at][i] - mean_g - xhat[at][i] * mean_gx);
                }
                if constexpr (HAS_DSUM) {
                    float d[WIDTH];
                    Line::load(dsum + base + c).to_floats(d);
#pragma unroll
                    for (u32 i = 0; i < WIDTH; i++) {
                        v[i] += d[i];
                    }
                }
                Line::of_floats(v).store(dh + base + c);
            }
        }
    }

    if constexpr (WEIGHTS) {
        constexpr u32 KINDS = HAS_BIAS ? 2 : 1;
        // Each lane's sums in a place of its own.
        __shared__ float shared[TEAMS > 1 ? KINDS * KEPT * WIDTH : 1][WARP_SIZE];
        // Team after team adds its sums; the last one writes the block's.
        for (u32 team = 0; team < TEAMS; team++) {
            if (team == threadIdx.x / TEAM) {
#pragma unroll
                for (u32 kind = 0; kind < KINDS; kind++) {
#pragma unroll
                    for (u32 s = 0; s < KEPT; s++) {
                        float(&v)[WIDTH] = kind == 0 ? dweight[s] : dbias[s];
                        if constexpr (TEAMS > 1) {
#pragma unroll
                            for (u32 i = 0; i < WIDTH; i++) {
                                float& sum = shared[(kind * KEPT + s) * WIDTH + i][share.member];
                                v[i] = team > 0 ? sum + v[i] : v[i];
                                sum = v[i];
                            }
                        }
                        if (team + 1 == TEAMS) {
                            store_sums(partials + ((u64)blockIdx.x * 2 + kind) * p.C, share.column(s), p.C, v);
                        }
                    }
                }
            }
            if constexpr (TEAMS > 1) {
                __syncthreads();
            }
        }
    }
}
