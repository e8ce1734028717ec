//! What a run needs to go on as if it had never stopped: folders `step-N`, each of which is whole or not there.
//!
//! A folder holds `model.safetensors`, a checkpoint as `generate` reads it, with the f32 masters of 16-bit weights in
//! their place; `optimizer.safetensors`, AdamW's moments; and `state.json`, all that is not a tensor. It is written under
//! another name, has reached the disk when it gets its own, and loses that before it is removed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint, Source, Stored, Values};
use crate::data::Corpus;
use crate::error::AppError;
use crate::files::{sync_directory, write_json};
use crate::outliers::Window;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const PREFIX: &str = "step-";
/// Behind the name of a folder that is being written or removed.
const PART: &str = ".part";

/// What a save says besides tensors, the config and the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What `--data` named, and the tokens or examples of both splits: with others a run cannot go on.
    pub data: PathBuf,
    pub train_tokens: usize,
    pub val_tokens: usize,
    /// Random numbers that batches were drawn with.
    pub drawn: u64,
    /// Where the device's random numbers stand.
    pub device_seed: u64,
    pub device_offset: u64,
    pub optimizer_steps: u64,
    /// The best evaluation so far, and how many have come after it.
    pub best: Option<Best>,
    pub waited: usize,
    /// Trained on so far.
    pub tokens: u64,
    /// In float16: what the next loss is multiplied by, and for how many steps it has been.
    pub loss_scale: Option<(f64, u64)>,
    /// What outliers are told by.
    pub losses: Window,
    pub grad_norms: Window,
    /// Steps left out so far.
    pub skipped: usize,
    /// Of the log and of TensorBoard's events, up to this step.
    pub log_bytes: u64,
    pub event_bytes: u64,
    pub elapsed_s: f64,
}

/// An evaluation by its validation loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: usize,
    pub val_loss: f32,
}

/// A run at the end of a step, with its tensors on the host, or, to be written, on its device.
pub struct Snapshot<T = Values> {
    pub model: Checkpoint<T>,
    /// AdamW's moments: `first.NAME` and `second.NAME` for each parameter.
    pub moments: BTreeMap<String, T>,
    pub state: State,
}

impl Snapshot {
    /// # Errors
    /// A file that is missing, or not what [`Saves::save`] has written.
    pub fn load(folder: &Path) -> Result<Self, AppError> {
        let path = folder.join(STATE);
        let state = fs::read(&path).map_err(AppError::io("read", &path))?;
        let state = serde_json::from_slice(&state)
            .map_err(|e| AppError::contents(&path, format!("does not fit this program: {e}")))?;
        let (_, moments) = checkpoint::read_tensors(&folder.join(OPTIMIZER))?;
        Ok(Snapshot { model: Checkpoint::load(&folder.join(MODEL))?, moments, state })
    }

    /// The parameters' masters, of a snapshot loaded from `folder`.
    pub fn masters(&self, folder: &Path) -> Stored {
        Stored { path: folder.join(MODEL), tensors: self.model.tensors.clone() }
    }

    /// The moments, likewise, which are taken out.
    pub fn take_moments(&mut self, folder: &Path) -> Stored {
        Stored { path: folder.join(OPTIMIZER), tensors: std::mem::take(&mut self.moments) }
    }

    /// Refuses to go on with other data.
    pub fn check(&self, corpus: &Corpus, data: &Path) -> Result<(), AppError> {
        let State { train_tokens, val_tokens, .. } = self.state;
        let same = (corpus.train.len(), corpus.val.len()) == (train_tokens, val_tokens);
        if same && corpus.tokenizer == self.model.header.tokenizer {
            return Ok(());
        }
        let reason = format!(
            "not what the run has learned from: it has {} and {} {} to train and to validate with, and had {} and {}, \
             or another tokenizer",
            corpus.train.len(),
            corpus.val.len(),
            corpus.train.unit(),
            train_tokens,
            val_tokens
        );
        Err(AppError::contents(data, reason))
    }
}

impl<T: Source> Snapshot<T> {
    fn write(&self, folder: &Path) -> Result<(), AppError> {
        self.model.save(&folder.join(MODEL))?;
        checkpoint::write_tensors(&folder.join(OPTIMIZER), &self.moments, HashMap::new())?;
        write_json(&folder.join(STATE), &self.state)
    }
}

/// The saves of a run.
pub struct Saves(PathBuf);

impl Saves {
    pub fn new(folder: PathBuf) -> Self {
        Saves(folder)
    }

    fn folder(&self, step: usize) -> PathBuf {
        self.0.join(format!("{PREFIX}{step:08}"))
    }

