//! Divergence, barriers, calls, copies: the order in which things happen.

use super::{Run, module};
use crate::device::cuda::sim::{Options, ReportKind};

const STORE: &str = "mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd3, %rd2; st.global.u32 [%rd3], %r10;";

#[test]
fn lanes_part_and_meet_again() {
    // Even lanes loop as often as their number says, odd ones do something else; then all of them vote.
    let text = module(
        "",
        &format!(
            "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; mov.u32 %r10, 0; mov.u32 %r2, %r0; @!%p1 bra ODD;
             LOOP: setp.eq.u32 %p2, %r2, 0; @%p2 bra JOIN; add.u32 %r10, %r10, 3; sub.u32 %r2, %r2, 1; bra LOOP;
             ODD: add.u32 %r10, %r0, 1000;
             JOIN: activemask.b32 %r3; setp.eq.u32 %p3, %r3, -1; vote.sync.all.pred %p4, %p3, -1;
             @!%p4 mov.u32 %r10, 7; {STORE}"
        ),
    );
    let run = Run::new(&text, &[0], 128, 1, 32);
    let expected: Vec<u32> = (0..32).map(|i| if i % 2 == 0 { 3 * i } else { 1000 + i }).collect();
    assert_eq!(run.output(32), expected);
    // One branch by parity, one for each turn of the loop but the last on which lanes leave: 0, 2, ... 30.
    assert_eq!(run.counters().divergent_branches, 1 + 15);
}

#[test]
fn blocks_laid_out_backwards_still_meet() {
    // The join comes first in the text.
    let text = module(
        "",
        &format!(
            "setp.lt.u32 %p1, %r0, 16; bra START;
             JOIN: activemask.b32 %r10; {STORE} ret;
             LOW: mov.u32 %r1, 1; bra JOIN;
             START: @%p1 bra LOW; mov.u32 %r1, 2; bra JOIN;"
        ),
    );
    assert_eq!(Run::new(&text, &[0], 128, 1, 32).output(32), vec![u32::MAX; 32]);
}

#[test]
fn a_shuffle_waits_for_the_lanes_that_it_names() {
    let text = module(
        "",
        &format!(
            "setp.lt.u32 %p1, %r0, 16; mov.u32 %r1, %r0; @%p1 bra LOW; add.u32 %r1, %r0, 100;
             LOW: shfl.sync.bfly.b32 %r10, %r1, 16, 31, -1; {STORE}"
        ),
    );
    let expected: Vec<u32> = (0..32).map(|i| if i < 16 { 116 + i } else { i - 16 }).collect();
    assert_eq!(Run::new(&text, &[0], 128, 1, 32).output(32), expected);
}

#[test]
fn warp_barriers_in_two_branches_match() {
    let text = module(
        "",
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra LOW; bar.warp.sync -1; bra END; LOW: bar.warp.sync -1; END:",
    );
    Run::new(&text, &[0], 4, 1, 32).result.unwrap();
}

#[test]
fn branch_tables() {
    let text = module(
        "",
        &format!(
            "and.b32 %r1, %r0, 3; T: .branchtargets A, B, C, B; brx.idx %r1, T;
             A: mov.u32 %r10, 1; bra END; B: mov.u32 %r10, 2; bra END; C: mov.u32 %r10, 3; END: {STORE}"
        ),
    );
    let expected: Vec<u32> = (0..32).map(|i| [1, 2, 3, 2][i % 4]).collect();
    assert_eq!(Run::new(&text, &[0], 128, 1, 32).output(32), expected);
}

#[test]
fn a_spinning_lane_gives_way() {
    // Lane 0 waits for what lane 1 writes, and comes first in the program.
    let text = module(
        ".shared .u32 flag;",
        "mov.u32 %r5, flag; setp.ne.u32 %p1, %r0, 2; @%p1 bra GO; st.volatile.shared.u32 [%r5], 0; GO: bar.warp.sync -1;
         setp.ne.u32 %p2, %r0, 0; @%p2 bra WRITE;
         SPIN: ld.volatile.shared.u32 %r1, [%r5]; setp.eq.u32 %p3, %r1, 0; @%p3 bra SPIN; bra END;
         WRITE: st.volatile.shared.u32 [%r5], 1; END: st.global.u32 [%rd2], 1;",
    );
    assert_eq!(Run::new(&text, &[0], 4, 1, 32).output(1), [1]);
}

