//! `gpt prepare`: from text to token shards. `input` reads documents; `text`, `blocklist`, `quality`, `private` and
//! `duplicates` are the stages of curation, each of which may be left out; `report` counts what they do. Documents travel
//! in batches: what needs no memory of other documents is done on all cores, and the rest in the documents' order, so that
//! the same input gives the same bytes.

mod blocklist;
mod duplicates;
#[cfg(test)]
mod evidence;
mod input;
mod private;
mod quality;
mod report;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::blocklist::Blocklist;
use self::duplicates::{DuplicateArgs, MinHash, Seen};
use self::input::InputPosition;
pub use self::input::{Input, InputArgs};
use self::quality::QualityArgs;
use self::report::Report;
use self::text::Form;
use crate::error::AppError;
use crate::files::write_json;
use crate::generate::print;
use crate::report::note;
use crate::shards::{ShardWriter, WriterPosition};
use crate::tokenizer::{self, Characters, Tokenizer};

/// Turn text into shards of tokens, which train maps into memory
///
/// DIR then holds train_000000.bin, val_000000.bin and so on (llm.c's format), tokenizer.json, and report.json, which
/// counts what each stage of curation kept and dropped, and why. The stages, in this order and each optional: --unicode
/// with --min-chars and --max-chars, --blocklist, --quality, --mask, --duplicates, --near-duplicates. --curate turns the last
/// four on.
///
/// Input of any size takes less than 1 GB of memory: --memory-mb for recognising duplicates, and some 300 MB. An
/// interrupted run goes on with --resume from its last complete shard and ends with the same bytes.
///
/// Examples:
///   gpt prepare input.txt --out data/shakespeare --tokenizer characters --val-fraction 0.1
///   gpt prepare books/ web.jsonl.zst --out data/mix --curate --blocklist words.txt
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, verbatim_doc_comment)]
pub struct PrepareArgs {
    #[command(flatten)]
    input: InputArgs,
    /// Folder for the shards; it must be empty or absent, but for --resume and --overwrite
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on where a run with the same input and options was interrupted
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace what an earlier run left in --out
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    options: Options,
}

/// What decides on the shards' contents, besides the input.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Options {
    /// gpt2, bytes, characters, or a tokenizer.json (Hugging Face's, or of gpt tokenizer train)
    #[arg(long, value_name = "NAME|FILE", default_value = "gpt2")]
    tokenizer: String,
    /// The share of the text that is for validation: every so many documents, one
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    val_fraction: f32,
    /// Tokens of a shard
    #[arg(long, value_name = "N", default_value_t = 100_000_000, value_parser = clap::value_parser!(u32).range(1..=i32::MAX as i64))]
    shard_tokens: u32,

    /// Turn on --quality, --mask, --duplicates and --near-duplicates
    #[arg(long, help_heading = CURATION)]
    curate: bool,
    /// Normal form of Unicode; nfc and nfkc also drop control characters and spaces around a document
    #[arg(long, value_enum, default_value_t = Form::Nfc, help_heading = CURATION)]
    unicode: Form,
    /// Drop documents with fewer characters
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = CURATION)]
    min_chars: usize,
    /// Drop documents with more characters
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true, help_heading = CURATION)]
    max_chars: usize,
    /// Drop documents with a word, domain or address of this file, which has one in each line
    #[arg(long, value_name = "FILE", help_heading = CURATION)]
    blocklist: Option<PathBuf>,
    /// Drop documents that break Gopher's rules (Rae et al. 2021): length of text and words, symbols, bullet points,
    /// ellipses, letters, stop words, repetition
    #[arg(long, help_heading = CURATION)]
    quality: bool,
    #[command(flatten, next_help_heading = CURATION)]
    quality_args: QualityArgs,
    /// Mask e-mail and IP addresses, phone and card numbers, keys and other secrets
    #[arg(long, help_heading = CURATION)]
    mask: bool,
    /// Drop documents that occurred before
    #[arg(long, help_heading = CURATION)]
    duplicates: bool,
    /// Drop documents that resemble one before (MinHash)
    #[arg(long, help_heading = CURATION)]
    near_duplicates: bool,
    #[command(flatten, next_help_heading = CURATION)]
    duplicate_args: DuplicateArgs,
}

const CURATION: &str = "Curation";

/// The names that a run may leave in its folder.
const STATE: &str = "state.json";
const JOURNAL: &str = "seen.journal";
const REPORT: &str = "report.json";
const SPLITS: [&str; 2] = ["train", "val"];

/// Text of a batch, in bytes; a batch ends with the document that reaches it.
const BATCH_BYTES: usize = 4 << 20;

