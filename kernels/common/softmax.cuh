// Maximum and sum of exponentials in one reading (online softmax, Milakov and Gimelshein 2018), for softmax and cross
// entropy.
//
// Parts: common/reduce.cuh

// The lowest finite f32, for -infinity: the difference of two of them is 0, not NaN, and a row of such elements, as masks
// leave it, is a row of equals.
constexpr float LOWEST = -3.40282347e38f;

// `total` is the sum of exp(v - top) over what was added, and `top` the largest of it. A NaN makes the total one.
struct Exponentials {
    float top = LOWEST;
    float total = 0.0f;

    // A line at a time, so that there is one rescaling for all its elements.
    template <u32 N> void add(const float (&v)[N]) {
        float largest = top;
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            largest = fmaxf(largest, v[i]);
        }
        total *= expf(top - largest);
        top = largest;
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            total += expf(v[i] - top);
        }
    }

    // Over the whole team, for all its threads.
    void combine(u32& turn) {
        const float largest = team_max(top, turn);
        total = team_sum(total * expf(top - largest), turn);
        top = largest;
    }
};
