//! Sections 9.7.9.21 and 9.7.9.22: `cvt` and `cvt.pack`; section 9.4.1: what wider registers hold.

use crate::harness::*;

const M1: u64 = 0xffff_ffff;
const NAN: u64 = 0x7fff_ffff;

#[test]
fn between_integers() {
    check("cvt.u32.u8 %d, %a;", [32], 32, &[([0xabcd_ef85], 0x85)]);
    check("cvt.s32.s8 %d, %a;", [32], 32, &[([0xabcd_ef85], 0xffff_ff85)]);
    check("cvt.s64.s32 %d, %a;", [32], 64, &[([M1], u64::MAX), ([5], 5)]);
    check("cvt.u64.u32 %d, %a;", [32], 64, &[([M1], M1)]);
    check("cvt.s64.s16 %d, %a;", [16], 64, &[([0x8000], 0xffff_ffff_ffff_8000)]);
    check("cvt.u16.u32 %d, %a;", [32], 16, &[([0x1234_5678], 0x5678)]);
    check("cvt.u32.u64 %d, %a;", [64], 32, &[([0x1234_5678_9abc_def0], 0x9abc_def0)]);
    // A narrower result is extended to the register's width, by its own sign.
    check("cvt.s8.s32 %d, %a;", [32], 32, &[([0x1234_5685], 0xffff_ff85), ([0x1234_5675], 0x75)]);
    check("cvt.u8.s32 %d, %a;", [32], 32, &[([0x1234_5685], 0x85)]);
    check("cvt.s16.s64 %d, %a;", [64], 32, &[([0x1234_8000], 0xffff_8000)]);
    check("cvt.sat.u8.s32 %d, %a;", [32], 32, &[([300], 255), ([M1], 0), ([7], 7)]);
    check("cvt.sat.s8.s32 %d, %a;", [32], 32, &[([300], 127), ([0xffff_fed4], 0xffff_ff80)]);
    check("cvt.sat.u32.s32 %d, %a;", [32], 32, &[([M1], 0)]);
    check("cvt.sat.s32.u32 %d, %a;", [32], 32, &[([M1], 0x7fff_ffff)]);
    check("cvt.sat.s32.s64 %d, %a;", [64], 32, &[([1 << 40], 0x7fff_ffff), ([1 << 63], 0x8000_0000)]);
}

#[test]
fn floats_to_integers() {
    let rows = |results: [u64; 4]| {
        [2.5f32, -2.5, 3.5, -0.25].map(f).map(|x| [x]).into_iter().zip(results).collect::<Vec<_>>()
    };
    check("cvt.rni.s32.f32 %d, %a;", [32], 32, &rows([2, M1 - 1, 4, 0]));
    check("cvt.rzi.s32.f32 %d, %a;", [32], 32, &rows([2, M1 - 1, 3, 0]));
    check("cvt.rmi.s32.f32 %d, %a;", [32], 32, &rows([2, M1 - 2, 3, M1]));
    check("cvt.rpi.s32.f32 %d, %a;", [32], 32, &rows([3, M1 - 1, 4, 0]));
    check(
        "cvt.rzi.u32.f32 %d, %a;",
        [32],
        32,
        &[([f(-5.0)], 0), ([f(5e9)], M1), ([NAN], 0), ([f(4e9)], 4_000_000_000)],
    );
    check(
        "cvt.rzi.s32.f32 %d, %a;",
        [32],
        32,
        &[([f(3e9)], 0x7fff_ffff), ([f(-3e9)], 0x8000_0000), ([NAN], 0)],
    );
    check(
        "cvt.rzi.s64.f32 %d, %a;",
        [32],
        64,
        &[([f(-1e10)], (-10_000_000_000i64) as u64), ([NAN], 1 << 63), ([f(1e30)], u64::MAX >> 1)],
    );
    check("cvt.rzi.u64.f64 %d, %a;", [64], 64, &[([d(1e19)], 10_000_000_000_000_000_000), ([d(-1.0)], 0)]);
    check("cvt.rni.s32.f64 %d, %a;", [64], 32, &[([d(2.5)], 2), ([d(f64::NAN)], 0x8000_0000)]);
    check("cvt.rzi.s16.f32 %d, %a;", [32], 16, &[([f(40000.0)], 0x7fff), ([f(-7.9)], 0xfff9)]);
    check("cvt.rzi.u8.f32 %d, %a;", [32], 32, &[([f(300.0)], 255), ([f(-1.0)], 0)]);
    check("cvt.rzi.s8.f32 %d, %a;", [32], 32, &[([f(-200.0)], 0xffff_ff80)]);
    check("cvt.rni.s32.f16 %d, %a;", [16], 32, &[([h(2.5)], 2), ([h(-3.5)], M1 - 3)]);
    check("cvt.rpi.ftz.s32.f32 %d, %a;", [32], 32, &[([1], 0)]);
    check("cvt.rpi.s32.f32 %d, %a;", [32], 32, &[([1], 1)]);
}

