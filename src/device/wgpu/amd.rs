//! What every kernel becomes on an AMD GPU, held against kernels/resources-wgsl.txt, and those by cooperative matrices, for which it
//! takes a newer GPU and a newer driver, against kernels/resources-cooperative.txt: registers, spills, workgroup memory, occupancy,
//! instructions and the cycles that the compiler predicts. It takes Mesa's driver, RADV, and no GPU: the driver opens a device that
//! compiles and cannot run, and says of a pipeline what VK_KHR_pipeline_executable_properties asks. wgpu does not open that device,
//! so that this speaks Vulkan.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::process::Command;

use ash::vk;
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};

use super::launched::{Source, sources};
use crate::device::table::hold;

/// A GPU, and what is held of it.
struct Gpu {
    /// As RADV knows it.
    family: &'static str,
    /// Whose choices the table holds.
    driver: &'static str,
    table: &'static str,
    header: &'static str,
    /// Which kernels: those by cooperative matrices, or all others.
    cooperative: bool,
}

/// An RDNA 2, with waves of 64 as RADV runs compute shaders.
const NAVI21: Gpu = Gpu {
    family: "navi21",
    driver: "Mesa 22.3.6",
    table: "kernels/resources-wgsl.txt",
    header: "\
# What each specialisation becomes on AMD's navi21, in waves of 64: vector and scalar registers, workgroup memory in bytes, waves
# a SIMD, instructions, the latency and inverse throughput that the compiler predicts for a wave in cycles, and for matmul and
# attention what part of the main loop's vector instructions multiply and add, or a dash without one. RADV of Mesa 22.3.6. None spills.
# `TILEWRIGHT_WRITE_RESOURCES=1 cargo test navi21` writes this file anew.
",
    cooperative: false,
};

/// An RDNA 3, the first with matrices.
const NAVI31: Gpu = Gpu {
    family: "navi31",
    driver: "Mesa 25.0.7",
    table: "kernels/resources-cooperative.txt",
    header: "\
# What the kernels by cooperative matrices become on AMD's navi31: the subgroup size that the driver picks, vector and scalar registers,
# workgroup memory in bytes, waves a SIMD, instructions, the latency and inverse throughput that the compiler predicts for a wave in
# cycles, and how many instructions multiply matrices. RADV of Mesa 25.0.7. None spills. `TILEWRIGHT_RADV_MANIFEST` names its
# manifest, and `TILEWRIGHT_WRITE_RESOURCES=1 cargo test navi31` writes this file anew.
",
    cooperative: true,
};

/// Where distributions put the driver's manifest.
const MANIFESTS: [&str; 2] =
    ["/usr/share/vulkan/icd.d/radeon_icd.x86_64.json", "/usr/share/vulkan/icd.d/radeon_icd.json"];

impl Gpu {
    fn sources(&self) -> impl Iterator<Item = Source> {
        // It has matrices of 16 x 16, and subgroups of up to 64.
        let launched = |source: &Source| {
            !source.cooperative || source.name.contains("EDGE=16 ") && source.name.contains("THREADS=256")
        };
        let cooperative = self.cooperative;
        sources(false).into_iter().filter(move |source| source.cooperative == cooperative && launched(source))
    }
}

/// The device that compiles and cannot run.
struct Compiler {
    /// Keeps the loader's library.
    _entry: ash::Entry,
    device: ash::Device,
    properties: ash::khr::pipeline_executable_properties::Device,
    driver: String,
}

