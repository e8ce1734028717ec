use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Binding, Buffer, CudaDevice, Grid, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{BLOCK, STRIDED, check_size, check_strides, is_aligned, output};
use crate::shape::{Dims, Dims8};
use crate::{DType, Layout, Result, Tensor};

const COPY: &[&str] = &[STRIDED, cuda_source!("copy/copy.cu")];

const TILE: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    sizes: Dims8,
    src: Dims8,
    dst: Dims8,
}

fn kernel(entry: &'static str, rank: u32, from: DType, to: DType) -> Kernel {
    Kernel::builtin("copy", COPY, entry)
        .with("BLOCK", BLOCK)
        .with("RANK", rank)
        .with("S", from)
        .with("D", to)
}

pub fn converted(device: &CudaDevice, x: &Tensor, dtype: DType) -> Result<Tensor> {
    let (out, _) = output("to_dtype", device, x.shape(), dtype)?;
    assign(device, &out, x)?;
    Ok(out)
}

/// Writes `values`, converted, over the view `to`.
pub fn assign(device: &CudaDevice, to: &Tensor, values: &Tensor) -> Result<()> {
    if to.elements() == 0 {
        return Ok(());
    }
    check_size("assign", device, to.elements())?;
    [values, to].into_iter().try_for_each(|view| check_strides("assign", device, view))?;
    to.storage().written();
    let layouts = [values.layout(), to.layout()];
    let (sizes, strides) = Layout::collapse(&layouts);
    let params = Params {
        n: to.elements() as u32,
        sizes: (&sizes).into(),
        src: (&strides[0]).into(),
        dst: (&strides[1]).into(),
    };
    let kernel = |entry| kernel(entry, sizes.len() as u32, values.dtype(), to.dtype());
    let (from, into) = (values.cuda_strided()?, to.cuda_strided()?);
    let bindings = [Binding::Read(&from), Binding::Write(&into)];
    let (kernel, blocks) = match along(&sizes, &strides) {
        Some(dim) => {
            let last = sizes.len() - 1;
            let others: usize = sizes.iter().product::<usize>() / (sizes[last] * sizes[dim]);
            let tiles = sizes[last].div_ceil(TILE) * sizes[dim].div_ceil(TILE) * others;
            (kernel("transposed").with("WIDTH", 1u32).with("ALONG", dim as u32), tiles)
        }
        None => {
            let sides = [(values.dtype(), &from), (to.dtype(), &into)];
            let width = width(sides, &sizes, &strides);
            let lines = to.elements() / width;
            let kernel = kernel("elements").with("WIDTH", width as u32).with("ALONG", 0u32);
            (kernel, lines.div_ceil(BLOCK as usize))
        }
    };
    device.launch(&kernel, &bindings, &params, Grid { blocks: [blocks as u32, 1, 1], threads: BLOCK, shared: 0 })
}

/// The dimension along which the source runs in memory, if the destination runs along the last one and both
/// are long enough for tiles to pay.
fn along(sizes: &Dims, strides: &[Dims]) -> Option<usize> {
    let [src, dst] = strides else { return None };
    let last = sizes.len().checked_sub(1)?;
    if src[last] <= 1 || dst[last] != 1 || sizes[last] < TILE / 2 {
        return None;
    }
    (0..last).find(|&d| src[d] == 1 && sizes[d] >= TILE / 2)
}

/// Elements that both sides can move at once.
fn width(sides: [(DType, &Buffer); 2], sizes: &Dims, strides: &[Dims]) -> usize {
    let width = 16 / sides.map(|(dtype, _)| dtype.size()).into_iter().fold(1, usize::max);
    let Some(last) = sizes.len().checked_sub(1) else { return 1 };
    let whole = |x: usize| x.is_multiple_of(width);
    let fits = strides.iter().all(|s| s[last] == 1 && s[..last].iter().all(|&s| whole(s)))
        && whole(sizes[last])
        && sides.iter().all(|(dtype, buffer)| is_aligned(buffer, width * dtype.size()));
    if fits { width } else { 1 }
}

/// One line and one element at a time, the pairs of types that ops make; the longest walk and the shortest.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    const TYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::U32];
    // The types that others become, and each by itself.
    let pairs = TYPES.into_iter().flat_map(|from| TYPES.map(|to| (from, to)));
    let pairs = pairs.filter(|(from, to)| from == to || *from == DType::F32 || *to == DType::F32);
    pairs
        .flat_map(|(from, to)| {
            let most = 16 / from.size().max(to.size()) as u32;
            let kernel = move |entry, rank: u32, width: u32, along: u32| {
                let kernel = kernel(entry, rank, from, to).with("WIDTH", width).with("ALONG", along);
                Launched::plain(kernel, BLOCK, width as usize * from.size() == 16)
            };
            [
                kernel("elements", 1, most, 0),
                kernel("elements", 8, most, 0),
                kernel("elements", 1, 1, 0),
                kernel("elements", 8, 1, 0),
                kernel("transposed", 2, 1, 0),
                kernel("transposed", 8, 1, 3),
            ]
        })
        .collect()
}
