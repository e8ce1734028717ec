//! Token shards on disk, in the format of llm.c's version 1: 256 little-endian int32, of which the first three are a magic
//! number, the version and the count of tokens and the rest zero; then the tokens as little-endian uint16.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::error::AppError;
use crate::files::map;

const MAGIC: i32 = 20240520;
const VERSION: i32 = 1;
const HEADER_BYTES: usize = 256 * 4;
/// The end of an incomplete shard's name.
const PART: &str = ".part";

fn header(tokens: usize) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    for (field, value) in bytes.as_chunks_mut().0.iter_mut().zip([MAGIC, VERSION, tokens as i32]) {
        *field = value.to_le_bytes();
    }
    bytes
}

/// A shard, mapped into memory: what is not read takes none.
struct Shard(Mmap);

impl Shard {
    /// # Errors
    /// A file that cannot be mapped, that is not a shard, or whose length is not what its header says.
    fn open(path: &Path) -> Result<Shard, AppError> {
        let wrong = |reason: String| AppError::contents(path, reason);
        let map = map(path)?;
        let Some((fields, tokens)) = map.split_at_checked(HEADER_BYTES) else {
            return Err(wrong(format!(
                "not a token shard: {} bytes are less than its header's 1024",
                map.len()
            )));
        };
        let field = |i: usize| i32::from_le_bytes(fields.as_chunks().0[i]);
        match (field(0), field(1)) {
            (MAGIC, VERSION) => {}
            (MAGIC, version) => {
                return Err(wrong(format!(
                    "a token shard of version {version}; version {VERSION} is understood"
                )));
            }
            (magic, _) => {
                return Err(wrong(format!("not a token shard: its magic number is {magic}, not {MAGIC}")));
            }
        }
        if usize::try_from(field(2)).ok().and_then(|count| count.checked_mul(2)) != Some(tokens.len()) {
            let reason = format!(
                "damaged: its header promises {} tokens and {} bytes follow, two for each token",
                field(2),
                tokens.len()
            );
            return Err(wrong(reason));
        }
        Ok(Shard(map))
    }

    fn tokens(&self) -> &[[u8; 2]] {
        self.0[HEADER_BYTES..].as_chunks().0
    }
}

/// A sequence of token ids: a text's in memory, or those of shards one after the other.
#[derive(Clone)]
pub struct Tokens {
    store: Arc<Store>,
    range: Range<usize>,
}

enum Store {
    Text(Vec<u32>),
    /// Shards with the place in the sequence where each ends.
    Shards(Vec<(usize, Shard)>),
}

impl From<Vec<u32>> for Tokens {
    fn from(ids: Vec<u32>) -> Self {
        Tokens { range: 0..ids.len(), store: Arc::new(Store::Text(ids)) }
    }
}

impl Tokens {
    pub fn open(paths: &[PathBuf]) -> Result<Tokens, AppError> {
        let mut shards = Vec::with_capacity(paths.len());
        let mut end = 0;
        for path in paths {
            let shard = Shard::open(path)?;
            end += shard.tokens().len();
            shards.push((end, shard));
        }
        Ok(Tokens { store: Arc::new(Store::Shards(shards)), range: 0..end })
    }

    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// The tokens before and from `middle` on, without copying them.
    pub fn split_at(self, middle: usize) -> (Tokens, Tokens) {
        let Range { start, end } = self.range;
        let middle = start + middle;
        (
            Tokens { store: self.store.clone(), range: start..middle },
            Tokens { store: self.store, range: middle..end },
        )
    }

    /// The `len` ids from `start` on, all of which must exist.
    pub fn read(&self, start: usize, len: usize) -> Vec<u32> {
        let start = self.range.start + start;
        match &*self.store {
            Store::Text(ids) => ids[start..start + len].to_vec(),
            Store::Shards(shards) => {
                let first = shards.partition_point(|&(end, _)| end <= start);
                let before = if first == 0 { 0 } else { shards[first - 1].0 };
                let tokens = shards[first..].iter().flat_map(|(_, shard)| shard.tokens());
                tokens.skip(start - before).take(len).map(|&bytes| u16::from_le_bytes(bytes).into()).collect()
            }
        }
    }
}

