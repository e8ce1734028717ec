//! From files to batches: text, its characters as the vocabulary, the two splits, random blocks.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tilewright::random::{self, Philox};
use tilewright::{Device, Tensor};

use crate::error::AppError;

/// The characters a model knows, sorted; a character's place is its token id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Vocabulary(Vec<char>);

impl Vocabulary {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn id(&self, char: char) -> Option<u32> {
        self.0.binary_search(&char).ok().map(|id| id as u32)
    }

    pub fn char(&self, id: u32) -> Option<char> {
        self.0.get(id as usize).copied()
    }

    /// The ids of `text`, or its first character that has none.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, char> {
        text.chars().map(|char| self.id(char).ok_or(char)).collect()
    }
}

impl From<String> for Vocabulary {
    fn from(text: String) -> Self {
        let mut chars: Vec<char> = text.chars().collect();
        chars.sort_unstable();
        chars.dedup();
        Vocabulary(chars)
    }
}

impl From<Vocabulary> for String {
    fn from(vocabulary: Vocabulary) -> Self {
        vocabulary.0.into_iter().collect()
    }
}

/// The text of a run as token ids, in two splits.
pub struct Corpus {
    pub vocabulary: Vocabulary,
    /// The first nine tenths of every file.
    pub train: Vec<u32>,
    /// The last tenth of every file.
    pub val: Vec<u32>,
    pub files: usize,
}

impl Corpus {
    /// Reads a text file, or every text file under a directory.
    ///
    /// # Errors
    /// A path that cannot be read, a file that is not UTF-8 text (under a directory such files are
    /// passed over), a directory without any text.
    pub fn read(path: &Path) -> Result<Corpus, AppError> {
        let metadata = fs::metadata(path).map_err(AppError::io("read", path))?;
        let texts = if metadata.is_dir() { read_directory(path)? } else { vec![read_file(path)?] };
        if texts.iter().all(String::is_empty) {
            return Err(AppError::contents(path, "holds no text"));
        }
        Ok(Corpus::from_texts(&texts))
    }

    fn from_texts(texts: &[String]) -> Corpus {
        let vocabulary = Vocabulary::from(texts.concat());
        let mut corpus = Corpus { vocabulary, train: vec![], val: vec![], files: texts.len() };
        for text in texts {
            let ids: Vec<u32> = text.chars().filter_map(|char| corpus.vocabulary.id(char)).collect();
            let (train, val) = ids.split_at(ids.len() * 9 / 10);
            corpus.train.extend_from_slice(train);
            corpus.val.extend_from_slice(val);
        }
        corpus
    }

    /// Refuses a corpus that has no block of `block_size` tokens and its successor in either split.
    pub fn check_length(&self, path: &Path, block_size: usize) -> Result<(), AppError> {
        for (name, split) in [("training", &self.train), ("validation", &self.val)] {
            if split.len() <= block_size {
                let reason = format!(
                    "too short: its {name} split has {} characters, and block_size {block_size} takes at least {}",
                    split.len(),
                    block_size + 1
                );
                return Err(AppError::contents(path, reason));
            }
        }
        Ok(())
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

/// The text files under `root`, in the order of their paths. Passed over: hidden names, symbolic
/// links, binary files and what the two lists above name.
fn read_directory(root: &Path) -> Result<Vec<String>, AppError> {
    let mut texts = Vec::new();
    let mut pending: Vec<PathBuf> = vec![root.to_path_buf()];
    // A stack, filled in reverse, gives the paths in order without a recursion.
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let mut children = Vec::new();
            for entry in fs::read_dir(&path).map_err(AppError::io("read", &path))? {
                let entry = entry.map_err(AppError::io("read", &path))?;
                let kind = entry.file_type().map_err(AppError::io("read", &entry.path()))?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let child = entry.path();
                let extension =
                    child.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
                let skipped = name.starts_with('.')
                    || (kind.is_dir() && SKIPPED_DIRECTORIES.contains(&name.as_ref()))
                    || (kind.is_file() && SKIPPED_EXTENSIONS.contains(&extension.as_str()));
                if !skipped && (kind.is_dir() || kind.is_file()) {
                    children.push(child);
                }
            }
            children.sort_unstable_by(|a, b| b.cmp(a));
            pending.append(&mut children);
        } else {
            let bytes = fs::read(&path).map_err(AppError::io("read", &path))?;
            match String::from_utf8(bytes) {
                Ok(text) if !text.contains('\0') => texts.push(text),
                _ => {}
            }
        }
    }
    Ok(texts)
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

