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

/// The f32 towards zero, with its last bit set if that is not `x` itself: rounding it once more, to 22 bits or fewer, gives
/// what rounding `x` would have given (Boldo and Melquiond, "When double rounding is odd", 2004).
#[inline(always)]
fn round_to_odd(x: f64) -> f32 {
    let near = x as f32;
    if near as f64 == x || !near.is_finite() {
        return near;
    }
    let away = (near as f64).abs() > x.abs();
    f32::from_bits((near.to_bits() - u32::from(away)) | 1)
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
// half's own conversions from f64 look at the upper 32 bits of it only, and take some numbers for halfway that are not.
element!(f16, F16, f16::to_f64, |x| f16::from_f32(round_to_odd(x)));
element!(bf16, BF16, bf16::to_f64, |x| bf16::from_f32(round_to_odd(x)));
element!(u32, U32, |x: u32| x as f64, |x: f64| x as u32);

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`Element::from_f64`] makes of the middle of two neighbours, and of what is a little off it.
    #[test]
    fn sixteen_bits_are_rounded_to_nearest_ties_to_even() {
        fn check<T: Element>(of_bits: fn(u16) -> T) {
            for bits in 0..0x7BFF {
                let (low, high) = (of_bits(bits), of_bits(bits + 1));
                let even = if bits % 2 == 0 { low } else { high };
                let middle = (low.to_f64() + high.to_f64()) / 2.0;
                // Off by less than the upper 32 bits of an f64 show, and by less than an f32 shows.
                for off in [2f64.powi(-21), 2f64.powi(-40)] {
                    for sign in [1.0, -1.0] {
                        let round = |x: f64| T::from_f64(sign * x).to_f64() * sign;
                        assert_eq!(round(middle), even.to_f64(), "{bits:#x}");
                        assert_eq!(round(middle * (1.0 + off)), high.to_f64(), "{bits:#x} + {off}");
                        assert_eq!(round(middle * (1.0 - off)), low.to_f64(), "{bits:#x} - {off}");
                    }
                }
            }
            assert_eq!(T::from_f64(f64::MAX).to_f64(), f64::INFINITY);
            assert!(T::from_f64(f64::NAN).to_f64().is_nan());
        }
        check(f16::from_bits);
        check(bf16::from_bits);
    }
}
