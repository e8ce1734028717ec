//! Scaled dot-product attention in one fused kernel, forward and backward.
//!
//! The score matrix is never stored: forward walks over tiles of keys with an online softmax and keeps
//! the log-sum-exp of each query's scores; backward computes the scores again from it (Dao et al.,
//! "FlashAttention", 2022, and Dao, "FlashAttention-2", 2023). On GPUs a few queries of many keys, as when text is
//! generated, have the keys cut into chunks for the whole device (Dao et al., "Flash-Decoding for long-context
//! inference", 2023).

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod params;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use crate::autograd::Backward;
use crate::device::cpu::{CpuVec, Real};
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply, apply1};
use crate::ops::dropout::{Drop, check_probability};
use crate::ops::with_real;
use crate::{Error, Result, Tensor};

/// How [`Tensor::attention`] scores and masks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionOptions {
    /// Query i sees keys up to `i + Tk - Tq`: both sequences end together, as when new queries follow
    /// cached keys. For `Tq == Tk` that is the usual lower triangle.
    pub causal: bool,
    /// What scores are multiplied by; `1 / sqrt(D)` if `None`.
    pub scale: Option<f64>,
    /// Each query sees only the last `window` keys up to its own position; needs `causal`.
    pub window: Option<usize>,
    /// The probability with which a softmax weight is dropped; for training only.
    pub dropout: f64,
}

/// [`AttentionOptions`] as the kernels take them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub causal: bool,
    pub scale: f64,
    pub window: Option<usize>,
    /// Probability (i, j) of head h in batch b is dropped by lane `j % 4` of the block of counter
    /// `[j / 4, i, b * heads + h, offset]` under the seed's key.
    pub dropout: Option<Drop>,
}

/// Inputs `[q, k, v]`: q `[B, NH, Tq, D]`, k and v `[B, NKV, Tk, D]`, any strides but 1 along D;
/// outputs o `[B, NH, Tq, D]` and, as a statistic, the log-sum-exp `[B, NH, Tq]`.
struct Attention(Spec);

impl Attention {
    fn run<R: Real>(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let sizes = Sizes::of(&x[0], &x[1]);
        let (q, k, v) = (x[0].cpu_strided::<R>()?, x[1].cpu_strided::<R>()?, x[2].cpu_strided::<R>()?);
        let mut out = CpuVec::<R>::new(x[0].elements())?;
        let mut lse = CpuVec::<R>::new(sizes.batch * sizes.heads * sizes.q_len)?;
        cpu::forward(
            &sizes,
            &self.0,
            view(&x[0], &q),
            view(&x[1], &k),
            view(&x[2], &v),
            cpu::ViewMut { data: &mut out, strides: sizes.strides(Order::HeadsInside, sizes.heads, sizes.q_len) },
            &mut lse,
        );
        let lse = Tensor::from_cpu(lse, (sizes.batch, sizes.heads, sizes.q_len))?;
        let out = Tensor::from_cpu(out, x[0].elements())?;
        Ok(vec![sizes.tensor(Order::HeadsInside, out, sizes.heads, sizes.q_len)?, lse])
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        with_real!(x[0].dtype(), R => self.run::<R>(x))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::forward(device, &self.0, x)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::forward(device, &self.0, x)
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves { inputs: &[0, 1, 2], outputs: &[0, 1] })
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let dout = unit_stride(&ctx.grad(0)?)?;
        let (out, lse) = (ctx.output(0)?, ctx.output(1)?);
        let inputs = [ctx.input(0)?, ctx.input(1)?, ctx.input(2)?, out, lse, &dout];
        Ok(apply(AttentionBackward(self.0), &inputs)?.into_iter().map(Some).collect())
    }
}

/// Inputs `[q, k, v, o, lse, do]`, outputs `[dq, dk, dv]`.
struct AttentionBackward(Spec);

impl AttentionBackward {
    fn run<R: Real>(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let sizes = Sizes::of(&x[0], &x[1]);
        let (q, k, v) = (x[0].cpu_strided::<R>()?, x[1].cpu_strided::<R>()?, x[2].cpu_strided::<R>()?);
        let lse = x[4].contiguous()?;
        let (o, lse, dout) = (x[3].cpu_strided::<R>()?, lse.cpu::<R>()?, x[5].cpu_strided::<R>()?);
        let mut dq = CpuVec::<R>::new(x[0].elements())?;
        let (mut dk, mut dv) = (CpuVec::<R>::new(x[1].elements())?, CpuVec::<R>::new(x[1].elements())?);
        let (q_order, k_order) = (Order::of_gradient(&x[0]), Order::of_gradient(&x[1]));
        let q_strides = sizes.strides(q_order, sizes.heads, sizes.q_len);
        let k_strides = sizes.strides(k_order, sizes.kv_heads, sizes.k_len);
        cpu::backward(
            &sizes,
            &self.0,
            cpu::Backward {
                q: view(&x[0], &q),
                k: view(&x[1], &k),
                v: view(&x[2], &v),
                o: view(&x[3], &o),
                lse: &lse,
                grad: view(&x[5], &dout),
                dq: cpu::ViewMut { data: &mut dq, strides: q_strides },
                dk: cpu::ViewMut { data: &mut dk, strides: k_strides },
                dv: cpu::ViewMut { data: &mut dv, strides: k_strides },
            },
        )?;
        let flat = |x: CpuVec<R>| {
            let len = x.len();
            Tensor::from_cpu(x, len)
        };
        Ok(vec![
            sizes.tensor(q_order, flat(dq)?, sizes.heads, sizes.q_len)?,
            sizes.tensor(k_order, flat(dk)?, sizes.kv_heads, sizes.k_len)?,
            sizes.tensor(k_order, flat(dv)?, sizes.kv_heads, sizes.k_len)?,
        ])
    }
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn outputs(&self) -> usize {
        3
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        with_real!(x[0].dtype(), R => self.run::<R>(x))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::backward(device, &self.0, x)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::backward(device, &self.0, x)
    }
}

