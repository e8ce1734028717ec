//! Which adapter to open, and how.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use parking_lot::Mutex;

use super::tuning::Matrices;
use crate::{Error, Result};

/// In a workgroup, of WebGPU's defaults.
const MOST_INVOCATIONS: u32 = 256;

/// Which of the machine's adapters to take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The first real GPU: discrete before integrated before virtual. Never a software adapter.
    #[default]
    Gpu,
    /// The first adapter that runs on the CPU, such as Mesa's llvmpipe.
    Software,
    /// The adapter with this index in [`WgpuDevice::adapters`](super::WgpuDevice::adapters).
    Index(usize),
    /// The first adapter, real GPUs before software, whose name, driver or backend contains this,
    /// whatever the case.
    Name(String),
}

impl fmt::Display for AdapterChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdapterChoice::Gpu => f.write_str("a GPU through wgpu"),
            AdapterChoice::Software => f.write_str("a software adapter through wgpu"),
            AdapterChoice::Index(index) => write!(f, "wgpu adapter {index}"),
            AdapterChoice::Name(name) => write!(f, "a wgpu adapter named `{name}`"),
        }
    }
}

/// What [`WgpuDevice::new`](super::WgpuDevice::new) opens.
///
/// Text reads as a choice of adapter: `""`, `"auto"` and `"gpu"` the first real GPU, `"software"` or
/// `"cpu"` a software adapter, a number an index, anything else a part of the name (`"nvidia"`,
/// `"llvmpipe"`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Which adapter.
    pub adapter: AdapterChoice,
    /// Compiles every kernel with bounds and division checks and zeroed workgroup memory: slower,
    /// and a kernel's stray access does no harm. `TILEWRIGHT_CHECKED=1` turns it on for every device.
    pub checked: bool,
    /// Asks for WebGPU's default limits and no features, whatever the adapter has: what the weakest
    /// conforming adapter gives.
    pub portable: bool,
    /// Asks for bindings of at most so many bytes, where the adapter has larger ones: larger tensors are then used in
    /// windows, as on adapters that have no more.
    pub binding_bytes: Option<u64>,
    /// Launches the kernels that are for GPUs on a software adapter too, which runs them slower than its own: to test them.
    pub gpu_kernels: bool,
}

impl Selector {
    /// The same selection in checked mode.
    pub fn checked(mut self) -> Self {
        self.checked = true;
        self
    }

    /// The same selection with no more than WebGPU's defaults.
    pub fn portable(mut self) -> Self {
        self.portable = true;
        self
    }

    /// The same selection with bindings of at most so many bytes.
    pub fn binding_bytes(mut self, bytes: u64) -> Self {
        self.binding_bytes = Some(bytes);
        self
    }

    /// The same selection with the kernels that are for GPUs.
    pub fn gpu_kernels(mut self) -> Self {
        self.gpu_kernels = true;
        self
    }
}

impl From<AdapterChoice> for Selector {
    fn from(adapter: AdapterChoice) -> Self {
        Selector { adapter, ..Selector::default() }
    }
}

impl From<&str> for Selector {
    fn from(text: &str) -> Self {
        let text = text.trim();
        let adapter = match text.to_ascii_lowercase().as_str() {
            "" | "auto" | "gpu" => AdapterChoice::Gpu,
            "software" | "cpu" => AdapterChoice::Software,
            _ => text.parse().map_or_else(|_| AdapterChoice::Name(text.to_string()), AdapterChoice::Index),
        };
        adapter.into()
    }
}

impl FromStr for Selector {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        Ok(text.into())
    }
}

/// One adapter of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterDescription {
    /// What [`AdapterChoice::Index`] takes.
    pub index: usize,
    /// The hardware's name, from its driver.
    pub name: String,
    /// The driver's name and version.
    pub driver: String,
    /// The graphics API it is reached through: `Vulkan`, `Metal` or `Dx12`.
    pub backend: String,
    /// True if it runs on the CPU.
    pub software: bool,
}

