//! What the CUDA kernels do, counted by the simulator as on compute capability 8.0: sectors of global memory against
//! the fewest, bank conflicts, tensor-core instructions against arithmetic.
//!
//! `cargo test --features cuda-sim --test suite counters -- --nocapture` prints the table of
//! benches/results/*-cuda-counters.md; on a GPU, a profiler counts the same launches (`counters::launches`, by .ci/bundle/run).

use tilewright::optim::{AdamW, AdamWConfig};
use tilewright::{AttentionOptions, CrossEntropyOptions, DType, Device, Result, RotaryPairs, Tensor, Var};

use crate::harness::{normal, open_small_cuda, place};

/// What is to be launched, and what bounds it.
struct Count {
    name: &'static str,
    run: Box<Run>,
    bound: Bound,
}

type Run = dyn Fn(&Device) -> Result<()>;

#[derive(Clone, Copy)]
enum Bound {
    /// Sectors moved are at most 1.05 times the fewest that hold what was asked for, and shared memory has no
    /// conflicts to speak of.
    Memory,
    /// No bank conflicts, and at most 1.05 times so many multiplications and additions on the tensor cores.
    TensorCores { flops: u64 },
}

fn random(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
    place(&normal(shape.iter().sum::<usize>() as u64, shape), dtype, device)
}

fn var(device: &Device, shape: &[usize], dtype: DType) -> Result<Var> {
    Var::new(&random(device, shape, dtype)?)
}

/// Ids below `bound`, some of them frequent.
fn ids(device: &Device, n: usize, bound: u32) -> Result<Tensor> {
    let ids: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) % bound / (1 + i % 3)).collect();
    Tensor::from_vec(ids, n, device)
}

fn memory(name: &'static str, run: impl Fn(&Device) -> Result<()> + 'static) -> Count {
    Count { name, run: Box::new(run), bound: Bound::Memory }
}

/// A product of 16-bit matrices in one of the four transpositions.
fn product(name: &'static str, [m, n, k]: [usize; 3], transposed: [bool; 2]) -> Count {
    let run = move |device: &Device| {
        let operand = |rows, columns, transposed| -> Result<Tensor> {
            if transposed {
                random(device, &[columns, rows], DType::BF16)?.t()
            } else {
                random(device, &[rows, columns], DType::BF16)
            }
        };
        operand(m, k, transposed[0])?.matmul(&operand(k, n, transposed[1])?).map(drop)
    };
    Count { name, run: Box::new(run), bound: Bound::TensorCores { flops: 2 * (m * n * k) as u64 } }
}

/// Causal attention of one batch; forward has two products, backward five over the same triangle, and two of them again
/// because queries and keys have a kernel each.
fn attention(name: &'static str, heads: usize, len: usize, d: usize, backward: bool) -> Count {
    let run = move |device: &Device| {
        let [q, k, v] = [(); 3].map(|()| var(device, &[1, heads, len, d], DType::F16));
        let (q, k, v) = (q?, k?, v?);
        let o = q.attention(&k, &v, &AttentionOptions { causal: true, ..Default::default() })?;
        if backward { tilewright::autograd::backward(&[(&o, o.detach())]) } else { Ok(()) }
    };
    let pairs = (heads * len * (len + 1) / 2) as u64;
    let products = if backward { 2 + 7 } else { 2 };
    Count { name, run: Box::new(run), bound: Bound::TensorCores { flops: products * 2 * pairs * d as u64 } }
}

