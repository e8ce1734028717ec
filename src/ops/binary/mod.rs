//! Elementwise functions of two tensors, with broadcasting, and accumulation in place.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use crate::autograd::Backward;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply1};
use crate::tensor::Data;
use crate::{DType, Error, Result, Tensor};

/// Which function. The numbers are those of kernels/binary/binary.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Add = 0,
    Sub = 1,
    Mul = 2,
    Div = 3,
    Maximum = 4,
    Minimum = 5,
}

/// A comparison, whose result is 1 or 0 in u32. Kernels number them after the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Eq = 0,
    Ne = 1,
    Lt = 2,
    Le = 3,
    Gt = 4,
    Ge = 5,
}

/// `y = f(a, b)` over views of one shape.
struct Binary(Kind);

impl Op for Binary {
    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Add => "add",
            Kind::Sub => "sub",
            Kind::Mul => "mul",
            Kind::Div => "div",
            Kind::Maximum => "maximum",
            Kind::Minimum => "minimum",
        }
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::binary(self.0, &x[0], &x[1])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::binary(device, self.0, &x[0], &x[1])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::binary(device, self.0, &x[0], &x[1])
    }

    fn saves(&self) -> Option<Saves> {
        Some(match self.0 {
            Kind::Add | Kind::Sub => Saves::NOTHING,
            _ => Saves::inputs(&[0, 1]),
        })
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.grad(0)?;
        let wanted = |i: usize, f: &dyn Fn() -> Result<Tensor>| ctx.needs(i).then(f).transpose();
        let (a, b) = (|| ctx.input(0), || ctx.input(1));
        Ok(match self.0 {
            Kind::Add => vec![Some(dy.clone()), Some(dy)],
            Kind::Sub => vec![Some(dy.clone()), wanted(1, &|| dy.neg())?],
            Kind::Mul => vec![wanted(0, &|| dy.mul(b()?))?, wanted(1, &|| dy.mul(a()?))?],
            Kind::Div => {
                vec![wanted(0, &|| dy.div(b()?))?, wanted(1, &|| dy.mul(a()?)?.div(&b()?.sqr()?)?.neg())?]
            }
            Kind::Maximum | Kind::Minimum => {
                // Where both are equal the gradient goes to the first.
                let first = if self.0 == Kind::Maximum { a()?.ge(b()?)? } else { a()?.le(b()?)? };
                let zero = dy.zeros_like()?;
                vec![
                    wanted(0, &|| first.where_cond(&dy, &zero))?,
                    wanted(1, &|| first.where_cond(&zero, &dy))?,
                ]
            }
        })
    }
}

struct Compare(Comparison);

impl Op for Compare {
    fn name(&self) -> &'static str {
        match self.0 {
            Comparison::Eq => "eq",
            Comparison::Ne => "ne",
            Comparison::Lt => "lt",
            Comparison::Le => "le",
            Comparison::Gt => "gt",
            Comparison::Ge => "ge",
        }
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::compare(self.0, &x[0], &x[1])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::compare(device, self.0, &x[0], &x[1])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::compare(device, self.0, &x[0], &x[1])
    }
}

/// Both operands broadcast to their common shape.
fn broadcast(op: &'static str, a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    if a.dtype() != b.dtype() {
        let reason = "the dtypes must agree; convert one with to_dtype";
        return Err(Error::dtype(op, &[a.dtype(), b.dtype()], reason));
    }
    let shape = a.shape().broadcast(b.shape(), op)?;
    Ok((a.broadcast_as(&shape)?, b.broadcast_as(&shape)?))
}

fn binary(a: &Tensor, b: &Tensor, kind: Kind) -> Result<Tensor> {
    let op = Binary(kind);
    let (a, b) = broadcast(op.name(), a, b)?;
    if !a.dtype().is_float() {
        return Err(Error::dtype(op.name(), &[a.dtype()], "float tensors are needed"));
    }
    apply1(op, &[&a, &b])
}

fn compare(a: &Tensor, b: &Tensor, comparison: Comparison) -> Result<Tensor> {
    let op = Compare(comparison);
    // A comparison is a step function: there is no gradient to lose.
    let (a, b) = broadcast(op.name(), &a.detach(), &b.detach())?;
    let mask = apply1(op, &[&a, &b])?;
    *mask.storage().ids.lock() = Some(crate::tensor::IdRange::below(2));
    Ok(mask)
}

macro_rules! methods {
    ($run:ident, $enum:ident: $($(#[$doc:meta])* $name:ident = $kind:ident;)*) => {
        impl Tensor {
            $($(#[$doc])* pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
                $run(self, other, $enum::$kind)
            })*
        }
    };
}

methods! { binary, Kind:
    /// Elementwise sum. Shapes broadcast as in NumPy; dtypes must agree.
    add = Add;
    /// Elementwise difference, with broadcasting.
    sub = Sub;
    /// Elementwise product, with broadcasting.
    mul = Mul;
    /// Elementwise quotient, with broadcasting.
    div = Div;
    /// The larger of two elements, with broadcasting; where they are equal the gradient goes to `self`.
    maximum = Maximum;
    /// The smaller of two elements, with broadcasting; where they are equal the gradient goes to `self`.
    minimum = Minimum;
}

methods! { compare, Comparison:
    /// 1 where equal, else 0, as u32, with broadcasting. Comparisons have no gradient.
    eq = Eq;
    /// 1 where not equal, else 0; see [`Tensor::eq`].
    ne = Ne;
    /// 1 where less, else 0; see [`Tensor::eq`].
    lt = Lt;
    /// 1 where less or equal, else 0; see [`Tensor::eq`].
    le = Le;
    /// 1 where greater, else 0; see [`Tensor::eq`].
    gt = Gt;
    /// 1 where greater or equal, else 0; see [`Tensor::eq`].
    ge = Ge;
}

impl Tensor {
    /// Adds `other` into this tensor's memory, and so into every view of it.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`] or [`Error::DeviceMismatch`] unless both agree.
    pub fn add_assign(&self, other: &Tensor) -> Result<()> {
        if other.shape() != self.shape() {
            return Err(Error::shape("add_assign", &[self.shape(), other.shape()], "the shapes must be equal"));
        }
        if other.dtype() != self.dtype() {
            return Err(Error::dtype("add_assign", &[self.dtype(), other.dtype()], "the dtypes must agree"));
        }
        if other.device() != self.device() {
            let (left, right) = (self.device().to_string(), other.device().to_string());
            return Err(Error::DeviceMismatch { op: "add_assign", left, right });
        }
        let native = self.device().compute_dtype(self.dtype()) == self.dtype() && self.dtype() != DType::U32;
        if !native || other.same_storage(self) {
            return self.assign(&self.detach().add(&other.detach())?);
        }
        match &self.storage().data {
            Data::Cpu(_) => cpu::add_assign(self, other),
            #[cfg(feature = "cuda")]
            Data::Cuda { device, .. } => cuda::add_assign(device, self, other),
            #[cfg(feature = "wgpu")]
            Data::Wgpu { device, .. } => wgpu::add_assign(device, self, other),
        }
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $mul:expr, $add:expr;)*) => {$(
        impl std::ops::$trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                Tensor::$method(self, other)
            }
        }

        impl std::ops::$trait<f64> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, scalar: f64) -> Result<Tensor> {
                self.affine($mul(scalar), $add(scalar))
            }
        }
    )*};
}

operators! {
    Add add |_| 1.0, |s: f64| s;
    Sub sub |_| 1.0, |s: f64| -s;
    Mul mul |s: f64| s, |_| 0.0;
    Div div |s: f64| 1.0 / s, |_| 0.0;
}
