//! Matrix products with fused epilogues: `matmul` and `linear`.
//!
//! One product serves all: `d = activation(a b + bias) + residual`, with operands read in place through
//! any strides. Its backward is made of the same product with transposed operands, written or added
//! straight into a gradient that already has a place.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use crate::autograd::{Backward, Target};
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply1};
use crate::tensor::Data;
use crate::shape::Dims;
use crate::{D, DType, Error, Result, Shape, Tensor};

/// The function that `linear_activation` applies to its sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// None: the identity.
    #[default]
    Identity,
    /// [`Tensor::gelu`], by tanh.
    Gelu,
    /// [`Tensor::gelu_erf`], exact.
    GeluErf,
    /// [`Tensor::silu`].
    Silu,
}

impl Activation {
    /// As kernels call it, see kernels/activation.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn code(self) -> u32 {
        match self {
            Activation::Identity => 0,
            Activation::Gelu => 1,
            Activation::GeluErf => 2,
            Activation::Silu => 3,
        }
    }

    /// activation(x), for a product that is cut.
    #[cfg(feature = "wgpu")]
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::Identity => Ok(x.clone()),
            Activation::Gelu => x.gelu(),
            Activation::GeluErf => x.gelu_erf(),
            Activation::Silu => x.silu(),
        }
    }

    /// dx = activation'(x) dy
    fn backward(self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        use crate::ops::unary::{Kind, chain};
        match self {
            Activation::Identity => Ok(dy.clone()),
            Activation::Gelu => chain(Kind::Gelu, x, dy),
            Activation::GeluErf => chain(Kind::GeluErf, x, dy),
            Activation::Silu => chain(Kind::Silu, x, dy),
        }
    }
}

/// One product `[B1, B2, M, K] x [B1, B2, K, N]` and what is done with its sums.
pub(crate) struct Product<'a> {
    a: &'a Tensor,
    b: &'a Tensor,
    bias: Option<&'a Tensor>,
    activation: Activation,
    /// Whether the activation's argument is wanted too, for its backward.
    keep_pre: bool,
    residual: Option<&'a Tensor>,
}

impl<'a> Product<'a> {
    fn plain(a: &'a Tensor, b: &'a Tensor) -> Self {
        Product { a, b, bias: None, activation: Activation::Identity, keep_pre: false, residual: None }
    }

    /// The sizes (batch 1, batch 2, M, K, N).
    fn sizes(&self) -> (usize, usize, usize, usize, usize) {
        let (a, b) = (self.a.dims(), self.b.dims());
        (a[0], a[1], a[2], a[3], b[3])
    }
}

/// How the GPUs' kernels read A or B.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
struct Operand {
    /// Of the dimensions 2, 3, 0 and 1.
    strides: [u32; 4],
    /// True if the unit stride, or else the smaller one, is along M or N and not along K.
    across: bool,
    /// The stride that should be 1, and what should be multiples of a line's length if it is.
    unit: usize,
    apart: [usize; 4],
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl Operand {
    /// `outer` and `inner` are the dimensions of M or N, and of K.
    fn new(x: &Tensor, outer: usize, inner: usize) -> Self {
        let (dims, layout) = (x.dims(), x.layout());
        // Nobody steps along a dimension of size 1, whatever its stride.
        let stride = |d: usize| if dims[d] == 1 { 0 } else { layout.strides[d] };
        let across = match (stride(outer), stride(inner)) {
            (_, 1) => false,
            (1, _) => true,
            (outer, inner) => outer < inner,
        };
        let (unit, other) = if across { (outer, inner) } else { (inner, outer) };
        Operand {
            strides: [2, 3, 0, 1].map(|d| stride(d) as u32),
            across,
            unit: stride(unit),
            apart: [dims[unit], stride(other), stride(0), stride(1)],
        }
    }

    /// True if it may be read `line` elements at a time along its unit stride, wherever it starts: that is the caller's
    /// to look at.
    fn in_lines_of(&self, line: usize) -> bool {
        self.unit == 1 && self.apart.iter().all(|x| x.is_multiple_of(line))
    }
}

/// Inputs `[a, b, bias?, residual?]`: a `[B1, B2, M, K]`, b `[B1, B2, K, N]` (or, transposed,
/// `[B1, B2, N, K]`), bias `[N]`, residual `[B1, B2, M, N]`. Of one batch, b may be two-dimensional: a
/// weight comes as it is, without a view in the graph that would hide its gradient's place.
#[derive(Clone, Copy)]
struct Matmul {
    name: &'static str,
    transposed: bool,
    bias: bool,
    activation: Activation,
    residual: bool,
}

impl Matmul {
    fn product<'a>(&self, x: &'a [Tensor], b: &'a Tensor) -> Product<'a> {
        let residual = 2 + usize::from(self.bias);
        Product {
            a: &x[0],
            b,
            bias: self.bias.then(|| &x[2]),
            activation: self.activation,
            keep_pre: self.activation != Activation::Identity,
            residual: self.residual.then(|| &x[residual]),
        }
    }

