//! The `.approx` functions of f32 (sections 9.7.3 and 9.7.4.10).
//!
//! The ISA gives bounds, which hardware meets with tables; here they are met with polynomials (minimax fits
//! by Remez's algorithm in 50 digits, their own error beside them), divisions and roots, which are closer to
//! the exact value than hardware is: nothing may be learnt here about how far hardware is off. All arithmetic
//! is IEEE's in a fixed order.
//!
//! | function | bound of the ISA | error here |
//! |---|---|---|
//! | [`rcp`] | 1 ulp | 0.5 ulp |
//! | [`sqrt`] | 2^-23 relative | 0.5 ulp |
//! | [`rsqrt`] | 2^-22.9 relative | 1 ulp |
//! | [`div`] | 2 ulp for 2^-126 <= b <= 2^126 | 1.5 ulp |
//! | [`ex2`] | 2^-22 relative | 1.2 ulp |
//! | [`lg2`] | 2^-22 absolute in (0.5, 2), else relative | 2^-23 |
//! | [`sin`], [`cos`] | 2^-20.5 absolute in [-2 pi, 2 pi], 2^-14.7 in [-100 pi, 100 pi] | 2^-23; from 2^29 on abs(x) 2^-52 |
//! | [`tanh`] | 2^-11 relative | 2 ulp |

#![allow(clippy::excessive_precision, reason = "fits keep the digits they were found with")]

use super::Round;
use super::float::{NAN_F32, canonical, flush};

/// c[0] + c[1] x + c[2] x^2 ...
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    c.iter().rev().fold(0.0, |sum, &c| sum * x + c)
}

/// 2^n for -126 <= n <= 127
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[inline(always)]
fn flush_if(ftz: bool, x: f32) -> f32 {
    if ftz { flush(x) } else { x }
}

/// `rcp.approx.f32`
#[inline(always)]
pub fn rcp(x: f32, ftz: bool) -> f32 {
    canonical(flush_if(ftz, 1.0 / flush_if(ftz, x)))
}

/// `sqrt.approx.f32`
#[inline(always)]
pub fn sqrt(x: f32, ftz: bool) -> f32 {
    canonical(flush_if(ftz, x).sqrt())
}

/// `rsqrt.approx.f32`. The root of -0 is -0, and its reciprocal negative infinity.
#[inline(always)]
pub fn rsqrt(x: f32, ftz: bool) -> f32 {
    canonical(1.0 / flush_if(ftz, x).sqrt())
}

/// `div.approx.f32`: a times the reciprocal of b. Beyond |b| = 2^126, where that is subnormal, it counts as
/// 0: the quotient is 0, or NaN for infinite a.
#[inline(always)]
pub fn div(a: f32, b: f32, ftz: bool) -> f32 {
    let reciprocal = flush(1.0 / flush_if(ftz, b));
    canonical(flush_if(ftz, flush_if(ftz, a) * reciprocal))
}

/// `ex2.approx.f32`: 2^x
#[inline(always)]
pub fn ex2(x: f32, ftz: bool) -> f32 {
    // x = n + r with |r| <= 1/2. Subnormal x give 1 with and without .ftz. Beyond the bounds the result is
    // infinite or 0 all the same; NaN passes both comparisons.
    let x = if x > 130.0 { 130.0 } else { x };
    let x = if x < -152.0 { -152.0 } else { x };
    // 1.5 * 2^23 pushes the fraction out of the significand: what stays in its low bits is n.
    const ROUND: f32 = 12582912.0;
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    // Relative error 3.7e-9.
    const P: [f32; 6] = [
        0.693147187641,
        0.240226485284,
        0.0555035835394,
        0.00961844238426,
        0.00133903664582,
        0.00015337588496,
    ];
    let power = 1.0 + r * polynomial(r, P);
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    // In two steps, as 2^n itself may be subnormal or beyond the largest float.
    let half = n >> 1;
    let result = power * power_of_two(half) * power_of_two(n.wrapping_sub(half));
    canonical(flush_if(ftz, result))
}

