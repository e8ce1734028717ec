use std::hint::black_box;

use super::*;
use crate::device::cuda::sim::math::float::*;
use crate::device::cuda::sim::math::{Mode, Round, approx};

const SAMPLES: usize = 60_000;

fn value(x: f32) -> Dyadic {
    F32.value(x.to_bits().into())
}

fn value_f64(x: f64) -> Dyadic {
    F64.value(x.to_bits())
}

#[track_caller]
fn assert_f32(result: f32, round: Round, against: impl Fn(Dyadic) -> Ordering, operands: [f32; 3]) {
    assert_rounded(result.to_bits().into(), F32, round, against, || format!("{operands:?}"));
}

#[track_caller]
fn assert_f64(result: f64, round: Round, against: impl Fn(Dyadic) -> Ordering, operands: [f64; 3]) {
    assert_rounded(result.to_bits(), F64, round, against, || format!("{operands:?}"));
}

/// Sections 9.7.3.3 to 9.7.3.8, 9.7.3.13 and 9.7.3.15, `.rn .rz .rm .rp`: finite results are exact values rounded once.
#[test]
fn f32_is_rounded_once() {
    let mut random = Random(1);
    for _ in 0..SAMPLES {
        let [a, b, c] = [random.f32(), random.f32(), random.f32()];
        if !(a.is_finite() && b.is_finite() && c.is_finite()) {
            continue;
        }
        let (x, y, z) = (value(a), value(b), value(c));
        for round in ROUNDS {
            let mode = Mode::rounding(round);
            assert_f32(add(a, b, mode), round, sum_against(&[x, y]), [a, b, 0.0]);
            assert_f32(sub(a, b, mode), round, sum_against(&[x, y.negated()]), [a, b, 0.0]);
            assert_f32(mul(a, b, mode), round, sum_against(&[x.times(y)]), [a, b, 0.0]);
            assert_f32(fma(a, b, c, mode), round, sum_against(&[x.times(y), z]), [a, b, c]);
            if b != 0.0 {
                assert_f32(div(a, b, mode), round, quotient_against(x, y), [a, b, 0.0]);
                let one = Dyadic { significand: 1, exponent: 0 };
                assert_f32(rcp(b, mode), round, quotient_against(one, y), [b, 0.0, 0.0]);
            }
            if a > 0.0 {
                assert_f32(sqrt(a, mode), round, root_against(x), [a, 0.0, 0.0]);
            }
        }
    }
}

/// The same of f64.
#[test]
fn f64_is_rounded_once() {
    let mut random = Random(2);
    for _ in 0..SAMPLES {
        let [a, b, c] = [random.f64(), random.f64(), random.f64()];
        if !(a.is_finite() && b.is_finite() && c.is_finite()) {
            continue;
        }
        let (x, y, z) = (value_f64(a), value_f64(b), value_f64(c));
        for round in ROUNDS {
            assert_f64(add_f64(a, b, round), round, sum_against(&[x, y]), [a, b, 0.0]);
            assert_f64(sub_f64(a, b, round), round, sum_against(&[x, y.negated()]), [a, b, 0.0]);
            assert_f64(mul_f64(a, b, round), round, sum_against(&[x.times(y)]), [a, b, 0.0]);
            assert_f64(fma_f64(a, b, c, round), round, sum_against(&[x.times(y), z]), [a, b, c]);
            if b != 0.0 {
                assert_f64(div_f64(a, b, round), round, quotient_against(x, y), [a, b, 0.0]);
            }
            if a > 0.0 {
                assert_f64(sqrt_f64(a, round), round, root_against(x), [a, 0.0, 0.0]);
            }
        }
    }
}

/// Fused products that nearly cancel, where the sum's last bits decide.
#[test]
fn fma_keeps_the_whole_product() {
    let mut random = Random(3);
    for _ in 0..SAMPLES {
        let (a, b) = (random.f32(), random.f32());
        let nudge = random.below(5) as u32;
        let c = -f32::from_bits((a * b).to_bits().wrapping_add(nudge).wrapping_sub(2));
        if a.is_finite() && b.is_finite() && c.is_finite() {
            for round in ROUNDS {
                let against = sum_against(&[value(a).times(value(b)), value(c)]);
                assert_f32(fma(a, b, c, Mode::rounding(round)), round, against, [a, b, c]);
            }
        }
        let (a, b) = (random.f64(), random.f64());
        let c = -f64::from_bits((a * b).to_bits().wrapping_add(nudge.into()).wrapping_sub(2));
        if a.is_finite() && b.is_finite() && c.is_finite() {
            for round in ROUNDS {
                let against = sum_against(&[value_f64(a).times(value_f64(b)), value_f64(c)]);
                assert_f64(fma_f64(a, b, c, round), round, against, [a, b, c]);
            }
        }
    }
}

