use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Binding, CudaDevice, Kernel, cuda_source};
#[cfg(all(test, feature = "cuda-sim"))]
use crate::device::cuda::resources::Launched;
use crate::ops::launch::cuda::{EXPONENTIALS, REDUCE, ROWS, RowPlan, output, width};
use crate::{D, DType, Result, Tensor};

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

fn forward_kernel(plan: &RowPlan, log: bool, dtype: DType) -> Kernel {
    plan.specialise(Kernel::builtin("softmax", FORWARD, "forward")).with("LOG", log).with("T", dtype)
}

fn backward_kernel(plan: &RowPlan, log: bool, dtype: DType) -> Kernel {
    plan.specialise(Kernel::builtin("softmax_backward", BACKWARD, "backward")).with("LOG", log).with("T", dtype)
}

pub fn forward(device: &CudaDevice, log: bool, x: &Tensor) -> Result<Vec<Tensor>> {
    let (y, buffer) = output("softmax", device, x.shape(), x.dtype())?;
    let (params, values) = (Params::of(x)?, x.cuda()?);
    let cols = params.cols as usize;
    let plan = RowPlan::of(cols, width(x.dtype(), cols, [&values]), KEPT);
    device.launch(
        &forward_kernel(&plan, log, x.dtype()),
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
    device.launch(
        &backward_kernel(&plan, log, y.dtype()),
        &[Binding::Read(&values), Binding::Read(&grads), Binding::Write(&buffer)],
        &params,
        plan.grid(params.rows as usize, usize::MAX),
    )?;
    Ok(vec![dx])
}

/// Every plan and type: of log-softmax forward and of softmax backward.
#[cfg(all(test, feature = "cuda-sim"))]
pub(crate) fn launched() -> Vec<Launched> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for plan in RowPlan::all(dtype, KEPT) {
            for kernel in [forward_kernel(&plan, true, dtype), backward_kernel(&plan, false, dtype)] {
                all.push(Launched::plain(kernel, plan.block as u32, plan.width > 1));
            }
        }
    }
    all
}
