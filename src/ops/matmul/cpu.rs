use super::{Activation, Product};
use crate::device::cpu::real::{Map, Matrix, gemm, simd};
use crate::device::cpu::{CpuVec, Real, parallel};
use crate::ops::unary::activation::{Gelu, GeluErf, Silu};
use crate::ops::with_real;
use crate::{Result, Shape, Tensor};

/// Elements of an epilogue task.
const TASK: usize = 16 * 1024;

pub fn product(p: &Product<'_>) -> Result<Vec<Tensor>> {
    with_real!(p.a.dtype(), R => product_as::<R>(p))
}

fn product_as<R: Real>(p: &Product<'_>) -> Result<Vec<Tensor>> {
    let (b1, b2, m, _, n) = p.sizes();
    let shape = Shape::from((b1, b2, m, n));
    let mut sums = CpuVec::<R>::new(shape.elements())?;
    multiply(p, R::ZERO, &mut sums)?;
    let finished = match p.activation {
        Activation::Identity => {
            finish(p, &mut sums)?;
            return Ok(vec![Tensor::from_cpu(sums, shape)?]);
        }
        Activation::Gelu => activate(p, &mut sums, Gelu)?,
        Activation::GeluErf => activate(p, &mut sums, GeluErf)?,
        Activation::Silu => activate(p, &mut sums, Silu)?,
    };
    let mut outputs = vec![Tensor::from_cpu(finished, shape.clone())?];
    if p.keep_pre {
        outputs.push(Tensor::from_cpu(sums, shape)?);
    }
    Ok(outputs)
}

/// `to = a b`, or `to += a b`; `to` is contiguous.
pub fn accumulate(p: &Product<'_>, to: &Tensor, add: bool) -> Result<()> {
    with_real!(to.dtype(), R => multiply(p, if add { R::ONE } else { R::ZERO }, &mut to.cpu_mut::<R>()?))
}

/// out = a b + beta out
fn multiply<R: Real>(p: &Product<'_>, beta: R, out: &mut [R]) -> Result<()> {
    let (b1, b2, m, k, n) = p.sizes();
    let (a, b) = (p.a.cpu_strided::<R>()?, p.b.cpu_strided::<R>()?);
    let (a_strides, b_strides) = (&p.a.layout().strides, &p.b.layout().strides);
    let one = |i: usize, out: &mut [R], parallel: bool| {
        let start = |strides: &[usize]| i / b2 * strides[0] + i % b2 * strides[1];
        let operand = |data, strides: &[usize]| Matrix { data, row_stride: strides[2], col_stride: strides[3] };
        let a = operand(a.get(start(a_strides)..).unwrap_or_default(), a_strides);
        let b = operand(b.get(start(b_strides)..).unwrap_or_default(), b_strides);
        gemm((m, n, k), R::ONE, a, b, beta, out, (n, 1), parallel);
    };
    match b1 * b2 {
        0 => {}
        1 => one(0, out, m * n * k > 64 * 64 * 64),
        _ => parallel(b1 * b2 * m * n, out.chunks_mut((m * n).max(1)).enumerate(), |(i, out)| one(i, out, false)),
    }
    Ok(())
}

/// sums += bias + residual
fn finish<R: Real>(p: &Product<'_>, sums: &mut [R]) -> Result<()> {
    let n = p.sizes().4;
    let bias = p.bias.map(Tensor::contiguous).transpose()?;
    let bias = bias.as_ref().map(|b| b.cpu::<R>()).transpose()?;
    let residual = p.residual.map(Tensor::contiguous).transpose()?;
    let residual = residual.as_ref().map(|r| r.cpu::<R>()).transpose()?;
    if (bias.is_none() && residual.is_none()) || sums.is_empty() {
        return Ok(());
    }
    let task = (TASK / n).max(1) * n;
    parallel(sums.len(), sums.chunks_mut(task).enumerate(), |(i, sums)| {
        if let Some(bias) = &bias {
            sums.chunks_mut(n).for_each(|row| add(row, bias));
        }
        if let Some(residual) = &residual {
            add(sums, &residual[i * task..]);
        }
    });
    Ok(())
}

/// sums += bias, and the result is f(sums) + residual.
fn activate<R: Real>(p: &Product<'_>, sums: &mut [R], f: impl Map<R>) -> Result<CpuVec<R>> {
    let n = p.sizes().4;
    let mut out = CpuVec::<R>::new(sums.len())?;
    let bias = match p.bias {
        Some(bias) => bias.contiguous()?,
        None => Tensor::zeros(n, p.a.dtype(), &p.a.device())?,
    };
    let bias = bias.cpu::<R>()?;
    let (work, task) = (sums.len(), (TASK / n.max(1)).max(1) * n.max(1));
    let tasks = sums.chunks_mut(task).zip(out.chunks_mut(task));
    parallel(work, tasks, |(sums, out)| activate_rows(sums, &bias, out, f));
    if let Some(residual) = p.residual {
        let residual = residual.contiguous()?;
        add(&mut out, &residual.cpu::<R>()?);
    }
    Ok(out)
}

simd! {
    fn add[R: Real](to: &mut [R], x: &[R]) {
        to.iter_mut().zip(x).for_each(|(t, &x)| *t += x);
    }
}

simd! {
    /// x += bias, which is what backward wants saved, and y = f(x), for rows of `bias.len()`.
    fn activate_rows[R: Real, F: Map<R>](x: &mut [R], bias: &[R], y: &mut [R], f: F) {
        let n = bias.len();
        for (x, y) in x.chunks_exact_mut(n).zip(y.chunks_exact_mut(n)) {
            x.iter_mut().zip(bias).for_each(|(x, &b)| *x += b);
            y.iter_mut().zip(&*x).for_each(|(y, &x)| *y = f.at(x));
        }
    }
}
