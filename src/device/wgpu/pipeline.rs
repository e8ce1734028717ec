//! Kernels, and the compiled pipelines that the device keeps of them.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{Hash, Hasher};

use smallvec::SmallVec;

use super::fault::Gpu;
use crate::{DType, Error, Result};

/// A value that a kernel is specialised by.
#[derive(Clone, Copy, Debug)]
pub enum Constant {
    /// `const NAME: u32`
    U32(u32),
    /// `const NAME: f32`; must be finite, as WGSL has no other literals.
    F32(f32),
    /// `const NAME: bool`
    Bool(bool),
    /// `alias NAME`, of `f32`, `f16` or `u32`
    Type(DType),
}

impl PartialEq for Constant {
    /// By bits: -0.0 and 0.0 make different kernels.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Constant::U32(a), Constant::U32(b)) => a == b,
            (Constant::F32(a), Constant::F32(b)) => a.to_bits() == b.to_bits(),
            (Constant::Bool(a), Constant::Bool(b)) => a == b,
            (Constant::Type(a), Constant::Type(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Constant {}

impl Hash for Constant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Constant::U32(x) => x.hash(state),
            Constant::F32(x) => x.to_bits().hash(state),
            Constant::Bool(x) => x.hash(state),
            Constant::Type(x) => x.hash(state),
        }
    }
}

impl From<u32> for Constant {
    fn from(x: u32) -> Self {
        Constant::U32(x)
    }
}

impl From<f32> for Constant {
    fn from(x: f32) -> Self {
        Constant::F32(x)
    }
}

impl From<bool> for Constant {
    fn from(x: bool) -> Self {
        Constant::Bool(x)
    }
}

impl From<DType> for Constant {
    fn from(x: DType) -> Self {
        Constant::Type(x)
    }
}

