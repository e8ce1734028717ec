//! Sections 9.7.6 and 9.7.7: comparisons and selections.

use crate::harness::*;

const NAN: u64 = 0x7fff_ffff;
const TRUE: u64 = 0xffff_ffff;

/// Runs a `setp` and gives %p as 1 or 0.
#[track_caller]
fn check_setp<const N: usize>(setp: &str, widths: [u32; N], rows: &[([u64; N], u64)]) {
    check(&format!("{setp}\nselp.b32 %d, 1, 0, %p;"), widths, 32, rows);
}

/// Section 9.3.1: each comparison on less, equal, greater and, of floats, unordered operands.
#[test]
fn setp() {
    let holds = |op: &str| match op {
        "eq" => [0, 1, 0, 0],
        "ne" => [1, 0, 1, 0],
        "lt" | "lo" => [1, 0, 0, 0],
        "le" | "ls" => [1, 1, 0, 0],
        "gt" | "hi" => [0, 0, 1, 0],
        "ge" | "hs" => [0, 1, 1, 0],
        "equ" => [0, 1, 0, 1],
        "neu" => [1, 0, 1, 1],
        "ltu" => [1, 0, 0, 1],
        "leu" => [1, 1, 0, 1],
        "gtu" => [0, 0, 1, 1],
        "geu" => [0, 1, 1, 1],
        "num" => [1, 1, 1, 0],
        _ => [0, 0, 0, 1],
    };
    for op in ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"] {
        let [less, equal, greater, unordered] = holds(op);
        let rows = [
            ([f(-2.0), f(1.0)], less),
            ([0, 1 << 31], equal),
            ([f(3.0), f(-3.0)], greater),
            ([NAN, f(1.0)], unordered),
            ([f(1.0), NAN], unordered),
        ];
        check_setp(&format!("setp.{op}.f32 %p, %a, %b;"), [32; 2], &rows);
        let rows = [([d(-2.0), d(1.0)], less), ([0, 1 << 63], equal), ([d(f64::NAN), d(1.0)], unordered)];
        check_setp(&format!("setp.{op}.f64 %p, %a, %b;"), [64; 2], &rows);
        let rows = [([h(-2.0), h(1.0)], less), ([h(3.0), h(-3.0)], greater), ([0x7fff, h(1.0)], unordered)];
        check_setp(&format!("setp.{op}.f16 %p, %a, %b;"), [16; 2], &rows);
    }
    for op in ["eq", "ne", "lt", "le", "gt", "ge"] {
        let [less, equal, greater, _] = holds(op);
        let minus = 0xffff_ffff;
        check_setp(
            &format!("setp.{op}.s32 %p, %a, %b;"),
            [32; 2],
            &[([minus, 1], less), ([5, 5], equal), ([1, minus], greater)],
        );
        check_setp(
            &format!("setp.{op}.u32 %p, %a, %b;"),
            [32; 2],
            &[([minus, 1], greater), ([5, 5], equal), ([1, minus], less)],
        );
        check_setp(
            &format!("setp.{op}.s64 %p, %a, %b;"),
            [64; 2],
            &[([u64::MAX, 1], less), ([1, u64::MAX], greater)],
        );
        check_setp(
            &format!("setp.{op}.u64 %p, %a, %b;"),
            [64; 2],
            &[([u64::MAX, 1], greater), ([1, 1], equal)],
        );
        check_setp(
            &format!("setp.{op}.s16 %p, %a, %b;"),
            [16; 2],
            &[([0xffff, 1], less), ([1, 0xffff], greater)],
        );
    }
    for op in ["lo", "ls", "hi", "hs"] {
        let [less, equal, greater, _] = holds(op);
        check_setp(
            &format!("setp.{op}.u32 %p, %a, %b;"),
            [32; 2],
            &[([0xffff_ffff, 1], greater), ([5, 5], equal), ([1, 9], less)],
        );
    }
    check_setp("setp.eq.b32 %p, %a, %b;", [32; 2], &[([NAN, NAN], 1)]);
    check_setp("setp.ne.b64 %p, %a, %b;", [64; 2], &[([1 << 40, 0], 1)]);
    check_setp("setp.eq.ftz.f32 %p, %a, %b;", [32; 2], &[([1, 0x8000_0001], 1)]);
}

