#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Constant, Kernel, WgpuDevice, Work};
#[cfg(test)]
use crate::ops::launch::wgpu::WALKS;
use crate::ops::launch::wgpu::{HALF, PairParams, STRIDED, Walk, Width, element, kernel, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Error, Result, Tensor};

const CONVERT: &str = include_str!("../../../kernels/copy/convert.wgsl");
const COPY: &[&str] = &[STRIDED, HALF, CONVERT, include_str!("../../../kernels/copy/copy.wgsl")];
const QUADS: &[&str] = &[STRIDED, HALF, CONVERT, include_str!("../../../kernels/copy/quads.wgsl")];
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

fn copy_kernel(rank: Constant, from: DType, to: DType) -> Kernel {
    kernel("copy", COPY, [("RANK", rank), ("SRC", type_code(from)), ("DST", type_code(to))])
}

fn quads_kernel(rank: Constant, from: DType, to: DType) -> Kernel {
    kernel("copy_quads", QUADS, [("RANK", rank), ("SRC", type_code(from)), ("DST", type_code(to))])
}

/// For places that share their words with others.
fn typed_kernel(rank: Constant) -> Kernel {
    kernel("copy_typed", TYPED, [("RANK", rank), element(DType::F16)])
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
    // A view may be a small part of what is bound for it.
    let bytes = to.elements() * (values.dtype().size() + to.dtype().size());
    let work = Work { flops: 0, bytes: Some(bytes as u64) };
    let walk = Walk::new([values, to])?;
    let params = PairParams::from(&walk);
    let bindings = [Binding::Read(&walk.buffers[0]), Binding::Write(&walk.buffers[1])];
    if walk.width == Width::Four {
        let kernel = quads_kernel(walk.rank, values.dtype(), to.dtype()).work(work);
        return device.run(&kernel, &bindings, &params, threads(walk.n));
    }
    let halves = to.dtype().size() == 2;
    if !halves || owns_words(to) {
        let words = if halves { to.elements().div_ceil(2) } else { to.elements() };
        let kernel = copy_kernel(walk.rank, values.dtype(), to.dtype()).work(work);
        return device.run(&kernel, &bindings, &params, threads(words));
    }
    if to.dtype() == DType::F16 && device.has_f16() && values.dtype() == DType::F16 {
        let kernel = typed_kernel(walk.rank).work(work);
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

#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    const TYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::U32];
    let mut all = Vec::new();
    for (rank, width) in WALKS {
        let kernel = if width == Width::Four { quads_kernel } else { copy_kernel };
        for from in TYPES {
            all.extend(TYPES.map(|to| kernel(rank, from, to)));
        }
        if width == Width::One {
            all.push(typed_kernel(rank));
        }
    }
    all.into_iter().map(Launched::from).collect()
}
