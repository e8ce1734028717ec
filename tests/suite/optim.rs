//! AdamW against its formula in f64, its state, and whole training steps on every device.

use tilewright::optim::{AdamW, AdamWConfig, LowPrecision, ParamGroup};
use tilewright::{Activation, AttentionOptions, D, DType, Device, Error, Result, Tensor, Var};

use crate::harness::{bits, difference, every_device, gpus, label, normal, place, seeded};

const SHAPES: [&[usize]; 6] = [&[5, 7], &[1], &[65], &[129, 3], &[0], &[2, 1, 31]];

fn vars(dtype: DType, device: &Device) -> Vec<Var> {
    let var = |(i, shape): (usize, &&[usize])| Var::new(&place(&normal(i as u64, shape), dtype, device)?);
    SHAPES.iter().enumerate().map(var).collect::<Result<_>>().unwrap()
}

/// Backward of a loss whose gradient of element x is `c (x - target)`, with its own targets at each step.
fn backward(vars: &[Var], step: u64) {
    for (i, v) in vars.iter().enumerate() {
        let target = place(&target(i, step, v.dims()), v.dtype(), &v.device()).unwrap();
        let loss = v.sub(&target).unwrap().sqr().unwrap().affine(0.5 * (i + 1) as f64, 0.0).unwrap();
        loss.sum_all().unwrap().backward().unwrap();
    }
}

fn target(i: usize, step: u64, shape: &[usize]) -> Tensor {
    normal(100 + 10 * step + i as u64, shape)
}

/// AdamW as Loshchilov and Hutter write it (algorithm 2), with PyTorch's order of the decay; LAMB as You et al. do.
struct Model {
    x: Vec<Vec<f64>>,
    m: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
    t: i32,
}

impl Model {
    fn new(vars: &[Var]) -> Self {
        let x: Vec<Vec<f64>> = vars.iter().map(|v| v.to_vec().unwrap()).collect();
        let zeros: Vec<Vec<f64>> = x.iter().map(|x| vec![0.0; x.len()]).collect();
        Model { x, m: zeros.clone(), v: zeros, t: 0 }
    }

    /// Returns the norm of all gradients.
    fn step(
        &mut self,
        config: &AdamWConfig,
        decay: impl Fn(usize) -> f64,
        max_norm: Option<f64>,
        step: u64,
    ) -> f64 {
        let grads: Vec<Vec<f64>> = (self.x.iter().enumerate())
            .map(|(i, x)| {
                let target = target(i, step, SHAPES[i]).to_vec::<f64>().unwrap();
                x.iter().zip(target).map(|(x, t)| (i + 1) as f64 * (x - t)).collect()
            })
            .collect();
        let norm = grads.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let clip = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.t += 1;
        let (b1, b2) = (config.beta1, config.beta2);
        for (i, grads) in grads.iter().enumerate() {
            let mut update = Vec::new();
            let moments = self.m[i].iter_mut().zip(&mut self.v[i]);
            for ((x, (m, v)), g) in self.x[i].iter().zip(moments).zip(grads) {
                let g = g * clip;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                let (m, v) = (*m / (1.0 - b1.powi(self.t)), *v / (1.0 - b2.powi(self.t)));
                update.push(decay(i) * x + m / (v.sqrt() + config.eps));
            }
            let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let ratio = match (norm(&self.x[i]), norm(&update)) {
                (size, step) if config.trust_ratio && size > 0.0 && step > 0.0 => size / step,
                _ => 1.0,
            };
            self.x[i].iter_mut().zip(update).for_each(|(x, update)| *x -= config.lr * ratio * update);
        }
        norm
    }
}

#[test]
fn steps_follow_the_formula() {
    follow_the_formula(AdamWConfig { lr: 0.02, beta2: 0.95, ..Default::default() });
}

#[test]
fn lambs_steps_follow_the_formula() {
    follow_the_formula(AdamWConfig { lr: 0.02, beta2: 0.95, ..AdamWConfig::lamb() });
}

