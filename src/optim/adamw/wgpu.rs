//! On wgpu the parameters of a group that have one dtype are one allocation, and so are their gradients, moments
//! and masters: an *arena*.
//!
//! WGSL has no pointers, so a kernel can only reach many tensors if they lie in one buffer. The
//! parameters move there once, and their storage follows; f32 gradients get their place beside them, so that a
//! backward writes straight into the arena. Gradients of 16 bits are widened into that place at each step.

use bytemuck::{Pod, Zeroable};

use super::{Exact, Parameter, Plan, RANDOM_ROOM, Scale, Step};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{ALIGNMENT, Binding, Buffer, Class, Kernel, WgpuDevice, Work, fold_groups};
use crate::ops::launch::wgpu::{HALF, PHILOX, REDUCE, REDUCE_SUBGROUP};
use crate::tensor::Data;
use crate::{DType, Result, Tensor, Var};

const BLOCK: u32 = 256;
/// Elements of one partial sum of squares.
const CHUNK: usize = 4096;

const ADAMW: &[&str] = &[HALF, PHILOX, include_str!("../../../kernels/optim/adamw.wgsl")];
const NORM_SOURCE: &str = include_str!("../../../kernels/optim/norm.wgsl");
const NORM: &[&str] = &[REDUCE, NORM_SOURCE];
const NORM_SUBGROUP: &[&str] = &[REDUCE_SUBGROUP, NORM_SOURCE];

/// All arenas. In each, parameters start at multiples of [`ALIGNMENT`] bytes; the gaps are zero.
pub(super) struct Arenas {
    arenas: Vec<Arena>,
    /// The place of each parameter.
    places: Vec<Place>,
    /// The f32 gradient of each parameter, in its arena.
    gradients: Vec<Tensor>,
}

struct Arena {
    weight_decay: f64,
    dtype: DType,
    /// That of its first parameter.
    exact: Exact,
    parameters: Buffer,
    masters: Option<Buffer>,
    gradients: Buffer,
    m: Buffer,
    v: Buffer,
}

/// Elements of an arena.
#[derive(Clone, Copy)]
struct Place {
    arena: usize,
    start: usize,
    /// A multiple of 4: those of the parameter and some of the gap after it.
    count: usize,
}

impl Place {
    /// The place's part of an arena's buffer of `dtype`.
    fn of(&self, buffer: &Buffer, dtype: DType) -> Result<Buffer> {
        buffer.slice(self.start * dtype.size(), self.count * dtype.size())
    }
}

/// An arena as it is planned.
struct Room {
    weight_decay: f64,
    dtype: DType,
    exact: Exact,
    elements: usize,
}

impl Room {
    /// Whether the parameter may come next: it is treated alike, and its random numbers follow.
    fn suits(&self, plan: &Plan) -> bool {
        let follows = match (self.exact, plan.exact) {
            (Exact::Nothing { random }, Exact::Nothing { random: next }) => {
                random + self.elements as u64 == next
            }
            (own, other) => own == other,
        };
        follows && self.weight_decay == plan.weight_decay && self.dtype == plan.var.dtype()
    }
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
    seed: u64,
    step: u64,
    random: u64,
    pad: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormParams {
    count: u32,
    chunk: u32,
    slot: u32,
    max_norm: f32,
}

fn norm_kernel(class: Class, entry: &'static str) -> Kernel {
    let source = if class.subgroups.is_some() { NORM_SUBGROUP } else { NORM };
    Kernel::builtin("grad_norm", source, entry).with("BLOCK", BLOCK)
}

/// For parameters of a dtype, with or without f32 masters of those of 16 bits.
fn adamw_kernel(clip: bool, dtype: DType, exact: Exact) -> Kernel {
    let type_code = match dtype {
        DType::F16 => 1u32,
        DType::BF16 => 2,
        _ => 0,
    };
    Kernel::builtin("adamw", ADAMW, "adamw")
        .with("BLOCK", BLOCK)
        .with("HAS_CLIP", clip)
        .with("ROUNDED", type_code)
        .with("MASTER", !matches!(exact, Exact::Nothing { .. }))
}

impl Arenas {
    pub(super) fn new(device: &WgpuDevice, plans: Vec<Plan>) -> Result<(Vec<Parameter>, Self)> {
        // As many parameters an arena as one binding can show of their f32 moments; a larger one has an arena of its own.
        let limit = device.max_binding_bytes() / DType::F32.size();
        let mut rooms: Vec<Room> = Vec::new();
        let mut places = Vec::new();
        for plan in &plans {
            let dtype = plan.var.dtype();
            let elements = plan.var.elements();
            let room = elements.next_multiple_of(ALIGNMENT as usize / dtype.size());
            let fits = |r: &Room| r.suits(plan) && r.elements + room <= limit;
            let arena = rooms.iter().rposition(fits).unwrap_or_else(|| {
                rooms.push(Room { weight_decay: plan.weight_decay, dtype, exact: plan.exact, elements: 0 });
                rooms.len() - 1
            });
            places.push(Place { arena, start: rooms[arena].elements, count: elements.next_multiple_of(4) });
            rooms[arena].elements += room;
        }
        let zeros = |bytes: usize| {
            let buffer = device.alloc("adamw", bytes)?;
            device.fill_zero(&buffer)?;
            Ok(buffer)
        };
        let arena = |&Room { weight_decay, dtype, exact, elements }: &Room| {
            Ok(Arena {
                weight_decay,
                dtype,
                exact,
                parameters: zeros(elements * dtype.size())?,
                masters: (exact == Exact::Master).then(|| zeros(elements * 4)).transpose()?,
                gradients: zeros(elements * 4)?,
                m: zeros(elements * 4)?,
                v: zeros(elements * 4)?,
            })
        };
        let arenas: Vec<Arena> = rooms.iter().map(arena).collect::<Result<_>>()?;
        // Everything that can fail for lack of memory is done: now the parameters move.
        let (mut parameters, mut gradients) = (Vec::new(), Vec::new());
        for (plan, place) in plans.into_iter().zip(&places) {
            let arena = &arenas[place.arena];
            let tensor = |buffer: &Buffer, dtype: DType| {
                let (start, bytes) = (place.start * dtype.size(), plan.var.elements() * dtype.size());
                let buffer = buffer.slice(start, bytes.next_multiple_of(4))?;
                Tensor::from_wgpu(device, buffer, plan.var.shape(), dtype)
            };
            let wide = |buffer: &Buffer| tensor(buffer, DType::F32);
            let moved = tensor(&arena.parameters, arena.dtype)?;
            moved.assign(&plan.var)?;
            let Data::Wgpu { buffer, .. } = &plan.var.storage().data else {
                unreachable!("the optimizer checks the device")
            };
            *buffer.write() = moved.wgpu_storage()?;
            let master = arena.masters.as_ref().map(wide).transpose()?;
            master.iter().try_for_each(|master| master.assign(&plan.var))?;
            let gradient = wide(&arena.gradients)?;
            settle(&plan.var, &gradient)?;
            gradients.push(gradient);
            let (m, v) = (wide(&arena.m)?, wide(&arena.v)?);
            parameters.push(plan.place_at(m, v, master));
        }
        // Where the parameters were before: sizes that few activations have, so they would lie idle.
        device.release_memory()?;
        Ok((parameters, Arenas { arenas, places, gradients }))
    }