fn counts() -> Vec<Count> {
    use DType::{BF16, F32};
    let backward = |out: Tensor| tilewright::autograd::backward(&[(&out, out.detach())]);
    vec![
        memory("layer norm 256 x 768 f32, with backward", move |device| {
            let (x, w, b) =
                (var(device, &[256, 768], F32)?, var(device, &[768], F32)?, var(device, &[768], F32)?);
            backward(x.layer_norm(&w, Some(&b), 1e-5)?)
        }),
        memory("rms norm 256 x 1024 bf16, with backward", move |device| {
            backward(var(device, &[256, 1024], BF16)?.rms_norm(&*var(device, &[1024], BF16)?, 1e-5)?)
        }),
        memory("softmax 256 x 1024 bf16, with backward", move |device| {
            backward(var(device, &[256, 1024], BF16)?.softmax(1)?)
        }),
        memory("classifier 24 x 50257 bf16, in place", |device| {
            let logits = random(device, &[24, 50257], BF16)?;
            logits.into_cross_entropy(&ids(device, 24, 50257)?, CrossEntropyOptions::default()).map(drop)
        }),
        memory("classifier 48 x 50304 f32, apart", move |device| {
            let logits = var(device, &[48, 50304], F32)?;
            logits.cross_entropy(&ids(device, 48, 50304)?)?.backward()
        }),
        memory("embedding 1024 of 4096 x 768 f32, with backward", move |device| {
            backward(var(device, &[4096, 768], F32)?.embedding(&ids(device, 1024, 4096)?)?)
        }),
        memory("gelu 256 x 3072 bf16, with backward", move |device| {
            backward(var(device, &[256, 3072], BF16)?.gelu()?)
        }),
        memory("add 256 x 768 f32", |device| {
            random(device, &[256, 768], F32)?.add(&random(device, &[256, 768], F32)?).map(drop)
        }),
        memory("rotary 8 x 128 x 64 bf16", |device| {
            let table = || random(device, &[128, 32], F32);
            random(device, &[1, 8, 128, 64], BF16)?
                .rotary(&table()?, &table()?, RotaryPairs::Halves)
                .map(drop)
        }),
        memory("dropout 256 x 768 f32", |device| random(device, &[256, 768], F32)?.dropout(0.1).map(drop)),
        memory("sum of columns 1024 x 768 f32", |device| random(device, &[1024, 768], F32)?.sum(0).map(drop)),
        memory("sum of rows 768 x 1024 bf16", |device| random(device, &[768, 1024], BF16)?.sum(1).map(drop)),
        memory("copy, transposed 1024 x 768 f32", |device| {
            random(device, &[1024, 768], F32)?.t()?.copy().map(drop)
        }),
        memory("f32 to bf16 256 x 768", |device| random(device, &[256, 768], F32)?.to_dtype(BF16).map(drop)),
        memory("AdamW of 5 parameters, clipped", |device| {
            let shapes: [&[usize]; 5] = [&[768, 768], &[768], &[3072, 64], &[1], &[1001]];
            let vars = shapes.iter().map(|shape| var(device, shape, F32)).collect::<Result<Vec<_>>>()?;
            for var in &vars {
                tilewright::autograd::backward(&[(var.as_tensor(), var.detach())])?;
            }
            AdamW::new(vars, AdamWConfig::default())?.step_clipped(1.0).map(drop)
        }),
        memory("AdamW of a bf16 parameter with an f32 master and gradient", move |device| {
            let var = var(device, &[768, 768], BF16)?;
            var.set_grad_dtype(F32)?;
            tilewright::autograd::backward(&[(var.as_tensor(), var.detach())])?;
            AdamW::new(vec![var], AdamWConfig::default())?.step().map(drop)
        }),
        product("matmul 512 x 512 x 256 bf16", [512, 512, 256], [false, false]),
        product("matmul 512 x 512 x 256 bf16, A^T", [512, 512, 256], [true, false]),
        product("matmul 512 x 512 x 256 bf16, B^T", [512, 512, 256], [false, true]),
        product("matmul 512 x 512 x 256 bf16, A^T B^T", [512, 512, 256], [true, true]),
        product("matmul 256 x 128 x 256 bf16", [256, 128, 256], [false, true]),
        product("matmul 32 x 768 x 768 bf16", [32, 768, 768], [false, true]),
        attention("causal attention, T 1024, D 64, f16", 1, 1024, 64, false),
        attention("causal attention, T 1024, D 64, f16, with backward", 1, 1024, 64, true),
        attention("causal attention, T 1024, D 128, f16, with backward", 1, 1024, 128, true),
    ]
}

/// On a GPU: for a profiler, which counts the same launches.
#[test]
#[ignore = "is for a profiler to watch"]
fn launches() {
    let device = open_small_cuda().unwrap();
    for count in counts() {
        (count.run)(&device).unwrap_or_else(|error| panic!("{}: {error}", count.name));
    }
    device.synchronize().unwrap();
}

