use super::{Comparison, Kind};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Constant, Kernel, WgpuDevice};
#[cfg(test)]
use crate::ops::launch::wgpu::{FLOATS, WALKS};
use crate::ops::launch::wgpu::{PairParams, STRIDED, Walk, Width, by_width, of_width, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Result, Tensor};

const BINARY: &str = include_str!("../../../kernels/binary/binary.wgsl");
const ADD_ASSIGN: &str = include_str!("../../../kernels/binary/add_assign.wgsl");

fn binary_kernel(
    kind: u32,
    rank: Constant,
    width: Width,
    [a, b]: [bool; 2],
    from: DType,
    to: DType,
) -> Kernel {
    Kernel::builtin("binary", by_width!(width, [STRIDED, BINARY]), "main")
        .with("RANK", rank)
        .with("KIND", kind)
        .with("A_SPLAT", a)
        .with("B_SPLAT", b)
        .with_all(of_width(width, from, to))
}

fn add_assign_kernel(rank: Constant, width: Width, dtype: DType) -> Kernel {
    Kernel::builtin("add_assign", by_width!(width, [STRIDED, ADD_ASSIGN]), "main")
        .with("RANK", rank)
        .with_all(of_width(width, dtype, dtype))
}

/// Comparisons follow the arithmetic.
fn number(comparison: Comparison) -> u32 {
    10 + comparison as u32
}

fn run(device: &WgpuDevice, kind: u32, a: &Tensor, b: &Tensor, result: DType) -> Result<Vec<Tensor>> {
    let out = output("binary", device, a.shape(), result)?;
    windows::elements([windows::view(a), windows::view(b), windows::output(&out)], |[a, b, out]| {
        let walk = Walk::with_splat([a, b])?;
        let [a_buffer, b_buffer] = &walk.buffers;
        device.run(
            &binary_kernel(kind, walk.rank, walk.width, walk.splat, a.dtype(), result),
            &[Binding::Read(a_buffer), Binding::Read(b_buffer), Binding::Write(&out.wgpu()?)],
            &PairParams::from(&walk),
            threads(walk.n),
        )
    })?;
    Ok(vec![out])
}

pub fn binary(device: &WgpuDevice, kind: Kind, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    run(device, kind as u32, a, b, a.dtype())
}

pub fn compare(device: &WgpuDevice, comparison: Comparison, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    run(device, number(comparison), a, b, DType::U32)
}

/// `to += values`, two memories of one shape and dtype.
pub fn add_assign(device: &WgpuDevice, to: &Tensor, values: &Tensor) -> Result<()> {
    to.storage().written();
    windows::elements([windows::view(values), windows::view(to)], |[values, to]| {
        let walk = Walk::new([values, to])?;
        let [values_buffer, to_buffer] = &walk.buffers;
        device.run(
            &add_assign_kernel(walk.rank, walk.width, to.dtype()),
            &[Binding::Read(values_buffer), Binding::Write(to_buffer)],
            &PairParams::from(&walk),
            threads(walk.n),
        )
    })
}

#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    let arithmetic = [Kind::Add, Kind::Sub, Kind::Mul, Kind::Div, Kind::Maximum, Kind::Minimum];
    let comparisons =
        [Comparison::Eq, Comparison::Ne, Comparison::Lt, Comparison::Le, Comparison::Gt, Comparison::Ge];
    let flat = Constant::U32(1);
    let none = [false, false];
    let by_quads = [none, [true, false], [false, true], [true, true]].map(|splat| (Width::Four, splat));
    let ways: Vec<_> = [(Width::One, none)].into_iter().chain(by_quads).collect();
    let mut all = Vec::new();
    for dtype in FLOATS {
        for &(width, splat) in &ways {
            all.extend(arithmetic.map(|kind| binary_kernel(kind as u32, flat, width, splat, dtype, dtype)));
            all.extend(comparisons.map(|kind| binary_kernel(number(kind), flat, width, splat, dtype, DType::U32)));
        }
        for (rank, width) in WALKS {
            all.push(binary_kernel(Kind::Add as u32, rank, width, none, dtype, dtype));
            all.push(add_assign_kernel(rank, width, dtype));
        }
    }
    // Ids are compared alone.
    for &(width, splat) in &ways {
        all.extend(
            comparisons.map(|kind| binary_kernel(number(kind), flat, width, splat, DType::U32, DType::U32)),
        );
    }
    all.into_iter().map(Launched::from).collect()
}
