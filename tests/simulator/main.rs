//! The simulator of a CUDA device, tried as its users do: with kernels in CUDA C++.

mod bench;
mod counters;
mod determinism;
mod planted;