#[cfg(feature = "cuda-sim")]
mod simulated {
    use std::collections::BTreeMap;

    use tilewright::Device;
    use tilewright::device::cuda::sim::{Architecture, Counters, Traffic};

    use super::{Bound, Count, counts};
    use crate::harness::{FEW_MULTIPROCESSORS, simulated};

    /// The counters of what was launched since the last call.
    fn counters(device: &Device) -> Vec<Counters> {
        let Device::Cuda(cuda) = device else { unreachable!("the simulator is a CUDA device") };
        cuda.simulator().expect("it is the simulator").launches()
    }

    /// Of all launches of one kernel: moved and fewest for loads, stores and shared memory, and the tensor cores' FLOP.
    #[derive(Clone, Copy, Default)]
    struct Sums {
        traffic: [(u64, u64); 3],
        flops: u64,
    }

    impl Sums {
        fn add(&mut self, counters: &Counters) {
            let Counters { global_loads, global_stores, shared, tensor, .. } = counters;
            for (sum, Traffic { moved, fewest, .. }) in
                self.traffic.iter_mut().zip([global_loads, global_stores, shared])
            {
                sum.0 += moved;
                sum.1 += fewest;
            }
            self.flops += tensor.values().map(|count| count.flops).sum::<u64>();
        }
    }

    fn ratio(part: u64, of: u64) -> String {
        if of == 0 { String::new() } else { format!("{:.3}", part as f64 / of as f64) }
    }

    const HEADER: &str = "\
| work | kernel | sectors loaded | of the fewest | stored | of the fewest | wavefronts | of the fewest | tensor-core FLOP | of arithmetic |
|---|---|---|---|---|---|---|---|---|---|";

    /// What is not as it should be; prints the rows of the table.
    fn check(count: &Count, launches: &[Counters]) -> Vec<String> {
        let mut kernels: BTreeMap<&str, Sums> = BTreeMap::new();
        let mut all = Sums::default();
        for launch in launches {
            kernels.entry(&launch.kernel).or_default().add(launch);
            all.add(launch);
        }
        let fewest_flops = match count.bound {
            Bound::Memory => 0,
            Bound::TensorCores { flops } => flops,
        };
        let mut wrong = Vec::new();
        for (kernel, sums) in kernels {
            print!("| {} | {kernel} ", count.name);
            sums.traffic.iter().for_each(|&(moved, fewest)| print!("| {moved} | {} ", ratio(moved, fewest)));
            println!(
                "| {} | {} |",
                sums.flops,
                if sums.flops > 0 { ratio(all.flops, fewest_flops) } else { String::new() }
            );
            let limits = [1.05, 1.05, if fewest_flops > 0 { 1.0 } else { 1.05 }];
            let names = ["sectors loaded", "sectors stored", "wavefronts of shared memory"];
            for i in 0..3 {
                let (moved, fewest) = sums.traffic[i];
                let excess = moved as f64 - limits[i] * fewest as f64;
                // Scattered by nature, such as a histogram, and next to nothing of what the work moves.
                let negligible = excess < 0.01 * all.traffic[i].0 as f64;
                if excess > 0.0 && !(fewest_flops == 0 && negligible) {
                    wrong.push(format!("{}, `{kernel}`: {moved} {}, fewest {fewest}", count.name, names[i]));
                }
            }
        }
        if fewest_flops > 0 && !(fewest_flops..=fewest_flops / 20 * 21).contains(&all.flops) {
            wrong.push(format!(
                "{}: {} FLOP on tensor cores, arithmetic is {fewest_flops}",
                count.name, all.flops
            ));
        }
        wrong
    }

    #[test]
    fn kernels_move_and_multiply_no_more_than_they_must() {
        let Some(device) = simulated(Architecture::Sm80, FEW_MULTIPROCESSORS) else { return };
        println!("{HEADER}");
        let mut wrong = Vec::new();
        for count in counts() {
            (count.run)(&device).unwrap_or_else(|error| panic!("{}: {error}", count.name));
            wrong.extend(check(&count, &counters(&device)));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
