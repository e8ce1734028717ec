// Reduces pieces of rows: out[o, c] = f over x[o, c * piece ..], for x [outer, n] and pieces c of a row. The host reduces
// the pieces of a row once more.
//
// Constants: BLOCK  threads a block, a multiple of 32
//            TEAM   threads a piece: 32, or BLOCK
//            WIDTH  elements a load: 16 bytes of T if n, the pieces and the start of x are multiples of that, else 1
//            KIND   see reduce/fold.cuh
//            T, U   float, f16 or bf16: x and out
// Parts:     common/reduce.cuh, reduce/fold.cuh, then this
// Arguments: x [outer, n], out [outer, pieces] out, Params
// Grid:      ceil(groups / (BLOCK / TEAM)) blocks, a team a piece
// Bound by:  memory. It reads every element once.

struct Params {
    u32 n;
    u32 piece;
    u32 pieces; // a row
    u32 groups; // pieces of all rows
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
rows(const T* __restrict__ x, U* __restrict__ out, const Params p) {
    const u32 group = blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM;
    if (group >= p.groups) {
        return;
    }
    const u32 first = group % p.pieces * p.piece;
    const u32 count = min(p.piece, p.n - first);
    const T* from = x + (u64)(group / p.pieces) * p.n + first;
    const u32 member = threadIdx.x % TEAM;
    float result = NOTHING;
    // Several loads are on their way at once.
#pragma unroll 4
    for (u32 c = member * WIDTH; c < count; c += TEAM * WIDTH) {
        float v[WIDTH];
        Vec<T, WIDTH>::load(from + c).to_floats(v);
#pragma unroll
        for (u32 i = 0; i < WIDTH; i++) {
            result = fold(result, v[i]);
        }
    }
    u32 turn = 0;
    if constexpr (KIND == 0) {
        result = team_sum(result, turn);
    } else if constexpr (KIND == 1) {
        result = team_max(result, turn);
    } else {
        result = -team_max(-result, turn);
    }
    if (member == 0) {
        out[group] = from_float<U>(result);
    }
}
