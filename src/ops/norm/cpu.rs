//! Layer norm and RMS norm on the CPU, over rows of `weight.len()` elements.
//!
//! A row is read from memory once in each direction: every further pass over it finds it in the first
//! cache. The variance is the mean of squared distances from the mean, in a pass of its own.

use crate::device::cpu::real::{
    Real, add_rows, optional_chunks, parallel, rows_a_task, simd, sum, sum_of, sum_of2,
};

/// y = (x - mean) * rstd * weight + bias, where RMS norm takes 0 for the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// rstd = 1 / sqrt(variance + eps)
    Layer,
    /// rstd = 1 / sqrt(mean of squares + eps)
    Rms,
}

pub struct Forward<'a, R> {
    pub norm: Norm,
    pub eps: f64,
    pub x: &'a [R],
    /// What is added to x first, and where the sum goes, which is then x for the backward.
    pub residual: Option<(&'a [R], &'a mut [R])>,
    pub weight: &'a [R],
    pub bias: Option<&'a [R]>,
    pub y: &'a mut [R],
    /// One a row. RMS norm has none: an empty slice, or zeros are written.
    pub mean: &'a mut [R],
    /// One a row.
    pub rstd: &'a mut [R],
}

pub fn forward<R: Real>(args: Forward<'_, R>) {
    let Forward { norm, eps, x, residual, weight, bias, y, mean, rstd } = args;
    let cols = weight.len();
    if cols == 0 {
        return;
    }
    let rows = rows_a_task(x.len() / cols, cols);
    let (residual, sum) = residual.unzip();
    let mean = if mean.is_empty() { None } else { Some(mean) };
    let tasks = y
        .chunks_mut(rows * cols)
        .zip(rstd.chunks_mut(rows))
        .zip(optional_chunks(mean, rows))
        .zip(optional_chunks(sum, rows * cols))
        .zip(x.chunks(rows * cols))
        .enumerate();
    parallel(x.len(), tasks, |(task, ((((y, rstd), mean), sum), x))| {
        let x = match (residual, sum) {
            (Some(residual), Some(sum)) => {
                add(x, &residual[task * rows * cols..][..x.len()], sum);
                sum
            }
            _ => x,
        };
        forward_rows(norm, R::from_f64(eps), x, weight, bias, y, mean, rstd);
    });
}

simd! {
    fn add[R: Real](x: &[R], residual: &[R], sum: &mut [R]) {
        for ((sum, &x), &r) in sum.iter_mut().zip(x).zip(residual) {
            *sum = x + r;
        }
    }
}

simd! {
    fn forward_rows[R: Real](
        norm: Norm,
        eps: R,
        x: &[R],
        weight: &[R],
        bias: Option<&[R]>,
        y: &mut [R],
        means: Option<&mut [R]>,
        rstds: &mut [R],
    ) {
        let mut means = means;
        let cols = weight.len();
        let scale = R::ONE / R::from_usize(cols);
        for (i, (x, y)) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).enumerate() {
            let mean = if norm == Norm::Layer { sum(x) * scale } else { R::ZERO };
            let rstd = R::ONE / (sum_of(x, |x| (x - mean) * (x - mean)) * scale + eps).sqrt();
            match bias {
                Some(bias) => {
                    for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                        *y = (x - mean) * rstd * w + b;
                    }
                }
                None => {
                    for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                        *y = (x - mean) * rstd * w;
                    }
                }
            }
            rstds[i] = rstd;
            if let Some(means) = &mut means {
                means[i] = mean;
            }
        }
    }
}

pub struct Backward<'a, R> {
    pub norm: Norm,
    /// The x of the forward, or its sum with the residual.
    pub x: &'a [R],
    pub weight: &'a [R],
    pub mean: &'a [R],
    pub rstd: &'a [R],
    pub dy: &'a [R],
    /// The gradient that the sum with the residual has from elsewhere; it is added into `dx`.
    pub dsum: Option<&'a [R]>,
    /// The gradient of x, and of the residual, as both have the same.
    pub dx: &'a mut [R],
    pub dweight: &'a mut [R],
    pub dbias: Option<&'a mut [R]>,
    /// Whether `dweight` and `dbias` are added to what they hold, or stored.
    pub accumulate: bool,
}

