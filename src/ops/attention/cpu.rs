//! Attention on the CPU, forward and backward, tile by tile: nothing of size Tq x Tk exists.
//!
//! The scheme is that of FlashAttention (Dao et al., 2022; Dao, 2023): the forward keeps a running
//! maximum and sum for each query and saves their log-sum-exp, from which the backward computes the
//! probabilities again. A tile of scores is held transposed, `[keys, queries]`: maxima and sums over
//! keys are then plain vector operations over queries, without a reduction inside a vector.
//! The matrix products of the tiles are the gemm crate's, which is near the processor's limit at
//! these sizes already.

use std::ops::Range;

use super::{Sizes, Spec};
use crate::Result;
use crate::device::cpu::CpuVec;
use crate::device::cpu::real::{Matrix, Real, dot, gemm, parallel, simd};
use crate::ops::dropout::Drop as Dropout;
use crate::random::{Philox, drop_threshold, keep};

/// Queries and keys of a tile. Its scores stay in the first two caches, and both are multiples of 6 and
/// of 16, the sides of the gemm crate's register tiles.
const BLOCK_Q: usize = 48;
const BLOCK_K: usize = 192;

/// `[batch, heads, length, head_dim]` with the strides of the first three; the last is 1.
#[derive(Clone, Copy)]
pub struct View<'a, R> {
    pub data: &'a [R],
    pub strides: [usize; 3],
}

pub struct ViewMut<'a, R> {
    pub data: &'a mut [R],
    pub strides: [usize; 3],
}

/// One head's rows.
#[derive(Clone, Copy)]
struct Rows<'a, R> {
    data: &'a [R],
    stride: usize,
}

impl<'a, R: Real> View<'a, R> {
    fn head(&self, b: usize, h: usize) -> Rows<'a, R> {
        // Without rows there may be no data.
        let start = (b * self.strides[0] + h * self.strides[1]).min(self.data.len());
        Rows { data: &self.data[start..], stride: self.strides[2] }
    }
}

impl<'a, R: Real> Rows<'a, R> {
    fn from(&self, t: usize) -> Matrix<'a, R> {
        Matrix { data: &self.data[t * self.stride..], row_stride: self.stride, col_stride: 1 }
    }

    fn row(&self, t: usize, head_dim: usize) -> &'a [R] {
        &self.data[t * self.stride..][..head_dim]
    }
}

/// An output that tasks write by rows, each row by one task.
struct Output<R> {
    data: *mut R,
    strides: [usize; 3],
    lens: [usize; 3],
    head_dim: usize,
}

// SAFETY: it is a mutable slice cut into rows that `new` checked to be disjoint; `write` says which
// thread may write which.
unsafe impl<R: Send> Sync for Output<R> {}

impl<R: Real> Output<R> {
    /// # Panics
    /// If rows overlap or reach beyond the data.
    fn new(view: ViewMut<'_, R>, lens: [usize; 3], head_dim: usize) -> Self {
        let ViewMut { data, strides } = view;
        let mut dims = [0, 1, 2].map(|i| (strides[i], lens[i]));
        dims.sort_unstable();
        let mut extent = head_dim;
        for (stride, len) in dims {
            if len > 1 && !lens.contains(&0) {
                assert!(stride >= extent, "attention: rows of an output overlap");
                extent += stride * (len - 1);
            }
        }
        assert!(lens.contains(&0) || extent <= data.len(), "attention: an output is too short");
        Output { data: data.as_mut_ptr(), strides, lens, head_dim }
    }

    /// Writes the first of the rows `t..` of one head that `rows` holds.
    ///
    /// # Safety
    /// No other thread may write these rows, and the slice that `new` got must still be borrowed.
    unsafe fn write(&self, b: usize, h: usize, t: usize, rows: &[R]) {
        for (i, row) in rows.chunks_exact(self.head_dim.max(1)).enumerate() {
            let at = [b, h, t + i];
            assert!(at.iter().zip(&self.lens).all(|(i, len)| i < len));
            let start: usize = at.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
            // SAFETY: `new` checked that every row lies in the data.
            let out = unsafe { std::slice::from_raw_parts_mut(self.data.add(start), self.head_dim) };
            out.copy_from_slice(row);
        }
    }
}

