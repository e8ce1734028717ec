//! Bad input: a typed error that names the op and what does not fit, and a device as usable as before.

use tilewright::{
    Activation, AttentionOptions, CrossEntropyOptions, D, DType, Device, Element, Error, Result, RotaryPairs,
    Tensor, Var,
};

use crate::harness::every_device;

fn zeros(shape: &[usize], device: &Device) -> Tensor {
    Tensor::zeros(shape, DType::F32, device).unwrap()
}

fn ids(values: &[u32], device: &Device) -> Tensor {
    Tensor::new(values, device).unwrap()
}

/// The device computes what it should, gradient included.
fn assert_usable(device: &Device) {
    let x = Var::new(&Tensor::new(&[1f32, 2.0, 3.0, 4.0], device).unwrap().reshape((2, 2)).unwrap()).unwrap();
    x.matmul(&x).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(x.grad().unwrap().to_vec::<f32>().unwrap(), [7.0, 11.0, 9.0, 13.0], "{device}");
    device.synchronize().unwrap();
}

/// Runs `f` on every device: it must fail, as `expected` says, with a message that contains `parts`.
fn refuses(parts: &[&str], expected: fn(&Error) -> bool, f: impl Fn(&Device) -> Result<Tensor>) {
    for device in every_device() {
        let error = match f(device) {
            Ok(t) => panic!("{parts:?} on {device}: gave {t:?}"),
            Err(error) => error,
        };
        assert!(expected(&error), "{parts:?} on {device}: {error:?}");
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
        assert_usable(device);
    }
}

fn shape(error: &Error) -> bool {
    matches!(error, Error::Shape { .. })
}

fn dtype(error: &Error) -> bool {
    matches!(error, Error::DType { .. })
}

fn argument(error: &Error) -> bool {
    matches!(error, Error::Argument { .. })
}

