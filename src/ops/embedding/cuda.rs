use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{BLOCK, blocks, check_size, output, threads, width};
use crate::{DType, Result, Shape, Tensor};

const FORWARD: &[&str] = &[cuda_source!("embedding/forward.cu")];
const BACKWARD: &[&str] = &[cuda_source!("embedding/backward.cu")];

const WARP: usize = 32;
const WARPS: usize = BLOCK as usize / WARP;
/// Threads of the one block of the scan.
const SCAN: u32 = 1024;
/// The warps among which the ids are dealt out to be placed, if they are that many; more if each would have more
/// ids than it has lanes.
const OWNERS: usize = 2048;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    cols: u32,
    rows: u32,
    /// In the backward alone.
    owners: u32,
}

fn forward_kernel(width: usize, dtype: DType) -> Kernel {
    let kernel = Kernel::builtin("embedding", FORWARD, "forward").with("BLOCK", BLOCK);
    kernel.with("WIDTH", width as u32).with("T", dtype)
}

/// From gradients of `from` to sums of `to`.
fn backward_kernel(entry: &'static str, block: u32, width: usize, add: bool, [from, to]: [DType; 2]) -> Kernel {
    Kernel::builtin("embedding_backward", BACKWARD, entry)
        .with("BLOCK", block)
        .with("WIDTH", width as u32)
        .with("ACCUMULATE", add)
        .with("T", from)
        .with("D", to)
}

pub fn forward(device: &CudaDevice, table: &Tensor, ids: &Tensor) -> Result<Vec<Tensor>> {
    let ((rows, cols), tokens) = (table.dims2()?, ids.elements());
    check_size("embedding", device, rows)?;
    let (out, buffer) = output("embedding", device, &Shape::from((tokens, cols)), table.dtype())?;
    let values = table.cuda()?;
    let width = width(table.dtype(), cols, [&values]);
    device.launch(
        &forward_kernel(width, table.dtype()),
        &[Binding::Read(&values), Binding::Read(&ids.cuda()?), Binding::Write(&buffer)],
        &Params { tokens: tokens as u32, cols: cols as u32, rows: rows as u32, owners: 0 },
        threads(out.elements() / width),
    )?;
    Ok(vec![out])
}

/// Adds the rows of `dout` into those rows of `grad` that `ids` name, or overwrites `grad` with their sums.
pub fn accumulate(device: &CudaDevice, ids: &Tensor, dout: &Tensor, grad: &Tensor, add: bool) -> Result<()> {
    let ((rows, cols), tokens) = (grad.dims2()?, ids.elements());
    let op = "embedding_backward";
    [rows, cols, tokens].into_iter().try_for_each(|size| check_size(op, device, size))?;
    grad.storage().written();
    let owners = rows.min(OWNERS).max(rows.div_ceil(WARP)).next_power_of_two();
    let params =
        Params { tokens: tokens as u32, cols: cols as u32, rows: rows as u32, owners: owners as u32 };
    let (from, to) = (dout.dtype(), grad.dtype());
    let (ids, dout, grad) = (ids.cuda()?, dout.cuda()?, grad.cuda()?);
    let width = width(if from.size() > to.size() { from } else { to }, cols, [&dout, &grad]);
    let kernel = |entry, block| backward_kernel(entry, block, width, add, [from, to]);
    // The scan takes four ids at a time.
    let ids_bytes = rows.next_multiple_of(4) * 4;
    let (counts, starts) = (device.alloc(op, ids_bytes)?, device.alloc(op, ids_bytes)?);
    let slots = device.alloc(op, tokens * 4)?;
    device.fill_zero(&counts)?;
    let bindings = [Binding::Read(&ids), Binding::Write(&counts)];
    device.launch(&kernel("count", BLOCK), &bindings, &params, threads(tokens))?;
    let bindings = [Binding::Read(&counts), Binding::Write(&starts)];
    device.launch(&kernel("scan", SCAN), &bindings, &params, blocks(1, SCAN))?;
    let bindings = [Binding::Read(&ids), Binding::Read(&starts), Binding::Write(&slots)];
    device.launch(&kernel("place", BLOCK), &bindings, &params, threads(owners * WARP))?;
    device.launch(
        &kernel("sum", BLOCK),
        &[
            Binding::Read(&counts),
            Binding::Read(&starts),
            Binding::Read(&slots),
            Binding::Read(&dout),
            Binding::Write(&grad),
        ],
        &params,
        blocks(rows.div_ceil(WARPS) * cols.div_ceil(WARP * width), BLOCK),
    )
}

/// Every type, in lines and column by column, to sums of the same type and of f32.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for width in [16 / dtype.size(), 1] {
            all.push(Launched::plain(forward_kernel(width, dtype), BLOCK, width > 1));
        }
        for to in [dtype, DType::F32] {
            for (width, add) in [(16 / to.size(), false), (16 / to.size(), true), (1, true)] {
                let kernel = backward_kernel("sum", BLOCK, width, add, [dtype, to]);
                all.push(Launched::plain(kernel, BLOCK, width * dtype.size() == 16));
            }
        }
    }
    for (entry, block) in [("count", BLOCK), ("scan", SCAN), ("place", BLOCK)] {
        let kernel = backward_kernel(entry, block, 1, false, [DType::F32; 2]);
        all.push(Launched::plain(kernel, block, entry == "scan"));
    }
    all
}
