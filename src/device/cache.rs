//! What is kept on disk from one run of a program to the next: compiled kernels, and choices that took measurements.
//!
//! An entry is named after the hash of everything that it depends on, and begins with the hash of the rest. One that does not
//! fit that, torn or damaged, is no entry, and is written anew.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The environment variable with the folder; empty turns the cache off.
const CACHE: &str = "TILEWRIGHT_CACHE";

pub fn folder() -> Option<PathBuf> {
    match std::env::var_os(CACHE) {
        Some(folder) if folder.is_empty() => None,
        Some(folder) => Some(folder.into()),
        None => Some(dirs::cache_dir()?.join("tilewright")),
    }
}

/// An entry, if it is there and whole.
pub fn load(entry: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(entry).ok()?;
    let (hash, content) = bytes.split_at_checked(32)?;
    (hash == Sha256::digest(content).as_slice()).then(|| content.to_vec())
}

/// Writes an entry so that it is there as a whole or not at all, whatever happens meanwhile.
pub fn store(entry: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = entry.parent().expect("an entry lies in the cache's folder");
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&Sha256::digest(content))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(entry)?;
    Ok(())
}
