//! A model on disk: one safetensors file that holds the parameters, the config and the tokenizer.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Deserializer, Serialize};
use tilewright::{Device, Tensor};
use twox_hash::XxHash3_64;

use crate::config::Config;
use crate::error::AppError;
use crate::files::{map, write_atomically};
use crate::tokenizer::Tokenizer;

/// The metadata key of the header. One key, since safetensors writes several in no fixed order.
const HEADER: &str = "tilewright.gpt";

/// What a checkpoint says besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub config: Config,
    pub tokenizer: Tokenizer,
    /// Updates made so far.
    pub step: usize,
    /// NaN (null in the file) if it was not evaluated.
    #[serde(deserialize_with = "nan_if_null")]
    pub val_loss: f32,
    /// Of adapters: the fingerprint of the model that they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// JSON has no NaN: what is not known is written as null.
pub fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN))
}

/// A tensor's values on the host, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// A tensor to be written: its values need not be on the host before it is its turn.
pub trait Source {
    fn shape(&self) -> &[usize];

    /// In row-major order.
    fn values(&self) -> tilewright::Result<Cow<'_, [f32]>>;
}

impl Source for Values {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn values(&self) -> tilewright::Result<Cow<'_, [f32]>> {
        Ok(self.data.as_slice().into())
    }
}

impl Source for Tensor {
    fn shape(&self) -> &[usize] {
        self.dims()
    }

    fn values(&self) -> tilewright::Result<Cow<'_, [f32]>> {
        Ok(self.to_vec()?.into())
    }
}

/// A model with its tensors on the host, or, to be written, on its device.
pub struct Checkpoint<T = Values> {
    pub header: Header,
    pub tensors: BTreeMap<String, T>,
}

impl<T: Source> Checkpoint<T> {
    /// Writes the file, or leaves the one that is there as it was.
    pub fn save(&self, path: &Path) -> Result<(), AppError> {
        let header = serde_json::to_string(&self.header)
            .map_err(|e| AppError::contents(path, format!("cannot encode the header: {e}")))?;
        write_tensors(path, &self.tensors, Texts::from([(HEADER.to_owned(), header)]))
    }
}

impl Checkpoint {
    /// # Errors
    /// An absent or unreadable file, one that is cut short or not a safetensors file, one that some
    /// other program made, or a header whose config makes no sense.
    pub fn load(path: &Path) -> Result<Checkpoint, AppError> {
        let (metadata, tensors) = read_tensors(path)?;
        let header = metadata.get(HEADER).ok_or_else(|| {
            AppError::contents(path, "not a checkpoint of this program: its metadata has no config")
        })?;
        let header: Header = serde_json::from_str(header)
            .map_err(|e| AppError::contents(path, format!("its header does not fit this program: {e}")))?;
        header
            .config
            .check()
            .map_err(|(key, reason)| AppError::contents(path, format!("its config key `{key}` {reason}")))?;
        Ok(Checkpoint { header, tensors })
    }

    /// What tells its tensors from others: a hash of their names, shapes and bits, and for adapters of their model's too.
    pub fn fingerprint(&self) -> String {
        let mut hasher = XxHash3_64::new();
        hasher.write(self.header.base.as_deref().unwrap_or_default().as_bytes());
        for (name, Values { shape, data }) in &self.tensors {
            hasher.write(format!("{name} {shape:?}").as_bytes());
            hasher.write(&little_endian(data));
        }
        format!("{:016x}", hasher.finish())
    }
}

/// The tensors of a file, to be taken one by one.
pub struct Stored {
    pub path: PathBuf,
    pub tensors: BTreeMap<String, Values>,
}

impl Stored {
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn tensor(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, AppError> {
        let wrong = |reason| AppError::contents(&self.path, reason);
        let Values { shape: found, data } =
            self.tensors.remove(name).ok_or_else(|| wrong(format!("tensor {name} is missing")))?;
        if found != shape {
            return Err(wrong(format!("tensor {name} has shape {found:?}, expected {shape:?}")));
        }
        Ok(Tensor::from_vec(data, shape, device)?)
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<(), AppError> {
        match self.tensors.keys().next() {
            Some(name) => {
                Err(AppError::contents(&self.path, format!("tensor {name} has no place in the model")))
            }
            None => Ok(()),
        }
    }
}

/// The bytes of numbers, the same on every machine.
fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    match cfg!(target_endian = "little") {
        true => bytemuck::cast_slice(values).into(),
        false => values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into(),
    }
}

/// What a safetensors file says beside its tensors.
type Texts = HashMap<String, String>;

/// Writes a safetensors file of f32, one tensor after the other, or leaves the one that is there as it was. (The library's own
/// `serialize_to_file` does not wait for the disk and lets nobody else read the file.)
pub fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, impl Source>,
    texts: Texts,
) -> Result<(), AppError> {
    let mut end = 0;
    let info = |(name, tensor): (&String, _)| {
        let shape = Source::shape(tensor).to_vec();
        let data_offsets = (end, end + 4 * shape.iter().product::<usize>());
        end = data_offsets.1;
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets })
    };
    let infos = tensors.iter().map(info).collect();
    let texts = (!texts.is_empty()).then_some(texts);
    let header = Metadata::new(texts, infos).and_then(|header| Ok(serde_json::to_vec(&header)?));
    let mut header = header
        .map_err(|e: SafeTensorError| AppError::contents(path, format!("cannot encode the tensors: {e}")))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomically(path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for tensor in tensors.values() {
            let values = tensor.values().map_err(io::Error::other)?;
            file.write_all(&little_endian(&values))?;
        }
        file.flush()
    })
    .map_err(AppError::io("write", path))
}

