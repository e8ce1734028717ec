// Cross entropy of logits against class ids: the loss and the gradient, in one visit to a row.
//
//   lse         = max(z) + log(sum(exp(z - max(z))))                 z one row of logits, V wide
//   loss[row]   = lse - z[label]                                     0 if the label is ignored
//   dlogits     = factor * (exp(z - lse) - onehot(label))            0 if the label is ignored
//
// The maximum and the sum come from one reading, the gradient from the same one if the row stays in registers, as it lies
// in memory; else from a second one while the row is in the second cache. `factor` is one number in a buffer, because
// the mean over rows that count is known to the device alone: `count` below writes it. IN_PLACE writes the gradient
// over the logits: for a large vocabulary the logits are the largest tensor of a training step, and a second copy would
// double that.
//
// A label that is neither ignored nor below V reads nothing and yields NaN, in the loss and in the row's gradient.
//
// Constants: those of common/rows.cuh, with STEPS = 0 or ceil((V + WIDTH - 1) / (TEAM * WIDTH)) if SKEWED, and
//            SKEWED      bool: WIDTH > 1, the starts of the buffers are multiples of 16 bytes and V is not, so that rows
//                        begin and end inside lines
//            HAS_IGNORE  bool: rows whose label is p.ignore do not count
//            GRADIENT    bool: write dlogits
//            IN_PLACE    bool: the logits are in dlogits
// Parts:     common/reduce.cuh, common/rows.cuh, common/softmax.cuh, then this
//
// Entry count: factor = 1 / (number of rows that count), 0 if there are none
//   Arguments: labels [rows] u32, factor [1] f32 out, Params
//   Grid:      one block, TEAM = BLOCK
// Entry forward
//   Arguments: logits [rows, V] (null if IN_PLACE), labels [rows] u32, factor [1] f32 (null: 1),
//              loss [rows] f32 out, dlogits [rows, V] out (null unless GRADIENT), Params
//   Grid:      ceil(rows / TEAMS) blocks, a team a row
// Entry mean: out = factor * sum(loss)
//   Arguments: loss [rows] f32, factor [1] f32 (null: 1), out [1] f32 out, Params
//   Grid:      one block, TEAM = BLOCK
// Bound by: memory. `forward` reads the logits once and writes the gradient once.

struct Params {
    u32 rows;
    u32 V;
    u32 ignore;
    u32 pad;
};

// In one instruction: beside a branch that stores elements the compiler would take a line apart.
template <u32 N> inline void store_whole(const Vec<T, N>& line, T* to) {
    if constexpr (SKEWED) {
        static_assert(Vec<T, N>::BYTES == 16, "skewed rows are of 16-byte lines");
        asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
                     "r"(line.words[0]), "r"(line.words[1]), "r"(line.words[2]), "r"(line.words[3])
                     : "memory");
    } else {
        line.store(to);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCK < 1024 ? 768 / BLOCK : 1)
