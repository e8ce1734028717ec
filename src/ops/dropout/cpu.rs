use super::Drop;
use crate::device::cpu::{CpuVec, parallel};
use crate::ops::with_real;
use crate::random::keep;
use crate::{Result, Tensor};

/// Elements of a task, a multiple of the four that one block of random bits serves.
const TASK: usize = 8 * 1024;

pub fn dropout(drop: &Drop, x: &Tensor) -> Result<Vec<Tensor>> {
    let x = x.contiguous()?;
    let (threshold, scale) = drop.threshold_and_scale();
    with_real!(x.dtype(), R => {
        let values = x.cpu::<R>()?;
        let mut out = CpuVec::<R>::new(values.len())?;
        let scale = <R as crate::Element>::from_f64(scale);
        parallel(values.len(), out.chunks_mut(TASK).zip(values.chunks(TASK)).enumerate(), |(i, (out, x))| {
            let mut bits = [0; TASK];
            drop.stream.bits((i * TASK) as u64, &mut bits[..out.len()]);
            for ((out, &x), &bits) in out.iter_mut().zip(x).zip(&bits) {
                *out = if keep(bits, threshold) { x * scale } else { 0.0 };
            }
        });
        Ok(vec![Tensor::from_cpu(out, x.shape())?])
    })
}
