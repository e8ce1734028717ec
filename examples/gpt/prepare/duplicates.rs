//! Documents that were there before, word for word or nearly.
//!
//! A document's shingles are its runs of w words, without case and punctuation. MinHash (Broder 1997) keeps of them, for
//! each of b x r random functions, the smallest value: two documents agree in one with a probability of their Jaccard
//! similarity s, the share of all their shingles that they have in common. The values go in b bands of r
//! (locality-sensitive hashing): a document whose values agree with a former one's in a whole band is dropped, which
//! happens with probability 1 - (1 - s^r)^b. That rises steeply around s = (1/b)^(1/r).

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tilewright::random::Philox;
use twox_hash::XxHash3_64;

use crate::error::AppError;

#[derive(Clone, Copy, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct DuplicateArgs {
    /// --near-duplicates: words of a shingle
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub shingle: u32,
    /// --near-duplicates: bands; with b bands of r values, documents that share a part s of their shingles are taken for
    /// duplicates with probability 1 - (1 - s^r)^b, which rises around s = (1/b)^(1/r): 0.71 for 16 and 8
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub bands: u32,
    /// --near-duplicates: values of a band
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub band_size: u32,
    /// Megabytes to remember documents in. One takes 49 bytes at 16 bands, so 10 million have room by default; then all are
    /// forgotten, which the report counts
    #[arg(long, value_name = "MB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub memory_mb: u64,
}

/// The hash by which a document is recognised word for word.
pub fn exact(text: &str) -> u64 {
    XxHash3_64::oneshot(text.as_bytes())
}

pub struct MinHash {
    shingle: usize,
    band_size: usize,
    /// Factor and summand of each function: the high half of `factor * x + summand`, from 64 bits to 32.
    functions: Vec<(u64, u64)>,
}

impl MinHash {
    pub fn new(args: &DuplicateArgs) -> MinHash {
        let random = Philox::new(0);
        let function = |i: u32| {
            let [a, b, c, d] = random.block([i, 0, 0, 0]).map(u64::from);
            (a << 32 | b | 1, c << 32 | d)
        };
        let functions = (0..args.bands * args.band_size).map(function).collect();
        MinHash { shingle: args.shingle as usize, band_size: args.band_size as usize, functions }
    }

    /// A hash for each band; none for a document without words.
    pub fn bands(&self, text: &str) -> Vec<u64> {
        let words = text.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty());
        let words: Vec<u64> = words.map(|word| XxHash3_64::oneshot(word.to_lowercase().as_bytes())).collect();
        if words.is_empty() {
            return Vec::new();
        }
        let mut least = vec![u32::MAX; self.functions.len()];
        for shingle in words.windows(self.shingle.min(words.len())) {
            let hash = XxHash3_64::oneshot(bytemuck::cast_slice(shingle));
            for (least, (factor, summand)) in least.iter_mut().zip(&self.functions) {
                *least = (*least).min((factor.wrapping_mul(hash).wrapping_add(*summand) >> 32) as u32);
            }
        }
        let bands = least.chunks(self.band_size).zip(0..);
        bands.map(|(band, i)| XxHash3_64::oneshot_with_seed(i, bytemuck::cast_slice(band))).collect()
    }
}

/// Probes of the filter: half full, it takes one in 2^16 hashes for one that it has.
const PROBES: u64 = 16;

/// Hashes in memory of a fixed size: a Bloom filter (Bloom 1970), as LSHBloom's (Khan et al. 2024). It never fails to
/// recognise a hash; it takes one for another with a probability of at most 2^-16, for when it is half full it forgets
/// all. What goes in is also written to a journal, from which an interrupted run fills it again.
pub struct Seen {
    bits: Vec<u64>,
    ones: u64,
    /// How often it was emptied.
    pub forgotten: u64,
    journal: BufWriter<File>,
    path: PathBuf,
    written: u64,
}

impl Seen {
    /// An empty one, with its journal at `path`.
    pub fn create(path: &Path, megabytes: u64) -> Result<Seen, AppError> {
        let journal = File::create(path).map_err(AppError::io("write", path))?;
        Ok(Seen::with_journal(journal, path, megabytes))
    }

    /// The one whose journal at `path` was `written` hashes long.
    pub fn resume(path: &Path, megabytes: u64, written: u64) -> Result<Seen, AppError> {
        let mut reader = BufReader::new(File::open(path).map_err(AppError::io("open", path))?);
        let journal = OpenOptions::new().append(true).open(path).map_err(AppError::io("open", path))?;
        let mut seen = Seen::with_journal(journal, path, megabytes);
        let mut hash = [0; 8];
        for _ in 0..written {
            reader.read_exact(&mut hash).map_err(AppError::io("read", path))?;
            seen.set(u64::from_le_bytes(hash));
        }
        seen.journal.get_ref().set_len(8 * written).map_err(AppError::io("write", path))?;
        seen.written = written;
        Ok(seen)
    }

    fn with_journal(journal: File, path: &Path, megabytes: u64) -> Seen {
        Seen {
            // Zeros cost memory only once they are touched.
            bits: vec![0; (megabytes as usize) << 17],
            ones: 0,
            forgotten: 0,
            journal: BufWriter::new(journal),
            path: path.to_path_buf(),
            written: 0,
        }
    }

