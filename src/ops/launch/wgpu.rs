//! What the wgpu bodies of several ops share: grids, element types, and strided views as parameters.

use bytemuck::{Pod, Zeroable};
use smallvec::SmallVec;

use crate::device::wgpu::{Buffer, Class, Constant, Kernel, WgpuDevice, fold_groups};
use crate::shape::{Dims, Dims8};
use crate::{DType, Error, Layout, Result, Shape, Tensor};

pub const STRIDED: &str = include_str!("../../../kernels/common/strided.wgsl");

/// How many neighbouring elements a kernel reads and writes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Width {
    /// kernels/common/scalars.wgsl
    #[default]
    One = 1,
    /// kernels/common/quads.wgsl
    Four = 4,
}

impl Width {
    #[cfg(test)]
    pub const ALL: [Width; 2] = [Width::One, Width::Four];

    /// The most that these numbers of elements, sizes and offsets, are all multiples of.
    pub fn of(elements: impl IntoIterator<Item = usize>) -> Self {
        if elements.into_iter().all(|n| n.is_multiple_of(4)) { Width::Four } else { Width::One }
    }

    /// `elements`, counted in items of this width.
    pub fn items(self, elements: usize) -> usize {
        elements / self as usize
    }
}

/// The parts of a kernel's source, with the access to memory of a [`Width`] before them.
macro_rules! by_width {
    ($width:expr, [$($part:expr),+ $(,)?]) => {{
        const ONE: &[&str] = &[$crate::ops::launch::wgpu::SCALARS, $($part),+];
        const FOUR: &[&str] = &[$crate::ops::launch::wgpu::QUADS, $($part),+];
        match $width {
            $crate::ops::launch::wgpu::Width::One => ONE,
            $crate::ops::launch::wgpu::Width::Four => FOUR,
        }
    }};
}
pub(crate) use by_width;

/// The constants of [`by_width`]'s parts: elements of type `from` are read, of type `to` written.
pub fn of_width(width: Width, from: DType, to: DType) -> [(&'static str, Constant); 3] {
    [("W", Constant::U32(width as u32)), ("T", Constant::Type(from)), ("U", Constant::Type(to))]
}

/// Threads a workgroup of the elementwise kernels.
pub const THREADS: usize = 256;

/// The grid for one thread an element in workgroups of 256.
pub fn threads(n: usize) -> [u32; 3] {
    fold_groups(n.div_ceil(THREADS))
}

/// Several views of one shape as kernels/common/strided.wgsl walks them.
pub struct Walk<const N: usize> {
    /// By quads if all are contiguous along the last dimension and quads start at multiples of four everywhere.
    pub width: Width,
    /// Views, walked by quads, that repeat one element along the last dimension.
    pub splat: [bool; N],
    /// What is bound of each, and at which of its items the view starts: of its elements, if it repeats one.
    pub buffers: [Buffer; N],
    pub offsets: [u32; N],
    /// Items.
    pub n: usize,
    pub rank: Constant,
    pub sizes: Dims8,
    pub strides: [Dims8; N],
}

impl<const N: usize> Walk<N> {
    pub fn new(views: [&Tensor; N]) -> Result<Self> {
        Self::of(views, false)
    }

    /// For a kernel that makes quads of one element where a view repeats it.
    pub fn with_splat(views: [&Tensor; N]) -> Result<Self> {
        Self::of(views, true)
    }

    fn of(views: [&Tensor; N], may_splat: bool) -> Result<Self> {
        let (sizes, strides) = Layout::collapse(&views.map(Tensor::layout));
        let windows: SmallVec<[(Buffer, usize); N]> =
            views.iter().map(|view| view.wgpu_window()).collect::<Result<_>>()?;
        let splat: [bool; N] = std::array::from_fn(|i| may_splat && strides[i].last() == Some(&0));
        let mut others = (0..N).filter(|&i| !splat[i]);
        let width = match sizes.last() {
            Some(&last) if others.clone().all(|i| strides[i].last() == Some(&1)) => {
                let starts = others.clone().map(|i| windows[i].1);
                let outer = others.by_ref().flat_map(|i| strides[i][..strides[i].len() - 1].iter().copied());
                Width::of(starts.chain(outer).chain([last]))
            }
            _ => Width::One,
        };
        let splat = splat.map(|splat| splat && width == Width::Four);
        let item = std::array::from_fn::<Width, N, _>(|i| if splat[i] { Width::One } else { width });
        // Items lie along the last dimension: it has fewer of them, and the steps along all others are that much shorter.
        let mut items = sizes.clone();
        items.last_mut().into_iter().for_each(|last| *last = width.items(*last));
        let steps = |strides: &Dims, item: Width| -> Dims {
            let (last, outer) =
                strides.split_last().map_or((None, &[][..]), |(last, outer)| (Some(*last), outer));
            outer.iter().map(|&stride| item.items(stride)).chain(last).collect()
        };
        Ok(Walk {
            width,
            splat,
            offsets: std::array::from_fn(|i| item[i].items(windows[i].1) as u32),
            buffers: std::array::from_fn(|i| windows[i].0.clone()),
            n: width.items(views[0].elements()),
            rank: Constant::U32(sizes.len() as u32),
            sizes: (&items).into(),
            strides: std::array::from_fn(|i| (&steps(&strides[i], item[i])).into()),
        })
    }
}

/// The parameters of kernels that walk two views of one shape.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct PairParams {
    n: u32,
    offsets: [u32; 2],
    pad: u32,
    sizes: Dims8,
    strides: [Dims8; 2],
}

