// The sum of each row, a warp a row, by vectors of four.
extern "C" __global__ void misaligned(const float* x, float* y, u32 columns) {
    const float* row = x + blockIdx.x * columns;
    const bool vectors = BUG || columns % 4 == 0;
    const u32 lane = threadIdx.x, quads = vectors ? columns / 4 : 0;
    float sum = 0.0f;
    for (u32 i = lane; i < quads; i += 32) {
        const float4 v = reinterpret_cast<const float4*>(row)[i]; // FOUND
        sum += v.x + v.y + v.z + v.w;
    }
    for (u32 i = 4 * quads + lane; i < columns; i += 32) {
        sum += row[i];
    }
    for (u32 step = 16; step > 0; step /= 2) {
        sum += __shfl_xor_sync(FULL_WARP, sum, step);
    }
    if (lane == 0) {
        y[blockIdx.x] = sum;
    }
}
