use super::{Comparison, Kind};
use crate::device::cpu::real::simd;
use crate::device::cpu::{CpuVec, Real, Rows, map_rows};
use crate::ops::with_real;
use crate::tensor::with_element;
use crate::{Element, Result, Tensor};

simd! {
    fn zip_row[A: Element, O: Element, F: Fn(A, A) -> O](a: &[A], b: &[A], step: [usize; 2], out: &mut [O], f: F) {
        match step {
            [1, 1] => out.iter_mut().zip(a).zip(b).for_each(|((o, &a), &b)| *o = f(a, b)),
            [1, 0] => out.iter_mut().zip(a).for_each(|(o, &a)| *o = f(a, b[0])),
            [0, 1] => out.iter_mut().zip(b).for_each(|(o, &b)| *o = f(a[0], b)),
            [s, t] => out.iter_mut().enumerate().for_each(|(i, o)| *o = f(a[i * s], b[i * t])),
        }
    }
}

fn zip<A: Element, O: Element>(a: &Tensor, b: &Tensor, f: impl Fn(A, A) -> O + Sync + Send) -> Result<Vec<Tensor>> {
    let (x, y) = (a.cpu_strided::<A>()?, b.cpu_strided::<A>()?);
    let mut out = CpuVec::<O>::new(a.elements())?;
    let rows = Rows::new([a.layout(), b.layout()]);
    map_rows(&rows, &mut out, |[a, b], out| zip_row(&x[a..], &y[b..], rows.step, out, &f));
    Ok(vec![Tensor::from_cpu(out, a.shape())?])
}

pub fn binary(kind: Kind, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    with_real!(a.dtype(), R => match kind {
        Kind::Add => zip(a, b, |a: R, b: R| a + b),
        Kind::Sub => zip(a, b, |a: R, b: R| a - b),
        Kind::Mul => zip(a, b, |a: R, b: R| a * b),
        Kind::Div => zip(a, b, |a: R, b: R| a / b),
        Kind::Maximum => zip(a, b, |a: R, b: R| if a >= b { a } else { b }),
        Kind::Minimum => zip(a, b, |a: R, b: R| if a <= b { a } else { b }),
    })
}

pub fn compare(comparison: Comparison, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    with_element!(a.dtype(), T => match comparison {
        Comparison::Eq => zip(a, b, |a: T, b: T| u32::from(a == b)),
        Comparison::Ne => zip(a, b, |a: T, b: T| u32::from(a != b)),
        Comparison::Lt => zip(a, b, |a: T, b: T| u32::from(a < b)),
        Comparison::Le => zip(a, b, |a: T, b: T| u32::from(a <= b)),
        Comparison::Gt => zip(a, b, |a: T, b: T| u32::from(a > b)),
        Comparison::Ge => zip(a, b, |a: T, b: T| u32::from(a >= b)),
    })
}

simd! {
    fn add_row[R: Real](to: &mut [R], values: &[R], len: usize, step: [usize; 2]) {
        if step == [1, 1] {
            to[..len].iter_mut().zip(values).for_each(|(t, &v)| *t += v);
        } else {
            (0..len).for_each(|i| to[i * step[0]] += values[i * step[1]]);
        }
    }
}

/// `to += values`, two memories of one shape and dtype.
pub fn add_assign(to: &Tensor, values: &Tensor) -> Result<()> {
    with_real!(to.dtype(), R => {
        let rows = Rows::new([to.layout(), values.layout()]);
        let values = values.cpu_strided::<R>()?;
        let mut to = to.cpu_mut::<R>()?;
        for row in 0..rows.count {
            let [t, v] = rows.start(row);
            add_row(&mut to[t..], &values[v..], rows.len, rows.step);
        }
        Ok(())
    })
}