#[test]
fn integers_to_floats() {
    check(
        "cvt.rn.f32.s32 %d, %a;",
        [32],
        32,
        &[([M1], f(-1.0)), ([0x100_0001], f(16777216.0)), ([0x100_0003], f(16777220.0))],
    );
    check("cvt.rp.f32.s32 %d, %a;", [32], 32, &[([0x100_0001], f(16777218.0))]);
    check("cvt.rz.f32.u32 %d, %a;", [32], 32, &[([M1], 0x4f7f_ffff)]);
    check("cvt.rn.f32.u32 %d, %a;", [32], 32, &[([M1], f(4294967296.0))]);
    check("cvt.rn.f32.u64 %d, %a;", [64], 32, &[([u64::MAX], f(18446744073709551616.0))]);
    check("cvt.rm.f32.s64 %d, %a;", [64], 32, &[([(-16777217i64) as u64], f(-16777218.0))]);
    check("cvt.rn.f64.s32 %d, %a;", [32], 64, &[([M1], d(-1.0))]);
    check("cvt.rn.f64.u64 %d, %a;", [64], 64, &[([u64::MAX], d(18446744073709551616.0))]);
    check("cvt.rn.f16.s32 %d, %a;", [32], 16, &[([65519], 0x7bff), ([65520], 0x7c00), ([M1], h(-1.0))]);
    check("cvt.rn.f32.u8 %d, %a;", [32], 32, &[([0x1ff], f(255.0))]);
    check("cvt.rn.f32.s8 %d, %a;", [32], 32, &[([0x1ff], f(-1.0))]);
    check("cvt.rn.f32.s16 %d, %a;", [16], 32, &[([0x8000], f(-32768.0))]);
}

