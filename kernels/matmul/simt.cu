// Matmul with ordinary multiply-adds in f32: the full precision of f32 operands, and what runs where tensor cores do
// not have the type (bf16 before sm_80).
//
// A block computes a BM x BN tile, a thread TM x TN sums of it in registers. Slices of BK along K are read into
// registers while the previous slice is used, then written to shared memory as f32 [k][m] and [k][n], two slices in
// turn: one barrier a slice. Whichever way an operand lies, threads read it four elements at a time along its unit
// stride; along K the four go to four rows of the slice.
//
// Constants: BM, BN           the tile, 32, 64 or 128
//            TM, TN           the part of one thread, 4 or 8
//            BLOCK            (BM / TM) * (BN / TN) threads
//            A_ALONG_M, B_ALONG_N: bool, the unit stride, or else the smaller one, is along M or N and not along K
//            A_LINES, B_LINES: bool, that stride is 1, and the operand's start, its other strides and its size along it
//                             are multiples of 4 elements
//            and those of epilogue.cuh
// Parts:     activation/functions.cuh, matmul/epilogue.cuh, then this
// Arguments: A, B, bias, residual, d out (in and out if ACCUMULATE), pre out, partials out (see `Outputs`), Params
// Grid:      ceil(M / BM) * ceil(N / BN) * batch * splits blocks
// Shared:    64 (BM + BN + 8) bytes
// Registers: TM TN sums, 2 (TM + TN) of operands in use and on their way
// Figures:   for each k a thread reads TM + TN words of shared memory (4 loads of 16 bytes at 8 x 8) for TM TN
//            multiply-adds, 64: shared memory has time for twice as many loads.

constexpr u32 BK = 8;
constexpr u32 THREADS_N = BN / TN;
constexpr u32 THREADS_M = BM / TM;

// One operand: OUTER rows of A or columns of B, with P of them a thread.
template <u32 OUTER, u32 P, bool ACROSS, bool LINES> struct Operand {
    using Quad = Vec<T, 4>;
    // A thread reads the same quad of every APARTth line of the slice along the unit stride.
    static constexpr u32 QUADS = (ACROSS ? OUTER : BK) / 4;
    static constexpr u32 APART = BLOCK / QUADS;
    static constexpr u32 LOADS = (ACROSS ? BK : OUTER) / APART;
    static_assert(BLOCK % QUADS == 0 && (ACROSS ? BK : OUTER) % APART == 0, "every thread reads as many quads");
    // The four rows of a quad along K begin 16 banks after those of the quad before it, so that two of them and 16
    // neighbouring columns fill all banks.
    static constexpr u32 STRIDE = OUTER + 4;

    const T* next; // this thread's first element of the next slice
    u64 line_stride, advance;
    u32 element_stride;
    i32 line_left, quad_left; // how many lines and elements from there on are there
    u32 to;
    Quad quads[LOADS];

    // `from` is the tile's first element; `count` of OUTER are there, and `depth` along K.
    Operand(const T* from, u32 outer_stride, u32 k_stride, u32 count, u32 depth) {
        const u32 line = threadIdx.x / QUADS, element = threadIdx.x % QUADS * 4;
        // The compiler is told where the stride is 1.
        element_stride = LINES ? 1 : ACROSS ? outer_stride : k_stride;
        line_stride = APART * (u64)(ACROSS ? k_stride : outer_stride);
        advance = BK * (u64)(ACROSS ? k_stride : element_stride);
        next = from + line * (u64)(ACROSS ? k_stride : outer_stride) + element * (u64)element_stride;
        line_left = (i32)(ACROSS ? depth : count) - (i32)line;
        quad_left = (i32)(ACROSS ? count : depth) - (i32)element;
        to = ACROSS ? line * STRIDE + element : element * STRIDE + line;
    }

    // Starts reading the next slice. Beyond the edges it is zero.
    void fetch() {
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            quads[i] = Quad::zeros();
            const T* from = next + i * line_stride;
            if (line_left > (i32)(i * APART)) {
                if constexpr (LINES) {
                    if (quad_left > 0) {
                        quads[i] = Quad::load(from);
                    }
                } else {
#pragma unroll
                    for (i32 e = 0; e < 4; e++) {
                        if (e < quad_left) {
                            quads[i].set(e, from[(u64)e * element_stride]);
                        }
                    }
                }
            }
        }
        next += advance;
        (ACROSS ? line_left : quad_left) -= BK;
    }

    void store(float* slice) const {
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            float v[4];
            quads[i].to_floats(v);
            if constexpr (ACROSS) {
                *reinterpret_cast<float4*>(slice + to + i * APART * STRIDE) = make_float4(v[0], v[1], v[2], v[3]);
            } else {
#pragma unroll
                for (u32 e = 0; e < 4; e++) {
                    slice[to + e * STRIDE + i * APART] = v[e];
                }
            }
        }
    }

    // The columns of thread `index` of OUTER / P in row k: quads, so that neighbouring threads read neighbouring quads.
    static void read(float (&v)[P], const float* slice, u32 k, u32 index) {
#pragma unroll
        for (u32 i = 0; i < P / 4; i++) {
            const float4 x = *reinterpret_cast<const float4*>(slice + k * STRIDE + (i * (OUTER / P) + index) * 4);
            v[4 * i] = x.x, v[4 * i + 1] = x.y, v[4 * i + 2] = x.z, v[4 * i + 3] = x.w;
        }
    }
};

