//! The training run: batches in, a log, checkpoints and a plot out.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tilewright::optim::{AdamW, AdamWConfig, ParamGroup};
use tilewright::{Device, Tensor, no_grad};

use crate::checkpoint::{Checkpoint, Header};
use crate::config::{self, Config, Flags};
use crate::data::{Blocks, Corpus, Draw, Random};
use crate::error::AppError;
use crate::generate::{self, Sampling};
use crate::model::Gpt;
use crate::profile::Profiler;
use crate::report::{Evaluation, History, Log, Progress, Step, note};
use crate::tokenizer::Tokenizer;

#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct TrainArgs {
    /// A TOML file, or default, shakespeare-char, shakespeare-char-cpu or gpt2-124m
    #[arg(long, value_name = "FILE|NAME", default_value = "default")]
    config: String,
    /// What to learn: text, in a file or a folder, by characters; or token shards of gpt prepare or llm.c, as a .bin file,
    /// a folder or a quoted pattern such as 'data/*_00000*.bin'. Without it, this repository's own sources and documents
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
    /// Measures the steps and prints what kernels and host took
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    flags: Flags,
}

/// The `train` subcommand; its summary and sample go to `output`.
pub fn run(args: &TrainArgs, output: &mut impl Write) -> Result<(), AppError> {
    let (name, config) = config::load(&args.config, &args.flags)?;
    let data = args.data.clone().unwrap_or_else(own_sources);
    let corpus = Corpus::read(&data)?;
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
    device.set_seed(config.seed);
    let model = Gpt::new(&config, ids, &device)?;
    note(format_args!(
        "{} {unit}s in {} files of {} ({}); {:.2} million parameters; on {device}",
        corpus.train.len() + corpus.val.len(),
        corpus.files,
        data.display(),
        corpus.tokenizer,
        model.parameter_count() as f64 / 1e6,
    ));

    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&name));
    fs::create_dir_all(&out).map_err(AppError::io("create", &out))?;
    let log = out.join("log.jsonl");
    let plot = out.join("loss.svg");
    let checkpoint = out.join("checkpoint.safetensors");
    let mut trainer = Trainer {
        profiler: args.profile.then(|| Profiler::new(&device, config.max_iters)).transpose()?,
        random: Random::new(config.seed, Draw::Train),
        train: Blocks::new(&corpus.train, config.batch_size, config.block_size),
        val: Blocks::new(&corpus.val, config.batch_size, config.block_size),
        optimizer: optimizer(&config, &model)?,
        log: Log::create(log.clone())?,
        history: History::default(),
        checkpoint: checkpoint.clone(),
        config,
        tokenizer: corpus.tokenizer.clone(),
        model,
        device,
    };
    let trained = trainer.train();
    // A run that ends early still shows how far it came; that its plot may fail too is not the news.
    let plotted = trainer.history.plot(&format!("{name}: loss"), unit, &plot);
    let saved = trained?;
    plotted?;
    if let Some(profiler) = &trainer.profiler {
        generate::print(output, &profiler.report())?;
    }

    let sampling = Sampling { max_new_tokens: 400, temperature: 0.8, top_k: 200, seed: trainer.config.seed };
    let mut text = Vec::new();
    generate::generate(&checkpoint, "", sampling, &trainer.device, &mut text)?;
    let sample = out.join("sample.txt");
    fs::write(&sample, &text).map_err(AppError::io("write", &sample))?;
    let mut summary = format!(
        "validation loss {:.4} nats per {unit}, after step {}\n\nA sample:\n{}\n\n",
        saved.val_loss,
        saved.step,
        String::from_utf8_lossy(&text).trim(),
    );
    for path in [&checkpoint, &log, &plot, &sample] {
        summary.push_str(&format!("{}\n", path.display()));
    }
    generate::print(output, &summary)
}

/// This repository where it was built, or the current directory if it is no longer there.
fn own_sources() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    if built.is_dir() { built.into() } else { ".".into() }
}

/// AdamW with weight decay on matrices and embeddings, and none on biases and norms.
fn optimizer(config: &Config, model: &Gpt) -> Result<AdamW, AppError> {
    let vars = model.parameters().iter().map(|(_, var)| var.clone());
    let (decayed, others) = vars.partition(|var| var.rank() >= 2);
    let groups = vec![
        ParamGroup { vars: decayed, weight_decay: config.weight_decay },
        ParamGroup { vars: others, weight_decay: 0.0 },
    ];
    let adamw = AdamWConfig { beta1: config.beta1, beta2: config.beta2, ..Default::default() };
    Ok(AdamW::with_groups(groups, adamw)?)
}

/// What the checkpoint on disk holds.
#[derive(Clone, Copy)]
struct Saved {
    step: usize,
    val_loss: f32,
}

struct Trainer {
    profiler: Option<Profiler>,
    config: Config,
    tokenizer: Tokenizer,
    model: Gpt,
    device: Device,
    optimizer: AdamW,
    random: Random,
    train: Blocks,
    val: Blocks,
    log: Log,
    history: History,
    checkpoint: PathBuf,
}