    fn b(&self, x: &[Tensor]) -> Result<Tensor> {
        let b = to_rank4(&x[1])?;
        if self.transposed { b.t() } else { Ok(b) }
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let b = self.b(x)?;
        cpu::product(&self.product(x, &b))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let b = self.b(x)?;
        cuda::product(device, &self.product(x, &b))
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let b = self.b(x)?;
        wgpu::product(device, &self.product(x, &b))
    }

    fn saves(&self) -> Option<Saves> {
        Some(match self.activation {
            Activation::Identity => Saves::inputs(&[0, 1]),
            // Output 1 is the activation's argument.
            _ => Saves { inputs: &[0, 1], outputs: &[1] },
        })
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.grad(0)?;
        let dsum = match self.activation {
            Activation::Identity => dy.clone(),
            activation => activation.backward(ctx.output(1)?, &dy)?,
        };
        let (a, b) = (ctx.input(0)?, to_rank4(ctx.input(1)?)?);
        let mut grads = vec![None, None];
        if ctx.needs(0) {
            let b_t = if self.transposed { b } else { b.t()? };
            grads[0] = Some(product_into(&dsum, &b_t, ctx.target(0))?);
        }
        if ctx.needs(1) {
            let db = match self.transposed {
                true => product_into(&dsum.t()?, a, ctx.target(1))?,
                false => product_into(&a.t()?, &dsum, ctx.target(1))?,
            };
            grads[1] = Some(db.reshape(ctx.input_shape(1))?);
        }
        if self.bias {
            let sum = || dsum.sum_to_as(ctx.input_shape(2), ctx.grad_dtype(2));
            let dbias = ctx.needs(2).then(sum).transpose()?;
            grads.push(dbias);
        }
        if self.residual {
            grads.push(Some(dy));
        }
        Ok(grads)
    }
}

/// `a b`, into the gradient's place if there is one that kernels can write: in the dtype that they compute in, or f32.
fn product_into(a: &Tensor, b: &Tensor, target: Option<&Target>) -> Result<Tensor> {
    let compute = a.device().compute_dtype(a.dtype());
    match target {
        Some(target) if a.dtype() == b.dtype() && [compute, DType::F32].contains(&target.grad.dtype()) => {
            let (a, b) = (a.to_dtype(compute)?, b.to_dtype(compute)?);
            let product = Product::plain(&a, &b);
            match &target.grad.storage().data {
                Data::Cpu(_) => cpu::accumulate(&product, &target.grad, target.add)?,
                #[cfg(feature = "cuda")]
                Data::Cuda { device, .. } => cuda::accumulate(device, &product, &target.grad, target.add)?,
                #[cfg(feature = "wgpu")]
                Data::Wgpu { device, .. } => wgpu::accumulate(device, &product, &target.grad, target.add)?,
            }
            Ok(target.grad.clone())
        }
        _ => {
            let op = Matmul {
                name: "matmul",
                transposed: false,
                bias: false,
                activation: Activation::Identity,
                residual: false,
            };
            apply1(op, &[a, b])
        }
    }
}

/// The product of two matrices, of a dtype that their device computes in, to the place of a gradient of that dtype.
pub(crate) fn product_to(a: &Tensor, b: &Tensor, target: &Target) -> Result<()> {
    product_into(&to_rank4(a)?, &to_rank4(b)?, Some(target)).map(drop)
}

/// With leading dimensions of size 1, or with the leading dimensions joined, so that there are four.
fn to_rank4(x: &Tensor) -> Result<Tensor> {
    let dims = x.dims();
    match dims.len() {
        4 => Ok(x.clone()),
        0..4 => {
            let ones = std::iter::repeat_n(1, 4 - dims.len());
            x.reshape(ones.chain(dims.iter().copied()).collect::<Dims>())
        }
        n => x.flatten(0, n - 4),
    }
}

pub(crate) fn check_float(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    let dtype = tensors[0].dtype();
    if !dtype.is_float() || tensors.iter().any(|t| t.dtype() != dtype) {
        let dtypes: Vec<_> = tensors.iter().map(|t| t.dtype()).collect();
        return Err(Error::dtype(op, &dtypes, "floats of one dtype are needed"));
    }
    Ok(())
}

impl Tensor {
    /// The matrix product of the last two dimensions, `[.., M, K] x [.., K, N] -> [.., M, N]`; the
    /// dimensions before them broadcast. Sums are accumulated in f32 (f64 for f64), transposed
    /// operands are read in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if a tensor has fewer than 2 dimensions or the inner sizes differ,
    /// [`Error::DType`] unless both are floats of one dtype.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        let op = "matmul";
        let mismatch = |reason: &str| Err(Error::shape(op, &[self.shape(), other.shape()], reason));
        if self.rank() < 2 || other.rank() < 2 {
            return mismatch("two dimensions are needed at least");
        }
        let (m, k) = (self.dim(D::Minus2)?, self.dim(D::Minus1)?);
        let n = other.dim(D::Minus1)?;
        if other.dim(D::Minus2)? != k {
            return mismatch("the last size of the first must be the last but one of the second");
        }
        check_float(op, &[self, other])?;
        let plain = Matmul {
            name: op,
            transposed: false,
            bias: false,
            activation: Activation::Identity,
            residual: false,
        };
        if other.rank() == 2 {
            let rows = self.reshape((rows(self), k))?;
            let mut shape = self.dims().to_vec();
            *shape.last_mut().expect("rank is 2 at least") = n;
            return apply1(plain, &[&to_rank4(&rows)?, other])?.reshape(shape);
        }
        let batch = |t: &Tensor| Shape::from(&t.dims()[..t.rank() - 2]);
        let batch = batch(self).broadcast(&batch(other), op)?;
        let with = |a, b| [batch.dims(), &[a, b]].concat();
        let (a, b) = (self.broadcast_as(with(m, k))?, other.broadcast_as(with(k, n))?);
        apply1(plain, &[&to_rank4(&a)?, &to_rank4(&b)?])?.reshape(with(m, n))
    }

