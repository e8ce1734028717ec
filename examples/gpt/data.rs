//! From files to batches: text or token shards, the two splits, random blocks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tilewright::random::{self, Philox};
use tilewright::{Device, Tensor};

use crate::error::AppError;
use crate::instructions::{self, Example};
use crate::report::count;
use crate::shards::Tokens;
use crate::tokenizer::{self, Characters, Tokenizer};

/// What a run learns from, as token ids in two splits.
pub struct Corpus {
    pub tokenizer: Tokenizer,
    /// Of text, the first nine tenths of every file; of shards, those whose names do not have the word `val`.
    pub train: Split,
    /// Of text, the last tenth of every file; of shards, the others, or the last tenth of all if there are none.
    pub val: Split,
    pub files: usize,
}

/// What batches are cut from.
#[derive(Clone)]
pub enum Split {
    /// A sequence of tokens, which blocks may begin anywhere in.
    Tokens(Tokens),
    /// Examples of answers, each a block.
    Examples(Arc<[Example]>),
}

impl Split {
    /// Tokens or examples.
    pub fn len(&self) -> usize {
        match self {
            Split::Tokens(tokens) => tokens.len(),
            Split::Examples(examples) => examples.len(),
        }
    }

    /// What [`Split::len`] counts.
    pub fn unit(&self) -> &'static str {
        match self {
            Split::Tokens(_) => "tokens",
            Split::Examples(_) => "examples",
        }
    }

    /// Tokens, those of examples too.
    fn tokens(&self) -> usize {
        match self {
            Split::Tokens(tokens) => tokens.len(),
            Split::Examples(examples) => examples.iter().map(Example::len).sum(),
        }
    }
}

impl Corpus {
    /// Reads a text file, every text file under a directory, or token shards: a `.bin` file, those in a directory, or those
    /// that a pattern such as `data/*_0000*.bin` names. Text's tokens are its characters; shards' are those of the
    /// `tokenizer.json` beside them, or GPT-2's if there is none.
    ///
    /// # Errors
    /// A path that cannot be read, a file that is not UTF-8 text (under a directory such files are
    /// passed over), a directory without any text, a damaged shard, a pattern that matches nothing.
    pub fn read(path: &Path) -> Result<Corpus, AppError> {
        if instructions::is_instructions(path) {
            return Corpus::from_instructions(path, None);
        }
        let shards = find_shards(path)?;
        if !shards.is_empty() {
            return Corpus::from_shards(shards);
        }
        Ok(Corpus::from_texts(&read_texts(path)?))
    }

    /// As [`Corpus::read`], for a model whose tokens are those of `tokenizer`. Each text is a document, which begins with the
    /// token that separates documents, if there is one. A `.jsonl` file holds [`instructions`].
    ///
    /// # Errors
    /// As there, and shards of another tokenizer, and text that has no ids.
    pub fn read_with(path: &Path, tokenizer: &Tokenizer) -> Result<Corpus, AppError> {
        if instructions::is_instructions(path) {
            return Corpus::from_instructions(path, Some(tokenizer));
        }
        let shards = find_shards(path)?;
        if shards.is_empty() {
            return Ok(Corpus::from_documents(tokenizer.clone(), read_documents(path, tokenizer)?));
        }
        check_tokenizer(path, &shards, tokenizer)?;
        Corpus::from_shards(shards)
    }

    fn from_instructions(path: &Path, tokenizer: Option<&Tokenizer>) -> Result<Corpus, AppError> {
        let (tokenizer, mut examples) = instructions::read(path, tokenizer)?;
        if examples.len() < 2 {
            let found = count(examples.len(), "example");
            let reason = format!("holds {found}; at least 2 are needed, the last tenth for validation");
            return Err(AppError::contents(path, reason));
        }
        let val = examples.split_off((examples.len() * 9 / 10).max(1));
        let [train, val] = [examples, val].map(|examples| Split::Examples(examples.into()));
        Ok(Corpus { tokenizer, train, val, files: 1 })
    }

