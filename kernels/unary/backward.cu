// dx[i] = f'(v[i]) * dy[i], where v is the forward's input or output, as functions.cuh says. v and dy are any views of
// one shape.
//
// Constants: BLOCK        threads a block
//            RANK, WIDTH  see common/strided.cuh
//            V_SPLAT, DY_SPLAT: bool, with WIDTH > 1: this view's last stride is 0
//            KIND, ACTIVATION: see unary/functions.cuh
//            T            float, f16 or bf16
// Parts:     common/strided.cuh, activation/functions.cuh, unary/functions.cuh, then this
// Arguments: v, dy, dx [n] out, Params
// Grid:      ceil(n / (WIDTH BLOCK)) blocks, one thread a line of WIDTH elements
// Bound by:  memory. It reads v and dy once and writes dx once.

struct Params {
    u32 n;
    float a;
    float b;
    Dims sizes;
    Dims v;
    Dims dy;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
backward(const T* __restrict__ v, const T* __restrict__ dy, T* __restrict__ dx, const Params p) {
    const u64 line = (u64)blockIdx.x * BLOCK + threadIdx.x;
    if (line * WIDTH >= p.n) {
        return;
    }
    const u32 i = line * WIDTH;
    float saved[WIDTH], grad[WIDTH];
    load_line<V_SPLAT>(v + walk(i, p.sizes, p.v)).to_floats(saved);
    load_line<DY_SPLAT>(dy + walk(i, p.sizes, p.dy)).to_floats(grad);
#pragma unroll
    for (u32 j = 0; j < WIDTH; j++) {
        grad[j] *= derivative(saved[j], p.a, p.b);
    }
    Vec<T, WIDTH>::of_floats(grad).store(dx + i);
}
