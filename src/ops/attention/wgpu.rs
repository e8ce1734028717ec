use super::params::{Params, in_lines};
use super::{Sizes, Spec};
use crate::device::wgpu::{Binding, Kernel, WgpuDevice, fold_groups};
use crate::ops::launch::wgpu::{PHILOX, check_size, output};
use crate::{DType, Result, Shape, Tensor};

const COMMON: &str = include_str!("../../../kernels/attention/common.wgsl");
const LANES: &str = include_str!("../../../kernels/attention/lanes.wgsl");
const LANES_SUBGROUP: &str = include_str!("../../../kernels/attention/lanes_subgroup.wgsl");
const FORWARD: &str = include_str!("../../../kernels/attention/forward.wgsl");
const BACKWARD: &str = include_str!("../../../kernels/attention/backward.wgsl");

/// Kernels read four elements at a time, and count in such quads.
const QUAD: usize = 4;

/// What every WebGPU device has.
const WORKGROUP_MEMORY: usize = 16 << 10;

/// The entry points.
#[derive(Clone, Copy)]
enum Pass {
    Forward,
    Delta,
    Queries,
    Keys,
}

/// How a kernel is cut, see kernels/attention/common.wgsl.
#[derive(Clone, Copy)]
struct Plan {
    split: u32,
    rows: u32,
    block: u32,
    tile: u32,
    subgroups: bool,
}

impl Plan {
    /// For a kernel whose teams keep `matrices` times as many numbers as their rows have, and exchange
    /// as many quads for every eight rows that they visit; `owned` is how many rows there are to own.
    fn new(device: &WgpuDevice, spec: &Spec, head_dim: usize, matrices: usize, owned: usize) -> Self {
        let (split, rows, block, subgroups) = if device.is_software() {
            // Registers are memory there, and the cost is in loads: two rows share them. Compiling
            // takes longer the more there is, which is felt for long rows.
            let rows = if head_dim <= 64 && owned > 64 { 2 } else { 1 };
            let eight = device.has_subgroups() && device.raw().0.adapter_info().subgroup_min_size >= 8;
            (1, rows, if owned <= 8 { 8 } else { 64 }, eight)
        } else {
            // 128 registers for the rows leave room for the rest below the 255 that a thread can have.
            ((matrices * head_dim).div_ceil(128).next_power_of_two(), 1, 64, false)
        };
        let fits = |tile: usize| {
            let line = head_dim.div_ceil(4).next_multiple_of(split);
            let exchange = if split > 1 { matrices * rows * block * tile.min(8) / 8 } else { 1 };
            let kept = if spec.dropout.is_some() { tile / 4 * (block / split * rows) } else { 1 };
            16 * ((2 * line + 1) * (tile + 1) + exchange) + 4 * kept <= WORKGROUP_MEMORY
        };
        let tile = [16, 8].into_iter().find(|&tile| fits(tile)).unwrap_or(4);
        Plan { split: split as u32, rows: rows as u32, block: block as u32, tile: tile as u32, subgroups }
    }

    /// Workgroups for `owned` rows.
    fn bands(&self, owned: usize) -> usize {
        owned.div_ceil((self.block / self.split * self.rows) as usize)
    }

    fn kernel(&self, pass: Pass, spec: &Spec, head_dim: usize, dtype: DType) -> Kernel {
        let (name, entry) = match pass {
            Pass::Forward => ("attention", "forward"),
            Pass::Delta => ("attention_backward", "rowsum"),
            Pass::Queries => ("attention_backward", "dq"),
            Pass::Keys => ("attention_backward", "dkdv"),
        };
        let source: &[&str] = match (pass, self.subgroups) {
            (Pass::Forward, true) => &[PHILOX, LANES_SUBGROUP, COMMON, FORWARD],
            (Pass::Forward, false) => &[PHILOX, LANES, COMMON, FORWARD],
            (_, true) => &[PHILOX, LANES_SUBGROUP, COMMON, BACKWARD],
            (_, false) => &[PHILOX, LANES, COMMON, BACKWARD],
        };
        Kernel::builtin(name, source, entry)
            .with("D", head_dim as u32)
            .with("SPLIT", self.split)
            .with("ROWS", self.rows)
            .with("BLOCK", self.block)
            .with("TILE", self.tile)
            .with("DROPOUT", spec.dropout.is_some())
            .with("T", dtype)
    }
}

