//! The small floats: f16 and bf16 with arithmetic on one and on packed two (section 9.7.4), tf32 and the
//! 8-bit e4m3 and e5m2 as formats to convert from and to (section 9.7.9.21).
//!
//! Sums, products and fused products of f16 and bf16 are computed in f32 and rounded once more. This is one
//! rounding in effect: f32 has more than twice the bits and two, so that sums and products of two cannot
//! come near a midpoint unseen, and for `fma` the intermediate sum is rounded to odd.

use super::{Round, approx, float};

/// The NaN that f16 and bf16 instructions return; for both formats it is 0x7fff.
pub const NAN: u16 = 0x7fff;

/// f16 and bf16, in 16 bits.
pub trait Half: Copy {
    /// The bits of positive infinity; as an exponent of ones it also tells subnormal numbers.
    const INFINITY: u16;

    /// The same number in f32; of a NaN the payload.
    fn widen(x: u16) -> f32;

    /// The nearest number, ties to even; any NaN is [`NAN`].
    fn narrow(x: f32) -> u16;

    /// a b + c as an f32 rounded to odd.
    fn fma(a: u16, b: u16, c: u16) -> f32;

    /// A number in a rounding mode; any NaN is [`NAN`].
    #[inline(always)]
    fn narrow_toward(x: f32, round: Round) -> u16 {
        let nearest = Self::narrow(x);
        let back = Self::widen(nearest);
        let step = match round {
            Round::Nearest => 0,
            Round::Zero => -((back.abs() > x.abs()) as i16),
            Round::Down => (back > x) as i16 * if x < 0.0 { 1 } else { -1 },
            Round::Up => (back < x) as i16 * if x < 0.0 { -1 } else { 1 },
        };
        nearest.wrapping_add_signed(step)
    }
}

/// IEEE half precision.
#[derive(Clone, Copy, Debug)]
pub struct F16;

/// The upper half of an f32.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

impl Half for F16 {
    const INFINITY: u16 = 0x7c00;

    #[inline(always)]
    fn widen(x: u16) -> f32 {
        let sign = (x as u32 & 0x8000) << 16;
        let magnitude = (x as u32 & 0x7fff) << 13;
        // Read as an f32 the exponent is 112 too small; the product is exact, of subnormal numbers too.
        let scaled = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
        let special = magnitude | 0x7f80_0000;
        f32::from_bits(sign | if magnitude >= 0x7c00 << 13 { special } else { scaled })
    }

    #[inline(always)]
    fn narrow(x: f32) -> u16 {
        let bits = x.to_bits();
        let (sign, magnitude) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
        // Half of the last kept bit, less one where that bit is even: a tie carries only into odd ones.
        let rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
        let normal = (rounded.wrapping_sub(112 << 23) >> 13) as u16;
        // The last bit of 0.5 in f32 weighs 2^-24, as that of a subnormal f16: the addition rounds.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits()) as u16;
        let finite = if magnitude < 113 << 23 { subnormal } else { normal };
        let number = if magnitude >= 0x477f_f000 { Self::INFINITY } else { finite };
        if x.is_nan() { NAN } else { sign | number }
    }

    #[inline(always)]
    fn fma(a: u16, b: u16, c: u16) -> f32 {
        // 22 bits: the product is exact, and the error of the sum is too.
        let (product, c) = (Self::widen(a) * Self::widen(b), Self::widen(c));
        let sum = product + c;
        let part = sum - product;
        let error = (product - (sum - part)) + (c - part);
        let bits = sum.to_bits();
        let inexact = error.abs() > 0.0;
        let step = if (error > 0.0) == (sum > 0.0) { 1 } else { -1 };
        f32::from_bits(if inexact && bits & 1 == 0 { bits.wrapping_add_signed(step) } else { bits })
    }
}

impl Half for Bf16 {
    const INFINITY: u16 = 0x7f80;

