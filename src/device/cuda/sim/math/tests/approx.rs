use std::hint::black_box;

use super::Random;
use crate::device::cuda::sim::math::approx::*;

/// Every 509th f32, and so about 16000 in each octave.
fn sweep() -> impl Iterator<Item = f32> {
    (0..=u32::MAX).step_by(509).map(f32::from_bits).filter(|x| !x.is_nan())
}

/// The error in units of the last place of the f32 nearest to the exact value.
fn ulp(result: f32, exact: f64) -> f64 {
    if result as f64 == exact || result.is_infinite() && exact.abs() > f32::MAX as f64 {
        return 0.0;
    }
    let exponent = exact.abs().log2().floor().max(-126.0);
    (result as f64 - exact).abs() / (exponent - 23.0).exp2()
}

/// The largest error over all operands for which there is one to speak of.
fn worst(operands: impl Iterator<Item = f32>, error: impl Fn(f32) -> f64) -> (f64, f32) {
    operands.map(|x| (error(x), x)).fold((0.0, 0.0), |worst, new| if new.0 > worst.0 { new } else { worst })
}

fn bits(x: f32) -> u32 {
    x.to_bits()
}

const NAN: u32 = 0x7fff_ffff;
const LEAST: f32 = f32::from_bits(1);

/// Section 9.7.3.13: 1 ulp. The table of special values is below it.
#[test]
fn rcp_bound() {
    let (error, x) = worst(sweep(), |x| ulp(rcp(x, false), 1.0 / x as f64));
    assert!(error <= 0.5, "{error} at {x:e}");
    let table = black_box([f32::NEG_INFINITY, -0.0, 0.0, f32::INFINITY]).map(|x| bits(rcp(x, false)));
    assert_eq!(table, [0x8000_0000, 0xff80_0000, 0x7f80_0000, 0]);
    assert_eq!(bits(rcp(f32::NAN, false)), NAN);
    assert_eq!((rcp(-LEAST, true), bits(rcp(f32::MAX, true))), (f32::NEG_INFINITY, 0));
    assert_ne!(bits(rcp(f32::MAX, false)), 0);
}

/// Section 9.7.3.15: 2^-23 relative.
#[test]
fn sqrt_bound() {
    let (error, x) = worst(sweep().filter(|x| *x > 0.0), |x| ulp(sqrt(x, false), (x as f64).sqrt()));
    assert!(error <= 0.5, "{error} at {x:e}");
    let table =
        [f32::NEG_INFINITY, -1.0, -LEAST, -0.0, 0.0, f32::INFINITY, f32::NAN].map(|x| bits(sqrt(x, false)));
    assert_eq!(table, [NAN, NAN, NAN, 0x8000_0000, 0, 0x7f80_0000, NAN]);
    assert_eq!((bits(sqrt(-LEAST, true)), bits(sqrt(LEAST, true))), (0x8000_0000, 0));
}

/// Section 9.7.3.16: 2^-22.9 relative.
#[test]
fn rsqrt_bound() {
    let exact = |x: f32| 1.0 / (x as f64).sqrt();
    let relative = |x: f32| (rsqrt(x, false) as f64 / exact(x) - 1.0).abs();
    let (error, x) = worst(sweep().filter(|x| *x > 0.0 && x.is_finite()), relative);
    assert!(error <= (-22.9f64).exp2(), "{error:e} at {x:e}");
    let table = black_box([f32::NEG_INFINITY, -1.0, -0.0, 0.0, f32::INFINITY, f32::NAN])
        .map(|x| bits(rsqrt(x, false)));
    assert_eq!(table, [NAN, NAN, 0xff80_0000, 0x7f80_0000, 0, NAN]);
    assert_eq!((rsqrt(-LEAST, true), rsqrt(LEAST, true)), (f32::NEG_INFINITY, f32::INFINITY));
}

