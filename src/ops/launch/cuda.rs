//! What the CUDA bodies of several ops share: outputs, grids, strided views as parameters, and how rows are
//! divided over threads.

use bytemuck::{Pod, Zeroable};
use smallvec::SmallVec;

use crate::device::cuda::{Buffer, CudaDevice, Grid, Kernel, cuda_source};
use crate::shape::Dims8;
use crate::{DType, Device, Error, Layout, Result, Shape, Tensor};

pub const ACTIVATIONS: &str = cuda_source!("activation/functions.cuh");
pub const EXPONENTIALS: &str = cuda_source!("common/softmax.cuh");
pub const PHILOX: &str = cuda_source!("common/philox.cuh");
pub const REDUCE: &str = cuda_source!("common/reduce.cuh");
pub const ROWS: &str = cuda_source!("common/rows.cuh");
pub const STRIDED: &str = cuda_source!("common/strided.cuh");

/// Threads a block of kernels in which each thread is on its own.
pub const BLOCK: u32 = 256;

/// Bytes of the widest load of a thread.
const LINE: usize = 16;

/// The memory of a new contiguous tensor, to be written by a kernel.
pub fn output(
    op: &'static str,
    device: &CudaDevice,
    shape: &Shape,
    dtype: DType,
) -> Result<(Tensor, Buffer)> {
    check_size(op, device, shape.elements())?;
    let tensor = Tensor::uninit(shape, dtype, &Device::Cuda(device.clone()))?;
    let buffer = tensor.cuda_storage()?;
    Ok((tensor, buffer))
}

/// Kernels count rows and elements with 32 bits.
pub fn check_size(op: &'static str, device: &CudaDevice, elements: usize) -> Result<()> {
    let limit = i32::MAX as u64;
    if elements as u64 > limit {
        let (size, device) = (elements as u64, device.to_string());
        return Err(Error::TooLarge { op, size, unit: "elements", limit, device });
    }
    Ok(())
}

/// Kernels step through views by strides of 32 bits. Nobody steps along a dimension of size 1, whatever its stride.
pub fn check_strides(op: &'static str, device: &CudaDevice, view: &Tensor) -> Result<()> {
    let strides = view.dims().iter().zip(&view.layout().strides).filter(|(size, _)| **size > 1);
    let (size, limit) = (strides.map(|(_, &stride)| stride as u64).max().unwrap_or(0), u64::from(u32::MAX));
    if size > limit {
        let (unit, device) = ("elements from one index to the next", device.to_string());
        return Err(Error::TooLarge { op, size, unit, limit, device });
    }
    Ok(())
}

/// How many neighbours of a row of `columns` a thread may load at once: 16 bytes of them if rows and buffers
/// start at multiples of that, else 1.
pub fn width<'a>(dtype: DType, columns: usize, buffers: impl IntoIterator<Item = &'a Buffer>) -> usize {
    let width = LINE / dtype.size();
    let whole = columns.is_multiple_of(width) && buffers.into_iter().all(starts_a_line);
    if whole { width } else { 1 }
}

/// Whether loads of 16 bytes may begin where the buffer does.
pub fn starts_a_line(buffer: &Buffer) -> bool {
    is_aligned(buffer, LINE)
}

/// Whether loads of so many bytes may begin where the buffer does.
pub fn is_aligned(buffer: &Buffer, bytes: usize) -> bool {
    buffer.address().is_multiple_of(bytes as u64)
}

/// So many blocks of so many threads, without dynamic shared memory.
pub fn blocks(blocks: usize, threads: u32) -> Grid {
    Grid { blocks: [blocks as u32, 1, 1], threads, shared: 0 }
}

/// A thread each for so many, in blocks of [`BLOCK`].
pub fn threads(n: usize) -> Grid {
    blocks(n.div_ceil(BLOCK as usize), BLOCK)
}

/// Several views of one shape as kernels/common/strided.cuh walks them.
pub struct Walk<const N: usize> {
    pub n: u32,
    pub sizes: Dims8,
    pub strides: [Dims8; N],
    /// Each view's memory from its first element on.
    pub buffers: [Buffer; N],
    /// Views that repeat one element along the last dimension.
    pub splat: [bool; N],
    rank: usize,
    width: usize,
}

