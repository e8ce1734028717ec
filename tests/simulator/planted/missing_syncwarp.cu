// The sum of 32 elements, by a tree in shared memory.
extern "C" __global__ void missing_syncwarp(const float* x, float* y) {
    __shared__ float sums[32];
    const u32 lane = threadIdx.x;
    sums[lane] = x[lane]; // AGAINST
    for (u32 step = 16; step > 0; step /= 2) {
        // Lanes need not run in lockstep.
        if constexpr (!BUG) {
            __syncwarp();
        }
        if (lane < step) {
            sums[lane] += sums[lane + step]; // FOUND
        }
    }
    if (lane == 0) {
        *y = sums[0];
    }
}
