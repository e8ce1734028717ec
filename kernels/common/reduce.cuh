// Sums and maxima over the threads of a warp or of a team of warps, in a fixed order: the same bits run after run.
//
// Constants: BLOCK  threads a block, a multiple of 32
//            TEAM   threads that reduce together: 32 (a warp, no barrier) or BLOCK
//
// All threads of a team call these together, and all get the result.

static_assert(TEAM == WARP_SIZE || TEAM == BLOCK, "a team is a warp or the whole block");

// Butterflies: after step s every lane holds the sum of its group of 2^s lanes. Addition commutes, so all lanes get
// the same bits.
inline float warp_sum(float x) {
#pragma unroll
    for (u32 step = 1; step < WARP_SIZE; step *= 2) {
        x += __shfl_xor_sync(FULL_WARP, x, step);
    }
    return x;
}

inline float warp_max(float x) {
#pragma unroll
    for (u32 step = 1; step < WARP_SIZE; step *= 2) {
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, step));
    }
    return x;
}

// Two sums that share their barriers.
//
// Warps leave their sums in shared memory and each of them adds up all. `turn` counts the calls: two buffers in turn
// make one barrier enough, as a warp that writes to a buffer again has passed the barrier of the call in between,
// before which everyone had read it.
inline float2 team_sum2(float2 x, u32& turn) {
    x = make_float2(warp_sum(x.x), warp_sum(x.y));
    if constexpr (TEAM > WARP_SIZE) {
        constexpr u32 WARPS = TEAM / WARP_SIZE;
        __shared__ float2 sums[2][WARPS];
        float2(&mine)[WARPS] = sums[turn++ % 2];
        u32 lane = threadIdx.x % WARP_SIZE;
        if (lane == 0) {
            mine[threadIdx.x / WARP_SIZE] = x;
        }
        __syncthreads();
        x = lane < WARPS ? mine[lane] : make_float2(0.0f, 0.0f);
        x = make_float2(warp_sum(x.x), warp_sum(x.y));
    }
    return x;
}

inline float team_sum(float x, u32& turn) {
    x = warp_sum(x);
    if constexpr (TEAM > WARP_SIZE) {
        constexpr u32 WARPS = TEAM / WARP_SIZE;
        __shared__ float sums[2][WARPS];
        float(&mine)[WARPS] = sums[turn++ % 2];
        u32 lane = threadIdx.x % WARP_SIZE;
        if (lane == 0) {
            mine[threadIdx.x / WARP_SIZE] = x;
        }
        __syncthreads();
        x = warp_sum(lane < WARPS ? mine[lane] : 0.0f);
    }
    return x;
}

inline float team_max(float x, u32& turn) {
    x = warp_max(x);
    if constexpr (TEAM > WARP_SIZE) {
        constexpr u32 WARPS = TEAM / WARP_SIZE;
        __shared__ float largest[2][WARPS];
        float(&mine)[WARPS] = largest[turn++ % 2];
        u32 lane = threadIdx.x % WARP_SIZE;
        if (lane == 0) {
            mine[threadIdx.x / WARP_SIZE] = x;
        }
        __syncthreads();
        x = warp_max(mine[lane % WARPS]);
    }
    return x;
}
