//! Devices to run on, and reproducible values.

use std::io::Write;
use std::sync::{LazyLock, Mutex, MutexGuard};

use tilewright::random::Stream;
use tilewright::{DType, Device, Result, Tensor};

/// Every device the suite runs on: the CPU, and through wgpu the first GPU, or else a software adapter.
///
/// That adapter is opened with all it has, and as the weakest conforming adapter would be, because kernels take
/// other paths without f16 and without subgroups; a software adapter also with the kernels that GPUs get. All are in
/// checked mode, where a stray access of a kernel shows as a wrong number and not as a crash.
///
/// Says on stderr what ran and what did not. A device named in `TILEWRIGHT_REQUIRE` (separated by
/// commas) that is absent is a failure.
pub fn devices() -> &'static [Device] {
    // Each test has a thread of its own.
    thread_local!(static SET: Taken = Taken::new());
    SET.with(|set| set.devices)
}

/// [`devices`], opened once, and how many tests use them now.
struct Set {
    devices: &'static [Device],
    tests: usize,
}

/// A software adapter compiles shaders where it runs them, one after the other on a device: tests that run side by side would
/// wait for each other's. So they get sets of their own there, as long as there are not more than this many.
const MOST_SETS: usize = 4;

static SETS: Mutex<Vec<Set>> = Mutex::new(Vec::new());

fn sets() -> MutexGuard<'static, Vec<Set>> {
    // A test that fails to open what is required leaves nothing half done.
    SETS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A set as one test has it.
struct Taken {
    devices: &'static [Device],
    index: usize,
}

impl Taken {
    fn new() -> Self {
        // Held while devices open: concurrent creation has crashed drivers.
        let mut sets = sets();
        let more = match &sets[..] {
            [] => true,
            all => {
                all.len() < MOST_SETS && is_software(all[0].devices) && all.iter().all(|set| set.tests > 0)
            }
        };
        if more {
            let devices = open(sets.is_empty()).leak();
            sets.push(Set { devices, tests: 0 });
        }
        let least = sets.iter_mut().enumerate().min_by_key(|(_, set)| set.tests);
        let (index, set) = least.expect("the first one is open");
        set.tests += 1;
        Taken { devices: set.devices, index }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        sets()[self.index].tests -= 1;
    }
}

/// How [`open_wgpu`] opens its devices.
const WGPU: [&str; 4] = [
    "wgpu",
    "wgpu with WebGPU's defaults",
    "wgpu with GPU kernels",
    "wgpu with WebGPU's defaults and GPU kernels",
];

/// The first of [`devices`] that runs the kernels for GPUs: a software adapter told to, or a GPU. None without wgpu.
#[cfg(feature = "wgpu")]
pub fn gpu_kernels() -> Option<&'static Device> {
    devices().get(3).or(devices().get(1))
}

/// All of [`devices`] but the CPU.
pub fn gpus() -> &'static [Device] {
    &devices()[1..]
}

/// The devices of one set; the first says what it has.
fn open(first: bool) -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    let mut report = vec!["RUN on cpu".to_string()];
    let mut present = vec!["cpu"];
    match open_wgpu() {
        Ok(found) => {
            report.extend(
                found.iter().zip(WGPU).map(|(device, how)| format!("RUN on {device}, {how}, checked")),
            );
            if found.iter().any(has_matrices) {
                present.push("cooperative");
            }
            devices.extend(found);
            present.push("wgpu");
        }
        Err(reason) => report.push(format!("NOT RUN on wgpu: {reason}")),
    }
    // Straight to stderr: the harness captures what the print macros write.
    for line in report.iter().filter(|_| first) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
    // Those of CUDA are `cuda_devices`' to find.
    let wanted =
        required.split(',').map(str::trim).filter(|name| !name.is_empty() && !name.starts_with("cuda"));
    for name in wanted {
        assert!(present.contains(&name), "TILEWRIGHT_REQUIRE names {name}, which is not there");
    }
    devices
}

