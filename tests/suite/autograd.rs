//! What the gradient graph promises, whatever the op.

use tilewright::autograd::{Backward, backward};
#[cfg(feature = "cuda")]
use tilewright::device::cuda::{self, CudaDevice};
#[cfg(feature = "wgpu")]
use tilewright::device::wgpu::{self, WgpuDevice};
use tilewright::op::{Op, Saves, apply, apply1};
use tilewright::{
    Activation, AttentionOptions, CrossEntropyOptions, DType, Device, Error, Result, Tensor, Var, checkpoint,
    is_recording, no_grad,
};

use crate::harness::{bits, every_device, label, normal, place, seeded};

fn var(device: &Device, values: &[f32]) -> Var {
    Var::new(&Tensor::new(values, device).unwrap()).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_vec().unwrap()
}

fn grad(v: &Var) -> Vec<f32> {
    values(&v.grad().expect("a gradient"))
}

#[test]
fn gradients_accumulate_in_the_same_memory() {
    for device in every_device() {
        let x = var(device, &[1.0, 2.0, 3.0]);
        assert!(x.grad().is_none());
        x.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let first = x.grad().unwrap();
        assert_eq!(values(&first), [2.0, 4.0, 6.0]);
        x.affine(10.0, 0.0).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&x), [12.0, 14.0, 16.0]);
        assert!(x.grad().unwrap().same_storage(&first), "{device}");

        // After zero_grad the next gradient is written over the last.
        x.zero_grad();
        assert!(x.grad().is_none());
        x.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&x), [2.0, 4.0, 6.0]);
        assert!(x.grad().unwrap().same_storage(&first), "{device}");

        x.clear_grad();
        assert!(x.grad().is_none());
        x.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&x), [2.0, 4.0, 6.0]);
        assert!(!x.grad().unwrap().same_storage(&first), "{device}");
    }
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    for device in every_device() {
        let at = |seed, shape: &[usize]| place(&normal(seed, shape), DType::F32, device).unwrap();
        let (w, bias, table) = (
            Var::new(&at(1, &[5, 4])).unwrap(),
            Var::new(&at(2, &[5])).unwrap(),
            Var::new(&at(3, &[7, 4])).unwrap(),
        );
        let vars = [&w, &bias, &table];
        let ids = Tensor::new(&[0u32, 3, 3, 6, 1, 0, 2, 3], device).unwrap();
        let loss = |from: usize, n: usize| {
            let x = table.embedding(&ids.narrow(0, from, n)?)?;
            let y = x.linear(&w, Some(&bias))?.gelu()?.matmul(&w)?;
            y.sqr()?.sum_all()
        };
        loss(0, 8).unwrap().backward().unwrap();
        let whole: Vec<Vec<f32>> = vars.iter().map(|v| grad(v)).collect();
        vars.iter().for_each(|v| v.zero_grad());
        let memory: Vec<Tensor> = {
            loss(0, 3).unwrap().backward().unwrap();
            vars.iter().map(|v| v.grad().unwrap()).collect()
        };
        loss(3, 5).unwrap().backward().unwrap();
        for (i, v) in vars.iter().enumerate() {
            assert!(v.grad().unwrap().same_storage(&memory[i]));
            for (a, b) in grad(v).iter().zip(&whole[i]) {
                approx::assert_relative_eq!(a, b, max_relative = 1e-5, epsilon = 1e-5);
            }
        }
    }
}

#[test]
fn a_graph_is_consumed_once() {
    for device in every_device() {
        let x = var(device, &[1.0, 2.0]);
        let y = x.exp().unwrap().sum_all().unwrap();
        y.backward().unwrap();
        let once = grad(&x);
        let error = y.backward().unwrap_err();
        assert!(matches!(error, Error::Backward { .. }), "{error}");
        assert!(error.to_string().contains("consumed"), "{error}");
        assert_eq!(grad(&x), once);

        // Two roots that share a part of their graph go together.
        let h = x.sqr().unwrap();
        let (a, b) = (h.sum_all().unwrap(), h.mul(&x).unwrap().sum_all().unwrap());
        let one = a.ones_like().unwrap();
        x.zero_grad();
        backward(&[(&a, one.clone()), (&b, one)]).unwrap();
        assert_eq!(grad(&x), [2.0 + 3.0, 4.0 + 12.0]);
    }
}

