//! The engine on whatever adapter there is, software ones too.

use std::io::Write;
use std::sync::OnceLock;
use std::time::Instant;

use super::*;
use crate::DType;

/// The device that the tests share: creating many at once has crashed drivers.
fn shared() -> Option<&'static WgpuDevice> {
    static DEVICE: OnceLock<Option<WgpuDevice>> = OnceLock::new();
    DEVICE.get_or_init(|| any(|selector| selector)).as_ref()
}

/// The shared device's checked twin.
fn checked() -> Option<&'static WgpuDevice> {
    static DEVICE: OnceLock<Option<WgpuDevice>> = OnceLock::new();
    DEVICE.get_or_init(|| any(Selector::checked)).as_ref()
}

fn any(how: impl Fn(Selector) -> Selector) -> Option<WgpuDevice> {
    let device = WgpuDevice::new(&how(AdapterChoice::Gpu.into()))
        .or_else(|_| WgpuDevice::new(&how(AdapterChoice::Software.into())));
    match device {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == "wgpu"), "{error}");
            // Straight to stderr: the harness captures what the print macros write.
            let _ = writeln!(std::io::stderr(), "NOT RUN: tests of the wgpu engine: {error}");
            None
        }
    }
}

macro_rules! device {
    ($device:expr) => {
        match $device {
            Some(device) => device,
            None => return,
        }
    };
}

const AXPY: &str = "
struct Params { n: u32, a: f32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read_write> y: array<T>;
@compute @workgroup_size(BLOCK)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    let i = gid.x;
    if i < p.n { y[i] = T(f32(y[i]) + p.a * f32(x[i])); }
}
";

const INCREMENT: &str = "
struct Params { n: u32, a: f32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    if gid.x < p.n { y[gid.x] = y[gid.x] * 0.5 + p.a; }
}
";

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    a: f32,
    pad: [u32; 2],
}

fn axpy_kernel(dtype: DType) -> Kernel {
    Kernel::builtin("axpy", &[AXPY], "main").with("BLOCK", 64u32).with("T", dtype)
}

/// y += a * x
fn axpy(device: &WgpuDevice, a: f32, x: &Buffer, y: &Buffer) -> Result<()> {
    let n = y.bytes() / 4;
    let params = Params { n: n as u32, a, pad: [0; 2] };
    let bindings = [Binding::Read(x), Binding::Write(y)];
    device.run(&axpy_kernel(DType::F32), &bindings, &params, fold_groups(n.div_ceil(64)))
}

/// y = y / 2 + a
fn increment(device: &WgpuDevice, a: f32, y: &Buffer) -> Result<()> {
    let n = y.bytes() / 4;
    let params = Params { n: n as u32, a, pad: [0; 2] };
    let kernel = Kernel::builtin("increment", &[INCREMENT], "main");
    device.run(&kernel, &[Binding::Write(y)], &params, fold_groups(n.div_ceil(64)))
}

fn upload(device: &WgpuDevice, x: &[f32]) -> Buffer {
    device.upload("test", bytemuck::cast_slice(x)).unwrap()
}

fn download(device: &WgpuDevice, x: &Buffer) -> Vec<f32> {
    let mut out = vec![0.0; x.bytes() / 4];
    device.download_into(x, bytemuck::cast_slice_mut(&mut out)).unwrap();
    out
}

#[test]
fn folding_covers_every_group_and_wastes_few() {
    assert_eq!(fold_groups(0), [0, 1, 1]);
    assert_eq!(fold_groups(65535), [65535, 1, 1]);
    for n in [1, 2, 65536, 100_000, 131_071, 10_000_019] {
        let [x, y, z] = fold_groups(n).map(|g| g as usize);
        assert!(x <= 65535 && z == 1 && x * y >= n && x * y < n + y);
    }
}

#[test]
fn runs_kernels_checked_and_unchecked() {
    for device in [shared(), checked()] {
        let device = device!(device);
        let x: Vec<f32> = (0..1001).map(|i| i as f32).collect();
        let (a, b) = (upload(device, &x), upload(device, &vec![1.0; 1001]));
        axpy(device, 2.0, &a, &b).unwrap();
        let expected: Vec<f32> = x.iter().map(|x| 1.0 + 2.0 * x).collect();
        assert_eq!(download(device, &b), expected, "{device:?}");
    }
}

#[test]
fn checked_mode_clamps_stray_accesses() {
    let device = device!(checked());
    assert!(device.is_checked());
    let (x, y) = (upload(device, &[1.0; 64]), upload(device, &[1.0; 64]));
    let canary = upload(device, &[7.0; 64]);
    // The kernel is told of far more elements than the buffers have.
    let params = Params { n: 1 << 20, a: 1.0, pad: [0; 2] };
    let bindings = [Binding::Read(&x), Binding::Write(&y)];
    device.run(&axpy_kernel(DType::F32), &bindings, &params, [1 << 14, 1, 1]).unwrap();
    assert_eq!(download(device, &y)[..63], [2.0; 63]);
    assert_eq!(download(device, &canary), [7.0; 64]);
}

