//! Layer norm and RMS norm over the last dimension, each also fused with the residual add before it, and with the dropout
//! before that.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use cpu::Norm as Kind;

use crate::autograd::Backward;
use crate::device::cpu::{CpuVec, Real};
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply, apply1};
use crate::ops::dropout::{Drop, Dropout, check_probability};
use crate::ops::with_real;
use crate::{DType, Error, Result, Tensor};

/// Inputs `[x, weight, bias?]`, or `[x, weight, residual, bias?]`; outputs `[y]`, or `[y, x + residual]`.
/// After them comes one tensor of statistics, two numbers a row, laid out as each backend likes it.
#[derive(Clone, Copy)]
struct Norm {
    kind: Kind,
    eps: f64,
    residual: bool,
    bias: bool,
    /// What x loses before the residual is added to it.
    dropout: Option<Drop>,
}

impl Norm {
    fn residual<'a>(&self, x: &'a [Tensor]) -> Option<&'a Tensor> {
        self.residual.then(|| &x[2])
    }

    fn bias<'a>(&self, x: &'a [Tensor]) -> Option<&'a Tensor> {
        self.bias.then(|| &x[2 + usize::from(self.residual)])
    }

    /// The op without its dropout, and its inputs with x after it: for where there is no kernel that has it all.
    fn apart(&self, x: &[Tensor]) -> Result<(Norm, Vec<Tensor>)> {
        let mut x = x.to_vec();
        if let Some(dropout) = self.dropout {
            x[0] = apply1(Dropout(dropout), &[&x[0]])?;
        }
        Ok((Norm { dropout: None, ..*self }, x))
    }

    fn run<R: Real>(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let rows = rows(&x[0]);
        let x: Vec<Tensor> = x.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
        let (values, weight) = (x[0].cpu::<R>()?, x[1].cpu::<R>()?);
        let residual = self.residual(&x).map(Tensor::cpu::<R>).transpose()?;
        let bias = self.bias(&x).map(Tensor::cpu::<R>).transpose()?;
        let mut y = CpuVec::<R>::new(shape.elements())?;
        let mut sum = CpuVec::<R>::new(if self.residual { shape.elements() } else { 0 })?;
        let mut stats = CpuVec::<R>::zeros(2 * rows)?;
        let (mean, rstd) = stats.split_at_mut(rows);
        cpu::forward(cpu::Forward {
            norm: self.kind,
            eps: self.eps,
            x: &values,
            residual: residual.as_deref().map(|residual| (residual, &mut *sum)),
            weight: &weight,
            bias: bias.as_deref(),
            y: &mut y,
            mean,
            rstd,
        });
        let mut outputs = vec![Tensor::from_cpu(y, shape)?];
        if self.residual {
            outputs.push(Tensor::from_cpu(sum, shape)?);
        }
        outputs.push(Tensor::from_cpu(stats, (2, rows))?);
        Ok(outputs)
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        match (self.kind, self.residual, self.dropout) {
            (Kind::Layer, false, _) => "layer_norm",
            (Kind::Layer, true, None) => "add_layer_norm",
            (Kind::Layer, true, Some(_)) => "dropout_add_layer_norm",
            (Kind::Rms, false, _) => "rms_norm",
            (Kind::Rms, true, None) => "add_rms_norm",
            (Kind::Rms, true, Some(_)) => "dropout_add_rms_norm",
        }
    }

    fn outputs(&self) -> usize {
        1 + usize::from(self.residual)
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (op, x) = self.apart(x)?;
        with_real!(x[0].dtype(), R => op.run::<R>(&x))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::forward(device, self, x)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::forward(device, self, x)
    }

    fn saves(&self) -> Option<Saves> {
        Some(match self.residual {
            false => Saves { inputs: &[0, 1], outputs: &[1] },
            true => Saves { inputs: &[1], outputs: &[1, 2] },
        })
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let bias = 2 + usize::from(self.residual);
        let wide = ctx.grad_dtype(1) == DType::F32 || self.bias && ctx.grad_dtype(bias) == DType::F32;
        let op = NormBackward { kind: self.kind, bias: self.bias, dsum: ctx.grad_if_any(1).is_some(), wide };
        let dy = ctx.grad(0)?;
        let (h, stats) = match self.residual {
            false => (ctx.input(0)?, ctx.output(1)?),
            true => (ctx.output(1)?, ctx.output(2)?),
        };
        let mut inputs = vec![h, ctx.input(1)?, stats, &dy];
        inputs.extend(ctx.grad_if_any(1).filter(|_| self.residual));
        let mut grads: Vec<Option<Tensor>> = apply(op, &inputs)?.into_iter().map(Some).collect();
        if self.residual {
            // The sum's gradient is that of both its terms.
            grads.insert(2, grads[0].clone());
        }
        if let (Some(dropout), true) = (self.dropout, ctx.needs(0)) {
            grads[0] = grads[0].as_ref().map(|dh| apply1(Dropout(dropout), &[dh])).transpose()?;
        }
        Ok(grads)
    }
}

