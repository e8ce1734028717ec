use crate::device::wgpu::{Binding, Constant, WgpuDevice};
use crate::ops::launch::wgpu::{PairParams, STRIDED, Walk, element, kernel, output, threads};
use crate::{DType, Error, Result, Tensor};

const COPY: &[&str] = &[
    STRIDED,
    include_str!("../../../kernels/common/half.wgsl"),
    include_str!("../../../kernels/copy/copy.wgsl"),
];
const TYPED: &[&str] = &[STRIDED, include_str!("../../../kernels/copy/typed.wgsl")];

fn type_code(dtype: DType) -> Constant {
    Constant::U32(match dtype {
        DType::F32 => 0,
        DType::U32 => 1,
        DType::F16 => 2,
        DType::BF16 => 3,
        DType::F64 => unreachable!("wgpu tensors are never f64"),
    })
}

pub fn converted(device: &WgpuDevice, x: &Tensor, dtype: DType) -> Result<Tensor> {
    let (out, _) = output("to_dtype", device, x.shape(), dtype)?;
    assign(device, &out, x)?;
    Ok(out)
}

/// Writes `values`, converted, over the view `to`.
pub fn assign(device: &WgpuDevice, to: &Tensor, values: &Tensor) -> Result<()> {
    to.storage().written();
    if to.elements() == 0 {
        return Ok(());
    }
    let walk = Walk::new([values.layout(), to.layout()]);
    let (rank, params) = (walk.rank, PairParams::from(walk));
    let (src, dst) = (values.wgpu_storage()?, to.wgpu_storage()?);
    let bindings = [Binding::Read(&src), Binding::Write(&dst)];
    let halves = to.dtype().size() == 2;
    // Two elements share a word: copy.wgsl may write only words that it owns entirely.
    let whole_words = to.layout().offset == 0 && to.is_contiguous() && dst.bytes() <= to.elements() * 2 + 2;
    if !halves || whole_words {
        let constants = [("RANK", rank), ("SRC", type_code(values.dtype())), ("DST", type_code(to.dtype()))];
        let words = if halves { to.elements().div_ceil(2) } else { to.elements() };
        return device.run(&kernel("copy", COPY, constants), &bindings, &params, threads(words));
    }
    if to.dtype() == DType::F16 && device.has_f16() && values.dtype() == DType::F16 {
        let constants = [("RANK", rank), element(DType::F16)];
        return device.run(&kernel("copy_typed", TYPED, constants), &bindings, &params, threads(to.elements()));
    }
    let reason = "a part of a 16-bit tensor can be written in place only with the adapter's f16";
    Err(Error::dtype("assign", &[to.dtype()], reason))
}
