// Elementwise functions and comparisons of two views of one shape: out[i] = f(a[i], b[i]).
//
// Arithmetic is in f32 and rounded once. Comparisons are of the elements as they are and give 1 or 0.
//
// Constants: BLOCK    threads a block
//            RANK, WIDTH     see common/strided.cuh
//            A_SPLAT, B_SPLAT: bool, with WIDTH > 1: this view's last stride is 0
//            KIND     one of the numbers below
//            T        float, f16 or bf16, for comparisons also u32: a and b
//            U        the type of out: T, or u32 for comparisons
// Parts:     common/strided.cuh, then this
// Arguments: a, b, out [n] out, Params
// Grid:      ceil(n / (WIDTH BLOCK)) blocks, one thread a line of WIDTH elements
// Bound by:  memory. It moves every element of a, b and out once, a broadcast one from a cache.

struct Params {
    u32 n;
    Dims sizes;
    Dims a;
    Dims b;
};

constexpr u32 ADD = 0, SUB = 1, MUL = 2, DIV = 3, MAXIMUM = 4, MINIMUM = 5;
constexpr u32 EQ = 10, NE = 11, LT = 12, LE = 13, GT = 14, GE = 15;
static_assert(KIND <= MINIMUM || (KIND >= EQ && KIND <= GE), "a function of two elements");

inline float arithmetic(float x, float y) {
    if constexpr (KIND == ADD) {
        return x + y;
    } else if constexpr (KIND == SUB) {
        return x - y;
    } else if constexpr (KIND == MUL) {
        return x * y;
    } else if constexpr (KIND == DIV) {
        return x / y;
    } else if constexpr (KIND == MAXIMUM) {
        return x >= y ? x : y;
    } else {
        return x <= y ? x : y;
    }
}

// Of floats or of u32.
template <typename X> inline bool compare(X x, X y) {
    if constexpr (KIND == EQ) {
        return x == y;
    } else if constexpr (KIND == NE) {
        return x != y;
    } else if constexpr (KIND == LT) {
        return x < y;
    } else if constexpr (KIND == LE) {
        return x <= y;
    } else if constexpr (KIND == GT) {
        return x > y;
    } else {
        return x >= y;
    }
}

inline u32 comparable(u32 x) {
    return x;
}

template <typename X> inline float comparable(X x) {
    return to_float(x);
}

template <typename To> inline Vec<To, WIDTH> apply(const Vec<T, WIDTH>& x, const Vec<T, WIDTH>& y) {
    if constexpr (same<To, u32>) {
        Vec<To, WIDTH> v = Vec<To, WIDTH>::zeros();
#pragma unroll
        for (u32 j = 0; j < WIDTH; j++) {
            v.set(j, compare(comparable(x.get(j)), comparable(y.get(j))));
        }
        return v;
    } else {
        float v[WIDTH];
#pragma unroll
        for (u32 j = 0; j < WIDTH; j++) {
            v[j] = arithmetic(to_float(x.get(j)), to_float(y.get(j)));
        }
        return Vec<To, WIDTH>::of_floats(v);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
binary(const T* __restrict__ a, const T* __restrict__ b, U* __restrict__ out, const Params p) {
    const u64 line = (u64)blockIdx.x * BLOCK + threadIdx.x;
    if (line * WIDTH >= p.n) {
        return;
    }
    const u32 i = line * WIDTH;
    const auto x = load_line<A_SPLAT>(a + walk(i, p.sizes, p.a));
    const auto y = load_line<B_SPLAT>(b + walk(i, p.sizes, p.b));
    apply<U>(x, y).store(out + i);
}
