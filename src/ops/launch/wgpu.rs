//! What the wgpu bodies of several ops share: grids, element types, and strided views as parameters.

use bytemuck::{Pod, Zeroable};
use smallvec::SmallVec;

use crate::device::wgpu::{Buffer, Class, Constant, Kernel, WgpuDevice, fold_groups};
use crate::shape::Dims8;
use crate::{DType, Error, Layout, Result, Shape, Tensor};

pub const STRIDED: &str = include_str!("../../../kernels/common/strided.wgsl");

/// Threads a workgroup of the elementwise kernels.
pub const THREADS: usize = 256;

/// The grid for one thread an element in workgroups of 256.
pub fn threads(n: usize) -> [u32; 3] {
    fold_groups(n.div_ceil(THREADS))
}

/// Several views of one shape as kernels/common/strided.wgsl walks them.
pub struct Walk<const N: usize> {
    /// What is bound of each, and where in it the view starts.
    pub buffers: [Buffer; N],
    pub offsets: [u32; N],
    pub n: u32,
    pub rank: Constant,
    pub sizes: Dims8,
    pub strides: [Dims8; N],
}

impl<const N: usize> Walk<N> {
    pub fn new(views: [&Tensor; N]) -> Result<Self> {
        let (sizes, strides) = Layout::collapse(&views.map(Tensor::layout));
        let windows: SmallVec<[(Buffer, usize); N]> =
            views.iter().map(|view| view.wgpu_window()).collect::<Result<_>>()?;
        Ok(Walk {
            offsets: std::array::from_fn(|i| windows[i].1 as u32),
            buffers: std::array::from_fn(|i| windows[i].0.clone()),
            n: views[0].elements() as u32,
            rank: Constant::U32(sizes.len() as u32),
            sizes: (&sizes).into(),
            strides: std::array::from_fn(|i| (&strides[i]).into()),
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
        PairParams { n, offsets, pad: 0, sizes, strides }
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
    let kernel = Kernel::builtin(name, source, "main");
    constants.into_iter().fold(kernel, |kernel, (name, value)| kernel.with(name, value))
}

/// The workgroup size of a kernel that reduces over its workgroup: `gpu`, but one vector register of a
/// software adapter, for which every further invocation is one more turn of a loop.
pub fn block(class: Class, gpu: u32) -> u32 {
    if class.software { 8 } else { gpu }
}

/// The source of a kernel that reduces over its workgroup, after the common part that does so: through
/// subgroups on GPUs that have them. (A software adapter pays more for a subgroup operation than for
/// [`block`]'s few steps.) The path is that of the kernel from the calling file.
macro_rules! reduction {
    ($class:expr, $source:literal) => {{
        const PLAIN: &[&str] = &[$crate::ops::launch::wgpu::REDUCE, include_str!($source)];
        const SUBGROUP: &[&str] = &[$crate::ops::launch::wgpu::REDUCE_SUBGROUP, include_str!($source)];
        if $class.subgroups.is_some() && !$class.software { SUBGROUP } else { PLAIN }
    }};
}
pub(crate) use reduction;

/// Ranks of the elementwise kernels' walks: of a scalar, of contiguous memory, the longest.
#[cfg(test)]
pub const RANKS: [u32; 3] = [0, 1, 8];

/// The dtypes in which kernels compute.
#[cfg(test)]
pub const FLOATS: [DType; 2] = [DType::F32, DType::F16];

pub const REDUCE: &str = include_str!("../../../kernels/common/reduce.wgsl");
pub const REDUCE_SUBGROUP: &str = include_str!("../../../kernels/common/reduce_subgroup.wgsl");
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
