// y[o, i, j] = x[o, ids[o, i, j], j] for x [outer, size, inner] and ids [outer, n, inner].
//
// An id that is not below size reads nothing and yields NaN.
//
// Constants: BLOCK  threads a block
//            T      float, f16 or bf16
// Parts:     this alone
// Arguments: x, ids u32, y out, Params
// Grid:      ceil(items / BLOCK) blocks, one thread an element of y
// Bound by:  memory.

struct Params {
    u32 items; // outer * n * inner
    u32 n;
    u32 inner;
    u32 size;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
gather(const T* __restrict__ x, const u32* __restrict__ ids, T* __restrict__ y, const Params p) {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < p.items) {
        const u64 o = i / (p.n * p.inner);
        const u32 id = ids[i];
        y[i] = id < p.size ? x[(o * p.size + id) * p.inner + i % p.inner] : from_float<T>(__uint_as_float(0x7fc00000));
    }
}