#[test]
fn checked_mode_defines_divisions_by_zero() {
    const SOURCE: &str = "
        @group(0) @binding(1) var<storage, read> x: array<u32>;
        @group(0) @binding(2) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(1) fn main() { y[0] = x[0] / x[1]; y[1] = x[0] % x[1]; }";
    let device = device!(checked());
    let [x, y] = [[7u32, 0], [1, 1]].map(|x| device.upload("test", bytemuck::cast_slice(&x)).unwrap());
    let kernel = Kernel::builtin("divide", &[SOURCE], "main");
    device.run(&kernel, &[Binding::Read(&x), Binding::Write(&y)], &(), [1, 1, 1]).unwrap();
    let y = device.download(&y).unwrap();
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&y), [7, 0]);
}

#[test]
fn a_users_kernel_is_checked_on_any_device() {
    let device = device!(shared());
    let (x, y) = (upload(device, &[1.0; 64]), upload(device, &[1.0; 64]));
    let kernel = Kernel::new("stray", &[AXPY], "main").with("BLOCK", 64u32).with("T", DType::F32);
    let params = Params { n: 1 << 20, a: 1.0, pad: [0; 2] };
    device.run(&kernel, &[Binding::Read(&x), Binding::Write(&y)], &params, [1 << 14, 1, 1]).unwrap();
    assert_eq!(download(device, &y)[..63], [2.0; 63]);
}

#[test]
fn f16_where_the_adapter_has_it() {
    let device = device!(shared());
    let x: Vec<half::f16> = (0..77).map(|i| half::f16::from_f32(i as f32)).collect();
    let a = device.upload("test", bytemuck::cast_slice(&x)).unwrap();
    let b = device.upload("test", bytemuck::cast_slice(&x)).unwrap();
    let params = Params { n: 77, a: 1.0, pad: [0; 2] };
    let run =
        device.run(&axpy_kernel(DType::F16), &[Binding::Read(&a), Binding::Write(&b)], &params, [2, 1, 1]);
    if !device.has_f16() {
        assert!(matches!(run, Err(Error::Kernel { kernel: "axpy", .. })));
        return;
    }
    run.unwrap();
    let doubled: Vec<half::f16> = x.iter().map(|&x| x + x).collect();
    assert_eq!(device.download(&b).unwrap(), bytemuck::cast_slice::<_, u8>(&doubled));
}

#[test]
fn uploads_into_reused_memory_wait_for_the_commands_that_used_it() {
    let device = device!(shared());
    let n = 5000;
    let total = upload(device, &vec![0.0; n]);
    for i in 0..300 {
        // Each round reuses the block that the round before freed, with its dispatch still pending.
        let x = upload(device, &vec![i as f32; n]);
        axpy(device, 1.0, &x, &total).unwrap();
    }
    assert_eq!(download(device, &total), vec![(299 * 300 / 2) as f32; n]);
}

/// Of all sizes, into one chunk and into several.
#[test]
fn uploads_that_come_again_allocate_nothing() {
    let Some(device) = any(|selector| selector) else { return };
    let bytes = |step: usize, size: usize| -> Vec<u8> {
        (0..size).map(|i| (i + i / 251 + 7 * step + size) as u8).collect()
    };
    let step = |step: usize| {
        let sizes = [SMALL_WRITE + 1, 300_001, CHUNK - 3, CHUNK, 3 * CHUNK + 5];
        let buffers = sizes.map(|size| device.upload("test", &bytes(step, size)).unwrap());
        device.synchronize().unwrap();
        buffers
    };
    (0..3).for_each(|i| drop(step(i)));
    device.profile(Profiling::Host).unwrap();
    (3..9).for_each(|i| drop(step(i)));
    let last = step(9);
    let profile = device.take_profile().unwrap();
    assert_eq!(profile.host.buffers, 0, "{profile}");
    for buffer in &last {
        assert!(device.download(buffer).unwrap() == bytes(9, buffer.bytes()), "{} bytes", buffer.bytes());
    }
}

#[test]
fn commands_run_in_order() {
    let device = device!(shared());
    let y = upload(device, &[1.0; 100]);
    let z = device.alloc("test", 400).unwrap();
    axpy(device, 1.0, &upload(device, &[2.0; 100]), &y).unwrap();
    device.copy(&y, &z).unwrap();
    device.fill_zero(&y).unwrap();
    axpy(device, 1.0, &z, &y).unwrap();
    axpy(device, 10.0, &y, &z).unwrap();
    device.write("test", &y, bytemuck::cast_slice(&[5.0f32; 100])).unwrap();
    axpy(device, 1.0, &y, &z).unwrap();
    assert_eq!(download(device, &y), [5.0; 100]);
    assert_eq!(download(device, &z), [38.0; 100]);
}

