//! f32 and f64: arithmetic in every rounding mode, minima, tests (section 9.7.3), comparisons (section 9.3.1).
//!
//! f32 in a directed mode is computed in f64, rounded to odd and then once more: with 29 bits to spare the
//! second rounding cannot see that there was a first one (Boldo and Melquiond, 2008). f64 goes to
//! [`exact`](super::exact).
//!
//! What the ISA leaves open is decided so:
//! - f32 results that are NaN are 0x7fffffff. f64 results that are NaN carry the payload of the first NaN
//!   among the operands, made quiet, or are [`NAN_F64`] where an invalid operation made them.
//! - `.ftz` looks at the rounded result: what rounds up to the smallest normal number stays.
//! - `.sat` makes +0 of -0.

use super::exact::{self, Format};
use super::{Mode, Round};

/// The NaN that f32 instructions return.
pub const NAN_F32: u32 = 0x7fff_ffff;
/// The NaN that f64 instructions make.
pub const NAN_F64: u64 = 0xfff8_0000_0000_0000;

/// `.ftz` on one number.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// `.sat` on one number.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    // NaN fails the comparison.
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// `.sat` on one number.
#[inline(always)]
pub fn saturate_f64(x: f64) -> f64 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// Any NaN as [`NAN_F32`].
///
/// It looks at the bits: to LLVM one NaN is as good as another, and it drops a choice between a root and a
/// NaN.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN_F32 } else { bits })
}

#[inline(always)]
fn operand(x: f32, mode: Mode) -> f32 {
    if mode.ftz { flush(x) } else { x }
}

#[inline(always)]
fn result(x: f32, mode: Mode) -> f32 {
    let x = if mode.sat { saturate(x) } else { canonical(x) };
    if mode.ftz { flush(x) } else { x }
}

/// f64 to f32 (`cvt.rnd.f32.f64` but for the NaN, which keeps what it can of its payload).
#[inline(always)]
pub fn narrow(x: f64, round: Round) -> f32 {
    let nearest = x as f32;
    let back = nearest as f64;
    // One step on the encoding is one step on the value, infinities and zeros included.
    let step = match round {
        Round::Nearest => 0,
        Round::Zero => -((back.abs() > x.abs()) as i32),
        Round::Down => (back > x) as i32 * if x < 0.0 { 1 } else { -1 },
        Round::Up => (back < x) as i32 * if x < 0.0 { -1 } else { 1 },
    };
    f32::from_bits(nearest.to_bits().wrapping_add_signed(step))
}

/// `nearest`, the sum of two f64 that missed the exact one by `error`, rounded to odd instead: of the two
/// neighbours of an inexact result the one whose last bit is 1.
#[inline(always)]
pub(super) fn to_odd(nearest: f64, error: f64) -> f64 {
    let bits = nearest.to_bits();
    // The error of an infinite or NaN sum is NaN.
    let inexact = error.abs() > 0.0;
    let step = if (error > 0.0) == (nearest > 0.0) { 1 } else { -1 };
    f64::from_bits(if inexact && bits & 1 == 0 { bits.wrapping_add_signed(step) } else { bits })
}

/// a + b to nearest, and its error (Knuth's 2Sum). Exact where nothing overflows.
#[inline(always)]
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

/// a + b, for numbers far from the ends of f64's range.
#[inline(always)]
fn sum_toward(a: f64, b: f64, round: Round) -> f32 {
    let (sum, error) = two_sum(a, b);
    // Terms that cancel leave -0 when rounding down: negated on both sides, the sum does.
    let sum = if round == Round::Down { -(-a - b) } else { sum };
    narrow(to_odd(sum, error), round)
}

/// `add.f32`
#[inline(always)]
pub fn add(a: f32, b: f32, mode: Mode) -> f32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    let sum = match mode.round {
        Round::Nearest => a + b,
        round => sum_toward(a.into(), b.into(), round),
    };
    result(sum, mode)
}

/// `sub.f32`
#[inline(always)]
pub fn sub(a: f32, b: f32, mode: Mode) -> f32 {
    add(a, -b, mode)
}

/// `mul.f32`
#[inline(always)]
pub fn mul(a: f32, b: f32, mode: Mode) -> f32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    let product = match mode.round {
        Round::Nearest => a * b,
        round => narrow(a as f64 * b as f64, round),
    };
    result(product, mode)
}

