//! A kernel as NVRTC 13.0 compiles it: `rowsum.cu` for compute_80 with `-lineinfo`.

use std::sync::{Arc, Mutex};

use crate::device::cuda::sim::{Options, ReportKind, Result, Simulator};

const TEXT: &str = include_str!("rowsum.ptx");

/// Sums rows of 1000 numbers; returns the sums, the kernel's own counter and what it printed.
fn rowsum(threads: usize, rows: u32, value: impl Fn(u32) -> f32) -> Result<(Vec<f32>, u32, String)> {
    let printed = Arc::new(Mutex::new(String::new()));
    let sink = printed.clone();
    let simulator = Simulator::new(Options {
        threads: Some(threads),
        output: Arc::new(move |text| sink.lock().unwrap().push_str(text)),
        ..Options::default()
    });
    let columns = 1000u32;
    let x: Vec<f32> = (0..rows * columns).map(value).collect();
    let input = simulator.alloc(4 * x.len() as u64)?;
    let output = simulator.alloc(4 * u64::from(rows))?;
    simulator.write(input, bytemuck::cast_slice(&x))?;
    let module = simulator.load(TEXT)?;
    let function = module.function("rowsum")?;
    let layout: Vec<(u32, u32)> =
        function.param_layout().iter().map(|param| (param.offset, param.size)).collect();
    assert_eq!(layout, [(0, 8), (8, 8), (16, 16)]);
    assert_eq!((function.static_shared(), function.max_threads()), (16, Some(128)));
    let mut params = [input.to_le_bytes(), output.to_le_bytes()].concat();
    params.extend(columns.to_le_bytes());
    params.resize(function.param_bytes() as usize, 0);
    simulator.launch(&function, [rows, 1, 1], [128, 1, 1], 128 * 16, &params)?;
    let mut sums = vec![0f32; rows as usize];
    simulator.read(output, bytemuck::cast_slice_mut(&mut sums))?;
    let mut counter = [0u32];
    let (address, size) = module.global("counter").unwrap();
    assert_eq!(size, 4);
    simulator.read(address, bytemuck::cast_slice_mut(&mut counter))?;
    let printed = printed.lock().unwrap().clone();
    Ok((sums, counter[0], printed))
}

#[test]
fn sums_of_rows() {
    for threads in [1, 2] {
        let (sums, counter, printed) = rowsum(threads, 3, |i| (i / 1000 + 1) as f32).unwrap();
        // t * table[1000 & 3] and one warp's sum: 256 numbers each but for the last 24 of 1000.
        assert_eq!(sums, [1000.0 + 256.0, 2000.0 + 512.0, 3000.0 + 768.0]);
        assert_eq!(counter, 3);
        assert_eq!(printed, "block 0 sum 1000.000000\nblock 1 sum 2000.000000\nblock 2 sum 3000.000000\n");
    }
}

#[test]
fn an_assertion_names_the_source() {
    let error = rowsum(2, 3, |i| if i < 2000 { 1.0 } else { -1.0 }).unwrap_err();
    let report = error.report().unwrap();
    assert_eq!((report.kind, report.block), (ReportKind::Assertion, [2, 0, 0]));
    assert_eq!(report.source.as_ref().unwrap().to_string(), "kernels/rowsum.cu:18");
    assert!(report.message.starts_with("`t > 0` does not hold in void rowsum("), "{report}");
}
