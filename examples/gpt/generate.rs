//! Text from a checkpoint, one token at a time.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tilewright::{Device, Tensor, no_grad};

use crate::data::{Draw, Random};
use crate::error::AppError;
use crate::finetune;
use crate::model::{Cache, Gpt};
use crate::report::note;
pub use crate::sampling::Sampling;
use crate::sampling::Stopper;
use crate::tokenizer::{Decoder, Tokenizer};

/// Continue prompts with the model of a checkpoint
///
/// The text goes to standard output as it is chosen; how fast that was, to standard error. Several prompts are
/// continued together, and their texts printed one after the other with a line of --- between them; each is what it
/// would be alone. Keys and values of what has been read are kept (--no-cache computes them anew for every token, for
/// the same text). A text that outgrows the model's context goes on without its beginning: half a context is dropped,
/// and the rest computed anew.
///
/// Examples:
///   gpt generate --prompt "fn main() {" --max-new-tokens 200
///   gpt generate --checkpoint runs/gpt2/checkpoint.safetensors --prompt "Q: Why is the sky blue?\nA:" --stop "\n"
///   gpt generate --prompts questions.txt --temperature 0.7 --top-p 0.9 --repetition-penalty 1.1
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, verbatim_doc_comment)]
pub struct GenerateArgs {
    /// Checkpoint of a run; it holds the config and the tokenizer too
    #[arg(long, value_name = "FILE", default_value = "runs/default/checkpoint.safetensors")]
    checkpoint: PathBuf,
    /// Text to continue; \n is a line's end. May be given several times
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// A file with a prompt in each line
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    sampling: Sampling,
    /// Compute everything anew for every token
    #[arg(long)]
    no_cache: bool,
    /// auto, cpu, cuda, cuda:N, cuda-sim, wgpu, wgpu:N, wgpu:NAME or software
    #[arg(long, default_value = "auto")]
    device: String,
}

/// The `generate` subcommand; the text goes to `output`.
pub fn run(args: &GenerateArgs, output: &mut impl Write) -> Result<(), AppError> {
    let device = crate::device(&args.device)?;
    let mut prompts = args.prompt.clone();
    if let Some(path) = &args.prompts {
        let text = fs::read_to_string(path).map_err(AppError::io("read", path))?;
        prompts.extend(text.lines().map(str::to_owned));
        if prompts.is_empty() {
            return Err(AppError::contents(path, "holds no prompt"));
        }
    }
    if prompts.is_empty() {
        prompts.push(String::new());
    }
    let unescape = |text: &String| text.replace("\\n", "\n");
    let prompts: Vec<String> = prompts.iter().map(unescape).collect();
    let stop = args.sampling.stop.iter().map(unescape).collect();
    let sampling = Sampling { stop, ..args.sampling.clone() };
    sampling.check()?;
    let checkpoint = finetune::load(&args.checkpoint)?;
    let tokenizer = checkpoint.header.tokenizer.clone();
    let model = Gpt::from_checkpoint(checkpoint, &args.checkpoint, &device)?;
    let writer =
        Writer { model: &model, tokenizer: &tokenizer, sampling, device: &device, cached: !args.no_cache };
    let speed = writer.write(&prompts, output)?;
    note(format_args!("{speed}"));
    Ok(())
}

/// Writes `prompt` and its continuation by a model to `output`.
pub fn write(
    model: &Gpt,
    tokenizer: &Tokenizer,
    prompt: &str,
    sampling: Sampling,
    device: &Device,
    output: &mut impl Write,
) -> Result<(), AppError> {
    sampling.check()?;
    let writer = Writer { model, tokenizer, sampling, device, cached: true };
    writer.write(&[prompt.to_owned()], output)?;
    Ok(())
}

/// What a checkpoint's model writes after `prompt`, with it.
#[cfg(test)]
pub fn continued(checkpoint: &Path, prompt: &str, sampling: Sampling) -> Result<String, AppError> {
    let loaded = finetune::load(checkpoint)?;
    let tokenizer = loaded.header.tokenizer.clone();
    let model = Gpt::from_checkpoint(loaded, checkpoint, &Device::Cpu)?;
    let mut text = Vec::new();
    write(&model, &tokenizer, prompt, sampling, &Device::Cpu, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
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

/// Where the context of the next token begins, of `len` tokens under a model of so many: at the first, or, so that a
/// cache is of use, half a context further on than the last time.
fn context_start(len: usize, block_size: usize) -> usize {
    let step = (block_size / 2).max(1);
    len.saturating_sub(block_size).div_ceil(step) * step
}

/// How long it took to read prompts, and to write.
#[derive(Debug, Default)]
pub struct Speed {
    read: (usize, Duration),
    written: (usize, Duration),
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |(tokens, time): (usize, Duration)| tokens as f64 / time.as_secs_f64().max(1e-9);
        write!(
            f,
            "{} tokens read, {:.0} tokens/s; {} tokens written, {:.0} tokens/s",
            self.read.0,
            rate(self.read),
            self.written.0,
            rate(self.written)
        )
    }
}

/// A prompt and what has been written after it.
struct Sequence<'a> {
    ids: Vec<u32>,
    /// Where its context begins, and the tokens from there on that are known.
    start: usize,
    cache: Option<Cache>,
    random: Random,
    decoder: Decoder<'a>,
    stopper: Stopper<'a>,
    /// Text that has not been printed.
    text: String,
    tokens_left: usize,
}

