// What a block of the forward does, with tensor cores or without.
//
// It owns rows: queries of one head. GROUPED, as for a few queries, they are those of all heads that read one key head,
// so that its keys and values are read once: row r is query r / n of the r % n-th of these n heads. Either way the keys
// that a row sees begin and end no earlier than those of the row before it.
//
// SPLIT, as for a few queries of many keys, the keys that its rows see are cut into chunks, a block each, so that there
// are blocks enough for the whole device (Dao et al., "Flash-Decoding for long-context inference", 2023). A block gives
// the o and the lse of its chunk's softmax in f32, and combine.cu makes one of all.
//
// Constants: GROUPED: bool
//            SPLIT: bool      needs GROUPED
//            DROPOUT: bool    not with GROUPED
// Parts:     attention/common.cuh, then this
// Grid:      x: ceil(rows / band) * B * NH, or with GROUPED B * NKV, heads fastest. The last rows come first: when
//            causal they have the most to do. y: 1, or with SPLIT chunks.

static_assert((GROUPED || !SPLIT) && !(GROUPED && DROPOUT), "which launches there are");

struct Task {
    u32 b;
    u32 kv_head;
    u32 head; // the first of the query heads, counted over all batches
    u32 heads; // how many they are
    u32 row; // the first that the block owns
    u32 rows; // of all blocks of these heads
    Interval visited;

    static Task of(u32 band, const Params& p) {
        const u32 heads = GROUPED ? p.NH / p.NKV : 1, groups = p.NH / heads, rows = p.Tq * heads;
        const u32 bands = (rows + band - 1) / band;
        const u32 nth = blockIdx.x / (p.B * groups), group = blockIdx.x % (p.B * groups);
        const u32 b = group / groups, head = group % groups * heads, row = (bands - 1 - nth) * band;
        Task task = {b, head / (p.NH / p.NKV), b * p.NH + head, heads, row, rows, {}};
        task.visited = visit(task.keys(row, p), task.keys(min(row + band, rows) - 1, p));
        if constexpr (SPLIT) {
            task.visited.first += (i32)(blockIdx.y * p.chunk);
            task.visited.end = min(task.visited.end, task.visited.first + (i32)p.chunk);
        }
        return task;
    }

    // What a row sees, of all blocks' rows.
    Interval keys(u32 row, const Params& p) const {
        return keys_of(row / heads, p);
    }

    // Where the nth row of this block lies in q or o.
    u64 place(u32 nth, const Rows& x, const Params& p) const {
        const u32 at = row + nth;
        return x.start(b, head % p.NH + at % heads) + (u64)(at / heads) * x.position;
    }

    // Its number among the queries of all heads, and of all chunks.
    u64 number(u32 nth, const Params& p) const {
        const u32 at = row + nth;
        return ((u64)(SPLIT ? blockIdx.y : 0) * p.B * p.NH + head + at % heads) * p.Tq + at / heads;
    }
};
