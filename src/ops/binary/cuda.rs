use super::{Comparison, Kind};
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{PairParams, STRIDED, Walk, output};
use crate::{DType, Result, Tensor};

const BINARY: &[&str] = &[STRIDED, cuda_source!("binary/binary.cu")];
const ADD_ASSIGN: &[&str] = &[STRIDED, cuda_source!("binary/add_assign.cu")];

fn run(device: &CudaDevice, kind: u32, a: &Tensor, b: &Tensor, result: DType) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("binary", device, a.shape(), result)?;
    let walk = Walk::new([a, b], result)?;
    let [a_splat, b_splat] = walk.splat;
    let kernel = walk
        .specialise(Kernel::builtin("binary", BINARY, "binary"))
        .with("A_SPLAT", a_splat)
        .with("B_SPLAT", b_splat)
        .with("KIND", kind)
        .with("T", a.dtype())
        .with("U", result);
    device.launch(
        &kernel,
        &[Binding::Read(&a.cuda_storage()?), Binding::Read(&b.cuda_storage()?), Binding::Write(&buffer)],
        &PairParams::from(&walk),
        walk.grid(),
    )?;
    Ok(vec![out])
}

pub fn binary(device: &CudaDevice, kind: Kind, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    run(device, kind as u32, a, b, a.dtype())
}

pub fn compare(device: &CudaDevice, comparison: Comparison, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    run(device, 10 + comparison as u32, a, b, DType::U32)
}

/// `to += values`, two memories of one shape and dtype.
pub fn add_assign(device: &CudaDevice, to: &Tensor, values: &Tensor) -> Result<()> {
    to.storage().written();
    let walk = Walk::new([values, to], to.dtype())?;
    let kernel = walk
        .specialise(Kernel::builtin("add_assign", ADD_ASSIGN, "add_assign"))
        .with("VALUES_SPLAT", walk.splat[0])
        .with("T", to.dtype());
    device.launch(
        &kernel,
        &[Binding::Read(&values.cuda_storage()?), Binding::Write(&to.cuda_storage()?)],
        &PairParams::from(&walk),
        walk.grid(),
    )
}
