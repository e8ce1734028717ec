//! Mixed precision: f32 gradients of 16-bit parameters, and AdamW over them, on every device.

use tilewright::autograd::backward;
use tilewright::optim::{AdamW, AdamWConfig, LowPrecision, ParamGroup};
use tilewright::random::{Stream, round_stochastically};
use tilewright::{DType, Device, Error, Result, Tensor, Var};

use crate::harness::{bits, difference, every_device, label, magnitude, normal, place};

const NARROW: [DType; 2] = [DType::F16, DType::BF16];

fn values(x: &Tensor) -> Vec<f64> {
    x.to_vec().unwrap()
}

/// A parameter whose gradient is f32.
fn wide(x: &Tensor, dtype: DType, device: &Device) -> Var {
    let var = Var::new(&place(x, dtype, device).unwrap()).unwrap();
    var.set_grad_dtype(DType::F32).unwrap();
    var
}

/// What is differentiated: of an activation x `[rows, C]`, ids below 7, and parameters `[7, C]`, `[C]`, `[C]`, `[7]` and
/// `[2, 1, C]`.
type Model = fn(&Tensor, &Tensor, &[Tensor]) -> Result<Tensor>;

const MODELS: [(&str, Model); 8] = [
    ("linear", |x, _, w| x.linear(&w[0], Some(&w[3]))),
    ("broadcast", |x, _, w| x.add(&w[1])),
    ("broadcast to columns", |x, _, w| w[4].add(&x.unsqueeze(0)?)),
    ("matmul", |x, _, w| x.matmul(&w[0].t()?)),
    ("embedding", |_, ids, w| w[0].embedding(ids)),
    ("tied", |_, ids, w| w[0].embedding(ids)?.linear(&w[0], None)),
    ("layer_norm", |x, _, w| x.layer_norm(&w[1], Some(&w[2]), 1e-5)),
    ("add_rms_norm", |x, _, w| Ok(x.add_rms_norm(x, &w[1], 1e-5)?.1)),
];

/// Gradients of f32 are what f64 gives, without a rounding to 16 bits on their way; when they are written, and when
/// they are added.
#[test]
fn wide_gradients_are_not_rounded() {
    // Rows of lines and not; enough rows for CUDA to cut the products along them.
    for (rows, channels) in [(1, 1), (5, 40), (33, 17), (1030, 24)] {
        let shapes: [&[usize]; 5] = [&[7, channels], &[channels], &[channels], &[7], &[2, 1, channels]];
        let ids: Vec<u32> = (0..rows as u32).map(|i| i * i % 7).collect();
        for dtype in NARROW {
            let rounded = |seed, shape: &[usize]| normal(seed, shape).to_dtype(dtype).unwrap();
            let grads = |model: Model, dtype: DType, device: &Device| -> Vec<Option<Tensor>> {
                let at = |x: Tensor| place(&x, dtype, device).unwrap();
                let x = at(rounded(1, &[rows, channels]));
                let vars: Vec<Var> =
                    (2..).zip(shapes).map(|(i, s)| Var::new(&at(rounded(i, s))).unwrap()).collect();
                if dtype != DType::F64 {
                    vars.iter().for_each(|v| v.set_grad_dtype(DType::F32).unwrap());
                }
                let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
                let ids = Tensor::new(&ids, device).unwrap();
                for _ in 0..2 {
                    let y = model(&x, &ids, &tensors).unwrap();
                    backward(&[(&y, at(rounded(9, y.dims())))]).unwrap();
                }
                vars.iter().map(Var::grad).collect()
            };
            for (name, model) in MODELS {
                let expected = grads(model, DType::F64, &Device::Cpu);
                for device in every_device() {
                    let what = format!("{name}, {rows} x {channels}, {dtype}, {}", label(device));
                    for (found, expected) in grads(model, dtype, device).iter().zip(&expected) {
                        let (Some(found), Some(expected)) = (found, expected) else {
                            assert_eq!(found.is_some(), expected.is_some(), "{what}");
                            continue;
                        };
                        assert_eq!((found.dtype(), found.shape()), (DType::F32, expected.shape()), "{what}");
                        let expected = values(expected);
                        let scale = magnitude(&expected).max(1.0);
                        let error = |x: &Tensor| difference(&values(x), &expected) / scale;
                        // A view's gradient, and that of the embedding below a layer, are rounded on the way.
                        let rounded = ["matmul", "tied"].contains(&name);
                        let unit = 2f64.powi(if dtype == DType::F16 { -11 } else { -8 });
                        let (error, after_rounding) = (error(found), error(&found.to_dtype(dtype).unwrap()));
                        assert!(error < if rounded { unit } else { 4e-6 }, "{what}: {error:.1e}");
                        // So a rounding of long sums would have been noticed.
                        assert!(rounded || rows < 33 || after_rounding > 1e-5, "{what}");
                    }
                }
            }
        }
    }
}