/// By hand: 1 + 2^-30 lies between 1 and 1 + 2^-23; -1/3 is 0xbeaaaaaa.aaa...; 2^127 * 2 is infinity or the
/// largest number, 0x7f7fffff.
#[test]
fn rounding_by_hand() {
    let up = f32::from_bits(0x3f80_0001);
    let tiny = f32::from_bits((127 - 30) << 23);
    let results = |f: &dyn Fn(Mode) -> f32| ROUNDS.map(|round| f(Mode::rounding(round)).to_bits());
    assert_eq!(results(&|m| add(1.0, tiny, m)), [1.0f32, 1.0, 1.0, up].map(f32::to_bits));
    assert_eq!(results(&|m| sub(-1.0, tiny, m)), [-1.0f32, -1.0, -up, -1.0].map(f32::to_bits));
    assert_eq!(results(&|m| div(-1.0, 3.0, m)), [0xbeaa_aaab, 0xbeaa_aaaa, 0xbeaa_aaab, 0xbeaa_aaaa]);
    let big = f32::from_bits(254 << 23);
    assert_eq!(results(&|m| mul(big, 2.0, m)), [0x7f80_0000, 0x7f7f_ffff, 0x7f7f_ffff, 0x7f80_0000]);
    assert_eq!(results(&|m| mul(big, -2.0, m)), [0xff80_0000, 0xff7f_ffff, 0xff80_0000, 0xff7f_ffff]);
    // The root of 2 is 1.6a09e667f3bc... in hexadecimal: 0x3fb504f3.33 of f32.
    assert_eq!(results(&|m| sqrt(2.0, m)), [0x3fb5_04f3, 0x3fb5_04f3, 0x3fb5_04f3, 0x3fb5_04f4]);
    // Half of the smallest subnormal number.
    let least = f32::from_bits(1);
    assert_eq!(results(&|m| mul(least, 0.5, m)), [0, 0, 0, 1]);
    assert_eq!(results(&|m| mul(least, -0.5, m)), [0x8000_0000, 0x8000_0000, 0x8000_0001, 0x8000_0000]);
}

/// IEEE 754-2019, 6.3, which the ISA follows: a sum of opposite numbers is +0, rounded down -0; of equal zeros
/// it is that zero.
#[test]
fn zero_sums_have_the_sign_of_the_mode() {
    for round in ROUNDS {
        let mode = Mode::rounding(round);
        let cancelled = if round == Round::Down { 0x8000_0000 } else { 0 };
        for (a, b) in [(1.5f32, -1.5f32), (-1.5, 1.5), (0.0, -0.0), (-0.0, 0.0)] {
            assert_eq!(add(a, b, mode).to_bits(), cancelled, "{a} + {b} {round:?}");
            assert_eq!(sub(a, -b, mode).to_bits(), cancelled, "{a} - {} {round:?}", -b);
            assert_eq!(fma(a, 1.0, b, mode).to_bits(), cancelled);
            assert_eq!(add_f64(a.into(), b.into(), round).to_bits() >> 32, cancelled.into());
            assert_eq!(fma_f64(a.into(), 1.0, b.into(), round).to_bits() >> 32, cancelled.into());
        }
        assert_eq!(add(0.0, 0.0, mode).to_bits(), 0);
        assert_eq!(add(-0.0, -0.0, mode).to_bits(), 0x8000_0000);
        assert_eq!(add_f64(-0.0, -0.0, round).to_bits(), 1 << 63);
        assert_eq!(add_f64(0.0, 0.0, round).to_bits(), 0);
        assert_eq!(fma_f64(-0.0, 1.0, -0.0, round).to_bits(), 1 << 63);
        assert_eq!(mul(-0.0, 3.0, mode).to_bits(), 0x8000_0000);
        assert_eq!(mul_f64(-0.0, 3.0, round).to_bits(), 1 << 63);
        assert_eq!(div(-0.0, 3.0, mode).to_bits(), 0x8000_0000);
        assert_eq!(div_f64(0.0, -3.0, round).to_bits(), 1 << 63);
        assert_eq!(sqrt(-0.0, mode).to_bits(), 0x8000_0000);
        assert_eq!(sqrt_f64(-0.0, round).to_bits(), 1 << 63);
    }
}

