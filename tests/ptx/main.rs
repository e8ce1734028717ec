//! The instructions of PTX, one small program each, against values worked out from the PTX ISA 9.0.
//!
//! With `PTXAS=/path/to/ptxas` every program is assembled too, for its `.target`: what the simulator runs must be
//! what hardware would be given.

mod arithmetic;
mod compare;
mod control;
mod convert;
mod folded;
mod harness;
mod memory;
mod warp;
