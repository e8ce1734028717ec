//! A GPT from raw text to generated text, on the crate's public API.
//!
//! ```sh
//! cargo run --release --example gpt                         # train on this repository's own text
//! cargo run --release --example gpt -- generate --prompt "fn "
//! cargo run --release --example gpt -- train --config shakespeare-char-cpu --data input.txt
//! cargo run --release --example gpt -- prepare input.txt --out data --tokenizer bytes
//! cargo run --release --example gpt -- train --data data
//! ```
//!
//! `prepare` turns text into `shards` of tokens, by a `tokenizer`. `config` says what a run is told, `data` turns text, shards or
//! `instructions` into batches, `model` is the network, `finetune` where it may start, `train` the loop around it, `checkpoint`
//! the model on disk, `saves` what a run goes on from, `files` how they appear whole, `generate` text from a model by the
//! choices of `sampling`, `eval` what it is worth, `hugging_face` the way to and from GPT-2 as others keep it, `info` what there
//! is to run on, `profile` what steps cost, `report` the rest of what a run writes.

mod checkpoint;
mod config;
mod data;
mod error;
mod eval;
mod files;
mod finetune;
mod flops;
mod generate;
mod hugging_face;
mod info;
mod instructions;
mod interrupt;
mod model;
mod outliers;
mod prepare;
mod profile;
#[cfg(test)]
mod refusals;
mod report;
mod sampling;
mod saves;
mod shards;
mod tensorboard;
mod tokenizer;
mod train;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tilewright::Device;

use crate::error::AppError;

/// Trains a GPT on text and writes text with it
#[derive(Debug, Parser)]
#[command(name = "gpt", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: train::TrainArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(prepare::PrepareArgs),
    /// Make a tokenizer
    #[command(subcommand)]
    Tokenizer(tokenizer::TokenizerCommand),
    /// Train a model (what happens without a subcommand)
    ///
    /// --out gets the checkpoint of the lowest validation loss, the log, a plot of the loss and a sample. A run
    /// starts from random values, or with --init-from from a checkpoint, whose sizes and tokenizer it takes;
    /// --lora-rank then trains adapters beside its parameters, which are all that is saved. Config keys come from
    /// --config, and flags go over them.
    ///
    /// Examples:
    ///   gpt train --config shakespeare-char-cpu --data input.txt
    ///   gpt train --config gpt2-124m --data 'shards/*.bin' --dtype bfloat16
    ///   gpt train --init-from runs/gpt2/checkpoint.safetensors --data input.txt --block-size 256 --learning-rate 3e-5
    ///   gpt train --init-from runs/gpt2/checkpoint.safetensors --data answers.jsonl --lora-rank 8 --out runs/lora
    #[command(verbatim_doc_comment)]
    Train(Box<train::TrainArgs>),
    Generate(generate::GenerateArgs),
    Eval(eval::EvalArgs),
    Info(info::InfoArgs),
    Import(hugging_face::ImportArgs),
    Export(hugging_face::ExportArgs),
}

fn main() -> ExitCode {
    match run(&Cli::parse(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(AppError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            report::note(format_args!("error: {error}"));
            error.exit_code()
        }
    }
}

fn run(cli: &Cli, output: &mut impl io::Write) -> Result<(), AppError> {
    match &cli.command {
        None => train(&cli.train, output),
        Some(Command::Prepare(args)) => prepare::run(args, output),
        Some(Command::Tokenizer(command)) => tokenizer::run(command),
        Some(Command::Train(args)) => train(args, output),
        Some(Command::Generate(args)) => generate::run(args, output),
        Some(Command::Eval(args)) => eval::run(args, output),
        Some(Command::Info(args)) => info::run(args, output),
        Some(Command::Import(args)) => hugging_face::run_import(args),
        Some(Command::Export(args)) => hugging_face::run_export(args),
    }
}

/// A run that Ctrl-C may end.
fn train(args: &train::TrainArgs, output: &mut impl io::Write) -> Result<(), AppError> {
    interrupt::watch()?;
    train::run(args, output)
}

/// The device that `--device` names.
fn device(name: &str) -> Result<Device, AppError> {
    let (kind, selector) = name.split_once(':').unwrap_or((name, ""));
    match (kind, selector) {
        ("auto", "") => Ok(Device::best()),
        ("cpu", "") => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        ("cuda", ordinal) => match if ordinal.is_empty() { Ok(0) } else { ordinal.parse() } {
            Ok(ordinal) => Ok(Device::cuda(ordinal)?),
            Err(_) => {
                let reason = format!("{name}: cuda is followed by the number of a GPU");
                Err(AppError::Argument { argument: "--device", reason })
            }
        },
        #[cfg(feature = "cuda-sim")]
        ("cuda-sim", "") => Ok(Device::cuda_sim()?),
        #[cfg(not(feature = "cuda-sim"))]
        ("cuda-sim", "") => Err(without("cuda-sim")),
        #[cfg(not(feature = "cuda"))]
        ("cuda", _) => Err(without("cuda")),
        #[cfg(feature = "wgpu")]
        ("software", "") => Ok(Device::wgpu("software")?),
        #[cfg(feature = "wgpu")]
        ("wgpu", selector) => Ok(Device::wgpu(selector)?),
        #[cfg(not(feature = "wgpu"))]
        ("software" | "wgpu", _) => Err(without("wgpu")),
        _ => {
            let names = "auto, cpu, cuda, cuda:N, cuda-sim, wgpu, wgpu:N, wgpu:NAME, software";
            let reason = format!("{name} is none of {names}");
            Err(AppError::Argument { argument: "--device", reason })
        }
    }
}

/// Lets products of f32 go through the tensor cores of an NVIDIA GPU.
fn allow_tf32(device: &Device) -> Result<(), AppError> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Ok(device.set_allow_tf32(true)?),
        device => {
            let reason = format!("is for NVIDIA GPUs through cuda, and the device is {device}");
            Err(AppError::Argument { argument: "--tf32", reason })
        }
    }
}

