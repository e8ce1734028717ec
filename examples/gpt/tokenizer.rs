//! Between text and token ids: characters, bytes, GPT-2's byte pairs, or whatever a Hugging Face `tokenizer.json` says.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use tiktoken_rs::r50k_base_singleton;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer, Merges, Vocab};
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as HuggingFace};

use crate::error::AppError;
use crate::files::{self, make_room};
use crate::prepare::{Input, InputArgs};
use crate::report::note;

/// What stands between documents in GPT-2's vocabulary and in those that [`train`] makes.
const END_OF_TEXT: &str = "<|endoftext|>";

/// The names that `tokenizer.json` files have for the token between documents.
const SEPARATORS: [&str; 5] = [END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]"];

/// The name of a tokenizer's file beside its shards.
pub const FILE: &str = "tokenizer.json";

/// The characters a model knows, sorted; a character's place is its token id.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Characters(Vec<char>);

impl From<String> for Characters {
    fn from(text: String) -> Self {
        text.chars().collect::<BTreeSet<char>>().into()
    }
}

impl From<BTreeSet<char>> for Characters {
    fn from(set: BTreeSet<char>) -> Self {
        Characters(set.into_iter().collect())
    }
}

impl From<Characters> for String {
    fn from(characters: Characters) -> Self {
        characters.0.into_iter().collect()
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    Characters(Characters),
    /// The bytes of UTF-8, and 256 between documents.
    Bytes,
    Gpt2,
    HuggingFace(#[serde(deserialize_with = "whole_documents")] Box<HuggingFace>),
}

/// A `tokenizer.json` without what would cut, pad or reinterpret a document: special tokens' names in a text are text.
fn whole_documents<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<HuggingFace>, D::Error> {
    let mut tokenizer = HuggingFace::deserialize(deserializer)?;
    tokenizer.with_truncation(None).map_err(serde::de::Error::custom)?;
    tokenizer.with_padding(None);
    tokenizer.set_encode_special_tokens(true);
    Ok(Box::new(tokenizer))
}

impl Tokenizer {
    /// The tokenizer that a file describes: [`Tokenizer::save`]'s, or Hugging Face's `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Tokenizer, AppError> {
        let text = fs::read_to_string(path).map_err(AppError::io("read", path))?;
        let wrong = |e: serde_json::Error| AppError::contents(path, format!("not a tokenizer: {e}"));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
        // Not through `value`: a vocabulary's order is lost there.
        match value.get("model") {
            Some(_) => {
                whole_documents(&mut serde_json::Deserializer::from_str(&text)).map(Tokenizer::HuggingFace)
            }
            None => serde_json::from_str(&text),
        }
        .map_err(wrong)
    }

    /// The tokenizer of GPT-2's kind whose vocabulary and merges are in two files, as before there was `tokenizer.json`.
    pub fn load_gpt2_kind(vocab: &Path, merges: &Path) -> Result<Tokenizer, AppError> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let model = BPE::from_file(&text(vocab), &text(merges)).build().map_err(|e| {
            AppError::contents(vocab, format!("not a tokenizer with {}: {e}", merges.display()))
        })?;
        let bytes = ByteLevel::default().add_prefix_space(false);
        Ok(Tokenizer::HuggingFace(Box::new(
            byte_level(model, bytes).map_err(|e| AppError::contents(vocab, e.to_string()))?,
        )))
    }

    /// `gpt2`, `bytes`, or the tokenizer of a file.
    pub fn named(name: &str) -> Result<Tokenizer, AppError> {
        match name {
            "gpt2" => return Ok(Tokenizer::Gpt2),
            "bytes" => return Ok(Tokenizer::Bytes),
            _ => {}
        }
        let path = Path::new(name);
        if path.extension().is_none() && !path.exists() {
            let reason = format!("{name} is neither the name of a tokenizer nor a file");
            return Err(AppError::Argument { argument: "--tokenizer", reason });
        }
        Tokenizer::load(path)
    }