fn follow_the_formula(config: AdamWConfig) {
    for device in every_device() {
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
            if dtype == DType::F64 && !device.is_cpu() {
                continue;
            }
            let vars = vars(dtype, device);
            let mut config = config;
            let groups = vec![
                ParamGroup { vars: vars[..3].to_vec(), weight_decay: 0.1 },
                ParamGroup { vars: vars[3..].to_vec(), weight_decay: 0.0 },
            ];
            let mut model = Model::new(&vars);
            let views: Vec<Tensor> = vars.iter().map(|v| v.detach().flatten_all().unwrap()).collect();
            let mut optimizer = AdamW::with_groups(groups, config).unwrap();
            for step in 0..8 {
                config.lr *= 0.9;
                optimizer.set_lr(config.lr);
                optimizer.zero_grad();
                backward(&vars, step);
                // Without clipping, clipped, with a bound that is never reached, and clipped by the norm that was read.
                let max_norm = [None, Some(0.7), Some(1e6), Some(0.5)][step as usize % 4];
                let expected = model.step(&config, |i| if i < 3 { 0.1 } else { 0.0 }, max_norm, step);
                match max_norm {
                    None => optimizer.step().unwrap(),
                    Some(0.5) => {
                        let norm: f64 = optimizer.grad_norm().unwrap().to_scalar().unwrap();
                        approx::assert_relative_eq!(norm, expected, max_relative = 10.0 * tolerance);
                        optimizer.step_scaled((0.5 / (norm + 1e-6)).min(1.0)).unwrap();
                    }
                    Some(max_norm) => {
                        let norm = optimizer.step_clipped(max_norm).unwrap();
                        assert_eq!((norm.rank(), norm.device()), (0, device.clone()));
                        let norm: f64 = norm.to_scalar().unwrap();
                        approx::assert_relative_eq!(norm, expected, max_relative = 10.0 * tolerance);
                    }
                }
                for (i, v) in vars.iter().enumerate() {
                    let found: Vec<f64> = v.to_vec().unwrap();
                    let error = difference(&found, &model.x[i]);
                    assert!(
                        error < tolerance * (step + 1) as f64,
                        "{}, {dtype}, {i}: {error:.1e}",
                        label(device)
                    );
                    // Views made before the optimizer, and clones, are the same memory still.
                    assert_eq!(views[i].to_vec::<f64>().unwrap(), found);
                }
            }
            assert_eq!(optimizer.steps(), 8);
            for (i, (m, v)) in optimizer.moments().unwrap().iter().enumerate() {
                assert_eq!((m.dims(), v.dims()), (SHAPES[i], SHAPES[i]));
                assert!(difference(&m.to_vec::<f64>().unwrap(), &model.m[i]) < 1e-4 * tolerance / 1e-6);
                assert!(difference(&v.to_vec::<f64>().unwrap(), &model.v[i]) < 1e-4 * tolerance / 1e-6);
            }
        }
    }
}

/// Values of the parameters, steps taken, and moments.
type Checkpoint = (Vec<Vec<f64>>, u64, Vec<(Tensor, Tensor)>);

#[test]
fn a_checkpoint_continues_bit_for_bit() {
    for device in every_device() {
        let run = |from: Option<&Checkpoint>, steps: std::ops::Range<u64>| {
            let vars = vars(DType::F32, device);
            let mut optimizer = AdamW::new(vars.clone(), AdamWConfig::default()).unwrap();
            if let Some((values, steps, moments)) = from {
                for (var, values) in vars.iter().zip(values) {
                    let values = Tensor::from_slice(values, var.shape(), &Device::Cpu).unwrap();
                    var.set(&place(&values, DType::F32, device).unwrap()).unwrap();
                }
                optimizer.restore(*steps, moments).unwrap();
            }
            for step in steps {
                optimizer.zero_grad();
                backward(&vars, step);
                optimizer.step_clipped(1.0).unwrap();
            }
            (vars, optimizer)
        };
        let (whole, _) = run(None, 0..5);
        let (half, optimizer) = run(None, 0..3);
        let values: Vec<Vec<f64>> = half.iter().map(|v| v.to_vec().unwrap()).collect();
        // Through the host, as a file would.
        let moments: Vec<(Tensor, Tensor)> = (optimizer.moments().unwrap().iter())
            .map(|(m, v)| (m.to_device(&Device::Cpu).unwrap(), v.to_device(&Device::Cpu).unwrap()))
            .collect();
        let (resumed, _) = run(Some(&(values, optimizer.steps(), moments)), 3..5);
        for (a, b) in whole.iter().zip(&resumed) {
            assert_eq!(bits(a), bits(b), "{}", label(device));
        }
    }
}

