//! `cargo bench`: kernels and training steps. `TILEWRIGHT_DEVICE` picks the device, and an argument
//! picks cases: `TILEWRIGHT_DEVICE=software cargo bench -- attention`.

mod gpt;
mod gpu;
mod ops;
mod steps;

use std::sync::LazyLock;

use criterion::{Criterion, criterion_group, criterion_main};
use tilewright::{Device, Tensor};

/// The device that `TILEWRIGHT_DEVICE` names: `cpu` (the default), `cuda:N`, `cuda-sim`, or what `Device::wgpu`
/// selects by, such as `software` or `0`. It is opened once.
fn device() -> Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| match std::env::var("TILEWRIGHT_DEVICE").as_deref() {
        Err(_) | Ok("" | "cpu") => Device::Cpu,
        #[cfg(feature = "cuda-sim")]
        Ok("cuda-sim") => Device::cuda_sim().expect("NVRTC is on the library path"),
        #[cfg(feature = "cuda")]
        Ok(name) if name.starts_with("cuda:") => {
            let ordinal = name["cuda:".len()..].parse().expect("`cuda:` is followed by a number");
            Device::cuda(ordinal).expect("TILEWRIGHT_DEVICE names a device of this machine")
        }
        Ok(selector) => Device::wgpu(selector).expect("TILEWRIGHT_DEVICE names a device of this machine"),
    });
    DEVICE.clone()
}

/// Waits for a result by reading one element of it.
fn wait(t: &Tensor) -> f32 {
    let first = (0..t.rank()).try_fold(t.detach(), |t, dim| t.narrow(dim, 0, 1));
    first.and_then(|t| t.reshape(())?.to_scalar()).expect("the result can be read")
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(15);
    targets = ops::matmuls, ops::fused, ops::losses_and_tables, ops::elementwise, ops::adamw, ops::uploads, steps::steps, gpu::gpu
}
criterion_main!(benches);
