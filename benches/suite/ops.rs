//! The kernels one by one, at the sizes of GPTs.
//!
//! Each iteration ends with reading one element, which on a GPU waits for the work: small cases there
//! measure the round trip too.

use criterion::{Criterion, Throughput};
use tilewright::{AttentionOptions, DType, Result, Tensor, Var};

use crate::{device, wait};

pub fn matmuls(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("matmul");
    let random = |rows: usize, columns: usize, transposed: bool| -> Result<Tensor> {
        let shape = if transposed { (columns, rows) } else { (rows, columns) };
        let t = Tensor::randn(0.0, 1.0, shape, DType::F32, &device)?;
        if transposed { t.t() } else { Ok(t) }
    };
    let cases = [
        ("512", 512, 512, 512, false, false),
        ("1024", 1024, 1024, 1024, false, false),
        ("2048", 2048, 2048, 2048, false, false),
        ("gpt_forward", 1024, 384, 1536, false, false),
        ("gpt_dx", 1024, 1536, 384, false, true),
        ("gpt_dw", 384, 1024, 1536, true, false),
    ];
    for (name, m, k, n, ta, tb) in cases {
        let (a, b) = (random(m, k, ta).unwrap(), random(k, n, tb).unwrap());
        group.throughput(Throughput::Elements((2 * m * k * n) as u64));
        group.bench_function(name, |bencher| bencher.iter(|| wait(&a.matmul(&b).unwrap())));
    }
}

pub fn layer_norms(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("layer_norm");
    let var = |t: Result<Tensor>| Var::new(&t.unwrap()).unwrap();
    let x = var(Tensor::randn(0.0, 1.0, (4096, 768), DType::F32, &device));
    let (w, b) = (var(Tensor::ones(768, DType::F32, &device)), var(Tensor::zeros(768, DType::F32, &device)));
    let dy = Tensor::ones((4096, 768), DType::F32, &device).unwrap();
    group.bench_function("forward", |bencher| {
        bencher.iter(|| wait(&x.detach().layer_norm(&w.detach(), Some(&b.detach()), 1e-5).unwrap()))
    });
    group.bench_function("forward_backward", |bencher| {
        bencher.iter(|| {
            let y = x.layer_norm(&w, Some(&b), 1e-5).unwrap();
            [&x, &w, &b].into_iter().for_each(|v| v.zero_grad());
            tilewright::autograd::backward(&[(&y, dy.clone())]).unwrap();
            [&x, &w, &b].map(|v| wait(&v.grad().unwrap()))
        })
    });
}

pub fn attentions(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("attention");
    let random = || Tensor::randn(0.0, 1.0, (2, 6, 512, 64), DType::F32, &device).unwrap();
    let [q, k, v] = [(); 3].map(|()| Var::new(&random()).unwrap());
    let dy = Tensor::ones((2, 6, 512, 64), DType::F32, &device).unwrap();
    let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
    group.bench_function("forward", |bencher| {
        bencher.iter(|| wait(&q.detach().attention(&k.detach(), &v.detach(), &options).unwrap()))
    });
    group.bench_function("forward_backward", |bencher| {
        bencher.iter(|| {
            let y = q.attention(&k, &v, &options).unwrap();
            [&q, &k, &v].into_iter().for_each(|v| v.zero_grad());
            tilewright::autograd::backward(&[(&y, dy.clone())]).unwrap();
            [&q, &k, &v].map(|v| wait(&v.grad().unwrap()))
        })
    });
}
