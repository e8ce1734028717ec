// A tile in shared memory: rows of CHUNKS chunks of 16 bytes, without padding and without bank conflicts.
//
// Shared memory serves 16-byte accesses eight lanes at a time, from 8 groups of 4 banks. Eight chunks next to each
// other lie in all 8 groups; but ldmatrix takes the same chunk of eight rows, which would fall into one or few. So
// rows permute their chunks: an even number of chunks a row is 2^BITS times something, 2^(3 - BITS) rows repeat the
// pattern of groups, and xor with the number of that repetition spreads eight rows over all groups. The permutation
// stays within aligned groups of 2^BITS chunks: rows stay apart and eight neighbours keep filling all groups.
template <u32 CHUNKS> struct Swizzle {
    static_assert(CHUNKS % 2 == 0, "rows of an odd number of chunks need no permutation");
    static constexpr u32 BITS = CHUNKS % 8 == 0 ? 3 : CHUNKS % 4 == 0 ? 2 : 1;

    // What the chunk numbers of a row are xored with. Rows eight apart have the same.
    static u32 mask(u32 row) {
        return row >> (3 - BITS) & ((1 << BITS) - 1);
    }

    // Bytes from the tile's start.
    static u32 place(u32 row, u32 chunk) {
        return (row * CHUNKS + (chunk ^ mask(row))) * 16;
    }
};
