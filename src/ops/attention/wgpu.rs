use bytemuck::{Pod, Zeroable};

use super::{Sizes, Spec};
use crate::device::wgpu::{Binding, Kernel, WgpuDevice, fold_groups};
use crate::ops::launch::{PHILOX, check_size, output};
use crate::{DType, Result, Shape, Tensor};

const COMMON: &str = include_str!("../../../kernels/attention/common.wgsl");
const LANES: &str = include_str!("../../../kernels/attention/lanes.wgsl");
const LANES_SUBGROUP: &str = include_str!("../../../kernels/attention/lanes_subgroup.wgsl");
const FORWARD: &str = include_str!("../../../kernels/attention/forward.wgsl");
const BACKWARD: &str = include_str!("../../../kernels/attention/backward.wgsl");

/// What every WebGPU device has.
const WORKGROUP_MEMORY: usize = 16 << 10;

/// A stride or place in quads: of batch, head and position, and of the first element.
type Place = [u32; 4];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    q: Place,
    k: Place,
    v: Place,
    o: Place,
    dout: Place,
    dq: Place,
    dk: Place,
    batch: u32,
    heads: u32,
    kv_heads: u32,
    q_len: u32,
    k_len: u32,
    low: i32,
    high: i32,
    scale: f32,
    seed: u64,
    offset: u32,
    threshold: u32,
    keep_scale: f32,
    pad: [u32; 3],
}

impl Params {
    /// With the outputs' places; the inputs' are 0.
    fn new(sizes: &Sizes, spec: &Spec) -> Self {
        let (q_len, k_len) = (sizes.q_len as i64, sizes.k_len as i64);
        // Query i sees the keys from i + low to below i + high.
        let high = if spec.causal { k_len - q_len + 1 } else { k_len };
        let low = match spec.window {
            Some(window) => high.saturating_sub_unsigned(window as u64).max(-q_len),
            None => -q_len,
        };
        let (threshold, keep_scale) = spec.dropout.map_or((0, 1.0), |drop| drop.threshold_and_scale());
        let q = place(&sizes.inside(sizes.heads, sizes.q_len), 0);
        let k = place(&sizes.inside(sizes.kv_heads, sizes.k_len), 0);
        Params {
            q: [0; 4],
            k: [0; 4],
            v: [0; 4],
            o: q,
            dout: [0; 4],
            dq: q,
            dk: k,
            batch: sizes.batch as u32,
            heads: sizes.heads as u32,
            kv_heads: sizes.kv_heads as u32,
            q_len: q_len as u32,
            k_len: k_len as u32,
            low: low as i32,
            high: high as i32,
            scale: spec.scale as f32,
            seed: spec.dropout.map_or(0, |drop| drop.stream.seed),
            // Counters have room for its lower half.
            offset: spec.dropout.map_or(0, |drop| drop.stream.offset as u32),
            threshold,
            keep_scale: keep_scale as f32,
            pad: [0; 3],
        }
    }
}

fn place(strides: &[usize], offset: usize) -> Place {
    [strides[0], strides[1], strides[2], offset].map(|n| (n / 4) as u32)
}

/// The tensor, or a copy of it if its rows do not start at multiples of four elements, and its place.
fn in_quads(x: &Tensor) -> Result<(Tensor, Place)> {
    let layout = x.layout();
    let whole = |dim: usize| layout.shape[dim] <= 1 || layout.strides[dim].is_multiple_of(4);
    let x = if layout.offset.is_multiple_of(4) && (0..3).all(whole) { x.clone() } else { x.copy()? };
    let at = place(&x.layout().strides, x.layout().offset);
    Ok((x, at))
}

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
            let exchange = if split > 1 { matrices * rows * block } else { 1 };
            let kept = if spec.dropout.is_some() { tile / 4 * (block / split * rows) } else { 1 };
            16 * ((2 * line + 1) * (tile + 1) + exchange) + 4 * kept <= WORKGROUP_MEMORY
        };
        let tile = if fits(16) { 16 } else { 8 };
        Plan { split: split as u32, rows: rows as u32, block: block as u32, tile, subgroups }
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
    let ((q, q_at), (k, k_at), (v, v_at)) = (in_quads(&x[0])?, in_quads(&x[1])?, in_quads(&x[2])?);
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
        &Params { q: q_at, k: k_at, v: v_at, ..Params::new(&sizes, spec) },
        fold_groups(plan.bands(q_len) * batch * heads),
    )?;
    Ok(vec![sizes.heads_inside(o, heads, q_len)?, lse])
}

pub fn backward(device: &WgpuDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, kv_heads, q_len, k_len, head_dim } = sizes;
    let ((q, q_at), (k, k_at), (v, v_at)) = (in_quads(&x[0])?, in_quads(&x[1])?, in_quads(&x[2])?);
    let ((o, o_at), (dout, dout_at)) = (in_quads(&x[3])?, in_quads(&x[5])?);
    let params = Params { q: q_at, k: k_at, v: v_at, o: o_at, dout: dout_at, ..Params::new(&sizes, spec) };
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
