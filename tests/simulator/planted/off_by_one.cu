// y = value, n elements.
extern "C" __global__ void off_by_one(float* y, float value, u32 n) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (BUG ? i <= n : i < n) {
        y[i] = value; // FOUND
    }
}