using OperandA = Operand<BM, TM, A_ALONG_M, A_LINES>;
using OperandB = Operand<BN, TN, B_ALONG_N, B_LINES>;

// Two blocks of the largest tile a multiprocessor: 128 registers a thread.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCK == 256 ? 2 : 1)
matmul(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ bias, const T* __restrict__ residual,
       D* d, T* pre, float* partials, const Params p) {
    __shared__ __align__(16) float slices_a[2][BK * OperandA::STRIDE];
    __shared__ __align__(16) float slices_b[2][BK * OperandB::STRIDE];
    const Place at = Place::of(blockIdx.x, p, BM, BN);
    const u32 thread_n = threadIdx.x % THREADS_N, thread_m = threadIdx.x / THREADS_N;
    const u32 k_begin = at.split * p.split_k;
    const u32 depth = k_begin < p.K ? min(p.K - k_begin, p.split_k) : 0;
    OperandA from_a(a + start_of(p.a, at.batch, p.inner) + (u64)k_begin * p.a[1] + (u64)at.m0 * p.a[0],
                    p.a[0], p.a[1], min(BM, p.M - at.m0), depth);
    OperandB from_b(b + start_of(p.b, at.batch, p.inner) + (u64)k_begin * p.b[0] + (u64)at.n0 * p.b[1],
                    p.b[1], p.b[0], min(BN, p.N - at.n0), depth);

    float sums[TM][TN] = {};
    from_a.fetch();
    from_b.fetch();
    for (u32 k0 = 0, turn = 0; k0 < depth; k0 += BK, turn ^= 1) {
        from_a.store(slices_a[turn]);
        from_b.store(slices_b[turn]);
        // Whoever is past it has used the other slice, which is written next.
        __syncthreads();
        from_a.fetch();
        from_b.fetch();
#pragma unroll
        for (u32 k = 0; k < BK; k++) {
            float x[TM], y[TN];
            OperandA::read(x, slices_a[turn], k, thread_m);
            OperandB::read(y, slices_b[turn], k, thread_n);
#pragma unroll
            for (u32 i = 0; i < TM; i++) {
#pragma unroll
                for (u32 j = 0; j < TN; j++) {
                    sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
                }
            }
        }
    }

    const Outputs out = {bias, residual, d, pre, partials};
#pragma unroll
    for (u32 i = 0; i < TM; i++) {
        const u32 m = at.m0 + (i / 4 * THREADS_M + thread_m) * 4 + i % 4;
#pragma unroll
        for (u32 j = 0; j < TN; j += 4) {
            float v[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
            finish(v, out, p, at, m, at.n0 + (j / 4 * THREADS_N + thread_n) * 4);
        }
    }
}