impl AdapterDescription {
    fn new(index: usize, info: &wgpu::AdapterInfo) -> Self {
        AdapterDescription {
            index,
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            backend: format!("{:?}", info.backend),
            software: info.device_type == wgpu::DeviceType::Cpu,
        }
    }

    fn matches(&self, part: &str) -> bool {
        let part = part.to_lowercase();
        [&self.name, &self.driver, &self.backend].iter().any(|s| s.to_lowercase().contains(&part))
    }
}

impl fmt::Display for AdapterDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let software = if self.software { ", software" } else { "" };
        write!(f, "{}: {} ({}{software})", self.index, self.name, self.backend)
    }
}

/// Drivers have crashed when several threads open devices at once.
static OPENING: Mutex<()> = Mutex::new(());

fn enumerate() -> Vec<wgpu::Adapter> {
    // wgpu panics where it has no backend at all.
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Vec::new();
    }
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // Debug builds would otherwise load the driver's validation layers, where they are installed.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor.with_env());
    pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
}

/// Every adapter of the machine; none without a graphics driver.
pub(super) fn adapters() -> Vec<AdapterDescription> {
    let _one_at_a_time = OPENING.lock();
    let adapters = enumerate();
    adapters.iter().enumerate().map(|(i, adapter)| AdapterDescription::new(i, &adapter.get_info())).collect()
}

/// The adapter's cooperative matrices, of f16 with sums of f32, if kernels could use them: the larger ones of those that they are
/// written for. `TILEWRIGHT_COOPERATIVE_MATRIX=0` says that there are none. Where the processor computes them they are slow,
/// and there only if it is 1.
fn matrices(adapter: &wgpu::Adapter) -> Option<Matrices> {
    use wgpu::{CooperativeScalarType as Scalar, Features};
    let needed = Features::EXPERIMENTAL_COOPERATIVE_MATRIX | Features::SHADER_F16 | Features::SUBGROUP;
    let info = adapter.get_info();
    let wanted = match std::env::var("TILEWRIGHT_COOPERATIVE_MATRIX").as_deref() {
        Ok("0") => false,
        Ok("1") => true,
        _ => info.device_type != wgpu::DeviceType::Cpu,
    };
    let there = adapter.cooperative_matrix_properties();
    let has = |edge: &u32| {
        let fits = |one: &wgpu::CooperativeMatrixProperties| {
            [one.m_size, one.n_size, one.k_size] == [*edge; 3]
                && (one.ab_type, one.cr_type) == (Scalar::F16, Scalar::F32)
        };
        there.iter().any(fits)
    };
    let metal = info.backend == wgpu::Backend::Metal;
    // wgpu says that a subgroup has 4 to 64 on Metal; Apple's GPUs have 32.
    let threads = 4 * if metal { 32 } else { info.subgroup_max_size };
    let usable = wanted && adapter.features().contains(needed) && (32..=MOST_INVOCATIONS).contains(&threads);
    let edge = [16, 8].into_iter().find(has).filter(|_| usable)?;
    Some(Matrices { edge, threads, quads: !metal })
}

