use super::params::{Params, Place, in_lines, place};
use super::{Sizes, Spec};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Buffer, Class, Kernel, WgpuDevice, Work, fold_groups};
#[cfg(test)]
use crate::ops::launch::wgpu::FLOATS;
use crate::ops::launch::wgpu::{PHILOX, check_size, output};
use crate::ops::launch::windows;
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
    fn new(class: Class, spec: &Spec, head_dim: usize, matrices: usize, owned: usize) -> Self {
        let (split, rows, block, subgroups) = if class.software {
            // Registers are memory there, and the cost is in loads: two rows share them. Compiling
            // takes longer the more there is, which is felt for long rows.
            let rows = if head_dim <= 64 && owned > 64 { 2 } else { 1 };
            let eight = class.subgroups.is_some_and(|smallest| smallest >= 8);
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

    fn kernel(&self, pass: Pass, spec: &Spec, head_dim: usize, dtype: DType, params: &Params) -> Kernel {
        let (name, entry) = match pass {
            Pass::Forward => ("attention", "forward"),
            Pass::Delta => ("attention_backward", "rowsum"),
            Pass::Queries => ("attention_backward", "dq"),
            Pass::Keys => ("attention_backward", "dkdv"),
        };
        // Products that a pair of rows takes part in: scores and values; scores, dP and dQ; scores, dP, dV and dK.
        let products = match pass {
            Pass::Forward => 2,
            Pass::Delta => 0,
            Pass::Queries => 3,
            Pass::Keys => 4,
        };
        let flops = 2 * products * head_dim as u64 * params.pairs();
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
            .work(Work { flops, bytes: None })
    }
}

/// The tensor, or a copy of it, as kernels read it: in quads.
fn in_quads(x: &Tensor) -> Result<Tensor> {
    Ok(in_lines(x, QUAD, QUAD)?.0)
}

/// What is bound of it, and its place in that.
fn window(x: &Tensor) -> Result<(Buffer, Place)> {
    let (buffer, offset) = x.wgpu_window()?;
    Ok((buffer, place(&x.layout().strides, offset, QUAD)))
}

pub fn forward(device: &WgpuDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, q_len, head_dim, .. } = sizes;
    check_size("attention", device, x[1].elements())?;
    let (q, k, v) = (in_quads(&x[0])?, in_quads(&x[1])?, in_quads(&x[2])?);
    let o = output("attention", device, &Shape::from((batch, heads * q_len * head_dim)), dtype)?;
    let lse = output("attention", device, &Shape::from((batch, heads, q_len)), DType::F32)?;

    let plan = Plan::new(device.class(), spec, head_dim, 2, q_len);
    let mut first_head = 0;
    let parts = [windows::view(&q), windows::view(&k), windows::view(&v), windows::output(&o), windows::output(&lse)];
    windows::batches(parts, |[q, k, v, o, lse]| {
        let batch = lse.dims()[0];
        let ((q, q_at), (k, k_at), (v, v_at)) = (window(q)?, window(k)?, window(v)?);
        let sizes = Params::new(&Sizes { batch, ..sizes }, spec, QUAD);
        let params = Params { q: q_at, k: k_at, v: v_at, first_head, ..sizes };
        first_head += (batch * heads) as u32;
        let outputs = (o.wgpu()?, lse.wgpu()?);
        device.run(
            &plan.kernel(Pass::Forward, spec, head_dim, dtype, &params),
            &[
                Binding::Read(&q),
                Binding::Read(&k),
                Binding::Read(&v),
                Binding::Write(&outputs.0),
                Binding::Write(&outputs.1),
            ],
            &params,
            fold_groups(plan.bands(q_len) * batch * heads),
        )
    })?;
    Ok(vec![sizes.heads_inside(o, heads, q_len)?, lse])
}

