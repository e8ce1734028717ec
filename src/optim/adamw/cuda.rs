//! On CUDA one launch reaches all parameters of all groups through a table of their addresses, so that nothing
//! has to move: a step is that launch, and with clipping two more for the norm.

use bytemuck::{Pod, Zeroable};

use super::{Exact, Parameter, Scale, Step};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::device::cuda::{Binding, Buffer, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{BLOCK, PHILOX, REDUCE, blocks, check_size, starts_a_line};
use crate::{DType, Result, Tensor};

const TABLE: &str = cuda_source!("optim/params.cuh");
const ADAMW: &[&str] = &[PHILOX, TABLE, cuda_source!("optim/adamw.cu")];
const NORM: &[&str] = &[REDUCE, TABLE, cuda_source!("optim/norm.cu")];

/// Elements of a block.
const CHUNK: usize = 8192;

/// A parameter as the kernels find it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Entry {
    exact: u64,
    rounded: u64,
    gradient: u64,
    m: u64,
    v: u64,
    random: u64,
    count: u32,
    first_block: u32,
    decay: f32,
    lines: u32,
    kind: u32,
    gradient_type: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AdamWParams {
    entries: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    correction1: f32,
    correction2: f32,
    pad: u32,
    seed: u64,
    step: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormParams {
    entries: u32,
    slots: u32,
    max_norm: f32,
    pad: u32,
}

/// The parameters that have gradients.
#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    blocks: usize,
    /// What the addresses belong to: alive until the kernels are queued.
    buffers: Vec<Buffer>,
    /// A bit for each kind of parameter and each type of gradient that there is.
    kinds: u32,
    gradients: u32,
}

/// The kind of a parameter as kernels/optim/adamw.cu counts them.
fn kind(p: &Parameter) -> u32 {
    match (p.exact, p.var.dtype()) {
        (Exact::Itself, _) => 0,
        (Exact::Master, DType::F16) => 1,
        (Exact::Master, _) => 2,
        (Exact::Nothing { .. }, _) => 3,
    }
}

/// A gradient's type as kernels/optim/params.cuh counts them.
fn gradient_type(dtype: DType) -> u32 {
    match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    }
}

impl Table {
    fn new(device: &CudaDevice, parameters: &[Parameter]) -> Result<Self> {
        let mut table = Table::default();
        for p in parameters {
            let Some(grad) = p.var.grad() else { continue };
            let count = p.var.elements();
            check_size("adamw", device, count)?;
            let (exact, rounded, random) = match p.exact {
                Exact::Itself => (Some(p.var.as_tensor()), None, 0),
                Exact::Master => (p.master.as_ref(), Some(p.var.as_tensor()), 0),
                Exact::Nothing { random } => (None, Some(p.var.as_tensor()), random),
            };
            let buffer = |tensor: Option<&Tensor>| tensor.map(Tensor::cuda).transpose();
            let buffers = [
                buffer(exact)?,
                buffer(rounded)?,
                buffer(Some(&grad))?,
                buffer(Some(&p.m))?,
                buffer(Some(&p.v))?,
            ];
            let address = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::address);
            let [exact, rounded, gradient, m, v] = buffers.each_ref().map(address);
            let (kind, gradient_type) = (kind(p), gradient_type(grad.dtype()));
            table.entries.push(Entry {
                exact,
                rounded,
                gradient,
                m,
                v,
                // A block of random bits serves four elements.
                random: random / 4,
                count: count as u32,
                first_block: table.blocks as u32,
                decay: p.weight_decay as f32,
                lines: u32::from(buffers.iter().flatten().all(starts_a_line)),
                kind,
                gradient_type,
            });
            table.blocks += count.div_ceil(CHUNK);
            table.buffers.extend(buffers.into_iter().flatten());
            table.kinds |= 1 << kind;
            table.gradients |= 1 << gradient_type;
        }
        Ok(table)
    }
}

/// The kernel with the constants of kernels/optim/params.cuh.
fn specialise(kernel: Kernel, gradients: u32) -> Kernel {
    kernel.with("BLOCK", BLOCK).with("CHUNK", CHUNK as u32).with("GRADIENTS", gradients)
}

fn adamw_kernel(gradients: u32, kinds: u32, clip: bool) -> Kernel {
    let kernel = specialise(Kernel::builtin("adamw", ADAMW, "adamw"), gradients);
    kernel.with("HAS_CLIP", clip).with("KINDS", kinds)
}

