// Walking strided views. A view has up to 8 dimensions; RANK is how many of them are left after the host joined those
// that lie evenly in every operand, so that a contiguous tensor has rank 1 or 0.
//
// Constants: RANK
//            WIDTH  neighbours along the last dimension that a thread takes at once: 16 bytes of the widest type if every
//                   view has there stride 1, with all else (the size, its other strides, its start) multiples
//                   of WIDTH elements, or stride 0; else 1

struct Dims {
    u32 d[8];
};

// Where element i (row-major in `sizes`) of a view with these strides lies, counted from its start.
inline u64 walk(u32 i, const Dims& sizes, const Dims& strides) {
    u64 at = 0;
#pragma unroll
    for (u32 d = RANK; d-- > 0;) {
        // The first dimension is what is left.
        u32 index = d > 0 ? i % sizes.d[d] : i;
        at += (u64)index * strides.d[d];
        i /= sizes.d[d];
    }
    return at;
}

// WIDTH neighbours of a view from `from` on: as they lie, or with SPLAT, where its last stride is 0, one element WIDTH
// times.
template <bool SPLAT, typename T> inline Vec<T, WIDTH> load_line(const T* from) {
    if constexpr (SPLAT) {
        Vec<T, WIDTH> line = Vec<T, WIDTH>::zeros();
#pragma unroll
        for (u32 i = 0; i < WIDTH; i++) {
            line.set(i, *from);
        }
        return line;
    } else {
        return Vec<T, WIDTH>::load(from);
    }
}
