//! How long the first result of an op takes through wgpu, compiling its kernels included, beside a later one.
//!
//! `MESA_SHADER_CACHE_DISABLE=true TILEWRIGHT_DEVICE=software cargo bench --bench first`: a driver that keeps what it has
//! compiled would hide it. An argument picks the ops whose names contain it.

use std::time::{Duration, Instant};

use tilewright::optim::{AdamW, AdamWConfig};
use tilewright::{AttentionOptions, DType, Device, Result, Tensor, Var};

/// Forward, or forward and backward, of `f`; until it is done.
fn once(inputs: &[Var], backward: bool, f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Result<Duration> {
    let start = Instant::now();
    let tensors: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
    let y = f(&tensors)?;
    if backward {
        y.sqr()?.sum_all()?.backward()?;
    }
    y.device().synchronize()?;
    Ok(start.elapsed())
}

fn main() -> Result<()> {
    let device = Device::wgpu(&std::env::var("TILEWRIGHT_DEVICE").unwrap_or_default())?;
    println!("{device}\n\n| op | first, ms | third, ms |\n|---|---|---|");
    let var = |shape: &[usize]| Var::new(&Tensor::randn(0.0, 1.0, shape, DType::F32, &device)?);
    let vars = |shapes: &[&[usize]]| shapes.iter().map(|shape| var(shape)).collect::<Result<Vec<Var>>>();
    // What every backward below has in common.
    once(&vars(&[&[64, 64]])?, true, &|x| Ok(x[0].clone()))?;

    let causal = AttentionOptions { causal: true, ..Default::default() };
    let heads: &[usize] = &[2, 6, 512, 64];
    let ids = Tensor::from_vec((0..1024u32).map(|i| i * 7919 % 50257).collect::<Vec<_>>(), 1024, &device)?;
    type Op<'a> = (&'a str, &'a [&'a [usize]], &'a dyn Fn(&[Tensor]) -> Result<Tensor>);
    let ops: &[Op] = &[
        ("matmul 512", &[&[512, 512], &[512, 512]], &|x| x[0].matmul(&x[1])),
        ("matmul 2048", &[&[2048, 2048], &[2048, 2048]], &|x| x[0].matmul(&x[1])),
        ("linear [1024, 384] x [384, 1536]", &[&[1024, 384], &[1536, 384], &[1536]], &|x| {
            x[0].linear(&x[1], Some(&x[2]))
        }),
        ("layer norm [4096, 768]", &[&[4096, 768], &[768], &[768]], &|x| {
            x[0].layer_norm(&x[1], Some(&x[2]), 1e-5)
        }),
        ("softmax [4096, 768]", &[&[4096, 768]], &|x| x[0].softmax(1)),
        ("GELU [4096, 768]", &[&[4096, 768]], &|x| x[0].gelu()),
        ("attention [2, 6, 512, 64]", &[heads; 3], &|x| x[0].attention(&x[1], &x[2], &causal)),
        ("embedding [50257, 64]", &[&[50257, 64]], &|x| x[0].embedding(&ids)),
        ("cross entropy [64, 50257]", &[&[64, 50257]], &|x| x[0].cross_entropy(&ids.narrow(0, 0, 64)?)),
    ];
    // Cargo passes --bench too.
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    for (name, shapes, f) in ops.iter().filter(|(name, ..)| name.contains(&wanted)) {
        for (backward, label) in [(false, "forward"), (true, "forward and backward")] {
            let inputs = vars(shapes)?;
            device.synchronize()?;
            let times = (0..3).map(|_| once(&inputs, backward, f)).collect::<Result<Vec<_>>>()?;
            println!(
                "| {name}, {label} | {:.0} | {:.1} |",
                1e3 * times[0].as_secs_f64(),
                1e3 * times[2].as_secs_f64()
            );
        }
    }
    let weights = vars(&[&[1152, 384], &[384]])?;
    for w in &weights {
        w.sqr()?.sum_all()?.backward()?;
    }
    let mut optimizer = AdamW::new(weights, AdamWConfig::default())?;
    let mut times = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        optimizer.step_clipped(1.0)?;
        device.synchronize()?;
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    println!("| AdamW, clipped | {:.0} | {:.1} |", times[0], times[2]);
    Ok(())
}