    /// The parts of the arenas that have gradients: whole arenas if all their parameters do, in windows if they are
    /// larger than one.
    fn live(&self, device: &WgpuDevice, parameters: &[Parameter]) -> Vec<Place> {
        let live: Vec<bool> = parameters.iter().map(|p| p.var.grad().is_some()).collect();
        let mut parts = Vec::new();
        for (i, arena) in self.arenas.iter().enumerate() {
            let members = || self.places.iter().zip(&live).filter(move |(place, _)| place.arena == i);
            if members().all(|(_, &live)| live) {
                let count = arena.parameters.bytes() / arena.dtype.size();
                parts.push(Place { arena: i, start: 0, count });
            } else {
                parts.extend(members().filter(|&(_, &live)| live).map(|(place, _)| *place));
            }
        }
        // Of whole chunks of the norm, so that its sums are the same in any windows.
        let window = (device.max_binding_bytes() / (DType::F32.size() * CHUNK)).max(1) * CHUNK;
        let windows = |part: Place| {
            let starts = (0..part.count).step_by(window);
            starts.map(move |from| Place {
                start: part.start + from,
                count: window.min(part.count - from),
                ..part
            })
        };
        parts.into_iter().flat_map(windows).collect()
    }

    /// Steps every parameter and returns the norm of all gradients, or 0 if there is no bound for it.
    pub(super) fn step_all(
        &self,
        device: &WgpuDevice,
        parameters: &[Parameter],
        step: &Step,
        scale: Scale,
    ) -> Result<Tensor> {
        self.settle_all(parameters)?;
        let places = self.live(device, parameters);
        let clip = match scale {
            Scale::One => None,
            Scale::By(factor) => Some(device.upload("adamw", bytemuck::bytes_of(&[factor as f32, 0.0]))?),
            Scale::Bounded(max_norm) => Some(self.clip(device, &places, max_norm)?),
        };
        for place in &places {
            self.arenas[place.arena].update(device, place, step, clip.as_ref())?;
        }
        for p in parameters.iter().filter(|p| p.var.grad().is_some()) {
            p.var.storage().written();
        }
        match clip {
            Some(clip) => norm_of(device, clip),
            None => Tensor::zeros((), DType::F32, &crate::Device::Wgpu(device.clone())),
        }
    }

    /// The norm of all gradients.
    pub(super) fn norm(&self, device: &WgpuDevice, parameters: &[Parameter]) -> Result<Tensor> {
        self.settle_all(parameters)?;
        norm_of(device, self.clip(device, &self.live(device, parameters), f64::INFINITY)?)
    }

    fn settle_all(&self, parameters: &[Parameter]) -> Result<()> {
        parameters.iter().zip(&self.gradients).try_for_each(|(p, gradient)| settle(&p.var, gradient))
    }

