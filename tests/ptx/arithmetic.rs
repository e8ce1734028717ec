//! Sections 9.7.1 to 9.7.4 and 9.7.8: integers, bits, floats, halves.

use crate::harness::*;

const M1: u64 = 0xffff_ffff;
const MIN: u64 = 0x8000_0000;
const MAX: u64 = 0x7fff_ffff;
const M1_64: u64 = u64::MAX;
const MIN_64: u64 = 1 << 63;
const NAN: u64 = 0x7fff_ffff;
const INF: u64 = 0x7f80_0000;

#[test]
fn add_and_sub() {
    check("add.u16 %d, %a, %b;", [16; 2], 16, &[([0xffff, 2], 1), ([0x1234, 0x1111], 0x2345)]);
    check("add.s32 %d, %a, %b;", [32; 2], 32, &[([MAX, 1], MIN), ([M1, 1], 0)]);
    check("add.u32 %d, %a, -7;", [32], 32, &[([5], M1 - 1)]);
    check("add.s64 %d, %a, %b;", [64; 2], 64, &[([M1, 1], 1 << 32), ([M1_64, 1], 0)]);
    check("add.sat.s32 %d, %a, %b;", [32; 2], 32, &[([MAX, 1], MAX), ([MIN, M1], MIN), ([5, M1], 4)]);
    check("sub.s32 %d, %a, %b;", [32; 2], 32, &[([MIN, 1], MAX), ([3, 5], M1 - 1)]);
    check("sub.sat.s32 %d, %a, %b;", [32; 2], 32, &[([MIN, 1], MIN), ([MAX, M1], MAX)]);
    check("sub.u64 %d, %a, %b;", [64; 2], 64, &[([0, 1], M1_64)]);
}

#[test]
fn products() {
    check("mul.lo.s32 %d, %a, %b;", [32; 2], 32, &[([M1, 7], M1 - 6), ([0x10000, 0x10000], 0)]);
    check("mul.hi.u32 %d, %a, %b;", [32; 2], 32, &[([M1, M1], M1 - 1)]);
    check("mul.hi.s32 %d, %a, %b;", [32; 2], 32, &[([M1, M1], 0), ([M1, 1], M1), ([MIN, MIN], 0x4000_0000)]);
    check("mul.wide.u32 %d, %a, %b;", [32; 2], 64, &[([M1, M1], 0xffff_fffe_0000_0001)]);
    check("mul.wide.s32 %d, %a, %b;", [32; 2], 64, &[([M1, 5], M1_64 - 4)]);
    check("mul.wide.s16 %d, %a, %b;", [16; 2], 32, &[([0xffff, 2], M1 - 1), ([0x8000, 0x8000], 0x4000_0000)]);
    check("mul.wide.u16 %d, %a, %b;", [16; 2], 32, &[([0xffff, 2], 0x1_fffe)]);
    check("mul.lo.u64 %d, %a, %b;", [64; 2], 64, &[([1 << 40, 1 << 20], 1 << 60), ([1 << 40, 1 << 24], 0)]);
    check("mul.hi.u64 %d, %a, %b;", [64; 2], 64, &[([1 << 40, 1 << 24], 1), ([M1_64, M1_64], M1_64 - 1)]);
    check("mul.hi.s64 %d, %a, %b;", [64; 2], 64, &[([M1_64, 1], M1_64), ([MIN_64, 2], M1_64)]);
    check("mad.lo.s32 %d, %a, %b, %c;", [32; 3], 32, &[([6, 7, M1], 41)]);
    check("mad.hi.u32 %d, %a, %b, %c;", [32; 3], 32, &[([MIN, 4, 5], 7)]);
    check("mad.hi.sat.s32 %d, %a, %b, %c;", [32; 3], 32, &[([MIN, MIN, MAX], MAX), ([MIN, 2, MIN], MIN)]);
    check("mad.wide.u32 %d, %a, %b, %c;", [32, 32, 64], 64, &[([M1, 2, 3], 0x2_0000_0001)]);
    check("mad.wide.s32 %d, %a, %b, %c;", [32, 32, 64], 64, &[([M1, 2, 1], M1_64)]);
    check("mul24.lo.u32 %d, %a, %b;", [32; 2], 32, &[([0xab00_0003, 0xcd00_0005], 15)]);
    check("mul24.hi.u32 %d, %a, %b;", [32; 2], 32, &[([0x00ff_ffff, 0x00ff_ffff], 0xffff_fe00)]);
    check("mul24.lo.s32 %d, %a, %b;", [32; 2], 32, &[([0x00ff_ffff, 3], M1 - 2)]);
    check("mad24.lo.s32 %d, %a, %b, %c;", [32; 3], 32, &[([0x00ff_ffff, 3, 10], 7)]);
    check("sad.u32 %d, %a, %b, %c;", [32; 3], 32, &[([3, 10, 100], 107), ([10, 3, 100], 107)]);
    check("sad.s32 %d, %a, %b, %c;", [32; 3], 32, &[([M1 - 2, 10, 100], 113)]);
}

