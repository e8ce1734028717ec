//! Tests on small PTX kernels, written by hand so that every instruction in them is known.

mod checks;
mod control;
mod counters;
mod real;
mod semantics;

use super::{Counters, Error, Options, Report, ReportKind, Simulator};

/// A module with one kernel `k`: parameters `a` and `b`, two pointers, which begin in %rd1 and %rd2; %r0 is the thread.
/// Declarations come before the kernel.
fn module(declarations: &str, body: &str) -> String {
    format!(
        ".version 9.0
.target sm_80
.address_size 64
{declarations}
.visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n)
{{
.reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<64>; .reg .b64 %rd<32>; .reg .f32 %f<16>; .reg .f64 %fd<8>;
.loc 1 10 0
ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b];
mov.u32 %r0, %tid.x;
{body}
ret;
}}
.file 1 \"kernels/test.cu\"
"
    )
}

/// The line of the PTX text on which `module` puts the first line of the body, without declarations.
const BODY: u32 = 11;

struct Run {
    simulator: Simulator,
    a: u64,
    b: u64,
    result: Result<Counters, Error>,
}

impl Run {
    /// Runs a kernel with `a` holding these words and `b` as many bytes of nothing.
    fn new(text: &str, a: &[u32], b_bytes: u64, grid: u32, block: u32) -> Self {
        Self::with(Options::default(), text, a, b_bytes, grid, block, 0)
    }

    fn with(
        options: Options,
        text: &str,
        input: &[u32],
        b_bytes: u64,
        grid: u32,
        block: u32,
        shared: u32,
    ) -> Self {
        let simulator = Simulator::new(options);
        let a = simulator.alloc(4 * input.len() as u64).unwrap();
        let b = simulator.alloc(b_bytes).unwrap();
        simulator.write(a, bytemuck::cast_slice(input)).unwrap();
        let module = simulator.load(text).unwrap();
        let function = module.function("k").unwrap();
        let mut params = Vec::new();
        params.extend(a.to_le_bytes());
        params.extend(b.to_le_bytes());
        params.extend((input.len() as u32).to_le_bytes());
        let result = simulator.launch(&function, [grid, 1, 1], [block, 1, 1], shared, &params);
        Self { simulator, a, b, result }
    }

    fn read(&self, address: u64, words: usize) -> Vec<u32> {
        let mut out = vec![0u32; words];
        self.simulator.read(address, bytemuck::cast_slice_mut(&mut out)).unwrap();
        out
    }

    /// The first words of `b` after a launch without faults.
    fn output(&self, words: usize) -> Vec<u32> {
        self.result.as_ref().unwrap();
        self.read(self.b, words)
    }

    fn report(&self) -> &Report {
        match &self.result {
            Err(Error::Report(report)) => report,
            other => panic!("a report was expected: {other:?}"),
        }
    }

    /// The report, whose kind and line are these.
    fn expect(&self, kind: ReportKind, line: u32) -> &Report {
        let report = self.report();
        assert_eq!((report.kind, report.ptx_line), (kind, Some(line)), "{report}");
        report
    }

    fn counters(&self) -> &Counters {
        self.result.as_ref().unwrap()
    }
}