/// Section 9.7.6.2: combined with a predicate, and with the complement as a second result.
#[test]
fn setp_combined() {
    for (op, results) in [("and", [0, 0, 0, 1]), ("or", [0, 1, 1, 1]), ("xor", [0, 1, 1, 0])] {
        // %a < 10 with %b != 0.
        let rows = [([20, 0], results[0]), ([20, 1], results[1]), ([3, 0], results[2]), ([3, 1], results[3])];
        let setp = format!("setp.ne.u32 %p, %b, 0;\nsetp.lt.{op}.u32 %p, %a, 10, %p;");
        check_setp(&setp, [32; 2], &rows);
    }
    let both =
        "{ .reg .pred %q;\nsetp.lt.u32 %p|%q, %a, 10;\nselp.b32 %d, 1, 2, %p;\n@%q add.u32 %d, %d, 10; }";
    check(both, [32], 32, &[([3], 1), ([30], 12)]);
    let negated = "setp.ne.u32 %p, %b, 0;\nsetp.lt.and.u32 %p, %a, 10, !%p;";
    check_setp(negated, [32; 2], &[([3, 0], 1), ([3, 1], 0), ([20, 0], 0)]);
    // The predicate that goes in may come out again, and the guard may be overwritten.
    for (instruction, results) in [
        ("setp.lt.or.u32 %p|%q, %a, 10, %p;", [1, 10, 11, 11]),
        ("setp.lt.or.u32 %q|%p, %a, 10, %p;", [10, 1, 11, 11]),
        ("@%p setp.lt.u32 %p|%q, %a, 10;", [0, 0, 1, 10]),
        ("@%p setp.lt.u32 %q|%p, %a, 10;", [0, 0, 10, 1]),
    ] {
        let body = format!(
            "{{ .reg .pred %q;\nsetp.ne.u32 %p, %b, 0;\nsetp.ne.u32 %q, 0, 0;\n{instruction}
selp.b32 %d, 1, 0, %p;\n@%q add.u32 %d, %d, 10; }}"
        );
        let [less, greater, set_less, set_greater] = results;
        let rows = [([3, 0], less), ([20, 0], greater), ([3, 1], set_less), ([20, 1], set_greater)];
        check(&body, [32; 2], 32, &rows);
    }
    // Packed halves give a predicate each.
    let packed =
        "{ .reg .pred %q;\nsetp.lt.f16x2 %p|%q, %a, %b;\nselp.b32 %d, 1, 0, %p;\n@%q add.u32 %d, %d, 10; }";
    let (one, two) = (h(1.0), h(2.0));
    check(packed, [32; 2], 32, &[([x2(one, two), x2(two, one)], 1), ([x2(two, one), x2(one, two)], 10)]);
    check(packed, [32; 2], 32, &[([x2(one, one), x2(two, two)], 11)]);
    let combined = packed.replace("lt.f16x2 %p|%q, %a, %b", "lt.and.ftz.f16x2 %p|%q, %a, %b, %p");
    let combined = format!("setp.ne.u32 %p, %c, 0;\n{combined}");
    let (low, high) = (x2(1, one), x2(2, two));
    check(&combined, [32; 3], 32, &[([low, high, 1], 10), ([low, high, 0], 0), ([high, low, 1], 0)]);
}

