//! What PTX instructions compute, as pure functions of their operands.
//!
//! - [`int`]: the integer instructions that Rust has no operator for.
//! - [`float`]: f32 and f64 in every rounding mode, with `.ftz` and `.sat`.
//! - [`half`]: f16, bf16, tf32 and the 8-bit floats; packed arithmetic.
//! - [`approx`]: the `.approx` functions.
//! - [`convert`]: `cvt` between all types.
//! - [`mma`]: the warp's matrix instructions on whole fragments.
//! - [`exact`]: exact intermediate results and their rounding, on which the rare cases of the above rest.
//!
//! The same operands give the same bits on every host. Scalar functions are inlined always and choose
//! by selecting rather than by branching, so that a loop over a warp's lanes becomes vector code of the
//! instruction set of its caller; modifiers are arguments, meant to be constants there.
//!
//! Section numbers are those of the PTX ISA 9.0.

pub mod approx;
pub mod convert;
pub mod exact;
pub mod float;
pub mod half;
pub mod int;
pub mod mma;

/// A rounding modifier: `.rn`, `.rz`, `.rm`, `.rp`, and for roundings to integers `.rni` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the nearest value, ties to the even one.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards negative infinity.
    Down,
    /// Towards positive infinity.
    Up,
}

/// The modifiers of floating-point arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    pub round: Round,
    /// `.ftz`: subnormal operands and results become zeros of their sign. f32 and f16 only.
    pub ftz: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN to 0. f32 and f16 only.
    pub sat: bool,
}

#[cfg(test)]
mod tests;