#[test]
fn backward_needs_a_scalar_that_depends_on_a_var() {
    let x = var(&Device::Cpu, &[1.0, 2.0]);
    let error = x.sqr().unwrap().backward().unwrap_err();
    assert!(matches!(error, Error::Backward { .. }) && error.to_string().contains("[2]"), "{error}");
    let error = Tensor::ones((), DType::F32, &Device::Cpu).unwrap().backward().unwrap_err();
    assert!(matches!(error, Error::Backward { .. }), "{error}");
    let y = x.sqr().unwrap();
    let error = backward(&[(&y, Tensor::ones(3, DType::F32, &Device::Cpu).unwrap())]).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }) && error.to_string().contains("[3]"), "{error}");
    let error = backward(&[(&y, Tensor::ones(2, DType::F64, &Device::Cpu).unwrap())]).unwrap_err();
    assert!(matches!(error, Error::Shape { .. } | Error::DType { .. }), "{error}");
    // Refused before anything was consumed.
    backward(&[(&y, Tensor::ones(2, DType::F32, &Device::Cpu).unwrap())]).unwrap();
    assert_eq!(grad(&x), [2.0, 4.0]);
    assert!(Var::new(&Tensor::arange(0, 3, &Device::Cpu).unwrap()).is_err());
    // A var is a root too.
    let scalar = Var::new(&Tensor::ones((), DType::F32, &Device::Cpu).unwrap()).unwrap();
    scalar.backward().unwrap();
    assert_eq!(grad(&scalar), [1.0]);
}

#[cfg(feature = "wgpu")]
#[test]
fn a_gradient_from_another_device_is_refused() {
    for device in crate::harness::gpus() {
        let x = var(device, &[1.0, 2.0]);
        let y = x.sqr().unwrap();
        let error = backward(&[(&y, Tensor::ones(2, DType::F32, &Device::Cpu).unwrap())]).unwrap_err();
        assert!(matches!(error, Error::DeviceMismatch { .. }), "{error}");
        let error =
            backward(&[(x.as_tensor(), Tensor::ones(2, DType::F32, &Device::Cpu).unwrap())]).unwrap_err();
        assert!(matches!(error, Error::DeviceMismatch { .. }), "{error}");
        assert!(x.grad().is_none());
    }
}

#[test]
fn no_grad_and_detach_record_nothing() {
    let x = var(&Device::Cpu, &[1.0, 2.0]);
    assert!(x.requires_grad() && is_recording());
    let y = no_grad(|| {
        assert!(!is_recording());
        x.sqr().unwrap()
    });
    assert!(is_recording() && !y.requires_grad());
    // Back to recording after a panic too.
    let caught = std::panic::catch_unwind(|| no_grad(|| panic!("on purpose")));
    assert!(caught.is_err() && is_recording());
    no_grad(|| no_grad(|| ()));
    assert!(is_recording());

    let d = x.sqr().unwrap().detach();
    assert!(!d.requires_grad());
    x.mul(&d).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(grad(&x), [1.0, 4.0]);
    // Comparisons and indices detach by themselves.
    assert!(!x.gt(&d).unwrap().requires_grad());
    assert!(!x.argmax(0).unwrap().requires_grad());
    assert!(!x.to_dtype(DType::U32).unwrap().requires_grad());
    // Recording is a matter of the thread.
    no_grad(|| std::thread::spawn(|| assert!(is_recording())).join().unwrap());
}