    /// [`Tokenizer::Gpt2`] if this is GPT-2's as Hugging Face keeps it, so that both are known to be the same.
    pub fn or_gpt2(self) -> Tokenizer {
        const PROBE: &str = "It's 1990: the naïve fox\n\n  jumps\tover 東京<|endoftext|>";
        let vocabulary = |tokenizer: &HuggingFace| tokenizer.get_vocab(true);
        match (&self, Tokenizer::Gpt2.to_hugging_face()) {
            (Tokenizer::HuggingFace(this), Ok(gpt2))
                if self.len() == Tokenizer::Gpt2.len()
                    && vocabulary(this) == vocabulary(&gpt2)
                    && self.encode(PROBE) == Tokenizer::Gpt2.encode(PROBE) =>
            {
                Tokenizer::Gpt2
            }
            _ => self,
        }
    }

    /// The same tokenizer as Hugging Face's libraries have it.
    pub fn to_hugging_face(&self) -> tokenizers::Result<HuggingFace> {
        let whole_words = ByteLevel::default().add_prefix_space(false);
        match self {
            Tokenizer::Characters(Characters(known)) => {
                let vocab = known.iter().map(|char| char.to_string()).zip(0..).collect();
                let mut tokenizer = HuggingFace::new(WordLevel::builder().vocab(vocab).build()?);
                let each = SplitPattern::Regex(r"[\s\S]".into());
                let split = Split::new(each, SplitDelimiterBehavior::Isolated, false)?;
                tokenizer.with_pre_tokenizer(Some(split)).with_decoder(Some(Fuse::new()));
                Ok(tokenizer)
            }
            Tokenizer::Bytes => {
                let mut vocab: Vocab = (0..=255).map(|byte: u8| (visible(&[byte]), byte.into())).collect();
                vocab.insert(END_OF_TEXT.into(), 256);
                let model = BPE::builder().vocab_and_merges(vocab, Merges::new()).build()?;
                byte_level(model, whole_words.use_regex(false))
            }
            Tokenizer::Gpt2 => {
                let (vocab, merges) = gpt2_pairs()?;
                byte_level(BPE::builder().vocab_and_merges(vocab, merges).build()?, whole_words)
            }
            Tokenizer::HuggingFace(tokenizer) => Ok((**tokenizer).clone()),
        }
    }

    pub fn save(&self, path: &Path) -> Result<(), AppError> {
        let text = match self {
            Tokenizer::HuggingFace(tokenizer) => serde_json::to_string_pretty(tokenizer),
            own => serde_json::to_string(own),
        };
        let text = text.map_err(|e| AppError::contents(path, format!("cannot encode the tokenizer: {e}")))?;
        files::write(path, text)
    }

    /// The number of ids; each is below it.
    pub fn len(&self) -> usize {
        match self {
            Tokenizer::Characters(characters) => characters.0.len(),
            Tokenizer::Bytes => 257,
            Tokenizer::Gpt2 => 50257,
            // The ids may have holes.
            Tokenizer::HuggingFace(tokenizer) => {
                tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
            }
        }
    }

