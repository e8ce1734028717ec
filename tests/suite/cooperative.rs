//! Cooperative matrices, where an adapter has them: a GPU, or with `TILEWRIGHT_COOPERATIVE_MATRIX=1` the lavapipe of a Mesa that is new
//! enough. Every test sees to it that what it compares was computed by them.
#![cfg(feature = "wgpu")]

use std::io::Write;

use tilewright::device::Profiling;
use tilewright::device::wgpu::{CooperativeMatrices, Selector, WgpuDevice};
use tilewright::{Activation, DType, Device, Tensor};

use crate::cases;
use crate::harness::{another_wgpu, has_matrices};
use crate::tiles::{check, few, ran, rich};

/// A device whose cooperative matrices were found to compute right, with its kernels being counted.
fn device(checked: bool) -> Option<(Device, WgpuDevice)> {
    let how = |selector: Selector| if checked { selector.checked() } else { selector };
    let device = another_wgpu(|selector| how(selector.gpu_kernels()))?;
    let Device::Wgpu(wgpu) = &device else { unreachable!() };
    let wgpu = wgpu.clone();
    if !has_matrices(&device) {
        let _ = writeln!(std::io::stderr(), "NOT RUN: {device} has no cooperative matrices, or they are off");
        return None;
    }
    assert_eq!(wgpu.cooperative_matrices(), CooperativeMatrices::Untried);
    let x = Tensor::ones((16, 16), DType::F16, &device).unwrap();
    x.matmul(&x).unwrap();
    assert_eq!(wgpu.cooperative_matrices(), CooperativeMatrices::Used);
    wgpu.profile(Profiling::Kernels).unwrap();
    Some((device, wgpu))
}

/// Awkward shapes, operands that lie either way, all that becomes of sums, batches, a cut K; forward and backward.
#[test]
fn products() {
    for checked in [false, true] {
        let Some((device, wgpu)) = device(checked) else { return };
        let mut cases = few();
        cases.push(rich(33, 1100, 20, Activation::GeluErf));
        if !checked {
            cases.extend(cases::matmul());
            cases.extend(cases::linear());
            cases.push(rich(1100, 24, 40, Activation::Gelu));
        }
        check(&device, &cases, &[DType::F16], "");
        let ran = ran(&wgpu);
        for kernel in ["matmul/cooperative", "matmul/splits"] {
            assert!(ran.contains(kernel), "{kernel} is not among {ran:?}");
        }
        for kernel in ["matmul/tiled", "matmul/direct"] {
            assert!(!ran.contains(kernel), "{kernel} is among {ran:?}");
        }
    }
}

/// What is not f16 has no use for them.
#[test]
fn other_dtypes() {
    let Some((device, wgpu)) = device(true) else { return };
    check(&device, &few(), &[DType::F32, DType::BF16], "");
    assert!(!ran(&wgpu).contains("matmul/cooperative"));
}
