// AdamW (Loshchilov and Hutter 2019): one step of all parameters, in place, in f32.
//
//   g' = g * coefficient                       the clipping coefficient that norm.cu left on the device
//   m  = beta1 m + (1 - beta1) g'
//   v  = beta2 v + (1 - beta2) g'^2
//   w  = w - lr * decay * w - lr * (m * correction1) / (sqrt(v * correction2) + eps)
//
// Constants: those of optim/params.cuh, and HAS_CLIP: bool
// Parts:     optim/params.cuh, then this
// Arguments: table [entries] in which what the entries point at is in and out, clip [1 or more] f32 with clip[0] the
//            coefficient (null unless HAS_CLIP), Params
// Grid:      the sum of ceil(count / CHUNK) over the entries
// Bound by:  memory. It reads w, g, m and v once and writes w, m and v once: 28 bytes an element.

struct Params {
    u32 entries;
    float lr;
    float beta1;
    float beta2;
    float eps;
    float correction1; // 1 / (1 - beta1^step)
    float correction2; // 1 / (1 - beta2^step)
    u32 pad;
};

template <u32 N> inline void update(const Entry& entry, u32 i, float coefficient, const Params& p) {
    using Line = Vec<float, N>;
    float w[N], g[N], m[N], v[N];
    Line::load(entry.w + i).to_floats(w);
    Line::load(entry.g + i).to_floats(g);
    Line::load(entry.m + i).to_floats(m);
    Line::load(entry.v + i).to_floats(v);
#pragma unroll
    for (u32 j = 0; j < N; j++) {
        const float grad = g[j] * coefficient;
        m[j] = p.beta1 * m[j] + (1.0f - p.beta1) * grad;
        v[j] = p.beta2 * v[j] + (1.0f - p.beta2) * grad * grad;
        const float step = (m[j] * p.correction1) / (sqrtf(v[j] * p.correction2) + p.eps);
        w[j] -= p.lr * (entry.decay * w[j] + step);
    }
    Line::of_floats(w).store(entry.w + i);
    Line::of_floats(m).store(entry.m + i);
    Line::of_floats(v).store(entry.v + i);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
adamw(const Entry* __restrict__ table, const float* __restrict__ clip, const Params p) {
    const Piece piece = find_piece(table, p.entries);
    const float coefficient = HAS_CLIP ? clip[0] : 1.0f;
    const u32 lines_end = piece.entry.lines ? piece.last / 4 * 4 : piece.first;
#pragma unroll 2
    for (u32 i = piece.first + threadIdx.x * 4; i < lines_end; i += BLOCK * 4) {
        update<4>(piece.entry, i, coefficient, p);
    }
    for (u32 i = lines_end + threadIdx.x; i < piece.last; i += BLOCK) {
        update<1>(piece.entry, i, coefficient, p);
    }
}
