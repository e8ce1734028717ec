//! `cargo test --release -- --ignored --nocapture speed`: lane-instructions a second.

use std::time::Instant;

use super::module;
use crate::device::cuda::sim::{Checks, Options, Simulator};

fn measure(name: &str, text: &str, words: usize, grid: u32, block: u32) {
    for (label, checks) in [("all checks", Checks::ALL), ("no checks", Checks::NONE)] {
        let simulator = Simulator::new(Options { checks, threads: Some(1), ..Options::default() });
        let function = simulator.load(text).unwrap().function("k").unwrap();
        let (a, b) = (simulator.alloc(4 * words as u64).unwrap(), simulator.alloc(4 * words as u64).unwrap());
        simulator.fill(a, 4 * words as u64, 0).unwrap();
        let params = [a.to_le_bytes(), b.to_le_bytes()].concat();
        let params: Vec<u8> = params.into_iter().chain((words as u32).to_le_bytes()).collect();
        // The second launch finds its pages mapped.
        let mut rate = 0.0;
        for _ in 0..2 {
            let start = Instant::now();
            let counters = simulator.launch(&function, [grid, 1, 1], [block, 1, 1], 0, &params).unwrap();
            rate = counters.total().lanes as f64 / start.elapsed().as_secs_f64() / 1e6;
        }
        println!("{name}, {label}: {rate:.0} million lane-instructions a second on one core");
    }
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let (grid, block) = (4096, 256);
    let stream = module(
        "",
        "mov.u32 %r1, %ctaid.x; mad.lo.u32 %r1, %r1, 256, %r0; mul.wide.u32 %rd3, %r1, 4;
         add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3; ld.global.f32 %f1, [%rd4];
         fma.rn.f32 %f1, %f1, %f1, %f1; st.global.f32 [%rd5], %f1;",
    );
    measure("memory-bound", &stream, (grid * block) as usize, grid, block);
    let tensor = module(
        ".shared .align 16 .b8 s[8192];",
        "mov.u32 %r5, s; shl.b32 %r6, %r0, 4; add.u32 %r6, %r6, %r5; mul.wide.u32 %rd3, %r0, 16; add.s64 %rd3, %rd1, %rd3;
         mov.f32 %f1, 0f00000000; mov.f32 %f2, 0f00000000; mov.f32 %f3, 0f00000000; mov.f32 %f4, 0f00000000; mov.u32 %r7, 0;
         LOOP: cp.async.cg.shared.global [%r6], [%rd3], 16; cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r6];
         ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r14, %r15, %r16, %r17}, [%r6];
         mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f1, %f2, %f3, %f4};
         mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, %r12, %r13}, {%r16, %r17}, {%f1, %f2, %f3, %f4};
         bar.sync 0; add.u32 %r7, %r7, 1; setp.lt.u32 %p1, %r7, 64; @%p1 bra LOOP;",
    );
    measure("tensor cores", &tensor, 8192, 64, 256);
}
