// A histogram of numbers from 0 to 1 inclusive in 64 bins.
extern "C" __global__ void shared_bounds(const float* x, u32* histogram) {
    __shared__ u32 bins[64];
    const u32 t = threadIdx.x;
    bins[t] = 0;
    __syncthreads();
    const u32 bin = 64 * x[blockIdx.x * 64 + t];
    atomicAdd(&bins[BUG ? bin : min(bin, 63u)], 1u); // FOUND
    __syncthreads();
    atomicAdd(&histogram[t], bins[t]);
}