/// Section 9.7.3: infinities and what is invalid, in every mode; f32 NaN is 0x7fffffff. The operands are hidden
/// from the compiler, which would else compute the results itself, and other NaN.
#[test]
fn infinities_and_nan() {
    let [infinity, zero, one] = black_box([f32::INFINITY, 0.0, 1.0f32]);
    for round in ROUNDS {
        let mode = Mode::rounding(round);
        let nan = NAN_F32;
        assert_eq!(add(infinity, 1.0, mode), infinity);
        assert_eq!(add(-infinity, f32::MAX, mode), -infinity);
        assert_eq!(add(infinity, -infinity, mode).to_bits(), nan);
        assert_eq!(mul(infinity, zero, mode).to_bits(), nan);
        assert_eq!(mul(infinity, -2.0, mode), -infinity);
        assert_eq!(fma(infinity, 1.0, -infinity, mode).to_bits(), nan);
        assert_eq!(fma(f32::MAX, f32::MAX, -infinity, mode), -infinity);
        assert_eq!(div(1.0, 0.0, mode), infinity);
        assert_eq!(div(1.0, -0.0, mode), -infinity);
        assert_eq!(div(zero, zero, mode).to_bits(), nan);
        assert_eq!(div(infinity, infinity, mode).to_bits(), nan);
        assert_eq!(div(1.0, -infinity, mode).to_bits(), 0x8000_0000);
        assert_eq!(sqrt(infinity, mode), infinity);
        assert_eq!(sqrt(-one, mode).to_bits(), nan);
        for payload in [0x7f80_0001, 0xffc1_2345] {
            let x = f32::from_bits(black_box(payload));
            assert_eq!(add(x, 1.0, mode).to_bits(), nan);
            assert_eq!(sub(1.0, x, mode).to_bits(), nan);
            assert_eq!(mul(x, x, mode).to_bits(), nan);
            assert_eq!(fma(1.0, 1.0, x, mode).to_bits(), nan);
            assert_eq!(rcp(x, mode).to_bits(), nan);
            assert_eq!(sqrt(x, mode).to_bits(), nan);
        }
        // f64 keeps the first payload, made quiet; what is invalid gives the default NaN.
        let [x, y] = black_box([0x7ff0_0000_0000_1234, 0xfff8_0000_0000_0001]).map(f64::from_bits);
        let [infinity, zero, one] = black_box([f64::INFINITY, 0.0, 1.0]);
        assert_eq!(add_f64(x, y, round).to_bits(), 0x7ff8_0000_0000_1234);
        assert_eq!(sub_f64(1.0, y, round).to_bits(), 0xfff8_0000_0000_0001);
        assert_eq!(mul_f64(y, x, round).to_bits(), 0xfff8_0000_0000_0001);
        assert_eq!(fma_f64(1.0, 2.0, x, round).to_bits(), 0x7ff8_0000_0000_1234);
        assert_eq!(sqrt_f64(y, round).to_bits(), 0xfff8_0000_0000_0001);
        assert_eq!(div_f64(zero, zero, round).to_bits(), NAN_F64);
        assert_eq!(sqrt_f64(-one, round).to_bits(), NAN_F64);
        assert_eq!(add_f64(infinity, -infinity, round).to_bits(), NAN_F64);
        assert_eq!(mul_f64(infinity, zero, round).to_bits(), NAN_F64);
        assert_eq!(rcp_f64(-0.0, round), -f64::INFINITY);
    }
}

/// The same in functions of their own, as an interpreter compiles them: there LLVM has seen through `is_nan` and
/// returned the processor's NaN of a root.
#[test]
fn nan_survives_the_optimiser() {
    const M: Mode = Mode::NEAREST;
    macro_rules! alone {
        ($($value:expr, |$($x:ident: $X:ty),*| $result:expr, $($operand:expr),*;)*) => {
            $({
                #[inline(never)]
                fn compute($($x: $X),*) -> u64 {
                    ($result).to_bits().into()
                }
                assert_eq!(compute($(black_box($operand)),*), $value, stringify!($result));
            })*
        };
    }
    let nan = NAN_F32.into();
    alone! {
        nan, |x: f32| sqrt(x, M), -1.0;
        nan, |x: f32| approx::sqrt(x, false), -1.0;
        nan, |x: f32| approx::rsqrt(x, false), -1.0;
        nan, |x: f32| approx::rsqrt(x, true), -1.0;
        nan, |x: f32| approx::lg2(x, false), -1.0;
        nan, |x: f32| approx::sin(x, false), f32::INFINITY;
        nan, |x: f32, y: f32| add(x, y, M), f32::INFINITY, -f32::INFINITY;
        nan, |x: f32, y: f32| mul(x, y, M), f32::INFINITY, 0.0;
        nan, |x: f32, y: f32| div(x, y, M), 0.0, 0.0;
        nan, |x: f32, y: f32, z: f32| fma(x, y, z, M), f32::INFINITY, 0.0, 1.0;
        nan, |x: f32, y: f32| min(x, y, false), -f32::NAN, f32::NAN;
        nan, |x: f32, y: f32| max(x, y, true), -f32::NAN, 1.0;
        NAN_F64, |x: f64| sqrt_f64(x, Round::Nearest), -1.0;
        NAN_F64, |x: f64, y: f64| div_f64(x, y, Round::Nearest), 0.0, 0.0;
        NAN_F64, |x: f64, y: f64| max_f64(x, y, true), f64::NAN, 1.0;
    }
}

