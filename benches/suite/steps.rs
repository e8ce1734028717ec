//! Training steps of two GPTs.

use criterion::Criterion;

use crate::device;
use crate::gpt::{GPT_CHAR, GPT_SMALL, Gpt};

pub fn steps(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("gpt_step");
    for (name, size) in [("small", GPT_SMALL), ("char", GPT_CHAR)] {
        let mut gpt = Gpt::new(size, &device).unwrap();
        group.bench_function(name, |bencher| bencher.iter(|| gpt.step().unwrap()));
        eprintln!("{name}: device memory {:?}", device.memory());
    }
}
