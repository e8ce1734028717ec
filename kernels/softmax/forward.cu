// Softmax and log softmax over the last dimension, forward.
//
//   y = exp(x - max(x)) / sum(exp(x - max(x)))               LOG: x - max(x) - log(sum(exp(x - max(x))))
//
// A row of -infinity alone gives NaN.
//
// Constants: those of common/rows.cuh, and LOG: bool
// Parts:     common/reduce.cuh, common/rows.cuh, common/softmax.cuh, then this
// Arguments: x [rows, C], y [rows, C] out, Params
// Grid:      ceil(rows / TEAMS) blocks, a team a row
// Registers: the row in f32.
// Bound by:  memory. It moves x once and y once; rows that do not stay in registers it reads twice.

struct Params {
    u32 rows;
    u32 C;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
forward(const T* __restrict__ x, T* __restrict__ y, const Params p) {
    const Share share = {threadIdx.x % TEAM, p.C};
    const u32 lines = share.lines();
    const u32 row = blockIdx.x * TEAMS + threadIdx.x / TEAM;
    if (row >= p.rows) {
        return;
    }
    const u64 base = (u64)row * p.C;
    float v[KEPT][WIDTH];

    Exponentials sum;
#pragma unroll (UNROLL)
    for (u32 s = 0; s < lines; s++) {
        u32 c = share.column(s);
        if (share.has(s)) {
            Line::load(x + base + c).to_floats(v[RESIDENT ? s : 0]);
            sum.add(v[RESIDENT ? s : 0]);
        }
    }
    u32 turn = 0;
    sum.combine(turn);

    const float scale = 1.0f / sum.total;
    const float log_total = LOG ? logf(sum.total) : 0.0f;
#pragma unroll (UNROLL)
    for (u32 s = 0; s < lines; s++) {
        float(&z)[WIDTH] = v[RESIDENT ? s : 0];
        u32 c = share.column(s);
        if (share.has(s)) {
            if constexpr (!RESIDENT) {
                Line::load(x + base + c).to_floats(z);
            }
#pragma unroll
            for (u32 i = 0; i < WIDTH; i++) {
                z[i] = LOG ? z[i] - sum.top - log_total : expf(z[i] - sum.top) * scale;
            }
            Line::of_floats(z).store(y + base + c);
        }
    }
}
