//! Section 9.7.9 (`ld`, `st`, `cvta`, `cp.async` ...) and 9.7.13.13 (`atom`, `red`).

use crate::harness::*;

fn word(memory: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(memory[4 * i..][..4].try_into().expect("four bytes"))
}

/// A kernel of one warp around `body`, in which %at is the address of the memory as a global address.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        "{HEADER}{declarations}
.visible .entry k(.param .u64 memory) {{
.reg .b64 %at, %generic, %address, %x<4>;
.reg .b32 %lane, %s, %r<8>;
.reg .b16 %h<8>;
.reg .pred %p;
ld.param.u64 %generic, [memory];
cvta.to.global.u64 %at, %generic;
mov.u32 %lane, %tid.x;
{body}
ret;
}}"
    )
}

#[track_caller]
fn run(declarations: &str, body: &str, memory: &[u8]) -> Vec<u8> {
    let text = kernel(declarations, body);
    launch(&text, 1, 32, 0, memory).unwrap_or_else(|error| panic!("{body}: {error}"))
}

/// Address of lane i: %at + 4 i.
const MINE: &str = "mul.wide.u32 %address, %lane, 4;\nadd.s64 %address, %at, %address;\n";

/// Section 9.4.1: what is narrower than its register is extended by the sign of its type.
#[test]
fn narrow_loads_and_stores() {
    let lanes32 = |body: &str, x: u64| lanes(body, [64], 32, [[x; 32]])[5];
    assert_eq!(lanes32("ld.global.u8 %d, [%at+256];", 0xff85), 0x85);
    assert_eq!(lanes32("ld.global.s8 %d, [%at+256];", 0xff85), 0xffff_ff85);
    assert_eq!(lanes32("ld.global.u16 %d, [%at+256];", 0x1_8765), 0x8765);
    assert_eq!(lanes32("ld.global.s16 %d, [%at+256];", 0x1_8765), 0xffff_8765);
    assert_eq!(lanes32("ld.global.b32 %d, [%at+260];", 0x8765_4321 << 32), 0x8765_4321);
    assert_eq!(
        lanes("ld.global.s32 %d, [%at+256];", [64], 64, [[0x8765_4321; 32]])[5],
        0xffff_ffff_8765_4321
    );
    assert_eq!(lanes("ld.global.u32 %d, [%at+256];", [64], 64, [[0x8765_4321; 32]])[5], 0x8765_4321);
    // A store writes the lower bytes and no more.
    let body = format!(
        "{MINE}mov.b32 %r0, 0x12345678;\nst.global.u8 [%address+1], %r0;\nst.global.b16 [%address+2], %r0;"
    );
    assert_eq!(word(&run("", &body, &[0xee; 128]), 3), 0x5678_78ee);
}

#[test]
fn vectors() {
    let body = "mul.wide.u32 %address, %lane, 16;
add.s64 %address, %at, %address;
ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%address];
st.global.v4.b32 [%address], {%r3, %r2, %r1, %r0};";
    let memory: Vec<u8> = (0..128u32).flat_map(|i| i.to_le_bytes()).collect();
    let after = run("", body, &memory);
    assert!((0..128).all(|i| word(&after, i) as usize == i / 4 * 4 + 3 - i % 4));
    let body = "mul.wide.u32 %address, %lane, 16;
add.s64 %address, %at, %address;
ld.global.nc.v2.u64 {%x0, %x1}, [%address];
ld.global.v2.u16 {%h0, %h1}, [%address];
st.global.v2.b64 [%address], {%x1, %x0};
st.global.v2.u16 [%address+4], {%h1, %h0};";
    let after = run("", body, &memory);
    // Lane 3 had 12 13 14 15; its halves at 4 are those of 12, exchanged.
    assert_eq!([12, 13, 14, 15].map(|i| word(&after, i)), [14, 12 << 16, 12, 13]);
    let body = "mul.wide.u32 %address, %lane, 4;
add.s64 %address, %at, %address;
ld.global.v4.u8 {%r0, %r1, %r2, %r3}, [%address];
st.global.v4.u8 [%address], {%r1, %r2, %r3, %r0};";
    assert_eq!(word(&run("", body, &[1, 2, 3, 4].repeat(32)), 9), 0x0104_0302);
}

