// Many tensors in one launch: their addresses in a table in memory, and for each block the piece that is its own.
//
// Constants: BLOCK  threads a block
//            CHUNK  elements a block, a multiple of 4

struct Entry {
    float* w;       // parameter
    const float* g; // gradient
    float* m;       // first and second moment
    float* v;
    u32 count;       // elements of each
    u32 first_block; // blocks before this tensor's
    float decay;     // weight decay
    u32 lines;       // 1 if all four start at multiples of 16 bytes
};

struct Piece {
    Entry entry;
    u32 first, last; // elements
};

// This block's piece. Every thread looks at some entries, so that the search takes one reading of the table.
inline Piece find_piece(const Entry* table, u32 entries) {
    __shared__ u32 found;
    for (u32 e = threadIdx.x; e < entries; e += BLOCK) {
        const u32 first = table[e].first_block;
        const u32 blocks = (table[e].count + CHUNK - 1) / CHUNK;
        if (blockIdx.x - first < blocks) {
            found = e;
        }
    }
    __syncthreads();
    const Entry entry = table[found];
    const u32 first = (blockIdx.x - entry.first_block) * CHUNK;
    return {entry, first, min(first + CHUNK, entry.count)};
}
