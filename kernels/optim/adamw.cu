// AdamW (Loshchilov and Hutter 2019): one step of all parameters, in place, in f32.
//
//   g' = g * coefficient                       the clipping coefficient that norm.cu left on the device
//   m  = beta1 m + (1 - beta1) g'
//   v  = beta2 v + (1 - beta2) g'^2
//   w  = w - lr * decay * w - lr * (m * correction1) / (sqrt(v * correction2) + eps)
//
// For parameters of 16 bits w is a master in f32, and the parameter is that, rounded to nearest even. Without a master w
// is the parameter, and what becomes of it is rounded stochastically: to the bf16 below it in magnitude, or to the one
// above with the probability of its distance from the one below, so that the mean is exact. Element i takes the upper
// half of lane i % 4 of Philox4x32-10 at counter (entry.random + i / 4 lo, hi, step lo, hi) under the seed's key.
//
// Constants: those of optim/params.cuh
//            HAS_CLIP: bool
//            KINDS     which kinds of parameters there are, a bit each: 0 f32, 1 f16 and 2 bf16 with masters, 3 bf16
//                      without. Code for others is left out.
// Parts:     common/philox.cuh, optim/params.cuh, then this
// Arguments: table [entries] in which what the entries point at is in and out, clip [1 or more] f32 with clip[0] the
//            coefficient (null unless HAS_CLIP), Params
// Grid:      the sum of ceil(count / CHUNK) over the entries
// Bound by:  memory. It reads w, g, m and v once and writes w, m and v once: 28 bytes an f32 element, with a master and
//            an f32 gradient 30, without master 24.

struct Params {
    u32 entries;
    float lr;
    float beta1;
    float beta2;
    float eps;
    float correction1; // 1 / (1 - beta1^step)
    float correction2; // 1 / (1 - beta2^step)
    u32 pad;
    uint2 key;  // seed, low word first
    uint2 step; // low word first
};

// x becomes a bf16 by the upper half of `bits`; in f32, as it is then rounded once more without changing.
inline float round_stochastically(float x, u32 bits) {
    const u32 sum = __float_as_uint(x) + (bits >> 16);
    return x == x ? __uint_as_float(sum & 0xffff0000u) : x;
}

// N neighbours from element i on: four, with i a multiple of four, or one.
template <typename W, typename G, bool MASTER, u32 N>
inline void update(const Entry& entry, u32 i, float coefficient, const Params& p) {
    using Line = Vec<float, N>;
    constexpr bool ROUNDED = !same<W, float>;
    float* const to_m = global(entry.m) + i;
    float* const to_v = global(entry.v) + i;
    float w[N], g[N], m[N], v[N];
    if constexpr (ROUNDED && !MASTER) {
        Vec<W, N>::load(global((const W*)entry.rounded) + i).to_floats(w);
    } else {
        Line::load(global(entry.exact) + i).to_floats(w);
    }
    Vec<G, N>::load(global((const G*)entry.g) + i).to_floats(g);
    Line::load(to_m).to_floats(m);
    Line::load(to_v).to_floats(v);
#pragma unroll
    for (u32 j = 0; j < N; j++) {
        const float grad = g[j] * coefficient;
        // What is fused is said, so that all kinds of parameters take the same step to the bit.
        m[j] = fmaf(p.beta1, m[j], (1.0f - p.beta1) * grad);
        v[j] = fmaf(p.beta2, v[j], (1.0f - p.beta2) * grad * grad);
        const float step = (m[j] * p.correction1) / (sqrtf(v[j] * p.correction2) + p.eps);
        w[j] = fmaf(-p.lr, fmaf(entry.decay, w[j], step), w[j]);
    }
    Line::of_floats(m).store(to_m);
    Line::of_floats(v).store(to_v);
    if constexpr (MASTER || !ROUNDED) {
        Line::of_floats(w).store(global(entry.exact) + i);
    } else {
        const u64 block = entry.random + i / 4;
        const uint4 bits = philox(make_uint4((u32)block, (u32)(block >> 32), p.step.x, p.step.y), p.key);
#pragma unroll
        for (u32 j = 0; j < N; j++) {
            const u32 lane = (i + j) % 4;
            w[j] = round_stochastically(w[j], lane < 2 ? lane == 0 ? bits.x : bits.y : lane == 2 ? bits.z : bits.w);
        }
    }
    if constexpr (ROUNDED) {
        Vec<W, N>::of_floats(w).store(global((W*)entry.rounded) + i);
    }
}

template <typename W, typename G, bool MASTER>
inline void update_piece(const Piece& piece, float coefficient, const Params& p) {
    const u32 lines_end = piece.entry.lines ? piece.last / 4 * 4 : piece.first;
#pragma unroll 2
    for (u32 i = piece.first + threadIdx.x * 4; i < lines_end; i += BLOCK * 4) {
        update<W, G, MASTER, 4>(piece.entry, i, coefficient, p);
    }
    for (u32 i = lines_end + threadIdx.x; i < piece.last; i += BLOCK) {
        update<W, G, MASTER, 1>(piece.entry, i, coefficient, p);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
adamw(const Entry* __restrict__ table, const float* __restrict__ clip, const Params p) {
    const Piece piece = find_piece(table, p.entries);
    const float coefficient = HAS_CLIP ? clip[0] : 1.0f;
    const u32 kind = piece.entry.kind;
    with_gradient(piece.entry, [&](auto gradient) {
        // f32, or the parameter's own.
        using G = typename decltype(gradient)::type;
        constexpr bool ANY = same<G, float>;
        if constexpr (KINDS & 1 && ANY) {
            if (kind == 0) {
                update_piece<float, G, false>(piece, coefficient, p);
            }
        }
        if constexpr (KINDS & 2 && (ANY || same<G, f16>)) {
            if (kind == 1) {
                update_piece<f16, G, true>(piece, coefficient, p);
            }
        }
        if constexpr (KINDS & 4 && (ANY || same<G, bf16>)) {
            if (kind == 2) {
                update_piece<bf16, G, true>(piece, coefficient, p);
            }
        }
        if constexpr (KINDS & 8 && (ANY || same<G, bf16>)) {
            if (kind == 3) {
                update_piece<bf16, G, false>(piece, coefficient, p);
            }
        }
    });
}