/// The error for a device that needs a feature of the crate.
#[cfg(not(all(feature = "wgpu", feature = "cuda", feature = "cuda-sim")))]
fn without(feature: &str) -> AppError {
    let reason = format!("this program was built without the crate's feature {feature}");
    AppError::Argument { argument: "--device", reason }
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;
    use std::ops::Deref;
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

    use clap::CommandFactory;

    use super::*;

    /// To be held by tests that draw from the CPU's random numbers, which all threads share.
    pub fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The processor, a software adapter through wgpu, and the simulator of CUDA's GPUs. Says on stderr what is there
    /// and what is not; one that `TILEWRIGHT_REQUIRE` names (`wgpu`, `cuda-sim`, separated by commas) must be.
    pub fn devices() -> &'static [Device] {
        static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
            let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
            let mut devices = vec![Device::Cpu];
            for (name, selector) in [("wgpu", "software"), ("cuda-sim", "cuda-sim")] {
                let line = match device(selector) {
                    Ok(device) => {
                        devices.push(device);
                        format!("RUN on {name}")
                    }
                    Err(reason) => {
                        let is_required = required.split(',').any(|wanted| wanted.trim() == name);
                        assert!(!is_required, "TILEWRIGHT_REQUIRE names {name}: {reason}");
                        format!("NOT RUN on {name}: {reason}")
                    }
                };
                // Straight to stderr: the harness captures what the print macros write.
                let _ = writeln!(io::stderr(), "{line}");
            }
            devices
        });
        &DEVICES
    }

    /// A directory of a test's own, which goes with it.
    pub struct Scratch(PathBuf);

    impl Deref for Scratch {
        type Target = Path;

        fn deref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// An empty directory.
    pub fn scratch(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("tilewright-gpt-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// The words of a command line, for [`a_program_of_its_own`].
    const LINE: &str = "TILEWRIGHT_TEST_LINE";

    /// No test by itself: the process that [`program`] starts.
    #[test]
    #[ignore = "a program for other tests"]
    fn a_program_of_its_own() {
        let Ok(line) = std::env::var(LINE) else { return };
        let code = run(&Cli::parse_from(line.lines()), &mut io::stdout()).map_or_else(
            |error| {
                let _ = writeln!(io::stderr(), "error: {error}");
                if matches!(error, AppError::Interrupted { .. }) { interrupt::EXIT_CODE.into() } else { 1 }
            },
            |()| 0,
        );
        std::process::exit(code);
    }

    /// This program in a process of its own, which may write files of so many bytes.
    #[cfg(unix)]
    pub fn program(line: &[String], longest_file: Option<u64>) -> std::process::Command {
        // Without the trap the first byte too many would end the process.
        let limit = longest_file
            .map_or_else(String::new, |bytes| format!("trap '' XFSZ; ulimit -f {};", bytes / 512));
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("{limit} exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "tests::a_program_of_its_own", "--ignored", "--nocapture"]);
        command.env(LINE, line.join("\n")).env("RAYON_NUM_THREADS", "1");
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        command
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_stands_alone() {
        let help = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        for (command, words) in [
            ("gpt prepare --help", ["Examples:", "--resume", "--near-duplicates", "llm.c's format"]),
            ("gpt train --help", ["Examples:", "--init-from", "--lora-rank", "--data"]),
            ("gpt generate --help", ["Examples:", "--top-p", "--stop", "context"]),
            ("gpt eval --help", ["Examples:", "--stride", "--shots", "bits per byte"]),
            ("gpt info --help", ["Examples:", "--checkpoint", "limits", "auto"]),
            ("gpt import --help", ["Examples:", "--out", "--tokenizer", "model.safetensors.index.json"]),
            ("gpt export --help", ["Example:", "--out", "--checkpoint", "GPT2LMHeadModel"]),
            ("gpt train --help", ["Exit codes:", "--resume", "--max-time", "--recompute"]),
            ("gpt tokenizer train --help", ["Example:", "--vocab-size", "--text-field", "<|endoftext|>"]),
        ] {
            let help = help(command);
            assert!(words.iter().all(|word| help.contains(word)), "{help}");
        }
    }

    #[test]
    fn train_is_the_default() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("gpt --max-iters 3").unwrap().command.is_none());
        let Some(Command::Train(args)) = parse("gpt train --max-iters 2 --max-iters 3").unwrap().command
        else {
            panic!()
        };
        assert!(format!("{args:?}").contains(r#""max_iters": Integer(3)"#), "{args:?}");
        assert!(matches!(parse("gpt generate --top-k 5").unwrap().command, Some(Command::Generate(_))));
        assert!(parse("gpt --max-iter").unwrap_err().to_string().contains("--max-iters"));
    }

    #[test]
    fn tf32_is_for_cuda() {
        let refusal = allow_tf32(&Device::Cpu).unwrap_err().to_string();
        assert!(refusal.contains("--tf32: is for NVIDIA GPUs"), "{refusal}");
    }

    #[test]
    fn an_unknown_device_is_an_error_with_the_names() {
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
        for name in ["gpu", "cpu:1", ""] {
            assert!(device(name).unwrap_err().to_string().contains("none of auto, cpu, cuda"));
        }
    }
}