#[test]
fn parameters_without_a_gradient_are_left_alone() {
    for device in every_device() {
        let vars = vars(DType::F32, device);
        let mut optimizer = AdamW::new(vars.clone(), AdamWConfig::default()).unwrap();
        let before: Vec<_> = vars.iter().map(|v| bits(v)).collect();
        optimizer.step().unwrap();
        assert_eq!(vars.iter().map(|v| bits(v)).collect::<Vec<_>>(), before, "{}", label(device));
        // A gradient that was zeroed is none, whatever its memory holds.
        backward(&vars, 0);
        optimizer.zero_grad();
        backward(&vars[..1], 1);
        optimizer.step_clipped(1.0).unwrap();
        let after: Vec<_> = vars.iter().map(|v| bits(v)).collect();
        assert_ne!(after[0], before[0]);
        assert_eq!(after[1..], before[1..], "{}", label(device));
        // Micro-batches add into memory that the optimizer has seen.
        backward(&vars[..1], 1);
        let memory = vars[0].grad().unwrap();
        let once: Vec<f64> = memory.to_vec().unwrap();
        backward(&vars[..1], 1);
        assert!(vars[0].grad().unwrap().same_storage(&memory));
        assert!(difference(&vars[0].grad().unwrap().to_vec::<f64>().unwrap(), &once) > 0.1);
    }
}

#[test]
fn a_graph_from_before_a_step_is_refused() {
    for device in every_device() {
        let v = Var::new(&place(&normal(1, &[3]), DType::F32, device).unwrap()).unwrap();
        let mut optimizer = AdamW::new(vec![v.clone()], AdamWConfig::default()).unwrap();
        v.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let stale = v.sqr().unwrap().sum_all().unwrap();
        optimizer.step().unwrap();
        assert_eq!(stale.backward(), Err(Error::ModifiedInPlace { op: "sqr" }), "{}", label(device));
    }
}

#[test]
fn bad_optimizers_are_refused() {
    for device in every_device() {
        let var = |dtype| Var::new(&place(&normal(1, &[3]), dtype, device).unwrap()).unwrap();
        let (a, b) = (var(DType::F32), var(DType::F32));
        let new = |vars: &[&Var], config| {
            AdamW::new(vars.iter().map(|&v| v.clone()).collect(), config).err().unwrap()
        };
        let config = AdamWConfig::default();
        assert!(matches!(new(&[], config), Error::Argument { op: "adamw", .. }));
        assert!(matches!(new(&[&a, &b, &a], config), Error::Argument { op: "adamw", .. }));
        for bad in [
            AdamWConfig { lr: f64::NAN, ..config },
            AdamWConfig { beta1: 1.0, ..config },
            AdamWConfig { beta2: -0.1, ..config },
            AdamWConfig { eps: -1.0, ..config },
        ] {
            assert!(matches!(new(&[&a], bad), Error::Argument { op: "adamw", .. }), "{bad:?}");
        }
        let mut optimizer = AdamW::new(vec![a.clone(), b.clone()], config).unwrap();
        assert!(matches!(optimizer.step_clipped(0.0), Err(Error::Argument { .. })));
        assert!(matches!(optimizer.step_clipped(f64::NAN), Err(Error::Argument { .. })));
        assert!(matches!(optimizer.step_scaled(f64::INFINITY), Err(Error::Argument { .. })));
        assert!(matches!(optimizer.restore(1, &[]), Err(Error::Argument { .. })));
        let ids = Tensor::zeros(3, DType::U32, device).unwrap();
        let ids = vec![(ids.clone(), ids); 2];
        assert!(matches!(optimizer.restore(1, &ids), Err(Error::DType { .. })));
        let low_precision = LowPrecision::StochasticRounding { seed: 1 };
        let lamb = AdamWConfig { low_precision, ..AdamWConfig::lamb() };
        assert!(matches!(new(&[&a], lamb), Error::Argument { op: "adamw", .. }));
        let wrong = Tensor::zeros(4, DType::F32, device).unwrap();
        let wrong = vec![(wrong.clone(), wrong); 2];
        assert!(matches!(optimizer.restore(1, &wrong), Err(Error::Shape { .. })));
        assert_eq!(optimizer.steps(), 0);
        if let Some(gpu) = gpus().first().filter(|_| device.is_cpu()) {
            let there = Var::new(&place(&normal(1, &[3]), DType::F32, gpu).unwrap()).unwrap();
            assert!(matches!(new(&[&a, &there], config), Error::DeviceMismatch { op: "adamw", .. }));
        }
    }
}

