use bytemuck::{Pod, Zeroable};

use super::{Kind, Unary};
#[cfg(test)]
use crate::device::wgpu::launched::Launched;
use crate::device::wgpu::{Binding, Constant, Kernel, WgpuDevice};
#[cfg(test)]
use crate::ops::launch::wgpu::{FLOATS, WALKS};
use crate::ops::launch::wgpu::{ACTIVATIONS, STRIDED, Walk, Width, by_width, of_width, output, threads};
use crate::ops::launch::windows;
use crate::shape::Dims8;
use crate::{DType, Result, Tensor};

const FUNCTIONS: &str = include_str!("../../../kernels/unary/functions.wgsl");
const FORWARD: &str = include_str!("../../../kernels/unary/forward.wgsl");
const BACKWARD: &str = include_str!("../../../kernels/unary/backward.wgsl");

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    n: u32,
    x_offset: u32,
    a: f32,
    b: f32,
    sizes: Dims8,
    x: Dims8,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    n: u32,
    v_offset: u32,
    dy_offset: u32,
    pad: u32,
    a: f32,
    b: f32,
    pad2: [u32; 2],
    sizes: Dims8,
    v: Dims8,
    dy: Dims8,
}

fn specialise(kernel: Kernel, kind: Kind, rank: Constant, width: Width, dtype: DType) -> Kernel {
    let activation = match kind {
        Kind::Gelu => 1u32,
        Kind::GeluErf => 2,
        Kind::Silu => 3,
        _ => 0,
    };
    kernel
        .with("RANK", rank)
        .with("KIND", kind as u32)
        .with("ACTIVATION", activation)
        .with_all(of_width(width, dtype, dtype))
}

fn forward_kernel(kind: Kind, rank: Constant, width: Width, dtype: DType) -> Kernel {
    let source = by_width!(width, [STRIDED, ACTIVATIONS, FUNCTIONS, FORWARD]);
    specialise(Kernel::builtin("unary", source, "main"), kind, rank, width, dtype)
}

fn backward_kernel(kind: Kind, rank: Constant, width: Width, dtype: DType) -> Kernel {
    let source = by_width!(width, [STRIDED, ACTIVATIONS, FUNCTIONS, BACKWARD]);
    specialise(Kernel::builtin("unary_backward", source, "main"), kind, rank, width, dtype)
}

pub(super) fn forward(device: &WgpuDevice, op: &Unary, x: &Tensor) -> Result<Vec<Tensor>> {
    let y = output("unary", device, x.shape(), x.dtype())?;
    windows::elements([windows::view(x), windows::output(&y)], |[x, y]| {
        let walk = Walk::new([x])?;
        let params = Forward {
            n: walk.n as u32,
            x_offset: walk.offsets[0],
            a: op.a as f32,
            b: op.b as f32,
            sizes: walk.sizes,
            x: walk.strides[0],
        };
        device.run(
            &forward_kernel(op.kind, walk.rank, walk.width, x.dtype()),
            &[Binding::Read(&walk.buffers[0]), Binding::Write(&y.wgpu()?)],
            &params,
            threads(walk.n),
        )
    })?;
    Ok(vec![y])
}

pub(super) fn backward(device: &WgpuDevice, op: &Unary, v: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let dx = output("unary_backward", device, v.shape(), v.dtype())?;
    windows::elements([windows::view(v), windows::view(dy), windows::output(&dx)], |[v, dy, dx]| {
        let walk = Walk::new([v, dy])?;
        let params = Backward {
            n: walk.n as u32,
            v_offset: walk.offsets[0],
            dy_offset: walk.offsets[1],
            pad: 0,
            a: op.a as f32,
            b: op.b as f32,
            pad2: [0; 2],
            sizes: walk.sizes,
            v: walk.strides[0],
            dy: walk.strides[1],
        };
        let [v_buffer, dy_buffer] = &walk.buffers;
        device.run(
            &backward_kernel(op.kind, walk.rank, walk.width, v.dtype()),
            &[Binding::Read(v_buffer), Binding::Read(dy_buffer), Binding::Write(&dx.wgpu()?)],
            &params,
            threads(walk.n),
        )
    })?;
    Ok(vec![dx])
}

/// Every function over contiguous memory, and one over all ranks.
#[cfg(test)]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        let flat = |width| Kind::ALL.map(|kind| (kind, Constant::U32(1), width));
        let flat = Width::ALL.into_iter().flat_map(flat);
        for (kind, rank, width) in flat.chain(WALKS.map(|(rank, width)| (Kind::Gelu, rank, width))) {
            all.push(forward_kernel(kind, rank, width, dtype));
            all.push(backward_kernel(kind, rank, width, dtype));
        }
    }
    all.into_iter().map(Launched::from).collect()
}
