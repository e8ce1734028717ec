use bytemuck::{Pod, Zeroable};

use super::{Operand, Product};
use crate::device::cuda::{Binding, Buffer, CudaDevice, Grid, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::{TF32_SINCE, sim::Architecture};
use crate::ops::launch::cuda::{check_size, check_strides, is_aligned, output, starts_a_line};
use crate::{DType, Result, Shape, Tensor};

const PTX: &str = cuda_source!("common/ptx.cuh");
const TILE: &str = cuda_source!("common/tile.cuh");
const ACTIVATIONS: &str = cuda_source!("activation/functions.cuh");
const EPILOGUE: &str = cuda_source!("matmul/epilogue.cuh");
const MMA: &[&str] = &[PTX, TILE, ACTIVATIONS, EPILOGUE, cuda_source!("matmul/mma.cu")];
const SIMT: &[&str] = &[ACTIVATIONS, EPILOGUE, cuda_source!("matmul/simt.cu")];
const SPLITS: &[&str] = &[ACTIVATIONS, EPILOGUE, cuda_source!("matmul/splits.cu")];

/// Threads a block of splits.cu.
const BLOCK: u32 = 256;

/// `Params` of kernels/matmul/epilogue.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    inner: u32,
    a_strides: [u32; 4],
    b_strides: [u32; 4],
    splits: u32,
    split_k: u32,
}

pub(super) fn product(device: &CudaDevice, p: &Product<'_>) -> Result<Vec<Tensor>> {
    let (b1, b2, m, _, n) = p.sizes();
    let shape = Shape::from((b1, b2, m, n));
    let (d, d_buffer) = output("matmul", device, &shape, p.a.dtype())?;
    let place = Place { buffer: &d_buffer, dtype: d.dtype() };
    if !p.keep_pre {
        launch(device, p, place, None, false)?;
        return Ok(vec![d]);
    }
    let (pre, pre_buffer) = output("matmul", device, &shape, p.a.dtype())?;
    launch(device, p, place, Some(&pre_buffer), false)?;
    Ok(vec![d, pre])
}

/// `to = a b`, or `to += a b`; `to` is contiguous.
pub(super) fn accumulate(device: &CudaDevice, p: &Product<'_>, to: &Tensor, add: bool) -> Result<()> {
    launch(device, p, Place { buffer: &to.cuda_strided()?, dtype: to.dtype() }, None, add)?;
    // What was refused has written nothing.
    to.storage().written();
    Ok(())
}

/// Where a product goes.
struct Place<'a> {
    buffer: &'a Buffer,
    /// That of the operands, or f32.
    dtype: DType,
}

