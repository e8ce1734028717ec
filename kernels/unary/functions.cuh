// The elementwise functions and their derivatives, in f32.
//
// Constants: KIND        one of the numbers below
//            ACTIVATION  see activation/functions.cuh
// Parts:     activation/functions.cuh
//
// `v`, of which the derivative is a function, is the output y for exp, tanh, sqrt, recip and sigmoid, and the input x
// for the rest.

constexpr u32 AFFINE = 0, ABS = 1, EXP = 2, LOG = 3, SIN = 4, COS = 5, TANH = 6, SQRT = 7, SQR = 8, RECIP = 9;
constexpr u32 RELU = 10, SIGMOID = 11, POWF = 12, CLAMP = 13, GELU = 14, GELU_ERF = 15, SILU = 16, ERF = 17;
static_assert(KIND <= ERF && (ACTIVATION > 0) == (KIND == GELU || KIND == GELU_ERF || KIND == SILU), "a function");

// A NaN stays one in all of them.
inline float value(float x, float a, float b) {
    if constexpr (KIND == AFFINE) {
        return a * x + b;
    } else if constexpr (KIND == ABS) {
        return fabsf(x);
    } else if constexpr (KIND == EXP) {
        return expf(x);
    } else if constexpr (KIND == LOG) {
        return logf(x);
    } else if constexpr (KIND == SIN) {
        return sinf(x);
    } else if constexpr (KIND == COS) {
        return cosf(x);
    } else if constexpr (KIND == TANH) {
        return tanhf(x);
    } else if constexpr (KIND == SQRT) {
        return sqrtf(x);
    } else if constexpr (KIND == SQR) {
        return x * x;
    } else if constexpr (KIND == RECIP) {
        return 1.0f / x;
    } else if constexpr (KIND == RELU) {
        return x < 0.0f ? 0.0f : x;
    } else if constexpr (KIND == SIGMOID) {
        return 1.0f / (1.0f + expf(-x));
    } else if constexpr (KIND == POWF) {
        return powf(x, a);
    } else if constexpr (KIND == CLAMP) {
        return x < a ? a : x > b ? b : x;
    } else if constexpr (KIND == ERF) {
        return erff(x);
    } else {
        return activate(x);
    }
}

inline float derivative(float v, float a, float b) {
    if constexpr (KIND == AFFINE) {
        return a;
    } else if constexpr (KIND == ABS) {
        return v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : 0.0f;
    } else if constexpr (KIND == EXP) {
        return v;
    } else if constexpr (KIND == LOG) {
        return 1.0f / v;
    } else if constexpr (KIND == SIN) {
        return cosf(v);
    } else if constexpr (KIND == COS) {
        return -sinf(v);
    } else if constexpr (KIND == TANH) {
        return 1.0f - v * v;
    } else if constexpr (KIND == SQRT) {
        return 0.5f / v;
    } else if constexpr (KIND == SQR) {
        return 2.0f * v;
    } else if constexpr (KIND == RECIP) {
        return -v * v;
    } else if constexpr (KIND == RELU) {
        return v > 0.0f ? 1.0f : 0.0f;
    } else if constexpr (KIND == SIGMOID) {
        return v * (1.0f - v);
    } else if constexpr (KIND == POWF) {
        return a * powf(v, a - 1.0f);
    } else if constexpr (KIND == CLAMP) {
        return v < a || v > b ? 0.0f : 1.0f;
    } else if constexpr (KIND == ERF) {
        return 1.12837917f * expf(-v * v);
    } else {
        return activate_gradient(v);
    }
}
