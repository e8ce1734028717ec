use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
use crate::ops::launch::cuda::{EXPONENTIALS, REDUCE, ROWS, RowPlan, output, width};
use crate::{D, Result, Tensor};

const FORWARD: &[&str] = &[REDUCE, ROWS, EXPONENTIALS, cuda_source!("softmax/forward.cu")];
const BACKWARD: &[&str] = &[REDUCE, ROWS, cuda_source!("softmax/backward.cu")];

/// Elements that a lane keeps where a warp has a row.
const KEPT: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
}

impl Params {
    fn of(x: &Tensor) -> Result<Self> {
        let cols = x.dim(D::Minus1)?;
        Ok(Params { rows: x.elements().checked_div(cols).unwrap_or(0) as u32, cols: cols as u32 })
    }
}

pub fn forward(device: &CudaDevice, log: bool, x: &Tensor) -> Result<Vec<Tensor>> {
    let (y, buffer) = output("softmax", device, x.shape(), x.dtype())?;
    let (params, values) = (Params::of(x)?, x.cuda()?);
    let cols = params.cols as usize;
    let plan = RowPlan::of(cols, width(x.dtype(), cols, [&values]), KEPT);
    device.launch(
        &plan.specialise(Kernel::builtin("softmax", FORWARD, "forward")).with("LOG", log).with("T", x.dtype()),
        &[Binding::Read(&values), Binding::Write(&buffer)],
        &params,
        plan.grid(params.rows as usize, usize::MAX),
    )?;
    Ok(vec![y])
}

pub fn backward(device: &CudaDevice, log: bool, y: &Tensor, dy: &Tensor) -> Result<Vec<Tensor>> {
    let (dx, buffer) = output("softmax_backward", device, y.shape(), y.dtype())?;
    let (params, values, grads) = (Params::of(y)?, y.cuda()?, dy.cuda()?);
    let cols = params.cols as usize;
    let plan = RowPlan::of(cols, width(y.dtype(), cols, [&values, &grads]), KEPT);
    let kernel = plan.specialise(Kernel::builtin("softmax_backward", BACKWARD, "backward"));
    device.launch(
        &kernel.with("LOG", log).with("T", y.dtype()),
        &[Binding::Read(&values), Binding::Read(&grads), Binding::Write(&buffer)],
        &params,
        plan.grid(params.rows as usize, usize::MAX),
    )?;
    Ok(vec![dx])
}
