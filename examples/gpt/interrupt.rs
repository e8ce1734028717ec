//! Ctrl-C: the first ends a run at the end of its step, the second at once.

use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::AppError;
use crate::report::note;

/// What a shell gives a process that SIGINT has ended: 128 + 2.
pub const EXIT_CODE: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C (SIGINT; where there are such, SIGTERM and SIGHUP as well) is a request.
///
/// # Errors
/// If the system refuses the handler.
pub fn watch() -> Result<(), AppError> {
    static WATCHED: OnceLock<Result<(), String>> = OnceLock::new();
    let handler = || {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            process::exit(EXIT_CODE.into());
        }
        note(format_args!("stopping after this step; once more leaves at once, without a save"));
    };
    let watched = WATCHED.get_or_init(|| ctrlc::set_handler(handler).map_err(|e| e.to_string()));
    watched.clone().map_err(|reason| AppError::Argument { argument: "Ctrl-C", reason })
}

pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