/// How far a [`ShardWriter`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WriterPosition {
    /// Shards that are complete.
    pub shards: usize,
    /// Tokens in the one after them.
    pub tokens: usize,
}

/// Writes a split's tokens as `SPLIT_000000.bin` and so on, of `limit` tokens each but for the last. A shard has [`PART`]
/// behind its name until it is complete.
pub struct ShardWriter {
    directory: PathBuf,
    split: &'static str,
    limit: usize,
    position: WriterPosition,
    /// The shard that `position` is in, once it has tokens.
    file: Option<BufWriter<File>>,
}

impl ShardWriter {
    pub fn new(directory: &Path, split: &'static str, limit: usize) -> Self {
        let position = WriterPosition::default();
        ShardWriter { directory: directory.to_path_buf(), split, limit, position, file: None }
    }

    /// Goes on from `position`: whatever was written after it is taken back.
    pub fn resume(mut self, position: WriterPosition) -> Result<Self, AppError> {
        let (part, shard) = (self.path(position.shards, PART), self.path(position.shards, ""));
        if shard.exists() {
            fs::rename(&shard, &part).map_err(AppError::io("rename", &shard))?;
        }
        for later in position.shards + 1.. {
            let paths = [self.path(later, ""), self.path(later, PART)];
            let found: Vec<&PathBuf> = paths.iter().filter(|path| path.exists()).collect();
            if found.is_empty() {
                break;
            }
            found
                .into_iter()
                .try_for_each(|path| fs::remove_file(path).map_err(AppError::io("remove", path)))?;
        }
        self.position = position;
        if position.tokens > 0 {
            let mut file = OpenOptions::new().write(true).open(&part).map_err(AppError::io("open", &part))?;
            let bytes = (HEADER_BYTES + 2 * position.tokens) as u64;
            if file.metadata().map_err(AppError::io("read", &part))?.len() < bytes {
                return Err(AppError::contents(&part, "shorter than the state of the interrupted run says"));
            }
            file.set_len(bytes)
                .and_then(|()| file.seek(SeekFrom::End(0)))
                .map_err(AppError::io("write", &part))?;
            self.file = Some(BufWriter::new(file));
        } else if part.exists() {
            fs::remove_file(&part).map_err(AppError::io("remove", &part))?;
        }
        Ok(self)
    }

    fn path(&self, shard: usize, end: &str) -> PathBuf {
        self.directory.join(format!("{}_{shard:06}.bin{end}", self.split))
    }

    /// The file that is written.
    fn part(&self) -> PathBuf {
        self.path(self.position.shards, PART)
    }

    pub fn position(&self) -> WriterPosition {
        self.position
    }

    pub fn push(&mut self, mut tokens: &[u16]) -> Result<(), AppError> {
        while !tokens.is_empty() {
            let (now, later) = tokens.split_at(tokens.len().min(self.limit - self.position.tokens));
            self.write(now).map_err(AppError::io("write", &self.part()))?;
            if self.position.tokens == self.limit {
                self.finish()?;
            }
            tokens = later;
        }
        Ok(())
    }

    fn write(&mut self, tokens: &[u16]) -> io::Result<()> {
        if self.file.is_none() {
            let mut file = BufWriter::new(File::create(self.part())?);
            file.write_all(&header(0))?;
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            tokens.iter().try_for_each(|token| file.write_all(&token.to_le_bytes()))?;
        }
        self.position.tokens += tokens.len();
        Ok(())
    }

    /// Has all that was pushed on disk.
    pub fn sync(&mut self) -> Result<(), AppError> {
        let part = self.part();
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush().and_then(|()| file.get_ref().sync_data()).map_err(AppError::io("write", &part))
    }

    /// Completes the shard that was begun, if one was.
    pub fn finish(&mut self) -> Result<(), AppError> {
        let (part, shard) = (self.part(), self.path(self.position.shards, ""));
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let mut complete = || {
            // Seeking flushes first.
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header(self.position.tokens))?;
            file.flush()?;
            file.get_ref().sync_data()
        };
        complete().map_err(AppError::io("write", &part))?;
        fs::rename(&part, &shard).map_err(AppError::io("rename", &part))?;
        self.position = WriterPosition { shards: self.position.shards + 1, tokens: 0 };
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::tests::scratch;

