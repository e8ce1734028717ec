//! Optimizers and learning-rate schedules.

pub(crate) mod adamw;
mod schedule;

pub use adamw::{AdamW, AdamWConfig, LowPrecision, ParamGroup};
pub use schedule::CosineSchedule;
