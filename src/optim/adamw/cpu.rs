//! AdamW on the CPU: one pass over parameter, gradient and both moments.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Exact, Parameter, Scale, Step};
use crate::device::cpu::real::{Real, parallel, simd, sum};
use crate::ops::with_real;
use crate::random::round_stochastically;
use crate::{DType, Device, Element, Result, Tensor};

/// Steps every parameter and returns the norm of all gradients, or 0 if there is no bound for it.
pub fn step_all(parameters: &[Parameter], constants: &Step, scale: Scale) -> Result<Tensor> {
    let (norm, scale) = match scale {
        Scale::One => (0.0, 1.0),
        Scale::By(factor) => (0.0, factor),
        Scale::Bounded(max) => {
            let norm = norm_of_all(parameters)?;
            (norm, (max / (norm + 1e-6)).min(1.0))
        }
    };
    for p in parameters {
        let Some(grad) = gradient(p)? else { continue };
        let decay = p.weight_decay;
        if let Exact::Nothing { random } = p.exact {
            let (mut w, mut m, mut v) = (p.var.cpu_mut()?, p.m.cpu_mut()?, p.v.cpu_mut()?);
            step_rounded(constants, decay, scale as f32, random, &mut w, &grad.cpu()?, &mut m, &mut v);
            continue;
        }
        with_real!(grad.dtype(), R => step(
            constants,
            decay,
            R::from_f64(scale),
            &mut p.master.as_ref().unwrap_or(&p.var).cpu_mut::<R>()?,
            &grad.cpu::<R>()?,
            &mut p.m.cpu_mut::<R>()?,
            &mut p.v.cpu_mut::<R>()?,
        ));
        if let Some(master) = &p.master {
            match p.var.dtype() {
                DType::F16 => round::<f16>(&master.cpu()?, &mut p.var.cpu_mut()?),
                _ => round::<bf16>(&master.cpu()?, &mut p.var.cpu_mut()?),
            }
        }
    }
    scalar(norm, parameters)
}

/// The norm of all gradients.
pub fn norm(parameters: &[Parameter]) -> Result<Tensor> {
    scalar(norm_of_all(parameters)?, parameters)
}

fn scalar(norm: f64, parameters: &[Parameter]) -> Result<Tensor> {
    let dtype = parameters.first().map_or(DType::F32, |p| p.m.dtype());
    Tensor::full(norm, (), dtype, &Device::Cpu)
}

fn norm_of_all(parameters: &[Parameter]) -> Result<f64> {
    let mut squares = 0.0;
    for p in parameters {
        let Some(grad) = gradient(p)? else { continue };
        squares += with_real!(grad.dtype(), R => sum_of_squares(&grad.cpu::<R>()?));
    }
    Ok(squares.sqrt())
}

/// The gradient, in the dtype of the moments.
fn gradient(p: &Parameter) -> Result<Option<Tensor>> {
    p.var.grad().map(|grad| grad.to_dtype(p.m.dtype())?.contiguous()).transpose()
}

/// Elements of a task.
const TASK: usize = 16 * 1024;

/// Decoupled weight decay (Loshchilov and Hutter, 2019) in the order of `torch.optim.AdamW`:
///
/// ```text
/// g = grad_scale * grad
/// p = p - lr * weight_decay * p
/// m = m + (1 - beta1) (g - m)
/// v = beta2 v + (1 - beta2) g^2
/// p = p - lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps)
/// ```
fn step<R: Real>(step: &Step, decay: f64, grad_scale: R, p: &mut [R], grad: &[R], m: &mut [R], v: &mut [R]) {
    let tasks = p.chunks_mut(TASK).zip(grad.chunks(TASK)).zip(m.chunks_mut(TASK)).zip(v.chunks_mut(TASK));
    parallel(grad.len(), tasks, |(((p, grad), m), v)| update(step, decay, grad_scale, p, grad, m, v));
}

/// [`step`] for a parameter without master, whose random numbers are the step's from `random` on.
#[expect(clippy::too_many_arguments, reason = "those of `step`, and where the random numbers start")]
fn step_rounded(
    step: &Step,
    decay: f64,
    grad_scale: f32,
    random: u64,
    p: &mut [bf16],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let tasks = p.chunks_mut(TASK).zip(grad.chunks(TASK)).zip(m.chunks_mut(TASK)).zip(v.chunks_mut(TASK));
    parallel(grad.len(), tasks.enumerate(), |(i, (((p, grad), m), v))| {
        let mut exact = vec![0.0; p.len()];
        p.convert_to_f32_slice(&mut exact);
        update(step, decay, grad_scale, &mut exact, grad, m, v);
        let mut bits = vec![0; p.len()];
        step.random.bits(random + (i * TASK) as u64, &mut bits);
        for ((p, &exact), &bits) in p.iter_mut().zip(&exact).zip(&bits) {
            *p = round_stochastically(exact, bits);
        }
    });
}