/// One gradient of 1 and many of 2^-12, which 16 bits round away.
#[test]
fn many_small_gradients_add_up() {
    const STEPS: usize = 48;
    for device in every_device() {
        for dtype in NARROW {
            for grad_dtype in [dtype, DType::F32] {
                let ones = |shape: &[usize]| Tensor::ones(shape, dtype, device).unwrap();
                let var = |shape: &[usize]| {
                    let var = Var::new(&ones(shape)).unwrap();
                    var.set_grad_dtype(grad_dtype).unwrap();
                    var
                };
                let (w, b, table, scale) = (var(&[3, 5]), var(&[3]), var(&[4, 3]), var(&[5]));
                let ids = Tensor::new(&[2u32, 0, 3, 1], device).unwrap();
                let x = ones(&[1, 5]);
                for step in 0..=STEPS {
                    let dy = |y: &Tensor| {
                        let value = if step == 0 { 1.0 } else { 2f64.powi(-12) };
                        Tensor::full(value, y.shape(), dtype, device).unwrap()
                    };
                    let y = [
                        x.linear(&w, Some(&b)).unwrap(),
                        table.embedding(&ids).unwrap(),
                        x.rms_norm(&scale, 0.0).unwrap(),
                    ];
                    backward(&[(&y[0], dy(&y[0])), (&y[1], dy(&y[1])), (&y[2], dy(&y[2]))]).unwrap();
                }
                let expected = if grad_dtype == DType::F32 { 1.0 + STEPS as f64 / 4096.0 } else { 1.0 };
                for (i, var) in [&w, &b, &table, &scale].into_iter().enumerate() {
                    let grad = var.grad().unwrap();
                    assert_eq!(grad.dtype(), grad_dtype);
                    let error = difference(&values(&grad), &vec![expected; var.elements()]);
                    assert!(error < 1e-5, "{}, {dtype}, {grad_dtype}, {i}: {error:.1e}", label(device));
                }
            }
        }
    }
}

#[test]
fn the_dtype_of_a_gradient_can_be_chosen() {
    for device in every_device() {
        let w = Var::new(&place(&normal(1, &[3, 5]), DType::BF16, device).unwrap()).unwrap();
        let x = place(&normal(2, &[2, 5]), DType::BF16, device).unwrap();
        let run = || x.linear(&w, None).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(w.grad_dtype(), DType::BF16);
        run();
        let narrow = values(&w.grad().unwrap());
        // What is there is kept.
        w.set_grad_dtype(DType::F32).unwrap();
        assert_eq!((w.grad_dtype(), w.clone().grad_dtype()), (DType::F32, DType::F32));
        assert_eq!((w.grad().unwrap().dtype(), values(&w.grad().unwrap())), (DType::F32, narrow));
        w.clear_grad();
        assert_eq!((w.grad().is_none(), w.grad_dtype()), (true, DType::F32));
        run();
        let grad = w.grad().unwrap();
        let rounded = grad.to_dtype(DType::BF16).unwrap();
        assert!(difference(&values(&grad), &values(&rounded)) > 0.0, "{}", label(device));
        w.set_grad_dtype(DType::BF16).unwrap();
        assert_eq!(bits(&w.grad().unwrap()), bits(&rounded));
        w.zero_grad();
        w.set_grad_dtype(DType::F32).unwrap();
        assert!(w.grad().is_none());

        let f32s = Var::new(&place(&normal(1, &[3]), DType::F32, device).unwrap()).unwrap();
        f32s.set_grad_dtype(DType::F32).unwrap();
        for (var, dtype) in [(&w, DType::F16), (&w, DType::U32), (&f32s, DType::BF16), (&f32s, DType::F64)] {
            let error = var.set_grad_dtype(dtype).unwrap_err();
            assert!(matches!(error, Error::DType { op: "set_grad_dtype", .. }), "{error}");
        }
    }
}

