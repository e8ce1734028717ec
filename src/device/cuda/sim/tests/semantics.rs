//! Instructions against values worked out from the PTX ISA.

use super::{Run, module};

/// Runs an instruction whose operands %r1, %r2, %r3 (and %rd4.. as pairs of them) are given, and returns %r10.
fn words(instruction: &str, inputs: &[[u32; 3]]) -> Vec<u32> {
    assert!(inputs.len() <= 32);
    let body = format!(
        "mul.wide.u32 %rd3, %r0, 12; add.s64 %rd3, %rd1, %rd3;
         ld.global.u32 %r1, [%rd3]; ld.global.u32 %r2, [%rd3+4]; ld.global.u32 %r3, [%rd3+8];
         cvt.u16.u32 %h1, %r1; cvt.u16.u32 %h2, %r2; cvt.u16.u32 %h3, %r3;
         {instruction}
         mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd2, %rd3; st.global.u32 [%rd3], %r10;"
    );
    let run = Run::new(&module("", &body), inputs.as_flattened(), 128, 1, inputs.len() as u32);
    run.output(inputs.len())
}

/// As [`words`] for 64-bit operands %rd4, %rd5, %rd6 and the result %rd10; the lower word of %rd5 is %r5, of %rd6 %r6.
fn longs(instruction: &str, inputs: &[[u64; 3]]) -> Vec<u64> {
    let body = format!(
        "mul.wide.u32 %rd3, %r0, 24; add.s64 %rd3, %rd1, %rd3;
         ld.global.u64 %rd4, [%rd3]; ld.global.u64 %rd5, [%rd3+8]; ld.global.u64 %rd6, [%rd3+16];
         cvt.u32.u64 %r5, %rd5; cvt.u32.u64 %r6, %rd6;
         {instruction}
         mul.wide.u32 %rd3, %r0, 8; add.s64 %rd3, %rd2, %rd3; st.global.u64 [%rd3], %rd10;"
    );
    let input: Vec<u32> = inputs.as_flattened().iter().flat_map(|&x| [x as u32, (x >> 32) as u32]).collect();
    let run = Run::new(&module("", &body), &input, 256, 1, inputs.len() as u32);
    let out = run.output(2 * inputs.len());
    out.chunks(2).map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32).collect()
}

/// One case: instruction, operands, result.
#[track_caller]
fn word(instruction: &str, a: u32, b: u32, c: u32, expected: u32) {
    let found = words(instruction, &[[a, b, c]])[0];
    assert_eq!(
        found, expected,
        "{instruction} of {a:#x}, {b:#x}, {c:#x}: {found:#x} instead of {expected:#x}"
    );
}

#[track_caller]
fn long(instruction: &str, a: u64, b: u64, c: u64, expected: u64) {
    let found = longs(instruction, &[[a, b, c]])[0];
    assert_eq!(
        found, expected,
        "{instruction} of {a:#x}, {b:#x}, {c:#x}: {found:#x} instead of {expected:#x}"
    );
}

fn float(value: f32) -> u32 {
    value.to_bits()
}

