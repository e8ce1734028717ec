//! What a run is told: the keys, where their values come from, and which values make sense.
//!
//! [`Config`] is the one list of keys. Its fields are the keys of a TOML file (serde) and the flags of
//! the command line (clap), and `configs/default.toml` gives each its value. On top of that come the
//! file that `--config` names, then the flags.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use serde::{Deserialize, Serialize};
use tilewright::DType;
use tilewright::optim::{Decay, Schedule};
use toml::Table;
use toml::de::DeTable;

use crate::error::AppError;
use crate::finetune::Lora;

const DEFAULT: &str = include_str!("configs/default.toml");

/// The shipped configs: what `--config NAME` finds.
const SHIPPED: [(&str, &str); 7] = [
    ("default", DEFAULT),
    ("shakespeare-char", include_str!("configs/shakespeare-char.toml")),
    ("shakespeare-char-cpu", include_str!("configs/shakespeare-char-cpu.toml")),
    ("gpt2-124m", include_str!("configs/gpt2-124m.toml")),
    ("gpt2-355m", include_str!("configs/gpt2-355m.toml")),
    ("gpt2-774m", include_str!("configs/gpt2-774m.toml")),
    ("gpt2-1558m", include_str!("configs/gpt2-1558m.toml")),
];

/// The types that a model may have, under nanoGPT's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    Float32,
    Bfloat16,
    Float16,
}

impl Precision {
    pub fn dtype(self) -> DType {
        match self {
            Precision::Float32 => DType::F32,
            Precision::Bfloat16 => DType::BF16,
            Precision::Float16 => DType::F16,
        }
    }
}

/// How a model is updated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    #[default]
    Adamw,
    /// AdamW with the step of each parameter scaled to its size, for large batches
    Lamb,
}

/// How the learning rate comes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// In half a cosine
    #[default]
    Cosine,
    /// In a straight line
    Linear,
    /// Warmup-stable-decay: not until the last wsd_decay_iters steps
    Wsd,
    /// Not at all
    Constant,
}

/// A span of time, written as in `2h 30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Span)
    }
}

impl TryFrom<String> for Span {
    type Error = humantime::DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        humantime::format_duration(span.0).to_string()
    }
}

/// The function between the two layers of a block's MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Activation {
    /// x times the normal distribution's value at x, as in nanoGPT
    #[default]
    Gelu,
    /// The same approximated by tanh, as in GPT-2; they differ by at most 5e-4
    GeluTanh,
}