#[test]
fn thousands_of_dispatches_over_many_batches() {
    let device = device!(shared());
    let y = upload(device, &[0.0; 64]);
    let mut expected = 0.0f32;
    for i in 0..5000 {
        // Parameters of the wrong batch would show in the last digits of the sum.
        let a = (i % 97) as f32;
        increment(device, a, &y).unwrap();
        expected = expected * 0.5 + a;
    }
    assert_eq!(download(device, &y), [expected; 64]);
}

#[test]
fn large_parameters_fill_the_ring() {
    const SOURCE: &str = "
        struct Params { values: array<vec4<u32>, 1000> }
        @group(0) @binding(0) var<uniform> p: Params;
        @group(0) @binding(1) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(1) fn main() { y[0] += p.values[999].w; }";
    let device = device!(shared());
    let y = upload(device, &[0.0]);
    let kernel = Kernel::builtin("last", &[SOURCE], "main");
    for i in 0..50u32 {
        let mut params = [0u32; 4000];
        params[3999] = i;
        device.run(&kernel, &[Binding::Write(&y)], &params, [1, 1, 1]).unwrap();
    }
    assert_eq!(device.download(&y).unwrap(), 1225u32.to_le_bytes());
    let error = device.run(&kernel, &[Binding::Write(&y)], &[0u32; 5000], [1, 1, 1]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { op: "last", size: 20000, .. }), "{error}");
}

#[test]
fn memory_is_reused_and_released() {
    let Some(device) = any(|selector| selector) else { return };
    let id = |b: &Buffer| b.block().id;
    let first = device.alloc("test", 10_000).unwrap();
    let (second, clone) = (device.alloc("test", 10_000).unwrap(), first.clone());
    let (a, b) = (id(&first), id(&second));
    drop(first);
    assert_ne!(id(&device.alloc("test", 10_000).unwrap()), a, "a clone holds the block");
    drop((second, clone));
    // The lowest block first, whatever was freed last, and for every size of the class.
    assert_eq!(id(&device.alloc("test", 9_999).unwrap()), a);
    assert_eq!(device.memory().in_use, 0);
    assert!(device.memory().cached >= 20_000);

    let (x, y) = (device.alloc("test", 10_000).unwrap(), device.alloc("test", 10_000).unwrap());
    assert_eq!((id(&x), id(&y)), (a, b));
    axpy(&device, 0.0, &x, &y).unwrap();
    drop((x, y));
    device.release_memory().unwrap();
    let stats = device.memory();
    assert_eq!((stats.in_use, stats.cached), (0, 0));
    assert!(stats.peak >= 20_000);
    let fresh = device.alloc("test", 10_000).unwrap();
    assert!(id(&fresh) > b);
    assert_eq!(device.memory().in_use, size_class(10_000));
}

#[test]
fn released_memory_goes_back_to_the_driver() {
    let Some(device) = any(|selector| selector) else { return };
    let buffers = |device: &WgpuDevice| {
        let report = device.raw().0.generate_allocator_report()?;
        Some(report.total_allocated_bytes)
    };
    let before = buffers(&device);
    let (x, y) = (device.alloc("test", 8 << 20).unwrap(), device.alloc("test", 8 << 20).unwrap());
    axpy(&device, 1.0, &x, &y).unwrap();
    device.synchronize().unwrap();
    let during = buffers(&device);
    drop((x, y));
    device.release_memory().unwrap();
    device.synchronize().unwrap();
    let (Some(before), Some(during), Some(after)) = (before, during, buffers(&device)) else { return };
    assert!(during > before + (15 << 20));
    assert!(after < before + (1 << 20), "{before} {during} {after}");
}

#[test]
fn operands_may_share_memory_with_the_result() {
    let device = device!(shared());
    let x: Vec<f32> = (0..300).map(|i| i as f32).collect();
    let y = upload(device, &x);
    axpy(device, 1.0, &y, &y).unwrap();
    assert_eq!(download(device, &y), x.iter().map(|x| 2.0 * x).collect::<Vec<_>>());

    // Two halves of one allocation, apart and overlapping.
    let y = upload(device, &[1.0; 192]);
    let (low, high) = (y.slice(0, 256).unwrap(), y.slice(256, 512).unwrap());
    axpy(device, 1.0, &high.slice(0, 256).unwrap(), &low).unwrap();
    assert_eq!(download(device, &y), [[2.0; 64], [1.0; 64], [1.0; 64]].concat());
    axpy(device, 2.0, &y.slice(0, 512).unwrap(), &high).unwrap();
    assert_eq!(download(device, &y), [[2.0; 64], [5.0; 64], [3.0; 64]].concat());
    device.copy(&y.slice(0, 512).unwrap(), &high).unwrap();
    assert_eq!(download(device, &y), [[2.0; 64], [2.0; 64], [5.0; 64]].concat());
    device.copy(&y, &y).unwrap();
    device.fill_zero(&low).unwrap();
    assert_eq!(download(device, &high), [[2.0; 64], [5.0; 64]].concat());

    let twice = Kernel::builtin("twice", &["@compute @workgroup_size(1) fn main() {}"], "main");
    let writes = |a, b| device.run(&twice, &[Binding::Write(a), Binding::Write(b)], &(), [1, 1, 1]);
    writes(&low, &high).unwrap();
    assert!(matches!(writes(&y, &high), Err(Error::Kernel { kernel: "twice", .. })));
    device.synchronize().unwrap();
}