/// Division by zero gives all ones, as GPUs do; the ISA leaves it open.
#[test]
fn quotients() {
    check(
        "div.s32 %d, %a, %b;",
        [32; 2],
        32,
        &[([M1 - 6, 2], M1 - 2), ([7, M1 - 1], M1 - 2), ([MIN, M1], MIN), ([5, 0], M1)],
    );
    check(
        "rem.s32 %d, %a, %b;",
        [32; 2],
        32,
        &[([M1 - 6, 2], M1), ([7, M1 - 1], 1), ([MIN, M1], 0), ([5, 0], M1)],
    );
    check("div.u32 %d, %a, %b;", [32; 2], 32, &[([M1, 2], MAX), ([1, 0], M1)]);
    check("rem.u32 %d, %a, %b;", [32; 2], 32, &[([M1, 10], 5)]);
    check("div.s64 %d, %a, %b;", [64; 2], 64, &[([MIN_64, M1_64], MIN_64), ([M1_64 - 8, 2], M1_64 - 3)]);
    check("rem.u64 %d, %a, %b;", [64; 2], 64, &[([1 << 63, 1000], 808)]);
    check("div.s16 %d, %a, %b;", [16; 2], 16, &[([0xfff9, 2], 0xfffd)]);
}

#[test]
fn min_max_abs_neg() {
    check("min.s32 %d, %a, %b;", [32; 2], 32, &[([M1, 1], M1)]);
    check("max.s32 %d, %a, %b;", [32; 2], 32, &[([M1, 1], 1)]);
    check("min.u32 %d, %a, %b;", [32; 2], 32, &[([M1, 1], 1)]);
    check("max.u64 %d, %a, %b;", [64; 2], 64, &[([M1_64, 1], M1_64)]);
    check("min.s64 %d, %a, %b;", [64; 2], 64, &[([M1_64, 1], M1_64)]);
    check("max.s16 %d, %a, %b;", [16; 2], 16, &[([0xffff, 1], 1)]);
    check("abs.s32 %d, %a;", [32], 32, &[([M1], 1), ([MIN], MIN), ([5], 5)]);
    check("neg.s32 %d, %a;", [32], 32, &[([1], M1), ([MIN], MIN)]);
    check("abs.s64 %d, %a;", [64], 64, &[([M1_64], 1)]);
    check("neg.s16 %d, %a;", [16], 16, &[([1], 0xffff)]);
}

