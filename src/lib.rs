//! Hand-written, fused kernels for GPTs, forward and backward, behind one tensor API with autograd.
//!
//! - [`Tensor`]: a strided view onto memory of a [`Device`], with elementwise functions, reductions, matrix
//!   products and the fused ops ([`Tensor::attention`], [`Tensor::layer_norm`],
//!   [`Tensor::linear_activation`], [`Tensor::cross_entropy`] ...) as methods.
//! - [`Var`]: a parameter, whose gradient [`Tensor::backward`] accumulates; [`no_grad`] turns recording off.
//!   [`checkpoint`] saves memory: backward repeats a part of forward.
//! - [`optim`]: AdamW in one kernel over all parameters, LAMB, clipping, schedules, loss scaling.
//! - [`op`]: the trait [`op::Op`] by which the built-in ops run, and yours; [`autograd`]: what its
//!   backward sees.
//! - [`device`]: memory and kernels of the CPU and of GPUs through wgpu, for use on their own; [`Device::profile`] times them.
//!
//! Every function returns a [`Result`] with a typed [`Error`] that names the op, shapes, dtypes and
//! devices. Work on a GPU is queued; only reading values back waits.
//!
//! ```
//! use tilewright::{AttentionOptions, D, DType, Device, Tensor, Var};
//!
//! # fn main() -> tilewright::Result<()> {
//! let device = Device::best();
//! device.set_seed(1);
//!
//! // A batch of 2 sequences of 16 tokens, 4 heads of 8 elements: one projection for q, k and v.
//! let x = Tensor::randn(0.0, 1.0, (2, 16, 32), DType::F32, &device)?;
//! let w = Var::new(&Tensor::randn(0.0, 0.2, (96, 32), DType::F32, &device)?)?;
//! let qkv = x.linear(&w, None)?.chunk(3, D::Minus1)?;
//!
//! // Views, no copies: [2, 16, 32] -> [2, 4, 16, 8].
//! let heads = |t: &Tensor| t.reshape((2, 16, 4, 8))?.transpose(1, 2);
//! let causal = AttentionOptions { causal: true, ..Default::default() };
//! let y = heads(&qkv[0])?.attention(&heads(&qkv[1])?, &heads(&qkv[2])?, &causal)?;
//! let y = y.transpose(1, 2)?.reshape((2, 16, 32))?;
//!
//! y.sqr()?.mean_all()?.backward()?;
//! assert_eq!(w.grad().expect("w took part").dims(), [96, 32]);
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

pub mod device;
mod dtype;
mod error;
mod ops;
pub mod random;
mod shape;
mod tensor;

pub mod optim;

pub use device::{Device, MemoryStats};
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use ops::attention::AttentionOptions;
pub use ops::cross_entropy::{CrossEntropyOptions, Reduction};
pub use ops::matmul::Activation;
pub use ops::rotary::RotaryPairs;
pub use shape::{D, Dim, Dims, Layout, MAX_RANK, Shape};
pub use tensor::autograd::{self, is_recording, no_grad};
pub use tensor::{Tensor, Var, checkpoint, op};
