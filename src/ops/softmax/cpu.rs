//! Softmax and log-softmax on the CPU, over rows of `cols` elements.

use crate::device::cpu::real::{Real, dot, max, parallel, rows_a_task, simd, sum, sum_of};

/// y = exp(x - max) / sum, or its logarithm. A row of -inf alone gives NaN, as in PyTorch.
pub fn forward<R: Real>(log: bool, cols: usize, x: &[R], y: &mut [R]) {
    let task = task(x.len(), cols);
    parallel(x.len(), x.chunks(task).zip(y.chunks_mut(task)), |(x, y)| {
        if log { log_rows(cols, x, y) } else { rows(cols, x, y) }
    });
}

/// dx from the output y of the forward and its gradient.
pub fn backward<R: Real>(log: bool, cols: usize, y: &[R], dy: &[R], dx: &mut [R]) {
    let task = task(y.len(), cols);
    let tasks = y.chunks(task).zip(dy.chunks(task)).zip(dx.chunks_mut(task));
    parallel(y.len(), tasks, |((y, dy), dx)| {
        if log { log_backward_rows(cols, y, dy, dx) } else { backward_rows(cols, y, dy, dx) }
    });
}

fn task(elements: usize, cols: usize) -> usize {
    rows_a_task(elements / cols.max(1), cols) * cols.max(1)
}

simd! {
    fn rows[R: Real](cols: usize, x: &[R], y: &mut [R]) {
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let max = max(x);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - max).exp();
            }
            let scale = R::ONE / sum(y);
            y.iter_mut().for_each(|y| *y *= scale);
        }
    }
}

simd! {
    fn log_rows[R: Real](cols: usize, x: &[R], y: &mut [R]) {
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let max = max(x);
            let log_sum = sum_of(x, |x| (x - max).exp()).ln();
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x - max - log_sum;
            }
        }
    }
}

simd! {
    fn backward_rows[R: Real](cols: usize, y: &[R], dy: &[R], dx: &mut [R]) {
        let rows = y.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
        for ((y, dy), dx) in rows {
            let along = dot(y, dy);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - along);
            }
        }
    }
}

simd! {
    fn log_backward_rows[R: Real](cols: usize, y: &[R], dy: &[R], dx: &mut [R]) {
        let rows = y.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
        for ((y, dy), dx) in rows {
            let total = sum(dy);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = dy - y.exp() * total;
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
        Stream { seed: 12, offset }.fill_normal(0.0, 3.0, &mut x);
        x
    }

    fn naive(log: bool, x: &[f64]) -> Vec<f64> {
        let total: f64 = x.iter().map(|x| x.exp()).sum();
        x.iter().map(|x| if log { x - total.ln() } else { x.exp() / total }).collect()
    }

    #[test]
    fn forward_matches_the_definition() {
        for log in [false, true] {
            for (rows, cols) in [(0, 4), (1, 1), (3, 2), (5, 31), (7, 100), (300, 257)] {
                let x = normal(rows * cols, 0);
                let mut y = vec![f64::NAN; x.len()];
                forward(log, cols, &x, &mut y);
                let expected: Vec<f64> = x.chunks(cols).flat_map(|x| naive(log, x)).collect();
                assert!(y.iter().zip(&expected).all(|(y, e)| (y - e).abs() < 1e-13));
                let x32: Vec<f32> = x.iter().map(|&x| x as f32).collect();
                let mut y32 = vec![f32::NAN; x.len()];
                forward(log, cols, &x32, &mut y32);
                assert!(y32.iter().zip(&expected).all(|(&y, e)| (y as f64 - e).abs() < 4e-6));
            }
        }
        forward(false, 0, &[0f32; 0], &mut []);
    }

    #[test]
    fn large_and_masked_values() {
        let x = [1e4f32, 1e4, f32::NEG_INFINITY, -1e30];
        let mut y = [0.0; 4];
        forward(false, 4, &x, &mut y);
        assert_eq!(y, [0.5, 0.5, 0.0, 0.0]);
        forward(true, 4, &x, &mut y);
        assert_eq!(y, [-(2f32.ln()), -(2f32.ln()), f32::NEG_INFINITY, -1e30]);
    }

    #[test]
    fn backward_matches_finite_differences() {
        for log in [false, true] {
            for (rows, cols) in [(1, 1), (2, 5), (3, 40)] {
                let (x, dy) = (normal(rows * cols, 1), normal(rows * cols, 2));
                let loss = |x: &[f64]| -> f64 {
                    let y = x.chunks(cols).flat_map(|x| naive(log, x));
                    y.zip(&dy).map(|(y, dy)| y * dy).sum()
                };
                let (mut y, mut dx) = (vec![0.0; x.len()], vec![f64::NAN; x.len()]);
                forward(log, cols, &x, &mut y);
                backward(log, cols, &y, &dy, &mut dx);
                for i in 0..x.len() {
                    let at = |h: f64| {
                        let mut x = x.clone();
                        x[i] += h;
                        loss(&x)
                    };
                    assert!((dx[i] - (at(1e-5) - at(-1e-5)) / 2e-5).abs() < 1e-7);
                }
            }
        }
    }
}