/// Every key of a run, under nanoGPT's names.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Config keys (the defaults shown are those of the config `default`)")]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Transformer blocks
    #[arg(long)]
    pub n_layer: usize,
    /// Attention heads in a block; must divide n_embd
    #[arg(long)]
    pub n_head: usize,
    /// Channels
    #[arg(long)]
    pub n_embd: usize,
    /// Longest context, in tokens
    #[arg(long)]
    pub block_size: usize,
    /// Probability of dropping an activation while training
    #[arg(long)]
    pub dropout: f64,
    /// Biases in linear layers and layer norms
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub bias: bool,
    /// The function between the two layers of a block's MLP
    #[arg(long)]
    // Checkpoints of earlier versions do not say it.
    #[serde(default)]
    pub activation: Activation,
    /// Start from the model of this checkpoint: its sizes and tokenizer are taken from there (--block-size may shorten the
    /// context). Empty means a new model. With --resume, where the model that adapters stand beside has moved to
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    pub init_from: String,
    /// Rank of adapters (LoRA) to train in place of the parameters that init_from names; 0 means all parameters are trained
    #[arg(long)]
    #[serde(default)]
    pub lora_rank: usize,
    /// What adapters count: their product is multiplied by lora_alpha / lora_rank
    #[arg(long)]
    #[serde(default)]
    pub lora_alpha: f64,
    /// Layers with adapters, of attn.c_attn, attn.c_proj, mlp.c_fc and mlp.c_proj
    #[arg(long, value_name = "NAMES")]
    #[serde(default)]
    pub lora_targets: String,
    /// Probability of dropping an input of an adapter while training
    #[arg(long)]
    #[serde(default)]
    pub lora_dropout: f64,
    /// Rows of the token embedding; 0 means as many as the data's tokenizer has ids
    #[arg(long)]
    pub vocab_size: usize,
    /// Standard deviation of the initial weights (nanoGPT: 0.02); 0 means 0.02 at GPT-2's width, and at
    /// others the value that gives sums over n_embd terms the same variance: 0.02 sqrt(768 / n_embd)
    #[arg(long)]
    pub init_std: f64,
    /// Type of weights and activations; gradients of weights, and the masters that the optimizer keeps of them, are
    /// float32. With float16 the loss is scaled
    #[arg(long)]
    // Checkpoints of earlier versions do not say it.
    #[serde(default)]
    pub dtype: Precision,

    /// Sequences in a micro-batch
    #[arg(long)]
    pub batch_size: usize,
    /// Micro-batches whose gradients make one step
    #[arg(long)]
    pub gradient_accumulation_steps: usize,
    /// Runs each block again in the backward pass, to the same bits, and keeps none of its activations until then: a third
    /// more work, and most of the memory of a long context
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[serde(default)]
    pub recompute: bool,

    /// Peak learning rate
    #[arg(long)]
    pub learning_rate: f64,
    /// Training steps
    #[arg(long)]
    pub max_iters: usize,
    /// The run ends after the step that brings it to so many tokens; 0 means no such bound
    #[arg(long)]
    #[serde(default)]
    pub max_tokens: u64,
    /// The run ends after the step in which it comes to last so long, the time before a --resume included, as in 2h30m;
    /// 0s means no such bound
    #[arg(long, value_name = "SPAN")]
    #[serde(default)]
    pub max_time: Span,
    /// The run ends when so many evaluations in a row have brought no better validation loss; 0 means no such bound
    #[arg(long)]
    #[serde(default)]
    pub patience: usize,
    /// What a step is made by
    #[arg(long)]
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Decoupled weight decay, for parameters of two or more dimensions
    #[arg(long)]
    pub weight_decay: f64,
    /// Decay of the first moment
    #[arg(long)]
    pub beta1: f64,
    /// Decay of the second moment
    #[arg(long)]
    pub beta2: f64,
    /// Largest norm of the whole gradient; 0 turns clipping off
    #[arg(long)]
    pub grad_clip: f64,
    /// Warm up and decay the learning rate; otherwise it is constant
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub decay_lr: bool,
    /// Steps of linear warm-up
    #[arg(long)]
    pub warmup_iters: usize,
    /// How the learning rate decays
    #[arg(long)]
    #[serde(default)]
    pub lr_schedule: LrSchedule,
    /// The step at which the decay reaches min_lr
    #[arg(long)]
    pub lr_decay_iters: usize,
    /// Learning rate at and after lr_decay_iters
    #[arg(long)]
    pub min_lr: f64,
    /// Steps of the decay of the schedule wsd, which end with lr_decay_iters
    #[arg(long)]
    #[serde(default)]
    pub wsd_decay_iters: usize,
    /// Leaves out a step whose loss is so many standard deviations above the mean of the last 128; 0 leaves out none
    #[arg(long)]
    #[serde(default)]
    pub skip_loss_z: f64,
    /// Leaves out a step whose gradient's norm is so many standard deviations above that mean; 0 leaves out none
    #[arg(long)]
    #[serde(default)]
    pub skip_grad_z: f64,
    /// With float16, what the loss is multiplied by at first, so that small gradients do not vanish. The scale is halved
    /// where one overflows, and then the step is left out
    #[arg(long)]
    #[serde(default = "loss_scale")]
    pub loss_scale: f64,
    /// After so many steps without an overflow the loss scale doubles
    #[arg(long)]
    #[serde(default = "loss_scale_interval")]
    pub loss_scale_interval: u64,

    /// Steps between evaluations
    #[arg(long)]
    pub eval_interval: usize,
    /// Batches an evaluation takes from each split
    #[arg(long)]
    pub eval_iters: usize,
    /// Steps between updates of the progress bar
    #[arg(long)]
    pub log_interval: usize,
    /// Write a checkpoint at every evaluation, not only at a better validation loss
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub always_save_checkpoint: bool,
    /// Steps between saves of all that --resume needs; 0 means at every evaluation
    #[arg(long)]
    #[serde(default)]
    pub save_interval: usize,
    /// Tokens of the sample that ends a run; each better evaluation writes one of a quarter of that. 0 means no samples
    #[arg(long)]
    #[serde(default)]
    pub sample_tokens: usize,
    /// What the device can do in this type at best, in 10^12 floating-point operations a second, for the utilization in the
    /// report; 0 means what the data sheets of some NVIDIA GPUs say of 16 bits, and no utilization for others
    #[arg(long)]
    #[serde(default)]
    pub peak_tflops: f64,
    /// How many of the last saves stay
    #[arg(long)]
    #[serde(default = "one")]
    pub keep: usize,

    /// Seed of everything random; a run is a function of it
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: u64,
}

