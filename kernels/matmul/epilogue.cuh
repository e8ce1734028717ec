// What the matmul kernels share: parameters, which tile a block computes, and the epilogue.
//
//   v   = (A B)[m, n]
//   v  += bias[n]                       BIAS
//   pre = v                             SAVE_PRE: kept for the backward of the activation
//   v   = activate(v)                   ACTIVATION, see activation/functions.cuh
//   v  += residual[m, n]                RESIDUAL
//   v  += d[m, n]                       ACCUMULATE
//   d   = v
//
// A is [batch, M, K] and B is [batch, K, N], read through any strides, so transposed, permuted and broadcast operands
// stay where they are. bias is [N]; residual, pre and d are contiguous [batch, M, N].
//
// Thin products have too few tiles for a device and are cut along K into p.splits shares of p.split_k each: then the
// kernels write their sums to `partials` [splits, batch, M, N] f32, and splits.cu adds them up in order and does all of
// the above. The sizes and the tile say how many, and the device has a say in the tile: the bits are the same run after
// run, and not on every device.
//
// Constants: BIAS, SAVE_PRE, RESIDUAL, ACCUMULATE: bool
//            ACTIVATION
//            SPLIT: bool  the kernel writes partials
//            D_LINES: bool  N and the starts of bias, residual, pre, d and partials are multiples of
//                     16 bytes' worth of elements, so that neighbours move in one instruction
//            T  float, f16 or bf16: A, B, bias, residual, pre
//            D  T or float: d. Gradients of 16-bit weights may be f32.
// Parts:     activation/functions.cuh, then this

struct Params {
    u32 M;
    u32 N;
    u32 K;
    u32 batch;
    u32 inner; // the batch index b is two: b / inner and b % inner
    u32 a[4]; // strides of A: along M, along K, of b / inner, of b % inner
    u32 b[4]; // strides of B: along K, along N, of b / inner, of b % inner
    u32 splits;
    u32 split_k; // a multiple of the kernel's BK; K without splits
};

// The pointers of the epilogue.
struct Outputs {
    const T* bias;     // null unless BIAS
    const T* residual; // null unless RESIDUAL
    D* d;
    T* pre;          // null unless SAVE_PRE
    float* partials; // null unless SPLIT
};

// A block's tile and its share of K.
struct Place {
    u32 m0;
    u32 n0;
    u32 batch;
    u32 split;

    // Blocks that run at the same time should share rows of A and columns of B in the second cache: bands of BAND
    // tiles along M are walked column by column.
    static Place of(u32 block, const Params& p, u32 bm, u32 bn) {
        constexpr u32 BAND = 8;
        u32 tiles_m = (p.M + bm - 1) / bm, tiles_n = (p.N + bn - 1) / bn;
        u32 tile = block % (tiles_m * tiles_n), rest = block / (tiles_m * tiles_n);
        u32 first = tile / (BAND * tiles_n) * BAND;
        u32 height = min(BAND, tiles_m - first);
        u32 within = tile % (BAND * tiles_n);
        return {(first + within % height) * bm, within / height * bn, rest % p.batch, rest / p.batch};
    }
};

inline u64 start_of(const u32 (&strides)[4], u32 batch, u32 inner) {
    return (u64)(batch / inner) * strides[2] + (u64)(batch % inner) * strides[3];
}

// How many neighbours a thread finishes: 16 bytes of the wider type.
constexpr u32 NEIGHBOURS = SPLIT ? 4 : 16 / (sizeof(T) > sizeof(D) ? sizeof(T) : sizeof(D));

// W columns of one row in one piece: all of bias, residual, pre and d that belong to them are read and written.
template <u32 W> inline void finish_line(float (&v)[W], const Outputs& out, u64 i, u32 n) {
    float w[W];
    if constexpr (BIAS) {
        Vec<T, W>::load(out.bias + n).to_floats(w);
#pragma unroll
        for (u32 c = 0; c < W; c++) {
            v[c] += w[c];
        }
    }
    if constexpr (SAVE_PRE) {
        Vec<T, W>::of_floats(v).store(out.pre + i);
    }
#pragma unroll
    for (u32 c = 0; c < W; c++) {
        v[c] = activate(v[c]);
    }
    if constexpr (RESIDUAL) {
        Vec<T, W>::load(out.residual + i).to_floats(w);
#pragma unroll
        for (u32 c = 0; c < W; c++) {
            v[c] += w[c];
        }
    }
    D* to = out.d + i;
    if constexpr (ACCUMULATE) {
        Vec<D, W>::load(to).to_floats(w);
#pragma unroll
        for (u32 c = 0; c < W; c++) {
            v[c] += w[c];
        }
    }
    Vec<D, W>::of_floats(v).store(to);
}

// Finishes the columns n .. n + W - 1 of row m, or the split's share of them; those beyond N are not there.
template <u32 W> inline void finish(float (&v)[W], const Outputs& out, const Params& p, const Place& at, u32 m, u32 n) {
    if (m >= p.M || n >= p.N) {
        return;
    }
    const u64 i = ((u64)at.batch * p.M + m) * p.N + n;
    float* share = out.partials + (u64)at.split * p.batch * p.M * p.N + i;
    if constexpr (D_LINES) {
        if constexpr (SPLIT) {
            Vec<float, W>::of_floats(v).store(share);
        } else {
            finish_line(v, out, i, n);
        }
    } else {
#pragma unroll
        for (u32 c = 0; c < W; c++) {
            if (n + c < p.N) {
                if constexpr (SPLIT) {
                    share[c] = v[c];
                } else {
                    float one[1] = {v[c]};
                    finish_line(one, out, i + c, n + c);
                }
            }
        }
    }
}
