//! Every op's CUDA kernels, on the simulator with all its checks and on a GPU where there is one, against
//! the f64 CPU.

use std::io::Write;

use tilewright::{DType, Device};
#[cfg(feature = "cuda")]
use tilewright::{Result, Tensor};

use crate::cases::{self, Case};
#[cfg(feature = "cuda-sim")]
use crate::harness::simulated;
#[cfg(feature = "cuda")]
use crate::harness::{Rng, difference, normal, place};
use crate::harness::{cuda_devices, label};
use crate::parity::{DTYPES, Expected, Pass, compare};

/// Runs the cases, forward and backward.
fn check_all(cases: Vec<Case>) {
    check(&cases, &DTYPES, cuda_devices());
}

fn check(cases: &[Case], dtypes: &[DType], devices: &[Device]) {
    let mut runs = 0;
    let mut failures = Vec::new();
    for case in cases {
        for &dtype in dtypes {
            let expected =
                Expected::of(case, dtype).unwrap_or_else(|e| panic!("{}, {dtype}: {e}", case.name));
            for device in devices {
                let wrong = compare(case, dtype, device, &expected, Pass::Both)
                    .unwrap_or_else(|error| vec![error.to_string()]);
                failures.extend(
                    wrong
                        .into_iter()
                        .map(|what| format!("{}, {dtype}, {}: {what}", case.name, label(device))),
                );
                runs += 1;
            }
        }
    }
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "CUDA, {name}: {runs} runs forward and backward");
    let some = &failures[..failures.len().min(12)];
    assert!(failures.is_empty(), "{} failures, among them:\n{}", failures.len(), some.join("\n"));
}

cases::test_every_group!();

/// Memory that starts inside a line of 16 bytes gives what lines give: tensors may lie over any slice of a buffer.
#[cfg(feature = "cuda")]
#[test]
fn slices_start_anywhere() {
    use half::bf16;
    use tilewright::{AttentionOptions, Error};
    for device in cuda_devices() {
        let Device::Cuda(cuda) = device else { unreachable!() };
        // The same values so many elements behind the start of a buffer.
        let shifted = |x: &Tensor, by: usize| -> Tensor {
            let size = x.dtype().size();
            let bytes = match x.dtype() {
                DType::F32 => bytemuck::cast_slice(&x.to_vec::<f32>().unwrap()).to_vec(),
                _ => bytemuck::cast_slice(&x.to_vec::<bf16>().unwrap()).to_vec(),
            };
            let buffer = cuda.upload("test", &[vec![0xff; by * size], bytes].concat()).unwrap();
            let slice = buffer.slice(by * size, buffer.bytes() - by * size).unwrap();
            Tensor::from_cuda(cuda, slice, x.shape(), x.dtype()).unwrap()
        };
        let causal = AttentionOptions { causal: true, ..Default::default() };
        type Op<'a> = &'a dyn Fn(&Tensor, &Tensor) -> Result<Tensor>;
        let ops: [(&str, Op); 10] = [
            ("matmul", &|x, y| x.matmul(&y.transpose(2, 3)?)),
            ("matmul of turned", &|x, y| x.transpose(2, 3)?.matmul(y)),
            ("copy", &|x, _| x.copy()),
            ("copy of a part", &|x, _| x.narrow(2, 8, 16)?.copy()),
            ("to_dtype", &|x, _| x.to_dtype(if x.dtype() == DType::F32 { DType::BF16 } else { DType::F32 })),
            ("assign", &|x, y| {
                x.copy().and_then(|to| to.narrow(2, 8, 16)?.assign(&y.narrow(2, 8, 16)?).map(|()| to))
            }),
            ("add", &|x, y| x.narrow(2, 8, 16)?.add(&y.narrow(2, 0, 16)?)),
            ("softmax", &|x, _| x.softmax(3)),
            ("sum", &|x, _| x.sum(3)),
            ("attention", &|x, y| x.attention(y, y, &causal)),
        ];
        for dtype in [DType::F32, DType::BF16] {
            let [x, y] = [1, 2].map(|seed| place(&normal(seed, &[1, 2, 40, 64]), dtype, device).unwrap());
            for by in [1, 2, 3, 8] {
                let (own_x, own_y) = (shifted(&x, by), shifted(&y, by + 1));
                for (name, op) in ops {
                    let [expected, found] = [op(&x, &y), op(&own_x, &own_y)].map(|result| {
                        result.unwrap_or_else(|error| panic!("{name}, {dtype}, {by} behind: {error}"))
                    });
                    let [expected, found] = [expected, found].map(|x| x.to_vec::<f64>().unwrap());
                    // Sums may be added up in another order.
                    let largest = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
                    let unit = if dtype == DType::F32 { 2f64.powi(-20) } else { 2f64.powi(-8) };
                    let wrong = difference(&expected, &found);
                    let device = label(device);
                    assert!(wrong <= unit * largest, "{name}, {dtype}, {by} behind, {device}: {wrong:e}");
                }
            }
        }
        // Inside an element there is no tensor.
        let buffer = cuda.upload("test", &[0; 16]).unwrap();
        for (start, dtype) in [(1, DType::BF16), (2, DType::F32), (2, DType::U32), (3, DType::F16)] {
            let slice = buffer.slice(start, 8).unwrap();
            let error = Tensor::from_cuda(cuda, slice, 1, dtype).unwrap_err();
            assert!(matches!(error, Error::Argument { argument: "buffer", .. }), "{error:?}");
        }
    }
}

