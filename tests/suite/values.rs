//! What the ops compute, against plain loops over plain numbers: the reference of [`crate::parity`] is the
//! same code in f64, so that a mistake in what all dtypes and devices share shows here alone.

use tilewright::{D, Device, Result, RotaryPairs, Tensor};

use crate::harness::{difference, magnitude, normal};

fn vec(t: Result<Tensor>) -> Vec<f64> {
    t.unwrap().to_vec().unwrap()
}

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let error = difference(found, expected);
    assert!(error <= 1e-13 * magnitude(expected).max(1.0), "{what}: {error:.1e}");
}

/// The error function by its Taylor series, which converges everywhere.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn elementwise() {
    type Case = (&'static str, fn(&Tensor) -> Result<Tensor>, fn(f64) -> f64);
    let cases: [Case; 21] = [
        ("affine", |x| x.affine(-1.5, 0.25), |x| -1.5 * x + 0.25),
        ("neg", Tensor::neg, |x| -x),
        ("abs", Tensor::abs, f64::abs),
        ("exp", Tensor::exp, f64::exp),
        ("log", |x| x.abs()?.log(), |x| x.abs().ln()),
        ("sin", Tensor::sin, f64::sin),
        ("cos", Tensor::cos, f64::cos),
        ("tanh", Tensor::tanh, f64::tanh),
        ("sqrt", |x| x.abs()?.sqrt(), |x| x.abs().sqrt()),
        ("sqr", Tensor::sqr, |x| x * x),
        ("recip", Tensor::recip, |x| 1.0 / x),
        ("relu", Tensor::relu, |x| x.max(0.0)),
        ("sigmoid", Tensor::sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        ("powf 3", |x| x.powf(3.0), |x| x * x * x),
        ("powf -0.5", |x| x.abs()?.powf(-0.5), |x| 1.0 / x.abs().sqrt()),
        ("clamp", |x| x.clamp(-0.5, 1.25), |x| x.clamp(-0.5, 1.25)),
        ("erf", Tensor::erf, erf),
        ("gelu_erf", Tensor::gelu_erf, |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))),
        ("gelu", Tensor::gelu, |x| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }),
        ("silu", Tensor::silu, |x| x / (1.0 + (-x).exp())),
        ("operators", |x| &(&(x * 3.0)? - 1.0)? / 2.0, |x| (3.0 * x - 1.0) / 2.0),
    ];
    let x = normal(1, &[2, 301]);
    let values = vec(Ok(x.clone()));
    for (name, f, expected) in cases {
        let expected: Vec<f64> = values.iter().map(|&x| expected(x)).collect();
        assert_near(&vec(f(&x)), &expected, name);
    }
    let y = normal(2, &[301]);
    let other = vec(Ok(y.clone()));
    let zip = |f: fn(f64, f64) -> f64| -> Vec<f64> {
        values.iter().enumerate().map(|(i, &x)| f(x, other[i % 301])).collect()
    };
    assert_near(&vec(&x + &y), &zip(|a, b| a + b), "add");
    assert_near(&vec(&x - &y), &zip(|a, b| a - b), "sub");
    assert_near(&vec(&x * &y), &zip(|a, b| a * b), "mul");
    assert_near(&vec(&x / &y), &zip(|a, b| a / b), "div");
    assert_near(&vec(x.maximum(&y)), &zip(f64::max), "maximum");
    assert_near(&vec(x.minimum(&y)), &zip(f64::min), "minimum");
    assert_near(&vec(x.gt(&y).unwrap().where_cond(&x, &y)), &zip(f64::max), "where_cond");
}