/// Opens what `selector` asks for, and says which adapter it was, and what cooperative matrices the device has.
pub(super) fn open(selector: &Selector) -> Result<(wgpu::Device, wgpu::Queue, usize, Option<Matrices>)> {
    let _one_at_a_time = OPENING.lock();
    let adapters = enumerate();
    let infos: Vec<wgpu::AdapterInfo> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    let found: Vec<AdapterDescription> =
        infos.iter().enumerate().map(|(i, info)| AdapterDescription::new(i, info)).collect();
    let no_device = |reason: String| Error::NoDevice { requested: selector.adapter.to_string(), reason };

    let index = choose(&selector.adapter, &infos, &found).ok_or_else(|| no_device(listing(&found)))?;
    let adapter = &adapters[index];
    let (required_features, mut required_limits) = if selector.portable {
        (wgpu::Features::empty(), wgpu::Limits::default())
    } else {
        let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        (adapter.features() & wanted, adapter.limits())
    };
    let bindings = &mut required_limits.max_storage_buffer_binding_size;
    *bindings = selector.binding_bytes.map_or(*bindings, |bytes| bytes.min(*bindings));
    let request = |cooperative: bool| {
        let experimental = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("tilewright"),
            required_features: required_features
                | if cooperative { experimental } else { wgpu::Features::empty() },
            required_limits: required_limits.clone(),
            experimental_features: if cooperative {
                // SAFETY: of experimental features kernels use cooperative matrices alone, and those only after their results
                // were found right.
                unsafe { wgpu::ExperimentalFeatures::enabled() }
            } else {
                wgpu::ExperimentalFeatures::disabled()
            },
            // The pool makes allocations rare, so small driver blocks cost nothing and waste less.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        pollster::block_on(adapter.request_device(&descriptor))
    };
    let matrices = if selector.portable { None } else { matrices(adapter) };
    // An experiment that fails is no reason to have no device.
    if let Some(matrices) = matrices
        && let Ok((device, queue)) = request(true)
    {
        return Ok((device, queue, index, Some(matrices)));
    }
    let opened = request(false);
    let (device, queue) =
        opened.map_err(|error| no_device(format!("{} does not open: {error}", found[index])))?;
    Ok((device, queue, index, None))
}

fn choose(
    choice: &AdapterChoice,
    infos: &[wgpu::AdapterInfo],
    found: &[AdapterDescription],
) -> Option<usize> {
    let preferred = |accept: &dyn Fn(usize) -> bool| {
        (0..found.len()).filter(|&i| accept(i)).min_by_key(|&i| match infos[i].device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        })
    };
    match choice {
        AdapterChoice::Gpu => preferred(&|i| !found[i].software),
        AdapterChoice::Software => preferred(&|i| found[i].software),
        AdapterChoice::Index(index) => (*index < found.len()).then_some(*index),
        AdapterChoice::Name(part) => preferred(&|i| found[i].matches(part)),
    }
}

fn listing(found: &[AdapterDescription]) -> String {
    if found.is_empty() {
        return "no adapter was found; is a Vulkan, Metal or Direct3D 12 driver installed?".to_string();
    }
    let found: Vec<String> = found.iter().map(AdapterDescription::to_string).collect();
    format!("none of the adapters found is one: {}", found.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, device_type: wgpu::DeviceType) -> wgpu::AdapterInfo {
        let mut info = wgpu::AdapterInfo::new(device_type, wgpu::Backend::Vulkan);
        info.name = name.to_string();
        info
    }

    #[test]
    fn text_reads_as_a_choice() {
        let choice = |text: &str| Selector::from(text).adapter;
        assert_eq!(choice(""), AdapterChoice::Gpu);
        assert_eq!(choice(" Auto "), AdapterChoice::Gpu);
        assert_eq!(choice("software"), AdapterChoice::Software);
        assert_eq!(choice("0"), AdapterChoice::Index(0));
        assert_eq!(choice("NVIDIA"), AdapterChoice::Name("NVIDIA".into()));
        assert_eq!(choice("-1"), AdapterChoice::Name("-1".into()));
    }

    #[test]
    fn software_is_taken_only_when_asked_for() {
        use wgpu::DeviceType::*;
        let infos = [info("llvmpipe", Cpu), info("small", IntegratedGpu), info("Big NV", DiscreteGpu)];
        let found: Vec<_> = infos.iter().enumerate().map(|(i, x)| AdapterDescription::new(i, x)).collect();
        let pick = |text: &str, n: usize| choose(&Selector::from(text).adapter, &infos[..n], &found[..n]);
        assert_eq!(pick("", 3), Some(2));
        assert_eq!(pick("", 2), Some(1));
        assert_eq!(pick("", 1), None);
        assert_eq!(pick("software", 3), Some(0));
        assert_eq!(pick("llvm", 3), Some(0));
        assert_eq!(pick("nv", 3), Some(2));
        assert_eq!(pick("vulkan", 3), Some(2));
        assert_eq!(pick("1", 3), Some(1));
        assert_eq!(pick("3", 3), None);
        assert!(listing(&found).contains("0: llvmpipe (Vulkan, software)"));
    }
}
