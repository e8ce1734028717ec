// Strided copy with conversion: dst[i] = convert<D>(src[i]) for all i of one shape.
//
// Floats are rounded once, to nearest even; to u32 they are truncated and saturated, NaN becomes 0; u32 becomes f32
// before it becomes anything narrower. Elements of one type are moved as bits: a NaN keeps its payload.
//
// Constants: BLOCK  threads a block; 256 in `transposed`
//            RANK   see common/strided.cuh
//            WIDTH  elements a thread of `elements`: 16 bytes of the wider type if the last dimension has stride 1 in
//                   both views and all else (its size, the other strides, both starts) are multiples of
//                   WIDTH elements; else 1
//            ALONG  for `transposed`: the dimension, not the last, along which src has stride 1; elsewhere 0
//            S, D   float, f16, bf16 or u32: the types of src and dst
// Parts:     common/strided.cuh, then this
// Arguments: src, dst out, Params
//
// Entry elements: one thread a line of WIDTH elements in dst's order, as wide as both sides can move at once. Wider
//   lines would leave each warp's load in pieces of less than a sector of 32 bytes.
//   Grid: ceil(n / (WIDTH BLOCK)) blocks
// Entry transposed: for views whose src runs along another dimension than dst. Blocks carry tiles of 32 x 32 through
//   shared memory, so that reads and writes both go along their unit strides.
//   Grid: ceil(last size / 32) * ceil(size ALONG / 32) * (product of the other sizes) blocks
//   Shared: 33 * 32 elements of dst. The odd row length puts a column's elements into different banks.
// Bound by: memory. Every element is read once and written once.

struct Params {
    u32 n;
    Dims sizes;
    Dims src;
    Dims dst;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
elements(const S* __restrict__ src, D* __restrict__ dst, const Params p) {
    const u64 line = (u64)blockIdx.x * BLOCK + threadIdx.x;
    if (line * WIDTH >= p.n) {
        return;
    }
    const u32 i = line * WIDTH;
    const S* from = src + walk(i, p.sizes, p.src);
    D* to = dst + walk(i, p.sizes, p.dst);
    Vec<S, WIDTH>::load(from).template converted<D>().store(to);
}

constexpr u32 TILE = 32;
constexpr u32 LAST = RANK > 0 ? RANK - 1 : 0;

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
transposed(const S* __restrict__ src, D* __restrict__ dst, const Params p) {
    __shared__ D tile[TILE][TILE + 1];
    const u32 tiles_x = (p.sizes.d[LAST] + TILE - 1) / TILE;
    const u32 tiles_y = (p.sizes.d[ALONG] + TILE - 1) / TILE;
    const u32 x0 = blockIdx.x % tiles_x * TILE;
    const u32 y0 = blockIdx.x / tiles_x % tiles_y * TILE;
    u32 rest = blockIdx.x / tiles_x / tiles_y;
    u64 from = 0, to = 0;
#pragma unroll
    for (u32 d = LAST; d-- > 0;) {
        if (d != ALONG) {
            u32 index = rest % p.sizes.d[d];
            from += (u64)index * p.src.d[d];
            to += (u64)index * p.dst.d[d];
            rest /= p.sizes.d[d];
        }
    }
    const u32 lane = threadIdx.x % TILE, first = threadIdx.x / TILE;
    const u32 size_x = p.sizes.d[LAST], size_y = p.sizes.d[ALONG];
#pragma unroll
    for (u32 r = first; r < TILE; r += BLOCK / TILE) {
        u32 x = x0 + r, y = y0 + lane;
        if (x < size_x && y < size_y) {
            tile[r][lane] = convert<D>(src[from + (u64)x * p.src.d[LAST] + (u64)y * p.src.d[ALONG]]);
        }
    }
    __syncthreads();
#pragma unroll
    for (u32 r = first; r < TILE; r += BLOCK / TILE) {
        u32 x = x0 + lane, y = y0 + r;
        if (x < size_x && y < size_y) {
            dst[to + (u64)x * p.dst.d[LAST] + (u64)y * p.dst.d[ALONG]] = tile[lane][r];
        }
    }
}
