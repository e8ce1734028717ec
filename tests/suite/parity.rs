//! Every device and dtype against the f64 CPU, forward and backward.
//!
//! All computations start from the same values: those of the dtype, widened for the reference.
//!
//! **f32** may differ by `2^-24 (16 + 2 sqrt(n)) max|reference|`, n being the terms of the longest sum:
//! summing n numbers of one size one after the other errs by about `0.1 2^-24 sqrt(n)` of the largest
//! result, so that the factor 2 covers the largest of thousands of results, and 16 the elementary
//! functions (WGSL allows `exp` alone an error of 3 + 2 |x| units).
//!
//! **f16 and bf16** follow FlashAttention's tests: the error is at most twice (backward: three times)
//! that of the naive computation, which rounds after every elementary op. An op that is elementary itself
//! is held against one rounding of its largest result, or as many as its parts need; and so is a naive
//! computation that is more exact than that by luck.
//!
//! Where results are what cancellation left of much larger terms, a case says how large they were.

use tilewright::autograd::backward;
use tilewright::{DType, Device, Result, Tensor, Var, no_grad};

use crate::cases::{self, Case, Function};
use crate::harness::{Rng, devices, difference, every_device, label, magnitude, place};

pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Where a dtype is worth its time: an adapter with f16 has kernels for it, and one without widens it as
/// every adapter does bf16.
fn devices_for(dtype: DType) -> impl Iterator<Item = &'static Device> {
    let skip = match dtype {
        DType::BF16 => 1,
        DType::F16 => 2,
        _ => usize::MAX,
    };
    devices().iter().enumerate().filter(move |(i, _)| *i != skip).map(|(_, device)| device)
}

/// Half a unit in the last place of 1.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 2f64.powi(-53),
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        DType::U32 => 0.0,
    }
}

/// An upstream gradient whose values every dtype has: multiples of 1/16 within [-2, 2].
fn upstream(out: &Tensor) -> Result<Tensor> {
    let mut rng = Rng::new(out.elements() as u64);
    let values: Vec<f64> = (0..out.elements()).map(|_| rng.below(65) as f64 / 16.0 - 2.0).collect();
    place(&Tensor::from_vec(values, out.shape(), &Device::Cpu)?, out.dtype(), &out.device())
}

/// The output of `f` and the gradients of its inputs.
pub struct Results {
    dtype: DType,
    out: Vec<f64>,
    grads: Vec<Vec<f64>>,
}

/// How far a case is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Both,
}

fn evaluate(f: &Function, inputs: &[Tensor], dtype: DType, device: &Device, pass: Pass) -> Result<Results> {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::new(&place(x, dtype, device)?)).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tensors)?;
    assert_eq!(&out.device(), device);
    // Ops may take another road when no gradient is wanted, and must arrive at the same bits.
    let alone = no_grad(|| f(&tensors))?.to_vec::<f64>()?;
    let values = out.to_vec::<f64>()?;
    assert_eq!(difference(&alone, &values), 0.0, "with and without recording");
    if pass == Pass::Forward {
        return Ok(Results { dtype: out.dtype(), out: values, grads: Vec::new() });
    }
    backward(&[(&out, upstream(&out)?)])?;
    let grad = |v: &Var| match v.grad() {
        Some(grad) => {
            assert_eq!((grad.shape(), grad.dtype(), &grad.device()), (v.shape(), dtype, device));
            grad.to_vec()
        }
        None => Ok(vec![0.0; v.elements()]),
    };
    Ok(Results { dtype: out.dtype(), out: values, grads: vars.iter().map(grad).collect::<Result<_>>()? })
}