/// Sections 9.7.3.3 to 9.7.3.15: `.ftz` flushes subnormal operands and results to zeros of their sign.
#[test]
fn ftz_keeps_the_sign() {
    let mode = Mode { ftz: true, ..Mode::NEAREST };
    let (least, normal) = (f32::from_bits(1), f32::MIN_POSITIVE);
    let largest_subnormal = f32::from_bits(0x007f_ffff);
    assert_eq!(flush(-largest_subnormal).to_bits(), 0x8000_0000);
    assert_eq!(flush(normal), normal);
    // As operands: without it the sum would be twice the largest subnormal number, which is normal.
    assert_eq!(add(largest_subnormal, largest_subnormal, mode).to_bits(), 0);
    assert!(add(largest_subnormal, largest_subnormal, Mode::NEAREST) > normal);
    assert_eq!(fma(-least, 1.0, -least, mode).to_bits(), 0x8000_0000);
    assert_eq!(mul(-least, 1e30, mode).to_bits(), 0x8000_0000);
    assert_eq!(div(1.0, -least, mode), -f32::INFINITY);
    assert_eq!(sqrt(least, mode).to_bits(), 0);
    // As results.
    assert_eq!(mul(normal, -0.5, mode).to_bits(), 0x8000_0000);
    assert_eq!(sub(normal, f32::from_bits(0x0080_0001), mode).to_bits(), 0x8000_0000);
    assert_eq!(div(normal, 2.0, mode).to_bits(), 0);
    assert_eq!(mul(normal, 2.0, mode), 2.0 * normal);
}

/// Section 9.7.3.3: `.sat` clamps to [0, 1], NaN to +0.
#[test]
fn sat_clamps() {
    let mode = Mode { sat: true, ..Mode::NEAREST };
    let sums = [(0.25, 0.5, 0.75f32), (0.75, 0.75, 1.0), (-2.0, 1.0, 0.0), (f32::INFINITY, 0.0, 1.0)];
    for (a, b, expected) in sums {
        assert_eq!(add(a, b, mode).to_bits(), expected.to_bits());
    }
    assert_eq!(add(f32::NAN, 1.0, mode).to_bits(), 0);
    assert_eq!(mul(-0.0, 1.0, mode).to_bits(), 0);
    assert_eq!(fma(-f32::INFINITY, 1.0, 0.0, mode).to_bits(), 0);
    assert_eq!(saturate_f64(f64::NAN).to_bits(), 0);
    assert_eq!(saturate_f64(1.5), 1.0);
    assert_eq!(saturate_f64(-1.5).to_bits(), 0);
    assert_eq!(saturate_f64(0.1), 0.1);
}

/// Sections 9.7.3.11 and 9.7.3.12: a number wins over NaN, -0 is less than +0, `.NaN` turns the first round.
#[test]
fn min_and_max() {
    let nan = f32::from_bits(0xffc0_0001);
    let bits = |x: f32| x.to_bits();
    assert_eq!((min(1.0, 2.0, false), max(1.0, 2.0, false)), (1.0, 2.0));
    assert_eq!((min(-1.0, -2.0, true), max(-1.0, -2.0, true)), (-2.0, -1.0));
    for (a, b) in [(0.0, -0.0), (-0.0, 0.0)] {
        assert_eq!((bits(min(a, b, false)), bits(max(a, b, false))), (0x8000_0000, 0));
    }
    for (a, b) in [(nan, 3.0), (3.0, nan)] {
        assert_eq!((min(a, b, false), max(a, b, false)), (3.0, 3.0));
        assert_eq!((bits(min(a, b, true)), bits(max(a, b, true))), (NAN_F32, NAN_F32));
    }
    assert_eq!((bits(min(nan, nan, false)), bits(max(nan, nan, false))), (NAN_F32, NAN_F32));
    // .xorsign.abs: of 2 and 3, with the product's sign.
    for (a, b, sign) in [(-2.0f32, 3.0f32, -1.0f32), (-2.0, -3.0, 1.0), (2.0, -3.0, -1.0), (2.0, 3.0, 1.0)] {
        assert_eq!(xorsign_abs(a, b, |a, b| min(a, b, false)), 2.0 * sign);
        assert_eq!(xorsign_abs(a, b, |a, b| max(a, b, false)), 3.0 * sign);
    }
    assert_eq!(bits(xorsign_abs(-1.0, nan, |a, b| min(a, b, true))), NAN_F32);
    assert_eq!(xorsign_abs(-1.0, f32::NAN, |a, b| min(a, b, false)), -1.0);
    let nan = f64::NAN;
    assert_eq!((min_f64(nan, 3.0, false), max_f64(3.0, nan, false)), (3.0, 3.0));
    assert_eq!(min_f64(nan, 3.0, true).to_bits(), NAN_F64);
    assert_eq!(max_f64(-0.0, 0.0, false).to_bits(), 0);
    assert_eq!(min_f64(0.0, -0.0, false).to_bits(), 1 << 63);
}

