//! On wgpu a group's parameters, gradients and moments are one allocation each: its *arena*.
//!
//! WGSL has no pointers, so a kernel can only reach many tensors if they lie in one buffer. The
//! parameters move there once, and their storage follows; the gradients get their place beside them,
//! so that a backward writes straight into the arena.

use bytemuck::{Pod, Zeroable};

use super::{ParamGroup, Step};
use crate::device::wgpu::{ALIGNMENT, Binding, Buffer, Constant, Kernel, WgpuDevice, fold_groups};
use crate::ops::launch::wgpu::{REDUCE, REDUCE_SUBGROUP, element};
use crate::tensor::Data;
use crate::{DType, Result, Tensor, Var};

const BLOCK: u32 = 256;
/// Elements of one partial sum of squares.
const CHUNK: usize = 4096;

const ADAMW: &[&str] = &[include_str!("../../../kernels/optim/adamw.wgsl")];
const NORM_SOURCE: &str = include_str!("../../../kernels/optim/norm.wgsl");
const NORM: &[&str] = &[REDUCE, NORM_SOURCE];
const NORM_SUBGROUP: &[&str] = &[REDUCE_SUBGROUP, NORM_SOURCE];

/// A group's memory. Every parameter starts at a multiple of [`ALIGNMENT`] bytes; the gaps are zero.
pub struct State {
    arenas: Vec<Arena>,
    /// For each parameter its arena, and its place there in bytes.
    places: Vec<Place>,
}

struct Arena {
    parameters: Buffer,
    gradients: Buffer,
    m: Buffer,
    v: Buffer,
}

