//! `gpt import`: from a folder of `transformers`, or a model of the Hugging Face hub, to a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tilewright::Device;

use super::{CONFIG, Gpt2Config, HEAD, INDEX, MODEL, PREFIX, is_conv1d, transposed};
use crate::checkpoint::{Checkpoint, Header};
use crate::error::AppError;
use crate::files::{make_room, map};
use crate::model::Gpt;
use crate::report::note;
use crate::tokenizer::{self, Tokenizer};

/// Make a checkpoint of a GPT-2 of Hugging Face's
///
/// MODEL is a folder with config.json and model.safetensors (or model.safetensors.index.json and the files that it
/// names), as transformers' save_pretrained leaves it, of any of GPT-2's sizes. If this program was built with
/// `--features hub` it may also be the id of a model on the Hugging Face hub, which is fetched once and kept in the
/// hub's cache (HF_HOME). The tokenizer is the folder's tokenizer.json, or its vocab.json and merges.txt, or, with a
/// vocabulary of 50257, GPT-2's.
///
/// Examples:
///   gpt import ./my-gpt2 --out runs/gpt2/checkpoint.safetensors
///   gpt import openai-community/gpt2-medium
///   gpt generate --checkpoint runs/gpt2-medium/checkpoint.safetensors --prompt "Once upon a time"
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, verbatim_doc_comment)]
pub struct ImportArgs {
    /// The folder, or the model's id
    #[arg(value_name = "MODEL")]
    model: String,
    /// Where the checkpoint goes; without it, runs/NAME/checkpoint.safetensors after the model
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// gpt2, bytes or a tokenizer.json, in place of the folder's
    #[arg(long, value_name = "gpt2|bytes|FILE")]
    tokenizer: Option<String>,
}

/// The `import` subcommand.
pub fn run(args: &ImportArgs) -> Result<(), AppError> {
    let folder = folder(&args.model)?;
    let out = args.out.clone().unwrap_or_else(|| {
        let name = Path::new(&args.model).file_name().unwrap_or("model".as_ref());
        Path::new("runs").join(name).join("checkpoint.safetensors")
    });
    if out.exists() {
        let (found, hint) = ("a checkpoint or another file", "remove it or choose another --out");
        return Err(AppError::Exists { path: out, found, hint });
    }
    let checkpoint = read(&folder, args.tokenizer.as_deref())?;
    make_room(&out)?;
    checkpoint.save(&out)?;
    let parameters: usize = checkpoint.tensors.values().map(|values| values.data.len()).sum();
    note(format_args!(
        "{}: {:.2} million parameters; {}",
        out.display(),
        parameters as f64 / 1e6,
        checkpoint.header.tokenizer
    ));
    Ok(())
}

/// The folder that holds the model.
fn folder(model: &str) -> Result<PathBuf, AppError> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.into());
    }
    // An id is NAME or OWNER/NAME.
    let is_id = !path.exists() && !model.starts_with(['.', '/', '~']) && model.matches('/').count() < 2;
    if !is_id {
        return Err(AppError::contents(path, "not a folder"));
    }
    #[cfg(feature = "hub")]
    return super::hub::fetch(model);
    #[cfg(not(feature = "hub"))]
    Err(AppError::Argument {
        argument: "MODEL",
        reason: format!(
            "{model} is no folder, and this program was built without the crate's feature hub, which fetches models by id"
        ),
    })
}

/// The checkpoint of a folder's model, with the folder's tokenizer or the one that is named.
///
/// # Errors
/// Files that are absent or damaged, a config that this program's model cannot follow, tensors that are missing, of
/// another shape or dtype, or without a place in the model: each with the file and the name.
pub fn read(folder: &Path, tokenizer: Option<&str>) -> Result<Checkpoint, AppError> {
    let path = folder.join(CONFIG);
    let config = Gpt2Config::read(&path)?.to_config(&path)?;
    let tokenizer = match tokenizer {
        Some(name) => Tokenizer::named(name)?,
        None => find_tokenizer(folder, config.vocab_size)?,
    };
    if tokenizer.len() > config.vocab_size {
        let reason = format!(
            "`vocab_size` is {}, less than the tokenizer's {} ids",
            config.vocab_size,
            tokenizer.len()
        );
        return Err(AppError::contents(&path, reason));
    }
    let files = Files::open(folder)?;
    let mut tensors = files.tensors()?;
    let model = Gpt::from_values(&config, tokenizer.len(), &Device::Cpu, |name, shape| {
        let Some((path, tensor)) = tensors.remove(name) else {
            return Err(AppError::contents(folder, format!("tensor {name} is missing")));
        };
        let conv1d = is_conv1d(name);
        let expected: Vec<usize> =
            if conv1d { shape.iter().rev().copied().collect() } else { shape.to_vec() };
        if tensor.shape() != expected {
            let reason = format!("tensor {name} has shape {:?}, expected {expected:?}", tensor.shape());
            return Err(AppError::contents(path, reason));
        }
        let values = values(&tensor).map_err(|e| AppError::contents(path, format!("tensor {name} {e}")))?;
        Ok(if conv1d { transposed(&values, shape[1], shape[0]) } else { values })
    })?;
    let tensors_left = tensors.into_iter().find(|(name, _)| !is_buffer(name));
    if let Some((name, (path, _))) = tensors_left {
        return Err(AppError::contents(path, format!("tensor {name} has no place in a GPT-2")));
    }
    let header = Header { config, tokenizer, step: 0, val_loss: f32::NAN, base: None };
    Ok(Checkpoint { header, tensors: model.values()? })
}

