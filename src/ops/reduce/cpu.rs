use super::{Kind, plan};
use crate::device::cpu::real::{self, simd};
use crate::device::cpu::{CpuVec, Real, parallel};
use crate::ops::with_real;
use crate::{Result, Tensor};

/// Rows that one task adds up; their sums are added afterwards, in order. The error of a long sum
/// grows with the number of blocks plus the length of one, not with the product.
const BLOCK: usize = 256;
/// Columns that one task walks down: a few cache lines of each row.
const COLUMNS: usize = 256;

simd! {
    fn sum_row[R: Real](x: &[R]) -> R {
        // Blocks of a few thousand, so that the lanes of the inner sum stay short.
        x.chunks(4096).fold(R::ZERO, |total, chunk| total + real::sum(chunk))
    }
}

simd! {
    fn fold_into[R: Real, F: Fn(R, R) -> R](to: &mut [R], x: &[R], f: F) {
        to.iter_mut().zip(x).for_each(|(t, &x)| *t = f(*t, x));
    }
}

pub fn reduce(kind: Kind, x: &Tensor, dim: usize) -> Result<Vec<Tensor>> {
    with_real!(x.dtype(), R => match kind {
        Kind::Sum if x.dims()[..dim].iter().all(|&n| n == 1) => sum_of_rows::<R>(x, dim),
        Kind::Sum => fold::<R>(x, dim, R::ZERO, sum_row, |a, b| a + b),
        Kind::Max => {
            fold::<R>(x, dim, -R::INFINITY, |x| x.iter().fold(-R::INFINITY, |a, &b| b.max(a)), |a, b| b.max(a))
        }
        Kind::Min => {
            let min = |a: R, b: R| if b < a { b } else { a };
            fold::<R>(x, dim, R::INFINITY, |x| x.iter().fold(R::INFINITY, |a, &b| min(a, b)), min)
        }
    })
}

/// The sum over a leading dimension, such as a bias's gradient.
fn sum_of_rows<R: Real>(x: &Tensor, dim: usize) -> Result<Vec<Tensor>> {
    let (shape, (_, _, inner)) = plan(x, dim);
    let x = x.contiguous()?;
    let mut out = CpuVec::<R>::new(inner)?;
    if inner == 1 {
        out[0] = sum_row(&x.cpu::<R>()?);
    } else {
        real::sum_rows(&x.cpu::<R>()?, &mut out, false);
    }
    Ok(vec![Tensor::from_cpu(out, shape)?])
}

fn fold<R: Real>(
    x: &Tensor,
    dim: usize,
    neutral: R,
    row: impl Fn(&[R]) -> R + Sync + Send,
    f: impl Fn(R, R) -> R + Sync + Send,
) -> Result<Vec<Tensor>> {
    let (shape, (outer, n, inner)) = plan(x, dim);
    let x = x.contiguous()?;
    let values = x.cpu::<R>()?;
    let mut out = CpuVec::<R>::filled(outer * inner, neutral)?;
    if inner == 1 {
        parallel(values.len(), out.iter_mut().enumerate(), |(o, out)| *out = row(&values[o * n..][..n]));
    } else if !values.is_empty() {
        // Down the columns, with rows as the unit of access.
        let tasks = out.chunks_mut(inner).enumerate().flat_map(|(o, out)| {
            out.chunks_mut(COLUMNS).enumerate().map(move |(c, out)| (o, c * COLUMNS, out))
        });
        parallel(values.len(), tasks, |(o, column, out)| {
            let mut block = [neutral; COLUMNS];
            let block = &mut block[..out.len()];
            for rows in (0..n).step_by(BLOCK) {
                block.fill(neutral);
                for i in rows..(rows + BLOCK).min(n) {
                    fold_into(block, &values[(o * n + i) * inner + column..], &f);
                }
                fold_into(out, block, &f);
            }
        });
    }
    Ok(vec![Tensor::from_cpu(out, shape)?])
}

pub fn arg_reduce(kind: Kind, x: &Tensor, dim: usize) -> Result<Vec<Tensor>> {
    with_real!(x.dtype(), R => match kind {
        Kind::Max => arg_fold::<R>(x, dim, |a, b| a > b),
        _ => arg_fold::<R>(x, dim, |a, b| a < b),
    })
}

fn arg_fold<R: Real>(x: &Tensor, dim: usize, better: impl Fn(R, R) -> bool + Sync + Send) -> Result<Vec<Tensor>> {
    let (shape, (outer, n, inner)) = plan(x, dim);
    let x = x.contiguous()?;
    let values = x.cpu::<R>()?;
    let mut out = CpuVec::<u32>::new(outer * inner)?;
    parallel(values.len(), out.chunks_mut(inner.max(1)).enumerate(), |(o, out)| {
        for (column, out) in out.iter_mut().enumerate() {
            let at = |i: usize| values[(o * n + i) * inner + column];
            *out = (1..n).fold(0, |best, i| if better(at(i), at(best)) { i } else { best }) as u32;
        }
    });
    Ok(vec![Tensor::from_cpu(out, shape)?])
}
