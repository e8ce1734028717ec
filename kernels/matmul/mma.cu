// Matmul on tensor cores: f16 and bf16 with f32 sums, and f32 rounded to tf32 where the user chose that.
//
// A block computes a BM x BN tile of the product, a warp a WM x WN part of it. Slices of BK along K of A and B come to
// shared memory by asynchronous copies, STAGES - 1 of them ahead of the one in use; warps read them as fragments with
// ldmatrix and multiply them with mma.sync. One barrier a slice says both that the next slice is there and that the
// stage to be overwritten has been read.
//
// Slices lie in shared memory as they lie in global memory, whichever way that is: rows of chunks of 16 bytes along the
// operand's unit stride, swizzled (common/tile.cuh). Along K ("A row-major", "B transposed") a fragment is what
// ldmatrix reads; along M or N it is what ldmatrix.trans reads. So all four transpositions run at the same speed. For
// tf32 there is no transposing ldmatrix, and words are read one by one, swizzled for that.
//
// Edges: what is beyond M, N or K is filled with zeros by the copies. Operands that have no unit stride, or whose rows
// do not start at multiples of 16 bytes, are gathered element by element (A_LINES, B_LINES false); the rest is alike.
//
// Sums leave through shared memory, so that a warp writes (and reads bias, residual..) in lines of 16 bytes a lane.
//
// Constants: BM, BN, BK        the tile; BK 32 or 64 for 16 bits, 16 or 32 for f32
//            WARPS_M, WARPS_N  warps along each side; WM = BM / WARPS_M a multiple of 16, WN = BN / WARPS_N 32 or 64
//            STAGES            slices in shared memory, at least 2
//            BLOCK             32 * WARPS_M * WARPS_N
//            A_ALONG_M, B_ALONG_N: bool, the unit stride is along M or N and not along K
//            A_LINES, B_LINES: bool, that stride is 1, and the operand's start, its other strides and its size along it
//                              are multiples of 16 bytes
//            and those of epilogue.cuh
// Parts:     common/ptx.cuh, common/tile.cuh, activation/functions.cuh, matmul/epilogue.cuh, then this
// Arguments: A, B, bias, residual, d out (in and out if ACCUMULATE), pre out, partials out (see `Outputs`), Params
// Grid:      ceil(M / BM) * ceil(N / BN) * batch * splits blocks
// Shared:    dynamic, max(STAGES * BK * (BM + BN) * sizeof(T), 64 * WARPS_M * WARPS_N * (WN + 8)) bytes
// Registers: WM * WN / 32 sums, (WM + WN) / 4 of fragments
// Figures:   a slice takes BM BN BK multiply-adds and (BM + BN) BK elements of traffic from the second cache: at
//            128 x 256 that is 85 an element. From shared memory a step along K takes WM / 16 + WN / 16 ldmatrix of 4
//            cycles for WM WN / 128 mma: 8 and 32 at 64 x 64.
// Sources:   the PTX ISA on mma.m16n8k16 and ldmatrix; the multi-stage pipeline and the swizzle are those of NVIDIA's
//            CUTLASS 2 (Kerr, "Developing CUDA kernels to push tensor cores to the absolute limit", GTC 2020).

constexpr u32 CHUNK = 16 / sizeof(T); // elements
constexpr u32 STEP = 2 * CHUNK;       // the depth of one mma
constexpr u32 STEPS = BK / STEP;
constexpr u32 WM = BM / WARPS_M;
constexpr u32 WN = BN / WARPS_N;