/// Inputs `[h, weight, stats, dy, dsum?]`, where h is what was normalised and dsum the gradient that
/// reached it from elsewhere; outputs `[dh, dweight, dbias?]`.
struct NormBackward {
    kind: Kind,
    bias: bool,
    dsum: bool,
    /// The gradients of weight and bias are wanted in f32, whatever dtype the rest has.
    wide: bool,
}

impl NormBackward {
    fn run<R: Real>(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (shape, cols, rows) = (x[0].shape(), x[1].elements(), rows(&x[0]));
        let x: Vec<Tensor> = x.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
        let (h, weight, stats, dy) = (x[0].cpu::<R>()?, x[1].cpu::<R>()?, x[2].cpu::<R>()?, x[3].cpu::<R>()?);
        let dsum = if self.dsum { Some(x[4].cpu::<R>()?) } else { None };
        let mut dx = CpuVec::<R>::new(shape.elements())?;
        let mut dweight = CpuVec::<R>::new(cols)?;
        let mut dbias = CpuVec::<R>::new(if self.bias { cols } else { 0 })?;
        let (mean, rstd) = stats.split_at(rows);
        cpu::backward(cpu::Backward {
            norm: self.kind,
            x: &h,
            weight: &weight,
            mean,
            rstd,
            dy: &dy,
            dsum: dsum.as_deref(),
            dx: &mut dx,
            dweight: &mut dweight,
            dbias: self.bias.then_some(&mut *dbias),
            accumulate: false,
        });
        let mut outputs = vec![Tensor::from_cpu(dx, shape)?, Tensor::from_cpu(dweight, cols)?];
        if self.bias {
            outputs.push(Tensor::from_cpu(dbias, cols)?);
        }
        Ok(outputs)
    }
}

impl Op for NormBackward {
    fn name(&self) -> &'static str {
        "norm_backward"
    }

    fn output_dtype(&self, i: usize, dtype: DType) -> DType {
        if i > 0 && self.wide { DType::F32 } else { dtype }
    }

    fn outputs(&self) -> usize {
        2 + usize::from(self.bias)
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        with_real!(x[0].dtype(), R => self.run::<R>(x))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::backward(device, self, x)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::backward(device, self, x)
    }
}

fn rows(x: &Tensor) -> usize {
    x.dims()[..x.rank() - 1].iter().product()
}