#[test]
fn an_input_modified_in_place_is_noticed() {
    for device in every_device() {
        let x = var(device, &[1.0, 2.0]);
        let y = x.sqr().unwrap().sum_all().unwrap();
        x.set(&Tensor::new(&[5.0f32, 6.0], device).unwrap()).unwrap();
        assert_eq!(y.backward(), Err(Error::ModifiedInPlace { op: "sqr" }));

        // Through a view of it, and for a saved output.
        let y = x.exp().unwrap();
        let loss = y.sum_all().unwrap();
        y.narrow(0, 1, 1).unwrap().detach().assign(&Tensor::new(&[0.0f32], device).unwrap()).unwrap();
        assert_eq!(loss.backward(), Err(Error::ModifiedInPlace { op: "exp" }));
        let loss = x.mul(&x).unwrap().sum_all().unwrap();
        x.detach().add_assign(&Tensor::new(&[1.0f32, 1.0], device).unwrap()).unwrap();
        assert_eq!(loss.backward(), Err(Error::ModifiedInPlace { op: "mul" }));

        // Ops that save nothing do not mind.
        x.zero_grad();
        let loss = x.affine(3.0, 0.0).unwrap().sum_all().unwrap();
        x.set(&Tensor::new(&[0.0f32, 0.0], device).unwrap()).unwrap();
        loss.backward().unwrap();
        assert_eq!(grad(&x), [3.0, 3.0]);
    }
}

#[test]
fn consumed_logits_are_only_overwritten_where_nobody_sees_it() {
    let mean = CrossEntropyOptions::default();
    for device in every_device() {
        let x = var(device, &[1.0, 2.0, 4.0, 0.5, -1.0, 3.0]);
        let targets = Tensor::new(&[2u32, 0], device).unwrap();
        let logits = || x.affine(2.0, 1.0).unwrap().reshape((2, 3)).unwrap();
        logits().cross_entropy(&targets).unwrap().backward().unwrap();
        let expected = grad(&x);

        // Another handle, a view, and an op that has saved them.
        let kept = logits();
        let before = kept.to_vec2::<f32>().unwrap();
        let view = kept.narrow(1, 0, 2).unwrap();
        x.zero_grad();
        kept.clone().into_cross_entropy(&targets, mean).unwrap().backward().unwrap();
        assert_eq!((kept.to_vec2::<f32>().unwrap(), grad(&x)), (before, expected.clone()), "{device}");
        drop(kept);
        let seen = values(&view);
        view.clone().into_cross_entropy(&Tensor::new(&[1u32, 0], device).unwrap(), mean).unwrap();
        assert_eq!(values(&view), seen, "{device}");
        let saved = logits();
        let penalty = saved.sqr().unwrap().sum_all().unwrap();
        x.zero_grad();
        let loss = saved.into_cross_entropy(&targets, mean).unwrap();
        backward(&[(&penalty, penalty.ones_like().unwrap()), (&loss, loss.zeros_like().unwrap())]).unwrap();
        let by_hand: Vec<f32> = values(&x).iter().map(|x| 4.0 * (2.0 * x + 1.0)).collect();
        assert_eq!(grad(&x), by_hand, "{device}");

        // A var is never consumed, nor is anything when nothing is recorded.
        let w = Var::new(&logits().detach()).unwrap();
        let before = values(&w);
        w.as_tensor().clone().into_cross_entropy(&targets, mean).unwrap().backward().unwrap();
        assert_eq!(values(&w), before, "{device}");
    }
}