// One operand: OUTER rows of A or columns of B, on its way from global memory to fragments.
template <u32 OUTER, bool IS_A, bool ACROSS, bool LINES> struct Operand {
    static constexpr u32 ROWS = ACROSS ? BK : OUTER;
    static constexpr u32 CHUNKS = (ACROSS ? OUTER : BK) / CHUNK;
    static constexpr u32 BYTES = ROWS * CHUNKS * 16;
    // A thread copies the same chunk of every APARTth row.
    static constexpr u32 APART = BLOCK / CHUNKS;
    static constexpr u32 LOADS = ROWS / APART;
    static_assert(BLOCK % CHUNKS == 0 && ROWS % APART == 0, "every thread copies as many chunks");
    // Transposed tf32 is read in words.
    static constexpr bool WORDS = ACROSS && sizeof(T) == 4;
    static_assert(APART % (WORDS ? 4 : 8) == 0, "the rows of one thread have one swizzle");

    // Of the copies: the next one's source and how far apart rows, slices and the elements of a chunk are there.
    const T* next;
    u64 row_stride, advance;
    u32 element_stride;
    i32 k_left; // how far along K, from this thread's first element of the next slice, there is something
    i32 outer_left;
    u32 to;                   // where the first chunk goes in its stage
    u32 lane_row, lane_chunk; // of the fragments

    // `from` is the tile's first element; `count` of OUTER are there, and `depth` along K.
    Operand(const T* from, u32 outer_stride, u32 k_stride, u32 count, u32 depth) {
        const u32 row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        const u32 outer = ACROSS ? chunk * CHUNK : row, k = ACROSS ? row : chunk * CHUNK;
        // The compiler is told where the stride is 1.
        const u64 along_outer = LINES && ACROSS ? 1 : outer_stride, along_k = LINES && !ACROSS ? 1 : k_stride;
        next = from + outer * along_outer + k * along_k;
        row_stride = APART * (ACROSS ? along_k : along_outer);
        element_stride = ACROSS ? along_outer : along_k;
        advance = BK * along_k;
        k_left = (i32)depth - (i32)k;
        outer_left = (i32)count - (i32)outer;
        to = (row * CHUNKS + (chunk ^ mask(row))) * 16;
        // Where this lane's row of the four matrices of a fragment lies. The matrices of A are its upper left, lower
        // left, upper right and lower right; those of B belong to its left columns, then its right ones. Stored
        // transposed, rows and chunks change places.
        const u32 lane = threadIdx.x % WARP_SIZE;
        lane_row = IS_A != ACROSS ? lane % 16 : lane / 16 * 8 + lane % 8;
        lane_chunk = IS_A != ACROSS ? lane / 16 : lane / 8 % 2;
    }

    // Words are read as eight neighbours in each of four rows: all banks, if the rows' pairs of chunks are apart.
    static u32 mask(u32 row) {
        return WORDS ? row % 4 * 2 : Swizzle<CHUNKS>::mask(row);
    }

    // Starts copying the next slice to shared memory.
    void fetch(u32 stage) {
        // Along the chunk, and along the rows.
        const i32 chunk_left = ACROSS ? outer_left : k_left, rows_left = ACROSS ? k_left : outer_left;
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            const T* from = next + i * row_stride;
            const u32 at = stage + to + i * APART * CHUNKS * 16;
            const bool row_there = rows_left > (i32)(i * APART);
            if constexpr (LINES) {
                copy_async16(at, from, row_there && chunk_left > 0);
            } else {
                Vec<T, CHUNK> line = Vec<T, CHUNK>::zeros();
#pragma unroll
                for (i32 e = 0; e < (i32)CHUNK; e++) {
                    if (row_there && e < chunk_left) {
                        line.set(e, from[(u64)e * element_stride]);
                    }
                }
                store_shared16(at, line.words);
            }
        }
        next += advance;
        k_left -= BK;
    }

    // The fragment of `outer` .. outer + 15 (a multiple of 16) at the step.
    void fragment(u32 (&v)[4], u32 stage, u32 outer, u32 step) const {
        if constexpr (WORDS) {
            const u32 lane = threadIdx.x % WARP_SIZE, g = lane / 4, t = lane % 4;
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                // A's lower half comes second, B's right half last.
                const u32 high = IS_A ? i % 2 : i / 2, later = IS_A ? i / 2 : i % 2;
                const u32 row = step * STEP + later * 4 + t;
                const u32 chunk = outer / CHUNK + high * 2 + g / 4;
                v[i] = load_shared(stage + (row * CHUNKS + (chunk ^ (t * 2))) * 16 + g % 4 * 4);
            }
        } else {
            const u32 row = ACROSS ? step * STEP : outer;
            const u32 chunk = ACROSS ? outer / CHUNK : step * 2;
            // Both are even, and rows in eights: the swizzle is the lane's own, and xor is as good as adding.
            load_matrices<ACROSS>(v, stage + ((row + lane_row) * CHUNKS + (chunk ^ lane_chunk ^ mask(lane_row))) * 16);
        }
        if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                v[i] = to_tf32(v[i]);
            }
        }
    }
};

using OperandA = Operand<BM, true, A_ALONG_M, A_LINES>;
using OperandB = Operand<BN, false, B_ALONG_N, B_LINES>;

