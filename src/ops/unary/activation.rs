//! Activations on the CPU: values and derivatives, for their own ops and for matmul's epilogue.

use crate::device::cpu::Real;
use crate::device::cpu::real::Map;

/// sqrt(2 / pi)
const SQRT_2_PI: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
const CUBIC: f64 = 0.044715;

/// Defines each function as a type, so that it is inlined wherever it is used; see [`Map`].
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident($x:ident: $real:ident) $body:block)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name;

        impl<$real: Real> Map<$real> for $name {
            #[inline(always)]
            fn at(self, $x: $real) -> $real $body
        }
    )*};
}

functions! {
    /// GELU by its tanh approximation. (1 + tanh(u)) / 2 is sigmoid(2 u): so it costs one exponential,
    /// and the left tail keeps its relative accuracy.
    Gelu(x: R) {
        x * gelu_gate(x).sigmoid()
    }

    GeluDerivative(x: R) {
        let slope = R::from_f64(2.0 * SQRT_2_PI) * (R::ONE + R::from_f64(3.0 * CUBIC) * x * x);
        let (s, derivative) = sigmoid_and_derivative(gelu_gate(x));
        s + derivative * x * slope
    }

    /// GELU exactly: x Phi(x) with the normal distribution Phi.
    GeluErf(x: R) {
        x * normal_distribution(x)
    }

    GeluErfDerivative(x: R) {
        let density = R::from_f64(0.5 * SQRT_2_PI) * (R::from_f64(-0.5) * x * x).exp();
        normal_distribution(x) + x * density
    }

    Silu(x: R) {
        x * x.sigmoid()
    }

    SiluDerivative(x: R) {
        let (s, derivative) = sigmoid_and_derivative(x);
        s + derivative * x
    }
}

#[inline(always)]
fn gelu_gate<R: Real>(x: R) -> R {
    R::from_f64(2.0 * SQRT_2_PI) * x * (R::ONE + R::from_f64(CUBIC) * x * x)
}

/// s = sigmoid(x) and s (1 - s), the latter without the cancellation that 1 - s is.
#[inline(always)]
fn sigmoid_and_derivative<R: Real>(x: R) -> (R, R) {
    let e = (-x.abs()).exp();
    let r = R::ONE / (R::ONE + e);
    (if x < R::ZERO { e * r } else { r }, e * r * r)
}

#[inline(always)]
fn normal_distribution<R: Real>(x: R) -> R {
    let half = R::from_f64(0.5);
    half + half * (x * R::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points dense around 0 and out to both tails.
    fn points() -> Vec<f64> {
        (-4000..=4000).map(|i| (i as f64 / 800.0).powi(3) / 5.0).collect()
    }

    fn check(f: impl Map<f64> + Map<f32>, derivative: impl Map<f64> + Map<f32>, exact: fn(f64) -> f64) {
        let x = points();
        let y: Vec<f64> = x.iter().map(|&x| f.at(x)).collect();
        let dx: Vec<f64> = x.iter().map(|&x| derivative.at(x)).collect();
        for i in 0..x.len() {
            assert!((y[i] - exact(x[i])).abs() <= 1e-15 * x[i].abs().max(1.0), "f({}) = {}", x[i], y[i]);
            let h = 1e-5;
            let slope = (exact(x[i] + h) - exact(x[i] - h)) / (2.0 * h);
            assert!((dx[i] - slope).abs() < 1e-8, "f'({}) = {}", x[i], dx[i]);
        }
        // f32, held against f64 at the same points.
        let x32: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let y32: Vec<f32> = x32.iter().map(|&x| f.at(x)).collect();
        let dx32: Vec<f32> = x32.iter().map(|&x| derivative.at(x)).collect();
        for i in 0..x.len() {
            let wide = x32[i] as f64;
            let (y, slope) = (f.at(wide), derivative.at(wide));
            assert!((y32[i] as f64 - y).abs() < 4e-7 * wide.abs().max(0.1), "f32: f({wide}) = {}", y32[i]);
            assert!((dx32[i] as f64 - slope).abs() < 1e-6, "f32: f'({wide}) = {}", dx32[i]);
        }
    }

    #[test]
    fn values_and_derivatives() {
        check(Gelu, GeluDerivative, |x| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        });
        check(GeluErf, GeluErfDerivative, |x| 0.5 * x * (1.0 + Real::erf(x / 2f64.sqrt())));
        check(Silu, SiluDerivative, |x| x / (1.0 + (-x).exp()));
    }
}
