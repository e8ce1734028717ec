// Reduces down columns: out[o, c, j] = f over i of x[o, c * piece + i, j], for x [outer, n, inner] and pieces c of a
// column. The host reduces the pieces of a column once more.
//
// A block is COLUMNS lines of columns by SLICES slices of a piece by as many (outer, piece) as make it full. A slice is
// every SLICESth element; the slices of a column are combined in shared memory, in a tree of one shape.
//
// Constants: BLOCK    threads a block, a power of two
//            COLUMNS  lines side by side, a power of two
//            SLICES   threads a line, a power of two; COLUMNS * SLICES <= BLOCK
//            WIDTH    columns a line: 16 bytes of T if inner and the start of x are multiples of that, else 1
//            KIND     see reduce/fold.cuh
//            T, U     float, f16 or bf16: x and out
// Parts:     reduce/fold.cuh, then this
// Arguments: x [outer, n, inner], out [outer, pieces, inner] out, Params
// Grid:      ceil(inner / (WIDTH COLUMNS)) * ceil(groups / (BLOCK / (COLUMNS SLICES))) blocks, columns fastest
// Shared:    4 WIDTH BLOCK bytes if SLICES > 1
// Bound by:  memory. It reads every element once.

struct Params {
    u32 n;
    u32 piece;
    u32 pieces; // a column
    u32 groups; // outer * pieces
    u32 inner;
    u32 pad;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
columns(const T* __restrict__ x, U* __restrict__ out, const Params p) {
    constexpr u32 GROUPS = BLOCK / (COLUMNS * SLICES);
    const u32 column_blocks = (p.inner + WIDTH * COLUMNS - 1) / (WIDTH * COLUMNS);
    const u32 column = (blockIdx.x % column_blocks * COLUMNS + threadIdx.x % COLUMNS) * WIDTH;
    const u32 slice = threadIdx.x / COLUMNS % SLICES;
    const u32 group = blockIdx.x / column_blocks * GROUPS + threadIdx.x / (COLUMNS * SLICES);
    const bool mine = group < p.groups && column < p.inner;
    float result[WIDTH];
#pragma unroll
    for (u32 j = 0; j < WIDTH; j++) {
        result[j] = NOTHING;
    }
    if (mine) {
        const u32 first = group % p.pieces * p.piece;
        const u32 end = min(first + p.piece, p.n);
        const T* from = x + (u64)(group / p.pieces) * p.n * p.inner + column;
        // Several loads are on their way at once.
#pragma unroll 4
        for (u32 i = first + slice; i < end; i += SLICES) {
            float v[WIDTH];
            Vec<T, WIDTH>::load(from + (u64)i * p.inner).to_floats(v);
#pragma unroll
            for (u32 j = 0; j < WIDTH; j++) {
                result[j] = fold(result[j], v[j]);
            }
        }
    }
    if constexpr (SLICES > 1) {
        // Thread t's element j is at j BLOCK + t: neighbours are in different banks.
        __shared__ float slices[WIDTH][BLOCK];
#pragma unroll
        for (u32 j = 0; j < WIDTH; j++) {
            slices[j][threadIdx.x] = result[j];
        }
#pragma unroll
        for (u32 half = SLICES / 2; half > 0; half /= 2) {
            __syncthreads();
            if (slice < half) {
#pragma unroll
                for (u32 j = 0; j < WIDTH; j++) {
                    result[j] = fold(result[j], slices[j][threadIdx.x + half * COLUMNS]);
                    slices[j][threadIdx.x] = result[j];
                }
            }
        }
    }
    if (mine && slice == 0) {
        Vec<U, WIDTH>::of_floats(result).store(out + (u64)group * p.inner + column);
    }
}
