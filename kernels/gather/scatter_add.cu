// The backward of gather.cu: dx[o, v, j] = sum of dy[o, i, j] over all i with ids[o, i, j] == v.
//
// A thread owns a whole column [o, :, j] and adds in the order of i, so that repeated ids race with nobody and the bits
// are the same every time. dx is f32 whatever T is: a sum is rounded once. What belongs to an id that is not below size is
// left out.
//
// Constants: BLOCK  threads a block
//            T      float, f16 or bf16: dy
// Parts:     this alone
// Arguments: dy, ids u32, dx f32 in and out, zero at the start, Params
// Grid:      ceil(items / BLOCK) blocks, one thread a column
// Bound by:  memory, and its latency: each sum waits for the one before it.

struct Params {
    u32 items; // outer * inner
    u32 n;
    u32 inner;
    u32 size;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
scatter_add(const T* __restrict__ dy, const u32* __restrict__ ids, float* __restrict__ dx, const Params p) {
    const u32 column = blockIdx.x * BLOCK + threadIdx.x;
    if (column >= p.items) {
        return;
    }
    const u64 o = column / p.inner;
    const u32 j = column % p.inner;
    float* to = dx + o * p.size * p.inner + j;
    for (u32 i = 0; i < p.n; i++) {
        const u64 at = (o * p.n + i) * p.inner + j;
        const u32 id = ids[at];
        if (id < p.size) {
            to[(u64)id * p.inner] += to_float(dy[at]);
        }
    }
}