    fn from_texts(texts: &[String]) -> Corpus {
        let characters: BTreeSet<char> = texts.iter().flat_map(|text| text.chars()).collect();
        let tokenizer = Tokenizer::Characters(Characters::from(characters));
        // All of their characters are known.
        let ids = texts.iter().map(|text| tokenizer.encode(text).unwrap_or_default()).collect();
        Corpus::from_documents(tokenizer, ids)
    }

    fn from_documents(tokenizer: Tokenizer, documents: Vec<Vec<u32>>) -> Corpus {
        let [mut train_ids, mut val_ids] = [vec![], vec![]];
        for ids in &documents {
            let (train, val) = ids.split_at(ids.len() * 9 / 10);
            train_ids.extend_from_slice(train);
            val_ids.extend_from_slice(val);
        }
        let [train, val] = [train_ids, val_ids].map(|ids| Split::Tokens(ids.into()));
        Corpus { tokenizer, train, val, files: documents.len() }
    }

    fn from_shards(shards: Vec<PathBuf>) -> Result<Corpus, AppError> {
        let files = shards.len();
        let tokenizer = tokenizer_of(&shards)?;
        let is_val = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.split(|char: char| !char.is_alphanumeric()).any(|part| part == "val")
        };
        let (val, train): (Vec<PathBuf>, Vec<PathBuf>) = shards.into_iter().partition(is_val);
        let (train, val) = match (train.as_slice(), val.as_slice()) {
            ([], all) | (all, []) => {
                let tokens = Tokens::open(all)?;
                let middle = tokens.len() / 10 * 9;
                tokens.split_at(middle)
            }
            (train, val) => (Tokens::open(train)?, Tokens::open(val)?),
        };
        Ok(Corpus { tokenizer, train: Split::Tokens(train), val: Split::Tokens(val), files })
    }

    /// What both splits hold together, in words.
    pub fn size(&self) -> String {
        let tokens = count(self.train.tokens() + self.val.tokens(), self.tokenizer.unit());
        match self.train {
            Split::Tokens(_) => tokens,
            Split::Examples(_) => {
                format!("{} ({tokens})", count(self.train.len() + self.val.len(), "example"))
            }
        }
    }

    /// Refuses a corpus that has no block of `block_size` tokens and its successor in either split.
    pub fn check_length(&self, path: &Path, block_size: usize) -> Result<(), AppError> {
        for (name, split) in [("training", &self.train), ("validation", &self.val)] {
            let Split::Tokens(tokens) = split else { continue };
            if tokens.len() <= block_size {
                let reason = format!(
                    "too short: its {name} split has {}, and block_size {block_size} takes at least {}",
                    count(tokens.len(), self.tokenizer.unit()),
                    block_size + 1
                );
                return Err(AppError::contents(path, reason));
            }
        }
        Ok(())
    }
}

/// All tokens of text or shards in their order, for a model whose tokens are those of `tokenizer`.
pub fn read_tokens(path: &Path, tokenizer: &Tokenizer) -> Result<Tokens, AppError> {
    let shards = find_shards(path)?;
    if shards.is_empty() {
        return Ok(read_documents(path, tokenizer)?.concat().into());
    }
    check_tokenizer(path, &shards, tokenizer)?;
    Tokens::open(&shards)
}

/// The tokenizer of shards: the one beside them, else GPT-2's.
fn tokenizer_of(shards: &[PathBuf]) -> Result<Tokenizer, AppError> {
    let beside = shards[0].with_file_name(tokenizer::FILE);
    if beside.exists() { Tokenizer::load(&beside) } else { Ok(Tokenizer::Gpt2) }
}

fn check_tokenizer(path: &Path, shards: &[PathBuf], tokenizer: &Tokenizer) -> Result<(), AppError> {
    let found = tokenizer_of(shards)?;
    if found != *tokenizer {
        let reason = format!("holds tokens of {found}; the model's are {tokenizer}");
        return Err(AppError::contents(path, reason));
    }
    Ok(())
}

