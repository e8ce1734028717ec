// y = the running maximum over a window of `window` elements, at most 8, kept in a ring.
extern "C" __global__ void local_bounds(const float* x, float* y, u32 n, u32 window) {
    float ring[8];
    for (u32 i = 0; i < n; i += 1) {
        ring[i % (BUG ? window + 1 : window)] = x[i * 32 + threadIdx.x]; // FOUND
        float greatest = ring[0];
        for (u32 k = 1; k < min(i + 1, window); k += 1) {
            greatest = fmaxf(greatest, ring[k]);
        }
        y[i * 32 + threadIdx.x] = greatest;
    }
}