/// The metadata and the tensors, all of f32, of a safetensors file.
pub fn read_tensors(path: &Path) -> Result<(Texts, BTreeMap<String, Values>), AppError> {
    let bytes = map(path)?;
    let damaged = |e| AppError::contents(path, format!("not a readable safetensors file: {e}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            let reason = format!("tensor {name} is of type {:?}, expected F32", view.dtype());
            return Err(AppError::contents(path, reason));
        }
        // The file's bytes have no alignment, so each number is put together from its own four.
        let data = view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        tensors.insert(name.to_owned(), Values { shape: view.shape().to_vec(), data });
    }
    Ok((metadata.metadata().clone().unwrap_or_default(), tensors))
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;
    use std::fs::{self, File};

    use super::*;
    use crate::config::tests::config;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tilewright-gpt-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn checkpoint(step: usize) -> Checkpoint {
        let header = Header {
            config: config(&["--n-layer", "1"]),
            tokenizer: Tokenizer::Characters("ab\n\u{e9}".to_owned().into()),
            step,
            val_loss: 1.5,
            base: None,
        };
        let tensors = BTreeMap::from([
            ("b.bias".to_owned(), Values { shape: vec![3], data: vec![-0.0, f32::MIN_POSITIVE, 3.25] }),
            ("a.weight".to_owned(), Values { shape: vec![2, 1], data: vec![1.0, step as f32] }),
        ]);
        Checkpoint { header, tensors }
    }

    /// The names in a directory: no half-written file may stay behind.
    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_checkpoint_round_trips_to_the_bit() {
        let directory = scratch("round-trip");
        let (first, second) = (directory.join("1.safetensors"), directory.join("2.safetensors"));
        checkpoint(7).save(&first).unwrap();
        checkpoint(7).save(&second).unwrap();
        let loaded = Checkpoint::load(&first).unwrap();
        assert_eq!(loaded.header, checkpoint(7).header);
        assert_eq!(loaded.tensors, checkpoint(7).tensors);
        assert_eq!(
            fs::read(&first).unwrap(),
            fs::read(&second).unwrap(),
            "the same run writes the same bytes"
        );
        assert_eq!(names(&directory).len(), 2);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_failed_save_leaves_the_previous_checkpoint() {
        let directory = scratch("fault");
        let path = directory.join("checkpoint.safetensors");
        checkpoint(1).save(&path).unwrap();
        let before = fs::read(&path).unwrap();
        let full = write_atomically(&path, |file| {
            file.write_all(&before[..before.len() / 2])?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(names(&directory), ["checkpoint.safetensors"]);
        checkpoint(2).save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap().header.step, 2);
        fs::remove_dir_all(directory).unwrap();
    }

    /// The same with a disk that is really full, where there is one at hand.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error_that_names_the_file() {
        let directory = scratch("full");
        let path = directory.join("checkpoint.safetensors");
        checkpoint(1).save(&path).unwrap();
        let error = write_atomically(&path, |_| File::create("/dev/full")?.write_all(&[0; 1 << 16]))
            .map_err(AppError::io("write", &path))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(&format!("cannot write {}: No space left", path.display())), "{error}");
        assert_eq!(Checkpoint::load(&path).unwrap().header.step, 1);
        assert_eq!(names(&directory), ["checkpoint.safetensors"]);

        let nowhere = directory.join("absent").join("checkpoint.safetensors");
        assert!(checkpoint(1).save(&nowhere).unwrap_err().to_string().starts_with("cannot write "));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_is_not_a_checkpoint_is_an_error_that_says_why() {
        let directory = scratch("corrupt");
        let path = directory.join("checkpoint.safetensors");
        let error = || Checkpoint::load(&path).err().unwrap().to_string();
        assert!(error().starts_with("cannot read "));

        checkpoint(1).save(&path).unwrap();
        let good = fs::read(&path).unwrap();
        for cut in [0, 4, 100, good.len() - 1] {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(error().contains("not a readable safetensors file"), "cut to {cut}: {}", error());
        }
        let mut flipped = good.clone();
        flipped[3] = 0xff;
        fs::write(&path, flipped).unwrap();
        assert!(error().contains("not a readable safetensors file"));

        let none: [(&str, TensorView); 0] = [];
        fs::write(&path, safetensors::serialize(none, None).unwrap()).unwrap();
        assert!(error().contains("not a checkpoint of this program"));

        let mut broken = checkpoint(1);
        broken.header.config.n_head = 0;
        broken.save(&path).unwrap();
        assert!(
            error().ends_with("its config key `n_head` must be from 1 to 2147483648, not 0"),
            "{}",
            error()
        );

        let half = TensorView::new(Dtype::F16, vec![1], &[0, 0]).unwrap();
        let header = serde_json::to_string(&checkpoint(1).header).unwrap();
        let metadata = HashMap::from([(HEADER.to_owned(), header)]);
        fs::write(&path, safetensors::serialize([("h", half)], Some(metadata)).unwrap()).unwrap();
        assert!(error().ends_with("tensor h is of type F16, expected F32"), "{}", error());
        fs::remove_dir_all(directory).unwrap();
    }
}
