//! Dynamic loss scaling, for gradients of f16.

/// A factor of the loss that keeps small gradients of f16 from vanishing: the largest that overflows nothing (Micikevicius
/// et al., "Mixed precision training", 2018, section 3.2). The loss is multiplied by [`LossScaler::scale`], and the
/// gradients are divided by it before they are used; if one was not finite, the step is left out.
///
/// It is plain data, which a checkpoint keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaler {
    /// What the next loss is multiplied by: a power of two, so that it rounds nothing.
    pub scale: f64,
    /// Steps since the scale has last changed.
    pub good_steps: u64,
    /// After so many steps without an overflow the scale doubles.
    pub growth_interval: u64,
}

impl Default for LossScaler {
    /// PyTorch's values: 2^16, doubled after 2000 steps.
    fn default() -> Self {
        LossScaler { scale: 65536.0, good_steps: 0, growth_interval: 2000 }
    }
}

impl LossScaler {
    /// The largest scale: a sum of gradients in f32 does not overflow sooner than they do in f16.
    const MAX: f64 = 16777216.0;

    /// Halves the scale after gradients that were not `finite`; doubles it after enough that were.
    pub fn update(&mut self, finite: bool) {
        self.good_steps = if finite { self.good_steps + 1 } else { 0 };
        if !finite {
            self.scale /= 2.0;
        } else if self.good_steps >= self.growth_interval {
            (self.scale, self.good_steps) = ((self.scale * 2.0).min(Self::MAX), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_after_good_steps_and_halves_after_a_bad_one() {
        let mut scaler = LossScaler { scale: 8.0, good_steps: 0, growth_interval: 3 };
        let mut scale = |finite| {
            scaler.update(finite);
            scaler.scale
        };
        assert_eq!([true, true, true, true, true].map(&mut scale), [8.0, 8.0, 16.0, 16.0, 16.0]);
        // An overflow starts the count anew.
        assert_eq!([false, false, true, true, true].map(&mut scale), [8.0, 4.0, 4.0, 4.0, 8.0]);
        let mut large = LossScaler { scale: LossScaler::MAX, good_steps: 0, growth_interval: 1 };
        large.update(true);
        assert_eq!(large.scale, LossScaler::MAX);
    }
}
