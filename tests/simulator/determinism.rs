//! The same launch gives the same bits, counters, text and reports, whatever the number of host threads.

use std::sync::{Arc, Mutex};

use tilewright::device::cuda::Kernel;
use tilewright::device::cuda::sim::{Counters, Options, ReportKind, Result};

use crate::bench::{Bench, PTX};

/// What a launch leaves.
#[derive(Debug, PartialEq)]
struct Left {
    bytes: Vec<u8>,
    /// Or the report, as text.
    counters: std::result::Result<Counters, String>,
    printed: String,
}

/// Runs a kernel with 1, 2, 3 and 8 threads of the host, all of which are there, and asserts that all leave the same; twice
/// with each number, because one run may be lucky. `run` gives the counters and the bytes of the results.
fn check(
    name: &'static str,
    parts: &'static [&'static str],
    run: impl Fn(&Bench) -> Result<(Counters, Vec<u8>)> + Sync,
) {
    let mut first: Option<Left> = None;
    for threads in [1, 2, 3, 8, 1, 2, 3, 8] {
        let text = Arc::new(Mutex::new(String::new()));
        let printed = text.clone();
        let output = Arc::new(move |text: &str| printed.lock().unwrap().push_str(text));
        let options = Options { threads: Some(threads), output, ..Options::default() };
        let Some(bench) = Bench::new(&Kernel::new(name, parts, name), options) else { return };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (counters, bytes) = match pool.install(|| run(&bench)) {
            Ok((counters, bytes)) => (Ok(counters), bytes),
            Err(error) => (Err(error.to_string()), Vec::new()),
        };
        let left = Left { bytes, counters, printed: text.lock().unwrap().clone() };
        match &first {
            None => first = Some(left),
            Some(first) => assert_eq!(&left, first, "{name} with {threads} threads"),
        }
    }
}

/// Numbers whose sums depend on their order.
fn values(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 * (1.0 + i as f32)).collect()
}

#[test]
fn blocks_on_their_own() {
    const NORMS: &str = r#"extern "C" __global__ void norms(const float* x, float* y, u32 columns) {
    __shared__ float sums[4];
    const float* row = x + blockIdx.x * columns;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) {
        sum += row[i] * row[i];
    }
    for (u32 step = 16; step > 0; step /= 2) {
        sum += __shfl_xor_sync(FULL_WARP, sum, step);
    }
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    const float scale = rsqrtf(sums[0] + sums[1] + sums[2] + sums[3]);
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) {
        y[blockIdx.x * columns + i] = scale * row[i];
    }
}"#;
    check("norms", &[NORMS], |bench| {
        let x = bench.input(&values(50 * 300));
        let y = bench.output::<f32>(50 * 300);
        let counters = bench.launch([50, 1, 1], [128, 1, 1], &[x, y, 300])?;
        Ok((counters, bench.read(y, 4 * 50 * 300)?))
    });
}

#[test]
fn float_atomics() {
    const SUMS: &str = r#"extern "C" __global__ void sums(const float* x, float* total, float* order) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    order[i] = atomicAdd(&total[i % 3], x[i]);
}"#;
    check("sums", &[SUMS], |bench| {
        let x = bench.input(&values(64 * 64));
        let (total, order) = (bench.input(&[0.0f32; 3]), bench.output::<f32>(64 * 64));
        let counters = bench.launch([64, 1, 1], [64, 1, 1], &[x, total, order])?;
        let mut bytes = bench.read(total, 12)?;
        bytes.extend(bench.read::<u8>(order, 4 * 64 * 64)?);
        Ok((counters, bytes))
    });
}

#[test]
fn atomics_in_shared_memory() {
    const BINS: &str = r#"extern "C" __global__ void bins(const float* x, float* y) {
    __shared__ float bins[8];
    if (threadIdx.x < 8) {
        bins[threadIdx.x] = 0.0f;
    }
    __syncthreads();
    atomicAdd(&bins[threadIdx.x % 8], x[blockIdx.x * 96 + threadIdx.x]);
    __syncthreads();
    if (threadIdx.x < 8) {
        y[blockIdx.x * 8 + threadIdx.x] = bins[threadIdx.x];
    }
}"#;
    check("bins", &[BINS], |bench| {
        let x = bench.input(&values(40 * 96));
        let y = bench.output::<f32>(40 * 8);
        let counters = bench.launch([40, 1, 1], [96, 1, 1], &[x, y])?;
        Ok((counters, bench.read(y, 4 * 40 * 8)?))
    });
}

