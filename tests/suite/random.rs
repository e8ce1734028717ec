//! Random numbers: the same bits everywhere, reproducible, and distributed as they should be.

use tilewright::random::Stream;
use tilewright::{DType, Device, Tensor};

use crate::harness::{bits, every_device, seeded};

#[test]
fn every_device_draws_the_same_bits() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for shape in [&[1][..], &[3], &[129], &[5, 63], &[0], &[40_003]] {
            let draw = |device: &Device| {
                seeded(device, 11, || {
                    let uniform = Tensor::rand(-1.0, 2.0, shape, dtype, device).unwrap();
                    let normal = Tensor::randn(0.5, 2.0, shape, dtype, device).unwrap();
                    let dropped = Tensor::ones(shape, dtype, device).unwrap().dropout(0.3).unwrap();
                    assert_eq!((uniform.dtype(), uniform.dims()), (dtype, shape));
                    [bits(&uniform), bits(&normal), bits(&dropped)]
                })
            };
            let expected = draw(&Device::Cpu);
            for device in every_device() {
                assert_eq!(draw(device), expected, "{device}, {dtype}, {shape:?}");
            }
        }
    }
}

#[test]
fn a_seed_gives_the_same_numbers_and_each_call_others() {
    for device in every_device() {
        let draw = || Tensor::rand(0.0, 1.0, 100, DType::F32, device).unwrap();
        seeded(device, 0, || {
            device.set_seed(42);
            let (a, b) = (bits(&draw()), bits(&draw()));
            assert_ne!(a, b);
            let state = device.generator_state();
            let c = bits(&draw());
            device.set_seed(42);
            assert_eq!((bits(&draw()), bits(&draw())), (a.clone(), b));
            device.set_generator(state);
            assert_eq!(bits(&draw()), c);
            device.set_seed(43);
            assert_ne!(bits(&draw()), a);
            // Ops that draw nothing leave the numbers where they are.
            let state = device.generator_state();
            draw().dropout(0.0).unwrap();
            assert_eq!(device.generator_state(), Stream { offset: state.offset + 1, ..state });
        });
    }
}

#[test]
fn a_stream_is_what_the_public_generator_gives() {
    let device = Device::Cpu;
    seeded(&device, 9, || {
        let mut expected = vec![0f32; 1000];
        Stream { seed: 7, offset: 9 }.fill_uniform(0.0, 1.0, &mut expected);
        let found = Tensor::rand(0.0, 1.0, 1000, DType::F32, &device).unwrap();
        assert_eq!(found.to_vec::<f32>().unwrap(), expected);
        // Random123's known answer for key and counter 0.
        device.set_seed(0);
        let found = Tensor::rand(0.0, 1.0, 4, DType::F32, &device).unwrap().to_vec::<f32>().unwrap();
        let known = [0x6627_e8d5u32, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(found, known.map(|bits| (bits >> 8) as f32 / 16_777_216.0));
    });
}

#[test]
fn moments_are_right() {
    let n = 1 << 17;
    for device in every_device() {
        seeded(device, 100, || {
            let moments = |t: &Tensor, around: f64| -> (f64, f64) {
                let x = t.to_vec::<f64>().unwrap();
                let mean = x.iter().sum::<f64>() / n as f64;
                (mean, x.iter().map(|x| (x - around).powi(2)).sum::<f64>() / n as f64)
            };
            let uniform = Tensor::rand(2.0, 5.0, n, DType::F32, device).unwrap();
            let (mean, variance) = moments(&uniform, 3.5);
            // Five standard errors of each.
            assert!((mean - 3.5).abs() < 5.0 * (0.75 / n as f64).sqrt(), "{device}: {mean}");
            assert!((variance - 0.75).abs() < 0.01, "{device}: {variance}");
            let values = uniform.to_vec::<f64>().unwrap();
            assert!(values.iter().all(|x| (2.0..5.0).contains(x)));
            let normal = Tensor::randn(-1.0, 2.0, n, DType::F32, device).unwrap();
            let (mean, variance) = moments(&normal, -1.0);
            assert!((mean + 1.0).abs() < 5.0 * 2.0 / (n as f64).sqrt(), "{device}: {mean}");
            assert!((variance - 4.0).abs() < 5.0 * 4.0 * (2.0 / n as f64).sqrt(), "{device}: {variance}");
        });
    }
}

#[test]
fn dropout_scales_what_it_keeps() {
    let n = 1 << 16;
    for device in every_device() {
        for p in [0.1, 0.5, 0.9] {
            let x = Tensor::full(3.0, n, DType::F32, device).unwrap();
            let y = seeded(device, 200, || x.dropout(p).unwrap()).to_vec::<f32>().unwrap();
            let kept = y.iter().filter(|&&y| y != 0.0).count() as f64 / n as f64;
            assert!(
                (kept - (1.0 - p)).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(),
                "{device}, {p}: {kept}"
            );
            let expected = 3.0 / (1.0 - p);
            assert!(y.iter().all(|&y| y == 0.0 || (y as f64 / expected - 1.0).abs() < 1e-6), "{device}, {p}");
        }
    }
}