/// All of [`devices`] and of [`cuda_devices`].
pub fn every_device() -> impl Iterator<Item = &'static Device> {
    devices().iter().chain(cuda_devices())
}

/// The CUDA devices: the simulator, with all its checks, and the first GPU that CUDA knows, as it is and as if it were as
/// small as the simulator's. Said on stderr and required by name (`cuda-sim`, or `cuda` for the GPU in both ways) like
/// [`devices`].
pub fn cuda_devices() -> &'static [Device] {
    static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
        let candidates =
            [("cuda-sim", open_cuda_sim()), ("cuda", open_cuda()), ("cuda, small", open_small_cuda())];
        let mut devices = Vec::new();
        for (name, opened) in candidates {
            let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
            // In the variable a comma ends a name.
            let named = name.split(',').next();
            let required = required.split(',').any(|wanted| Some(wanted.trim()) == named);
            let line = match opened {
                Ok(device) => {
                    devices.push(device);
                    format!("RUN on {name}")
                }
                Err(reason) if required => {
                    panic!("TILEWRIGHT_REQUIRE asks for {name}, which is not there: {reason}")
                }
                Err(reason) => format!("NOT RUN on {name}: {reason}"),
            };
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        devices
    });
    &DEVICES
}

/// Small products fill so many multiprocessors: so every tile is chosen by some case.
#[cfg(feature = "cuda")]
pub const FEW_MULTIPROCESSORS: u32 = 2;

/// A simulated GPU.
#[cfg(feature = "cuda-sim")]
fn open_cuda_sim() -> std::result::Result<Device, String> {
    use tilewright::device::cuda::{CudaDevice, sim::Options};
    let options = Options { keep_counters: true, ..Options::default() };
    CudaDevice::simulated(options, FEW_MULTIPROCESSORS).map(Device::Cuda).map_err(|error| error.to_string())
}

/// Another simulated GPU, which keeps its counters; none where [`cuda_devices`] has none, which then has said so.
#[cfg(feature = "cuda-sim")]
pub fn simulated(
    architecture: tilewright::device::cuda::sim::Architecture,
    multiprocessors: u32,
) -> Option<Device> {
    use tilewright::device::cuda::{CudaDevice, sim::Options};
    let is_simulated = |device: &Device| matches!(device, Device::Cuda(cuda) if cuda.is_simulated());
    cuda_devices().iter().find(|device| is_simulated(device))?;
    let options = Options { architecture, keep_counters: true, ..Options::default() };
    Some(Device::Cuda(CudaDevice::simulated(options, multiprocessors).unwrap()))
}

#[cfg(not(feature = "cuda-sim"))]
fn open_cuda_sim() -> std::result::Result<Device, String> {
    Err("built without the feature `cuda-sim`".into())
}

#[cfg(feature = "cuda")]
fn open_cuda() -> std::result::Result<Device, String> {
    Device::cuda(0).map_err(|error| error.to_string())
}

/// The GPU once more, whose ops plan as on the simulator's.
#[cfg(feature = "cuda")]
pub fn open_small_cuda() -> std::result::Result<Device, String> {
    let device = open_cuda()?;
    if let Device::Cuda(cuda) = &device {
        cuda.set_multiprocessors(FEW_MULTIPROCESSORS);
    }
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda() -> std::result::Result<Device, String> {
    Err("built without the feature `cuda`".into())
}

#[cfg(not(feature = "cuda"))]
fn open_small_cuda() -> std::result::Result<Device, String> {
    open_cuda()
}

/// A short name for messages, which tells the devices of one adapter or GPU apart.
pub fn label(device: &Device) -> String {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return format!("{device}, {} multiprocessors", cuda.multiprocessors());
    }
    match devices().iter().position(|d| d == device) {
        Some(0) => "cpu".into(),
        Some(i) => WGPU[i - 1].into(),
        _ => device.to_string(),
    }
}

