//! How fast the simulator of a CUDA device is: `cargo bench --bench simulator --no-default-features --features cuda-sim`
//!
//! In lane-instructions a second and host thread: an instruction counts once for each lane of a warp that it does
//! something for. The kernels are a layer norm, which moves memory, and a product on tensor cores, through the ordinary
//! tensor API, with the simulator's checks on and off, on one host thread and on as many as rayon has.

use std::time::{Duration, Instant};

use tilewright::device::cuda::CudaDevice;
use tilewright::device::cuda::sim::{Checks, Counters, Options};
use tilewright::{DType, Device, Result, Tensor};

/// Runs of each case, of which the median counts.
const RUNS: usize = 9;

fn main() -> Result<()> {
    println!(
        "| op | checks | host threads | lane-instructions | tensor FLOP | median, ms | million lane-instructions a second a thread |"
    );
    println!("|---|---|---|---|---|---|---|");
    for threads in [1, rayon::current_num_threads()] {
        for (name, checks) in [("all", Checks::ALL), ("none", Checks::NONE)] {
            let options =
                Options { checks, threads: Some(threads), keep_counters: true, ..Options::default() };
            let device = Device::Cuda(CudaDevice::simulated(options, 108)?);
            device.set_seed(1);
            let random = |dims: &[usize], dtype| Tensor::randn(0.0, 1.0, dims, dtype, &device);

            let x = random(&[2048, 768], DType::F32)?;
            let (w, b) = (random(&[768], DType::F32)?, random(&[768], DType::F32)?);
            measure("layer norm forward, 2048 x 768, f32", name, threads, &device, || {
                x.layer_norm(&w, Some(&b), 1e-5)
            })?;

            let (a, b) = (random(&[512, 512], DType::BF16)?, random(&[512, 512], DType::BF16)?);
            measure("matmul, 512 x 512 x 512, bf16", name, threads, &device, || a.matmul(&b))?;
        }
    }
    Ok(())
}

/// Times an op and prints its line.
fn measure(
    op: &str,
    checks: &str,
    threads: usize,
    device: &Device,
    run: impl Fn() -> Result<Tensor>,
) -> Result<()> {
    // The first run compiles the kernels.
    run()?;
    let launches = || match device {
        Device::Cuda(device) => device.simulator().map(|simulator| simulator.launches()).unwrap_or_default(),
        _ => Vec::new(),
    };
    launches();
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed());
    }
    times.sort();
    let median: Duration = times[RUNS / 2];
    let launches = launches();
    let sum = |what: fn(&Counters) -> u64| launches.iter().map(what).sum::<u64>() / RUNS as u64;
    let (lanes, flops) = (sum(|counters| counters.total().lanes), sum(Counters::tensor_flops));
    println!(
        "| {op} | {checks} | {threads} | {lanes} | {flops} | {:.1} | {:.0} |",
        1e3 * median.as_secs_f64(),
        lanes as f64 / median.as_secs_f64() / threads as f64 / 1e6
    );
    Ok(())
}
