use bytemuck::{Pod, Zeroable};

#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Class, Kernel, WgpuDevice, Work, fold_groups};
use crate::ops::fill::wgpu::zeros;
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{LOOPS, THREADS, Width, by_width, of_width, output, threads};
use crate::ops::launch::windows;
use crate::{DType, Result, Shape, Tensor};

const FORWARD: &str = include_str!("../../../kernels/embedding/forward.wgsl");
const BACKWARD: &str = include_str!("../../../kernels/embedding/backward.wgsl");

const BLOCK: u32 = THREADS as u32;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    /// Items of a row.
    cols: u32,
    /// Of the whole table.
    rows: u32,
    /// Those that the forward's window shows.
    first: u32,
    shown: u32,
    pad: [u32; 3],
}

fn forward_kernel(part: bool, width: Width, dtype: DType) -> Kernel {
    Kernel::builtin("embedding", by_width!(width, [FORWARD]), "forward")
        .with("BLOCK", BLOCK)
        .with("PART", part)
        .with_all(of_width(width, dtype, dtype))
}

/// Lanes that share the tokens of one row of the table, so that a frequent id is not one thread's alone; a software
/// adapter has no lanes that would otherwise be idle.
fn lanes(class: Class) -> u32 {
    if class.software { 1 } else { 8 }
}

/// From elements of `from` to those of `to`.
fn backward_kernel(
    class: Class,
    entry: &'static str,
    width: Width,
    add: bool,
    from: DType,
    to: DType,
) -> Kernel {
    Kernel::builtin("embedding_backward", by_width!(width, [BACKWARD]), entry)
        .with("BLOCK", BLOCK)
        .with("LANES", lanes(class))
        .with("ACCUMULATE", add)
        .with_all(of_width(width, from, to))
}

pub fn forward(device: &WgpuDevice, table: &Tensor, ids: &Tensor) -> Result<Vec<Tensor>> {
    let ((rows, cols), tokens) = (table.dims2()?, ids.elements());
    let out = output("embedding", device, &Shape::from((tokens, cols)), table.dtype())?;
    let width = Width::of([cols]);
    let items = width.items(cols);
    // Every window of the table serves those of the tokens that lie in it.
    windows::rows(tokens, [windows::view(ids), windows::output(&out)], |[ids, out]| {
        let mut first = 0;
        windows::rows(rows, [windows::view(table)], |[table]| {
            let (tokens, shown) = (ids.elements(), table.dims()[0]);
            let params = Params {
                tokens: tokens as u32,
                cols: items as u32,
                rows: rows as u32,
                first: first as u32,
                shown: shown as u32,
                pad: [0; 3],
            };
            first += shown;
            let bindings =
                [Binding::Read(&table.wgpu()?), Binding::Read(&ids.wgpu()?), Binding::Write(&out.wgpu()?)];
            // Of the table only what the tokens name.
            let bytes = tokens * (2 * cols * table.dtype().size() + size_of::<u32>());
            let kernel = forward_kernel(shown < rows, width, table.dtype()).work(Work { flops: 0, bytes: Some(bytes as u64) });
            device.run(&kernel, &bindings, &params, threads(tokens * items))
        })
    })?;
    Ok(vec![out])
}

/// Adds the rows of `dout` into those rows of `grad` that `ids` name, or overwrites `grad` with their sums.
pub fn accumulate(device: &WgpuDevice, ids: &Tensor, dout: &Tensor, grad: &Tensor, add: bool) -> Result<()> {
    grad.storage().written();
    let mut add = add;
    windows::rows(ids.elements(), [windows::view(ids), windows::view(dout)], |[ids, dout]| {
        // One loop visits all tokens.
        let most = if device.is_software() { LOOPS / 2 } else { usize::MAX };
        for start in (0..ids.elements().max(1)).step_by(most) {
            let len = most.min(ids.elements() - start);
            let (ids, dout) = (ids.narrow(0, start, len)?, dout.narrow(0, start, len)?);
            accumulate_tokens(device, &ids, &dout, grad, std::mem::replace(&mut add, true))?;
        }
        Ok(())
    })
}

fn accumulate_tokens(
    device: &WgpuDevice,
    ids: &Tensor,
    dout: &Tensor,
    grad: &Tensor,
    add: bool,
) -> Result<()> {
    let ((rows, cols), tokens) = (grad.dims2()?, ids.elements());
    let width = Width::of([cols]);
    let items = width.items(cols);
    let params = |rows: usize| Params {
        tokens: tokens as u32,
        cols: items as u32,
        rows: rows as u32,
        first: 0,
        shown: 0,
        pad: [0; 3],
    };
    let class = device.class();
    let kernel = |entry| backward_kernel(class, entry, width, add, dout.dtype(), grad.dtype());
    let op = "embedding_backward";
    let counts = zeros(op, device, &Shape::from(rows), DType::U32)?;
    let ends = output(op, device, &Shape::from(rows), DType::U32)?;
    let slots = device.alloc(op, tokens * 4)?;
    let (ids, dout) = (ids.wgpu()?, dout.wgpu()?);
    let (all_counts, all_ends) = (counts.wgpu()?, ends.wgpu()?);
    let bindings = [Binding::Read(&ids), Binding::Write(&all_counts)];
    device.run(&kernel("count"), &bindings, &params(rows), threads(tokens))?;
    let bindings = [Binding::Read(&all_counts), Binding::Write(&all_ends)];
    device.run(&kernel("scan"), &bindings, &params(rows), [1, 1, 1])?;
    // Every one of them looks at all tokens, which costs time where they do not all run at once.
    let owners = (rows.div_ceil(THREADS) as u32).min(if class.software { 2 } else { 64 });
    let bindings = [Binding::Read(&ids), Binding::Write(&all_ends), Binding::Write(&slots)];
    device.run(&kernel("place"), &bindings, &params(rows), [owners, 1, 1])?;
    let parts = [windows::view(&counts), windows::view(&ends), windows::update(grad)];
    windows::rows(rows, parts, |[counts, ends, grad]| {
        let rows = counts.elements();
        device.run(
            &kernel("sum"),
            &[
                Binding::Read(&counts.wgpu()?),
                Binding::Read(&ends.wgpu()?),
                Binding::Read(&slots),
                Binding::Read(&dout),
                Binding::Write(&grad.wgpu()?),
            ],
            &params(rows),
            fold_groups((rows * items).div_ceil((BLOCK / lanes(class)) as usize)),
        )
    })
}

#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        for width in Width::ALL {
            all.extend([false, true].map(|part| forward_kernel(part, width, dtype)));
            for to in [dtype, DType::F32] {
                for entry in ["count", "scan", "place", "sum"] {
                    all.extend([false, true].map(|add| backward_kernel(class, entry, width, add, dtype, to)));
                }
            }
        }
    }
    all.into_iter().map(Launched::from).collect()
}
