//! The matrix products of GPUs, run by whatever adapter there is: each tile, what the crate chooses by itself, sums that are cut,
//! and arithmetic in f16.
#![cfg(feature = "wgpu")]

use std::collections::BTreeSet;

use tilewright::device::Profiling;
use tilewright::device::wgpu::{MatmulTile, Selector, WgpuDevice};
use tilewright::{Activation, DType, Device, Result, Tensor};

use crate::cases::{self, Case, Range::Normal};
use crate::harness::another_wgpu;
use crate::parity::{Expected, Pass, compare};

/// A device of its own, which may be tuned, with the kernels that are for GPUs; none where other tests have none.
fn device(how: impl Fn(Selector) -> Selector) -> Option<(Device, WgpuDevice)> {
    let device = another_wgpu(|selector| how(selector.checked().gpu_kernels()))?;
    let Device::Wgpu(wgpu) = &device else { unreachable!() };
    let wgpu = wgpu.clone();
    Some((device, wgpu))
}

pub fn check(device: &Device, cases: &[Case], dtypes: &[DType], what: &str) {
    let mut failures = Vec::new();
    for case in cases {
        for &dtype in dtypes {
            let wrong = Expected::of(case, dtype)
                .and_then(|expected| compare(case, dtype, device, &expected, Pass::Both))
                .unwrap_or_else(|error| vec![error.to_string()]);
            failures.extend(wrong.into_iter().map(|wrong| format!("{what}{}, {dtype}: {wrong}", case.name)));
        }
    }
    let some = &failures[..failures.len().min(20)];
    assert!(failures.is_empty(), "{} failures, among them:\n{}", failures.len(), some.join("\n"));
}

/// What ran on the device since it was told to measure.
pub fn ran(wgpu: &WgpuDevice) -> BTreeSet<String> {
    wgpu.take_profile().unwrap().kernels.iter().map(|kernel| kernel.kernel.to_string()).collect()
}

/// Products that leave a rest at every edge of every tile, or none, with operands that lie either way; of few shapes, as software
/// adapters take seconds to compile a large tile.
pub fn few() -> Vec<Case> {
    let turned = |x: &[Tensor]| x[0].t()?.matmul(&x[1].t()?);
    vec![
        Case::new("a b", &[(&[2, 131, 19], Normal), (&[2, 19, 133], Normal)], |x| x[0].matmul(&x[1]))
            .terms(560),
        Case::new("a^T b^T", &[(&[72, 136], Normal), (&[264, 72], Normal)], turned).terms(1056),
        Case::new("nothing", &[(&[5, 0], Normal), (&[0, 3], Normal)], |x| x[0].matmul(&x[1])),
        rich(65, 36, 33, Activation::Gelu),
    ]
}

/// All that may become of a product's sums.
pub fn rich(m: usize, k: usize, n: usize, activation: Activation) -> Case {
    let inputs: [(&[usize], _); 4] =
        [(&[m, k], Normal), (&[n, k], Normal), (&[n], Normal), (&[m, n], Normal)];
    let both = move |x: &[Tensor]| -> Result<Tensor> {
        let active = x[0].linear_activation(&x[1], Some(&x[2]), activation)?;
        // The weight's gradient is added to the one that is there.
        active.add(&x[0].linear_residual(&x[1], None, &x[3])?)
    };
    let naive = move |x: &[Tensor]| -> Result<Tensor> {
        let active = x[0].linear(&x[1], None)?.add(&x[2])?;
        let active = if activation == Activation::Gelu { active.gelu() } else { active.gelu_erf() }?;
        active.add(&x[0].linear(&x[1], None)?.add(&x[3])?)
    };
    Case::new("everything", &inputs, both).naive(naive).terms(4 * (m + k + n))
}

#[test]
fn every_tile() {
    let Some((device, wgpu)) = device(|selector| selector) else { return };
    assert_eq!(wgpu.matmul_tile(), None);
    for tile in MatmulTile::ALL {
        wgpu.set_matmul_tile(Some(tile));
        check(&device, &few(), &[DType::F32], &format!("{tile}: "));
        check(&device, &few()[1..2], &[DType::F16], &format!("{tile}: "));
    }
}

#[test]
fn the_chosen_kernels() {
    for portable in [false, true] {
        let how = |selector: Selector| if portable { selector.portable() } else { selector };
        let Some((device, wgpu)) = device(how) else { return };
        let profiled = wgpu.profile(Profiling::Kernels).is_ok();
        let mut cases = cases::matmul();
        cases.extend(cases::linear());
        cases.push(rich(33, 1100, 20, Activation::GeluErf));
        cases.push(rich(7, 2050, 6, Activation::Gelu));
        cases.push(rich(1100, 24, 40, Activation::Gelu));
        check(&device, &cases, if portable { &[DType::F32] } else { &[DType::F32, DType::F16] }, "");
        if profiled {
            let ran = ran(&wgpu);
            for kernel in ["matmul/tiled", "matmul/thin", "matmul/splits"] {
                assert!(ran.contains(kernel), "{kernel} is not among {ran:?}");
            }
            assert!(!ran.contains("matmul/direct"), "{ran:?}");
        }
    }
}

/// The first products use the table, the second ones measure, and the third use what was measured.
#[test]
fn measured_tiles() {
    let Some((device, wgpu)) = device(|selector| selector) else { return };
    assert!(!wgpu.tunes_matmul());
    wgpu.set_tune_matmul(true);
    let product =
        Case::new("a b", &[(&[3, 41, 20], Normal), (&[3, 20, 24], Normal)], |x| x[0].matmul(&x[1])).terms(65);
    for time in ["first", "second", "third"] {
        check(&device, std::slice::from_ref(&product), &[DType::F32], &format!("{time}: "));
    }
}

#[test]
fn f16_arithmetic() {
    let Some((device, wgpu)) = device(|selector| selector) else { return };
    assert!(!wgpu.allows_f16_arithmetic());
    wgpu.set_allow_f16_arithmetic(true);
    for tile in ["64x64", "128x128"] {
        wgpu.set_matmul_tile(Some(tile.parse().unwrap()));
        check(&device, &few(), &[DType::F16], &format!("{tile}: "));
    }
}