pub fn backward<R: Real>(args: Backward<'_, R>) {
    let Backward { norm, x, weight, mean, rstd, dy, dsum, dx, dweight, mut dbias, accumulate } = args;
    if !accumulate {
        dweight.fill(R::ZERO);
        dbias.iter_mut().for_each(|dbias| dbias.fill(R::ZERO));
    }
    let cols = weight.len();
    if cols == 0 {
        return;
    }
    let rows = rows_a_task(x.len() / cols, cols);
    // Each task sums dweight and dbias over its own rows; the sums are then added up in order.
    let partials = x.len().div_ceil(rows * cols) * cols;
    let mut dweights = vec![R::ZERO; partials];
    let mut dbiases = dbias.as_ref().map(|_| vec![R::ZERO; partials]);
    let tasks = dx
        .chunks_mut(rows * cols)
        .zip(dweights.chunks_mut(cols))
        .zip(optional_chunks(dbiases.as_deref_mut(), cols))
        .enumerate();
    parallel(x.len(), tasks, |(task, ((dx, dweight), dbias))| {
        let (first, elements) = (task * rows, task * rows * cols..task * rows * cols + dx.len());
        let rows = dx.len() / cols;
        let mean = if norm == Norm::Layer { Some(&mean[first..][..rows]) } else { None };
        let (x, dy) = (&x[elements.clone()], &dy[elements.clone()]);
        let dsum = dsum.map(|d| &d[elements]);
        backward_rows(x, weight, mean, &rstd[first..][..rows], dy, dsum, dx, dweight, dbias);
    });
    add_rows(&dweights, dweight);
    if let (Some(dbiases), Some(dbias)) = (dbiases, dbias) {
        add_rows(&dbiases, dbias);
    }
}

