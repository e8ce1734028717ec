// y += x.
extern "C" __global__ void use_after_free(const float* x, float* y, u32 n) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] += x[i]; // FOUND
    }
}