#[test]
fn reductions() {
    let x = normal(3, &[3, 5, 4]);
    let values = vec(Ok(x.clone()));
    let at = |a: usize, b: usize, c: usize| values[(a * 5 + b) * 4 + c];
    let over = |f: &dyn Fn(Vec<f64>) -> f64| -> [Vec<f64>; 3] {
        [
            (0..20).map(|i| f((0..3).map(|a| at(a, i / 4, i % 4)).collect())).collect(),
            (0..12).map(|i| f((0..5).map(|b| at(i / 4, b, i % 4)).collect())).collect(),
            (0..15).map(|i| f((0..4).map(|c| at(i / 5, i % 5, c)).collect())).collect(),
        ]
    };
    let sums = over(&|v| v.iter().sum());
    let means = over(&|v| v.iter().sum::<f64>() / v.len() as f64);
    let largest = over(&|v| v.into_iter().fold(f64::NEG_INFINITY, f64::max));
    let smallest = over(&|v| v.into_iter().fold(f64::INFINITY, f64::min));
    for dim in 0..3 {
        assert_near(&vec(x.sum(dim)), &sums[dim], "sum");
        assert_near(&vec(x.mean(dim)), &means[dim], "mean");
        assert_near(&vec(x.max(dim)), &largest[dim], "max");
        assert_near(&vec(x.min(dim)), &smallest[dim], "min");
        let mut dims = vec![3, 5, 4];
        dims[dim] = 1;
        for (kept, expected) in [
            (x.sum_keepdim(dim), &sums),
            (x.mean_keepdim(dim), &means),
            (x.max_keepdim(dim), &largest),
            (x.min_keepdim(dim), &smallest),
        ] {
            let kept = kept.unwrap();
            assert_eq!(kept.dims(), dims);
            assert_near(&vec(Ok(kept)), &expected[dim], "kept");
        }
        dims.remove(dim);
        assert_eq!(x.mean(D::Minus(3 - dim)).unwrap().dims(), dims);
    }
    let total: f64 = values.iter().sum();
    assert_near(&vec(x.sum_all()), &[total], "sum_all");
    assert_near(&vec(x.mean_all()), &[total / 60.0], "mean_all");
    let softmax = vec(x.softmax(1));
    for (i, p) in softmax.iter().enumerate() {
        let (a, c) = (i / 20, i % 4);
        let total: f64 = (0..5).map(|b| at(a, b, c).exp()).sum();
        assert!((p - values[i].exp() / total).abs() < 1e-14);
    }
    assert_near(&vec(x.log_softmax(1).unwrap().exp()), &softmax, "log_softmax");
}

#[test]
fn products() {
    let (a, b) = (normal(4, &[3, 1, 5, 7]), normal(5, &[2, 7, 4]));
    let (x, y) = (vec(Ok(a.clone())), vec(Ok(b.clone())));
    let mut expected = Vec::new();
    for (i, j, m, n) in (0..3 * 2 * 5 * 4).map(|o| (o / 40, o / 20 % 2, o / 4 % 5, o % 4)) {
        expected.push((0..7).map(|k| x[(i * 5 + m) * 7 + k] * y[(j * 7 + k) * 4 + n]).sum());
    }
    let product = a.matmul(&b).unwrap();
    assert_eq!(product.dims(), [3, 2, 5, 4]);
    assert_near(&vec(Ok(product)), &expected, "matmul");

    let (w, bias) = (normal(6, &[4, 7]), normal(7, &[4]));
    let (w_values, bias_values) = (vec(Ok(w.clone())), vec(Ok(bias.clone())));
    let expected: Vec<f64> = (0..15 * 4)
        .map(|o| {
            let (r, n) = (o / 4, o % 4);
            bias_values[n] + (0..7).map(|k| x[r * 7 + k] * w_values[n * 7 + k]).sum::<f64>()
        })
        .collect();
    let linear = a.linear(&w, Some(&bias)).unwrap();
    assert_eq!(linear.dims(), [3, 1, 5, 4]);
    assert_near(&vec(Ok(linear)), &expected, "linear");
}