impl Sequence<'_> {
    /// The tokens that must be computed for the next one's logits.
    fn pending(&self) -> &[u32] {
        &self.ids[self.start + self.cache.as_ref().map_or(0, Cache::len)..]
    }

    /// Moves the context to where the next token's begins.
    fn settle(&mut self, block_size: usize) {
        let start = context_start(self.ids.len(), block_size);
        if start != self.start {
            self.start = start;
            self.cache.iter_mut().for_each(Cache::clear);
        }
    }

    /// Takes the next token.
    fn push(&mut self, id: u32) {
        self.ids.push(id);
        self.tokens_left -= 1;
        let (text, stopped) = self.stopper.push(&self.decoder.push(id));
        self.text.push_str(&text);
        if stopped {
            self.tokens_left = 0;
        } else if self.tokens_left == 0 {
            self.finish();
        }
    }

    /// Lets go of what was held back in vain.
    fn finish(&mut self) {
        let (text, stopped) = self.stopper.push(&self.decoder.finish());
        self.text.push_str(&text);
        if !stopped {
            self.text.push_str(&self.stopper.finish());
        }
    }
}

struct Writer<'a> {
    model: &'a Gpt,
    tokenizer: &'a Tokenizer,
    sampling: Sampling,
    device: &'a Device,
    cached: bool,
}

