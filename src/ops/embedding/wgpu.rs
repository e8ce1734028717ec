use bytemuck::{Pod, Zeroable};

use crate::device::wgpu::{Binding, Kernel, WgpuDevice, fold_groups};
use crate::ops::launch::wgpu::{THREADS, output, threads};
use crate::{Result, Shape, Tensor};

const FORWARD: &[&str] = &[include_str!("../../../kernels/embedding/forward.wgsl")];
const BACKWARD: &[&str] = &[include_str!("../../../kernels/embedding/backward.wgsl")];

const BLOCK: u32 = THREADS as u32;
/// Lanes that share the tokens of one row of the table, so that a frequent id is not one thread's alone.
const LANES: u32 = 8;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    cols: u32,
    rows: u32,
    pad: u32,
}

pub fn forward(device: &WgpuDevice, table: &Tensor, ids: &Tensor) -> Result<Vec<Tensor>> {
    let ((rows, cols), tokens) = (table.dims2()?, ids.elements());
    let (out, buffer) = output("embedding", device, &Shape::from((tokens, cols)), table.dtype())?;
    device.run(
        &Kernel::builtin("embedding", FORWARD, "forward").with("BLOCK", BLOCK).with("T", table.dtype()),
        &[Binding::Read(&table.wgpu()?), Binding::Read(&ids.wgpu()?), Binding::Write(&buffer)],
        &Params { tokens: tokens as u32, cols: cols as u32, rows: rows as u32, pad: 0 },
        threads(out.elements()),
    )?;
    Ok(vec![out])
}

/// Adds the rows of `dout` into those rows of `grad` that `ids` name, or overwrites `grad` with their sums.
pub fn accumulate(device: &WgpuDevice, ids: &Tensor, dout: &Tensor, grad: &Tensor, add: bool) -> Result<()> {
    grad.storage().written();
    let ((rows, cols), tokens) = (grad.dims2()?, ids.elements());
    let params = Params { tokens: tokens as u32, cols: cols as u32, rows: rows as u32, pad: 0 };
    // A software adapter has no lanes that would otherwise be idle.
    let lanes = if device.is_software() { 1 } else { LANES };
    let kernel = |entry| {
        Kernel::builtin("embedding_backward", BACKWARD, entry)
            .with("BLOCK", BLOCK)
            .with("LANES", lanes)
            .with("ACCUMULATE", add)
            .with("T", dout.dtype())
            .with("D", grad.dtype())
    };
    let op = "embedding_backward";
    let (counts, starts) = (device.alloc(op, rows * 4)?, device.alloc(op, rows * 4)?);
    let slots = device.alloc(op, tokens * 4)?;
    let (ids, dout, grad) = (ids.wgpu()?, dout.wgpu()?, grad.wgpu()?);
    device.fill_zero(&counts)?;
    device.run(&kernel("count"), &[Binding::Read(&ids), Binding::Write(&counts)], &params, threads(tokens))?;
    device.run(&kernel("scan"), &[Binding::Read(&counts), Binding::Write(&starts)], &params, [1, 1, 1])?;
    let owners = (rows.div_ceil(THREADS) as u32).min(64);
    let bindings = [Binding::Read(&ids), Binding::Write(&starts), Binding::Write(&slots)];
    device.run(&kernel("place"), &bindings, &params, [owners, 1, 1])?;
    device.run(
        &kernel("sum"),
        &[
            Binding::Read(&counts),
            Binding::Read(&starts),
            Binding::Read(&slots),
            Binding::Read(&dout),
            Binding::Write(&grad),
        ],
        &params,
        fold_groups(rows * cols.div_ceil((BLOCK / lanes) as usize)),
    )
}
