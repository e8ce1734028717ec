use bytemuck::{Pod, Zeroable};

use super::{Kind, Norm, NormBackward, rows};
use crate::device::cuda::{Binding, CudaDevice, Grid, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{output, width};
use crate::{DType, Result, Shape, Tensor};

const REDUCE: &str = cuda_source!("common/reduce.cuh");
const COMMON: &str = cuda_source!("norm/common.cuh");
const FORWARD: &[&str] = &[REDUCE, COMMON, cuda_source!("norm/forward.cu")];
const PARTIALS: &str = cuda_source!("norm/partials.cuh");
const BACKWARD: &[&str] = &[REDUCE, COMMON, PARTIALS, cuda_source!("norm/backward.cu")];
const BACKWARD_WEIGHT: &[&str] = &[PARTIALS, cuda_source!("norm/backward_weight.cu")];

/// Threads a block of backward_weight.cu.
const BLOCK: u32 = 128;
/// Rows whose shares of the weight's gradient one block of it adds up.
const CHUNK: usize = 32;
/// The most blocks of backward.cu, each of which leaves a row of sums: a function of nothing, so that the
/// order of additions is one of sizes alone.
const SHARES: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    rows: u32,
    cols: u32,
    eps: f32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    rows: u32,
    cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BackwardWeight {
    rows: u32,
    cols: u32,
    chunk: u32,
    chunks: u32,
}

/// How a row is divided over threads, see kernels/norm/common.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Threads a block.
    block: usize,
    /// Threads a row.
    team: usize,
    /// Elements a load.
    width: usize,
    /// Loads that a thread keeps in registers; 0 if it keeps none.
    steps: usize,
}

impl Plan {
    /// A warp a row while its lanes can keep it, then as many warps as keep 8 or 16 elements a thread, then a block
    /// that reads the row again in each pass. So do rows that start anywhere: for them, kernels of as many sizes
    /// would not pay.
    fn of(cols: usize, width: usize, backward: bool) -> Plan {
        if width == 1 {
            let (block, team) = if cols <= 1024 { (128, 32) } else { (256, 256) };
            return Plan { block, team, width, steps: 0 };
        }
        // Backward has twice as much to keep, and so has f32, as weight and bias stay as they lie in memory.
        let kept = if width == 8 && !backward { 32 } else { 16 };
        let (block, team) = match cols {
            _ if cols <= 32 * kept => (128, 32),
            ..=2048 => (cols.div_ceil(8).next_multiple_of(32), cols.div_ceil(8).next_multiple_of(32)),
            2049..=8192 => (cols.div_ceil(16).next_multiple_of(32), cols.div_ceil(16).next_multiple_of(32)),
            _ => return Plan { block: 512, team: 512, width, steps: 0 },
        };
        Plan { block, team, width, steps: cols.div_ceil(team * width) }
    }