/// `fma.f32`, `mad.f32`: a b + c, rounded once
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32, mode: Mode) -> f32 {
    let (a, b, c) = (operand(a, mode), operand(b, mode), operand(c, mode));
    let sum = match mode.round {
        Round::Nearest => a.mul_add(b, c),
        round => sum_toward(a as f64 * b as f64, c.into(), round),
    };
    result(sum, mode)
}

// For quotients and roots of f32 f64 has bits enough: an inexact one differs from every f32 and from every
// midpoint of two by 2^-50 of itself at least.

/// `div.rnd.f32`; with `.rn` also `div.full.f32`, which may err by 2 ulp and here does not.
#[inline(always)]
pub fn div(a: f32, b: f32, mode: Mode) -> f32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    let quotient = match mode.round {
        Round::Nearest => a / b,
        round => narrow(a as f64 / b as f64, round),
    };
    result(quotient, mode)
}

/// `rcp.rnd.f32`
#[inline(always)]
pub fn rcp(x: f32, mode: Mode) -> f32 {
    div(1.0, x, mode)
}

/// `sqrt.rnd.f32`
#[inline(always)]
pub fn sqrt(x: f32, mode: Mode) -> f32 {
    let x = operand(x, mode);
    let root = match mode.round {
        Round::Nearest => x.sqrt(),
        round => narrow((x as f64).sqrt(), round),
    };
    result(root, mode)
}

/// What an f64 instruction with these operands returns in place of the NaN `x`; a number stays. See
/// [`canonical`].
#[inline(always)]
fn payload<const N: usize>(x: f64, operands: [f64; N]) -> f64 {
    let is_nan = |bits: u64| bits & (u64::MAX >> 1) > f64::INFINITY.to_bits();
    if !is_nan(x.to_bits()) {
        return x;
    }
    match operands.map(f64::to_bits).into_iter().find(|bits| is_nan(*bits)) {
        Some(nan) => f64::from_bits(nan | 1 << 51),
        None => f64::from_bits(NAN_F64),
    }
}

/// `add.f64`
#[inline(always)]
pub fn add_f64(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Nearest { payload(a + b, [a, b]) } else { fma_f64(a, 1.0, b, round) }
}

/// `sub.f64`
#[inline(always)]
pub fn sub_f64(a: f64, b: f64, round: Round) -> f64 {
    add_f64(a, if b.is_nan() { b } else { -b }, round)
}

/// `mul.f64`
#[inline(always)]
pub fn mul_f64(a: f64, b: f64, round: Round) -> f64 {
    let product = a * b;
    if round == Round::Nearest || !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return payload(product, [a, b]);
    }
    f64::from_bits(exact::fma(a, b, 0.0, Format::F64, round))
}

/// `fma.f64`, `mad.f64`: a b + c, rounded once
#[inline(always)]
pub fn fma_f64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    let finite = a.is_finite() && b.is_finite() && c.is_finite();
    if round == Round::Nearest || !finite {
        return payload(a.mul_add(b, c), [a, b, c]);
    }
    if a == 0.0 || b == 0.0 {
        let sum = a * b + c;
        return if round == Round::Down { -(-(a * b) - c) } else { sum };
    }
    f64::from_bits(exact::fma(a, b, c, Format::F64, round))
}

/// `div.rnd.f64`
#[inline(always)]
pub fn div_f64(a: f64, b: f64, round: Round) -> f64 {
    let ordinary = a.is_finite() && b.is_finite() && a != 0.0 && b != 0.0;
    if round == Round::Nearest || !ordinary {
        return payload(a / b, [a, b]);
    }
    f64::from_bits(exact::div(a, b, Format::F64, round))
}

/// `rcp.rnd.f64`
#[inline(always)]
pub fn rcp_f64(x: f64, round: Round) -> f64 {
    div_f64(1.0, x, round)
}

/// `sqrt.rnd.f64`
#[inline(always)]
pub fn sqrt_f64(x: f64, round: Round) -> f64 {
    if round == Round::Nearest || !x.is_finite() || x <= 0.0 {
        return payload(x.sqrt(), [x]);
    }
    f64::from_bits(exact::sqrt(x, Format::F64, round))
}

