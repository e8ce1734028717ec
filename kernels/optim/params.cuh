// Many tensors in one launch: their addresses in a table in memory, and for each block the piece that is its own.
//
// Constants: BLOCK      threads a block
//            CHUNK      elements a block, a multiple of 4
//            GRADIENTS  which types the gradients have: bit 0 float, bit 1 f16, bit 2 bf16. Code for others is left out.

struct Entry {
    float* exact;    // what steps are taken on: an f32 parameter, or the master of one of 16 bits; null without either
    void* rounded;   // a parameter of 16 bits, else null
    const void* g;   // gradient
    float* m;        // first and second moment
    float* v;
    u64 random;      // the first block of random bits for stochastic rounding
    u32 count;       // elements of each
    u32 first_block; // blocks before this tensor's
    float decay;     // weight decay
    u32 lines;       // 1 if all that is there starts at multiples of 16 bytes
    u32 kind;        // of the parameter, see adamw.cu
    u32 gradient;    // the bit of its gradient's type
};

// Addresses from memory could point anywhere, and generic loads are slower: the compiler is told that this one, which
// must be there, points into global memory.
template <typename T> inline T* global(T* address) {
    __builtin_assume(__isGlobal(address));
    return address;
}

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

template <typename T> struct Type {
    using type = T;
};

// Calls f with the type of the gradient, which is the same for all threads of a block.
template <typename F> inline void with_gradient(const Entry& entry, F f) {
    if constexpr (GRADIENTS & 1) {
        if (entry.gradient == 0) {
            f(Type<float>());
        }
    }
    if constexpr (GRADIENTS & 2) {
        if (entry.gradient == 1) {
            f(Type<f16>());
        }
    }
    if constexpr (GRADIENTS & 4) {
        if (entry.gradient == 2) {
            f(Type<bf16>());
        }
    }
}
