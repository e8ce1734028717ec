//! `gpt export`: from a checkpoint to a folder that `transformers` loads.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::View;
use serde::Serialize;
use serde_json::json;

use super::{CONFIG, Gpt2Config, MODEL, is_conv1d, transposed};
use crate::checkpoint::{Checkpoint, Header, Values};
use crate::error::AppError;
use crate::finetune;
use crate::report::note;
use crate::tokenizer::{self, Tokenizer};

/// Write a checkpoint as a folder that Hugging Face's transformers loads
///
/// The folder gets config.json and generation_config.json (a GPT2LMHeadModel), model.safetensors (float32),
/// tokenizer.json and tokenizer_config.json. A model without biases is given biases of zero, since GPT-2 has them;
/// adapters of LoRA are merged with the model that they were trained beside. In Python:
///   AutoModelForCausalLM.from_pretrained("DIR"), AutoTokenizer.from_pretrained("DIR")
///
/// Example:
///   gpt export --checkpoint runs/default/checkpoint.safetensors --out exported
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, verbatim_doc_comment)]
pub struct ExportArgs {
    /// Checkpoint of a run
    #[arg(long, value_name = "FILE", default_value = "runs/default/checkpoint.safetensors")]
    checkpoint: PathBuf,
    /// The folder; it is made if it is not there, and must hold no model
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// The `export` subcommand.
pub fn run(args: &ExportArgs) -> Result<(), AppError> {
    let checkpoint = finetune::load(&args.checkpoint)?;
    write(checkpoint, &args.checkpoint, &args.out)?;
    note(format_args!("{}: a model for transformers", args.out.display()));
    Ok(())
}

/// A tensor as the file has it.
struct Entry {
    name: String,
    values: Values,
    shape: Vec<usize>,
}

impl Entry {
    fn new(name: String, values: Values) -> Entry {
        let mut shape = values.shape.clone();
        if is_conv1d(&name) {
            shape.reverse();
        }
        Entry { name, values, shape }
    }

    fn zeros(name: String, size: usize) -> Entry {
        Entry::new(name, Values { shape: vec![size], data: vec![0.0; size] })
    }
}

impl View for &Entry {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data = match (is_conv1d(&self.name), self.values.shape.as_slice()) {
            (true, &[rows, columns]) => Cow::Owned(transposed(&self.values.data, rows, columns)),
            _ => Cow::Borrowed(&self.values.data),
        };
        data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        4 * self.values.data.len()
    }
}

/// Writes the model of a checkpoint read from `path` to `folder`.
///
/// # Errors
/// A folder that holds a model already or cannot be written; a checkpoint without a token embedding.
pub fn write(checkpoint: Checkpoint, path: &Path, folder: &Path) -> Result<(), AppError> {
    let Checkpoint { header, tensors } = checkpoint;
    let model = folder.join(MODEL);
    if model.exists() {
        let (found, hint) = ("a model", "remove it or choose another --out");
        return Err(AppError::Exists { path: folder.into(), found, hint });
    }
    let embedding = tensors.get("transformer.wte.weight");
    let rows = embedding
        .map(|embedding| embedding.shape[0])
        .ok_or_else(|| AppError::contents(path, "tensor transformer.wte.weight is missing"))?;
    // GPT-2 has a bias beside every weight but those of the embeddings.
    let mut entries = Vec::with_capacity(2 * tensors.len());
    for (name, values) in tensors {
        let layer =
            name.strip_suffix(".weight").filter(|layer| !layer.ends_with(".wte") && !layer.ends_with(".wpe"));
        if let Some(layer) = layer.filter(|_| !header.config.bias) {
            entries.push(Entry::zeros(format!("{layer}.bias"), values.shape[0]));
        }
        entries.push(Entry::new(name, values));
    }

    fs::create_dir_all(folder).map_err(AppError::io("create", folder))?;
    // A name of its own until it is whole, and the config, without which there is no model, last.
    let part = folder.join(format!("{MODEL}.part"));
    let views = entries.iter().map(|entry| (entry.name.as_str(), entry));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), &part)
        .map_err(|e| AppError::contents(&part, format!("cannot be written: {e}")))?;
    fs::rename(&part, &model).map_err(AppError::io("write", &model))?;
    write_tokenizer(&header, folder)?;

    let end = end_of_text(&header.tokenizer);
    let generation = json!({ "bos_token_id": end, "eos_token_id": end });
    write_json(&folder.join("generation_config.json"), &generation)?;
    write_json(&folder.join(CONFIG), &Gpt2Config::of(&header.config, rows, end))
}

/// The token after which `transformers` stops. That between lines is none.
fn end_of_text(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.separator().filter(|_| !matches!(tokenizer, Tokenizer::Characters(_)))
}

fn write_tokenizer(header: &Header, folder: &Path) -> Result<(), AppError> {
    let path = folder.join(tokenizer::FILE);
    let tokenizer = header
        .tokenizer
        .to_hugging_face()
        .map_err(|e| AppError::contents(&path, format!("cannot make the tokenizer: {e}")))?;
    let end = end_of_text(&header.tokenizer).and_then(|id| tokenizer.id_to_token(id));
    write_json(&path, &tokenizer)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": header.config.block_size,
        "bos_token": end,
        "eos_token": end,
        "clean_up_tokenization_spaces": false,
    });
    write_json(&folder.join("tokenizer_config.json"), &config)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), AppError> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from);
    text.and_then(|text| fs::write(path, text)).map_err(AppError::io("write", path))
}