    /// What a token is, in a word.
    pub fn unit(&self) -> &'static str {
        match self {
            Tokenizer::Characters(_) => "character",
            Tokenizer::Bytes => "byte",
            Tokenizer::Gpt2 | Tokenizer::HuggingFace(_) => "token",
        }
    }

    /// The token that begins every document: the end of the one before, or of its last line.
    pub fn separator(&self) -> Option<u32> {
        match self {
            Tokenizer::Characters(Characters(known)) => known.binary_search(&'\n').ok().map(|id| id as u32),
            Tokenizer::Bytes => Some(256),
            Tokenizer::Gpt2 => Some(50256),
            Tokenizer::HuggingFace(tokenizer) => {
                SEPARATORS.iter().find_map(|name| tokenizer.token_to_id(name))
            }
        }
    }

    /// What a model is given when there is no text to continue.
    pub fn start(&self) -> u32 {
        self.separator().unwrap_or(0)
    }

    /// The ids of `text`, or why it has none.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        match self {
            Tokenizer::Characters(Characters(known)) => {
                let id = |char: char| match known.binary_search(&char) {
                    Ok(id) => Ok(id as u32),
                    Err(_) => Err(format!("the character {char:?} is not in the vocabulary")),
                };
                text.chars().map(id).collect()
            }
            Tokenizer::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Tokenizer::Gpt2 => Ok(r50k_base_singleton().encode_ordinary(text)),
            Tokenizer::HuggingFace(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|e| e.to_string())?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The bytes of the text of `ids`, special tokens without theirs. Where a tokenizer's tokens are neither characters nor
    /// bytes, a character that `ids` hold only a part of may count wrongly.
    pub fn bytes(&self, ids: &[u32]) -> usize {
        match self {
            Tokenizer::Characters(Characters(known)) => {
                ids.iter().filter_map(|&id| known.get(id as usize)).map(|char| char.len_utf8()).sum()
            }
            Tokenizer::Bytes => ids.iter().filter(|&&id| id < 256).count(),
            Tokenizer::Gpt2 => {
                let bytes =
                    |&id: &u32| r50k_base_singleton().decode_bytes(&[id]).map_or(0, |bytes| bytes.len());
                ids.iter().filter(|&&id| id < self.start()).map(bytes).sum()
            }
            Tokenizer::HuggingFace(tokenizer)
                if matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) =>
            {
                let special = tokenizer.get_added_tokens_decoder();
                let text = ids.iter().filter(|id| !special.get(id).is_some_and(|token| token.special));
                // Every byte is written as one character.
                text.filter_map(|&id| tokenizer.id_to_token(id)).map(|token| token.chars().count()).sum()
            }
            Tokenizer::HuggingFace(tokenizer) => tokenizer.decode(ids, true).map_or(0, |text| text.len()),
        }
    }

    /// The text of `ids`, with U+FFFD for what is not UTF-8 and for ids that do not exist.
    pub fn decode(&self, ids: &[u32]) -> String {
        let join = |bytes_of: &dyn Fn(u32) -> Vec<u8>| {
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| bytes_of(id)).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        match self {
            Tokenizer::Characters(Characters(known)) => {
                let char = |&id: &u32| known.get(id as usize).copied();
                ids.iter().map(|id| char(id).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
            }
            Tokenizer::Bytes => join(&|id| match u8::try_from(id) {
                Ok(byte) => vec![byte],
                Err(_) => END_OF_TEXT.into(),
            }),
            Tokenizer::Gpt2 => join(&|id| match r50k_base_singleton().decode_bytes(&[id]) {
                Ok(bytes) => bytes,
                Err(_) => "\u{fffd}".into(),
            }),
            Tokenizer::HuggingFace(tokenizer) => {
                tokenizer.decode(ids, false).unwrap_or_else(|_| "\u{fffd}".into())
            }
        }
    }
}

/// A tokenizer over bytes, in which [`END_OF_TEXT`] is special if the vocabulary has it.
fn byte_level(model: BPE, bytes: ByteLevel) -> tokenizers::Result<HuggingFace> {
    let mut tokenizer = HuggingFace::new(model);
    tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
    if tokenizer.token_to_id(END_OF_TEXT).is_some() {
        tokenizer.add_special_tokens([AddedToken::from(END_OF_TEXT, true)])?;
    }
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

/// Bytes as GPT-2's vocabulary writes them: each as a character that can be seen, its own where Latin-1 has one, else the
/// next from U+0100 on.
fn visible(bytes: &[u8]) -> String {
    let is_visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let char = |&byte: &u8| match is_visible(&byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|byte| !is_visible(byte)).count() as u32;
            char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    };
    bytes.iter().map(char).collect()
}