#[test]
fn shapes_that_do_not_fit() {
    let r = |op: &str, shapes: &[&str], f: &dyn Fn(&Device) -> Result<Tensor>| {
        refuses(&[&[op], shapes].concat(), shape, f);
    };
    let z = zeros;
    r("add", &["[2, 3]", "[4]"], &|d| z(&[2, 3], d).add(&z(&[4], d)));
    r("div", &["[0, 3]", "[2, 3]"], &|d| z(&[0, 3], d).div(&z(&[2, 3], d)));
    r("gt", &["[2, 3]", "[3, 2]"], &|d| z(&[2, 3], d).gt(&z(&[3, 2], d)));
    r("where_cond", &["[2]", "[3]"], &|d| ids(&[1, 0, 1], d).where_cond(&z(&[2], d), &z(&[2], d)));
    r("matmul", &["[2, 3]", "[2, 3]"], &|d| z(&[2, 3], d).matmul(&z(&[2, 3], d)));
    r("matmul", &["[3]", "[3, 2]"], &|d| z(&[3], d).matmul(&z(&[3, 2], d)));
    r("matmul", &["[2]", "[3]"], &|d| z(&[2, 4, 5], d).matmul(&z(&[3, 5, 4], d)));
    r("linear", &["[2, 3]", "[4, 5]"], &|d| z(&[2, 3], d).linear(&z(&[4, 5], d), None));
    r("linear", &["[]", "[4, 5]"], &|d| z(&[], d).linear(&z(&[4, 5], d), None));
    r("linear", &["[2, 3]", "[3]"], &|d| z(&[2, 3], d).linear(&z(&[3], d), None));
    r("linear_activation", &["[2, 3]", "[4, 3]", "[3]"], &|d| {
        z(&[2, 3], d).linear_activation(&z(&[4, 3], d), Some(&z(&[3], d)), Activation::Gelu)
    });
    r("linear_residual", &["[2, 3]", "[4, 3]", "[2, 3]"], &|d| {
        z(&[2, 3], d).linear_residual(&z(&[4, 3], d), None, &z(&[2, 3], d))
    });
    r("layer_norm", &["[2, 3]", "[2]"], &|d| z(&[2, 3], d).layer_norm(&z(&[2], d), None, 1e-5));
    r("layer_norm", &["[2, 3]", "[3, 1]"], &|d| {
        z(&[2, 3], d).layer_norm(&z(&[3], d), Some(&z(&[3, 1], d)), 1e-5)
    });
    r("rms_norm", &["[]"], &|d| z(&[], d).rms_norm(&z(&[1], d), 1e-5));
    r("add_rms_norm", &["[2, 3]", "[3]"], &|d| {
        Ok(z(&[2, 3], d).add_rms_norm(&z(&[3], d), &z(&[3], d), 1e-5)?.0)
    });
    r("cross_entropy", &["[2, 3]", "[3]"], &|d| z(&[2, 3], d).cross_entropy(&ids(&[0, 1, 2], d)));
    r("cross_entropy", &["[]"], &|d| z(&[], d).cross_entropy(&ids(&[0], d)));
    let head = |x: &Tensor, w: &Tensor, targets: &[u32]| {
        x.linear_cross_entropy(w, &ids(targets, &x.device()), CrossEntropyOptions::default(), None)
    };
    r("linear_cross_entropy", &["[2, 3]", "[5, 4]"], &|d| head(&z(&[2, 3], d), &z(&[5, 4], d), &[0, 1]));
    r("linear_cross_entropy", &["[2, 3]", "[5, 3]", "[3]"], &|d| {
        head(&z(&[2, 3], d), &z(&[5, 3], d), &[0; 3])
    });
    r("linear_cross_entropy", &["[]", "[3]"], &|d| head(&z(&[], d), &z(&[3], d), &[0]));
    r("embedding", &["[2, 3, 4]"], &|d| z(&[2, 3, 4], d).embedding(&ids(&[0], d)));
    r("gather", &["[2, 3]", "[3, 1]"], &|d| z(&[2, 3], d).gather(&ids(&[0, 1, 0], d).reshape((3, 1))?, 1));
    r("gather", &["[2, 3]", "[2]"], &|d| z(&[2, 3], d).gather(&ids(&[0, 1], d), 1));
    r("index_select", &["[1, 2]"], &|d| z(&[2, 3], d).index_select(&ids(&[0, 1], d).reshape((1, 2))?, 1));
    r("rotary", &["[2, 3]"], &|d| z(&[2, 3], d).rotary(&z(&[2, 1], d), &z(&[2, 1], d), RotaryPairs::Halves));
    r("rotary", &["[2, 4]", "[3, 2]"], &|d| {
        z(&[2, 4], d).rotary(&z(&[3, 2], d), &z(&[3, 2], d), RotaryPairs::Halves)
    });
    let plain = AttentionOptions::default();
    r("attention", &["[1, 2, 3, 8]", "[1, 2, 4, 16]"], &|d| {
        z(&[1, 2, 3, 8], d).attention(&z(&[1, 2, 4, 16], d), &z(&[1, 2, 4, 16], d), &plain)
    });
    r("attention", &["[1, 3, 3, 8]", "[1, 2, 3, 8]"], &|d| {
        z(&[1, 3, 3, 8], d).attention(&z(&[1, 2, 3, 8], d), &z(&[1, 2, 3, 8], d), &plain)
    });
    r("attention", &["[1, 2, 3, 12]"], &|d| {
        z(&[1, 2, 3, 12], d).attention(&z(&[1, 2, 3, 12], d), &z(&[1, 2, 3, 12], d), &plain)
    });
    r("attention", &["[1, 2, 3, 264]"], &|d| {
        z(&[1, 2, 3, 264], d).attention(&z(&[1, 2, 3, 264], d), &z(&[1, 2, 3, 264], d), &plain)
    });
    r("attention", &["[2, 3, 8]"], &|d| {
        z(&[2, 3, 8], d).attention(&z(&[2, 3, 8], d), &z(&[2, 3, 8], d), &plain)
    });
    r("attention", &["[1, 1, 3, 8]", "[1, 0, 3, 8]"], &|d| {
        z(&[1, 1, 3, 8], d).attention(&z(&[1, 0, 3, 8], d), &z(&[1, 0, 3, 8], d), &plain)
    });
    r("reshape", &["[2, 3]", "[7]"], &|d| z(&[2, 3], d).reshape(7));
    r("broadcast_as", &["[2, 3]", "[2, 1]"], &|d| z(&[2, 3], d).broadcast_as((2, 1)));
    r("squeeze", &["[2, 3]"], &|d| z(&[2, 3], d).squeeze(0));
    r("split", &["[2, 3]", "[1, 1]"], &|d| Ok(z(&[2, 3], d).split(&[1, 1], 1)?.swap_remove(0)));
    r("split", &["[2, 3]"], &|d| Ok(z(&[2, 3], d).split(&[usize::MAX, 4], 1)?.swap_remove(0)));
    r("cat", &["[2, 3]", "[2, 4]"], &|d| Tensor::cat(&[z(&[2, 3], d), z(&[2, 4], d)], 0));
    r("cat", &["[2, 3]", "[2]"], &|d| Tensor::cat(&[z(&[2, 3], d), z(&[2], d)], 0));
    r("stack", &["[2, 3]", "[3, 3]"], &|d| Tensor::stack(&[z(&[2, 3], d), z(&[3, 3], d)], 0));
    r("sum_to", &["[2, 3]", "[2]"], &|d| z(&[2, 3], d).sum_to(&2.into()));
    r("max", &["[2, 0]"], &|d| z(&[2, 0], d).max(1));
    r("argmin", &["[0, 2]"], &|d| z(&[0, 2], d).argmin(0));
    r("assign", &["[2, 3]", "[3]"], &|d| z(&[2, 3], d).assign(&z(&[3], d)).map(|()| z(&[], d)));
    r("add_assign", &["[2, 3]", "[3]"], &|d| z(&[2, 3], d).add_assign(&z(&[3], d)).map(|()| z(&[], d)));
    r("from_slice", &["[2, 2]", "3"], &|d| Tensor::from_slice(&[1f32, 2.0, 3.0], (2, 2), d));
    r("to_scalar", &["[2]"], &|d| z(&[2], d).to_scalar::<f32>().map(|_| z(&[], d)));
    r("to_vec2", &["[2]"], &|d| z(&[2], d).to_vec2::<f32>().map(|_| z(&[], d)));
    r("dims3", &["[2]"], &|d| z(&[2], d).dims3().map(|_| z(&[], d)));
    r("8 dimensions", &["[1, 1, 1, 1, 1, 1, 1, 1, 1]"], &|d| z(&[], d).reshape([1; 9]));
}

