use bytemuck::{Pod, Zeroable};

use super::{Kind, Unary};
use crate::device::wgpu::{Binding, Constant, WgpuDevice};
use crate::shape::Dims8;
use crate::ops::launch::wgpu::{ACTIVATIONS, STRIDED, Walk, element, kernel, output, threads};
use crate::ops::launch::windows;
use crate::{Result, Tensor};

const FUNCTIONS: &str = include_str!("../../../kernels/unary/functions.wgsl");
const FORWARD: &[&str] =
    &[STRIDED, ACTIVATIONS, FUNCTIONS, include_str!("../../../kernels/unary/forward.wgsl")];
const BACKWARD: &[&str] =
    &[STRIDED, ACTIVATIONS, FUNCTIONS, include_str!("../../../kernels/unary/backward.wgsl")];

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

fn constants(op: &Unary, rank: Constant, x: &Tensor) -> [(&'static str, Constant); 4] {
    let activation = match op.kind {
        Kind::Gelu => 1,
        Kind::GeluErf => 2,
        Kind::Silu => 3,
        _ => 0,
    };
    [
        ("RANK", rank),
        ("KIND", Constant::U32(op.kind as u32)),
        ("ACTIVATION", Constant::U32(activation)),
        element(x.dtype()),
    ]
}

pub fn forward(device: &WgpuDevice, op: &Unary, x: &Tensor) -> Result<Vec<Tensor>> {
    let y = output("unary", device, x.shape(), x.dtype())?;
    windows::elements([windows::view(x), windows::output(&y)], |[x, y]| {
        let walk = Walk::new([x])?;
        let params = Forward {
            n: walk.n,
            x_offset: walk.offsets[0],
            a: op.a as f32,
            b: op.b as f32,
            sizes: walk.sizes,
            x: walk.strides[0],
        };
        device.run(
            &kernel("unary", FORWARD, constants(op, walk.rank, x)),
            &[Binding::Read(&walk.buffers[0]), Binding::Write(&y.wgpu()?)],
            &params,
            threads(x.elements()),
        )
    })?;
    Ok(vec![y])
}

pub fn backward(device: &WgpuDevice, op: &Unary, v: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let dx = output("unary_backward", device, v.shape(), v.dtype())?;
    windows::elements([windows::view(v), windows::view(dy), windows::output(&dx)], |[v, dy, dx]| {
        let walk = Walk::new([v, dy])?;
        let params = Backward {
            n: walk.n,
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
            &kernel("unary_backward", BACKWARD, constants(op, walk.rank, v)),
            &[Binding::Read(v_buffer), Binding::Read(dy_buffer), Binding::Write(&dx.wgpu()?)],
            &params,
            threads(v.elements()),
        )
    })?;
    Ok(vec![dx])
}
