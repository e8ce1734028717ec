//! A first program: a line through points, on the best device. `cargo run --release --example first`

use tilewright::optim::{AdamW, AdamWConfig};
use tilewright::{DType, Device, Result, Tensor, Var};

fn main() -> Result<()> {
    let device = Device::best();
    device.set_seed(42);

    // y = 2 x + 1, to be found from 64 points.
    let x = Tensor::randn(0.0, 1.0, (64, 1), DType::F32, &device)?;
    let y = x.affine(2.0, 1.0)?;

    let w = Var::new(&Tensor::zeros((1, 1), DType::F32, &device)?)?;
    let b = Var::new(&Tensor::zeros(1, DType::F32, &device)?)?;
    let config = AdamWConfig { lr: 0.05, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = AdamW::new(vec![w.clone(), b.clone()], config)?;

    for _ in 0..300 {
        let loss = x.linear(&w, Some(&b))?.sub(&y)?.sqr()?.mean_all()?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
    }
    println!("{device}: w = {:.3}, b = {:.3}", w.to_scalar::<f32>()?, b.to_scalar::<f32>()?);
    Ok(())
}
