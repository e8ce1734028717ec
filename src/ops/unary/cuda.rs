use bytemuck::{Pod, Zeroable};

use super::{Kind, Unary};
use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{ACTIVATIONS, STRIDED, Walk, output};
use crate::shape::Dims8;
use crate::{DType, Result, Tensor};

const FUNCTIONS: &str = cuda_source!("unary/functions.cuh");
const FORWARD: &[&str] = &[STRIDED, ACTIVATIONS, FUNCTIONS, cuda_source!("unary/forward.cu")];
const BACKWARD: &[&str] = &[STRIDED, ACTIVATIONS, FUNCTIONS, cuda_source!("unary/backward.cu")];

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
    offsets: [u32; 2],
    pad: u32,
    a: f32,
    b: f32,
    sizes: Dims8,
    strides: [Dims8; 2],
}

fn specialise<const N: usize>(kernel: Kernel, walk: &Walk<N>, op: &Unary, dtype: DType) -> Kernel {
    let activation = match op.kind {
        Kind::Gelu => 1u32,
        Kind::GeluErf => 2,
        Kind::Silu => 3,
        _ => 0,
    };
    walk.specialise(kernel).with("KIND", op.kind as u32).with("ACTIVATION", activation).with("T", dtype)
}

pub fn forward(device: &CudaDevice, op: &Unary, x: &Tensor) -> Result<Vec<Tensor>> {
    let (y, y_buffer) = output("unary", device, x.shape(), x.dtype())?;
    let walk = Walk::new([x], x.dtype())?;
    let kernel = Kernel::builtin("unary", FORWARD, "forward").with("X_SPLAT", walk.splat[0]);
    let (a, b) = (op.a as f32, op.b as f32);
    device.launch(
        &specialise(kernel, &walk, op, x.dtype()),
        &[Binding::Read(&x.cuda_storage()?), Binding::Write(&y_buffer)],
        &Forward { n: walk.n, x_offset: walk.offsets[0], a, b, sizes: walk.sizes, x: walk.strides[0] },
        walk.grid(),
    )?;
    Ok(vec![y])
}

pub fn backward(device: &CudaDevice, op: &Unary, v: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let (dx, dx_buffer) = output("unary_backward", device, v.shape(), v.dtype())?;
    let walk = Walk::new([v, dy], v.dtype())?;
    let [v_splat, dy_splat] = walk.splat;
    let kernel = Kernel::builtin("unary_backward", BACKWARD, "backward")
        .with("V_SPLAT", v_splat)
        .with("DY_SPLAT", dy_splat);
    let Walk { n, offsets, sizes, strides, .. } = walk;
    device.launch(
        &specialise(kernel, &walk, op, v.dtype()),
        &[Binding::Read(&v.cuda_storage()?), Binding::Read(&dy.cuda_storage()?), Binding::Write(&dx_buffer)],
        &Backward { n, offsets, pad: 0, a: op.a as f32, b: op.b as f32, sizes, strides },
        walk.grid(),
    )?;
    Ok(vec![dx])
}
