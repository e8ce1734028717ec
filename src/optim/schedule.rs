//! Learning-rate schedules: functions of the step alone.

/// Linear warm-up, then half a cosine down to a floor (Loshchilov and Hutter, 2017, without restarts),
/// with the same values as nanoGPT's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineSchedule {
    /// The learning rate after the warm-up.
    pub max_lr: f64,
    /// The learning rate from step `decay_steps` on.
    pub min_lr: f64,
    /// Steps of the warm-up.
    pub warmup_steps: usize,
    /// The step at which `min_lr` is reached.
    pub decay_steps: usize,
}

impl CosineSchedule {
    /// The learning rate of step `step`, counted from 0.
    pub fn lr(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.max_lr * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        if step >= self.decay_steps {
            return self.min_lr;
        }
        let progress = (step - self.warmup_steps) as f64 / (self.decay_steps - self.warmup_steps) as f64;
        let share = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.min_lr + share * (self.max_lr - self.min_lr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_and_decays() {
        let s = CosineSchedule { max_lr: 1.0, min_lr: 0.1, warmup_steps: 4, decay_steps: 14 };
        let expected = [(0, 0.2), (3, 0.8), (4, 1.0), (9, 0.55), (14, 0.1), (1000, 0.1)];
        for (step, lr) in expected {
            assert!((s.lr(step) - lr).abs() < 1e-12, "step {step}: {}", s.lr(step));
        }
        // No warm-up and no decay.
        let s = CosineSchedule { max_lr: 1.0, min_lr: 1.0, warmup_steps: 0, decay_steps: 0 };
        assert_eq!(s.lr(0), 1.0);
    }
}