#[test]
fn integer_arithmetic() {
    let minus = |x: i32| x as u32;
    word("add.s32 %r10, %r1, %r2;", u32::MAX, 2, 0, 1);
    word("add.sat.s32 %r10, %r1, %r2;", i32::MAX as u32, 2, 0, i32::MAX as u32);
    word("sub.u32 %r10, %r1, %r2;", 1, 2, 0, u32::MAX);
    word("mul.lo.s32 %r10, %r1, %r2;", 0x10001, 0x10001, 0, 0x20001);
    word("mul.hi.u32 %r10, %r1, %r2;", u32::MAX, u32::MAX, 0, u32::MAX - 1);
    word("mul.hi.s32 %r10, %r1, %r2;", minus(-2), 3, 0, u32::MAX);
    word("mad.lo.s32 %r10, %r1, %r2, %r3;", minus(-3), 5, 20, 5);
    word("mad.hi.u32 %r10, %r1, %r2, %r3;", 1 << 31, 4, 5, 7);
    word("mad.hi.sat.s32 %r10, %r1, %r2, %r3;", 1 << 30, 8, i32::MAX as u32, i32::MAX as u32);
    word("mul24.lo.u32 %r10, %r1, %r2;", 0xff00_0003, 0x0100_0005, 0, 15);
    word("mad24.lo.s32 %r10, %r1, %r2, %r3;", 0x00ff_ffff, 3, 10, 7);
    word("div.s32 %r10, %r1, %r2;", minus(-7), 2, 0, minus(-3));
    word("rem.s32 %r10, %r1, %r2;", minus(-7), 2, 0, minus(-1));
    word("div.u32 %r10, %r1, %r2;", minus(-7), 2, 0, 0x7fff_fffc);
    word("rem.u32 %r10, %r1, %r2;", 100, 7, 0, 2);
    word("min.s32 %r10, %r1, %r2;", minus(-1), 1, 0, minus(-1));
    word("min.u32 %r10, %r1, %r2;", minus(-1), 1, 0, 1);
    word("max.s32 %r10, %r1, %r2;", minus(-1), 1, 0, 1);
    word("abs.s32 %r10, %r1;", minus(-9), 0, 0, 9);
    word("neg.s32 %r10, %r1;", 9, 0, 0, minus(-9));
    word("sad.s32 %r10, %r1, %r2, %r3;", minus(-3), 4, 10, 17);
    word("dp4a.s32.s32 %r10, %r1, %r2, %r3;", 0x0102_03ff, 0x0101_0102, 10, 10 + 1 + 2 + 3 - 2);
    word("dp4a.u32.u32 %r10, %r1, %r2, %r3;", 0xff, 2, 0, 510);
    word("dp2a.lo.s32.s32 %r10, %r1, %r2, %r3;", 0x0002_ffff, 0x0000_0304, 1, 1 + 2 * 3 - 4);
    word("slct.u32.s32 %r10, %r1, %r2, %r3;", 1, 2, minus(-1), 2);
    word("slct.u32.s32 %r10, %r1, %r2, %r3;", 1, 2, 0, 1);
    word("cnot.b32 %r10, %r1;", 0, 0, 0, 1);
}

#[test]
fn narrow_and_wide_integers() {
    word("mul.wide.s16 %r10, %h1, %h2;", 0xffff, 3, 0, -3i32 as u32);
    word("mul.wide.u16 %r10, %h1, %h2;", 0xffff, 3, 0, 3 * 0xffff);
    word("add.s16 %h4, %h1, %h2; cvt.s32.s16 %r10, %h4;", 0x7fff, 1, 0, 0xffff_8000);
    word("shr.s16 %h4, %h1, 4; cvt.u32.u16 %r10, %h4;", 0x8000, 0, 0, 0xf800);
    word("setp.lt.s16 %p1, %h1, %h2; selp.u32 %r10, 1, 0, %p1;", 0xffff, 1, 0, 1);
    word("min.u16 %h4, %h1, %h2; cvt.u32.u16 %r10, %h4;", 0xffff, 1, 0, 1);
    long("mul.wide.u32 %rd10, %r5, %r6;", 0, u32::MAX.into(), u32::MAX.into(), 0xffff_fffe_0000_0001);
    long("mad.wide.s32 %rd10, %r5, %r6, %rd4;", 100, -5i32 as u32 as u64, 7, 65);
    long("mul.hi.u64 %rd10, %rd4, %rd5;", u64::MAX, u64::MAX, 0, u64::MAX - 1);
    long("shl.b64 %rd10, %rd4, %r5;", 1, 40, 0, 1 << 40);
    long("shl.b64 %rd10, %rd4, %r5;", 1, 64, 0, 0);
    long("shr.s64 %rd10, %rd4, %r5;", 1 << 63, 100, 0, u64::MAX);
    long("bfi.b64 %rd10, %rd4, %rd5, 8, 16;", 0xabcd, u64::MAX, 0, 0xffff_ffff_ffab_cdff);
    long("bfe.s64 %rd10, %rd4, 4, 8;", 0xff0, 0, 0, u64::MAX);
    long("div.s64 %rd10, %rd4, %rd5;", -100i64 as u64, 7, 0, -14i64 as u64);
    long("max.s64 %rd10, %rd4, %rd5;", u64::MAX, 7, 0, 7);
}

#[test]
fn carries() {
    // (rd5:rd4) + (rd4:rd6) in 32-bit and 64-bit pieces.
    long("add.cc.u64 %rd11, %rd4, %rd5; addc.u64 %rd10, %rd6, 0;", u64::MAX, 1, 6, 7);
    long("sub.cc.u64 %rd11, %rd4, %rd5; subc.u64 %rd10, %rd6, 0;", 0, 1, 6, 5);
    word(
        "add.cc.u32 %r11, %r1, %r2; addc.cc.u32 %r11, %r3, %r3; addc.u32 %r10, 0, 0;",
        u32::MAX,
        1,
        0x8000_0000,
        1,
    );
    word("mad.lo.cc.u32 %r11, %r1, %r2, %r3; madc.hi.u32 %r10, %r1, %r2, 0;", 0x10000, 0xffff, 0x1_0000, 1);
}