#[test]
fn odd_sizes_and_empty_buffers() {
    let device = device!(shared());
    for n in [0usize, 1, 2, 3, 5, 255, 256, 257, 1023] {
        let bytes: Vec<u8> = (0..n).map(|i| i as u8).collect();
        let x = device.upload("test", &bytes).unwrap();
        assert_eq!((x.bytes(), device.download(&x).unwrap()), (n, bytes.clone()));
        let y = device.alloc("test", n).unwrap();
        device.fill_zero(&y).unwrap();
        assert_eq!(device.download(&y).unwrap(), vec![0; n]);
        device.copy(&x, &y).unwrap();
        assert_eq!(device.download(&y).unwrap(), bytes);
    }
    let empty = device.alloc("test", 0).unwrap();
    axpy(device, 1.0, &empty, &empty).unwrap();
    // Bound, even so.
    let (one, params) = (upload(device, &[1.0]), Params { n: 0, a: 1.0, pad: [0; 2] });
    let bindings = [Binding::Read(&empty), Binding::Write(&one)];
    device.run(&axpy_kernel(DType::F32), &bindings, &params, [1, 1, 1]).unwrap();
    assert_eq!(download(device, &one), [1.0]);
    // Nothing, from the end of a block on.
    let end = device.alloc("test", 256).unwrap().slice(256, 0).unwrap();
    device
        .run(&axpy_kernel(DType::F32), &[Binding::Read(&end), Binding::Write(&one)], &params, [1, 1, 1])
        .unwrap();
    assert_eq!(download(device, &one), [1.0]);
}

#[test]
fn large_transfers_go_in_pieces() {
    let device = device!(shared());
    let n = (READ_CHUNK * 2 + 1000) / 4;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let y = upload(device, &x);
    assert_eq!(download(device, &y), x);
    drop(y);
    device.release_memory().unwrap();
}

#[test]
fn bad_input_is_refused_and_does_no_harm() {
    let device = device!(shared());
    let y = upload(device, &[1.0; 64]);

    let kernel = Kernel::builtin("broken", &["fn main( {"], "main");
    let error = device.run(&kernel, &[Binding::Write(&y)], &(), [1, 1, 1]).unwrap_err();
    assert!(
        matches!(&error, Error::Kernel { kernel: "broken", reason, .. } if reason.contains("expected")),
        "{error}"
    );
    let kernel = Kernel::builtin("no entry", &["@compute @workgroup_size(1) fn f() {}"], "main");
    let error = device.run(&kernel, &[], &(), [1, 1, 1]).unwrap_err();
    assert!(matches!(error, Error::Kernel { kernel: "no entry", .. }), "{error}");
    // The kernel binds more than it is given.
    let kernel = axpy_kernel(DType::F32);
    let error = device.run(&kernel, &[Binding::Write(&y)], &[0u32; 4], [1, 1, 1]).unwrap_err();
    assert!(matches!(error, Error::Kernel { kernel: "axpy", .. }), "{error}");
    for constant in [Constant::F32(f32::NAN), Constant::Type(DType::BF16)] {
        let kernel = Kernel::builtin("constant", &[""], "main").with("C", constant);
        let error = device.run(&kernel, &[], &(), [1, 1, 1]).unwrap_err();
        assert!(matches!(error, Error::Kernel { kernel: "constant", .. }), "{error}");
    }

    let limit = device.max_buffer_bytes();
    let error = device.alloc("huge", limit + 1).unwrap_err();
    assert!(matches!(error, Error::TooLarge { op: "huge", .. }), "{error}");
    assert!(matches!(device.alloc("huge", usize::MAX), Err(Error::TooLarge { .. })));
    let error = device.run(&kernel, &[Binding::Read(&y)], &(), [1, 1 << 20, 1]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { op: "axpy", .. }), "{error}");
    let many: Vec<Binding<'_>> = (0..200).map(|_| Binding::Read(&y)).collect();
    assert!(matches!(device.run(&kernel, &many, &(), [1, 1, 1]), Err(Error::Kernel { .. })));

    assert!(y.slice(4, 8).is_err() && y.slice(0, 6).is_err() && y.slice(256, 4).is_err());
    assert!(y.slice(0, usize::MAX).is_err() && y.slice(256, 0).is_ok());
    assert!(matches!(device.write("test", &y, &[0; 4]), Err(Error::Argument { .. })));
    assert!(matches!(device.download_into(&y, &mut [0; 4]), Err(Error::Argument { .. })));
    assert!(matches!(device.copy(&y, &y.slice(0, 4).unwrap()), Err(Error::Argument { .. })));

    let foreign = upload(device!(checked()), &[1.0; 64]);
    let error = axpy(device, 1.0, &foreign, &y).unwrap_err();
    assert!(matches!(error, Error::DeviceMismatch { op: "axpy", .. }), "{error}");
    assert!(matches!(device.download(&foreign), Err(Error::DeviceMismatch { .. })));

    axpy(device, 1.0, &upload(device, &[1.0; 64]), &y).unwrap();
    assert_eq!(download(device, &y), [2.0; 64]);
}

