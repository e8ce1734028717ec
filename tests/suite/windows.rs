//! Tensors larger than a binding, on a device that is opened with bindings of 16 KiB: every op, cut along every dimension
//! that it is cut along.
#![cfg(feature = "wgpu")]

use std::sync::OnceLock;

use tilewright::optim::{AdamW, AdamWConfig};
use tilewright::{
    Activation, AttentionOptions, CrossEntropyOptions, D, DType, Device, Error, Reduction, Result,
    RotaryPairs, Tensor, Var,
};

use crate::cases::{self, Case, Range::Normal};
use crate::harness::{another_wgpu, bits, devices, difference, magnitude, normal, place, seeded};
use crate::parity::{Expected, Pass, compare};

const BINDING: u64 = 16 << 10;

/// The device of the other tests with small bindings; none where they have none.
fn device() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    DEVICE.get_or_init(|| another_wgpu(|selector| selector.checked().binding_bytes(BINDING))).as_ref()
}

fn check(cases: Vec<Case>, dtypes: &[DType]) {
    let Some(device) = device() else { return };
    let mut failures = Vec::new();
    for case in &cases {
        for &dtype in dtypes {
            let wrong = Expected::of(case, dtype)
                .and_then(|expected| compare(case, dtype, device, &expected, Pass::Both))
                .unwrap_or_else(|error| vec![error.to_string()]);
            failures.extend(wrong.into_iter().map(|what| format!("{}, {dtype}: {what}", case.name)));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn elementwise() {
    let gelu = |x: &[Tensor]| x[0].gelu();
    let mut cases = vec![
        Case::new("gelu", &[(&[9001], Normal)], gelu),
        Case::new("gelu", &[(&[1, 3, 5003], Normal)], gelu),
        // One row is more than a binding, and no row but the first starts where a binding may.
        Case::new("a row for all", &[(&[3, 9001], Normal), (&[9001], Normal)], |x| x[0].add(&x[1])).terms(4),
        Case::new("a column for all", &[(&[130, 131], Normal), (&[130, 1], Normal)], |x| x[0].add(&x[1]))
            .terms(131)
            .roundings(3)
            .scale(16.0),
        Case::new("where", &[(&[67, 131], Normal), (&[131, 67], Normal)], |x| {
            let other = x[1].t()?;
            x[0].gt(&other)?.where_cond(&x[0], &other)
        }),
        Case::new("assembled", &[(&[67, 131], Normal), (&[131, 68], Normal)], |x| {
            Tensor::cat(&[&x[0].t()?, &x[1]], 1)?.narrow(0, 1, 129)?.contiguous()
        }),
        Case::new("converted", &[(&[67, 131], Normal)], |x| {
            x[0].t()?
                .to_dtype(DType::F16)?
                .to_dtype(DType::F32)?
                .to_dtype(DType::BF16)?
                .to_dtype(x[0].dtype())
        })
        .roundings(2)
        .scale(64.0),
        Case::new("dropout", &[(&[20_003], Normal)], |x| seeded(&x[0].device(), 3, || x[0].dropout(0.3))),
    ];
    cases.extend(Case::new("gelu", &[(&[3, 67, 65], Normal)], gelu).in_views());
    for case in &mut cases {
        case.roundings += 1;
    }
    // `converted` rounds to f16 and bf16 whatever it starts from.
    let (converted, cases): (Vec<_>, Vec<_>) =
        cases.into_iter().partition(|c| c.name.starts_with("converted"));
    check(cases, &ALL);
    check(converted, &[DType::BF16]);
}

#[test]
fn constants_and_copies_are_exact() {
    let Some(device) = device() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::U32] {
        let x: Vec<f64> = (0..9001).map(|i| (i % 200) as f64).collect();
        let there = place(&Tensor::new(&x, &Device::Cpu).unwrap(), dtype, device).unwrap();
        assert_eq!(there.to_vec::<f64>().unwrap(), x, "{dtype}");
        assert_eq!(there.copy().unwrap().to_vec::<f64>().unwrap(), x, "{dtype}");
        assert_eq!(Tensor::full(3.0, 9001, dtype, device).unwrap().to_vec::<f64>().unwrap(), vec![3.0; 9001]);
        assert_eq!(Tensor::zeros(9001, dtype, device).unwrap().to_vec::<f64>().unwrap(), vec![0.0; 9001]);
        // The middle, from an even place on: whole words even where two elements share one.
        there.narrow(0, 2, 8998).unwrap().assign(&there.narrow(0, 0, 8998).unwrap()).unwrap();
        let moved: Vec<f64> = [&x[..2], &x[..8998], &x[9000..]].concat();
        assert_eq!(there.to_vec::<f64>().unwrap(), moved, "{dtype}");
    }
}

#[test]
fn reductions() {
    type Function = fn(&[Tensor]) -> Result<Tensor>;
    let functions: [(&str, &[usize], Function); 7] = [
        ("sum rows", &[67, 301], |x| x[0].sum(1)),
        ("sum columns", &[301, 67], |x| x[0].sum(0)),
        ("sum the middle", &[3, 301, 67], |x| x[0].sum(1)),
        ("sum a long row", &[3, 20_011], |x| x[0].sum(1)),
        ("sum all", &[40_009], |x| x[0].sum_all()),
        ("max", &[67, 301], |x| x[0].max_keepdim(D::Minus1)),
        ("mean", &[301, 67], |x| x[0].mean(0)),
    ];
    let case = |(name, shape, f): (&str, &[usize], Function)| {
        Case::new(name, &[(shape, Normal)], f).terms(40_009).scale(64.0)
    };
    check(functions.into_iter().map(case).collect(), &[DType::F32]);
}

#[test]
fn indices() {
    let Some(device) = device() else { return };
    let x = normal(5, &[67, 301]);
    let there = place(&x, DType::F32, device).unwrap();
    for dim in [1, 0] {
        let (x, there) =
            if dim == 1 { (x.clone(), there.clone()) } else { (x.t().unwrap(), there.t().unwrap()) };
        let of = |t: &Tensor| t.argmax(1).unwrap().to_vec::<u32>().unwrap();
        assert_eq!(of(&there), of(&x.to_dtype(DType::F32).unwrap()));
    }
}

#[test]
fn rows() {
    let mut cases = vec![
        Case::new("softmax", &[(&[67, 131], Normal)], |x| x[0].softmax(1)).terms(131),
        Case::new("log_softmax", &[(&[5, 14, 131], Normal)], |x| x[0].log_softmax(2)).terms(131),
        Case::new("softmax of a view", &[(&[131, 67], Normal)], |x| x[0].t()?.softmax(1)).terms(131),
        Case::new("layer_norm", &[(&[131, 67], Normal), (&[67], Normal), (&[67], Normal)], |x| {
            x[0].layer_norm(&x[1], Some(&x[2]), 1e-5)
        })
        .terms(131)
        .scale(16.0),
        Case::new("add_rms_norm", &[(&[3, 43, 67], Normal), (&[3, 43, 67], Normal), (&[67], Normal)], |x| {
            let (y, sum) = x[0].add_rms_norm(&x[1], &x[2], 1e-5)?;
            y.add(&sum)
        })
        .terms(131)
        .scale(16.0),
        Case::new("gather", &[(&[9, 65, 17], Normal)], |x| {
            let ids: Vec<u32> = (0..9 * 40 * 17).map(|i| (i * i % 65) as u32).collect();
            x[0].gather(&Tensor::from_vec(ids, (9, 40, 17), &x[0].device())?, 1)
        })
        .terms(8),
        Case::new("rotary", &[(&[3, 4, 33, 16], Normal)], |x| {
            let wide = if x[0].dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let (cos, sin) = Tensor::rotary_tables(0, 33, 16, 10_000.0, &x[0].device())?;
            x[0].rotary(&cos.to_dtype(wide)?, &sin.to_dtype(wide)?, RotaryPairs::Halves)
        }),
    ];
    let dropped = AttentionOptions { causal: true, dropout: 0.2, ..Default::default() };
    for options in [dropped, AttentionOptions::default()] {
        let f = move |x: &[Tensor]| {
            let heads = |x: &Tensor| x.reshape((7, 33, 2, 16))?.transpose(1, 2);
            let parts = x[0].split(&[32, 32, 32], 2)?;
            let (q, k, v) = (heads(&parts[0])?, heads(&parts[1])?, heads(&parts[2])?);
            seeded(&x[0].device(), 5, || q.attention(&k, &v, &options))
        };
        let name = format!("attention, dropout {}", options.dropout);
        cases.push(Case::new(name, &[(&[7, 33, 96], Normal)], f).terms(132).scale(1.0));
    }
    check(cases, &[DType::F32]);
}

#[test]
fn products() {
    let mut cases = cases::matmul();
    cases.extend(cases::linear());
    let tall = |x: &[Tensor]| x[0].linear_activation(&x[1].t()?, Some(&x[2]), Activation::GeluErf);
    cases.extend([
        // The weight's rows lie along the sum, which is cut: the activation has to wait.
        Case::new(
            "activation of a cut sum",
            &[(&[5, 301], Normal), (&[301, 67], Normal), (&[67], Normal)],
            tall,
        )
        .terms(4 * 301)
        .scale(16.0),
        Case::new(
            "residual of a cut sum",
            &[(&[5, 301], Normal), (&[301, 67], Normal), (&[5, 67], Normal)],
            |x| x[0].linear_residual(&x[1].t()?, None, &x[2]),
        )
        .terms(4 * 301),
        Case::new("a wide result", &[(&[67, 9], Normal), (&[1031, 9], Normal), (&[1031], Normal)], |x| {
            x[0].linear_activation(&x[1], Some(&x[2]), Activation::Gelu)
        })
        .terms(4 * 1031)
        .scale(4.0),
    ]);
    check(cases, &[DType::F32]);
}

#[test]
fn tables_and_heads() {
    let mut cases = Vec::new();
    for n in [40, 300] {
        let ids = move |i: usize| (i * i % 301) as u32;
        let embedding = move |x: &[Tensor]| {
            x[0].embedding(&Tensor::new(&(0..n).map(ids).collect::<Vec<_>>(), &x[0].device())?)
        };
        cases.push(Case::new(format!("embedding of {n}"), &[(&[301, 33], Normal)], embedding).terms(n));
        let tied = move |x: &[Tensor]| embedding(x)?.linear(&x[0], None);
        cases.push(
            Case::new(format!("tied weights, {n}"), &[(&[301, 33], Normal)], tied).terms(4 * n).scale(32.0),
        );
    }
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
        for in_place in [false, true] {
            let f = move |x: &[Tensor]| {
                let targets: Vec<u32> = (0..67).map(|i| i * 3 % 131).collect();
                let targets = Tensor::new(&targets, &x[0].device())?;
                let options = CrossEntropyOptions { ignore_index: Some(9), reduction, scale: 1.0 };
                let logits = x[0].affine(2.0, 0.0)?;
                if in_place {
                    logits.into_cross_entropy(&targets, options)
                } else {
                    logits.cross_entropy_with(&targets, options)
                }
            };
            let name = format!("cross_entropy, {reduction:?}, in place {in_place}");
            cases.push(Case::new(name, &[(&[67, 131], Normal)], f).terms(67 * 131));
        }
    }
    let f = |x: &[Tensor]| {
        let targets: Vec<u32> = (0..67).map(|i| i * 3 % 301).collect();
        let targets = Tensor::new(&targets, &x[0].device())?;
        x[0].linear_cross_entropy(&x[1], &targets, CrossEntropyOptions::default(), Some(40))
    };
    let inputs: [(&[usize], cases::Range); 2] = [(&[67, 33], Normal), (&[301, 33], Normal)];
    cases.push(Case::new("linear_cross_entropy", &inputs, f).terms(67 * 301));
    check(cases, &[DType::F32]);
}

/// The optimizer's memory is cut as well, and a parameter has the same bits however that is done. A norm adds up what lies
/// side by side, which is not the same then.
#[test]
fn optimizer_steps() {
    let Some(device) = device() else { return };
    let run = |device: &Device, clipped: bool| {
        let shapes: [&[usize]; 4] = [&[7], &[67, 301], &[131], &[40, 41]];
        let var =
            |(i, shape): (usize, &&[usize])| Var::new(&place(&normal(i as u64, shape), DType::F32, device)?);
        let vars: Vec<Var> = shapes.iter().enumerate().map(var).collect::<Result<_>>()?;
        let mut optimizer = AdamW::new(vars.clone(), AdamWConfig::default())?;
        let mut norm = 0.0f64;
        for step in 0..3 {
            optimizer.zero_grad();
            // The last step leaves the last two without a gradient, and so their arena in parts.
            for var in &vars[..if step == 2 { 2 } else { 4 }] {
                var.sqr()?.sum_all()?.backward()?;
            }
            if clipped {
                norm = optimizer.step_clipped(0.5)?.to_scalar()?;
            } else {
                optimizer.step()?;
            }
        }
        Ok::<_, Error>((vars, norm))
    };
    let both = |clipped| (run(device, clipped).unwrap(), run(&devices()[1], clipped).unwrap());
    let ((there, _), (whole, _)) = both(false);
    for (a, b) in there.iter().zip(&whole) {
        assert_eq!(bits(a), bits(b));
    }
    let ((there, norm), (whole, whole_norm)) = both(true);
    assert!((norm - whole_norm).abs() < 1e-6 * whole_norm, "{norm} and {whole_norm}");
    for (a, b) in there.iter().zip(&whole) {
        assert!(difference(&a.to_vec::<f64>().unwrap(), &b.to_vec::<f64>().unwrap()) < 1e-6);
    }
}

#[test]
fn what_no_window_shows_is_refused() {
    let Some(device) = device() else { return };
    // One row is what a softmax needs at once.
    let row = Tensor::zeros((1, 9001), DType::F32, device).unwrap();
    let error = row.softmax(1).unwrap_err();
    assert!(matches!(&error, Error::TooLarge { unit: "bytes in one binding", limit: 16384, .. }), "{error}");
    assert_eq!(row.add(&row).unwrap().to_vec::<f32>().unwrap(), vec![0.0; 9001]);
}

/// GPT-2's token embedding, 147 MiB, looked up and multiplied by, on bindings of at most 128 MiB.
/// `cargo test --release --test suite -- --ignored gpt2_sized`
#[test]
#[ignore = "takes a minute"]
fn gpt2_sized_embedding_and_head() {
    let Some(there) = another_wgpu(|selector| selector.binding_bytes(128 << 20)) else { return };
    let (vocabulary, channels, tokens) = (50_257, 768, 64);
    let mut rng = crate::harness::Rng::new(1);
    let values: Vec<f32> = (0..vocabulary * channels).map(|_| 0.02 * rng.normal() as f32).collect();
    let ids: Vec<u32> = (0..tokens).map(|_| rng.below(vocabulary) as u32).collect();
    let run = |device: &Device| {
        let table = Var::new(&Tensor::from_slice(&values, (vocabulary, channels), device)?)?;
        let ids = Tensor::new(&ids, device)?;
        let x = table.embedding(&ids)?;
        let loss = x.linear(&table, None)?.into_cross_entropy(&ids, CrossEntropyOptions::default())?;
        loss.backward()?;
        let mut optimizer = AdamW::new(vec![table.clone()], AdamWConfig::default())?;
        let norm = optimizer.step_clipped(1.0)?.to_scalar::<f64>()?;
        let grad: Vec<f64> = table.grad().expect("the table took part").to_vec()?;
        Ok::<_, Error>((loss.to_scalar::<f64>()?, norm, grad, table.to_vec::<f64>()?))
    };
    let (here, there) = (run(&Device::Cpu).unwrap(), run(&there).unwrap());
    println!("loss {} and {}, norm {} and {}", here.0, there.0, here.1, there.1);
    assert!((here.0 - there.0).abs() < 1e-4 && (here.1 - there.1).abs() < 1e-4 * here.1);
    assert!(difference(&here.2, &there.2) < 1e-5 * magnitude(&here.2));
    assert!(difference(&here.3, &there.3) < 1e-5);
}