impl Trainer {
    /// Takes every step; returns what the checkpoint then holds.
    fn train(&mut self) -> Result<Saved, AppError> {
        let steps = self.config.max_iters;
        let schedule = self.config.schedule();
        let progress = Progress::new(steps, self.config.log_interval);
        let tokens =
            self.config.gradient_accumulation_steps * self.config.batch_size * self.config.block_size;
        let mut saved = Saved { step: 0, val_loss: f32::INFINITY };
        let start = Instant::now();
        for step in 1..=steps {
            let step_start = Instant::now();
            let lr = schedule.lr(step - 1);
            let (loss, grad_norm) = match self.profiler.take() {
                None => self.step(lr)?,
                Some(mut profiler) => {
                    let result = profiler.measure(step, || self.step(lr));
                    self.profiler = Some(profiler);
                    result?
                }
            };
            check_finite(step, loss)?;
            let tokens_per_second = tokens as f64 / step_start.elapsed().as_secs_f64();
            let due = step.is_multiple_of(self.config.eval_interval) || step == steps;
            let evaluation = if due { Some(self.evaluate()?) } else { None };
            let elapsed_s = start.elapsed().as_secs_f64();
            let record = Step { step, loss, lr, grad_norm, tokens_per_second, elapsed_s, evaluation };
            self.log.write(&record)?;
            self.history.push(&record);
            progress.show(&record);
            if let Some(Evaluation { val_loss, .. }) = evaluation {
                check_finite(step, val_loss)?;
                if val_loss < saved.val_loss || self.config.always_save_checkpoint {
                    saved = Saved { step, val_loss };
                    self.save(saved)?;
                }
            }
        }
        progress.finish();
        Ok(saved)
    }

    /// One update; returns the loss and the norm of the gradient before clipping.
    fn step(&mut self, lr: f64) -> Result<(f32, f32), AppError> {
        let micro_batches = self.config.gradient_accumulation_steps;
        let mut scalars = Vec::with_capacity(micro_batches + 1);
        for _ in 0..micro_batches {
            let loss = self.model.loss(&self.train.random(&mut self.random, &self.device)?, true)?;
            loss.affine(1.0 / micro_batches as f64, 0.0)?.backward()?;
            scalars.push(loss.detach());
        }
        // Without a bound the norm is still worth a line in the log.
        let bound = if self.config.grad_clip == 0.0 { f64::INFINITY } else { self.config.grad_clip };
        self.optimizer.set_lr(lr);
        scalars.push(self.optimizer.step_clipped(bound)?);
        self.optimizer.zero_grad();
        // The step's one wait for the device.
        let scalars: Vec<f32> = Tensor::stack(&scalars, 0)?.to_vec1()?;
        let (losses, grad_norm) = scalars.split_at(micro_batches);
        Ok((mean(losses), grad_norm[0]))
    }

    fn evaluate(&self) -> Result<Evaluation, AppError> {
        Ok(Evaluation { train_loss: self.mean_loss(&self.train)?, val_loss: self.mean_loss(&self.val)? })
    }

    /// The mean loss over `eval_iters` batches from all over a split.
    fn mean_loss(&self, split: &Blocks) -> Result<f32, AppError> {
        no_grad(|| {
            let batches = split.spaced(self.config.eval_iters, &self.device);
            let losses = batches
                .map(|batch| self.model.loss(&batch?, false))
                .collect::<tilewright::Result<Vec<_>>>()?;
            Ok(mean(&Tensor::stack(&losses, 0)?.to_vec1()?))
        })
    }

    fn save(&self, saved: Saved) -> Result<(), AppError> {
        let header = Header {
            config: self.config.clone(),
            tokenizer: self.tokenizer.clone(),
            step: saved.step,
            val_loss: saved.val_loss,
        };
        let masters: Vec<_> = self.optimizer.vars().cloned().zip(self.optimizer.masters()?).collect();
        Checkpoint { header, tensors: self.model.values(&masters)? }.save(&self.checkpoint)
    }
}

fn check_finite(step: usize, loss: f32) -> Result<(), AppError> {
    if loss.is_finite() { Ok(()) } else { Err(AppError::Diverged { step, loss }) }
}

fn mean(losses: &[f32]) -> f32 {
    (losses.iter().map(|&loss| loss as f64).sum::<f64>() / losses.len() as f64) as f32
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::shards::tests::by_hand;
    use crate::tests::alone;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        train: TrainArgs,
    }

    const TINY: &str = "gpt --device cpu --n-layer 2 --n-head 2 --n-embd 16 --block-size 8 --batch-size 4 \
                        --max-iters 6 --eval-interval 3 --eval-iters 2 --warmup-iters 2";

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
        let out =
            train(&directory, "run", "--max-iters 40 --learning-rate 1e-2 --dropout 0.1 --bias").unwrap();
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

        let checkpoint = out.join("checkpoint.safetensors");
        let mut text = Vec::new();
        let sampling = Sampling { max_new_tokens: 20, temperature: 0.8, top_k: 200, seed: 1 };
        generate::generate(&checkpoint, "the c", sampling, &Device::Cpu, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
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
        let error = train(&directory, "run", "").unwrap_err().to_string();
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
            let sampling = Sampling { max_new_tokens: 20, temperature: 0.0, top_k: 200, seed: 1 };
            let mut text = Vec::new();
            generate::generate(&path, "the c", sampling, &Device::Cpu, &mut text).unwrap();
            assert_eq!(String::from_utf8(text).unwrap().chars().count(), 26);
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