impl<const N: usize> Walk<N> {
    /// For kernels whose output is contiguous and has elements of `result`.
    pub fn new(op: &'static str, device: &CudaDevice, views: [&Tensor; N], result: DType) -> Result<Self> {
        check_size(op, device, views[0].elements())?;
        views.into_iter().try_for_each(|view| check_strides(op, device, view))?;
        let buffers: SmallVec<[Buffer; N]> =
            views.iter().map(|view| view.cuda_strided()).collect::<Result<_>>()?;
        let layouts = views.map(Tensor::layout);
        let (sizes, strides) = Layout::collapse(&layouts);
        let widest = views.iter().map(|view| view.dtype().size()).fold(result.size(), usize::max);
        let width = LINE / widest;
        let whole = |x: usize| x.is_multiple_of(width);
        // Whether a view lets threads take lines, or else has a single element for each of them.
        let fits = |i: usize, last: usize| {
            let own = &strides[i];
            let in_lines = own[last] == 1 && own[..last].iter().all(|&s| whole(s));
            own[last] == 0 || in_lines && is_aligned(&buffers[i], width * views[i].dtype().size())
        };
        let last = sizes.len().checked_sub(1);
        let lines = last.is_some_and(|last| whole(sizes[last]) && (0..N).all(|i| fits(i, last)));
        Ok(Walk {
            n: layouts[0].elements() as u32,
            splat: std::array::from_fn(|i| lines && strides[i].last() == Some(&0)),
            rank: sizes.len(),
            width: if lines { width } else { 1 },
            buffers: std::array::from_fn(|i| buffers[i].clone()),
            strides: std::array::from_fn(|i| (&strides[i]).into()),
            sizes: (&sizes).into(),
        })
    }

    /// The kernel with the constants of kernels/common/strided.cuh, and `BLOCK`.
    pub fn specialise(&self, kernel: Kernel) -> Kernel {
        strided(kernel, self.rank, self.width)
    }

    /// A thread a line.
    pub fn grid(&self) -> Grid {
        threads(self.n as usize / self.width)
    }
}

/// The kernel as it walks views of `rank` dimensions, `width` neighbours a thread.
pub fn strided(kernel: Kernel, rank: usize, width: usize) -> Kernel {
    kernel.with("BLOCK", BLOCK).with("RANK", rank as u32).with("WIDTH", width as u32)
}

/// The shortest walk and the longest, in lines and one by one: ranks and widths for elements of up to so many bytes.
#[cfg(all(test, feature = "cuda-sim"))]
pub fn walks(size: usize) -> impl Iterator<Item = (usize, usize)> {
    [1, 8].into_iter().flat_map(move |rank| [LINE / size, 1].map(|width| (rank, width)))
}

/// The parameters of kernels that walk two views of one shape.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct PairParams {
    n: u32,
    sizes: Dims8,
    strides: [Dims8; 2],
}

impl From<&Walk<2>> for PairParams {
    fn from(walk: &Walk<2>) -> Self {
        let Walk { n, sizes, strides, .. } = *walk;
        PairParams { n, sizes, strides }
    }
}

/// How a row is divided over threads, see kernels/common/rows.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPlan {
    /// Threads a block.
    pub block: usize,
    /// Threads a row.
    pub team: usize,
    /// Elements a load.
    pub width: usize,
    /// Loads that a thread keeps in registers; 0 if it keeps none.
    pub steps: usize,
}

impl RowPlan {
    /// A warp a row while each lane has no more than `kept` elements to keep, then as many warps as leave a thread 8
    /// or 16, then a block that reads the row again in each pass. So do rows that start anywhere: for them, kernels
    /// of as many sizes would not pay.
    pub fn of(cols: usize, width: usize, kept: usize) -> RowPlan {
        if width == 1 {
            let (block, team) = if cols <= 1024 { (128, 32) } else { (256, 256) };
            return RowPlan { block, team, width, steps: 0 };
        }
        if cols > 8192 {
            return RowPlan { block: 512, team: 512, width, steps: 0 };
        }
        let (block, team) = if cols <= 32 * kept {
            (128, 32)
        } else {
            let team = cols.div_ceil(if cols <= 2048 { 8 } else { 16 }).next_multiple_of(32);
            (team, team)
        };
        RowPlan { block, team, width, steps: cols.div_ceil(team * width) }
    }

    /// All plans of rows of whole lines and of others; of the teams of several warps the smallest and the largest.
    #[cfg(all(test, feature = "cuda-sim"))]
    pub fn all(dtype: DType, kept: usize) -> Vec<RowPlan> {
        let columns = || (8..=1024).step_by(8).chain([2048, 2056, 8192, 8200]);
        let mut plans: Vec<RowPlan> = Vec::new();
        for width in [1, LINE / dtype.size()] {
            for cols in columns() {
                let plan = RowPlan::of(cols, width, kept);
                if !plans.contains(&plan) {
                    plans.push(plan);
                }
            }
        }
        let smallest = plans.iter().map(|plan| plan.team).filter(|team| *team > 32).min();
        plans.retain(|plan| plan.team <= 32 || plan.team >= 256 || Some(plan.team) == smallest);
        plans
    }

