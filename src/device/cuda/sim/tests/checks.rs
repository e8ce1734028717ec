//! Faults that are planted, and kernels without one that look as if they had.

use super::{BODY, Run, module};
use crate::device::cuda::sim::{Checks, Options, ReportKind};

const SHARED: &str = ".extern .shared .align 16 .b8 s[];";

fn shared(body: &str, block: u32) -> Run {
    let body = format!("mov.u32 %r5, s; shl.b32 %r6, %r0, 2; add.u32 %r6, %r6, %r5;\n{body}");
    Run::with(Options::default(), &module(SHARED, &body), &[7; 256], 2048, 1, block, 4096)
}

/// The line of the n-th line of the body given to [`shared`].
const fn line(n: u32) -> u32 {
    BODY + n
}

#[test]
fn off_by_one() {
    let text =
        module("", "mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd3, %rd1;\nld.global.u32 %r1, [%rd3+4];");
    let run = Run::new(&text, &[0; 32], 4, 1, 32);
    let report = run.expect(ReportKind::OutOfBounds, BODY + 1);
    assert_eq!(report.thread, Some([31, 0, 0]));
    assert_eq!(report.source.as_ref().unwrap().to_string(), "kernels/test.cu:10");
    assert!(report.message.contains("just past its end"), "{}", report.message);
    // Unchecked, the load gives 0.
    let options = Options { checks: Checks { bounds: false, ..Checks::ALL }, ..Options::default() };
    Run::with(options, &text, &[0; 32], 4, 1, 32, 0).result.unwrap();
}

#[test]
fn a_fault_in_an_inlined_function() {
    let text = module(
        ".file 2 \"header.cuh\"",
        ".loc 1 20 3\n.loc 2 5 3, function_name $f, inlined_at 1 20 3\n.loc 2 7 3, function_name $g, inlined_at 2 5 3
         ld.global.u32 %r1, [%rd1+4];",
    );
    let run = Run::new(&text, &[0], 4, 1, 1);
    let report = run.report();
    let text = "at header.cuh:7 (PTX line 14)\n  inlined at header.cuh:5\n  inlined at kernels/test.cu:20";
    assert!(report.to_string().contains(text), "{report}");
    assert_eq!(report.inlined.len(), 2);
}

#[test]
fn a_store_past_the_end() {
    let text = module("", "mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd3, %rd2; st.global.u32 [%rd3], %r0;");
    let run = Run::new(&text, &[0], 60, 1, 32);
    let report = run.expect(ReportKind::OutOfBounds, BODY);
    assert_eq!(report.thread, Some([15, 0, 0]));
}

#[test]
fn use_after_free() {
    let run =
        Run::new(&module("", "ld.global.u64 %rd4, [%rd1]; ld.global.u32 %r1, [%rd4];"), &[0, 0], 4, 1, 1);
    let simulator = &run.simulator;
    let freed = simulator.alloc(64).unwrap();
    simulator.fill(freed, 64, 0).unwrap();
    simulator.write(run.a, &freed.to_le_bytes()).unwrap();
    let module =
        simulator.load(&module("", "ld.global.u64 %rd4, [%rd1]; ld.global.u32 %r1, [%rd4+8];")).unwrap();
    let function = module.function("k").unwrap();
    let params: Vec<u8> =
        [run.a.to_le_bytes(), run.b.to_le_bytes()].concat().into_iter().chain([0; 4]).collect();
    simulator.launch(&function, [1; 3], [1; 3], 0, &params).unwrap();
    simulator.free(freed).unwrap();
    let error = simulator.launch(&function, [1; 3], [1; 3], 0, &params).unwrap_err();
    let report = error.report().unwrap();
    assert_eq!(report.kind, ReportKind::UseAfterFree, "{report}");
    assert!(report.message.contains("offset 8 of an allocation of 64 bytes"), "{report}");
    assert!(simulator.free(freed).is_err());
}

#[test]
fn misaligned_vector_load() {
    let text = module("", "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+8];");
    Run::new(&text, &[0; 8], 4, 1, 1).expect(ReportKind::Misaligned, BODY);
}