#[test]
fn other_spaces() {
    // Shared memory, static and as a generic address.
    let shared = ".shared .align 4 .b8 tile[128];";
    let exchange = format!(
        "{MINE}mul.lo.u32 %r0, %lane, 4;\nmov.u32 %r1, tile;\nadd.u32 %r0, %r0, %r1;
mul.lo.u32 %r2, %lane, 3;\nst.shared.b32 [%r0], %r2;\nbar.sync 0;
xor.b32 %r3, %lane, 31;\nmul.lo.u32 %r3, %r3, 4;\nadd.u32 %r3, %r3, %r1;
ld.shared.b32 %r4, [%r3];\nst.global.b32 [%address], %r4;"
    );
    let after = run(shared, &exchange, &[0; 128]);
    assert!((0..32).all(|i| word(&after, i) as usize == (31 - i) * 3));
    let generic = format!(
        "{MINE}mul.lo.u32 %r0, %lane, 4;\ncvt.u64.u32 %x0, %r0;\nmov.u64 %x1, tile;\ncvta.shared.u64 %x1, %x1;
add.s64 %x1, %x1, %x0;\nst.b32 [%x1], %lane;\nld.b32 %r1, [%x1];\nisspacep.shared %p, %x1;
@%p add.u32 %r1, %r1, 100;\nisspacep.global %p, %x1;\n@%p add.u32 %r1, %r1, 1000;
st.global.b32 [%address], %r1;"
    );
    let after = run(shared, &generic, &[0; 128]);
    assert!((0..32).all(|i| word(&after, i) as usize == i + 100));
    // Dynamic shared memory.
    let body = format!(
        "{MINE}mul.lo.u32 %r0, %lane, 4;\nmov.u32 %r1, dynamic;\nadd.u32 %r0, %r0, %r1;
st.shared.b32 [%r0+128], %lane;\nld.shared.b32 %r2, [%r0+128];\nst.global.b32 [%address], %r2;"
    );
    let text = kernel(".extern .shared .align 16 .b8 dynamic[];", &body);
    let after = launch(&text, 1, 32, 256, &[0; 128]).unwrap();
    assert!((0..32).all(|i| word(&after, i) as usize == i));
    // Constant memory and module variables with initialisers.
    let tables =
        ".const .align 4 .b32 table[4] = {11, 22, 33, 44};\n.global .align 4 .b32 counts[2] = {5, 6};";
    let body = format!(
        "{MINE}and.b32 %r0, %lane, 3;\nmul.wide.u32 %x0, %r0, 4;\nmov.u64 %x1, table;\nadd.s64 %x1, %x1, %x0;
ld.const.b32 %r1, [%x1];\nld.const.b32 %r2, [table+4];\nld.global.b32 %r3, [counts+4];
add.u32 %r1, %r1, %r2;\nadd.u32 %r1, %r1, %r3;\nst.global.b32 [%address], %r1;"
    );
    let after = run(tables, &body, &[0; 128]);
    assert!((0..32).all(|i| word(&after, i) as usize == (i % 4 + 1) * 11 + 22 + 6));
    // Local memory is each thread's own.
    let body = format!(
        "{MINE}{{ .local .align 4 .b8 mine[16];\nmov.u64 %x0, mine;\nst.local.b32 [%x0+8], %lane;
cvta.local.u64 %x1, %x0;
ld.b32 %r0, [%x1+8];\nld.local.b32 %r1, [mine+8];\nadd.u32 %r0, %r0, %r1; }}\nst.global.b32 [%address], %r0;"
    );
    let after = run("", &body, &[0; 128]);
    assert!((0..32).all(|i| word(&after, i) as usize == 2 * i));
    // The global window is generic addresses' default.
    let body =
        "mul.wide.u32 %address, %lane, 4;\nadd.s64 %address, %generic, %address;\nst.b32 [%address], %lane;";
    assert!((0..32).all(|i| word(&run("", body, &[0; 128]), i) as usize == i));
}

