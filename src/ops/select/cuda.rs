use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{STRIDED, Walk, output};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::ops::launch::cuda::{BLOCK, strided, walks};
use crate::shape::Dims8;
#[cfg(all(test, feature = "cuda-sim"))]
use crate::DType;
use crate::{Result, Tensor};

const SELECT: &[&str] = &[STRIDED, cuda_source!("select/select.cu")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    sizes: Dims8,
    strides: [Dims8; 3],
}

fn kernel([mask_splat, a_splat, b_splat]: [bool; 3]) -> Kernel {
    Kernel::builtin("where_cond", SELECT, "select")
        .with("MASK_SPLAT", mask_splat)
        .with("A_SPLAT", a_splat)
        .with("B_SPLAT", b_splat)
}

pub fn select(device: &CudaDevice, mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("where_cond", device, a.shape(), a.dtype())?;
    let walk = Walk::new("where_cond", device, [mask, a, b], a.dtype())?;
    let Walk { n, sizes, strides, buffers: [mask_buffer, a_buffer, b_buffer], .. } = &walk;
    device.launch(
        &walk.specialise(kernel(walk.splat)).with("T", a.dtype()),
        &[
            Binding::Read(mask_buffer),
            Binding::Read(a_buffer),
            Binding::Read(b_buffer),
            Binding::Write(&buffer),
        ],
        &Params { n: *n, sizes: *sizes, strides: *strides },
        walk.grid(),
    )?;
    Ok(vec![out])
}

/// Every walk and type, with each of the views repeating an element.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        // A line is 16 bytes of the mask.
        for (rank, width) in walks(4) {
            for splat in [None, Some(0), Some(1), Some(2)] {
                let splat = [0, 1, 2].map(|view| width > 1 && Some(view) == splat);
                let kernel = strided(kernel(splat), rank, width).with("T", dtype);
                all.push(Launched::plain(kernel, BLOCK, width > 1 && !(splat[0] && dtype != DType::F32)));
            }
        }
    }
    all
}
