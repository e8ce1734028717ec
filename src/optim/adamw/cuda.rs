//! On CUDA one launch reaches all parameters of all groups through a table of their addresses, so that nothing
//! has to move: a step is that launch, and with clipping two more for the norm.

use bytemuck::{Pod, Zeroable};

use super::{ParamGroup, Step};
use crate::device::cuda::{Binding, Buffer, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{BLOCK, REDUCE, blocks, check_size, starts_a_line};
use crate::{DType, Result, Tensor, Var};

const TABLE: &str = cuda_source!("optim/params.cuh");
const ADAMW: &[&str] = &[TABLE, cuda_source!("optim/adamw.cu")];
const NORM: &[&str] = &[REDUCE, TABLE, cuda_source!("optim/norm.cu")];

/// Elements of a block.
const CHUNK: usize = 8192;

/// The moments of a group's parameters.
pub struct State(Vec<(Tensor, Tensor)>);

/// A parameter as the kernels find it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Entry {
    parameter: u64,
    gradient: u64,
    m: u64,
    v: u64,
    count: u32,
    first_block: u32,
    decay: f32,
    lines: u32,
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
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormParams {
    entries: u32,
    slots: u32,
    max_norm: f32,
    pad: u32,
}

impl State {
    pub fn new(vars: &[Var]) -> Result<Self> {
        vars.iter().map(|var| Ok((var.zeros_like()?, var.zeros_like()?))).collect::<Result<_>>().map(State)
    }

    pub fn moments(&self, i: usize) -> (Tensor, Tensor) {
        self.0[i].clone()
    }
}

/// The parameters that have gradients.
struct Table {
    entries: Vec<Entry>,
    blocks: usize,
    /// What the addresses belong to: alive until the kernels are queued.
    buffers: Vec<Buffer>,
}

impl Table {
    fn new(device: &CudaDevice, groups: &[Group<'_>]) -> Result<Self> {
        let mut table = Table { entries: Vec::new(), blocks: 0, buffers: Vec::new() };
        for ((state, group), step) in groups {
            for (var, (m, v)) in group.vars.iter().zip(&state.0) {
                let Some(grad) = var.grad() else { continue };
                check_size("adamw", device, var.elements())?;
                let buffers = [var.cuda()?, grad.cuda()?, m.cuda()?, v.cuda()?];
                let [parameter, gradient, m, v] = buffers.each_ref().map(Buffer::address);
                table.entries.push(Entry {
                    parameter,
                    gradient,
                    m,
                    v,
                    count: var.elements() as u32,
                    first_block: table.blocks as u32,
                    decay: step.weight_decay as f32,
                    lines: u32::from(buffers.iter().all(starts_a_line)),
                });
                table.blocks += var.elements().div_ceil(CHUNK);
                table.buffers.extend(buffers);
            }
        }
        Ok(table)
    }
}

type Group<'a> = ((&'a State, &'a ParamGroup), Step);

/// Steps every group and returns the norm of all gradients, or 0 if there is no bound for it.
pub fn step_all(device: &CudaDevice, groups: &[Group<'_>], max_norm: Option<f64>) -> Result<Tensor> {
    let table = Table::new(device, groups)?;
    let entries = device.upload("adamw", bytemuck::cast_slice(&table.entries))?;
    let clip = max_norm.map(|max_norm| norm(device, &table, &entries, max_norm)).transpose()?;
    if let Some((_, step)) = groups.first() {
        let kernel = Kernel::builtin("adamw", ADAMW, "adamw")
            .with("BLOCK", BLOCK)
            .with("CHUNK", CHUNK as u32)
            .with("HAS_CLIP", clip.is_some());
        // All but the weight decay is the same in every group.
        let params = AdamWParams {
            entries: table.entries.len() as u32,
            lr: step.lr as f32,
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            eps: step.eps as f32,
            correction1: (1.0 / step.correction1) as f32,
            correction2: (1.0 / step.correction2) as f32,
            pad: 0,
        };
        let bindings = [Binding::Read(&entries), Binding::read(clip.as_ref())];
        device.launch(&kernel, &bindings, &params, blocks(table.blocks, BLOCK))?;
    }
    for ((_, group), _) in groups {
        group.vars.iter().filter(|var| var.grad().is_some()).for_each(|var| var.storage().written());
    }
    match clip {
        // The kernel leaves the coefficient and then the norm.
        Some(clip) => Tensor::from_cuda(device, clip, 2, DType::F32)?.narrow(0, 1, 1)?.reshape(()),
        None => Tensor::zeros((), DType::F32, &crate::Device::Cuda(device.clone())),
    }
}

/// Two numbers: the coefficient that clips, and the norm of all gradients.
fn norm(device: &CudaDevice, table: &Table, entries: &Buffer, max_norm: f64) -> Result<Buffer> {
    let kernel = |entry| {
        Kernel::builtin("grad_norm", NORM, entry)
            .with("BLOCK", BLOCK)
            .with("TEAM", BLOCK)
            .with("CHUNK", CHUNK as u32)
    };
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
