//! Cross entropy on the CPU: loss and gradient of a row of logits while it is in the cache.

use crate::device::cpu::real::{Real, max, parallel, rows_a_task, simd, sum, sum_of};

/// losses[i] = ln(sum of exp(logits[i])) - logits[i, targets[i]], or 0 where the target is `ignore`.
///
/// `logits` is `[targets.len(), V]`; every target but `ignore` must be below V.
pub fn forward<R: Real>(logits: &[R], targets: &[u32], ignore: Option<u32>, losses: &mut [R]) {
    let Some(cols) = logits.len().checked_div(targets.len()).filter(|&cols| cols > 0) else {
        return losses.fill(R::ZERO);
    };
    let rows = rows_a_task(targets.len(), cols);
    let tasks = logits.chunks(rows * cols).zip(targets.chunks(rows)).zip(losses.chunks_mut(rows));
    parallel(logits.len(), tasks, |((logits, targets), losses)| {
        forward_rows(logits, targets, ignore, losses)
    });
}

/// [`forward`], and the gradient of `scale` times the sum of the losses: scale (softmax - one-hot), or 0
/// where the target is `ignore`. Without `logits`, they are what `dlogits` holds.
pub fn forward_backward<R: Real>(
    logits: Option<&[R]>,
    targets: &[u32],
    ignore: Option<u32>,
    scale: R,
    losses: &mut [R],
    dlogits: &mut [R],
) {
    let Some(cols) = dlogits.len().checked_div(targets.len()).filter(|&cols| cols > 0) else {
        return losses.fill(R::ZERO);
    };
    let (work, rows) = (dlogits.len(), rows_a_task(targets.len(), cols));
    let tasks = dlogits.chunks_mut(rows * cols).zip(targets.chunks(rows)).zip(losses.chunks_mut(rows));
    parallel(work, tasks.enumerate(), |(task, ((dlogits, targets), losses))| {
        let logits = logits.map(|logits| &logits[task * rows * cols..][..dlogits.len()]);
        backward_rows(logits, targets, ignore, scale, losses, dlogits);
    });
}

/// How many targets are not `ignore`: what a mean divides by.
pub fn count(targets: &[u32], ignore: Option<u32>) -> usize {
    targets.iter().filter(|&&t| Some(t) != ignore).count()
}

simd! {
    fn forward_rows[R: Real](logits: &[R], targets: &[u32], ignore: Option<u32>, losses: &mut [R]) {
        let cols = logits.len() / targets.len();
        for ((logits, &target), loss) in logits.chunks_exact(cols).zip(targets).zip(losses) {
            *loss = if Some(target) == ignore {
                R::ZERO
            } else {
                let max = max(logits);
                sum_of(logits, |x| (x - max).exp()).ln() + (max - logits[target as usize])
            };
        }
    }
}

simd! {
    fn backward_rows[R: Real](
        logits: Option<&[R]>,
        targets: &[u32],
        ignore: Option<u32>,
        scale: R,
        losses: &mut [R],
        dlogits: &mut [R],
    ) {
        let cols = dlogits.len() / targets.len();
        for (i, (&target, loss)) in targets.iter().zip(losses).enumerate() {
            let row = i * cols..(i + 1) * cols;
            let dlogits = &mut dlogits[row.clone()];
            if Some(target) == ignore {
                *loss = R::ZERO;
                dlogits.fill(R::ZERO);
                continue;
            }
            let target = target as usize;
            let distance = match logits {
                Some(logits) => {
                    let logits = &logits[row];
                    let max = max(logits);
                    for (d, &x) in dlogits.iter_mut().zip(logits) {
                        *d = (x - max).exp();
                    }
                    max - logits[target]
                }
                None => {
                    let (max, at) = (max(dlogits), dlogits[target]);
                    for d in dlogits.iter_mut() {
                        *d = (*d - max).exp();
                    }
                    max - at
                }
            };
            let total = sum(dlogits);
            *loss = total.ln() + distance;
            let factor = scale / total;
            for d in dlogits.iter_mut() {
                *d *= factor;
            }
            dlogits[target] -= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn inputs(rows: usize, cols: usize) -> (Vec<f64>, Vec<u32>) {
        let mut x = vec![0.0; rows * cols];
        Stream { seed: 13, offset: cols as u64 }.fill_normal(0.0, 4.0, &mut x);
        (x, (0..rows).map(|i| (i * 7919 % cols) as u32).collect())
    }

    const SHAPES: [(usize, usize); 7] = [(0, 3), (1, 1), (4, 2), (5, 65), (9, 257), (600, 65), (3, 50_257)];

    #[test]
    fn loss_and_gradient_match_the_definition() {
        for (rows, cols) in SHAPES {
            let (x, targets) = inputs(rows, cols);
            let ignore = Some(targets.get(1).copied().unwrap_or(0));
            for ignore in [None, ignore, Some(u32::MAX)] {
                let (mut losses, mut again, mut dx) =
                    (vec![f64::NAN; rows], vec![0.0; rows], vec![f64::NAN; x.len()]);
                forward(&x, &targets, ignore, &mut losses);
                forward_backward(Some(&x), &targets, ignore, 0.25, &mut again, &mut dx);
                assert_eq!(losses, again);
                let mut in_place = x.clone();
                forward_backward(None, &targets, ignore, 0.25, &mut again, &mut in_place);
                assert_eq!((losses.clone(), &dx), (again, &in_place));
                for (i, x) in x.chunks(cols).enumerate() {
                    let total: f64 = x.iter().map(|x| x.exp()).sum();
                    let (t, weight) =
                        (targets[i] as usize, if Some(targets[i]) == ignore { 0.0 } else { 1.0 });
                    assert!((losses[i] - weight * (total.ln() - x[t])).abs() < 1e-11);
                    for j in 0..cols {
                        let d = 0.25 * weight * (x[j].exp() / total - if j == t { 1.0 } else { 0.0 });
                        assert!((dx[i * cols + j] - d).abs() < 1e-13);
                    }
                }
                assert_eq!(count(&targets, ignore), targets.iter().filter(|&&t| Some(t) != ignore).count());
            }
        }
    }

    #[test]
    fn f32_stays_close_to_f64() {
        for (rows, cols) in SHAPES {
            let (x, targets) = inputs(rows, cols);
            let x32: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let wide: Vec<f64> = x32.iter().map(|&x| x as f64).collect();
            let (mut l32, mut d32) = (vec![0.0; rows], vec![0.0; x.len()]);
            let (mut l64, mut d64) = (vec![0.0; rows], vec![0.0; x.len()]);
            forward_backward(Some(&x32), &targets, None, 1.0, &mut l32, &mut d32);
            forward_backward(Some(&wide), &targets, None, 1.0, &mut l64, &mut d64);
            assert!(l32.iter().zip(&l64).all(|(&a, b)| (a as f64 - b).abs() < 1e-6 * b.abs().max(1.0)));
            assert!(d32.iter().zip(&d64).all(|(&a, b)| (a as f64 - b).abs() < 1e-6));
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let (mut loss, mut d) = ([0f32], [3e38f32, -3e38, 3e38]);
        forward_backward(None, &[0], None, 1.0, &mut loss, &mut d);
        assert_eq!((loss, d), ([2f32.ln()], [-0.5, 0.0, 0.5]));
    }
}
