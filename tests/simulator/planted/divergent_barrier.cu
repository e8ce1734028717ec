// A block reverses the n elements of x, n at most 64.
extern "C" __global__ void divergent_barrier(const float* x, float* y, u32 n) {
    __shared__ float tile[64];
    const u32 t = threadIdx.x;
    if (t < n) {
        tile[t] = x[t];
        if constexpr (BUG) {
            __syncthreads(); // FOUND
        }
    }
    if constexpr (!BUG) {
        __syncthreads();
    }
    if (t < n) {
        y[t] = tile[n - 1 - t];
    }
}
