//! Element types.

use std::fmt;

use bytemuck::Pod;
use half::{bf16, f16};

/// The type of a tensor's elements.
///
/// `F16` and `BF16` are storage types: every kernel loads them into f32, computes there and rounds
/// once when it stores. `F64` lives on the CPU only, where it is the reference that every other
/// type is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 64 bits; CPU only.
    F64,
    /// 32 bits.
    F32,
    /// IEEE 754 half precision: 5 bits of exponent, 10 of mantissa.
    F16,
    /// The upper half of an f32: 8 bits of exponent, 7 of mantissa.
    BF16,
    /// Ids, indices and the 0/1 masks of comparisons.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// True for every type that can carry a gradient.
    pub const fn is_float(self) -> bool {
        !matches!(self, DType::U32)
    }

    /// As it is written in Rust: `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::U32 => "u32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f64 {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for u32 {}
}

/// A Rust type that is some [`DType`]'s element.
pub trait Element: Pod + Send + Sync + fmt::Debug + PartialOrd + sealed::Sealed {
    /// The dtype of this type.
    const DTYPE: DType;
    /// Widens to f64; exact for every element type.
    fn to_f64(self) -> f64;
    /// Rounds to nearest, ties to even; to `u32` it truncates and saturates.
    fn from_f64(x: f64) -> Self;
}

macro_rules! element {
    ($t:ty, $dtype:ident, $to:expr, $from:expr) => {
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to(self)
            }
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                $from(x)
            }
        }
    };
}

element!(f64, F64, |x| x, |x| x);
element!(f32, F32, |x: f32| x as f64, |x: f64| x as f32);
element!(f16, F16, f16::to_f64, f16::from_f64);
element!(bf16, BF16, bf16::to_f64, bf16::from_f64);
element!(u32, U32, |x: u32| x as f64, |x: f64| x as u32);
