//! What can go wrong, said in full.

use std::fmt;

/// An error of the simulator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX.
    #[error("PTX line {line}: {message}")]
    Parse {
        /// Of the PTX, counted from 1.
        line: u32,
        /// What is wrong.
        message: String,
    },
    /// An instruction, a modifier or a feature that the simulator does not know. It never skips one.
    #[error("PTX line {line} is not supported: {message}")]
    Unsupported {
        /// Of the PTX, counted from 1.
        line: u32,
        /// What it is.
        message: String,
    },
    /// The module has no such kernel.
    #[error("the module has no kernel `{0}`")]
    NoFunction(String),
    /// A launch that CUDA would refuse.
    #[error("launch of `{kernel}`: {message}")]
    Launch {
        /// The entry point.
        kernel: String,
        /// What CUDA would not take.
        message: String,
    },
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
    /// An access outside of every allocation, or beyond the end of one.
    OutOfBounds,
    /// An access to an allocation that was freed.
    UseAfterFree,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A read of memory that nobody has written.
    Uninitialised,
    /// Two threads in shared memory, one of which writes, with no barrier between.
    SharedRace,
    /// The same in global memory, within a launch.
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
    /// As the compiler was told, by `#line` or by the program's name.
    pub file: String,
    /// Counted from 1.
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
    /// Its block.
    pub block: [u32; 3],
    /// None where only the block is known.
    pub thread: Option<[u32; 3]>,
    /// The line of the PTX, counted from 1.
    pub ptx_line: Option<u32>,
    /// The line of the source, if the PTX has it (`-lineinfo`).
    pub source: Option<Source>,
    /// The lines that called the function which that line is in, from the inside outwards, where the compiler inlined it.
    pub inlined: Vec<Source>,
}

/// A fault in a kernel: what, where and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it is.
    pub kind: ReportKind,
    /// None if the host's own read found it.
    pub kernel: Option<String>,
    /// The block.
    pub block: [u32; 3],
    /// The first thread, where it is one thread's fault.
    pub thread: Option<[u32; 3]>,
    /// The other party of a race.
    pub other: Option<Other>,
    /// The line of the PTX, counted from 1.
    pub ptx_line: Option<u32>,
    /// The line of the source, if the PTX has it (`-lineinfo`).
    pub source: Option<Source>,
    /// The lines that called the function which that line is in, from the inside outwards, where the compiler inlined it.
    pub inlined: Vec<Source>,
    /// A sentence.
    pub message: String,
}

pub(super) fn triple([x, y, z]: [u32; 3]) -> String {
    format!("({x}, {y}, {z})")
}

/// `at` the line of an instruction, and the calls that it was inlined through.
fn place(
    f: &mut fmt::Formatter,
    source: Option<&Source>,
    ptx_line: Option<u32>,
    inlined: &[Source],
) -> fmt::Result {
    if let Some(source) = source {
        write!(f, "\n  at {source}")?;
    }
    if let Some(line) = ptx_line {
        write!(f, " (PTX line {line})")?;
    }
    inlined.iter().try_for_each(|call| write!(f, "\n  inlined at {call}"))
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
        place(f, self.source.as_ref(), self.ptx_line, &self.inlined)?;
        if let Some(other) = &self.other {
            write!(f, "\n  against block {}", triple(other.block))?;
            if let Some(thread) = other.thread {
                write!(f, ", thread {}", triple(thread))?;
            }
            place(f, other.source.as_ref(), other.ptx_line, &other.inlined)?;
        }
        Ok(())
    }
}