const SHAPES: [&[usize]; 7] = [&[5, 7], &[1], &[65], &[129, 3], &[0], &[2, 1, 31], &[4, 4]];

/// Parameters of `dtypes` in turn, whose values are those of bf16 in every one.
fn vars(dtypes: &[DType], grads: Option<DType>, device: &Device) -> Vec<Var> {
    let var = |(i, shape): (usize, &&[usize])| {
        let x = normal(i as u64, shape).affine(0.25, 0.0).unwrap().to_dtype(DType::BF16).unwrap();
        let var = Var::new(&place(&x, dtypes[i % dtypes.len()], device).unwrap()).unwrap();
        if let Some(dtype) = grads.filter(|_| var.dtype().size() == 2) {
            var.set_grad_dtype(dtype).unwrap();
        }
        var
    };
    SHAPES.iter().enumerate().map(var).collect()
}

/// Gradients that depend on the step alone and are the same in every dtype.
fn give_gradients(vars: &[Var], step: u64) {
    for (i, var) in vars.iter().enumerate() {
        let grad = normal(100 * (step + 1) + i as u64, var.dims()).to_dtype(DType::BF16).unwrap();
        backward(&[(var.as_tensor(), place(&grad, var.dtype(), &var.device()).unwrap())]).unwrap();
    }
}

fn optimizer(vars: &[Var], config: AdamWConfig) -> AdamW {
    let groups = vec![
        ParamGroup { vars: vars[..3].to_vec(), weight_decay: 0.1 },
        ParamGroup { vars: vars[3..].to_vec(), weight_decay: 0.0 },
    ];
    AdamW::with_groups(groups, config).unwrap()
}

#[test]
fn masters_take_the_steps_of_f32_parameters() {
    let mixtures: [&[DType]; 3] = [&[DType::BF16], &[DType::F16], &[DType::F32, DType::BF16, DType::F16]];
    let config = AdamWConfig { lr: 3e-3, ..Default::default() };
    for device in every_device() {
        for (dtypes, grads) in mixtures.into_iter().flat_map(|d| [(d, None), (d, Some(DType::F32))]) {
            let what = format!("{}, {dtypes:?}, gradients {grads:?}", label(device));
            let (exact, mixed) = (vars(&[DType::F32], None, device), vars(dtypes, grads, device));
            let (mut reference, mut found) = (optimizer(&exact, config), optimizer(&mixed, config));
            for step in 0..4 {
                give_gradients(&exact, step);
                give_gradients(&mixed, step);
                if step < 2 {
                    reference.step().unwrap();
                    found.step().unwrap();
                } else {
                    // The order of the norm's sum may depend on where the gradients lie.
                    let norms = [&mut reference, &mut found].map(|o| o.step_clipped(0.5).unwrap());
                    let [expected, norm] = norms.map(|norm| norm.to_scalar::<f64>().unwrap());
                    approx::assert_relative_eq!(norm, expected, max_relative = 1e-6);
                }
                reference.zero_grad();
                found.zero_grad();
                for ((master, exact), var) in found.masters().unwrap().iter().zip(&exact).zip(&mixed) {
                    assert_eq!((master.dtype(), master.shape()), (DType::F32, var.shape()));
                    let error = difference(&values(master), &values(exact));
                    assert!(
                        if step < 2 { error == 0.0 } else { error < 1e-6 },
                        "{what}, step {step}: {error:.1e}"
                    );
                    assert_eq!(bits(&master.to_dtype(var.dtype()).unwrap()), bits(var), "{what}");
                }
            }
            for ((a, b), (c, d)) in found.moments().unwrap().iter().zip(reference.moments().unwrap()) {
                assert!(
                    difference(&values(a), &values(&c)) < 1e-6 && difference(&values(b), &values(&d)) < 1e-6
                );
                assert_eq!((a.dtype(), b.dtype()), (DType::F32, DType::F32));
            }
        }
    }
}

