//! Attention with the kernels of GPUs, run by whatever adapter there is: teams of every shape, and keys cut into chunks.
#![cfg(feature = "wgpu")]

use std::sync::Arc;

use tilewright::{AttentionOptions, DType, Tensor};

use crate::cases::{Case, Range::Normal};
use crate::harness::{bits, gpu_kernels, normal, place, seeded};
use crate::parity::{Expected, Pass, compare};

fn check(cases: &[Case], dtypes: &[DType], pass: Pass) {
    let Some(device) = gpu_kernels() else { return };
    let mut failures = Vec::new();
    for case in cases {
        for &dtype in dtypes {
            let wrong = Expected::of(case, dtype)
                .and_then(|expected| compare(case, dtype, device, &expected, pass))
                .unwrap_or_else(|error| vec![error.to_string()]);
            failures.extend(wrong.into_iter().map(|what| format!("{}, {dtype}: {what}", case.name)));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// q, k and v of sizes B, NH, NKV, Tq, Tk, D.
fn case([b, nh, nkv, tq, tk, d]: [usize; 6], options: AttentionOptions) -> Case {
    let name = format!("attention {:?}, {options:?}", [b, nh, nkv, tq, tk, d]);
    let f = move |x: &[Tensor]| seeded(&x[0].device(), 5, || x[0].attention(&x[1], &x[2], &options));
    let (q, k) = ([b, nh, tq, d], [b, nkv, tk, d]);
    Case::new(name, &[(&q, Normal), (&k, Normal), (&k, Normal)], f)
        .terms(4 * tq.max(tk).max(d))
        .scale(1.0)
        .roundings(8)
}

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, scale: None, window: None, dropout: 0.0 };

/// Several bands and tiles, the last of each not full, of teams of 1 to 16 with 1 to 4 rows.
#[test]
fn every_kind_of_head_size() {
    let dropped = AttentionOptions { dropout: 0.2, ..CAUSAL };
    for (d, options) in [
        (8, CAUSAL),
        (16, dropped),
        (24, CAUSAL),
        (32, dropped),
        (56, CAUSAL),
        (80, dropped),
        (96, CAUSAL),
        (112, dropped),
        (128, CAUSAL),
        (192, CAUSAL),
        (256, dropped),
    ] {
        let dtypes: &[DType] = if d % 64 == 0 { &[DType::F32, DType::F16] } else { &[DType::F32] };
        check(&[case([1, 2, 1, 83, 101, d], options)], dtypes, Pass::Both);
    }
}

/// Few queries of many keys, which are cut; of which some or all see nothing of a chunk.
#[test]
fn keys_in_chunks() {
    let window = AttentionOptions { window: Some(70), ..CAUSAL };
    let cases = [
        case([1, 2, 2, 1, 1031, 8], AttentionOptions::default()),
        case([1, 2, 1, 1, 256, 16], CAUSAL),
        case([2, 8, 2, 1, 257, 64], CAUSAL),
        case([1, 6, 1, 7, 1021, 32], CAUSAL),
        case([1, 4, 4, 16, 512, 128], CAUSAL),
        case([1, 3, 1, 5, 601, 72], window),
        case([1, 2, 1, 13, 9, 40], CAUSAL),
        case([1, 2, 2, 3, 199, 256], AttentionOptions { scale: Some(-0.1), ..CAUSAL }),
    ];
    check(&cases, &[DType::F32], Pass::Both);
    check(&cases[2..3], &[DType::F16], Pass::Both);
}

/// Of these no keys are cut, as random bits are drawn for a workgroup's.
#[test]
fn few_queries_with_dropout() {
    let dropped = AttentionOptions { dropout: 0.2, ..CAUSAL };
    for d in [8, 16, 24, 64, 96, 136, 192] {
        check(&[case([1, 2, 1, 9, 101, d], dropped)], &[DType::F32], Pass::Both);
    }
    for d in [16, 64] {
        check(&[case([1, 1, 1, 2, 20_000, d], dropped)], &[DType::F32], Pass::Forward);
    }
}

/// Scores that rise and fall by far more than what sums are rescaled for, and such that are all far below 0.
#[test]
fn scores_far_apart() {
    let steep = AttentionOptions { scale: Some(6.0), ..Default::default() };
    let below = AttentionOptions { scale: Some(-0.5), ..Default::default() };
    for sizes in [[1, 1, 1, 70, 90, 64], [1, 2, 1, 1, 400, 64], [1, 1, 1, 40, 50, 8]] {
        let mut squares = case(sizes, below);
        squares.f = Arc::new(move |x| x[0].mul(&x[0])?.attention(&x[1].mul(&x[1])?, &x[2], &below));
        check(&[case(sizes, steep), squares], &[DType::F32], Pass::Forward);
    }
}

#[test]
fn the_same_bits_run_after_run() {
    let Some(device) = gpu_kernels() else { return };
    let shapes: [&[usize]; 3] = [&[2, 4, 3, 64], &[2, 2, 601, 64], &[2, 2, 601, 64]];
    let x = shapes.map(|shape| place(&normal(shape[2] as u64, shape), DType::F32, device).unwrap());
    let run = || bits(&x[0].attention(&x[1], &x[2], &CAUSAL).unwrap());
    let first = run();
    for _ in 0..5 {
        assert_eq!(run(), first);
    }
}