fn one() -> usize {
    1
}

fn loss_scale() -> f64 {
    65536.0
}

fn loss_scale_interval() -> u64 {
    2000
}

impl Config {
    /// The learning rate of each step.
    pub fn schedule(&self) -> Schedule {
        let decay = match self.lr_schedule {
            _ if !self.decay_lr => Decay::Constant,
            LrSchedule::Cosine => Decay::Cosine,
            LrSchedule::Linear => Decay::Linear,
            LrSchedule::Wsd => Decay::WarmupStableDecay { steps: self.wsd_decay_iters },
            LrSchedule::Constant => Decay::Constant,
        };
        Schedule {
            max_lr: self.learning_rate,
            min_lr: self.min_lr,
            warmup_steps: if self.decay_lr { self.warmup_iters } else { 0 },
            end: self.lr_decay_iters,
            decay,
        }
    }

    /// The first key whose value makes no sense, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let counts = [
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_embd", self.n_embd),
            ("block_size", self.block_size),
            ("batch_size", self.batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("max_iters", self.max_iters),
            ("eval_interval", self.eval_interval),
            ("eval_iters", self.eval_iters),
            ("log_interval", self.log_interval),
            ("keep", self.keep),
        ];
        for (key, value) in counts {
            // No sum or product of two counts overflows then.
            if !(1..=1 << 31).contains(&value) {
                return Err((key, format!("must be from 1 to 2147483648, not {value}")));
            }
        }
        if self.batch_size * self.block_size > 1 << 31 {
            let reason =
                format!("is {}, too many sequences of block_size {}", self.batch_size, self.block_size);
            return Err(("batch_size", reason));
        }
        if self.vocab_size > 1 << 31 {
            return Err(("vocab_size", format!("must be at most 2147483648, not {}", self.vocab_size)));
        }
        let shares = [
            ("dropout", self.dropout),
            ("lora_dropout", self.lora_dropout),
            ("beta1", self.beta1),
            ("beta2", self.beta2),
        ];
        for (key, value) in shares {
            if !(0.0..1.0).contains(&value) {
                return Err((key, format!("must be at least 0 and below 1, not {value}")));
            }
        }
        let amounts = [
            ("init_std", self.init_std),
            ("lora_alpha", self.lora_alpha),
            ("learning_rate", self.learning_rate),
            ("min_lr", self.min_lr),
            ("weight_decay", self.weight_decay),
            ("grad_clip", self.grad_clip),
            ("skip_loss_z", self.skip_loss_z),
            ("skip_grad_z", self.skip_grad_z),
            ("loss_scale", self.loss_scale),
            ("peak_tflops", self.peak_tflops),
        ];
        for (key, value) in amounts {
            if !(value >= 0.0 && value.is_finite()) {
                return Err((key, format!("must be a finite number of at least 0, not {value}")));
            }
        }
        if self.lora_rank > 1 << 16 {
            return Err(("lora_rank", format!("must be at most 65536, not {}", self.lora_rank)));
        }
        if self.lora_rank > 0 && self.init_from.is_empty() {
            return Err(("lora_rank", "needs init_from, the model that adapters stand beside".into()));
        }
        Lora::of(self).map_err(|reason| ("lora_targets", reason))?;
        // A power of two is its highest bit alone.
        if self.loss_scale.to_bits() << 12 != 0 || self.loss_scale == 0.0 {
            return Err(("loss_scale", format!("must be a power of two, not {}", self.loss_scale)));
        }
        if self.loss_scale_interval == 0 {
            return Err(("loss_scale_interval", "must be at least 1, not 0".into()));
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err((
                "n_head",
                format!("is {}, which does not divide n_embd, {}", self.n_head, self.n_embd),
            ));
        }
        Ok(())
    }

    fn from_table(table: Table) -> Result<Config, String> {
        Config::deserialize(table).map_err(|e| e.message().to_owned())
    }

    fn to_table(&self) -> Result<Table, String> {
        Table::try_from(self).map_err(|e| e.to_string())
    }
}