impl From<&Walk<2>> for PairParams {
    fn from(&Walk { n, offsets, sizes, strides, .. }: &Walk<2>) -> Self {
        PairParams { n: n as u32, offsets, pad: 0, sizes, strides }
    }
}

/// Kernels index with 32 bits.
pub fn check_size(op: &'static str, device: &WgpuDevice, elements: usize) -> Result<()> {
    let limit = i32::MAX as u64;
    if elements as u64 > limit {
        let (size, device) = (elements as u64, device.to_string());
        return Err(Error::TooLarge { op, size, unit: "elements", limit, device });
    }
    Ok(())
}

/// Iterations, of all loops of an invocation together and but for those that a compiler unrolls, after which Mesa's llvmpipe
/// leaves a loop without a word (`LP_MAX_TGSI_LOOP_ITERATIONS`).
pub const LOOPS: usize = 65535;

/// Refuses, on software adapters, what takes more than [`LOOPS`]: `size` of which `limit` are within it.
pub fn check_loops(
    op: &'static str,
    device: &WgpuDevice,
    size: usize,
    unit: &'static str,
    limit: usize,
) -> Result<()> {
    if device.is_software() && size > limit {
        let (size, limit, device) = (size as u64, limit as u64, device.to_string());
        return Err(Error::TooLarge { op, size, unit, limit, device });
    }
    Ok(())
}

/// A new contiguous tensor, to be written by a kernel.
pub fn output(op: &'static str, device: &WgpuDevice, shape: &Shape, dtype: DType) -> Result<Tensor> {
    check_size(op, device, shape.elements())?;
    let buffer = device.alloc(op, shape.elements() * dtype.size())?;
    Tensor::from_wgpu(device, buffer, shape, dtype)
}

/// `alias T = f32` or `f16`, as the tensor's elements are.
pub fn element(dtype: DType) -> (&'static str, Constant) {
    ("T", Constant::Type(dtype))
}

/// A kernel with entry point `main`, specialised by its element type and these constants.
pub fn kernel(
    name: &'static str,
    source: &'static [&'static str],
    constants: impl IntoIterator<Item = (&'static str, Constant)>,
) -> Kernel {
    Kernel::builtin(name, source, "main").with_all(constants)
}

/// The workgroup size of a kernel that reduces over its workgroup: `gpu`, but one vector register of a
/// software adapter, for which every further invocation is one more turn of a loop.
pub fn block(class: Class, gpu: u32) -> u32 {
    if class.software { 8 } else { gpu }
}

/// The parts of a kernel that reduces over its workgroup, after those of a [`Width`] and the one that does so: through
/// subgroups on GPUs that have them. (A software adapter pays more for a subgroup operation than for
/// [`block`]'s few steps.)
macro_rules! reduction {
    ($class:expr, $width:expr, [$($part:expr),+ $(,)?]) => {
        if $class.subgroups.is_some() && !$class.software {
            by_width!($width, [$crate::ops::launch::wgpu::REDUCE_SUBGROUP, $($part),+])
        } else {
            by_width!($width, [$crate::ops::launch::wgpu::REDUCE, $($part),+])
        }
    };
}
pub(crate) use reduction;

/// How the workgroups of a kernel go through rows of one length, each through one.
#[derive(Clone, Copy)]
pub struct Pace {
    pub width: Width,
    /// Items that each invocation holds in registers, as a constant of kernels/common/held.wgsl: a few sizes serve all
    /// rows. 0 for rows that are too long.
    pub held: u32,
    /// Invocations.
    pub block: u32,
}

impl Pace {
    /// For rows of `cols` elements and workgroups of so many invocations of a GPU. A software adapter has [`block`]'s few,
    /// unless they would take more than [`LOOPS`]; rows that are too long even so are refused.
    pub fn new(op: &'static str, device: &WgpuDevice, cols: usize, gpu: u32) -> Result<Self> {
        let (class, width) = (device.class(), Width::of([cols]));
        let items = width.items(cols);
        let small = block(class, gpu);
        let held = items.div_ceil(small as usize).next_power_of_two() as u32;
        let held = if held > most_held(class) { 0 } else { held };
        // Three times through the row, and what else there is.
        let most = |block: u32| (LOOPS / 4) * block as usize;
        if items <= most(small) {
            return Ok(Pace { width, held, block: small });
        }
        check_loops(op, device, items, "items of a row", most(gpu))?;
        Ok(Pace { width, held, block: gpu })
    }

