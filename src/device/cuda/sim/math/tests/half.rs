use super::*;
use crate::device::cuda::sim::math::half::*;
use crate::device::cuda::sim::math::{approx, float};

const M: Modifiers = Modifiers { ftz: false, sat: false, relu: false };

/// What the two formats have in common for the tests.
trait Format: Half {
    const BINARY: Binary;
    const ONE: u16;
}

impl Format for F16 {
    const BINARY: Binary = super::F16;
    const ONE: u16 = 0x3c00;
}

impl Format for Bf16 {
    const BINARY: Binary = BF16;
    const ONE: u16 = 0x3f80;
}

fn is_nan<F: Format>(x: u16) -> bool {
    F::BINARY.is_nan(x.into())
}

/// Every f16 and bf16 against the `half` crate; of NaN sign and payload too.
#[test]
fn widening_is_exact() {
    for bits in 0..=u16::MAX {
        // The crate makes signalling NaN quiet.
        let quiet = |x: f32| if x.is_nan() { x.to_bits() | 1 << 22 } else { x.to_bits() };
        assert_eq!(quiet(F16::widen(bits)), ::half::f16::from_bits(bits).to_f32().to_bits(), "{bits:#x}");
        assert_eq!(quiet(Bf16::widen(bits)), quiet(::half::bf16::from_bits(bits).to_f32()), "{bits:#x}");
    }
}

/// The f32 around every number and every midpoint of two, in all modes.
fn narrowing_is_rounded_once<F: Format>() {
    for bits in 0..F::INFINITY {
        let (here, next) = (F::widen(bits) as f64, F::widen(bits + 1) as f64);
        let next = if next.is_infinite() { 2.0 * here - F::widen(bits - 1) as f64 } else { next };
        for exact in [here, (here + next) / 2.0] {
            for nudge in -1..=1 {
                let magnitude = (exact as f32).to_bits().saturating_add_signed(nudge);
                for x in [f32::from_bits(magnitude), -f32::from_bits(magnitude)] {
                    for round in ROUNDS {
                        let against = sum_against(&[F32.value(x.to_bits().into())]);
                        let narrowed = F::narrow_toward(x, round);
                        assert_rounded(narrowed.into(), F::BINARY, round, against, || format!("{x:?}"));
                        assert_eq!(narrowed >> 15, (x.to_bits() >> 31) as u16, "the sign of {x:?}");
                    }
                    assert_eq!(F::narrow(x), F::narrow_toward(x, Round::Nearest));
                }
            }
        }
    }
    for x in [f32::INFINITY, f32::NEG_INFINITY] {
        let expected = F::INFINITY | (x.to_bits() >> 16) as u16 & 0x8000;
        assert!(ROUNDS.iter().all(|round| F::narrow_toward(x, *round) == expected));
    }
    let limit = [F::INFINITY, F::INFINITY - 1, F::INFINITY - 1, F::INFINITY];
    assert_eq!(ROUNDS.map(|round| F::narrow_toward(f32::MAX, round)), limit);
    for nan in [0x7f80_0001, 0xff80_0001, 0xffff_ffff, 0x7fc0_0000] {
        assert!(ROUNDS.iter().all(|round| F::narrow_toward(f32::from_bits(nan), *round) == NAN));
    }
}

#[test]
fn f16_narrowing() {
    narrowing_is_rounded_once::<F16>();
    for bits in 0..=u16::MAX {
        if !is_nan::<F16>(bits) {
            assert_eq!(F16::narrow(F16::widen(bits)), bits);
        }
    }
    let mut random = Random(1);
    for _ in 0..1_000_000 {
        let x = f32::from_bits(random.next() as u32);
        if !x.is_nan() {
            assert_eq!(F16::narrow(x), ::half::f16::from_f32(x).to_bits(), "{x:?}");
        }
    }
}

#[test]
fn bf16_narrowing() {
    narrowing_is_rounded_once::<Bf16>();
    let mut random = Random(2);
    for _ in 0..1_000_000 {
        let x = f32::from_bits(random.next() as u32);
        if !x.is_nan() {
            assert_eq!(Bf16::narrow(x), ::half::bf16::from_f32(x).to_bits(), "{x:?}");
        }
    }
}

