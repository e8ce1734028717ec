// What attention's backward needs of each query: lse log2(e), or 0 where it sees no key, and delta = rowsum(dO O).
//
// Eight lanes share a query, and each reads 16 bytes at a time.
//
// Constants: D      head size, a multiple of 8
//            BLOCK  a multiple of 32
//            T      float, f16 or bf16: o, dO
// Parts:     common/philox.cuh, attention/common.cuh, then this
// Arguments: o, dO [B, NH, Tq, D], through the strides of Params, which with all starts are multiples of 16 bytes;
//            lse [B, NH, Tq] f32; stats [B, NH, Tq rounded up to even, 2] f32 out; Params
// Grid:      ceil(8 B NH (Tq rounded up to even) / BLOCK) blocks

constexpr u32 LANES = 8;
constexpr u32 WIDTH = 16 / sizeof(T);

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
stats(const T* __restrict__ o, const T* __restrict__ dout, const float* __restrict__ lse, float2* __restrict__ stats,
      const Params p) {
    const u32 padded = (p.Tq + 1) & ~1, lane = threadIdx.x % LANES;
    const u32 n = blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES;
    const u32 head = n / padded, i = n % padded, b = head / p.NH, h = head % p.NH;
    const bool there = head < p.B * p.NH && i < p.Tq;
    float sum = 0.0f;
    if (there) {
        const T* row_o = o + p.o.start(b, h) + (u64)i * p.o.position;
        const T* row_dout = dout + p.dout.start(b, h) + (u64)i * p.dout.position;
#pragma unroll
        for (u32 c = lane * WIDTH; c < D; c += LANES * WIDTH) {
            float x[WIDTH], y[WIDTH];
            Vec<T, WIDTH>::load(row_o + c).to_floats(x);
            Vec<T, WIDTH>::load(row_dout + c).to_floats(y);
#pragma unroll
            for (u32 e = 0; e < WIDTH; e++) {
                sum = fmaf(x[e], y[e], sum);
            }
        }
    }
#pragma unroll
    for (u32 step = 1; step < LANES; step *= 2) {
        sum += __shfl_xor_sync(FULL_WARP, sum, step);
    }
    if (lane == 0 && head < p.B * p.NH) {
        const float of = there ? lse[head * p.Tq + i] : 0.0f;
        stats[n] = make_float2(of == -INFINITE ? 0.0f : of * LOG2_E, sum);
    }
}