impl Compiler {
    fn open(cooperative: bool) -> Result<Compiler, String> {
        // SAFETY: the loader is a Vulkan loader; structures live as long as the calls that read them. Nothing is destroyed: the
        // process ends with the test.
        unsafe {
            let entry = ash::Entry::load().map_err(|error| error.to_string())?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&info, None).map_err(|error| error.to_string())?;
            let physical = instance.enumerate_physical_devices().map_err(|error| error.to_string())?;
            let physical = *physical.first().ok_or("the driver has no device")?;
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            instance.get_physical_device_properties2(
                physical,
                &mut vk::PhysicalDeviceProperties2::default().push_next(&mut driver),
            );
            let driver = driver.driver_info_as_c_str().map_err(|error| error.to_string())?;
            let driver = driver.to_string_lossy().into_owned();

            let queues =
                [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let mut extensions = vec![ash::khr::pipeline_executable_properties::NAME.as_ptr()];
            if cooperative {
                extensions.push(ash::khr::cooperative_matrix::NAME.as_ptr());
            }
            let mut executables = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
                .pipeline_executable_info(true);
            let mut v11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
            let mut v12 = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(true)
                .vulkan_memory_model(cooperative);
            let mut matrices =
                vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(cooperative);
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(&mut executables)
                .push_next(&mut v11)
                .push_next(&mut v12);
            let info = if cooperative { info.push_next(&mut matrices) } else { info };
            let device = instance.create_device(physical, &info, None).map_err(|error| error.to_string())?;
            let properties = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Compiler { _entry: entry, device, properties, driver })
        }
    }

    /// The statistics by name, and the machine code.
    fn compile(&self, source: &Source) -> Result<(BTreeMap<String, u64>, String), String> {
        let (code, bindings) = spirv(source)?;
        let entry = CString::new(source.entry).map_err(|error| error.to_string())?;
        let compiled = || -> Result<_, vk::Result> {
            // SAFETY: naga has validated the module, and structures live as long as the calls that read them.
            unsafe {
                let module = self
                    .device
                    .create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&code), None)?;
                let group = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
                let group = self.device.create_descriptor_set_layout(&group, None)?;
                let groups = [group];
                let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&groups);
                let layout = self.device.create_pipeline_layout(&layout, None)?;
                let stage = vk::PipelineShaderStageCreateInfo::default()
                    .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                    .stage(vk::ShaderStageFlags::COMPUTE)
                    .module(module)
                    .name(&entry);
                let info = vk::ComputePipelineCreateInfo::default()
                    .flags(
                        vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                            | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
                    )
                    .stage(stage)
                    .layout(layout);
                let pipelines =
                    self.device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
                let pipeline = pipelines.map_err(|(_, error)| error)?[0];
                let told = self.told(&vk::PipelineExecutableInfoKHR::default().pipeline(pipeline))?;
                self.device.destroy_pipeline(pipeline, None);
                self.device.destroy_pipeline_layout(layout, None);
                self.device.destroy_descriptor_set_layout(group, None);
                self.device.destroy_shader_module(module, None);
                Ok(told)
            }
        };
        compiled().map_err(|error| error.to_string())
    }

    /// # Safety
    /// The pipeline was made by this device to tell.
    unsafe fn told(
        &self,
        which: &vk::PipelineExecutableInfoKHR<'_>,
    ) -> Result<(BTreeMap<String, u64>, String), vk::Result> {
        let text =
            |name: Result<&CStr, _>| name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // SAFETY: as promised; RADV's statistics are all unsigned; and the text gets as many bytes as its length was.
        unsafe {
            let statistics = self.properties.get_pipeline_executable_statistics(which)?;
            let mut statistics: BTreeMap<String, u64> =
                statistics.iter().map(|one| (text(one.name_as_c_str()), one.value.u64)).collect();
            let pipeline = vk::PipelineInfoKHR::default().pipeline(which.pipeline);
            let executables = self.properties.get_pipeline_executable_properties(&pipeline)?;
            statistics.insert("Subgroup size".into(), executables[0].subgroup_size.into());
            let mut texts = self.properties.get_pipeline_executable_internal_representations(which)?;
            let mut buffers: Vec<Vec<u8>> = texts.iter().map(|one| vec![0; one.data_size]).collect();
            for (one, buffer) in texts.iter_mut().zip(&mut buffers) {
                one.p_data = buffer.as_mut_ptr().cast();
            }
            let mut count = texts.len() as u32;
            let read = self.properties.fp().get_pipeline_executable_internal_representations_khr;
            read(self.properties.device(), which, &mut count, texts.as_mut_ptr()).result()?;
            let code = texts.iter().position(|one| text(one.name_as_c_str()) == "Assembly");
            let code = code.map(|i| String::from_utf8_lossy(&buffers[i]).into_owned()).unwrap_or_default();
            Ok((statistics, code))
        }
    }
}

