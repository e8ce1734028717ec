//! Every op's CUDA kernels, on the simulator with all its checks and on a GPU where there is one, against
//! the f64 CPU.

use std::io::Write;

use tilewright::{AttentionOptions, DType, Var};

use crate::cases::{self, Case};
use crate::harness::{cuda_devices, normal};
use crate::parity::{DTYPES, Expected, Pass, compare};

/// Runs the cases, forward and backward.
fn check_all(cases: Vec<Case>) {
    let mut runs = 0;
    let mut failures = Vec::new();
    for case in &cases {
        for dtype in DTYPES {
            let expected =
                Expected::of(case, dtype).unwrap_or_else(|e| panic!("{}, {dtype}: {e}", case.name));
            for device in cuda_devices() {
                let wrong = compare(case, dtype, device, &expected, Pass::Both)
                    .unwrap_or_else(|error| vec![error.to_string()]);
                failures.extend(
                    wrong.into_iter().map(|what| format!("{}, {dtype}, {device}: {what}", case.name)),
                );
                runs += 1;
            }
        }
    }
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "CUDA, {name}: {runs} runs forward and backward");
    let some = &failures[..failures.len().min(12)];
    assert!(failures.is_empty(), "{} failures, among them:\n{}", failures.len(), some.join("\n"));
}

cases::test_every_group!();

/// One launch of each kind of kernel, with the simulator's counters of it; on a GPU, a profiler counts the same
/// launches. Not a test: it prints.
#[test]
#[ignore = "prints counters"]
fn counters() {
    for device in cuda_devices() {
        let random =
            |shape: &[usize], dtype| normal(1, shape).to_dtype(dtype).unwrap().to_device(device).unwrap();
        let (x, w) = (random(&[512, 768], DType::F32), random(&[768], DType::F32));
        let [a, b] = [0, 1].map(|_| random(&[512, 512], DType::BF16));
        let [q, k, v] = [0, 1, 2].map(|_| Var::new(&random(&[1, 4, 512, 64], DType::BF16)).unwrap());
        let causal = AttentionOptions { causal: true, ..Default::default() };
        x.layer_norm(&w, Some(&w), 1e-5).unwrap();
        a.matmul(&b).unwrap();
        q.attention(&k, &v, &causal).unwrap().sum_all().unwrap().backward().unwrap();
        device.synchronize().unwrap();
        #[cfg(feature = "cuda-sim")]
        if let tilewright::Device::Cuda(cuda) = device
            && let Some(simulator) = cuda.simulator()
        {
            simulator.launches().iter().for_each(|counters| println!("{counters}"));
        }
    }
}