forward(const T* __restrict__ logits, const u32* __restrict__ labels, const float* __restrict__ factor,
        float* __restrict__ loss, T* __restrict__ dlogits, const Params p) {
    const u32 row = blockIdx.x * TEAMS + threadIdx.x / TEAM;
    if (row >= p.rows) {
        return;
    }
    // Columns are counted from the start of the line in which the row begins.
    const u64 start = (u64)row * p.V;
    const u32 begin = SKEWED ? (u32)start % WIDTH : 0, end = begin + p.V;
    const u64 base = start - begin;
    const T* from = (IN_PLACE ? dlogits : logits) + base;
    const Share share = {threadIdx.x % TEAM, end};
    const u32 lines = share.lines();
    // The first and the last line of a row may be shared with its neighbours.
    auto is_whole = [&](u32 c) { return !SKEWED || (c >= begin && c + WIDTH <= end); };
    auto is_inside = [&](u32 c) { return c >= begin && c < end; };
    const float nothing = __uint_as_float(0xff800000); // -infinity: whatever the largest is, its exponential is 0
    auto fetch = [&](u32 c) {
        if (is_whole(c)) {
            return Line::load(from + c);
        }
        Line line = Line::zeros();
#pragma unroll
        for (u32 i = 0; i < WIDTH; i++) {
            line.set(i, is_inside(c + i) ? from[c + i] : from_float<T>(nothing));
        }
        return line;
    };

    Line kept[KEPT];
    Exponentials sum;
#pragma unroll (RESIDENT ? STEPS : 2)
    for (u32 s = 0; s < lines; s++) {
        u32 c = share.column(s);
        if (share.has(s)) {
            float z[WIDTH];
            Line& line = kept[RESIDENT ? s : 0];
            line = fetch(c);
            line.to_floats(z);
            sum.add(z);
        }
    }
    u32 turn = 0;
    sum.combine(turn);
    if constexpr (RESIDENT) {
        // The compiler must not know that the words are the same: it would keep the floats that it has made of them.
#pragma unroll
        for (u32 s = 0; s < STEPS; s++) {
#pragma unroll
            for (u32 i = 0; i < Line::WORDS; i++) {
                asm volatile("" : "+r"(kept[s].words[i]));
            }
        }
    }

    const u32 label = labels[row];
    const bool ignored = HAS_IGNORE && label == p.ignore;
    const bool valid = label < p.V;
    const u32 target = begin + label;
    const float invalid = __uint_as_float(0x7fc00000);
    // The label's logit is read by the thread that may overwrite it below.
    if (share.member == (valid ? target / WIDTH % TEAM : 0)) {
        // Large terms first: they cancel exactly where the target is the maximum.
        loss[row] = ignored ? 0.0f : valid ? (sum.top - to_float(from[target])) + logf(sum.total) : invalid;
    }
    if constexpr (GRADIENT) {
        const float scale = ignored ? 0.0f : valid ? (factor ? *factor : 1.0f) : invalid;
        // exp(z - top) / total, not exp(z - lse): the logarithm rounds.
        const float factor_of_exp = scale / sum.total;
        T* to = dlogits + base;
#pragma unroll (RESIDENT ? STEPS : 2)
        for (u32 s = 0; s < lines; s++) {
            u32 c = share.column(s);
            if (share.has(s)) {
                float z[WIDTH];
                (RESIDENT ? kept[RESIDENT ? s : 0] : fetch(c)).to_floats(z);
#pragma unroll
                for (u32 i = 0; i < WIDTH; i++) {
                    const float d = expf(z[i] - sum.top) * factor_of_exp - (c + i == target ? scale : 0.0f);
                    z[i] = ignored ? 0.0f : d;
                }
                const Line line = Line::of_floats(z);
                if (is_whole(c)) {
                    store_whole(line, to + c);
                } else {
#pragma unroll
                    for (u32 i = 0; i < WIDTH; i++) {
                        if (is_inside(c + i)) {
                            to[c + i] = line.get(i);
                        }
                    }
                }
            }
        }
    }
}

// Sums of ones stay exact in f32 up to 2^24 a thread.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
count(const u32* __restrict__ labels, float* __restrict__ factor, const Params p) {
    float n = 0.0f;
#pragma unroll 4
    for (u32 row = threadIdx.x; row < p.rows; row += BLOCK) {
        n += HAS_IGNORE && labels[row] == p.ignore ? 0.0f : 1.0f;
    }
    u32 turn = 0;
    const float total = team_sum(n, turn);
    if (threadIdx.x == 0) {
        *factor = total > 0.0f ? 1.0f / total : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
mean(const float* __restrict__ loss, const float* __restrict__ factor, float* __restrict__ out, const Params p) {
    float sum = 0.0f;
#pragma unroll 4
    for (u32 row = threadIdx.x; row < p.rows; row += BLOCK) {
        sum += loss[row];
    }
    u32 turn = 0;
    const float total = team_sum(sum, turn);
    if (threadIdx.x == 0) {
        *out = factor ? total * *factor : total;
    }
}