#[test]
fn joins_and_parts() {
    let (a, b) = (normal(8, &[2, 3]), normal(9, &[2, 2]));
    let (x, y) = (vec(Ok(a.clone())), vec(Ok(b.clone())));
    let rows = [&x[..3], &y[..2], &x[3..], &y[2..]].concat();
    let joined = Tensor::cat(&[&a, &b], 1).unwrap();
    assert_eq!(vec(Ok(joined.clone())), rows);
    assert_eq!(vec(Tensor::cat(&[&a, &a], 0)), [&x[..], &x[..]].concat());
    let stacked = Tensor::stack(&[&a, &a.neg().unwrap()], 2).unwrap();
    assert_eq!(stacked.dims(), [2, 3, 2]);
    assert_eq!(vec(Ok(stacked)), x.iter().flat_map(|&x| [x, -x]).collect::<Vec<_>>());
    let parts = joined.split(&[3, 0, 2], D::Minus1).unwrap();
    assert_eq!((vec(Ok(parts[0].clone())), vec(Ok(parts[2].clone()))), (x.clone(), y));
    assert_eq!(parts[1].dims(), [2, 0]);
    let sizes = |n: usize, of: usize| -> Vec<usize> {
        let whole = normal(10, &[of, 2]);
        whole.chunk(n, 0).unwrap().iter().map(|t| t.dims()[0]).collect()
    };
    assert_eq!(
        (sizes(3, 7), sizes(2, 4), sizes(5, 3), sizes(1, 3)),
        (vec![3, 2, 2], vec![2, 2], vec![1; 3], vec![3])
    );
    assert_eq!(vec(a.get(1)), x[3..]);
}

#[test]
fn lookups() {
    let table = normal(11, &[4, 3]);
    let x = vec(Ok(table.clone()));
    let ids = |v: &[u32]| Tensor::new(v, &Device::Cpu).unwrap();
    let rows = |of: &[usize]| of.iter().flat_map(|&r| x[r * 3..][..3].to_vec()).collect::<Vec<_>>();
    let found = table.embedding(&ids(&[2, 0, 2, 3]).reshape((2, 2)).unwrap()).unwrap();
    assert_eq!((found.dims(), vec(Ok(found.clone()))), (&[2, 2, 3][..], rows(&[2, 0, 2, 3])));
    assert_eq!(vec(table.index_select(&ids(&[1, 1, 3]), 0)), rows(&[1, 1, 3]));
    let columns = table.index_select(&ids(&[2, 0]), 1).unwrap();
    assert_eq!(
        (columns.dims(), vec(columns.t())),
        (
            &[4, 2][..],
            [2, 0].iter().flat_map(|&c| (0..4).map(|r| x[r * 3 + c]).collect::<Vec<_>>()).collect()
        )
    );
    let picked = table.gather(&ids(&[2, 0, 1, 1]).reshape((4, 1)).unwrap(), 1);
    assert_eq!(vec(picked), [x[2], x[3], x[7], x[10]]);
    let picked = table.gather(&ids(&[3, 0, 1]).reshape((1, 3)).unwrap(), 0);
    assert_eq!(vec(picked), [x[9], x[1], x[5]]);
}

#[test]
fn rotations() {
    let x = normal(12, &[2, 5, 6]);
    let values = vec(Ok(x.clone()));
    let (cos, sin) = Tensor::rotary_tables(3, 5, 6, 100.0, &Device::Cpu).unwrap();
    let angle = |t: usize, i: usize| (3 + t) as f64 * 100f64.powf(-(i as f64) / 3.0);
    for (o, (c, s)) in vec(Ok(cos.clone())).iter().zip(vec(Ok(sin.clone()))).enumerate() {
        let angle = angle(o / 3, o % 3);
        assert!((c - angle.cos()).abs() < 1e-6 && (s - angle.sin()).abs() < 1e-6);
    }
    let (cos, sin) = (cos.to_dtype(x.dtype()).unwrap(), sin.to_dtype(x.dtype()).unwrap());
    for pairs in [RotaryPairs::Halves, RotaryPairs::Interleaved] {
        let found = vec(x.rotary(&cos, &sin, pairs));
        for (row, t) in (0..10).map(|row| (row, row % 5)) {
            for i in 0..3 {
                let (p, q) = match pairs {
                    RotaryPairs::Halves => (i, i + 3),
                    RotaryPairs::Interleaved => (2 * i, 2 * i + 1),
                };
                let (a, b) = (values[row * 6 + p], values[row * 6 + q]);
                let (sin, cos) = angle(t, i).sin_cos();
                let expected = [a * cos - b * sin, a * sin + b * cos];
                let near = |x: f64, y: f64| (x - y).abs() < 1e-6;
                assert!(
                    near(found[row * 6 + p], expected[0]) && near(found[row * 6 + q], expected[1]),
                    "{pairs:?}"
                );
            }
        }
    }
}