#[test]
fn shapes_that_are_too_large() {
    let large = |error: &Error| {
        matches!(
            error,
            Error::Shape { .. } | Error::TooLarge { .. } | Error::OutOfMemory { .. } | Error::DType { .. }
        )
    };
    for dims in
        [vec![usize::MAX], vec![usize::MAX, 2], vec![1 << 32, 1 << 32], vec![1 << 31, 1 << 31, 1 << 2]]
    {
        refuses(&["full"], shape, |d| Tensor::zeros(dims.clone(), DType::F32, d));
        refuses(&["broadcast_as"], shape, |d| zeros(&[1], d).broadcast_as(dims.clone()));
        refuses(&["rand"], shape, |d| Tensor::rand(0.0, 1.0, dims.clone(), DType::F32, d));
    }
    // More than the address space or the device holds, though it can be counted.
    refuses(&[], large, |d| Tensor::zeros(1 << 55, DType::F32, d));
    refuses(&[], large, |d| zeros(&[1], d).broadcast_as(1 << 50)?.copy());
    refuses(&[], large, |d| zeros(&[1 << 25, 0], d).matmul(&zeros(&[0, 1 << 30], d)));
    refuses(&["cat"], shape, |d| {
        let huge = zeros(&[1], d).broadcast_as(1 << 59)?;
        Tensor::cat(&[&huge, &huge, &huge], 0)
    });
    // A zero beside them.
    for device in every_device() {
        for dims in [vec![usize::MAX, 0], vec![1 << 40, 1 << 40, 0], vec![3, 0, 1 << 62, 4]] {
            if let Ok(empty) = Tensor::zeros(dims.clone(), DType::F32, device) {
                assert_eq!(empty.to_vec::<f32>().unwrap().len(), 0);
                for (dim, size) in dims.iter().enumerate() {
                    let _ = empty.sum(dim);
                    let _ = empty.narrow(dim, size / 2, size / 2);
                    let _ = empty.flatten(0, dim);
                }
                let _ = empty.matmul(&empty);
                let _ = empty.flatten_all().unwrap();
            }
        }
        assert_usable(device);
    }
}