/// Section 9.7.4: `.rn` arithmetic is the exact value rounded once.
fn arithmetic_is_rounded_once<F: Format>(seed: u64) {
    let mut random = Random(seed);
    for _ in 0..150_000 {
        let [a, b, mut c] = [random.u16(F::BINARY), random.u16(F::BINARY), random.u16(F::BINARY)];
        if random.below(3) == 0 {
            // A sum that nearly cancels, or that ends near a tie.
            c = (mul::<F>(a, b, M) ^ 0x8000).wrapping_add((random.next() % 5) as u16).wrapping_sub(2);
        }
        if ![a, b, c].iter().all(|x| F::BINARY.is_finite((*x).into())) {
            continue;
        }
        let [x, y, z] = [a, b, c].map(|x| F::BINARY.value(x.into()));
        let check = |result: u16, terms: &[Dyadic]| {
            let what = || format!("{a:#x} {b:#x} {c:#x}");
            assert_rounded(result.into(), F::BINARY, Round::Nearest, sum_against(terms), what);
        };
        check(add::<F>(a, b, M), &[x, y]);
        check(sub::<F>(a, b, M), &[x, y.negated()]);
        check(mul::<F>(a, b, M), &[x.times(y)]);
        check(fma::<F>(a, b, c, M), &[x.times(y), z]);
    }
}

#[test]
fn f16_arithmetic() {
    arithmetic_is_rounded_once::<F16>(3);
    // (1 + 2^-10)^2 = 1 + 2^-9 + 2^-20: without the last term the sum with 2^-11 would be a tie to even,
    // 0x3c02; with it, it is above the midpoint.
    assert_eq!(fma::<F16>(0x3c01, 0x3c01, 0x1000, M), 0x3c03);
    assert_eq!(fma::<F16>(0x3c01, 0x3c00, 0x1000, M), 0x3c02);
    assert_eq!(fma::<F16>(0x3c02, 0x3c00, 0x1000, M), 0x3c02);
    // Fused, 65504 * 2 - 65504 does not overflow.
    assert_eq!(fma::<F16>(0x7bff, 0x4000, 0xfbff, M), 0x7bff);
    // A product far below half of the last bit leaves a tie as it is, unless it tips it: 2048 + 1 is a tie.
    assert_eq!(add::<F16>(0x6800, 0x3c00, M), 0x6800);
    assert_eq!(fma::<F16>(0x0001, 0x0001, 0x6800, M), 0x6800);
}

#[test]
fn bf16_arithmetic() {
    arithmetic_is_rounded_once::<Bf16>(4);
    // The product overflows f32, not the sum: 2^127 * 2 - 2^127.
    assert_eq!(fma::<Bf16>(0x7f00, 0x4000, 0xff00, M), 0x7f00);
    // The product is far below f32's range and still decides: the largest number below 1 + 2^-8 ties.
    assert_eq!(fma::<Bf16>(0x0080, 0x0080, 0x0001, M), 0x0001);
}

