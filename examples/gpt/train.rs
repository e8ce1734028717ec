//! The training run: batches in, a log, checkpoints and a plot out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tilewright::optim::{AdamW, AdamWConfig, LossScaler, ParamGroup};
use tilewright::random::Stream;
use tilewright::{Device, Tensor, Var, no_grad};

use crate::checkpoint::{Checkpoint, Header, Stored};
use crate::config::{self, Config, Flags, Optimizer, Precision};
use crate::data::{Blocks, Corpus, Draw, Random};
use crate::error::AppError;
use crate::files;
use crate::finetune;
use crate::flops;
use crate::generate::{self, Sampling};
use crate::interrupt;
use crate::model::Gpt;
use crate::outliers::Window;
use crate::profile::Profiler;
use crate::report::{Evaluation, History, Log, Progress, Skip, Step, count, note};
use crate::saves::{Best, Saves, Snapshot, State};
use crate::tensorboard::{self, Events};
use crate::tokenizer::Tokenizer;

const EXAMPLES: &str = "\
Files in --out: checkpoint.safetensors, the best model by validation loss; checkpoints/, what --resume goes on from;
log.jsonl, a line each step; report.html and loss.svg; events for TensorBoard; sample.txt

Exit codes: 0 at the end or when a budget is spent, 1 after an error, 2 for a wrong command line, 130 after Ctrl-C, of which
the first saves and leaves after the step and the second leaves at once

Examples:
  gpt train --config shakespeare-char-cpu --data input.txt
  gpt train --config shakespeare-char-cpu --resume --max-iters 4000
  gpt train --data shards --dtype bfloat16 --max-time 2h30m --patience 5 --out runs/night";

#[derive(Debug, clap::Args)]
#[command(args_override_self = true, after_help = EXAMPLES)]
pub struct TrainArgs {
    /// A TOML file, or default, shakespeare-char, shakespeare-char-cpu, gpt2-124m, gpt2-355m, gpt2-774m or gpt2-1558m
    #[arg(long, value_name = "FILE|NAME", default_value = "default")]
    config: String,
    /// What to learn: text, in a file or a folder, by characters; or token shards of gpt prepare or llm.c, as a .bin file,
    /// a folder or a quoted pattern such as 'data/*_00000*.bin'; or answers, in a .jsonl file with a prompt and a response, or
    /// the messages of a conversation, in each line. Without it, this repository's own sources and documents
    #[arg(long, value_name = "FILE|DIR|PATTERN")]
    data: Option<PathBuf>,
    /// auto, cpu, cuda, cuda:N, cuda-sim, wgpu, wgpu:N, wgpu:NAME or software
    #[arg(long, default_value = "auto")]
    device: String,
    /// Lets an NVIDIA GPU round what float32 products multiply to TF32, 10 bits of mantissa: several times faster
    #[arg(long)]
    tf32: bool,
    /// Where log, checkpoint and plot go; without it, runs/NAME after the config
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Goes on from the last save in --out, with its config and data, over which flags and --data go: to the same bits
    /// as if the run had never stopped, on the same kind of device. Without a save it starts from the beginning
    #[arg(long)]
    resume: bool,
    /// Starts from the beginning where --out holds saves of an earlier run, and removes them
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Measures the steps and prints what kernels and host took
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    flags: Flags,
}

/// The `train` subcommand; its summary and sample go to `output`.
pub fn run(args: &TrainArgs, output: &mut impl Write) -> Result<(), AppError> {
    let (name, mut config) = config::load(&args.config, &args.flags)?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&name));
    let saves = saves(&out);
    let snapshot = match saves.latest()? {
        Some(path) if args.resume => Some((Snapshot::load(&path)?, path)),
        Some(path) if !args.overwrite => {
            let hint = "go on from it with --resume, or start anew with --overwrite or another --out";
            return Err(AppError::Exists { path, found: "the save of an earlier run", hint });
        }
        None if args.resume => {
            note(format_args!("no save in {}: starting from the beginning", out.display()));
            None
        }
        _ => None,
    };
    let mut data = args.data.clone();
    if let Some((snapshot, path)) = &snapshot {
        config = config::resume(&snapshot.model.header.config, &args.flags, path)?;
        data = data.or(Some(snapshot.state.data.clone()));
        if args.flags.has("init_from") {
            config.init_from = finetune::absolute(&config.init_from)?;
        }
    }
    let data = data.unwrap_or_else(own_sources);
    let base = if snapshot.is_none() { finetune::start(&mut config, &args.flags)? } else { None };
    let start = base.as_ref().map(|base| &base.checkpoint);
    let start = start.or(snapshot.as_ref().map(|(snapshot, _)| &snapshot.model));
    let corpus = match start.filter(|_| !config.init_from.is_empty()) {
        Some(start) => Corpus::read_with(&data, &start.header.tokenizer)?,
        None => Corpus::read(&data)?,
    };
    corpus.check_length(&data, config.block_size)?;
    let (ids, unit) = (corpus.tokenizer.len(), corpus.tokenizer.unit());
    if config.vocab_size != 0 && config.vocab_size < ids {
        let reason = format!("is too small: the data has {ids} different {unit}s");
        return Err(AppError::Key { origin: data.display().to_string(), key: "vocab_size".into(), reason });
    }
    let device = crate::device(&args.device)?;
    if args.tf32 {
        crate::allow_tf32(&device)?;
    }
    fs::create_dir_all(&out).map_err(AppError::io("create", &out))?;
    saves.tidy()?;
    let mut trainer = match snapshot {
        None => {
            device.set_seed(config.seed);
            let model = Gpt::new(&config, ids, base, &device)?;
            saves.clear()?;
            Trainer::new(config, &corpus, &data, model, device, &out, [0, 0])?
        }
        Some((mut snapshot, path)) => {
            snapshot.check(&corpus, &data)?;
            snapshot.model.header.config = config.clone();
            let step = snapshot.model.header.step;
            let (masters, moments) = (snapshot.masters(&path), snapshot.take_moments(&path));
            let model = Gpt::from_checkpoint(snapshot.model, &masters.path, &device)?;
            let written = [snapshot.state.log_bytes, snapshot.state.event_bytes];
            let mut trainer = Trainer::new(config, &corpus, &data, model, device, &out, written)?;
            trainer.restore(step, masters, moments, snapshot.state)?;
            trainer
        }
    };
    note(format_args!(
        "{} in {} of {} ({}); {:.2} million parameters; on {}",
        corpus.size(),
        count(corpus.files, "file"),
        data.display(),
        corpus.tokenizer,
        trainer.model.parameter_count() as f64 / 1e6,
        trainer.device,
    ));
    if trainer.step > 0 {
        note(format_args!("going on after step {}", trainer.step));
    }
    if args.profile {
        trainer.profiler = Some(Profiler::new(&trainer.device, trainer.config.max_iters)?);
    }
    let plot = out.join("loss.svg");
    let stopped = trainer.train().map_err(AppError::of_data(&data));
    // A run that ends early still shows how far it came; that its plot may fail too is not the news.
    let plotted = trainer.history.plot(&format!("{name}: loss"), unit, &plot).and_then(|()| trainer.report());
    let stop = stopped?;
    plotted?;
    if let Some(profiler) = &trainer.profiler {
        generate::print(output, &profiler.report())?;
    }

    let mut summary = match stop {
        Stop::Interrupted => {
            let save = trainer.saves.latest()?.unwrap_or(out);
            return Err(AppError::Interrupted { step: trainer.step, save });
        }
        Stop::Steps => String::new(),
        Stop::Tokens => format!("stopped after step {}, by max_tokens\n", trainer.step),
        Stop::Time => format!("stopped after step {}, by max_time\n", trainer.step),
        Stop::Patience => format!("stopped after step {}, by patience\n", trainer.step),
    };
    if trainer.skipped > 0 {
        summary += &format!("{} of {} steps were left out\n", trainer.skipped, trainer.step);
    }
    if let Some(Best { step, val_loss }) = trainer.best {
        let better = if trainer.config.always_save_checkpoint { " at its best" } else { "" };
        summary += &format!("validation loss{better} {val_loss:.4} nats per {unit}, after step {step}\n\n");
    }
    let mut files = vec![trainer.checkpoint.clone(), out.join(LOG), plot, out.join(REPORT)];
    if trainer.config.sample_tokens > 0 {
        // By the model that was kept, as it is on disk.
        let kept = finetune::load(&trainer.checkpoint)?;
        let kept = Gpt::from_checkpoint(kept, &trainer.checkpoint, &trainer.device)?;
        let text = trainer.sample(&kept, trainer.config.sample_tokens)?;
        let sample = out.join("sample.txt");
        files::write(&sample, &text)?;
        summary.push_str(&format!("A sample:\n{}\n\n", text.trim()));
        files.push(sample);
    }
    for path in files {
        summary.push_str(&format!("{}\n", path.display()));
    }
    generate::print(output, &summary)
}

