// The activations and their derivatives, for their own kernels and for the epilogue of matmul.
//
// Constants: ACTIVATION  u32: 0 none, 1 GELU by tanh, 2 GELU by erf, 3 SiLU

// exp whose argument cannot overflow: WGSL lets a device assume that infinities do not occur.
fn bounded_exp(x: f32) -> f32 {
    return exp(clamp(x, -87.0, 88.0));
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + bounded_exp(-x));
}

// The standard normal distribution's Phi(x) and density phi(x), as (Phi, phi).
//
// erfc by Abramowitz and Stegun 7.1.26, |error| <= 1.5e-7, taken on the side where nothing cancels. It shares
// its exponential with the density.
fn normal(x: f32) -> vec2<f32> {
    let z = abs(x) * 0.70710678;
    let e = bounded_exp(-z * z);
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let tail = 0.5 * poly * e;
    return vec2(select(tail, 1.0 - tail, x > 0.0), 0.39894228 * e);
}

// 0.5 * (1 + tanh(u)) is sigmoid(2 u), which needs no tanh: some drivers return NaN for tanh of large arguments.
// u = sqrt(2 / pi) * (x + 0.044715 x^3).
fn gelu_gate(x: f32) -> f32 {
    return sigmoid(1.5957691 * (x + 0.044715 * x * x * x));
}

fn activate(x: f32) -> f32 {
    switch ACTIVATION {
        case 1u: { return x * gelu_gate(x); }
        case 2u: { return x * normal(x).x; }
        case 3u: { return x * sigmoid(x); }
        default: { return x; }
    }
}

// d activate(x) / dx
fn activate_gradient(x: f32) -> f32 {
    switch ACTIVATION {
        case 1u: {
            let s = gelu_gate(x);
            return s + x * s * (1.0 - s) * 1.5957691 * (1.0 + 0.134145 * x * x);
        }
        case 2u: {
            let n = normal(x);
            return n.x + x * n.y;
        }
        case 3u: {
            let s = sigmoid(x);
            return s + x * s * (1.0 - s);
        }
        default: { return 1.0; }
    }
}
