//! `cvt` (section 9.7.9.21): between any two types, with every modifier; and `cvt.pack`.
//!
//! [`cvt`] does any conversion and is written for being right; the functions before it are those that
//! kernels spend time in, made for vector code. Others of those are elsewhere: [`narrow`](super::float::narrow),
//! [`Half::widen`], [`Half::narrow`], and between integers Rust's `as`.

use super::Round;
use super::exact::{self, Format};
use super::float::{canonical, flush, narrow};
use super::half::{Bf16, F16, Half, tf32_rna, widen_e4m3, widen_e5m2};

/// The types that `cvt` knows. Of 8-bit floats and tf32 there are only conversions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    E4m3,
    E5m2,
}

impl Type {
    /// The width of a value in bits; tf32 lies in 32.
    pub fn bits(self) -> u32 {
        match self {
            Type::U8 | Type::S8 | Type::E4m3 | Type::E5m2 => 8,
            Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 16,
            Type::U32 | Type::S32 | Type::F32 | Type::Tf32 => 32,
            Type::U64 | Type::S64 | Type::F64 => 64,
        }
    }

    /// The smallest and the largest value of an integer type.
    fn range(self) -> Option<(i128, i128)> {
        match self {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => Some((0, (1 << self.bits()) - 1)),
            Type::S8 | Type::S16 | Type::S32 | Type::S64 => {
                let half = 1 << (self.bits() - 1);
                Some((-half, half - 1))
            }
            _ => None,
        }
    }

    fn format(self) -> Option<Format> {
        match self {
            Type::F16 => Some(Format::F16),
            Type::Bf16 => Some(Format::BF16),
            Type::Tf32 => Some(Format::TF32),
            Type::F32 => Some(Format::F32),
            Type::F64 => Some(Format::F64),
            Type::E4m3 => Some(Format::E4M3),
            Type::E5m2 => Some(Format::E5M2),
            _ => None,
        }
    }

    fn float(self, bits: u64) -> f64 {
        match self {
            Type::F16 => f32_to_f64(canonical(F16::widen(bits as u16))),
            Type::Bf16 => f32_to_f64(canonical(Bf16::widen(bits as u16))),
            Type::F32 | Type::Tf32 => f32_to_f64(f32::from_bits(bits as u32)),
            Type::F64 => quiet(f64::from_bits(bits)),
            Type::E4m3 => f32_to_f64(canonical(widen_e4m3(bits as u8))),
            Type::E5m2 => f32_to_f64(canonical(widen_e5m2(bits as u8))),
            _ => unreachable!("{self:?} is no float"),
        }
    }
}

/// The modifiers of `cvt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cvt {
    /// `.rn`, `.rni` and so on; without one, `Nearest` for float to narrower float does no harm.
    pub round: Round,
    /// The modifier was one of `.rni`, `.rzi`, `.rmi`, `.rpi`: from a float to a float of the same type it
    /// rounds to integers.
    pub integral: bool,
    /// `.rna`: `cvt.rna.tf32.f32`, in place of `round`.
    pub away: bool,
    /// `.ftz`: f32 operands and results.
    pub ftz: bool,
    /// `.sat`: of integers to the target's range, of floats to [0, 1].
    pub sat: bool,
    /// `.relu`: negative results become +0.
    pub relu: bool,
    /// `.satfinite`: results beyond the largest finite value become that value.
    pub satfinite: bool,
}

impl Cvt {
    /// `.rn` or `.rni` and no more.
    pub const NEAREST: Cvt = Cvt {
        round: Round::Nearest,
        integral: false,
        away: false,
        ftz: false,
        sat: false,
        relu: false,
        satfinite: false,
    };
}

/// `cvt.f64.f32`: NaN keeps sign and payload, as in `cvt` from f64 to f64, and is made quiet.
#[inline(always)]
pub fn f32_to_f64(x: f32) -> f64 {
    let bits = x.to_bits() as u64;
    let nan = (bits >> 31) << 63 | 0x7ff8_0000_0000_0000 | (bits & 0x7f_ffff) << 29;
    if x.is_nan() { f64::from_bits(nan) } else { x.into() }
}

fn quiet(x: f64) -> f64 {
    if x.is_nan() { f64::from_bits(x.to_bits() | 1 << 51) } else { x }
}

/// x rounded to an integer: `cvt.rni.f32.f32` and so on. Zeros keep the sign of x.
#[inline(always)]
pub fn round_to_integral(x: f32, round: Round) -> f32 {
    canonical(match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    })
}

