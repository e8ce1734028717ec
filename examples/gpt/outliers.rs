//! What stands out from what came before it, in standard deviations.
//!
//! Chowdhery et al., "PaLM" (2022, section 5.1), got over spikes of the loss by leaving out the batches around them. Here a
//! step is left out whose loss or gradient lies so far above the mean of the last 128 that it would do harm: llm.c's way.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The last values of something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window(VecDeque<f64>);

impl Window {
    const LEN: usize = 128;

    /// By how many standard deviations of the last values `value` is above their mean; 0 until there are enough. It is one
    /// of them then, so that what has changed for good soon stands out no more.
    pub fn z(&mut self, value: f64) -> f64 {
        let n = Self::LEN as f64;
        let mean = self.0.iter().sum::<f64>() / n;
        let deviation = (self.0.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        let z = if self.0.len() < Self::LEN || deviation == 0.0 { 0.0 } else { (value - mean) / deviation };
        if value.is_finite() {
            if self.0.len() == Self::LEN {
                self.0.pop_front();
            }
            self.0.push_back(value);
        }
        z
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_standard_deviations_once_it_knows_enough() {
        let mut window = Window::default();
        // Mean 3, deviation 1.
        let steady = |i: usize| if i.is_multiple_of(2) { 2.0 } else { 4.0 };
        assert!((0..128).all(|i| window.z(steady(i)) == 0.0));
        assert!((window.clone().z(8.0) - 5.0).abs() < 1e-12);
        assert!((window.clone().z(1.0) + 2.0).abs() < 1e-12);
        assert!(window.z(f64::INFINITY) == f64::INFINITY, "and it is not remembered");
        assert!((window.z(5.0) - 2.0).abs() < 1e-12);
        // Half of the window is 8 now: that is no outlier.
        assert!((0..64).all(|_| window.z(8.0) > 0.0));
        assert!(window.z(8.0) < 2.0);
        let mut flat = Window::default();
        assert!((0..200).all(|_| flat.z(1.0) == 0.0));
        let restored: Window = serde_json::from_str(&serde_json::to_string(&window).unwrap()).unwrap();
        assert_eq!(restored, window);
    }
}