/// A GPT of one block, with what the crate fuses.
struct Gpt {
    tokens: Var,
    positions: Var,
    norms: [(Var, Var); 3],
    qkv: Var,
    out: (Var, Var),
    up: (Var, Var),
    down: (Var, Var),
}

const VOCABULARY: usize = 33;
const C: usize = 32;
const T: usize = 17;

impl Gpt {
    fn new(dtype: DType, device: &Device) -> Result<Self> {
        let mut seed = 0;
        let mut var = |shape: &[usize], std: f64, mean: f64| {
            seed += 1;
            let var = Var::new(&place(&normal(seed, shape).affine(std, mean)?, dtype, device)?)?;
            var.set_grad_dtype(DType::F32)?;
            Ok(var)
        };
        let mut norm = || Ok((var(&[C], 0.0, 1.0)?, var(&[C], 0.0, 0.0)?));
        let norms = [norm()?, norm()?, norm()?];
        Ok(Gpt {
            tokens: var(&[VOCABULARY, C], 0.1, 0.0)?,
            positions: var(&[T, C], 0.1, 0.0)?,
            norms,
            qkv: var(&[3 * C, C], 0.1, 0.0)?,
            out: (var(&[C, C], 0.1, 0.0)?, var(&[C], 0.0, 0.0)?),
            up: (var(&[4 * C, C], 0.1, 0.0)?, var(&[4 * C], 0.0, 0.0)?),
            down: (var(&[C, 4 * C], 0.1, 0.0)?, var(&[C], 0.0, 0.0)?),
        })
    }

    fn vars(&self) -> Vec<Var> {
        let mut all = vec![self.tokens.clone(), self.positions.clone(), self.qkv.clone()];
        for (w, b) in self.norms.iter().chain([&self.out, &self.up, &self.down]) {
            all.extend([w.clone(), b.clone()]);
        }
        all
    }

    fn loss(&self, ids: &Tensor, targets: &Tensor, dropout: f64) -> Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let [n1, n2, n3] = &self.norms;
        let x = self.tokens.embedding(ids)?.add(&self.positions)?.dropout(dropout)?;
        let parts = x.layer_norm(&n1.0, Some(&n1.1), 1e-5)?.linear(&self.qkv, None)?.split(&[C; 3], 2)?;
        let heads = |x: &Tensor| x.reshape((b, t, 4, C / 4))?.transpose(1, 2);
        let options = AttentionOptions { causal: true, dropout, ..Default::default() };
        let o = heads(&parts[0])?.attention(&heads(&parts[1])?, &heads(&parts[2])?, &options)?;
        let o = o.transpose(1, 2)?.reshape((b, t, C))?.linear(&self.out.0, Some(&self.out.1))?;
        let (x, normed) = x.add_layer_norm(&o, &n2.0, Some(&n2.1), 1e-5)?;
        let h = normed.linear_activation(&self.up.0, Some(&self.up.1), Activation::Gelu)?;
        let x = h.linear_residual(&self.down.0, Some(&self.down.1), &x)?;
        let logits = x.layer_norm(&n3.0, Some(&n3.1), 1e-5)?.linear(&self.tokens, None)?;
        logits.cross_entropy(targets)
    }
}

