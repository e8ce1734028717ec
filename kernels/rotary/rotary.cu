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
//            INTERLEAVED  bool
//            PAIRS        pairs a thread: 1, or as many as 16 bytes hold, of floats or, if INTERLEAVED, of elements of T;
//                         then rows and the starts of all inputs must be multiples of the loads that follow from it
//            DIRECTION    1.0 or -1.0
//            T            float, f16 or bf16
// Parts:     this alone
// Arguments: x [rows, D], cosines [steps, D / 2] f32, sines, alike, out [rows, D] out, Params. Row r is at position
//            r % steps.
// Grid:      ceil(rows D / (2 PAIRS BLOCK)) blocks
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
    // Pairs side by side come in one load if elements do at all.
    constexpr u32 LOADS = INTERLEAVED && PAIRS > 1 ? 1 : 2;
    constexpr u32 WIDTH = 2 * PAIRS / LOADS;
    using Line = Vec<T, WIDTH>;
    const u32 pairs = p.D / 2;
    const u64 item = ((u64)blockIdx.x * BLOCK + threadIdx.x) * PAIRS;
    const u32 row = (u32)item / pairs;
    if (row >= p.rows) {
        return;
    }
    const u32 pair = (u32)item % pairs;
    const u64 first = (u64)row * p.D + (INTERLEAVED ? 2 * pair : pair);
    const u32 apart = INTERLEAVED ? 1 : pairs;
    float v[LOADS][WIDTH], c[PAIRS], s[PAIRS];
#pragma unroll
    for (u32 l = 0; l < LOADS; l++) {
        Line::load(x + first + l * apart).to_floats(v[l]);
    }
    const u64 angle = (u64)(row % p.steps) * pairs + pair;
    Vec<float, PAIRS>::load(cosines + angle).to_floats(c);
    Vec<float, PAIRS>::load(sines + angle).to_floats(s);
#pragma unroll
    for (u32 i = 0; i < PAIRS; i++) {
        float& a = LOADS == 1 ? v[0][2 * i] : v[0][i];
        float& b = LOADS == 1 ? v[0][2 * i + 1] : v[LOADS - 1][i];
        const float turned = a * c[i] - b * (DIRECTION * s[i]);
        b = b * c[i] + a * (DIRECTION * s[i]);
        a = turned;
    }
#pragma unroll
    for (u32 l = 0; l < LOADS; l++) {
        Line::of_floats(v[l]).store(out + first + l * apart);
    }
}
