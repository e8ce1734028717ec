// Differences of neighbours within a block of 64.
extern "C" __global__ void missing_barrier(const float* x, float* y) {
    __shared__ float tile[64];
    const u32 t = threadIdx.x, i = blockIdx.x * 64 + t;
    tile[t] = x[i]; // AGAINST
    if constexpr (!BUG) {
        __syncthreads();
    }
    y[i] = t == 0 ? 0.0f : tile[t] - tile[t - 1]; // FOUND
}