/// Zeros, infinities and NaN, for which IEEE 754 needs no rounding.
fn specials<F: Format>() {
    let (one, infinity) = (F::ONE, F::INFINITY);
    assert_eq!(add::<F>(one, one | 0x8000, M), 0);
    assert_eq!(add::<F>(0x8000, 0x8000, M), 0x8000);
    assert_eq!(fma::<F>(one, 0x8000, 0, M), 0);
    assert_eq!(fma::<F>(one, 0x8000, 0x8000, M), 0x8000);
    assert_eq!(mul::<F>(infinity, one | 0x8000, M), infinity | 0x8000);
    assert_eq!(mul::<F>(infinity, 0, M), NAN);
    assert_eq!(sub::<F>(infinity, infinity, M), NAN);
    assert_eq!(fma::<F>(infinity, one, infinity | 0x8000, M), NAN);
    assert_eq!(fma::<F>(infinity - 1, infinity - 1, infinity | 0x8000, M), infinity | 0x8000);
    assert_eq!(add::<F>(infinity - 1, infinity - 1, M), infinity);
    for nan in [NAN, 0xffff, infinity + 1] {
        assert_eq!(add::<F>(nan, one, M), NAN);
        assert_eq!(mul::<F>(one, nan, M), NAN);
        assert_eq!(fma::<F>(one, one, nan, M), NAN);
    }
    // .sat and .relu (sections 9.7.4.1 and 9.7.4.4)
    let (sat, relu) = (Modifiers { sat: true, ..M }, Modifiers { relu: true, ..M });
    assert_eq!(add::<F>(one, one, sat), one);
    assert_eq!(sub::<F>(0, one, sat), 0);
    assert_eq!(add::<F>(NAN, one, sat), 0);
    assert_eq!(fma::<F>(one, one, 0, sat), one);
    assert_eq!(fma::<F>(one, one | 0x8000, 0, relu), 0);
    assert_eq!(fma::<F>(one, 0x8000, 0x8000, relu), 0);
    assert_eq!(fma::<F>(one, one, one, relu), add::<F>(one, one, M));
    assert_eq!(fma::<F>(NAN, one, one, relu), NAN);
    // Signs only.
    assert_eq!((abs::<F>(one | 0x8000, false), neg::<F>(0, false)), (one, 0x8000));
    assert_eq!((abs::<F>(0xffff, false), neg::<F>(infinity + 1, true)), (NAN, NAN));
    assert_eq!((abs::<F>(infinity | 0x8000, true), neg::<F>(infinity, false)), (infinity, infinity | 0x8000));
    // min and max (sections 9.7.4.7 and 9.7.4.8)
    let plain = Extreme::default();
    let with_nan = Extreme { nan: true, ..plain };
    let xorsign = Extreme { xorsign_abs: true, ..plain };
    let two = add::<F>(one, one, M);
    assert_eq!((min::<F>(one, two, plain), max::<F>(one, two, plain)), (one, two));
    assert_eq!((min::<F>(0, 0x8000, plain), max::<F>(0x8000, 0, plain)), (0x8000, 0));
    assert_eq!((min::<F>(NAN, one, plain), max::<F>(one, 0xffff, plain)), (one, one));
    assert_eq!((min::<F>(NAN, one, with_nan), max::<F>(one, 0xffff, with_nan)), (NAN, NAN));
    assert_eq!((min::<F>(0xffff, NAN, plain), max::<F>(0xffff, NAN, plain)), (NAN, NAN));
    assert_eq!(
        (min::<F>(one | 0x8000, two, xorsign), max::<F>(one, two | 0x8000, xorsign)),
        (one | 0x8000, two | 0x8000)
    );
    assert_eq!(max::<F>(one | 0x8000, two | 0x8000, xorsign), two);
    for x in 0..=u16::MAX {
        let itself = if is_nan::<F>(x) { NAN } else { x };
        assert_eq!((min::<F>(x, x, plain), max::<F>(x, NAN, plain)), (itself, itself));
    }
    // .ftz
    let ftz = Modifiers { ftz: true, ..M };
    let normal = !infinity & 0x7fff;
    assert_eq!(flush::<F>(normal | 0x8000), 0x8000);
    assert_eq!(flush::<F>(normal + 1), normal + 1);
    assert_eq!(add::<F>(normal, normal, ftz), 0);
    assert_eq!(sub::<F>(normal + 1, normal + 2, ftz), 0x8000);
    assert_eq!(fma::<F>(normal | 0x8000, one, 0x8000, ftz), 0x8000);
    assert_eq!((abs::<F>(0x8001, true), neg::<F>(0x0001, true)), (0, 0x8000));
    assert_eq!(max::<F>(0x8001, 0x8002, Extreme { ftz: true, ..plain }), 0x8000);
}

#[test]
fn special_values() {
    specials::<F16>();
    specials::<Bf16>();
}

/// The packed forms are the scalar ones on each half.
#[test]
fn packed_forms() {
    assert_eq!(unpack(0x1234_5678), [0x5678, 0x1234]);
    // (1, 2) + (0.5, -1), (1, 2) * (0.5, -1), (1, 2) * (0.5, -1) + (1, 2) in f16, the upper first.
    let (a, b) = (0x3c00_4000, 0x3800_bc00);
    assert_eq!(add_x2::<F16>(a, b, M), 0x3e00_3c00);
    assert_eq!(sub_x2::<F16>(a, b, M), 0x3800_4200);
    assert_eq!(mul_x2::<F16>(a, b, M), 0x3800_c000);
    assert_eq!(fma_x2::<F16>(a, b, a, M), 0x3e00_0000);
    assert_eq!(min_x2::<F16>(a, b, Extreme::default()), b);
    assert_eq!(max_x2::<F16>(a, b, Extreme::default()), a);
    assert_eq!((neg_x2::<F16>(a, false), abs_x2::<F16>(b, false)), (0xbc00_c000, 0x3800_3c00));
    assert_eq!(
        (neg_x2::<F16>(0x7e00_8001, true), abs_x2::<F16>(0xfe00_8001, true)),
        (0xfe00_0000, 0x7e00_0000)
    );
    assert_eq!(ex2_x2::<F16>(a, false), 0x4000_4400);
    assert_eq!(tanh_x2::<F16>(0x7c00_fc00), 0x3c00_bc00);
    // bf16: (1, 2) + (1, 1)
    assert_eq!(add_x2::<Bf16>(0x3f80_4000, 0x3f80_3f80, M), 0x4000_4040);
}