#[test]
fn bits() {
    check("popc.b32 %d, %a;", [32], 32, &[([0xf0f0_0001], 9), ([0], 0)]);
    check("popc.b64 %d, %a;", [64], 32, &[([M1_64], 64)]);
    check("clz.b32 %d, %a;", [32], 32, &[([1], 31), ([0], 32)]);
    check("clz.b64 %d, %a;", [64], 32, &[([1], 63), ([0], 64)]);
    check("brev.b32 %d, %a;", [32], 32, &[([1], MIN), ([0x0000_00f0], 0x0f00_0000)]);
    check("brev.b64 %d, %a;", [64], 64, &[([1], MIN_64)]);
    check("bfind.u32 %d, %a;", [32], 32, &[([0x100], 8), ([0], M1)]);
    check("bfind.s32 %d, %a;", [32], 32, &[([M1], M1), ([M1 - 1], 0), ([0x100], 8)]);
    check("bfind.shiftamt.u32 %d, %a;", [32], 32, &[([0x100], 23), ([0], M1)]);
    check("bfind.s64 %d, %a;", [64], 32, &[([!0x100], 8)]);
    check(
        "fns.b32 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([0xb4, 2, 2], 4), ([0xb4, 5, M1 - 2], 2), ([0xb4, 3, 0], M1)],
    );
    check(
        "bfe.u32 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([0x1234_8678, 8, 8], 0x86), ([M1, 28, 8], 0xf), ([M1, 40, 4], 0)],
    );
    check(
        "bfe.s32 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([0x1234_8678, 8, 8], 0xffff_ff86), ([M1, 3, 0], 0), ([MIN, 40, 4], M1)],
    );
    check("bfe.s64 %d, %a, %b, %c;", [64, 32, 32], 64, &[([0x80_0000_0000, 32, 8], M1_64 - 127)]);
    check(
        "bfi.b32 %d, %a, %b, %c, %e;",
        [32; 4],
        32,
        &[([0xab, 0x1111_1111, 12, 8], 0x111a_b111), ([M1, 0, 28, 8], 0xf000_0000)],
    );
    check("bfi.b64 %d, %a, %b, %c, %e;", [64, 64, 32, 32], 64, &[([0xff, 0, 40, 4], 0xf << 40)]);
    check(
        "szext.clamp.s32 %d, %a, %b;",
        [32; 2],
        32,
        &[([0xabcd, 8], 0xffff_ffcd), ([0xabcd, 40], 0xabcd), ([0xabcd, 0], 0)],
    );
    check("szext.wrap.u32 %d, %a, %b;", [32; 2], 32, &[([0xabcd, 40], 0xcd)]);
    check(
        "bmsk.clamp.b32 %d, %a, %b;",
        [32; 2],
        32,
        &[([4, 8], 0xff0), ([28, 8], 0xf000_0000), ([32, 8], 0), ([4, 32], 0xffff_fff0)],
    );
    check("bmsk.wrap.b32 %d, %a, %b;", [32; 2], 32, &[([33, 33], 2)]);
}

