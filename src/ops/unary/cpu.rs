use super::activation::{Gelu, GeluDerivative, GeluErf, GeluErfDerivative, Silu, SiluDerivative};
use super::{Kind, Unary};
use crate::device::cpu::real::{Erf, Map, simd};
use crate::device::cpu::{CpuVec, Real, Rows, map_rows};
use crate::ops::with_real;
use crate::{Result, Tensor};

simd! {
    fn map_row[R: Real, F: Map<R>](x: &[R], step: usize, out: &mut [R], f: F) {
        if step == 1 {
            out.iter_mut().zip(x).for_each(|(o, &x)| *o = f.at(x));
        } else {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = f.at(x[i * step]));
        }
    }
}

simd! {
    fn chain_row[R: Real, F: Map<R>](v: &[R], dy: &[R], step: [usize; 2], out: &mut [R], derivative: F) {
        if step == [1, 1] {
            out.iter_mut().zip(v).zip(dy).for_each(|((o, &v), &dy)| *o = derivative.at(v) * dy);
        } else {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = derivative.at(v[i * step[0]]) * dy[i * step[1]]);
        }
    }
}

fn map<R: Real, F: Map<R>>(x: &Tensor, f: F) -> Result<Vec<Tensor>> {
    let values = x.cpu_strided::<R>()?;
    let mut out = CpuVec::<R>::new(x.elements())?;
    let rows = Rows::new([x.layout()]);
    map_rows(&rows, &mut out, |[start], out| map_row(&values[start..], rows.step[0], out, f));
    Ok(vec![Tensor::from_cpu(out, x.shape())?])
}

/// dx = derivative(v) * dy
fn chain<R: Real, F: Map<R>>(v: &Tensor, dy: &Tensor, derivative: F) -> Result<Vec<Tensor>> {
    let (values, grads) = (v.cpu_strided::<R>()?, dy.cpu_strided::<R>()?);
    let mut out = CpuVec::<R>::new(v.elements())?;
    let rows = Rows::new([v.layout(), dy.layout()]);
    map_rows(&rows, &mut out, |[v, dy], out| {
        chain_row(&values[v..], &grads[dy..], rows.step, out, derivative)
    });
    Ok(vec![Tensor::from_cpu(out, v.shape())?])
}

/// For functions without a vectorised form.
fn by_f64<R: Real>(x: R, f: impl Fn(f64) -> f64) -> R {
    R::from_f64(f(x.to_f64()))
}

pub fn forward(op: &Unary, x: &Tensor) -> Result<Vec<Tensor>> {
    with_real!(x.dtype(), R => forward_as::<R>(op, x))
}

fn forward_as<R: Real>(op: &Unary, x: &Tensor) -> Result<Vec<Tensor>> {
    let (a, b) = (R::from_f64(op.a), R::from_f64(op.b));
    let (zero, one) = (R::ZERO, R::ONE);
    match op.kind {
        Kind::Affine => map(x, |x: R| a * x + b),
        Kind::Abs => map(x, |x: R| x.abs()),
        Kind::Exp => map(x, |x: R| x.exp()),
        Kind::Log => map(x, |x: R| x.ln()),
        Kind::Sin => map(x, |x: R| by_f64(x, f64::sin)),
        Kind::Cos => map(x, |x: R| by_f64(x, f64::cos)),
        Kind::Tanh => map(x, |x: R| x.tanh()),
        Kind::Sqrt => map(x, |x: R| x.sqrt()),
        Kind::Sqr => map(x, |x: R| x * x),
        Kind::Recip => map(x, |x: R| one / x),
        // A NaN stays one.
        Kind::Relu => map(x, |x: R| if x < zero { zero } else { x }),
        Kind::Sigmoid => map(x, |x: R| x.sigmoid()),
        Kind::Powf => map(x, |x: R| by_f64(x, |x| x.powf(op.a))),
        Kind::Clamp => map(x, |x: R| if x < a { a } else if x > b { b } else { x }),
        Kind::Gelu => map::<R, _>(x, Gelu),
        Kind::GeluErf => map::<R, _>(x, GeluErf),
        Kind::Silu => map::<R, _>(x, Silu),
        Kind::Erf => map::<R, _>(x, Erf),
    }
}

pub fn backward(op: &Unary, v: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    with_real!(v.dtype(), R => backward_as::<R>(op, v, dy))
}

fn backward_as<R: Real>(op: &Unary, v: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let (a, b) = (R::from_f64(op.a), R::from_f64(op.b));
    let (zero, one) = (R::ZERO, R::ONE);
    let two = one + one;
    match op.kind {
        Kind::Affine => chain(v, dy, |_: R| a),
        Kind::Abs => chain(v, dy, |x: R| if x > zero { one } else if x < zero { -one } else { zero }),
        Kind::Exp => chain(v, dy, |y: R| y),
        Kind::Log => chain(v, dy, |x: R| one / x),
        Kind::Sin => chain(v, dy, |x: R| by_f64(x, f64::cos)),
        Kind::Cos => chain(v, dy, |x: R| by_f64(x, |x| -x.sin())),
        Kind::Tanh => chain(v, dy, |y: R| one - y * y),
        Kind::Sqrt => chain(v, dy, |y: R| one / (two * y)),
        Kind::Sqr => chain(v, dy, |x: R| two * x),
        Kind::Recip => chain(v, dy, |y: R| -y * y),
        Kind::Relu => chain(v, dy, |x: R| if x > zero { one } else { zero }),
        Kind::Sigmoid => chain(v, dy, |y: R| y * (one - y)),
        Kind::Powf => chain(v, dy, |x: R| by_f64(x, |x| op.a * x.powf(op.a - 1.0))),
        Kind::Clamp => chain(v, dy, |x: R| if x < a || x > b { zero } else { one }),
        Kind::Gelu => chain::<R, _>(v, dy, GeluDerivative),
        Kind::GeluErf => chain::<R, _>(v, dy, GeluErfDerivative),
        Kind::Silu => chain::<R, _>(v, dy, SiluDerivative),
        Kind::Erf => chain(v, dy, |x: R| R::from_f64(std::f64::consts::FRAC_2_SQRT_PI) * (-x * x).exp()),
    }
}
