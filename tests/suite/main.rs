//! The suite of the whole crate, on every device of the machine.
//!
//! One table of cases ([`cases`]) serves both oracles: [`gradients`] holds every op's backward against
//! finite differences in f64 on the CPU, [`parity`] holds every device and dtype against that f64 CPU.
//! The rest is about what ops have in common: views, the graph, errors, random numbers, reproducibility.
//!
//! `TILEWRIGHT_REQUIRE=wgpu` makes an absent device a failure, `cooperative` one without such matrices; see [`harness::devices`].

mod autograd;
mod cases;
mod cooperative;
#[cfg(feature = "cuda")]
mod counters;
mod cuda;
mod determinism;
mod errors;
mod gpu_attention;
mod gradients;
mod harness;
mod layout;
mod loops;
mod mixed;
mod optim;
mod parity;
mod random;
mod tiles;
mod values;
mod windows;
