// y[t] = the sum over the tiles of x[tile][63 - t], the next tile being fetched while one is in use.
extern "C" __global__ void double_buffer(const float* x, float* y, u32 tiles) {
    __shared__ float buffers[2][64];
    const u32 t = threadIdx.x;
    float sum = 0.0f;
    buffers[0][t] = x[t];
    for (u32 k = 0; k < tiles; k += 1) {
        __syncthreads();
        sum += buffers[k % 2][63 - t]; // FOUND
        if (k + 1 < tiles) {
            // Without the bug the other buffer: it was used before the barrier above.
            buffers[BUG ? k % 2 : (k + 1) % 2][t] = x[(k + 1) * 64 + t]; // AGAINST
        }
    }
    y[t] = sum;
}