#[test]
fn uninitialised_global_memory() {
    Run::new(&module("", "ld.global.u32 %r1, [%rd2];"), &[0], 4, 1, 1)
        .expect(ReportKind::Uninitialised, BODY);
    // A launch that forgets an element is found when the host reads it.
    let text = module("", "mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd3, %rd2; st.global.u32 [%rd3], %r0;");
    let run = Run::new(&text, &[0], 132, 1, 32);
    let mut out = [0; 132];
    let error = run.simulator.read(run.b, &mut out).unwrap_err();
    let report = error.report().unwrap();
    assert_eq!(report.kind, ReportKind::Uninitialised);
    assert!(report.message.contains("byte 128"), "{report}");
}

#[test]
fn uninitialised_shared_and_local_memory() {
    let asks = |run: Run| {
        run.expect(ReportKind::Uninitialised, line(1)).message.ends_with("yet: is a barrier missing?")
    };
    assert!(!asks(shared("ld.shared.u32 %r1, [%r6];", 32)));
    // The second warp could have written, but has not come to it.
    assert!(asks(shared("ld.shared.u32 %r1, [%r6];", 64)));
    let text = module(
        "",
        ".local .align 4 .b8 l[16]; st.local.u32 [l], 1; ld.local.u32 %r1, [l];\nld.local.u32 %r1, [l+4];",
    );
    Run::new(&text, &[0], 4, 1, 1).expect(ReportKind::Uninitialised, BODY + 1);
}

#[test]
fn shared_memory_out_of_bounds() {
    let run = shared("st.shared.u32 [%r6+4092], 1;", 32);
    assert_eq!(run.expect(ReportKind::OutOfBounds, line(1)).thread, Some([1, 0, 0]));
}

#[test]
fn a_missing_barrier() {
    let run = shared("st.shared.u32 [%r6], %r0;\nxor.b32 %r7, %r6, 128; ld.shared.u32 %r1, [%r7];", 64);
    // Warp 0 runs first: it reads where nobody has written yet, and warp 1 then writes there.
    let report = run.expect(ReportKind::SharedRace, line(1));
    let other = report.other.as_ref().unwrap();
    assert_eq!((report.thread, other.thread), (Some([32, 0, 0]), Some([0, 0, 0])), "{report}");
    assert_eq!(other.ptx_line, Some(line(2)));
    shared("st.shared.u32 [%r6], %r0; bar.sync 0; xor.b32 %r7, %r6, 128; ld.shared.u32 %r1, [%r7];", 64)
        .result
        .unwrap();
}

#[test]
fn a_missing_warp_barrier() {
    let body = |sync: &str| {
        format!("st.shared.u32 [%r6], %r0;\n{sync} xor.b32 %r7, %r6, 4; ld.shared.u32 %r1, [%r7];")
    };
    shared(&body(""), 32).expect(ReportKind::SharedRace, line(2));
    // A shuffle does not order memory.
    shared(&body("shfl.sync.idx.b32 %r2, %r0, 0, 31, -1;"), 32).expect(ReportKind::SharedRace, line(2));
    shared(&body("bar.warp.sync -1;"), 32).result.unwrap();
}

#[test]
fn a_write_after_a_read() {
    // The loop's second turn overwrites what others may still read: a barrier is missing at its end.
    let body = |end: &str| {
        format!(
            "mov.u32 %r8, 0;
             LOOP: add.u32 %r9, %r0, %r8; st.shared.u32 [%r6], %r9; bar.sync 0;
             xor.b32 %r7, %r6, 128; ld.shared.u32 %r1, [%r7]; {end}
             add.u32 %r8, %r8, 1; setp.lt.u32 %p1, %r8, 3; @%p1 bra LOOP;"
        )
    };
    shared(&body(""), 64).expect(ReportKind::SharedRace, line(3));
    shared(&body("bar.sync 0;"), 64).result.unwrap();
}

#[test]
fn lanes_that_write_the_same_word() {
    shared("st.shared.u32 [s], %r0;", 32).expect(ReportKind::SharedRace, line(1));
    // The same value from all of them is harmless.
    shared("st.shared.u32 [s], 7;", 64).result.unwrap();
    // Halves of a word are different places.
    shared("shl.b32 %r7, %r0, 1; add.u32 %r7, %r7, %r5; st.shared.u16 [%r7], %r0;", 64).result.unwrap();
}