#[test]
fn one_tensor_may_be_used_many_times() {
    for device in every_device() {
        let x = var(device, &[1.0, -2.0, 3.0, 0.5]);
        x.mul(&x).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&x), [2.0, -4.0, 6.0, 1.0]);
        x.zero_grad();
        let h = x.affine(2.0, 0.0).unwrap();
        let y = h.mul(&h).unwrap().add(&h).unwrap().sub(&x).unwrap();
        y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&x), [9.0, -15.0, 25.0, 5.0]);

        // The gradient of sum(x x^T) is 2 sum over the rows of x.
        let x =
            Var::new(&Tensor::new(&[1f32, 2.0, 3.0, 4.0], device).unwrap().reshape((2, 2)).unwrap()).unwrap();
        for expected in [[8.0, 12.0, 8.0, 12.0], [16.0, 24.0, 16.0, 24.0]] {
            x.matmul(&x.t().unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
            assert_eq!(grad(&x), expected);
        }
        x.zero_grad();
        x.linear(&x, None).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&x), [8.0, 12.0, 8.0, 12.0]);
        // One tensor in all of an op's places.
        x.zero_grad();
        x.linear_residual(&x, None, &x).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&x), [9.0, 13.0, 9.0, 13.0]);
    }
}

#[test]
fn a_gradient_may_start_from_a_gradient() {
    // The upstream gradient lies in the memory that the new gradient is added to.
    for device in every_device() {
        let at = |seed| place(&normal(seed, &[3, 3]), DType::F32, device).unwrap();
        let (x, w) = (at(1), Var::new(&at(2)).unwrap());
        w.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let seed = w.grad().unwrap();
        let expected = {
            let before = seed.copy().unwrap();
            before.add(&x.t().unwrap().matmul(&before).unwrap()).unwrap()
        };
        let y = x.matmul(&w).unwrap();
        backward(&[(&y, seed)]).unwrap();
        for (a, b) in grad(&w).iter().zip(values(&expected)) {
            approx::assert_relative_eq!(*a, b, max_relative = 1e-5, epsilon = 1e-5);
        }
        // As operands of the product itself, with no view between.
        let at = |seed| place(&normal(seed, &[1, 1, 3, 3]), DType::F32, device).unwrap();
        let (x, w) = (at(3), Var::new(&at(4)).unwrap());
        w.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let before = w.grad().unwrap().copy().unwrap();
        let y = w.grad().unwrap().matmul(&w).unwrap();
        backward(&[(&y, w.grad().unwrap())]).unwrap();
        let expected = before.add(&before.t().unwrap().matmul(&before).unwrap()).unwrap();
        for (a, b) in grad(&w).iter().zip(values(&expected)) {
            approx::assert_relative_eq!(*a, b, max_relative = 1e-5, epsilon = 1e-5);
        }
        w.add(&x).unwrap().matmul(&x).unwrap().sum_all().unwrap().backward().unwrap();
        let y = w.mul(&w).unwrap();
        let before = w.grad().unwrap().copy().unwrap();
        backward(&[(&y, w.grad().unwrap())]).unwrap();
        let expected = before.add(&before.mul(&w.detach()).unwrap().affine(2.0, 0.0).unwrap()).unwrap();
        for (a, b) in grad(&w).iter().zip(values(&expected)) {
            approx::assert_relative_eq!(*a, b, max_relative = 1e-5, epsilon = 1e-5);
        }
    }
}

#[test]
fn ties_share_or_choose_as_documented() {
    for device in every_device() {
        let x = var(device, &[3.0, 1.0, 3.0, 1.0]);
        x.max(0).unwrap().affine(4.0, 0.0).unwrap().backward().unwrap();
        assert_eq!(grad(&x), [2.0, 0.0, 2.0, 0.0]);
        x.zero_grad();
        x.min(0).unwrap().backward().unwrap();
        assert_eq!(grad(&x), [0.0, 0.5, 0.0, 0.5]);
        x.zero_grad();
        let y = var(device, &[3.0, 2.0, 1.0, 1.0]);
        x.maximum(&y).unwrap().sum_all().unwrap().backward().unwrap();
        x.minimum(&y).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!((grad(&x), grad(&y)), (vec![2.0, 1.0, 1.0, 2.0], vec![0.0, 1.0, 1.0, 0.0]));
        // Kinks: 0 where the function bends.
        let z = var(device, &[0.0, -1.0, 2.0]);
        for (f, expected) in [
            (Tensor::abs as fn(&Tensor) -> Result<Tensor>, [0.0, -1.0, 1.0]),
            (Tensor::relu, [0.0, 0.0, 1.0]),
            (|z| z.clamp(-0.5, 1.0), [1.0, 0.0, 0.0]),
        ] {
            z.zero_grad();
            f(&z).unwrap().sum_all().unwrap().backward().unwrap();
            assert_eq!(grad(&z), expected, "{device}");
        }
    }
}