/// Sections 9.7.3.9, 9.7.3.10 (`abs`, `neg`: only the sign) and 9.7.3.2 (`copysign d, a, b`: a's sign on b).
#[test]
fn signs() {
    assert_eq!(abs(-2.5), 2.5);
    assert_eq!(neg(0.0).to_bits(), 0x8000_0000);
    assert_eq!(neg(f32::from_bits(0x7fff_ffff)).to_bits(), 0xffff_ffff);
    assert_eq!(copysign(-1.0, 7.0), -7.0);
    assert_eq!(copysign(1.0, -7.0), 7.0);
    assert_eq!((abs_f64(-2.5), neg_f64(2.5), copysign_f64(-0.0, 7.0)), (2.5, -2.5, -7.0));
}

/// Section 9.7.3.1
#[test]
fn testp_by_hand() {
    use Property::*;
    let holds = |x: f32| [Finite, Infinite, Number, NotANumber, Normal, Subnormal].map(|p| testp(p, x));
    assert_eq!(holds(1.0), [true, false, true, false, true, false]);
    assert_eq!(holds(-0.0), [true, false, true, false, false, false]);
    assert_eq!(holds(f32::from_bits(0x807f_ffff)), [true, false, true, false, false, true]);
    assert_eq!(holds(f32::MIN_POSITIVE), [true, false, true, false, true, false]);
    assert_eq!(holds(f32::MAX), [true, false, true, false, true, false]);
    assert_eq!(holds(f32::NEG_INFINITY), [false, true, true, false, false, false]);
    assert_eq!(holds(f32::NAN), [false, false, false, true, false, false]);
    assert!(testp_f64(Subnormal, f64::from_bits(1)) && testp_f64(NotANumber, f64::NAN));
    assert!(testp_f64(Normal, -f64::MIN_POSITIVE) && !testp_f64(Finite, f64::INFINITY));
}

/// Section 9.3.1, tables of comparison operators: with NaN the ordered ones fail and the unordered hold.
#[test]
fn comparisons() {
    use Compare::*;
    let all = [Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan];
    let holds = |a: f32, b: f32| all.map(|op| compare(op, a, b) as u8);
    assert_eq!(holds(1.0, 2.0), [0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0]);
    assert_eq!(holds(2.0, 1.0), [0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0]);
    assert_eq!(holds(0.0, -0.0), [1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0]);
    for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::NAN, f32::NAN)] {
        assert_eq!(holds(a, b), [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1]);
    }
    assert!(compare(Lt, -1i32, 0) && compare(Gt, u32::MAX, 0) && compare(Ne, 1u64, 2));
}

/// f64 to f32 in every mode (section 9.7.9.21), of numbers with all f64's bits.
#[test]
fn narrow_is_rounded_once() {
    let mut random = Random(4);
    for _ in 0..4 * SAMPLES {
        let x = match random.below(2) {
            0 => random.f64(),
            // Around every f32, and around the midpoints between them.
            _ => f64::from_bits(
                (random.f32() as f64).to_bits().wrapping_add(random.next() % 5).wrapping_sub(2),
            ),
        };
        if x.is_finite() {
            for round in ROUNDS {
                assert_f32(narrow(x, round), round, sum_against(&[value_f64(x)]), [x as f32; 3]);
            }
        }
    }
    for round in ROUNDS {
        assert_eq!(narrow(f64::NEG_INFINITY, round), f32::NEG_INFINITY);
        assert_eq!(narrow(-0.0, round).to_bits(), 0x8000_0000);
        assert!(narrow(f64::NAN, round).is_nan());
    }
}
