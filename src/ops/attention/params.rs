//! What the kernels of the GPUs are told.

use bytemuck::{Pod, Zeroable};

use super::{Order, Sizes, Spec};
use crate::{Result, Tensor};

/// Strides of batch, head and position, and the place of the first element.
pub type Place = [u32; 4];

/// `Params` of the kernels of both GPU backends.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    pub q: Place,
    pub k: Place,
    pub v: Place,
    pub o: Place,
    pub dout: Place,
    pub dq: Place,
    pub dk: Place,
    pub batch: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub q_len: u32,
    pub k_len: u32,
    pub low: i32,
    pub high: i32,
    pub scale: f32,
    pub seed: u64,
    pub offset: u32,
    pub threshold: u32,
    pub keep_scale: f32,
    /// Where the heads are counted from for dropout, in a part of a larger batch: wgpu's windows.
    pub first_head: u32,
    /// Keys that a block or workgroup of the forward visits, if they are cut, and how many such chunks there are.
    pub chunk: u32,
    pub chunks: u32,
}

impl Params {
    /// With the output's place, in units of `unit` elements; those of the inputs and the gradients are 0.
    pub fn new(sizes: &Sizes, spec: &Spec, unit: usize) -> Self {
        let (q_len, k_len) = (sizes.q_len as i64, sizes.k_len as i64);
        // Query i sees the keys from i + low to below i + high.
        let high = if spec.causal { k_len - q_len + 1 } else { k_len };
        let low = match spec.window {
            Some(window) => high.saturating_sub_unsigned(window as u64).max(-q_len),
            None => -q_len,
        };
        let (threshold, keep_scale) = spec.dropout.map_or((0, 1.0), |drop| drop.threshold_and_scale());
        Params {
            q: [0; 4],
            k: [0; 4],
            v: [0; 4],
            o: place(&sizes.strides(Order::HeadsInside, sizes.heads, sizes.q_len), 0, unit),
            dout: [0; 4],
            dq: [0; 4],
            dk: [0; 4],
            batch: sizes.batch as u32,
            heads: sizes.heads as u32,
            kv_heads: sizes.kv_heads as u32,
            q_len: q_len as u32,
            k_len: k_len as u32,
            low: low as i32,
            high: high as i32,
            scale: spec.scale as f32,
            seed: spec.dropout.map_or(0, |drop| drop.stream.seed),
            // Counters have room for its lower half.
            offset: spec.dropout.map_or(0, |drop| drop.stream.offset as u32),
            threshold,
            keep_scale: keep_scale as f32,
            first_head: 0,
            chunk: 0,
            chunks: 1,
        }
    }

    /// With the gradients' places: those of the queries lie in one order, those of the keys and the values in the other.
    pub fn with_gradients(self, sizes: &Sizes, [queries, keys]: [Order; 2], unit: usize) -> Params {
        Params {
            dq: place(&sizes.strides(queries, sizes.heads, sizes.q_len), 0, unit),
            dk: place(&sizes.strides(keys, sizes.kv_heads, sizes.k_len), 0, unit),
            ..self
        }
    }
}

#[cfg(feature = "wgpu")]
impl Params {
    /// How many pairs of a query and a key it sees there are, of all heads.
    pub fn pairs(&self) -> u64 {
        let (queries, keys) = (i64::from(self.q_len), i64::from(self.k_len));
        // The sum of i + offset within 0 and `keys` over all queries i.
        let below = |offset: i64| {
            let (first, last) = ((-offset).clamp(0, queries), (keys - offset).clamp(0, queries));
            (last - first) * (first + last - 1 + 2 * offset) / 2 + (queries - last) * keys
        };
        u64::from(self.batch * self.heads) * (below(self.high.into()) - below(self.low.into())) as u64
    }
}

/// Of a tensor with these strides whose first element is at `offset`, in units of `unit` elements.
pub fn place(strides: &[usize], offset: usize, unit: usize) -> Place {
    [strides[0], strides[1], strides[2], offset].map(|n| (n / unit) as u32)
}

/// The tensor, or a copy of it unless it starts where lines may (`starts`) and its rows are multiples of `line`
/// elements apart.
pub fn in_lines(x: &Tensor, line: usize, starts: bool) -> Result<Tensor> {
    let layout = x.layout();
    let whole = |dim: usize| layout.shape[dim] <= 1 || layout.strides[dim].is_multiple_of(line);
    if starts && (0..3).all(whole) { Ok(x.clone()) } else { x.copy() }
}

#[cfg(all(test, feature = "wgpu"))]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_those_that_see_each_other() {
        for (q_len, k_len, low, high) in
            [(5, 5, -5, 5), (5, 5, -5, 1), (3, 7, -3, 5), (7, 3, -7, -3), (9, 9, -3, 1), (4, 9, 1, 6), (0, 3, 0, 3)]
        {
            let sees = |i: i32, j: i32| i + low <= j && j < i + high;
            let expected = (0..q_len).flat_map(|i| (0..k_len).map(move |j| (i, j))).filter(|&(i, j)| sees(i, j));
            let (q_len, k_len) = (q_len as u32, k_len as u32);
            let params = Params { batch: 2, heads: 3, q_len, k_len, low, high, ..Zeroable::zeroed() };
            assert_eq!(params.pairs(), 6 * expected.count() as u64, "{q_len} {k_len} {low} {high}");
        }
    }
}