const REPORT: &str = "report.html";
const LOG: &str = "log.jsonl";

/// The saves of the run whose files go to `out`.
fn saves(out: &Path) -> Saves {
    Saves::new(out.join("checkpoints"))
}

/// This repository where it was built, or the current directory if it is no longer there.
fn own_sources() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    if built.is_dir() { built.into() } else { ".".into() }
}

fn optimizer(config: &Config, model: &Gpt) -> Result<AdamW, AppError> {
    let constants = match config.optimizer {
        Optimizer::Adamw => AdamWConfig::default(),
        Optimizer::Lamb => AdamWConfig::lamb(),
    };
    let (beta1, beta2) = (config.beta1, config.beta2);
    Ok(AdamW::with_groups(parameter_groups(config, model), AdamWConfig { beta1, beta2, ..constants })?)
}

/// Those with weight decay, matrices and embeddings, and those without.
fn parameter_groups(config: &Config, model: &Gpt) -> Vec<ParamGroup> {
    let vars = model.parameters().iter().map(|(_, var)| var.clone());
    let (decayed, others) = vars.partition(|var| var.rank() >= 2);
    vec![
        ParamGroup { vars: decayed, weight_decay: config.weight_decay },
        ParamGroup { vars: others, weight_decay: 0.0 },
    ]
}

/// Why a run takes no further step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    Steps,
    Tokens,
    Time,
    Patience,
    Interrupted,
}

/// What became of a step.
struct Update {
    /// Mean over its batch.
    loss: f32,
    /// Before clipping.
    grad_norm: f32,
    skipped: Option<Skip>,
}

struct Trainer {
    profiler: Option<Profiler>,
    config: Config,
    tokenizer: Tokenizer,
    model: Gpt,
    device: Device,
    optimizer: AdamW,
    /// In f16.
    scaler: Option<LossScaler>,
    losses: Window,
    grad_norms: Window,
    /// Steps left out.
    skipped: usize,
    random: Random,
    train: Blocks,
    val: Blocks,
    log: Log,
    history: History,
    events: Events,
    /// Of the device, in operations a second, if it is known.
    peak_flops: Option<f64>,
    out: PathBuf,
    data: PathBuf,
    /// What the data holds, in words.
    data_size: String,
    /// The best model so far, or with `always_save_checkpoint` the last one evaluated.
    checkpoint: PathBuf,
    saves: Saves,
    /// The best evaluation, and how many have come after it.
    best: Option<Best>,
    waited: usize,
    /// Steps taken and tokens seen.
    step: usize,
    tokens: u64,
    start: Instant,
    /// What the run had lasted at `start`.
    seconds_before: f64,
}

impl Trainer {
    /// At the start of a run, but for a log and events that go on after so many bytes.
    fn new(
        config: Config,
        corpus: &Corpus,
        data: &Path,
        model: Gpt,
        device: Device,
        out: &Path,
        [log_bytes, event_bytes]: [u64; 2],
    ) -> Result<Self, AppError> {
        let (log, steps) = Log::resume(out.join(LOG), log_bytes)?;
        let known =
            if config.dtype == Precision::Float32 { None } else { flops::peak_tflops(&device.to_string()) };
        let peak = if config.peak_tflops > 0.0 { Some(config.peak_tflops) } else { known };
        Ok(Trainer {
            profiler: None,
            random: Random::new(config.seed, Draw::Train),
            train: Blocks::new(&corpus.train, config.batch_size, config.block_size),
            val: Blocks::new(&corpus.val, config.batch_size, config.block_size),
            optimizer: optimizer(&config, &model)?,
            scaler: (config.dtype == Precision::Float16).then(|| LossScaler {
                scale: config.loss_scale,
                growth_interval: config.loss_scale_interval,
                ..Default::default()
            }),
            losses: Window::default(),
            grad_norms: Window::default(),
            skipped: 0,
            log,
            history: History::of(steps),
            events: Events::resume(out.join(tensorboard::FILE), event_bytes)?,
            peak_flops: peak.map(|peak| peak * 1e12),
            out: out.to_path_buf(),
            data: data.to_path_buf(),
            data_size: corpus.size(),
            checkpoint: out.join("checkpoint.safetensors"),
            saves: saves(out),
            best: None,
            waited: 0,
            step: 0,
            tokens: 0,
            start: Instant::now(),
            seconds_before: 0.0,
            config,
            tokenizer: corpus.tokenizer.clone(),
            model,
            device,
        })
    }