pub fn forward(device: &WgpuDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, q_len, head_dim, .. } = sizes;
    check_size("attention", device, x[1].elements())?;
    let ((q, q_at), (k, k_at), (v, v_at)) = (in_lines(&x[0], QUAD, QUAD)?, in_lines(&x[1], QUAD, QUAD)?, in_lines(&x[2], QUAD, QUAD)?);
    let (o, o_buffer) = output("attention", device, &Shape::from(x[0].elements()), dtype)?;
    let (lse, lse_buffer) = output("attention", device, &Shape::from((batch, heads, q_len)), DType::F32)?;

    let plan = Plan::new(device, spec, head_dim, 2, q_len);
    device.run(
        &plan.kernel(Pass::Forward, spec, head_dim, dtype),
        &[
            Binding::Read(&q.wgpu_storage()?),
            Binding::Read(&k.wgpu_storage()?),
            Binding::Read(&v.wgpu_storage()?),
            Binding::Write(&o_buffer),
            Binding::Write(&lse_buffer),
        ],
        &Params { q: q_at, k: k_at, v: v_at, ..Params::new(&sizes, spec, QUAD) },
        fold_groups(plan.bands(q_len) * batch * heads),
    )?;
    Ok(vec![sizes.heads_inside(o, heads, q_len)?, lse])
}

pub fn backward(device: &WgpuDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, kv_heads, q_len, k_len, head_dim } = sizes;
    let ((q, q_at), (k, k_at), (v, v_at)) = (in_lines(&x[0], QUAD, QUAD)?, in_lines(&x[1], QUAD, QUAD)?, in_lines(&x[2], QUAD, QUAD)?);
    let ((o, o_at), (dout, dout_at)) = (in_lines(&x[3], QUAD, QUAD)?, in_lines(&x[5], QUAD, QUAD)?);
    let params = Params { q: q_at, k: k_at, v: v_at, o: o_at, dout: dout_at, ..Params::new(&sizes, spec, QUAD) };
    let (q, k, v, dout) = (q.wgpu_storage()?, k.wgpu_storage()?, v.wgpu_storage()?, dout.wgpu_storage()?);
    let lse = x[4].wgpu()?;
    let name = "attention_backward";

    let queries = batch * heads * q_len;
    let delta = device.alloc(name, queries * 4)?;
    let plan = Plan::new(device, spec, head_dim, 4, q_len);
    device.run(
        &plan.kernel(Pass::Delta, spec, head_dim, dtype),
        &[Binding::Read(&o.wgpu_storage()?), Binding::Read(&dout), Binding::Write(&delta)],
        &params,
        fold_groups(queries.div_ceil(plan.block as usize)),
    )?;

    let inputs = [&q, &k, &v, &dout, &lse, &delta].map(Binding::Read);
    let (dq, dq_buffer) = output(name, device, &Shape::from(x[0].elements()), dtype)?;
    device.run(
        &plan.kernel(Pass::Queries, spec, head_dim, dtype),
        &[&inputs[..], &[Binding::Write(&dq_buffer)]].concat(),
        &params,
        fold_groups(plan.bands(q_len) * batch * heads),
    )?;

    let plan = Plan::new(device, spec, head_dim, 4, k_len);
    let (dk, dk_buffer) = output(name, device, &Shape::from(x[1].elements()), dtype)?;
    let (dv, dv_buffer) = output(name, device, &Shape::from(x[1].elements()), dtype)?;
    device.run(
        &plan.kernel(Pass::Keys, spec, head_dim, dtype),
        &[&inputs[..], &[Binding::Write(&dk_buffer), Binding::Write(&dv_buffer)]].concat(),
        &params,
        fold_groups(plan.bands(k_len) * batch * kv_heads),
    )?;
    Ok(vec![
        sizes.heads_inside(dq, heads, q_len)?,
        sizes.heads_inside(dk, kv_heads, k_len)?,
        sizes.heads_inside(dv, kv_heads, k_len)?,
    ])
}
