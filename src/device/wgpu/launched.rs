//! Every kernel that the crate can launch on wgpu, and what must hold for each: two compilers take it, and WebGPU's
//! default limits suffice.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

use super::pipeline::wgsl;
use super::{Class, Kernel};
use crate::ops;

/// A kernel as it is launched, with what tells it from others of the same constants.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Launched {
    pub kernel: Kernel,
    pub variant: &'static str,
}

impl From<Kernel> for Launched {
    fn from(kernel: Kernel) -> Self {
        Launched { kernel, variant: "" }
    }
}

/// A source as it is compiled, with its name.
pub(super) struct Source {
    pub name: String,
    pub entry: &'static str,
    pub text: String,
    pub subgroups: bool,
    /// An extension of naga's, which no other compiler here knows.
    pub cooperative: bool,
}

impl Source {
    fn of(Launched { kernel, variant }: &Launched) -> Source {
        let text = wgsl(kernel).unwrap_or_else(|reason| panic!("{kernel}: {reason}"));
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let subgroups = { code }.any(|line| line.contains("subgroup"));
        let cooperative = text.contains("enable wgpu_cooperative_matrix;");
        let marks = [*variant, if subgroups { "subgroups" } else { "" }];
        let name = [kernel.to_string()]
            .into_iter()
            .chain(marks.into_iter().filter(|mark| !mark.is_empty()).map(str::to_owned));
        Source { name: name.collect::<Vec<_>>().join(" "), entry: kernel.entry, text, subgroups, cooperative }
    }

    /// By naga, with no more capabilities than it says that it needs.
    pub fn parse(&self) -> Result<(naga::Module, ModuleInfo), String> {
        let mut capabilities = Capabilities::empty();
        capabilities.set(Capabilities::SHADER_FLOAT16, self.text.starts_with("enable f16;"));
        capabilities.set(Capabilities::SUBGROUP, self.subgroups);
        capabilities.set(Capabilities::COOPERATIVE_MATRIX, self.cooperative);
        let module =
            naga::front::wgsl::parse_str(&self.text).map_err(|error| error.emit_to_string(&self.text))?;
        let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
        let info = info.map_err(|error| error.emit_to_string(&self.text))?;
        Ok((module, info))
    }
}

/// All that the crate can launch on a device of this class.
fn launched(class: Class) -> Vec<Launched> {
    let lists = [
        ops::attention::wgpu::launched(class),
        ops::binary::wgpu::launched(),
        ops::copy::wgpu::launched(),
        ops::cross_entropy::wgpu::launched(class),
        ops::dropout::wgpu::launched(),
        ops::embedding::wgpu::launched(class),
        ops::fill::wgpu::launched(),
        ops::gather::wgpu::launched(),
        ops::matmul::wgpu::launched(class),
        ops::norm::wgpu::launched(class),
        ops::reduce::wgpu::launched(class),
        ops::rotary::wgpu::launched(),
        ops::select::wgpu::launched(),
        ops::softmax::wgpu::launched(class),
        ops::unary::wgpu::launched(),
        crate::optim::adamw::wgpu::launched(class),
    ];
    lists.into_iter().flatten().collect()
}

/// On software adapters, or on all others, with subgroups and without.
pub(super) fn sources(software: bool) -> Vec<Source> {
    let classes = [None, Some(8)].map(|subgroups| Class { software, subgroups, checked: false });
    let [without, with] = classes.map(|class| {
        let mut seen = HashSet::new();
        let mut all = launched(class);
        all.retain(|launched| seen.insert(launched.clone()));
        all
    });
    let without: Vec<Source> = without.iter().map(Source::of).collect();
    assert!(without.iter().all(|source| !source.subgroups), "a kernel wants subgroups where there are none");
    let mut by_name: BTreeMap<String, Source> = BTreeMap::new();
    for source in without.into_iter().chain(with.iter().map(Source::of)) {
        let Source { name, text, .. } = &source;
        // Most are the same with subgroups.
        assert!(by_name.get(name).is_none_or(|other| other.text == *text), "two kernels are named {name}");
        by_name.insert(name.clone(), source);
    }
    by_name.into_values().collect()
}

/// What the source asks of a device beyond WebGPU's defaults, of which only cooperative matrices may: with these come 32 KiB of
/// workgroup memory.
fn beyond_defaults(source: &Source, module: &naga::Module, info: &ModuleInfo) -> Option<String> {
    let limits = wgpu::Limits::defaults();
    let place = module.entry_points.iter().position(|entry| entry.name == source.entry)?;
    let [x, y, z] = module.entry_points[place].workgroup_size;
    let used = || {
        let globals = module.global_variables.iter();
        globals
            .filter(|(handle, _)| !info.get_entry_point(place)[*handle].is_empty())
            .map(|(_, global)| global)
    };
    let memory = used().filter(|global| global.space == naga::AddressSpace::WorkGroup);
    let memory: u32 =
        memory.map(|global| module.types[global.ty].inner.size(module.to_ctx()).next_multiple_of(16)).sum();
    let buffers = used().filter(|global| matches!(global.space, naga::AddressSpace::Storage { .. })).count();
    let fits = x * y * z <= limits.max_compute_invocations_per_workgroup
        && memory <= if source.cooperative { 32 << 10 } else { limits.max_compute_workgroup_storage_size }
        && buffers <= limits.max_storage_buffers_per_shader_stage as usize;
    (!fits).then(|| format!("{} invocations, {memory} bytes, {buffers} buffers", x * y * z))
}

/// What tint, the compiler of Chrome, has against the source. It wants subgroups enabled, which naga has no directive for.
fn tint(source: &Source) -> Option<String> {
    let enable = if source.subgroups { "enable subgroups;\n" } else { "" };
    let mut child = Command::new("tint")
        .args(["--input-format", "wgsl", "--format", "wgsl", "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tint starts");
    let written =
        child.stdin.take().expect("it is a pipe").write_all([enable, &source.text].concat().as_bytes());
    let output = child.wait_with_output().expect("tint ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (written.is_err() || !output.status.success()).then_some(said)
}

#[test]
fn wgsl_valid() {
    let all = || [false, true].into_iter().flat_map(sources);
    let mut wrong = Vec::new();
    let mut count = 0;
    for source in all() {
        match source.parse() {
            Ok((module, info)) => {
                wrong.extend(beyond_defaults(&source, &module, &info).map(|f| (source.name, f)))
            }
            Err(fault) => wrong.push((source.name, format!("naga: {fault}"))),
        }
        count += 1;
    }
    println!("{count} specialisations are valid for naga");
    if Command::new("tint").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("NOT RUN: tint is not on the path");
        let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "tint"), "TILEWRIGHT_REQUIRE names tint");
    } else {
        // One source may have several entry points.
        let mut seen = HashSet::new();
        let (unknown, known): (Vec<_>, Vec<_>) = all().partition(|source| source.cooperative);
        for source in known.into_iter().filter(|source| seen.insert(source.text.clone())) {
            wrong.extend(tint(&source).map(|fault| (source.name, format!("tint: {fault}"))));
        }
        println!("{} sources are valid for tint", seen.len());
        println!(
            "{} with cooperative matrices were shown to naga alone, such as {}",
            unknown.len(),
            unknown[0].name
        );
    }
    let faults: Vec<String> = wrong.iter().take(20).map(|(name, fault)| format!("{name}: {fault}")).collect();
    assert!(wrong.is_empty(), "{} faults, among them:\n{}", wrong.len(), faults.join("\n"));
}
