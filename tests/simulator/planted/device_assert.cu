// y[i] = table[ids[i]], 8 channels.
extern "C" __global__ void device_assert(const float* table, const u32* ids, float* y, u32 rows) {
    const u32 id = BUG ? ids[blockIdx.x] : min(ids[blockIdx.x], rows - 1);
    assert(id < rows); // FOUND
    y[blockIdx.x * 8 + threadIdx.x] = table[id * 8 + threadIdx.x];
}
