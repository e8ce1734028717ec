//! Counters, exactly.

use super::{Run, module};
use crate::device::cuda::sim::{Architecture, Count, Kind, Limit, Options};

const ADDRESS: &str = "mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;";

#[test]
fn instructions_by_kind() {
    let text = module(
        "",
        &format!(
            "{ADDRESS} ld.global.f32 %f1, [%rd4]; add.f32 %f1, %f1, %f1; setp.lt.u32 %p1, %r0, 5; @%p1 mul.f32 %f1, %f1, %f1; st.global.f32 [%rd5], %f1;"
        ),
    );
    let run = Run::new(&text, &[0; 48], 192, 1, 48);
    let counters = run.counters();
    // Two warps, of 32 and 16 lanes.
    let all = |instructions: u64| Count { warps: 2 * instructions, lanes: 48 * instructions };
    assert_eq!(counters.kind(Kind::Constant), all(2));
    assert_eq!(counters.kind(Kind::Move), all(1));
    assert_eq!(counters.kind(Kind::Integer), all(4));
    assert_eq!(counters.kind(Kind::F32), Count { warps: 4, lanes: 48 + 5 });
    assert_eq!(counters.kind(Kind::Global), all(2));
    assert_eq!(counters.kind(Kind::Control), all(1));
    assert_eq!(counters.total(), Count { warps: 24, lanes: 48 * 11 + 5 });
    assert!(counters.to_string().contains("global loads, sectors"));
}

/// Sectors of one load of a warp whose lane i reads the word at `index`.
fn sectors(index: &str) -> (u64, u64, u64) {
    let body =
        format!("{index} mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r2, [%rd4];");
    let run = Run::new(&module("", &body), &[0; 1024], 4, 1, 32);
    let loads = run.counters().global_loads;
    assert_eq!(loads.accesses, 1);
    (loads.bytes, loads.moved, loads.fewest)
}

#[test]
fn global_sectors() {
    assert_eq!(sectors("mov.u32 %r1, %r0;"), (128, 4, 4));
    assert_eq!(sectors("add.u32 %r1, %r0, 1;"), (128, 5, 4));
    assert_eq!(sectors("mul.lo.u32 %r1, %r0, 2;"), (128, 8, 4));
    assert_eq!(sectors("mul.lo.u32 %r1, %r0, 8;"), (128, 32, 4));
    assert_eq!(sectors("mov.u32 %r1, 5;"), (4, 1, 1));
    assert_eq!(sectors("sub.u32 %r1, 31, %r0;"), (128, 4, 4));
    assert_eq!(sectors("xor.b32 %r1, %r0, 13;"), (128, 4, 4));
    assert_eq!(sectors("and.b32 %r1, %r0, 3;"), (16, 1, 1));
}

/// Wavefronts of one access to shared memory by a warp, lane i at byte `offset`.
fn wavefronts(access: &str, offset: &str) -> (u64, u64) {
    let body = format!("mov.u32 %r5, s; {offset} add.u32 %r1, %r1, %r5; {access}");
    let text = module(".extern .shared .align 16 .b8 s[];", &body);
    let run = Run::with(Options::default(), &text, &[0], 4, 1, 32, 32768);
    (run.counters().shared.moved, run.counters().shared.fewest)
}

#[test]
fn shared_wavefronts() {
    let word = "st.shared.u32 [%r1], %r0;";
    assert_eq!(wavefronts(word, "shl.b32 %r1, %r0, 2;"), (1, 1));
    assert_eq!(wavefronts(word, "shl.b32 %r1, %r0, 3;"), (2, 1));
    assert_eq!(wavefronts(word, "shl.b32 %r1, %r0, 7;"), (32, 1));
    assert_eq!(wavefronts(word, "mul.lo.u32 %r1, %r0, 132;"), (1, 1));
    assert_eq!(wavefronts("st.shared.u32 [%r1], 7;", "mov.u32 %r1, 0;"), (1, 1));
    assert_eq!(wavefronts("st.shared.u8 [%r1], 7;", "mov.u32 %r1, %r0;"), (1, 1));
    // Half warps of 8 bytes, quarter warps of 16.
    assert_eq!(wavefronts("st.shared.v2.u32 [%r1], {%r0, %r0};", "shl.b32 %r1, %r0, 3;"), (2, 2));
    assert_eq!(wavefronts("st.shared.v2.u32 [%r1], {%r0, %r0};", "shl.b32 %r1, %r0, 4;"), (4, 2));
    assert_eq!(wavefronts("st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};", "shl.b32 %r1, %r0, 4;"), (4, 4));
    assert_eq!(wavefronts("st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};", "shl.b32 %r1, %r0, 5;"), (8, 4));
}

#[test]
fn ldmatrix_wavefronts() {
    // Rows of 128 bytes apart clash; with 16 more they do not.
    let fill = "FILL: st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0}; bar.warp.sync -1;";
    let load = format!("{fill} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r1];");
    let stores = wavefronts(fill, "mul.lo.u32 %r1, %r0, 128;").0;
    assert_eq!(wavefronts(&load, "mul.lo.u32 %r1, %r0, 128;"), (stores + 32, 4 + 4));
    assert_eq!(wavefronts(&load, "mul.lo.u32 %r1, %r0, 144;"), (4 + 4, 4 + 4));
}

#[test]
fn occupancy_is_nvidias() {
    let limits = Architecture::Sm80.limits();
    let of = |threads, registers, shared| {
        let occupancy = limits.occupancy(threads, registers, shared);
        (occupancy.blocks, occupancy.warps, occupancy.limit)
    };
    assert_eq!(of(128, 32, 0), (16, 64, Limit::Warps));
    assert_eq!(of(128, 128, 0), (4, 16, Limit::Registers));
    assert_eq!(of(128, 32, 48 * 1024), (3, 12, Limit::Shared));
    assert_eq!(of(32, 16, 0), (32, 32, Limit::Blocks));
    assert_eq!(of(1024, 64, 0), (1, 32, Limit::Registers));
}

#[test]
fn source_lines() {
    let text = module("", ".loc 1 20 3\nadd.u32 %r1, %r0, 1;\n.loc 1 0 3\nadd.u32 %r2, %r0, 1;\n.loc 1 21 3");
    let run = Run::new(&text, &[0], 4, 1, 32);
    let lines = &run.counters().lines;
    assert_eq!(lines[&("kernels/test.cu".to_owned(), 20)], Count { warps: 2, lanes: 64 });
    assert_eq!(lines[&("kernels/test.cu".to_owned(), 21)], Count { warps: 1, lanes: 32 });
    // Two instructions of a header count where the kernel calls it, one of the kernel's own file where it is.
    let text = module(
        ".file 2 \"header.cuh\"",
        ".loc 1 20 3\n.loc 2 5 3, function_name $f, inlined_at 1 20 3\nadd.u32 %r1, %r0, 1;
         .loc 2 7 3, function_name $g, inlined_at 2 5 3\nadd.u32 %r2, %r0, 1;
         .loc 1 3 3, function_name $h, inlined_at 1 20 3\nadd.u32 %r2, %r0, 1;\n.loc 1 21 3",
    );
    let run = Run::new(&text, &[0], 4, 1, 32);
    let lines = &run.counters().lines;
    assert!(lines.keys().all(|(file, _)| file == "kernels/test.cu"), "{lines:?}");
    assert_eq!(lines[&("kernels/test.cu".to_owned(), 20)], Count { warps: 2, lanes: 64 });
    assert_eq!(lines[&("kernels/test.cu".to_owned(), 3)], Count { warps: 1, lanes: 32 });
}