    /// `x w^T + bias` over the last dimension: `[.., K] -> [.., N]` with w `[N, K]`, as PyTorch's
    /// `linear` has it, and bias `[N]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes differ, [`Error::DType`] unless all are floats of one dtype.
    pub fn linear(&self, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.linear_fused("linear", w, bias, Activation::Identity, None)
    }

    /// `activation(x w^T + bias)` in one kernel; see [`Tensor::linear`].
    pub fn linear_activation(
        &self,
        w: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        self.linear_fused("linear_activation", w, bias, activation, None)
    }

    /// `x w^T + bias + residual` in one kernel, residual `[.., N]`; see [`Tensor::linear`].
    pub fn linear_residual(&self, w: &Tensor, bias: Option<&Tensor>, residual: &Tensor) -> Result<Tensor> {
        self.linear_fused("linear_residual", w, bias, Activation::Identity, Some(residual))
    }

    fn linear_fused(
        &self,
        name: &'static str,
        w: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mismatch = |reason: &str, other: &Tensor| {
            Err(Error::shape(name, &[self.shape(), w.shape(), other.shape()], reason))
        };
        let (Some(&k), [n, w_k]) = (self.dims().last(), w.dims()) else {
            return mismatch("x needs a dimension and w two", w);
        };
        let n = *n;
        if *w_k != k {
            return mismatch("the last size of x must be the last of w", w);
        }
        let mut shape = self.dims().to_vec();
        *shape.last_mut().expect("x has a dimension") = n;
        let rows = rows(self);
        let mut inputs = vec![to_rank4(&self.reshape((rows, k))?)?, w.clone()];
        if let Some(bias) = bias {
            if bias.dims() != [n] {
                return mismatch("bias must have one element for each row of w", bias);
            }
            inputs.push(bias.clone());
        }
        if let Some(residual) = residual {
            if residual.dims() != shape {
                return mismatch("the residual must have the shape of the result", residual);
            }
            inputs.push(to_rank4(&residual.reshape((rows, n))?)?);
        }
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        check_float(name, &inputs)?;
        let (bias, residual) = (bias.is_some(), residual.is_some());
        apply1(Matmul { name, transposed: true, bias, activation, residual }, &inputs)?.reshape(shape)
    }
}

/// The product of all sizes but the last.
fn rows(x: &Tensor) -> usize {
    x.dims()[..x.rank() - 1].iter().product()
}