    /// Two numbers: the coefficient that clips, and the norm of all gradients.
    fn clip(&self, device: &WgpuDevice, places: &[Place], max_norm: f64) -> Result<Buffer> {
        let kernel = |entry| norm_kernel(device.class(), entry);
        let slots: usize = places.iter().map(|place| place.count.div_ceil(CHUNK)).sum();
        let partials = device.alloc("adamw", slots.max(1) * 4)?;
        let clip = device.alloc("adamw", 8)?;
        let mut slot = 0;
        for place in places {
            let gradients = place.of(&self.arenas[place.arena].gradients, DType::F32)?;
            let (count, chunks) = (place.count as u32, place.count.div_ceil(CHUNK));
            let params = NormParams { count, chunk: CHUNK as u32, slot: slot as u32, max_norm: 0.0 };
            let bindings = [Binding::Read(&gradients), Binding::Write(&partials)];
            device.run(&kernel("squares"), &bindings, &params, fold_groups(chunks))?;
            slot += chunks;
        }
        let params =
            NormParams { count: slots as u32, chunk: CHUNK as u32, slot: 0, max_norm: max_norm as f32 };
        let bindings = [Binding::Read(&partials), Binding::Write(&clip)];
        device.run(&kernel("clip"), &bindings, &params, [1, 1, 1])?;
        Ok(clip)
    }
}

/// The second of the two numbers that [`Arenas::clip`] gives.
fn norm_of(device: &WgpuDevice, clip: Buffer) -> Result<Tensor> {
    Tensor::from_wgpu(device, clip, 2, DType::F32)?.narrow(0, 1, 1)?.reshape(())
}

/// Brings a gradient that is elsewhere, because it has 16 bits or was made after [`Var::clear_grad`], to its place in
/// the arena. A gradient of f32 has that place from then on, or from the start.
fn settle(var: &Var, place: &Tensor) -> Result<()> {
    let mut slot = var.leaf().0.lock();
    if let (Some(memory), true) = (&slot.memory, slot.live)
        && !memory.same_storage(place)
    {
        place.assign(memory)?;
    }
    if slot.dtype == place.dtype() {
        slot.memory = Some(place.clone());
    }
    Ok(())
}

impl Arena {
    /// By a step, for each element: the gradient is read, the moments and what the step is taken on are read and
    /// written, and what is rounded from a master is written.
    fn bytes_moved(&self) -> usize {
        let own = match self.exact {
            Exact::Itself => 2 * 4,
            Exact::Master => 2 * 4 + self.dtype.size(),
            Exact::Nothing { .. } => 2 * self.dtype.size(),
        };
        4 + 4 * 4 + own
    }

    fn update(&self, device: &WgpuDevice, place: &Place, step: &Step, clip: Option<&Buffer>) -> Result<()> {
        let wide = |buffer: &Buffer| place.of(buffer, DType::F32);
        let (g, m, v) = (wide(&self.gradients)?, wide(&self.m)?, wide(&self.v)?);
        let parameters = place.of(&self.parameters, self.dtype)?;
        // The binding of what is not there.
        let spare = device.alloc("adamw", 16)?;
        let (exact, rounded, random) = match (self.exact, &self.masters) {
            (Exact::Itself, _) => (parameters, spare, 0),
            (Exact::Nothing { random }, _) => (spare, parameters, random + place.start as u64),
            (Exact::Master, masters) => (masters.as_ref().map_or(Ok(spare), wide)?, parameters, 0),
        };
        let params = AdamWParams {
            count: place.count as u32,
            lr: step.lr as f32,
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            eps: step.eps as f32,
            decay: self.weight_decay as f32,
            correction1: (1.0 / step.correction1) as f32,
            correction2: (1.0 / step.correction2) as f32,
            seed: step.random.seed,
            step: step.random.offset,
            // A block of random bits serves four elements.
            random: random / 4,
            pad: 0,
        };
        let kernel = adamw_kernel(clip.is_some(), self.dtype, self.exact)
            .work(Work { flops: 0, bytes: Some((place.count * self.bytes_moved()) as u64) });
        device.run(
            &kernel,
            &[
                Binding::Read(&g),
                Binding::Read(clip.unwrap_or(&g)),
                Binding::Write(&exact),
                Binding::Write(&m),
                Binding::Write(&v),
                Binding::Write(&rounded),
            ],
            &params,
            fold_groups((place.count / 4).div_ceil(BLOCK as usize)),
        )
    }
}

// Parameters of 16 bits, which are rounded stochastically, have the same distances in arenas and among random numbers.
const _: () = assert!(RANDOM_ROOM == ALIGNMENT as usize / 2);

#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let mut all = Vec::from(["squares", "clip"].map(|entry| norm_kernel(class, entry)));
    for (dtype, exact) in [
        (DType::F32, Exact::Itself),
        (DType::F16, Exact::Master),
        (DType::BF16, Exact::Master),
        (DType::BF16, Exact::Nothing { random: 0 }),
    ] {
        all.extend([false, true].map(|clip| adamw_kernel(clip, dtype, exact)));
    }
    all.into_iter().map(Launched::from).collect()
}