/// Writes the product, or with `add` adds it, to `d`.
fn launch(
    device: &CudaDevice,
    p: &Product<'_>,
    d: Place<'_>,
    pre: Option<&Buffer>,
    add: bool,
) -> Result<()> {
    let (b1, b2, m, k, n) = p.sizes();
    let (batch, dtype) = (b1 * b2, p.a.dtype());
    if batch * m * n == 0 {
        return Ok(());
    }
    check_size("matmul", device, k.max(batch * m * n))?;
    [p.a, p.b].into_iter().try_for_each(|x| check_strides("matmul", device, x))?;
    let (a, b) = (Operand::new(p.a, 2, 3), Operand::new(p.b, 3, 2));
    let (a_buffer, b_buffer) = (p.a.cuda_strided()?, p.b.cuda_strided()?);
    // Whether both may be read so many elements at a time.
    let in_lines_of = |line: usize| {
        [(&a, &a_buffer), (&b, &b_buffer)]
            .map(|(x, buffer)| x.in_lines_of(line) && is_aligned(buffer, line * dtype.size()))
    };
    let bias = p.bias.map(Tensor::cuda).transpose()?;
    let residual = p.residual.map(Tensor::cuda).transpose()?;

    let plan = Plan::of(device, dtype, [m, n, k, batch], in_lines_of(16 / dtype.size()) == [true; 2]);
    let params = Params {
        m: m as u32,
        n: n as u32,
        k: k as u32,
        batch: batch as u32,
        inner: b2 as u32,
        a_strides: a.strides,
        b_strides: b.strides,
        splits: plan.splits as u32,
        split_k: plan.share(k) as u32,
    };
    // What one thread of the epilogue finishes: 16 bytes of the wider type.
    let neighbours = 16 / dtype.size().max(d.dtype.size());
    let starts = [bias.as_ref(), residual.as_ref(), Some(d.buffer)];
    let lines_out = n.is_multiple_of(neighbours) && starts.into_iter().flatten().all(starts_a_line);
    let finish = Finish {
        bias: bias.is_some(),
        pre: pre.is_some(),
        activation: p.activation.code(),
        residual: residual.is_some(),
        add,
        wide: d.dtype != dtype,
    };
    let access = Access { across: [a.across, b.across], lines: in_lines_of(plan.line()) };
    let cut = plan.splits > 1;
    let kernel = plan.kernel(access, finish, lines_out);
    let partials = if cut { Some(device.alloc("matmul", plan.splits * batch * m * n * 4)?) } else { None };
    device.launch(
        &kernel,
        &[
            Binding::Read(&a_buffer),
            Binding::Read(&b_buffer),
            Binding::read(bias.as_ref().filter(|_| !cut)),
            Binding::read(residual.as_ref().filter(|_| !cut)),
            Binding::Write(d.buffer),
            Binding::write(pre.filter(|_| !cut)),
            Binding::write(partials.as_ref()),
        ],
        &params,
        plan.grid(m, n, batch),
    )?;
    let Some(partials) = partials else { return Ok(()) };
    let kernel = splits_kernel(dtype, finish, lines_out);
    let blocks = (m * n.div_ceil(neighbours) * batch).div_ceil(BLOCK as usize);
    device.launch(
        &kernel,
        &[
            Binding::Read(&partials),
            Binding::read(bias.as_ref()),
            Binding::read(residual.as_ref()),
            Binding::Write(d.buffer),
            Binding::write(pre),
        ],
        &params,
        Grid { blocks: [blocks as u32, 1, 1], threads: BLOCK, shared: 0 },
    )
}

/// What the epilogue does, see kernels/matmul/epilogue.cuh.
#[derive(Clone, Copy, Default)]
struct Finish {
    bias: bool,
    pre: bool,
    activation: u32,
    residual: bool,
    add: bool,
    /// To f32, of whatever operands.
    wide: bool,
}

impl Finish {
    fn specialise(self, kernel: Kernel) -> Kernel {
        kernel
            .with("BIAS", self.bias)
            .with("SAVE_PRE", self.pre)
            .with("ACTIVATION", self.activation)
            .with("RESIDUAL", self.residual)
            .with("ACCUMULATE", self.add)
    }

    /// What becomes of products of `dtype`.
    fn result(self, dtype: DType) -> DType {
        if self.wide { DType::F32 } else { dtype }
    }
}

/// How A and B lie: along M or N, and in lines.
#[derive(Clone, Copy)]
struct Access {
    across: [bool; 2],
    lines: [bool; 2],
}

fn splits_kernel(dtype: DType, finish: Finish, lines_out: bool) -> Kernel {
    let kernel = Kernel::builtin("matmul_splits", SPLITS, "splits").with("BLOCK", BLOCK);
    let kernel = finish.specialise(kernel).with("SPLIT", false).with("D_LINES", lines_out);
    kernel.with("T", dtype).with("D", finish.result(dtype))
}

/// The part of the product of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    bm: usize,
    bn: usize,
    /// The depth of a slice, in bytes.
    depth: usize,
    /// Warps along M and N; of the simt kernel, 0.
    warps: [usize; 2],
    /// Slices in shared memory; of the simt kernel, the sums of a thread along each side.
    stages: usize,
}

const fn mma(bm: usize, bn: usize, depth: usize, warps: [usize; 2], stages: usize) -> Tile {
    Tile { bm, bn, depth, warps, stages }
}

const fn simt(side: usize, own: usize) -> Tile {
    Tile { bm: side, bn: side, depth: 32, warps: [0; 2], stages: own }
}

/// Whether a device's tensor cores multiply this type; f32 only as the user allows, rounded to TF32.
fn on_tensor_cores(capability: (u32, u32), dtype: DType, tf32: bool) -> bool {
    match dtype {
        DType::F16 => true,
        DType::BF16 => capability >= (8, 0),
        _ => tf32,
    }
}