#[test]
fn dtypes_that_do_not_fit() {
    let r = |parts: &[&str], f: &dyn Fn(&Device) -> Result<Tensor>| refuses(parts, dtype, f);
    let half = |shape: &[usize], d: &Device| Tensor::zeros(shape, DType::F16, d).unwrap();
    let z = zeros;
    r(&["add", "f32", "f16"], &|d| z(&[2], d).add(&half(&[2], d)));
    r(&["mul", "u32"], &|d| ids(&[1], d).mul(&ids(&[1], d)));
    r(&["lt", "f32", "u32"], &|d| z(&[1], d).lt(&ids(&[1], d)));
    r(&["where_cond", "f32"], &|d| z(&[1], d).where_cond(&z(&[1], d), &z(&[1], d)));
    r(&["where_cond", "f16"], &|d| ids(&[1], d).where_cond(&z(&[1], d), &half(&[1], d)));
    r(&["exp", "u32"], &|d| ids(&[1], d).exp());
    r(&["affine", "u32"], &|d| ids(&[1], d).neg());
    r(&["sum", "u32"], &|d| ids(&[1], d).sum(0));
    r(&["argmax", "u32"], &|d| ids(&[1], d).argmax(0));
    r(&["softmax", "u32"], &|d| ids(&[1], d).softmax(0));
    r(&["dropout", "u32"], &|d| ids(&[1], d).dropout(0.5));
    r(&["matmul", "f32", "f16"], &|d| z(&[2, 2], d).matmul(&half(&[2, 2], d)));
    r(&["linear", "f32", "f16"], &|d| z(&[2, 2], d).linear(&z(&[2, 2], d), Some(&half(&[2], d))));
    r(&["layer_norm", "f32", "f16"], &|d| z(&[2, 2], d).layer_norm(&half(&[2], d), None, 1e-5));
    r(&["cross_entropy", "f32"], &|d| z(&[2, 2], d).cross_entropy(&z(&[2], d)));
    r(&["cross_entropy", "u32"], &|d| ids(&[1, 2], d).cross_entropy(&ids(&[0], d).reshape(())?));
    r(&["linear_cross_entropy", "f32", "f16"], &|d| {
        z(&[2, 2], d).linear_cross_entropy(&half(&[3, 2], d), &ids(&[0, 1], d), Default::default(), None)
    });
    r(&["embedding", "f32"], &|d| z(&[2, 2], d).embedding(&z(&[2], d)));
    r(&["gather", "u32"], &|d| ids(&[0, 1], d).gather(&ids(&[0], d), 0));
    r(&["index_select", "f32"], &|d| z(&[2, 2], d).index_select(&z(&[2], d), 0));
    r(&["embedding", "u32"], &|d| ids(&[0, 1], d).reshape((2, 1))?.embedding(&ids(&[0], d)));
    r(&["rotary", "f16"], &|d| z(&[2, 2], d).rotary(&half(&[2, 1], d), &z(&[2, 1], d), RotaryPairs::Halves));
    r(&["attention", "f16"], &|d| {
        let q = z(&[1, 1, 2, 8], d);
        q.attention(&q, &half(&[1, 1, 2, 8], d), &AttentionOptions::default())
    });
    r(&["cat", "f32", "f16"], &|d| Tensor::cat(&[z(&[2], d), half(&[2], d)], 0));
    r(&["add_assign", "f32", "f16"], &|d| z(&[2], d).add_assign(&half(&[2], d)).map(|()| z(&[], d)));
    r(&["rand", "u32"], &|d| Tensor::rand(0.0, 1.0, 2, DType::U32, d));
    r(&["randn", "u32"], &|d| Tensor::randn(0.0, 1.0, 2, DType::U32, d));
    r(&["var", "u32"], &|d| Var::new(&ids(&[1], d)).map(|_| z(&[], d)));
    assert!(dtype(&zeros(&[2], &Device::Cpu).cpu::<f64>().err().unwrap()));
}