#[derive(Clone, Copy)]
struct Place {
    arena: usize,
    start: usize,
    bytes: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AdamWParams {
    count: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    correction1: f32,
    correction2: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormParams {
    count: u32,
    chunk: u32,
    slot: u32,
    max_norm: f32,
}

impl State {
    pub fn new(device: &WgpuDevice, vars: &[Var]) -> Result<Self> {
        // As many parameters an arena as one binding can show.
        let limit = device.max_buffer_bytes();
        let mut sizes = vec![0];
        let mut places = Vec::new();
        for var in vars {
            let bytes = var.elements() * var.dtype().size();
            let room = bytes.next_multiple_of(ALIGNMENT as usize);
            if sizes[sizes.len() - 1] + room > limit && sizes[sizes.len() - 1] > 0 {
                sizes.push(0);
            }
            let arena = sizes.len() - 1;
            places.push(Place { arena, start: sizes[arena], bytes });
            sizes[arena] += room;
        }
        let zeros = |bytes: usize| {
            let buffer = device.alloc("adamw", bytes)?;
            device.fill_zero(&buffer)?;
            Ok(buffer)
        };
        let arena = |&bytes: &usize| {
            Ok(Arena {
                parameters: zeros(bytes)?,
                gradients: zeros(bytes)?,
                m: zeros(bytes)?,
                v: zeros(bytes)?,
            })
        };
        let arenas: Vec<Arena> = sizes.iter().map(arena).collect::<Result<_>>()?;
        // Everything that can fail for lack of memory is done: now the parameters move.
        for (var, place) in vars.iter().zip(&places) {
            let arena = &arenas[place.arena];
            let parameter = arena.parameters.slice(place.start, place.bytes)?;
            let gradient = arena.gradients.slice(place.start, place.bytes)?;
            let Data::Wgpu { buffer, .. } = &var.storage().data else {
                unreachable!("the optimizer checks the device")
            };
            let mut buffer = buffer.write();
            device.copy(&buffer, &parameter)?;
            *buffer = parameter;
            drop(buffer);
            let gradient = Tensor::from_wgpu(device, gradient, var.shape(), var.dtype())?;
            let mut slot = var.leaf().0.lock();
            if let (Some(existing), true) = (&slot.memory, slot.live) {
                gradient.assign(existing)?;
            }
            slot.memory = Some(gradient);
        }
        // Where the parameters were before: sizes that few activations have, so they would lie idle.
        device.release_memory()?;
        Ok(State { arenas, places })
    }

    pub fn moments(&self, i: usize, var: &Var) -> Result<(Tensor, Tensor)> {
        let Place { arena, start, bytes } = self.places[i];
        let device = var.wgpu_device()?;
        let tensor = |buffer: &Buffer| {
            Tensor::from_wgpu(&device, buffer.slice(start, bytes)?, var.shape(), DType::F32)
        };
        Ok((tensor(&self.arenas[arena].m)?, tensor(&self.arenas[arena].v)?))
    }

    /// The parts of the arenas that have gradients: whole arenas if all their parameters do.
    fn live(&self, group: &ParamGroup) -> Vec<Place> {
        let live: Vec<bool> = group.vars.iter().map(|var| var.grad().is_some()).collect();
        let mut parts = Vec::new();
        for (i, arena) in self.arenas.iter().enumerate() {
            let members = || self.places.iter().zip(&live).filter(move |(place, _)| place.arena == i);
            if members().all(|(_, &live)| live) {
                parts.push(Place { arena: i, start: 0, bytes: arena.parameters.bytes() });
            } else {
                parts.extend(members().filter(|&(_, &live)| live).map(|(place, _)| *place));
            }
        }
        parts
    }
}

type Group<'a> = ((&'a State, &'a ParamGroup), Step);

/// Steps every group and returns the norm of all gradients, or 0 if there is no bound for it.
pub fn step_all(device: &WgpuDevice, groups: &[Group<'_>], max_norm: Option<f64>) -> Result<Tensor> {
    let parts: Vec<(&State, &Step, Vec<Place>)> =
        groups.iter().map(|((state, group), step)| (*state, step, state.live(group))).collect();
    let clip = match max_norm {
        Some(max_norm) => Some(norm(device, &parts, max_norm)?),
        None => None,
    };
    for (state, step, places) in &parts {
        for place in places {
            update(device, &state.arenas[place.arena], *place, step, clip.as_ref())?;
        }
    }
    for ((_, group), _) in groups {
        group.vars.iter().filter(|var| var.grad().is_some()).for_each(|var| var.storage().written());
    }
    match clip {
        // The kernel leaves the coefficient and then the norm.
        Some(clip) => Tensor::from_wgpu(device, clip, 2, DType::F32)?.narrow(0, 1, 1)?.reshape(()),
        None => Tensor::zeros((), DType::F32, &crate::Device::Wgpu(device.clone())),
    }
}

/// Two numbers: the coefficient that clips, and the norm of all gradients.
fn norm(device: &WgpuDevice, parts: &[(&State, &Step, Vec<Place>)], max_norm: f64) -> Result<Buffer> {
    let source = if device.has_subgroups() { NORM_SUBGROUP } else { NORM };
    let kernel = |entry| {
        let (name, value) = element(DType::F32);
        Kernel::builtin("grad_norm", source, entry).with("BLOCK", Constant::U32(BLOCK)).with(name, value)
    };
    let places =
        || parts.iter().flat_map(|(state, _, places)| places.iter().map(move |place| (state, place)));
    let slots: usize = places().map(|(_, place)| (place.bytes / 4).div_ceil(CHUNK)).sum();
    let partials = device.alloc("adamw", slots.max(1) * 4)?;
    let clip = device.alloc("adamw", 8)?;
    let mut slot = 0;
    for (state, place) in places() {
        let count = place.bytes / 4;
        let gradients = state.arenas[place.arena].gradients.slice(place.start, place.bytes)?;
        let params =
            NormParams { count: count as u32, chunk: CHUNK as u32, slot: slot as u32, max_norm: 0.0 };
        let chunks = count.div_ceil(CHUNK);
        let bindings = [Binding::Read(&gradients), Binding::Write(&partials)];
        device.run(&kernel("squares"), &bindings, &params, fold_groups(chunks))?;
        slot += chunks;
    }
    let params = NormParams { count: slots as u32, chunk: CHUNK as u32, slot: 0, max_norm: max_norm as f32 };
    device.run(&kernel("clip"), &[Binding::Read(&partials), Binding::Write(&clip)], &params, [1, 1, 1])?;
    Ok(clip)
}

fn update(
    device: &WgpuDevice,
    arena: &Arena,
    place: Place,
    step: &Step,
    clip: Option<&Buffer>,
) -> Result<()> {
    let part = |buffer: &Buffer| buffer.slice(place.start, place.bytes);
    let (w, g, m, v) = (part(&arena.parameters)?, part(&arena.gradients)?, part(&arena.m)?, part(&arena.v)?);
    let count = place.bytes / 4;
    let params = AdamWParams {
        count: count as u32,
        lr: step.lr as f32,
        beta1: step.beta1 as f32,
        beta2: step.beta2 as f32,
        eps: step.eps as f32,
        decay: step.weight_decay as f32,
        correction1: (1.0 / step.correction1) as f32,
        correction2: (1.0 / step.correction2) as f32,
    };
    let (name, value) = element(DType::F32);
    let kernel = Kernel::builtin("adamw", ADAMW, "adamw")
        .with("BLOCK", Constant::U32(BLOCK))
        .with("HAS_CLIP", Constant::Bool(clip.is_some()))
        .with(name, value);
    device.run(
        &kernel,
        &[
            Binding::Read(&g),
            Binding::Read(clip.unwrap_or(&g)),
            Binding::Write(&w),
            Binding::Write(&m),
            Binding::Write(&v),
        ],
        &params,
        fold_groups(count.div_ceil(BLOCK as usize)),
    )
}
