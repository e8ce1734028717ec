// The sum of n elements, at most 32, by one warp.
extern "C" __global__ void absent_lane(const float* x, float* y, u32 n) {
    const u32 lane = threadIdx.x;
    if (BUG && lane >= n) {
        return;
    }
    float sum = lane < n ? x[lane] : 0.0f;
    for (u32 step = 16; step > 0; step /= 2) {
        sum += __shfl_down_sync(FULL_WARP, sum, step); // FOUND
    }
    if (lane == 0) {
        *y = sum;
    }
}