    /// The kernel with the constants of kernels/common/rows.cuh.
    pub fn specialise(&self, kernel: Kernel) -> Kernel {
        kernel
            .with("BLOCK", self.block as u32)
            .with("TEAM", self.team as u32)
            .with("WIDTH", self.width as u32)
            .with("STEPS", self.steps as u32)
    }

    /// Blocks for so many rows, but no more than `most`.
    pub fn grid(&self, rows: usize, most: usize) -> Grid {
        blocks(rows.div_ceil(self.block / self.team).min(most), self.block as u32)
    }
}

#[cfg(all(test, feature = "cuda-sim"))]
mod tests {
    use super::*;
    use crate::device::cuda::sim;
    use crate::{AttentionOptions, CrossEntropyOptions};

    /// More than 32 bits count.
    const MORE: usize = 5_000_000_000;

    /// A simulated device, or none without its compiler, which the tests of `device::cuda` say.
    fn device() -> Option<Device> {
        CudaDevice::simulated(sim::Options::default(), 2).ok().map(Device::Cuda)
    }

    /// One element that says to be a tensor of this layout: enough for what is refused before memory is asked for.
    fn claimed(device: &Device, layout: Layout, dtype: DType) -> Tensor {
        Tensor::zeros(1, dtype, device).unwrap().with_layout(layout)
    }

    #[test]
    fn what_32_bits_do_not_count_is_refused() {
        let Some(device) = device() else { return };
        let of = |dims: &[usize], dtype| claimed(&device, Layout::contiguous(dims.into()), dtype);
        let bf16 = |dims: &[usize]| of(dims, DType::BF16);
        let small = |dims: &[usize]| Tensor::zeros(dims, DType::BF16, &device).unwrap();
        let (huge, ids) = (bf16(&[MORE]), Tensor::new(&[0u32], &device).unwrap());
        let half = bf16(&[MORE / 2]);
        let far = |dims: &[usize], strides: &[usize]| {
            let (shape, strides) = (dims.into(), strides.iter().copied().collect());
            claimed(&device, Layout { shape, strides, offset: 0 }, DType::BF16)
        };
        let done = |result: Result<()>| result.map(|()| small(&[1]));
        let none = CrossEntropyOptions::default();
        let rows = far(&[1, 1, 2, 8], &[1 << 34, 1 << 34, 1 << 33, 1]);
        let results = [
            ("ones", Tensor::ones(MORE, DType::BF16, &device)),
            ("copy", huge.copy()),
            ("to_dtype", huge.to_dtype(DType::F32)),
            ("cat", Tensor::cat(&[&half, &half], 0)),
            ("assign", done(huge.assign(&bf16(&[MORE])))),
            ("add_assign", done(huge.add_assign(&bf16(&[MORE])))),
            ("exp", huge.exp()),
            ("add", huge.add(&huge)),
            ("lt", huge.lt(&huge)),
            ("where_cond", of(&[MORE], DType::U32).where_cond(&huge, &huge)),
            ("sum of a row", huge.sum(0)),
            ("sum of columns", bf16(&[MORE, 2]).sum(0)),
            ("argmax", huge.argmax(0)),
            ("softmax", huge.softmax(0)),
            ("matmul", bf16(&[1, MORE]).matmul(&bf16(&[MORE, 1]))),
            ("matmul by strides", far(&[2, 2], &[1 << 33, 1]).matmul(&small(&[2, 2]))),
            ("embedding", bf16(&[MORE, 1]).embedding(&ids)),
            ("gather", huge.gather(&ids, 0)),
            ("cross entropy", bf16(&[1, MORE]).into_cross_entropy(&ids, none)),
            ("attention by strides", rows.attention(&rows, &rows, &AttentionOptions::default())),
            ("exp by strides", far(&[2, 3], &[1 << 33, 1]).exp()),
            ("copy by strides", far(&[2, 3], &[1 << 33, 1]).copy()),
        ];
        for (name, result) in results {
            let Err(error) = result else { panic!("{name} took place") };
            assert!(matches!(error, Error::TooLarge { .. }), "{name}: {error:?}");
        }
        // A dimension of size 1 has no step.
        assert_eq!(far(&[1, 1], &[1 << 33, 1]).exp().unwrap().to_vec::<f32>().unwrap(), [1.0]);
    }

    /// Places beyond 2^32 elements are places: outside of this memory, and not somewhere inside.
    #[test]
    fn offsets_are_not_cut() {
        let Some(device) = device() else { return };
        let layout = Layout { offset: 1 << 32, ..Layout::contiguous(Shape::from((1, 1, 1, 8))) };
        let x = claimed(&device, layout, DType::F32);
        let results =
            [x.exp(), x.copy(), x.matmul(&x.t().unwrap()), x.attention(&x, &x, &AttentionOptions::default())];
        for result in results {
            let message = result.unwrap_err().to_string();
            assert!(message.contains("17179869184"), "{message}");
        }
    }
}