/// The tiles to choose from, the largest first; the last serves what has too few of the others.
fn candidates(capability: (u32, u32), tensor_cores: bool, gather: bool, m: usize) -> &'static [Tile] {
    const SMALL: Tile = mma(64, 64, 128, [2, 2], 3);
    const LARGE: Tile = mma(128, 256, 64, [2, 4], 3);
    const MMA: &[Tile] = &[LARGE, mma(128, 128, 64, [2, 2], 4), SMALL];
    // Two blocks of three stages fit in 100 KiB.
    const MMA_100_KIB: &[Tile] = &[LARGE, mma(128, 128, 64, [2, 2], 3), SMALL];
    // Without asynchronous copies, stages buy nothing but the space to copy ahead.
    const MMA_SM_75: &[Tile] = &[mma(128, 128, 64, [2, 2], 2), SMALL];
    const THIN: &[Tile] = &[mma(32, 64, 128, [2, 2], 4)];
    const GATHER: &[Tile] = &[mma(64, 64, 64, [2, 2], 3)];
    const SIMT: &[Tile] = &[simt(128, 8), simt(64, 8), simt(32, 4)];
    match capability {
        _ if tensor_cores && gather => GATHER,
        _ if tensor_cores && m <= 32 => THIN,
        (7, _) if tensor_cores => MMA_SM_75,
        (8, 0) | (9..=11, _) if tensor_cores => MMA,
        _ if tensor_cores => MMA_100_KIB,
        // On sm_120 the sums of the largest do not fit beside two blocks' registers.
        _ if gather || capability >= (12, 0) => &SIMT[1..],
        _ => SIMT,
    }
}

/// Which kernel, its shape, and into how many shares K is cut.
#[derive(Clone, Copy, Debug)]
struct Plan {
    dtype: DType,
    tile: Tile,
    splits: usize,
}

impl Plan {
    /// `in_lines` if both operands may be read 16 bytes at a time.
    fn of(
        device: &CudaDevice,
        dtype: DType,
        [m, n, k, batch]: [usize; 4],
        in_lines: bool,
    ) -> Plan {
        let tiles = |tile: &Tile| m.div_ceil(tile.bm) * n.div_ceil(tile.bn) * batch;
        let capability = device.compute_capability();
        let tensor_cores = on_tensor_cores(capability, dtype, device.allows_tf32());
        let candidates = candidates(capability, tensor_cores, !in_lines, m);
        // The largest tile of which there are enough to fill the device, and which does not lose much at the edges.
        let full = device.multiprocessors() as usize;
        let smallest = *candidates.last().expect("there is a tile");
        let padded = |tile: &Tile| m.next_multiple_of(tile.bm) * n.next_multiple_of(tile.bn);
        let fits = |tile: &&Tile| tiles(tile) >= full && 8 * padded(tile) <= 9 * padded(&smallest);
        let tile = candidates.iter().find(fits).copied().unwrap_or(smallest);
        // Deep products of few tiles: as many shares as fill a device, but not shorter ones than pay. By the sizes and the
        // tile, which the device decides: the order of additions is the same run after run on one device, not on
        // all of them.
        const WANTED: usize = 128;
        let most = if k >= 1024 { k / 256 } else { 1 };
        let splits = (WANTED / tiles(&tile)).clamp(1, most);
        let plan = Plan { dtype, tile, splits };
        // Shares of whole slices may be fewer.
        Plan { splits: k.div_ceil(plan.share(k).max(1)).max(1), ..plan }
    }

    /// The depth of a slice, in elements.
    fn bk(&self) -> usize {
        self.tile.depth / self.dtype.size()
    }

    /// The depth of a share: whole slices.
    fn share(&self, k: usize) -> usize {
        k.div_ceil(self.splits).next_multiple_of(self.bk())
    }

    fn is_mma(&self) -> bool {
        self.tile.warps != [0; 2]
    }

