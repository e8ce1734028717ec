// out[i] = mask[i] != 0 ? a[i] : b[i], three views of one shape.
//
// Constants: BLOCK        threads a block
//            RANK, WIDTH  see common/strided.cuh
//            MASK_SPLAT, A_SPLAT, B_SPLAT: bool, with WIDTH > 1: this view's last stride is 0
//            T            float, f16 or bf16; elements move as bits
// Parts:     common/strided.cuh, then this
// Arguments: mask (u32), a, b, out [n] out, Params
// Grid:      ceil(n / (WIDTH BLOCK)) blocks, one thread a line of WIDTH elements
// Bound by:  memory. It reads both a and b, so that lines stay whole.

struct Params {
    u32 n;
    Dims sizes;
    Dims mask;
    Dims a;
    Dims b;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
select(const u32* __restrict__ mask, const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ out,
       const Params p) {
    const u64 line = (u64)blockIdx.x * BLOCK + threadIdx.x;
    if (line * WIDTH >= p.n) {
        return;
    }
    const u32 i = line * WIDTH;
    const auto chosen = load_line<MASK_SPLAT>(mask + walk(i, p.sizes, p.mask));
    const auto x = load_line<A_SPLAT>(a + walk(i, p.sizes, p.a));
    const auto y = load_line<B_SPLAT>(b + walk(i, p.sizes, p.b));
    Vec<T, WIDTH> v = Vec<T, WIDTH>::zeros();
#pragma unroll
    for (u32 j = 0; j < WIDTH; j++) {
        v.set(j, chosen.get(j) != 0 ? x.get(j) : y.get(j));
    }
    v.store(out + i);
}
