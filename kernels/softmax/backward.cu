// Softmax and log softmax over the last dimension, backward, from the forward's output y.
//
//   dx = y * (dy - sum(dy * y))               LOG: dy - exp(y) * sum(dy)
//
// Constants: those of common/rows.cuh, and LOG: bool
// Parts:     common/reduce.cuh, common/rows.cuh, then this
// Arguments: y [rows, C], dy [rows, C], dx [rows, C] out, Params
// Grid:      ceil(rows / TEAMS) blocks, a team a row
// Registers: y and dy in f32.
// Bound by:  memory. It moves y, dy and dx once; rows that do not stay in registers it reads twice.

struct Params {
    u32 rows;
    u32 C;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
backward(const T* __restrict__ y, const T* __restrict__ dy, T* __restrict__ dx, const Params p) {
    const Share share = {threadIdx.x % TEAM, p.C};
    const u32 lines = share.lines();
    const u32 row = blockIdx.x * TEAMS + threadIdx.x / TEAM;
    if (row >= p.rows) {
        return;
    }
    const u64 base = (u64)row * p.C;
    float v[KEPT][WIDTH], d[KEPT][WIDTH];

    auto fetch = [&](u32 s, u32 c) {
        u32 at = RESIDENT ? s : 0;
        Line::load(y + base + c).to_floats(v[at]);
        Line::load(dy + base + c).to_floats(d[at]);
    };

    float sum = 0.0f;
#pragma unroll (UNROLL)
    for (u32 s = 0; s < lines; s++) {
        u32 at = RESIDENT ? s : 0;
        u32 c = share.column(s);
        if (share.has(s)) {
            fetch(s, c);
#pragma unroll
            for (u32 i = 0; i < WIDTH; i++) {
                sum += LOG ? d[at][i] : d[at][i] * v[at][i];
            }
        }
    }
    u32 turn = 0;
    sum = team_sum(sum, turn);

#pragma unroll (UNROLL)
    for (u32 s = 0; s < lines; s++) {
        u32 at = RESIDENT ? s : 0;
        u32 c = share.column(s);
        if (share.has(s)) {
            if constexpr (!RESIDENT) {
                fetch(s, c);
            }
#pragma unroll
            for (u32 i = 0; i < WIDTH; i++) {
                d[at][i] = LOG ? d[at][i] - expf(v[at][i]) * sum : v[at][i] * (d[at][i] - sum);
            }
            Line::of_floats(d[at]).store(dx + base + c);
        }
    }
}