#[test]
fn bits() {
    word("shl.b32 %r10, %r1, %r2;", 1, 31, 0, 1 << 31);
    word("shl.b32 %r10, %r1, %r2;", 1, 32, 0, 0);
    word("shr.u32 %r10, %r1, %r2;", 1 << 31, 31, 0, 1);
    word("shr.s32 %r10, %r1, %r2;", 1 << 31, 40, 0, u32::MAX);
    word("shf.l.wrap.b32 %r10, %r1, %r2, %r3;", 0x8000_0000, 1, 33, 3);
    word("shf.l.clamp.b32 %r10, %r1, %r2, %r3;", 0x1234_5678, 1, 33, 0x1234_5678);
    word("shf.r.wrap.b32 %r10, %r1, %r2, %r3;", 0xf0, 0xa, 4, 0xa000_000f);
    word("lop3.b32 %r10, %r1, %r2, %r3, 0xe8;", 0b1100, 0b1010, 0b0110, 0b1110);
    word("lop3.b32 %r10, %r1, %r2, %r3, 0x96;", 0b1100, 0b1010, 0b0110, 0b0000);
    word("bfe.u32 %r10, %r1, 4, 8;", 0x0000_0ab0, 0, 0, 0xab);
    word("bfe.s32 %r10, %r1, 4, 8;", 0x0000_0ab0, 0, 0, 0xffff_ffab);
    word("bfi.b32 %r10, %r1, %r2, 8, 4;", 0x5, 0xffff_ffff, 0, 0xffff_f5ff);
    word("bfind.u32 %r10, %r1;", 0x0001_0000, 0, 0, 16);
    word("bfind.shiftamt.u32 %r10, %r1;", 0x0001_0000, 0, 0, 15);
    word("bfind.s32 %r10, %r1;", u32::MAX, 0, 0, u32::MAX);
    word("clz.b32 %r10, %r1;", 0x0001_0000, 0, 0, 15);
    word("popc.b32 %r10, %r1;", 0xf0f0_0001, 0, 0, 9);
    word("brev.b32 %r10, %r1;", 1, 0, 0, 1 << 31);
    word("prmt.b32 %r10, %r1, %r2, 0x7340;", 0x3322_1100, 0x7766_5544, 0, 0x7733_4400);
    word("prmt.b32 %r10, %r1, %r2, 0xb;", 0x8000_0000, 0, 0, 0x0000_00ff);
    word("prmt.b32.rc16 %r10, %r1, %r2, 1;", 0x3322_1100, 0, 0, 0x3322_3322);
    word("not.b32 %r10, %r1;", 0, 0, 0, u32::MAX);
    word("xor.b32 %r10, %r1, %r2;", 0b1100, 0b1010, 0, 0b0110);
    word("bmsk.clamp.b32 %r10, %r1, %r2;", 4, 8, 0, 0xff0);
    word("fns.b32 %r10, %r1, %r2, %r3;", 0b1101_0000, 0, 2, 6);
    long("popc.b64 %r10, %rd4; cvt.u64.u32 %rd10, %r10;", u64::MAX, 0, 0, 64);
    long("clz.b64 %r10, %rd4; cvt.u64.u32 %rd10, %r10;", 1, 0, 0, 63);
}

#[test]
fn comparisons_and_selection() {
    let nan = f32::NAN.to_bits();
    let holds = |compare: &str, a: u32, b: u32| {
        words(&format!("setp.{compare} %p1, %r1, %r2; selp.u32 %r10, 1, 0, %p1;"), &[[a, b, 0]])[0] == 1
    };
    assert!(holds("lt.s32", u32::MAX, 0) && !holds("lt.u32", u32::MAX, 0));
    assert!(
        holds("hi.u32", 2, 1) && holds("hs.u32", 1, 1) && !holds("lo.u32", 1, 1) && holds("ls.u32", 1, 1)
    );
    assert!(holds("eq.b32", 5, 5) && holds("ne.s32", 5, 6));
    assert!(holds("gt.f32", float(2.0), float(1.0)) && !holds("gt.f32", nan, float(1.0)));
    assert!(!holds("ne.f32", nan, nan) && holds("neu.f32", nan, nan) && holds("equ.f32", nan, 0));
    assert!(holds("num.f32", 0, 0) && holds("nan.f32", 0, nan) && holds("geu.f32", nan, 0));
    assert!(holds("eq.ftz.f32", 1, 0) && !holds("eq.f32", 1, 0));
    // p = (a < b) and c, q = !(a < b) and c
    word(
        "setp.ne.u32 %p3, %r3, 0; setp.lt.and.s32 %p1|%p2, %r1, %r2, %p3;
         selp.u32 %r4, 1, 0, %p1; selp.u32 %r5, 2, 0, %p2; or.b32 %r10, %r4, %r5;",
        3,
        2,
        1,
        2,
    );
    word(
        "setp.eq.u32 %p3, %r3, 0; setp.lt.or.s32 %p1, %r1, %r2, !%p3; selp.u32 %r10, 1, 0, %p1;",
        3,
        2,
        1,
        1,
    );
    word("set.gt.u32.s32 %r10, %r1, %r2;", 3, 2, 0, u32::MAX);
    word("set.gt.f32.u32 %r10, %r1, %r2;", 3, 2, 0, float(1.0));
    word("testp.infinite.f32 %p1, %r1; selp.b32 %r10, %r2, %r3, %p1;", float(f32::INFINITY), 7, 8, 7);
    word(
        "setp.gt.u32 %p1, %r1, 1; not.pred %p2, %p1; xor.pred %p3, %p1, %p2; selp.u32 %r10, 1, 0, %p3;",
        0,
        0,
        0,
        1,
    );
}