#[cfg(feature = "wgpu")]
fn open_wgpu() -> std::result::Result<Vec<Device>, String> {
    use tilewright::device::wgpu::{AdapterChoice, Selector, WgpuDevice};
    let open = |how: &dyn Fn(Selector) -> Selector| {
        WgpuDevice::new(&how(AdapterChoice::Gpu.into()))
            .or_else(|_| WgpuDevice::new(&how(AdapterChoice::Software.into())))
            .map(Device::Wgpu)
            .map_err(|error| error.to_string())
    };
    let mut devices = vec![open(&Selector::checked)?, open(&|selector| selector.checked().portable())?];
    // A GPU has its kernels anyway.
    if is_software(&devices) {
        devices.push(open(&|selector| selector.checked().gpu_kernels())?);
        devices.push(open(&|selector| selector.checked().portable().gpu_kernels())?);
    }
    Ok(devices)
}

#[cfg(feature = "wgpu")]
fn is_software(devices: &[Device]) -> bool {
    devices.iter().any(|device| matches!(device, Device::Wgpu(device) if device.is_software()))
}

#[cfg(not(feature = "wgpu"))]
fn is_software(_: &[Device]) -> bool {
    false
}

/// Whether there are cooperative matrices that kernels could use.
#[cfg(feature = "wgpu")]
pub fn has_matrices(device: &Device) -> bool {
    use tilewright::device::wgpu::CooperativeMatrices;
    matches!(device, Device::Wgpu(device) if device.cooperative_matrices() != CooperativeMatrices::Absent)
}

#[cfg(not(feature = "wgpu"))]
fn has_matrices(_: &Device) -> bool {
    false
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu() -> std::result::Result<Vec<Device>, String> {
    Err("built without the feature `wgpu`".into())
}

/// One more device on the adapter of [`devices`], opened as `how` says; none without wgpu.
#[cfg(feature = "wgpu")]
pub fn another_wgpu(
    how: impl Fn(tilewright::device::wgpu::Selector) -> tilewright::device::wgpu::Selector,
) -> Option<Device> {
    use tilewright::device::wgpu::{AdapterChoice, WgpuDevice};
    let Some(Device::Wgpu(first)) = devices().get(1) else { return None };
    let choice = if first.is_software() { AdapterChoice::Software } else { AdapterChoice::Gpu };
    Some(Device::Wgpu(WgpuDevice::new(&how(choice.into())).expect("the adapter opens once more")))
}

/// Runs `f` with the device's random numbers at stream `offset` of seed 7. A generator belongs to its
/// device, not to a thread: so everything random in this process takes its turn here.
pub fn seeded<T>(device: &Device, offset: u64, f: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    device.set_generator(Stream { seed: 7, offset });
    f()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): test data that does not come from the code under test.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    /// A generator of its own for each name.
    pub fn named(name: &str) -> Self {
        Rng::new(
            name.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3)),
        )
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// On [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, mean 0 and variance 1, within (-3.5, 3.5): the sum of four uniforms.
    pub fn normal(&mut self) -> f64 {
        ((0..4).map(|_| self.uniform()).sum::<f64>() - 2.0) * 3f64.sqrt()
    }
}

/// Normal values of `shape` as f64 on the CPU.
pub fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = Rng::new(seed);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A tensor of `dtype` on `device` with these CPU values.
pub fn place(x: &Tensor, dtype: DType, device: &Device) -> Result<Tensor> {
    x.to_dtype(dtype)?.to_device(device)
}

/// The largest absolute difference; NaN differs from everything but NaN.
pub fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let one = |(&a, &b): (&f64, &f64)| match a == b || (a.is_nan() && b.is_nan()) {
        true => 0.0,
        false if (a - b).is_nan() => f64::INFINITY,
        false => (a - b).abs(),
    };
    a.iter().zip(b).map(one).fold(0.0, f64::max)
}

/// The largest magnitude.
pub fn magnitude(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// The bits of all values.
pub fn bits(x: &Tensor) -> Vec<u64> {
    x.to_vec::<f64>().unwrap().iter().map(|x| x.to_bits()).collect()
}
