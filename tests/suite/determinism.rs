//! The same inputs twice give the same bits, on every device.

use tilewright::autograd::backward;
use tilewright::{AttentionOptions, DType, Device, Result, Tensor, Var};

use crate::harness::{bits, every_device, normal, place, seeded};

/// The bits of the output and of all gradients of `f` at normal inputs.
fn run(
    device: &Device,
    shapes: &[&[usize]],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Vec<u64>>> {
    let vars = (shapes.iter().enumerate())
        .map(|(i, shape)| Var::new(&place(&normal(i as u64, shape), DType::F32, device)?))
        .collect::<Result<Vec<_>>>()?;
    let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&inputs)?;
    let upstream = place(&normal(99, out.dims()), DType::F32, device)?;
    backward(&[(&out, upstream)])?;
    let mut all = vec![bits(&out)];
    all.extend(vars.iter().filter_map(Var::grad).map(|g| bits(&g)));
    Ok(all)
}

#[test]
fn the_same_bits_run_after_run() {
    type Function = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;
    let ids: Vec<u32> = (0..600).map(|i| i * i % 7).collect();
    let attention = |dropout| -> Function {
        let options = AttentionOptions { causal: true, dropout, ..Default::default() };
        Box::new(move |x| seeded(&x[0].device(), 1, || x[0].attention(&x[1], &x[2], &options)))
    };
    // Many workgroups or tasks each, so that their order has a chance to differ.
    let cases: Vec<(&str, Vec<&[usize]>, Function)> = vec![
        ("matmul", vec![&[129, 700], &[700, 65]], Box::new(|x| x[0].matmul(&x[1]))),
        ("linear", vec![&[301, 64], &[33, 64], &[33]], Box::new(|x| x[0].linear(&x[1], Some(&x[2])))),
        (
            "layer_norm",
            vec![&[1030, 65], &[65], &[65]],
            Box::new(|x| x[0].layer_norm(&x[1], Some(&x[2]), 1e-5)),
        ),
        ("rms_norm", vec![&[1030, 65], &[65]], Box::new(|x| x[0].rms_norm(&x[1], 1e-5))),
        ("softmax", vec![&[130, 1030]], Box::new(|x| x[0].softmax(1))),
        ("sum", vec![&[300, 200]], Box::new(|x| x[0].sum_all())),
        ("bias", vec![&[3000, 7], &[7]], Box::new(|x| x[0].add(&x[1]))),
        ("embedding", vec![&[7, 65]], Box::new(move |x| x[0].embedding(&Tensor::new(&ids, &x[0].device())?))),
        (
            "gather",
            vec![&[7, 65]],
            Box::new(|x| {
                let all: Vec<u32> = (0..300 * 65).map(|i| i * i % 7).collect();
                x[0].gather(&Tensor::from_vec(all, (300, 65), &x[0].device())?, 0)
            }),
        ),
        (
            "cross_entropy",
            vec![&[300, 65]],
            Box::new(|x| x[0].cross_entropy(&Tensor::zeros(300, DType::U32, &x[0].device())?)),
        ),
        ("attention", vec![&[2, 4, 130, 16], &[2, 2, 130, 16], &[2, 2, 130, 16]], attention(0.0)),
        (
            "attention of a few queries",
            vec![&[2, 4, 3, 16], &[2, 2, 601, 16], &[2, 2, 601, 16]],
            attention(0.0),
        ),
        ("attention with dropout", vec![&[2, 4, 65, 16], &[2, 2, 65, 16], &[2, 2, 65, 16]], attention(0.3)),
        ("dropout", vec![&[300, 65]], Box::new(|x| seeded(&x[0].device(), 2, || x[0].dropout(0.5)))),
    ];
    for device in every_device() {
        for (name, shapes, f) in &cases {
            let first = run(device, shapes, f).unwrap_or_else(|e| panic!("{name} on {device}: {e}"));
            for _ in 0..3 {
                assert_eq!(run(device, shapes, f).unwrap(), first, "{name} on {device}");
            }
        }
    }
}