#[test]
fn cache_hints_and_orders() {
    for load in [
        "ld.global.ca.b32",
        "ld.global.cg.b32",
        "ld.global.cs.b32",
        "ld.volatile.global.b32",
        "ld.relaxed.gpu.global.b32",
        "ld.acquire.gpu.global.b32",
        "ld.global.nc.b32",
        "ldu.global.b32",
        "ld.weak.global.b32",
    ] {
        let body = format!(
            "{MINE}{load} %r0, [%address];\nadd.u32 %r0, %r0, 1;\nst.global.b32 [%address+128], %r0;"
        );
        assert_eq!(word(&run("", &body, &[7; 256]), 40), 0x0707_0708, "{load}");
    }
    for store in [
        "st.global.wb.b32",
        "st.global.cg.b32",
        "st.global.cs.b32",
        "st.global.wt.b32",
        "st.volatile.global.b32",
        "st.relaxed.gpu.global.b32",
        "st.release.gpu.global.b32",
    ] {
        let body = format!("{MINE}{store} [%address], %lane;");
        assert_eq!(word(&run("", &body, &[7; 128]), 9), 9, "{store}");
    }
    for nothing in [
        "prefetch.global.L2 [%at];",
        "membar.gl;",
        "membar.cta;",
        "fence.acq_rel.gpu;",
        "fence.sc.cta;",
        "membar.sys;",
    ] {
        run("", nothing, &[0; 128]);
    }
}

/// All lanes on one word: what is left there, and that the old values are those on the way.
#[test]
fn atomics() {
    let case = |op: &str, operand: &str, start: u32| {
        let body =
            format!("{MINE}atom.global.{op} %r0, [%at+128], {operand};\nst.global.b32 [%address], %r0;");
        let mut memory = vec![0; 128];
        memory.extend(start.to_le_bytes());
        let after = run("", &body, &memory);
        let old: Vec<u32> = (0..32).map(|i| word(&after, i)).collect();
        (old, word(&after, 32))
    };
    let (mut old, last) = case("add.u32", "1", 100);
    old.sort_unstable();
    assert_eq!((old, last), ((100..132).collect(), 132));
    assert_eq!(case("add.s32", "%lane", 0).1, 496);
    assert_eq!(case("min.u32", "%lane", 7).1, 0);
    assert_eq!(case("min.s32", "%lane", 0xffff_ffff).1, 0xffff_ffff);
    assert_eq!(case("max.u32", "%lane", 7).1, 31);
    assert_eq!(case("max.s32", "%lane", 0xffff_ffff).1, 31);
    assert_eq!(case("and.b32", "%lane", 0xff).1, 0);
    assert_eq!(case("or.b32", "%lane", 0x100).1, 0x11f);
    assert_eq!(case("xor.b32", "%lane", 0).1, 0);
    // inc: (old >= b) ? 0 : old + 1; 32 times from 0 with b = 9 gives 2. dec: (old == 0 || old > b) ? b : old
    // - 1.
    assert_eq!(case("inc.u32", "9", 0).1, 2);
    assert_eq!(case("dec.u32", "9", 5).1, 3);
    let (mut old, last) = case("exch.b32", "%lane", 77);
    old.push(last);
    old.sort_unstable();
    assert_eq!(old, (0..32).chain([77]).collect::<Vec<u32>>());
    // cas: one lane finds 5 and writes 9, the others find 9.
    let (old, last) = case("cas.b32", "5, 9", 5);
    assert_eq!((old.iter().filter(|x| **x == 5).count(), last), (1, 9));
    assert!(old.iter().all(|x| *x == 5 || *x == 9));
    assert_eq!(case("add.f32", "0f3F000000", 1.5f32.to_bits()).1, 17.5f32.to_bits());
}