#[test]
fn logic_and_shifts() {
    check("and.b32 %d, %a, %b;", [32; 2], 32, &[([0xff00, 0x0ff0], 0x0f00)]);
    check("or.b64 %d, %a, %b;", [64; 2], 64, &[([0xff00 << 32, 0x0ff0], 0xff00_0000_0ff0)]);
    check("xor.b16 %d, %a, %b;", [16; 2], 16, &[([0xff00, 0x0ff0], 0xf0f0)]);
    check("not.b32 %d, %a;", [32], 32, &[([0xff00], 0xffff_00ff)]);
    check("cnot.b32 %d, %a;", [32], 32, &[([0], 1), ([7], 0)]);
    check(
        "lop3.b32 %d, %a, %b, %c, 0x96;",
        [32; 3],
        32,
        &[([0xff00, 0x0ff0, 0x00ff], 0xff00 ^ 0x0ff0 ^ 0x00ff)],
    );
    check(
        "lop3.b32 %d, %a, %b, %c, 0xea;",
        [32; 3],
        32,
        &[([0xff00, 0x0ff0, 0x00ff], 0xff00 & 0x0ff0 | 0x00ff)],
    );
    check("shl.b32 %d, %a, %b;", [32; 2], 32, &[([1, 31], MIN), ([1, 32], 0), ([M1, 4], 0xffff_fff0)]);
    check("shl.b64 %d, %a, %b;", [64, 32], 64, &[([1, 63], MIN_64), ([1, 64], 0)]);
    check("shl.b16 %d, %a, %b;", [16, 32], 16, &[([1, 15], 0x8000), ([1, 16], 0)]);
    check("shr.u32 %d, %a, %b;", [32; 2], 32, &[([MIN, 31], 1), ([MIN, 32], 0)]);
    check("shr.s32 %d, %a, %b;", [32; 2], 32, &[([MIN, 31], M1), ([MIN, 99], M1), ([MAX, 99], 0)]);
    check("shr.s64 %d, %a, %b;", [64, 32], 64, &[([MIN_64, 200], M1_64)]);
    check("shr.b16 %d, %a, %b;", [16, 32], 16, &[([0x8000, 15], 1)]);
    check(
        "shf.l.wrap.b32 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([0x8000_0001, 0x1234_5678, 4], 0x2345_6788), ([1, 2, 32], 2)],
    );
    check("shf.l.clamp.b32 %d, %a, %b, %c;", [32; 3], 32, &[([1, 2, 32], 1), ([1, 2, 99], 1)]);
    check("shf.r.wrap.b32 %d, %a, %b, %c;", [32; 3], 32, &[([0x8000_0001, 0x1234_5678, 4], 0x8800_0000)]);
    check("shf.r.clamp.b32 %d, %a, %b, %c;", [32; 3], 32, &[([1, 2, 33], 2)]);
    let (low, high) = (0x3322_1100, 0x7766_5544);
    check(
        "prmt.b32 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([low, high, 0x7531], 0x7755_3311), ([0x807f, 0, 0x9818], 0xff00_8000)],
    );
    check("prmt.b32.f4e %d, %a, %b, %c;", [32; 3], 32, &[([low, high, 1], 0x4433_2211)]);
    check("prmt.b32.b4e %d, %a, %b, %c;", [32; 3], 32, &[([low, high, 1], 0x6677_0011)]);
    check("prmt.b32.rc8 %d, %a, %b, %c;", [32; 3], 32, &[([low, high, 2], 0x2222_2222)]);
    check("prmt.b32.ecl %d, %a, %b, %c;", [32; 3], 32, &[([low, high, 2], 0x3322_2222)]);
    check("prmt.b32.ecr %d, %a, %b, %c;", [32; 3], 32, &[([low, high, 2], 0x2222_1100)]);
    check("prmt.b32.rc16 %d, %a, %b, %c;", [32; 3], 32, &[([low, high, 1], 0x3322_3322)]);
    check("dp4a.s32.s32 %d, %a, %b, %c;", [32; 3], 32, &[([0xff02_0380, 0x0405_ff80, 7], 16394)]);
    check("dp4a.u32.u32 %d, %a, %b, %c;", [32; 3], 32, &[([0xff02_0380, 0x0405_ff80, 7], 18186)]);
    check("dp2a.lo.s32.u32 %d, %a, %b, %c;", [32; 3], 32, &[([0xfffe_0003, 0x0405_ff80, 7], M1 - 118)]);
    check("dp2a.hi.s32.u32 %d, %a, %b, %c;", [32; 3], 32, &[([0xfffe_0003, 0x0405_ff80, 7], 14)]);
}

/// Section 9.7.2: the carry goes from one instruction to the next.
#[test]
fn carry_chains() {
    let rows = [([M1, 1, 5], 6 + 5), ([1, 1, 5], 10)];
    check("{ .reg .b32 %x; add.cc.u32 %x, %a, %b; addc.u32 %d, %c, %c; }", [32; 3], 32, &rows);
    check(
        "{ .reg .b32 %x; sub.cc.u32 %x, %a, %b; subc.u32 %d, %c, 0; }",
        [32; 3],
        32,
        &[([1, 2, 5], 4), ([2, 1, 5], 5)],
    );
    // Carry in and out of the middle word.
    let body = "{ .reg .b32 %x; add.cc.u32 %x, %a, %a; addc.cc.u32 %x, %b, 0; addc.u32 %d, %c, 0; }";
    check(body, [32; 3], 32, &[([MIN, M1, 7], 8), ([MIN, 0, 7], 7), ([1, M1, 7], 7)]);
    let body = "{ .reg .b32 %x; mad.lo.cc.u32 %x, %a, %b, %c; madc.hi.u32 %d, %a, %b, %c; }";
    check(body, [32; 3], 32, &[([M1, M1, M1], M1 - 1 + M1 + 1 - (1 << 32))]);
    check("{ .reg .b64 %x; add.cc.u64 %x, %a, %b; addc.u64 %d, %c, 0; }", [64; 3], 64, &[([M1_64, 1, 5], 6)]);
}