#[test]
fn constants_reach_the_kernel_exactly() {
    const SOURCE: &str = "
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(1) fn main() { if YES { y[0] = X; y[1] = T(N); } }";
    let device = device!(shared());
    for x in [0.0, -0.1, 1e-5, f32::MAX, f32::MIN_POSITIVE, 1e20, 1.0 / 3.0, -16777216.0] {
        let y = upload(device, &[0.0; 2]);
        let kernel = Kernel::builtin("constants", &[SOURCE], "main")
            .with("X", x)
            .with("N", 7u32)
            .with("YES", true)
            .with("T", DType::F32);
        device.run(&kernel, &[Binding::Write(&y)], &(), [1, 1, 1]).unwrap();
        assert_eq!(download(device, &y), [x, 7.0]);
    }
}

#[test]
fn threads_share_a_device() {
    let device = device!(shared());
    std::thread::scope(|scope| {
        for t in 0..4 {
            scope.spawn(move || {
                for round in 0..20 {
                    let y = upload(device, &[t as f32; 256]);
                    for _ in 0..30 {
                        let one = upload(device, &[1.0; 256]);
                        axpy(device, 1.0, &one, &y).unwrap();
                    }
                    assert_eq!(download(device, &y), [t as f32 + 30.0; 256], "thread {t} round {round}");
                }
            });
        }
    });
}

#[test]
fn the_portable_device_has_the_defaults() {
    let Some(device) = any(Selector::portable) else { return };
    assert!(!device.has_f16() && !device.has_subgroups());
    assert_eq!(device.limits().max_compute_invocations_per_workgroup, 256);
    let y = upload(&device, &[1.0; 64]);
    axpy(&device, 1.0, &upload(&device, &[1.0; 64]), &y).unwrap();
    assert_eq!(download(&device, &y), [2.0; 64]);
}

#[test]
fn a_lost_device_says_so_and_nothing_panics() {
    let Some(device) = any(|selector| selector) else { return };
    let y = upload(&device, &[1.0; 64]);
    axpy(&device, 1.0, &upload(&device, &[1.0; 64]), &y).unwrap();
    device.raw().0.destroy();
    // wgpu may tell at the first call or only at the first that submits.
    let _ = device.synchronize();
    for _ in 0..2 {
        let lost =
            |result: Result<()>| assert!(matches!(result, Err(Error::DeviceLost { .. })), "{result:?}");
        lost(device.download(&y).map(drop));
        lost(device.alloc("test", 1 << 20).map(drop));
        lost(axpy(&device, 1.0, &y, &y));
        lost(device.flush());
        lost(device.release_memory());
    }
}

#[test]
fn a_device_may_be_dropped_in_the_middle() {
    let Some(device) = any(|selector| selector) else { return };
    let y = upload(&device, &[1.0; 64]);
    axpy(&device, 1.0, &y, &y).unwrap();
    let (x, z) = (device.alloc("test", 256).unwrap(), y.clone());
    axpy(&device, 1.0, &x, &z).unwrap();
    drop(device);
    drop((x, y, z));
}

#[test]
fn beside_a_users_own_wgpu_code() {
    let Some(other) = any(|selector| selector) else { return };
    let (raw, queue) = other.raw();
    let device = WgpuDevice::from_parts(raw.clone(), queue.clone()).unwrap();
    assert_ne!(device, other);
    assert_eq!(device, device.clone());
    let y = upload(&device, &[1.0; 64]);
    axpy(&device, 1.0, &upload(&device, &[1.0; 64]), &y).unwrap();
    device.flush().unwrap();
    let (buffer, offset) = y.raw();
    let mut encoder = raw.create_command_encoder(&Default::default());
    encoder.clear_buffer(buffer, offset, Some(128));
    queue.submit([encoder.finish()]);
    assert_eq!(download(&device, &y), [[0.0; 32], [2.0; 32]].concat());
}