/// What is uploaded arrives as it was, however far behind the device is. On a GPU it waits in pinned blocks of 4 MiB, of which
/// there are eight at most: so many bytes, and then so many small pieces, have each block filled again, which must
/// wait until the device has read it. Else bytes of one place arrive at another.
#[cfg(feature = "cuda")]
#[test]
fn uploads_wait_their_turn() {
    for device in cuda_devices() {
        let Device::Cuda(cuda) = device else { unreachable!() };
        // On a GPU, milliseconds for each product.
        let (products, side, most) =
            if cuda.is_simulated() { (2, 32, 64 << 10) } else { (5, 4096, 40 << 20) };
        let mut rng = Rng::new(1);
        let random = |bytes: usize| -> Vec<u8> { (0..bytes).map(|_| rng.next() as u8).collect() };
        // The last piece of the large one is a single byte.
        let sizes = std::iter::once(most + 1).chain((1..=20).map(|i| 300 * i));
        let sent: Vec<Vec<u8>> = sizes.map(random).collect();
        let x = Tensor::full(0.5, (side, side), DType::F32, device).unwrap();
        for _ in 0..products {
            x.matmul(&x).unwrap();
        }
        let buffers: Vec<_> = sent.iter().map(|bytes| cuda.upload("test", bytes).unwrap()).collect();
        for (i, (bytes, buffer)) in sent.iter().zip(&buffers).enumerate() {
            let found = cuda.download(buffer).unwrap();
            let wrong = found.iter().zip(bytes).position(|(found, sent)| found != sent);
            assert_eq!((found.len(), wrong), (bytes.len(), None), "upload {i}, {}", label(device));
        }
    }
}

/// A few queries of many keys: whatever the number of query heads, blocks enough for the device, and each key and value
/// is read by one of them.
#[cfg(feature = "cuda-sim")]
#[test]
fn text_generation_reads_keys_and_values_once() {
    use tilewright::AttentionOptions;
    use tilewright::device::cuda::sim::Architecture;
    const MULTIPROCESSORS: u32 = 6;
    let Some(device) = simulated(Architecture::Sm80, MULTIPROCESSORS) else { return };
    let Device::Cuda(cuda) = &device else { unreachable!() };
    for (dtype, heads, queries) in
        [(DType::BF16, 2, 1), (DType::F16, 8, 2), (DType::BF16, 16, 7), (DType::F32, 8, 2)]
    {
        let random = |shape: &[usize]| place(&normal(1, shape), dtype, &device).unwrap();
        let [q, k, v] =
            [(heads, queries), (2, 3001), (2, 3001)].map(|(heads, len)| random(&[1, heads, len, 64]));
        let causal = AttentionOptions { causal: true, ..Default::default() };
        q.attention(&k, &v, &causal).unwrap();
        let counters = cuda.simulator().unwrap().launches();
        let forward = counters.iter().find(|counters| counters.kernel == "forward").unwrap();
        assert!(counters.iter().any(|counters| counters.kernel == "combine"), "{dtype}, {heads} heads");
        let blocks: u32 = forward.shape.grid.iter().product();
        assert!(blocks > MULTIPROCESSORS, "{dtype}, {heads} heads: {blocks} blocks");
        let fewest = ((q.elements() + 2 * k.elements()) * dtype.size()).div_ceil(32) as f64;
        let ratio = forward.global_loads.moved as f64 / fewest;
        assert!(ratio <= 1.05, "{dtype}, {heads} heads: {ratio:.3} of the fewest sectors");
    }
}

