//! Rotary position embedding on the CPU (Su et al., "RoFormer", 2021).

use super::RotaryPairs;
use crate::device::cpu::real::{Real, parallel, rows_a_task, simd};

/// Turns pair i of every head at position t by the angle whose cosine and sine are `cos[t, i]` and
/// `sin[t, i]`, or back by it if `inverse`, which is the gradient.
///
/// `x` and `y` are `[.., T, heads, D]`, the tables `[T, D/2]`.
pub fn rotate<R: Real>(
    pairs: RotaryPairs,
    inverse: bool,
    (heads, d): (usize, usize),
    x: &[R],
    cos: &[R],
    sin: &[R],
    y: &mut [R],
) {
    if x.is_empty() {
        return;
    }
    let (half, row) = (d / 2, heads * d);
    let positions = cos.len() / half;
    let rows = rows_a_task(x.len() / row, row);
    let tasks = x.chunks(rows * row).zip(y.chunks_mut(rows * row)).enumerate();
    parallel(x.len(), tasks, |(task, (x, y))| {
        for (i, (x, y)) in x.chunks_exact(row).zip(y.chunks_exact_mut(row)).enumerate() {
            let table = (task * rows + i) % positions * half;
            rotate_heads(pairs, inverse, x, &cos[table..][..half], &sin[table..][..half], y);
        }
    });
}

simd! {
    fn rotate_heads[R: Real](pairs: RotaryPairs, inverse: bool, x: &[R], cos: &[R], sin: &[R], y: &mut [R]) {
        let half = cos.len();
        let sign = if inverse { -R::ONE } else { R::ONE };
        for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
            match pairs {
                RotaryPairs::Halves => {
                    let ((xa, xb), (ya, yb)) = (x.split_at(half), y.split_at_mut(half));
                    for ((((ya, yb), (&a, &b)), &cos), &sin) in
                        ya.iter_mut().zip(yb).zip(xa.iter().zip(xb)).zip(cos).zip(sin)
                    {
                        (*ya, *yb) = turned(a, b, cos, sign * sin);
                    }
                }
                RotaryPairs::Interleaved => {
                    let (x, y) = (x.as_chunks::<2>().0, y.as_chunks_mut::<2>().0);
                    for (((y, &[a, b]), &cos), &sin) in y.iter_mut().zip(x).zip(cos).zip(sin) {
                        *y = turned(a, b, cos, sign * sin).into();
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turned<R: Real>(a: R, b: R, cos: R, sin: R) -> (R, R) {
    (a * cos - b * sin, a * sin + b * cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_every_pair_and_back() {
        for (batch, t, heads, d) in [(1, 1, 1, 2), (2, 3, 1, 8), (2, 5, 3, 6), (3, 129, 2, 64), (0, 4, 2, 8)]
        {
            let x: Vec<f64> = (0..batch * t * heads * d).map(|i| (i % 17) as f64 - 8.0).collect();
            let angles: Vec<f64> = (0..t * d / 2).map(|i| i as f64 * 0.37).collect();
            let cos: Vec<f64> = angles.iter().map(|a| a.cos()).collect();
            let sin: Vec<f64> = angles.iter().map(|a| a.sin()).collect();
            for pairs in [RotaryPairs::Halves, RotaryPairs::Interleaved] {
                let (mut y, mut back) = (vec![f64::NAN; x.len()], vec![f64::NAN; x.len()]);
                rotate(pairs, false, (heads, d), &x, &cos, &sin, &mut y);
                for (head, (x, y)) in x.chunks(d).zip(y.chunks(d)).enumerate() {
                    let position = head / heads % t;
                    for i in 0..d / 2 {
                        let (a, b) = match pairs {
                            RotaryPairs::Halves => (i, i + d / 2),
                            RotaryPairs::Interleaved => (2 * i, 2 * i + 1),
                        };
                        let (sin, cos) = angles[position * d / 2 + i].sin_cos();
                        assert!((y[a] - (x[a] * cos - x[b] * sin)).abs() < 1e-13);
                        assert!((y[b] - (x[a] * sin + x[b] * cos)).abs() < 1e-13);
                    }
                }
                // A rotation's transpose, which is its gradient, is its inverse.
                rotate(pairs, true, (heads, d), &y, &cos, &sin, &mut back);
                assert!(back.iter().zip(&x).all(|(b, x)| (b - x).abs() < 1e-13));
            }
        }
    }
}