/// Sums and products of f32 in all rounding modes: 1 + 2^-30, -1 - 2^-30, (1 + 2^-23)^2.
#[test]
fn f32_arithmetic() {
    let (tiny, above, below) = (f(2f32.powi(-30)), 0x3f80_0001, 0xbf80_0001);
    check(
        "add.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([f(1.5), f(2.25)], f(3.75)), ([f(1.0), tiny], f(1.0)), ([INF, INF | MIN], NAN)],
    );
    check(
        "add.rz.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([f(-1.0), tiny | MIN], f(-1.0)), ([f(1.0), tiny], f(1.0))],
    );
    check("add.rm.f32 %d, %a, %b;", [32; 2], 32, &[([f(-1.0), tiny | MIN], below), ([f(1.0), f(-1.0)], MIN)]);
    check("add.rp.f32 %d, %a, %b;", [32; 2], 32, &[([f(1.0), tiny], above), ([f(1.0), f(-1.0)], 0)]);
    check(
        "add.sat.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([f(0.75), f(0.75)], f(1.0)), ([f(-3.0), f(1.0)], 0), ([NAN, f(1.0)], 0)],
    );
    check(
        "add.ftz.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([1, 1], 0), ([MIN | 1, MIN | 1], MIN), ([0x0080_0000, 0x8080_0001], MIN)],
    );
    check("sub.f32 %d, %a, %b;", [32; 2], 32, &[([f(1.0), f(2.5)], f(-1.5))]);
    check("sub.rm.ftz.f32 %d, %a, %b;", [32; 2], 32, &[([f(1.0), f(1.0)], MIN)]);
    check(
        "mul.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([f(1.5), f(-2.5)], f(-3.75)), ([INF, 0], NAN), ([above, above], 0x3f80_0002)],
    );
    check("mul.rp.f32 %d, %a, %b;", [32; 2], 32, &[([above, above], 0x3f80_0003), ([1, f(0.5)], 1)]);
    check("mul.rz.f32 %d, %a, %b;", [32; 2], 32, &[([f(3e38), f(2.0)], 0x7f7f_ffff)]);
    check("mul.ftz.f32 %d, %a, %b;", [32; 2], 32, &[([0x0080_0000, f(-0.5)], MIN)]);
    // (1 + 2^-23)^2 - (1 + 2^-22) = 2^-46
    check("fma.rn.f32 %d, %a, %b, %c;", [32; 3], 32, &[([above, above, 0xbf80_0002], f(2f32.powi(-46)))]);
    check("mad.rn.f32 %d, %a, %b, %c;", [32; 3], 32, &[([above, above, 0xbf80_0002], f(2f32.powi(-46)))]);
    check("fma.rm.f32 %d, %a, %b, %c;", [32; 3], 32, &[([f(1.0), f(1.0), f(-1.0)], MIN)]);
    check(
        "fma.rp.ftz.sat.f32 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([f(0.5), f(0.5), tiny], 0x3e80_0001), ([f(2.0), f(2.0), 0], f(1.0))],
    );
    check(
        "div.rn.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([f(-1.0), f(3.0)], 0xbeaa_aaab), ([f(1.0), 0], INF), ([0, 0], NAN)],
    );
    check("div.rz.f32 %d, %a, %b;", [32; 2], 32, &[([f(-1.0), f(3.0)], 0xbeaa_aaaa)]);
    check(
        "div.approx.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([f(6.0), f(2.0)], f(3.0)), ([INF, 0x7e80_0001], NAN)],
    );
    check("div.full.f32 %d, %a, %b;", [32; 2], 32, &[([f(6.0), f(2.0)], f(3.0))]);
    check("rcp.rn.f32 %d, %a;", [32], 32, &[([f(3.0)], 0x3eaa_aaab), ([MIN], INF | MIN)]);
    check("rcp.rm.f32 %d, %a;", [32], 32, &[([f(3.0)], 0x3eaa_aaaa)]);
    check("sqrt.rn.f32 %d, %a;", [32], 32, &[([f(2.0)], 0x3fb5_04f3), ([f(-1.0)], NAN), ([MIN], MIN)]);
    check("sqrt.rp.f32 %d, %a;", [32], 32, &[([f(2.0)], 0x3fb5_04f4)]);
    check("min.f32 %d, %a, %b;", [32; 2], 32, &[([NAN, f(3.0)], f(3.0)), ([0, MIN], MIN), ([NAN, NAN], NAN)]);
    check("max.f32 %d, %a, %b;", [32; 2], 32, &[([f(-2.0), 0xffc0_0000], f(-2.0)), ([0, MIN], 0)]);
    check(
        "min.NaN.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([0xffc0_0000, f(3.0)], NAN), ([f(1.0), f(3.0)], f(1.0))],
    );
    check("max.ftz.f32 %d, %a, %b;", [32; 2], 32, &[([1, MIN | 1], 0)]);
    check("abs.f32 %d, %a;", [32], 32, &[([f(-2.5)], f(2.5))]);
    check("abs.ftz.f32 %d, %a;", [32], 32, &[([MIN | 1], 0)]);
    check("neg.f32 %d, %a;", [32], 32, &[([0], MIN), ([f(2.0)], f(-2.0))]);
    check("neg.ftz.f32 %d, %a;", [32], 32, &[([1], MIN)]);
    check("copysign.f32 %d, %a, %b;", [32; 2], 32, &[([f(-1.0), f(7.0)], f(-7.0))]);
}

