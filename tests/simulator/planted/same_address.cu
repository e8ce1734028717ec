// Where the greatest of 32 elements is, the first of several.
extern "C" __global__ void same_address(const float* x, u32* y) {
    __shared__ u32 place;
    const u32 lane = threadIdx.x;
    const float own = x[lane];
    float greatest = own;
    for (u32 step = 16; step > 0; step /= 2) {
        greatest = fmaxf(greatest, __shfl_xor_sync(FULL_WARP, greatest, step));
    }
    const u32 equal = __ballot_sync(FULL_WARP, own == greatest);
    if (BUG ? own == greatest : lane == __ffs(equal) - 1) {
        place = lane; // FOUND AGAINST
    }
    __syncwarp();
    if (lane == 0) {
        *y = place;
    }
}
