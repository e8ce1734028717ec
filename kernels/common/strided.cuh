// Walking strided views. A view has up to 8 dimensions; RANK is how many of them are left after the host joined those
// that lie evenly in every operand, so that a contiguous tensor has rank 1 or 0.
//
// Constants: RANK

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