impl Writer<'_> {
    /// Writes each prompt and its continuation, in their order; the first that is not complete as it comes.
    fn write(&self, prompts: &[String], output: &mut impl Write) -> Result<Speed, AppError> {
        let sequences =
            prompts.iter().zip(self.sampling.seed..).map(|(prompt, seed)| self.begin(prompt, seed));
        let mut sequences = sequences.collect::<Result<Vec<_>, AppError>>()?;
        let mut speed = Speed::default();
        let mut printed = 0;
        loop {
            while let Some(sequence) = sequences.get_mut(printed) {
                print(output, &std::mem::take(&mut sequence.text))?;
                if sequence.tokens_left > 0 {
                    break;
                }
                printed += 1;
                print(output, if printed < sequences.len() { "\n---\n" } else { "\n" })?;
            }
            let mut active: Vec<&mut Sequence> = sequences.iter_mut().filter(|s| s.tokens_left > 0).collect();
            if active.is_empty() {
                return Ok(speed);
            }
            self.step(&mut active, &mut speed)?;
        }
    }

    fn begin(&self, prompt: &str, seed: u64) -> Result<Sequence<'_>, AppError> {
        let ids = start(self.tokenizer, prompt)?;
        Ok(Sequence {
            decoder: Decoder::new(self.tokenizer, &ids),
            stopper: Stopper::new(&self.sampling.stop),
            start: 0,
            cache: self.cached.then(|| self.model.cache()).transpose()?,
            random: Random::new(seed, Draw::Sample),
            text: prompt.to_owned(),
            tokens_left: self.sampling.max_new_tokens,
            ids,
        })
    }

    /// One more token for each.
    fn step(&self, sequences: &mut [&mut Sequence<'_>], speed: &mut Speed) -> Result<(), AppError> {
        let block_size = self.model.block_size();
        sequences.iter_mut().for_each(|sequence| sequence.settle(block_size));
        // Those with one token go on together; prompts, of different lengths, are read one by one.
        let (mut short, long): (Vec<_>, Vec<_>) = sequences
            .iter_mut()
            .map(|sequence| &mut **sequence)
            .partition(|sequence| sequence.pending().len() == 1);
        for sequence in long {
            let began = Instant::now();
            speed.read.0 += sequence.pending().len();
            self.advance(&mut [sequence])?;
            speed.read.1 += began.elapsed();
        }
        if !short.is_empty() {
            let began = Instant::now();
            self.advance(&mut short)?;
            speed.written.0 += short.len();
            speed.written.1 += began.elapsed();
        }
        Ok(())
    }

    /// One more token for sequences that have as many tokens pending.
    fn advance(&self, sequences: &mut [&mut Sequence<'_>]) -> Result<(), AppError> {
        let rows = sequences.len();
        let pending: Vec<u32> = sequences.iter().flat_map(|sequence| sequence.pending()).copied().collect();
        let columns = pending.len() / rows;
        let logits: Vec<f32> = no_grad(|| {
            let ids = Tensor::from_vec(pending, (rows, columns), self.device)?;
            let mut caches: Vec<&mut Cache> = sequences.iter_mut().filter_map(|s| s.cache.as_mut()).collect();
            let logits = match caches.is_empty() {
                true => self.model.next_logits(&ids)?,
                false => self.model.next_logits_cached(&ids, &mut caches)?,
            };
            logits.flatten_all()?.to_vec1()
        })?;
        for (sequence, logits) in sequences.iter_mut().zip(logits.chunks_exact(logits.len() / rows)) {
            // Rows beyond the tokenizer's ids only pad the embedding and stand for no text.
            let logits = logits[..self.tokenizer.len()].to_vec();
            let id = self.sampling.choose(logits, &sequence.ids, &mut sequence.random);
            sequence.push(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hugging_face::tests::{fixture, gpt2};
    use crate::tests::devices;

    #[test]
    fn a_prompt_must_be_in_the_vocabulary() {
        let tokenizer = Tokenizer::Characters("\nab".to_owned().into());
        assert_eq!(start(&tokenizer, "ba").unwrap(), [2, 1]);
        assert_eq!(start(&tokenizer, "").unwrap(), [0]);
        assert_eq!(start(&Tokenizer::Gpt2, "").unwrap(), [50256]);
        let message = start(&tokenizer, "a?").unwrap_err().to_string();
        assert_eq!(message, "--prompt: the character '?' is not in the vocabulary");
    }

    #[test]
    fn a_context_moves_by_halves() {
        let starts: Vec<usize> = (6..=17).map(|len| context_start(len, 8)).collect();
        assert_eq!(starts, [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12]);
        for (len, block_size) in [(9, 1), (9, 2), (9, 3), (100, 7)] {
            let context = len - context_start(len, block_size);
            assert!((1..=block_size).contains(&context), "{len}, {block_size}: {context}");
        }
    }

    fn written(model: &Gpt, device: &Device, sampling: &Sampling, cached: bool, prompts: &[&str]) -> String {
        let tokenizer = Tokenizer::load(&fixture().join("tokenizer.json")).unwrap();
        let sampling = sampling.clone();
        let writer = Writer { model, tokenizer: &tokenizer, sampling, device, cached };
        let prompts: Vec<String> = prompts.iter().map(|&prompt| prompt.to_owned()).collect();
        let mut text = Vec::new();
        writer.write(&prompts, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Prompts of different lengths, one longer than the context of 24, and texts that outgrow it.
    #[test]
    fn the_cache_changes_no_token_alone_or_together() {
        let prompts = ["a", "To be, or not", "The quick brown fox jumps over the lazy dog", "the"];
        for device in devices() {
            let model = gpt2(device);
            let new_tokens = if device.is_cpu() { 60 } else { 30 };
            let sampling = Sampling { temperature: 0.0, max_new_tokens: new_tokens, ..Default::default() };
            let write = |cached, prompts: &[&str]| written(&model, device, &sampling, cached, prompts);
            let alone: Vec<String> = prompts.iter().map(|&prompt| write(false, &[prompt])).collect();
            for (prompt, text) in prompts.iter().zip(&alone) {
                assert_eq!(text.chars().count(), prompt.len() + new_tokens + 1, "{device}: {text:?}");
                assert_eq!(&write(true, &[prompt]), text, "{device}");
            }
            assert_eq!(write(true, &prompts), alone.join("---\n"), "{device}");
        }
    }

    #[test]
    fn the_seed_makes_the_text() {
        let model = gpt2(&Device::Cpu);
        let write = |seed, prompts: &[&str]| {
            let sampling = Sampling { seed, top_p: 0.9, max_new_tokens: 12, ..Default::default() };
            written(&model, &Device::Cpu, &sampling, true, prompts)
        };
        assert_eq!(write(1, &["ab"]), write(1, &["ab"]));
        assert_ne!(write(1, &["ab"]), write(2, &["ab"]));
        let together = [write(1, &["ab"]), write(2, &["ab"]), write(3, &["c"])].join("---\n");
        assert_eq!(write(1, &["ab", "ab", "c"]), together);
    }

    #[test]
    fn a_text_ends_before_its_stop_string() {
        let model = gpt2(&Device::Cpu);
        let write = |stop: &[&str]| {
            let stop = stop.iter().map(|&text| text.to_owned()).collect();
            let sampling = Sampling { temperature: 0.0, max_new_tokens: 20, stop, ..Default::default() };
            written(&model, &Device::Cpu, &sampling, true, &["To be"])
        };
        let whole = write(&[]);
        // A piece of the continuation, which ends it at its first occurrence.
        let piece = &whole[9..12];
        let end = 5 + whole[5..].find(piece).unwrap();
        assert_eq!(write(&[piece, "never seen"]), format!("{}\n", &whole[..end]));
        assert_eq!(write(&["never seen"]), whole);
    }
}