/// A software adapter's memory is the process's, which a shell can limit.
#[cfg(unix)]
#[test]
fn out_of_memory_is_typed_and_leaves_the_device_usable() {
    const CHILD: &str = "TILEWRIGHT_TEST_OUT_OF_MEMORY";
    let device = device!(shared());
    if std::env::var_os(CHILD).is_none() {
        if device.is_software() {
            let test = "out_of_memory_is_typed_and_leaves_the_device_usable";
            let status = std::process::Command::new("sh")
                .args(["-c", "ulimit -v 3000000 && exec \"$0\" \"$@\""])
                .arg(std::env::current_exe().unwrap())
                .args([test, "--nocapture"])
                .env(CHILD, "1")
                .status();
            assert!(status.unwrap().success());
        }
        return;
    }
    let y = upload(device, &[1.0; 64]);
    let mut host = vec![7; 64 << 20];
    let mut hoard = Vec::new();
    let error = loop {
        match device.alloc("hoard", 64 << 20) {
            Ok(buffer) => hoard.push(buffer),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert!(matches!(device.alloc("hoard", 64 << 20), Err(Error::OutOfMemory { .. })));
    // Free memory of another size class is given back to serve this one.
    hoard.truncate(hoard.len() - 4);
    assert_eq!(device.memory().cached, 4 * (64 << 20));
    hoard.push(device.alloc("hoard", 100 << 20).unwrap());
    assert_eq!(device.memory().cached, 0);
    // What is written and read takes host memory, which is the same here.
    while let Ok(buffer) = device.alloc("hoard", READ_CHUNK / 2) {
        hoard.push(buffer);
    }
    // What is left is enough for small pieces, if those that are done are given back, and too little for large ones.
    hoard.pop();
    device.write("write", &hoard[0], &host).unwrap();
    let error = device.download_into(&hoard[0], &mut host).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    hoard.truncate(1);
    assert_ne!(device.memory().cached, 0);
    device.download_into(&hoard[0], &mut host).unwrap();
    assert!(host.iter().all(|&byte| byte == 7));
    drop(hoard);
    device.release_memory().unwrap();
    axpy(device, 1.0, &upload(device, &[1.0; 64]), &y).unwrap();
    assert_eq!(download(device, &y), [2.0; 64]);
}

#[test]
fn a_batch_that_wgpu_refuses_is_reported_once() {
    // A device of its own: the other commands of the batch are lost.
    let Some(device) = any(|selector| selector) else { return };
    const SOURCE: &str = "
        @group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>, 1000>;
        @compute @workgroup_size(1) fn main() { y[999].x = 1.0; }";
    let y = upload(&device, &[1.0; 64]);
    device.flush().unwrap();
    let kernel = Kernel::new("too small", &[SOURCE], "main");
    device.run(&kernel, &[Binding::Write(&y)], &(), [1, 1, 1]).unwrap();
    let error = device.flush().unwrap_err();
    assert!(matches!(&error, Error::Kernel { kernel: "too small", .. }), "{error}");
    increment(&device, 1.0, &y).unwrap();
    device.run(&kernel, &[Binding::Write(&y)], &(), [1, 1, 1]).unwrap();
    let error = device.download(&y).unwrap_err();
    assert!(error.to_string().contains("one of increment, too small: "), "{error}");
    axpy(&device, 1.0, &upload(&device, &[1.0; 64]), &y).unwrap();
    assert_eq!(download(&device, &y), [2.0; 64]);
}

#[test]
fn a_profile_counts_and_times() {
    // Devices of their own: everything on a device is counted.
    let Some(device) = any(|selector| selector) else { return };
    let x = upload(&device, &[1.0; 64]);
    let steps = |n: usize| (0..n).for_each(|_| increment(&device, 1.0, &x).unwrap());
    device.profile(Profiling::Host).unwrap();
    steps(BATCHES);
    let profile = device.take_profile().unwrap();
    let submits = BATCHES as u64 / u64::from(Batch::of(device.0.adapter.device_type).commands);
    assert_eq!((profile.host.dispatches, profile.host.submits), (BATCHES as u64, submits), "{profile}");
    // One, and once more after the first batch that compiled nothing.
    assert_eq!(
        (profile.host.bind_groups, profile.host.compiled, profile.host.buffers),
        (2, 1, 0),
        "{profile}"
    );
    assert!(
        !profile.host.recording.is_zero() && !profile.host.submitting.is_zero() && profile.kernels.is_empty()
    );
    // Taken is taken, and the rest is still to be submitted.
    device.synchronize().unwrap();
    let again = device.take_profile().unwrap().host;
    assert_eq!((again.dispatches, again.submits), (0, 1), "{again}");
    let again = device.take_profile().unwrap().host;
    assert!(again.submits == 0 && again.submitting.is_zero() && again.recording.is_zero(), "{again}");

    match device.profile(Profiling::Kernels) {
        Err(Error::NotSupported { .. }) => println!("NOT RUN: {device} has no timestamps"),
        timed => {
            timed.unwrap();
            let (one, n) = (upload(&device, &[0.0; 64]), 1 << 20);
            let large = device.upload("test", &vec![0; 4 * n]).unwrap();
            steps(BATCHES);
            (0..3).for_each(|_| increment(&device, 1.0, &large).unwrap());
            let kernel = axpy_kernel(DType::F32).work(Work { flops: 128, bytes: None });
            let params = Params { n: 64, a: 1.0, pad: [0; 2] };
            device.run(&kernel, &[Binding::Read(&one), Binding::Write(&x)], &params, [1, 1, 1]).unwrap();
            let profile = device.take_profile().unwrap();
            assert!(profile.host.recording < std::time::Duration::from_secs(60), "{profile}");
            let [increments, axpys] = &profile.kernels[..] else { panic!("{profile}") };
            assert_eq!((increments.kernel.as_str(), axpys.kernel.as_str()), ("increment/main", "axpy/main"));
            assert_eq!((increments.calls, increments.flops), (BATCHES as u64 + 3, 0));
            assert_eq!(increments.bytes, (256 * BATCHES + 12 * n) as u64);
            assert_eq!((axpys.calls, axpys.flops, axpys.bytes), (1, 128, 512));
            assert!(increments.time > axpys.time && !axpys.time.is_zero(), "{profile}");
        }
    }
    device.profile(Profiling::Off).unwrap();
    steps(3);
    let profile = device.take_profile().unwrap();
    assert!(profile.kernels.is_empty() && profile.host.recording.is_zero(), "{profile}");
    let Some(portable) = any(Selector::portable) else { return };
    assert!(matches!(portable.profile(Profiling::Kernels), Err(Error::NotSupported { .. })));
}

#[test]
fn much_work_is_submitted_at_once() {
    let Some(device) = any(|selector| selector) else { return };
    let (x, params) = (upload(&device, &[1.0; 64]), Params { n: 64, a: 1.0, pad: [0; 2] });
    device.profile(Profiling::Host).unwrap();
    for (flops, submits) in [(1, 0), (u64::MAX, 1), (1, 0)] {
        let kernel = axpy_kernel(DType::F32).work(Work { flops, bytes: None });
        device.run(&kernel, &[Binding::Read(&x), Binding::Write(&x)], &params, [1, 1, 1]).unwrap();
        assert_eq!(device.take_profile().unwrap().host.submits, submits);
    }
}

/// Threads that measure at once wait for each other, and leave nothing behind.
#[test]
fn measurements_take_turns() {
    let Some(device) = any(|selector| selector) else { return };
    let large = device.upload("test", &vec![0; 4 << 20]).unwrap();
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                for _ in 0..5 {
                    let time = device.time_of(|| increment(&device, 1.0, &large)).unwrap();
                    assert!(!time.is_zero());
                }
            });
        }
        for _ in 0..300 {
            increment(&device, 1.0, &large.slice(0, 256).unwrap()).unwrap();
        }
    });
    assert!(device.0.recorder.lock().timer.is_none());
}