/// The ids of each text, after the token that separates documents, if there is one.
fn read_documents(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, AppError> {
    let separator = tokenizer.separator().filter(|_| !matches!(tokenizer, Tokenizer::Characters(_)));
    let encode = |text: &String| {
        let ids = tokenizer.encode(text).map_err(|reason| AppError::contents(path, reason))?;
        Ok(separator.into_iter().chain(ids).collect())
    };
    read_texts(path)?.iter().map(encode).collect()
}

/// The shards that `path` names, in the order of their paths; none if it names text.
fn find_shards(path: &Path) -> Result<Vec<PathBuf>, AppError> {
    let is_shard = |path: &Path| path.extension().is_some_and(|extension| extension == "bin");
    if path.is_file() {
        return Ok(if is_shard(path) { vec![path.to_path_buf()] } else { vec![] });
    }
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(AppError::io("read", path))?;
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
        let mut shards = paths.map_err(AppError::io("read", path))?;
        shards.retain(|path| is_shard(path) && path.is_file());
        shards.sort_unstable();
        return Ok(shards);
    }
    let pattern = path.to_string_lossy();
    if !pattern.contains(['*', '?', '[']) {
        return Ok(vec![]);
    }
    let wrong =
        |reason: String| AppError::Argument { argument: "--data", reason: format!("{pattern}: {reason}") };
    let matches = glob::glob(&pattern).map_err(|e| wrong(e.to_string()))?;
    let shards = matches.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(e.to_string()))?;
    match shards.iter().find(|path| !is_shard(path)) {
        _ if shards.is_empty() => Err(wrong("no file has such a name".into())),
        Some(other) => Err(wrong(format!("{} is not a .bin file", other.display()))),
        None => Ok(shards),
    }
}

/// The text of a file, or the texts under a directory; not all of them are empty.
fn read_texts(path: &Path) -> Result<Vec<String>, AppError> {
    let metadata = fs::metadata(path).map_err(AppError::io("read", path))?;
    let texts = if metadata.is_dir() { read_directory(path)? } else { vec![read_file(path)?] };
    match texts.iter().all(String::is_empty) {
        true => Err(AppError::contents(path, "holds no text")),
        false => Ok(texts),
    }
}

fn read_file(path: &Path) -> Result<String, AppError> {
    let bytes = fs::read(path).map_err(AppError::io("read", path))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
        AppError::contents(path, format!("not UTF-8 text: an invalid byte in line {line}, at offset {at}"))
    })
}

/// What a program wrote, or what a build or a run left behind, teaches a model little.
const SKIPPED_DIRECTORIES: [&str; 3] = ["target", "runs", "node_modules"];
const SKIPPED_EXTENSIONS: [&str; 6] = ["lock", "svg", "json", "jsonl", "csv", "ipynb"];

/// The text files under `root`, without binary files and what the lists above name.
fn read_directory(root: &Path) -> Result<Vec<String>, AppError> {
    let skipped = |path: &Path| {
        path.extension()
            .is_some_and(|extension| SKIPPED_EXTENSIONS.iter().any(|&skipped| extension == skipped))
    };
    let mut texts = Vec::new();
    for path in files_below(root, |path| !skipped(path))? {
        let bytes = fs::read(&path).map_err(AppError::io("read", &path))?;
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => texts.push(text),
            _ => {}
        }
    }
    Ok(texts)
}