    /// Goes to where a save was made.
    fn restore(
        &mut self,
        step: usize,
        mut masters: Stored,
        mut moments: Stored,
        state: State,
    ) -> Result<(), AppError> {
        let parameters: Vec<_> = self.names().into_iter().zip(self.optimizer.vars().cloned()).collect();
        let take = |from: &mut Stored, name: &str, var: &Var| from.tensor(name, var.dims(), &Device::Cpu);
        let master = |(name, var): &(String, Var)| take(&mut masters, name, var);
        let masters = parameters.iter().map(master).collect::<Result<Vec<_>, _>>()?;
        let pair = |(name, var): &(String, Var)| {
            let mut moment = |which| take(&mut moments, &format!("{which}.{name}"), var);
            Ok((moment("first")?, moment("second")?))
        };
        let moments = parameters.iter().map(pair).collect::<Result<Vec<_>, AppError>>()?;
        self.optimizer.restore_masters(&masters)?;
        self.optimizer.restore(state.optimizer_steps, &moments)?;
        self.device.set_generator(Stream { seed: state.device_seed, offset: state.device_offset });
        self.random = Random::after(self.config.seed, Draw::Train, state.drawn);
        (self.best, self.waited) = (state.best, state.waited);
        (self.losses, self.grad_norms, self.skipped) = (state.losses, state.grad_norms, state.skipped);
        if let (Some(scaler), Some(loss_scale)) = (&mut self.scaler, state.loss_scale) {
            (scaler.scale, scaler.good_steps) = loss_scale;
        }
        (self.step, self.tokens, self.seconds_before) = (step, state.tokens, state.elapsed_s);
        Ok(())
    }

    /// The parameters' names in the optimizer's order.
    fn names(&self) -> Vec<String> {
        let name = |var: &Var| {
            let own = self.model.parameters().iter().find(|(_, other)| other.same(var));
            own.map_or_else(String::new, |(name, _)| name.clone())
        };
        self.optimizer.vars().map(name).collect()
    }

    /// Takes every step that is left; says why it is the last one.
    fn train(&mut self) -> Result<Stop, AppError> {
        let progress = Progress::new(self.config.max_iters, self.config.log_interval);
        let mut stop = self.stop();
        while stop.is_none() {
            stop = self.advance(&progress)?;
        }
        progress.finish();
        // It is at least one reason.
        Ok(stop.unwrap_or(Stop::Steps))
    }

    /// Takes a step and does what is due after it; says whether it is the last one.
    fn advance(&mut self, progress: &Progress) -> Result<Option<Stop>, AppError> {
        let step_start = Instant::now();
        let step = self.step + 1;
        let lr = self.config.schedule().lr(self.step);
        let loss_scale = self.scaler.map(|scaler| scaler.scale);
        let Update { loss, grad_norm, skipped } = match self.profiler.take() {
            None => self.step(lr)?,
            Some(mut profiler) => {
                let result = profiler.measure(step, || self.step(lr));
                self.profiler = Some(profiler);
                result?
            }
        };
        let Config { batch_size, block_size, n_layer, n_embd, .. } = self.config;
        let tokens = self.config.gradient_accumulation_steps * batch_size * block_size;
        let flops_per_token = flops::per_token(self.model.parameter_count(), n_layer, n_embd, block_size);
        (self.step, self.tokens) = (step, self.tokens + tokens as u64);
        let tokens_per_second = tokens as f64 / step_start.elapsed().as_secs_f64();
        let mut stop = self.stop();
        let due = match stop {
            None => step.is_multiple_of(self.config.eval_interval),
            // Whoever waits for the process to end does not want to wait for this.
            Some(reason) => reason != Stop::Interrupted,
        };
        let evaluation = if due { Some(self.evaluate()?) } else { None };
        let mut sample = None;
        if let Some(Evaluation { val_loss, .. }) = evaluation {
            if self.judge(val_loss)? && self.config.sample_tokens > 0 {
                sample = Some(self.sample(&self.model, self.config.sample_tokens.div_ceil(4))?);
            }
            stop = stop.or_else(|| self.stop());
        }
        let memory = self.device.memory();
        let record = Step {
            step,
            loss,
            lr,
            grad_norm,
            skipped,
            loss_scale,
            tokens_per_second,
            mfu: self.peak_flops.map(|peak| tokens_per_second * flops_per_token / peak),
            memory_bytes: memory.in_use + memory.cached,
            elapsed_s: self.elapsed_s(),
            evaluation,
            sample,
        };
        self.log.write(&record)?;
        self.events.push(&record)?;
        progress.show(&record);
        self.history.push(record);
        let save_is_due = match self.config.save_interval {
            0 => due,
            interval => step.is_multiple_of(interval),
        };
        if save_is_due || stop.is_some() {
            self.save(evaluation)?;
        }
        if evaluation.is_some() {
            self.report()?;
        }
        Ok(stop)
    }

    fn stop(&self) -> Option<Stop> {
        let Config { max_iters, max_tokens, max_time, patience, .. } = self.config;
        let stops = [
            (Stop::Interrupted, interrupt::requested()),
            (Stop::Steps, self.step >= max_iters),
            (Stop::Tokens, max_tokens > 0 && self.tokens >= max_tokens),
            (Stop::Time, !max_time.0.is_zero() && self.elapsed_s() >= max_time.0.as_secs_f64()),
            (Stop::Patience, patience > 0 && self.waited >= patience),
        ];
        stops.into_iter().find_map(|(stop, is_due)| is_due.then_some(stop))
    }

    /// What the run has lasted.
    fn elapsed_s(&self) -> f64 {
        self.seconds_before + self.start.elapsed().as_secs_f64()
    }

    /// Keeps the model if it is the best, or all are kept; returns whether it did.
    fn judge(&mut self, val_loss: f32) -> Result<bool, AppError> {
        check_finite(self.step, "validation loss", val_loss)?;
        let better = self.best.is_none_or(|best| val_loss < best.val_loss);
        if better {
            self.best = Some(Best { step: self.step, val_loss });
        }
        self.waited = if better { 0 } else { self.waited + 1 };
        let keep = better || self.config.always_save_checkpoint;
        if keep {
            self.checkpoint(val_loss)?.save(&self.checkpoint)?;
        }
        Ok(keep)
    }

