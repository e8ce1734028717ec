//! Training steps of two GPTs.

use criterion::Criterion;

use crate::gpt::{GPT_CHAR, GPT_SMALL, Gpt};
use crate::{device, wait};

pub fn steps(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("gpt_step");
    for (name, size) in [("small", GPT_SMALL), ("char", GPT_CHAR)] {
        // Made only if its case is asked for, so that one case's memory can be measured alone.
        let mut gpt = None;
        group.bench_function(name, |bencher| {
            let gpt = gpt.get_or_insert_with(|| Gpt::new(size, &device).unwrap());
            bencher.iter(|| wait(&gpt.step().unwrap()))
        });
        if gpt.is_some() {
            eprintln!("{name}: device memory {:?}", device.memory());
        }
    }
}
