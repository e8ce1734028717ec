// The second half of a forward that was cut along the keys (SPLIT in forward.cuh): makes one softmax of its chunks'. A
// chunk c has o_c and lse_c; with the weights w_c = exp(lse_c - max lse), whose sum is n,
//
//   o = sum w_c o_c / n      lse = max lse + log(n)
//
// A block has one query. A warp takes every WARPS-th chunk, a lane four columns or eight; the warps' sums are added in
// order.
//
// Constants: D      head size, a multiple of 8 up to 256
//            WARPS  a block
//            BLOCK  32 * WARPS
//            T      float, f16 or bf16: o
// Parts:     common/philox.cuh, attention/common.cuh, then this
// Arguments: partial_o [chunks, B, NH, Tq, D] f32, partial_lse [chunks, B, NH, Tq] f32, o [B, NH, Tq, D] out, through
//            the strides of Params, which with its start are multiples of 4 elements; lse [B, NH, Tq] f32 out; Params
// Grid:      B * NH * Tq blocks
// Bound by:  memory: it reads 4 D chunks bytes a query, from the second cache as a rule.

constexpr u32 LINE = D / 4;
constexpr u32 QUADS = (LINE + WARP_SIZE - 1) / WARP_SIZE; // of a lane

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
combine(const float* __restrict__ partial_o, const float* __restrict__ partial_lse, T* __restrict__ o,
        float* __restrict__ lse, const Params p) {
    const u32 n = blockIdx.x, queries = p.B * p.NH * p.Tq;
    const u32 warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;

    float top = -INFINITE;
    for (u32 chunk = lane; chunk < p.chunks; chunk += WARP_SIZE) {
        top = fmaxf(top, partial_lse[(u64)chunk * queries + n]);
    }
#pragma unroll
    for (u32 step = 1; step < WARP_SIZE; step *= 2) {
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, step));
    }
    // Of a query that sees no key all is 0, not the NaN of infinity - infinity.
    const float base = top == -INFINITE ? 0.0f : top;

    float sums[QUADS][4] = {}, total = 0.0f;
#pragma unroll 4
    for (u32 chunk = warp; chunk < p.chunks; chunk += WARPS) {
        const u64 at = (u64)chunk * queries + n;
        const float weight = exp2f((partial_lse[at] - base) * LOG2_E);
        total += weight;
#pragma unroll
        for (u32 i = 0; i < QUADS; i++) {
            const u32 quad = i * WARP_SIZE + lane;
            if (quad < LINE) {
                float x[4];
                Vec<float, 4>::load(partial_o + at * D + quad * 4).to_floats(x);
#pragma unroll
                for (u32 e = 0; e < 4; e++) {
                    sums[i][e] = fmaf(weight, x[e], sums[i][e]);
                }
            }
        }
    }

    __shared__ float4 warp_sums[WARPS][LINE];
    __shared__ float warp_totals[WARPS];
    warp_totals[warp] = total;
#pragma unroll
    for (u32 i = 0; i < QUADS; i++) {
        const u32 quad = i * WARP_SIZE + lane;
        if (quad < LINE) {
            warp_sums[warp][quad] = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        }
    }
    __syncthreads();
    total = 0.0f;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) {
        total += warp_totals[w];
    }
    const u32 quad = threadIdx.x;
    if (quad < LINE) {
        float x[4] = {};
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) {
            const float4 sum = warp_sums[w][quad];
            x[0] += sum.x, x[1] += sum.y, x[2] += sum.z, x[3] += sum.w;
        }
        const float norm = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
            x[e] *= norm;
        }
        const u32 head = n / p.Tq;
        T* const to = o + p.o.start(head / p.NH, head % p.NH) + (u64)(n % p.Tq) * p.o.position;
        Vec<T, 4>::of_floats(x).store(to + quad * 4);
    }
    if (threadIdx.x == 0) {
        lse[n] = total > 0.0f ? top + log2f(total) * LN_2 : -INFINITE;
    }
}
