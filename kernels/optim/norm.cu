// The global norm of all gradients and the coefficient that clips it, without reading anything back.
//
//   norm        = sqrt(sum over all gradients of g^2)
//   coefficient = min(1, max_norm / (norm + 1e-6))
//
// Each tensor is cut into pieces of a fixed number of elements, each piece's sum goes to a slot of its own, and one block
// adds the slots in one fixed order.
//
// Constants: those of optim/params.cuh and of common/reduce.cuh with TEAM = BLOCK
// Parts:     common/reduce.cuh, optim/params.cuh, then this
//
// Entry squares: all gradients
//   Arguments: table [entries], partials f32 out, a slot a block, Params
//   Grid:      the sum of ceil(count / CHUNK) over the entries
// Entry clip
//   Arguments: partials [slots] f32, clip [2] f32 out: coefficient, norm, Params
//   Grid:      one block
// Bound by: memory. Every gradient is read once.

struct Params {
    u32 entries;
    u32 slots;
    float max_norm;
    u32 pad;
};

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
squares(const Entry* __restrict__ table, float* __restrict__ partials, const Params p) {
    const Piece piece = find_piece(table, p.entries);
    float total = 0.0f;
    with_gradient(piece.entry, [&](auto gradient) {
        using G = typename decltype(gradient)::type;
        const G* g = global((const G*)piece.entry.g);
        const u32 lines_end = piece.entry.lines ? piece.last / 4 * 4 : piece.first;
#pragma unroll 4
        for (u32 i = piece.first + threadIdx.x * 4; i < lines_end; i += BLOCK * 4) {
            float v[4];
            Vec<G, 4>::load(g + i).to_floats(v);
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                total += v[j] * v[j];
            }
        }
        for (u32 i = lines_end + threadIdx.x; i < piece.last; i += BLOCK) {
            const float x = to_float(g[i]);
            total += x * x;
        }
    });
    u32 turn = 0;
    total = team_sum(total, turn);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = total;
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
clip(const float* __restrict__ partials, float* __restrict__ out, const Params p) {
    float total = 0.0f;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < p.slots; i += BLOCK) {
        total += partials[i];
    }
    u32 turn = 0;
    const float norm = sqrtf(team_sum(total, turn));
    if (threadIdx.x == 0) {
        out[0] = fminf(1.0f, p.max_norm / (norm + 1e-6f));
        out[1] = norm;
    }
}