#[test]
fn gradients_cross_devices() {
    for device in every_device() {
        let x = var(&Device::Cpu, &[1.0, 2.0]);
        let y = x.to_device(device).unwrap().sqr().unwrap().to_device(&Device::Cpu).unwrap();
        y.mul(&x).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&x), [3.0, 12.0]);
        assert!(x.grad().unwrap().device().is_cpu());
    }
}

#[test]
fn narrow_dtypes_get_gradients_of_their_own_dtype() {
    for device in every_device() {
        for dtype in [DType::F16, DType::BF16] {
            let x =
                Var::new(&Tensor::new(&[1f32, 2.0, 3.0], device).unwrap().to_dtype(dtype).unwrap()).unwrap();
            for factor in [1.0, 2.0] {
                // In f32 between.
                x.to_dtype(DType::F32).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
                assert_eq!(grad(&x), [2.0 * factor, 4.0 * factor, 6.0 * factor], "{device}, {dtype}");
                assert_eq!(x.grad().unwrap().dtype(), dtype);
            }
        }
    }
}

#[test]
fn a_chain_of_100_000_ops_does_not_overflow_the_stack() {
    let x = var(&Device::Cpu, &[1.0]);
    let chain = || {
        let mut y = x.as_tensor().clone();
        for _ in 0..100_000 {
            y = y.affine(1.0, 1e-5).unwrap();
        }
        y
    };
    // Dropped without a backward, and consumed by one.
    drop(chain());
    let y = chain();
    y.backward().unwrap();
    assert_eq!(grad(&x), [1.0]);
    // A ladder: every rung is used twice.
    let mut y = x.as_tensor().clone();
    for _ in 0..10_000 {
        let h = y.affine(0.5, 0.0).unwrap();
        y = h.add(&h).unwrap();
    }
    x.zero_grad();
    y.backward().unwrap();
    assert_eq!(grad(&x), [1.0]);
}

#[test]
fn threads_share_vars() {
    for device in every_device() {
        let x = var(device, &[1.0; 8]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..10).for_each(|_| x.affine(1.0, 0.0).unwrap().sum_all().unwrap().backward().unwrap())
                });
            }
        });
        assert_eq!(grad(&x), [40.0; 8], "{device}");
    }
}

/// `a x^2 + b` with one body a backend, as a user would write it.
struct Parabola {
    a: f32,
    b: f32,
    gradient: bool,
}

#[cfg(feature = "wgpu")]
const PARABOLA_WGSL: &str = "
struct Params { n: u32, a: f32, b: f32, pad: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    if gid.x < p.n { y[gid.x] = p.a * x[gid.x] * x[gid.x] + p.b; }
}
";

#[cfg(feature = "cuda")]
const PARABOLA_CUDA: &str = "
struct Params { u32 n; float a, b; };
extern \"C\" __global__ void parabola(const T* x, T* y, const Params p) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) {
        float v = to_float(x[i]);
        y[i] = from_float<T>(p.a * v * v + p.b);
    }
}
";

