// Rows of D elements in shared memory for the kernels that use tensor cores: swizzled, and padded with zeros to a
// multiple of 16 elements, the depth of an mma.
//
// Constants: D, BLOCK, T
// Parts:     common/ptx.cuh, common/tile.cuh, then this

constexpr u32 PADDED = (D + 15) / 16 * 16;
constexpr u32 CHUNKS = PADDED / 8;
using Line = Swizzle<CHUNKS>;

// Starts copying COUNT rows, of which `there` are there, to shared memory. Others and the padding become zeros.
template <u32 COUNT> inline void fetch(u32 to, const T* from, u32 stride, i32 there) {
    constexpr u32 LINES = COUNT * CHUNKS;
    // Not all at once where few threads copy much: each copy in flight holds registers for its addresses.
#pragma unroll 8
    for (u32 i = 0; i < (LINES + BLOCK - 1) / BLOCK; i++) {
        const u32 id = i * BLOCK + threadIdx.x;
        const u32 row = id / CHUNKS, chunk = id % CHUNKS;
        if (LINES % BLOCK == 0 || id < LINES) {
            copy_async16(to + Line::place(row, chunk), from + (u64)row * stride + chunk * 8,
                         (i32)row < there && (D == PADDED || chunk < D / 8));
        }
    }
}

// A warp writes COUNT of a block's rows, from row `first` on, that lie in shared memory, 16 bytes a lane. The block's
// first row goes to `to`, and `there` of its rows are there.
template <u32 COUNT>
inline void store_rows(T* to, u32 stride, u32 there, const unsigned char* from, u32 first) {
#pragma unroll 4
    for (u32 id = threadIdx.x % WARP_SIZE; id < COUNT * CHUNKS; id += WARP_SIZE) {
        const u32 row = first + id / CHUNKS, chunk = id % CHUNKS;
        if (row < there && chunk < D / 8) {
            const uint4 line = *reinterpret_cast<const uint4*>(from + Line::place(row, chunk));
            store16(to + (u64)row * stride + chunk * 8, line.x, line.y, line.z, line.w);
        }
    }
}
