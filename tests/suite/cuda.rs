//! The ops that have CUDA kernels, on the simulator with all its checks and on a GPU where there is one, against
//! the f64 CPU. An op that a case needs and CUDA does not have yet is counted and said, never passed over.

use std::io::Write;

use tilewright::{AttentionOptions, DType, Device, Error};

use crate::cases::{self, Case};
use crate::harness::{cuda_devices, normal};
use crate::parity::{DTYPES, Expected, Pass, compare};

/// How many cases ran, and how far.
#[derive(Debug, Default)]
struct Ran {
    both: usize,
    forward: usize,
    missing: Vec<&'static str>,
}

/// What CUDA does not have yet.
const NOT_YET: [&str; 1] = ["attention_backward"];

/// Runs the cases as far as CUDA has what they need.
fn check(cases: Vec<Case>) -> Ran {
    let mut ran = Ran::default();
    let mut failures = Vec::new();
    for case in &cases {
        for dtype in DTYPES {
            let expected =
                Expected::of(case, dtype).unwrap_or_else(|e| panic!("{}, {dtype}: {e}", case.name));
            for device in cuda_devices() {
                let mut run = |pass| match compare(case, dtype, device, &expected, pass) {
                    Ok(wrong) => Some(wrong),
                    Err(Error::NotSupported { op, .. }) => {
                        ran.missing.push(op);
                        None
                    }
                    Err(error) => Some(vec![error.to_string()]),
                };
                let wrong = match run(Pass::Both) {
                    Some(wrong) => {
                        ran.both += 1;
                        wrong
                    }
                    None => match run(Pass::Forward) {
                        Some(wrong) => {
                            ran.forward += 1;
                            wrong
                        }
                        None => continue,
                    },
                };
                failures.extend(
                    wrong.into_iter().map(|what| format!("{}, {dtype}, {device}: {what}", case.name)),
                );
            }
        }
    }
    ran.missing.sort();
    ran.missing.dedup();
    let Ran { both, forward, missing } = &ran;
    let _ = writeln!(
        std::io::stderr(),
        "CUDA, {}: {both} runs forward and backward, {forward} forward only, for want of {missing:?}",
        std::thread::current().name().unwrap_or_default()
    );
    let some = &failures[..failures.len().min(12)];
    assert!(failures.is_empty(), "{} failures, among them:\n{}", failures.len(), some.join("\n"));
    ran
}

fn check_all(cases: Vec<Case>) {
    let ran = check(cases);
    assert!(ran.missing.iter().all(|op| NOT_YET.contains(op)), "{ran:?}");
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
        let [q, k, v] = [0, 1, 2].map(|_| random(&[1, 4, 512, 64], DType::BF16));
        let causal = AttentionOptions { causal: true, ..Default::default() };
        x.layer_norm(&w, Some(&w), 1e-5).unwrap();
        a.matmul(&b).unwrap();
        q.attention(&k, &v, &causal).unwrap();
        device.synchronize().unwrap();
        #[cfg(feature = "cuda-sim")]
        if let Device::Cuda(cuda) = device
            && let Some(simulator) = cuda.simulator()
        {
            simulator.launches().iter().for_each(|counters| println!("{counters}"));
        }
    }
}
