//! Mixed precision: f32 gradients of 16-bit parameters, on every device.

use tilewright::autograd::backward;
use tilewright::{DType, Device, Error, Result, Tensor, Var};

use crate::harness::{bits, difference, every_device, label, magnitude, normal, place};

const NARROW: [DType; 2] = [DType::F16, DType::BF16];

fn values(x: &Tensor) -> Vec<f64> {
    x.to_vec().unwrap()
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