/// Once it has done a few, a step takes all its memory from the pool and all bind groups and kernels from their caches.
#[cfg(feature = "wgpu")]
#[test]
fn a_steady_step_makes_nothing_new() {
    use tilewright::device::Profiling;
    let Some(device) = crate::harness::another_wgpu(|selector| selector) else { return };
    let gpt = Gpt::new(DType::F32, &device).unwrap();
    let mut optimizer = AdamW::new(gpt.vars(), AdamWConfig::default()).unwrap();
    let mut step = |i: u32| {
        optimizer.zero_grad();
        let text: Vec<u32> = (0..2 * (T as u32 + 1)).map(|j| (i + j * j) % 31).collect();
        let text = Tensor::from_vec(text, (2, T + 1), &device)?;
        // As large as the tokens of a GPT-2's step: more than what travels with the parameters.
        Tensor::from_vec(vec![i; 8 << 10], (8, 1 << 10), &device)?;
        let loss = gpt.loss(&text.narrow(1, 0, T)?, &text.narrow(1, 1, T)?, 0.1)?;
        loss.backward()?;
        optimizer.step_clipped(1.0)?;
        loss.to_scalar::<f32>()
    };
    (0..4).for_each(|i| assert!(step(i).unwrap().is_finite()));
    device.profile(Profiling::Host).unwrap();
    (4..8).for_each(|i| assert!(step(i).unwrap().is_finite()));
    let host = device.take_profile().unwrap().host;
    assert!(host.dispatches > 4 * 50 && host.submits < 4 * 10, "{host}");
    assert_eq!((host.buffers, host.bind_groups, host.compiled), (0, 0, 0), "{host}");
    assert!(!host.recording.is_zero());
}

/// Losses and gradient norms of a few steps of two micro-batches each.
fn train(dtype: DType, device: &Device, dropout: f64) -> Result<Vec<f64>> {
    let gpt = Gpt::new(dtype, device)?;
    let mut optimizer = AdamW::new(gpt.vars(), AdamWConfig { lr: 3e-3, ..Default::default() })?;
    let mut log = Vec::new();
    for step in 0..8u32 {
        optimizer.zero_grad();
        for micro in 0..2 {
            let text: Vec<u32> = (0..2 * (T as u32 + 1)).map(|i| (i * i + 7 * micro) % 31).collect();
            let text = Tensor::from_vec(text, (2, T + 1), device)?;
            let (ids, targets) = (text.narrow(1, 0, T)?, text.narrow(D::Minus1, 1, T)?);
            let loss = seeded(device, (2 * step + micro) as u64 * 10, || gpt.loss(&ids, &targets, dropout))?;
            loss.affine(0.5, 0.0)?.backward()?;
            log.push(loss.to_scalar()?);
        }
        log.push(optimizer.step_clipped(0.5)?.to_scalar()?);
    }
    Ok(log)
}

#[test]
fn training_agrees_between_devices_and_runs() {
    for dropout in [0.0, 0.2] {
        let expected = train(DType::F32, &Device::Cpu, dropout).unwrap();
        let losses: Vec<f64> =
            expected.iter().copied().enumerate().filter(|(i, _)| i % 3 < 2).map(|(_, x)| x).collect();
        assert!(losses[0] > 3.0 && losses[losses.len() - 1] < losses[0] - 0.3, "{losses:?}");
        for device in every_device() {
            let found =
                train(DType::F32, device, dropout).unwrap_or_else(|e| panic!("{}: {e}", label(device)));
            let error = difference(&found, &expected);
            assert!(error < 2e-5, "{}: {error:.1e}\n{found:?}\n{expected:?}", label(device));
            assert_eq!(train(DType::F32, device, dropout).unwrap(), found, "{}", label(device));
        }
    }
}

/// With f32 masters and gradients, a model of 16 bits learns what one of 32 does.
#[test]
fn training_in_16_bits_follows_f32() {
    let expected = train(DType::F32, &Device::Cpu, 0.2).unwrap();
    for device in every_device() {
        for (dtype, allowed) in [(DType::F16, 2e-3), (DType::BF16, 1e-2)] {
            let found = train(dtype, device, 0.2).unwrap();
            for (found, expected) in found.iter().zip(&expected) {
                let error = (found - expected).abs() / expected;
                assert!(error < allowed, "{}, {dtype}: {found}, in f32 {expected}", label(device));
            }
            assert_eq!(train(dtype, device, 0.2).unwrap(), found, "{}, {dtype}", label(device));
        }
    }
}
