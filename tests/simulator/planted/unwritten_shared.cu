// Sums of three neighbours, zero beyond both ends, through a tile with a halo.
extern "C" __global__ void unwritten_shared(const float* x, float* y, u32 n) {
    __shared__ float tile[64 + 2];
    const u32 t = threadIdx.x, i = blockIdx.x * 64 + t;
    tile[t + 1] = i < n ? x[i] : 0.0f;
    if (t == 0) {
        tile[0] = i > 0 ? x[i - 1] : 0.0f;
    }
    if (!BUG && t == 63) {
        tile[65] = i + 1 < n ? x[i + 1] : 0.0f;
    }
    __syncthreads();
    const float left = tile[t];
    const float own = tile[t + 1];
    const float right = tile[t + 2]; // FOUND
    if (i < n) {
        y[i] = left + own + right;
    }
}