/// As wgpu makes it for trusted kernels, and what is to be bound.
fn spirv(source: &Source) -> Result<(Vec<u32>, Vec<vk::DescriptorSetLayoutBinding<'static>>), String> {
    let (module, info) = source.parse()?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let entry =
        spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: source.entry.into() };
    let code = spv::write_vec(&module, &info, &options, Some(&entry)).map_err(|error| error.to_string())?;
    let mut bindings = BTreeMap::new();
    for (_, global) in module.global_variables.iter() {
        let Some(place) = &global.binding else { continue };
        let kind = match global.space {
            naga::AddressSpace::Uniform => vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC,
            _ => vk::DescriptorType::STORAGE_BUFFER,
        };
        let binding = vk::DescriptorSetLayoutBinding::default().binding(place.binding).descriptor_type(kind);
        bindings
            .insert(place.binding, binding.descriptor_count(1).stage_flags(vk::ShaderStageFlags::COMPUTE));
    }
    Ok((code, bindings.into_values().collect()))
}

/// Of the loop with the most multiply-adds, the tightest of several, the percentage of its vector instructions that
/// they are. Instructions are counted as they stand, whatever branches lie within.
fn multiply_adds(code: &str) -> Option<usize> {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let label = |line: &str| line.strip_suffix(':').is_some_and(|name| name.starts_with("BB"));
    let heads: BTreeMap<&str, usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| label(line))
        .map(|(i, line)| (line.trim_end_matches(':'), i))
        .collect();
    let is_vector = |line: &&&str| line.starts_with("v_");
    let is_product = |line: &&&str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        let multiplies = ["v_fma", "v_mac", "v_mad_f", "v_mad_mix", "v_pk_fma", "v_dot"];
        multiplies.iter().any(|start| name.starts_with(start))
    };
    let loops = lines.iter().enumerate().filter_map(|(end, line)| {
        let mut words = line.split_whitespace();
        let branches =
            words.next().is_some_and(|word| word.starts_with("s_branch") || word.starts_with("s_cbranch"));
        let head = words.next().filter(|_| branches).and_then(|target| heads.get(target))?;
        (*head < end).then(|| &lines[*head..end])
    });
    let counted =
        loops.map(|body| (body.iter().filter(is_product).count(), body.iter().filter(is_vector).count()));
    let (products, vector) =
        counted.max_by_key(|&(products, vector)| (products, std::cmp::Reverse(vector)))?;
    (products > 0).then(|| 100 * products / vector)
}

/// The columns of the table, or what is wrong with the kernel.
fn columns(compiler: &Compiler, source: &Source) -> Result<String, String> {
    let (statistics, code) = compiler.compile(source)?;
    let get =
        |name: &str| statistics.get(name).copied().ok_or_else(|| format!("no {name} among {statistics:?}"));
    for name in ["Spilled VGPRs", "Spilled SGPRs", "Scratch size"] {
        if get(name)? > 0 {
            return Err(format!("{name}: {}", get(name)?));
        }
    }
    let names =
        ["VGPRs", "SGPRs", "LDS size", "Subgroups per SIMD", "Instructions", "Latency", "Inverse Throughput"];
    let mut columns =
        names.map(get).into_iter().map(|n| n.map(|n| n.to_string())).collect::<Result<Vec<_>, _>>()?;
    if source.cooperative {
        columns.insert(0, get("Subgroup size")?.to_string());
        columns.push(code.lines().filter(|line| line.trim().starts_with("v_wmma")).count().to_string());
    } else if ["matmul", "attention"].iter().any(|product| source.name.starts_with(product)) {
        columns.push(multiply_adds(&code).map_or("-".into(), |share| format!("{share}%")));
    }
    Ok(columns.join(" "))
}