/// What is timed is one thread's, whatever others record meanwhile.
#[test]
fn measurements_are_of_one_thread() {
    let Some(device) = any(|selector| selector) else { return };
    let (gpu, x) = (&device.0.gpu, upload(&device, &[1.0; 64]));
    let timer = match Timer::of_this_thread(gpu) {
        Err(Error::NotSupported { .. }) => return println!("NOT RUN: {device} has no timestamps"),
        timer => timer.unwrap(),
    };
    device.0.recorder.lock().set_timer(gpu, Some(timer)).1.unwrap();
    increment(&device, 1.0, &x).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| (0..BATCHES).for_each(|_| increment(&device, 1.0, &x).unwrap()));
    });
    increment(&device, 1.0, &x).unwrap();
    let (timer, submitted) = device.0.recorder.lock().set_timer(gpu, None);
    submitted.unwrap();
    let costs = timer.expect("it was set").take(gpu).unwrap();
    assert_eq!(costs.iter().map(|cost| cost.calls).collect::<Vec<_>>(), [2]);
}

/// A trial may fail. What fails beside it may be somebody else's, who is to hear of it.
#[test]
fn attempts_answer_for_themselves() {
    let Some(device) = any(|selector| selector) else { return };
    let refused = || {
        const SOURCE: &str = "
            @group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>, 1000>;
            @compute @workgroup_size(1) fn main() { y[999].x = 1.0; }";
        let kernel = Kernel::new("too small", &[SOURCE], "main");
        device.run(&kernel, &[Binding::Write(&upload(&device, &[1.0; 64]))], &(), [1, 1, 1])
    };
    refused().unwrap();
    let error = device.attempt(|| -> Result<()> { panic!("it is not asked") }).unwrap_err();
    assert!(matches!(&error, Error::Kernel { kernel: "too small", .. }), "{error}");
    let broken = || device.run(&Kernel::new("broken", &["nonsense"], "main"), &[], &(), [1, 1, 1]);
    assert!(matches!(device.attempt(broken), Ok(None)));
    // In a batch there are others' commands, too.
    assert!(matches!(device.attempt(refused), Err(Error::Kernel { kernel: "too small", .. })));
    let stray = || {
        let (source, description) = ("stray".into(), "stray".to_string());
        device.0.gpu.faults.set_stray(wgpu::Error::Validation { source, description });
        device.flush()
    };
    assert!(matches!(device.attempt(stray), Err(Error::Kernel { kernel: "(uncaptured)", .. })));
    assert!(matches!(device.attempt(|| Ok(7)), Ok(Some(7))));
    let absent = || Err::<(), _>(Error::NoDevice { requested: "x".into(), reason: "y".into() });
    assert!(matches!(device.attempt(absent), Err(Error::NoDevice { .. })));
}

