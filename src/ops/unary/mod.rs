//! Elementwise functions of one tensor.

pub(crate) mod activation;
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
use crate::{Error, Result, Tensor};

/// Which function. The numbers are those of kernels/unary/functions.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Affine = 0,
    Abs = 1,
    Exp = 2,
    Log = 3,
    Sin = 4,
    Cos = 5,
    Tanh = 6,
    Sqrt = 7,
    Sqr = 8,
    Recip = 9,
    Relu = 10,
    Sigmoid = 11,
    Powf = 12,
    Clamp = 13,
    Gelu = 14,
    GeluErf = 15,
    Silu = 16,
    Erf = 17,
}

impl Kind {
    #[cfg(all(test, any(feature = "cuda-sim", feature = "wgpu")))]
    const ALL: [Kind; 18] = {
        use Kind::*;
        [
            Affine, Abs, Exp, Log, Sin, Cos, Tanh, Sqrt, Sqr, Recip, Relu, Sigmoid, Powf, Clamp, Gelu, GeluErf, Silu,
            Erf,
        ]
    };

    /// The derivative is a function of the output for some, of the input for others.
    fn saves(self) -> Saves {
        match self {
            Kind::Affine => Saves::NOTHING,
            Kind::Exp | Kind::Tanh | Kind::Sqrt | Kind::Recip | Kind::Sigmoid => Saves::outputs(&[0]),
            _ => Saves::inputs(&[0]),
        }
    }
}

/// `y = f(x)`. `a` and `b` are what the function needs: `a x + b`, `x^a`, `clamp(x, a, b)`.
#[derive(Clone, Copy)]
struct Unary {
    kind: Kind,
    a: f64,
    b: f64,
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Affine => "affine",
            Kind::Abs => "abs",
            Kind::Exp => "exp",
            Kind::Log => "log",
            Kind::Sin => "sin",
            Kind::Cos => "cos",
            Kind::Tanh => "tanh",
            Kind::Sqrt => "sqrt",
            Kind::Sqr => "sqr",
            Kind::Recip => "recip",
            Kind::Relu => "relu",
            Kind::Sigmoid => "sigmoid",
            Kind::Powf => "powf",
            Kind::Clamp => "clamp",
            Kind::Gelu => "gelu",
            Kind::GeluErf => "gelu_erf",
            Kind::Silu => "silu",
            Kind::Erf => "erf",
        }
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::forward(self, &x[0])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::forward(device, self, &x[0])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::forward(device, self, &x[0])
    }

    fn saves(&self) -> Option<Saves> {
        Some(self.kind.saves())
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let saves = self.kind.saves();
        let dy = ctx.grad(0)?;
        let dx = match (saves.inputs, saves.outputs) {
            ([0], _) => apply1(UnaryBackward(*self), &[ctx.input(0)?, &dy])?,
            (_, [0]) => apply1(UnaryBackward(*self), &[ctx.output(0)?, &dy])?,
            _ => dy.affine(self.a, 0.0)?,
        };
        Ok(vec![Some(dx)])
    }
}

/// `dx = f'(v) dy`, where `v` is what [`Kind::saves`] names.
struct UnaryBackward(Unary);

impl Op for UnaryBackward {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cpu::backward(&self.0, &x[0], &x[1])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::backward(device, &self.0, &x[0], &x[1])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::backward(device, &self.0, &x[0], &x[1])
    }
}

/// `f'(v) dy` with what [`Kind::saves`] names for `v`, for ops that have an activation inside.
pub(crate) fn chain(kind: Kind, v: &Tensor, dy: &Tensor) -> Result<Tensor> {
    apply1(UnaryBackward(Unary { kind, a: 0.0, b: 0.0 }), &[v, dy])
}

fn run(x: &Tensor, kind: Kind, a: f64, b: f64) -> Result<Tensor> {
    let op = Unary { kind, a, b };
    if !x.dtype().is_float() {
        return Err(Error::dtype(op.name(), &[x.dtype()], "a float tensor is needed"));
    }
    apply1(op, &[x])
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $kind:ident;)*) => {
        /// Elementwise functions. All take float tensors of any shape and have a gradient.
        impl Tensor {
            $($(#[$doc])* pub fn $name(&self) -> Result<Tensor> {
                run(self, Kind::$kind, 0.0, 0.0)
            })*
        }
    };
}

functions! {
    /// |x|; its gradient at 0 is 0.
    abs = Abs;
    /// e^x
    exp = Exp;
    /// The natural logarithm.
    log = Log;
    /// The sine, of radians.
    sin = Sin;
    /// The cosine, of radians.
    cos = Cos;
    /// The hyperbolic tangent.
    tanh = Tanh;
    /// The square root; NaN for negative x.
    sqrt = Sqrt;
    /// x^2
    sqr = Sqr;
    /// 1 / x
    recip = Recip;
    /// max(x, 0); its gradient at 0 is 0.
    relu = Relu;
    /// 1 / (1 + e^-x)
    sigmoid = Sigmoid;
    /// The error function.
    erf = Erf;
    /// GELU by its tanh approximation, as GPT-2 has it (Hendrycks and Gimpel, 2016, section 2):
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    gelu = Gelu;
    /// GELU exactly: `0.5 x (1 + erf(x / sqrt(2)))`, PyTorch's default.
    gelu_erf = GeluErf;
    /// SiLU, also called swish: `x sigmoid(x)` (Elfwing, Uchibe and Doya, 2017).
    silu = Silu;
}

impl Tensor {
    /// `mul * x + add`
    pub fn affine(&self, mul: f64, add: f64) -> Result<Tensor> {
        run(self, Kind::Affine, mul, add)
    }

    /// -x
    pub fn neg(&self) -> Result<Tensor> {
        self.affine(-1.0, 0.0)
    }

    /// x^exponent, NaN for negative x unless the exponent is an integer.
    pub fn powf(&self, exponent: f64) -> Result<Tensor> {
        run(self, Kind::Powf, exponent, 0.0)
    }

    /// x limited to `[min, max]`; its gradient outside is 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if `min > max` or one is NaN.
    pub fn clamp(&self, min: f64, max: f64) -> Result<Tensor> {
        if min.is_nan() || max.is_nan() || min > max {
            return Err(Error::argument("clamp", "min", format!("({min}) must not exceed max ({max})")));
        }
        run(self, Kind::Clamp, min, max)
    }
}