#[test]
fn dimensions_out_of_range() {
    let dim = |error: &Error| matches!(error, Error::Dim { .. });
    let r = |parts: &[&str], f: &dyn Fn(&Tensor) -> Result<Tensor>| {
        refuses(parts, dim, |d| f(&zeros(&[2, 3], d)))
    };
    r(&["2", "[2, 3]"], &|x| x.sum(2));
    r(&["-3", "[2, 3]"], &|x| x.max(D::Minus(3)));
    r(&["[2, 3]"], &|x| x.mean(D::Minus(0)));
    r(&["softmax", "7"], &|x| x.softmax(7));
    r(&["log_softmax", "2"], &|x| x.log_softmax(2));
    r(&["5", "[2, 3]"], &|x| x.argmax(5));
    r(&["narrow", "2"], &|x| x.narrow(2, 0, 1));
    r(&["transpose", "3"], &|x| x.transpose(0, 3));
    r(&["squeeze", "2"], &|x| x.squeeze(2));
    r(&["unsqueeze", "3"], &|x| x.unsqueeze(3));
    r(&["flatten", "2"], &|x| x.flatten(0, 2));
    r(&["split", "2"], &|x| Ok(x.split(&[1], 2)?.swap_remove(0)));
    r(&["chunk", "2"], &|x| Ok(x.chunk(2, 2)?.swap_remove(0)));
    r(&["cat", "2"], &|x| Tensor::cat(&[x], 2));
    r(&["3"], &|x| Tensor::stack(&[x], 3));
    r(&["dim", "-3"], &|x| x.dim(D::Minus(3)).map(|_| x.clone()));
    refuses(&["-1", "[]"], dim, |d| zeros(&[], d).softmax(D::Minus1));
    refuses(&["-2", "[3]"], dim, |d| zeros(&[3], d).t());
    refuses(&["0", "[]"], dim, |d| zeros(&[], d).get(0));
}