/// Steps too small for bf16: the masters keep them.
#[test]
fn small_steps_are_not_lost() {
    for device in every_device() {
        let w = wide(&Tensor::ones(3, DType::F64, &Device::Cpu).unwrap(), DType::BF16, device);
        let config = AdamWConfig { lr: 2f64.powi(-12), weight_decay: 0.0, ..Default::default() };
        let mut optimizer = AdamW::new(vec![w.clone()], config).unwrap();
        for _ in 0..32 {
            optimizer.zero_grad();
            w.sum_all().unwrap().backward().unwrap();
            optimizer.step().unwrap();
        }
        // Each step is the learning rate; 2^-7 in all, two places of bf16 below 1.
        assert_eq!(values(&w), vec![1.0 - 2f64.powi(-7); 3], "{}", label(device));
    }
}

/// Every device rounds by the same bits, at the documented positions: with arithmetic that is exact, to the same values.
#[test]
fn stochastic_rounding_is_the_same_everywhere() {
    let seed = 0x1234_5678_9ABC;
    let (lr, low_precision) = (2f64.powi(-10), LowPrecision::StochasticRounding { seed });
    // Every step is the learning rate times the gradient's sign.
    let config = AdamWConfig {
        lr,
        beta1: 0.0,
        beta2: 0.0,
        eps: 0.0,
        weight_decay: 0.0,
        low_precision,
        trust_ratio: false,
    };
    let sign = |i: usize, step: u64| if (i as u64 + step).is_multiple_of(3) { -1.0f32 } else { 1.0 };
    for device in every_device() {
        for (dtypes, grads) in
            [(&[DType::BF16][..], None), (&[DType::BF16, DType::BF16, DType::F32], Some(DType::F32))]
        {
            let vars = vars(dtypes, grads, device);
            let group = |vars: &[Var]| ParamGroup { vars: vars.to_vec(), weight_decay: 0.0 };
            let mut optimizer =
                AdamW::with_groups(vec![group(&vars[..3]), group(&vars[3..])], config).unwrap();
            let mut expected: Vec<Vec<f32>> = vars.iter().map(|v| v.to_vec().unwrap()).collect();
            for step in 1..=3 {
                optimizer.zero_grad();
                let mut first = 0;
                for (var, expected) in vars.iter().zip(&mut expected) {
                    let grad: Vec<f32> = (0..var.elements()).map(|i| sign(i, step)).collect();
                    let grad = Tensor::from_vec(grad, var.shape(), &Device::Cpu).unwrap();
                    backward(&[(var.as_tensor(), place(&grad, var.dtype(), device).unwrap())]).unwrap();
                    let mut bits = vec![0; expected.len()];
                    Stream { seed, offset: step }.bits(first, &mut bits);
                    for (i, (x, bits)) in expected.iter_mut().zip(bits).enumerate() {
                        let exact = *x - lr as f32 * sign(i, step);
                        *x = if var.dtype() == DType::BF16 {
                            round_stochastically(exact, bits).to_f32()
                        } else {
                            exact
                        };
                    }
                    if var.dtype() == DType::BF16 {
                        first += expected.len().next_multiple_of(128) as u64;
                    }
                }
                optimizer.step().unwrap();
                for (i, (var, expected)) in vars.iter().zip(&expected).enumerate() {
                    let found: Vec<f32> = var.to_vec().unwrap();
                    assert_eq!(&found, expected, "{}, step {step}, parameter {i}", label(device));
                }
            }
        }
    }
}

