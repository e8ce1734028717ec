//! The kernels one by one, at the sizes of GPTs.
//!
//! Each iteration ends with reading one element, which on a GPU waits for the work: small cases there
//! measure the round trip too.

use criterion::{Criterion, Throughput};
use tilewright::optim::{AdamW, AdamWConfig};
use tilewright::{Activation, AttentionOptions, DType, Result, RotaryPairs, Tensor, Var};

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

/// `forward`, and `forward_backward` with the gradient of every input, of an op on random inputs of these
/// shapes. The throughput counts the inputs' bytes once: what a kernel must at least read.
fn op(criterion: &mut Criterion, name: &str, shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let device = device();
    let random = |&shape: &&[usize]| Tensor::randn(0.0, 1.0, shape, DType::F32, &device).unwrap();
    let inputs: Vec<Tensor> = shapes.iter().map(random).collect();
    let vars: Vec<Var> = inputs.iter().map(|t| Var::new(t).unwrap()).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(inputs.iter().map(|t| 4 * t.elements() as u64).sum()));
    group.bench_function("forward", |bencher| bencher.iter(|| wait(&f(&inputs).unwrap())));
    // Random as well: some hardware moves constant data faster.
    let dy = random(&f(&inputs).unwrap().dims());
    group.bench_function("forward_backward", |bencher| {
        bencher.iter(|| {
            let y = f(&tracked).unwrap();
            vars.iter().for_each(|v| v.zero_grad());
            tilewright::autograd::backward(&[(&y, dy.clone())]).unwrap();
            for v in &vars {
                wait(&v.grad().unwrap());
            }
        })
    });
}

pub fn fused(criterion: &mut Criterion) {
    const ROWS: usize = 4096;
    const C: usize = 768;
    let (x, c) = (&[ROWS, C][..], &[C][..]);
    op(criterion, "layer_norm", &[x, c, c], |x| x[0].layer_norm(&x[1], Some(&x[2]), 1e-5));
    op(criterion, "add_layer_norm", &[x, x, c, c], |x| {
        let (y, sum) = x[0].add_layer_norm(&x[1], &x[2], Some(&x[3]), 1e-5)?;
        y.add(&sum)
    });
    op(criterion, "dropout_add_layer_norm", &[x, x, c, c], |x| {
        let (y, sum) = x[0].dropout_add_layer_norm(0.1, &x[1], &x[2], Some(&x[3]), 1e-5)?;
        y.add(&sum)
    });
    op(criterion, "rms_norm", &[x, c], |x| x[0].rms_norm(&x[1], 1e-5));
    let heads = &[2, 6, 512, 64][..];
    let causal = AttentionOptions { causal: true, ..AttentionOptions::default() };
    op(criterion, "attention", &[heads; 3], |x| x[0].attention(&x[1], &x[2], &causal));
    let (rows, w, b) = (&[1024, 384][..], &[1536, 384][..], &[1536][..]);
    op(criterion, "linear_gelu", &[rows, w, b], |x| {
        x[0].linear_activation(&x[1], Some(&x[2]), Activation::Gelu)
    });
    op(criterion, "linear_residual", &[rows, &[384, 384], &[384], rows], |x| {
        x[0].linear_residual(&x[1], Some(&x[2]), &x[3])
    });
}

pub fn losses_and_tables(criterion: &mut Criterion) {
    let device = device();
    let ids = |n: usize, v: usize| {
        let ids: Vec<u32> = (0..n).map(|i| (i * 7919 % v) as u32).collect();
        Tensor::from_vec(ids, n, &device).unwrap()
    };
    const V: usize = 50257;
    let (targets, tokens) = (ids(64, V), ids(4096, V));
    op(criterion, "cross_entropy", &[&[64, V]], |x| x[0].cross_entropy(&targets));
    op(criterion, "embedding", &[&[V, 64]], |x| x[0].embedding(&tokens));
    op(criterion, "gather", &[&[V, 64]], |x| x[0].index_select(&tokens, 0));
}

pub fn elementwise(criterion: &mut Criterion) {
    let device = device();
    let (x, row) = (&[4096, 768][..], &[768][..]);
    op(criterion, "copy_transposed", &[x], |x| x[0].t()?.copy());
    op(criterion, "cat", &[x, x], |x| Tensor::cat(x, 1));
    op(criterion, "add", &[x, x], |x| x[0].add(&x[1]));
    op(criterion, "add_broadcast", &[x, row], |x| x[0].add(&x[1]));
    op(criterion, "gelu", &[x], |x| x[0].gelu());
    op(criterion, "silu", &[x], |x| x[0].silu());
    op(criterion, "dropout", &[x], |x| x[0].dropout(0.1));
    op(criterion, "softmax", &[x], |x| x[0].softmax(1));
    op(criterion, "sum_rows", &[x], |x| x[0].sum(1));
    op(criterion, "sum_columns", &[x], |x| x[0].sum(0));
    let mut group = criterion.benchmark_group("full");
    group.throughput(Throughput::Bytes(4 * 4096 * 768));
    for (name, value) in [("zeros", 0.0), ("ones", 1.0)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| wait(&Tensor::full(value, x, DType::F32, &device).unwrap()))
        });
    }
    group.finish();
    let (cos, sin) = Tensor::rotary_tables(0, 512, 64, 1e4, &device).unwrap();
    op(criterion, "rotary", &[&[2, 6, 512, 64]], |x| x[0].rotary(&cos, &sin, RotaryPairs::Halves));
}

pub fn adamw(criterion: &mut Criterion) {
    let device = device();
    // GPT_CHAR's matrices: 10.6 million parameters.
    let shapes = [[1152, 384], [384, 384], [1536, 384], [384, 1536]];
    let var = |&shape: &[usize; 2]| {
        let var = Var::new(&Tensor::randn(0.0, 0.02, shape, DType::F32, &device)?)?;
        var.mul(&var)?.sum_all()?.backward()?;
        Ok(var)
    };
    let mut group = criterion.benchmark_group("adamw");
    let vars: Vec<Var> = (0..6).flat_map(|_| shapes.iter().map(var)).collect::<Result<_>>().unwrap();
    let elements: usize = vars.iter().map(|v| v.elements()).sum();
    // Reads parameter, gradient and two moments, writes parameter and moments.
    group.throughput(Throughput::Bytes(7 * 4 * elements as u64));
    let first = vars[0].clone();
    let mut optimizer = AdamW::new(vars, AdamWConfig::default()).unwrap();
    group.bench_function("step_clipped", |bencher| {
        bencher.iter(|| {
            optimizer.step_clipped(1.0).unwrap();
            wait(&first)
        })
    });
}

/// Host memory on its way: tokens of a step, and weights.
pub fn uploads(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("upload");
    for (name, kib) in [("16KiB", 16), ("256KiB", 256), ("64MiB", 64 << 10)] {
        let values = vec![1.0f32; kib << 8];
        let n = values.len();
        group.throughput(Throughput::Bytes((kib << 10) as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| wait(&Tensor::from_slice(&values, n, &device).unwrap()));
        });
    }
}
