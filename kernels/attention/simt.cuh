// Rows of D elements in shared memory as f32, swizzled, for the kernels without tensor cores.
//
// Constants: D, BLOCK, T
// Parts:     common/ptx.cuh, common/tile.cuh, then this

constexpr u32 LANES = 16; // the threads of a team share its rows' products
constexpr u32 CHUNKS = D / 4;
constexpr u32 COLUMNS = (CHUNKS + LANES - 1) / LANES; // quads of a row that are a thread's
using Line = Swizzle<CHUNKS>;

// Starts copying COUNT rows, of which `there` are there, to shared memory: row r from `line(r)`. Others become zeros.
template <u32 COUNT, typename Lines> inline void fetch_lines(unsigned char* to, Lines line, i32 there) {
    constexpr u32 LINES = COUNT * CHUNKS;
#pragma unroll 4
    for (u32 id = threadIdx.x; id < LINES; id += BLOCK) {
        const u32 row = id / CHUNKS, chunk = id % CHUNKS;
        const T* const from = line(row) + chunk * 4;
        if constexpr (sizeof(T) == 4) {
            copy_async16(shared_address(to + Line::place(row, chunk)), from, (i32)row < there);
        } else {
            float4* at = reinterpret_cast<float4*>(to + Line::place(row, chunk));
            float x[4] = {};
            if ((i32)row < there) {
                Vec<T, 4>::load(from).to_floats(x);
            }
            *at = make_float4(x[0], x[1], x[2], x[3]);
        }
    }
}

template <u32 COUNT> inline void fetch(unsigned char* to, const T* from, u32 stride, i32 there) {
    fetch_lines<COUNT>(to, [&](u32 row) { return from + (u64)row * stride; }, there);
}

inline float4 quad(const unsigned char* tile, u32 row, u32 chunk) {
    return *reinterpret_cast<const float4*>(tile + Line::place(row, chunk));
}