#[test]
fn f32_arithmetic() {
    let (tiny, nan) = (1u32, 0x7fff_ffff);
    word("add.f32 %r10, %r1, %r2;", float(1.5), float(2.25), 0, float(3.75));
    word("add.rz.f32 %r10, %r1, %r2;", float(1.0), float(1e-10), 0, float(1.0));
    word("add.rp.f32 %r10, %r1, %r2;", float(1.0), float(1e-10), 0, float(1.0) + 1);
    word("sub.rm.f32 %r10, %r1, %r2;", float(1.0), float(1e-10), 0, float(1.0) - 1);
    word("add.ftz.f32 %r10, %r1, %r2;", tiny, tiny, 0, 0);
    word("add.f32 %r10, %r1, %r2;", tiny, tiny, 0, 2);
    word("add.sat.f32 %r10, %r1, %r2;", float(1.5), float(2.0), 0, float(1.0));
    word("sub.f32 %r10, %r1, %r2;", float(f32::INFINITY), float(f32::INFINITY), 0, nan);
    word("mul.sat.f32 %r10, %r1, %r2;", float(-1.5), float(2.0), 0, 0);
    // 1 - (1 - 2^-24)(1 + 2^-23): only a fused product keeps the last term.
    word("fma.rn.f32 %r10, %r1, %r2, %r3;", 0x3f7f_ffff, 0x3f80_0001, float(-1.0), 0x337f_fffe);
    word("min.f32 %r10, %r1, %r2;", float(f32::NAN), float(1.0), 0, float(1.0));
    word("min.NaN.f32 %r10, %r1, %r2;", float(f32::NAN), float(1.0), 0, nan);
    word("max.f32 %r10, %r1, %r2;", float(-0.0), float(0.0), 0, 0);
    word("abs.f32 %r10, %r1;", float(-3.0), 0, 0, float(3.0));
    word("neg.f32 %r10, %r1;", float(-0.0), 0, 0, 0);
    word("copysign.f32 %r10, %r1, %r2;", float(-1.0), float(3.0), 0, float(-3.0));
    word("div.rn.f32 %r10, %r1, %r2;", float(1.0), float(3.0), 0, float(1.0 / 3.0));
    word("div.full.f32 %r10, %r1, %r2;", float(6.0), float(3.0), 0, float(2.0));
    word("rcp.rn.f32 %r10, %r1;", float(4.0), 0, 0, float(0.25));
    word("sqrt.rn.f32 %r10, %r1;", float(2.0), 0, 0, float(2f32.sqrt()));
    word("ex2.approx.ftz.f32 %r10, %r1;", float(3.0), 0, 0, float(8.0));
    word("lg2.approx.f32 %r10, %r1;", float(8.0), 0, 0, float(3.0));
    word("rsqrt.approx.f32 %r10, %r1;", float(4.0), 0, 0, float(0.5));
    word("cvt.sat.f32.f32 %r10, %r1;", float(1.5), 0, 0, float(1.0));
}

