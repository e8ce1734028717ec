use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{STRIDED, Walk, output};
use crate::shape::Dims8;
use crate::{Result, Tensor};

const SELECT: &[&str] = &[STRIDED, cuda_source!("select/select.cu")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    offsets: [u32; 3],
    sizes: Dims8,
    strides: [Dims8; 3],
}

pub fn select(device: &CudaDevice, mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("where_cond", device, a.shape(), a.dtype())?;
    let walk = Walk::new([mask, a, b], a.dtype())?;
    let [mask_splat, a_splat, b_splat] = walk.splat;
    let kernel = walk
        .specialise(Kernel::builtin("where_cond", SELECT, "select"))
        .with("MASK_SPLAT", mask_splat)
        .with("A_SPLAT", a_splat)
        .with("B_SPLAT", b_splat)
        .with("T", a.dtype());
    let Walk { n, offsets, sizes, strides, .. } = walk;
    device.launch(
        &kernel,
        &[
            Binding::Read(&mask.cuda_storage()?),
            Binding::Read(&a.cuda_storage()?),
            Binding::Read(&b.cuda_storage()?),
            Binding::Write(&buffer),
        ],
        &Params { n, offsets, sizes, strides },
        walk.grid(),
    )?;
    Ok(vec![out])
}
