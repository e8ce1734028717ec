//! Models of the Hugging Face hub, by their id.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError};

use super::import::Index;
use super::{CONFIG, INDEX, MODEL};
use crate::error::AppError;
use crate::tokenizer;

/// The folder of the hub's cache that holds the model `id`, fetched if it is not there yet.
///
/// # Errors
/// Whatever the network or the hub refuses, and a model without safetensors.
pub fn fetch(id: &str) -> Result<PathBuf, AppError> {
    let wrong = |e: ApiError| AppError::Argument {
        argument: "MODEL",
        reason: format!("{id} is no folder, and the hub does not give such a model: {e}"),
    };
    let repo = ApiBuilder::from_env().build().map_err(wrong)?.model(id.to_owned());
    let files: Vec<String> =
        repo.info().map_err(wrong)?.siblings.into_iter().map(|file| file.rfilename).collect();
    let has = |name: &str| files.iter().any(|file| file == name);

    let config = repo.get(CONFIG).map_err(wrong)?;
    if has(MODEL) {
        repo.get(MODEL).map_err(wrong)?;
    } else if has(INDEX) {
        let index = repo.get(INDEX).map_err(wrong)?;
        let text = fs::read_to_string(&index).map_err(AppError::io("read", &index))?;
        for name in Index::parse(&text, &index)?.files() {
            repo.get(&name).map_err(wrong)?;
        }
    } else {
        let reason = format!("{id} has no {MODEL} on the hub");
        return Err(AppError::Argument { argument: "MODEL", reason });
    }
    let tokenizer: &[&str] =
        if has(tokenizer::FILE) { &[tokenizer::FILE] } else { &["vocab.json", "merges.txt"] };
    for name in tokenizer.iter().filter(|name| has(name)) {
        repo.get(name).map_err(wrong)?;
    }
    // All files of a revision are in one folder.
    Ok(config.parent().unwrap_or(Path::new(".")).to_path_buf())
}
