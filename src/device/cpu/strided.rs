//! Walking strided views row by row.

use super::parallel;
use crate::Layout;
use crate::shape::Dims;

/// Several views of one shape, cut into rows along their innermost dimension, after dimensions that
/// lie evenly in all of them were joined.
pub struct Rows<const N: usize> {
    sizes: Dims,
    strides: [Dims; N],
    /// Elements of a row.
    pub len: usize,
    /// The distance of neighbours in a row, in each view.
    pub step: [usize; N],
    /// How many rows there are.
    pub count: usize,
}

impl<const N: usize> Rows<N> {
    /// Cuts these views, which must have one shape.
    pub fn new(layouts: [&Layout; N]) -> Self {
        let elements = layouts[0].elements();
        let (mut sizes, strides) = Layout::collapse(&layouts);
        let mut strides: [Dims; N] = strides.try_into().expect("one stride list a layout");
        let len = sizes.pop().unwrap_or(1);
        let step = std::array::from_fn(|i| strides[i].pop().unwrap_or(1));
        let count = elements.checked_div(len).unwrap_or(0);
        Rows { sizes, strides, len, step, count }
    }

    /// Where row `row` starts in each view, counted from the view's first element.
    pub fn start(&self, mut row: usize) -> [usize; N] {
        let mut start = [0; N];
        for d in (0..self.sizes.len()).rev() {
            let index = row % self.sizes[d];
            row /= self.sizes[d];
            for (start, strides) in start.iter_mut().zip(&self.strides) {
                *start += index * strides[d];
            }
        }
        start
    }
}

/// Elements of a task.
const TASK: usize = 8 * 1024;

/// Fills a contiguous `out` row by row, a few thousand elements a task: `f(starts, row of out)`.
pub fn map_rows<const N: usize, T: Send>(
    rows: &Rows<N>,
    out: &mut [T],
    f: impl Fn([usize; N], &mut [T]) + Sync + Send,
) {
    if rows.count == 0 || rows.len == 0 {
        return;
    }
    // A long row, such as the one of a contiguous tensor, is cut into several tasks.
    let (len, cut) = if rows.len > 2 * TASK { (TASK, rows.len.div_ceil(TASK)) } else { (rows.len, 1) };
    let rows_a_task = (TASK / len).max(1);
    if cut > 1 {
        let pieces = out.chunks_mut(rows.len).enumerate().flat_map(|(row, out)| {
            out.chunks_mut(len).enumerate().map(move |(piece, out)| (row, piece, out))
        });
        parallel(rows.count * rows.len, pieces, |(row, piece, out)| {
            let start = rows.start(row);
            f(std::array::from_fn(|i| start[i] + piece * len * rows.step[i]), out);
        });
    } else {
        let tasks = out.chunks_mut(rows_a_task * len).enumerate();
        parallel(rows.count * rows.len, tasks, |(task, out)| {
            for (i, out) in out.chunks_mut(len).enumerate() {
                f(rows.start(task * rows_a_task + i), out);
            }
        });
    }
}
