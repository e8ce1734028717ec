//! What GPUs are compared by, at sizes for them: benches/torch_gpu.py has the same cases under the same names, in bf16 where they name no
//! dtype. Through wgpu those are f16.
//!
//! Iterations are queued and waited for together, so that what is measured is the device, or the host where it cannot
//! keep up.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use tilewright::optim::{AdamW, AdamWConfig};
use tilewright::{AttentionOptions, DType, Device, Result, Tensor, Var};

use crate::gpt::{GPT2_124M, Gpt, GptSize};
use crate::{device, wait};

/// True for what is neither a processor nor a simulation.
fn is_gpu(device: &Device) -> bool {
    match device {
        Device::Cpu => false,
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => !cuda.is_simulated(),
        #[cfg(feature = "wgpu")]
        Device::Wgpu(wgpu) => !wgpu.is_software(),
    }
}

/// The 16 bits of the cases that do not name their dtype: those that the device multiplies in.
fn half(device: &Device) -> DType {
    if matches!(device, Device::Wgpu(_)) { DType::F16 } else { DType::BF16 }
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Measures `f`, made only if the case is asked for, as the time of as many calls as fit between two waits.
fn case<F: FnMut() -> Result<Tensor>>(
    group: &mut Group<'_>,
    name: String,
    work: Throughput,
    make: impl Fn() -> Result<F>,
) {
    group.throughput(work);
    let mut f = None;
    group.bench_function(name, |bencher| {
        let f = f.get_or_insert_with(|| make().unwrap());
        bencher.iter_custom(|n| {
            wait(&f().unwrap());
            let start = Instant::now();
            let last = (0..n).map(|_| f().unwrap()).last();
            last.map_or(Duration::ZERO, |last| {
                wait(&last);
                start.elapsed()
            })
        })
    });
}

fn random(shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::randn(0.0, 1.0, shape, dtype, &device())
}

/// `a b`, or `x w^T` as linear layers have it.
fn matmul(group: &mut Group<'_>, name: &str, [m, n, k]: [usize; 3], linear: bool, dtype: DType) {
    let work = Throughput::Elements(2 * (m * n * k) as u64);
    case(group, format!("matmul_{name}"), work, || {
        let shape = if linear { [n, k] } else { [k, n] };
        let (a, b) = (random(&[m, k], dtype)?, random(&shape, dtype)?);
        Ok(move || if linear { a.linear(&b, None) } else { a.matmul(&b) })
    });
}

/// Causal, 16384 tokens of 2048 channels: the cases of FlashAttention's own benchmark.
fn attention(group: &mut Group<'_>, len: usize, d: usize, backward: bool) {
    let shape = [16384 / len, 2048 / d, len, d];
    let products = if backward { 7 } else { 2 };
    let flops = products * shape[0] * shape[1] * len * len * d;
    let pass = if backward { "forward_backward" } else { "forward" };
    let work = Throughput::Elements(flops as u64);
    case(group, format!("attention_d{d}_t{len}_{pass}"), work, || {
        let options = AttentionOptions { causal: true, ..Default::default() };
        let dtype = half(&device());
        let [q, k, v] = [(); 3].map(|()| Var::new(&random(&shape, dtype)?));
        let (q, k, v, dout) = (q?, k?, v?, random(&shape, dtype)?);
        Ok(move || {
            if !backward {
                return tilewright::no_grad(|| q.attention(&k, &v, &options));
            }
            let out = q.attention(&k, &v, &options)?;
            [&q, &k, &v].iter().for_each(|var| var.zero_grad());
            tilewright::autograd::backward(&[(&out, dout.clone())])?;
            q.grad().map_or_else(|| Ok(out), Ok)
        })
    });
}

pub fn gpu(criterion: &mut Criterion) {
    let device = device();
    if !is_gpu(&device) {
        eprintln!("gpu: NOT RUN, {device} is none");
        return;
    }
    let mut group = criterion.benchmark_group("gpu");
    let half = half(&device);
    let dtypes: &[DType] =
        if half == DType::F16 { &[DType::F32, DType::F16] } else { &[DType::F32, half, DType::F16] };
    for &dtype in dtypes {
        for n in [4096, 8192] {
            matmul(&mut group, &format!("{n}_{dtype}"), [n; 3], false, dtype);
        }
    }
    for (name, n, k) in [("qkv", 2304, 768), ("proj", 768, 768), ("fc", 3072, 768), ("out", 768, 3072)] {
        matmul(&mut group, name, [8192, n, k], true, half);
    }
    matmul(&mut group, "head", [8192, 50304, 768], true, half);
    for d in [64, 128] {
        for len in [1024, 2048, 4096, 8192, 16384] {
            attention(&mut group, len, d, false);
            attention(&mut group, len, d, true);
        }
    }
    let (rows, c) = (8192, 768);
    let bytes = |matrices: usize| Throughput::Bytes((2 * matrices * rows * c) as u64);
    case(&mut group, "layer_norm_forward".into(), bytes(2), || {
        let (x, w, b) = (random(&[rows, c], half)?, random(&[c], half)?, random(&[c], half)?);
        Ok(move || x.layer_norm(&w, Some(&b), 1e-5))
    });
    // Forward reads x and writes y; backward reads x and dy and writes dx.
    case(&mut group, "layer_norm_forward_backward".into(), bytes(5), || {
        let var = |shape: &[usize]| Var::new(&random(shape, half)?);
        let (x, w, b, dy) = (var(&[rows, c])?, var(&[c])?, var(&[c])?, random(&[rows, c], half)?);
        Ok(move || {
            let y = x.layer_norm(&w, Some(&b), 1e-5)?;
            [&x, &w, &b].iter().for_each(|var| var.zero_grad());
            tilewright::autograd::backward(&[(&y, dy.clone())])?;
            x.grad().map_or_else(|| Ok(y), Ok)
        })
    });
    // The logits are read once and their gradient is written once.
    let (rows, classes) = (4096, 50304);
    case(&mut group, "cross_entropy".into(), Throughput::Bytes((4 * rows * classes) as u64), || {
        let logits = Var::new(&random(&[rows, classes], half)?)?;
        let targets = Tensor::from_vec((0..rows as u32).collect::<Vec<_>>(), rows, &device)?;
        Ok(move || {
            let loss = logits.cross_entropy(&targets)?;
            logits.zero_grad();
            loss.backward()?;
            Ok(loss)
        })
    });
    // Reads parameter, gradient and two moments, writes parameter and moments.
    let parameters = [[768, 768]; 210];
    let elements = parameters.len() * 768 * 768;
    case(&mut group, "adamw_124m".into(), Throughput::Bytes((28 * elements) as u64), || {
        let var = |shape: &[usize; 2]| {
            let var = Var::new(&random(shape, DType::F32)?)?;
            tilewright::autograd::backward(&[(var.as_tensor(), var.detach())])?;
            Ok(var)
        };
        let vars: Vec<Var> = parameters.iter().map(var).collect::<Result<_>>()?;
        let first = vars[0].clone();
        let mut optimizer = AdamW::new(vars, AdamWConfig::default())?;
        Ok(move || optimizer.step().map(|()| first.detach()))
    });
    let tokens = Throughput::Elements((GPT2_124M.batch * GPT2_124M.steps) as u64);
    case(&mut group, "gpt2_124m_step".into(), tokens, || {
        let mut gpt = Gpt::new(GptSize { dtype: half, ..GPT2_124M }, &device)?;
        Ok(move || gpt.step())
    });
}