#[test]
fn other_atomics() {
    // 64 bits, shared memory, reductions.
    let body = "mov.u64 %x0, 0x100000000;\natom.global.add.u64 %x1, [%at], %x0;
red.global.add.u32 [%at+8], 2;\nred.global.max.s32 [%at+12], %lane;
atom.global.add.f64 %x2, [%at+16], 0d3FF8000000000000;\nred.global.add.f32 [%at+24], 0f3F800000;";
    let mut memory = vec![0; 16];
    memory.extend(0.5f64.to_le_bytes());
    memory.extend([0; 8]);
    let after = run("", body, &memory);
    assert_eq!([0, 1, 2, 3].map(|i| word(&after, i)), [0, 32, 64, 31]);
    assert_eq!(f64::from_le_bytes(after[16..24].try_into().unwrap()), 0.5 + 32.0 * 1.5);
    assert_eq!(word(&after, 6), 32f32.to_bits());
    let shared = ".shared .align 8 .b8 tile[16];";
    let body = "mov.u32 %r1, tile;\nsetp.eq.u32 %p, %lane, 0;\n@%p st.shared.b32 [%r1], 5;\nbar.sync 0;
atom.shared.add.u32 %r2, [%r1], 3;\nbar.sync 0;\nld.shared.b32 %r3, [%r1];\n@%p st.global.b32 [%at], %r3;";
    assert_eq!(word(&run(shared, body, &[0; 128]), 0), 5 + 96);
    // f16x2 and bf16x2: (1, 2) 32 times.
    let body = "mov.b32 %r0, 0x40003c00;\natom.global.add.noftz.f16x2 %r1, [%at], %r0;";
    assert_eq!(word(&run("", body, &[0; 4]), 0), x2(h(32.0), h(64.0)) as u32);
    let body = "mov.b16 %h0, 0x3c00;\natom.global.add.noftz.f16 %h1, [%at+2], %h0;";
    assert_eq!(word(&run("", body, &[0; 4]), 0), (h(32.0) as u32) << 16);
    let body = "atom.global.cas.b16 %h1, [%at+2], %h0, %h2;";
    let body = format!("mov.b16 %h0, 0;\nmov.b16 %h2, 7;\n{body}");
    assert_eq!(word(&run("", &body, &[0; 4]), 0), 7 << 16);
    let body = "mov.u64 %x0, 5;\natom.global.cas.b64 %x1, [%at], 0, %x0;
atom.global.exch.b64 %x1, [%at+8], %x0;\natom.global.min.s64 %x1, [%at+16], -3;";
    let after = run("", body, &[0; 24]);
    assert_eq!([0, 2, 4, 5].map(|i| word(&after, i)), [5, 5, u32::MAX - 2, u32::MAX]);
    let body = "atom.relaxed.gpu.global.add.u32 %r0, [%at], 1;
atom.acq_rel.cta.global.add.u32 %r0, [%at], 1;\nred.relaxed.gpu.global.add.u32 [%at], 1;
atom.add.u32 %r0, [%generic], 1;";
    assert_eq!(word(&run("", body, &[0; 4]), 0), 128);
}

/// Section 9.7.9.25: asynchronous copies to shared memory, zero-filled beyond the source's size.
#[test]
fn async_copies() {
    let shared = ".shared .align 16 .b8 tile[512];";
    let memory: Vec<u8> = (0..512).map(|i| (i * 7 % 256) as u8).collect();
    for (copy, bytes, wait) in [
        ("cp.async.ca.shared.global [%r0], [%x0], 16;", 16, "cp.async.commit_group;\ncp.async.wait_group 0;"),
        ("cp.async.cg.shared.global [%r0], [%x0], 16;", 16, "cp.async.wait_all;"),
        ("cp.async.ca.shared.global [%r0], [%x0], 8;", 8, "cp.async.wait_all;"),
        ("cp.async.ca.shared.global [%r0], [%x0], 4;", 4, "cp.async.wait_all;"),
        ("cp.async.cg.shared.global [%r0], [%x0], 16, 6;", 6, "cp.async.wait_all;"),
        ("cp.async.ca.shared.global.L2::128B [%r0], [%x0], 16, 0;", 0, "cp.async.wait_all;"),
    ] {
        // The tile starts as zeros; then each lane copies 16 bytes at most and writes them out inverted.
        let body = format!(
            "mul.lo.u32 %r0, %lane, 16;\nmov.u32 %r1, tile;\nadd.u32 %r0, %r0, %r1;
mov.b32 %r2, 0;\nst.shared.v4.b32 [%r0], {{%r2, %r2, %r2, %r2}};
mul.wide.u32 %x0, %lane, 16;\nadd.s64 %x0, %at, %x0;\n{copy}\n{wait}
ld.shared.v4.b32 {{%r2, %r3, %r4, %r5}}, [%r0];
not.b32 %r2, %r2;\nnot.b32 %r3, %r3;\nnot.b32 %r4, %r4;\nnot.b32 %r5, %r5;
st.global.v4.b32 [%x0], {{%r2, %r3, %r4, %r5}};"
        );
        let after = run(shared, &body, &memory);
        for (i, byte) in after.into_iter().enumerate() {
            let expected = if i % 16 < bytes { !memory[i] } else { 0xff };
            assert_eq!(byte, expected, "{copy} byte {i}");
        }
    }
}
