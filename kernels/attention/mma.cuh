// Rows of D elements in shared memory for the kernels that use tensor cores: swizzled, and padded with zeros to a
// multiple of 16 elements, the depth of an mma.
//
// Constants: D, BLOCK, T
// Parts:     common/ptx.cuh, common/tile.cuh, then this

constexpr u32 PADDED = (D + 15) / 16 * 16;
constexpr u32 CHUNKS = PADDED / 8;
using Line = Swizzle<CHUNKS>;

// Starts copying COUNT rows, of which `there` are there, to shared memory: row r from `line(r)`. Others and the padding
// become zeros.
template <u32 COUNT, typename Lines> inline void fetch_lines(u32 to, Lines line, i32 there) {
    constexpr u32 LINES = COUNT * CHUNKS;
    // Not all at once where few threads copy much: each copy in flight holds registers for its addresses.
#pragma unroll 8
    for (u32 i = 0; i < (LINES + BLOCK - 1) / BLOCK; i++) {
        const u32 id = i * BLOCK + threadIdx.x;
        const u32 row = id / CHUNKS, chunk = id % CHUNKS;
        if (LINES % BLOCK == 0 || id < LINES) {
            copy_async16(to + Line::place(row, chunk), line(row) + chunk * 8,
                         (i32)row < there && (D == PADDED || chunk < D / 8));
        }
    }
}

template <u32 COUNT> inline void fetch(u32 to, const T* from, u32 stride, i32 there) {
    fetch_lines<COUNT>(to, [&](u32 row) { return from + (u64)row * stride; }, there);
}

// A warp writes COUNT of a block's rows, from row `first` on, that lie in shared memory, 16 bytes a lane: row r to
// `line(r)`. Of the block's rows `there` are there.
template <u32 COUNT, typename Lines>
inline void store_lines(Lines line, u32 there, const unsigned char* from, u32 first) {
#pragma unroll 4
    for (u32 id = threadIdx.x % WARP_SIZE; id < COUNT * CHUNKS; id += WARP_SIZE) {
        const u32 row = first + id / CHUNKS, chunk = id % CHUNKS;
        if (row < there && chunk < D / 8) {
            const uint4 v = *reinterpret_cast<const uint4*>(from + Line::place(row, chunk));
            store16(line(row) + chunk * 8, v.x, v.y, v.z, v.w);
        }
    }
}

template <u32 COUNT> inline void store_rows(T* to, u32 stride, u32 there, const unsigned char* from, u32 first) {
    store_lines<COUNT>([&](u32 row) { return to + (u64)row * stride; }, there, from, first);
}
