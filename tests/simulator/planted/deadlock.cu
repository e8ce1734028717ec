// Warp 0 hands a tile to warp 1 through barrier 1, which counts the threads of both.
extern "C" __global__ void deadlock(const float* x, float* y) {
    __shared__ float tile[32];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp == 0) {
        tile[lane] = x[lane];
        asm volatile("bar.arrive 1, %0;" ::"n"(BUG ? 32 * 3 : 32 * 2) : "memory");
    } else {
        asm volatile("bar.sync 1, %0;" ::"n"(BUG ? 32 * 3 : 32 * 2) : "memory"); // FOUND
        y[lane] = tile[31 - lane];
    }
}
