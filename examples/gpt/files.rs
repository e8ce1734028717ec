//! Files that are whole or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use memmap2::Mmap;
use serde::Serialize;

use crate::error::AppError;

/// [`write_atomically`], of what is known.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), AppError> {
    write_atomically(path, |file| file.write_all(contents.as_ref())).map_err(AppError::io("write", path))
}

/// [`write()`], as JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), AppError> {
    let text = serde_json::to_vec_pretty(value);
    write(path, text.map_err(|e| AppError::contents(path, format!("cannot be encoded: {e}")))?)
}

/// Writes a file beside `path` and renames it there once it is safely on disk: a crash or a full disk
/// at any moment leaves either the old file or the new one, whole.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    if let Err(e) = written.and_then(|()| fs::rename(&temporary, path)) {
        // The first error is the one to report; a leftover is only untidy.
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    sync_directory(path.parent().unwrap_or(Path::new("")))
}

/// Has a directory's names on disk, without which a rename in it does not last. Only Unix opens directories as files.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Makes the directory that a file is to be in.
pub fn make_room(path: &Path) -> Result<(), AppError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    fs::create_dir_all(directory).map_err(AppError::io("create", directory))
}

/// A file's bytes, which take no memory until they are read.
pub fn map(path: &Path) -> Result<Mmap, AppError> {
    let open = || {
        let file = File::open(path)?;
        match file.metadata()?.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => Ok(file),
        }
    };
    let file = open().map_err(AppError::io("read", path))?;
    // SAFETY: the bytes are only ever copied out as plain numbers, for which any value will do; that nobody cuts the file
    // short meanwhile is asked of the user, as every program that maps files does.
    unsafe { Mmap::map(&file) }.map_err(AppError::io("map", path))
}