    fn source(&self) -> &'static [&'static str] {
        if self.is_mma() { MMA } else { SIMT }
    }

    fn threads(&self) -> usize {
        let Tile { bm, bn, warps, stages, .. } = self.tile;
        if self.is_mma() { 32 * warps[0] * warps[1] } else { (bm / stages) * (bn / stages) }
    }

    /// Elements of which operands are read in lines.
    fn line(&self) -> usize {
        if self.is_mma() { 16 / self.dtype.size() } else { 4 }
    }

    fn kernel(&self, access: Access, finish: Finish, lines_out: bool) -> Kernel {
        let Tile { bm, bn, warps, stages, .. } = self.tile;
        let cut = self.splits > 1;
        let kernel = Kernel::builtin("matmul", self.source(), "matmul")
            .with("BM", bm as u32)
            .with("BN", bn as u32)
            .with("BLOCK", self.threads() as u32);
        let kernel = match self.is_mma() {
            true => kernel
                .with("BK", self.bk() as u32)
                .with("WARPS_M", warps[0] as u32)
                .with("WARPS_N", warps[1] as u32)
                .with("STAGES", stages as u32),
            false => kernel.with("TM", stages as u32).with("TN", stages as u32),
        };
        let kernel = kernel
            .with("A_ALONG_M", access.across[0])
            .with("B_ALONG_N", access.across[1])
            .with("A_LINES", access.lines[0])
            .with("B_LINES", access.lines[1]);
        // Shares are added up, and finished, by splits.cu.
        let finish = if cut { Finish::default() } else { finish };
        let kernel = finish.specialise(kernel).with("SPLIT", cut).with("D_LINES", lines_out);
        kernel.with("T", self.dtype).with("D", finish.result(self.dtype))
    }

    fn grid(&self, m: usize, n: usize, batch: usize) -> Grid {
        let Tile { bm, bn, depth, warps, stages } = self.tile;
        let blocks = m.div_ceil(bm) * n.div_ceil(bn) * batch * self.splits;
        let shared = if self.is_mma() {
            let slices = stages * depth * (bm + bn);
            // The sums leave through the same memory.
            slices.max(64 * warps[0] * warps[1] * (bn / warps[1] + 8))
        } else {
            0
        };
        Grid { blocks: [blocks as u32, 1, 1], threads: self.threads() as u32, shared: shared as u32 }
    }
}

/// Every tile with every way that operands lie, as plain and as rich as the epilogue can be; of bf16, which differs from
/// f16 in one letter of `mma`, every tile once.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched(architecture: Architecture) -> Vec<Launched> {
    let capability = architecture.compute_capability();
    let rich = |activation| Finish { bias: true, pre: true, activation, residual: true, add: false, wide: false };
    let add = |wide| Finish { add: true, wide, ..Finish::default() };
    let mut all = Vec::new();
    for (dtype, tf32) in [(DType::F32, false), (DType::F32, true), (DType::F16, false), (DType::BF16, false)] {
        if tf32 && capability < TF32_SINCE {
            continue;
        }
        let tensor_cores = on_tensor_cores(capability, dtype, tf32);
        for (gather, m) in [(false, 1024), (false, 32), (true, 1024)] {
            for &tile in candidates(capability, tensor_cores, gather, m) {
                let plan = Plan { dtype, tile, splits: 1 };
                let cut = Plan { splits: 2, ..plan };
                let mut push = |plan: &Plan, across, lines, finish, lines_out| {
                    let access = Access { across, lines };
                    let kernel = plan.kernel(access, finish, lines_out);
                    let wide = lines == [true; 2] && (plan.dtype == DType::F32 || plan.is_mma());
                    let grid = plan.grid(1, 1, 1);
                    all.push(Launched { kernel, grid, tensor_cores: plan.is_mma(), wide, local: false });
                };
                let lines = !gather;
                if dtype == DType::BF16 {
                    push(&plan, [true, true], [lines; 2], rich(1), true);
                    continue;
                }
                for across in [[false, false], [false, true], [true, false], [true, true]] {
                    push(&plan, across, [lines; 2], Finish::default(), true);
                }
                push(&plan, [false, false], [lines; 2], rich(1), true);
                push(&plan, [false, false], [lines; 2], rich(2), false);
                push(&plan, [true, true], [lines; 2], add(false), true);
                if dtype != DType::F32 {
                    push(&plan, [true, true], [lines; 2], add(true), true);
                }
                if gather {
                    push(&plan, [false, true], [true, false], rich(3), false);
                    push(&plan, [true, false], [false, true], rich(3), false);
                }
                push(&cut, [true, true], [lines; 2], Finish::default(), true);
                push(&cut, [false, false], [lines; 2], Finish::default(), false);
            }
        }
        for lines_out in [true, false] {
            for finish in [rich(1), add(dtype != DType::F32)] {
                all.push(Launched::plain(splits_kernel(dtype, finish, lines_out), BLOCK, lines_out));
            }
        }
    }
    all
}