/// Section 9.7.3.8: 2 ulp for |b| in [2^-126, 2^126]; beyond, 0 or of infinite a NaN.
#[test]
fn div_bound() {
    let mut random = Random(1);
    for _ in 0..1_000_000 {
        let (a, b) = (random.f32(), random.f32());
        if a.is_finite() && (1.1754944e-38..=8.507059e37).contains(&b.abs()) {
            let error = ulp(div(a, b, false), a as f64 / b as f64);
            assert!(error <= 2.0, "{a:e} / {b:e}: {error}");
        }
    }
    let big = f32::from_bits(0x7e80_0001);
    assert_eq!(div(3e38, big, false), 0.0);
    assert_eq!(bits(div(f32::INFINITY, big, false)), NAN);
    assert!(div(3e38, f32::from_bits(0x7e80_0000), false) > 3.5);
    assert_eq!((div(1.0, 0.0, false), bits(div(0.0, 0.0, false))), (f32::INFINITY, NAN));
    assert_eq!((div(1.0, LEAST, true), bits(div(-LEAST, 1.0, true))), (f32::INFINITY, 0x8000_0000));
}

/// Section 9.7.3.21: 2^-22 relative; subnormal results, which cannot have that, within 1.2 ulp.
#[test]
fn ex2_bound() {
    let exact = |x: f32| (x as f64).exp2();
    let normal = |x: &f32| (-126.0..128.0).contains(x);
    let (error, x) = worst(sweep().filter(normal), |x| (ex2(x, false) as f64 / exact(x) - 1.0).abs());
    assert!(error <= (-22f64).exp2(), "{error:e} at {x:e}");
    let dense = (-300_000..260_000).map(|i| i as f32 / 2000.0);
    let (error, x) = worst(dense.chain(sweep()), |x| ulp(ex2(x, false), exact(x)));
    assert!(error <= 1.2, "{error} at {x:e}");
    for i in -149..128 {
        assert_eq!(ex2(i as f32, false) as f64, (i as f64).exp2());
    }
    let table =
        black_box([f32::NEG_INFINITY, -LEAST, -0.0, 0.0, LEAST, f32::INFINITY]).map(|x| ex2(x, false));
    assert_eq!(table, [0.0, 1.0, 1.0, 1.0, 1.0, f32::INFINITY]);
    assert_eq!(
        (bits(ex2(f32::NAN, false)), ex2(128.0, false), ex2(3e38, false)),
        (NAN, f32::INFINITY, f32::INFINITY)
    );
    assert_eq!((ex2(-126.0, true), ex2(-126.5, true), ex2(LEAST, true)), (f32::MIN_POSITIVE, 0.0, 1.0));
    assert_eq!((ex2(-149.0, false), ex2(-151.0, false), ex2(-3e38, false)), (LEAST, 0.0, 0.0));
}

/// Section 9.7.3.20: 2^-22 absolute in (0.5, 2), relative elsewhere.
#[test]
fn lg2_bound() {
    let error = |x: f32| {
        let exact = (x as f64).log2();
        let error = (lg2(x, false) as f64 - exact).abs();
        if x > 0.5 && x < 2.0 { error } else { error / exact.abs() }
    };
    let around_one = (0x3f00_0000..0x4000_0001).step_by(7).map(f32::from_bits);
    let (error, x) = worst(sweep().filter(|x| *x > 0.0 && x.is_finite()).chain(around_one), error);
    assert!(error <= (-23f64).exp2(), "{error:e} at {x:e}");
    for i in -149..128 {
        assert_eq!(lg2((i as f64).exp2() as f32, false), i as f32);
    }
    let table =
        [f32::NEG_INFINITY, -1.0, -LEAST, -0.0, 0.0, f32::INFINITY, f32::NAN].map(|x| bits(lg2(x, false)));
    assert_eq!(table, [NAN, NAN, NAN, 0xff80_0000, 0xff80_0000, 0x7f80_0000, NAN]);
    assert_eq!((bits(lg2(-LEAST, true)), lg2(LEAST, true)), (0xff80_0000, f32::NEG_INFINITY));
}

