//! The choice of a token from a model's logits.

use std::cmp::Ordering;

use crate::data::Random;
use crate::error::AppError;

#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct Sampling {
    /// Tokens to write, at most
    #[arg(long, default_value_t = 500)]
    pub max_new_tokens: usize,
    /// Below 1 sharpens the model's distribution, above 1 flattens it; 0 takes the likeliest
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens only
    #[arg(long, value_name = "K", default_value_t = 200)]
    pub top_k: usize,
    /// Choose among the likeliest tokens whose probabilities make P together (nucleus sampling; 1 is all of them)
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Makes tokens that occur already less likely: positive logits are divided by it, negative ones multiplied
    /// (Keskar et al. 2019); 1 is none
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// End the text before this, such as '\n\n' or '<|endoftext|>'; \n is a line's end. May be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Seed of the choices; the n-th prompt of several has that many added, counted from 0
    #[arg(long, default_value_t = 1337)]
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            max_new_tokens: 500,
            temperature: 0.8,
            top_k: 200,
            top_p: 1.0,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            seed: 1337,
        }
    }
}

impl Sampling {
    pub fn check(&self) -> Result<(), AppError> {
        let refused = |argument, reason: String| Err(AppError::Argument { argument, reason });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let reason = format!("must be a finite number of at least 0, not {}", self.temperature);
            return refused("--temperature", reason);
        }
        if self.top_k == 0 {
            return refused("--top-k", "must be at least 1".into());
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refused("--top-p", format!("must be above 0 and at most 1, not {}", self.top_p));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            let reason = format!("must be a finite number above 0, not {}", self.repetition_penalty);
            return refused("--repetition-penalty", reason);
        }
        if self.stop.iter().any(String::is_empty) {
            return refused("--stop", "must not be empty".into());
        }
        Ok(())
    }

    /// A token id after `ids` from the distribution of `logits`, of which there must be at least one.
    pub fn choose(&self, mut logits: Vec<f32>, ids: &[u32], random: &mut Random) -> u32 {
        if self.repetition_penalty != 1.0 {
            self.penalise(&mut logits, ids);
        }
        // Of equal logits the one of the lowest id comes first.
        let order = |a: &(f32, u32), b: &(f32, u32)| -> Ordering { b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)) };
        let mut ranked: Vec<(f32, u32)> = logits.into_iter().zip(0..).collect();
        let kept = if self.temperature == 0.0 { 1 } else { self.top_k };
        if kept < ranked.len() {
            ranked.select_nth_unstable_by(kept - 1, order);
            ranked.truncate(kept);
        }
        ranked.sort_unstable_by(order);
        let likeliest = ranked[0];
        if self.temperature == 0.0 {
            return likeliest.1;
        }
        let weight = |(logit, _): &(f32, u32)| ((logit - likeliest.0) / self.temperature).exp();
        let mut weights: Vec<f32> = ranked.iter().map(weight).collect();
        weights.truncate(nucleus(&weights, self.top_p));
        let mut rest = random.uniform() * weights.iter().sum::<f32>();
        for (weight, (_, id)) in weights.iter().zip(&ranked) {
            rest -= weight;
            if rest < 0.0 {
                return *id;
            }
        }
        // Rounding, or logits that are not numbers.
        likeliest.1
    }

    fn penalise(&self, logits: &mut [f32], ids: &[u32]) {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit *= if *logit > 0.0 { 1.0 / self.repetition_penalty } else { self.repetition_penalty };
            }
        }
    }
}

/// How many of the weights, which fall, make `top_p` of their sum.
fn nucleus(weights: &[f32], top_p: f32) -> usize {
    if top_p == 1.0 {
        return weights.len();
    }
    let mut left = top_p * weights.iter().sum::<f32>();
    let enough = weights.iter().position(|weight| {
        left -= weight;
        left <= 0.0
    });
    enough.map_or(weights.len(), |last| last + 1)
}

