//! Everything that can end a run early, each with the file, key or line that is to blame.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::interrupt;

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A config key that does not exist.
    #[error("{origin}: unknown config key `{key}`; {hint}")]
    UnknownKey { origin: String, key: String, hint: String },

    /// A config key with a value of the wrong type or out of range.
    #[error("{origin}: config key `{key}` {reason}")]
    Key { origin: String, key: String, reason: String },

    /// A file, read or written, that the system refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    /// A file whose contents are not what they should be.
    #[error("{}: {reason}", path.display())]
    Contents { path: PathBuf, reason: String },

    /// A line of a file that is not what it should be.
    #[error("{}, line {line}: {reason}", path.display())]
    Line { path: PathBuf, line: u64, reason: String },

    /// Output of an earlier run where this one would write.
    #[error("{} holds {found}; {hint}", path.display())]
    Exists { path: PathBuf, found: &'static str, hint: &'static str },

    /// A model where adapters belong to another.
    #[error(
        "{} belongs to another model than {}, whose fingerprint is {found} and not {expected}; with --resume, \
         --init-from says where a base has moved to",
        adapters.display(), base.display()
    )]
    OtherBase { adapters: PathBuf, base: PathBuf, expected: String, found: String },

    /// A command-line argument that means nothing here.
    #[error("{argument}: {reason}")]
    Argument { argument: &'static str, reason: String },

    /// The loss or the gradient is no longer a number.
    #[error(
        "the {what} is {value} at step {step}: training diverged; a lower learning_rate or grad_clip may \
         help (an earlier checkpoint, if there is one, is intact)"
    )]
    Diverged { step: usize, what: &'static str, value: f32 },

    /// Ctrl-C.
    #[error("interrupted after step {step}; --resume goes on from {}", save.display())]
    Interrupted { step: usize, save: PathBuf },

    #[error(transparent)]
    Tensor(#[from] tilewright::Error),
}

impl AppError {
    /// What the process says to its parent: 130 after Ctrl-C, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            AppError::Interrupted { .. } => interrupt::EXIT_CODE.into(),
            _ => ExitCode::FAILURE,
        }
    }

    pub fn contents(path: &Path, reason: impl Into<String>) -> Self {
        AppError::Contents { path: path.to_path_buf(), reason: reason.into() }
    }

    /// For `map_err` on what computes with the tokens of `data`, which may be others than the model's.
    pub fn of_data(data: &Path) -> impl FnOnce(Self) -> Self {
        move |error| match error {
            AppError::Tensor(error @ tilewright::Error::Index { .. }) => {
                AppError::contents(data, format!("holds a token that the model does not have: {error}"))
            }
            other => other,
        }
    }

    /// For `map_err` on a file operation: `.map_err(AppError::io("write", path))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| AppError::Io { action, path: path.to_path_buf(), source }
    }
}