/// to = master
fn round<H: Send>(master: &[f32], to: &mut [H])
where
    [H]: HalfFloatSliceExt,
{
    let tasks = to.chunks_mut(TASK).zip(master.chunks(TASK));
    parallel(master.len(), tasks, |(to, master)| to.convert_from_f32_slice(master));
}

simd! {
    fn update[R: Real](
        step: &Step, decay: f64, grad_scale: R, p: &mut [R], grad: &[R], m: &mut [R], v: &mut [R],
    ) {
        let decay = R::from_f64(1.0 - step.lr * decay);
        let (beta2, rest1, rest2) =
            (R::from_f64(step.beta2), R::from_f64(1.0 - step.beta1), R::from_f64(1.0 - step.beta2));
        let (rate, eps) = (R::from_f64(step.lr / step.correction1), R::from_f64(step.eps));
        let root2 = R::from_f64(step.correction2.sqrt());
        for (((p, &grad), m), v) in p.iter_mut().zip(grad).zip(m).zip(v) {
            let g = grad * grad_scale;
            *m += rest1 * (g - *m);
            *v = beta2 * *v + rest2 * (g * g);
            *p = *p * decay - rate * (*m / ((*v).sqrt() / root2 + eps));
        }
    }
}

/// The sum of squares, in f64: what the norm of all gradients is the root of.
fn sum_of_squares<R: Real>(x: &[R]) -> f64 {
    let mut partial = vec![0.0; x.len().div_ceil(TASK)];
    parallel(x.len(), x.chunks(TASK).zip(&mut partial), |(x, out)| *out = squares(x));
    sum(&partial)
}

simd! {
    fn squares[R: Real](x: &[R]) -> f64 {
        let mut lanes = [0.0; 32];
        let (chunks, rest) = x.as_chunks::<32>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += x.to_f64() * x.to_f64();
            }
        }
        sum(&lanes) + rest.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn run<R: Real>(n: usize, steps: i32, grad_scale: f64) -> [Vec<R>; 3] {
        let draw = |offset: u64| {
            let mut x = vec![R::ZERO; n];
            Stream { seed: 14, offset }.fill_normal(0.0, 1.0, &mut x);
            x
        };
        let (mut p, mut m, mut v) = (draw(0), vec![R::ZERO; n], vec![R::ZERO; n]);
        for t in 1..=steps {
            let constants = Step {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-8,
                correction1: 1.0 - 0.9f64.powi(t),
                correction2: 1.0 - 0.99f64.powi(t),
                random: Stream { seed: 0, offset: t as u64 },
            };
            step(&constants, 0.1, R::from_f64(grad_scale), &mut p, &draw(t as u64), &mut m, &mut v);
        }
        [p, m, v]
    }

    #[test]
    fn follows_the_definition() {
        for n in [0, 1, 37, 2 * TASK + 3] {
            let [p, m, v] = run::<f64>(n, 3, 0.5);
            let draw = |offset: u64| {
                let mut x = vec![0.0; n];
                Stream { seed: 14, offset }.fill_normal(0.0, 1.0, &mut x);
                x
            };
            let grads = [draw(1), draw(2), draw(3)];
            let start = draw(0);
            for i in 0..n {
                let (mut pi, mut mi, mut vi) = (start[i], 0.0, 0.0);
                for (t, g) in (1..).zip(&grads) {
                    let g = 0.5 * g[i];
                    mi = 0.9 * mi + (1.0 - 0.9) * g;
                    vi = 0.99 * vi + (1.0 - 0.99) * g * g;
                    let (m_hat, v_hat) = (mi / (1.0 - 0.9f64.powi(t)), vi / (1.0 - 0.99f64.powi(t)));
                    pi = pi - 1e-2 * 0.1 * pi - 1e-2 * m_hat / (v_hat.sqrt() + 1e-8);
                }
                assert!((p[i] - pi).abs() < 1e-13 && (m[i] - mi).abs() < 1e-15 && (v[i] - vi).abs() < 1e-15);
            }
            let narrow = run::<f32>(n, 3, 0.5);
            assert!(narrow[0].iter().zip(&p).all(|(&a, b)| (a as f64 - b).abs() < 1e-5));
        }
    }

    #[test]
    fn squares_are_summed_in_f64() {
        for n in [0, 1, 31, 33, 1000, 3 * TASK + 7] {
            let x: Vec<f32> = (0..n).map(|i| (i % 100) as f32).collect();
            assert_eq!(sum_of_squares(&x), x.iter().map(|&x| x as f64 * x as f64).sum::<f64>());
        }
        // Beyond what f32 can square.
        assert_eq!(sum_of_squares(&[1e30f32]).sqrt(), 1e30f32 as f64);
    }
}