/// Turing has no asynchronous copies, no bf16 on its tensor cores, smaller `mma` and less shared memory: what depends
/// on that runs as on a T4.
#[cfg(feature = "cuda-sim")]
#[test]
fn turing() {
    use tilewright::device::cuda::sim::Architecture;
    let Some(device) = simulated(Architecture::Sm75, 2) else { return };
    for cases in [cases::matmul(), cases::linear(), cases::attention()] {
        check(&cases, &[DType::F16, DType::BF16], std::slice::from_ref(&device));
    }
}

/// Operands that TF32 has, with sums that f32 has, give the bits of full precision, however they lie; others are
/// rounded to 11 bits of mantissa, and that the tensor cores did it is counted.
#[cfg(feature = "cuda-sim")]
#[test]
fn tf32() {
    use tilewright::device::cuda::sim::Architecture;
    if let Some(Device::Cuda(turing)) = simulated(Architecture::Sm75, 2) {
        let refusal = turing.set_allow_tf32(true).unwrap_err().to_string();
        assert!(refusal.contains("needs compute capability 8.0"), "{refusal}");
    }
    let Some(device) = simulated(Architecture::Sm80, 2) else { return };
    let Device::Cuda(cuda) = &device else { unreachable!() };
    let tensor_instructions = || -> u64 {
        let launches = cuda.simulator().unwrap().launches();
        launches.iter().flat_map(|counters| counters.tensor.values()).map(|count| count.instructions).sum()
    };
    for allow in [false, true] {
        cuda.set_allow_tf32(allow).unwrap();
        tensor_instructions();
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (33, 64, 48), (130, 72, 52), (129, 257, 65), (32, 64, 2048)] {
            for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                let operand = |seed, rows, columns, transposed: bool| {
                    let shape = if transposed { [columns, rows] } else { [rows, columns] };
                    let random = normal(seed, &shape);
                    let random = if transposed { random.t().unwrap() } else { random };
                    // Whole numbers of up to 11 bits, but no more than so that sums stay below 2^24.
                    let whole = random.affine(8.0, 0.0).unwrap().to_dtype(DType::U32).unwrap();
                    [whole.to_dtype(DType::F64).unwrap(), random]
                };
                let ([whole_a, a], [whole_b, b]) =
                    (operand(1, m, k, transposed[0]), operand(2, k, n, transposed[1]));
                let product = |a: &Tensor, b: &Tensor, device: &Device, dtype| {
                    let [a, b] = [a, b].map(|x| place(x, dtype, device).unwrap());
                    a.matmul(&b).unwrap().to_vec::<f64>().unwrap()
                };
                let name = format!("{m} x {n} x {k}, transposed {transposed:?}");
                assert_eq!(
                    product(&whole_a, &whole_b, &device, DType::F32),
                    product(&whole_a, &whole_b, &Device::Cpu, DType::F64),
                    "{name}"
                );
                let exact = product(&a, &b, &Device::Cpu, DType::F64);
                // Each operand is off by 2^-24 of itself at most, or 2^-11, and so is each sum by 2^-24.
                let sizes = product(&a.abs().unwrap(), &b.abs().unwrap(), &Device::Cpu, DType::F64);
                let operands = 2.0 * if allow { 2f64.powi(-11) } else { 2f64.powi(-24) };
                let unit = operands + k as f64 * 2f64.powi(-24);
                for (i, found) in product(&a, &b, &device, DType::F32).into_iter().enumerate() {
                    let error = (found - exact[i]).abs();
                    assert!(error <= 1.01 * unit * sizes[i], "{name}: {error:e} at {i}");
                }
            }
        }
        assert_eq!(tensor_instructions() > 0, allow);
    }
}
