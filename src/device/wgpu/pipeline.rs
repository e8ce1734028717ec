//! Kernels as WGSL, and the compiled pipelines that the device keeps of them.

use std::collections::hash_map::Entry;
use std::fmt::Write;
use std::num::NonZeroU64;

use indexmap::{Equivalent, IndexMap};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::fault::Gpu;
use super::memory::BINDING_UNIT;
use super::queue::Bound;
use crate::device::kernel::{Constant, Kernel};
use crate::{DType, Error, Result};

/// What a kernel binds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    buffers: u32,
    /// Which of them (bit `i`) for writing.
    writes: u32,
    /// Bytes of parameters.
    window: u32,
    /// The least that a buffer's binding has is enough for the kernel. wgpu then looks up no sizes at each dispatch.
    sized: bool,
}

impl Signature {
    pub fn of(kernel: &Kernel, window: u32, bound: &[Bound<'_>]) -> Self {
        Signature { buffers: bound.len() as u32, writes: writes(bound), window, sized: kernel.builtin }
    }
}

/// Which buffers (bit `i`) are bound for writing.
pub(super) fn writes(bound: &[Bound<'_>]) -> u32 {
    bound.iter().rev().fold(0, |mask, one| mask << 1 | u32::from(one.write))
}

/// The place of a compiled kernel among those of its device.
pub(super) type PipelineId = usize;

/// A kernel, and how it is bound.
#[derive(PartialEq, Eq, Hash)]
struct Key<K> {
    kernel: K,
    signature: Signature,
}

impl Equivalent<Key<Kernel>> for Key<&Kernel> {
    fn equivalent(&self, known: &Key<Kernel>) -> bool {
        self.signature == known.signature && *self.kernel == known.kernel
    }
}

/// What the pipelines of one signature share.
struct Layout {
    group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// Everything compiled on one device.
pub(super) struct Pipelines {
    layouts: FxHashMap<Signature, Layout>,
    compiled: IndexMap<Key<Kernel>, wgpu::ComputePipeline, FxBuildHasher>,
    /// Compiles every kernel with run-time checks.
    checked: bool,
    /// As many of them as nobody has counted yet.
    pub made: u64,
}

impl Pipelines {
    pub fn new(checked: bool) -> Self {
        Pipelines { layouts: FxHashMap::default(), compiled: IndexMap::default(), checked, made: 0 }
    }

    /// The pipeline of `kernel`, compiled at the first call.
    pub fn get(&mut self, gpu: &Gpu, kernel: &Kernel, signature: Signature) -> Result<PipelineId> {
        if let Some(id) = self.compiled.get_index_of(&Key { kernel, signature }) {
            return Ok(id);
        }
        let layout = match self.layouts.entry(signature) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Layout::new(gpu, kernel.name, signature)?),
        };
        let pipeline = compile(gpu, kernel, &layout.pipeline, self.checked)?;
        self.made += 1;
        Ok(self.compiled.insert_full(Key { kernel: kernel.clone(), signature }, pipeline).0)
    }

    /// How many are compiled.
    pub fn count(&self) -> usize {
        self.compiled.len()
    }

    /// What is compiled at `id`.
    pub fn compiled(&self, id: PipelineId) -> (&Kernel, &wgpu::ComputePipeline) {
        let (key, pipeline) = self.compiled.get_index(id).expect("an id is an index");
        (&key.kernel, pipeline)
    }

    /// How the buffers of a pipeline of this signature are bound.
    pub fn layout(&self, signature: Signature) -> &wgpu::BindGroupLayout {
        &self.layouts[&signature].group
    }
}

impl Layout {
    fn new(gpu: &Gpu, kernel: &'static str, signature: Signature) -> Result<Self> {
        let entry = |binding, ty, has_dynamic_offset, least| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty,
                has_dynamic_offset,
                min_binding_size: NonZeroU64::new(least).filter(|_| signature.sized),
            },
            count: None,
        };
        let window = u64::from(signature.window);
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true, window)];
        entries.extend((0..signature.buffers).map(|i| {
            let read_only = signature.writes & (1 << i) == 0;
            entry(i + 1, wgpu::BufferBindingType::Storage { read_only }, false, BINDING_UNIT)
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
            Layout { group, pipeline }
        })
    }
}

fn refuse(kernel: &Kernel, gpu: &Gpu, reason: String) -> Error {
    Error::Kernel { kernel: kernel.name, device: gpu.name.clone(), reason }
}

/// The WGSL that is compiled, or why there is none.
pub(super) fn wgsl(kernel: &Kernel) -> std::result::Result<String, String> {
    let mut text =
        String::with_capacity(256 + kernel.source.iter().map(|part| part.len() + 1).sum::<usize>());
    // Directives come before every declaration.
    if kernel.constants.iter().any(|(_, value)| *value == Constant::Type(DType::F16)) {
        text.push_str("enable f16;\n");
    }
    if kernel.source.iter().any(|part| part.contains("coop_mat")) {
        text.push_str("enable wgpu_cooperative_matrix;\n");
        // naga wants cooperative matrices where control flow is uniform in the workgroup, and they need it in the subgroup: to branch on
        // a subgroup's number is right. Its word for that is the one of derivatives.
        text.push_str("diagnostic(off, derivative_uniformity);\n");
    }
    for (name, value) in &kernel.constants {
        let declared = match *value {
            Constant::U32(x) => writeln!(text, "const {name}: u32 = {x}u;"),
            // The shortest decimal that reads back as the same f32.
            Constant::F32(x) if x.is_finite() => writeln!(text, "const {name}: f32 = {x:?}f;"),
            Constant::Bool(x) => writeln!(text, "const {name}: bool = {x};"),
            Constant::Type(t @ (DType::F32 | DType::F16 | DType::U32)) => {
                writeln!(text, "alias {name} = {t};")
            }
            Constant::F32(x) => return Err(format!("constant {name} is {x}")),
            Constant::Type(t) => return Err(format!("constant {name}: WGSL has no type {t}")),
        };
        declared.map_err(|error| error.to_string())?;
    }
    for part in kernel.source {
        text.push_str(part);
        text.push('\n');
    }
    Ok(text)
}

fn compile(
    gpu: &Gpu,
    kernel: &Kernel,
    layout: &wgpu::PipelineLayout,
    checked: bool,
) -> Result<wgpu::ComputePipeline> {
    let text = wgsl(kernel).map_err(|reason| refuse(kernel, gpu, reason))?;
    let mut checks = match kernel.trusted {
        true => wgpu::ShaderRuntimeChecks::unchecked(),
        false => wgpu::ShaderRuntimeChecks::checked(),
    };
    checks.bounds_checks |= checked;
    checks.int_div_checks |= checked;
    // Loops of trusted kernels end. Counting what they do keeps compilers from unrolling them, and from registers what
    // they index.
    gpu.guard(kernel.name, 0, || {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        };
        // SAFETY: whoever made the kernel promised what the checks that are off would enforce: the user in
        // `Kernel::trusted`, this crate's ops for `Kernel::builtin`.
        let module = unsafe { gpu.device.create_shader_module_trusted(descriptor, checks) };
        gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: checks.bounds_checks,
            },
            cache: None,
        })
    })
}