/// How far a run has come, with what must not change until it goes on.
#[derive(Serialize, Deserialize)]
struct State {
    /// A hash of the input files' names and lengths.
    files: u64,
    input_args: InputArgs,
    options: Options,
    input: InputPosition,
    train: WriterPosition,
    val: WriterPosition,
    /// Hashes in the journal of what was seen.
    seen: u64,
    report: Report,
}

/// The `prepare` subcommand; its report's table goes to `output`.
pub fn run(args: &PrepareArgs, output: &mut impl Write) -> Result<(), AppError> {
    let mut job = Job::start(args, BATCH_BYTES)?;
    while job.step()? {}
    let report = job.finish()?;
    print(output, &report.to_string())?;
    if report.train.tokens == 0 {
        return Err(AppError::contents(
            &args.out,
            "no text for training: the table shows where it was dropped",
        ));
    }
    if report.val.tokens == 0 && args.options.val_fraction > 0.0 {
        note(format_args!(
            "there are too few documents to set some aside for validation; --split-on, a smaller --document-bytes or a \
             larger --val-fraction help"
        ));
    }
    Ok(())
}

struct Job {
    out: PathBuf,
    input_args: InputArgs,
    options: Options,
    batch_bytes: usize,
    input: Input,
    tokenizer: Tokenizer,
    blocklist: Option<Blocklist>,
    min_hash: Option<MinHash>,
    seen: Option<Seen>,
    train: ShardWriter,
    val: ShardWriter,
    report: Report,
}

/// The stages that drop documents, and their places in the report.
const STAGES: [&str; 5] = ["text", "blocklist", "quality", "duplicates", "near duplicates"];
const TEXT: usize = 0;
const BLOCKLIST: usize = 1;
const QUALITY: usize = 2;
const DUPLICATES: usize = 3;
const NEAR_DUPLICATES: usize = 4;

/// What is known of a document by itself.
struct Examined {
    bytes: usize,
    /// The stage that dropped it and its reason.
    fault: Option<(usize, &'static str)>,
    text: String,
    masked: BTreeMap<String, u64>,
    exact: u64,
    bands: Vec<u64>,
}

impl Job {
    fn start(args: &PrepareArgs, batch_bytes: usize) -> Result<Job, AppError> {
        let PrepareArgs { input: input_args, out, resume, overwrite, options } = args;
        let mut options = options.clone();
        for stage in
            [&mut options.quality, &mut options.mask, &mut options.duplicates, &mut options.near_duplicates]
        {
            *stage |= options.curate;
        }
        if !(0.0..1.0).contains(&options.val_fraction) {
            let reason = format!("must be at least 0 and below 1, not {}", options.val_fraction);
            return Err(AppError::Argument { argument: "--val-fraction", reason });
        }
        let blocklist = options.blocklist.as_deref().map(Blocklist::read).transpose()?;
        let mut input = Input::open(input_args)?;
        let replaced = leftovers(out, *resume, *overwrite)?;

        let limit = options.shard_tokens as usize;
        let [mut train, mut val] = SPLITS.map(|split| ShardWriter::new(out, split, limit));
        let journal = out.join(JOURNAL);
        let megabytes = options.duplicate_args.memory_mb;
        let remembers = options.duplicates || options.near_duplicates;
        let min_hash = options.near_duplicates.then(|| MinHash::new(&options.duplicate_args));
        let (tokenizer, seen, report);
        if *resume {
            let state = State::load(&out.join(STATE))?;
            state.check(&input, input_args, &options, out)?;
            input.skip_to(state.input)?;
            tokenizer = Tokenizer::load(&out.join(tokenizer::FILE))?;
            train = train.resume(state.train)?;
            val = val.resume(state.val)?;
            seen = remembers.then(|| Seen::resume(&journal, megabytes, state.seen)).transpose()?;
            report = state.report;
            input.passed_over = report.files_passed_over.clone();
        } else {
            tokenizer = choose_tokenizer(&options, input_args)?;
            fs::create_dir_all(out).map_err(AppError::io("create", out))?;
            replaced.iter().try_for_each(|path| remove(path))?;
            tokenizer.save(&out.join(tokenizer::FILE))?;
            seen = remembers.then(|| Seen::create(&journal, megabytes)).transpose()?;
            report = Report::new(input.files(), &STAGES);
        }
        let (out, input_args) = (out.clone(), input_args.clone());
        let mut job = Job {
            out,
            input_args,
            options,
            batch_bytes,
            input,
            tokenizer,
            blocklist,
            min_hash,
            seen,
            train,
            val,
            report,
        };
        job.save_state()?;
        Ok(job)
    }

