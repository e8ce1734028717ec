//! What became of the documents, counted.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::count;

/// The counts of a run, as they stand in `report.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub files: usize,
    /// Files of folders that were passed over, by reason.
    pub files_passed_over: BTreeMap<String, u64>,
    /// Documents that were read, and their bytes as UTF-8.
    pub read: Count,
    /// In the order in which documents pass them.
    pub stages: Vec<Stage>,
    /// Personal data that were masked in documents that were kept or were duplicates, by kind.
    pub masked: BTreeMap<String, u64>,
    /// How often the memory for duplicates was full and emptied: those of documents before such a moment are not found.
    pub duplicates_forgotten: u64,
    pub train: Split,
    pub val: Split,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    pub documents: u64,
    pub bytes: u64,
}

impl Count {
    pub fn add(&mut self, bytes: usize) {
        self.documents += 1;
        self.bytes += bytes as u64;
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub kept: u64,
    /// By reason.
    pub dropped: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub documents: u64,
    /// Of the documents as they are after curation.
    pub bytes: u64,
    /// Separators among them.
    pub tokens: u64,
    pub shards: usize,
}

impl Report {
    pub fn new(files: usize, stages: &[&str]) -> Self {
        let stage = |name: &&str| Stage { name: name.to_string(), kept: 0, dropped: BTreeMap::new() };
        Report { files, stages: stages.iter().map(stage).collect(), ..Default::default() }
    }

    /// Counts a document that passed all stages before `stage`, and that one unless there is a `fault`.
    pub fn pass(&mut self, stage: usize, fault: Option<&str>) {
        let stage = &mut self.stages[stage];
        match fault {
            None => stage.kept += 1,
            Some(reason) => *stage.dropped.entry(reason.to_owned()).or_default() += 1,
        }
    }
}

/// A table for reading.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed_over: u64 = self.files_passed_over.values().sum();
        writeln!(f, "{:<20} {:>12} {:>12}", "stage", "kept", "dropped")?;
        writeln!(
            f,
            "{:<20} {:>12} {:>12}  of {}",
            "files",
            self.files as u64 - passed_over,
            passed_over,
            count(self.files, "file")
        )?;
        writeln!(
            f,
            "{:<20} {:>12} {:>12}  {:.1} MB",
            "documents read",
            self.read.documents,
            "",
            mb(self.read.bytes)
        )?;
        // Stages that were not asked for saw nothing.
        let on = |stage: &&Stage| stage.kept > 0 || !stage.dropped.is_empty();
        for Stage { name, kept, dropped } in self.stages.iter().filter(on) {
            let reasons: Vec<String> = dropped.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
            let sum: u64 = dropped.values().sum();
            writeln!(f, "{name:<20} {kept:>12} {sum:>12}  {}", reasons.join(", "))?;
        }
        for (kind, n) in &self.masked {
            writeln!(f, "masked: {n} {kind}")?;
        }
        if self.duplicates_forgotten > 0 {
            writeln!(
                f,
                "the memory for duplicates was full and emptied {} times",
                self.duplicates_forgotten
            )?;
        }
        for (name, split) in [("train", &self.train), ("validation", &self.val)] {
            let Split { documents, bytes, tokens, shards } = *split;
            let bytes = mb(bytes);
            writeln!(
                f,
                "{name}: {} of {}, {bytes:.1} MB, in {}",
                count(tokens as usize, "token"),
                count(documents as usize, "document"),
                count(shards, "shard")
            )?;
        }
        Ok(())
    }
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
