//! What takes more iterations of a loop than llvmpipe runs before it leaves it, without a word (65535): as right as
//! anything else, or refused. Unchecked, as a program has its device: checks keep loops from being unrolled.
#![cfg(feature = "wgpu")]

use tilewright::{AttentionOptions, DType, Device, Error, Result, Tensor, Var, autograd};

use crate::harness::{Rng, another_wgpu, difference, magnitude};

type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Result and gradients of `f` of normal values.
fn run(device: &Device, shapes: &[&[usize]], f: Function) -> Result<Vec<Vec<f64>>> {
    let mut rng = Rng::named("loops");
    let mut normal = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
        Tensor::from_slice(&values, shape, device)
    };
    let vars = shapes.iter().map(|shape| Var::new(&normal(shape)?)).collect::<Result<Vec<Var>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = f(&tensors)?;
    let dy = normal(y.dims())?;
    autograd::backward(&[(&y, dy)])?;
    let grads = vars.iter().map(|var| var.grad().expect("all take part").to_vec::<f64>());
    [y.to_vec::<f64>()].into_iter().chain(grads).collect()
}

fn check(name: &str, shapes: &[&[usize]], f: Function) {
    let Some(device) = another_wgpu(|selector| selector) else { return };
    let expected = run(&Device::Cpu, shapes, f).unwrap();
    let found = run(&device, shapes, f).unwrap_or_else(|error| panic!("{name}: {error}"));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let (off, largest) = (difference(found, expected), magnitude(expected));
        assert!(off <= 1e-4 * largest, "{name}, result {i}: off by {off:.1e} of {largest:.1e}");
    }
}

fn ids(n: usize, below: usize, device: &Device) -> Result<Tensor> {
    Tensor::from_vec((0..n).map(|i| (i * 7919 % below) as u32).collect::<Vec<_>>(), n, device)
}

#[test]
fn long_sums_of_products() {
    check("matmul", &[&[3, 270_001], &[270_001, 5]], &|x| x[0].matmul(&x[1]));
    check("linear", &[&[270_001, 6], &[5, 6], &[5]], &|x| x[0].linear(&x[1], Some(&x[2])));
}

#[test]
fn many_tokens() {
    check("embedding", &[&[16, 4]], &|x| x[0].embedding(&ids(70_001, 16, &x[0].device())?));
}

#[test]
fn long_rows() {
    const LONG: usize = 700_001;
    check("softmax", &[&[1, LONG]], &|x| x[0].softmax(1));
    check("log softmax", &[&[1, LONG]], &|x| x[0].log_softmax(1));
    check("layer norm", &[&[2, LONG], &[LONG], &[LONG]], &|x| x[0].layer_norm(&x[1], Some(&x[2]), 1e-5));
    check("cross entropy", &[&[2, LONG]], &|x| x[0].cross_entropy(&ids(2, LONG, &x[0].device())?));
    check("sum", &[&[LONG, 2]], &|x| x[0].sum(0)?.add(&x[0].t()?.sum(1)?));
}

#[test]
fn many_keys() {
    let f: Function = &|x| x[0].attention(&x[1], &x[2], &AttentionOptions::default());
    check("attention", &[&[1, 1, 20, 64], &[1, 1, 66_001, 64], &[1, 1, 66_001, 64]], f);
    check("attention", &[&[1, 1, 20, 16], &[1, 1, 140_001, 16], &[1, 1, 140_001, 16]], f);
    check("attention", &[&[1, 2, 40_001, 16], &[1, 1, 9, 16], &[1, 1, 9, 16]], f);
}

#[test]
fn long_tables() {
    let f: Function = &|x| x[0].gather(&ids(40, 70_001, &x[0].device())?.reshape((40, 1))?, 0);
    check("gather", &[&[70_001, 1]], f);
}

#[test]
fn more_than_a_software_adapter_can_do_is_refused() {
    let Some(device) = another_wgpu(|selector| selector) else { return };
    let zeros = |rows: usize| Tensor::zeros((1, 1, rows, 8), DType::F32, &device).unwrap();
    let (few, many) = (zeros(20), zeros(600_000));
    let results = [
        (few.attention(&many, &many, &AttentionOptions::default()), "keys"),
        (many.argmax(2), "elements along the dimension"),
    ];
    let software = matches!(&device, Device::Wgpu(wgpu) if wgpu.is_software());
    for (result, what) in results {
        match result {
            Err(Error::TooLarge { unit, .. }) if software => assert_eq!(unit, what),
            result => assert!(!software && result.is_ok(), "{what}: {result:?}"),
        }
    }
}
