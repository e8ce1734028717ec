// y[i] = f(x[i]), x any view.
//
// Constants: BLOCK        threads a block
//            RANK, WIDTH  see common/strided.cuh
//            X_SPLAT      bool, with WIDTH > 1: the last stride of x is 0
//            KIND, ACTIVATION: see unary/functions.cuh
//            T            float, f16 or bf16
// Parts:     common/strided.cuh, activation/functions.cuh, unary/functions.cuh, then this
// Arguments: x, y [n] out, Params
// Grid:      ceil(n / (WIDTH BLOCK)) blocks, one thread a line of WIDTH elements
// Bound by:  memory. It reads x once and writes y once.

struct Params {
    u32 n;
    float a;
    float b;
    Dims sizes;
    Dims x;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
forward(const T* __restrict__ x, T* __restrict__ y, const Params p) {
    const u64 line = (u64)blockIdx.x * BLOCK + threadIdx.x;
    if (line * WIDTH >= p.n) {
        return;
    }
    const u32 i = line * WIDTH;
    float v[WIDTH];
    load_line<X_SPLAT>(x + walk(i, p.sizes, p.x)).to_floats(v);
#pragma unroll
    for (u32 j = 0; j < WIDTH; j++) {
        v[j] = value(v[j], p.a, p.b);
    }
    Vec<T, WIDTH>::of_floats(v).store(y + i);
}