/// The mean of many parameters moves as f32 would, though no single step is a place of bf16; and one seed gives one run.
#[test]
fn stochastic_rounding_is_unbiased() {
    const N: usize = 20_000;
    const STEPS: i32 = 5;
    let lr = 2f64.powi(-11);
    for device in every_device() {
        let run = |seed| {
            let w = wide(&Tensor::full(0.75, N, DType::F64, &Device::Cpu).unwrap(), DType::BF16, device);
            let low_precision = LowPrecision::StochasticRounding { seed };
            let config = AdamWConfig { lr, weight_decay: 0.0, low_precision, ..Default::default() };
            let mut optimizer = AdamW::new(vec![w.clone()], config).unwrap();
            for _ in 0..STEPS {
                optimizer.zero_grad();
                w.sum_all().unwrap().backward().unwrap();
                optimizer.step_clipped(1e9).unwrap();
            }
            values(&w)
        };
        let found = run(5);
        let mean = found.iter().sum::<f64>() / N as f64;
        let expected = 0.75 - STEPS as f64 * lr;
        // A step is an eighth of a place, 2^-8: five of them leave a standard deviation of sqrt(5 * 7) / 8 places.
        let deviation = 35f64.sqrt() / 8.0 * 2f64.powi(-8) / (N as f64).sqrt();
        assert!((mean - expected).abs() < 4.0 * deviation, "{}: {mean}, expected {expected}", label(device));
        assert!(found.contains(&0.75) && found.iter().any(|&x| x != 0.75));
        assert_eq!(run(5), found, "{}", label(device));
        assert_ne!(run(6), found);
    }
}

#[test]
fn a_mixed_checkpoint_continues_bit_for_bit() {
    let stochastic = LowPrecision::StochasticRounding { seed: 3 };
    let cases: [(&[DType], LowPrecision); 3] = [
        (&[DType::BF16, DType::F32], LowPrecision::Masters),
        (&[DType::F16], LowPrecision::Masters),
        (&[DType::BF16, DType::F32], stochastic),
    ];
    for device in every_device() {
        for (dtypes, low_precision) in cases {
            let config = AdamWConfig { low_precision, ..Default::default() };
            let run = |optimizer: &mut AdamW, vars: &[Var], steps: std::ops::Range<u64>| {
                for step in steps {
                    optimizer.zero_grad();
                    give_gradients(vars, step);
                    optimizer.step_clipped(1.0).unwrap();
                }
            };
            let start = || {
                let vars = vars(dtypes, Some(DType::F32), device);
                (optimizer(&vars, config), vars)
            };
            let (mut whole, whole_vars) = start();
            run(&mut whole, &whole_vars, 0..5);

            let (mut half, half_vars) = start();
            run(&mut half, &half_vars, 0..3);
            // Through the host, as a file would.
            let host = |x: &Tensor| x.to_device(&Device::Cpu).unwrap();
            let moments: Vec<(Tensor, Tensor)> =
                half.moments().unwrap().iter().map(|(m, v)| (host(m), host(v))).collect();
            let masters: Vec<Tensor> = half.masters().unwrap().iter().map(host).collect();

            let (mut resumed, resumed_vars) = start();
            run(&mut resumed, &resumed_vars, 7..8);
            resumed.restore(half.steps(), &moments).unwrap();
            resumed.restore_masters(&masters).unwrap();
            for (a, b) in half_vars.iter().zip(&resumed_vars) {
                assert_eq!(bits(a), bits(b), "{}", label(device));
            }
            run(&mut resumed, &resumed_vars, 3..5);
            for (a, b) in whole_vars.iter().zip(&resumed_vars) {
                assert_eq!(bits(a), bits(b), "{}", label(device));
            }
            for (a, b) in whole.masters().unwrap().iter().zip(resumed.masters().unwrap()) {
                assert_eq!(bits(a), bits(&b), "{}", label(device));
            }
        }
    }
}