#[test]
fn atomics_in_shared_memory_do_not_race() {
    let init = "setp.ne.u32 %p1, %r0, 0; @%p1 bra GO; st.shared.u32 [s], 0; GO: bar.sync 0;";
    let body = format!("{init} atom.shared.add.u32 %r1, [s], 1; bar.sync 0; ld.shared.u32 %r1, [s];");
    shared(&body, 64).result.unwrap();
    let body = format!("{init} atom.shared.add.u32 %r1, [s], 1;\nld.shared.u32 %r1, [s];");
    shared(&body, 64).expect(ReportKind::SharedRace, line(2));
}

#[test]
fn a_barrier_in_a_divergent_branch() {
    let run = shared("setp.lt.u32 %p1, %r0, 16; @!%p1 bra OUT;\nbar.sync 0;\nOUT:", 32);
    let report = run.expect(ReportKind::Barrier, line(2));
    assert!(report.message.contains("16 of the 32 threads"), "{report}");
    shared("setp.lt.u32 %p1, %r0, 16; @%p1 bar.sync 0;", 64).expect(ReportKind::Barrier, line(1));
}

#[test]
fn barriers_that_nobody_ends() {
    // One warp waits at barrier 0, the other at barrier 1.
    let run = shared("setp.lt.u32 %p1, %r0, 32; @%p1 bra A;\nbar.sync 1; bra END;\nA: bar.sync 0;\nEND:", 64);
    let report = run.report();
    assert_eq!(report.kind, ReportKind::Barrier, "{report}");
    assert!(report.message.contains("for ever"), "{report}");
    // A producer is missing.
    let run = shared("setp.lt.u32 %p1, %r0, 32; @%p1 bra END; bar.sync 1, 64; END:", 64);
    assert_eq!(run.report().kind, ReportKind::Barrier);
}

#[test]
fn a_missing_wait() {
    let copy =
        "shl.b32 %r7, %r0, 4; add.u32 %r7, %r7, %r5; mul.wide.u32 %rd3, %r0, 16; add.s64 %rd3, %rd3, %rd1;
                cp.async.cg.shared.global [%r7], [%rd3], 16; cp.async.commit_group;";
    let load = "ld.shared.u32 %r1, [%r7];";
    shared(&format!("{copy}\n{load}"), 32).expect(ReportKind::AsyncCopy, line(3));
    shared(&format!("{copy} cp.async.wait_group 1;\n{load}"), 32).expect(ReportKind::AsyncCopy, line(3));
    shared(&format!("{copy} cp.async.wait_group 0;\n{load}"), 32).result.unwrap();
    // The wait is each thread's own: for others' data there must be a barrier too.
    let neighbour = "xor.b32 %r7, %r7, 16; ld.shared.u32 %r1, [%r7];";
    shared(&format!("{copy} cp.async.wait_group 0;\n{neighbour}"), 32)
        .expect(ReportKind::SharedRace, line(3));
    shared(&format!("{copy} cp.async.wait_group 0; bar.sync 0;\n{neighbour}"), 32).result.unwrap();
    // And nobody may write there meanwhile.
    shared(&format!("{copy}\nst.shared.u32 [%r7], 1;"), 32).expect(ReportKind::AsyncCopy, line(3));
}

#[test]
fn a_double_buffer_overwritten_too_early() {
    // Warps read the buffer, and the next copy into it begins before all have.
    let body = |barrier: &str| {
        format!(
            "shl.b32 %r7, %r0, 4; add.u32 %r7, %r7, %r5; mul.wide.u32 %rd3, %r0, 16; add.s64 %rd3, %rd3, %rd1;
             cp.async.cg.shared.global [%r7], [%rd3], 16; cp.async.wait_all; bar.sync 0;
             xor.b32 %r8, %r7, 512; ld.shared.u32 %r1, [%r8]; {barrier}
             cp.async.cg.shared.global [%r7], [%rd3], 16; cp.async.wait_all;"
        )
    };
    let run = shared(&body(""), 64);
    let report = run.expect(ReportKind::SharedRace, line(3));
    assert_eq!(report.other.as_ref().unwrap().ptx_line, Some(line(4)), "{report}");
    shared(&body("bar.sync 0;"), 64).result.unwrap();
}