#[test]
fn between_floats() {
    check("cvt.f64.f32 %d, %a;", [32], 64, &[([f(1.5)], d(1.5)), ([1], d(2f64.powi(-149)))]);
    check("cvt.ftz.f64.f32 %d, %a;", [32], 64, &[([0x8000_0001], 1 << 63)]);
    let x = d(1.0 + 2f64.powi(-24));
    check(
        "cvt.rn.f32.f64 %d, %a;",
        [64],
        32,
        &[([x], f(1.0)), ([x + 1], 0x3f80_0001), ([d(1e300)], 0x7f80_0000)],
    );
    check("cvt.rp.f32.f64 %d, %a;", [64], 32, &[([x], 0x3f80_0001)]);
    check("cvt.rz.f32.f64 %d, %a;", [64], 32, &[([d(1e300)], 0x7f7f_ffff)]);
    check(
        "cvt.f32.f16 %d, %a;",
        [16],
        32,
        &[([h(1.5)], f(1.5)), ([1], f(2f32.powi(-24))), ([0x7c00], 0x7f80_0000), ([0x7e01], NAN)],
    );
    check("cvt.f64.f16 %d, %a;", [16], 64, &[([h(-1.5)], d(-1.5))]);
    check(
        "cvt.rn.f16.f32 %d, %a;",
        [32],
        16,
        &[
            ([f(1.5)], h(1.5)),
            ([f(65520.0)], 0x7c00),
            ([NAN], 0x7fff),
            ([0x3f80_1000], h(1.0)),
            ([0x3f80_3000], 0x3c02),
        ],
    );
    check("cvt.rz.f16.f32 %d, %a;", [32], 16, &[([f(65520.0)], 0x7bff)]);
    check("cvt.rn.sat.f16.f32 %d, %a;", [32], 16, &[([f(1.5)], h(1.0)), ([f(-1.5)], 0)]);
    check(
        "cvt.rn.bf16.f32 %d, %a;",
        [32],
        16,
        &[([f(1.5)], b(1.5)), ([0x3f80_8000], 0x3f80), ([0x3f81_8000], 0x3f82), ([NAN], 0x7fff)],
    );
    check("cvt.rz.bf16.f32 %d, %a;", [32], 16, &[([0x3f81_ffff], 0x3f81)]);
    check("cvt.rn.relu.bf16.f32 %d, %a;", [32], 16, &[([f(-1.5)], 0)]);
    // The first operand is the upper half.
    check("cvt.rn.f16x2.f32 %d, %a, %b;", [32; 2], 32, &[([f(1.0), f(2.0)], x2(h(2.0), h(1.0)))]);
    check("cvt.rn.bf16x2.f32 %d, %a, %b;", [32; 2], 32, &[([f(1.0), f(2.0)], x2(b(2.0), b(1.0)))]);
    check("cvt.rz.relu.f16x2.f32 %d, %a, %b;", [32; 2], 32, &[([f(-1.0), 0x3f80_3fff], x2(0x3c01, 0))]);
    check(
        "cvt.rna.tf32.f32 %d, %a;",
        [32],
        32,
        &[([0x3f80_1000], 0x3f80_2000), ([0x3f80_0fff], 0x3f80_0000)],
    );
    check("cvt.rni.f32.f32 %d, %a;", [32], 32, &[([f(2.5)], f(2.0)), ([f(-0.25)], 1 << 31)]);
    check("cvt.rpi.f64.f64 %d, %a;", [64], 64, &[([d(2.25)], d(3.0))]);
    check("cvt.rmi.f16.f16 %d, %a;", [16], 16, &[([h(-2.25)], h(-3.0))]);
    check("cvt.sat.f32.f32 %d, %a;", [32], 32, &[([f(2.0)], f(1.0)), ([NAN], 0)]);
}

#[test]
fn pack() {
    check("cvt.pack.sat.s16.s32 %d, %a, %b;", [32; 2], 32, &[([40000, 0xffff_0000], 0x7fff_8000)]);
    check("cvt.pack.sat.u16.s32 %d, %a, %b;", [32; 2], 32, &[([70000, M1], 0xffff_0000)]);
    check(
        "cvt.pack.sat.s8.s32.b32 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([200, 0xffff_ff38, 0xabcd_1234], 0x1234_7f80)],
    );
    check("cvt.pack.sat.u8.s32.b32 %d, %a, %b, %c;", [32; 3], 32, &[([300, M1, 0xabcd_1234], 0x1234_ff00)]);
    let rows = |result: u64| [([9, M1 - 99, 0xabcd_1234], result)];
    check("cvt.pack.sat.u4.s32.b32 %d, %a, %b, %c;", [32; 3], 32, &[([9, 20, 0xabcd_1234], 0xcd12_349f)]);
    check("cvt.pack.sat.s4.s32.b32 %d, %a, %b, %c;", [32; 3], 32, &rows(0xcd12_3478));
    check("cvt.pack.sat.u2.s32.b32 %d, %a, %b, %c;", [32; 3], 32, &rows(0xbcd1_234c));
    check("cvt.pack.sat.s2.s32.b32 %d, %a, %b, %c;", [32; 3], 32, &rows(0xbcd1_2346));
}