/// What others write to a parameter is where its next step starts.
#[test]
fn masters_follow_parameters_that_are_set() {
    for device in every_device() {
        let w = wide(&normal(1, &[5]), DType::BF16, device);
        let mut optimizer = AdamW::new(vec![w.clone()], AdamWConfig::default()).unwrap();
        let step = |optimizer: &mut AdamW| {
            optimizer.zero_grad();
            w.sum_all().unwrap().backward().unwrap();
            optimizer.step().unwrap();
        };
        step(&mut optimizer);
        let new = place(&normal(2, &[5]), DType::BF16, device).unwrap();
        w.set(&new).unwrap();
        assert_eq!(bits(&optimizer.masters().unwrap()[0]), bits(&new), "{}", label(device));
        step(&mut optimizer);
        let master = optimizer.masters().unwrap().remove(0);
        let moved = difference(&values(&master), &values(&new));
        assert!(moved > 0.5e-3 && moved < 2e-3, "{}: {moved}", label(device));
        assert_eq!(bits(&master.to_dtype(DType::BF16).unwrap()), bits(&w));
    }
}

/// Memory that was freed, and a dtype that was chosen late, give other memory than the optimizer has seen.
#[test]
fn gradients_may_move_after_the_optimizer_is_made() {
    for device in every_device() {
        for dtype in [DType::F32, DType::BF16] {
            let pair: Vec<Var> =
                (0..2).map(|_| Var::new(&place(&normal(1, &[9]), dtype, device).unwrap()).unwrap()).collect();
            let mut optimizers: Vec<AdamW> =
                pair.iter().map(|v| AdamW::new(vec![v.clone()], AdamWConfig::default()).unwrap()).collect();
            for step in 0..4 {
                for (v, optimizer) in pair.iter().zip(&mut optimizers) {
                    optimizer.zero_grad();
                    give_gradients(std::slice::from_ref(v), step);
                    optimizer.step_clipped(1.0).unwrap();
                }
                assert_eq!(bits(&pair[0]), bits(&pair[1]), "{}, {dtype}, step {step}", label(device));
                pair[0].clear_grad();
                pair[0].set_grad_dtype(DType::F32).unwrap();
            }
        }
    }
}

#[test]
fn bad_mixtures_are_refused() {
    for device in every_device() {
        let var = |dtype| Var::new(&place(&normal(1, &[3]), dtype, device).unwrap()).unwrap();
        let low_precision = LowPrecision::StochasticRounding { seed: 1 };
        let stochastic = AdamWConfig { low_precision, ..Default::default() };
        let error = AdamW::new(vec![var(DType::BF16), var(DType::F16)], stochastic).err().unwrap();
        assert!(matches!(error, Error::DType { op: "adamw", .. }), "{error}");
        assert!(error.to_string().contains("bf16"), "{error}");
        if device.is_cpu() {
            for other in [DType::F32, DType::BF16] {
                for vars in [[var(DType::F64), var(other)], [var(other), var(DType::F64)]] {
                    let error = AdamW::new(vars.to_vec(), AdamWConfig::default()).err().unwrap();
                    assert!(matches!(error, Error::DType { op: "adamw", .. }), "{error}");
                }
            }
        }
        let (a, b) = (var(DType::BF16), var(DType::F32));
        let before = [bits(&a), bits(&b)];
        let mut optimizer = AdamW::new(vec![a.clone(), b.clone()], AdamWConfig::default()).unwrap();
        let good = Tensor::ones(3, DType::F32, device).unwrap();
        let bad = Tensor::ones(4, DType::F32, device).unwrap();
        let result = optimizer.restore_masters(std::slice::from_ref(&good));
        assert!(matches!(result, Err(Error::Argument { op: "adamw", argument: "masters", .. })));
        assert!(matches!(optimizer.restore_masters(&[good, bad]), Err(Error::Shape { op: "adamw", .. })));
        assert_eq!([bits(&a), bits(&b)], before, "{}", label(device));
    }
}