fn norm(
    kind: Kind,
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
    p: f64,
) -> Result<Vec<Tensor>> {
    let mut op = Norm { kind, eps, residual: residual.is_some(), bias: bias.is_some(), dropout: None };
    let mut inputs = vec![x, weight];
    inputs.extend(residual);
    inputs.extend(bias);
    let mismatch = |other: &Tensor, reason: &str| Err(Error::shape(op.name(), &[x.shape(), other.shape()], reason));
    let Some(&cols) = x.dims().last() else {
        return mismatch(weight, "x needs a dimension to be normalised over");
    };
    for vector in [Some(weight), bias].into_iter().flatten() {
        if vector.dims() != [cols] {
            return mismatch(vector, "weight and bias must have one element for each of the last dimension");
        }
    }
    if let Some(residual) = residual
        && residual.shape() != x.shape()
    {
        return mismatch(residual, "the residual must have the shape of x");
    }
    if !x.dtype().is_float() || inputs.iter().any(|t| t.dtype() != x.dtype()) {
        let dtypes: Vec<_> = inputs.iter().map(|t| t.dtype()).collect();
        return Err(Error::dtype(op.name(), &dtypes, "floats of one dtype are needed"));
    }
    if eps.is_nan() || eps < 0.0 {
        return Err(Error::argument(op.name(), "eps", format!("({eps}) must not be negative")));
    }
    if p != 0.0 {
        op.dropout = Some(Drop { p, stream: x.device().next_stream() });
    }
    if op.outputs() == 1 { Ok(vec![apply1(op, &inputs)?]) } else { apply(op, &inputs) }
}

/// The two results of a norm that is fused with a residual add.
fn pair(mut outputs: Vec<Tensor>) -> (Tensor, Tensor) {
    let sum = outputs.swap_remove(1);
    (sum, outputs.swap_remove(0))
}

impl Tensor {
    /// Layer norm over the last dimension (Ba, Kiros and Hinton, 2016):
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`, x `[.., C]`, weight and bias `[C]`.
    /// The variance is the biased one, computed around the mean in f32 (f64 for f64).
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes differ, [`Error::DType`] unless all are floats of one dtype.
    pub fn layer_norm(&self, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        Ok(norm(Kind::Layer, self, None, weight, bias, eps, 0.0)?.swap_remove(0))
    }

    /// RMS norm over the last dimension (Zhang and Sennrich, 2019):
    /// `x / sqrt(mean(x^2) + eps) * weight`, x `[.., C]`, weight `[C]`. Errors as [`Tensor::layer_norm`].
    pub fn rms_norm(&self, weight: &Tensor, eps: f64) -> Result<Tensor> {
        Ok(norm(Kind::Rms, self, None, weight, None, eps, 0.0)?.swap_remove(0))
    }

    /// `sum = self + residual` and its [`Tensor::layer_norm`] in one kernel; returns `(sum, normed)`.
    pub fn add_layer_norm(
        &self,
        residual: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<(Tensor, Tensor)> {
        norm(Kind::Layer, self, Some(residual), weight, bias, eps, 0.0).map(pair)
    }

    /// `sum = self + residual` and its [`Tensor::rms_norm`] in one kernel; returns `(sum, normed)`.
    pub fn add_rms_norm(&self, residual: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        norm(Kind::Rms, self, Some(residual), weight, None, eps, 0.0).map(pair)
    }

    /// [`Tensor::add_layer_norm`] of what [`Tensor::dropout`] with probability `p` leaves of `self`: the end of a
    /// transformer's branch, in one kernel. It draws the random bits that the dropout alone would.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `0 <= p < 1`, and those of [`Tensor::layer_norm`].
    pub fn dropout_add_layer_norm(
        &self,
        p: f64,
        residual: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<(Tensor, Tensor)> {
        check_probability("dropout_add_layer_norm", p)?;
        norm(Kind::Layer, self, Some(residual), weight, bias, eps, p).map(pair)
    }

    /// [`Tensor::add_rms_norm`] of what [`Tensor::dropout`] with probability `p` leaves of `self`, as
    /// [`Tensor::dropout_add_layer_norm`].
    pub fn dropout_add_rms_norm(
        &self,
        p: f64,
        residual: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<(Tensor, Tensor)> {
        check_probability("dropout_add_rms_norm", p)?;
        norm(Kind::Rms, self, Some(residual), weight, None, eps, p).map(pair)
    }
}