#[test]
fn indices_out_of_range() {
    let index = |error: &Error| matches!(error, Error::Index { .. });
    let r = |parts: &[&str], f: &dyn Fn(&Device) -> Result<Tensor>| refuses(parts, index, f);
    r(&["embedding", "5"], &|d| zeros(&[5, 2], d).embedding(&ids(&[0, 5, 1], d)));
    r(&["embedding", "4294967295"], &|d| zeros(&[5, 2], d).embedding(&ids(&[u32::MAX], d)));
    r(&["embedding", "0"], &|d| zeros(&[0, 2], d).embedding(&ids(&[0], d)));
    r(&["cross_entropy", "3"], &|d| zeros(&[2, 3], d).cross_entropy(&ids(&[3, 0], d)));
    r(&["cross_entropy", "9"], &|d| {
        // An ignore index excuses itself and no other.
        let options = CrossEntropyOptions { ignore_index: Some(u32::MAX), ..Default::default() };
        zeros(&[3, 3], d).cross_entropy_with(&ids(&[u32::MAX, 9, 0], d), options)
    });
    r(&["linear_cross_entropy", "5"], &|d| {
        zeros(&[2, 3], d).linear_cross_entropy(&zeros(&[5, 3], d), &ids(&[4, 5], d), Default::default(), None)
    });
    r(&["gather", "3"], &|d| zeros(&[2, 3], d).gather(&ids(&[0, 3], d).reshape((2, 1))?, 1));
    r(&["index_select", "2"], &|d| zeros(&[2, 3], d).index_select(&ids(&[2], d), 0));
    r(&["narrow", "3"], &|d| zeros(&[2, 3], d).narrow(1, 1, 3));
    r(&["narrow"], &|d| zeros(&[2, 3], d).narrow(1, 2, usize::MAX));
    r(&["narrow"], &|d| zeros(&[2, 3], d).narrow(1, usize::MAX, 1));
    r(&["2"], &|d| zeros(&[2, 3], d).get(2));

    for device in every_device() {
        let table = zeros(&[5, 2], device);
        let bad = |ids: &Tensor| matches!(table.embedding(ids), Err(Error::Index { .. }));
        // Known only once they are looked at: made on the device, written in place, cut from larger ones.
        let made = Tensor::new(&[1f32, 7.0, 2.0], device).unwrap().to_dtype(DType::U32).unwrap();
        assert!(bad(&made) && bad(&made), "{device}");
        let written = ids(&[0, 1, 2], device);
        assert!(!bad(&written));
        written.narrow(0, 1, 1).unwrap().assign(&ids(&[9], device)).unwrap();
        assert!(bad(&written) && !bad(&written.narrow(0, 2, 1).unwrap()), "{device}");
        assert!(bad(&written) && bad(&written.narrow(0, 1, 2).unwrap()), "{device}");
        let moved = ids(&[0, 9], &Device::Cpu).to_device(device).unwrap();
        assert!(bad(&moved) && !bad(&moved.narrow(0, 0, 1).unwrap()) && bad(&moved), "{device}");
        let joined = Tensor::cat(&[ids(&[1], device), ids(&[9], device)], 0).unwrap();
        assert!(bad(&joined), "{device}");
        // A view with as many elements as its memory, but not all of them.
        let six = ids(&[0, 1, 9, 3, 4, 2], device);
        let repeated = six.narrow(0, 0, 2).unwrap().broadcast_as((3, 2)).unwrap();
        assert!(!bad(&repeated), "{device}");
        assert!(bad(&six), "{device}: what holds for a view was taken for the whole");
        assert!(bad(&six.reshape((2, 3)).unwrap().t().unwrap()), "{device}");
        // Masks and indices of the best are known without a look, and are right.
        let best = Tensor::new(&[1f32, 3.0, 2.0], device).unwrap().argmax(0).unwrap();
        assert!(!bad(&best));
        let six_wide = zeros(&[1, 6], device).argmax(1).unwrap();
        assert!(!bad(&six_wide));
        assert!(!bad(&zeros(&[3], device).ge(&zeros(&[3], device)).unwrap()));
        assert!(bad(&Tensor::full(5.0, 3, DType::U32, device).unwrap()));
        assert!(!bad(&Tensor::zeros(0, DType::U32, device).unwrap()));
        // A failed one leaves no gradient behind.
        let table = Var::new(&table).unwrap();
        assert!(table.embedding(&six).is_err() && table.grad().is_none());
        assert_usable(device);
    }
}