#[test]
fn a_loop_without_end_is_reported() {
    let options = Options { budget: 1_000_000, ..Options::default() };
    let text = module("", "HERE: bra HERE;");
    Run::with(options, &text, &[0], 4, 1, 32, 0).expect(ReportKind::Budget, super::BODY);
}

#[test]
fn block_barriers_order_warps() {
    // Each thread reads what a thread of another warp wrote.
    let text = module(
        ".shared .align 4 .b32 s[128];",
        &format!(
            "mov.u32 %r5, s; shl.b32 %r1, %r0, 2; add.u32 %r1, %r1, %r5; st.shared.u32 [%r1], %r0; bar.sync 0;
             xor.b32 %r2, %r0, 96; shl.b32 %r2, %r2, 2; add.u32 %r2, %r2, %r5; ld.shared.u32 %r10, [%r2]; {STORE}"
        ),
    );
    let run = Run::new(&text, &[0], 512, 1, 128);
    assert_eq!(run.output(128), (0..128).map(|i| i ^ 96).collect::<Vec<u32>>());
}

#[test]
fn named_barriers_pair_producers_and_consumers() {
    // Warp 0 writes and arrives; warp 1 waits and reads.
    let text = module(
        ".shared .align 4 .b32 s[32];",
        "mov.u32 %r5, s; and.b32 %r6, %r0, 31; shl.b32 %r1, %r6, 2; add.u32 %r1, %r1, %r5; setp.ge.u32 %p1, %r0, 32;
         @%p1 bra READ; st.shared.u32 [%r1], %r0; bar.arrive 1, 64; bra END;
         READ: bar.sync 1, 64; ld.shared.u32 %r10, [%r1]; mul.wide.u32 %rd3, %r6, 4; add.s64 %rd3, %rd3, %rd2;
         st.global.u32 [%rd3], %r10; END:",
    );
    assert_eq!(Run::new(&text, &[0], 128, 1, 64).output(32), (0..32).collect::<Vec<u32>>());
}

#[test]
fn barrier_reductions() {
    let text = module(
        "",
        &format!(
            "setp.lt.u32 %p1, %r0, 40; bar.red.popc.u32 %r1, 0, %p1; bar.red.and.pred %p2, 0, %p1;
             bar.red.or.pred %p3, 0, %p1; selp.u32 %r2, 1000, 0, %p2; selp.u32 %r3, 2000, 0, %p3;
             add.u32 %r10, %r1, %r2; add.u32 %r10, %r10, %r3; {STORE}"
        ),
    );
    assert_eq!(Run::new(&text, &[0], 256, 1, 64).output(64), vec![2040; 64]);
}

#[test]
fn async_copies_land_at_their_wait() {
    let text = module(
        ".shared .align 16 .b8 s[1024];",
        &format!(
            "mov.u32 %r5, s; shl.b32 %r1, %r0, 4; add.u32 %r1, %r1, %r5; mul.wide.u32 %rd3, %r0, 16; add.s64 %rd4, %rd1, %rd3;
             cp.async.cg.shared.global [%r1], [%rd4], 16; cp.async.commit_group;
             cp.async.ca.shared.global [%r1+512], [%rd4], 8, 4; cp.async.commit_group;
             cp.async.wait_group 1; ld.shared.u32 %r2, [%r1+12];
             cp.async.wait_all; ld.shared.v2.u32 {{%r3, %r4}}, [%r1+512];
             add.u32 %r10, %r2, %r3; add.u32 %r10, %r10, %r4; {STORE}"
        ),
    );
    let input: Vec<u32> = (0..128).map(|i| i * 10).collect();
    // Word 3, and of the second copy word 0 and zeros behind it.
    let expected: Vec<u32> = (0..32).map(|i| (4 * i + 3) * 10 + 4 * i * 10).collect();
    assert_eq!(Run::new(&text, &input, 128, 1, 32).output(32), expected);
}