// One warp's 16 rows of sums on their way out, in f32. The padding puts four rows of pairs into different banks.
constexpr u32 SLAB_STRIDE = WN + 8;
constexpr u32 SLAB = 16 * SLAB_STRIDE;

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
matmul(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ bias, const T* __restrict__ residual,
       D* d, T* pre, float* partials, const Params p) {
    extern __shared__ __align__(128) unsigned char shared[];
    const Place at = Place::of(blockIdx.x, p, BM, BN);
    const u32 k_begin = at.split * p.split_k;
    const u32 depth = k_begin < p.K ? min(p.K - k_begin, p.split_k) : 0;
    const u32 warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    const u32 warp_m = warp % WARPS_M * WM, warp_n = warp / WARPS_M * WN;

    OperandA from_a(a + start_of(p.a, at.batch, p.inner) + (u64)k_begin * p.a[1] + (u64)at.m0 * p.a[0],
                    p.a[0], p.a[1], min(BM, p.M - at.m0), depth);
    OperandB from_b(b + start_of(p.b, at.batch, p.inner) + (u64)k_begin * p.b[0] + (u64)at.n0 * p.b[1],
                    p.b[1], p.b[0], min(BN, p.N - at.n0), depth);

    float sums[WM / 16][WN / 8][4] = {};

    const u32 slices = (depth + BK - 1) / BK;
    constexpr u32 STAGE = OperandA::BYTES + OperandB::BYTES;
    const u32 stages = shared_address(shared);
    auto fetch = [&](u32 slice) {
        if (slice < slices) {
            const u32 stage = stages + slice % STAGES * STAGE;
            from_a.fetch(stage);
            from_b.fetch(stage + OperandA::BYTES);
        }
        // Beyond the last slice groups are empty, so that counting them stays simple.
        copy_commit();
    };
#pragma unroll
    for (u32 slice = 0; slice + 1 < STAGES; slice++) {
        fetch(slice);
    }
    for (u32 slice = 0; slice < slices; slice++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        fetch(slice + STAGES - 1);
        const u32 stage = stages + slice % STAGES * STAGE;
#pragma unroll
        for (u32 step = 0; step < STEPS; step++) {
            u32 fragment_a[WM / 16][4], fragment_b[WN / 16][4];
#pragma unroll
            for (u32 i = 0; i < WM / 16; i++) {
                from_a.fragment(fragment_a[i], stage, warp_m + i * 16, step);
            }
#pragma unroll
            for (u32 j = 0; j < WN / 16; j++) {
                from_b.fragment(fragment_b[j], stage + OperandA::BYTES, warp_n + j * 16, step);
            }
#pragma unroll
            for (u32 i = 0; i < WM / 16; i++) {
#pragma unroll
                for (u32 j = 0; j < WN / 8; j++) {
                    mma<T>(sums[i][j], fragment_a[i], fragment_b[j / 2][j % 2 * 2], fragment_b[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    }
    // The slabs lie over the stages.
    copy_wait<0>();
    __syncthreads();

    const Outputs out = {bias, residual, d, pre, partials};
    float* slab = reinterpret_cast<float*>(shared) + warp * SLAB;
    constexpr u32 LANES = WN / NEIGHBOURS; // a row
    static_assert(LANES <= WARP_SIZE && WN % 32 == 0, "a warp finishes whole rows");
    const u32 g = lane / 4, t = lane % 4;
#pragma unroll
    for (u32 i = 0; i < WM / 16; i++) {
#pragma unroll
        for (u32 j = 0; j < WN / 8; j++) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const float* to = slab + (g + half * 8) * SLAB_STRIDE + j * 8 + t * 2;
                store_shared8(shared_address(to), sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
        }
        __syncwarp();
#pragma unroll
        for (u32 first = 0; first < 16; first += WARP_SIZE / LANES) {
            const u32 row = first + lane / LANES, column = lane % LANES * NEIGHBOURS;
            const float4* from = reinterpret_cast<const float4*>(slab + row * SLAB_STRIDE + column);
            float v[NEIGHBOURS];
            if constexpr (NEIGHBOURS == 4) {
                const float4 x = *from;
                v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
            } else {
                // Eight lanes would meet in every second group of banks; half of them start with their second quad.
                const bool swap = lane & 4;
                const float4 x = from[swap], y = from[!swap];
                v[0] = swap ? y.x : x.x, v[1] = swap ? y.y : x.y, v[2] = swap ? y.z : x.z, v[3] = swap ? y.w : x.w;
                v[4] = swap ? x.x : y.x, v[5] = swap ? x.y : y.y, v[6] = swap ? x.z : y.z, v[7] = swap ? x.w : y.w;
            }
            finish(v, out, p, at, at.m0 + warp_m + i * 16 + row, at.n0 + warp_n + column);
        }
        __syncwarp();
    }
}
