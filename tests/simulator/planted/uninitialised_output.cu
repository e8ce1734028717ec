// y = 2 x, four elements a thread and then the rest.
extern "C" __global__ void uninitialised_output(const float* x, float* y, u32 n) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, quads = n / 4;
    if (i < quads) {
        const float4 v = reinterpret_cast<const float4*>(x)[i];
        reinterpret_cast<float4*>(y)[i] = make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
    }
    if (!BUG && i < n - 4 * quads) {
        y[4 * quads + i] = 2 * x[4 * quads + i];
    }
}