/// A compute kernel: WGSL, its entry point, and the constants that specialise it.
///
/// The constants are put in front of the source as declarations (`const BLOCK: u32 = 256u;`,
/// `alias T = f16;`), after `enable f16;` where an alias needs it, and the parts of the source follow
/// in order. The kernel finds its parameters at `@group(0) @binding(0) var<uniform>` and its buffers
/// at the bindings from 1 on, in the order they are bound.
///
/// Equal kernels are compiled once a device. A kernel runs with wgpu's bounds, loop and division checks
/// unless its author vouches for it with [`Kernel::trusted`].
#[derive(Clone, Debug, Eq)]
pub struct Kernel {
    name: &'static str,
    source: &'static [&'static str],
    entry: &'static str,
    constants: SmallVec<[(&'static str, Constant); 8]>,
    trusted: bool,
}

impl Kernel {
    /// A kernel of the parts of `source`, named `name` in errors, that starts at `entry`.
    pub fn new(name: &'static str, source: &'static [&'static str], entry: &'static str) -> Self {
        Kernel { name, source, entry, constants: SmallVec::new(), trusted: false }
    }

    /// A kernel of this crate: trusted. Its op validates each launch, and the tests run it checked.
    pub(crate) fn builtin(name: &'static str, source: &'static [&'static str], entry: &'static str) -> Self {
        Kernel { trusted: true, ..Kernel::new(name, source, entry) }
    }

    /// Adds a constant.
    pub fn with(mut self, name: &'static str, value: impl Into<Constant>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// Runs the kernel without run-time checks and with workgroup memory unspecified at the start,
    /// unless the device is in checked mode.
    ///
    /// # Safety
    /// At every launch the kernel must stay inside its buffers, its loops must end, it must not divide
    /// integers by zero or overflow doing so, and it must write workgroup memory before reading it.
    pub unsafe fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// The name that errors give it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn refuse(&self, gpu: &Gpu, reason: String) -> Error {
        Error::Kernel { kernel: self.name, device: gpu.name.clone(), reason }
    }

    /// The WGSL that is compiled.
    fn text(&self, gpu: &Gpu) -> Result<String> {
        let mut text =
            String::with_capacity(256 + self.source.iter().map(|part| part.len() + 1).sum::<usize>());
        // Directives come before every declaration.
        if self.constants.iter().any(|(_, value)| *value == Constant::Type(DType::F16)) {
            text.push_str("enable f16;\n");
        }
        for (name, value) in &self.constants {
            let declared = match *value {
                Constant::U32(x) => writeln!(text, "const {name}: u32 = {x}u;"),
                // The shortest decimal that reads back as the same f32.
                Constant::F32(x) if x.is_finite() => writeln!(text, "const {name}: f32 = {x:?}f;"),
                Constant::Bool(x) => writeln!(text, "const {name}: bool = {x};"),
                Constant::Type(t @ (DType::F32 | DType::F16 | DType::U32)) => {
                    writeln!(text, "alias {name} = {t};")
                }
                Constant::F32(x) => return Err(self.refuse(gpu, format!("constant {name} is {x}"))),
                Constant::Type(t) => {
                    return Err(self.refuse(gpu, format!("constant {name}: WGSL has no type {t}")));
                }
            };
            declared.map_err(|error| self.refuse(gpu, error.to_string()))?;
        }
        for part in self.source {
            text.push_str(part);
            text.push('\n');
        }
        Ok(text)
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        let same_text = |(a, b): (&&str, &&str)| std::ptr::eq(*a, *b) || a == b;
        self.name == other.name
            && self.entry == other.entry
            && self.trusted == other.trusted
            && self.constants == other.constants
            && self.source.len() == other.source.len()
            && self.source.iter().zip(other.source).all(same_text)
    }
}

impl Hash for Kernel {
    /// Leaves the source out: it is long, and name and constants tell kernels apart.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.entry.hash(state);
        self.constants.hash(state);
    }
}

/// How many storage buffers are bound, and which of them (bit `i`) for writing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    pub buffers: u32,
    pub writes: u32,
}

/// A compiled kernel.
#[derive(Clone)]
pub(super) struct Pipeline {
    /// Unique in its device.
    pub id: u32,
    pub raw: wgpu::ComputePipeline,
}

/// The pipelines of one signature and the layouts that they share.
pub(super) struct Layout {
    pub id: u32,
    pub group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
    pipelines: HashMap<Kernel, Pipeline>,
}

/// Everything compiled on one device.
#[derive(Default)]
pub(super) struct Pipelines {
    layouts: HashMap<Signature, Layout>,
    compiled: u32,
}

impl Pipelines {
    /// The pipeline of `kernel` and the layout to bind its buffers by; compiled at the first call.
    pub fn get(
        &mut self,
        gpu: &Gpu,
        kernel: &Kernel,
        signature: Signature,
        checked: bool,
    ) -> Result<(&Layout, Pipeline)> {
        let next_layout = self.layouts.len() as u32;
        let layout = match self.layouts.entry(signature) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Layout::new(gpu, kernel.name, signature, next_layout)?)
            }
        };
        if let Some(pipeline) = layout.pipelines.get(kernel) {
            let pipeline = pipeline.clone();
            return Ok((layout, pipeline));
        }
        let raw = compile(gpu, kernel, &layout.pipeline, checked)?;
        let pipeline = Pipeline { id: self.compiled, raw };
        self.compiled += 1;
        layout.pipelines.insert(kernel.clone(), pipeline.clone());
        Ok((layout, pipeline))
    }
}

impl Layout {
    fn new(gpu: &Gpu, kernel: &'static str, signature: Signature, id: u32) -> Result<Self> {
        let entry = |binding, ty, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true)];
        entries.extend((0..signature.buffers).map(|i| {
            let read_only = signature.writes & (1 << i) == 0;
            entry(i + 1, wgpu::BufferBindingType::Storage { read_only }, false)
        }));
        gpu.guard(kernel, 0, || {
            let group = gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
            let pipeline = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            });
            Layout { id, group, pipeline, pipelines: HashMap::new() }
        })
    }
}

fn compile(
    gpu: &Gpu,
    kernel: &Kernel,
    layout: &wgpu::PipelineLayout,
    checked: bool,
) -> Result<wgpu::ComputePipeline> {
    let text = kernel.text(gpu)?;
    let checks = checked || !kernel.trusted;
    gpu.guard(kernel.name, 0, || {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        };
        let module = if checks {
            gpu.device.create_shader_module(descriptor)
        } else {
            // SAFETY: whoever made the kernel promised what the checks would enforce: the user in
            // `Kernel::trusted`, this crate's ops for `Kernel::builtin`.
            unsafe {
                let unchecked = wgpu::ShaderRuntimeChecks::unchecked();
                gpu.device.create_shader_module_trusted(descriptor, unchecked)
            }
        };
        gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: checks,
            },
            cache: None,
        })
    })
}