/// GPT-2's vocabulary, and the two tokens that each of its tokens is merged from. The ranks that the encoder has are in the
/// order of merging: so the two are what a token's bytes become under the ranks before its own.
fn gpt2_pairs() -> tokenizers::Result<(Vocab, Merges)> {
    const FIRST_MERGED: u32 = 256;
    let encoder = r50k_base_singleton();
    let end = Tokenizer::Gpt2.start();
    let tokens =
        (0..end).map(|id| Ok(encoder.decode_bytes(&[id])?)).collect::<tokenizers::Result<Vec<_>>>()?;
    let ranks: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let mut merges = Merges::with_capacity(tokens.len());
    for id in FIRST_MERGED..end {
        let mut parts: Vec<&[u8]> = tokens[id as usize].chunks(1).collect();
        while parts.len() > 2 {
            let joined = |at: usize| [parts[at], parts[at + 1]].concat();
            let rank = |at: &usize| ranks.get(joined(*at).as_slice()).copied().unwrap_or(end);
            let Some(at) = (0..parts.len() - 1).min_by_key(rank) else { break };
            let start: usize = parts[..at].iter().map(|part| part.len()).sum();
            let length = parts[at].len() + parts[at + 1].len();
            parts.splice(at..at + 2, [&tokens[id as usize][start..start + length]]);
        }
        merges.push((visible(parts[0]), visible(parts[1])));
    }
    let mut vocab: Vocab = tokens.iter().map(|token| visible(token)).zip(0..).collect();
    vocab.insert(END_OF_TEXT.into(), end);
    Ok((vocab, merges))
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Tokenizer::Characters(_) => "characters",
            Tokenizer::Bytes => "bytes",
            Tokenizer::Gpt2 => "GPT-2",
            Tokenizer::HuggingFace(_) => "tokenizer.json",
        };
        write!(f, "{name}, {} ids", self.len())
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        serde_json::to_string(self).ok() == serde_json::to_string(other).ok()
    }
}

/// Text from ids as they come. A character may be made of several tokens and appears with its last.
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids of the text last given out, then those that are held back. The former are there because some tokenizers
    /// drop the space before a text's first word.
    ids: Vec<u32>,
    shown: usize,
}

/// The bytes of a character in UTF-8, and the tokens that it has at most.
const LONGEST_CHARACTER: usize = 4;

impl<'a> Decoder<'a> {
    /// A decoder of what comes after `context`.
    pub fn new(tokenizer: &'a Tokenizer, context: &[u32]) -> Self {
        Decoder { tokenizer, ids: context.to_vec(), shown: context.len() }
    }

    /// The text that `id` completes, which may be none.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        let text = self.held_back();
        let incomplete =
            text.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.shown < LONGEST_CHARACTER;
        if incomplete {
            return String::new();
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        text
    }

    /// What was held back and will not be completed.
    pub fn finish(&mut self) -> String {
        let text = self.held_back();
        self.shown = self.ids.len();
        text
    }

    fn held_back(&self) -> String {
        let before = self.tokenizer.decode(&self.ids[..self.shown]);
        let all = self.tokenizer.decode(&self.ids);
        match all.strip_prefix(&before) {
            Some(text) => text.to_owned(),
            // The new tokens complete what was given out as invalid.
            None => self.tokenizer.decode(&self.ids[self.shown..]),
        }
    }
}

#[derive(Debug, clap::Subcommand)]
pub enum TokenizerCommand {
    Train(TrainArgs),
}