#[test]
fn f64_arithmetic() {
    let tiny = 2f64.powi(-60);
    check("add.f64 %d, %a, %b;", [64; 2], 64, &[([d(1.5), d(2.25)], d(3.75))]);
    check("add.rp.f64 %d, %a, %b;", [64; 2], 64, &[([d(1.0), d(tiny)], d(1.0) + 1)]);
    check(
        "sub.rm.f64 %d, %a, %b;",
        [64; 2],
        64,
        &[([d(1.0), d(1.0)], MIN_64), ([d(1.0), d(tiny)], d(1.0) - 1)],
    );
    check("mul.rz.f64 %d, %a, %b;", [64; 2], 64, &[([d(f64::MAX), d(-2.0)], d(-f64::MAX))]);
    check(
        "fma.rn.f64 %d, %a, %b, %c;",
        [64; 3],
        64,
        &[([d(1.0) + 1, d(1.0) + 1, d(-1.0) + 2], d(2f64.powi(-104)))],
    );
    check("div.rn.f64 %d, %a, %b;", [64; 2], 64, &[([d(1.0), d(3.0)], d(1.0 / 3.0))]);
    check("rcp.rn.f64 %d, %a;", [64], 64, &[([d(4.0)], d(0.25))]);
    check("sqrt.rn.f64 %d, %a;", [64], 64, &[([d(2.25)], d(1.5))]);
    check("min.f64 %d, %a, %b;", [64; 2], 64, &[([d(f64::NAN), d(3.0)], d(3.0)), ([0, MIN_64], MIN_64)]);
    check("max.f64 %d, %a, %b;", [64; 2], 64, &[([d(-1.0), d(3.0)], d(3.0))]);
    check("abs.f64 %d, %a;", [64], 64, &[([d(-2.5)], d(2.5))]);
    check("neg.f64 %d, %a;", [64], 64, &[([d(2.5)], d(-2.5))]);
    check("copysign.f64 %d, %a, %b;", [64; 2], 64, &[([MIN_64, d(7.0)], d(-7.0))]);
}

