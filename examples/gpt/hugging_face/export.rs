//! `gpt export`: from a checkpoint to a folder that `transformers` loads.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tilewright::{DType, Device, Tensor};

use super::{CONFIG, Gpt2Config, MODEL, is_conv1d};
use crate::checkpoint::{Checkpoint, Header, write_tensors};
use crate::config::Precision;
use crate::error::AppError;
use crate::files::write_json;
use crate::finetune;
use crate::model::Gpt;
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

/// Writes the model of a checkpoint read from `path` to `folder`.
///
/// # Errors
/// A folder that holds a model already or cannot be written; a checkpoint that does not hold its config's model.
pub fn write(checkpoint: Checkpoint, path: &Path, folder: &Path) -> Result<(), AppError> {
    let model = folder.join(MODEL);
    if model.exists() {
        let (found, hint) = ("a model", "remove it or choose another --out");
        return Err(AppError::Exists { path: folder.into(), found, hint });
    }
    let mut header = checkpoint.header.clone();
    header.config.dtype = Precision::Float32;
    let checkpoint = Checkpoint { header: header.clone(), ..checkpoint };
    let tensors = Gpt::from_checkpoint(checkpoint, path, &Device::Cpu)?.tensors();
    let rows = tensors["transformer.wte.weight"].dims()[0];
    // GPT-2 has a bias beside every weight but those of the embeddings.
    let mut entries = BTreeMap::new();
    for (name, tensor) in tensors {
        let layer =
            name.strip_suffix(".weight").filter(|layer| !layer.ends_with(".wte") && !layer.ends_with(".wpe"));
        if let Some(layer) = layer.filter(|_| !header.config.bias) {
            let zeros = Tensor::zeros(tensor.dims()[0], DType::F32, &Device::Cpu)?;
            entries.insert(format!("{layer}.bias"), zeros);
        }
        let tensor = if is_conv1d(&name) { tensor.transpose(0, 1)? } else { tensor };
        entries.insert(name, tensor);
    }

    fs::create_dir_all(folder).map_err(AppError::io("create", folder))?;
    write_tokenizer(&header, folder)?;
    let end = end_of_text(&header.tokenizer);
    write_json(&folder.join("generation_config.json"), &json!({ "bos_token_id": end, "eos_token_id": end }))?;
    write_json(&folder.join(CONFIG), &Gpt2Config::of(&header.config, rows, end))?;
    // Last, because it is what makes a folder one that holds a model.
    write_tensors(&model, &entries, HashMap::from([("format".to_owned(), "pt".to_owned())]))
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