/// The config of a checkpoint at `path`, with `flags` over it.
///
/// # Errors
/// A flag whose value makes no sense.
pub fn resume(config: &Config, flags: &Flags, path: &Path) -> Result<Config, AppError> {
    let wrong = |reason: String| AppError::contents(path, reason);
    let mut table = config.to_table().map_err(wrong)?;
    table.extend(flags.0.clone());
    let config = Config::from_table(table).map_err(wrong)?;
    config.check().map_err(|(key, reason)| {
        let origin = format!("--{}", key.replace('_', "-"));
        AppError::Key { origin, key: key.into(), reason }
    })?;
    Ok(config)
}

/// One `key = value` line of a TOML text.
struct Entry<'a> {
    key: String,
    /// The value as it is written.
    value: &'a str,
    line: usize,
}

/// The top-level entries of `text`, in the order of their keys.
fn entries(text: &str) -> Result<Vec<Entry<'_>>, toml::de::Error> {
    let line = |at: usize| 1 + text[..at].matches('\n').count();
    let table = DeTable::parse(text)?;
    let entries = table.get_ref().iter().map(|(key, value)| Entry {
        key: key.get_ref().to_string(),
        value: &text[value.span()],
        line: line(key.span().start),
    });
    Ok(entries.collect())
}

/// The keys that were given as flags, to go over a config file.
#[derive(Clone, Debug, Default)]
pub struct Flags(Table);