/// What is wrong with the case on the device, if anything.
pub fn compare(
    case: &Case,
    dtype: DType,
    device: &Device,
    expected: &Expected,
    pass: Pass,
) -> Result<Vec<String>> {
    let found = evaluate(&case.f, &expected.inputs, dtype, device, pass)?;
    let mut wrong = Vec::new();
    let mut check =
        |what: &str, found: &[f64], reference: &[f64], naive: Option<&[f64]>, dtype: DType, factor: f64| {
            if found.len() != reference.len() {
                return wrong.push(format!("{what} has {} elements, not {}", found.len(), reference.len()));
            }
            let scale = magnitude(reference).max(case.scale);
            // Every dtype computes in f32.
            let f32_error = unit(DType::F32) * (16.0 + 2.0 * (case.terms as f64).sqrt()) * scale;
            let rounded = case.roundings as f64 * unit(dtype) * scale;
            let allowed = match (expected.dtype, naive) {
                (DType::F32, _) => f32_error,
                (_, Some(naive)) => factor * difference(naive, reference).max(rounded) + f32_error,
                (_, None) => factor * rounded + f32_error,
            };
            let error = difference(found, reference);
            if error.is_nan() || error > allowed {
                let i = (0..found.len())
                    .find(|&i| difference(&found[i..=i], &reference[i..=i]) == error)
                    .unwrap_or(0);
                wrong.push(format!(
                "{what} is off by {error:.2e}, {allowed:.2e} allowed; element {i} is {}, the reference {}",
                found[i], reference[i]
            ));
            }
        };
    let reference = &expected.reference;
    let naive = expected.naive.as_ref();
    check("output", &found.out, &reference.out, naive.map(|n| &n.out[..]), found.dtype, 2.0);
    for (k, grad) in found.grads.iter().enumerate() {
        let naive = naive.map(|n| &n.grads[k][..]);
        check(&format!("gradient {k}"), grad, &reference.grads[k], naive, dtype, 3.0);
    }
    Ok(wrong)
}

/// What every device is held against, for one dtype.
pub struct Expected {
    dtype: DType,
    /// Values of that dtype, in f64.
    inputs: Vec<Tensor>,
    reference: Results,
    naive: Option<Results>,
}

impl Expected {
    pub fn of(case: &Case, dtype: DType) -> Result<Self> {
        let rounded = |x: &Tensor| x.to_dtype(dtype)?.to_dtype(DType::F64);
        let inputs: Vec<Tensor> = case.values().iter().map(rounded).collect::<Result<_>>()?;
        let reference = evaluate(&case.f, &inputs, DType::F64, &Device::Cpu, Pass::Both)?;
        let naive = match &case.naive {
            Some(naive) if dtype != DType::F32 => {
                Some(evaluate(naive, &inputs, dtype, &Device::Cpu, Pass::Both)?)
            }
            _ => None,
        };
        Ok(Expected { dtype, inputs, reference, naive })
    }
}

fn check_all(cases: Vec<Case>) {
    let mut failures = Vec::new();
    for case in &cases {
        for dtype in DTYPES {
            let expected =
                Expected::of(case, dtype).unwrap_or_else(|e| panic!("{}, {dtype}: {e}", case.name));
            for device in devices_for(dtype) {
                let wrong = compare(case, dtype, device, &expected, Pass::Both)
                    .unwrap_or_else(|error| vec![error.to_string()]);
                failures.extend(
                    wrong
                        .into_iter()
                        .map(|what| format!("{}, {dtype}, {}: {what}", case.name, label(device))),
                );
            }
        }
    }
    let some = &failures[..failures.len().min(20)];
    assert!(failures.is_empty(), "{} failures, among them:\n{}", failures.len(), some.join("\n"));
}

cases::test_every_group!();

#[test]
fn naive_twins_compute_the_same() {
    let groups =
        [cases::linear(), cases::norms(), cases::softmax(), cases::cross_entropy(), cases::attention()];
    for case in groups.iter().flatten() {
        let Some(naive) = &case.naive else { continue };
        let inputs = case.values();
        let fused = evaluate(&case.f, &inputs, DType::F64, &Device::Cpu, Pass::Both).unwrap();
        let naive = evaluate(naive, &inputs, DType::F64, &Device::Cpu, Pass::Both).unwrap();
        let error = difference(&fused.out, &naive.out);
        assert!(error <= 1e-11 * magnitude(&naive.out).max(1.0), "{}: {error:.2e}", case.name);
        for (fused, naive) in fused.grads.iter().zip(&naive.grads) {
            let error = difference(fused, naive);
            assert!(error <= 1e-9 * magnitude(naive).max(1.0), "{}: gradient {error:.2e}", case.name);
        }
    }
}