/// Which keys the queries see, and where tiles lie.
#[derive(Clone, Copy)]
struct Mask {
    causal: bool,
    window: Option<usize>,
    q_len: usize,
    k_len: usize,
}

impl Mask {
    /// The keys that query i sees.
    fn keys(&self, i: usize) -> (usize, usize) {
        // One past the query's own place among the keys, shifted by Tq to stay above zero.
        let end = i + self.k_len + 1;
        let high = if self.causal { end.saturating_sub(self.q_len).min(self.k_len) } else { self.k_len };
        let low = self.window.map_or(0, |window| end.saturating_sub(self.q_len.saturating_add(window)));
        (low.min(high), high)
    }

    /// The tiles of those of the keys that any of the queries sees. Both ends of [`Mask::keys`] grow with the query.
    fn tiles(&self, q: &Range<usize>, keys: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let (low, high) = (self.keys(q.start).0, self.keys(q.end - 1).1.min(keys.end));
        // From a multiple of 4, where a block of random bits starts.
        let low = (low - low % 4).max(keys.start);
        (low..high).step_by(BLOCK_K).map(move |start| start..high.min(start + BLOCK_K))
    }

    /// Writes -inf where a tile of scores `[keys, queries]` is masked.
    fn apply<R: Real>(&self, scores: &mut [R], q: &Range<usize>, k: &Range<usize>) {
        let all = q.clone().all(|i| {
            let (low, high) = self.keys(i);
            low <= k.start && k.end <= high
        });
        if all {
            return;
        }
        for (column, i) in q.clone().enumerate() {
            let (low, high) = self.keys(i);
            let (low, high) = (low.clamp(k.start, k.end), high.clamp(k.start, k.end));
            for j in (k.start..low).chain(high..k.end) {
                scores[(j - k.start) * q.len() + column] = -R::INFINITY;
            }
        }
    }
}

impl Spec {
    fn mask(&self, sizes: &Sizes) -> Mask {
        Mask { causal: self.causal, window: self.window, q_len: sizes.q_len, k_len: sizes.k_len }
    }
}

/// Where a tile's random numbers are.
struct HeadDrop {
    philox: Philox,
    threshold: u32,
    keep_scale: f64,
    head: u32,
    offset: u32,
}

impl HeadDrop {
    fn new(dropout: &Dropout, head: usize) -> Self {
        HeadDrop {
            philox: dropout.stream.philox(),
            threshold: drop_threshold(dropout.p),
            keep_scale: 1.0 / (1.0 - dropout.p),
            head: head as u32,
            offset: dropout.stream.offset as u32,
        }
    }
}

simd! {
    /// What dropout multiplies a tile `[keys, queries]` with. `factors` has room for a multiple of 4 keys.
    fn drop_factors[R: Real](drop: &HeadDrop, first_q: usize, queries: usize, first_k: usize, factors: &mut [R]) {
        let keep_scale = R::from_f64(drop.keep_scale);
        for (group, four) in factors.chunks_exact_mut(4 * queries).enumerate() {
            let (ab, cd) = four.split_at_mut(2 * queries);
            let ((a, b), (c, d)) = (ab.split_at_mut(queries), cd.split_at_mut(queries));
            for i in 0..queries {
                let counter = [(first_k / 4 + group) as u32, (first_q + i) as u32, drop.head, drop.offset];
                let [w, x, y, z] = drop.philox.block(counter).map(|bits| {
                    if keep(bits, drop.threshold) { keep_scale } else { R::ZERO }
                });
                (a[i], b[i], c[i], d[i]) = (w, x, y, z);
            }
        }
    }
}

