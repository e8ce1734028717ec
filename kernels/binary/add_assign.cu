// to[i] += values[i], two views of one shape in two memories.
//
// Constants: BLOCK         threads a block
//            RANK, WIDTH   see common/strided.cuh
//            VALUES_SPLAT  bool, with WIDTH > 1: the last stride of `values` is 0; `to` has no such stride
//            T             float, f16 or bf16
// Parts:     common/strided.cuh, then this
// Arguments: values, to in and out, Params
// Grid:      ceil(n / (WIDTH BLOCK)) blocks, one thread a line of WIDTH elements
// Bound by:  memory. It reads both once and writes one.

struct Params {
    u32 n;
    Dims sizes;
    Dims values;
    Dims to;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
add_assign(const T* __restrict__ values, T* __restrict__ to, const Params p) {
    const u64 line = (u64)blockIdx.x * BLOCK + threadIdx.x;
    if (line * WIDTH >= p.n) {
        return;
    }
    const u32 i = line * WIDTH;
    const auto added = load_line<VALUES_SPLAT>(values + walk(i, p.sizes, p.values));
    T* at = to + walk(i, p.sizes, p.to);
    float v[WIDTH];
    Vec<T, WIDTH>::load(at).to_floats(v);
#pragma unroll
    for (u32 j = 0; j < WIDTH; j++) {
        v[j] += to_float(added.get(j));
    }
    Vec<T, WIDTH>::of_floats(v).store(at);
}
