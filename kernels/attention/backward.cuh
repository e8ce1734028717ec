// Attention, backward. With P the softmax, Z what dropout multiplies it by (1 without), and dO the gradient of o:
//
//   dV = (P Z)^T dO      dP = (dO V^T) Z      dS = P (dP - delta)      dQ = dS K scale      dK = dS^T Q scale
//
// where delta = rowsum(dP P), which is rowsum(dO O). P is computed again as exp(score - lse), tile by tile, so nothing
// of size Tq x Tk is stored. dQ sums over keys while dK and dV sum over queries: two launches, each of whose blocks own
// rows of what they sum, compute P twice, but need no atomics, and give the same bits every time (Dao,
// "FlashAttention-2", 2023, has the formulas).
//
// Both launches do the same, mirrored, and are one kernel. A block owns rows of a pair of matrices a and b, and visits
// rows of the other pair:
//
//                 owns a, b     visits a, b     scores        dP
//   for dq        q, dO         k, v            q k^T         dO v^T      dq = dS k scale
//   OWN_KEYS      k, v          q, dO           k q^T         v dO^T      dk = dS^T q scale, dv = (P Z)^T dO
//
// The rows of a key head visit the queries of each query head that reads it, in order. Where the sums of dk and of dv
// do not fit into registers together, there is a launch for each; that of dv needs neither b nor dP.
//
// Constants: OWN_KEYS: bool
//            DX: bool       gives dx, which is dk with OWN_KEYS, else dq
//            DV: bool       gives dv; needs OWN_KEYS
// Parts:     attention/common.cuh, then this

static_assert((DX || DV) && (OWN_KEYS || !DV), "what blocks own has these gradients");
constexpr u32 OWNED_MATRICES = DX ? 2 : 1; // b is for dx alone

// What a block does. Heads are fastest; when causal the last queries and the first keys have the most to do and come
// first.
struct Task {
    u32 b;
    u32 own_head;
    u32 row; // the first it owns
    u32 rows; // of the head
    u32 first_head, end_head; // query heads

    static Task of(u32 band, const Params& p) {
        const u32 rows = OWN_KEYS ? p.Tk : p.Tq, own_heads = OWN_KEYS ? p.NKV : p.NH;
        const u32 readers = OWN_KEYS ? p.NH / p.NKV : 1;
        const u32 bands = (rows + band - 1) / band, heads = p.B * own_heads;
        const u32 head = blockIdx.x % heads, nth = blockIdx.x / heads, own_head = head % own_heads;
        return {head / own_heads, own_head, (OWN_KEYS ? nth : bands - 1 - nth) * band, rows,
                own_head * readers, (own_head + 1) * readers};
    }

    // The head of the rows it visits on behalf of a query head.
    u32 visited_head(u32 head, const Params& p) const {
        return OWN_KEYS ? head : head / (p.NH / p.NKV);
    }
};

// Whom an owned row visits. Both ends grow with the row.
inline Interval seen_by(u32 row, const Params& p) {
    return OWN_KEYS ? queries_of(row, p) : keys_of(row, p);
}

// Where the statistics of a query head begin: of each query its lse log2(e) and delta, padded to an even number.
inline const float2* stats_of(const float2* stats, u32 b, u32 head, const Params& p) {
    return stats + (u64)(b * p.NH + head) * ((p.Tq + 1) & ~1);
}
