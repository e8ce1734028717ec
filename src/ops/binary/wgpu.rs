use super::{Comparison, Kind};
use crate::device::wgpu::{Binding, Constant, WgpuDevice};
use crate::ops::launch::wgpu::{PairParams, STRIDED, Walk, element, kernel, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Result, Tensor};

const BINARY: &[&str] = &[STRIDED, include_str!("../../../kernels/binary/binary.wgsl")];
const ADD_ASSIGN: &[&str] = &[STRIDED, include_str!("../../../kernels/binary/add_assign.wgsl")];

fn run(device: &WgpuDevice, kind: u32, a: &Tensor, b: &Tensor, result: DType) -> Result<Vec<Tensor>> {
    let out = output("binary", device, a.shape(), result)?;
    windows::elements([windows::view(a), windows::view(b), windows::output(&out)], |[a, b, out]| {
        let walk = Walk::new([a, b])?;
        let constants = [
            ("RANK", walk.rank),
            ("KIND", Constant::U32(kind)),
            element(a.dtype()),
            ("U", Constant::Type(result)),
        ];
        let [a_buffer, b_buffer] = &walk.buffers;
        device.run(
            &kernel("binary", BINARY, constants),
            &[Binding::Read(a_buffer), Binding::Read(b_buffer), Binding::Write(&out.wgpu()?)],
            &PairParams::from(&walk),
            threads(a.elements()),
        )
    })?;
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
    windows::elements([windows::view(values), windows::view(to)], |[values, to]| {
        let walk = Walk::new([values, to])?;
        let [values_buffer, to_buffer] = &walk.buffers;
        device.run(
            &kernel("add_assign", ADD_ASSIGN, [("RANK", walk.rank), element(to.dtype())]),
            &[Binding::Read(values_buffer), Binding::Write(to_buffer)],
            &PairParams::from(&walk),
            threads(to.elements()),
        )
    })
}