macro_rules! bitwise {
    ($float:ty, $bits:ty, $nan:expr,
     $abs:ident $neg:ident $copysign:ident $min:ident $max:ident $testp:ident) => {
        /// `abs`: clears the sign, of NaN too
        #[inline(always)]
        pub fn $abs(x: $float) -> $float {
            <$float>::from_bits(x.to_bits() & (<$bits>::MAX >> 1))
        }

        /// `neg`: turns the sign, of NaN too
        #[inline(always)]
        pub fn $neg(x: $float) -> $float {
            <$float>::from_bits(x.to_bits() ^ !(<$bits>::MAX >> 1))
        }

        /// `copysign d, a, b`: the magnitude of `b` with the sign of `a`
        #[inline(always)]
        pub fn $copysign(a: $float, b: $float) -> $float {
            let sign = !(<$bits>::MAX >> 1);
            <$float>::from_bits(a.to_bits() & sign | b.to_bits() & !sign)
        }

        /// `min`: -0 is less than +0; a number wins over NaN, or with `.NaN` the NaN over a number.
        #[inline(always)]
        pub fn $min(a: $float, b: $float, nan: bool) -> $float {
            // Equal numbers have equal bits, but for zeros, where the sign must survive.
            let either = <$float>::from_bits(a.to_bits() | b.to_bits());
            let least = if a < b {
                a
            } else if b < a {
                b
            } else {
                either
            };
            let least = if a.is_nan() {
                b
            } else if b.is_nan() {
                a
            } else {
                least
            };
            let invalid = if nan { a.is_nan() | b.is_nan() } else { least.is_nan() };
            if invalid { <$float>::from_bits($nan) } else { least }
        }

        /// `max`: +0 is greater than -0; a number wins over NaN, or with `.NaN` the NaN over a number.
        #[inline(always)]
        pub fn $max(a: $float, b: $float, nan: bool) -> $float {
            let both = <$float>::from_bits(a.to_bits() & b.to_bits());
            let most = if a > b {
                a
            } else if b > a {
                b
            } else {
                both
            };
            let most = if a.is_nan() {
                b
            } else if b.is_nan() {
                a
            } else {
                most
            };
            let invalid = if nan { a.is_nan() | b.is_nan() } else { most.is_nan() };
            if invalid { <$float>::from_bits($nan) } else { most }
        }

        /// `testp`
        #[inline(always)]
        pub fn $testp(property: Property, x: $float) -> bool {
            let magnitude = $abs(x).to_bits();
            let (infinity, normal) = (<$float>::INFINITY.to_bits(), <$float>::MIN_POSITIVE.to_bits());
            match property {
                Property::Finite => magnitude < infinity,
                Property::Infinite => magnitude == infinity,
                Property::Number => magnitude <= infinity,
                Property::NotANumber => magnitude > infinity,
                Property::Normal => (normal..infinity).contains(&magnitude),
                Property::Subnormal => (1..normal).contains(&magnitude),
            }
        }
    };
}

bitwise!(f32, u32, NAN_F32, abs neg copysign min max testp);
bitwise!(f64, u64, NAN_F64, abs_f64 neg_f64 copysign_f64 min_f64 max_f64 testp_f64);

/// `.xorsign.abs`: `extreme` of the magnitudes, with the exclusive or of the signs
#[inline(always)]
pub fn xorsign_abs(a: f32, b: f32, extreme: impl Fn(f32, f32) -> f32) -> f32 {
    let magnitude = extreme(abs(a), abs(b));
    let sign = f32::from_bits(a.to_bits() ^ b.to_bits());
    if magnitude.is_nan() { magnitude } else { copysign(sign, magnitude) }
}

/// What `testp` asks (section 9.7.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    /// Zero is not subnormal.
    Subnormal,
}

/// The comparisons of `setp` and `set` (section 9.3.1); of integers the first six, where `lo`, `ls`,
/// `hi`, `hs` are [`Lt`](Compare::Lt) and so on of unsigned numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Equal or unordered; so for the other five.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    /// Both are numbers.
    Num,
    /// At least one is NaN.
    Nan,
}

/// Whether a comparison holds. The first six fail if an operand is NaN, `ne` included, unlike Rust's `!=`.
#[allow(clippy::double_comparisons, clippy::neg_cmp_op_on_partial_ord, reason = "NaN makes the difference")]
#[inline(always)]
pub fn compare<T: PartialOrd>(op: Compare, a: T, b: T) -> bool {
    match op {
        Compare::Eq => a == b,
        Compare::Ne => a < b || a > b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
        Compare::Equ => !(a < b || a > b),
        Compare::Neu => a != b,
        Compare::Ltu => !(a >= b),
        Compare::Leu => !(a > b),
        Compare::Gtu => !(a <= b),
        Compare::Geu => !(a < b),
        Compare::Num => a < b || a >= b,
        Compare::Nan => !(a < b || a >= b),
    }
}
