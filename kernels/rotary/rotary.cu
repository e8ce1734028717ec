// Rotary position embedding (Su et al. 2021), forward and backward.
//
// Each pair (a, b) of a row of D elements turns by the angle of the row's position:
//
//   a' = a cos - b sin        b' = b cos + a sin        DIRECTION = 1.0
//
// The backward of a rotation is the rotation by the opposite angle: DIRECTION = -1.0 on the gradient. Pairs are
// (i, i + D / 2), as GPT-NeoX and Llama have them, or with INTERLEAVED (2 i, 2 i + 1), as GPT-J and the paper.
//
// Constants: BLOCK        threads a block
//            WIDTH        elements a load: 16 bytes of T if D / 2 and the starts of all inputs are multiples of that,
//                         else 1
//            INTERLEAVED  bool
//            DIRECTION    1.0 or -1.0
//            T            float, f16 or bf16
// Parts:     this alone
// Arguments: x [rows, D], cosines [steps, D / 2] f32, sines, alike, out [rows, D] out, Params. Row r is at position
//            r % steps.
// Grid:      ceil(rows D / (2 WIDTH BLOCK)) blocks, a thread WIDTH pairs
// Bound by:  memory. It reads x once and writes out once; the tables come from a cache.

struct Params {
    u32 rows;
    u32 steps;
    u32 D;
    u32 pad;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
rotary(const T* __restrict__ x, const float* __restrict__ cosines, const float* __restrict__ sines,
       T* __restrict__ out, const Params p) {
    using Line = Vec<T, WIDTH>;
    const u32 pairs = p.D / 2;
    const u64 item = ((u64)blockIdx.x * BLOCK + threadIdx.x) * WIDTH;
    const u32 row = (u32)item / pairs;
    if (row >= p.rows) {
        return;
    }
    const u32 pair = (u32)item % pairs;
    const u64 base = (u64)row * p.D;
    // The two lines that hold the pairs: their first and second elements, or pairs side by side.
    const u64 one = base + (INTERLEAVED ? 2 * pair : pair);
    const u64 other = one + (INTERLEAVED ? WIDTH : pairs);
    float v[2][WIDTH], c[WIDTH], s[WIDTH];
    Line::load(x + one).to_floats(v[0]);
    Line::load(x + other).to_floats(v[1]);
    const u64 angle = (u64)(row % p.steps) * pairs + pair;
    Vec<float, WIDTH>::load(cosines + angle).to_floats(c);
    Vec<float, WIDTH>::load(sines + angle).to_floats(s);
#pragma unroll
    for (u32 i = 0; i < WIDTH; i++) {
        float& a = INTERLEAVED ? v[2 * i / WIDTH][2 * i % WIDTH] : v[0][i];
        float& b = INTERLEAVED ? v[(2 * i + 1) / WIDTH][(2 * i + 1) % WIDTH] : v[1][i];
        const float turned = a * c[i] - b * (DIRECTION * s[i]);
        b = b * c[i] + a * (DIRECTION * s[i]);
        a = turned;
    }
    Line::of_floats(v[0]).store(out + one);
    Line::of_floats(v[1]).store(out + other);
}
