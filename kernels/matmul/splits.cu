// The second half of a matmul that was cut along K: adds up the shares in order and applies the epilogue.
//
// Constants: BLOCK  threads a block
//            and those of epilogue.cuh, with SPLIT false
// Parts:     activation/functions.cuh, matmul/epilogue.cuh, then this
// Arguments: partials [splits, batch, M, N] f32, bias, residual, d out (in and out if ACCUMULATE), pre out, Params
// Grid:      ceil(M * ceil(N / NEIGHBOURS) * batch / BLOCK) blocks; NEIGHBOURS is 16 bytes of the wider of T and D
// Bound by:  memory: it reads 4 * splits bytes an element, from the second cache as a rule.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
splits(const float* __restrict__ partials, const T* __restrict__ bias, const T* __restrict__ residual, D* d, T* pre,
       const Params p) {
    const u64 line = (u64)blockIdx.x * BLOCK + threadIdx.x;
    const u32 lines = (p.N + NEIGHBOURS - 1) / NEIGHBOURS;
    const u64 row = line / lines; // of all batches
    if (row >= (u64)p.batch * p.M) {
        return;
    }
    const u32 n = (u32)(line % lines) * NEIGHBOURS;
    const u64 size = (u64)p.batch * p.M * p.N;
    float sums[NEIGHBOURS] = {};
    for (u32 split = 0; split < p.splits; split++) {
        const float* from = partials + split * size + row * p.N + n;
        if constexpr (D_LINES) {
            float v[NEIGHBOURS];
            Vec<float, NEIGHBOURS>::load(from).to_floats(v);
#pragma unroll
            for (u32 i = 0; i < NEIGHBOURS; i++) {
                sums[i] += v[i];
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < NEIGHBOURS; i++) {
                if (n + i < p.N) {
                    sums[i] += from[i];
                }
            }
        }
    }
    const Outputs out = {bias, residual, d, pre, nullptr};
    const Place at = {0, 0, (u32)(row / p.M), 0};
    finish(sums, out, p, at, (u32)(row % p.M), n);
}