fn find_tokenizer(folder: &Path, vocab_size: usize) -> Result<Tokenizer, AppError> {
    let (whole, vocab, merges) =
        (folder.join(tokenizer::FILE), folder.join("vocab.json"), folder.join("merges.txt"));
    if whole.exists() {
        Ok(Tokenizer::load(&whole)?.or_gpt2())
    } else if vocab.exists() && merges.exists() {
        Ok(Tokenizer::load_gpt2_kind(&vocab, &merges)?.or_gpt2())
    } else if vocab_size == Tokenizer::Gpt2.len() {
        Ok(Tokenizer::Gpt2)
    } else {
        let reason = "has neither tokenizer.json nor vocab.json and merges.txt; --tokenizer names another";
        Err(AppError::contents(folder, reason))
    }
}

/// Causal masks, which old files have among the parameters.
fn is_buffer(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}

/// The index of a model in several files.
#[derive(Deserialize)]
pub struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// The index that `path` holds.
    pub fn parse(text: &str, path: &Path) -> Result<Index, AppError> {
        let index: Index = serde_json::from_str(text)
            .map_err(|e| AppError::contents(path, format!("not an index of tensors: {e}")))?;
        match index.weight_map.values().find(|name| name.contains(['/', '\\'])) {
            Some(name) => {
                Err(AppError::contents(path, format!("{name:?} is not the name of a file beside it")))
            }
            None => Ok(index),
        }
    }

    /// The names of the files that the tensors are in.
    pub fn files(self) -> BTreeSet<String> {
        self.weight_map.into_values().collect()
    }
}

/// The files that the tensors are in, mapped into memory.
struct Files(Vec<(PathBuf, Mmap)>);

impl Files {
    fn open(folder: &Path) -> Result<Files, AppError> {
        let (whole, index) = (folder.join(MODEL), folder.join(INDEX));
        let paths = if whole.exists() {
            vec![whole]
        } else if index.exists() {
            let text = fs::read_to_string(&index).map_err(AppError::io("read", &index))?;
            Index::parse(&text, &index)?.files().iter().map(|name| folder.join(name)).collect()
        } else {
            let reason = format!("holds neither {MODEL} nor {INDEX}");
            return Err(AppError::contents(folder, reason));
        };
        Ok(Files(
            paths.into_iter().map(|path| Ok((path.clone(), map(&path)?))).collect::<Result<_, AppError>>()?,
        ))
    }

    /// All tensors with their files, under this program's names, without a head that is the token embedding.
    fn tensors(&self) -> Result<BTreeMap<String, (&Path, TensorView<'_>)>, AppError> {
        let mut tensors = BTreeMap::new();
        for (path, bytes) in &self.0 {
            let file = SafeTensors::deserialize(bytes)
                .map_err(|e| AppError::contents(path, format!("not a readable safetensors file: {e}")))?;
            for (name, tensor) in file.tensors() {
                let name = match name.starts_with(PREFIX) || name == HEAD {
                    true => name,
                    false => format!("{PREFIX}{name}"),
                };
                if let Some((other, _)) = tensors.insert(name.clone(), (path.as_path(), tensor)) {
                    let reason = format!("tensor {name} is here and in {}", other.display());
                    return Err(AppError::contents(path, reason));
                }
            }
        }
        if let Some((path, head)) = tensors.remove(HEAD) {
            let embedding = tensors.get(&format!("{PREFIX}wte.weight")).map(|(_, tensor)| tensor.data());
            if embedding.is_some_and(|embedding| embedding != head.data()) {
                let reason =
                    format!("{HEAD} is not the token embedding; only a model with tied ones is supported");
                return Err(AppError::contents(path, reason));
            }
        }
        Ok(tensors)
    }
}

/// The values as f32, or what is wrong with them.
fn values(tensor: &TensorView<'_>) -> Result<Vec<f32>, String> {
    // The file's bytes have no alignment, so each number is put together from its own.
    let bytes = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => Ok(bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect()),
        Dtype::F16 => Ok(bytes.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x).to_f32()).collect()),
        Dtype::BF16 => Ok(bytes.as_chunks().0.iter().map(|&x| bf16::from_le_bytes(x).to_f32()).collect()),
        other => Err(format!("is of type {other:?}, expected F32, F16 or BF16")),
    }
}