#[test]
fn arguments_out_of_range() {
    let r = |parts: &[&str], f: &dyn Fn(&Device) -> Result<Tensor>| refuses(parts, argument, f);
    let z = zeros;
    r(&["permute", "[0, 0]"], &|d| z(&[2, 3], d).permute(&[0, 0]));
    r(&["permute", "[0]"], &|d| z(&[2, 3], d).permute(&[0]));
    r(&["permute", "[1, 2]"], &|d| z(&[2, 3], d).permute(&[1, 2]));
    r(&["permute"], &|d| z(&[2, 3], d).permute(&[0, 1, 2]));
    r(&["flatten"], &|d| z(&[2, 3], d).flatten(1, 0));
    r(&["chunk"], &|d| Ok(z(&[2, 3], d).chunk(0, 0)?.swap_remove(0)));
    r(&["cat", "empty"], &|_| Tensor::cat::<Tensor>(&[], 0));
    r(&["clamp", "2", "1"], &|d| z(&[2], d).clamp(2.0, 1.0));
    r(&["clamp", "NaN"], &|d| z(&[2], d).clamp(f64::NAN, 1.0));
    for p in [-0.1, 1.0, 1.5, f64::NAN, f64::INFINITY] {
        r(&["dropout", "`p`"], &|d| z(&[2], d).dropout(p));
        r(&["dropout_add_rms_norm", "`p`"], &|d| {
            z(&[2, 4], d).dropout_add_rms_norm(p, &z(&[2, 4], d), &z(&[4], d), 1e-5).map(|(sum, _)| sum)
        });
    }
    for eps in [-1e-5, f64::NAN] {
        r(&["layer_norm", "`eps`"], &|d| z(&[2, 3], d).layer_norm(&z(&[3], d), None, eps));
    }
    let attention = |d: &Device, options: AttentionOptions| {
        let x = z(&[1, 1, 3, 8], d);
        x.attention(&x, &x, &options)
    };
    let causal = AttentionOptions { causal: true, ..Default::default() };
    r(&["attention", "`window`"], &|d| {
        attention(d, AttentionOptions { window: Some(2), ..Default::default() })
    });
    r(&["attention", "`window`"], &|d| attention(d, AttentionOptions { window: Some(0), ..causal }));
    r(&["attention", "`p`"], &|d| attention(d, AttentionOptions { dropout: 1.0, ..causal }));
    r(&["attention", "`scale`"], &|d| attention(d, AttentionOptions { scale: Some(f64::NAN), ..causal }));
    let no_gradient = |error: &Error| matches!(error, Error::NoGradient { .. });
    refuses(&["rotary"], no_gradient, |d| {
        let table = Var::new(&z(&[2, 1], d))?;
        z(&[2, 2], d).rotary(&table, &z(&[2, 1], d), RotaryPairs::Halves)
    });
    // As large as an argument can be is large, not wrong.
    for device in every_device() {
        attention(device, AttentionOptions { window: Some(usize::MAX), ..causal }).unwrap();
        assert_eq!(z(&[2, 3], device).chunk(usize::MAX, 1).unwrap().len(), 3);
        assert_usable(device);
    }
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use super::*;
    use crate::harness::gpus;

    #[test]
    fn operands_on_different_devices() {
        for device in gpus() {
            let (here, there) = (zeros(&[2, 2], &Device::Cpu), zeros(&[2, 2], device));
            let v = zeros(&[2], &Device::Cpu);
            let x = zeros(&[1, 1, 2, 8], device);
            let results: [(&str, Result<Tensor>); 12] = [
                ("add", there.add(&here)),
                ("matmul", here.matmul(&there)),
                ("linear", there.linear(&there, Some(&v))),
                ("layer_norm", there.layer_norm(&v, None, 1e-5)),
                ("cat", Tensor::cat(&[&there, &here], 0)),
                ("where_cond", ids(&[1, 0], device).where_cond(&here, &here)),
                ("embedding", there.embedding(&ids(&[0], &Device::Cpu))),
                ("cross_entropy", there.cross_entropy(&ids(&[0, 1], &Device::Cpu))),
                ("eq", there.eq(&here)),
                ("assign", there.assign(&here).map(|()| here.clone())),
                ("add_assign", here.add_assign(&there).map(|()| here.clone())),
                (
                    "attention",
                    x.attention(&x.to_device(&Device::Cpu).unwrap(), &x, &AttentionOptions::default()),
                ),
            ];
            for (op, result) in results {
                let Err(error) = result else { panic!("{op} mixed devices") };
                assert!(matches!(error, Error::DeviceMismatch { .. }), "{op}: {error:?}");
                let message = error.to_string();
                assert!(
                    message.contains(op) && message.contains("cpu") && message.contains("wgpu"),
                    "{message}"
                );
                assert_usable(device);
            }
            assert!(matches!(there.cpu::<f32>(), Err(Error::NoDevice { .. })));
            assert!(matches!(here.wgpu(), Err(Error::NoDevice { .. })));
        }
        // Two devices on one adapter are two devices.
        if let [a, b, ..] = gpus() {
            let error = zeros(&[2], a).add(&zeros(&[2], b)).unwrap_err();
            assert!(matches!(error, Error::DeviceMismatch { .. }), "{error:?}");
        }
    }

    #[test]
    fn f64_lives_on_the_cpu() {
        for device in gpus() {
            let wide = Tensor::new(&[1f64, 2.0], &Device::Cpu).unwrap();
            let results: [(&str, Result<Tensor>); 7] = [
                ("full", Tensor::zeros(2, DType::F64, device)),
                ("full", Tensor::ones(2, DType::F64, device)),
                ("from_slice", Tensor::new(&[1f64], device)),
                ("from_slice", wide.to_device(device)),
                ("to_dtype", zeros(&[2], device).to_dtype(DType::F64)),
                ("", Tensor::rand(0.0, 1.0, 2, DType::F64, device)),
                ("", Tensor::zeros(0, DType::F64, device)),
            ];
            for (op, result) in results {
                let Err(error) = result else { panic!("{op}: f64 on {device}") };
                assert!(dtype(&error), "{op}: {error:?}");
                assert!(error.to_string().contains(op) && error.to_string().contains("f64"), "{error}");
                assert_usable(device);
            }
            assert_eq!(
                wide.to_dtype(DType::F32).unwrap().to_device(device).unwrap().to_vec::<f64>().unwrap(),
                [1.0, 2.0]
            );
        }
    }

    #[test]
    fn tensors_larger_than_a_binding() {
        for device in gpus() {
            let Device::Wgpu(gpu) = device else { unreachable!() };
            let n = gpu.max_buffer_bytes() / 4 + 1;
            let results = [
                Tensor::zeros(n, DType::F32, device),
                zeros(&[1], device).broadcast_as(n).and_then(|x| x.copy()),
                zeros(&[1], device).broadcast_as(n).and_then(|x| x.exp()),
                zeros(&[n, 0], device).matmul(&zeros(&[0, 1], device)),
            ];
            for result in results {
                let Err(error) = result else { panic!("more than a buffer on {device}") };
                assert!(matches!(error, Error::TooLarge { .. } | Error::OutOfMemory { .. }), "{error:?}");
                assert!(error.to_string().contains("wgpu"), "{error}");
                assert_usable(device);
            }
        }
    }

    #[test]
    fn a_selector_that_fits_nothing() {
        for selector in ["no such adapter", "4096"] {
            let Err(error) = Device::wgpu(selector) else { panic!("{selector} opened") };
            assert!(matches!(error, Error::NoDevice { .. }), "{error:?}");
            assert!(error.to_string().contains(selector), "{error}");
        }
        gpus().iter().for_each(assert_usable);
    }
}

/// Values out of a dtype's range come back as what IEEE 754 says, not as an error.
#[test]
fn overflow_is_infinity() {
    for device in every_device() {
        let big = Tensor::full(60_000.0, 2, DType::F16, device).unwrap();
        let sum: Vec<half::f16> = big.add(&big).unwrap().to_vec().unwrap();
        assert_eq!(sum, [half::f16::from_f64(f64::INFINITY); 2], "{device}");
        let log = Tensor::new(&[0f32, -1.0], device).unwrap().log().unwrap().to_vec::<f32>().unwrap();
        assert!(log[0] == f32::NEG_INFINITY && log[1].is_nan(), "{device}: {log:?}");
        assert_eq!(u32::from_f64(-1.0), 0);
    }
}
