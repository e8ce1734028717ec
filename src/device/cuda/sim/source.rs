//! Which lines of the CUDA source an instruction comes from.

use std::collections::BTreeMap;

use super::ptx::Loc;
use super::report::Source;

/// The files of a module, and the calls in it that the compiler inlined.
pub struct Sources {
    pub files: BTreeMap<u32, String>,
    pub calls: Vec<Loc>,
}

impl Sources {
    /// A place, then the calls through which it came into the kernel, from the inside outwards.
    fn calls(&self, loc: Loc) -> impl Iterator<Item = Loc> {
        std::iter::successors(Some(loc), |loc| Some(self.calls[loc.call? as usize]))
    }

    fn name(&self, Loc { file, line, .. }: Loc) -> Option<Source> {
        let file = self.files.get(&file).filter(|_| line != 0)?.clone();
        Some(Source { file, line })
    }

    /// The line that a place names, then those of the calls.
    pub fn chain(&self, loc: Loc) -> impl Iterator<Item = Source> {
        self.calls(loc).filter_map(|loc| self.name(loc))
    }

    /// The innermost of these lines in the kernel's own file: functions of other files count where it calls them.
    pub fn own(&self, loc: Loc) -> Option<Source> {
        let kernel = self.calls(loc).last()?.file;
        self.calls(loc).find(|loc| loc.file == kernel).and_then(|loc| self.name(loc))
    }
}
