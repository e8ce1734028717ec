//! The CPU: always there, the reference for every other device, and fast where it matters.

mod memory;
pub(crate) mod real;
mod strided;

pub use memory::{CpuVec, Memory};
pub(crate) use memory::{release, stats};
pub use real::{Real, parallel};
pub use strided::{Rows, map_rows};
