struct Params { unsigned n; float eps; unsigned long long big; };
__constant__ float table[4] = {1, 2, 3, 4};
__device__ unsigned counter;
extern "C" __global__ void __launch_bounds__(128) rowsum(const float* x, float* out, const Params p) {
  __shared__ float part[4];
  extern __shared__ float4 dyn[];
  float s = 0;
  for (unsigned i = threadIdx.x; i < p.n; i += 128) s += x[blockIdx.x * (unsigned long long)p.n + i];
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
  dyn[threadIdx.x] = make_float4(s, s, s, s);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x == 0) {
    float t = part[0] + part[1] + part[2] + part[3];
    out[blockIdx.x] = t * table[p.n & 3] + dyn[5].x;
    atomicAdd(&counter, 1u);
    printf("block %d sum %f\n", blockIdx.x, t);
    assert(t > 0);
  }
}