/// Values at which the approximations are exact, and the special ones of the ISA's tables.
#[test]
fn approximations() {
    check("rcp.approx.f32 %d, %a;", [32], 32, &[([f(4.0)], f(0.25)), ([MIN], INF | MIN), ([INF], 0)]);
    check("rcp.approx.ftz.f32 %d, %a;", [32], 32, &[([1], INF), ([f(3e38)], 0)]);
    check("sqrt.approx.f32 %d, %a;", [32], 32, &[([f(2.25)], f(1.5)), ([f(-1.0)], NAN)]);
    check("rsqrt.approx.f32 %d, %a;", [32], 32, &[([f(0.25)], f(2.0)), ([MIN], INF | MIN), ([INF], 0)]);
    check(
        "ex2.approx.f32 %d, %a;",
        [32],
        32,
        &[([f(-3.0)], f(0.125)), ([INF | MIN], 0), ([0], f(1.0)), ([f(-140.0)], 1 << 9)],
    );
    check("ex2.approx.ftz.f32 %d, %a;", [32], 32, &[([f(-140.0)], 0), ([f(10.0)], f(1024.0))]);
    check(
        "lg2.approx.f32 %d, %a;",
        [32],
        32,
        &[([f(8.0)], f(3.0)), ([0], INF | MIN), ([f(-1.0)], NAN), ([1], f(-149.0))],
    );
    check("sin.approx.f32 %d, %a;", [32], 32, &[([MIN], MIN), ([INF], NAN)]);
    check("cos.approx.ftz.f32 %d, %a;", [32], 32, &[([0], f(1.0)), ([INF], NAN)]);
    check("tanh.approx.f32 %d, %a;", [32], 32, &[([f(50.0)], f(1.0)), ([MIN], MIN), ([INF | MIN], f(-1.0))]);
    check("ex2.approx.f16 %d, %a;", [16], 16, &[([h(3.0)], h(8.0))]);
    check("tanh.approx.f16x2 %d, %a;", [32], 32, &[([x2(0x7c00, 0xfc00)], x2(h(1.0), h(-1.0)))]);
    check("ex2.approx.f16x2 %d, %a;", [32], 32, &[([x2(h(1.0), h(-2.0))], x2(h(2.0), h(0.25)))]);
    // Within 2^-20 of the exact value: the nearest floats are not promised.
    for (body, x, exact) in [
        ("sin.approx.f32 %d, %a;", 0.5f32, 0.5f64.sin()),
        ("cos.approx.f32 %d, %a;", 2.0, 2f64.cos()),
        ("lg2.approx.f32 %d, %a;", 10.0, 10f64.log2()),
        ("ex2.approx.f32 %d, %a;", 0.3, 0.3f32.into()),
        ("tanh.approx.f32 %d, %a;", 0.7, 0.7f32.into()),
    ] {
        let exact = if body.starts_with("ex2") { f64::exp2(exact) } else { exact };
        let (exact, bound) = if body.starts_with("tanh") { (exact.tanh(), -11) } else { (exact, -20) };
        let result = f32::from_bits(lanes(body, [32], 32, [[f(x); 32]])[7] as u32);
        assert!(
            (result as f64 / exact - 1.0).abs() < 2f64.powi(bound),
            "{body} {x}: {result} and not {exact}"
        );
    }
    check("rcp.approx.ftz.f64 %d, %a;", [64], 64, &[([d(4.0)], d(0.25))]);
    check("rsqrt.approx.f64 %d, %a;", [64], 64, &[([d(4.0)], d(0.5))]);
}