/// The tensor itself if neighbours along its last dimension are neighbours in memory, else a copy.
fn unit_stride(x: &Tensor) -> Result<Tensor> {
    let last = x.rank() - 1;
    if x.dims()[last] == 1 || x.layout().strides[last] == 1 { Ok(x.clone()) } else { x.copy() }
}

/// The sizes of one attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub batch: usize,
    /// A multiple of `kv_heads`: query head h reads key and value head `h / (heads / kv_heads)`.
    pub heads: usize,
    pub kv_heads: usize,
    pub q_len: usize,
    pub k_len: usize,
    pub head_dim: usize,
}

impl Sizes {
    fn of(q: &Tensor, k: &Tensor) -> Self {
        let (q, k) = (q.dims(), k.dims());
        Sizes { batch: q[0], heads: q[1], kv_heads: k[1], q_len: q[2], k_len: k[2], head_dim: q[3] }
    }

    /// Strides of batch, head and position of a `[B, heads, T, D]` that lies in this order.
    fn strides(&self, order: Order, heads: usize, len: usize) -> [usize; 3] {
        match order {
            Order::HeadsInside => [len * heads * self.head_dim, self.head_dim, heads * self.head_dim],
            Order::Plain => [heads * len * self.head_dim, len * self.head_dim, self.head_dim],
        }
    }

    /// Memory in this order as a tensor `[B, heads, T, D]`.
    fn tensor(&self, order: Order, memory: Tensor, heads: usize, len: usize) -> Result<Tensor> {
        match order {
            Order::HeadsInside => memory.reshape((self.batch, len, heads, self.head_dim))?.transpose(1, 2),
            Order::Plain => memory.reshape((self.batch, heads, len, self.head_dim)),
        }
    }
}

/// How a result `[B, heads, T, D]` lies in memory.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// As `[B, T, heads, D]`, where joining the heads afterwards costs nothing.
    HeadsInside,
    /// As its shape has it.
    Plain,
}

impl Order {
    /// That of the gradient of `x`: what goes on with it needs no copy if both lie alike.
    fn of_gradient(x: &Tensor) -> Self {
        if x.is_contiguous() { Order::Plain } else { Order::HeadsInside }
    }
}

fn view<'a, R: Real>(x: &Tensor, data: &'a [R]) -> cpu::View<'a, R> {
    let strides = &x.layout().strides;
    cpu::View { data, strides: [strides[0], strides[1], strides[2]] }
}

impl Tensor {
    /// `softmax(q k^T scale + mask) v` with this tensor as q: PyTorch's `scaled_dot_product_attention`.
    ///
    /// q is `[B, NH, Tq, D]`, k and v are `[B, NKV, Tk, D]` where NKV divides NH: each key head serves
    /// `NH / NKV` query heads in a row (grouped-query attention). D is a multiple of 8 from 8 to 256;
    /// Tq and Tk are free. The operands are read through their strides, so views of one `[B, T, 3 C]`
    /// projection need no copy, and the result lies in memory as `[B, Tq, NH, D]`:
    /// `.transpose(1, 2)?.reshape((b, t, c))` of it is free.
    ///
    /// Scores, softmax and sums are f32 (f64 for f64); where tensor cores or cooperative matrices multiply 16-bit values, weights
    /// are rounded to as many bits for them. A query that sees no key gives 0.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes do not fit, [`Error::DType`] unless all are floats of one dtype,
    /// [`Error::Argument`] for options out of range.
    pub fn attention(&self, k: &Tensor, v: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
        let name = "attention";
        let shapes = [self.shape(), k.shape(), v.shape()];
        let mismatch = |reason: &str| Err(Error::shape(name, &shapes, reason));
        let (&[b, nh, _, d], &[bk, nkv, _, dk]) = (self.dims(), k.dims()) else {
            return mismatch("q, k and v need four dimensions: batch, heads, positions, head size");
        };
        if v.dims() != k.dims() || bk != b || dk != d {
            return mismatch("k and v must agree, and have q's batch and head size");
        }
        if nkv == 0 || nh % nkv != 0 {
            return mismatch("the key heads must divide the query heads");
        }
        if d == 0 || d % 8 != 0 || d > 256 {
            return mismatch("the head size must be a multiple of 8, from 8 to 256");
        }
        let dtypes = [self.dtype(), k.dtype(), v.dtype()];
        if !self.dtype().is_float() || dtypes.iter().any(|&t| t != self.dtype()) {
            return Err(Error::dtype(name, &dtypes, "floats of one dtype are needed"));
        }
        check_probability(name, options.dropout)?;
        if options.window.is_some() && !options.causal {
            return Err(Error::argument(name, "window", "needs causal"));
        }
        if options.window == Some(0) {
            return Err(Error::argument(name, "window", "must be at least 1"));
        }
        let scale = options.scale.unwrap_or(1.0 / (d as f64).sqrt());
        if !scale.is_finite() {
            return Err(Error::argument(name, "scale", format!("({scale}) must be finite")));
        }
        let dropout = (options.dropout > 0.0)
            .then(|| Drop { p: options.dropout, stream: self.device().next_stream() });
        let spec = Spec { causal: options.causal, scale, window: options.window, dropout };
        apply1(Attention(spec), &[&unit_stride(self)?, &unit_stride(k)?, &unit_stride(v)?])
    }
}