/// Learn byte pairs from text and write them as a Hugging Face tokenizer.json
///
/// The vocabulary is GPT-2's kind (BPE over bytes), so that no text is without ids, and is read by this program and by
/// Hugging Face's libraries. Its first id is <|endoftext|>, which stands between documents; the next 256 are the bytes.
/// The memory it takes grows with the number of different words; --sample-mb bounds the text that it looks at.
///
/// Example:
///   gpt tokenizer train stories.jsonl.gz --vocab-size 8192 --out tokenizer.json
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, verbatim_doc_comment)]
pub struct TrainArgs {
    #[command(flatten)]
    input: InputArgs,
    /// Where the tokenizer goes; a file that is there is not replaced
    #[arg(long, value_name = "FILE", default_value = FILE)]
    out: PathBuf,
    /// Ids to make, the bytes and <|endoftext|> among them; token shards have room for 65536
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(257..=65536))]
    vocab_size: u32,
    /// Pairs that occur less often make no token
    #[arg(long, value_name = "N", default_value_t = 2)]
    min_frequency: u64,
    /// Megabytes of text to learn from, from the beginning of the input
    #[arg(long, value_name = "MB", default_value_t = 1000)]
    sample_mb: u64,
}

/// The `tokenizer` subcommand.
pub fn run(command: &TokenizerCommand) -> Result<(), AppError> {
    let TokenizerCommand::Train(args) = command;
    if args.out.exists() {
        let (found, hint) = ("a tokenizer or another file", "remove it or choose another --out");
        return Err(AppError::Exists { path: args.out.clone(), found, hint });
    }
    let mut input = Input::open(&args.input)?;
    // Before the work, so that it is not in vain.
    make_room(&args.out)?;
    let mut left = args.sample_mb.saturating_mul(1_000_000);
    let mut failure = None;
    let texts = std::iter::from_fn(|| {
        if left == 0 {
            return None;
        }
        let text = input.next().unwrap_or_else(|e| {
            failure = Some(e);
            None
        })?;
        left = left.saturating_sub(text.len() as u64);
        Some(text)
    });
    let tokenizer =
        train(texts, args).map_err(|e| AppError::contents(&args.out, format!("cannot learn it: {e}")));
    if let Some(failure) = failure {
        return Err(failure);
    }
    let tokenizer = Tokenizer::HuggingFace(Box::new(tokenizer?));
    if tokenizer.len() == 257 {
        note(format_args!("no pair occurs {} times: the vocabulary is the bytes alone", args.min_frequency));
    }
    tokenizer.save(&args.out)?;
    note(format_args!("{}: {} ids", args.out.display(), tokenizer.len()));
    Ok(())
}