#[test]
fn halves() {
    let (one, two, nan) = (h(1.0), h(2.0), 0x7fff);
    check(
        "add.f16 %d, %a, %b;",
        [16; 2],
        16,
        &[([h(1.5), h(2.25)], h(3.75)), ([h(2048.0), one], h(2048.0)), ([0x7c00, 0xfc00], nan)],
    );
    check("add.sat.f16 %d, %a, %b;", [16; 2], 16, &[([one, one], one), ([h(-1.0), 0], 0)]);
    check("add.ftz.f16 %d, %a, %b;", [16; 2], 16, &[([1, 1], 0)]);
    check("sub.f16x2 %d, %a, %b;", [32; 2], 32, &[([x2(one, two), x2(two, one)], x2(h(-1.0), one))]);
    check(
        "mul.f16x2 %d, %a, %b;",
        [32; 2],
        32,
        &[([x2(h(3.0), two), x2(two, h(-0.5))], x2(h(6.0), h(-1.0)))],
    );
    // (1 + 2^-10)^2 + 2^-11 is above the midpoint 1 + 2^-9 + 2^-11.
    check(
        "fma.rn.f16 %d, %a, %b, %c;",
        [16; 3],
        16,
        &[([0x3c01, 0x3c01, 0x1000], 0x3c03), ([0x7bff, two, 0xfbff], 0x7bff)],
    );
    check(
        "fma.rn.f16x2 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([x2(two, one), x2(h(3.0), one), x2(one, one)], x2(h(7.0), two))],
    );
    check("fma.rn.relu.f16 %d, %a, %b, %c;", [16; 3], 16, &[([one, h(-1.0), 0], 0), ([one, one, 0], one)]);
    check(
        "fma.rn.bf16 %d, %a, %b, %c;",
        [16; 3],
        16,
        &[([b(2.0), b(3.0), b(1.0)], b(7.0)), ([0x7f00, 0x4000, 0xff00], 0x7f00)],
    );
    check(
        "fma.rn.relu.bf16x2 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([x2(b(2.0), b(-2.0)), x2(b(1.0), b(1.0)), 0], x2(b(2.0), 0))],
    );
    check("neg.f16 %d, %a;", [16], 16, &[([one], h(-1.0))]);
    check("abs.bf16x2 %d, %a;", [32], 32, &[([x2(b(-1.0), b(2.0))], x2(b(1.0), b(2.0)))]);
    check("neg.bf16x2 %d, %a;", [32], 32, &[([x2(b(-1.0), b(2.0))], x2(b(1.0), b(-2.0)))]);
    check("min.f16 %d, %a, %b;", [16; 2], 16, &[([nan, one], one), ([0, 0x8000], 0x8000)]);
    check("max.NaN.f16x2 %d, %a, %b;", [32; 2], 32, &[([x2(nan, one), x2(one, two)], x2(nan, two))]);
    check(
        "max.bf16x2 %d, %a, %b;",
        [32; 2],
        32,
        &[([x2(b(1.0), b(-3.0)), x2(b(2.0), b(-2.0))], x2(b(2.0), b(-2.0)))],
    );
}

/// Sections 9.7.3.11 and 9.7.3.12: `.xorsign.abs` came with sm_86.
#[test]
fn extremes_of_magnitudes() {
    let rows = [([f(-3.0), f(2.0)], f(-2.0)), ([f(-3.0), f(-4.0)], f(3.0)), ([NAN, f(-1.0)], f(-1.0))];
    let min = "min.xorsign.abs.f32 %d, %a, %b;";
    refused(min, &[32; 2], 32, "sm_86");
    let inputs = std::array::from_fn(|i| std::array::from_fn(|lane| rows[lane % 3].0[i]));
    let results = lanes_for("sm_86", min, [32; 2], 32, inputs);
    assert!((0..32).all(|lane| results[lane] == rows[lane % 3].1), "{results:x?}");
}

/// `mov` of registers, vectors and immediates (section 9.7.9.3 and 9.7.9.4).
#[test]
fn mov() {
    check("mov.b32 %d, %a;", [32], 32, &[([0x1234_5678], 0x1234_5678)]);
    check("mov.f32 %d, 0f3FC00000;", [], 32, &[([], f(1.5))]);
    check("mov.f64 %d, 0d3FF8000000000000;", [], 64, &[([], d(1.5))]);
    check("mov.u64 %d, 0xffffffffffffffff;", [], 64, &[([], M1_64)]);
    check("mov.b64 %d, {%a, %b};", [32; 2], 64, &[([1, 2], 0x2_0000_0001)]);
    check("mov.b32 %d, {%a, %b};", [16; 2], 32, &[([0x1111, 0x2222], 0x2222_1111)]);
    check("{ .reg .b32 %x; mov.b64 {%x, %d}, %a; }", [64], 32, &[([0x2_0000_0001], 2)]);
    check("{ .reg .b16 %x; mov.b32 {%d, %x}, %a; }", [32], 16, &[([0x2222_1111], 0x1111)]);
    check("mov.b64 %d, {%a, %b, %c, %e};", [16; 4], 64, &[([1, 2, 3, 4], 0x4_0003_0002_0001)]);
}