#[test]
fn f64_arithmetic() {
    let d = f64::to_bits;
    long("add.rn.f64 %rd10, %rd4, %rd5;", d(1.5), d(2.0), 0, d(3.5));
    long("fma.rn.f64 %rd10, %rd4, %rd5, %rd6;", d(3.0), d(4.0), d(5.0), d(17.0));
    long("div.rn.f64 %rd10, %rd4, %rd5;", d(1.0), d(3.0), 0, d(1.0 / 3.0));
    long("sqrt.rn.f64 %rd10, %rd4;", d(2.0), 0, 0, d(2f64.sqrt()));
    long("max.f64 %rd10, %rd4, %rd5;", d(f64::NAN), d(2.0), 0, d(2.0));
    long("neg.f64 %rd10, %rd4;", d(2.0), 0, 0, d(-2.0));
    long("setp.lt.f64 %p1, %rd4, %rd5; selp.f64 %rd10, %rd4, %rd5, %p1;", d(3.0), d(2.0), 0, d(2.0));
    long("cvt.rn.f32.f64 %f1, %rd4; cvt.f64.f32 %rd10, %f1;", d(0.1), 0, 0, d(f64::from(0.1f32)));
    long("cvt.rzi.s64.f64 %rd10, %rd4;", d(-2.7), 0, 0, -2i64 as u64);
}

#[test]
fn conversions() {
    word("cvt.rzi.s32.f32 %r10, %r1;", float(-2.7), 0, 0, -2i32 as u32);
    word("cvt.rni.s32.f32 %r10, %r1;", float(2.5), 0, 0, 2);
    word("cvt.rzi.u32.f32 %r10, %r1;", float(-2.7), 0, 0, 0);
    word("cvt.rpi.s32.f32 %r10, %r1;", float(2.1), 0, 0, 3);
    word("cvt.rmi.f32.f32 %r10, %r1;", float(-2.1), 0, 0, float(-3.0));
    word("cvt.rn.f32.s32 %r10, %r1;", -3i32 as u32, 0, 0, float(-3.0));
    word("cvt.rn.f32.u32 %r10, %r1;", u32::MAX, 0, 0, float(4294967296.0));
    word("cvt.rz.f32.u32 %r10, %r1;", u32::MAX, 0, 0, 0x4f7f_ffff);
    word("cvt.s32.s8 %r10, %r1;", 0x1ff, 0, 0, u32::MAX);
    word("cvt.u32.u8 %r10, %r1;", 0x1ff, 0, 0, 0xff);
    word("cvt.sat.u8.s32 %r10, %r1;", 0x1ff, 0, 0, 0xff);
    word("cvt.sat.s8.s32 %r10, %r1;", -1000i32 as u32, 0, 0, -128i32 as u32);
    word("cvt.rn.f16.f32 %h4, %r1; mov.b32 %r10, {%h4, %h2};", float(1.0), 0xabcd, 0, 0xabcd_3c00);
    word("cvt.f32.f16 %r10, %h1;", 0x3c00, 0, 0, float(1.0));
    word("cvt.rn.bf16.f32 %h4, %r1; cvt.u32.u16 %r10, %h4;", 0x3f80_8000, 0, 0, 0x3f80);
    word("cvt.rn.f16x2.f32 %r10, %r1, %r2;", float(1.0), float(2.0), 0, 0x3c00_4000);
    word("cvt.rn.bf16x2.f32 %r10, %r1, %r2;", float(1.0), float(2.0), 0, 0x3f80_4000);
    word("cvt.rn.relu.bf16x2.f32 %r10, %r1, %r2;", float(-1.0), float(2.0), 0, 0x4000);
    word("cvt.rna.tf32.f32 %r10, %r1;", 0x3f80_1000, 0, 0, 0x3f80_2000);
    word("cvt.pack.sat.s16.s32 %r10, %r1, %r2;", 100000, -100000i32 as u32, 0, 0x7fff_8000);
    long("cvt.s64.s32 %rd10, %r5;", 0, 0x8000_0000, 0, 0xffff_ffff_8000_0000);
    long("cvt.rn.f64.s32 %rd10, %r5;", 0, u32::MAX.into(), 0, (-1f64).to_bits());
}

#[test]
fn packed_halves() {
    // f16: 1 = 3c00, 2 = 4000, 3 = 4200, 6 = 4600; bf16: 1 = 3f80, 2 = 4000, 3 = 4040.
    word("add.f16x2 %r10, %r1, %r2;", 0x3c00_4000, 0x4000_3c00, 0, 0x4200_4200);
    word("mul.f16x2 %r10, %r1, %r2;", 0x3c00_4000, 0x4000_4200, 0, 0x4000_4600);
    word("fma.rn.f16x2 %r10, %r1, %r2, %r3;", 0x3c00_3c00, 0x3c00_4000, 0x3c00_3c00, 0x4000_4200);
    word("fma.rn.relu.f16x2 %r10, %r1, %r2, %r3;", 0xbc00_3c00, 0x3c00_3c00, 0, 0x0000_3c00);
    word("fma.rn.bf16x2 %r10, %r1, %r2, %r3;", 0x3f80_3f80, 0x3f80_4000, 0x3f80_3f80, 0x4000_4040);
    word("max.bf16x2 %r10, %r1, %r2;", 0x3f80_4000, 0x4000_3f80, 0, 0x4000_4000);
    word("neg.f16x2 %r10, %r1;", 0x3c00_4000, 0, 0, 0xbc00_c000);
    word("add.f16 %h4, %h1, %h2; cvt.u32.u16 %r10, %h4;", 0x3c00, 0x3c00, 0, 0x4000);
    word("ex2.approx.ftz.f16x2 %r10, %r1;", 0x3c00_0000, 0, 0, 0x4000_3c00);
}

