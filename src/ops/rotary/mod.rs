//! Rotary position embedding.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use crate::autograd::Backward;
use crate::device::cpu::{CpuVec, Real};
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply1};
use crate::ops::with_real;
use crate::{DType, Error, Result, Tensor};

/// Which elements of a head form a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RotaryPairs {
    /// `i` and `i + D / 2`, as in GPT-NeoX and Llama.
    #[default]
    Halves,
    /// `2 i` and `2 i + 1`, as in the paper and GPT-J.
    Interleaved,
}

/// Inputs `[x, cos, sin]`: x `[.., T, D]` seen as `[B, T, D]`, cos and sin `[T, D / 2]`, f32 (f64 for f64).
struct Rotary {
    pairs: RotaryPairs,
    /// Rotate backwards: the gradient.
    inverse: bool,
}

impl Rotary {
    fn run<R: Real>(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let x: Vec<Tensor> = x.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
        let (_, _, d) = x[0].dims3()?;
        let mut y = CpuVec::<R>::new(x[0].elements())?;
        let (values, cos, sin) = (x[0].cpu::<R>()?, x[1].cpu::<R>()?, x[2].cpu::<R>()?);
        cpu::rotate(self.pairs, self.inverse, (1, d), &values, &cos, &sin, &mut y);
        Ok(vec![Tensor::from_cpu(y, x[0].shape())?])
    }
}

impl Op for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        with_real!(x[0].dtype(), R => self.run::<R>(x))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::rotate(device, self.pairs, self.inverse, &x[0], &x[1], &x[2])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::rotate(device, self.pairs, self.inverse, &x[0], &x[1], &x[2])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::inputs(&[1, 2]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let op = Rotary { pairs: self.pairs, inverse: !self.inverse };
        Ok(vec![Some(apply1(op, &[&ctx.grad(0)?, ctx.input(1)?, ctx.input(2)?])?), None, None])
    }
}

impl Tensor {
    /// Rotary position embedding (Su et al., 2021): each pair of `x[.., t, :]` is turned by the angle
    /// whose cosine and sine stand in row t of the tables. x is `[.., T, D]` with D even, the tables
    /// are `[T, D / 2]` and f32 (f64 for f64); see [`Tensor::rotary_tables`].
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes differ, [`Error::NoGradient`] if a table requires a gradient.
    pub fn rotary(&self, cos: &Tensor, sin: &Tensor, pairs: RotaryPairs) -> Result<Tensor> {
        let name = "rotary";
        if cos.requires_grad() || sin.requires_grad() {
            return Err(Error::NoGradient { op: "rotary tables" });
        }
        let shapes = [self.shape(), cos.shape(), sin.shape()];
        let [.., steps, d] = *self.dims() else {
            return Err(Error::shape(name, &shapes, "x needs two dimensions at least"));
        };
        if d % 2 != 0 || cos.dims() != [steps, d / 2] || sin.dims() != cos.dims() {
            return Err(Error::shape(name, &shapes, "x must be [.., T, D] with D even, the tables [T, D / 2]"));
        }
        let table = if self.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        if !self.dtype().is_float() || cos.dtype() != table || sin.dtype() != table {
            let dtypes = [self.dtype(), cos.dtype(), sin.dtype()];
            return Err(Error::dtype(name, &dtypes, "x must be of floats and the tables f32 (f64 for f64)"));
        }
        let batch = self.dims()[..self.rank() - 2].iter().product::<usize>();
        let op = Rotary { pairs, inverse: false };
        apply1(op, &[&self.reshape((batch, steps, d))?, cos, sin])?.reshape(self.shape())
    }

    /// The tables `(cos, sin)` of [`Tensor::rotary`] for positions `start .. start + steps` and heads
    /// of `d` elements: angle `t * base^(-2 i / d)`, with 10000 the usual base. f32.
    pub fn rotary_tables(
        start: usize,
        steps: usize,
        d: usize,
        base: f64,
        device: &crate::Device,
    ) -> Result<(Tensor, Tensor)> {
        let angle = |t: usize, i: usize| (start + t) as f64 * base.powf(-2.0 * i as f64 / d as f64);
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> =
                (0..steps).flat_map(|t| (0..d / 2).map(move |i| f(angle(t, i)) as f32)).collect();
            Tensor::from_vec(values, (steps, d / 2), device)
        };
        Ok((table(f64::cos)?, table(f64::sin)?))
    }
}