impl Flags {
    /// Whether the key was given.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let defaults = entries(DEFAULT).unwrap_or_default();
        defaults.into_iter().fold(Config::augment_args(command), |command, entry| {
            // A string has quotes in TOML and none on the command line.
            let value = entry.value.trim_matches('"');
            command.mut_arg(entry.key, |arg| arg.required(false).default_value(value))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let config = Config::from_arg_matches(matches)?;
        let mut values = config.to_table().map_err(|reason| {
            clap::Error::raw(ErrorKind::ValueValidation, format!("a flag's value: {reason}\n"))
        })?;
        values.retain(|key, _| matches.value_source(key) == Some(ValueSource::CommandLine));
        Ok(Flags(values))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The config that `--config` names (`default` if it does not), with `flags` over it, and the run's name.
///
/// # Errors
/// A file that cannot be read, text that is not TOML, a key that does not exist, a value that makes
/// no sense: each with its file and line, or its flag.
pub fn load(selector: &str, flags: &Flags) -> Result<(String, Config), AppError> {
    match SHIPPED.iter().find(|(name, _)| *name == selector) {
        Some((name, text)) => Ok((name.to_string(), build(&format!("config {name}"), text, flags)?)),
        None => {
            let path = Path::new(selector);
            let looks_like_path = path.extension().is_some() || path.components().count() > 1;
            if !looks_like_path && !path.exists() {
                let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
                let reason = format!("{selector} is neither a file nor one of {}", names.join(", "));
                return Err(AppError::Argument { argument: "--config", reason });
            }
            let text = std::fs::read_to_string(path).map_err(AppError::io("read", path))?;
            let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            Ok((name, build(selector, &text, flags)?))
        }
    }
}

/// The default values, then `text`'s (a file called `origin`), then the flags'.
fn build(origin: &str, text: &str, flags: &Flags) -> Result<Config, AppError> {
    let malformed = |e: toml::de::Error| {
        // toml's message shows the line and points at the place.
        AppError::contents(Path::new(origin), format!("not a valid TOML file\n{e}"))
    };
    let entries = entries(text).map_err(malformed)?;
    let values: Table = toml::from_str(text).map_err(malformed)?;
    let mut table: Table = toml::from_str(DEFAULT).map_err(malformed)?;
    for entry in &entries {
        let Entry { key, line, .. } = entry;
        let origin = format!("{origin}, line {line}");
        if !table.contains_key(key) {
            let hint = match nearest(key, table.keys()) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("the keys are {}", table.keys().cloned().collect::<Vec<_>>().join(", ")),
            };
            return Err(AppError::UnknownKey { origin, key: key.clone(), hint });
        }
        table.insert(key.clone(), values[key].clone());
        // Once a key, so that the error can say which one it was.
        Config::from_table(table.clone()).map_err(|reason| AppError::Key {
            origin,
            key: key.clone(),
            reason: format!("cannot be {}: {reason}", entry.value),
        })?;
    }
    table.extend(flags.0.clone());

    let refused = |key: &str, reason: String| {
        let origin = match entries.iter().find(|entry| entry.key == key) {
            _ if flags.0.contains_key(key) => format!("--{}", key.replace('_', "-")),
            Some(entry) => format!("{origin}, line {}", entry.line),
            None => "config default".into(),
        };
        AppError::Key { origin, key: key.into(), reason }
    };
    let config = Config::from_table(table).map_err(|reason| AppError::contents(Path::new(origin), reason))?;
    config.check().map_err(|(key, reason)| refused(key, reason))?;
    Ok(config)
}

/// The key that is `wrong` but for a few letters.
fn nearest<'a>(wrong: &str, keys: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let close = 1 + wrong.chars().count() / 3;
    keys.map(|key| (edit_distance(wrong, key), key.as_str()))
        .min()
        .filter(|&(distance, _)| distance <= close)
        .map(|(_, key)| key)
}

/// Levenshtein's distance: insertions, deletions and replacements that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
pub mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    pub fn flags(arguments: &[&str]) -> Flags {
        let arguments = std::iter::once("gpt").chain(arguments.iter().copied());
        Cli::try_parse_from(arguments).unwrap().flags
    }

    /// The default config with some keys replaced, for other modules' tests.
    pub fn config(arguments: &[&str]) -> Config {
        load("default", &flags(arguments)).unwrap().1
    }

    fn error(text: &str, arguments: &[&str]) -> String {
        build("my.toml", text, &flags(arguments)).unwrap_err().to_string()
    }

    #[test]
    fn the_default_config_sets_every_key_and_no_other() {
        let config: Config = toml::from_str(DEFAULT).unwrap();
        assert_eq!(config, load("default", &Flags::default()).unwrap().1);
    }

    #[test]
    fn every_shipped_config_loads_with_its_values() {
        for (name, _) in SHIPPED {
            assert_eq!(load(name, &Flags::default()).unwrap().0, name);
        }
        let char = load("shakespeare-char", &Flags::default()).unwrap().1;
        assert_eq!((char.n_layer, char.n_embd, char.batch_size, char.dropout), (6, 384, 64, 0.2));
        let cpu = load("shakespeare-char-cpu", &Flags::default()).unwrap().1;
        assert_eq!((cpu.block_size, cpu.batch_size, cpu.max_iters, cpu.lr_decay_iters), (64, 12, 2000, 2000));
    }

