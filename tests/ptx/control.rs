//! Section 9.7.13 and chapter 10: branches, calls, special registers.

use crate::harness::*;

/// A loop with a trip count of its own in each lane.
#[test]
fn divergent_loop() {
    let body = "mov.b32 %d, 0;\nmov.b32 %e, 0;
LOOP:
setp.ge.u32 %p, %e, %a;
@%p bra DONE;
add.u32 %d, %d, %e;
add.u32 %e, %e, 1;
bra LOOP;
DONE:";
    let body = format!("{{ .reg .b32 %e;\n{body}\n}}");
    let input = std::array::from_fn(|lane| (lane as u64 * 7) % 13);
    let sums = lanes(&body, [32], 32, [input]);
    for (n, sum) in input.into_iter().zip(sums) {
        assert_eq!(sum, n * n.saturating_sub(1) / 2);
    }
}

/// Branches within branches, with joins in between.
#[test]
fn nested_branches() {
    let body = "{ .reg .pred %q;
mov.b32 %d, 0;
and.b32 %a, %lane, 1;
setp.eq.u32 %p, %a, 0;
@%p bra EVEN;
setp.gt.u32 %q, %lane, 15;
@%q bra HIGH;
add.u32 %d, %d, 1;
bra JOIN;
HIGH:
add.u32 %d, %d, 2;
bra JOIN;
EVEN:
add.u32 %d, %d, 4;
JOIN:
add.u32 %d, %d, 100;
}";
    let results = lanes(body, [32], 32, [[0; 32]]);
    for (lane, result) in results.into_iter().enumerate() {
        let expected = if lane % 2 == 0 {
            104
        } else if lane > 15 {
            102
        } else {
            101
        };
        assert_eq!(result, expected, "lane {lane}");
    }
}

/// Lanes that end early do not hold the others back.
#[test]
fn early_exit() {
    let body =
        "mov.b32 %d, 5;\nst.global.b32 [%at], %d;\nsetp.lt.u32 %p, %lane, 20;\n@%p exit;\nmov.b32 %d, 6;";
    let results = lanes(body, [], 32, []);
    assert!(results.iter().enumerate().all(|(lane, x)| *x == if lane < 20 { 5 } else { 6 }));
    let body = body.replace("@%p exit", "@%p ret");
    assert!(lanes(&body, [], 32, []).iter().enumerate().all(|(lane, x)| *x == if lane < 20 { 5 } else { 6 }));
}

/// `brx.idx` through a table of labels.
#[test]
fn indexed_branch() {
    let body = "and.b32 %a, %lane, 3;
TABLE: .branchtargets A0, A1, A2, A3;
brx.idx %a, TABLE;
A0: mov.b32 %d, 10; bra END;
A1: mov.b32 %d, 11; bra END;
A2: mov.b32 %d, 12; bra END;
A3: mov.b32 %d, 13;
END:";
    let results = lanes(body, [32], 32, [[0; 32]]);
    assert!(results.iter().enumerate().all(|(lane, x)| *x == 10 + lane as u64 % 4));
}

/// A call with parameters and a result.
#[test]
fn call() {
    let text = format!(
        "{HEADER}
.func (.param .b32 result) twice_plus(.param .b32 x, .param .b32 y) {{
.reg .b32 %r<4>;
ld.param.b32 %r0, [x];
ld.param.b32 %r1, [y];
mad.lo.s32 %r2, %r0, 2, %r1;
st.param.b32 [result], %r2;
ret;
}}
.visible .entry k(.param .u64 out) {{
.reg .b64 %at, %step;
.reg .b32 %lane, %d;
ld.param.u64 %at, [out];
cvta.to.global.u64 %at, %at;
mov.u32 %lane, %tid.x;
mul.wide.u32 %step, %lane, 4;
add.s64 %at, %at, %step;
{{
.param .b32 a;
.param .b32 b;
.param .b32 r;
st.param.b32 [a], %lane;
st.param.b32 [b], 1000;
call (r), twice_plus, (a, b);
ld.param.b32 %d, [r];
}}
st.global.b32 [%at], %d;
ret;
}}"
    );
    let after = launch(&text, 1, 32, 0, &[0; 128]).unwrap();
    for (lane, bytes) in after.chunks_exact(4).enumerate() {
        assert_eq!(u32::from_le_bytes(bytes.try_into().unwrap()), 2 * lane as u32 + 1000);
    }
}