    /// What it may be.
    #[cfg(test)]
    pub fn all(class: Class, width: Width, gpu: u32) -> Vec<Self> {
        let sizes = (0..).map(|i| 1 << i).take_while(|&held| held <= most_held(class));
        let small = block(class, gpu);
        let mut all: Vec<Pace> =
            [0].into_iter().chain(sizes).map(|held| Pace { width, held, block: small }).collect();
        if small != gpu {
            all.push(Pace { width, held: 0, block: gpu });
        }
        all
    }
}

/// What is held at most: eight items are 32 registers of a GPU. A software adapter has a stack, and unrolls no longer loops.
fn most_held(class: Class) -> u32 {
    if class.software { 0 } else { 8 }
}

/// Walks of the elementwise kernels: of a scalar, of contiguous memory, the longest.
#[cfg(test)]
pub const WALKS: [(Constant, Width); 5] = [
    (Constant::U32(0), Width::One),
    (Constant::U32(1), Width::One),
    (Constant::U32(8), Width::One),
    (Constant::U32(1), Width::Four),
    (Constant::U32(8), Width::Four),
];

/// The dtypes in which kernels compute.
#[cfg(test)]
pub const FLOATS: [DType; 2] = [DType::F32, DType::F16];

pub const SCALARS: &str = include_str!("../../../kernels/common/scalars.wgsl");
pub const QUADS: &str = include_str!("../../../kernels/common/quads.wgsl");
pub const HELD: &str = include_str!("../../../kernels/common/held.wgsl");
pub const ONLINE_SOFTMAX: &str = include_str!("../../../kernels/common/online_softmax.wgsl");
pub const REDUCE: &str = include_str!("../../../kernels/common/reduce.wgsl");
pub const REDUCE_SUBGROUP: &str = include_str!("../../../kernels/common/reduce_subgroup.wgsl");
pub const HALF: &str = include_str!("../../../kernels/common/half.wgsl");
pub const MATRICES_8: &str = include_str!("../../../kernels/common/matrices8.wgsl");
pub const MATRICES_16: &str = include_str!("../../../kernels/common/matrices16.wgsl");
pub const HALVES_QUADS: &str = include_str!("../../../kernels/common/halves_quads.wgsl");
pub const HALVES_SCALARS: &str = include_str!("../../../kernels/common/halves_scalars.wgsl");
pub const PHILOX: &str = include_str!("../../../kernels/common/philox.wgsl");
pub const ACTIVATIONS: &str = include_str!("../../../kernels/activation/functions.wgsl");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::wgpu::Binding;

    const SUMS: &str = "
        @group(0) @binding(0) var<uniform> p: vec4<u32>;
        @group(0) @binding(1) var<storage, read> x: array<f32>;
        @group(0) @binding(2) var<storage, read_write> y: array<f32>;

        @compute @workgroup_size(BLOCK)
        fn main(@builtin(local_invocation_index) lid: u32) {
            let sums = group_sum2(vec2(x[lid], 2.0 * x[lid]), lid);
            let sum = group_sum(x[lid], lid);
            let largest = group_max(x[lid], lid);
            y[lid * 4u] = sums.x;
            y[lid * 4u + 1u] = sums.y;
            y[lid * 4u + 2u] = sum;
            y[lid * 4u + 3u] = largest;
        }";

    /// Both twins, on adapters with subgroups of any size: every invocation gets sum and maximum.
    #[test]
    fn reductions_with_and_without_subgroups() -> Result<()> {
        let device = match WgpuDevice::new(&"software".into()) {
            Ok(device) => device,
            Err(error) => {
                println!("NOT RUN: {error}");
                assert!(std::env::var("TILEWRIGHT_REQUIRE").is_err(), "wgpu is required here");
                return Ok(());
            }
        };
        const PLAIN: &[&str] = &[REDUCE, SUMS];
        const SUBGROUP: &[&str] = &[REDUCE_SUBGROUP, SUMS];
        for (source, needs_subgroups) in [(PLAIN, false), (SUBGROUP, true)] {
            if needs_subgroups && !device.has_subgroups() {
                println!("NOT RUN: {device} has no subgroups");
                continue;
            }
            for block in [1u32, 2, 8, 32, 128, 256] {
                let x: Vec<f32> = (0..block).map(|i| ((i * 37) % 101) as f32 - 120.0).collect();
                let input = device.upload("test", bytemuck::cast_slice(&x))?;
                let output = device.alloc("test", 16 * block as usize)?;
                let kernel = Kernel::builtin("sums", source, "main").with("BLOCK", block);
                device.run(
                    &kernel,
                    &[Binding::Read(&input), Binding::Write(&output)],
                    &[0u32; 4],
                    [1, 1, 1],
                )?;
                let y: Vec<f32> = bytemuck::pod_collect_to_vec(&device.download(&output)?);
                let (sum, largest) = (x.iter().sum::<f32>(), x.iter().copied().fold(f32::MIN, f32::max));
                for got in y[..4 * block as usize].chunks(4) {
                    assert_eq!(got, [sum, 2.0 * sum, sum, largest], "block {block}");
                }
            }
        }
        Ok(())
    }
}
