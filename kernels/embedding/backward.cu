// Embedding, backward: dtable[v, :] = sum of dout[i, :] over the tokens i with ids[i] == v, in an order that follows from
// the ids alone.
//
// That rules out float atomics. So the tokens are grouped by id first, by a counting sort that keeps their order, and
// then each row of the table adds its own. Four launches:
//
//   count   counts[v] = tokens with id v. Integer atomics: any order gives the same counts.
//   scan    starts[v] = counts[0] + ... + counts[v - 1].
//   place   slots[starts[id] + k] = the k-th token with that id. The ids are dealt out over the warps (owner = id mod
//           warps). Each warp walks over all tokens, 32 at a time, and keeps the next slot of each of its at most 32 ids
//           in the register of a lane; a ballot numbers the tokens that share an id.
//   sum     dtable[v, c] = sum of dout[slots[...], c]. A warp takes a row; the rows of tokens that are frequent are taken
//           by all warps of the block together, so that no warp has a long chain alone.
//
// Ids that are not below V add nothing.
//
// Constants: BLOCK       threads a block, a multiple of 32, at most 1024
//            WIDTH       columns a thread of `sum`: 16 bytes of the wider of T and D if C and the buffers' starts are
//                        multiples of that, else 1
//            ACCUMULATE  bool: add to what dtable holds instead of overwriting all of it
//            T           float, f16 or bf16: dout
//            D           T or float: dtable. Gradients of 16-bit tables may be f32.
// Parts:     this alone
//
// Entry count: ids [tokens] u32, counts [V] u32 in and out, zero at the start, Params
//              ceil(tokens / BLOCK) blocks
// Entry scan:  counts [V], starts [V] out, Params; both with room for a multiple of four
//              one block
// Entry place: ids [tokens], starts [V], slots [tokens] out, Params
//              as many blocks as make p.owners warps, a power of two with 32 p.owners >= V
// Entry sum:   counts [V], starts [V], slots [tokens], dout [tokens, C], dtable [V, C] in and out, Params
//              ceil(V / WARPS) * ceil(C / (32 WIDTH)) blocks, columns fastest
//              Shared: 4 WIDTH BLOCK bytes
// Bound by:  memory in `sum`, which reads dout once and writes dtable once.

struct Params {
    u32 tokens;
    u32 C;
    u32 V;
    u32 owners;
};

constexpr u32 WARPS = BLOCK / WARP_SIZE;
// Rows with more tokens are the whole block's.
constexpr u32 FREQUENT = 16;

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
count(const u32* __restrict__ ids, u32* counts, const Params p) {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < p.tokens && ids[i] < p.V) {
        atomicAdd(counts + ids[i], 1);
    }
}

// The sum of x over the lanes before this one.
inline u32 sum_before(u32 x) {
    const u32 lane = threadIdx.x % WARP_SIZE;
    u32 sum = x;
#pragma unroll
    for (u32 step = 1; step < WARP_SIZE; step *= 2) {
        u32 below = __shfl_up_sync(FULL_WARP, sum, step);
        sum += lane >= step ? below : 0;
    }
    return sum - x;
}

