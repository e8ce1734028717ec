// A block reverses 64 vectors of 16 bytes, brought by asynchronous copies.
extern "C" __global__ void missing_wait(const uint4* x, uint4* y) {
    __shared__ uint4 tile[64];
    const u32 t = threadIdx.x;
    copy_async16(shared_address(&tile[t]), x + t, true); // AGAINST
    copy_commit();
    if constexpr (!BUG) {
        copy_wait<0>();
    }
    __syncthreads();
    y[t] = tile[63 - t]; // FOUND
}
