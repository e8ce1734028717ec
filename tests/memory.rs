//! Memory that the CPU's pool holds. A binary and one test of its own: the pool is the process's.

use tilewright::{CrossEntropyOptions, DType, Device, Tensor, Var, checkpoint};

const N: usize = 1 << 20;
const BYTES: u64 = 4 * N as u64;

fn in_use() -> u64 {
    Device::Cpu.memory().in_use
}

fn ones() -> Tensor {
    Tensor::ones(N, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn memory_goes_back_when_it_should() {
    assert_eq!(in_use(), 0);

    // Views cost nothing; the last one frees the memory.
    let view = {
        let x = ones();
        x.reshape((1024, 1024)).unwrap().t().unwrap().narrow(0, 3, 5).unwrap()
    };
    assert_eq!(in_use(), BYTES);
    drop(view);
    assert_eq!(in_use(), 0);
    assert!(Device::Cpu.memory().cached >= BYTES);
    Device::Cpu.release_memory().unwrap();
    assert_eq!(Device::Cpu.memory().cached, 0);

    // What a graph saves goes with it.
    let x = Var::new(&ones()).unwrap();
    let base = in_use();
    assert_eq!(base, BYTES);
    let y = x.exp().unwrap().exp().unwrap().exp().unwrap();
    assert_eq!(in_use(), base + 3 * BYTES);
    drop(y);
    assert_eq!(in_use(), base);

    // Of what backward repeats only the inputs are kept.
    let y = checkpoint(&[&x], |x| Ok(vec![x[0].exp()?.exp()?.exp()?])).unwrap().remove(0);
    assert_eq!(in_use(), base + BYTES);
    y.sum_all().unwrap().backward().unwrap();
    drop(y);
    x.clear_grad();
    assert_eq!(in_use(), base);

    // Backward frees activations as it consumes them: while it walks back over a chain of twenty, there
    // are never much more than the twenty, where keeping them would need twice as many.
    let chain = |x: &Tensor| {
        let mut y = x.clone();
        for _ in 0..20 {
            y = y.affine(1e-3, 0.0).unwrap().exp().unwrap();
        }
        y.sum_all().unwrap()
    };
    let loss = chain(&x);
    let held = in_use();
    assert!(held >= base + 20 * BYTES);
    Device::Cpu.release_memory().unwrap();
    loss.backward().unwrap();
    let peak_of_backward = Device::Cpu.memory();
    assert!(
        peak_of_backward.in_use + peak_of_backward.cached <= held + 4 * BYTES,
        "{peak_of_backward:?} after {held}: activations were kept"
    );
    // Only the gradient is new, though the loss is still there.
    assert!(in_use() <= base + BYTES + 4096, "{} held", in_use() - base);
    drop(loss);

    // Another micro-batch adds in place: no second copy of the gradient.
    let base = in_use();
    chain(&x).backward().unwrap();
    assert_eq!(in_use(), base);
    x.zero_grad();
    assert_eq!(in_use(), base);
    chain(&x).backward().unwrap();
    assert_eq!(in_use(), base);
    x.clear_grad();
    assert_eq!(in_use(), base - BYTES);

    // A product adds to a weight's gradient where it is, without one of its own between.
    let w = Var::new(&ones().reshape((1024, 1024)).unwrap()).unwrap();
    let row = Tensor::ones((1, 1024), DType::F32, &Device::Cpu).unwrap();
    for product in [Tensor::matmul, |x: &Tensor, w: &Tensor| x.linear(w, None)] {
        product(&row, &w).unwrap().sum_all().unwrap().backward().unwrap();
        let base = in_use();
        Device::Cpu.release_memory().unwrap();
        product(&row, &w).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(in_use(), base);
        assert!(Device::Cpu.memory().cached < BYTES / 8, "{:?}", Device::Cpu.memory());
    }
    assert_eq!(w.grad().unwrap().to_vec::<f32>().unwrap(), vec![4.0; N]);
    drop((w, row));

    // The gradient of logits that are handed over takes their memory, and so does their sum's.
    let targets = Tensor::zeros(1024, DType::U32, &Device::Cpu).unwrap();
    let base = in_use();
    Device::Cpu.release_memory().unwrap();
    let logits = x.reshape((1024, 1024)).unwrap().affine(2.0, 0.0).unwrap();
    assert_eq!(in_use(), base + BYTES);
    let loss = logits.into_cross_entropy(&targets, CrossEntropyOptions::default()).unwrap();
    assert!(in_use() < base + BYTES + 8192, "{} held", in_use() - base);
    loss.backward().unwrap();
    x.clear_grad();
    // The logits, and the gradient of x.
    assert!(Device::Cpu.memory().cached < 2 * BYTES + 16384, "{:?}", Device::Cpu.memory());
    drop((loss, targets));

    // A head with its loss holds the logits of as many rows as it is told, here a sixteenth of them, and the gradients.
    let targets = Tensor::zeros(1024, DType::U32, &Device::Cpu).unwrap();
    let (x_rows, w) = (x.reshape((1024, 1024)).unwrap(), ones().reshape((1024, 1024)).unwrap());
    Device::Cpu.release_memory().unwrap();
    let base = in_use();
    let loss = x_rows.linear_cross_entropy(&w, &targets, CrossEntropyOptions::default(), Some(64)).unwrap();
    let memory = Device::Cpu.memory();
    assert!(memory.in_use < base + BYTES + 65536, "{} held", memory.in_use - base);
    assert!(memory.cached < 2 * BYTES, "{memory:?}");
    drop((loss, targets, x_rows, w));
    Device::Cpu.release_memory().unwrap();

    // An error midway frees what it had made.
    let y = x.exp().unwrap();
    let loss = y.exp().unwrap().sum_all().unwrap();
    x.exp().unwrap().sum_all().unwrap().backward().unwrap();
    y.detach().assign(&ones()).unwrap();
    assert!(loss.backward().is_err());
    drop((y, loss));
    x.clear_grad();
    assert_eq!(in_use(), BYTES);
    drop(x);
    assert_eq!(in_use(), 0);
}