#[test]
fn functions_of_the_module_are_called() {
    let declarations = ".func (.param .b32 result) twice(.param .b32 x, .param .b32 y)
        { .reg .b32 %r<4>; .reg .pred %p<2>; ld.param.b32 %r1, [x]; ld.param.b32 %r2, [y];
          setp.gt.u32 %p1, %r1, 20; mov.u32 %r3, 5; @%p1 bra OUT; mad.lo.u32 %r3, %r1, 2, %r2;
          OUT: st.param.b32 [result+0], %r3; ret; }";
    let text = module(
        declarations,
        &format!(
            "{{ .param .b32 param0; st.param.b32 [param0+0], %r0; .param .b32 param1; st.param.b32 [param1+0], 100;
               .param .b32 retval0; call.uni (retval0), twice, (param0, param1); ld.param.b32 %r10, [retval0+0]; }}
             {STORE}"
        ),
    );
    let expected: Vec<u32> = (0..32).map(|i| if i > 20 { 5 } else { 2 * i + 100 }).collect();
    assert_eq!(Run::new(&text, &[0], 128, 1, 32).output(32), expected);
}

#[test]
fn printf_in_block_order() {
    use std::sync::{Arc, Mutex};
    let printed = Arc::new(Mutex::new(String::new()));
    let sink = printed.clone();
    let options = Options {
        threads: Some(2),
        output: Arc::new(move |text| sink.lock().unwrap().push_str(text)),
        ..Options::default()
    };
    // "%d of %s: %5.2f|\n"
    let format = "37, 100, 32, 111, 102, 32, 37, 115, 58, 32, 37, 53, 46, 50, 102, 124, 10, 0";
    let declarations = format!(
        ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);
         .global .align 1 .b8 format[18] = {{{format}}}; .global .align 1 .b8 name[3] = {{97, 98, 0}};"
    );
    let body = "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r0, 0; @%p1 ret;
        st.local.u32 [args], %r1; mov.u64 %rd4, name; cvta.global.u64 %rd4, %rd4; st.local.u64 [args+8], %rd4;
        st.local.f64 [args+16], 0d4009000000000000; mov.u64 %rd5, args; cvta.local.u64 %rd5, %rd5;
        mov.u64 %rd6, format; cvta.global.u64 %rd6, %rd6;
        { .param .b64 p0; st.param.b64 [p0+0], %rd6; .param .b64 p1; st.param.b64 [p1+0], %rd5; .param .b32 r0;
          call.uni (r0), vprintf, (p0, p1); ld.param.b32 %r2, [r0+0]; }";
    let text = module(&declarations, &format!(".local .align 8 .b8 args[24];\n{body}"));
    Run::with(options, &text, &[0], 4, 40, 32, 0).result.unwrap();
    let expected: String = (0..40).map(|block| format!("{block} of ab:  3.12|\n")).collect();
    assert_eq!(*printed.lock().unwrap(), expected);
}

#[test]
fn the_same_bits_whatever_the_number_of_threads() {
    // Float atomics: their order shows in the last bits.
    let text = module(
        "",
        "mov.u32 %r1, %ctaid.x; mad.lo.u32 %r1, %r1, 64, %r0; cvt.rn.f32.u32 %f1, %r1; rcp.rn.f32 %f1, %f1;
         setp.eq.u32 %p1, %r1, 0; @%p1 mov.f32 %f1, 0f00000000; red.global.add.f32 [%rd1], %f1;
         mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd2; st.global.f32 [%rd3], %f1;",
    );
    let with = |threads| {
        let options = Options { threads: Some(threads), ..Options::default() };
        let run = Run::with(options, &text, &[0], 4 * 64 * 200, 200, 64, 0);
        (run.read(run.a, 1), run.output(64 * 200), run.counters().clone())
    };
    let (sum, output, counters) = with(1);
    for threads in [2, 3, 8] {
        let (other_sum, other_output, other_counters) = with(threads);
        assert_eq!((sum.clone(), &output, &counters), (other_sum, &other_output, &other_counters));
    }
}
