//! Rows of a table by id, with a deterministic backward.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use crate::autograd::{Backward, Target};
use crate::device::cpu::CpuVec;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::op::{Op, Saves, apply1};
use crate::ops::with_real;
use crate::tensor::{Data, IdRange};
use crate::{DType, Error, Result, Tensor};

/// Inputs `[table, ids]`: table `[V, C]`, ids `[N]`; output `[N, C]`.
struct Embedding;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (table, ids) = (x[0].contiguous()?, x[1].contiguous()?);
        let (_, cols) = table.dims2()?;
        with_real!(table.dtype(), R => {
            let mut out = CpuVec::<R>::new(ids.elements() * cols)?;
            cpu::forward(&table.cpu::<R>()?, cols, &ids.cpu()?, &mut out);
            Ok(vec![Tensor::from_cpu(out, (ids.elements(), cols))?])
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        cuda::forward(device, &x[0], &x[1])
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, x: &[Tensor]) -> Result<Vec<Tensor>> {
        wgpu::forward(device, &x[0], &x[1])
    }

    fn saves(&self) -> Option<Saves> {
        Some(Saves::inputs(&[1]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (ids, dout) = (ctx.input(1)?, ctx.grad(0)?);
        // The table's gradient is large and this op touches few rows of it: add in place if it has a
        // place that kernels can write. Otherwise make one of the gradient's compute dtype, all zeros.
        let compute = dout.device().compute_dtype(dout.dtype());
        let target = match ctx.target(0) {
            Some(target) if [compute, DType::F32].contains(&target.grad.dtype()) => target.clone(),
            _ => {
                let grad = Tensor::uninit(ctx.input_shape(0), compute, &dout.device())?;
                Target { grad, add: false }
            }
        };
        accumulate(ids, &dout.to_dtype(compute)?, &target)?;
        Ok(vec![Some(target.grad), None])
    }
}

/// Adds the rows of `dout` into those rows of the target that `ids` name, in the order of `ids`.
fn accumulate(ids: &Tensor, dout: &Tensor, target: &Target) -> Result<()> {
    match &target.grad.storage().data {
        Data::Cpu(_) => {
            let (ids, dout) = (ids.contiguous()?, dout.contiguous()?);
            let cols = target.grad.dims2()?.1;
            with_real!(dout.dtype(), R => {
                let mut grad = target.grad.cpu_mut::<R>()?;
                cpu::backward(&ids.cpu()?, &dout.cpu::<R>()?, cols, &mut grad, target.add);
            });
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Data::Cuda { device, .. } => cuda::accumulate(device, ids, dout, &target.grad, target.add),
        #[cfg(feature = "wgpu")]
        Data::Wgpu { device, .. } => wgpu::accumulate(device, ids, dout, &target.grad, target.add),
    }
}

/// Refuses ids that are not below `bound` and not `ignore`.
///
/// What is known of the ids on the host decides without waiting for the device: that is all ids that
/// came from the host, and those that comparisons and argmax made. Others are read back once.
pub(crate) fn check_ids(op: &'static str, ids: &Tensor, bound: usize, ignore: Option<u32>) -> Result<()> {
    if ids.dtype() != DType::U32 {
        return Err(Error::dtype(op, &[ids.dtype()], "ids must be u32"));
    }
    let fits = |range: IdRange| range.largest_but(ignore).is_none_or(|id| (id as usize) < bound);
    let known = *ids.storage().ids.lock();
    if known.is_some_and(fits) {
        return Ok(());
    }
    // Unknown, or known of a larger tensor of which this one is a view.
    let exact = IdRange::of(&ids.to_vec::<u32>()?);
    if ids.is_contiguous() && ids.elements() == ids.storage().elements {
        *ids.storage().ids.lock() = Some(exact);
    }
    match exact.largest_but(ignore) {
        Some(id) if id as usize >= bound => {
            Err(Error::Index { op, index: id.into(), bound: bound as u64 })
        }
        _ => Ok(()),
    }
}

impl Tensor {
    /// Rows of this table `[V, C]` by `ids` (u32, any shape `[..]`): `[.., C]`. The gradient of a row
    /// adds up in the order of the ids, the same bits every time.
    ///
    /// # Errors
    /// [`Error::Index`] if an id is not below V, [`Error::DType`] if ids are not u32.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        let [rows, cols] = self.dims_n::<2>("embedding")?;
        if !self.dtype().is_float() {
            return Err(Error::dtype("embedding", &[self.dtype(), ids.dtype()], "the table must be of floats"));
        }
        check_ids("embedding", ids, rows, None)?;
        let mut shape = ids.dims().to_vec();
        shape.push(cols);
        apply1(Embedding, &[self, &ids.flatten_all()?])?.reshape(shape)
    }
}
