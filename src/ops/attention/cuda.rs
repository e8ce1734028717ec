use super::params::{Params, in_lines};
use super::{Sizes, Spec};
use crate::device::cuda::{Binding, CudaDevice, Grid, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{check_size, output};
use crate::{DType, Result, Shape, Tensor};

const PTX: &str = cuda_source!("common/ptx.cuh");
const TILE: &str = cuda_source!("common/tile.cuh");
const PHILOX: &str = cuda_source!("common/philox.cuh");
const COMMON: &str = cuda_source!("attention/common.cuh");
const MMA: &[&str] = &[PTX, TILE, PHILOX, COMMON, cuda_source!("attention/forward.cu")];
const SIMT: &[&str] = &[PTX, TILE, PHILOX, COMMON, cuda_source!("attention/forward_simt.cu")];

/// How a kernel is cut, see kernels/attention/forward.cu and forward_simt.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Mma { warps: usize, rows: usize, tile: usize, keep_q: bool },
    Simt { teams: usize, queries: usize, tile: usize },
}

impl Plan {
    /// `shared` is what a block may have.
    fn of(
        capability: (u32, u32),
        shared: usize,
        dtype: DType,
        d: usize,
        q_len: usize,
        dropout: bool,
    ) -> Plan {
        let tensor_cores = match dtype {
            DType::F16 => capability >= (7, 5),
            DType::BF16 => capability >= (8, 0),
            _ => false,
        };
        if !tensor_cores {
            let (teams, queries, tile) = match d {
                ..=64 => (8, 8, 32),
                65..=128 => (8, 4, 32),
                _ if shared > 64 << 10 => (8, 4, 16),
                _ => (4, 4, 16),
            };
            return Plan::Simt { teams, queries, tile };
        }
        // A few queries, as when text is generated: more than one warp would have none.
        if q_len <= 16 {
            let tile = if d <= 64 { 64 } else { 32 };
            return Plan::Mma { warps: 1, rows: 1, tile, keep_q: d <= 128 };
        }
        let (warps, rows, tile, keep_q) = match d {
            // The bits of dropout take the registers of the second row.
            ..=128 if dropout => (4, 1, 64, true),
            ..=64 => (4, 2, 64, false),
            // Three registers too many there.
            97..=128 if capability >= (12, 0) => (4, 1, 64, true),
            65..=128 => (4, 2, 32, false),
            _ if shared >= 128 << 10 => (8, 1, 32, false),
            _ if shared > 64 << 10 => (4, 1, 32, false),
            _ => (4, 1, 16, false),
        };
        Plan::Mma { warps, rows, tile, keep_q }
    }

    /// Elements of which rows must start at multiples.
    fn line(&self) -> usize {
        if matches!(self, Plan::Mma { .. }) { 8 } else { 4 }
    }

    /// Queries of a block.
    fn band(&self) -> usize {
        match *self {
            Plan::Mma { warps, rows, .. } => 16 * rows * warps,
            Plan::Simt { teams, queries, .. } => teams * queries,
        }
    }

    fn kernel(&self, head_dim: usize) -> Kernel {
        match *self {
            Plan::Mma { warps, rows, tile, keep_q } => Kernel::builtin("attention", MMA, "forward")
                .with("WARPS", warps as u32)
                .with("BLOCK", 32 * warps as u32)
                .with("ROWS", rows as u32)
                .with("TILE", tile as u32)
                .with("KEEP_Q", keep_q),
            Plan::Simt { teams, queries, tile } => Kernel::builtin("attention", SIMT, "forward")
                .with("TEAMS", teams as u32)
                .with("BLOCK", 16 * teams as u32)
                .with("QUERIES", queries as u32)
                .with("TILE", tile as u32),
        }
        .with("D", head_dim as u32)
    }

    fn grid(&self, sizes: &Sizes) -> Grid {
        let (d, band) = (sizes.head_dim, self.band());
        let (threads, shared) = match *self {
            Plan::Mma { warps, tile, keep_q, .. } => {
                let padded = d.next_multiple_of(16);
                (32 * warps, 8 * tile * padded + if keep_q { 0 } else { 2 * band * padded })
            }
            Plan::Simt { teams, tile, .. } => {
                let weights = if tile % 32 == 16 { tile } else { tile + 16 };
                (16 * teams, 4 * (band + 2 * tile) * d + 4 * band * weights)
            }
        };
        let blocks = sizes.q_len.div_ceil(band) * sizes.batch * sizes.heads;
        Grid { blocks: [blocks as u32, 1, 1], threads: threads as u32, shared: shared as u32 }
    }
}

pub(super) fn forward(device: &CudaDevice, spec: &Spec, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (sizes, dtype) = (Sizes::of(&x[0], &x[1]), x[0].dtype());
    let Sizes { batch, heads, q_len, head_dim, .. } = sizes;
    check_size("attention", device, x[1].elements())?;
    let (o, o_buffer) = output("attention", device, &Shape::from(x[0].elements()), dtype)?;
    let (lse, lse_buffer) = output("attention", device, &Shape::from((batch, heads, q_len)), DType::F32)?;

    let (capability, shared) = (device.compute_capability(), device.shared_per_block() as usize);
    let plan = Plan::of(capability, shared, dtype, head_dim, q_len, spec.dropout.is_some());
    let place = |x: &Tensor| in_lines(x, plan.line(), 1);
    let ((q, q_at), (k, k_at), (v, v_at)) = (place(&x[0])?, place(&x[1])?, place(&x[2])?);
    device.launch(
        &plan.kernel(head_dim).with("DROPOUT", spec.dropout.is_some()).with("T", dtype),
        &[
            Binding::Read(&q.cuda_storage()?),
            Binding::Read(&k.cuda_storage()?),
            Binding::Read(&v.cuda_storage()?),
            Binding::Write(&o_buffer),
            Binding::Write(&lse_buffer),
        ],
        &Params { q: q_at, k: k_at, v: v_at, ..Params::new(&sizes, spec, 1) },
        plan.grid(&sizes),
    )?;
    Ok(vec![sizes.heads_inside(o, heads, q_len)?, lse])
}

/// The head sizes at which plans change or registers are scarce, for many queries and for few; with dropout, and of bf16,
/// which differs from f16 in one letter of `mma`, two of them.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched(capability: (u32, u32)) -> Vec<Launched> {
    let shared = match capability {
        (7, _) => 64,
        (8, 0) => 163,
        (9, 0) => 227,
        _ => 99,
    } << 10;
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for head_dim in [8, 40, 64, 72, 96, 112, 128] {
            for dropout in [false, true] {
                if (dropout || dtype == DType::BF16) && ![64, 128].contains(&head_dim) {
                    continue;
                }
                let mut plans = [16, 1024].map(|q_len| Plan::of(capability, shared, dtype, head_dim, q_len, dropout)).to_vec();
                plans.dedup();
                for (plan, q_len) in plans.into_iter().rev().zip([1024, 16]) {
                    let sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, q_len, k_len: q_len, head_dim };
                    all.push(Launched {
                        kernel: plan.kernel(head_dim).with("DROPOUT", dropout).with("T", dtype),
                        grid: plan.grid(&sizes),
                        tensor_cores: matches!(plan, Plan::Mma { .. }),
                        wide: dtype == DType::F32 || matches!(plan, Plan::Mma { .. }),
                    });
                }
            }
        }
    }
    all
}
