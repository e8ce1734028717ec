use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{BLOCK, blocks, output, threads, width};
use crate::{Result, Shape, Tensor};

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

pub fn forward(device: &CudaDevice, table: &Tensor, ids: &Tensor) -> Result<Vec<Tensor>> {
    let ((rows, cols), tokens) = (table.dims2()?, ids.elements());
    let (out, buffer) = output("embedding", device, &Shape::from((tokens, cols)), table.dtype())?;
    let values = table.cuda()?;
    let width = width(table.dtype(), cols, [&values]);
    device.launch(
        &Kernel::builtin("embedding", FORWARD, "forward")
            .with("BLOCK", BLOCK)
            .with("WIDTH", width as u32)
            .with("T", table.dtype()),
        &[Binding::Read(&values), Binding::Read(&ids.cuda()?), Binding::Write(&buffer)],
        &Params { tokens: tokens as u32, cols: cols as u32, rows: rows as u32, owners: 0 },
        threads(out.elements() / width),
    )?;
    Ok(vec![out])
}

/// Adds the rows of `dout` into those rows of `grad` that `ids` name, or overwrites `grad` with their sums.
pub fn accumulate(device: &CudaDevice, ids: &Tensor, dout: &Tensor, grad: &Tensor, add: bool) -> Result<()> {
    grad.storage().written();
    let ((rows, cols), tokens) = (grad.dims2()?, ids.elements());
    let owners = rows.min(OWNERS).max(rows.div_ceil(WARP)).next_power_of_two();
    let params =
        Params { tokens: tokens as u32, cols: cols as u32, rows: rows as u32, owners: owners as u32 };
    let (from, to) = (dout.dtype(), grad.dtype());
    let (ids, dout, grad) = (ids.cuda()?, dout.cuda()?, grad.cuda()?);
    let width = width(if from.size() > to.size() { from } else { to }, cols, [&dout, &grad]);
    let kernel = |entry, block: u32| {
        Kernel::builtin("embedding_backward", BACKWARD, entry)
            .with("BLOCK", block)
            .with("WIDTH", width as u32)
            .with("ACCUMULATE", add)
            .with("T", from)
            .with("D", to)
    };
    let op = "embedding_backward";
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