/// Chapter 10, in blocks of 48 threads, of which the second warp is half full.
#[test]
fn special_registers() {
    let read = |register: &str| {
        let text = format!(
            "{HEADER}.visible .entry k(.param .u64 out) {{
.reg .b64 %at, %step;
.reg .b32 %i, %n, %d;
ld.param.u64 %at, [out];
cvta.to.global.u64 %at, %at;
mov.u32 %i, %ctaid.x;
mov.u32 %n, %ntid.x;
mul.lo.u32 %i, %i, %n;
mov.u32 %n, %tid.x;
add.u32 %i, %i, %n;
mul.wide.u32 %step, %i, 4;
add.s64 %at, %at, %step;
mov.u32 %d, {register};
st.global.b32 [%at], %d;
ret;
}}"
        );
        let after = launch(&text, 3, 48, 0, &[0; 3 * 48 * 4]).unwrap();
        let words: Vec<u32> =
            after.chunks_exact(4).map(|x| u32::from_le_bytes(x.try_into().unwrap())).collect();
        words
    };
    let expect = |register: &str, f: &dyn Fn(u32, u32) -> u32| {
        for (i, x) in read(register).into_iter().enumerate() {
            let (block, thread) = (i as u32 / 48, i as u32 % 48);
            assert_eq!(x, f(block, thread), "{register} of thread {thread} in block {block}");
        }
    };
    expect("%tid.x", &|_, thread| thread);
    expect("%tid.y", &|_, _| 0);
    expect("%ntid.x", &|_, _| 48);
    expect("%ntid.z", &|_, _| 1);
    expect("%ctaid.x", &|block, _| block);
    expect("%nctaid.x", &|_, _| 3);
    expect("%nctaid.y", &|_, _| 1);
    expect("%laneid", &|_, thread| thread % 32);
    expect("%lanemask_eq", &|_, thread| 1 << (thread % 32));
    expect("%lanemask_lt", &|_, thread| (1 << (thread % 32)) - 1);
    expect("%lanemask_le", &|_, thread| u32::MAX >> (31 - thread % 32));
    expect("%lanemask_gt", &|_, thread| !(u32::MAX >> (31 - thread % 32)));
    expect("%lanemask_ge", &|_, thread| u32::MAX << (thread % 32));
    expect("WARP_SZ", &|_, _| 32);
    assert!(read("%clock").len() == 3 * 48);
}

/// What the simulator does not know it refuses by line and name.
#[test]
fn unknown_instructions() {
    for instruction in [
        "frobnicate.b32 %d, %a;",
        "add.frob.s32 %d, %a, %a;",
        "add.e4m3 %d, %a, %a;",
        "add.s32 %d, %a;",
        "mbarrier.init.shared::cta.b64 [%at], 1;",
        "mbarrier.try_wait.parity.shared::cta.b64 %p, [%at], %a;",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%at], [%at], 16, [%at];",
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%at, {%a, %a}], [%at];",
        "wgmma.fence.sync.aligned;",
        "wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%d, %d, %d, %d}, %at, %at, 1, 1, 1;",
        "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%d, %d, %d, %d, %d, %d, %d, %d}, [%at];",
        "mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f16 {%d, %d, %d, %d}, {%a, %a}, {%a, %a}, {%a, %a, %a, %a};",
        "mma.sp.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%d, %d, %d, %d}, {%a, %a}, {%a, %a}, {%a, %a, %a, %a}, %a, 0;",
        "tex.2d.v4.f32.s32 {%d, %d, %d, %d}, [%at, {%a, %a}];",
        "tld4.r.2d.v4.f32.f32 {%d, %d, %d, %d}, [%at, {%a, %a}];",
        "suld.b.1d.b32.trap %d, [%at, %a];",
        "sust.b.1d.b32.trap [%at, %a], %a;",
        "vabsdiff4.u32.u32.u32.add %d, %a, %a, %a;",
        "vadd.u32.u32.u32 %d, %a.b0, %a.h1;",
        "barrier.cluster.arrive.aligned;",
        "add.s32 %d, %at, %a;",
        "st.global.b64 [%at], %a;",
    ] {
        let opcode = instruction.split(' ').next().expect("an opcode").trim_end_matches(';');
        refused(instruction, &[32], 32, &format!("`{opcode}`"));
    }
}
