// Layer norm (Ba, Kiros and Hinton, 2016) and RMS norm (Zhang and Sennrich, 2019), forward, each with or without the
// residual add before it.
//
//   h    = x + residual                         RESIDUAL; else h = x. With DROPOUT, of x what dropout.cu leaves
//   mean = sum(h) / C                           RMS: 0
//   rstd = 1 / sqrt(sum((h - mean)^2) / C + eps)
//   y    = (h - mean) * rstd * weight + bias    no bias unless HAS_BIAS
//
// The variance takes a second pass over the row, which is in registers by then: E[h^2] - E[h]^2 cancels when |mean| is
// much larger than the deviation. With RESIDUAL, h is what `sum` holds, after rounding to T: later layers and backward
// see that value.
//
// Constants: those of common/rows.cuh, and RMS, HAS_BIAS, RESIDUAL, DROPOUT: bool. DROPOUT needs a WIDTH of 4 or 8, so
//            that a line is whole blocks of random bits
// Parts:     common/reduce.cuh, common/rows.cuh, common/philox.cuh, then this
// Arguments: x [rows, C], residual [rows, C] (null unless RESIDUAL), weight [C], bias [C] (null unless HAS_BIAS),
//            y [rows, C] out, stats [rows, 2] f32 out: mean, rstd, sum [rows, C] out (null unless RESIDUAL), Params
// Grid:      any number of blocks; each team takes every (gridDim.x * TEAMS)th row. A full device is enough, and then
//            weight and bias are read once a team and not once a row.
// Registers: the row in f32, weight and bias as they lie in memory. Shared memory: a few sums where TEAM > 32.
// Bound by:  memory. It moves x once and y once (with RESIDUAL two rows in, two out), and 8 bytes of statistics.

struct Params {
    u32 rows;
    u32 C;
    float eps;
    u32 threshold; // of what dropout.cu says, as what follows
    uint2 key;
    uint2 offset;
    float scale;
    u32 pad;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
forward(const T* __restrict__ x, const T* __restrict__ residual, const T* __restrict__ weight,
        const T* __restrict__ bias, T* __restrict__ y, float* __restrict__ stats, T* __restrict__ sum,
        const Params p) {
    const Share share = {threadIdx.x % TEAM, p.C};
    const u32 lines = share.lines();
    const float scale = 1.0f / p.C;
    u32 turn = 0;

    Line weights[KEPT], biases[KEPT];
    if constexpr (RESIDENT) {
#pragma unroll
        for (u32 s = 0; s < STEPS; s++) {
            u32 c = share.column(s);
            if (share.has(s)) {
                weights[s] = Line::load(weight + c);
                if constexpr (HAS_BIAS) {
                    biases[s] = Line::load(bias + c);
                }
            }
        }
    }

    for (u32 row = blockIdx.x * TEAMS + threadIdx.x / TEAM; row < p.rows; row += gridDim.x * TEAMS) {
        const u64 base = (u64)row * p.C;
        float h[KEPT][WIDTH];

        // Pass 1: h and its sum.
        float total = 0.0f;
#pragma unroll (UNROLL)
        for (u32 s = 0; s < lines; s++) {
            float(&v)[WIDTH] = h[RESIDENT ? s : 0];
            u32 c = share.column(s);
            if (share.has(s)) {
                Line::load(x + base + c).to_floats(v);
                if constexpr (DROPOUT) {
#pragma unroll
                    for (u32 i = 0; i < WIDTH; i += 4) {
                        uint4 bits = philox(make_uint4((u32)((base + c + i) / 4), 0, p.offset.x, p.offset.y), p.key);
                        v[i] = bits.x >= p.threshold ? v[i] * p.scale : 0.0f;
                        v[i + 1] = bits.y >= p.threshold ? v[i + 1] * p.scale : 0.0f;
                        v[i + 2] = bits.z >= p.threshold ? v[i + 2] * p.scale : 0.0f;
                        v[i + 3] = bits.w >= p.threshold ? v[i + 3] * p.scale : 0.0f;
                    }
                }
                if constexpr (RESIDUAL) {
                    float r[WIDTH];
                    Line::load(residual + base + c).to_floats(r);
#pragma unroll
                    for (u32 i = 0; i < WIDTH; i++) {
                        v[i] += r[i];
                    }
                    Line rounded = Line::of_floats(v);
                    rounded.store(sum + base + c);
                    rounded.to_floats(v);
                }
                if constexpr (!RMS) {
#pragma unroll
                    for (u32 i = 0; i < WIDTH; i++) {
                        total += v[i];
                    }
                }
            }
        }
        if constexpr (!RESIDENT && RESIDUAL) {
            settle(); // what comes next reads `sum`
        }
        float mean = 0.0f;
        if constexpr (!RMS) {
            mean = team_sum(total, turn) * scale;
        }

        // h of a line, from registers, or again from where pass 1 had it; a thread reads only what it wrote itself.
        auto fetch = [&](u32 s, u32 c) {
            if constexpr (!RESIDENT) {
                Line::load((RESIDUAL ? sum : x) + base + c).to_floats(h[0]);
            }
        };

        // Pass 2: the squares around the mean.
        float squares = 0.0f;
#pragma unroll (UNROLL)
        for (u32 s = 0; s < lines; s++) {
            float(&v)[WIDTH] = h[RESIDENT ? s : 0];
            u32 c = share.column(s);
            if (share.has(s)) {
                fetch(s, c);
#pragma unroll
                for (u32 i = 0; i < WIDTH; i++) {
                    float d = v[i] - mean;
                    squares += d * d;
                }
            }
        }
        const float rstd = rsqrtf(team_sum(squares, turn) * scale + p.eps);

        // Pass 3: the result.
#pragma unroll (UNROLL)
        for (u32 s = 0; s < lines; s++) {
            float(&v)[WIDTH] = h[RESIDENT ? s : 0];
            u32 c = share.column(s);
            if (share.has(s)) {
                fetch(s, c);
                float w[WIDTH];
                (RESIDENT ? weights[RESIDENT ? s : 0] : Line::load(weight + c)).to_floats(w);
#pragma unroll
                for (u32 i = 0; i < WIDTH; i++) {
                    v[i] = (v[i] - mean) * rstd * w[i];
                }
                if constexpr (HAS_BIAS) {
                    float b[WIDTH];
                    (RESIDENT ? biases[RESIDENT ? s : 0] : Line::load(bias + c)).to_floats(b);
#pragma unroll
                    for (u32 i = 0; i < WIDTH; i++) {
                        v[i] += b[i];
                    }
                }
                Line::of_floats(v).store(y + base + c);
            }
        }
        if (share.member == 0) {
            const float both[2] = {mean, rstd};
            Vec<float, 2>::of_floats(both).store(stats + 2 * (u64)row);
        }
    }
}
