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
fn power(x: vec4<f32>, e: f32) -> vec4<f32> {
    if (e == 0.0) {
        return vec4(1.0);
    }
    let magnitude = pow(abs(x), vec4(e));
    let odd = floor(e * 0.5) != e * 0.5;
    var negative = select(magnitude, -magnitude, odd);
    if (e != floor(e)) {
        negative = bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) | vec4(0x7fc00000u)); // NaN; not a constant expression
    }
    let zero = select(1.0 / x, vec4(0.0), e > 0.0);
    return select(select(negative, magnitude, x > vec4(0.0)), zero, x == vec4(0.0));
}

// tanh of a large argument is NaN on some drivers, and loses its digits near 0 when made of exp.
fn safe_tanh(x: vec4<f32>) -> vec4<f32> {
    return tanh(clamp(x, vec4(-15.0), vec4(15.0)));
}

fn error_function(x: f32) -> f32 {
    return sign(x) * (1.0 - 2.0 * normal(-abs(x) * 1.41421356).x);
}

fn value(x: vec4<f32>, a: f32, b: f32) -> vec4<f32> {
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
        case RELU: { return max(x, vec4(0.0)); }
        case SIGMOID: { return vec4(sigmoid(x.x), sigmoid(x.y), sigmoid(x.z), sigmoid(x.w)); }
        case POWF: { return power(x, a); }
        case CLAMP: { return clamp(x, vec4(a), vec4(b)); }
        case ERF: { return vec4(error_function(x.x), error_function(x.y), error_function(x.z), error_function(x.w)); }
        default: { return vec4(activate(x.x), activate(x.y), activate(x.z), activate(x.w)); }
    }
}

fn derivative(v: vec4<f32>, a: f32, b: f32) -> vec4<f32> {
    let one = vec4(1.0);
    let none = vec4(0.0);
    switch (KIND) {
        case AFFINE: { return vec4(a); }
        case ABS: { return sign(v); }
        case EXP: { return v; }
        case LOG: { return 1.0 / v; }
        case SIN: { return cos(v); }
        case COS: { return -sin(v); }
        case TANH: { return 1.0 - v * v; }
        case SQRT: { return 0.5 / v; }
        case SQR: { return 2.0 * v; }
        case RECIP: { return -v * v; }
        case RELU: { return select(none, one, v > none); }
        case SIGMOID: { return v * (1.0 - v); }
        case POWF: { return a * power(v, a - 1.0); }
        case CLAMP: { return select(none, one, (v >= vec4(a)) & (v <= vec4(b))); }
        case ERF: {
            let e = vec4(bounded_exp(-v.x * v.x), bounded_exp(-v.y * v.y), bounded_exp(-v.z * v.z), bounded_exp(-v.w * v.w));
            return 1.12837917 * e;
        }
        default: {
            return vec4(activate_gradient(v.x), activate_gradient(v.y), activate_gradient(v.z), activate_gradient(v.w));
        }
    }
}