/// Masks and indices have no gradient and no rounding.
#[test]
fn comparisons_and_indices() {
    type Compare = fn(&Tensor, &Tensor) -> Result<Tensor>;
    type Expected = fn(f64, f64) -> bool;
    let compares: [(Compare, Expected); 6] = [
        (Tensor::eq, |a, b| a == b),
        (Tensor::ne, |a, b| a != b),
        (Tensor::lt, |a, b| a < b),
        (Tensor::le, |a, b| a <= b),
        (Tensor::gt, |a, b| a > b),
        (Tensor::ge, |a, b| a >= b),
    ];
    let a: Vec<f64> = (0..65 * 7).map(|i| (i * 7 % 5) as f64 - 2.0).collect();
    let b: Vec<f64> = (0..65).map(|i| (i * 3 % 5) as f64 - 2.0).collect();
    for device in every_device() {
        for dtype in DTYPES {
            let at = |x: &[f64], shape: &[usize]| {
                place(&Tensor::from_slice(x, shape, &Device::Cpu).unwrap(), dtype, device).unwrap()
            };
            let (x, y) = (at(&a, &[7, 65]), at(&b, &[65]));
            for (op, expected) in compares {
                let expected: Vec<u32> = (0..a.len()).map(|i| u32::from(expected(a[i], b[i % 65]))).collect();
                assert_eq!(op(&x, &y).unwrap().to_vec::<u32>().unwrap(), expected, "{device}, {dtype}");
                // Both as views.
                let turned = op(&x.t().unwrap(), &y.unsqueeze(1).unwrap()).unwrap();
                assert_eq!(turned.t().unwrap().to_vec::<u32>().unwrap(), expected, "{device}, {dtype}");
            }
            for dim in 0..2 {
                let (n, outer) = if dim == 0 { (7, 65) } else { (65, 7) };
                let value = |o: usize, i: usize| if dim == 0 { a[i * 65 + o] } else { a[o * 65 + i] };
                let best = |better: fn(f64, f64) -> bool| -> Vec<u32> {
                    let first =
                        |o| (1..n).fold(0, |m, i| if better(value(o, i), value(o, m)) { i } else { m });
                    (0..outer).map(|o| first(o) as u32).collect()
                };
                let found = |t: Result<Tensor>| t.unwrap().to_vec::<u32>().unwrap();
                assert_eq!(found(x.argmax(dim)), best(|a, b| a > b), "{device}, {dtype}, {dim}");
                assert_eq!(found(x.argmin(dim)), best(|a, b| a < b), "{device}, {dtype}, {dim}");
            }
        }
    }
}

/// Masks leave rows of the lowest number there is, or nearly so.
#[test]
fn rows_of_the_lowest_number() {
    for device in every_device() {
        for (rows, cols) in [(1, 1), (3, 7), (5, 64), (2, 65), (3, 130), (2, 1025), (2, 6000)] {
            // The last row has one element that counts.
            let mut x = vec![f32::MIN; rows * cols];
            x[rows * cols - 1] = 0.0;
            let results = |device: &Device| -> Result<Vec<Vec<f64>>> {
                let x = Var::new(&Tensor::from_vec(x.clone(), (rows, cols), device)?)?;
                let labels = Tensor::from_vec(vec![cols as u32 - 1; rows], rows, device)?;
                let loss = x.cross_entropy(&labels)?;
                loss.backward()?;
                let softmax = [x.softmax(1)?, x.log_softmax(1)?.exp()?];
                [&softmax[0], &softmax[1], &loss, &x.grad().expect("it is there")]
                    .map(|y| y.to_vec::<f64>())
                    .into_iter()
                    .collect()
            };
            let (there, here) = (results(device).unwrap(), results(&Device::Cpu).unwrap());
            for (there, here) in there.iter().zip(&here) {
                for (there, here) in there.iter().zip(here) {
                    assert!(
                        (there - here).abs() <= 1e-5 * here.abs(),
                        "{device} {rows} x {cols}: {there} and {here}"
                    );
                }
            }
        }
    }
}

/// Ids are checked on the host. Those that another's commands have changed since reach nothing that they should not.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[test]
fn stray_ids_read_nothing_and_add_nothing() {
    for device in every_device() {
        let x = Var::new(
            &Tensor::from_vec((0..12).map(|i| i as f32).collect::<Vec<_>>(), (4, 3), device).unwrap(),
        )
        .unwrap();
        let ids = Tensor::from_vec(vec![3u32, 0, 2, 1, 1, 2], (2, 3), device).unwrap();
        let strays = [3u32, 4_000_000_000, 2, 4, 1, 2];
        let strays: &[u8] = bytemuck::cast_slice(&strays);
        match device {
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => device.write("test", &ids.wgpu_storage().unwrap(), strays).unwrap(),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                use tilewright::device::cuda::{Binding, Grid, Kernel};
                const COPY: &str =
                    "extern \"C\" __global__ void copy(const u32* from, u32* to, const u32 n) {
                    if (threadIdx.x < n) { to[threadIdx.x] = from[threadIdx.x]; }
                }";
                let (from, to) = (device.upload("test", strays).unwrap(), ids.cuda_storage().unwrap());
                let grid = Grid { blocks: [1, 1, 1], threads: 32, shared: 0 };
                let kernel = Kernel::new("copy", &[COPY], "copy");
                device.launch(&kernel, &[Binding::Read(&from), Binding::Write(&to)], &6u32, grid).unwrap();
            }
            _ => continue,
        }
        let y = x.gather(&ids, 0).unwrap();
        let values = y.to_vec::<f32>().unwrap();
        assert!(values[1].is_nan() && values[3].is_nan(), "{device} {values:?}");
        assert_eq!([values[0], values[2], values[4], values[5]], [9.0, 8.0, 4.0, 8.0], "{device}");
        backward(&[(&y, y.ones_like().unwrap())]).unwrap();
        let grad = x.grad().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(grad, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0], "{device}");
    }
}