/// The end of a text where a stop string begins. What might be the beginning of one is held back.
pub struct Stopper<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> Stopper<'a> {
    pub fn new(stops: &'a [String]) -> Self {
        Stopper { stops, held: String::new() }
    }

    /// The text that goes out once `text` has come, and whether it ends there.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(end) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let may_begin = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let held = self.held.char_indices().map(|(at, _)| at).find(may_begin).unwrap_or(self.held.len());
        let rest = self.held.split_off(held);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Draw;

    fn sampling(temperature: f32, top_k: usize) -> Sampling {
        Sampling { temperature, top_k, ..Default::default() }
    }

    fn counts(logits: &[f32], ids: &[u32], sampling: &Sampling) -> Vec<usize> {
        let mut random = Random::new(7, Draw::Sample);
        let mut counts = vec![0; logits.len()];
        (0..10_000).for_each(|_| counts[sampling.choose(logits.to_vec(), ids, &mut random) as usize] += 1);
        counts
    }

    fn near(counts: Vec<usize>, expected: [f64; 3]) {
        let error = |(&n, p): (&usize, f64)| (n as f64 / 10_000.0 - p).abs();
        assert!(counts.iter().zip(expected).map(error).all(|e| e < 0.02), "{counts:?}, {expected:?}");
    }

    #[test]
    fn choices_follow_the_distribution() {
        let logits = [0.7f32.ln(), 0.1f32.ln(), 0.2f32.ln()];
        near(counts(&logits, &[], &sampling(1.0, 200)), [0.7, 0.1, 0.2]);
        near(counts(&logits, &[], &sampling(0.5, 200)), [0.49 / 0.54, 0.01 / 0.54, 0.04 / 0.54]);
        near(counts(&logits, &[], &sampling(1.0, 2)), [0.7 / 0.9, 0.0, 0.2 / 0.9]);
        near(counts(&logits, &[], &sampling(0.0, 200)), [1.0, 0.0, 0.0]);
        near(counts(&logits, &[], &sampling(1.0, 1)), [1.0, 0.0, 0.0]);
        for (top_p, expected) in [
            (0.6, [1.0, 0.0, 0.0]),
            (0.75, [0.7 / 0.9, 0.0, 0.2 / 0.9]),
            (0.85, [0.7 / 0.9, 0.0, 0.2 / 0.9]),
            (0.95, [0.7, 0.1, 0.2]),
        ] {
            near(counts(&logits, &[], &Sampling { top_p, ..sampling(1.0, 200) }), expected);
        }
    }

    #[test]
    fn what_was_said_is_less_likely() {
        let once = Sampling { repetition_penalty: 2.0, ..sampling(1.0, 200) };
        // Logits 1, -1 and 0 become 0.5, -2 and 0, however often the first two have occurred.
        let weights = [0.5f64, -2.0, 0.0].map(f64::exp);
        let sum: f64 = weights.iter().sum();
        near(counts(&[1.0, -1.0, 0.0], &[0, 1, 0, 0, 9], &once), weights.map(|weight| weight / sum));
        let greedy = Sampling { repetition_penalty: 3.0, ..sampling(0.0, 200) };
        near(counts(&[2.0, 1.0, 0.0], &[0], &greedy), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn logits_that_are_no_numbers_still_give_an_id() {
        let mut random = Random::new(1, Draw::Sample);
        assert!(sampling(1.0, 200).choose(vec![f32::NAN, 1.0], &[], &mut random) < 2);
        assert_eq!(sampling(0.0, 9).choose(vec![1.0, 3.0, 3.0], &[], &mut random), 1, "the first of equals");
    }

    #[test]
    fn text_ends_at_a_stop_string_and_not_before() {
        let stops = ["END".to_owned(), "\n\n".to_owned()];
        let mut stopper = Stopper::new(&stops);
        let shown: Vec<(String, bool)> =
            ["aE", "N", "N", "bé\n", "c\n", "E", "ND rest"].map(|text| stopper.push(text)).into();
        let expected =
            [("a", false), ("", false), ("ENN", false), ("bé", false), ("\nc", false), ("\n", false)];
        let expected: Vec<(String, bool)> =
            expected.into_iter().chain([("", true)]).map(|(text, stop)| (text.to_owned(), stop)).collect();
        assert_eq!(shown, expected);
        let mut stopper = Stopper::new(&stops);
        assert_eq!(stopper.push("one\n\nEND"), ("one".to_owned(), true), "the first that occurs");
        let mut stopper = Stopper::new(&stops);
        assert_eq!((stopper.push("x\n"), stopper.finish().as_str()), (("x".to_owned(), false), "\n"));
        assert_eq!(Stopper::new(&[]).push("all"), ("all".to_owned(), false));
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        let refused = |sampling: Sampling| sampling.check().unwrap_err().to_string();
        assert!(refused(sampling(f32::NAN, 1)).starts_with("--temperature: must be a finite number"));
        assert!(refused(sampling(1.0, 0)).starts_with("--top-k: must be at least 1"));
        for top_p in [0.0, 1.5, f32::NAN] {
            assert!(
                refused(Sampling { top_p, ..Default::default() }).starts_with("--top-p: must be above 0")
            );
        }
        let refused = refused(Sampling { repetition_penalty: 0.0, ..Default::default() });
        assert!(refused.starts_with("--repetition-penalty: must be a finite number above 0, not 0"));
        let empty = Sampling { stop: vec![String::new()], ..Default::default() };
        assert_eq!(empty.check().unwrap_err().to_string(), "--stop: must not be empty");
        assert!(Sampling::default().check().is_ok());
    }
}
