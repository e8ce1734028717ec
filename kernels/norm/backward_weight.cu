// Layer norm and RMS norm, backward to weight and bias:
//
//   dweight = sum over rows of dy * (h - mean) * rstd
//   dbias   = sum over rows of dy
//
// in two stages of which the first cuts the rows into chunks by size: the order of additions, and with it the bits, is
// the same every time, and many blocks share the reading. Where a row fits in registers backward.cu does the first
// stage along the way, and only `totals` is needed.
//
// Constants: BLOCK  threads a block, a multiple of 32
//            WIDTH  columns a thread of chunk_sums: 16 bytes of T if C and the buffers' starts are multiples of that,
//                   else 1
//            HAS_BIAS, ACCUMULATE: bool
//            T      float, f16 or bf16: h and dy
//            OUT    float, f16 or bf16: dweight and dbias
// Parts:     norm/partials.cuh, then this
//
// Entry chunk_sums: the shares of p.chunk rows each, WIDTH columns a thread
//   Arguments: h [rows, C], dy [rows, C], stats [rows, 2] f32, partials [chunks, 2, C] f32 out, Params
//   Grid:      ceil(C / (WIDTH * BLOCK)) * chunks blocks, columns fastest
// Entry totals: the sums over chunks; ACCUMULATE adds to what the outputs hold
//   Arguments: partials [chunks, 2, C] f32, dweight [C] out, dbias [C] out (null unless HAS_BIAS), Params
//   Grid:      ceil(C / 32) blocks in x; in y 2 with HAS_BIAS (the second for dbias), else 1
//   Shared:    4 BLOCK bytes. A warp reads 32 columns of one chunk, 128 bytes; the warps take turns with the chunks.
// Without HAS_BIAS nobody reads or writes the second halves of the partials.

struct Params {
    u32 rows;
    u32 C;
    u32 chunk;  // rows a chunk
    u32 chunks; // ceil(rows / chunk), or the number of blocks of backward.cu
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
chunk_sums(const T* __restrict__ h, const T* __restrict__ dy, const float* __restrict__ stats,
           float* __restrict__ partials, const Params p) {
    using Line = Vec<T, WIDTH>;
    const u32 column_blocks = (p.C + WIDTH * BLOCK - 1) / (WIDTH * BLOCK);
    const u32 chunk = blockIdx.x / column_blocks;
    const u32 c = (blockIdx.x % column_blocks * BLOCK + threadIdx.x) * WIDTH;
    float dweight[WIDTH], dbias[WIDTH];
#pragma unroll
    for (u32 i = 0; i < WIDTH; i++) {
        dweight[i] = dbias[i] = 0.0f;
    }
    const u32 first = chunk * p.chunk;
    // A thread without columns has no rows, but helps to store.
    const u32 last = c < p.C ? min(first + p.chunk, p.rows) : first;
    // Loads of several rows are on their way at once.
#pragma unroll (WIDTH > 1 ? 2 : 4)
    for (u32 row = first; row < last; row++) {
        const float2 stat = reinterpret_cast<const float2*>(stats)[row];
        float x[WIDTH], d[WIDTH];
        Line::load(h + (u64)row * p.C + c).to_floats(x);
        Line::load(dy + (u64)row * p.C + c).to_floats(d);
#pragma unroll
        for (u32 i = 0; i < WIDTH; i++) {
            dweight[i] += d[i] * ((x[i] - stat.x) * stat.y);
            dbias[i] += d[i];
        }
    }
    float* out = partials + (u64)chunk * 2 * p.C;
    store_sums(out, c, p.C, dweight);
    if constexpr (HAS_BIAS) {
        store_sums(out + p.C, c, p.C, dbias);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
totals(const float* __restrict__ partials, OUT* __restrict__ dweight, OUT* __restrict__ dbias, const Params p) {
    constexpr u32 WARPS = BLOCK / 32;
    __shared__ float sums[WARPS][32];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 c = blockIdx.x * 32 + lane;
    if (c < p.C) {
        const float* from = partials + (u64)blockIdx.y * p.C + c;
        float sum = 0.0f;
#pragma unroll 8
        for (u32 chunk = warp; chunk < p.chunks; chunk += WARPS) {
            sum += from[(u64)chunk * 2 * p.C];
        }
        sums[warp][lane] = sum;
    }
    __syncthreads();
    if (warp == 0 && c < p.C) {
        float sum = sums[0][lane];
#pragma unroll
        for (u32 w = 1; w < WARPS; w++) {
            sum += sums[w][lane];
        }
        OUT* to = (blockIdx.y == 0 ? dweight : dbias) + c;
        *to = from_float<OUT>(ACCUMULATE ? sum + to_float(*to) : sum);
    }
}
