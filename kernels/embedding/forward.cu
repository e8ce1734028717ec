// Embedding, forward: out[i, :] = table[ids[i], :].
//
// An id that is not below V reads nothing and yields a row of NaN.
//
// Constants: BLOCK  threads a block
//            WIDTH  elements a load: 16 bytes of T if C and the start of the table are multiples of that, else 1
//            T      float, f16 or bf16
// Parts:     this alone
// Arguments: table [V, C], ids [tokens] u32, out [tokens, C] out, Params
// Grid:      ceil(tokens C / (WIDTH BLOCK)) blocks, one thread a line
// Bound by:  memory. It reads a row and writes one a token.

struct Params {
    u32 tokens;
    u32 C;
    u32 V;
    u32 pad;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
forward(const T* __restrict__ table, const u32* __restrict__ ids, T* __restrict__ out, const Params p) {
    const u64 i = ((u64)blockIdx.x * BLOCK + threadIdx.x) * WIDTH;
    const u32 token = (u32)i / p.C;
    if (token >= p.tokens) {
        return;
    }
    const u32 id = ids[token];
    Vec<T, WIDTH> line;
    if (id < p.V) {
        line = Vec<T, WIDTH>::load(table + (u64)id * p.C + ((u32)i - token * p.C));
    } else {
        line = Vec<T, WIDTH>::zeros();
#pragma unroll
        for (u32 j = 0; j < WIDTH; j++) {
            line.set(j, from_float<T>(__uint_as_float(0x7fc00000)));
        }
    }
    line.store(out + i);
}