    /// The steps of those that are whole, in their order.
    fn steps(&self) -> Result<Vec<usize>, AppError> {
        let names = self.names()?;
        let step = |name: &String| name.strip_prefix(PREFIX)?.parse().ok();
        let mut steps: Vec<usize> = names.iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>, AppError> {
        if !self.0.exists() {
            return Ok(vec![]);
        }
        let entries = fs::read_dir(&self.0).map_err(AppError::io("read", &self.0))?;
        let name =
            |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        entries.map(name).collect::<std::io::Result<_>>().map_err(AppError::io("read", &self.0))
    }

    /// The folder of the last one.
    pub fn latest(&self) -> Result<Option<PathBuf>, AppError> {
        Ok(self.steps()?.last().map(|&step| self.folder(step)))
    }

    /// Adds a save, and removes all but the last `keep`.
    ///
    /// # Errors
    /// A full disk, for one: then those that were there are there still.
    pub fn save(&self, snapshot: &Snapshot<impl Source>, keep: usize) -> Result<(), AppError> {
        let whole = self.folder(snapshot.model.header.step);
        let part = part(&whole);
        fs::create_dir_all(&part).map_err(AppError::io("create", &part))?;
        snapshot.write(&part).inspect_err(|_| {
            // The first error is the one to report; a leftover is only untidy.
            let _ = fs::remove_dir_all(&part);
        })?;
        let rename = || fs::rename(&part, &whole).and_then(|()| sync_directory(&self.0));
        rename().map_err(AppError::io("write", &whole))?;
        let steps = self.steps()?;
        let old = &steps[..steps.len().saturating_sub(keep)];
        old.iter().try_for_each(|&step| remove(&self.folder(step)))
    }

    /// Removes what a run that was cut off has left half written.
    pub fn tidy(&self) -> Result<(), AppError> {
        let names = self.names()?;
        let parts = names.iter().filter(|name| name.starts_with(PREFIX) && name.ends_with(PART));
        let remove = |path: PathBuf| fs::remove_dir_all(&path).map_err(AppError::io("remove", &path));
        parts.map(|name| self.0.join(name)).try_for_each(remove)
    }

    /// Removes all.
    pub fn clear(&self) -> Result<(), AppError> {
        self.steps()?.iter().try_for_each(|&step| remove(&self.folder(step)))?;
        self.tidy()
    }
}

fn part(whole: &Path) -> PathBuf {
    let mut name = whole.as_os_str().to_owned();
    name.push(PART);
    name.into()
}

fn remove(whole: &Path) -> Result<(), AppError> {
    let part = part(whole);
    fs::rename(whole, &part).and_then(|()| fs::remove_dir_all(&part)).map_err(AppError::io("remove", whole))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::checkpoint::Header;
    use crate::config::tests::config;
    use crate::tests::scratch;
    use crate::tokenizer::Tokenizer;

    fn snapshot(step: usize) -> Snapshot {
        let header = Header {
            config: config(&["--n-layer", "1"]),
            tokenizer: Tokenizer::Bytes,
            step,
            val_loss: f32::NAN,
            base: None,
        };
        let values = |x: f32| Values { shape: vec![2], data: vec![x, f32::MIN_POSITIVE] };
        let state = State {
            data: "text.txt".into(),
            train_tokens: 9,
            val_tokens: 1,
            drawn: u64::MAX,
            device_seed: u64::MAX - 1,
            device_offset: 7,
            optimizer_steps: step as u64,
            best: Some(Best { step: 2, val_loss: 1.0 / 3.0 }),
            waited: 1,
            tokens: 1 << 40,
            loss_scale: Some((0.5, 3)),
            losses: Window::default(),
            grad_norms: Window::default(),
            skipped: 1,
            log_bytes: 1234,
            event_bytes: 567,
            elapsed_s: 1.0 / 3.0,
        };
        Snapshot {
            model: Checkpoint { header, tensors: BTreeMap::from([("w".into(), values(0.1))]) },
            moments: BTreeMap::from([("first.w".into(), values(-0.0)), ("second.w".into(), values(0.3))]),
            state,
        }
    }

    /// All names under a run's folder of saves.
    pub fn names(folder: &Path) -> Vec<String> {
        let mut names = Saves::new(folder.to_path_buf()).names().unwrap();
        names.sort();
        names
    }

    #[test]
    fn a_save_round_trips_to_the_bit_and_the_last_ones_stay() {
        let directory = scratch("saves");
        let saves = Saves::new(directory.join("checkpoints"));
        assert_eq!(saves.latest().unwrap(), None);
        for step in [5, 10, 15, 20] {
            saves.save(&snapshot(step), 2).unwrap();
        }
        assert_eq!(names(&saves.0), ["step-00000015", "step-00000020"]);
        let loaded = Snapshot::load(&saves.latest().unwrap().unwrap()).unwrap();
        let expected = snapshot(20);
        assert_eq!(loaded.state, expected.state);
        assert_eq!((loaded.moments, loaded.model.tensors), (expected.moments, expected.model.tensors));
        assert!(loaded.model.header.step == 20 && loaded.model.header.val_loss.is_nan());

        // What a run leaves that is killed while it saves or removes is not taken for a save.
        fs::create_dir(saves.0.join("step-00000025.part")).unwrap();
        fs::write(saves.0.join("notes"), "mine").unwrap();
        assert!(saves.latest().unwrap().unwrap().ends_with("step-00000020"));
        saves.clear().unwrap();
        assert_eq!(names(&saves.0), ["notes"]);
    }

    #[test]
    fn a_damaged_save_is_an_error_that_names_the_file() {
        let directory = scratch("saves-damaged");
        let saves = Saves::new(directory.to_path_buf());
        saves.save(&snapshot(1), 1).unwrap();
        let folder = saves.latest().unwrap().unwrap();
        let error = || Snapshot::load(&folder).err().unwrap().to_string();
        fs::write(folder.join(STATE), "{\"data\": \"x\"}").unwrap();
        assert!(error().contains("state.json: does not fit this program: missing field"), "{}", error());
        saves.save(&snapshot(2), 1).unwrap();
        let folder = saves.latest().unwrap().unwrap();
        fs::write(folder.join(OPTIMIZER), "no").unwrap();
        let error = Snapshot::load(&folder).err().unwrap().to_string();
        assert!(error.contains("optimizer.safetensors: not a readable safetensors file"), "{error}");
    }
}
