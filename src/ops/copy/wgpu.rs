use crate::device::wgpu::{Binding, Constant, WgpuDevice, Work};
use crate::ops::launch::wgpu::{PairParams, STRIDED, Walk, element, kernel, output, threads};
use crate::ops::launch::windows;
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
    let out = output("to_dtype", device, x.shape(), dtype)?;
    assign(device, &out, x)?;
    Ok(out)
}

/// Writes `values`, converted, over the view `to`.
pub fn assign(device: &WgpuDevice, to: &Tensor, values: &Tensor) -> Result<()> {
    to.storage().written();
    if to.elements() == 0 {
        return Ok(());
    }
    if to.dtype().size() != 2 || !owns_words(to) {
        return windows::elements([windows::view(values), windows::view(to)], |[values, to]| {
            assign_part(device, to, values)
        });
    }
    // Of columns nothing would own whole words: what is cut into them is brought into order first.
    let cut = !(windows::fits(values) && windows::fits(to));
    let ordered = if cut && !values.is_contiguous() { Some(converted(device, values, DType::F32)?) } else { None };
    let parts = [windows::view(ordered.as_ref().unwrap_or(values)), windows::words(to)];
    windows::elements(parts, |[values, to]| assign_part(device, to, values))
}

fn assign_part(device: &WgpuDevice, to: &Tensor, values: &Tensor) -> Result<()> {
    let walk = Walk::new([values, to])?;
    let params = PairParams::from(&walk);
    let bindings = [Binding::Read(&walk.buffers[0]), Binding::Write(&walk.buffers[1])];
    // A view may be a small part of what is bound for it.
    let bytes = to.elements() * (values.dtype().size() + to.dtype().size());
    let work = Work { flops: 0, bytes: Some(bytes as u64) };
    let halves = to.dtype().size() == 2;
    if !halves || owns_words(to) {
        let constants =
            [("RANK", walk.rank), ("SRC", type_code(values.dtype())), ("DST", type_code(to.dtype()))];
        let words = if halves { to.elements().div_ceil(2) } else { to.elements() };
        return device.run(&kernel("copy", COPY, constants).work(work), &bindings, &params, threads(words));
    }
    if to.dtype() == DType::F16 && device.has_f16() && values.dtype() == DType::F16 {
        let constants = [("RANK", walk.rank), element(DType::F16)];
        let kernel = kernel("copy_typed", TYPED, constants).work(work);
        return device.run(&kernel, &bindings, &params, threads(to.elements()));
    }
    let reason = "a part of a 16-bit tensor can be written in place only with the adapter's f16";
    Err(Error::dtype("assign", &[to.dtype()], reason))
}

/// True if no other element shares a word with these of a 16-bit type: copy.wgsl writes whole words.
fn owns_words(x: &Tensor) -> bool {
    let (layout, end) = (x.layout(), x.layout().end());
    // Behind the last element of all there is nothing, or half a word of padding.
    let last = || {
        let buffer = x.wgpu_storage();
        end == x.storage().elements && buffer.is_ok_and(|buffer| buffer.bytes() <= 2 * end + 2)
    };
    x.is_contiguous() && layout.offset.is_multiple_of(2) && (end.is_multiple_of(2) || last())
}