#[test]
fn cooperative_matrices_become_spirv() {
    let sources: Vec<Source> = sources(false).into_iter().filter(|source| source.cooperative).collect();
    assert!(!sources.is_empty());
    for source in sources {
        spirv(&source).unwrap_or_else(|fault| panic!("{}: {fault}", source.name));
    }
}

const START: &str = "compiled: ";

/// A child's part: the driver decides when it is loaded which device there is, by its environment.
fn compile(gpu: &Gpu) {
    let compiler = match Compiler::open(gpu.cooperative) {
        Ok(compiler) => compiler,
        // Since Mesa 26 RADV has no such device.
        Err(error) => return println!("{START}!{error}"),
    };
    println!("{START}{}", compiler.driver);
    for source in gpu.sources() {
        let (mark, text) = match columns(&compiler, &source) {
            Ok(columns) => ("", columns),
            Err(fault) => ("!", fault.replace(['\n', '\t'], " ")),
        };
        println!("{START}{}\t{mark}{text}", source.name);
    }
}

#[test]
#[ignore = "runs in a process of its own, started by `navi21`"]
fn on_navi21() {
    compile(&NAVI21);
}

#[test]
#[ignore = "runs in a process of its own, started by `navi31`"]
fn on_navi31() {
    compile(&NAVI31);
}

fn not_run(reason: &str, requirement: &str) {
    println!("NOT RUN: {reason}");
    let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name == requirement),
        "TILEWRIGHT_REQUIRE names {requirement}: {reason}"
    );
}

/// Compiles in a child, by the driver of this manifest, and compares with the table.
fn compare(gpu: &Gpu, manifest: &str, requirement: &str) {
    let module = module_path!().split_once("::").expect("the crate comes first").1;
    let child = format!("{module}::on_{}", gpu.family);
    let output = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--ignored", "--exact", "--nocapture", &child])
        .env("RADV_FORCE_FAMILY", gpu.family)
        .env("VK_DRIVER_FILES", manifest)
        .output()
        .expect("this program can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().filter_map(|line| Some(line.split_once(START)?.1));
    let driver = lines.next().expect("the child says what the driver is");
    if let Some(error) = driver.strip_prefix('!') {
        return not_run(&format!("RADV opens no device that is not there: {error}"), requirement);
    }
    let (wrong, rows): (Vec<_>, Vec<_>) =
        lines.filter_map(|line| line.split_once('\t')).partition(|(_, cells)| cells.starts_with('!'));
    let faults: Vec<String> = wrong.iter().map(|(name, fault)| format!("{name}: {fault}")).collect();
    assert!(wrong.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(30)].join("\n"));
    assert_eq!(rows.len(), gpu.sources().count());
    println!("{} specialisations neither spill nor use scratch memory", rows.len());
    // Another driver may choose other registers.
    if !driver.starts_with(gpu.driver) {
        println!("NOT RUN: the table is of {}, and the driver is {driver}", gpu.driver);
        return;
    }

    let rows: String = rows.iter().map(|(name, cells)| format!("{name}: {cells}\n")).collect();
    let table = [gpu.header, &rows].concat();
    hold(gpu.table, &table);
}

#[test]
fn navi21() {
    let requirement = "wgpu";
    match MANIFESTS.into_iter().find(|manifest| Path::new(manifest).exists()) {
        Some(manifest) => compare(&NAVI21, manifest, requirement),
        None => not_run("there is no manifest of RADV", requirement),
    }
}

#[test]
fn navi31() {
    let requirement = "radv";
    match std::env::var("TILEWRIGHT_RADV_MANIFEST") {
        Ok(manifest) => compare(&NAVI31, &manifest, requirement),
        Err(_) => {
            not_run("TILEWRIGHT_RADV_MANIFEST names no driver that knows cooperative matrices", requirement);
        }
    }
}
