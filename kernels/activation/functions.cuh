// The activations and their derivatives, for their own kernels and for the epilogue of matmul.
//
// Constants: ACTIVATION  0 none, 1 GELU by tanh, 2 GELU by erf, 3 SiLU

inline float sigmoid(float x) {
    return __fdividef(1.0f, 1.0f + expf(fminf(-x, 80.0f))); // the division gives 0 for divisors above 2^126
}

// The standard normal distribution's Phi(x) and density phi(x).
//
// erfc by Abramowitz and Stegun 7.1.26, |error| <= 1.5e-7, taken on the side where nothing cancels. It shares its
// exponential with the density.
inline float2 normal(float x) {
    float z = fabsf(x) * 0.70710678f;
    float e = expf(-z * z);
    float t = __fdividef(1.0f, 1.0f + 0.3275911f * z);
    float poly =
        t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    float tail = 0.5f * poly * e;
    return make_float2(x > 0.0f ? 1.0f - tail : tail, 0.39894228f * e);
}

// 0.5 (1 + tanh(u)) is sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
inline float gelu_gate(float x) {
    return sigmoid(1.5957691f * (x + 0.044715f * x * x * x));
}

inline float activate(float x) {
    if constexpr (ACTIVATION == 1) {
        return x * gelu_gate(x);
    } else if constexpr (ACTIVATION == 2) {
        return x * normal(x).x;
    } else if constexpr (ACTIVATION == 3) {
        return x * sigmoid(x);
    } else {
        return x;
    }
}

// d activate(x) / dx
inline float activate_gradient(float x) {
    if constexpr (ACTIVATION == 1) {
        float s = gelu_gate(x);
        return s + x * s * (1.0f - s) * 1.5957691f * (1.0f + 0.134145f * x * x);
    } else if constexpr (ACTIVATION == 2) {
        float2 n = normal(x);
        return n.x + x * n.y;
    } else if constexpr (ACTIVATION == 3) {
        float s = sigmoid(x);
        return s + x * s * (1.0f - s);
    } else {
        return 1.0f;
    }
}