/// Constructors and conversions, exactly.
#[test]
fn constants_and_conversions() {
    for device in every_device() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::U32] {
            for shape in [&[][..], &[1], &[3], &[5, 7], &[0], &[2, 0, 3], &[1001], &[131, 257]] {
                let n = shape.iter().product::<usize>();
                let values = |t: Result<Tensor>| t.unwrap().to_vec::<f64>().unwrap();
                assert_eq!(
                    values(Tensor::zeros(shape, dtype, device)),
                    vec![0.0; n],
                    "{device} {dtype} {shape:?}"
                );
                assert_eq!(
                    values(Tensor::ones(shape, dtype, device)),
                    vec![1.0; n],
                    "{device} {dtype} {shape:?}"
                );
                assert_eq!(values(Tensor::full(3.0, shape, dtype, device)), vec![3.0; n], "{device} {dtype}");
                if dtype.is_float() {
                    for value in [-0.0, f64::NEG_INFINITY, 2.5f64.powi(-9)] {
                        let there = Tensor::full(value, shape, dtype, device).unwrap();
                        let here = Tensor::full(value, shape, dtype, &Device::Cpu).unwrap();
                        let bits = |t: &Tensor| {
                            t.to_vec::<f64>().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                        };
                        assert_eq!(bits(&there), bits(&here), "{device} {dtype} {shape:?} {value}");
                    }
                }
                let x: Vec<f64> = (0..n).map(|i| (i % 200) as f64).collect();
                let x = Tensor::from_vec(x, shape, &Device::Cpu).unwrap();
                let there = place(&x, dtype, device).unwrap();
                assert_eq!((there.dtype(), there.dims()), (dtype, shape));
                assert_eq!(values(Ok(there.clone())), values(Ok(x.clone())), "{device} {dtype}");
                for to in [DType::F32, DType::F16, DType::BF16, DType::U32] {
                    assert_eq!(values(there.to_dtype(to)), values(Ok(x.clone())), "{device} {dtype} to {to}");
                }
            }
        }
        // Rounding to nearest even, overflow, subnormals, NaN; truncation and saturation for ids.
        let hard: Vec<f32> = vec![
            1.0,
            1.000_488_3,
            1.001_464_8,
            1.003_906_2,
            1.011_718_8,
            65504.0,
            65519.9,
            65520.0,
            1e9,
            -1e9,
            3e38,
            6e-8,
            2.9e-8,
            3.1e-8,
            1e-5,
            -6.1e-5,
            f32::INFINITY,
            f32::NEG_INFINITY,
            -0.0,
            0.1,
            f32::MAX,
            1e-40,
        ];
        let x = Tensor::new(&hard, device).unwrap();
        for to in [DType::F16, DType::BF16, DType::U32] {
            let found = x.to_dtype(to).unwrap().to_vec::<f64>().unwrap();
            let expected =
                Tensor::new(&hard, &Device::Cpu).unwrap().to_dtype(to).unwrap().to_vec::<f64>().unwrap();
            for i in 0..hard.len() {
                // Devices may flush subnormal f32 to zero.
                let flushed = hard[i].is_subnormal() && found[i] == 0.0;
                assert!(
                    found[i] == expected[i] || flushed,
                    "{device}, {} to {to}: {} for {}",
                    hard[i],
                    found[i],
                    expected[i]
                );
            }
        }
        for to in [DType::F16, DType::BF16] {
            let nan = Tensor::new(&[f32::NAN], device).unwrap().to_dtype(to).unwrap();
            assert!(nan.to_scalar::<f64>().unwrap().is_nan(), "{device} {to}");
        }
    }
    let back = Tensor::arange(3, 8, &Device::Cpu).unwrap().to_vec1::<u32>().unwrap();
    assert_eq!(back, [3, 4, 5, 6, 7]);
    assert_eq!(Tensor::arange(8, 3, &Device::Cpu).unwrap().elements(), 0);
}