/// `lg2.approx.f32`: the logarithm to base 2
#[inline(always)]
pub fn lg2(x: f32, ftz: bool) -> f32 {
    let x = flush_if(ftz, x);
    // Subnormal numbers are scaled into the normal ones.
    let small = x < f32::MIN_POSITIVE;
    let bits = (if small { x * 16777216.0 } else { x }).to_bits();
    // x = 2^e m with m from sqrt(1/2) to sqrt(2), whose bits are subtracted to find e.
    const ROOT: u32 = 0x3f3504f3;
    let e = (bits.wrapping_sub(ROOT) as i32) >> 23;
    let f = f32::from_bits(bits.wrapping_sub((e << 23) as u32)) - 1.0;
    // log2(1 + f) / f; relative error 2.6e-8.
    const P: [f32; 9] = [
        1.44269500366,
        -0.721347346874,
        0.480910641567,
        -0.360703674854,
        0.287916289451,
        -0.238945037766,
        0.215715433829,
        -0.207268209795,
        0.125835594432,
    ];
    let exponent = (e - if small { 24 } else { 0 }) as f32;
    let finite = exponent + f * polynomial(f, P);
    let finite = if x == f32::INFINITY { x } else { finite };
    let finite = if x == 0.0 { f32::NEG_INFINITY } else { finite };
    // Neither NaN nor a negative number is at least 0.
    if x >= 0.0 { finite } else { f32::from_bits(NAN_F32) }
}

/// sin(r) and cos(r) with r = x - n pi/2, |r| <= pi/4, and n. Beyond 2^48, where neighbouring floats
/// are millions of turns apart, 0 stands for x.
#[inline(always)]
fn quadrant(x: f32) -> (f32, f32, u32) {
    // For the constant see `ex2`. What f64 loses of n pi/2 is 2^-52 of x at most.
    const ROUND: f64 = 6755399441055744.0;
    let x = if x.abs() < 281474976710656.0 { x as f64 } else { 0.0 };
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUND;
    let r = (x - (shifted - ROUND) * std::f64::consts::FRAC_PI_2) as f32;
    let z = r * r;
    // Relative errors 3.6e-9 and 9.6e-11.
    const SIN: [f32; 3] = [-0.166666549085, 0.00833217584301, -0.00019516977168];
    const COS: [f32; 3] = [0.0416666468073, -0.00138873644897, 2.4438091352e-5];
    // As a product: a sum would lose the sign of -0.
    let sin = r * (1.0 + z * polynomial(z, SIN));
    let cos = 1.0 - 0.5 * z + z * z * polynomial(z, COS);
    (sin, cos, shifted.to_bits() as u32)
}

/// `sin.approx.f32`
#[inline(always)]
pub fn sin(x: f32, ftz: bool) -> f32 {
    let x = flush_if(ftz, x);
    let (sin, cos, n) = quadrant(x);
    let chosen = if n & 1 == 0 { sin } else { cos };
    let turned = f32::from_bits(chosen.to_bits() ^ (n & 2) << 30);
    if x.abs() < f32::INFINITY { flush_if(ftz, turned) } else { f32::from_bits(NAN_F32) }
}

/// `cos.approx.f32`
#[inline(always)]
pub fn cos(x: f32, ftz: bool) -> f32 {
    let x = flush_if(ftz, x);
    let (sin, cos, n) = quadrant(x);
    let chosen = if n & 1 == 0 { cos } else { sin };
    let turned = f32::from_bits(chosen.to_bits() ^ (n.wrapping_add(1) & 2) << 30);
    if x.abs() < f32::INFINITY { flush_if(ftz, turned) } else { f32::from_bits(NAN_F32) }
}

/// `tanh.approx.f32`. Subnormal operands are their own result.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let (a, z) = (x.abs(), x * x);
    // (tanh(a) / a - 1) / a^2 in a^2 up to 0.625^2; an error of 4.2e-9 of tanh.
    const P: [f32; 5] =
        [-0.333332839249, 0.133314912741, -0.0537434970584, 0.0206505842092, -0.00571704184613];
    let near = a + a * z * polynomial(z, P);
    let far = 1.0 - 2.0 / (ex2(a * (2.0 * std::f32::consts::LOG2_E), false) + 1.0);
    canonical((if a < 0.625 { near } else { far }).copysign(x))
}

/// `rcp.approx.ftz.f64`: of the upper 32 bits of x alone; the lower 32 of the result are 0.
#[inline(always)]
pub fn rcp_f64(x: f64) -> f64 {
    upper(1.0 / upper(x))
}

/// `rsqrt.approx.ftz.f64` and, for `ftz` false, `rsqrt.approx.f64`, both within 2^-22 of the exact root.
#[inline(always)]
pub fn rsqrt_f64(x: f64, ftz: bool) -> f64 {
    if ftz {
        return upper(1.0 / upper(x).sqrt());
    }
    super::float::div_f64(1.0, super::float::sqrt_f64(x, Round::Nearest), Round::Nearest)
}

/// The upper 32 bits of x, flushed; NaN is canonical.
#[inline(always)]
fn upper(x: f64) -> f64 {
    let bits = x.to_bits();
    let subnormal = bits & 0x7ff0_0000_0000_0000 == 0;
    let kept = bits & if subnormal { 1 << 63 } else { !0xffff_ffff };
    if x.is_nan() { f64::from_bits(0x7fff_ffff_0000_0000) } else { f64::from_bits(kept) }
}