    fn bits(&mut self) -> u32 {
        let (block, lane) = (self.drawn / 4, self.drawn % 4);
        if lane == 0 {
            // The last word is for the device's own random ops, which count up from 0.
            self.block = self.philox.block([block as u32, (block >> 32) as u32, self.draw as u32, u32::MAX]);
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

/// Token ids `[batch_size, block_size]`; each target is its input's successor in the text.
pub struct Batch {
    pub inputs: Tensor,
    pub targets: Tensor,
}

/// Cuts batches out of a split.
pub struct Blocks<'a> {
    ids: &'a [u32],
    batch_size: usize,
    block_size: usize,
}

impl<'a> Blocks<'a> {
    /// `ids` must be longer than `block_size` ([`Corpus::check_length`]).
    pub fn new(ids: &'a [u32], batch_size: usize, block_size: usize) -> Self {
        Blocks { ids, batch_size, block_size }
    }

    /// The number of places where a block can start.
    fn places(&self) -> usize {
        self.ids.len() - self.block_size
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
        let block = |start: usize| &self.ids[start..][..self.block_size];
        let inputs = starts.iter().flat_map(|&start| block(start)).copied().collect();
        let targets = starts.iter().flat_map(|&start| block(start + 1)).copied().collect();
        let shape = (starts.len(), self.block_size);
        Ok(Batch {
            inputs: Tensor::from_vec(inputs, shape, device)?,
            targets: Tensor::from_vec(targets, shape, device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty directory of this test's own.
    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tilewright-gpt-data-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_vocabulary_is_sorted_and_round_trips() {
        let vocabulary = Vocabulary::from("hello, wörld\n".to_owned());
        assert_eq!(String::from(vocabulary.clone()), "\n ,dehlorwö");
        let ids = vocabulary.encode("low\n").unwrap();
        assert_eq!(ids, [6, 7, 9, 0]);
        assert_eq!(ids.iter().map(|&id| vocabulary.char(id).unwrap()).collect::<String>(), "low\n");
        assert_eq!(vocabulary.encode("hex"), Err('x'));
        assert_eq!(vocabulary.char(11), None);
    }

    #[test]
    fn every_file_is_split_nine_to_one() {
        let corpus = Corpus::from_texts(&["abcdefghij".repeat(2), "ABCDEFGHIJ".into()]);
        let text =
            |ids: &[u32]| ids.iter().map(|&id| corpus.vocabulary.char(id).unwrap()).collect::<String>();
        assert_eq!(text(&corpus.train), "abcdefghijabcdefghABCDEFGHI");
        assert_eq!(text(&corpus.val), "ijJ");
        assert_eq!(corpus.vocabulary.len(), 20);
        assert!(corpus.check_length(Path::new("x"), 2).is_ok());
        let message = corpus.check_length(Path::new("x"), 3).unwrap_err().to_string();
        assert!(message.starts_with("x: too short: its validation split has 3 characters"), "{message}");
    }

    #[test]
    fn a_directory_gives_its_text_files_in_order() {
        let root = scratch("walk");
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
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn bad_data_is_an_error_that_names_the_path() {
        let root = scratch("bad");
        let file = root.join("latin1.txt");
        fs::write(&file, b"one\ncaf\xe9").unwrap();
        let error = |path: &Path| Corpus::read(path).err().unwrap().to_string();
        assert!(error(&file).ends_with("latin1.txt: not UTF-8 text: an invalid byte in line 2, at offset 7"));
        assert!(error(&root).ends_with(": holds no text"));
        assert!(error(&root.join("absent")).starts_with("cannot read "));
        fs::write(&file, b"").unwrap();
        assert!(error(&file).ends_with("latin1.txt: holds no text"));
        fs::remove_dir_all(root).unwrap();
    }

    fn ids(tensor: &Tensor) -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn random_batches_are_a_function_of_the_seed() {
        let text: Vec<u32> = (0..100).collect();
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
    fn random_blocks_reach_both_ends_of_the_split() {
        let text: Vec<u32> = (0..10).collect();
        let batch =
            Blocks::new(&text, 200, 8).random(&mut Random::new(0, Draw::Train), &Device::Cpu).unwrap();
        let starts: std::collections::BTreeSet<u32> =
            ids(&batch.inputs).chunks(8).map(|block| block[0]).collect();
        assert_eq!(starts.into_iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn spaced_blocks_cover_the_split() {
        let text: Vec<u32> = (0..100).collect();
        let blocks = Blocks::new(&text, 2, 10);
        assert_eq!(blocks.spaced_starts(2), [0, 22, 44, 66]);
        let batches: Vec<Batch> = blocks.spaced(2, &Device::Cpu).collect::<Result<_, _>>().unwrap();
        assert_eq!(ids(&batches[1].targets), (45..55).chain(67..77).collect::<Vec<u32>>());
        // One place only, and more blocks than there are places.
        assert_eq!(Blocks::new(&text[..11], 2, 10).spaced_starts(1), [0, 0]);
    }
}
