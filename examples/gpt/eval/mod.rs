//! `gpt eval`: what a model's loss is on any data, and how many questions it answers.

mod choices;
mod loss;

use std::io::Write;
use std::path::PathBuf;

use crate::data::{self, Corpus, Split};
use crate::error::AppError;
use crate::finetune;
use crate::generate::print;
use crate::model::Gpt;
use choices::{Choices, Question};
use loss::Windows;

/// Measure a model: its loss on data, or its answers to multiple-choice questions
///
/// --data is text (a file or a folder, in which every file is a document) or token shards of the model's tokenizer.
/// All of it is read in windows of the model's context, each token scored once, and the loss printed in nats per
/// token, as perplexity and as bits per byte of text. --stride N moves on by N tokens a window, of which only those
/// are scored that are new: N below the context's length gives every token at least a context's length less N tokens
/// before it, for more time.
///
/// --choices is a file of questions in HellaSwag's format, a JSON object in each line:
///   {"ctx": "A man sits down. He", "endings": ["eats.", "flies.", "is blue.", "rains."], "label": 0}
/// The model's answer is the ending, after a space, with the highest log-likelihood: by its sum, and by its mean over
/// the ending's tokens (as in llm.c). --shots K puts the first K questions of --shots-from before each, with their
/// right endings.
///
/// Examples:
///   gpt eval --checkpoint runs/gpt2/checkpoint.safetensors --data input.txt --stride 512
///   gpt eval --data runs/shards --split val
///   gpt eval --checkpoint runs/gpt2/checkpoint.safetensors --choices hellaswag_val.jsonl --limit 1000
///   gpt eval --choices test.jsonl --shots 5 --shots-from train.jsonl
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, verbatim_doc_comment)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub struct EvalArgs {
    /// Checkpoint of a run
    #[arg(long, value_name = "FILE", default_value = "runs/default/checkpoint.safetensors")]
    checkpoint: PathBuf,
    /// Text or token shards
    #[arg(long, value_name = "FILE|DIR|PATTERN", group = "what")]
    data: Option<PathBuf>,
    /// Which part of the data: train and val are what training would make of it
    #[arg(long, value_enum, default_value_t = Part::All, requires = "data")]
    split: Part,
    /// Tokens from window to window; without it, the model's context
    #[arg(long, value_name = "N", requires = "data")]
    stride: Option<usize>,
    /// Tokens to score, at most
    #[arg(long, value_name = "N", requires = "data")]
    max_tokens: Option<usize>,
    /// Windows that are computed together
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    batch_size: u32,
    /// Questions in HellaSwag's format
    #[arg(long, value_name = "FILE", group = "what")]
    choices: Option<PathBuf>,
    /// Questions to answer, at most
    #[arg(long, value_name = "N", requires = "choices")]
    limit: Option<usize>,
    /// Examples before each question
    #[arg(long, value_name = "K", default_value_t = 0, requires = "choices")]
    shots: usize,
    /// A file whose first K questions are the examples
    #[arg(long, value_name = "FILE", requires = "choices")]
    shots_from: Option<PathBuf>,
    /// auto, cpu, cuda, cuda:N, cuda-sim, wgpu, wgpu:N, wgpu:NAME or software
    #[arg(long, default_value = "auto")]
    device: String,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Part {
    All,
    Train,
    Val,
}

/// The `eval` subcommand; its results go to `output`.
pub fn run(args: &EvalArgs, output: &mut impl Write) -> Result<(), AppError> {
    let refused = |argument, reason: &str| Err(AppError::Argument { argument, reason: reason.into() });
    if args.stride == Some(0) {
        return refused("--stride", "must be at least 1");
    }
    if args.shots > 0 && args.shots_from.is_none() {
        return refused("--shots", "needs --shots-from, the file that the examples are in");
    }
    let device = crate::device(&args.device)?;
    let checkpoint = finetune::load(&args.checkpoint)?;
    let tokenizer = checkpoint.header.tokenizer.clone();
    let model = Gpt::from_checkpoint(checkpoint, &args.checkpoint, &device)?;
    if let Some(data) = &args.data {
        let tokens = match args.split {
            Part::All => data::read_tokens(data, &tokenizer)?,
            part => {
                let Corpus { train, val, .. } = Corpus::read_with(data, &tokenizer)?;
                match if part == Part::Train { train } else { val } {
                    Split::Tokens(tokens) => tokens,
                    Split::Examples(_) => {
                        return refused("--data", "takes text or token shards, not instructions");
                    }
                }
            }
        };
        let stride = args.stride.unwrap_or(model.block_size()).min(model.block_size());
        let windows =
            Windows { block_size: model.block_size(), stride, batch_size: args.batch_size as usize };
        let most = args.max_tokens.unwrap_or(usize::MAX);
        let total = loss::measure(&model, &tokenizer, &tokens, windows, most, &device)
            .map_err(AppError::of_data(data))?;
        if total.tokens == 0 {
            return Err(AppError::contents(data, "has no token that another precedes"));
        }
        print(output, &total.report(tokenizer.unit()))?;
    }
    if let Some(path) = &args.choices {
        let mut questions = Question::read(path)?;
        questions.truncate(args.limit.unwrap_or(usize::MAX));
        let shots = match &args.shots_from {
            Some(path) if args.shots > 0 => choices::shots(path, args.shots)?,
            _ => String::new(),
        };
        let choices = Choices { model: &model, tokenizer: &tokenizer, device: &device, shots: &shots };
        let score = choices.answer(&questions).map_err(|e| e.at(path))?;
        print(output, &score.report())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use tilewright::Device;

    use super::*;
    use crate::checkpoint::{Checkpoint, Header};
    use crate::config::tests::config;
    use crate::hugging_face::tests::{fixture, gpt2};
    use crate::model::Gpt;
    use crate::tests::{alone, scratch};
    use crate::tokenizer::Tokenizer;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        eval: EvalArgs,
    }

    fn evaluated(line: &[&str]) -> Result<String, String> {
        let args =
            Cli::try_parse_from(["eval", "--device", "cpu"].iter().chain(line)).map_err(|e| e.to_string())?;
        let mut output = Vec::new();
        run(&args.eval, &mut output).map_err(|e| e.to_string())?;
        Ok(String::from_utf8(output).unwrap())
    }

    /// The fixture's model as a checkpoint.
    fn checkpoint(folder: &std::path::Path) -> String {
        let path = folder.join("checkpoint.safetensors");
        let tokenizer = Tokenizer::load(&fixture().join("tokenizer.json")).unwrap();
        let flags = "--n-layer 2 --n-head 4 --n-embd 32 --block-size 24 --vocab-size 100 --bias --activation gelu_tanh";
        let config = config(&flags.split(' ').collect::<Vec<_>>());
        let header = Header { config, tokenizer, step: 0, val_loss: f32::NAN, base: None };
        Checkpoint { header, tensors: gpt2(&Device::Cpu).values().unwrap() }.save(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn number(report: &str, label: &str) -> f64 {
        let line = report
            .lines()
            .find(|line| line.starts_with(label))
            .unwrap_or_else(|| panic!("{label}: {report}"));
        line[label.len()..].split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_model_that_knows_nothing_needs_every_bit() {
        let folder = scratch("eval-bits");
        let config = config(&["--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16"]);
        let mut tensors = {
            let _alone = alone();
            Gpt::new(&config, 257, None, &Device::Cpu).unwrap().values().unwrap()
        };
        // Every logit is zero then.
        tensors.get_mut("transformer.wte.weight").unwrap().data.fill(0.0);
        let header = Header { config, tokenizer: Tokenizer::Bytes, step: 0, val_loss: f32::NAN, base: None };
        let path = folder.join("zero.safetensors");
        Checkpoint { header, tensors }.save(&path).unwrap();
        let text = folder.join("text.txt");
        fs::write(&text, "naïve 東京 and so on, ".repeat(20)).unwrap();
        let bytes = fs::metadata(&text).unwrap().len() as f64;
        for more in [&[][..], &["--stride", "5"], &["--batch-size", "3"], &["--stride", "99"]] {
            let (path, text) = (path.to_str().unwrap(), text.to_str().unwrap());
            let line = [&["--checkpoint", path, "--data", text], more].concat();
            let report = evaluated(&line).unwrap();
            assert_eq!(number(&report, "tokens"), bytes, "{report}");
            assert!((number(&report, "loss") - 257f64.ln()).abs() < 1e-4, "{report}");
            assert!((number(&report, "perplexity") - 257.0).abs() < 0.1, "{report}");
            assert!((number(&report, "bits per byte") - 257f64.log2()).abs() < 1e-4, "{report}");
        }
    }

    #[test]
    fn the_loss_is_that_of_the_text() {
        let folder = scratch("eval-loss");
        let checkpoint = checkpoint(&folder);
        let text = folder.join("text.txt");
        fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(3)).unwrap();
        let text = text.to_str().unwrap();
        let eval =
            |more: &[&str]| evaluated(&[&["--checkpoint", &checkpoint, "--data", text], more].concat());
        let whole = eval(&[]).unwrap();
        assert_eq!(number(&whole, "tokens"), 135.0);
        assert_eq!(whole, eval(&["--batch-size", "1"]).unwrap());
        // One token at a time, each with as long a context as there is: what the next-token logits say.
        let tokenizer = Tokenizer::load(&fixture().join("tokenizer.json")).unwrap();
        let mut ids = vec![tokenizer.start()];
        ids.extend(tokenizer.encode(&fs::read_to_string(text).unwrap()).unwrap());
        let model = gpt2(&Device::Cpu);
        let mut sum = 0.0;
        for at in 1..ids.len() {
            let context = &ids[at.saturating_sub(24)..at];
            let context = tilewright::Tensor::from_slice(context, (1, context.len()), &Device::Cpu).unwrap();
            let logits =
                tilewright::no_grad(|| model.next_logits(&context)?.log_softmax(1)?.to_vec::<f32>()).unwrap();
            sum -= f64::from(logits[ids[at] as usize]);
        }
        let slow = eval(&["--stride", "1"]).unwrap();
        assert!((number(&slow, "loss") - sum / 135.0).abs() < 1e-4, "{slow}, {}", sum / 135.0);
        assert_ne!(number(&slow, "loss"), number(&whole, "loss"));
        assert_eq!(number(&eval(&["--max-tokens", "30"]).unwrap(), "tokens"), 30.0);
        let split = |name| number(&eval(&["--split", name]).unwrap(), "tokens");
        assert_eq!((split("train"), split("val")), (121.0, 13.0), "the border's token is no part's target");
    }

    #[test]
    fn questions_are_answered_by_likelihood() {
        let folder = scratch("eval-choices");
        let checkpoint = checkpoint(&folder);
        let file = |name: &str, lines: &str| {
            fs::write(folder.join(name), lines).unwrap();
            folder.join(name).to_str().unwrap().to_owned()
        };
        // What the model itself would say is the right answer; three of four labels point at it.
        let model = gpt2(&Device::Cpu);
        let tokenizer = Tokenizer::load(&fixture().join("tokenizer.json")).unwrap();
        let log_likelihood = |context: &str, ending: &str| {
            let (context, ending) = (tokenizer.encode(context).unwrap(), tokenizer.encode(ending).unwrap());
            let mut ids = context;
            let mut sum = 0.0;
            for &id in &ending {
                let row = tilewright::Tensor::from_slice(&ids, (1, ids.len()), &Device::Cpu).unwrap();
                let logits =
                    tilewright::no_grad(|| model.next_logits(&row)?.log_softmax(1)?.to_vec::<f32>()).unwrap();
                sum += f64::from(logits[id as usize]);
                ids.push(id);
            }
            (sum, sum / ending.len() as f64)
        };
        let endings = ["eat", "fly away", "zz z z", "to be blue"];
        let best = |context: &str, key: &dyn Fn((f64, f64)) -> f64| {
            let scores: Vec<f64> =
                endings.iter().map(|e| key(log_likelihood(context, &format!(" {e}")))).collect();
            (0..4).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap()
        };
        let contexts = ["He", "A man", "They like", "Dogs"];
        let mut lines = String::new();
        for (i, context) in contexts.iter().enumerate() {
            let right = best(context, &|(_, mean)| mean);
            let label = if i == 3 { (right + 1) % 4 } else { right };
            let label = if i == 0 { serde_json::json!(label.to_string()) } else { serde_json::json!(label) };
            lines += &format!(
                "{}\n",
                serde_json::json!({ "ctx": context, "endings": endings, "label": label, "ind": i })
            );
        }
        let questions = file("questions.jsonl", &lines);
        let eval = |more: &[&str]| {
            evaluated(&[&["--checkpoint", &checkpoint, "--choices", &questions], more].concat())
        };
        let report = eval(&[]).unwrap();
        assert_eq!(number(&report, "questions"), 4.0, "{report}");
        assert_eq!(number(&report, "accuracy by mean"), 0.75, "{report}");
        assert_eq!(number(&eval(&["--limit", "3"]).unwrap(), "accuracy by mean"), 1.0);

        // With examples, the context is what stands before: the model is asked about that text.
        let shot = r#"{"ctx": "It", "endings": ["is", "was"], "label": 1}"#;
        let shots = file("shots.jsonl", shot);
        let with = "It was\n\nHe";
        let right = best(with, &|(_, mean)| mean);
        let one = serde_json::json!({ "ctx": "He", "endings": endings, "label": right }).to_string();
        let one = file("one.jsonl", &one);
        let line = ["--checkpoint", &checkpoint, "--choices", &one, "--shots", "1", "--shots-from", &shots];
        assert_eq!(number(&evaluated(&line).unwrap(), "accuracy by mean"), 1.0);

        let error = |name: &str, text: &str| {
            let path = file(name, text);
            evaluated(&["--checkpoint", &checkpoint, "--choices", &path]).unwrap_err()
        };
        assert!(error("a.jsonl", "{\"ctx\": 3}").contains("a.jsonl, line 1: not a question: "));
        let bad = r#"{"ctx": "a", "endings": ["b"], "label": 1}"#;
        assert!(error("b.jsonl", bad).ends_with("b.jsonl, line 1: its label is 1, and it has 1 ending"));
        let long =
            format!("\n{}", serde_json::json!({ "ctx": "a", "endings": ["b".repeat(30)], "label": 0 }));
        let message = error("d.jsonl", &long);
        assert!(
            message.ends_with("d.jsonl, line 2: an ending has 31 tokens, and the model's context 24"),
            "{message}"
        );
        assert!(error("e.jsonl", "").ends_with("e.jsonl: holds no questions"));
        let line = ["--checkpoint", &checkpoint, "--choices", &one, "--shots", "2", "--shots-from", &shots];
        assert!(evaluated(&line).unwrap_err().ends_with("shots.jsonl: holds 1 question, and --shots is 2"));
        assert!(evaluated(&["--choices", &one, "--shots", "1"]).unwrap_err().contains("needs --shots-from"));
        assert!(evaluated(&[]).unwrap_err().contains("required"));
    }

    #[test]
    fn data_of_another_tokenizer_is_refused() {
        let folder = scratch("eval-other");
        let checkpoint = checkpoint(&folder);
        let shards = folder.join("shards");
        fs::create_dir(&shards).unwrap();
        fs::write(shards.join("a.bin"), crate::shards::tests::by_hand(&[1; 40])).unwrap();
        let line = ["--checkpoint", &checkpoint, "--data", shards.to_str().unwrap()];
        let message = evaluated(&line).unwrap_err();
        assert!(
            message.ends_with("holds tokens of GPT-2, 50257 ids; the model's are tokenizer.json, 97 ids"),
            "{message}"
        );
        Tokenizer::load(&fixture().join("tokenizer.json"))
            .unwrap()
            .save(&shards.join("tokenizer.json"))
            .unwrap();
        assert_eq!(number(&evaluated(&line).unwrap(), "tokens"), 39.0);
    }
}
