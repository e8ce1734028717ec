use bytemuck::{Pod, Zeroable};

use super::{Kind, Unary};
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{ACTIVATIONS, STRIDED, Walk, output};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::ops::launch::cuda::{BLOCK, strided, walks};
use crate::shape::Dims8;
use crate::{DType, Result, Tensor};

const FUNCTIONS: &str = cuda_source!("unary/functions.cuh");
const FORWARD: &[&str] = &[STRIDED, ACTIVATIONS, FUNCTIONS, cuda_source!("unary/forward.cu")];
const BACKWARD: &[&str] = &[STRIDED, ACTIVATIONS, FUNCTIONS, cuda_source!("unary/backward.cu")];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    n: u32,
    a: f32,
    b: f32,
    sizes: Dims8,
    x: Dims8,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    n: u32,
    a: f32,
    b: f32,
    sizes: Dims8,
    strides: [Dims8; 2],
}

/// The walk's kernel of this function.
fn of_kind(kernel: Kernel, kind: Kind, dtype: DType) -> Kernel {
    let activation = match kind {
        Kind::Gelu => 1u32,
        Kind::GeluErf => 2,
        Kind::Silu => 3,
        _ => 0,
    };
    kernel.with("KIND", kind as u32).with("ACTIVATION", activation).with("T", dtype)
}

fn forward_kernel(x_splat: bool) -> Kernel {
    Kernel::builtin("unary", FORWARD, "forward").with("X_SPLAT", x_splat)
}

fn backward_kernel([v_splat, dy_splat]: [bool; 2]) -> Kernel {
    Kernel::builtin("unary_backward", BACKWARD, "backward").with("V_SPLAT", v_splat).with("DY_SPLAT", dy_splat)
}

pub(super) fn forward(device: &CudaDevice, op: &Unary, x: &Tensor) -> Result<Vec<Tensor>> {
    let (y, y_buffer) = output("unary", device, x.shape(), x.dtype())?;
    let walk = Walk::new("unary", device, [x], x.dtype())?;
    let (a, b) = (op.a as f32, op.b as f32);
    device.launch(
        &of_kind(walk.specialise(forward_kernel(walk.splat[0])), op.kind, x.dtype()),
        &[Binding::Read(&walk.buffers[0]), Binding::Write(&y_buffer)],
        &Forward { n: walk.n, a, b, sizes: walk.sizes, x: walk.strides[0] },
        walk.grid(),
    )?;
    Ok(vec![y])
}

pub(super) fn backward(device: &CudaDevice, op: &Unary, v: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let (dx, dx_buffer) = output("unary_backward", device, v.shape(), v.dtype())?;
    let walk = Walk::new("unary_backward", device, [v, dy], v.dtype())?;
    let Walk { n, sizes, strides, buffers: [v_buffer, dy_buffer], .. } = &walk;
    device.launch(
        &of_kind(walk.specialise(backward_kernel(walk.splat)), op.kind, v.dtype()),
        &[Binding::Read(v_buffer), Binding::Read(dy_buffer), Binding::Write(&dx_buffer)],
        &Backward { n: *n, a: op.a as f32, b: op.b as f32, sizes: *sizes, strides: *strides },
        walk.grid(),
    )?;
    Ok(vec![dx])
}

/// Every function once of f32 and once of f16, and one of them with every walk and type.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    let mut push = |kind, dtype, rank, width, splat: bool| {
        let specialise = |kernel| of_kind(strided(kernel, rank, width), kind, dtype);
        // The range reduction of CUDA's sine and cosine has a table for arguments beyond 105615.
        let local = matches!(kind, Kind::Sin | Kind::Cos);
        let forward = Launched::plain(specialise(forward_kernel(splat)), BLOCK, width > 1 && !splat);
        all.push(Launched { local, ..forward });
        // An affine function's backward is another.
        if kind != Kind::Affine {
            let backward = Launched::plain(specialise(backward_kernel([false, splat])), BLOCK, width > 1);
            all.push(Launched { local, ..backward });
        }
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for kind in Kind::ALL.into_iter().filter(|_| dtype != DType::BF16) {
            push(kind, dtype, 1, 16 / dtype.size(), false);
        }
        for (rank, width) in walks(dtype.size()) {
            push(Kind::Gelu, dtype, rank, width, false);
            push(Kind::Gelu, dtype, rank, width, width > 1);
        }
    }
    all
}