/// Sections 9.7.3.18 and 9.7.3.19: 2^-20.5 absolute in [-2 pi, 2 pi], 2^-14.7 in [-100 pi, 100 pi]. Here 2^-23,
/// from 2^29 on |x| 2^-52.
#[test]
fn sin_and_cos_bounds() {
    let near = (-100_000..100_000).map(|i| i as f32 * 3.2e-3);
    let far = sweep().filter(|x| x.abs() < 2.8e14);
    for x in near.chain(far) {
        let errors = [sin(x, false) as f64 - (x as f64).sin(), cos(x, false) as f64 - (x as f64).cos()];
        let bound = (-23f64).exp2().max(x.abs() as f64 * (-52f64).exp2());
        assert!(errors.iter().all(|error| error.abs() <= bound), "{errors:?} at {x:e}");
    }
    // Small results keep their relative precision.
    for x in sweep().filter(|x| x.abs() < 1.0) {
        let error = ulp(sin(x, false), (x as f64).sin());
        assert!(error <= 1.5, "sin {x:e}: {error}");
    }
    assert_eq!(black_box([-0.0, 0.0, -LEAST]).map(|x| bits(sin(x, false))), [0x8000_0000, 0, 0x8000_0001]);
    assert_eq!(black_box([-LEAST, LEAST]).map(|x| bits(sin(x, true))), [0x8000_0000, 0]);
    assert_eq!(black_box([-0.0, LEAST]).map(|x| cos(x, false)), [1.0, 1.0]);
    for x in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        assert_eq!((bits(sin(x, false)), bits(cos(x, false))), (NAN, NAN));
    }
    assert!(
        sweep().filter(|x| x.is_finite()).all(|x| sin(x, false).abs() <= 1.0 && cos(x, true).abs() <= 1.0)
    );
}

/// Section 9.7.3.22: 2^-11 relative; subnormal operands are supported. Here 2 ulp.
#[test]
fn tanh_bound() {
    let dense = (-40_000..40_000).map(|i| i as f32 / 4000.0);
    let (error, x) = worst(sweep().chain(dense), |x| ulp(tanh(x), (x as f64).tanh()));
    assert!(error <= 2.0, "{error} at {x:e}");
    let table = black_box([f32::NEG_INFINITY, -LEAST, -0.0, 0.0, LEAST, f32::INFINITY, f32::NAN])
        .map(|x| bits(tanh(x)));
    assert_eq!(table, [0xbf80_0000, 0x8000_0001, 0x8000_0000, 0, 1, 0x3f80_0000, NAN]);
}

/// Sections 9.7.3.14 and 9.7.3.17: from the upper half of the operand to the upper half of the result.
#[test]
fn f64_approximations() {
    let mut random = Random(2);
    for _ in 0..100_000 {
        let x = random.f64();
        if x.is_normal() && x.abs() < 4e307 && x.abs() > 4e-307 {
            let result = rcp_f64(x);
            assert!((result * x - 1.0).abs() <= (-19f64).exp2() && result.to_bits() as u32 == 0, "{x:e}");
            assert_eq!(result, rcp_f64(f64::from_bits(x.to_bits() | 0xffff_ffff)));
            let root = rsqrt_f64(x.abs(), false);
            assert!((root * root * x.abs() - 1.0).abs() <= 2.0 * (-22f64).exp2());
            let root = rsqrt_f64(x.abs(), true);
            assert!(
                (root * root * x.abs() - 1.0).abs() <= 2.0 * (-19f64).exp2() && root.to_bits() as u32 == 0
            );
        }
    }
    assert_eq!((rcp_f64(-0.0), rcp_f64(f64::INFINITY)), (f64::NEG_INFINITY, 0.0));
    assert_eq!((rcp_f64(f64::from_bits(1)), rcp_f64(f64::MAX)), (f64::INFINITY, 0.0));
    assert!(rcp_f64(f64::NAN).is_nan() && rsqrt_f64(-1.0, true).is_nan() && rsqrt_f64(-1.0, false).is_nan());
    assert_eq!((rsqrt_f64(-0.0, true), rsqrt_f64(f64::INFINITY, false)), (f64::NEG_INFINITY, 0.0));
}
