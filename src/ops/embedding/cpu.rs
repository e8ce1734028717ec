//! Embedding on the CPU: rows gathered, and their gradients added up in a fixed order.

use crate::device::cpu::real::{Real, parallel, rows_a_task};

/// y[i] = weight[ids[i]] with rows of `cols` elements; every id must be below the rows of `weight`.
pub fn forward<R: Real>(weight: &[R], cols: usize, ids: &[u32], y: &mut [R]) {
    if cols == 0 {
        return;
    }
    let (work, rows) = (y.len(), rows_a_task(ids.len(), cols));
    parallel(work, ids.chunks(rows).zip(y.chunks_mut(rows * cols)), |(ids, y)| {
        for (&id, y) in ids.iter().zip(y.chunks_exact_mut(cols)) {
            y.copy_from_slice(&weight[id as usize * cols..][..cols]);
        }
    });
}

/// dweight[v] = sum of dy[i] over all i with ids[i] = v, in the order of i, added to what `dweight` holds
/// if `accumulate`.
pub fn backward<R: Real>(ids: &[u32], dy: &[R], cols: usize, dweight: &mut [R], accumulate: bool) {
    if cols == 0 {
        return;
    }
    let vocabulary = dweight.len() / cols;
    // Positions sorted by id, by counting: those of v are order[ends[v - 1]..ends[v]]. With them each
    // row of dweight is one task's own, so that no two threads meet in it.
    let mut ends = vec![0; vocabulary];
    ids.iter().for_each(|&id| ends[id as usize] += 1);
    let mut start = 0;
    for end in &mut ends {
        (*end, start) = (start, start + *end);
    }
    let mut order = vec![0; ids.len()];
    for (i, &id) in ids.iter().enumerate() {
        let end = &mut ends[id as usize];
        order[*end] = i;
        *end += 1;
    }

    // Few rows a task: some ids are far more frequent than others.
    let rows = (rows_a_task(vocabulary, cols) / 8).max(1);
    parallel(dy.len(), dweight.chunks_mut(rows * cols).enumerate(), |(task, dweight)| {
        for (i, dweight) in dweight.chunks_exact_mut(cols).enumerate() {
            let id = task * rows + i;
            let start = id.checked_sub(1).map_or(0, |before| ends[before]);
            if !accumulate {
                dweight.fill(R::ZERO);
            }
            for &position in &order[start..ends[id]] {
                for (dw, &dy) in dweight.iter_mut().zip(&dy[position * cols..][..cols]) {
                    *dw += dy;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_and_scatters() {
        for (n, vocabulary, cols) in
            [(0, 3, 2), (1, 1, 1), (7, 5, 3), (1000, 65, 33), (300, 2000, 17), (4, 4, 0)]
        {
            let ids: Vec<u32> = (0..n).map(|i| (i * i * 31 % vocabulary) as u32).collect();
            let weight: Vec<f64> = (0..vocabulary * cols).map(|i| i as f64).collect();
            let mut y = vec![f64::NAN; n * cols];
            forward(&weight, cols, &ids, &mut y);
            for (i, &id) in ids.iter().enumerate() {
                assert_eq!(y[i * cols..][..cols], weight[id as usize * cols..][..cols]);
            }
            // Quarters: any order of summation is exact.
            let dy: Vec<f64> = (0..n * cols).map(|i| (i % 101) as f64 / 4.0).collect();
            let mut expected = vec![0.0; weight.len()];
            for (i, &id) in ids.iter().enumerate() {
                (0..cols).for_each(|j| expected[id as usize * cols + j] += dy[i * cols + j]);
            }
            let mut dweight = vec![f64::NAN; weight.len()];
            backward(&ids, &dy, cols, &mut dweight, false);
            assert_eq!(dweight, expected);
            backward(&ids, &dy, cols, &mut dweight, true);
            assert!(dweight.iter().zip(&expected).all(|(d, e)| *d == 2.0 * e));
        }
    }

    /// f32 sums depend on their order: it must be that of the positions.
    #[test]
    fn sums_in_the_order_of_positions() {
        let (n, cols) = (5000, 8);
        let ids = vec![3; n];
        let dy: Vec<f32> = (0..n * cols).map(|i| 1.0 / (1.0 + i as f32)).collect();
        let mut dweight = vec![0.5; 4 * cols];
        backward(&ids, &dy, cols, &mut dweight, true);
        for j in 0..cols {
            assert_eq!(dweight[3 * cols + j], (0..n).fold(0.5, |sum, i| sum + dy[i * cols + j]));
            assert_eq!(dweight[j], 0.5);
        }
    }
}