fn train(texts: impl Iterator<Item = String> + Send, args: &TrainArgs) -> tokenizers::Result<HuggingFace> {
    let bytes = ByteLevel::default().add_prefix_space(false);
    let mut tokenizer = HuggingFace::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
    let trainer = BpeTrainer::builder()
        .vocab_size(args.vocab_size as usize)
        .min_frequency(args.min_frequency)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts)?;
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::tests::scratch;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: TokenizerCommand,
    }

    fn learned(directory: &Path, text: &str, out: &str, vocab_size: &str) -> Result<Tokenizer, AppError> {
        let (input, out) = (directory.join("text.txt"), directory.join(out));
        fs::write(&input, text).unwrap();
        let paths = [input.to_str().unwrap(), "--out", out.to_str().unwrap(), "--vocab-size", vocab_size];
        run(&Cli::parse_from(["tokenizer", "train"].into_iter().chain(paths)).command)?;
        Tokenizer::load(&out)
    }

    const TEXTS: [&str; 5] = [
        "",
        "hello, world",
        "  two  spaces\n\n\ttab ",
        "naïve 東京 🦀🦀 <|endoftext|>",
        "aaaaaaaaaaaaaaaa1234567",
    ];

    #[test]
    fn every_tokenizer_gives_its_text_back() {
        let directory = scratch("tokenizer-round");
        let learned = learned(&directory, &"the cat sat on the mat. ".repeat(50), "t.json", "300").unwrap();
        let characters = Tokenizer::Characters(TEXTS.concat().into());
        for tokenizer in [characters, Tokenizer::Bytes, Tokenizer::Gpt2, learned] {
            for text in TEXTS {
                let ids = tokenizer.encode(text).unwrap();
                assert_eq!(tokenizer.decode(&ids), text, "{tokenizer}");
                assert!(ids.iter().all(|&id| (id as usize) < tokenizer.len()), "{tokenizer}");
                // No text can forge the border of a document, but for a line's end where there is nothing else.
                let is_border = |id| tokenizer.separator() == Some(id) && tokenizer.decode(&[id]) != "\n";
                assert!(!ids.iter().any(|&id| is_border(id)), "{tokenizer}");
                let (start, rest) = ids.split_at(ids.len().min(1));
                let mut decoder = Decoder::new(&tokenizer, &[]);
                let mut streamed: String = start.iter().chain(rest).map(|&id| decoder.push(id)).collect();
                streamed += &decoder.finish();
                assert_eq!(streamed, text, "{tokenizer}");
            }
            let json = serde_json::to_string(&tokenizer).unwrap();
            let again: Tokenizer = serde_json::from_str(&json).unwrap();
            assert_eq!(again, tokenizer);
            let path = directory.join("saved.json");
            tokenizer.save(&path).unwrap();
            assert_eq!(Tokenizer::load(&path).unwrap(), tokenizer);
        }
    }

    /// Ids as OpenAI's own encoder gives them.
    #[test]
    fn gpt2_is_gpt2() {
        let encode = |text| Tokenizer::Gpt2.encode(text).unwrap();
        assert_eq!(encode("Hello world"), [15496, 995]);
        assert_eq!(
            encode("First Citizen:\nBefore we proceed any further, hear me speak."),
            [5962, 22307, 25, 198, 8421, 356, 5120, 597, 2252, 11, 3285, 502, 2740, 13]
        );
        assert_eq!(Tokenizer::Gpt2.decode(&[50256, 15496]), "<|endoftext|>Hello");
        assert_eq!(Tokenizer::Gpt2.separator(), Some(50256));
        assert_eq!(Tokenizer::Gpt2.decode(&[60000]), "\u{fffd}");
    }

    /// What `gpt export` writes for `transformers` must be the same tokenizer.
    #[test]
    fn hugging_faces_form_of_a_tokenizer_gives_the_same_ids() {
        let characters = Tokenizer::Characters(TEXTS.concat().into());
        for own in [characters, Tokenizer::Bytes, Tokenizer::Gpt2] {
            let theirs = Tokenizer::HuggingFace(Box::new(own.to_hugging_face().unwrap()));
            assert_eq!(theirs.len(), own.len());
            assert_eq!(theirs.clone().or_gpt2() == Tokenizer::Gpt2, own == Tokenizer::Gpt2);
            for text in TEXTS.into_iter().chain([include_str!("tokenizer.rs")]) {
                let Ok(ids) = own.encode(text) else { continue };
                assert_eq!(theirs.encode(text).unwrap(), ids, "{own}");
                assert_eq!(theirs.decode(&ids), text, "{own}");
                let parts =
                    |tokenizer: &Tokenizer| ids.chunks(3).map(|part| tokenizer.bytes(part)).sum::<usize>();
                assert_eq!((parts(&own), parts(&theirs)), (text.len(), text.len()), "{own}");
            }
            if !matches!(own, Tokenizer::Characters(_)) {
                assert_eq!(theirs.separator(), own.separator());
                assert_eq!([&own, &theirs].map(|tokenizer| tokenizer.bytes(&[own.start()])), [0, 0]);
            }
        }
    }

    #[test]
    fn characters_are_sorted_and_unknown_ones_are_named() {
        let tokenizer = Tokenizer::Characters("hello, wörld\n".to_owned().into());
        assert_eq!(tokenizer.encode("low\n").unwrap(), [6, 7, 9, 0]);
        assert_eq!(tokenizer.encode("hex").unwrap_err(), "the character 'x' is not in the vocabulary");
        assert_eq!(tokenizer.decode(&[6, 11]), "l\u{fffd}");
        assert_eq!((tokenizer.len(), tokenizer.start(), tokenizer.separator()), (11, 0, Some(0)));
    }

    #[test]
    fn pieces_of_characters_wait_for_the_rest() {
        let crab = "🦀".bytes().map(u32::from).collect::<Vec<_>>();
        let mut decoder = Decoder::new(&Tokenizer::Bytes, &[]);
        let shown: Vec<String> = crab.iter().map(|&byte| decoder.push(byte)).collect();
        assert_eq!(shown, ["", "", "", "🦀"]);
        // A byte that never begins a character is not waited for forever, and what follows is unharmed.
        let mut text: String = [0xff, 0xff, 0xff, 0xff, 0x61].map(|byte| decoder.push(byte)).concat();
        assert_eq!(text.matches('\u{fffd}').count(), 4);
        assert!(text.ends_with('a'));
        text = crab[..2].iter().map(|&byte| decoder.push(byte)).collect();
        assert_eq!((text.as_str(), decoder.finish().as_str()), ("", "\u{fffd}"));
        // A prompt that ends within a character is completed by what comes after.
        let mut decoder = Decoder::new(&Tokenizer::Bytes, &crab[..3]);
        assert!(decoder.push(crab[3]).is_empty() && decoder.push(0x62).ends_with('b'));
    }

    #[test]
    fn a_learned_vocabulary_has_the_texts_words_and_is_the_same_every_time() {
        let directory = scratch("tokenizer-learn");
        let text = "the wheel turns and the wheel turns again\n".repeat(30);
        let one = learned(&directory, &text, "one.json", "290").unwrap();
        let two = learned(&directory, &text, "two.json", "290").unwrap();
        assert_eq!(one, two);
        assert_eq!(
            fs::read(directory.join("one.json")).unwrap(),
            fs::read(directory.join("two.json")).unwrap()
        );
        assert_eq!(one.separator(), Some(0));
        assert!(one.len() <= 290);
        assert_eq!(one.encode(" wheel").unwrap().len(), 1);
        let again = learned(&directory, &text, "one.json", "290").unwrap_err().to_string();
        assert!(
            again.ends_with("one.json holds a tokenizer or another file; remove it or choose another --out"),
            "{again}"
        );
    }

    #[test]
    fn what_is_no_tokenizer_is_an_error_that_names_the_file() {
        let directory = scratch("tokenizer-bad");
        let path = directory.join("t.json");
        for text in ["", "{", "{}", "\"gpt3\"", r#"{"model": 3}"#, r#"{"model": {"type": "BPE"}}"#] {
            fs::write(&path, text).unwrap();
            let message = Tokenizer::load(&path).unwrap_err().to_string();
            assert!(message.contains("t.json: not a tokenizer: "), "{text}: {message}");
        }
        assert!(
            Tokenizer::load(&directory.join("none")).unwrap_err().to_string().starts_with("cannot read ")
        );
    }

    /// Truncation and padding in the file would cut and fill documents.
    #[test]
    fn a_tokenizer_json_is_used_for_whole_documents() {
        let directory = scratch("tokenizer-whole");
        let Tokenizer::HuggingFace(mut inner) =
            learned(&directory, "some text, some more", "t.json", "257").unwrap()
        else {
            panic!()
        };
        inner.with_truncation(Some(Default::default())).unwrap();
        let mut cut = serde_json::to_value(&inner).unwrap();
        cut["truncation"]["max_length"] = 2.into();
        let path = directory.join("cut.json");
        fs::write(&path, cut.to_string()).unwrap();
        assert_eq!(Tokenizer::load(&path).unwrap().encode("abcdef").unwrap().len(), 6);
    }
}