impl Op for Parabola {
    fn name(&self) -> &'static str {
        "parabola"
    }

    fn cpu(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0].contiguous()?;
        let mut y = tilewright::device::cpu::CpuVec::<f32>::new(x.elements())?;
        y.iter_mut().zip(x.cpu::<f32>()?.iter()).for_each(|(y, x)| *y = self.a * x * x + self.b);
        Ok(vec![Tensor::from_cpu(y, x.shape())?])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0].to_dtype(DType::F32)?;
        let (from, to) = (x.wgpu()?, device.alloc("parabola", 4 * x.elements())?);
        let params = [x.elements() as u32, self.a.to_bits(), self.b.to_bits(), 0];
        let kernel = wgpu::Kernel::new("parabola", &[PARABOLA_WGSL], "main");
        let groups = wgpu::fold_groups(x.elements().div_ceil(64));
        device.run(&kernel, &[wgpu::Binding::Read(&from), wgpu::Binding::Write(&to)], &params, groups)?;
        Ok(vec![Tensor::from_wgpu(device, to, x.shape(), DType::F32)?])
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = &inputs[0];
        let (from, to) = (x.cuda()?, device.alloc("parabola", x.dtype().size() * x.elements())?);
        let params = [x.elements() as u32, self.a.to_bits(), self.b.to_bits()];
        let kernel = cuda::Kernel::new("parabola", &[PARABOLA_CUDA], "parabola").with("T", x.dtype());
        let grid = cuda::Grid { blocks: [x.elements().div_ceil(64) as u32, 1, 1], threads: 64, shared: 0 };
        device.launch(&kernel, &[cuda::Binding::Read(&from), cuda::Binding::Write(&to)], &params, grid)?;
        Ok(vec![Tensor::from_cuda(device, to, x.shape(), x.dtype())?])
    }

    fn saves(&self) -> Option<Saves> {
        self.gradient.then_some(Saves::inputs(&[0]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let slope = ctx.input(0)?.affine(2.0 * f64::from(self.a), 0.0)?;
        Ok(vec![Some(slope.mul(&ctx.grad(0)?)?)])
    }
}

#[test]
fn a_users_op_takes_the_same_road() {
    for device in every_device() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let x = Tensor::new(&[1f32, -2.0, 3.0, 4.0], device).unwrap().to_dtype(dtype).unwrap();
            let x = Var::new(&x).unwrap();
            let h = x.affine(2.0, 0.0).unwrap().reshape((2, 2)).unwrap().t().unwrap();
            let op = Parabola { a: 0.5, b: 1.0, gradient: true };
            let y = apply1(op, &[&h]).unwrap();
            assert_eq!(y.dtype(), dtype);
            assert_eq!(values(&y), [3.0, 19.0, 9.0, 33.0], "{device}, {dtype}");
            y.affine(0.5, 0.0).unwrap().sum_all().unwrap().backward().unwrap();
            assert_eq!(grad(&x), [2.0, -4.0, 6.0, 8.0], "{device}, {dtype}");
        }
    }
}

#[test]
fn an_op_without_a_gradient_refuses_at_forward_time() {
    for device in every_device() {
        let x = var(device, &[1.0, 2.0]);
        let op = || Parabola { a: 1.0, b: 0.0, gradient: false };
        let error = apply1(op(), &[&x]).unwrap_err();
        assert_eq!(error, Error::NoGradient { op: "parabola" });
        assert!(error.to_string().contains("parabola"));
        assert_eq!(values(&apply1(op(), &[&x.detach()]).unwrap()), [1.0, 4.0]);
        assert_eq!(values(&no_grad(|| apply1(op(), &[&x])).unwrap()), [1.0, 4.0]);
    }
}

/// An op of a user who did not read the contract.
struct Careless {
    outputs: usize,
    bodies: usize,
    saves: Saves,
    grads: fn(&Backward<'_>) -> Result<Vec<Option<Tensor>>>,
}

impl Op for Careless {
    fn name(&self) -> &'static str {
        "careless"
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        (0..self.bodies).map(|_| x[0].copy()).collect()
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, _device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.cpu(x)
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, _device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.cpu(x)
    }

    fn saves(&self) -> Option<Saves> {
        Some(self.saves)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        (self.grads)(ctx)
    }
}

