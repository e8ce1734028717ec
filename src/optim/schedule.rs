//! Learning-rate schedules: functions of the step alone.

/// A learning rate that rises linearly for some steps and then falls as [`Decay`] says, from `max_lr` to `min_lr`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The learning rate after the warm-up.
    pub max_lr: f64,
    /// The learning rate from step `end` on.
    pub min_lr: f64,
    /// Steps of the warm-up.
    pub warmup_steps: usize,
    /// The step at which `min_lr` is reached.
    pub end: usize,
    /// The way there.
    pub decay: Decay,
}

/// How a [`Schedule`] comes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Not at all: `max_lr` for ever.
    Constant,
    /// In half a cosine (Loshchilov and Hutter, 2017, without restarts), with the same values as nanoGPT's.
    Cosine,
    /// In a straight line.
    Linear,
    /// Warmup-stable-decay (Hu et al., "MiniCPM", 2024): not until the last `steps` before the end, and there as one minus
    /// the square root of the share that is over (Hägele et al., "Scaling laws and compute-optimal training beyond fixed
    /// training durations", 2024). So a run can be made longer until its decay begins.
    WarmupStableDecay {
        /// Steps of the decay.
        steps: usize,
    },
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0.
    pub fn lr(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.max_lr * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let start = match self.decay {
            Decay::Constant => return self.max_lr,
            Decay::Cosine | Decay::Linear => self.warmup_steps,
            Decay::WarmupStableDecay { steps } => self.end.saturating_sub(steps).max(self.warmup_steps),
        };
        if step >= self.end {
            return self.min_lr;
        }
        if step <= start {
            return self.max_lr;
        }
        let progress = (step - start) as f64 / (self.end - start) as f64;
        let share = match self.decay {
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Decay::WarmupStableDecay { .. } => 1.0 - progress.sqrt(),
            Decay::Constant | Decay::Linear => 1.0 - progress,
        };
        self.min_lr + share * (self.max_lr - self.min_lr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(decay: Decay, expected: &[(usize, f64)]) {
        let s = Schedule { max_lr: 1.0, min_lr: 0.1, warmup_steps: 4, end: 14, decay };
        for &(step, lr) in expected {
            assert!((s.lr(step) - lr).abs() < 1e-12, "{decay:?}, step {step}: {}", s.lr(step));
        }
    }

    #[test]
    fn warms_up_and_decays() {
        check(Decay::Constant, &[(0, 0.2), (3, 0.8), (4, 1.0), (14, 1.0), (1000, 1.0)]);
        check(Decay::Cosine, &[(0, 0.2), (3, 0.8), (4, 1.0), (9, 0.55), (14, 0.1), (1000, 0.1)]);
        check(Decay::Linear, &[(0, 0.2), (3, 0.8), (4, 1.0), (5, 0.91), (9, 0.55), (14, 0.1), (1000, 0.1)]);
        let wsd = |steps| Decay::WarmupStableDecay { steps };
        check(
            wsd(4),
            &[(0, 0.2), (4, 1.0), (10, 1.0), (11, 0.55), (13, 1.0 - 0.9 * 0.75f64.sqrt()), (14, 0.1)],
        );
        // A decay that would begin in the warm-up, or before the run, or that takes no time.
        check(wsd(12), &[(3, 0.8), (4, 1.0), (14, 0.1)]);
        check(wsd(100), &[(3, 0.8), (4, 1.0), (14, 0.1)]);
        check(wsd(0), &[(13, 1.0), (14, 0.1)]);
    }

    #[test]
    fn the_end_may_come_before_the_warm_up_is_over() {
        for decay in [Decay::Cosine, Decay::Linear, Decay::WarmupStableDecay { steps: 3 }] {
            let s = Schedule { max_lr: 1.0, min_lr: 0.5, warmup_steps: 4, end: 2, decay };
            assert_eq!([3, 4, 5].map(|step| s.lr(step)), [0.8, 0.5, 0.5]);
        }
    }
}