    #[test]
    fn flags_go_over_the_file_and_the_file_over_the_defaults() {
        let flags = flags(&["--n-layer", "3", "--bias", "--dropout", ".25", "--decay-lr", "false"]);
        let config = build("my.toml", "n_layer = 2\nn_head = 1\nlearning_rate = 1", &flags).unwrap();
        assert_eq!((config.n_layer, config.n_head, config.learning_rate), (3, 1, 1.0));
        assert_eq!((config.bias, config.dropout, config.decay_lr), (true, 0.25, false));
        assert_eq!(config.seed, 1337);
    }

    #[test]
    fn an_unknown_key_names_the_line_and_the_nearest_key() {
        let message = error("# mine\nn_layer = 2\nmax_iter = 3\n", &[]);
        assert_eq!(message, "my.toml, line 3: unknown config key `max_iter`; did you mean `max_iters`?");
        assert!(error("wandb_project = 1", &[]).contains("the keys are activation, always_save_checkpoint"));
        assert!(error("[model]\nn_layer = 2", &[]).contains("line 1: unknown config key `model`"));
    }

    #[test]
    fn a_bad_value_names_the_line_or_the_flag() {
        let message = error("n_layer = 2\nn_embd = \"big\"", &[]);
        assert!(message.starts_with("my.toml, line 2: config key `n_embd` cannot be \"big\": "), "{message}");
        assert!(error("n_layer = -1", &[]).contains("line 1: config key `n_layer` cannot be -1"));
        assert!(error("n_layer = ", &[]).contains("not a valid TOML file"));
        assert_eq!(
            error("n_embd = 9", &["--n-head", "2"]),
            "--n-head: config key `n_head` is 2, which does not divide n_embd, 9"
        );
        assert!(error("\ndropout = 1.5", &[]).starts_with("my.toml, line 2: config key `dropout` must be"));
        assert!(error("", &["--min-lr", "NaN"]).starts_with("--min-lr: config key `min_lr` must be"));
        assert!(error("lora_rank = 2", &[]).contains("line 1: config key `lora_rank` needs init_from"));
        let targets = error("init_from = \"x\"\nlora_targets = \"c_attn\"\nlora_rank = 2", &[]);
        assert!(
            targets.contains("`lora_targets` names \"c_attn\", which is none of attn.c_attn, "),
            "{targets}"
        );
        assert!(error("loss_scale = 3.0", &[]).contains("must be a power of two, not 3"));
        assert!(
            error("max_time = \"soon\"", &[]).contains("line 1: config key `max_time` cannot be \"soon\"")
        );
        assert!(error("eval_interval = 0", &[]).contains("must be from 1 to"));
        assert!(error("batch_size = 100000000\nblock_size = 100", &[]).contains("too many sequences"));
    }

    #[test]
    fn a_config_that_is_nowhere_is_an_error_with_the_names() {
        let message = load("shakespear", &Flags::default()).unwrap_err().to_string();
        assert!(message.contains("default, shakespeare-char, shakespeare-char-cpu, gpt2-124m"), "{message}");
        let message = load("no/such.toml", &Flags::default()).unwrap_err().to_string();
        assert!(message.starts_with("cannot read no/such.toml: "), "{message}");
    }

    #[test]
    fn the_learning_rate_decays_only_if_it_should() {
        let schedule = |more: &str| config(&["--warmup-iters", "9", "--decay-lr", more]).schedule();
        assert_eq!([0, 9, 10_000].map(|step| schedule("true").lr(step)), [2e-4, 2e-3, 2e-4]);
        assert_eq!([0, 9, 10_000].map(|step| schedule("false").lr(step)), [2e-3; 3]);
        let lr = |name: &str, step| {
            config(&["--lr-schedule", name, "--wsd-decay-iters", "400"]).schedule().lr(step)
        };
        assert_eq!(
            ["cosine", "linear", "wsd", "constant"].map(|name| lr(name, 2050)),
            [1.1e-3, 1.1e-3, 2e-3, 2e-3]
        );
        assert_eq!(
            ["cosine", "linear", "wsd", "constant"].map(|name| lr(name, 4000)),
            [2e-4, 2e-4, 2e-4, 2e-3]
        );
    }

    #[test]
    fn edit_distances() {
        assert_eq!(edit_distance("n_layr", "n_layer"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
