// total += the sum of x, 32 elements a block.
extern "C" __global__ void global_race(const float* x, float* total) {
    float sum = x[blockIdx.x * 32 + threadIdx.x];
    for (u32 step = 16; step > 0; step /= 2) {
        sum += __shfl_xor_sync(FULL_WARP, sum, step);
    }
    if (threadIdx.x == 0) {
        if constexpr (BUG) {
            *total += sum; // FOUND AGAINST
        } else {
            atomicAdd(total, sum);
        }
    }
}
