use super::{Comparison, Kind};
use crate::device::wgpu::{Binding, Constant, WgpuDevice};
use crate::ops::launch::wgpu::{PairParams, STRIDED, Walk, element, kernel, output, threads};
use crate::{DType, Result, Tensor};

const BINARY: &[&str] = &[STRIDED, include_str!("../../../kernels/binary/binary.wgsl")];
const ADD_ASSIGN: &[&str] = &[STRIDED, include_str!("../../../kernels/binary/add_assign.wgsl")];

fn run(device: &WgpuDevice, kind: u32, a: &Tensor, b: &Tensor, result: DType) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("binary", device, a.shape(), result)?;
    let walk = Walk::new([a.layout(), b.layout()]);
    let constants = [
        ("RANK", walk.rank),
        ("KIND", Constant::U32(kind)),
        element(a.dtype()),
        ("U", Constant::Type(result)),
    ];
    device.run(
        &kernel("binary", BINARY, constants),
        &[Binding::Read(&a.wgpu_storage()?), Binding::Read(&b.wgpu_storage()?), Binding::Write(&buffer)],
        &PairParams::from(walk),
        threads(a.elements()),
    )?;
    Ok(vec![out])
}

pub fn binary(device: &WgpuDevice, kind: Kind, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    run(device, kind as u32, a, b, a.dtype())
}

pub fn compare(device: &WgpuDevice, comparison: Comparison, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    run(device, 10 + comparison as u32, a, b, DType::U32)
}

/// `to += values`, two memories of one shape and dtype.
pub fn add_assign(device: &WgpuDevice, to: &Tensor, values: &Tensor) -> Result<()> {
    to.storage().written();
    let walk = Walk::new([values.layout(), to.layout()]);
    let constants = [("RANK", walk.rank), element(to.dtype())];
    device.run(
        &kernel("add_assign", ADD_ASSIGN, constants),
        &[Binding::Read(&values.wgpu_storage()?), Binding::Write(&to.wgpu_storage()?)],
        &PairParams::from(walk),
        threads(to.elements()),
    )
}