#[test]
fn moves_pack_and_unpack() {
    long(
        "mov.b64 {%r7, %r8}, %rd4; mov.b64 %rd10, {%r8, %r7};",
        0x1111_2222_3333_4444,
        0,
        0,
        0x3333_4444_1111_2222,
    );
    word("mov.b32 {%h4, %h5}, %r1; mov.b32 %r10, {%h5, %h4};", 0x1111_2222, 0, 0, 0x2222_1111);
    long(
        "mov.b64 {%h4, %h5, %h6, %h7}, %rd4; mov.b64 %rd10, {%h7, %h6, %h5, %h4};",
        0x1111_2222_3333_4444,
        0,
        0,
        0x4444_3333_2222_1111,
    );
    long("mov.b64 {%r7, _}, %rd4; cvt.u64.u32 %rd10, %r7;", 0x1111_2222_3333_4444, 0, 0, 0x3333_4444);
}

#[test]
fn shuffles_votes_and_reductions() {
    let lanes: Vec<[u32; 3]> = (0..32).map(|i| [i, 100 + i, u32::MAX]).collect();
    let run = |instruction: &str| words(instruction, &lanes);
    let expect = |f: &dyn Fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    assert_eq!(run("shfl.sync.bfly.b32 %r10, %r2, 1, 31, %r3;"), expect(&|i| 100 + (i ^ 1)));
    assert_eq!(run("shfl.sync.idx.b32 %r10, %r2, 5, 31, -1;"), expect(&|_| 105));
    assert_eq!(
        run("shfl.sync.up.b32 %r4|%p1, %r2, 2, 0, -1; selp.u32 %r5, 1000, 0, %p1; add.u32 %r10, %r4, %r5;"),
        expect(&|i| if i < 2 { 100 + i } else { 1098 + i })
    );
    assert_eq!(
        run("shfl.sync.down.b32 %r10, %r2, 4, 31, -1;"),
        expect(&|i| if i < 28 { 104 + i } else { 100 + i })
    );
    // Segments of 8: c = (32 - 8) << 8 | 7.
    assert_eq!(run("shfl.sync.idx.b32 %r10, %r2, 3, 0x1807, -1;"), expect(&|i| 100 + (i & !7) + 3));
    assert_eq!(run("setp.lt.u32 %p1, %r1, 5; vote.sync.ballot.b32 %r10, %p1, -1;"), expect(&|_| 31));
    assert_eq!(
        run("setp.lt.u32 %p1, %r1, 5; vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1;
             selp.u32 %r4, 1, 0, %p2; selp.u32 %r5, 2, 0, %p3; or.b32 %r10, %r4, %r5;"),
        expect(&|_| 1)
    );
    assert_eq!(run("redux.sync.add.u32 %r10, %r1, -1;"), expect(&|_| 496));
    assert_eq!(run("sub.u32 %r4, 3, %r1; redux.sync.min.s32 %r10, %r4, -1;"), expect(&|_| -28i32 as u32));
    assert_eq!(
        run("and.b32 %r4, %r1, 3; match.any.sync.b32 %r10, %r4, -1;"),
        expect(&|i| 0x1111_1111 << (i & 3))
    );
    assert_eq!(run("match.all.sync.b32 %r10|%p1, %r3, -1;"), expect(&|_| u32::MAX));
    assert_eq!(run("activemask.b32 %r10;"), expect(&|_| u32::MAX));
    assert_eq!(run("mov.u32 %r10, %lanemask_lt;"), expect(&|i| (1 << i) - 1));
}

#[test]
fn loads_and_stores_of_every_width() {
    let text = module(
        "",
        "ld.global.u8 %r1, [%rd1+3]; ld.global.s8 %r2, [%rd1+3]; ld.global.u16 %r3, [%rd1+2]; ld.global.s16 %r4, [%rd1+2];
         ld.global.v2.u32 {%r5, %r6}, [%rd1]; ld.global.u64 %rd4, [%rd1]; ld.global.s8 %rd5, [%rd1+3];
         ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%rd1]; ld.global.nc.L1::no_allocate.v4.u32 {%r7, %r8, %r9, %r10}, [%rd1];
         st.global.u32 [%rd2], %r1; st.global.u32 [%rd2+4], %r2; st.global.u32 [%rd2+8], %r3; st.global.u32 [%rd2+12], %r4;
         st.global.v2.u32 [%rd2+16], {%r5, %r6}; st.global.u64 [%rd2+24], %rd4; st.global.u64 [%rd2+32], %rd5;
         st.global.v4.u16 [%rd2+40], {%h1, %h2, %h3, %h4}; st.global.v4.u32 [%rd2+48], {%r7, %r8, %r9, %r10};
         st.global.u8 [%rd2+64], %r5; st.global.u8 [%rd2+65], 7; st.global.u16 [%rd2+66], %h2;",
    );
    let run = Run::new(&text, &[0x8001_0203, 0x1122_3344, 5, 6], 68, 1, 1);
    let expected = [
        0x80,
        0xffff_ff80,
        0x8001,
        0xffff_8001,
        0x8001_0203,
        0x1122_3344,
        0x8001_0203,
        0x1122_3344,
        0xffff_ff80,
        0xffff_ffff,
        0x8001_0203,
        0x1122_3344,
        0x8001_0203,
        0x1122_3344,
        5,
        6,
        0x8001_0703,
    ];
    assert_eq!(run.output(17), expected);
}

