use crate::device::cpu::{CpuVec, Rows, map_rows};
use crate::tensor::with_element;
use crate::{DType, Element, Result, Tensor};

pub fn converted(x: &Tensor, dtype: DType) -> Result<Tensor> {
    with_element!(x.dtype(), S => with_element!(dtype, D => convert::<S, D>(x)))
}

fn convert<S: Element, D: Element>(x: &Tensor) -> Result<Tensor> {
    let mut out = CpuVec::<D>::new(x.elements())?;
    let values = x.cpu_strided::<S>()?;
    let rows = Rows::new([x.layout()]);
    map_rows(&rows, &mut out, |[start], out| convert_row(&values[start..], rows.step[0], out));
    Tensor::from_cpu(out, x.shape())
}

fn convert_row<S: Element, D: Element>(x: &[S], step: usize, out: &mut [D]) {
    match (S::DTYPE == D::DTYPE, step) {
        (true, 1) => out.copy_from_slice(bytemuck::cast_slice(&x[..out.len()])),
        (true, _) => out.iter_mut().enumerate().for_each(|(i, o)| *o = bytemuck::cast(x[i * step])),
        (false, _) => out.iter_mut().enumerate().for_each(|(i, o)| *o = D::from_f64(x[i * step].to_f64())),
    }
}

/// Writes `values` over the view `to`, which has another memory and the same shape and dtype.
pub fn assign(to: &Tensor, values: &Tensor) -> Result<()> {
    with_element!(to.dtype(), T => {
        let rows = Rows::new([to.layout(), values.layout()]);
        let values = values.cpu_strided::<T>()?;
        let mut to = to.cpu_mut::<T>()?;
        for row in 0..rows.count {
            let [t, v] = rows.start(row);
            let (to, values) = (&mut to[t..], &values[v..]);
            if rows.step == [1, 1] {
                to[..rows.len].copy_from_slice(&values[..rows.len]);
            } else {
                (0..rows.len).for_each(|i| to[i * rows.step[0]] = values[i * rows.step[1]]);
            }
        }
        Ok(())
    })
}