    /// Text by a model.
    fn sample(&self, model: &Gpt, tokens: usize) -> Result<String, AppError> {
        let sampling = Sampling {
            max_new_tokens: tokens,
            temperature: 0.8,
            top_k: 200,
            seed: self.config.seed,
            ..Sampling::default()
        };
        let mut text = Vec::new();
        generate::write(model, &self.tokenizer, "", sampling, &self.device, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Writes the page that shows the run.
    fn report(&self) -> Result<(), AppError> {
        let unit = self.tokenizer.unit();
        let mut facts = vec![
            ("Data", format!("{}, {}", self.data.display(), self.data_size)),
            ("Parameters", self.model.parameter_count().to_string()),
            ("Device", self.device.to_string()),
            ("Steps", format!("{}, with {} {unit}s; {} left out", self.step, self.tokens, self.skipped)),
            ("Evaluations", format!("of {} batches of each split", self.config.eval_iters)),
            ("Time", humantime::format_duration(Duration::from_secs(self.elapsed_s() as u64)).to_string()),
        ];
        if let Some(Best { step, val_loss }) = self.best {
            facts.push(("Best validation loss", format!("{val_loss:.4} nats per {unit}, after step {step}")));
        }
        let title = format!("{}", self.out.display());
        self.history.report(&title, unit, &facts, &self.out.join(REPORT))
    }

    /// One update, if nothing speaks against it.
    fn step(&mut self, lr: f64) -> Result<Update, AppError> {
        let step = self.step + 1;
        let micro_batches = self.config.gradient_accumulation_steps;
        let scale = self.scaler.map_or(1.0, |scaler| scaler.scale);
        let mut scalars = Vec::with_capacity(micro_batches + 1);
        for _ in 0..micro_batches {
            let batch = self.train.random(&mut self.random, &self.device)?;
            let loss = self.model.scaled_loss(&batch, scale / micro_batches as f64)?;
            loss.backward()?;
            scalars.push(loss.detach());
        }
        scalars.push(self.optimizer.grad_norm()?);
        // The step's one wait for the device: what is decided by these numbers is queued behind it.
        let scalars: Vec<f32> = Tensor::stack(&scalars, 0)?.to_vec1()?;
        let (losses, norm) = scalars.split_at(micro_batches);
        let loss = losses.iter().map(|&loss| loss as f64).sum::<f64>() / scale;
        let grad_norm = norm[0] as f64 / scale;
        check_finite(step, "loss", loss as f32)?;
        let skipped = self.judge_step(loss, grad_norm);
        if skipped.is_none() {
            check_finite(step, "norm of the gradient", grad_norm as f32)?;
            let bound = if self.config.grad_clip == 0.0 { f64::INFINITY } else { self.config.grad_clip };
            // As PyTorch's clip_grad_norm_ has it.
            let clip = (bound / (grad_norm + 1e-6)).min(1.0);
            self.optimizer.set_lr(lr);
            self.optimizer.step_scaled(clip / scale)?;
        }
        self.skipped += usize::from(skipped.is_some());
        self.optimizer.zero_grad();
        Ok(Update { loss: loss as f32, grad_norm: grad_norm as f32, skipped })
    }

    /// Why a step with this loss and gradient is to be left out.
    fn judge_step(&mut self, loss: f64, grad_norm: f64) -> Option<Skip> {
        if let Some(scaler) = &mut self.scaler {
            scaler.update(grad_norm.is_finite());
            if !grad_norm.is_finite() {
                return Some(Skip::Overflow);
            }
        }
        let Config { skip_loss_z, skip_grad_z, .. } = self.config;
        let (loss_z, grad_z) = (self.losses.z(loss), self.grad_norms.z(grad_norm));
        let stands_out = |z: f64, bound: f64| bound > 0.0 && z > bound;
        let skips = [
            (Skip::Loss, stands_out(loss_z, skip_loss_z)),
            (Skip::Gradient, stands_out(grad_z, skip_grad_z)),
        ];
        skips.into_iter().find_map(|(skip, is_due)| is_due.then_some(skip))
    }

    fn evaluate(&self) -> Result<Evaluation, AppError> {
        Ok(Evaluation { train_loss: self.mean_loss(&self.train)?, val_loss: self.mean_loss(&self.val)? })
    }

    /// The mean loss over `eval_iters` batches from all over a split.
    fn mean_loss(&self, split: &Blocks) -> Result<f32, AppError> {
        no_grad(|| {
            let batches = split.spaced(self.config.eval_iters, &self.device);
            let losses =
                batches.map(|batch| self.model.loss(&batch?)).collect::<tilewright::Result<Vec<_>>>()?;
            Ok(mean(&Tensor::stack(&losses, 0)?.to_vec1()?))
        })
    }

    /// The model as it is, with its masters.
    fn checkpoint(&self, val_loss: f32) -> Result<Checkpoint<Tensor>, AppError> {
        let (config, tokenizer) = (self.config.clone(), self.tokenizer.clone());
        let base = self.model.base().map(Into::into);
        let header = Header { config, tokenizer, step: self.step, val_loss, base };
        Ok(Checkpoint { header, tensors: self.names().into_iter().zip(self.optimizer.masters()?).collect() })
    }

    /// Writes what [`Trainer::restore`] reads.
    fn save(&self, evaluation: Option<Evaluation>) -> Result<(), AppError> {
        let mut moments = BTreeMap::new();
        for (name, (m, v)) in self.names().into_iter().zip(self.optimizer.moments()?) {
            moments.insert(format!("first.{name}"), m);
            moments.insert(format!("second.{name}"), v);
        }
        let Stream { seed, offset } = self.device.generator_state();
        let state = State {
            data: self.data.clone(),
            train_tokens: self.train.size(),
            val_tokens: self.val.size(),
            drawn: self.random.drawn(),
            device_seed: seed,
            device_offset: offset,
            optimizer_steps: self.optimizer.steps(),
            best: self.best,
            waited: self.waited,
            tokens: self.tokens,
            loss_scale: self.scaler.map(|scaler| (scaler.scale, scaler.good_steps)),
            losses: self.losses.clone(),
            grad_norms: self.grad_norms.clone(),
            skipped: self.skipped,
            log_bytes: self.log.sync()?,
            event_bytes: self.events.sync()?,
            elapsed_s: self.elapsed_s(),
        };
        let model = self.checkpoint(evaluation.map_or(f32::NAN, |evaluation| evaluation.val_loss))?;
        self.saves.save(&Snapshot { model, moments, state }, self.config.keep)
    }
}

fn check_finite(step: usize, what: &'static str, value: f32) -> Result<(), AppError> {
    if value.is_finite() { Ok(()) } else { Err(AppError::Diverged { step, what, value }) }
}

fn mean(losses: &[f32]) -> f32 {
    (losses.iter().map(|&loss| loss as f64).sum::<f64>() / losses.len() as f64) as f32
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::checkpoint::Values;
    use crate::saves;
    use crate::shards::tests::by_hand;
    use crate::tests::alone;
    #[cfg(unix)]
    use crate::tests::program;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        train: TrainArgs,
    }

    const TINY: &str = "gpt --device cpu --n-layer 2 --n-head 2 --n-embd 16 --block-size 8 --batch-size 4 \
                        --max-iters 6 --eval-interval 3 --eval-iters 2 --warmup-iters 2 --sample-tokens 0";

    /// A directory of this test's own, with a text to learn.
    fn scratch(name: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("tilewright-gpt-train-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("text.txt"), "the cat sat on the mat.\n".repeat(40)).unwrap();
        directory
    }

    fn train(directory: &Path, out: &str, more: &str) -> Result<PathBuf, AppError> {
        let out = directory.join(out);
        let data = directory.join("text.txt");
        let paths = ["--data".as_ref(), data.as_os_str(), "--out".as_ref(), out.as_os_str()];
        let flags = TINY.split_whitespace().chain(more.split_whitespace()).map(AsRef::as_ref);
        let _alone = alone();
        run(&Cli::parse_from(flags.chain(paths)).train, &mut std::io::sink())?;
        Ok(out)
    }

    fn log(out: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn losses(out: &Path) -> Vec<String> {
        log(out).iter().map(|line| format!("{} {:?}", line["loss"], line.get("val_loss"))).collect()
    }

    #[test]
    fn a_run_leaves_its_files_and_learns() {
        let directory = scratch("files");
        let out = train(
            &directory,
            "run",
            "--max-iters 40 --learning-rate 1e-2 --dropout 0.1 --bias --sample-tokens 400",
        )
        .unwrap();
        let log = log(&out);
        assert_eq!(log.len(), 40);
        let loss = |i: usize| log[i]["loss"].as_f64().unwrap();
        // An untrained model knows nothing of its 12 characters.
        assert!((loss(0) - 12f64.ln()).abs() < 0.5, "{}", loss(0));
        assert!(loss(39) < 0.9 * loss(0), "{} after {}", loss(39), loss(0));
        assert_eq!(log.iter().filter(|line| line.get("val_loss").is_some()).count(), 14);
        assert!(log[39].get("val_loss").is_some(), "the last step is evaluated");
        assert!(fs::read_to_string(out.join("loss.svg")).unwrap().contains("default: loss"));
        assert!(fs::metadata(out.join("sample.txt")).unwrap().len() > 400);
        let page = fs::read_to_string(out.join(REPORT)).unwrap();
        assert!(
            page.contains("<h1>")
                && page.contains("Sample after step 3<")
                && page.contains("Sample after step 40<")
        );
        assert!(fs::metadata(out.join(tensorboard::FILE)).unwrap().len() > 40 * 100);

        let checkpoint = out.join("checkpoint.safetensors");
        let sampling =
            Sampling { max_new_tokens: 20, temperature: 0.8, top_k: 200, seed: 1, ..Sampling::default() };
        let text = generate::continued(&checkpoint, "the c", sampling).unwrap();
        assert!(text.starts_with("the c") && text.chars().count() == 26, "{text:?}");
        fs::remove_dir_all(directory).unwrap();
    }

    /// Shards as llm.c's scripts leave them: GPT-2's tokens, and nothing that says so.
    #[test]
    fn a_run_learns_from_llm_cs_shards() {
        let directory = scratch("shards");
        let data = directory.join("text.txt");
        fs::remove_file(&data).unwrap();
        fs::create_dir(&data).unwrap();
        let document = Tokenizer::Gpt2.encode("<|endoftext|>The cat sat on the mat.\n").unwrap();
        let document: Vec<u16> = document.into_iter().map(|id| id as u16).collect();
        fs::write(data.join("cats_train_000001.bin"), by_hand(&document.repeat(30))).unwrap();
        fs::write(data.join("cats_val_000000.bin"), by_hand(&document.repeat(4))).unwrap();
        let out = train(&directory, "run", "--max-iters 30 --learning-rate 1e-2").unwrap();
        let loss = |i: usize| log(&out)[i]["loss"].as_f64().unwrap();
        // An untrained model knows nothing of its 50257 tokens.
        assert!((loss(0) - 50257f64.ln()).abs() < 0.5, "{}", loss(0));
        assert!(loss(29) < 0.5 * loss(0), "{} after {}", loss(29), loss(0));
        let checkpoint = Checkpoint::load(&out.join("checkpoint.safetensors")).unwrap();
        assert_eq!(checkpoint.header.tokenizer, Tokenizer::Gpt2);

        // A tokenizer with fewer ids than the shards have.
        Tokenizer::Bytes.save(&data.join("tokenizer.json")).unwrap();
        let error = train(&directory, "run", "--overwrite").unwrap_err().to_string();
        assert!(error.contains("257"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn runs_of_16_bits_follow_those_of_32() {
        let directory = scratch("dtypes");
        let more = "--max-iters 20 --bias --learning-rate 3e-3 --dtype";
        let run = |dtype| train(&directory, dtype, &format!("{more} {dtype}")).unwrap();
        let exact = log(&run("float32"));
        for dtype in ["bfloat16", "float16"] {
            let out = run(dtype);
            for (exact, found) in exact.iter().zip(log(&out)) {
                let (exact, found) = (exact["loss"].as_f64().unwrap(), found["loss"].as_f64().unwrap());
                assert!((found - exact).abs() < 0.02 * exact, "{dtype}: {found}, {exact}");
            }
            // The checkpoint holds the masters, and from it comes the model's text.
            let path = out.join("checkpoint.safetensors");
            let checkpoint = Checkpoint::load(&path).unwrap();
            let data = &checkpoint.tensors["transformer.h.0.mlp.c_fc.weight"].data;
            assert!(data.iter().any(|x| x.to_bits() & 0xFFF != 0), "{dtype}: not one value needs f32");
            let sampling =
                Sampling { max_new_tokens: 20, temperature: 0.0, top_k: 200, seed: 1, ..Sampling::default() };
            let text = generate::continued(&path, "the c", sampling).unwrap();
            assert_eq!(text.chars().count(), 26);
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_same_command_gives_the_same_bits() {
        let directory = scratch("bits");
        let more = "--dropout 0.2 --vocab-size 64";
        let one = train(&directory, "one", more).unwrap();
        let two = train(&directory, "two", more).unwrap();
        let other = train(&directory, "other", &format!("{more} --seed 1")).unwrap();
        assert_eq!(losses(&one), losses(&two));
        assert_ne!(losses(&one), losses(&other));
        let bytes = |out: &Path| fs::read(out.join("checkpoint.safetensors")).unwrap();
        assert_eq!(bytes(&one), bytes(&two));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn evaluating_more_often_changes_no_training_loss() {
        let directory = scratch("evaluations");
        let loss = |out: PathBuf| log(&out).iter().map(|line| line["loss"].to_string()).collect::<Vec<_>>();
        let often = loss(train(&directory, "often", "--dropout 0.2 --eval-interval 1").unwrap());
        let seldom = loss(train(&directory, "seldom", "--dropout 0.2 --eval-interval 6").unwrap());
        assert_eq!(often, seldom);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn micro_batches_add_up_to_their_batch() {
        let directory = scratch("micro");
        let whole = train(&directory, "whole", "--batch-size 8").unwrap();
        let parts = train(&directory, "parts", "--batch-size 2 --gradient-accumulation-steps 4").unwrap();
        for (whole, parts) in log(&whole).iter().zip(log(&parts)) {
            for key in ["loss", "grad_norm"] {
                let (whole, parts) = (whole[key].as_f64().unwrap(), parts[key].as_f64().unwrap());
                assert!((whole - parts).abs() < 1e-4, "{key}: {whole}, {parts}");
            }
        }
        fs::remove_dir_all(directory).unwrap();
    }

    /// Every loss, and the bits of weights and optimizer, when a run ends.
    fn end(out: &Path) -> (Vec<String>, BTreeMap<String, Values>, BTreeMap<String, Values>) {
        let snapshot = Snapshot::load(&saves(out).latest().unwrap().unwrap()).unwrap();
        let losses = log(out).iter().map(|line| line["loss"].to_string()).collect();
        (losses, snapshot.model.tensors, snapshot.moments)
    }

    fn resumes_bit_for_bit(directory: &Path, more: &str) {
        let whole = train(directory, "whole", &format!("{more} --max-iters 7")).unwrap();
        let cut = |steps: usize, resume: &str| {
            train(directory, "cut", &format!("{more} --max-iters {steps} {resume}")).unwrap()
        };
        cut(2, "");
        cut(5, "--resume");
        let out = cut(7, "--resume");
        assert!(end(&out) == end(&whole), "{more}");
        fs::remove_dir_all(whole).unwrap();
        fs::remove_dir_all(out).unwrap();
    }

    /// llm.c's shards of 12 tokens, for training and validation.
    fn write_shards(directory: &Path) {
        for (name, repeats) in
            [("a_train_000000.bin", 12), ("a_train_000001.bin", 9), ("a_val_000000.bin", 4)]
        {
            fs::write(directory.join(name), by_hand(&[7, 1, 4, 2, 8, 5, 7, 0, 3, 6, 9, 11].repeat(repeats)))
                .unwrap();
        }
        Tokenizer::Bytes.save(&directory.join("tokenizer.json")).unwrap();
    }

    #[test]
    fn a_resumed_run_ends_in_the_same_bits() {
        let directory = scratch("resume");
        resumes_bit_for_bit(&directory, "--dropout 0.2 --bias");
        resumes_bit_for_bit(&directory, "--dropout 0.1 --batch-size 3 --gradient-accumulation-steps 3");
        for dtype in ["bfloat16", "float16"] {
            resumes_bit_for_bit(&directory, &format!("--dropout 0.1 --dtype {dtype}"));
        }
        fs::remove_file(directory.join("text.txt")).unwrap();
        fs::create_dir(directory.join("text.txt")).unwrap();
        write_shards(&directory.join("text.txt"));
        resumes_bit_for_bit(&directory, "--dropout 0.1");
        fs::remove_dir_all(directory).unwrap();
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn a_resumed_run_ends_in_the_same_bits_on_a_software_adapter() {
        if let Err(error) = Device::wgpu("software") {
            let _ = writeln!(std::io::stderr(), "NOT RUN on wgpu: {error}");
            return;
        }
        let directory = scratch("resume-wgpu");
        resumes_bit_for_bit(&directory, "--device software --dropout 0.2 --bias");
        resumes_bit_for_bit(&directory, "--device software --dtype bfloat16 --gradient-accumulation-steps 2");
        fs::remove_dir_all(directory).unwrap();
    }

    #[cfg(feature = "cuda-sim")]
    #[test]
    fn a_resumed_run_ends_in_the_same_bits_on_a_simulated_gpu() {
        if let Err(error) = Device::cuda_sim() {
            let _ = writeln!(std::io::stderr(), "NOT RUN on cuda-sim: {error}");
            return;
        }
        let directory = scratch("resume-cuda");
        let tiny = "--device cuda-sim --n-layer 1 --batch-size 1 --eval-iters 1 --dropout 0.2";
        resumes_bit_for_bit(&directory, tiny);
        resumes_bit_for_bit(&directory, &format!("{tiny} --dtype bfloat16"));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_run_goes_on_only_as_it_should() {
        let directory = scratch("resume-errors");
        let error = |more: &str| train(&directory, "run", more).unwrap_err().to_string();
        let out = train(&directory, "run", "--resume --save-interval 2 --keep 2 --eval-interval 4").unwrap();
        assert_eq!(saves::tests::names(&out.join("checkpoints")), ["step-00000004", "step-00000006"]);
        assert!(error("").ends_with(
            "step-00000006 holds the save of an earlier run; go on from it with --resume, \
                                     or start anew with --overwrite or another --out"
        ));
        assert!(error("--resume --n-embd 32").contains("has shape"));
        assert!(error("--resume --dropout 2").starts_with("--dropout: config key `dropout` must be"));
        assert_eq!(log(&out).len(), 6, "what fails changes nothing");
        train(&directory, "run", "--overwrite --max-iters 3").unwrap();
        assert_eq!(log(&out).len(), 3);
        assert_eq!(saves::tests::names(&out.join("checkpoints")), ["step-00000003"]);
        fs::write(directory.join("text.txt"), "the cat sat on the mat.\n".repeat(41)).unwrap();
        assert!(
            error("--resume")
                .contains("text.txt: not what the run has learned from: it has 885 and 99 tokens")
        );
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn budgets_end_a_run() {
        let directory = scratch("budgets");
        // 32 tokens a step.
        let out = train(&directory, "tokens", "--max-tokens 100 --max-iters 50 --eval-interval 50").unwrap();
        assert_eq!(log(&out).len(), 4);
        assert!(log(&out)[3].get("val_loss").is_some(), "the last step is evaluated");
        let out = train(&directory, "tokens", "--max-tokens 150 --max-iters 50 --resume").unwrap();
        assert_eq!(log(&out).len(), 5);
        train(&directory, "tokens", "--max-tokens 150 --max-iters 50 --resume").unwrap();
        assert_eq!(log(&out).len(), 5, "a run that has ended goes on with nothing");

        let out = train(&directory, "time", "--max-time 100ms --max-iters 1000000").unwrap();
        let steps = log(&out);
        assert!(steps[steps.len() - 1]["elapsed_s"].as_f64().unwrap() >= 0.1);
        assert!(steps.len() < 100_000, "{}", steps.len());

        // Nothing is learned, so that only the first evaluation is better than none before it.
        let more = "--patience 2 --learning-rate 0 --min-lr 0 --max-iters 50";
        assert_eq!(log(&train(&directory, "patience", more).unwrap()).len(), 9);
        fs::remove_dir_all(directory).unwrap();
    }

    /// A trainer in a process of its own, on `directory`'s text, with files in its folder `out`.
    #[cfg(unix)]
    fn process(directory: &Path, out: &str, more: &str, longest_file: Option<u64>) -> std::process::Command {
        let mut line: Vec<String> =
            TINY.split_whitespace().chain(more.split_whitespace()).map(Into::into).collect();
        for (flag, name) in [("--data", "text.txt"), ("--out", out)] {
            line.extend([flag.into(), directory.join(name).display().to_string()]);
        }
        program(&line, longest_file)
    }

    /// Lines of the log, as far as it is written.
    #[cfg(unix)]
    fn lines(out: &Path) -> usize {
        fs::read(out.join(LOG)).map_or(0, |text| text.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// Killed twenty times, half of them while it saves, the trainer ends in the bits of a run that was left alone.
    #[cfg(unix)]
    #[test]
    fn kill_dash_nine_costs_nothing_older_than_the_last_save() {
        const STEPS: usize = 200;
        const KILLS: usize = 20;
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        println!("killed at moments of seed {seed}");
        let mut random = Random::new(seed.into(), Draw::Sample);
        let directory = scratch("kill");
        let more =
            format!("--n-layer 1 --dropout 0.2 --max-iters {STEPS} --save-interval 3 --eval-interval 20");
        let whole = directory.join("whole");
        assert!(process(&directory, "whole", &more, None).status().unwrap().success());

        let out = directory.join("cut");
        let latest = || saves(&out).latest().unwrap();
        let mut moments: Vec<usize> = (0..KILLS).map(|_| random.below(STEPS * 4 / 5)).collect();
        moments.sort_unstable();
        let (mut while_saving, mut last) = (0, None);
        for (kill, moment) in moments.into_iter().enumerate() {
            let mut trainer = process(&directory, "cut", &format!("{more} --resume"), None).spawn().unwrap();
            let parts =
                || saves::tests::names(&out.join("checkpoints")).iter().any(|name| name.ends_with(".part"));
            let mut wait = |for_what: &dyn Fn() -> bool| {
                while !for_what() {
                    assert_eq!(trainer.try_wait().unwrap(), None, "the trainer ended by itself");
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
            };
            wait(&|| lines(&out) >= moment);
            if kill % 2 == 0 {
                wait(&parts);
            } else {
                std::thread::sleep(std::time::Duration::from_micros(random.below(5000) as u64));
            }
            trainer.kill().unwrap();
            assert_eq!(trainer.wait().unwrap().code(), None, "ended by the signal");
            while_saving += usize::from(parts());
            assert!(latest() >= last, "{:?} after {last:?}", latest());
            last = latest();
        }
        println!("{while_saving} of {KILLS} while a save was written");
        assert!(while_saving > 0);
        assert!(process(&directory, "cut", &format!("{more} --resume"), None).status().unwrap().success());
        assert!(end(&out) == end(&whole), "seed {seed}");
        assert_eq!(losses(&out), losses(&whole));
        assert_eq!(
            fs::read(out.join("checkpoint.safetensors")).unwrap(),
            fs::read(whole.join("checkpoint.safetensors")).unwrap()
        );
        assert!(!saves::tests::names(&out.join("checkpoints")).iter().any(|name| name.ends_with(".part")));
        fs::remove_dir_all(directory).unwrap();
    }

    /// A save that finds no room: files may be as long as the model, but not as its moments.
    #[cfg(unix)]
    #[test]
    fn a_save_without_room_is_an_error_and_leaves_the_former() {
        let directory = scratch("room");
        let whole = train(&directory, "whole", "--save-interval 2").unwrap();
        // Without an evaluation, whose report would be too long as well.
        let more = "--save-interval 2 --eval-interval 100 --resume";
        let out = train(&directory, "cut", &format!("{more} --max-iters 2")).unwrap();
        let before = saves(&out).latest().unwrap();
        let size = fs::metadata(out.join("checkpoint.safetensors")).unwrap().len();
        let output = process(&directory, "cut", more, Some(size * 3 / 2)).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("error: cannot write ") && error.contains("optimizer.safetensors: File too large"),
            "{error}"
        );
        assert_eq!(saves(&out).latest().unwrap(), before);
        assert_eq!(saves::tests::names(&out.join("checkpoints")), ["step-00000002"]);
        train(&directory, "cut", more).unwrap();
        assert!(end(&out) == end(&whole));
        fs::remove_dir_all(directory).unwrap();
    }

    /// Ctrl-C as a terminal sends it.
    #[cfg(unix)]
    #[test]
    fn ctrl_c_saves_and_leaves() {
        let directory = scratch("interrupt");
        let more = "--max-iters 1000000 --eval-interval 1000000";
        let out = directory.join("run");
        let trainer = process(&directory, "run", more, None).spawn().unwrap();
        while lines(&out) < 5 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let interrupted =
            std::process::Command::new("kill").args(["-INT", &trainer.id().to_string()]).status();
        assert!(interrupted.unwrap().success());
        let output = trainer.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{error}");
        let steps = log(&out).len();
        assert!(
            error.contains(&format!("interrupted after step {steps}; --resume goes on from ")),
            "{error}"
        );
        let whole = train(&directory, "whole", &format!("--max-iters {}", steps + 2)).unwrap();
        train(&directory, "run", &format!("--resume --max-iters {}", steps + 2)).unwrap();
        assert!(end(&out) == end(&whole));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn weight_decay_is_for_matrices_and_embeddings() {
        let config = crate::config::tests::config(&["--n-layer", "1", "--bias"]);
        let _alone = alone();
        let model = Gpt::new(&config, 5, None, &Device::Cpu).unwrap();
        let decayed = |name: &str| !name.ends_with(".bias") && !name.contains(".ln_");
        let groups = parameter_groups(&config, &model);
        for (name, var) in model.parameters() {
            let group = groups.iter().find(|group| group.vars.iter().any(|other| other.same(var))).unwrap();
            assert_eq!(group.weight_decay, if decayed(name) { 0.1 } else { 0.0 }, "{name}");
        }
    }

    #[test]
    fn lamb_learns() {
        let directory = scratch("lamb");
        let out = train(&directory, "run", "--optimizer lamb --learning-rate 1e-2 --max-iters 40").unwrap();
        let loss = |i: usize| log(&out)[i]["loss"].as_f64().unwrap();
        assert!(loss(39) < 0.9 * loss(0), "{} after {}", loss(39), loss(0));
        resumes_bit_for_bit(&directory, "--optimizer lamb --dtype bfloat16");
        fs::remove_dir_all(directory).unwrap();
    }

    /// With a scale that overflows f16 at first, the trainer finds the largest that does not.
    #[test]
    fn the_loss_scale_falls_until_nothing_overflows_and_rises_again() {
        let directory = scratch("scale");
        let more = "--dtype float16 --loss-scale 16777216 --loss-scale-interval 3 --max-iters 30 --learning-rate 3e-3";
        let steps = log(&train(&directory, "run", more).unwrap());
        let scale = |i: usize| steps[i]["loss_scale"].as_f64().unwrap();
        let overflowed = |i: usize| steps[i].get("skipped").is_some_and(|skip| skip == "overflow");
        assert!(overflowed(0) && steps[0]["grad_norm"].is_null());
        let mut good = 0;
        for i in 0..29 {
            good = if overflowed(i) { 0 } else { good + 1 };
            let factor = if overflowed(i) {
                0.5
            } else if good == 3 {
                2.0
            } else {
                1.0
            };
            good %= 3;
            assert_eq!(scale(i + 1), (scale(i) * factor).min(16777216.0), "after step {}", i + 1);
        }
        let skips = (0..30).filter(|&i| overflowed(i)).count();
        assert!((2..20).contains(&skips), "{skips} of 30 steps overflowed");
        assert!(steps[29]["loss"].as_f64() < steps[0]["loss"].as_f64());
        resumes_bit_for_bit(&directory, "--dtype float16 --loss-scale 4194304 --loss-scale-interval 2");
        fs::remove_dir_all(directory).unwrap();
    }

    /// A text that becomes another one: what is new stands out.
    #[test]
    fn steps_that_stand_out_are_left_out() {
        let directory = scratch("outliers");
        let more = "--max-iters 200 --batch-size 1 --eval-interval 200 --learning-rate 1e-2";
        let steps = log(&train(&directory, "all", more).unwrap());
        assert!(steps.iter().all(|step| step.get("skipped").is_none()));
        let steps =
            log(&train(&directory, "some", &format!("{more} --skip-loss-z 1.5 --skip-grad-z 2")).unwrap());
        let skipped = |why: &str| {
            steps.iter().filter(|step| step.get("skipped").is_some_and(|skip| skip == why)).count()
        };
        assert!(steps[..128].iter().all(|step| step.get("skipped").is_none()), "too few are known");
        assert!(
            skipped("loss") > 0 && skipped("loss") + skipped("gradient") < 30,
            "{} {}",
            skipped("loss"),
            skipped("gradient")
        );
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn recomputing_activations_changes_no_bit() {
        let directory = scratch("recompute");
        for more in ["--dropout 0.2 --gradient-accumulation-steps 2", "--dropout 0.1 --dtype bfloat16 --bias"]
        {
            let run = |name, recompute| {
                end(&train(&directory, name, &format!("{more} --overwrite {recompute}")).unwrap())
            };
            assert!(run("repeated", "--recompute") == run("plain", ""), "{more}");
        }
        resumes_bit_for_bit(&directory, "--recompute --dropout 0.2");
        fs::remove_dir_all(directory).unwrap();
    }

    /// nanoGPT's GPU config learns a row of 256 random tokens by heart, under its dropout and learning rates.
    fn learns_by_heart(device: &str) {
        let directory = scratch(&format!("by-heart-{device}"));
        let mut random = Random::new(7, Draw::Sample);
        let row: Vec<u16> = (0..257).map(|_| random.below(65) as u16).collect();
        for split in ["train", "val"] {
            fs::write(directory.join(format!("{split}.bin")), by_hand(&row)).unwrap();
        }
        Tokenizer::Bytes.save(&directory.join("tokenizer.json")).unwrap();
        let flags = config::tests::flags(&["--batch-size", "1", "--eval-iters", "1"]);
        let config = config::load("shakespeare-char", &flags).unwrap().1;
        let corpus = Corpus::read(&directory).unwrap();
        let device = crate::device(device).unwrap();
        device.set_seed(config.seed);
        let model = Gpt::new(&config, corpus.tokenizer.len(), None, &device).unwrap();
        let schedule = config.schedule();
        let mut trainer =
            Trainer::new(config, &corpus, &directory, model, device, &directory, [0, 0]).unwrap();
        let start = Instant::now();
        let mut loss = f32::INFINITY;
        while loss >= 0.1 {
            assert!(trainer.step < 100, "the loss is {loss} after {} steps", trainer.step);
            for _ in 0..5 {
                trainer.step(schedule.lr(trainer.step)).unwrap();
                trainer.step += 1;
            }
            loss = trainer.mean_loss(&trainer.train).unwrap();
            let (device, seconds) = (&trainer.device, start.elapsed().as_secs_f32());
            println!("{device}: loss {loss:.4} after step {}, {seconds:.0} s", trainer.step);
        }
        fs::remove_dir_all(directory).unwrap();
    }

    /// `cargo test --release --features cuda-sim --example gpt -- --ignored --nocapture learns_by_heart`
    #[test]
    #[ignore = "takes seconds in a release build"]
    fn the_processor_learns_by_heart() {
        learns_by_heart("cpu");
    }

    #[cfg(feature = "wgpu")]
    #[test]
    #[ignore = "takes a minute in a release build"]
    fn a_software_adapter_learns_by_heart() {
        learns_by_heart("software");
    }

    #[cfg(feature = "cuda-sim")]
    #[test]
    #[ignore = "takes half an hour in a release build"]
    fn a_simulated_gpu_learns_by_heart() {
        learns_by_heart("cuda-sim");
    }

    /// What all threads of this process have spent on processors.
    #[cfg(target_os = "linux")]
    fn processor_time() -> Duration {
        let nanoseconds = |task: std::io::Result<fs::DirEntry>| -> u64 {
            // A thread may end meanwhile.
            let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
        };
        Duration::from_nanos(fs::read_dir("/proc/self/task").unwrap().map(nanoseconds).sum())
    }

    /// Steps of shakespeare-char-cpu with the log, events and a save, and in turns with them the bare steps of a second model.
    /// `cargo test --release --example gpt -- --ignored --nocapture watching`
    #[cfg(target_os = "linux")]
    #[test]
    #[ignore = "takes seconds in a release build"]
    fn watching_a_run_costs_less_than_three_percent() {
        let directory = scratch("watching");
        let text = "The cat sat on the mat, and the dog on the log.\n".repeat(400);
        fs::write(directory.join("text.txt"), text).unwrap();
        let flags = config::tests::flags(&["--eval-interval", "1000", "--save-interval", "100"]);
        let config = config::load("shakespeare-char-cpu", &flags).unwrap().1;
        let schedule = config.schedule();
        let corpus = Corpus::read(&directory).unwrap();
        let (ids, device) = (corpus.tokenizer.len(), Device::Cpu);
        let _alone = alone();
        let model = || Gpt::new(&config, ids, None, &device).unwrap();
        let data = directory.join("text.txt");
        let mut watched =
            Trainer::new(config.clone(), &corpus, &data, model(), Device::Cpu, &directory, [0, 0]).unwrap();
        let progress = Progress::new(config.max_iters, config.log_interval);

        let bare = model();
        let mut optimizer = optimizer(&config, &bare).unwrap();
        let blocks = Blocks::new(&corpus.train, config.batch_size, config.block_size);
        let mut random = Random::new(config.seed, Draw::Train);
        let mut bare_step = |step| {
            let batch = blocks.random(&mut random, &device).unwrap();
            let loss = bare.scaled_loss(&batch, 1.0).unwrap();
            loss.backward().unwrap();
            optimizer.set_lr(schedule.lr(step));
            optimizer.step().unwrap();
            optimizer.zero_grad();
            assert!(loss.to_scalar::<f32>().unwrap().is_finite());
        };
        // Of both, the time and the processors' time.
        let begin = Instant::now();
        let now = || [begin.elapsed(), processor_time()];
        let mut spent = [[Duration::ZERO; 2]; 2];
        for step in 0..210 {
            let start = now();
            assert_eq!(watched.advance(&progress).unwrap(), None);
            let middle = now();
            bare_step(step);
            let end = now();
            // The first ones meet cold memory.
            if step >= 10 {
                for i in 0..2 {
                    spent[0][i] += middle[i] - start[i];
                    spent[1][i] += end[i] - middle[i];
                }
            }
        }
        let more = |i: usize| spent[0][i].as_secs_f64() / spent[1][i].as_secs_f64() - 1.0;
        println!(
            "200 bare steps: {:.3?}, and {:.3?} of processors; with all around them {:.2} % and {:.2} % more",
            spent[1][0],
            spent[1][1],
            100.0 * more(0),
            100.0 * more(1)
        );
        assert!(more(1) < 0.03);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn bad_runs_end_with_an_error() {
        let directory = scratch("errors");
        let error = |more: &str| train(&directory, "run", more).unwrap_err().to_string();
        assert!(error("--block-size 2000").contains("text.txt: too short"));
        assert!(error("--vocab-size 3").contains("`vocab_size` is too small: the data has 12"));
        assert!(error("--learning-rate 1e30 --grad-clip 0").contains("training diverged"));
        fs::write(directory.join("run-file"), "").unwrap();
        let message = train(&directory, "run-file", "").unwrap_err().to_string();
        assert!(message.starts_with("cannot create ") && message.contains("run-file"), "{message}");
        fs::remove_dir_all(directory).unwrap();
    }
}