#[test]
fn atomics_run_lane_after_lane() {
    let text = module(
        "",
        "atom.global.add.u32 %r1, [%rd1], 1; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd3, %rd2; st.global.u32 [%rd3], %r1;
         red.global.max.s32 [%rd1+4], %r0; atom.global.add.f32 %f1, [%rd1+8], 0f3F000000;
         atom.global.inc.u32 %r2, [%rd1+12], 4; atom.global.cas.b32 %r3, [%rd1+16], %r0, 77;
         atom.global.exch.b32 %r4, [%rd1+20], %r0; atom.global.add.noftz.f16x2 %r5, [%rd1+24], 0x3c003c00;
         atom.global.and.b32 %r6, [%rd1+28], 12; atom.global.min.u32 %r6, [%rd1+32], 7;",
    );
    let run = Run::new(&text, &[10, -5i32 as u32, 0, 0, 3, 9, 0, 6, 100], 128, 1, 32);
    assert_eq!(run.output(32), (10..42).collect::<Vec<u32>>());
    // 32 increments modulo 5; 3 was swapped by lane 3; the last lane's exchange stays.
    assert_eq!(run.read(run.a, 9), [42, 31, float(16.0), 2, 77, 31, 0x5000_5000, 4, 7]);
}

#[test]
fn tensor_cores() {
    // A = all ones, B = all twos, C = lane: D = 16 * 2 + lane in every element (bf16: 1 = 3f80, 2 = 4000).
    let body = |shape: &str, a: &str, b: &str| {
        format!(
            "mov.b32 %r1, {a}; mov.b32 %r2, {b}; cvt.rn.f32.u32 %f1, %r0;
             mma.sync.aligned.{shape} {{%f2, %f3, %f4, %f5}}, {{%r1, %r1, %r1, %r1}}, {{%r2, %r2}}, {{%f1, %f1, %f1, %f1}};
             add.f32 %f2, %f2, %f5; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd3, %rd2; st.global.f32 [%rd3], %f2;"
        )
    };
    let cases = [
        ("m16n8k16.row.col.f32.bf16.bf16.f32", "0x3f803f80", "0x40004000", 32.0),
        ("m16n8k16.row.col.f32.f16.f16.f32", "0x3c003c00", "0x40004000", 32.0),
        ("m16n8k8.row.col.f32.tf32.tf32.f32", "0x3f800000", "0x40000000", 16.0),
    ];
    for (shape, a, b, sum) in cases {
        let run = Run::new(&module("", &body(shape, a, b)), &[0], 128, 1, 32);
        let expected: Vec<u32> = (0..32).map(|lane| float(2.0 * (sum + lane as f32))).collect();
        assert_eq!(run.output(32), expected, "{shape}");
        let tensor = run.counters().tensor.values().next().unwrap();
        assert_eq!(tensor.flops, 2 * 16 * 8 * sum as u64 / 2);
    }
    let double = "cvt.rn.f64.u32 %fd1, %r0; mov.f64 %fd2, 0d0000000000000000;
         mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%fd3, %fd4}, {%fd1}, {%fd1}, {%fd2, %fd2};";
    let run = Run::new(&module("", double), &[0], 4, 1, 32);
    let tensor = &run.counters().tensor["m8n8k4 f64"];
    assert_eq!((tensor.instructions, tensor.flops), (1, 2 * 8 * 8 * 4));
}