/// o = softmax(scale q k^T, masked) v for every head, with dropout on the probabilities, and the
/// log-sum-exp of each query's scores, `lse` `[batch, heads, Tq]`.
///
/// A query that sees no key gets o = 0 and lse = -inf.
pub fn forward<R: Real>(
    sizes: &Sizes,
    options: &Spec,
    q: View<'_, R>,
    k: View<'_, R>,
    v: View<'_, R>,
    o: ViewMut<'_, R>,
    lse: &mut [R],
) {
    let &Sizes { batch, heads, kv_heads, q_len, k_len, head_dim } = sizes;
    assert_eq!(lse.len(), batch * heads * q_len, "attention: lse has one element a query");
    if batch * heads * q_len == 0 {
        return;
    }
    let o = Output::new(o, [batch, heads, q_len], head_dim);
    let mask = options.mask(sizes);
    let tasks = lse.chunks_mut(q_len).enumerate().flat_map(|(head, lse)| {
        lse.chunks_mut(BLOCK_Q).enumerate().map(move |(block, lse)| (head, block * BLOCK_Q, lse))
    });
    parallel(batch * heads * q_len * k_len, tasks, |(head, first, lse)| {
        let (b, h) = (head / heads, head % heads);
        let queries = first..first + lse.len();
        let drop = options.dropout.as_ref().map(|dropout| HeadDrop::new(dropout, head));
        let n = queries.len();
        let kv_head = h / (heads / kv_heads);
        let (q, k, v) = (q.head(b, h), k.head(b, kv_head), v.head(b, kv_head));
        let mut scores = vec![R::ZERO; n * BLOCK_K.min(k_len)];
        let mut factors = vec![R::ZERO; if drop.is_some() { n * BLOCK_K } else { 0 }];
        let mut out = vec![R::ZERO; n * head_dim];
        let mut softmax = Softmax::new(n);
        for keys in mask.tiles(&queries, &(0..k_len)) {
            let scores = &mut scores[..n * keys.len()];
            gemm(
                (keys.len(), n, head_dim),
                R::from_f64(options.scale),
                k.from(keys.start),
                transposed(q.from(first)),
                R::ZERO,
                scores,
                (n, 1),
                false,
            );
            mask.apply(scores, &queries, &keys);
            softmax_tile(scores, &mut softmax);
            scale_rows(&mut out, &softmax.rescale);
            if let Some(drop) = &drop {
                drop_factors(drop, first, n, keys.start, &mut factors[..n * keys.len().next_multiple_of(4)]);
                multiply(scores, &factors);
            }
            let probabilities = Matrix { data: scores, row_stride: 1, col_stride: n };
            gemm(
                (n, head_dim, keys.len()),
                R::ONE,
                probabilities,
                v.from(keys.start),
                R::ONE,
                &mut out,
                (head_dim, 1),
                false,
            );
        }
        for (i, lse) in lse.iter_mut().enumerate() {
            let total = softmax.sum[i];
            *lse = softmax.max[i] + total.ln();
            softmax.rescale[i] = if total > R::ZERO { R::ONE / total } else { R::ZERO };
        }
        scale_rows(&mut out, &softmax.rescale);
        // SAFETY: every query of every head is in one task.
        unsafe { o.write(b, h, first, &out) };
    });
}

pub struct Backward<'a, R> {
    pub q: View<'a, R>,
    pub k: View<'a, R>,
    pub v: View<'a, R>,
    /// What the forward gave.
    pub o: View<'a, R>,
    pub lse: &'a [R],
    pub grad: View<'a, R>,
    pub dq: ViewMut<'a, R>,
    pub dk: ViewMut<'a, R>,
    pub dv: ViewMut<'a, R>,
}

/// The keys of a task of the backward, a multiple of [`BLOCK_K`]. Where there are few heads their keys are cut into
/// shares: no more than 4, because each leaves a dq of its own to be added up. By sizes alone, so that sums are the same
/// on any machine.
fn share(sizes: &Sizes) -> usize {
    const TASKS: usize = 32;
    let heads = (sizes.batch * sizes.kv_heads).max(1);
    let shares = (TASKS / heads).clamp(1, 4);
    sizes.k_len.div_ceil(shares).next_multiple_of(BLOCK_K).max(BLOCK_K)
}