#[test]
fn set_selp_slct() {
    check(
        "set.lt.u32.f32 %d, %a, %b;",
        [32; 2],
        32,
        &[([f(1.0), f(2.0)], TRUE), ([f(2.0), f(1.0)], 0), ([NAN, 0], 0)],
    );
    check("set.geu.f32.f32 %d, %a, %b;", [32; 2], 32, &[([NAN, f(2.0)], f(1.0)), ([f(1.0), f(2.0)], 0)]);
    check("set.gt.u32.s32 %d, %a, %b;", [32; 2], 32, &[([1, TRUE], TRUE)]);
    check("set.gt.s32.u32 %d, %a, %b;", [32; 2], 32, &[([1, TRUE], 0)]);
    check("set.eq.f16x2.f16x2 %d, %a, %b;", [32; 2], 32, &[([x2(1, 2), x2(1, 3)], x2(h(1.0), 0))]);
    check("set.eq.u32.f16x2 %d, %a, %b;", [32; 2], 32, &[([x2(1, 2), x2(1, 3)], 0xffff)]);
    check("set.ne.ftz.s32.f16x2 %d, %a, %b;", [32; 2], 32, &[([x2(1, 2), x2(3, h(2.0))], 0xffff_0000)]);
    check("set.gt.f16.f16 %d, %a, %b;", [16; 2], 16, &[([h(2.0), h(1.0)], h(1.0)), ([h(1.0), h(2.0)], 0)]);
    check("set.gt.u16.f16 %d, %a, %b;", [16; 2], 16, &[([h(2.0), h(1.0)], 0xffff)]);
    check("set.eq.ftz.u32.f32 %d, %a, %b;", [32; 2], 32, &[([1, 0], TRUE), ([f(1.0), 0], 0)]);
    check(
        "setp.ne.u32 %p, %c, 0;\nset.lt.and.f16x2.f16x2 %d, %a, %b, !%p;",
        [32; 3],
        32,
        &[([x2(1, 2), x2(2, 3), 0], x2(h(1.0), h(1.0))), ([x2(1, 2), x2(2, 3), 1], 0)],
    );
    let selp = |ty: &str| format!("setp.ne.u32 %p, %c, 0;\nselp.{ty} %d, %a, %b, %p;");
    check(&selp("b32"), [32; 3], 32, &[([1, 2, 1], 1), ([1, 2, 0], 2)]);
    check(&selp("f64"), [64, 64, 32], 64, &[([1, 2, 1], 1), ([1, 2, 0], 2)]);
    check(&selp("b16"), [16, 16, 32], 16, &[([1, 2, 1], 1), ([1, 2, 0], 2)]);
    check("slct.b32.s32 %d, %a, %b, %c;", [32; 3], 32, &[([1, 2, 0], 1), ([1, 2, TRUE], 2)]);
    check(
        "slct.f32.f32 %d, %a, %b, %c;",
        [32; 3],
        32,
        &[([1, 2, 1 << 31], 1), ([1, 2, f(-1.0)], 2), ([1, 2, NAN], 2)],
    );
    check("slct.b64.s32 %d, %a, %b, %c;", [64, 64, 32], 64, &[([1, 2, 5], 1), ([1, 2, TRUE], 2)]);
    check("slct.f64.f32 %d, %a, %b, %c;", [64, 64, 32], 64, &[([1, 2, 0], 1), ([1, 2, f(-1.0)], 2)]);
    check("slct.ftz.b32.f32 %d, %a, %b, %c;", [32; 3], 32, &[([1, 2, 0x8000_0001], 1)]);
}

#[test]
fn testp() {
    let testp = |p: &str, t: &str| format!("testp.{p}.{t} %p, %a;");
    check_setp(&testp("finite", "f32"), [32], &[([f(1.0)], 1), ([0x7f80_0000], 0), ([NAN], 0)]);
    check_setp(&testp("infinite", "f32"), [32], &[([f(1.0)], 0), ([0xff80_0000], 1), ([NAN], 0)]);
    check_setp(&testp("number", "f32"), [32], &[([0x7f80_0000], 1), ([NAN], 0)]);
    check_setp(&testp("notanumber", "f64"), [64], &[([d(f64::INFINITY)], 0), ([d(f64::NAN)], 1)]);
    check_setp(&testp("normal", "f64"), [64], &[([1], 0), ([0], 0), ([d(1.0)], 1)]);
    check_setp(&testp("subnormal", "f32"), [32], &[([1], 1), ([0], 0), ([0x0080_0000], 0)]);
}

/// Section 9.7.8: logic on predicates.
#[test]
fn predicates() {
    for (op, results) in [("and", [0, 0, 1]), ("or", [0, 1, 1]), ("xor", [0, 1, 0])] {
        let body = format!(
            "{{ .reg .pred %q;\nsetp.ne.u32 %p, %a, 0;\nsetp.ne.u32 %q, %b, 0;
{op}.pred %p, %p, %q;\nselp.b32 %d, 1, 0, %p; }}"
        );
        check(&body, [32; 2], 32, &[([0, 0], results[0]), ([1, 0], results[1]), ([1, 1], results[2])]);
    }
    check(
        "setp.ne.u32 %p, %a, 0;\nnot.pred %p, %p;\nselp.b32 %d, 1, 0, %p;",
        [32],
        32,
        &[([0], 1), ([1], 0)],
    );
    check("mov.pred %p, 1;\nselp.b32 %d, 1, 0, %p;", [], 32, &[([], 1)]);
    // A guard, plain and negated, leaves the register of other lanes alone.
    check("mov.b32 %d, 7;\nsetp.gt.u32 %p, %a, 5;\n@%p mov.b32 %d, 8;", [32], 32, &[([3], 7), ([9], 8)]);
    check("mov.b32 %d, 7;\nsetp.gt.u32 %p, %a, 5;\n@!%p mov.b32 %d, 8;", [32], 32, &[([3], 8), ([9], 7)]);
}