#[test]
fn ldmatrix_gives_each_lane_its_pair() {
    let text = module(
        ".extern .shared .align 16 .b8 s[];",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 4; add.u32 %r2, %r1, %r2;
         mul.lo.u32 %r3, %r0, 4; add.u32 %r4, %r3, 1; add.u32 %r5, %r3, 2; add.u32 %r6, %r3, 3;
         st.shared.v4.u32 [%r2], {%r3, %r4, %r5, %r6}; bar.sync 0;
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r2];
         ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r14}, [%r2];
         mul.wide.u32 %rd3, %r0, 8; add.s64 %rd3, %rd3, %rd2; st.global.v2.u32 [%rd3], {%r11, %r14};",
    );
    let run = Run::with(crate::device::cuda::sim::Options::default(), &text, &[0], 256, 1, 32, 512);
    let out = run.output(64);
    for lane in 0..32 {
        // Word t of row 8 + g, and in the transposed matrix the low half of rows 2 t and 2 t + 1, column g: words hold
        // small numbers, so odd columns are 0.
        assert_eq!(out[2 * lane], 32 + lane as u32);
        let (g, t) = (lane / 4, lane % 4);
        let element = |row: usize| if g % 2 == 0 { (4 * row + g / 2) as u32 } else { 0 };
        assert_eq!(out[2 * lane + 1], element(2 * t) | element(2 * t + 1) << 16, "lane {lane}");
    }
}

#[test]
fn addresses_of_every_space() {
    let text = module(
        ".const .align 4 .u32 table[4] = {1, 2, 3, 4}; .global .align 8 .u64 where = generic(table); .global .u32 g = 5;
         .shared .align 4 .b32 s[4];",
        "mov.u64 %rd3, s; cvta.shared.u64 %rd4, %rd3; st.u32 [%rd4+4], 11; ld.shared.u32 %r1, [s+4];
         mov.u64 %rd5, table; cvta.const.u64 %rd6, %rd5; ld.u32 %r2, [%rd6+8]; ld.const.u32 %r3, [table+4];
         ld.global.u64 %rd7, [where]; ld.u32 %r4, [%rd7+12]; mov.u64 %rd8, g; ld.global.u32 %r5, [%rd8];
         isspacep.shared %p1, %rd4; isspacep.global %p2, %rd4; selp.u32 %r6, 1, 0, %p1; selp.u32 %r7, 2, 0, %p2;
         add.u32 %r6, %r6, %r7; cvta.to.shared.u64 %rd9, %rd4; sub.u64 %rd9, %rd9, %rd3; cvt.u32.u64 %r7, %rd9;
         st.global.v4.u32 [%rd2], {%r1, %r2, %r3, %r4}; st.global.v4.u32 [%rd2+16], {%r5, %r6, %r7, %r7};",
    );
    assert_eq!(Run::new(&text, &[0], 32, 1, 1).output(8), [11, 3, 2, 4, 5, 1, 0, 0]);
}

#[test]
fn unknown_instructions_are_errors_that_name_the_line() {
    let simulator = crate::device::cuda::sim::Simulator::new(crate::device::cuda::sim::Options::default());
    for (body, line, what) in [
        ("frobnicate.u32 %r1, %r2;", super::BODY, "frobnicate"),
        ("add.u32 %r1, %r2, %r3;\nadd.purple.u32 %r1, %r2, %r3;", super::BODY + 1, "purple"),
        ("add.f32 %rd1, %rd2, %rd3;", super::BODY, "another size"),
        ("add.u32 %r1, %r2;", super::BODY, "wrong operands"),
        ("bar.sync;", super::BODY, "number of operands"),
        ("mov.b64 {%r1, %r2, %r3}, %rd1;", super::BODY, "wrong length"),
        ("ld.param.u32 %r1, [n+4];", 5, "past its parameters"),
        ("mma.sync.aligned.m16n8k17.row.col.f32.f16.f16.f32 %r1, %r2, %r3, %r4;", super::BODY, "shape"),
    ] {
        match simulator.load(&module("", body)) {
            Err(crate::device::cuda::sim::Error::Unsupported { line: found, message }) => {
                assert_eq!(found, line);
                assert!(message.contains(what), "{message}");
            }
            Err(other) => panic!("{body}: {other}"),
            Ok(_) => panic!("{body} was accepted"),
        }
    }
}