// Four neighbouring ids a thread, a block of them at a time, with the sum of all before it carried on.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
scan(const u32* __restrict__ counts, u32* __restrict__ starts, const Params p) {
    // Used in turn, so that one barrier is enough.
    __shared__ u32 warps[2][WARPS];
    const u32 lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    u32 carry = 0, turn = 0;
    for (u32 base = 0; base < p.V; base += 4 * BLOCK) {
        const u32 v = base + 4 * threadIdx.x;
        const uint4 n = v < p.V ? *reinterpret_cast<const uint4*>(counts + v) : make_uint4(0, 0, 0, 0);
        const u32 total = n.x + n.y + n.z + n.w;
        u32 start = sum_before(total);
        if (lane == WARP_SIZE - 1) {
            warps[turn][warp] = start + total;
        }
        __syncthreads();
        const u32 of_warp = lane < WARPS ? warps[turn][lane] : 0;
        const u32 before = sum_before(of_warp);
        start += carry + __shfl_sync(FULL_WARP, before, warp);
        carry += __shfl_sync(FULL_WARP, before + of_warp, WARP_SIZE - 1);
        turn ^= 1;
        if (v < p.V) {
            *reinterpret_cast<uint4*>(starts + v) =
                make_uint4(start, start + n.x, start + n.x + n.y, start + n.x + n.y + n.z);
        }
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
place(const u32* __restrict__ ids, const u32* __restrict__ starts, u32* __restrict__ slots, const Params p) {
    const u32 lane = threadIdx.x % WARP_SIZE;
    const u32 owner = blockIdx.x * WARPS + threadIdx.x / WARP_SIZE;
    if (owner >= p.owners) {
        return;
    }
    const u32 shift = __ffs(p.owners) - 1;
    const u32 own = (lane << shift) + owner;
    // The next slot of the id `own`.
    u32 next = own < p.V ? starts[own] : 0;
    for (u32 base = 0; base < p.tokens; base += WARP_SIZE) {
        const u32 i = base + lane;
        // p.V stands for "no id" beyond the end.
        const u32 id = i < p.tokens ? ids[i] : p.V;
        u32 pending = __ballot_sync(FULL_WARP, id < p.V && (id & (p.owners - 1)) == owner);
        while (pending) {
            // All tokens of this group of 32 with the id of the first one that is left.
            const u32 now = __shfl_sync(FULL_WARP, id, __ffs(pending) - 1);
            const u32 alike = __ballot_sync(FULL_WARP, id == now);
            const u32 slot = __shfl_sync(FULL_WARP, next, now >> shift);
            if (id == now) {
                slots[slot + __popc(alike & ((1u << lane) - 1))] = i;
            }
            if (own == now) {
                next += __popc(alike);
            }
            pending &= ~alike;
        }
    }
}

// Adds the rows of dout that `slots` names from `first` on, each `step`th of them.
inline void add_rows(float (&sum)[WIDTH], const u32* slots, u32 first, u32 end, u32 step, const T* dout, u32 C) {
#pragma unroll 4
    for (u32 i = first; i < end; i += step) {
        float v[WIDTH];
        Vec<T, WIDTH>::load(dout + (u64)slots[i] * C).to_floats(v);
#pragma unroll
        for (u32 j = 0; j < WIDTH; j++) {
            sum[j] += v[j];
        }
    }
}

inline void finish(float (&sum)[WIDTH], u32 n, D* to) {
    if (ACCUMULATE && n == 0) {
        return;
    }
    if constexpr (ACCUMULATE) {
        float old[WIDTH];
        Vec<D, WIDTH>::load(to).to_floats(old);
#pragma unroll
        for (u32 j = 0; j < WIDTH; j++) {
            sum[j] += old[j];
        }
    }
    Vec<D, WIDTH>::of_floats(sum).store(to);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
sum(const u32* __restrict__ counts, const u32* __restrict__ starts, const u32* __restrict__ slots,
    const T* __restrict__ dout, D* __restrict__ dtable, const Params p) {
    const u32 lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const u32 column_blocks = (p.C + WIDTH * WARP_SIZE - 1) / (WIDTH * WARP_SIZE);
    const u32 c = (blockIdx.x % column_blocks * WARP_SIZE + lane) * WIDTH;
    const u32 first_row = blockIdx.x / column_blocks * WARPS;
    const bool has_column = c < p.C;
    // Lane l knows the row of warp l.
    const u32 known = first_row + lane;
    const bool is_row = lane < WARPS && known < p.V;
    const u32 count = is_row ? counts[known] : 0;
    const u32 start = is_row ? starts[known] : 0;

    // The warp's own row, unless it is frequent.
    const u32 row = first_row + warp;
    const u32 own = __shfl_sync(FULL_WARP, count, warp);
    const u32 from = __shfl_sync(FULL_WARP, start, warp);
    if (row < p.V && own <= FREQUENT && has_column) {
        float sum[WIDTH] = {};
        add_rows(sum, slots, from, from + own, 1, dout + c, p.C);
        finish(sum, own, dtable + (u64)row * p.C + c);
    }

    // The frequent ones, together: every warp a share of the tokens, and one of them adds up the shares.
    __shared__ float shares[WIDTH][BLOCK];
    u32 frequent = __ballot_sync(FULL_WARP, count > FREQUENT);
    while (frequent) {
        const u32 next = __ffs(frequent) - 1;
        frequent &= frequent - 1;
        const u32 n = __shfl_sync(FULL_WARP, count, next);
        const u32 begin = __shfl_sync(FULL_WARP, start, next);
        float sum[WIDTH] = {};
        if (has_column) {
            add_rows(sum, slots, begin + warp, begin + n, WARPS, dout + c, p.C);
        }
#pragma unroll
        for (u32 j = 0; j < WIDTH; j++) {
            shares[j][threadIdx.x] = sum[j];
        }
        __syncthreads();
        if (warp == next && has_column) {
#pragma unroll
            for (u32 j = 0; j < WIDTH; j++) {
                sum[j] = shares[j][lane];
#pragma unroll
                for (u32 w = 1; w < WARPS; w++) {
                    sum[j] += shares[j][w * WARP_SIZE + lane];
                }
            }
            finish(sum, n, dtable + (u64)(first_row + next) * p.C + c);
        }
        __syncthreads();
    }
}