#[inline(always)]
fn round_to_integral_f64(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// The lower 32 bits of an integer of magnitude up to 2^32, by the constant of [`approx::ex2`](super::approx::ex2)
/// for f64. Rust's conversions do not become vector code.
#[inline(always)]
fn integer_bits(x: f32) -> u32 {
    (x as f64 + 6755399441055744.0).to_bits() as u32
}

/// `cvt.rni.s32.f32` and so on: clamped to the range, NaN to 0
#[inline(always)]
pub fn f32_to_s32(x: f32, round: Round) -> i32 {
    let x = round_to_integral(x, round);
    let inside = if x >= -2147483648.0 { integer_bits(x) as i32 } else { i32::MIN };
    let clamped = if x >= 2147483648.0 { i32::MAX } else { inside };
    if x.is_nan() { 0 } else { clamped }
}

/// `cvt.rni.u32.f32` and so on: clamped to the range, NaN to 0
#[inline(always)]
pub fn f32_to_u32(x: f32, round: Round) -> u32 {
    let x = round_to_integral(x, round);
    let inside = if x > 0.0 { integer_bits(x) } else { 0 };
    if x >= 4294967296.0 { u32::MAX } else { inside }
}

/// `cvt.rn.f32.s32` and so on
#[inline(always)]
pub fn s32_to_f32(x: i32, round: Round) -> f32 {
    if round == Round::Nearest { x as f32 } else { narrow(x.into(), round) }
}

/// `cvt.rn.f32.u32` and so on
#[inline(always)]
pub fn u32_to_f32(x: u32, round: Round) -> f32 {
    if round == Round::Nearest { x as f32 } else { narrow(x.into(), round) }
}

/// An integer of a type from the register that holds it: the lower bits count, with their sign.
fn integer(bits: u64, from: Type) -> i128 {
    let above = 64 - from.bits();
    match from {
        Type::S8 | Type::S16 | Type::S32 | Type::S64 => ((bits << above) as i64 >> above).into(),
        _ => (bits << above >> above).into(),
    }
}

/// `cvt` of the value in the lower bits of a register. The result is as wide as `to`, above it zeros: when
/// it goes to a wider register, the caller extends its sign if `to` is a signed integer (section 9.4.1).
///
/// From float to integer NaN becomes 0, unless the source is f64 or the target has 64 bits: then the top bit
/// alone of the target is set. To f64 NaN keeps sign and payload from f32 and f64, and is the f32 NaN's value
/// from smaller types; all other NaN results are those of the target's arithmetic.
pub fn cvt(bits: u64, from: Type, to: Type, m: Cvt) -> u64 {
    let mask = u64::MAX >> (64 - to.bits());
    match (from.range(), to.range(), to.format()) {
        (Some(_), Some((low, high)), _) => {
            let x = integer(bits, from);
            (if m.sat { x.clamp(low, high) } else { x }) as u64 & mask
        }
        (None, Some((low, high)), _) => {
            let mut x = from.float(bits);
            if m.ftz && from == Type::F32 {
                x = flush(x as f32).into();
            }
            if !x.is_nan() {
                // `as` clamps to i128, which is wide enough to be clamped once more.
                return (round_to_integral_f64(x, m.round) as i128).clamp(low, high) as u64 & mask;
            }
            if from == Type::F64 || to.bits() == 64 { 1 << (to.bits() - 1) } else { 0 }
        }
        (Some(_), None, Some(format)) => {
            let x = integer(bits, from);
            let x = if m.sat { x.clamp(0, 1) } else { x };
            exact::round_integer(x, format, m.round)
        }
        (_, _, Some(format)) => float_to_float(from.float(bits), from, to, format, m),
        _ => unreachable!("{to:?} is neither an integer nor a float"),
    }
}

fn float_to_float(mut x: f64, from: Type, to: Type, format: Format, m: Cvt) -> u64 {
    if m.ftz && from == Type::F32 {
        x = flush(x as f32).into();
    }
    if m.integral {
        x = round_to_integral_f64(x, m.round);
    }
    if m.sat {
        x = super::float::saturate_f64(x);
    }
    if m.relu && x <= 0.0 {
        x = 0.0;
    }
    if x.is_nan() && !m.away {
        return if to == Type::F64 { x.to_bits() } else { format.nan() };
    }
    let rounded = if m.away { tf32_rna(x as f32).to_bits().into() } else { exact::round(x, format, m.round) };
    if m.satfinite && !x.is_nan() && format.overflowed(rounded) {
        return format.largest(x < 0.0);
    }
    if m.ftz && to == Type::F32 { flush(f32::from_bits(rounded as u32)).to_bits().into() } else { rounded }
}

/// `cvt.pack.sat.type.s32 d, a, b` to a 16-bit type: a above b, each clamped
#[inline(always)]
pub fn pack16(a: i32, b: i32, signed: bool) -> u32 {
    pack(a, b, 0, 16, signed)
}

/// `cvt.pack.sat.type.s32.b32 d, a, b, c` to a type of `bits` (8, 4 or 2): a above b, each clamped, in the
/// lowest bits, and c moved up by as much
#[inline(always)]
pub fn pack(a: i32, b: i32, c: u32, bits: u32, signed: bool) -> u32 {
    let (low, high) = if signed { (-1 << (bits - 1), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    let part = |x: i32| x.clamp(low, high) as u32 & ((1 << bits) - 1);
    let kept = if bits == 16 { 0 } else { c << (2 * bits) };
    kept | part(a) << bits | part(b)
}
