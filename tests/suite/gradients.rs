//! Every op's backward against central finite differences in f64 on the CPU.
//!
//! The op stands mid-graph: its inputs are functions of the variables, and the upstream gradient that it
//! must consume is random. Each input is `x = p(v) = v + sin(v) / 4`, which is smooth and reaches every
//! value; the loss is a weighted sum of the outputs.

use tilewright::{Device, Result, Tensor, Var};

use crate::cases::{self, Case};
use crate::harness::{Rng, difference, magnitude};

/// The step of the differences. Their error is about `h^2` of a third derivative, and `2^-53 / h` of the
/// loss: both near 1e-10.
const H: f64 = 1e-5;

/// What a gradient may differ by, relative to the largest one of its input and to the loss's weights.
const TOLERANCE: f64 = 2e-7;

/// Inputs of more elements than this are left to [`crate::parity`].
const MOST: usize = 700;

/// The variable at which `p` is `x`.
fn inverse(x: f64) -> f64 {
    // A contraction by 1/4 a step.
    (0..40).fold(x, |v, _| x - v.sin() / 4.0)
}

fn p(v: &Tensor) -> Result<Tensor> {
    v.sin()?.affine(0.25, 0.0)?.add(v)
}

fn weights(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut rng = Rng::named(name);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn grads(vars: &[Var]) -> Vec<Vec<f64>> {
    vars.iter().map(|v| v.grad().map_or(vec![0.0; v.elements()], |g| g.to_vec().unwrap())).collect()
}

/// Checks the gradients of `f` at `inputs`, all f64 on the CPU.
pub fn check(
    name: &str,
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> std::result::Result<(), String> {
    let fail = |what: String| Err(format!("{name}: {what}"));
    let run = || -> Result<Option<String>> {
        let at: Vec<Tensor> = (inputs.iter())
            .map(|x| {
                let v: Vec<f64> = x.to_vec::<f64>()?.into_iter().map(inverse).collect();
                Tensor::from_vec(v, x.shape(), &Device::Cpu)
            })
            .collect::<Result<_>>()?;
        let before = |v: &[Tensor]| v.iter().map(p).collect::<Result<Vec<_>>>();
        let w = weights(name, f(&before(&at)?)?.dims())?;
        let loss = |v: &[Tensor]| f(&before(v)?)?.mul(&w)?.sum_all();

        let vars: Vec<Var> = at.iter().map(Var::new).collect::<Result<_>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        loss(&tensors)?.backward()?;
        let found = grads(&vars);
        for (k, x) in at.iter().enumerate() {
            let values = x.to_vec::<f64>()?;
            let moved = |i: usize, h: f64| -> Result<f64> {
                let mut values = values.clone();
                values[i] += h;
                let mut inputs = at.clone();
                inputs[k] = Tensor::from_vec(values, x.shape(), &Device::Cpu)?;
                loss(&inputs)?.to_scalar()
            };
            let expected = (0..values.len())
                .map(|i| Ok((moved(i, H)? - moved(i, -H)?) / (2.0 * H)))
                .collect::<Result<Vec<f64>>>()?;
            let scale = magnitude(&expected).max(magnitude(&w.to_vec::<f64>()?)).max(1.0);
            let error = difference(&found[k], &expected);
            if error.is_nan() || error > TOLERANCE * scale {
                let i = (0..expected.len()).max_by(|&a, &b| {
                    let gap = |i: usize| (expected[i] - found[k][i]).abs();
                    gap(a).total_cmp(&gap(b))
                });
                let i = i.unwrap_or(0);
                return Ok(Some(format!(
                    "input {k} {}: off by {error:.2e}; element {i} is {}, finite differences say {}",
                    x.shape(),
                    found[k][i],
                    expected[i]
                )));
            }
        }

        // Each input alone: the others need no gradient, which takes other branches in backward.
        for k in 0..at.len() {
            let var = Var::new(&at[k])?;
            let mut mixed = at.clone();
            mixed[k] = var.as_tensor().clone();
            loss(&mixed)?.backward()?;
            let error = difference(&grads(&[var])[0], &found[k]);
            if error > 1e-13 * magnitude(&found[k]) {
                return Ok(Some(format!("input {k} as the only variable: off by {error:.2e}")));
            }
        }

        // The variables are the op's own inputs, and a second backward adds in place. The skip makes a
        // gradient be there before the op's, so that it is also accumulated mid-graph.
        let direct: Vec<Var> = inputs.iter().map(Var::new).collect::<Result<_>>()?;
        let tensors: Vec<Tensor> = direct.iter().map(|v| v.as_tensor().clone()).collect();
        for pass in 1..=2 {
            f(&tensors)?.mul(&w)?.sum_all()?.backward()?;
            for (k, grad) in grads(&direct).iter().enumerate() {
                let v = at[k].to_vec::<f64>()?;
                let expected: Vec<f64> =
                    (found[k].iter().zip(&v)).map(|(g, v)| pass as f64 * g / (1.0 + v.cos() / 4.0)).collect();
                let error = difference(grad, &expected);
                if error > 1e-11 * magnitude(&expected).max(1.0) {
                    return Ok(Some(format!(
                        "input {k}, backward {pass} into one gradient: off by {error:.2e}"
                    )));
                }
            }
        }
        for v in &vars {
            v.zero_grad();
        }
        let inside = before(&tensors_of(&vars))?;
        let mut total = f(&inside)?.mul(&w)?.sum_all()?;
        let skips: Vec<Tensor> = inside.iter().map(|x| weights("skip", x.dims())).collect::<Result<_>>()?;
        for (x, skip) in inside.iter().zip(&skips) {
            total = total.add(&x.mul(skip)?.sum_all()?)?;
        }
        total.backward()?;
        for (k, grad) in grads(&vars).iter().enumerate() {
            let (v, skip) = (at[k].to_vec::<f64>()?, skips[k].to_vec::<f64>()?);
            let expected: Vec<f64> =
                (0..v.len()).map(|i| found[k][i] + skip[i] * (1.0 + v[i].cos() / 4.0)).collect();
            let error = difference(grad, &expected);
            if error > 1e-11 * magnitude(&expected).max(1.0) {
                return Ok(Some(format!("input {k} beside a skip connection: off by {error:.2e}")));
            }
        }
        Ok(None)
    };
    match run() {
        Ok(None) => Ok(()),
        Ok(Some(what)) => fail(what),
        Err(error) => fail(error.to_string()),
    }
}

fn tensors_of(vars: &[Var]) -> Vec<Tensor> {
    vars.iter().map(|v| v.as_tensor().clone()).collect()
}

fn check_all(cases: Vec<Case>) {
    let mut failures = Vec::new();
    let mut checked = 0;
    for case in &cases {
        let inputs = case.values();
        if inputs.iter().map(Tensor::elements).sum::<usize>() > MOST {
            continue;
        }
        checked += 1;
        failures.extend(check(&case.name, &inputs, |x| (case.f)(x)).err());
    }
    assert!(checked > 0, "no case is small enough");
    assert!(failures.is_empty(), "{} of {checked} cases:\n{}", failures.len(), failures.join("\n"));
}

cases::test_every_group!();

#[test]
fn a_wrong_gradient_is_found() {
    // d(x^3)/dx with one factor detached is 2 x^2, a third short.
    let x = crate::harness::normal(1, &[4]);
    assert!(check("cube", std::slice::from_ref(&x), |x| x[0].mul(&x[0])?.mul(&x[0])).is_ok());
    assert!(check("cube", &[x], |x| x[0].mul(&x[0])?.mul(&x[0].detach())).is_err());
}
