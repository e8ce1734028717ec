//! GPT-2 as Hugging Face's `transformers` keeps it: a folder with `config.json`, `model.safetensors` and the tokenizer.
//!
//! Its parameters have this program's names, some files without the first `transformer.`. Its linear layers are the class
//! `Conv1D`, whose weights are `[in, out]`, where ours are `[out, in]`. The output layer is the token embedding.

mod export;
#[cfg(feature = "hub")]
mod hub;
mod import;
#[cfg(test)]
pub mod tests;

pub use export::{ExportArgs, run as run_export};
pub use import::{ImportArgs, run as run_import};

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{self, Activation, Config, Flags};
use crate::error::AppError;
use crate::model::NORM_EPS;

const CONFIG: &str = "config.json";
const MODEL: &str = "model.safetensors";
/// Where the tensors are, if they are in several files.
const INDEX: &str = "model.safetensors.index.json";

/// What precedes the parameters' names of all but the oldest files.
const PREFIX: &str = "transformer.";
/// The output layer, where a file has it: the token embedding once more.
const HEAD: &str = "lm_head.weight";

/// The keys of `config.json` that change what the model computes, with the values that `transformers` gives them where
/// they are absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Gpt2Config {
    architectures: Vec<String>,
    model_type: String,
    activation_function: String,
    n_layer: usize,
    n_head: usize,
    n_embd: usize,
    n_inner: Option<usize>,
    n_positions: usize,
    vocab_size: usize,
    layer_norm_epsilon: f64,
    embd_pdrop: f64,
    resid_pdrop: f64,
    attn_pdrop: f64,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    add_cross_attention: bool,
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Gpt2Config {
            architectures: Vec::new(),
            model_type: String::new(),
            activation_function: "gelu_new".into(),
            n_layer: 12,
            n_head: 12,
            n_embd: 768,
            n_inner: None,
            n_positions: 1024,
            vocab_size: 50257,
            layer_norm_epsilon: NORM_EPS,
            embd_pdrop: 0.1,
            resid_pdrop: 0.1,
            attn_pdrop: 0.1,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: None,
        }
    }
}

impl Gpt2Config {
    fn read(path: &Path) -> Result<Gpt2Config, AppError> {
        let text = fs::read_to_string(path).map_err(AppError::io("read", path))?;
        serde_json::from_str(&text)
            .map_err(|e| AppError::contents(path, format!("not the config of a GPT-2: {e}")))
    }

    /// Of a model with so many rows of token embedding.
    fn of(config: &Config, rows: usize, end: Option<u32>) -> Gpt2Config {
        Gpt2Config {
            architectures: vec!["GPT2LMHeadModel".into()],
            model_type: "gpt2".into(),
            activation_function: match config.activation {
                Activation::Gelu => "gelu",
                Activation::GeluTanh => "gelu_new",
            }
            .into(),
            n_layer: config.n_layer,
            n_head: config.n_head,
            n_embd: config.n_embd,
            n_positions: config.block_size,
            vocab_size: rows,
            embd_pdrop: config.dropout,
            resid_pdrop: config.dropout,
            attn_pdrop: config.dropout,
            bos_token_id: end,
            eos_token_id: end,
            ..Default::default()
        }
    }

    /// The config of a run that could have made the model; what training is told stays the default.
    fn to_config(&self, path: &Path) -> Result<Config, AppError> {
        let refused = |key: &str, value: &dyn std::fmt::Display, supported: &str| {
            Err(AppError::contents(path, format!("`{key}` is {value}; {supported} is supported")))
        };
        if self.model_type != "gpt2" {
            return refused("model_type", &format_args!("{:?}", self.model_type), "\"gpt2\"");
        }
        let activation = match self.activation_function.as_str() {
            "gelu" | "gelu_python" => Activation::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            other => return refused("activation_function", &format_args!("{other:?}"), "a GELU"),
        };
        let widened = 4 * self.n_embd;
        if let Some(inner) = self.n_inner.filter(|&inner| inner != widened) {
            return refused("n_inner", &inner, &format!("4 n_embd, {widened},"));
        }
        if self.layer_norm_epsilon != NORM_EPS {
            return refused("layer_norm_epsilon", &self.layer_norm_epsilon, "1e-5");
        }
        let flags = [
            ("scale_attn_weights", self.scale_attn_weights, true),
            ("scale_attn_by_inverse_layer_idx", self.scale_attn_by_inverse_layer_idx, false),
            ("add_cross_attention", self.add_cross_attention, false),
            ("tie_word_embeddings", self.tie_word_embeddings, true),
        ];
        if let Some((key, value, supported)) = flags.iter().find(|(_, value, supported)| value != supported) {
            return refused(key, value, &supported.to_string());
        }
        let config = Config {
            n_layer: self.n_layer,
            n_head: self.n_head,
            n_embd: self.n_embd,
            block_size: self.n_positions,
            vocab_size: self.vocab_size,
            dropout: self.resid_pdrop,
            bias: true,
            activation,
            batch_size: 1,
            ..config::load("default", &Flags::default())?.1
        };
        config.check().map_err(|(key, reason)| AppError::contents(path, format!("`{key}` {reason}")))?;
        Ok(config)
    }
}

/// Whether a parameter is the weight of a `Conv1D`, `[in, out]`.
fn is_conv1d(name: &str) -> bool {
    let layers = ["attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"];
    layers.iter().any(|layer| name.ends_with(layer))
}

/// The values of a matrix `[rows, columns]` in the order of its transpose.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