/// The gradients of q, k and v. The heads that read a share of the keys of a key head are one task, in a fixed order.
pub fn backward<R: Real>(sizes: &Sizes, options: &Spec, args: Backward<'_, R>) -> Result<()> {
    let &Sizes { batch, heads, kv_heads, q_len, k_len, head_dim } = sizes;
    let Backward { q, k, v, o, lse, grad, dq, dk, dv } = args;
    let dq = Output::new(dq, [batch, heads, q_len], head_dim);
    let dk = Output::new(dk, [batch, kv_heads, k_len], head_dim);
    let dv = Output::new(dv, [batch, kv_heads, k_len], head_dim);
    let group = heads / kv_heads.max(1);
    let share = share(sizes);
    let shares = k_len.div_ceil(share).max(1);
    let work = batch * heads * q_len * k_len;
    // The shares' dq, unless there is one.
    let head_len = q_len * head_dim;
    let mut partial = CpuVec::<R>::new(if shares > 1 { shares * batch * heads * head_len } else { 0 })?;
    let partial_dq = (shares > 1).then(|| {
        let strides = [heads * head_len, head_len, head_dim];
        Output::new(ViewMut { data: &mut partial, strides }, [shares * batch, heads, q_len], head_dim)
    });
    parallel(work, 0..batch * kv_heads * shares, |task| {
        let (b, kv_head, nth) = (task / shares / kv_heads, task / shares % kv_heads, task % shares);
        let keys = nth * share..k_len.min((nth + 1) * share);
        let size = keys.len() * head_dim;
        let (mut dk_head, mut dv_head) = (vec![R::ZERO; size], vec![R::ZERO; size]);
        let mut dq_head = vec![R::ZERO; head_len];
        for h in kv_head * group..(kv_head + 1) * group {
            dq_head.fill(R::ZERO);
            let head = Head {
                mask: options.mask(sizes),
                keys: keys.clone(),
                scale: R::from_f64(options.scale),
                drop: options.dropout.as_ref().map(|dropout| HeadDrop::new(dropout, b * heads + h)),
                head_dim,
                q: q.head(b, h),
                k: k.head(b, kv_head),
                v: v.head(b, kv_head),
                o: o.head(b, h),
                grad: grad.head(b, h),
                lse: &lse[(b * heads + h) * q_len..][..q_len],
            };
            head.backward(&mut dq_head, &mut dk_head, &mut dv_head);
            // SAFETY: every query head is in one task of each share.
            unsafe { partial_dq.as_ref().unwrap_or(&dq).write(nth * batch + b, h, 0, &dq_head) };
        }
        // SAFETY: every share of a key head is one task.
        unsafe {
            dk.write(b, kv_head, keys.start, &dk_head);
            dv.write(b, kv_head, keys.start, &dv_head);
        }
    });
    if shares > 1 {
        let bands = q_len.div_ceil(BLOCK_Q);
        parallel(partial.len(), 0..batch * heads * bands, |task| {
            let (head, first) = (task / bands, task % bands * BLOCK_Q);
            let of = first * head_dim..q_len.min(first + BLOCK_Q) * head_dim;
            let mut sums = partial[head * head_len..][of.clone()].to_vec();
            for nth in 1..shares {
                add(&mut sums, &partial[(nth * batch * heads + head) * head_len..][of.clone()]);
            }
            // SAFETY: every query of every head is in one task.
            unsafe { dq.write(head / heads, head % heads, first, &sums) };
        });
    }
    Ok(())
}

/// One query head with a share of the keys of its key head.
struct Head<'a, R> {
    mask: Mask,
    keys: Range<usize>,
    scale: R,
    drop: Option<HeadDrop>,
    head_dim: usize,
    q: Rows<'a, R>,
    k: Rows<'a, R>,
    v: Rows<'a, R>,
    o: Rows<'a, R>,
    grad: Rows<'a, R>,
    lse: &'a [R],
}