#[test]
fn tensor_cores() {
    const PRODUCTS: &str = r#"extern "C" __global__ void products(const u32* x, float4* y) {
    const u32* own = x + 6 * (blockIdx.x * 32 + threadIdx.x);
    const u32 a[4] = {own[0], own[1], own[2], own[3]};
    float c[4] = {0, 0, 0, 0};
    mma<bf16>(c, a, own[4], own[5]);
    y[blockIdx.x * 32 + threadIdx.x] = make_float4(c[0], c[1], c[2], c[3]);
}"#;
    check("products", &[PTX, PRODUCTS], |bench| {
        let halves = |x: &f32| u32::from(half::bf16::from_f32(*x).to_bits()) * 0x1_0001;
        let x = bench.input(&values(20 * 32 * 6).iter().map(halves).collect::<Vec<u32>>());
        let y = bench.output::<[f32; 4]>(20 * 32);
        let counters = bench.launch([20, 1, 1], [32, 1, 1], &[x, y])?;
        Ok((counters, bench.read(y, 16 * 20 * 32)?))
    });
}

#[test]
fn clocks() {
    const TIMES: &str = r#"extern "C" __global__ void times(u64* y) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u64 nanoseconds;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanoseconds));
    y[3 * i] = clock64();
    y[3 * i + 1] = clock();
    y[3 * i + 2] = nanoseconds;
}"#;
    check("times", &[TIMES], |bench| {
        let y = bench.output::<[u64; 3]>(60 * 64);
        let counters = bench.launch([60, 1, 1], [64, 1, 1], &[y])?;
        Ok((counters, bench.read(y, 24 * 60 * 64)?))
    });
}

#[test]
fn printed_text() {
    const WORDS: &str = r#"extern "C" __global__ void words() {
    if (threadIdx.x % 32 == blockIdx.x % 32) {
        printf("block %u, warp %u\n", blockIdx.x, threadIdx.x / 32);
    }
}"#;
    check("words", &[WORDS], |bench| Ok((bench.launch([60, 1, 1], [64, 1, 1], &[])?, Vec::new())));
}

#[test]
fn reports_of_several_blocks() {
    // From block 17 on every block stores past the end, the later ones sooner.
    const PAST: &str = r#"extern "C" __global__ void past(float* y) {
    float v = 0.0f;
    for (u32 i = 0; i < 1000 - 10 * blockIdx.x; i += 1) {
        v = v * v + i;
    }
    y[32 * blockIdx.x + threadIdx.x] = v;
}"#;
    check("past", &[PAST], |bench| {
        let y = bench.output::<f32>(17 * 32);
        let counters = bench.launch([60, 1, 1], [32, 1, 1], &[y])?;
        Ok((counters, Vec::new()))
    });
}

#[test]
fn races_between_blocks() {
    // Every block reads what the next one writes. The lowest two are reported whatever the number of threads, and their
    // lines; with several, which of the 32 addresses is named depends on who comes first where.
    const SHIFT: &str = r#"extern "C" __global__ void shift(float* x) {
    const u32 i = blockIdx.x * 32 + threadIdx.x;
    const float v = x[i + 32];
    x[i] = v;
}"#;
    let race = |threads: usize| {
        let options = Options { threads: Some(threads), ..Options::default() };
        let bench = Bench::new(&Kernel::new("shift", &[SHIFT], "shift"), options)?;
        let x = bench.input(&values(41 * 32));
        let error = bench.launch([40, 1, 1], [32, 1, 1], &[x]).unwrap_err();
        let report = error.report().cloned().unwrap_or_else(|| panic!("{error}"));
        assert_eq!(report.kind, ReportKind::GlobalRace, "{report}");
        let against = report.other.as_ref().expect("a race has two parties");
        assert_eq!((report.block, against.block), ([1, 0, 0], [0; 3]), "{report}");
        assert!(report.message.starts_with("a store at offset "), "{report}");
        let lines = [&report.source, &against.source].map(|source| source.as_ref().map(|source| source.line));
        assert_eq!(lines, [Some(4), Some(3)], "{report}");
        Some(report)
    };
    let Some(first) = race(1) else { return };
    assert_eq!(first.thread, Some([0, 0, 0]));
    assert_eq!(race(1), Some(first));
    for threads in [2, 3, 8] {
        race(threads);
    }
}
