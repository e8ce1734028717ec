//! Cooperative matrices, where an adapter has them: a GPU, or with `TILEWRIGHT_COOPERATIVE_MATRIX=1` the lavapipe of a Mesa that is new
//! enough. Every test sees to it that what it compares was computed by them.
#![cfg(feature = "wgpu")]

use std::io::Write;

use tilewright::device::Profiling;
use tilewright::device::wgpu::{CooperativeMatrices, Selector, WgpuDevice};
use tilewright::{Activation, AttentionOptions, DType, Device, Tensor};

use crate::cases::{self, Case, Range::Normal};
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

/// q, k and v of sizes B, NH, NKV, Tq, Tk, D, and whether positions come before heads in memory.
fn attention([b, nh, nkv, tq, tk, d]: [usize; 6], options: AttentionOptions, turned: bool) -> Case {
    let name = format!("attention {:?}, {options:?}, turned: {turned}", [b, nh, nkv, tq, tk, d]);
    let (q, k) = if turned { ([b, tq, nh, d], [b, tk, nkv, d]) } else { ([b, nh, tq, d], [b, nkv, tk, d]) };
    let f = move |x: &[Tensor]| {
        let view = |x: &Tensor| if turned { x.transpose(1, 2) } else { Ok(x.clone()) };
        view(&x[0])?.attention(&view(&x[1])?, &view(&x[2])?, &options)
    };
    Case::new(name, &[(&q, Normal), (&k, Normal), (&k, Normal)], f)
        .terms(4 * tq.max(tk).max(d))
        .scale(1.0)
        .roundings(8)
}

/// Bands and tiles, the last of each not full, of head sizes that are parts of one turn or of several; masks, shared heads, queries that
/// see no key, operands in strides; forward and backward.
#[test]
fn attentions() {
    let Some((device, wgpu)) = device(false) else { return };
    let plain = AttentionOptions::default();
    let causal = AttentionOptions { causal: true, ..plain };
    let window = AttentionOptions { window: Some(37), ..causal };
    let negative = AttentionOptions { scale: Some(-0.3), ..plain };
    let cases = [
        attention([1, 1, 1, 17, 17, 16], plain, false),
        attention([2, 2, 1, 83, 101, 64], causal, true),
        attention([1, 3, 3, 101, 83, 64], causal, false),
        attention([1, 4, 2, 64, 96, 64], window, false),
        attention([1, 2, 2, 33, 130, 80], negative, true),
        attention([1, 2, 1, 70, 90, 80], causal, false),
        attention([1, 2, 2, 49, 50, 128], causal, true),
        // Nearly as many keys as loops on lavapipe have turns for.
        attention([1, 1, 1, 17, 5800, 64], causal, false),
        // Scores that rise and fall by far more than what sums are rescaled for.
        attention([1, 1, 1, 70, 90, 64], AttentionOptions { scale: Some(4.0), ..plain }, false),
    ];
    // Before the first of a head size there is a comparison with the plain kernels.
    check(&device, &cases, &[DType::F16], "");
    wgpu.take_profile().unwrap();
    check(&device, &cases, &[DType::F16], "");
    let ran = ran(&wgpu);
    for kernel in ["attention/forward", "attention_backward/dq", "attention_backward/dkdv"] {
        assert!(!ran.contains(kernel), "{kernel} is among {ran:?}");
        let cooperative = format!("{kernel}_cooperative");
        assert!(ran.contains(&cooperative), "{cooperative} is not among {ran:?}");
    }
}
