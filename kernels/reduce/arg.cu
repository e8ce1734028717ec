// The index of the extreme element along the middle dimension: out[o, j] = argmax over i of x[o, i, j], the first of
// equal ones, for x [outer, n, inner] with n > 0. A NaN is larger than nothing and smaller than nothing, so that it is
// chosen only if it is the first element: what a loop from there does.
//
// Constants: BLOCK  threads a block, a multiple of 32
//            TEAM   threads a row of `rows`: 32, or BLOCK
//            KIND   1 maximum, 2 minimum
//            T      float, f16 or bf16
// Parts:     reduce/fold.cuh, then this
// Arguments: x, out [outer, inner] u32 out, Params
//
// Entry rows: inner = 1, a team a row
//   Grid:     ceil(results / (BLOCK / TEAM)) blocks
// Entry columns: a thread a column
//   Grid:     ceil(results / BLOCK) blocks
// Bound by: memory. Every element is read once.

struct Params {
    u32 n;
    u32 inner;
    u32 results; // outer * inner
    u32 pad;
};

struct Best {
    float value; // negated for the minimum
    u32 index;

    void challenge(float other, u32 at) {
        if (other > value || (other == value && at < index)) {
            value = other;
            index = at;
        }
    }
};

constexpr float SIGN = KIND == 1 ? 1.0f : -1.0f;

// The best of elements step * k + start, or index n if all are NaN or none is there.
inline Best scan(const T* from, u32 n, u32 start, u32 step, u64 stride) {
    Best best = {-INFINITE, n};
#pragma unroll 4
    for (u32 i = start; i < n; i += step) {
        best.challenge(SIGN * to_float(from[i * stride]), i);
    }
    return best;
}

inline u32 answer(const Best& best, const T* from, u32 n) {
    const float first = to_float(*from);
    return first != first || best.index == n ? 0 : best.index;
}

inline void warp_best(Best& best) {
#pragma unroll
    for (u32 step = 1; step < WARP_SIZE; step *= 2) {
        float value = __shfl_xor_sync(FULL_WARP, best.value, step);
        u32 index = __shfl_xor_sync(FULL_WARP, best.index, step);
        best.challenge(value, index);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
rows(const T* __restrict__ x, u32* __restrict__ out, const Params p) {
    const u32 row = blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM;
    if (row >= p.results) {
        return;
    }
    const T* from = x + (u64)row * p.n;
    Best best = scan(from, p.n, threadIdx.x % TEAM, TEAM, 1);
    warp_best(best);
    if constexpr (TEAM > WARP_SIZE) {
        constexpr u32 WARPS = TEAM / WARP_SIZE;
        __shared__ Best bests[WARPS];
        if (threadIdx.x % WARP_SIZE == 0) {
            bests[threadIdx.x / WARP_SIZE] = best;
        }
        __syncthreads();
        best = bests[threadIdx.x % WARPS];
        warp_best(best);
    }
    if (threadIdx.x % TEAM == 0) {
        out[row] = answer(best, from, p.n);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
columns(const T* __restrict__ x, u32* __restrict__ out, const Params p) {
    const u32 result = blockIdx.x * BLOCK + threadIdx.x;
    if (result >= p.results) {
        return;
    }
    const T* from = x + (u64)(result / p.inner) * p.n * p.inner + result % p.inner;
    out[result] = answer(scan(from, p.n, 0, 1, p.inner), from, p.n);
}
