// The elementwise functions and their derivatives.
//
// Constants: KIND: u32, one of the numbers below; ACTIVATION, for kernels/activation/functions.wgsl.
//
// `v`, of which the derivative is a function, is the output y for exp, tanh, sqrt, recip and sigmoid,
// and the input x for the rest.

const AFFINE = 0u;
const ABS = 1u;
const EXP = 2u;
const LOG = 3u;
const SIN = 4u;
const COS = 5u;
const TANH = 6u;
const SQRT = 7u;
const SQR = 8u;
const RECIP = 9u;
const RELU = 10u;
const SIGMOID = 11u;
const POWF = 12u;
const CLAMP = 13u;
const GELU = 14u;
const GELU_ERF = 15u;
const SILU = 16u;
const ERF = 17u;

// WGSL's pow is undefined for negative x; integer exponents are defined there for everyone else.
fn power(x: f32, e: f32) -> f32 {
    if (e == 0.0) {
        return 1.0;
    }
    if (x == 0.0) {
        return select(1.0 / x, 0.0, e > 0.0);
    }
    let magnitude = pow(abs(x), e);
    if (x > 0.0) {
        return magnitude;
    }
    if (e != floor(e)) {
        return bitcast<f32>(0x7fc00000u | (bitcast<u32>(x) & 0u)); // NaN; not a constant expression
    }
    let odd = floor(e * 0.5) != e * 0.5;
    return select(magnitude, -magnitude, odd);
}

// tanh of a large argument is NaN on some drivers, and loses its digits near 0 when made of exp.
fn safe_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -15.0, 15.0));
}

fn value(x: f32, a: f32, b: f32) -> f32 {
    switch (KIND) {
        case AFFINE: { return a * x + b; }
        case ABS: { return abs(x); }
        case EXP: { return exp(x); }
        case LOG: { return log(x); }
        case SIN: { return sin(x); }
        case COS: { return cos(x); }
        case TANH: { return safe_tanh(x); }
        case SQRT: { return sqrt(x); }
        case SQR: { return x * x; }
        case RECIP: { return 1.0 / x; }
        case RELU: { return max(x, 0.0); }
        case SIGMOID: { return sigmoid(x); }
        case POWF: { return power(x, a); }
        case CLAMP: { return clamp(x, a, b); }
        case ERF: { return sign(x) * (1.0 - 2.0 * normal(-abs(x) * 1.41421356).x); }
        default: { return activate(x); }
    }
}

fn derivative(v: f32, a: f32, b: f32) -> f32 {
    switch (KIND) {
        case AFFINE: { return a; }
        case ABS: { return sign(v); }
        case EXP: { return v; }
        case LOG: { return 1.0 / v; }
        case SIN: { return cos(v); }
        case COS: { return -sin(v); }
        case TANH: { return 1.0 - v * v; }
        case SQRT: { return 0.5 / v; }
        case SQR: { return 2.0 * v; }
        case RECIP: { return -v * v; }
        case RELU: { return select(0.0, 1.0, v > 0.0); }
        case SIGMOID: { return v * (1.0 - v); }
        case POWF: { return a * power(v, a - 1.0); }
        case CLAMP: { return select(0.0, 1.0, v >= a && v <= b); }
        case ERF: { return 1.12837917 * bounded_exp(-v * v); }
        default: { return activate_gradient(v); }
    }
}