#[test]
fn a_careless_op_gets_an_error_and_no_panic() {
    let fine = || Careless {
        outputs: 1,
        bodies: 1,
        saves: Saves::NOTHING,
        grads: |ctx| Ok(vec![Some(ctx.grad(0)?)]),
    };
    let x = var(&Device::Cpu, &[1.0, 2.0]);
    let run = |op: Careless| apply(op, &[&x])?.swap_remove(0).sum_all()?.backward();
    run(fine()).unwrap();
    // Fewer outputs than it said, and no inputs at all.
    assert!(apply1(Careless { bodies: 0, ..fine() }, &[&x]).is_err());
    assert!(apply(Careless { outputs: 2, ..fine() }, &[&x]).is_err());
    assert!(apply(fine(), &[]).is_err());
    // Gradients too few, too many, of another shape; a saved tensor that it did not name, or has not.
    assert!(run(Careless { grads: |_| Ok(vec![]), ..fine() }).is_err());
    assert!(run(Careless { grads: |ctx| Ok(vec![Some(ctx.grad(0)?), None]), ..fine() }).is_err());
    assert!(run(Careless { grads: |ctx| Ok(vec![Some(ctx.grad(0)?.sum_all()?)]), ..fine() }).is_err());
    assert!(run(Careless { grads: |ctx| Ok(vec![Some(ctx.input(0)?.clone())]), ..fine() }).is_err());
    assert!(
        run(Careless {
            grads: |ctx| Ok(vec![Some(ctx.input(5)?.clone())]),
            saves: Saves::inputs(&[5]),
            ..fine()
        })
        .is_err()
    );
    assert!(
        run(Careless {
            grads: |ctx| Ok(vec![Some(ctx.output(1)?.clone())]),
            saves: Saves::outputs(&[1]),
            ..fine()
        })
        .is_err()
    );
    // The graph is as usable as before.
    x.zero_grad();
    run(fine()).unwrap();
    assert_eq!(grad(&x), [1.0, 1.0]);
}

/// A block with everything that draws random numbers or saves much, of weights that are no inputs.
fn block(x: &Tensor, w: &[Var; 4]) -> Result<Vec<Tensor>> {
    let (b, t, c) = x.dims3()?;
    let normed = x.layer_norm(&w[0], None, 1e-5)?;
    let qkv = normed.linear(&w[1], None)?.chunk(3, 2)?;
    let heads = |x: &Tensor| x.reshape((b, t, 2, c / 2))?.transpose(1, 2);
    let options = AttentionOptions { causal: true, dropout: 0.2, ..Default::default() };
    let y = heads(&qkv[0])?.attention(&heads(&qkv[1])?, &heads(&qkv[2])?, &options)?;
    let y = y.transpose(1, 2)?.reshape((b, t, c))?.dropout(0.3)?;
    let h = x.add(&y)?.linear_activation(&w[2], None, Activation::Gelu)?;
    Ok(vec![h.linear(&w[3], None)?.dropout(0.1)?.add(x)?, y])
}