#[test]
fn a_wrong_ldmatrix_address() {
    let fill = "shl.b32 %r7, %r0, 4; add.u32 %r7, %r7, %r5; st.shared.v4.u32 [%r7], {%r0, %r0, %r0, %r0}; bar.sync 0;";
    let load = |offset: &str| {
        format!("{fill}\nldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r7{offset}];")
    };
    shared(&load(""), 32).result.unwrap();
    shared(&load("+8"), 32).expect(ReportKind::Misaligned, line(2));
    shared(&load("+4096"), 32).expect(ReportKind::OutOfBounds, line(2));
    let run = shared(&load("+64"), 32);
    assert_eq!(run.expect(ReportKind::Uninitialised, line(2)).thread, Some([28, 0, 0]));
}

#[test]
fn a_shuffle_with_an_absent_lane() {
    // Half of the warp has gone its own way.
    let body = "setp.lt.u32 %p1, %r0, 16; @!%p1 bra OUT;\nshfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;\nOUT:";
    let run = shared(body, 32);
    let report = run.expect(ReportKind::AbsentLane, line(2));
    assert_eq!(report.thread, Some([0, 0, 0]));
    shared(&body.replace("-1;", "0xffff;"), 32).result.unwrap();
    // A block without those lanes.
    shared("shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;", 16).expect(ReportKind::AbsentLane, line(1));
    // A lane that reads from outside of its mask.
    shared("setp.ge.u32 %p1, %r0, 16; @%p1 bra OUT; shfl.sync.idx.b32 %r1, %r0, 20, 31, 0xffff; OUT:", 32)
        .expect(ReportKind::AbsentLane, line(1));
    // Lanes that wait elsewhere for each other.
    let body = "setp.lt.u32 %p1, %r0, 16; @!%p1 bra HIGH;\nshfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; bra OUT;\nHIGH: redux.sync.add.u32 %r1, %r0, -1; OUT:";
    assert_eq!(shared(body, 32).report().kind, ReportKind::AbsentLane);
}

#[test]
fn tensor_cores_need_the_whole_warp() {
    let body = "setp.lt.u32 %p1, %r0, 31; @!%p1 bra OUT;\nmma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r1}, {%r1}, {%f1, %f2, %f3, %f4};\nOUT:";
    shared(body, 32).expect(ReportKind::AbsentLane, line(2));
}

#[test]
fn races_between_blocks() {
    let race = |body: &str, threads: usize| {
        let options = Options { threads: Some(threads), ..Options::default() };
        Run::with(options, &module("", &format!("mov.u32 %r1, %ctaid.x;\n{body}")), &[0; 8], 64, 8, 1, 0)
    };
    for threads in [1, 2, 4] {
        // All write the same word.
        let run = race("st.global.u32 [%rd2], %r1;", threads);
        let report = run.expect(ReportKind::GlobalRace, BODY + 1);
        assert!(report.block > report.other.as_ref().unwrap().block, "{report}");
        // One reads what the next one writes.
        let next = "mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd1; st.global.u32 [%rd3], 1;";
        let body = format!(
            "setp.eq.u32 %p1, %r1, 7; @%p1 bra SKIP; mul.wide.u32 %rd4, %r1, 4; add.s64 %rd4, %rd4, %rd1; ld.global.u32 %r2, [%rd4+4]; SKIP: {next}"
        );
        assert_eq!(race(&body, threads).report().kind, ReportKind::GlobalRace);
        // Halves of a word are different places, and atomics are in order.
        let half = "mul.wide.u32 %rd3, %r1, 2; add.s64 %rd3, %rd3, %rd2; st.global.u16 [%rd3], %r1;";
        race(half, threads).result.unwrap();
        race("red.global.add.u32 [%rd1], 1;", threads).result.unwrap();
        race("ld.global.u32 %r2, [%rd1];", threads).result.unwrap();
    }
}

