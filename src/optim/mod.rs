//! Optimizers, learning-rate schedules, loss scaling.

pub(crate) mod adamw;
mod scaler;
mod schedule;

pub use adamw::{AdamW, AdamWConfig, LowPrecision, ParamGroup};
pub use scaler::LossScaler;
pub use schedule::{Decay, Schedule};