    #[inline(always)]
    fn widen(x: u16) -> f32 {
        f32::from_bits((x as u32) << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> u16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        if x.is_nan() { NAN } else { (rounded >> 16) as u16 }
    }

    #[inline(always)]
    fn fma(a: u16, b: u16, c: u16) -> f32 {
        // The product may be beyond f32's range, though not the sum.
        let product = Self::widen(a) as f64 * Self::widen(b) as f64;
        let (sum, error) = float::two_sum(product, Self::widen(c).into());
        let odd = float::to_odd(sum, error);
        let down = float::narrow(odd, Round::Zero);
        let inexact = down as f64 != odd;
        f32::from_bits(down.to_bits() | inexact as u32)
    }
}

/// The modifiers of arithmetic on f16 and bf16, which always rounds to nearest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modifiers {
    /// `.ftz`: subnormal operands and results become zeros of their sign.
    pub ftz: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN to 0.
    pub sat: bool,
    /// `.relu`: a negative result becomes +0.
    pub relu: bool,
}

/// `.ftz` on one number.
#[inline(always)]
pub fn flush<H: Half>(x: u16) -> u16 {
    if x & H::INFINITY == 0 { x & 0x8000 } else { x }
}

/// `.relu` on an f32: negative numbers and -0 become +0, NaN stays.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn operand<H: Half>(x: u16, m: Modifiers) -> u16 {
    if m.ftz { flush::<H>(x) } else { x }
}

#[inline(always)]
fn result<H: Half>(x: f32, m: Modifiers) -> u16 {
    let x = if m.sat { float::saturate(x) } else { x };
    let x = H::narrow(if m.relu { relu(x) } else { x });
    if m.ftz { flush::<H>(x) } else { x }
}

/// `add`
#[inline(always)]
pub fn add<H: Half>(a: u16, b: u16, m: Modifiers) -> u16 {
    result::<H>(H::widen(operand::<H>(a, m)) + H::widen(operand::<H>(b, m)), m)
}

/// `sub`
#[inline(always)]
pub fn sub<H: Half>(a: u16, b: u16, m: Modifiers) -> u16 {
    result::<H>(H::widen(operand::<H>(a, m)) - H::widen(operand::<H>(b, m)), m)
}

/// `mul`
#[inline(always)]
pub fn mul<H: Half>(a: u16, b: u16, m: Modifiers) -> u16 {
    result::<H>(H::widen(operand::<H>(a, m)) * H::widen(operand::<H>(b, m)), m)
}

/// `fma`: a b + c, rounded once
#[inline(always)]
pub fn fma<H: Half>(a: u16, b: u16, c: u16, m: Modifiers) -> u16 {
    result::<H>(H::fma(operand::<H>(a, m), operand::<H>(b, m), operand::<H>(c, m)), m)
}

/// `abs`. Unlike that of f32 it makes any NaN canonical, as `neg` does. (The ISA leaves NaN open; this and
/// [`abs_x2`] are what ptxas 13.0 folds them to.)
#[inline(always)]
pub fn abs<H: Half>(x: u16, ftz: bool) -> u16 {
    let x = if ftz { flush::<H>(x) } else { x } & 0x7fff;
    if x > H::INFINITY { NAN } else { x }
}

/// `neg`
#[inline(always)]
pub fn neg<H: Half>(x: u16, ftz: bool) -> u16 {
    let x = if ftz { flush::<H>(x) } else { x };
    if x & 0x7fff > H::INFINITY { NAN } else { x ^ 0x8000 }
}

/// The modifiers of `min` and `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extreme {
    pub ftz: bool,
    /// `.NaN`: NaN wins over a number.
    pub nan: bool,
    /// `.xorsign.abs`: of the magnitudes, with the exclusive or of the signs.
    pub xorsign_abs: bool,
}

#[inline(always)]
fn extreme<H: Half>(a: u16, b: u16, m: Extreme, choose: impl Fn(f32, f32) -> f32) -> u16 {
    let [a, b] = [a, b].map(|x| if m.ftz { flush::<H>(x) } else { x }).map(H::widen);
    // The upper bits of what was chosen are one of the operands, so narrowing it is exact.
    H::narrow(if m.xorsign_abs { float::xorsign_abs(a, b, choose) } else { choose(a, b) })
}

/// `min`: -0 is less than +0; a number wins over NaN, unless `.NaN` is given.
#[inline(always)]
pub fn min<H: Half>(a: u16, b: u16, m: Extreme) -> u16 {
    extreme::<H>(a, b, m, |a, b| float::min(a, b, m.nan))
}

