use crate::device::cpu::{CpuVec, parallel};
use crate::ops::with_real;
use crate::{Result, Tensor};

pub fn gather(x: &Tensor, ids: &Tensor) -> Result<Vec<Tensor>> {
    let ((_, size, inner), (_, n, _)) = (x.dims3()?, ids.dims3()?);
    let (x, ids) = (x.contiguous()?, ids.contiguous()?);
    with_real!(x.dtype(), R => {
        let (values, indices) = (x.cpu::<R>()?, ids.cpu::<u32>()?);
        let mut out = CpuVec::<R>::new(indices.len())?;
        let slice = (n * inner).max(1);
        parallel(out.len(), out.chunks_mut(slice).enumerate(), |(o, out)| {
            for (i, out) in out.iter_mut().enumerate() {
                let id = indices[o * n * inner + i] as usize;
                *out = values[(o * size + id) * inner + i % inner];
            }
        });
        Ok(vec![Tensor::from_cpu(out, ids.shape())?])
    })
}

pub fn scatter_add(dy: &Tensor, ids: &Tensor, size: usize) -> Result<Vec<Tensor>> {
    let (outer, n, inner) = ids.dims3()?;
    let (dy, ids) = (dy.contiguous()?, ids.contiguous()?);
    with_real!(dy.dtype(), R => {
        let (grads, indices) = (dy.cpu::<R>()?, ids.cpu::<u32>()?);
        let mut dx = CpuVec::<R>::zeros(outer * size * inner)?;
        let slice = (size * inner).max(1);
        parallel(grads.len(), dx.chunks_mut(slice).enumerate(), |(o, dx)| {
            for i in 0..n * inner {
                let at = o * n * inner + i;
                dx[indices[at] as usize * inner + i % inner] += grads[at];
            }
        });
        Ok(vec![Tensor::from_cpu(dx, (outer, size, inner))?])
    })
}