    fn kernel(&self, name: &'static str, source: &'static [&'static str], entry: &'static str) -> Kernel {
        Kernel::builtin(name, source, entry)
            .with("BLOCK", self.block as u32)
            .with("TEAM", self.team as u32)
            .with("WIDTH", self.width as u32)
            .with("STEPS", self.steps as u32)
    }

    /// Bytes of shared memory in which the teams of a block of backward.cu add up their sums.
    fn shared(&self, cols: usize) -> usize {
        if self.steps > 0 && self.team < self.block { 8 * cols } else { 0 }
    }

    /// Blocks for so many rows, but no more than `most`.
    fn grid(&self, rows: usize, most: usize, shared: usize) -> Grid {
        let blocks = rows.div_ceil(self.block / self.team).min(most);
        Grid { blocks: [blocks as u32, 1, 1], threads: self.block as u32, shared: shared as u32 }
    }
}

fn forward_kernel(plan: &Plan, rms: bool, bias: bool, residual: bool, dtype: DType) -> Kernel {
    plan.kernel("norm", FORWARD, "forward")
        .with("RMS", rms)
        .with("HAS_BIAS", bias)
        .with("RESIDUAL", residual)
        .with("T", dtype)
}

fn backward_kernel(plan: &Plan, rms: bool, dsum: bool, bias: bool, dtype: DType) -> Kernel {
    plan.kernel("norm_backward", BACKWARD, "backward")
        .with("RMS", rms)
        .with("HAS_DSUM", dsum)
        .with("WEIGHTS", plan.steps > 0)
        .with("HAS_BIAS", bias)
        .with("T", dtype)
}

fn weight_kernel(entry: &'static str, width: usize, bias: bool, dtype: DType) -> Kernel {
    Kernel::builtin("norm_backward_weight", BACKWARD_WEIGHT, entry)
        .with("BLOCK", BLOCK)
        .with("WIDTH", width as u32)
        .with("HAS_BIAS", bias)
        .with("ACCUMULATE", false)
        .with("T", dtype)
        .with("OUT", dtype)
}

pub(super) fn forward(device: &CudaDevice, op: &Norm, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (shape, dtype, rows, cols) = (x[0].shape(), x[0].dtype(), rows(&x[0]), x[1].elements());
    let (y, y_buffer) = output("norm", device, shape, dtype)?;
    let (stats, stats_buffer) = output("norm", device, &Shape::from((rows, 2)), DType::F32)?;
    let sum = if op.residual { Some(output("norm", device, shape, dtype)?) } else { None };
    let (values, weight) = (x[0].cuda()?, x[1].cuda()?);
    let residual = op.residual(x).map(Tensor::cuda).transpose()?;
    let bias = op.bias(x).map(Tensor::cuda).transpose()?;
    let inputs = [Some(&values), Some(&weight), residual.as_ref(), bias.as_ref()];
    let plan = Plan::of(cols, width(dtype, cols, inputs.into_iter().flatten()), false);
    let kernel = forward_kernel(&plan, op.kind == Kind::Rms, op.bias, op.residual, dtype);
    device.launch(
        &kernel,
        &[
            Binding::Read(&values),
            Binding::read(residual.as_ref()),
            Binding::Read(&weight),
            Binding::read(bias.as_ref()),
            Binding::Write(&y_buffer),
            Binding::Write(&stats_buffer),
            Binding::write(sum.as_ref().map(|(_, buffer)| buffer)),
        ],
        &Forward { rows: rows as u32, cols: cols as u32, eps: op.eps as f32, pad: 0 },
        // As many as a device holds at once: each then reads weight and bias once.
        plan.grid(rows, (2048 / plan.block) * device.multiprocessors() as usize, 0),
    )?;
    Ok([Some(y), sum.map(|(tensor, _)| tensor), Some(stats)].into_iter().flatten().collect())
}

pub(super) fn backward(device: &CudaDevice, op: &NormBackward, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let (shape, dtype, rows, cols) = (x[0].shape(), x[0].dtype(), rows(&x[0]), x[1].elements());
    let (h, weight, stats, dy) = (x[0].cuda()?, x[1].cuda()?, x[2].cuda()?, x[3].cuda()?);
    let dsum = if op.dsum { Some(x[4].cuda()?) } else { None };
    let (dh, dh_buffer) = output("norm_backward", device, shape, dtype)?;
    let inputs = [Some(&h), Some(&weight), Some(&dy), dsum.as_ref()];
    let wide = width(dtype, cols, inputs.into_iter().flatten());
    let plan = Plan::of(cols, wide, true);
    // Rows in registers give their share of the weight's gradient along the way.
    let along = plan.steps > 0;
    let grid = plan.grid(rows, SHARES, plan.shared(cols));
    let chunks = if along { grid.blocks[0] as usize } else { rows.div_ceil(CHUNK) };
    let partials = device.alloc("norm_backward", chunks * 2 * cols * 4)?;
    let kernel = backward_kernel(&plan, op.kind == Kind::Rms, op.dsum, op.bias, dtype);
    device.launch(
        &kernel,
        &[
            Binding::Read(&h),
            Binding::Read(&weight),
            Binding::Read(&dy),
            Binding::Read(&stats),
            Binding::read(dsum.as_ref()),
            Binding::Write(&dh_buffer),
            Binding::write(along.then_some(&partials)),
        ],
        &Backward { rows: rows as u32, cols: cols as u32 },
        grid,
    )?;

    let params =
        BackwardWeight { rows: rows as u32, cols: cols as u32, chunk: CHUNK as u32, chunks: chunks as u32 };
    let weight_kernel = |entry| weight_kernel(entry, wide, op.bias, dtype);
    if !along {
        let columns = cols.div_ceil(wide * BLOCK as usize);
        device.launch(
            &weight_kernel("chunk_sums"),
            &[Binding::Read(&h), Binding::Read(&dy), Binding::Read(&stats), Binding::Write(&partials)],
            &params,
            Grid { blocks: [(columns * chunks) as u32, 1, 1], threads: BLOCK, shared: 0 },
        )?;
    }
    let (dweight, dweight_buffer) = output("norm_backward", device, x[1].shape(), dtype)?;
    let dbias = if op.bias { Some(output("norm_backward", device, x[1].shape(), dtype)?) } else { None };
    device.launch(
        &weight_kernel("totals"),
        &[
            Binding::Read(&partials),
            Binding::Write(&dweight_buffer),
            Binding::write(dbias.as_ref().map(|(_, buffer)| buffer)),
        ],
        &params,
        Grid { blocks: [cols.div_ceil(32) as u32, 1 + u32::from(op.bias), 1], threads: BLOCK, shared: 0 },
    )?;
    Ok([Some(dh), Some(dweight), dbias.map(|(tensor, _)| tensor)].into_iter().flatten().collect())
}

/// Every plan, but of the teams of several warps only the smallest and the largest, with all that a kernel can do
/// and with the least.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    let columns = || (8..=512).step_by(8).chain((520..=1024).step_by(8)).chain([2048, 2056, 8192, 8200]);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for width in [1, 16 / dtype.size()] {
            for backward in [false, true] {
                let mut plans: Vec<(Plan, usize)> = Vec::new();
                for cols in columns() {
                    let plan = Plan::of(cols, width, backward);
                    match plans.iter_mut().find(|(other, _)| *other == plan) {
                        Some((_, longest)) => *longest = cols,
                        None => plans.push((plan, cols)),
                    }
                }
                let ends = |team: usize| team <= 32 || plans.iter().all(|(p, _)| p.team <= 32 || p.team >= team);
                let last = |team: usize| [256, 512].contains(&team);
                for (plan, cols) in plans.iter().filter(|(plan, _)| ends(plan.team) || last(plan.team)) {
                    let wide = width > 1;
                    for (rms, rest) in [(false, true), (true, false)] {
                        let (kernel, shared) = match backward {
                            false => (forward_kernel(plan, rms, rest, rest, dtype), 0),
                            true => (backward_kernel(plan, rms, rest, rest, dtype), plan.shared(*cols)),
                        };
                        all.push(Launched { kernel, grid: plan.grid(1, 1, shared), tensor_cores: false, wide });
                    }
                }
            }
            for bias in [false, true] {
                let grid = Grid { blocks: [1; 3], threads: BLOCK, shared: 0 };
                let sums = weight_kernel("chunk_sums", width, bias, dtype);
                all.push(Launched { kernel: sums, grid, tensor_cores: false, wide: width > 1 });
                let totals = weight_kernel("totals", width, bias, dtype);
                all.push(Launched { kernel: totals, grid, tensor_cores: false, wide: false });
            }
        }
    }
    all
}