/// `max`: +0 is greater than -0; a number wins over NaN, unless `.NaN` is given.
#[inline(always)]
pub fn max<H: Half>(a: u16, b: u16, m: Extreme) -> u16 {
    extreme::<H>(a, b, m, |a, b| float::max(a, b, m.nan))
}

/// `ex2.approx`: [`approx::ex2`], rounded. Flushes with `.ftz` (which bf16 always has).
#[inline(always)]
pub fn ex2<H: Half>(x: u16, ftz: bool) -> u16 {
    let m = Modifiers { ftz, ..Modifiers::default() };
    result::<H>(approx::ex2(H::widen(operand::<H>(x, m)), false), m)
}

/// `tanh.approx`: [`approx::tanh`], rounded.
#[inline(always)]
pub fn tanh<H: Half>(x: u16) -> u16 {
    H::narrow(approx::tanh(H::widen(x)))
}

/// The two halves of a register, lower first.
#[inline(always)]
pub fn unpack(x: u32) -> [u16; 2] {
    [x as u16, (x >> 16) as u16]
}

/// A register of two halves, lower first.
#[inline(always)]
pub fn pack([low, high]: [u16; 2]) -> u32 {
    low as u32 | (high as u32) << 16
}

macro_rules! packed {
    ($($packed:ident: $single:ident($($operand:ident),*; $modifier:ident: $type:ty)),* $(,)?) => {
        $(
            #[doc = concat!("[`", stringify!($single), "`] on both halves of a register")]
            #[inline(always)]
            pub fn $packed<H: Half>($($operand: u32,)* $modifier: $type) -> u32 {
                let low = $single::<H>($($operand as u16,)* $modifier);
                let high = $single::<H>($(($operand >> 16) as u16,)* $modifier);
                pack([low, high])
            }
        )*
    };
}

packed! {
    add_x2: add(a, b; m: Modifiers),
    sub_x2: sub(a, b; m: Modifiers),
    mul_x2: mul(a, b; m: Modifiers),
    fma_x2: fma(a, b, c; m: Modifiers),
    min_x2: min(a, b; m: Extreme),
    max_x2: max(a, b; m: Extreme),
    ex2_x2: ex2(x; ftz: bool),
}

/// `abs` of two halves; it clears signs, of NaN too
#[inline(always)]
pub fn abs_x2<H: Half>(x: u32, ftz: bool) -> u32 {
    let x = if ftz { pack(unpack(x).map(flush::<H>)) } else { x };
    x & 0x7fff_7fff
}

/// `neg` of two halves; it turns signs, of NaN too
#[inline(always)]
pub fn neg_x2<H: Half>(x: u32, ftz: bool) -> u32 {
    let x = if ftz { pack(unpack(x).map(flush::<H>)) } else { x };
    x ^ 0x8000_8000
}

/// `tanh` on both halves of a register
#[inline(always)]
pub fn tanh_x2<H: Half>(x: u32) -> u32 {
    pack(unpack(x).map(tanh::<H>))
}

/// `cvt.rna.tf32.f32`: to 10 stored bits, ties away from zero. The lower 13 bits of the result are 0; NaN keeps
/// its upper bits and is made quiet.
#[inline(always)]
pub fn tf32_rna(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = if x.is_nan() { bits | 1 << 22 } else { bits.wrapping_add(0x1000) };
    f32::from_bits(rounded & !0x1fff)
}

/// What a tensor core reads of an f32 that is taken for tf32: the lower 13 bits do not count.
#[inline(always)]
pub fn truncate_tf32(x: u32) -> f32 {
    f32::from_bits(x & !0x1fff)
}

/// An e5m2 in f32: the upper byte of an f16.
#[inline(always)]
pub fn widen_e5m2(x: u8) -> f32 {
    F16::widen((x as u16) << 8)
}

/// An e4m3 in f32. There are no infinities; all ones are NaN.
#[inline(always)]
pub fn widen_e4m3(x: u8) -> f32 {
    let sign = (x as u32 & 0x80) << 24;
    let scaled = f32::from_bits((x as u32 & 0x7f) << 20) * f32::from_bits((127 + 120) << 23);
    let special = f32::from_bits(float::NAN_F32);
    f32::from_bits(sign | (if x & 0x7f == 0x7f { special } else { scaled }).to_bits())
}
