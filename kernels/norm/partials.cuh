// How sums over rows leave a block, when each thread has those of WIDTH neighbouring columns.
//
// Constants: WIDTH  1, 4 or 8

// Writes the sums of the columns c .. c + WIDTH - 1 of a row of C. All lanes of a warp call it together, with columns
// next to each other's, also those whose columns are beyond C.
inline void store_sums(float* row, u32 c, u32 C, const float (&v)[WIDTH]) {
    if constexpr (WIDTH == 8) {
        // Eight sums are a sector, and a lane stores half of it at a time. So two lanes write one lane's eight
        // together, then the other's.
        const bool odd = threadIdx.x % 2;
        float own[4], other[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            own[i] = odd ? v[4 + i] : v[i];
            other[i] = __shfl_xor_sync(FULL_WARP, odd ? v[i] : v[4 + i], 1);
        }
        const u32 even_c = odd ? c - 8 : c, half = odd ? 4 : 0;
        float first[4], second[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            first[i] = odd ? other[i] : own[i];
            second[i] = odd ? own[i] : other[i];
        }
        if (even_c < C) {
            Vec<float, 4>::of_floats(first).store(row + even_c + half);
        }
        if (even_c + 8 < C) {
            Vec<float, 4>::of_floats(second).store(row + even_c + 8 + half);
        }
    } else if (c < C) {
        Vec<float, WIDTH>::of_floats(v).store(row + c);
    }
}