#[test]
fn atomics_race_with_plain_accesses_of_other_blocks() {
    // Block 0 does the one, the others the other.
    let race = |first: &str, then: &str| {
        let body = format!(
            "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0;\n@%p1 bra THEN; {first} bra END;\nTHEN: {then}\nEND:"
        );
        Run::new(&module("", &body), &[0; 8], 4, 3, 1)
    };
    let (atomic, store, load) =
        ("red.global.add.u32 [%rd1], 1;", "st.global.u32 [%rd1], 5;", "ld.global.u32 %r2, [%rd1];");
    for (first, then, message) in [
        (
            atomic,
            store,
            "a store at offset 0 of an allocation of 32 bytes, where block (0, 0, 0) has an atomic",
        ),
        (
            store,
            atomic,
            "an atomic at offset 0 of an allocation of 32 bytes, where block (0, 0, 0) has a store",
        ),
        (
            load,
            atomic,
            "an atomic at offset 0 of an allocation of 32 bytes, where block (0, 0, 0) has a load",
        ),
        (
            atomic,
            load,
            "a load at offset 0 of an allocation of 32 bytes, where block (0, 0, 0) has an atomic",
        ),
    ] {
        let run = race(first, then);
        let report = run.expect(ReportKind::GlobalRace, BODY + 2);
        let other = report.other.as_ref().unwrap();
        assert_eq!(
            (report.block, other.block, other.ptx_line),
            ([1, 0, 0], [0; 3], Some(BODY + 1)),
            "{report}"
        );
        assert!(report.message.starts_with(message), "{report}");
        // An atomic of the block's own hides nothing.
        for first in [format!("{first} {atomic}"), format!("{atomic} {first}")] {
            race(&first, then).expect(ReportKind::GlobalRace, BODY + 2);
        }
    }
    race(atomic, atomic).result.unwrap();
    // Each block stores to a word of its own besides.
    let own = "mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd1; st.global.u32 [%rd3+4], 5;";
    race(&format!("{atomic} {own}"), &format!("{own} {atomic}")).result.unwrap();
}

#[test]
fn the_lowest_block_is_reported() {
    // Blocks 3 and up are out of bounds.
    let body = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd2; st.global.u32 [%rd3], 1;";
    for threads in [1, 2, 4] {
        let options = Options { threads: Some(threads), ..Options::default() };
        let run = Run::with(options, &module("", body), &[0], 12, 100, 1, 0);
        assert_eq!(run.expect(ReportKind::OutOfBounds, BODY).block, [3, 0, 0]);
    }
}

#[test]
fn assertions_and_traps() {
    let declarations = ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
        .global .b8 m[6] = {120, 32, 62, 32, 48, 0}; .global .b8 f[5] = {97, 46, 99, 117, 0}; .global .b8 g[2] = {103, 0};";
    let pointer = |i: usize, name: &str| {
        format!(
            "mov.u64 %rd4, {name}; cvta.global.u64 %rd4, %rd4; .param .b64 p{i}; st.param.b64 [p{i}+0], %rd4;\n"
        )
    };
    let body = format!(
        "{{ {}{}.param .b32 p2; st.param.b32 [p2+0], 42;\n{}{} call.uni __assertfail, (p0, p1, p2, p3, p4); }}",
        pointer(0, "m"),
        pointer(1, "f"),
        pointer(3, "g"),
        pointer(4, "g")
    );
    let run = Run::new(&module(declarations, &body), &[0], 4, 1, 1);
    let report = run.report();
    assert_eq!(report.kind, ReportKind::Assertion);
    assert_eq!(report.source.as_ref().unwrap().to_string(), "a.cu:42");
    assert!(report.message.contains("`x > 0` does not hold in g"), "{report}");
    Run::new(&module("", "trap;"), &[0], 4, 1, 1).expect(ReportKind::Assertion, BODY);
}

#[test]
fn launches_that_cuda_would_refuse() {
    let simulator = crate::device::cuda::sim::Simulator::new(Options::default());
    let module = simulator.load(&module("", "")).unwrap();
    let function = module.function("k").unwrap();
    let params = [0; 20];
    assert!(simulator.launch(&function, [1; 3], [1; 3], 0, &params).is_ok());
    assert!(simulator.launch(&function, [0, 1, 1], [1; 3], 0, &params).is_err());
    assert!(simulator.launch(&function, [1; 3], [1025, 1, 1], 0, &params).is_err());
    assert!(simulator.launch(&function, [1, 65536, 1], [1; 3], 0, &params).is_err());
    assert!(simulator.launch(&function, [1; 3], [1; 3], 164 * 1024, &params).is_err());
    assert!(simulator.launch(&function, [1; 3], [1; 3], 0, &params[1..]).is_err());
    assert!(module.function("other").is_err());
}