/// Three blocks one after another, each repeated in backward or not: gradients of the input and all weights, the loss, and
/// where the random numbers then stand.
fn three_blocks(dtype: DType, device: &Device, repeated: bool) -> (Vec<Vec<u64>>, u64) {
    let var = |seed, shape: &[usize]| {
        let x = normal(seed, shape).affine(0.3, 0.0).unwrap();
        let var = Var::new(&place(&x, dtype, device).unwrap()).unwrap();
        var.set_grad_dtype(if dtype.size() == 2 { DType::F32 } else { dtype }).unwrap();
        var
    };
    let input = var(1, &[2, 5, 16]);
    let layers: Vec<[Var; 4]> = (0..3)
        .map(|i| {
            [(2, vec![16]), (3, vec![48, 16]), (4, vec![32, 16]), (5, vec![16, 32])]
                .map(|(s, n)| var(10 * i + s, &n))
        })
        .collect();
    let mut stand = 0;
    let loss = seeded(device, 40, || {
        let mut x = input.affine(1.0, 0.0)?;
        let mut losses = Vec::new();
        for w in &layers {
            let w = w.clone();
            let f = move |x: &[Tensor]| block(&x[0], &w);
            let mut out = if repeated { checkpoint(&[&x], f)? } else { f(&[x])? };
            losses.push(out.remove(1).sqr()?.mean_all()?);
            x = out.remove(0);
        }
        // The last block's second result is not used, and the first's counts twice.
        let loss = x.sqr()?.mean_all()?.add(&losses[0])?.add(&losses[0])?;
        loss.backward()?;
        stand = device.generator_state().offset;
        Ok::<_, Error>(loss)
    })
    .unwrap();
    let mut all = vec![bits(&loss), bits(&input.grad().unwrap())];
    all.extend(layers.iter().flatten().map(|w| bits(&w.grad().unwrap())));
    (all, stand)
}

#[test]
fn a_repeated_forward_gives_the_same_gradients() {
    for device in every_device() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let plain = three_blocks(dtype, device, false);
            assert_eq!(three_blocks(dtype, device, true), plain, "{}, {dtype}", label(device));
        }
    }
}

#[test]
fn what_is_repeated_in_backward_is_checked() {
    for device in every_device() {
        // A repetition sets the device's random numbers, which others may be drawing.
        seeded(device, 0, || check_what_is_repeated(device));
    }
}

fn check_what_is_repeated(device: &Device) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let x = place(&normal(1, &[3, 4]), DType::F32, device).unwrap();
    let w = Var::new(&x).unwrap();
    assert!(matches!(checkpoint(&[], |x| Ok(x.to_vec())), Err(Error::Argument { op: "checkpoint", .. })));
    let failure = checkpoint(&[&x], |x| Ok(vec![x[0].matmul(&x[0])?]));
    assert!(matches!(failure, Err(Error::Shape { op: "matmul", .. })), "{failure:?}");

    // A weight that only the function knows has its gradient, although no input wants one.
    let own = w.clone();
    let y = checkpoint(&[&x], move |x| Ok(vec![x[0].mul(&own)?])).unwrap().remove(0);
    y.sum_all().unwrap().backward().unwrap();
    assert_eq!(bits(&w.grad().unwrap()), bits(&x), "{}", label(device));
    // So has what stands before a tensor that the function knows.
    w.zero_grad();
    let own = w.affine(2.0, 0.0).unwrap();
    let y = checkpoint(&[&x], move |x| Ok(vec![x[0].mul(&own)?])).unwrap().remove(0);
    y.sum_all().unwrap().backward().unwrap();
    assert_eq!(bits(&w.grad().unwrap()), bits(&x.affine(2.0, 0.0).unwrap()), "{}", label(device));
    // Without one that wants a gradient nothing is recorded, nor under `no_grad`.
    let sqr = |x: &[Tensor]| Ok(vec![x[0].sqr()?]);
    assert!(!checkpoint(&[&x], sqr).unwrap()[0].requires_grad());
    assert!(!no_grad(|| checkpoint(&[&w], sqr)).unwrap()[0].requires_grad());

    // An input that was overwritten since, and a function that changes its mind.
    let y = checkpoint(&[&w], sqr).unwrap().remove(0).sum_all().unwrap();
    w.set(&x).unwrap();
    assert_eq!(y.backward(), Err(Error::ModifiedInPlace { op: "checkpoint" }));
    let calls = AtomicUsize::new(0);
    let fickle = move |x: &[Tensor]| Ok(vec![x[0].sqr()?; 1 + calls.fetch_add(1, Ordering::Relaxed)]);
    let y = checkpoint(&[&w], fickle).unwrap().remove(0).sum_all().unwrap();
    assert!(matches!(y.backward(), Err(Error::Backward { .. })));
}