impl<R: Real> Head<'_, R> {
    /// With P the probabilities, Z what dropout multiplies them with and dO the gradient:
    /// dV = (P Z)^T dO, dP = (dO V^T) Z, dS = P (dP - rowsum(dP P)), dQ = scale dS K and
    /// dK = scale dS^T Q; of dK and dV, the rows of its keys. The sum over a row of dP P is that of dO O,
    /// which needs no tile.
    fn backward(&self, dq: &mut [R], dk: &mut [R], dv: &mut [R]) {
        let Mask { q_len, k_len, .. } = self.mask;
        let d = self.head_dim;
        let tile = BLOCK_Q.min(q_len) * BLOCK_K.min(k_len);
        let (mut probabilities, mut dscores) = (vec![R::ZERO; tile], vec![R::ZERO; tile]);
        let mut factors = vec![R::ZERO; if self.drop.is_some() { BLOCK_Q * BLOCK_K } else { 0 }];
        let along: Vec<R> = (0..q_len).map(|i| dot_rows(self.o.row(i, d), self.grad.row(i, d))).collect();
        // A query without keys has lse = -inf, but -inf - -inf would be no probability.
        let lse: Vec<R> =
            self.lse.iter().map(|&lse| if lse > -R::INFINITY { lse } else { R::ZERO }).collect();

        for block in (0..q_len).step_by(BLOCK_Q) {
            let queries = block..q_len.min(block + BLOCK_Q);
            let n = queries.len();
            let (q, grad) = (self.q.from(queries.start), self.grad.from(queries.start));
            for keys in self.mask.tiles(&queries, &self.keys) {
                let (k, v) = (self.k.from(keys.start), self.v.from(keys.start));
                let size = (keys.len(), n, d);
                let p = &mut probabilities[..n * keys.len()];
                let ds = &mut dscores[..n * keys.len()];
                gemm(size, self.scale, k, transposed(q), R::ZERO, p, (n, 1), false);
                gemm(size, R::ONE, v, transposed(grad), R::ZERO, ds, (n, 1), false);
                self.mask.apply(p, &queries, &keys);
                let (lse, along) = (&lse[queries.clone()], &along[queries.clone()]);
                if let Some(drop) = &self.drop {
                    let factors = &mut factors[..n * keys.len().next_multiple_of(4)];
                    drop_factors(drop, queries.start, n, keys.start, factors);
                    multiply(ds, factors);
                    backward_tile(p, ds, lse, along);
                    multiply(p, factors);
                } else {
                    backward_tile(p, ds, lse, along);
                }
                let of_keys = (keys.start - self.keys.start) * d..(keys.end - self.keys.start) * d;
                let size = (keys.len(), d, n);
                let row_major = |data| Matrix { data, row_stride: n, col_stride: 1 };
                gemm(size, R::ONE, row_major(p), grad, R::ONE, &mut dv[of_keys.clone()], (d, 1), false);
                gemm(size, self.scale, row_major(ds), q, R::ONE, &mut dk[of_keys], (d, 1), false);
                let size = (n, d, keys.len());
                let dq = &mut dq[queries.start * d..queries.end * d];
                gemm(size, self.scale, transposed(row_major(ds)), k, R::ONE, dq, (d, 1), false);
            }
        }
    }
}

simd! {
    fn dot_rows[R: Real](x: &[R], y: &[R]) -> R {
        dot(x, y)
    }
}

simd! {
    /// From scores `[keys, queries]` and the gradients of the probabilities to the probabilities and the
    /// gradients of the scores.
    fn backward_tile[R: Real](scores: &mut [R], grads: &mut [R], lse: &[R], along: &[R]) {
        let n = lse.len();
        for (scores, grads) in scores.chunks_exact_mut(n).zip(grads.chunks_exact_mut(n)) {
            for (((score, grad), &lse), &along) in scores.iter_mut().zip(grads).zip(lse).zip(along) {
                *score = (*score - lse).exp();
                *grad = *score * (*grad - along);
            }
        }
    }
}

