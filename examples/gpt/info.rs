//! `gpt info`: what there is to run on, and what a checkpoint holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tilewright::Device;
#[cfg(feature = "cuda")]
use tilewright::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use tilewright::device::wgpu::{AdapterDescription, WgpuDevice};

use crate::checkpoint::Checkpoint;
use crate::error::AppError;
use crate::generate::print;

/// Print the devices of this machine and their limits, or what a checkpoint holds
///
/// Each device is headed by the name under which --device takes it; `auto` is the last line's.
///
/// Examples:
///   gpt info
///   gpt info --checkpoint runs/default/checkpoint.safetensors
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, verbatim_doc_comment)]
pub struct InfoArgs {
    /// Checkpoint to describe in place of the devices
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

/// The `info` subcommand.
pub fn run(args: &InfoArgs, output: &mut impl Write) -> Result<(), AppError> {
    match &args.checkpoint {
        Some(path) => print(output, &checkpoint(path)?),
        None => print(output, &devices()),
    }
}

/// A heading and lines of names and values under it.
struct Section(String);

impl Section {
    fn new(heading: impl std::fmt::Display) -> Self {
        Section(format!("{heading}\n"))
    }

    fn line(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "  {name:<22}{value}");
        self
    }
}

/// Bytes in the largest unit of which there is at least one.
fn bytes(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB"];
    let power = (0..units.len()).rev().find(|&power| bytes >> (10 * power) > 0).unwrap_or(0);
    match power {
        0 => format!("{bytes} bytes"),
        _ => format!("{:.1} {}", bytes as f64 / (1u64 << (10 * power)) as f64, units[power]),
    }
}

fn devices() -> String {
    let sections = std::iter::once(cpu()).chain(wgpu()).chain(cuda());
    let mut text: String = sections.map(|section| section.0 + "\n").collect();
    let _ = writeln!(text, "auto is {}", Device::best());
    text
}

fn cpu() -> Section {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Section::new("cpu").line("threads", threads).line("vectors", vectors())
}

/// The widest vectors that kernels are compiled for and that this processor has.
fn vectors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return "AVX-512";
    } else if is_x86_feature_detected!("avx2") {
        return "AVX2";
    }
    if cfg!(target_arch = "aarch64") { "NEON" } else { "the target's" }
}