    /// Takes a batch of documents through all stages; whether there may be more.
    fn step(&mut self) -> Result<bool, AppError> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < self.batch_bytes {
            let Some(document) = self.input.next()? else { break };
            bytes += document.len();
            batch.push(document);
        }
        if batch.is_empty() {
            return Ok(false);
        }
        let examined: Vec<Examined> = batch.into_par_iter().map(|text| self.examine(text)).collect();
        let mut kept = Vec::with_capacity(examined.len());
        for document in examined {
            if let Some(text) = self.admit(document)? {
                kept.push(text);
            }
        }
        let encoded: Result<Vec<Vec<u16>>, AppError> =
            kept.par_iter().map(|text| self.encode(text)).collect();
        let before = (self.train.position().shards, self.val.position().shards);
        for (text, tokens) in kept.iter().zip(encoded?) {
            self.write(text.len(), &tokens)?;
        }
        if before != (self.train.position().shards, self.val.position().shards) {
            self.save_state()?;
            note(format_args!(
                "{} documents read, {} tokens written",
                self.report.read.documents,
                self.report.train.tokens + self.report.val.tokens
            ));
        }
        Ok(true)
    }

    /// The stages that look at one document alone.
    fn examine(&self, text: String) -> Examined {
        let options = &self.options;
        let bytes = text.len();
        let mut text = text::normalise(text, options.unicode);
        let fault = text::length(&text, options.min_chars, options.max_chars)
            .map(|reason| (TEXT, reason))
            .or_else(|| self.blocklist.as_ref()?.hits(&text).then_some((BLOCKLIST, "listed")))
            .or_else(|| match options.quality {
                true => quality::fault(&text, &options.quality_args).map(|reason| (QUALITY, reason)),
                false => None,
            });
        let mut masked = BTreeMap::new();
        let (mut exact, mut bands) = (0, Vec::new());
        if fault.is_none() {
            if options.mask {
                text = private::mask(text, &mut masked);
            }
            exact = duplicates::exact(&text);
            bands = self.min_hash.as_ref().map(|min_hash| min_hash.bands(&text)).unwrap_or_default();
        }
        Examined { bytes, fault, text, masked, exact, bands }
    }

    /// Counts a document and gives its text back if it is to be kept.
    fn admit(&mut self, document: Examined) -> Result<Option<String>, AppError> {
        let Examined { bytes, fault, text, masked, exact, bands } = document;
        self.report.read.add(bytes);
        let on = [true, self.blocklist.is_some(), self.options.quality];
        for stage in (TEXT..=QUALITY).filter(|&stage| on[stage]) {
            let reason = fault.filter(|&(dropped, _)| dropped == stage).map(|(_, reason)| reason);
            self.report.pass(stage, reason);
            if reason.is_some() {
                return Ok(None);
            }
        }
        for (kind, n) in masked {
            *self.report.masked.entry(kind).or_default() += n;
        }
        let Some(seen) = &mut self.seen else { return Ok(Some(text)) };
        if self.options.duplicates {
            let known = seen.contains(exact);
            self.report.pass(DUPLICATES, known.then_some("word for word"));
            if known {
                return Ok(None);
            }
            seen.insert(exact)?;
        }
        if self.options.near_duplicates {
            let known = bands.iter().any(|&band| seen.contains(band));
            self.report.pass(NEAR_DUPLICATES, known.then_some("resemble one before"));
            if known {
                return Ok(None);
            }
            // Only of what is kept: a chain of small changes does not take its far end along.
            bands.into_iter().try_for_each(|band| seen.insert(band))?;
        }
        Ok(Some(text))
    }

    fn encode(&self, text: &str) -> Result<Vec<u16>, AppError> {
        let wrong = |reason| AppError::contents(&self.out.join(tokenizer::FILE), reason);
        let ids = self.tokenizer.encode(text).map_err(wrong)?;
        let narrow =
            |id: u32| u16::try_from(id).map_err(|_| wrong(format!("id {id} does not fit a shard's uint16")));
        self.tokenizer.separator().into_iter().chain(ids).map(narrow).collect()
    }

    fn write(&mut self, bytes: usize, tokens: &[u16]) -> Result<(), AppError> {
        let Report { train, val, .. } = &mut self.report;
        let bytes = bytes as u64;
        // To validation whenever that has less than its share, whatever the document's length.
        let total = (train.bytes + val.bytes) as f64;
        let for_validation = (val.bytes as f64) < f64::from(self.options.val_fraction) * total;
        let (split, writer) = if for_validation { (val, &mut self.val) } else { (train, &mut self.train) };
        split.documents += 1;
        split.bytes += bytes;
        split.tokens += tokens.len() as u64;
        writer.push(tokens)
    }

