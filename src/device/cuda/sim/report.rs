//! What can go wrong, said in full.

use std::fmt;

/// An error of the simulator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX.
    #[error("PTX line {line}: {message}")]
    Parse { line: u32, message: String },
    /// An instruction, a modifier or a feature that the simulator does not know. It never skips one.
    #[error("PTX line {line} is not supported: {message}")]
    Unsupported { line: u32, message: String },
    /// The module has no such kernel.
    #[error("the module has no kernel `{0}`")]
    NoFunction(String),
    /// A launch that CUDA would refuse.
    #[error("launch of `{kernel}`: {message}")]
    Launch { kernel: String, message: String },
    /// A call of the host that names memory which is not there.
    #[error("{0}")]
    Memory(String),
    /// A check found a fault in a kernel.
    #[error("{0}")]
    Report(Box<Report>),
}

impl Error {
    pub(super) fn parse(line: u32, message: impl Into<String>) -> Self {
        Self::Parse { line, message: message.into() }
    }

    pub(super) fn unsupported(line: u32, message: impl Into<String>) -> Self {
        Self::Unsupported { line, message: message.into() }
    }

    /// The report, if a check found a fault.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Report(report) => Some(report),
            _ => None,
        }
    }
}

/// The kinds of faults that the checks find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReportKind {
    OutOfBounds,
    UseAfterFree,
    Misaligned,
    Uninitialised,
    SharedRace,
    GlobalRace,
    /// A barrier that a part of a warp reaches, or that threads wait at for ever.
    Barrier,
    /// Data of a `cp.async` touched before the wait.
    AsyncCopy,
    /// A lane named by a member mask that is not there.
    AbsentLane,
    /// `assert` or `trap`.
    Assertion,
    /// The launch ran for longer than its budget.
    Budget,
}

impl fmt::Display for ReportKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfBounds => "access out of bounds",
            Self::UseAfterFree => "use after free",
            Self::Misaligned => "misaligned access",
            Self::Uninitialised => "read of uninitialised memory",
            Self::SharedRace => "race in shared memory",
            Self::GlobalRace => "race in global memory",
            Self::Barrier => "divergent barrier",
            Self::AsyncCopy => "asynchronous copy not waited for",
            Self::AbsentLane => "absent lane",
            Self::Assertion => "assertion failed",
            Self::Budget => "no end in sight",
        })
    }
}

/// A line of the CUDA source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub file: String,
    pub line: u32,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The second party of a race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    pub block: [u32; 3],
    /// None where only the block is known.
    pub thread: Option<[u32; 3]>,
    pub ptx_line: Option<u32>,
    pub source: Option<Source>,
}

/// A fault in a kernel: what, where and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub kind: ReportKind,
    /// None if the host's own read found it.
    pub kernel: Option<String>,
    pub block: [u32; 3],
    pub thread: Option<[u32; 3]>,
    pub other: Option<Other>,
    pub ptx_line: Option<u32>,
    pub source: Option<Source>,
    /// A sentence.
    pub message: String,
}

fn triple([x, y, z]: [u32; 3]) -> String {
    format!("({x}, {y}, {z})")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)?;
        if let Some(kernel) = &self.kernel {
            write!(f, "\n  in kernel `{kernel}`, block {}", triple(self.block))?;
            if let Some(thread) = self.thread {
                write!(f, ", thread {}", triple(thread))?;
            }
        }
        if let Some(source) = &self.source {
            write!(f, "\n  at {source}")?;
        }
        if let Some(line) = self.ptx_line {
            write!(f, " (PTX line {line})")?;
        }
        if let Some(other) = &self.other {
            write!(f, "\n  against block {}", triple(other.block))?;
            if let Some(thread) = other.thread {
                write!(f, ", thread {}", triple(thread))?;
            }
            if let Some(source) = &other.source {
                write!(f, "\n  at {source}")?;
            }
            if let Some(line) = other.ptx_line {
                write!(f, " (PTX line {line})")?;
            }
        }
        Ok(())
    }
}