/// The `wanted` files under `root`, in the order of their paths, without hidden names, symbolic links and
/// [`SKIPPED_DIRECTORIES`].
pub fn files_below(root: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, AppError> {
    let mut files = Vec::new();
    let mut pending: Vec<PathBuf> = vec![root.to_path_buf()];
    // A stack, filled in reverse, gives the paths in order without a recursion.
    while let Some(path) = pending.pop() {
        if !path.is_dir() {
            files.push(path);
            continue;
        }
        let mut children = Vec::new();
        for entry in fs::read_dir(&path).map_err(AppError::io("read", &path))? {
            let entry = entry.map_err(AppError::io("read", &path))?;
            let kind = entry.file_type().map_err(AppError::io("read", &entry.path()))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let child = entry.path();
            let taken = match kind.is_dir() {
                true => !SKIPPED_DIRECTORIES.contains(&name.as_ref()),
                false => kind.is_file() && wanted(&child),
            };
            if taken && !name.starts_with('.') {
                children.push(child);
            }
        }
        children.sort_unstable_by(|a, b| b.cmp(a));
        pending.append(&mut children);
    }
    Ok(files)
}

/// What a run draws random numbers for. Each use has a stream of its own, so that one never moves another.
#[derive(Clone, Copy)]
pub enum Draw {
    Train,
    Sample,
}

/// Random numbers of a seed, for one use.
pub struct Random {
    philox: Philox,
    draw: Draw,
    drawn: u64,
    block: [u32; 4],
}

impl Random {
    pub fn new(seed: u64, draw: Draw) -> Self {
        Random { philox: Philox::new(seed), draw, drawn: 0, block: [0; 4] }
    }

    /// As [`Random::new`], after `drawn` numbers.
    pub fn after(seed: u64, draw: Draw, drawn: u64) -> Self {
        let mut random = Random { drawn, ..Random::new(seed, draw) };
        random.block = random.block();
        random
    }

    /// How many numbers were drawn.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// The next number's block.
    fn block(&self) -> [u32; 4] {
        let block = self.drawn / 4;
        // The last word is for the device's own random ops, which count up from 0.
        self.philox.block([block as u32, (block >> 32) as u32, self.draw as u32, u32::MAX])
    }

    fn bits(&mut self) -> u32 {
        let lane = self.drawn % 4;
        if lane == 0 {
            self.block = self.block();
        }
        self.drawn += 1;
        self.block[lane as usize]
    }

    /// A number below `bound`, which must be below 2^32 (the bias is then at most bound / 2^32).
    pub fn below(&mut self, bound: usize) -> usize {
        ((self.bits() as u64 * bound as u64) >> 32) as usize
    }

    /// A number from [0, 1).
    pub fn uniform(&mut self) -> f32 {
        random::uniform(self.bits())
    }
}

/// A target that counts for nothing.
pub const IGNORED: u32 = u32::MAX;

/// Token ids `[batch_size, block_size]`; each target is its input's successor in the text, or [`IGNORED`].
pub struct Batch {
    pub inputs: Tensor,
    pub targets: Tensor,
}

/// Cuts batches out of a split.
pub struct Blocks {
    split: Split,
    batch_size: usize,
    block_size: usize,
}

impl Blocks {
    /// Tokens must be more than `block_size` ([`Corpus::check_length`]).
    pub fn new(split: &Split, batch_size: usize, block_size: usize) -> Self {
        Blocks { split: split.clone(), batch_size, block_size }
    }

    /// The tokens of the split, or its examples.
    pub fn size(&self) -> usize {
        self.split.len()
    }

    /// The number of places where a block can start.
    fn places(&self) -> usize {
        match &self.split {
            Split::Tokens(tokens) => tokens.len() - self.block_size,
            Split::Examples(examples) => examples.len(),
        }
    }

    /// The inputs and targets of a place.
    fn block(&self, place: usize) -> (Vec<u32>, Vec<u32>) {
        match &self.split {
            Split::Tokens(tokens) => {
                (tokens.read(place, self.block_size), tokens.read(place + 1, self.block_size))
            }
            Split::Examples(examples) => examples[place].block(self.block_size),
        }
    }

    /// A batch of blocks from random places.
    pub fn random(&self, random: &mut Random, device: &Device) -> tilewright::Result<Batch> {
        let starts: Vec<usize> = (0..self.batch_size).map(|_| random.below(self.places())).collect();
        self.batch(&starts, device)
    }

    /// Batches whose blocks start at even distances over the whole split: the same every time, so
    /// that evaluations compare, and a truer picture of the split than as many random blocks.
    pub fn spaced(&self, batches: usize, device: &Device) -> impl Iterator<Item = tilewright::Result<Batch>> {
        let starts = self.spaced_starts(batches);
        (0..batches).map(move |i| self.batch(&starts[i * self.batch_size..][..self.batch_size], device))
    }

    fn spaced_starts(&self, batches: usize) -> Vec<usize> {
        let blocks = batches * self.batch_size;
        let last = self.places() - 1;
        (0..blocks).map(|i| (last as f64 * i as f64 / blocks as f64) as usize).collect()
    }

    fn batch(&self, starts: &[usize], device: &Device) -> tilewright::Result<Batch> {
        let (inputs, targets): (Vec<_>, Vec<_>) = starts.iter().map(|&start| self.block(start)).unzip();
        let shape = (starts.len(), self.block_size);
        Ok(Batch {
            inputs: Tensor::from_vec(inputs.concat(), shape, device)?,
            targets: Tensor::from_vec(targets.concat(), shape, device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::tests::by_hand;
    use crate::tests::scratch;

    fn all(split: &Split) -> Vec<u32> {
        let Split::Tokens(tokens) = split else { panic!() };
        tokens.read(0, tokens.len())
    }

    #[test]
    fn every_file_is_split_nine_to_one() {
        let corpus = Corpus::from_texts(&["abcdefghij".repeat(2), "ABCDEFGHIJ".into()]);
        let text = |split: &Split| corpus.tokenizer.decode(&all(split));
        assert_eq!(text(&corpus.train), "abcdefghijabcdefghABCDEFGHI");
        assert_eq!(text(&corpus.val), "ijJ");
        assert_eq!(corpus.tokenizer.len(), 20);
        assert!(corpus.check_length(Path::new("x"), 2).is_ok());
        let message = corpus.check_length(Path::new("x"), 3).unwrap_err().to_string();
        assert!(message.starts_with("x: too short: its validation split has 3 characters"), "{message}");
    }

    #[test]
    fn a_directory_gives_its_text_files_in_order() {
        let root = scratch("data-walk");
        for (path, text) in [
            ("b.rs", &b"2"[..]),
            ("a/z.md", b"1"),
            ("c.txt", b"3"),
            ("binary.dat", b"\0\x01"),
            ("latin1.txt", b"caf\xe9"),
            ("Cargo.lock", b"x"),
            (".hidden/h.txt", b"x"),
            ("target/t.rs", b"x"),
            ("runs/default/log.txt", b"x"),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(read_directory(&root).unwrap(), ["1", "2", "3"]);
        assert_eq!(Corpus::read(&root).unwrap().files, 3);
    }

    #[test]
    fn bad_data_is_an_error_that_names_the_path() {
        let root = scratch("data-bad");
        let file = root.join("latin1.txt");
        fs::write(&file, b"one\ncaf\xe9").unwrap();
        let error = |path: &Path| Corpus::read(path).err().unwrap().to_string();
        assert!(error(&file).ends_with("latin1.txt: not UTF-8 text: an invalid byte in line 2, at offset 7"));
        assert!(error(&root).ends_with(": holds no text"));
        assert!(error(&root.join("absent")).starts_with("cannot read "));
        fs::write(&file, b"").unwrap();
        assert!(error(&file).ends_with("latin1.txt: holds no text"));
    }

    #[test]
    fn shards_are_found_by_file_folder_and_pattern() {
        let root = scratch("data-shards");
        let write = |name: &str, tokens: &[u16]| fs::write(root.join(name), by_hand(tokens)).unwrap();
        let read = |name: &str| {
            let corpus = Corpus::read(&root.join(name)).map_err(|e| e.to_string())?;
            Ok::<_, String>((all(&corpus.train), all(&corpus.val)))
        };
        write("x_train_000001.bin", &[3, 4]);
        write("x_train_000000.bin", &[1, 2]);
        // Without a shard for validation, the last tenth is.
        write("long.bin", &(0..20).collect::<Vec<u16>>());
        assert_eq!(read("long.bin").unwrap(), ((0..18).collect(), vec![18, 19]));
        fs::remove_file(root.join("long.bin")).unwrap();
        write("x_val_000000.bin", &[5]);
        assert_eq!(read("").unwrap(), (vec![1, 2, 3, 4], vec![5]));
        assert_eq!(read("x_*0.bin").unwrap(), (vec![1, 2], vec![5]));
        // llm.c leaves no word of its tokenizer.
        assert_eq!(Corpus::read(&root).unwrap().tokenizer, Tokenizer::Gpt2);
        Tokenizer::Bytes.save(&root.join("tokenizer.json")).unwrap();
        assert_eq!(Corpus::read(&root).unwrap().tokenizer, Tokenizer::Bytes);

        assert!(read("y_*.bin").unwrap_err().contains("y_*.bin: no file has such a name"));
        assert!(read("*").unwrap_err().contains("tokenizer.json is not a .bin file"));
        assert!(read("[.bin").unwrap_err().starts_with("--data: "));
        let error = Corpus::read(&root).unwrap().check_length(&root, 1).unwrap_err().to_string();
        assert!(
            error.ends_with("its validation split has 1 byte, and block_size 1 takes at least 2"),
            "{error}"
        );
        fs::write(root.join("x_val_000000.bin"), "").unwrap();
        assert!(read("").unwrap_err().contains("x_val_000000.bin"));
    }

    fn ids(tensor: &Tensor) -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn random_batches_are_a_function_of_the_seed() {
        let text = Split::Tokens((0..100).collect::<Vec<u32>>().into());
        let blocks = Blocks::new(&text, 4, 8);
        let [mut one, mut same] = [(); 2].map(|()| Random::new(1, Draw::Train));
        for _ in 0..50 {
            let batch = blocks.random(&mut one, &Device::Cpu).unwrap();
            let again = blocks.random(&mut same, &Device::Cpu).unwrap();
            assert_eq!(ids(&batch.inputs), ids(&again.inputs));
            assert_eq!(batch.inputs.dims(), [4, 8]);
            assert!(ids(&batch.inputs).iter().zip(ids(&batch.targets)).all(|(x, y)| y == x + 1));
        }
        let first = |mut random| ids(&blocks.random(&mut random, &Device::Cpu).unwrap().inputs);
        assert_ne!(first(Random::new(1, Draw::Train)), first(Random::new(2, Draw::Train)));
        assert_ne!(first(Random::new(1, Draw::Train)), first(Random::new(1, Draw::Sample)));
    }

    #[test]
    fn random_numbers_go_on_where_they_stopped() {
        let mut whole = Random::new(3, Draw::Train);
        for drawn in 0..20 {
            assert_eq!(whole.drawn(), drawn);
            let mut rest = Random::after(3, Draw::Train, drawn);
            let next: Vec<u32> = (0..9).map(|_| rest.bits()).collect();
            let mut straight = Random::new(3, Draw::Train);
            (0..drawn).for_each(|_| assert!(straight.uniform() < 1.0));
            assert_eq!(next, (0..9).map(|_| straight.bits()).collect::<Vec<u32>>());
            whole.bits();
        }
    }

    #[test]
    fn random_blocks_reach_both_ends_of_the_split() {
        let text = Split::Tokens((0..10).collect::<Vec<u32>>().into());
        let batch =
            Blocks::new(&text, 200, 8).random(&mut Random::new(0, Draw::Train), &Device::Cpu).unwrap();
        let starts: std::collections::BTreeSet<u32> =
            ids(&batch.inputs).chunks(8).map(|block| block[0]).collect();
        assert_eq!(starts.into_iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn spaced_blocks_cover_the_split() {
        let text = Split::Tokens((0..100).collect::<Vec<u32>>().into());
        let blocks = Blocks::new(&text, 2, 10);
        assert_eq!(blocks.spaced_starts(2), [0, 22, 44, 66]);
        let batches: Vec<Batch> = blocks.spaced(2, &Device::Cpu).collect::<Result<_, _>>().unwrap();
        assert_eq!(ids(&batches[1].targets), (45..55).chain(67..77).collect::<Vec<u32>>());
        // One place only, and more blocks than there are places.
        assert_eq!(
            Blocks::new(&Split::Tokens((0..11).collect::<Vec<u32>>().into()), 2, 10).spaced_starts(1),
            [0, 0]
        );
    }
}