    /// A shard as llm.c's scripts write it, put together by hand.
    pub fn by_hand(tokens: &[u16]) -> Vec<u8> {
        // 20240520 is 0x0134d888.
        let mut bytes = vec![0x88, 0xd8, 0x34, 0x01, 1, 0, 0, 0];
        bytes.extend((tokens.len() as u32).to_le_bytes());
        bytes.resize(1024, 0);
        bytes.extend(tokens.iter().flat_map(|token| [*token as u8, (token >> 8) as u8]));
        bytes
    }

    #[test]
    fn shards_are_llm_cs_byte_for_byte() {
        let directory = scratch("shards-bytes");
        let mut writer = ShardWriter::new(&directory, "train", 5);
        writer.push(&[50256, 0, 1, 65535]).unwrap();
        writer.push(&[2, 3, 4]).unwrap();
        assert_eq!(writer.position(), WriterPosition { shards: 1, tokens: 2 });
        writer.finish().unwrap();
        let read = |name: &str| fs::read(directory.join(name)).unwrap();
        assert_eq!(read("train_000000.bin"), by_hand(&[50256, 0, 1, 65535, 2]));
        assert_eq!(read("train_000001.bin"), by_hand(&[3, 4]));
        assert_eq!(fs::read_dir(&*directory).unwrap().count(), 2);
    }

    #[test]
    fn shards_read_as_one_sequence() {
        let directory = scratch("shards-sequence");
        let all: Vec<u16> = (0..20).map(|i| 3000 * i).collect();
        let mut writer = ShardWriter::new(&directory, "train", 7);
        writer.push(&all).unwrap();
        writer.finish().unwrap();
        let paths = [0, 1, 2].map(|i| directory.join(format!("train_00000{i}.bin")));
        let tokens = Tokens::open(&paths).unwrap();
        let ids: Vec<u32> = all.iter().map(|&id| id.into()).collect();
        assert_eq!(tokens.len(), 20);
        for start in 0..20 {
            for end in start..=20 {
                assert_eq!(tokens.read(start, end - start), ids[start..end]);
            }
        }
        let (front, back) = tokens.split_at(12);
        assert_eq!((front.len(), back.len()), (12, 8));
        assert_eq!((front.read(3, 9), back.read(1, 7)), (ids[3..12].to_vec(), ids[13..].to_vec()));
    }

    #[test]
    fn what_is_not_a_shard_is_an_error_that_says_why() {
        let directory = scratch("shards-bad");
        let path = directory.join("x.bin");
        let error = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Tokens::open(std::slice::from_ref(&path)).err().unwrap().to_string()
        };
        let good = by_hand(&[1, 2, 3]);
        assert!(
            error(&good[..100])
                .ends_with("x.bin: not a token shard: 100 bytes are less than its header's 1024")
        );
        assert!(error(b"").contains("not a token shard"));
        let mut magic = good.clone();
        magic[0] = 0;
        assert!(error(&magic).contains("not a token shard: its magic number is 20240384, not 20240520"));
        let mut version = good.clone();
        version[4] = 7;
        assert!(error(&version).contains("a token shard of version 7; version 1 is understood"));
        for cut in [1024, good.len() - 2, good.len() - 1] {
            assert!(
                error(&good[..cut]).contains("damaged: its header promises 3 tokens and "),
                "cut to {cut}"
            );
        }
        let mut negative = good;
        negative[11] = 0xff;
        assert!(error(&negative).contains("damaged"));
        fs::remove_file(&path).unwrap();
        let absent = Tokens::open(std::slice::from_ref(&path)).err().unwrap().to_string();
        assert!(absent.starts_with("cannot read "), "{absent}");
    }

    /// A disk that is really full, where there is one at hand.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_shard() {
        let directory = scratch("shards-full");
        std::os::unix::fs::symlink("/dev/full", directory.join("val_000000.bin.part")).unwrap();
        let mut writer = ShardWriter::new(&directory, "val", 1 << 20);
        let error = writer.push(&[7; 1 << 14]).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write ") && error.contains("val_000000.bin.part: No space left"),
            "{error}"
        );
    }
}
