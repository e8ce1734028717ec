//! Text from a checkpoint, one token at a time.

use std::io::Write;
use std::path::{Path, PathBuf};

use tilewright::{Device, Tensor, no_grad};

use crate::checkpoint::Checkpoint;
use crate::data::{Draw, Random};
use crate::error::AppError;
use crate::model::Gpt;
use crate::tokenizer::{Decoder, Tokenizer};

#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct GenerateArgs {
    /// Checkpoint of a run; it holds the config and the tokenizer too
    #[arg(long, value_name = "FILE", default_value = "runs/default/checkpoint.safetensors")]
    checkpoint: PathBuf,
    /// Text to continue
    #[arg(long, default_value = "")]
    prompt: String,
    #[command(flatten)]
    sampling: Sampling,
    /// auto, cpu, cuda, cuda:N, cuda-sim, wgpu, wgpu:N, wgpu:NAME or software
    #[arg(long, default_value = "auto")]
    device: String,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Sampling {
    /// Tokens to write
    #[arg(long, default_value_t = 500)]
    pub max_new_tokens: usize,
    /// Below 1 sharpens the model's distribution, above 1 flattens it; 0 takes the likeliest
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens only
    #[arg(long, value_name = "K", default_value_t = 200)]
    pub top_k: usize,
    /// Seed of the choices
    #[arg(long, default_value_t = 1337)]
    pub seed: u64,
}

/// The `generate` subcommand; the text goes to `output`.
pub fn run(args: &GenerateArgs, output: &mut impl Write) -> Result<(), AppError> {
    let device = crate::device(&args.device)?;
    generate(&args.checkpoint, &args.prompt, args.sampling, &device, output)
}

/// Writes `prompt` and its continuation to `output`, each character as soon as its tokens are chosen.
pub fn generate(
    checkpoint: &Path,
    prompt: &str,
    sampling: Sampling,
    device: &Device,
    output: &mut impl Write,
) -> Result<(), AppError> {
    if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
        let reason = format!("must be a finite number of at least 0, not {}", sampling.temperature);
        return Err(AppError::Argument { argument: "--temperature", reason });
    }
    if sampling.top_k == 0 {
        return Err(AppError::Argument { argument: "--top-k", reason: "must be at least 1".into() });
    }
    let loaded = Checkpoint::load(checkpoint)?;
    let tokenizer = loaded.header.tokenizer.clone();
    let mut ids = start(&tokenizer, prompt)?;
    let model = Gpt::from_checkpoint(loaded, checkpoint, device)?;

    print(output, prompt)?;
    let mut decoder = Decoder::new(&tokenizer, &ids);
    let mut random = Random::new(sampling.seed, Draw::Sample);
    for _ in 0..sampling.max_new_tokens {
        let context = &ids[ids.len().saturating_sub(model.block_size())..];
        let logits: Vec<f32> = no_grad(|| {
            let context = Tensor::from_slice(context, (1, context.len()), device)?;
            model.next_logits(&context)?.flatten_all()?.to_vec1()
        })?;
        // Rows beyond the tokenizer's ids only pad the embedding and stand for no text.
        let id = choose(&logits[..tokenizer.len()], sampling, &mut random);
        ids.push(id);
        print(output, &decoder.push(id))?;
    }
    print(output, &decoder.finish())?;
    print(output, "\n")
}

/// Writes `text` at once.
pub fn print(output: &mut impl Write, text: &str) -> Result<(), AppError> {
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    written.map_err(AppError::io("write", Path::new("standard output")))
}

/// The prompt's ids; without a prompt, what stands before a document, or a line's end, after which anything may begin.
fn start(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>, AppError> {
    let ids =
        tokenizer.encode(prompt).map_err(|reason| AppError::Argument { argument: "--prompt", reason })?;
    Ok(if ids.is_empty() { vec![tokenizer.start()] } else { ids })
}

/// Draws a token id from the distribution of `logits`, of which there must be at least one.
fn choose(logits: &[f32], sampling: Sampling, random: &mut Random) -> u32 {
    let mut ranked: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.truncate(if sampling.temperature == 0.0 { 1 } else { sampling.top_k });
    let likeliest = ranked[0];
    let weights: Vec<f32> =
        ranked.iter().map(|(logit, _)| ((logit - likeliest.0) / sampling.temperature).exp()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32, top_k: usize) -> Sampling {
        Sampling { max_new_tokens: 1, temperature, top_k, seed: 0 }
    }

    fn counts(logits: &[f32], sampling: Sampling) -> Vec<usize> {
        let mut random = Random::new(7, Draw::Sample);
        let mut counts = vec![0; logits.len()];
        (0..10_000).for_each(|_| counts[choose(logits, sampling, &mut random) as usize] += 1);
        counts
    }

    #[test]
    fn choices_follow_the_distribution() {
        let logits = [0.7f32.ln(), 0.1f32.ln(), 0.2f32.ln()];
        let near = |counts: Vec<usize>, expected: [f64; 3]| {
            let error = |(&n, p): (&usize, f64)| (n as f64 / 10_000.0 - p).abs();
            assert!(counts.iter().zip(expected).map(error).all(|e| e < 0.02), "{counts:?}, {expected:?}");
        };
        near(counts(&logits, sampling(1.0, 200)), [0.7, 0.1, 0.2]);
        near(counts(&logits, sampling(0.5, 200)), [0.49 / 0.54, 0.01 / 0.54, 0.04 / 0.54]);
        near(counts(&logits, sampling(1.0, 2)), [0.7 / 0.9, 0.0, 0.2 / 0.9]);
        near(counts(&logits, sampling(0.0, 200)), [1.0, 0.0, 0.0]);
        near(counts(&logits, sampling(1.0, 1)), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn logits_that_are_no_numbers_still_give_an_id() {
        let id = choose(&[f32::NAN, 1.0], sampling(1.0, 200), &mut Random::new(1, Draw::Sample));
        assert!(id < 2);
    }

    #[test]
    fn a_prompt_must_be_in_the_vocabulary() {
        let tokenizer = Tokenizer::Characters("\nab".to_owned().into());
        assert_eq!(start(&tokenizer, "ba").unwrap(), [2, 1]);
        assert_eq!(start(&tokenizer, "").unwrap(), [0]);
        assert_eq!(start(&Tokenizer::Gpt2, "").unwrap(), [50256]);
        let message = start(&tokenizer, "a?").unwrap_err().to_string();
        assert_eq!(message, "--prompt: the character '?' is not in the vocabulary");
    }
}