fn norm_kernel(entry: &'static str, gradients: u32) -> Kernel {
    specialise(Kernel::builtin("grad_norm", NORM, entry), gradients).with("TEAM", BLOCK)
}

/// Steps every parameter and returns the norm of all gradients, or 0 if there is no bound for it.
pub(super) fn step_all(
    device: &CudaDevice,
    parameters: &[Parameter],
    step: &Step,
    scale: Scale,
) -> Result<Tensor> {
    let table = Table::new(device, parameters)?;
    let entries = device.upload("adamw", bytemuck::cast_slice(&table.entries))?;
    let clip = match scale {
        Scale::One => None,
        Scale::By(factor) => Some(device.upload("adamw", bytemuck::bytes_of(&[factor as f32, 0.0]))?),
        Scale::Bounded(max_norm) => Some(clip(device, &table, &entries, max_norm)?),
    };
    let params = AdamWParams {
        entries: table.entries.len() as u32,
        lr: step.lr as f32,
        beta1: step.beta1 as f32,
        beta2: step.beta2 as f32,
        eps: step.eps as f32,
        correction1: (1.0 / step.correction1) as f32,
        correction2: (1.0 / step.correction2) as f32,
        pad: 0,
        seed: step.random.seed,
        step: step.random.offset,
    };
    let bindings = [Binding::Read(&entries), Binding::read(clip.as_ref())];
    let kernel = adamw_kernel(table.gradients, table.kinds, clip.is_some());
    device.launch(&kernel, &bindings, &params, blocks(table.blocks, BLOCK))?;
    for p in parameters.iter().filter(|p| p.var.grad().is_some()) {
        p.var.storage().written();
    }
    match clip {
        Some(clip) => norm_of(device, clip),
        None => Tensor::zeros((), DType::F32, &crate::Device::Cuda(device.clone())),
    }
}

/// The norm of all gradients.
pub(super) fn norm(device: &CudaDevice, parameters: &[Parameter]) -> Result<Tensor> {
    let table = Table::new(device, parameters)?;
    let entries = device.upload("adamw", bytemuck::cast_slice(&table.entries))?;
    norm_of(device, clip(device, &table, &entries, f64::INFINITY)?)
}

/// The second of the two numbers that [`clip`] gives.
fn norm_of(device: &CudaDevice, clip: Buffer) -> Result<Tensor> {
    Tensor::from_cuda(device, clip, 2, DType::F32)?.narrow(0, 1, 1)?.reshape(())
}

/// Two numbers: the coefficient that clips, and the norm of all gradients.
fn clip(device: &CudaDevice, table: &Table, entries: &Buffer, max_norm: f64) -> Result<Buffer> {
    let kernel = |entry| norm_kernel(entry, table.gradients);
    let partials = device.alloc("adamw", table.blocks * 4)?;
    let clip = device.alloc("adamw", 8)?;
    let params = NormParams {
        entries: table.entries.len() as u32,
        slots: table.blocks as u32,
        max_norm: max_norm as f32,
        pad: 0,
    };
    let bindings = [Binding::Read(entries), Binding::Write(&partials)];
    device.launch(&kernel("squares"), &bindings, &params, blocks(table.blocks, BLOCK))?;
    let bindings = [Binding::Read(&partials), Binding::Write(&clip)];
    device.launch(&kernel("clip"), &bindings, &params, blocks(1, BLOCK))?;
    Ok(clip)
}

/// Parameters of each kind alone, with gradients of their own type and of f32, and all of them together.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let [f32s, f16s, bf16s] = [1, 2, 4];
    let mut all = Vec::new();
    for (kinds, gradients) in
        [(1, f32s), (2, f16s), (2, f32s), (4, bf16s), (4, f32s), (8, bf16s), (8, f32s), (15, 7)]
    {
        // Lines are of four elements: of 16 bits they are 8 bytes, but the moments' are 16.
        all.push(Launched::plain(adamw_kernel(gradients, kinds, true), BLOCK, true));
    }
    for gradients in [f32s, f16s, bf16s, 7] {
        all.push(Launched::plain(norm_kernel("squares", gradients), BLOCK, gradients & f32s != 0));
    }
    all.push(Launched::plain(norm_kernel("clip", f32s), BLOCK, false));
    all
}
