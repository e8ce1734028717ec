use super::{Comparison, Kind};
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{PairParams, STRIDED, Walk, output};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::ops::launch::cuda::{BLOCK, strided, walks};
use crate::{DType, Result, Tensor};

const BINARY: &[&str] = &[STRIDED, cuda_source!("binary/binary.cu")];
const ADD_ASSIGN: &[&str] = &[STRIDED, cuda_source!("binary/add_assign.cu")];

fn kernel([a_splat, b_splat]: [bool; 2]) -> Kernel {
    Kernel::builtin("binary", BINARY, "binary").with("A_SPLAT", a_splat).with("B_SPLAT", b_splat)
}

/// The walk's kernel of this function, from elements of `from` to those of `result`.
fn of_kind(kernel: Kernel, kind: u32, from: DType, result: DType) -> Kernel {
    kernel.with("KIND", kind).with("T", from).with("U", result)
}

fn add_assign_kernel(values_splat: bool) -> Kernel {
    Kernel::builtin("add_assign", ADD_ASSIGN, "add_assign").with("VALUES_SPLAT", values_splat)
}

/// The number of a comparison among the functions.
fn number(comparison: Comparison) -> u32 {
    10 + comparison as u32
}

fn run(device: &CudaDevice, kind: u32, a: &Tensor, b: &Tensor, result: DType) -> Result<Vec<Tensor>> {
    let (out, buffer) = output("binary", device, a.shape(), result)?;
    let walk = Walk::new("binary", device, [a, b], result)?;
    let [a_buffer, b_buffer] = &walk.buffers;
    device.launch(
        &of_kind(walk.specialise(kernel(walk.splat)), kind, a.dtype(), result),
        &[Binding::Read(a_buffer), Binding::Read(b_buffer), Binding::Write(&buffer)],
        &PairParams::from(&walk),
        walk.grid(),
    )?;
    Ok(vec![out])
}

pub fn binary(device: &CudaDevice, kind: Kind, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    run(device, kind as u32, a, b, a.dtype())
}

pub fn compare(device: &CudaDevice, comparison: Comparison, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    run(device, number(comparison), a, b, DType::U32)
}

/// `to += values`, two memories of one shape and dtype.
pub fn add_assign(device: &CudaDevice, to: &Tensor, values: &Tensor) -> Result<()> {
    let walk = Walk::new("add_assign", device, [values, to], to.dtype())?;
    to.storage().written();
    let [from, into] = &walk.buffers;
    device.launch(
        &walk.specialise(add_assign_kernel(walk.splat[0])).with("T", to.dtype()),
        &[Binding::Read(from), Binding::Write(into)],
        &PairParams::from(&walk),
        walk.grid(),
    )
}

/// Every function once of f32 and once of f16, and the sum with every walk and type.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let arithmetic = [Kind::Add, Kind::Sub, Kind::Mul, Kind::Div, Kind::Maximum, Kind::Minimum];
    let comparisons =
        [Comparison::Eq, Comparison::Ne, Comparison::Lt, Comparison::Le, Comparison::Gt, Comparison::Ge];
    let mut all = Vec::new();
    let mut push = |kernel, wide| all.push(Launched::plain(kernel, BLOCK, wide));
    for dtype in [DType::F32, DType::F16] {
        for kind in arithmetic {
            let kernel = strided(kernel([false; 2]), 1, 16 / dtype.size());
            push(of_kind(kernel, kind as u32, dtype, dtype), true);
        }
        // A line is 16 bytes of the results.
        for comparison in comparisons {
            push(of_kind(strided(kernel([false; 2]), 1, 4), number(comparison), dtype, DType::U32), dtype == DType::F32);
        }
    }
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rank, width) in walks(dtype.size()) {
            let wide = width > 1;
            for splat in [[false, false], [wide, false], [false, wide]] {
                push(of_kind(strided(kernel(splat), rank, width), Kind::Add as u32, dtype, dtype), wide);
            }
            for splat in [false, wide] {
                push(strided(add_assign_kernel(splat), rank, width).with("T", dtype), wide);
            }
        }
    }
    all
}
