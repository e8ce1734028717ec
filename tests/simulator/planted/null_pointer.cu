// y = x + bias, or x alone.
extern "C" __global__ void null_pointer(const float* x, const float* bias, float* y) {
    const u32 i = threadIdx.x;
    y[i] = x[i] + (BUG || bias ? bias[i] : 0.0f); // FOUND
}