/// Dispatches of more than two batches.
const BATCHES: usize = 600;

#[test]
fn dispatches_that_come_again_stay_prepared() {
    let Some(device) = any(|selector| selector) else { return };
    let all = device.alloc("test", (prepared::KEPT + BATCHES) * 256).unwrap();
    device.fill_zero(&all).unwrap();
    device.profile(Profiling::Host).unwrap();
    // Halves and increments the parts from `first` on, and says how many of these dispatches were new.
    let step = |first: usize, count: usize| {
        for i in first..first + count {
            increment(&device, 1.0, &all.slice(i * 256, 256).unwrap()).unwrap();
        }
        device.take_profile().unwrap().host.bind_groups as usize
    };
    assert_eq!(step(0, BATCHES), BATCHES);
    // A kernel was compiled: all are made anew, once, after a batch that needs none.
    assert_eq!(step(0, BATCHES) + step(0, BATCHES), BATCHES);
    // In another order, and as before.
    assert_eq!((step(200, 50), step(0, BATCHES), step(0, BATCHES)), (0, 0, 0));
    // So many others that there is a sweep, which leaves all, and a second, which leaves what came since.
    assert_eq!(step(BATCHES, prepared::KEPT), prepared::KEPT);
    for _ in 0..2 {
        step(0, BATCHES);
        assert_eq!(step(0, BATCHES), 0);
    }
    let sums = download(&device, &all);
    let turns = |part: usize| {
        if part >= BATCHES {
            1
        } else if (200..250).contains(&part) {
            10
        } else {
            9
        }
    };
    assert!(sums.iter().enumerate().all(|(i, &sum)| sum == 2.0 - 0.5f32.powi(turns(i / 64) - 1)));
}

#[test]
fn devices_and_buffers_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<WgpuDevice>();
    crosses::<Buffer>();
}

#[test]
fn what_is_not_there_is_not_opened() {
    let error = WgpuDevice::new(&"no such adapter".into()).unwrap_err();
    let Error::NoDevice { requested, reason } = &error else { panic!("{error}") };
    assert!(requested.contains("no such adapter"));
    assert!(WgpuDevice::adapters().iter().all(|adapter| reason.contains(&adapter.to_string())), "{error}");
    assert!(matches!(WgpuDevice::new(&"999".into()), Err(Error::NoDevice { .. })));
    if let Ok(gpu) = WgpuDevice::new(&Selector::default()) {
        assert!(!gpu.is_software());
    }
}

/// What a dispatch costs the host. `cargo test --release -- --ignored --nocapture host_cost`
#[test]
#[ignore = "measures time"]
fn host_cost_of_a_dispatch() {
    let device = device!(shared());
    for pairs in [1, 64] {
        let pairs: Vec<(Buffer, Buffer)> =
            (0..pairs).map(|_| (upload(device, &[0.0; 64]), upload(device, &[0.0; 64]))).collect();
        let (mut recording, mut submitting, mut total) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
        for _ in 0..50 {
            device.synchronize().unwrap();
            let start = Instant::now();
            for (x, y) in pairs.iter().cycle().take(127) {
                axpy(device, 1.0, x, y).unwrap();
            }
            let recorded = start.elapsed().as_secs_f64();
            device.flush().unwrap();
            let submitted = start.elapsed().as_secs_f64();
            device.synchronize().unwrap();
            recording = recording.min(recorded);
            submitting = submitting.min(submitted - recorded);
            total = total.min(start.elapsed().as_secs_f64());
        }
        let [recording, submitting, total] = [recording, submitting, total].map(|s| s / 127.0 * 1e6);
        println!(
            "{device}, {} pairs of buffers, us a dispatch: recording {recording:.2}, submitting {submitting:.2}, \
             until it is done {total:.2}",
            pairs.len()
        );
    }
}