fn transposed<R>(m: Matrix<'_, R>) -> Matrix<'_, R> {
    Matrix { data: m.data, row_stride: m.col_stride, col_stride: m.row_stride }
}

/// The running softmax of a block of queries.
struct Softmax<R> {
    /// The largest score so far.
    max: Vec<R>,
    /// The sum of exp(score - max).
    sum: Vec<R>,
    /// What the last tile's new maximum makes of the sums before it.
    rescale: Vec<R>,
    tile: Vec<R>,
}

impl<R: Real> Softmax<R> {
    fn new(n: usize) -> Self {
        let zeros = || vec![R::ZERO; n];
        Softmax { max: vec![-R::INFINITY; n], sum: zeros(), rescale: zeros(), tile: zeros() }
    }
}

simd! {
    /// Makes exp(score - max) of a tile's scores.
    fn softmax_tile[R: Real](scores: &mut [R], state: &mut Softmax<R>) {
        let Softmax { max, sum, rescale, tile } = state;
        let n = max.len();
        // `rescale` holds the old maximum, `tile` the new one.
        rescale.copy_from_slice(max);
        for row in scores.chunks_exact(n) {
            for (max, &score) in max.iter_mut().zip(row) {
                *max = score.max(*max);
            }
        }
        for ((rescale, tile), &max) in rescale.iter_mut().zip(tile.iter_mut()).zip(max.iter()) {
            // A query that has seen no key yet: any finite number will do, -inf - -inf would not.
            let max = if max > -R::INFINITY { max } else { R::ZERO };
            *rescale = (*rescale - max).exp();
            *tile = max;
        }
        for (sum, &rescale) in sum.iter_mut().zip(rescale.iter()) {
            *sum *= rescale;
        }
        for row in scores.chunks_exact_mut(n) {
            for ((score, sum), &max) in row.iter_mut().zip(sum.iter_mut()).zip(tile.iter()) {
                *score = (*score - max).exp();
                *sum += *score;
            }
        }
    }
}

simd! {
    fn scale_rows[R: Real](x: &mut [R], by: &[R]) {
        let cols = x.len() / by.len();
        for (row, &by) in x.chunks_exact_mut(cols.max(1)).zip(by) {
            if by != R::ONE {
                row.iter_mut().for_each(|x| *x *= by);
            }
        }
    }
}

simd! {
    fn add[R: Real](x: &mut [R], by: &[R]) {
        for (x, &by) in x.iter_mut().zip(by) {
            *x += by;
        }
    }
}

simd! {
    fn multiply[R: Real](x: &mut [R], by: &[R]) {
        for (x, &by) in x.iter_mut().zip(by) {
            *x *= by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// Everything about one case: sizes, options, inputs in the layout `[B, T, heads, D]`.
    struct Case<R> {
        sizes: Sizes,
        options: Spec,
        inputs: [Vec<R>; 4],
    }

    const Q: usize = 0;
    const K: usize = 1;
    const V: usize = 2;
    const GRAD: usize = 3;

    fn strides(heads: usize, len: usize, d: usize) -> [usize; 3] {
        [len * heads * d, d, heads * d]
    }

    impl<R: Real> Case<R> {
        fn new(sizes: Sizes, options: Spec) -> Self {
            let draw = |i: usize| {
                let (heads, len) = Self::lens(&sizes, i);
                let mut x = vec![R::ZERO; sizes.batch * heads * len * sizes.head_dim];
                Stream { seed: 15, offset: i as u64 }.fill_normal(0.0, 1.0, &mut x);
                x
            };
            Case { sizes, options, inputs: std::array::from_fn(draw) }
        }

        fn lens(sizes: &Sizes, input: usize) -> (usize, usize) {
            if input == K || input == V { (sizes.kv_heads, sizes.k_len) } else { (sizes.heads, sizes.q_len) }
        }

        fn view(&self, input: usize) -> View<'_, R> {
            let (heads, len) = Self::lens(&self.sizes, input);
            View { data: &self.inputs[input], strides: strides(heads, len, self.sizes.head_dim) }
        }

        fn forward(&self) -> (Vec<R>, Vec<R>) {
            let Sizes { batch, heads, q_len, head_dim, .. } = self.sizes;
            let mut o = vec![R::INFINITY; self.inputs[Q].len()];
            let mut lse = vec![R::INFINITY; batch * heads * q_len];
            let out = ViewMut { data: &mut o, strides: strides(heads, q_len, head_dim) };
            forward(&self.sizes, &self.options, self.view(Q), self.view(K), self.view(V), out, &mut lse);
            (o, lse)
        }

        fn backward(&self) -> [Vec<R>; 3] {
            let (o, lse) = self.forward();
            let mut grads: [Vec<R>; 3] = std::array::from_fn(|i| vec![R::INFINITY; self.inputs[i].len()]);
            let [dq, dk, dv] = &mut grads;
            let [dq, dk, dv] = [(Q, dq), (K, dk), (V, dv)].map(|(i, data)| {
                let (heads, len) = Self::lens(&self.sizes, i);
                ViewMut { data, strides: strides(heads, len, self.sizes.head_dim) }
            });
            let o = View { data: &o, strides: self.view(Q).strides };
            let (q, k, v, grad) = (self.view(Q), self.view(K), self.view(V), self.view(GRAD));
            backward(&self.sizes, &self.options, Backward { q, k, v, o, lse: &lse, grad, dq, dk, dv }).unwrap();
            grads
        }

        /// o and lse straight from the definition, in f64.
        fn naive(&self) -> (Vec<f64>, Vec<f64>) {
            let Sizes { batch, heads, kv_heads, q_len, k_len, head_dim: d } = self.sizes;
            let Spec { scale, causal, window, dropout } = self.options;
            let (mut o, mut all_lse) = (vec![0.0; self.inputs[Q].len()], vec![]);
            for (b, h, i) in
                (0..batch * heads * q_len).map(|n| (n / q_len / heads, n / q_len % heads, n % q_len))
            {
                let at = |input: usize, h: usize, t: usize, c: usize| {
                    let view = self.view(input);
                    view.data[b * view.strides[0] + h * view.strides[1] + t * view.strides[2] + c].to_f64()
                };
                let kv = h / (heads / kv_heads);
                let place = i as i64 + k_len as i64 - q_len as i64;
                let score = |j: usize| {
                    let seen = (!causal || j as i64 <= place)
                        && window.is_none_or(|w| j as i64 > place - w.min(1 << 40) as i64);
                    let dot: f64 = (0..d).map(|c| at(Q, h, i, c) * at(K, kv, j, c)).sum();
                    if seen { scale * dot } else { f64::NEG_INFINITY }
                };
                let scores: Vec<f64> = (0..k_len).map(score).collect();
                let max = scores.iter().fold(-1e300, |m: f64, &s| m.max(s));
                let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
                for (j, s) in scores.iter().enumerate().filter(|(_, s)| s.is_finite()) {
                    let kept = dropout.map_or(1.0, |Dropout { p, stream }| {
                        let counter = [j as u32 / 4, i as u32, (b * heads + h) as u32, stream.offset as u32];
                        let bits = stream.philox().block(counter)[j % 4];
                        if keep(bits, drop_threshold(p)) { 1.0 / (1.0 - p) } else { 0.0 }
                    });
                    for c in 0..d {
                        o[((b * q_len + i) * heads + h) * d + c] += kept * (s - lse).exp() * at(V, kv, j, c);
                    }
                }
                all_lse.push(lse);
            }
            (o, all_lse)
        }
    }

    fn sizes(
        batch: usize,
        heads: usize,
        kv_heads: usize,
        q_len: usize,
        k_len: usize,
        head_dim: usize,
    ) -> Sizes {
        Sizes { batch, heads, kv_heads, q_len, k_len, head_dim }
    }

    /// Every option at a few shapes, and a few options at every shape: one, primes, one beyond a tile.
    fn cases() -> Vec<(Sizes, Spec)> {
        let shapes = [
            sizes(1, 1, 1, 1, 1, 8),
            sizes(2, 3, 3, 7, 7, 5),
            sizes(1, 4, 2, BLOCK_Q + 1, BLOCK_Q + 1, 8),
            sizes(1, 2, 1, 5, BLOCK_K + 3, 16),
            sizes(2, 2, 1, 67, 13, 8),
            sizes(1, 1, 1, 2 * BLOCK_K + 1, 2 * BLOCK_K + 1, 24),
            sizes(1, 6, 2, 1, 101, 128),
            sizes(1, 4, 2, 3, 3 * BLOCK_K + 125, 8),
        ];
        let mut cases = vec![];
        for sizes in shapes {
            for causal in [false, true] {
                for window in [None, Some(1), Some(3), Some(50), Some(usize::MAX)] {
                    for p in [None, Some(0.3)] {
                        let stream = Stream { seed: 77, offset: 5 };
                        let dropout = p.map(|p| Dropout { p, stream });
                        cases.push((sizes, Spec { scale: 0.3, causal, window, dropout }));
                    }
                }
            }
        }
        cases
    }

    #[test]
    fn forward_matches_the_definition() {
        for (sizes, options) in cases() {
            let case = Case::<f64>::new(sizes, options);
            let ((o, lse), (o_naive, lse_naive)) = (case.forward(), case.naive());
            for (a, b) in o.iter().zip(&o_naive).chain(lse.iter().zip(&lse_naive)) {
                assert!(a == b || (a - b).abs() < 1e-12, "{sizes:?} {options:?}: {a} {b}");
            }
            let narrow = Case::<f32>::new(sizes, options);
            let (o32, lse32) = narrow.forward();
            for (&a, b) in o32.iter().zip(&o_naive).chain(lse32.iter().zip(&lse_naive)) {
                assert!(a as f64 == *b || (a as f64 - b).abs() < 2e-5, "f32: {sizes:?} {options:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_query_without_keys_gets_zero() {
        // More queries than keys: causal, the first 5 see nothing.
        let options = Spec { scale: 1.0, causal: true, window: None, dropout: None };
        let case = Case::<f32>::new(sizes(1, 1, 1, 8, 3, 8), options);
        let (o, lse) = case.forward();
        assert!(o[..5 * 8].iter().all(|&o| o == 0.0) && lse[..5].iter().all(|&l| l == f32::NEG_INFINITY));
        assert!(lse[5..].iter().all(|l| l.is_finite()));
        let [dq, dk, dv] = case.backward();
        assert!(dq[..5 * 8].iter().all(|&g| g == 0.0));
        assert!(dq.iter().chain(&dk).chain(&dv).all(|g| g.is_finite()));
    }

    #[test]
    fn empty_sizes() {
        let options = Spec { scale: 1.0, causal: false, window: None, dropout: None };
        for sizes in [
            sizes(0, 2, 1, 3, 3, 8),
            sizes(1, 2, 1, 0, 3, 8),
            sizes(1, 2, 1, 3, 0, 8),
            sizes(1, 1, 1, 3, 3, 0),
        ] {
            let case = Case::<f32>::new(sizes, options);
            let (o, _) = case.forward();
            assert!(o.iter().all(|&o| o == 0.0));
            assert!(case.backward().iter().flatten().all(|&g| g == 0.0));
        }
    }

    #[test]
    fn backward_matches_finite_differences() {
        for (sizes, options) in cases() {
            let case = Case::<f64>::new(sizes, options);
            let grads = case.backward();
            // Along random directions: one evaluation of the definition covers every element.
            let loss = |case: &Case<f64>| -> f64 {
                case.naive().0.iter().zip(&case.inputs[GRAD]).map(|(o, g)| o * g).sum()
            };
            for (input, grad) in grads.iter().enumerate() {
                let mut direction = vec![0.0; grad.len()];
                Stream { seed: 16, offset: input as u64 }.fill_normal(0.0, 1.0, &mut direction);
                let at = |h: f64| {
                    let mut moved = Case { inputs: case.inputs.clone(), ..case };
                    moved.inputs[input].iter_mut().zip(&direction).for_each(|(x, d)| *x += h * d);
                    loss(&moved)
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                let found: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let tolerance = 1e-6 * expected.abs().max(1.0);
                assert!(
                    (found - expected).abs() < tolerance,
                    "{sizes:?} {options:?} {input}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn f32_gradients_stay_close_to_f64() {
        for (sizes, options) in cases() {
            let wide = Case::<f64>::new(sizes, options).backward();
            let narrow = Case::<f32>::new(sizes, options).backward();
            for (&a, b) in narrow.iter().flatten().zip(wide.iter().flatten()) {
                assert!((a as f64 - b).abs() < 5e-5, "{sizes:?} {options:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let options = Spec { scale: 0.2, causal: true, window: None, dropout: None };
        // The keys of the second are cut.
        for len in [130, 4 * BLOCK_K + 5] {
            let case = Case::<f32>::new(sizes(2, 4, 2, len, len, 16), options);
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| (case.forward(), case.backward()))
            };
            assert!(run(1) == run(3));
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let options = Spec { scale: 1e4, causal: true, window: None, dropout: None };
        let case = Case::<f32>::new(sizes(1, 2, 2, 70, 70, 8), options);
        assert!(case.forward().0.iter().chain(case.backward().iter().flatten()).all(|x| x.is_finite()));
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_outputs_are_refused() {
        let options = Spec { scale: 1.0, causal: false, window: None, dropout: None };
        let case = Case::<f32>::new(sizes(1, 2, 2, 4, 4, 8), options);
        let (mut o, mut lse) = (vec![0.0; 64], vec![0.0; 8]);
        let out = ViewMut { data: &mut o, strides: [64, 4, 8] };
        forward(&case.sizes, &case.options, case.view(Q), case.view(K), case.view(V), out, &mut lse);
    }
}
