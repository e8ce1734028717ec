use super::*;
use crate::device::cuda::sim::math::convert::*;
use crate::device::cuda::sim::math::float;

const INTEGERS: [Type; 8] =
    [Type::U8, Type::U16, Type::U32, Type::U64, Type::S8, Type::S16, Type::S32, Type::S64];

fn format(t: Type) -> Binary {
    match t {
        Type::F16 => F16,
        Type::Bf16 => BF16,
        Type::Tf32 => TF32,
        Type::F32 => F32,
        Type::F64 => F64,
        Type::E5m2 => E5M2,
        _ => panic!("{t:?}"),
    }
}

fn signed(t: Type) -> bool {
    matches!(t, Type::S8 | Type::S16 | Type::S32 | Type::S64)
}

/// An integer with the edges of all widths among them.
fn integer(random: &mut Random) -> u64 {
    let any = random.next();
    match random.below(4) {
        0 => (1 << random.below(64)) - (any & 1),
        1 => (any as i64 >> random.below(64)) as u64,
        2 => (1 << random.below(64)) + (any & 3),
        _ => any,
    }
}

/// The value of an integer type in the lower bits of a register.
fn value(bits: u64, t: Type) -> i128 {
    let wide = (bits as i128) & ((1 << t.bits()) - 1);
    if signed(t) && wide >> (t.bits() - 1) == 1 { wide - (1 << t.bits()) } else { wide }
}

