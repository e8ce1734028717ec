// Dropout, forward and backward alike: out = x * scale where the element is kept, else 0.
//
// Element i is kept if lane i % 4 of Philox4x32-10 at counter (i / 4, 0, offset lo, offset hi) under the seed's key
// is at least p.threshold = round(probability * 2^32). The mask is never stored: backward draws it again.
//
// Constants: BLOCK  threads a block
//            WIDTH  elements a load: 16 bytes of T if count and the start of x are multiples of that, else 1
//            T      float, f16 or bf16
// Parts:     common/philox.cuh, then this
// Arguments: x [count], out [count] out, Params
// Grid:      ceil(count / (ITEMS BLOCK)) blocks, one thread ITEMS elements: whole blocks of random bits
// Bound by:  memory; the ten rounds of a draw are 60 instructions for four elements.

constexpr u32 ITEMS = WIDTH > 4 ? WIDTH : 4;

struct Params {
    u32 count;
    u32 threshold;
    float scale; // 1 / (1 - probability)
    u32 pad;
    uint2 key;    // seed, low word first
    uint2 offset; // stream offset, low word first
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
dropout(const T* __restrict__ x, T* __restrict__ out, const Params p) {
    const u64 first = ((u64)blockIdx.x * BLOCK + threadIdx.x) * ITEMS;
    if (first >= p.count) {
        return;
    }
    u32 bits[ITEMS];
#pragma unroll
    for (u32 i = 0; i < ITEMS; i += 4) {
        uint4 drawn = philox(make_uint4((u32)first / 4 + i / 4, 0, p.offset.x, p.offset.y), p.key);
        bits[i] = drawn.x, bits[i + 1] = drawn.y, bits[i + 2] = drawn.z, bits[i + 3] = drawn.w;
    }
#pragma unroll
    for (u32 i = 0; i < ITEMS; i += WIDTH) {
        if (first + i < p.count) {
            float v[WIDTH];
            Vec<T, WIDTH>::load(x + first + i).to_floats(v);
#pragma unroll
            for (u32 j = 0; j < WIDTH; j++) {
                v[j] = bits[i + j] >= p.threshold ? v[j] * p.scale : 0.0f;
            }
            Vec<T, WIDTH>::of_floats(v).store(out + first + i);
        }
    }
}