/// What stands for devices that a feature of the crate would bring.
#[cfg(not(all(feature = "wgpu", feature = "cuda")))]
fn without(feature: &str) -> Vec<Section> {
    vec![
        Section::new(feature).line("none", "this program was built without the crate's feature of that name"),
    ]
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Vec<Section> {
    without("wgpu")
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Vec<Section> {
    without("cuda")
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Vec<Section> {
    let adapters = WgpuDevice::adapters();
    match adapters.is_empty() {
        true => vec![
            Section::new("wgpu").line("none", "no driver for Vulkan, Metal or Direct3D 12 shows an adapter"),
        ],
        false => adapters.iter().map(adapter).collect(),
    }
}

#[cfg(feature = "wgpu")]
fn adapter(description: &AdapterDescription) -> Section {
    let AdapterDescription { index, name, driver, backend, software } = description;
    let section = Section::new(format_args!("wgpu:{index}"))
        .line("adapter", name)
        .line("driver", format_args!("{driver}, {backend}"));
    let section =
        section.line("runs on", if *software { "the processor: chosen by name only" } else { "a GPU" });
    let device = match WgpuDevice::new(&index.to_string().as_str().into()) {
        Ok(device) => device,
        Err(reason) => return section.line("cannot be opened", reason),
    };
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let limits = device.limits();
    let info = device.raw().0.adapter_info();
    let subgroups = match (device.has_subgroups(), info.subgroup_min_size, info.subgroup_max_size) {
        (false, ..) => "no".to_owned(),
        (true, least, most) if least == most => format!("of {least}"),
        (true, least, most) => format!("of {least} to {most}"),
    };
    section
        .line("f16", yes(device.has_f16()))
        .line("subgroups", subgroups)
        .line("largest buffer", bytes(device.max_buffer_bytes() as u64))
        .line("largest binding", bytes(device.max_binding_bytes() as u64))
        .line(
            "bindings",
            format_args!("{} storage buffers of a stage", limits.max_storage_buffers_per_shader_stage),
        )
        .line("workgroup", format_args!("{} invocations", limits.max_compute_invocations_per_workgroup))
        .line("workgroup memory", bytes(limits.max_compute_workgroup_storage_size.into()))
}

#[cfg(feature = "cuda")]
fn cuda() -> Vec<Section> {
    let mut sections = Vec::new();
    let none = loop {
        match CudaDevice::new(sections.len()) {
            Ok(device) => sections.push(gpu(&format!("cuda:{}", sections.len()), &device)),
            Err(reason) => break reason,
        }
    };
    if sections.is_empty() {
        sections.push(Section::new("cuda").line("none", none));
    }
    #[cfg(feature = "cuda-sim")]
    sections.push(match Device::cuda_sim() {
        Ok(Device::Cuda(device)) => gpu("cuda-sim", &device),
        Ok(other) => Section::new("cuda-sim").line("none", other),
        Err(reason) => Section::new("cuda-sim").line("none", reason),
    });
    sections
}

#[cfg(feature = "cuda")]
fn gpu(name: &str, device: &CudaDevice) -> Section {
    let (major, minor) = device.compute_capability();
    Section::new(name)
        .line("GPU", device)
        .line("compute capability", format_args!("{major}.{minor}"))
        .line("multiprocessors", device.multiprocessors())
        .line("memory", bytes(device.total_memory()))
        .line("shared by a block", bytes(device.shared_per_block().into()))
        .line("TF32", if (major, minor) >= (8, 0) { "with --tf32" } else { "no" })
}

fn checkpoint(path: &Path) -> Result<String, AppError> {
    let size = fs::metadata(path).map_err(AppError::io("read", path))?.len();
    let Checkpoint { header, tensors } = Checkpoint::load(path)?;
    let mut parts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, values) in &tensors {
        *parts.entry(part(name)).or_default() += values.data.len();
    }
    let all: usize = parts.values().sum();
    let val_loss = match header.val_loss.is_nan() {
        true => "not evaluated".to_owned(),
        false => format!("{:.4} nats per {}", header.val_loss, header.tokenizer.unit()),
    };
    let mut section = Section::new(path.display())
        .line("size", bytes(size))
        .line("step", header.step)
        .line("validation loss", val_loss)
        .line("tokenizer", &header.tokenizer)
        .line("parameters", all);
    for (part, count) in parts {
        section = section.line(&format!("  {part}"), count);
    }
    let config = toml::to_string(&header.config)
        .map_err(|e| AppError::contents(path, format!("cannot print the config: {e}")))?;
    Ok(section.0 + "\nIts config:\n" + &config)
}

/// The part of the model that a parameter belongs to.
fn part(name: &str) -> &'static str {
    let parts =
        [(".wte.", "token embedding"), (".wpe.", "positions"), (".attn.", "attention"), (".mlp.", "MLP")];
    parts.iter().find(|(word, _)| name.contains(word)).map_or("norms", |(_, part)| part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Header;
    use crate::hugging_face::tests::gpt2;
    use crate::tests::scratch;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn sizes_have_units() {
        let sizes = [0, 1023, 1 << 10, 128 << 20, 3 << 29, 5 << 40].map(bytes);
        assert_eq!(sizes, ["0 bytes", "1023 bytes", "1.0 KiB", "128.0 MiB", "1.5 GiB", "5120.0 GiB"]);
    }

    #[test]
    fn every_device_is_named_with_its_limits() {
        let text = devices();
        assert!(text.starts_with("cpu\n  threads"), "{text}");
        assert!(text.lines().last().unwrap().starts_with("auto is "), "{text}");
        assert!(text.contains("\nwgpu") && text.contains("\ncuda"), "{text}");
        // Whatever is there says what it can do.
        let count = |words: &str| text.matches(words).count();
        assert_eq!(
            count("\n  adapter"),
            count("\n  largest binding") + count("\n  cannot be opened"),
            "{text}"
        );
        assert_eq!(count("\n  GPU "), count("\n  compute capability"), "{text}");
    }

    #[test]
    fn a_checkpoint_says_what_it_is() {
        let path = scratch("info").join("checkpoint.safetensors");
        let config = crate::config::tests::config(&["--n-layer", "2", "--n-embd", "32", "--bias"]);
        let header = Header { config, tokenizer: Tokenizer::Bytes, step: 7, val_loss: 1.25, base: None };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let tensors = gpt2(&Device::Cpu).values().unwrap();
        Checkpoint { header, tensors }.save(&path).unwrap();
        let text = checkpoint(&path).unwrap();
        // 100 tokens and 24 positions of 32 channels; two blocks.
        let expected = [
            ("step", "7"),
            ("validation loss", "1.2500 nats per byte"),
            ("tokenizer", "bytes, 257 ids"),
            ("parameters", "29440"),
            ("  token embedding", "3200"),
            ("  positions", "768"),
            ("  attention", "8448"),
            ("  MLP", "16704"),
            ("  norms", "320"),
        ];
        for (name, value) in expected {
            assert!(text.contains(&format!("  {name:<22}{value}\n")), "{name}: {text}");
        }
        assert!(text.contains("\nn_layer = 2\n") && text.contains("\nactivation = \"gelu\"\n"), "{text}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(checkpoint(&path).unwrap_err().to_string().starts_with("cannot read "));
    }
}