pub fn backward(device: &WgpuDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, kv_heads, q_len, k_len, head_dim } = sizes;
    let (q, k, v, o, lse) = (in_quads(&x[0])?, in_quads(&x[1])?, in_quads(&x[2])?, in_quads(&x[3])?, &x[4]);
    let dout = in_quads(&x[5])?;
    let name = "attention_backward";
    let of_queries = Shape::from((batch, heads * q_len * head_dim));
    let of_keys = Shape::from((batch, kv_heads * k_len * head_dim));
    let delta = output(name, device, &Shape::from((batch, heads, q_len)), DType::F32)?;
    let dq = output(name, device, &of_queries, dtype)?;
    let (dk, dv) = (output(name, device, &of_keys, dtype)?, output(name, device, &of_keys, dtype)?);

    let by_query = Plan::new(device.class(), spec, head_dim, 4, q_len);
    let by_key = Plan::new(device.class(), spec, head_dim, 4, k_len);
    let mut first_head = 0;
    let [q, k, v, o, dout, lse] = [&q, &k, &v, &o, &dout, lse].map(windows::view);
    let outputs = [&delta, &dq, &dk, &dv].map(windows::output);
    let [delta, dq_part, dk_part, dv_part] = outputs;
    windows::batches([q, k, v, o, dout, lse, delta, dq_part, dk_part, dv_part], |parts| {
        let [q, k, v, o, dout, lse, delta, dq, dk, dv] = parts;
        let batch = delta.dims()[0];
        let ((q, q_at), (k, k_at), (v, v_at)) = (window(q)?, window(k)?, window(v)?);
        let ((o, o_at), (dout, dout_at)) = (window(o)?, window(dout)?);
        let sizes = Params::new(&Sizes { batch, ..sizes }, spec, QUAD);
        let params = Params { q: q_at, k: k_at, v: v_at, o: o_at, dout: dout_at, first_head, ..sizes };
        first_head += (batch * heads) as u32;
        let (lse, delta) = (lse.wgpu()?, delta.wgpu()?);

        device.run(
            &by_query.kernel(Pass::Delta, spec, head_dim, dtype, &params),
            &[Binding::Read(&o), Binding::Read(&dout), Binding::Write(&delta)],
            &params,
            fold_groups((batch * heads * q_len).div_ceil(by_query.block as usize)),
        )?;
        let inputs = [&q, &k, &v, &dout, &lse, &delta].map(Binding::Read);
        device.run(
            &by_query.kernel(Pass::Queries, spec, head_dim, dtype, &params),
            &[&inputs[..], &[Binding::Write(&dq.wgpu()?)]].concat(),
            &params,
            fold_groups(by_query.bands(q_len) * batch * heads),
        )?;
        device.run(
            &by_key.kernel(Pass::Keys, spec, head_dim, dtype, &params),
            &[&inputs[..], &[Binding::Write(&dk.wgpu()?), Binding::Write(&dv.wgpu()?)]].concat(),
            &params,
            fold_groups(by_key.bands(k_len) * batch * kv_heads),
        )
    })?;
    Ok(vec![
        sizes.heads_inside(dq, heads, q_len)?,
        sizes.heads_inside(dk, kv_heads, k_len)?,
        sizes.heads_inside(dv, kv_heads, k_len)?,
    ])
}

/// With common head sizes and uncommon ones.
#[cfg(test)]
pub(crate) fn launched(class: Class) -> Vec<Launched> {
    use crate::ops::dropout::Drop;
    use crate::random::Stream;

    let mut all = Vec::new();
    for dtype in FLOATS {
        for head_dim in [8, 40, 64, 72, 96, 112, 128, 136, 192, 256] {
            for p in [None, Some(0.1)] {
                let dropout = p.map(|p| Drop { p, stream: Stream { seed: 0, offset: 0 } });
                let spec = Spec { causal: true, scale: 1.0, window: None, dropout };
                for owned in [8, 64, 1024] {
                    let sizes =
                        Sizes { batch: 1, heads: 1, kv_heads: 1, q_len: owned, k_len: owned, head_dim };
                    let params = Params::new(&sizes, &spec, QUAD);
                    for (pass, matrices) in
                        [(Pass::Forward, 2), (Pass::Delta, 4), (Pass::Queries, 4), (Pass::Keys, 4)]
                    {
                        let plan = Plan::new(class, &spec, head_dim, matrices, owned);
                        all.push(plan.kernel(pass, &spec, head_dim, dtype, &params).into());
                    }
                }
            }
        }
    }
    all
}
