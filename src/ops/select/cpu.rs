use crate::device::cpu::{CpuVec, Rows, map_rows};
use crate::ops::with_real;
use crate::{Result, Tensor};

pub fn select(mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
    with_real!(a.dtype(), R => {
        let rows = Rows::new([mask.layout(), a.layout(), b.layout()]);
        let (mask, x, y) = (mask.cpu_strided::<u32>()?, a.cpu_strided::<R>()?, b.cpu_strided::<R>()?);
        let mut out = CpuVec::<R>::new(a.elements())?;
        map_rows(&rows, &mut out, |[m, a, b], out| {
            for (i, out) in out.iter_mut().enumerate() {
                let chosen = mask[m + i * rows.step[0]] != 0;
                *out = if chosen { x[a + i * rows.step[1]] } else { y[b + i * rows.step[2]] };
            }
        });
        Ok(vec![Tensor::from_cpu(out, a.shape())?])
    })
}
