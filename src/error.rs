//! The one error type of the crate.

use crate::{DType, Shape};

/// A result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, with the op, shapes, dtypes and devices involved.
///
/// An error leaves every tensor and device usable, but for [`Error::DeviceLost`], after which the
/// device is gone and answers every further call with the same error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are what the variants' documentation and messages name")]
pub enum Error {
    /// Shapes that do not fit the op or each other.
    #[error("{op}: {reason} (shapes {})", list(shapes))]
    Shape { op: &'static str, shapes: Vec<Shape>, reason: String },

    /// An element type that the op does not take, or types that differ where they must agree.
    #[error("{op}: {reason} (dtypes {})", list(dtypes))]
    DType { op: &'static str, dtypes: Vec<DType>, reason: String },

    /// Operands that live on different devices.
    #[error("{op}: operands are on {left} and on {right}; move one with to_device")]
    DeviceMismatch { op: &'static str, left: String, right: String },

    /// A dimension that the tensor does not have.
    #[error("{op}: dimension {dim} is out of range for shape {shape}")]
    Dim { op: &'static str, dim: isize, shape: Shape },

    /// An index, such as a token id, that is not below its bound.
    #[error("{op}: index {index} is out of range, it must be below {bound}")]
    Index { op: &'static str, index: u64, bound: u64 },

    /// An argument with a value that has no meaning here.
    #[error("{op}: argument `{argument}` {reason}")]
    Argument { op: &'static str, argument: &'static str, reason: String },

    /// The op has no backward and an input requires gradients.
    #[error("{op} has no gradient, and an input requires one; call it on `x.detach()` or inside `no_grad`")]
    NoGradient { op: &'static str },

    /// `backward` cannot run from here.
    #[error("backward: {reason}")]
    Backward { reason: String },

    /// A tensor that backward needs was overwritten after the forward pass.
    #[error("backward of {op}: a tensor saved by the forward pass was modified in place since")]
    ModifiedInPlace { op: &'static str },

    /// More elements or bytes than the device, or its kernels' 32-bit indices, can address.
    #[error("{op}: {size} {unit} are more than the limit of {limit} on {device}")]
    TooLarge { op: &'static str, size: u64, unit: &'static str, limit: u64, device: String },

    /// The device has no kernel for the op, or not what a measurement needs.
    #[error("{op} is not supported on {device}; another device may have it")]
    NotSupported { op: &'static str, device: String },

    /// The device has no memory left for this.
    #[error("out of memory on {device}: {bytes} bytes asked for{hint}")]
    OutOfMemory { device: String, bytes: u64, hint: &'static str },

    /// The device is gone (driver reset, unplugged); make a new one.
    #[error("device lost: {device}: {reason}")]
    DeviceLost { device: String, reason: String },

    /// No device answers the request.
    #[error("no device for {requested}: {reason}")]
    NoDevice { requested: String, reason: String },

    /// A kernel that the device's compiler or validation refuses: a defect of the kernel.
    #[error("kernel {kernel} on {device}: {reason}")]
    Kernel { kernel: &'static str, device: String, reason: String },
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(", ")
}

impl Error {
    /// An [`Error::Shape`].
    pub fn shape(op: &'static str, shapes: &[&Shape], reason: impl Into<String>) -> Self {
        let shapes = shapes.iter().map(|&s| s.clone()).collect();
        Error::Shape { op, shapes, reason: reason.into() }
    }

    /// An [`Error::DType`].
    pub fn dtype(op: &'static str, dtypes: &[DType], reason: impl Into<String>) -> Self {
        Error::DType { op, dtypes: dtypes.to_vec(), reason: reason.into() }
    }

    /// An [`Error::Argument`].
    pub fn argument(op: &'static str, argument: &'static str, reason: impl Into<String>) -> Self {
        Error::Argument { op, argument, reason: reason.into() }
    }

    /// An [`Error::Backward`].
    pub fn backward(reason: impl Into<String>) -> Self {
        Error::Backward { reason: reason.into() }
    }
}
