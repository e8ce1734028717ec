// What the passes of attention share: parameters, and who sees whom.
//
// Parts:     common/philox.cuh, then this
//
// Query i sees the keys j with i + low <= j < i + high, an interval that moves by one a query. The launcher chooses
//   high = Tk - Tq + 1 if causal, so that the last query sees the last key; else Tk, which is above every j - i
//   low  = high - window with a window; else -Tq, which is below every j - i

// Where a tensor's rows of D elements lie, in elements: strides of batch, head and position. The first element, which WGSL
// is told, is 0 here: pointers are those of the first elements.
struct Rows {
    u32 batch;
    u32 head;
    u32 position;
    u32 offset;

    u64 start(u32 b, u32 h) const {
        return offset + (u64)b * batch + (u64)h * head;
    }
};

// Scores, log-sum-exps and dropout's random bits belong to query head b * NH + h.
struct Params {
    Rows q;
    Rows k;
    Rows v;
    Rows o;
    Rows dout;
    Rows dq;
    Rows dk; // of dv too
    u32 B;
    u32 NH;
    u32 NKV; // divides NH
    u32 Tq;
    u32 Tk;
    i32 low;
    i32 high;
    float scale;
    uint2 seed;
    u32 offset;       // of the random stream
    u32 threshold;    // random bits below it drop
    float keep_scale; // 1 / (1 - p)
    u32 first_head;   // of WGSL's alone
    u32 chunk;        // of the forward: keys that a block visits, if they are cut
    u32 chunks;
};

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;
constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);

// first .. end - 1
struct Interval {
    i32 first;
    i32 end;

    bool contains(u32 i) const {
        return (i32)i >= first && (i32)i < end;
    }
};

// The keys that a query sees. Both ends grow with the query.
inline Interval keys_of(u32 query, const Params& p) {
    return {max((i32)query + p.low, 0), min((i32)query + p.high, (i32)p.Tk)};
}

// The queries that see a key. Both ends grow with the key.
inline Interval queries_of(u32 key, const Params& p) {
    return {max((i32)key - p.high + 1, 0), min((i32)key - p.low + 1, (i32)p.Tq)};
}

// What a block visits, of what its first and its last row see, from where a block of random bits begins. Where they see
// nothing, `end` is not above `first`.
inline Interval visit(Interval first, Interval last) {
    return {first.first & ~3, last.end};
}

// The four keys from 4 * quad on that query i of a head keeps, as bits 0 to 3.
inline u32 kept_keys(u32 quad, u32 i, u32 head, const Params& p) {
    const uint4 random = philox(make_uint4(quad, i, head, p.offset), p.seed);
    return (random.x >= p.threshold) | (random.y >= p.threshold) << 1 | (random.z >= p.threshold) << 2 |
           (random.w >= p.threshold) << 3;
}