/// Sections 9.7.4.9 and 9.7.4.10, on every operand: `ex2` of f16 within 2^-9.9 relative, of bf16 2^-7; `tanh` of
/// f16 within 2^-10.987 absolute, of bf16 2^-8.
fn functions<F: Format>(ex2_bound: f64, tanh_bound: f64) {
    let least = F::widen(1) as f64;
    let greatest = F::widen(F::INFINITY - 1) as f64;
    for bits in 0..=u16::MAX {
        let x = F::widen(bits) as f64;
        let (power, slope) = (F::widen(ex2::<F>(bits, false)) as f64, F::widen(tanh::<F>(bits)) as f64);
        if x.is_nan() {
            assert_eq!((ex2::<F>(bits, false), tanh::<F>(bits)), (NAN, NAN));
            continue;
        }
        let exact = x.exp2();
        if exact > greatest * (1.0 + ex2_bound) {
            assert_eq!(power, f64::INFINITY, "2^{x}");
        } else if exact < greatest {
            assert!((power - exact).abs() <= (exact * ex2_bound).max(least / 1.9), "2^{x} = {power}");
        }
        assert!((slope - x.tanh()).abs() <= tanh_bound, "tanh {x} = {slope}");
        assert_eq!(tanh::<F>(bits) >> 15, bits >> 15, "the sign of tanh {x}");
    }
    assert_eq!(ex2::<F>(F::INFINITY | 0x8000, false), 0);
    assert_eq!(ex2::<F>(F::INFINITY, false), F::INFINITY);
}

#[test]
fn ex2_and_tanh() {
    functions::<F16>((-9.9f64).exp2(), (-10.987f64).exp2());
    functions::<Bf16>((-7.0f64).exp2(), (-8.0f64).exp2());
    // 2^-15 is subnormal in f16.
    assert_eq!((ex2::<F16>(0xcb80, false), ex2::<F16>(0xcb80, true)), (0x0200, 0));
}

/// tf32 by definition: rounded to 10 stored bits, ties away from zero, the lower 13 zeros.
#[test]
fn tf32_ties_away() {
    let away = |bits: u32| tf32_rna(f32::from_bits(bits)).to_bits();
    assert_eq!(away(0x3f80_1000), 0x3f80_2000);
    assert_eq!(away(0x3f80_0fff), 0x3f80_0000);
    assert_eq!(away(0xbf80_1000), 0xbf80_2000);
    assert_eq!(away(0x0000_1000), 0x0000_2000);
    assert_eq!(away(0x7f7f_ffff), 0x7f80_0000);
    assert_eq!(away(0xff80_0000), 0xff80_0000);
    assert_eq!([0x7f80_0001, 0xffc0_3456, 0x7fff_ffff].map(away), [0x7fc0_0000, 0xffc0_2000, 0x7fff_e000]);
    assert_eq!(truncate_tf32(0x3f80_3fff).to_bits(), 0x3f80_2000);
}

/// The 8-bit formats from their definition (OCP 8-bit floating point, 1.0): e4m3 has bias 7, a largest value of
/// 448 and S.1111.111 as its NaN; e5m2 is the upper byte of an f16.
#[test]
fn eight_bits() {
    for bits in 0..=u8::MAX {
        let sign = if bits < 128 { 1.0 } else { -1.0 };
        let (exponent, fraction) = ((bits >> 3 & 15) as i32, (bits & 7) as f32);
        let expected = match (exponent, bits & 7) {
            (15, 7) => f32::NAN,
            (0, _) => sign * fraction / 8.0 * (-6f32).exp2(),
            _ => sign * (1.0 + fraction / 8.0) * ((exponent - 7) as f32).exp2(),
        };
        let widened = widen_e4m3(bits);
        assert!(
            widened.to_bits() == expected.to_bits() || widened.is_nan() && expected.is_nan(),
            "{bits:#x}"
        );
        let expected = ::half::f16::from_bits((bits as u16) << 8).to_f32();
        let widened = widen_e5m2(bits);
        assert!(
            widened.to_bits() == expected.to_bits() || widened.is_nan() && expected.is_nan(),
            "{bits:#x}"
        );
    }
    assert_eq!((widen_e4m3(0x7e), widen_e4m3(0x81), widen_e5m2(0x7b)), (448.0, -0.001953125, 57344.0));
}

/// That the packed functions flush as f32's do, and that the clamps agree with f32's.
#[test]
fn halves_agree_with_f32() {
    let mut random = Random(6);
    for _ in 0..10_000 {
        let x = random.u16(super::F16);
        let m = Modifiers { sat: true, ..M };
        assert_eq!(add::<F16>(x, 0x8000, m), F16::narrow(float::saturate(F16::widen(x))));
        assert_eq!(tanh::<F16>(x), F16::narrow(approx::tanh(F16::widen(x))));
    }
}