simd! {
    /// With n = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - n mean(g n)), where RMS norm
    /// lacks the middle term.
    fn backward_rows[R: Real](
        x: &[R],
        weight: &[R],
        means: Option<&[R]>,
        rstds: &[R],
        dy: &[R],
        dsum: Option<&[R]>,
        dx: &mut [R],
        dweight: &mut [R],
        dbias: Option<&mut [R]>,
    ) {
        let mut dbias = dbias;
        let cols = weight.len();
        let scale = R::ONE / R::from_usize(cols);
        for (i, &rstd) in rstds.iter().enumerate() {
            let row = i * cols..(i + 1) * cols;
            let (x, dy, dx) = (&x[row.clone()], &dy[row.clone()], &mut dx[row.clone()]);
            let mean = means.map_or(R::ZERO, |means| means[i]);
            // dx holds n g until it is due: its sum needs no third operand then.
            for ((((dx, dweight), &x), &dy), &w) in
                dx.iter_mut().zip(dweight.iter_mut()).zip(x).zip(dy).zip(weight)
            {
                let product = (x - mean) * rstd * dy;
                *dweight += product;
                *dx = product * w;
            }
            let along = sum(dx) * scale;
            let shift = if means.is_some() { sum_of2(dy, weight, |dy, w| dy * w) * scale } else { R::ZERO };
            for (((dx, &x), &dy), &w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                *dx = (dy * w - shift - (x - mean) * rstd * along) * rstd;
            }
            if let Some(dsum) = dsum {
                for (dx, &dsum) in dx.iter_mut().zip(&dsum[row]) {
                    *dx += dsum;
                }
            }
            if let Some(dbias) = &mut dbias {
                for (dbias, &dy) in dbias.iter_mut().zip(dy) {
                    *dbias += dy;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn normal(n: usize, offset: u64) -> Vec<f64> {
        let mut x = vec![0.0; n];
        Stream { seed: 11, offset }.fill_normal(0.3, 1.7, &mut x);
        x
    }

    fn run<R: Real>(
        norm: Norm,
        x: &[R],
        residual: Option<&[R]>,
        weight: &[R],
        bias: Option<&[R]>,
    ) -> [Vec<R>; 4] {
        let rows = x.len() / weight.len();
        let (mut sum, mut y) = (vec![R::ZERO; x.len()], vec![R::ZERO; x.len()]);
        let (mut mean, mut rstd) = (vec![R::ZERO; rows], vec![R::ZERO; rows]);
        let (mean_out, rstd_out) = (&mut mean[..], &mut rstd[..]);
        let residual = residual.map(|r| (r, &mut sum[..]));
        forward(Forward {
            norm,
            eps: 1e-5,
            x,
            residual,
            weight,
            bias,
            y: &mut y,
            mean: mean_out,
            rstd: rstd_out,
        });
        [y, sum, mean, rstd]
    }

    /// Straight from the definition.
    fn naive(norm: Norm, x: &[f64], weight: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
        let n = weight.len() as f64;
        let row = |x: &[f64]| {
            let mean = if norm == Norm::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let y =
                |j: usize| (x[j] - mean) / (variance + 1e-5).sqrt() * weight[j] + bias.map_or(0.0, |b| b[j]);
            (0..weight.len()).map(y).collect::<Vec<_>>()
        };
        x.chunks(weight.len()).flat_map(row).collect()
    }

    const SHAPES: [(usize, usize); 8] =
        [(1, 1), (0, 5), (3, 1), (1, 31), (5, 33), (7, 64), (201, 97), (67, 768)];

    #[test]
    fn forward_matches_the_definition() {
        for norm in [Norm::Layer, Norm::Rms] {
            for (rows, cols) in SHAPES {
                let (x, r) = (normal(rows * cols, 0), normal(rows * cols, 1));
                let (w, b) = (normal(cols, 2), normal(cols, 3));
                let sum: Vec<f64> = x.iter().zip(&r).map(|(x, r)| x + r).collect();
                for bias in [None, Some(&b[..])] {
                    let [y, ..] = run(norm, &x, None, &w, bias);
                    let expected = naive(norm, &x, &w, bias);
                    assert!(y.iter().zip(&expected).all(|(y, e)| (y - e).abs() < 1e-11));
                    let [y, sum_out, ..] = run(norm, &x, Some(&r), &w, bias);
                    let expected = naive(norm, &sum, &w, bias);
                    assert!(y.iter().zip(&expected).all(|(y, e)| (y - e).abs() < 1e-11));
                    assert_eq!(sum_out, sum);
                }
            }
        }
    }

    #[test]
    fn f32_survives_a_large_mean() {
        // A spread of 1 around 10000: mean of squares minus squared mean would leave nothing of it.
        let (rows, cols) = (3, 1000);
        let x: Vec<f32> = normal(rows * cols, 4).iter().map(|x| (x + 1e4) as f32).collect();
        let wide: Vec<f64> = x.iter().map(|&x| x as f64).collect();
        let [y, ..] = run(Norm::Layer, &x, None, &vec![1.0; cols], None);
        let expected = naive(Norm::Layer, &wide, &vec![1.0; cols], None);
        assert!(y.iter().zip(&expected).all(|(&y, e)| (y as f64 - e).abs() < 2e-3));
    }

    #[test]
    fn backward_matches_finite_differences() {
        for norm in [Norm::Layer, Norm::Rms] {
            for (rows, cols) in [(1, 1), (2, 3), (5, 33), (3, 64)] {
                let (x, w, b) = (normal(rows * cols, 5), normal(cols, 6), normal(cols, 7));
                let (dy, dsum) = (normal(rows * cols, 8), normal(rows * cols, 9));
                // The loss uses y and, as the next residual does, x itself.
                let loss = |x: &[f64], w: &[f64], b: &[f64]| -> f64 {
                    let y = naive(norm, x, w, Some(b));
                    y.iter().zip(&dy).chain(x.iter().zip(&dsum)).map(|(y, dy)| y * dy).sum()
                };
                let [_, _, mean, rstd] = run(norm, &x, None, &w, Some(&b));
                let mut dx = vec![f64::NAN; x.len()];
                let (mut dw, mut db) = (vec![10.0; cols], vec![20.0; cols]);
                backward(Backward {
                    norm,
                    x: &x,
                    weight: &w,
                    mean: &mean,
                    rstd: &rstd,
                    dy: &dy,
                    dsum: Some(&dsum),
                    dx: &mut dx,
                    dweight: &mut dw,
                    dbias: Some(&mut db),
                    accumulate: true,
                });
                let difference = |which: usize, i: usize| {
                    let at = |h: f64| {
                        let mut p = [x.clone(), w.clone(), b.clone()];
                        p[which][i] += h;
                        loss(&p[0], &p[1], &p[2])
                    };
                    (at(1e-6) - at(-1e-6)) / 2e-6
                };
                let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "{a} {b}");
                (0..x.len()).for_each(|i| close(dx[i], difference(0, i)));
                (0..cols).for_each(|j| close(dw[j] - 10.0, difference(1, j)));
                (0..cols).for_each(|j| close(db[j] - 20.0, difference(2, j)));
            }
        }
    }

    /// Many tasks, where partial sums are joined: against sums in f64 by rows.
    #[test]
    fn parameter_gradients_of_many_rows() {
        let (rows, cols) = (1543, 61);
        let (x, w, dy) = (normal(rows * cols, 1), normal(cols, 2), normal(rows * cols, 3));
        let [_, _, mean, rstd] = run(Norm::Layer, &x, None, &w, None);
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![f64::NAN; cols], vec![f64::NAN; cols]);
        backward(Backward {
            norm: Norm::Layer,
            x: &x,
            weight: &w,
            mean: &mean,
            rstd: &rstd,
            dy: &dy,
            dsum: None,
            dx: &mut dx,
            dweight: &mut dw,
            dbias: Some(&mut db),
            accumulate: false,
        });
        for j in 0..cols {
            let at = |i: usize| i * cols + j;
            let expected: f64 = (0..rows).map(|i| dy[at(i)] * (x[at(i)] - mean[i]) * rstd[i]).sum();
            assert!((dw[j] - expected).abs() < 1e-10);
            assert!((db[j] - (0..rows).map(|i| dy[at(i)]).sum::<f64>()).abs() < 1e-10);
        }
    }
}