    /// The places of a hash: multiples of one half of it, from the other on.
    fn places(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let bits = 64 * self.bits.len() as u128;
        let step = hash.rotate_left(32) | 1;
        (0..PROBES).map(move |i| {
            let place = (u128::from(hash.wrapping_add(i.wrapping_mul(step))) * bits) >> 64;
            ((place / 64) as usize, 1 << (place % 64))
        })
    }

    pub fn contains(&self, hash: u64) -> bool {
        self.places(hash).all(|(word, bit)| self.bits[word] & bit != 0)
    }

    fn set(&mut self, hash: u64) {
        for (word, bit) in self.places(hash) {
            self.ones += u64::from(self.bits[word] & bit == 0);
            self.bits[word] |= bit;
        }
        if self.ones > 32 * self.bits.len() as u64 {
            self.bits.fill(0);
            self.ones = 0;
            self.forgotten += 1;
        }
    }

    pub fn insert(&mut self, hash: u64) -> Result<(), AppError> {
        self.set(hash);
        self.written += 1;
        self.journal.write_all(&hash.to_le_bytes()).map_err(AppError::io("write", &self.path))
    }

    /// Has the journal on disk; returns its length in hashes.
    pub fn sync(&mut self) -> Result<u64, AppError> {
        let synced = self.journal.flush().and_then(|()| self.journal.get_ref().sync_data());
        synced.map_err(AppError::io("write", &self.path))?;
        Ok(self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::scratch;

    const ARGS: DuplicateArgs = DuplicateArgs { shingle: 1, bands: 16, band_size: 8, memory_mb: 1 };

    /// Two documents of `words` different words each, which share `shared` of them.
    fn pair(i: usize, words: usize, shared: usize) -> [String; 2] {
        [0, 1].map(|side| {
            let word = |n: usize| if n < shared { format!("w{i}x{n} ") } else { format!("w{i}x{n}x{side} ") };
            (0..words).map(word).collect()
        })
    }

    #[test]
    fn agreement_in_a_band_has_the_probability_that_is_stated() {
        let hash = MinHash::new(&ARGS);
        for shared in [40, 75, 90] {
            let similarity = shared as f64 / (200 - shared) as f64;
            let expected = 1.0 - (1.0 - similarity.powi(8)).powi(16);
            let agree = |i: usize| {
                let [a, b] = pair(i, 100, shared).map(|text| hash.bands(&text));
                a.iter().zip(&b).any(|(a, b)| a == b)
            };
            let found = (0..600).filter(|&i| agree(i)).count() as f64 / 600.0;
            // Four standard deviations of the count.
            let error = 4.0 * (expected * (1.0 - expected) / 600.0).sqrt() + 0.005;
            assert!(
                (found - expected).abs() < error,
                "similarity {similarity}: {found}, expected {expected}"
            );
        }
    }

    #[test]
    fn case_and_punctuation_do_not_matter() {
        let hash = MinHash::new(&DuplicateArgs { shingle: 5, ..ARGS });
        let bands = hash.bands("The cat sat on the mat; it purred.");
        assert_eq!(bands.len(), 16);
        assert_eq!(bands, hash.bands("the CAT (sat) on the mat it purred"));
        assert_ne!(bands, hash.bands("the cat sat on the mat it slept"));
        assert_eq!(hash.bands("short text").len(), 16);
        assert!(hash.bands("... !").is_empty());
    }

    fn numbers(n: u64) -> impl Iterator<Item = u64> {
        (0..n).map(|i| exact(&i.to_string()))
    }

    #[test]
    fn nothing_is_missed_and_almost_nothing_is_mistaken() {
        let directory = scratch("seen");
        let mut seen = Seen::create(&directory.join("journal"), 1).unwrap();
        // 2^23 bits are half full after 2^23 ln 2 / 16 = 363 thousand hashes.
        for hash in numbers(350_000) {
            seen.insert(hash).unwrap();
        }
        assert_eq!(seen.forgotten, 0);
        assert!(numbers(350_000).all(|hash| seen.contains(hash)));
        let mistaken = numbers(1_350_000).skip(350_000).filter(|&hash| seen.contains(hash)).count();
        assert!(mistaken < 30, "{mistaken} of a million, of which 2^-16 are 15");
        numbers(1_000_000).skip(350_000).try_for_each(|hash| seen.insert(hash)).unwrap();
        assert_eq!(seen.forgotten, 2);
        assert_eq!(seen.bits.len() * 8, 1 << 20, "its memory never grows");
    }

    #[test]
    fn a_journal_restores_what_was_seen() {
        let directory = scratch("journal");
        let path = directory.join("journal");
        let mut seen = Seen::create(&path, 1).unwrap();
        numbers(400_000).try_for_each(|hash| seen.insert(hash)).unwrap();
        let written = seen.sync().unwrap();
        let bits = seen.bits.clone();
        numbers(400_100).skip(400_000).try_for_each(|hash| seen.insert(hash)).unwrap();
        drop(seen);
        let mut again = Seen::resume(&path, 1, written).unwrap();
        assert!(again.bits == bits && again.forgotten == 1);
        assert!(!again.contains(exact("400050")));
        again.insert(7).unwrap();
        assert_eq!(again.sync().unwrap(), 400_001);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 * 400_001);
        let error = Seen::resume(&path, 1, 400_002).err().unwrap().to_string();
        assert!(error.starts_with("cannot read "), "{error}");
    }
}