fn range(t: Type) -> (i128, i128) {
    let bits = t.bits();
    if signed(t) { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Section 9.7.9.21: between integers the lower bits stay, or with `.sat` the value is clamped.
#[test]
fn between_integers() {
    let sat = Cvt { sat: true, ..Cvt::NEAREST };
    // By hand: the two bytes of 0xffff_ff85 as -123 and 133.
    assert_eq!(cvt(0xffff_ff85, Type::S32, Type::S8, Cvt::NEAREST), 0x85);
    assert_eq!(cvt(0xffff_ff85, Type::S32, Type::U8, sat), 0);
    assert_eq!(cvt(0xffff_ff85, Type::U32, Type::U8, sat), 0xff);
    assert_eq!(cvt(0x85, Type::S8, Type::S64, Cvt::NEAREST), 0xffff_ffff_ffff_ff85);
    assert_eq!(cvt(0xab85, Type::S8, Type::U16, Cvt::NEAREST), 0xff85);
    assert_eq!(cvt(0x85, Type::U8, Type::S64, Cvt::NEAREST), 0x85);
    assert_eq!(cvt(u64::MAX, Type::U64, Type::S32, sat), 0x7fff_ffff);
    assert_eq!(cvt(1 << 63, Type::S64, Type::S16, sat), 0x8000);
    let mut random = Random(1);
    for from in INTEGERS {
        for to in INTEGERS {
            for _ in 0..500 {
                let bits = integer(&mut random);
                let x = value(bits, from);
                let (low, high) = range(to);
                let truncated = cvt(bits, from, to, Cvt::NEAREST);
                assert_eq!((x - value(truncated, to)) % (1 << to.bits()), 0);
                assert_eq!(truncated >> (to.bits() - 1) >> 1, 0, "nothing above the result");
                assert_eq!(value(cvt(bits, from, to, sat), to), x.max(low).min(high));
            }
        }
    }
}

/// From integers to floats: the exact value rounded once.
#[test]
fn integers_to_floats() {
    let mut random = Random(2);
    for from in INTEGERS {
        for to in [Type::F16, Type::Bf16, Type::F32, Type::F64] {
            for _ in 0..1000 {
                let bits = integer(&mut random);
                let x = Dyadic { significand: value(bits, from), exponent: 0 };
                for round in ROUNDS {
                    let result = cvt(bits, from, to, Cvt { round, ..Cvt::NEAREST });
                    assert_rounded(result, format(to), round, sum_against(&[x]), || {
                        format!("{from:?} {bits:#x}")
                    });
                    let negative = result >> (to.bits() - 1) == 1;
                    assert_eq!(negative, x.significand < 0, "the sign of {bits:#x}");
                }
            }
        }
    }
    for _ in 0..100_000 {
        let x = integer(&mut random) as u32;
        for round in ROUNDS {
            let m = Cvt { round, ..Cvt::NEAREST };
            assert_eq!(u32_to_f32(x, round).to_bits() as u64, cvt(x.into(), Type::U32, Type::F32, m));
            assert_eq!(s32_to_f32(x as i32, round).to_bits() as u64, cvt(x.into(), Type::S32, Type::F32, m));
        }
    }
    // 2^24 + 1 is a tie; 65520 and more overflow f16.
    assert_eq!(
        ROUNDS.map(|round| u32_to_f32(0x100_0001, round)),
        [16777216.0, 16777216.0, 16777216.0, 16777218.0]
    );
    assert_eq!(cvt(65520, Type::U32, Type::F16, Cvt::NEAREST), 0x7c00);
    assert_eq!(cvt(65519, Type::U32, Type::F16, Cvt::NEAREST), 0x7bff);
}

/// From floats to integers: rounded as the mode says, then clamped (section 9.7.9.21, "clamping").
#[test]
fn floats_to_integers() {
    let mut random = Random(3);
    for from in [Type::F16, Type::Bf16, Type::F32, Type::F64] {
        for to in INTEGERS {
            for _ in 0..2000 {
                let bits = random.bits(format(from));
                if format(from).is_nan(bits) {
                    continue;
                }
                let negative = bits >> (from.bits() - 1) == 1;
                for round in ROUNDS {
                    let result = value(cvt(bits, from, to, Cvt { round, ..Cvt::NEAREST }), to);
                    let (low, high) = range(to);
                    if !format(from).is_finite(bits) {
                        assert_eq!(result, if negative { low } else { high });
                        continue;
                    }
                    // How x lies to n, and to n + 1/2.
                    let exact = sum_against(&[format(from).value(bits)]);
                    let at = |n: i128| exact(Dyadic { significand: n, exponent: 0 });
                    let middle = |n: i128| exact(Dyadic { significand: 2 * n + 1, exponent: -1 });
                    use Ordering::*;
                    let even = result & 1 == 0;
                    let (not_too_high, not_too_low) = match round {
                        Round::Nearest => (
                            middle(result - 1) == Greater || even && middle(result - 1) == Equal,
                            middle(result) == Less || even && middle(result) == Equal,
                        ),
                        Round::Down => (at(result) != Less, at(result + 1) == Less),
                        Round::Up => (at(result - 1) == Greater, at(result) != Greater),
                        Round::Zero if result == 0 => (at(-1) == Greater, at(1) == Less),
                        Round::Zero if result > 0 => (at(result) != Less, at(result + 1) == Less),
                        Round::Zero => (at(result - 1) == Greater, at(result) != Greater),
                    };
                    // Clamped, it is the exact value that lies beyond.
                    assert!(not_too_high || result == low, "{from:?} {bits:#x} {to:?} {round:?}: {result}");
                    assert!(not_too_low || result == high, "{from:?} {bits:#x} {to:?} {round:?}: {result}");
                }
            }
        }
    }
}

/// Section 9.7.9.21: NaN becomes 0, or with f64 or 64 bits on either side 1 << (width - 1).
#[test]
fn nan_to_integers() {
    let nan =
        [(Type::F16, 0x7e00), (Type::Bf16, 0xffff), (Type::F32, 0x7fc0_0000), (Type::F64, 0x7ff8 << 48)];
    for (from, bits) in nan {
        for to in INTEGERS {
            let top = from == Type::F64 || to.bits() == 64;
            let expected = if top { 1 << (to.bits() - 1) } else { 0 };
            assert_eq!(cvt(bits, from, to, Cvt::NEAREST), expected, "{from:?} {to:?}");
        }
    }
}

/// By hand: 2.5, -2.5 and 3.5 in `.rni .rzi .rmi .rpi`.
#[test]
fn integral_by_hand() {
    assert_eq!(ROUNDS.map(|round| f32_to_s32(2.5, round)), [2, 2, 2, 3]);
    assert_eq!(ROUNDS.map(|round| f32_to_s32(-2.5, round)), [-2, -2, -3, -2]);
    assert_eq!(ROUNDS.map(|round| f32_to_u32(3.5, round)), [4, 3, 3, 4]);
    assert_eq!(ROUNDS.map(|round| f32_to_u32(-0.5, round)), [0; 4]);
    assert_eq!((f32_to_s32(3e9, Round::Zero), f32_to_s32(-3e9, Round::Zero)), (i32::MAX, i32::MIN));
    assert_eq!((f32_to_u32(5e9, Round::Zero), f32_to_u32(f32::NAN, Round::Zero)), (u32::MAX, 0));
    assert_eq!(
        ROUNDS.map(|round| round_to_integral(-0.5, round).to_bits()),
        [1 << 31, 1 << 31, (-1f32).to_bits(), 1 << 31]
    );
    assert_eq!(round_to_integral(f32::from_bits(0xff80_0001), Round::Up).to_bits(), 0x7fff_ffff);
    // 0x4100 is 2.5 in f16, 0x4200 is 3.
    let m = Cvt { integral: true, round: Round::Up, ..Cvt::NEAREST };
    assert_eq!(cvt(0x4100, Type::F16, Type::F16, m), 0x4200);
    assert_eq!(cvt(0x4004 << 48, Type::F64, Type::F64, m), 0x4008 << 48);
}

/// The fast conversions are the general one.
#[test]
fn fast_paths_agree() {
    let mut random = Random(4);
    for _ in 0..200_000 {
        let x = random.f32();
        let bits = x.to_bits() as u64;
        for round in ROUNDS {
            let m = Cvt { round, ..Cvt::NEAREST };
            assert_eq!(f32_to_s32(x, round) as u32 as u64, cvt(bits, Type::F32, Type::S32, m), "{x:?}");
            assert_eq!(f32_to_u32(x, round) as u64, cvt(bits, Type::F32, Type::U32, m), "{x:?}");
            let integral = Cvt { integral: true, ..m };
            assert_eq!(
                round_to_integral(x, round).to_bits() as u64,
                cvt(bits, Type::F32, Type::F32, integral)
            );
            let y = random.f64();
            if !y.is_nan() {
                let narrow = float::narrow(y, round).to_bits() as u64;
                assert_eq!(narrow, cvt(y.to_bits(), Type::F64, Type::F32, m), "{y:?}");
            }
        }
        assert_eq!(f32_to_f64(x).to_bits(), cvt(bits, Type::F32, Type::F64, Cvt::NEAREST));
    }
}

/// Between floats: the exact value rounded once. f64 to f16 would go wrong by way of f32.
#[test]
fn between_floats() {
    let floats = [Type::F16, Type::Bf16, Type::F32, Type::F64];
    let mut random = Random(5);
    for from in floats {
        for to in [Type::F16, Type::Bf16, Type::F32, Type::F64, Type::Tf32, Type::E5m2] {
            for _ in 0..3000 {
                let bits = random.bits(format(from));
                if !format(from).is_finite(bits) {
                    continue;
                }
                for round in ROUNDS {
                    let result = cvt(bits, from, to, Cvt { round, ..Cvt::NEAREST });
                    let result = if to == Type::Tf32 { result >> 13 } else { result };
                    let against = sum_against(&[format(from).value(bits)]);
                    assert_rounded(result, format(to), round, against, || {
                        format!("{from:?} {bits:#x} {to:?}")
                    });
                    let sign = |bits: u64, t: Type| bits >> (format(t).width() - 1);
                    assert_eq!(sign(result, to), sign(bits, from));
                }
            }
        }
    }
    // 1 + 2^-11 + 2^-50: f32 would lose the last term and leave a tie.
    let x = 1.0 + (-11f64).exp2() + (-50f64).exp2();
    assert_eq!(cvt(x.to_bits(), Type::F64, Type::F16, Cvt::NEAREST), 0x3c01);
    for from in floats {
        for to in floats {
            let infinity = format(from).infinity();
            assert_eq!(cvt(infinity, from, to, Cvt::NEAREST), format(to).infinity());
            let nan = match (from, to) {
                // Sign and payload stay, made quiet.
                (Type::F64, Type::F64) => 0x7ff8_0000_0000_0001,
                (Type::F32, Type::F64) => 0x7ff8_0000_2000_0000,
                // 0x7fffffff in f64.
                (_, Type::F64) => 0x7fff_ffff_e000_0000,
                (_, Type::F32) => 0x7fff_ffff,
                _ => 0x7fff,
            };
            assert_eq!(cvt(infinity + 1, from, to, Cvt::NEAREST), nan, "{from:?} {to:?}");
        }
    }
}

/// `.ftz`, `.sat`, `.relu`, `.satfinite`, `.rna`, by hand.
#[test]
fn modifiers() {
    let m = Cvt::NEAREST;
    let (ftz, sat) = (Cvt { ftz: true, ..m }, Cvt { sat: true, ..m });
    let (relu, finite) = (Cvt { relu: true, ..m }, Cvt { satfinite: true, ..m });
    let f32_bits = |x: f32| x.to_bits() as u64;
    let f64_bits = |x: f64| x.to_bits();
    // .ftz: an f32 operand, an f32 result.
    let up = Cvt { ftz: true, round: Round::Up, ..m };
    assert_eq!(cvt(1, Type::F32, Type::S32, up), 0);
    assert_eq!(cvt(1, Type::F32, Type::S32, Cvt { round: Round::Up, ..m }), 1);
    assert_eq!(cvt(0x8000_0001, Type::F32, Type::F64, ftz), 1 << 63);
    assert_eq!(cvt(f64_bits(-1e-40), Type::F64, Type::F32, ftz), 0x8000_0000);
    assert_ne!(cvt(f64_bits(-1e-40), Type::F64, Type::F32, m), 0x8000_0000);
    // .sat
    assert_eq!(cvt(f32_bits(1.5), Type::F32, Type::F32, sat), f32_bits(1.0));
    assert_eq!(cvt(f32_bits(-0.0), Type::F32, Type::F16, sat), 0);
    assert_eq!(cvt(f32_bits(f32::NAN), Type::F32, Type::F32, sat), 0);
    assert_eq!(cvt(7, Type::S32, Type::F32, sat), f32_bits(1.0));
    // .relu
    assert_eq!(cvt(f32_bits(-2.0), Type::F32, Type::Bf16, relu), 0);
    assert_eq!(cvt(f32_bits(2.0), Type::F32, Type::Bf16, relu), 0x4000);
    assert_eq!(cvt(f32_bits(f32::NAN), Type::F32, Type::F16, relu), 0x7fff);
    // .satfinite: 448 is the largest e4m3, 57344 the largest e5m2.
    for (to, largest) in [(Type::E4m3, 0x7e), (Type::E5m2, 0x7b)] {
        for x in [1e6, f32::INFINITY] {
            assert_eq!(cvt(f32_bits(x), Type::F32, to, finite), largest);
            assert_eq!(cvt(f32_bits(-x), Type::F32, to, finite), largest | 0x80);
            assert_eq!(cvt(f32_bits(-x), Type::F32, to, Cvt { relu: true, ..finite }), 0);
        }
        assert_eq!(cvt(f32_bits(f32::NAN), Type::F32, to, finite), 0x7f);
        // A tie between 1 and the next number.
        let step = if to == Type::E4m3 { 0.125 } else { 0.25 };
        let one = if to == Type::E4m3 { 0x38 } else { 0x3c };
        assert_eq!(cvt(f32_bits(1.0 + step / 2.0), Type::F32, to, finite), one);
        assert_eq!(cvt(f32_bits(1.0 + 1.5 * step), Type::F32, to, finite), one + 2);
    }
    assert_eq!(cvt(f32_bits(464.0), Type::F32, Type::E4m3, finite), 0x7e);
    // Every 8-bit number survives the way there and back.
    for bits in 0..=255u64 {
        for t in [Type::E4m3, Type::E5m2] {
            let wide = cvt(bits, t, Type::F16, m);
            if wide & 0x7fff <= 0x7c00 {
                assert_eq!(cvt(wide, Type::F16, t, m), bits, "{t:?} {bits:#x}");
            }
        }
    }
    // .rna: ties away from zero.
    let away = Cvt { away: true, ..m };
    assert_eq!(cvt(0xbf80_1000, Type::F32, Type::Tf32, away), 0xbf80_2000);
    assert_eq!(cvt(0xbf80_1000, Type::F32, Type::Tf32, m), 0xbf80_0000);
    assert_eq!(cvt(0xffc0_3456, Type::F32, Type::Tf32, away), 0xffc0_2000);
    let away_finite = Cvt { satfinite: true, ..away };
    assert_eq!(cvt(0x7f7f_ffff, Type::F32, Type::Tf32, away), 0x7f80_0000);
    assert_eq!(cvt(0x7f7f_ffff, Type::F32, Type::Tf32, away_finite), 0x7f7f_e000);
}

/// Section 9.7.9.22
#[test]
fn packing() {
    assert_eq!(pack16(40000, -40000, true), 0x7fff_8000);
    assert_eq!(pack16(70000, -1, false), 0xffff_0000);
    assert_eq!(pack16(-2, 3, true), 0xfffe_0003);
    assert_eq!(pack(200, -200, 0xabcd_1234, 8, true), 0x1234_7f80);
    assert_eq!(pack(300, -1, 0xabcd_1234, 8, false), 0x1234_ff00);
    assert_eq!(pack(-9, 6, 0xabcd_1234, 4, true), 0xcd12_3486);
    assert_eq!(pack(3, 9, 0xabcd_1234, 2, false), 0xbcd1_234f);
}