    /// Has everything on disk that is needed to go on from here.
    fn save_state(&mut self) -> Result<(), AppError> {
        self.complete_report();
        self.train.sync()?;
        self.val.sync()?;
        let seen = self.seen.as_mut().map_or(Ok(0), Seen::sync)?;
        let state = State {
            files: self.input.files_hash(),
            input_args: self.input_args.clone(),
            options: self.options.clone(),
            input: self.input.position(),
            train: self.train.position(),
            val: self.val.position(),
            seen,
            report: self.report.clone(),
        };
        write_json(&self.out.join(STATE), &state)
    }

    /// Puts into the report what others count.
    fn complete_report(&mut self) {
        self.report.train.shards = self.train.position().shards;
        self.report.val.shards = self.val.position().shards;
        self.report.files_passed_over = self.input.passed_over.clone();
        self.report.duplicates_forgotten = self.seen.as_ref().map_or(0, |seen| seen.forgotten);
    }

    /// Completes the last shards and leaves only what is to stay.
    fn finish(mut self) -> Result<Report, AppError> {
        self.train.finish()?;
        self.val.finish()?;
        self.complete_report();
        write_json(&self.out.join(REPORT), &self.report)?;
        remove(&self.out.join(STATE))?;
        remove(&self.out.join(JOURNAL))?;
        Ok(self.report)
    }
}

impl State {
    fn load(path: &Path) -> Result<State, AppError> {
        let text = fs::read(path).map_err(AppError::io("read", path))?;
        serde_json::from_slice(&text)
            .map_err(|e| AppError::contents(path, format!("not the state of a run: {e}")))
    }

    /// Refuses to go on with other input or options, with which the bytes would be others.
    fn check(&self, input: &Input, args: &InputArgs, options: &Options, out: &Path) -> Result<(), AppError> {
        let what = if self.input_args != *args || self.options != *options {
            "options"
        } else if self.files != input.files_hash() {
            "input files"
        } else {
            return Ok(());
        };
        let reason = format!(
            "the interrupted run had other {what}; go on with the same, or begin again with --overwrite"
        );
        Err(AppError::contents(&out.join(STATE), reason))
    }
}

/// The tokenizer that --tokenizer names; that of characters is made from all of the input.
fn choose_tokenizer(options: &Options, input: &InputArgs) -> Result<Tokenizer, AppError> {
    let tokenizer = match options.tokenizer.as_str() {
        "characters" => {
            let mut input = Input::open(input)?;
            let mut characters = BTreeSet::from(['\n']);
            characters.extend(private::mask_characters().filter(|_| options.mask));
            while let Some(text) = input.next()? {
                characters.extend(text::normalise(text, options.unicode).chars());
            }
            Tokenizer::Characters(Characters::from(characters))
        }
        name => Tokenizer::named(name)?,
    };
    if tokenizer.len() > 1 << 16 {
        let reason = format!("has {} ids; a shard's uint16 has room for 65536", tokenizer.len());
        return Err(AppError::contents(Path::new(&options.tokenizer), reason));
    }
    if tokenizer.separator().is_none() {
        note(format_args!(
            "the tokenizer has no token for the end of a text: nothing will stand between documents"
        ));
    }
    Ok(tokenizer)
}

/// Which files of an earlier run a new one replaces; for `resume`, makes sure that there is something to go on with.
fn leftovers(out: &Path, resume: bool, overwrite: bool) -> Result<Vec<PathBuf>, AppError> {
    let interrupted = out.join(STATE).exists();
    if resume {
        let none = || AppError::contents(out, "holds no interrupted run to go on with");
        return if interrupted { Ok(Vec::new()) } else { Err(none()) };
    }
    if !out.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(out).map_err(AppError::io("read", out))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<std::io::Result<_>>().map_err(AppError::io("read", out))?;
    if !names.is_empty() && !overwrite {
        let (found, hint) = match interrupted {
            true => ("an interrupted run", "--resume goes on with it, --overwrite begins again"),
            false => ("files", "--overwrite replaces those of an earlier run"),
        };
        return Err(AppError::Exists { path: out.to_path_buf(), found, hint });
    }
    let shard = |name: &str| {
        SPLITS.iter().any(|split| name.starts_with(&format!("{split}_")))
            && [".bin", ".bin.part"].iter().any(|end| name.ends_with(end))
    };
    names.retain(|name| [STATE, JOURNAL, REPORT, tokenizer::FILE].contains(&name.as_str()) || shard(name));
    Ok(names.iter().map(|name| out.join(name)).collect())
}

fn remove(path: &Path) -> Result<(), AppError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(AppError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
