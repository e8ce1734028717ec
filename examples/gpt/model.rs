//! GPT-2 on the crate's public API: pre-norm blocks, learned positions, tied embeddings.
//!
//! Parameter names and shapes are nanoGPT's (linear weights are `[out, in]`; GPT-2's published ones are
//! transposed, see `hugging_face`). Initial values are GPT-2's, scaled to the width: with 128 channels that is
//! worth 0.14 nats after shakespeare-char-cpu's 2000 steps over the 0.02 that nanoGPT has at any width.

use std::collections::BTreeMap;
use std::path::Path;

use tilewright::{
    AttentionOptions, CrossEntropyOptions, D, DType, Device, Reduction, Tensor, Var, checkpoint,
};

use crate::checkpoint::{Checkpoint, Stored, Values};
use crate::config::{Activation, Config};
use crate::data::{Batch, IGNORED};
use crate::error::AppError;
use crate::finetune::{self, Base, Lora};

/// What keeps a norm's division finite.
pub const NORM_EPS: f64 = 1e-5;

/// How a parameter starts.
enum Init {
    Normal(f64),
    Zeros,
    Ones,
}

/// Gives each parameter, by name and shape, its first values, of f32.
type Source<'a> = dyn FnMut(&str, &[usize], Init) -> Result<Tensor, AppError> + 'a;

/// Makes the parameters in a fixed order and keeps those that are trained, with their names.
struct Builder<'a> {
    source: &'a mut Source<'a>,
    parameters: Vec<(String, Var)>,
    bias: bool,
    dtype: DType,
    /// Adapters to train beside everything else.
    lora: Option<Lora>,
}

impl Builder<'_> {
    fn parameter(&mut self, name: String, shape: &[usize], init: Init) -> Result<Tensor, AppError> {
        match self.lora {
            Some(_) => Ok((self.source)(&name, shape, init)?.to_dtype(self.dtype)?),
            None => self.trained(name, shape, init),
        }
    }

    fn trained(&mut self, name: String, shape: &[usize], init: Init) -> Result<Tensor, AppError> {
        let var = Var::new(&(self.source)(&name, shape, init)?.to_dtype(self.dtype)?)?;
        var.set_grad_dtype(DType::F32)?;
        let tensor = var.as_tensor().clone();
        self.parameters.push((name, var));
        Ok(tensor)
    }

    fn bias(&mut self, name: &str, size: usize) -> Result<Option<Tensor>, AppError> {
        let bias = self.bias.then(|| self.parameter(format!("{name}.bias"), &[size], Init::Zeros));
        bias.transpose()
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, std: f64) -> Result<Linear, AppError> {
        let weight = self.parameter(format!("{name}.weight"), &[outputs, inputs], Init::Normal(std))?;
        let bias = self.bias(name, outputs)?;
        let adapter = match self.lora.clone().filter(|lora| lora.adapts(name)) {
            None => None,
            Some(Lora { rank, scale, dropout, .. }) => {
                let [a, b] = finetune::adapter_names(name);
                // The variance of the authors' own code: Kaiming's uniform with a = sqrt(5).
                let std = (1.0 / (3.0 * inputs as f64)).sqrt();
                let a = self.trained(a, &[rank, inputs], Init::Normal(std))?;
                let b = self.trained(b, &[outputs, rank], Init::Zeros)?;
                Some(Adapter { a, b, scale, dropout })
            }
        };
        Ok(Linear { weight, bias, adapter })
    }

    fn norm(&mut self, name: &str, channels: usize) -> Result<Norm, AppError> {
        let weight = self.parameter(format!("{name}.weight"), &[channels], Init::Ones)?;
        Ok(Norm { weight, bias: self.bias(name, channels)? })
    }
}

/// What is learned beside a frozen layer.
#[derive(Clone)]
struct Adapter {
    a: Tensor,
    b: Tensor,
    scale: f64,
    dropout: f64,
}

#[derive(Clone)]
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    adapter: Option<Adapter>,
}

impl Linear {
    fn forward(&self, x: &Tensor, train: bool) -> tilewright::Result<Tensor> {
        let y = x.linear(&self.weight, self.bias.as_ref())?;
        match &self.adapter {
            None => Ok(y),
            Some(Adapter { a, b, scale, dropout }) => {
                let x = x.dropout(if train { *dropout } else { 0.0 })?;
                x.linear(a, None)?.affine(*scale, 0.0)?.linear_residual(b, None, &y)
            }
        }
    }

    fn forward_activation(
        &self,
        x: &Tensor,
        activation: Activation,
        train: bool,
    ) -> tilewright::Result<Tensor> {
        let (fused, apart): (_, fn(&Tensor) -> _) = match activation {
            Activation::Gelu => (tilewright::Activation::GeluErf, Tensor::gelu_erf),
            Activation::GeluTanh => (tilewright::Activation::Gelu, Tensor::gelu),
        };
        match self.adapter {
            None => x.linear_activation(&self.weight, self.bias.as_ref(), fused),
            Some(_) => apart(&self.forward(x, train)?),
        }
    }
}

#[derive(Clone)]
struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> tilewright::Result<Tensor> {
        x.layer_norm(&self.weight, self.bias.as_ref(), NORM_EPS)
    }

    /// The sum of what dropout leaves of a branch and of the residual stream, and its norm, in one pass over memory.
    fn forward_sum(
        &self,
        branch: &Tensor,
        p: f64,
        residual: &Tensor,
    ) -> tilewright::Result<(Tensor, Tensor)> {
        branch.dropout_add_layer_norm(p, residual, &self.weight, self.bias.as_ref(), NORM_EPS)
    }
}

#[derive(Clone)]
struct Block {
    ln_1: Norm,
    c_attn: Linear,
    attn_proj: Linear,
    ln_2: Norm,
    c_fc: Linear,
    mlp_proj: Linear,
}

/// How a pass computes.
#[derive(Clone, Copy)]
struct Mode {
    train: bool,
    /// The probability with which activations are dropped.
    p: f64,
    activation: Activation,
}

impl Block {
    /// The next residual stream and `next_norm` of it, from this block's `[stream, normed]`, all `[B, T, C]`. `attend` makes
    /// `[B, T, C]` of queries, keys and values `[B, T, 3 C]`.
    fn forward(
        &self,
        [x, normed]: [&Tensor; 2],
        next_norm: &Norm,
        Mode { train, p, activation }: Mode,
        attend: impl FnOnce(&Tensor) -> tilewright::Result<Tensor>,
    ) -> tilewright::Result<(Tensor, Tensor)> {
        let heads = attend(&self.c_attn.forward(normed, train)?)?;
        let attended = self.attn_proj.forward(&heads, train)?;
        let (x, normed) = self.ln_2.forward_sum(&attended, p, x)?;
        let widened = self.c_fc.forward_activation(&normed, activation, train)?;
        let mixed = self.mlp_proj.forward(&widened, train)?;
        next_norm.forward_sum(&mixed, p, &x)
    }
}

/// Causal self-attention `[B, T, C]` of `[B, T, 3 C]`.
fn self_attention(qkv: &Tensor, heads: usize, p: f64) -> tilewright::Result<Tensor> {
    let (b, t, c) = (qkv.dims()[0], qkv.dims()[1], qkv.dims()[2] / 3);
    let qkv = qkv.chunk(3, D::Minus1)?;
    let head = |i: usize| qkv[i].reshape((b, t, heads, c / heads))?.transpose(1, 2);
    let options = AttentionOptions { causal: true, dropout: p, ..Default::default() };
    head(0)?.attention(&head(1)?, &head(2)?, &options)?.transpose(1, 2)?.reshape((b, t, c))
}

pub struct Gpt {
    wte: Tensor,
    wpe: Tensor,
    blocks: Vec<Block>,
    ln_f: Norm,
    heads: usize,
    block_size: usize,
    activation: Activation,
    dropout: f64,
    recompute: bool,
    parameters: Vec<(String, Var)>,
    /// Of adapters: the fingerprint of the model that they stand beside.
    base: Option<String>,
}

impl Gpt {
    /// A model to train, for `ids` token ids: with the values of the model that it starts from, and where that has none, with
    /// fresh ones from the device's random numbers.
    pub fn new(config: &Config, ids: usize, base: Option<Base>, device: &Device) -> Result<Gpt, AppError> {
        let fingerprint = base.as_ref().map(|base| base.fingerprint.clone());
        let mut start = base.map(Stored::from);
        let model = Gpt::build(config, ids, &mut |name, shape, init| {
            if let (Some(start), false) = (&mut start, finetune::is_adapter(name)) {
                return start.tensor(name, shape, device);
            }
            Ok(match init {
                Init::Normal(std) => Tensor::randn(0.0, std, shape, DType::F32, device)?,
                Init::Zeros => Tensor::zeros(shape, DType::F32, device)?,
                Init::Ones => Tensor::ones(shape, DType::F32, device)?,
            })
        })?;
        start.map_or(Ok(()), Stored::finish)?;
        Ok(Gpt { base: fingerprint.filter(|_| config.lora_rank > 0), ..model })
    }

    /// The model of a checkpoint read from `path`; one of adapters stands beside the model that its config starts from.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or has no place in the model of that config; adapters of another model
    /// than the one that is there.
    pub fn from_checkpoint(checkpoint: Checkpoint, path: &Path, device: &Device) -> Result<Gpt, AppError> {
        let Checkpoint { header, tensors } = checkpoint;
        let mut own = Stored { path: path.into(), tensors };
        let base = (header.config.lora_rank > 0).then(|| Base::of(&header, path)).transpose()?;
        let fingerprint = base.as_ref().map(|base| base.fingerprint.clone());
        let mut frozen = base.map(Stored::from);
        let model = Gpt::build(&header.config, header.tokenizer.len(), &mut |name, shape, _| match frozen
            .as_mut()
            .filter(|_| !finetune::is_adapter(name))
        {
            Some(frozen) => frozen.tensor(name, shape, device),
            None => own.tensor(name, shape, device),
        })?;
        own.finish()?;
        frozen.map_or(Ok(()), Stored::finish)?;
        Ok(Gpt { base: fingerprint, ..model })
    }

    /// The model whose parameters have the `values` that are given for each name and shape.
    pub fn from_values(
        config: &Config,
        ids: usize,
        device: &Device,
        mut values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, AppError>,
    ) -> Result<Gpt, AppError> {
        Gpt::build(config, ids, &mut |name, shape, _| {
            Ok(Tensor::from_vec(values(name, shape)?, shape, device)?)
        })
    }

    fn build<'a>(config: &Config, ids: usize, source: &'a mut Source<'a>) -> Result<Gpt, AppError> {
        let channels = config.n_embd;
        let std = match config.init_std {
            0.0 => 0.02 * (768.0 / channels as f64).sqrt(),
            std => std,
        };
        // Each block adds two branches to the residual stream: keep its variance at any depth.
        let branch_std = std / (2.0 * config.n_layer as f64).sqrt();
        let rows = config.vocab_size.max(ids);
        let dtype = config.dtype.dtype();
        let lora = Lora::of(config).map_err(|reason| AppError::Key {
            origin: "config".into(),
            key: "lora_targets".into(),
            reason,
        })?;
        let mut b = Builder { source, parameters: Vec::new(), bias: config.bias, dtype, lora };
        let wte = b.parameter("transformer.wte.weight".into(), &[rows, channels], Init::Normal(std))?;
        let wpe =
            b.parameter("transformer.wpe.weight".into(), &[config.block_size, channels], Init::Normal(std))?;
        let blocks = (0..config.n_layer)
            .map(|i| {
                let name = |part: &str| format!("transformer.h.{i}.{part}");
                Ok(Block {
                    ln_1: b.norm(&name("ln_1"), channels)?,
                    c_attn: b.linear(&name("attn.c_attn"), 3 * channels, channels, std)?,
                    attn_proj: b.linear(&name("attn.c_proj"), channels, channels, branch_std)?,
                    ln_2: b.norm(&name("ln_2"), channels)?,
                    c_fc: b.linear(&name("mlp.c_fc"), 4 * channels, channels, std)?,
                    mlp_proj: b.linear(&name("mlp.c_proj"), channels, 4 * channels, branch_std)?,
                })
            })
            .collect::<Result<_, AppError>>()?;
        let ln_f = b.norm("transformer.ln_f", channels)?;
        Ok(Gpt {
            wte,
            wpe,
            blocks,
            ln_f,
            heads: config.n_head,
            block_size: config.block_size,
            activation: config.activation,
            dropout: config.dropout,
            recompute: config.recompute,
            parameters: b.parameters,
            base: None,
        })
    }

    /// Of adapters, the fingerprint of the model that they stand beside.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Every parameter that is trained, once, with its name. The output layer is the token embedding itself.
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|(_, var)| var.elements()).sum()
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The parameters, where they are.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().detach())).collect()
    }

    /// The parameters' values on the host.
    pub fn values(&self) -> tilewright::Result<BTreeMap<String, Values>> {
        let values = |(name, var): &(String, Var)| {
            Ok((name.clone(), Values { shape: var.dims().to_vec(), data: var.flatten_all()?.to_vec1()? }))
        };
        self.parameters.iter().map(values).collect()
    }

    /// Mean cross entropy of the batch's targets, in nats, without dropout.
    pub fn loss(&self, batch: &Batch) -> tilewright::Result<Tensor> {
        self.cross_entropy(batch, false, CrossEntropyOptions::default())
    }

    /// The cross entropy `[B, T]` of each of the batch's targets, in nats, without dropout.
    pub fn losses(&self, batch: &Batch) -> tilewright::Result<Tensor> {
        let options = CrossEntropyOptions { reduction: Reduction::None, ..Default::default() };
        self.cross_entropy(batch, false, options)
    }

    /// [`Gpt::loss`] under dropout, multiplied by `scale`, to run backward from.
    pub fn scaled_loss(&self, batch: &Batch, scale: f64) -> tilewright::Result<Tensor> {
        self.cross_entropy(batch, true, CrossEntropyOptions { scale, ..Default::default() })
    }

    fn cross_entropy(
        &self,
        batch: &Batch,
        train: bool,
        options: CrossEntropyOptions,
    ) -> tilewright::Result<Tensor> {
        let options = CrossEntropyOptions { ignore_index: Some(IGNORED), ..options };
        self.hidden(&batch.inputs, train)?.linear_cross_entropy(&self.wte, &batch.targets, options, None)
    }

    /// The logits `[B, V]` of the token that follows `ids` `[B, T]`.
    pub fn next_logits(&self, ids: &Tensor) -> tilewright::Result<Tensor> {
        let hidden = self.hidden(ids, false)?;
        hidden.narrow(1, ids.dims()[1] - 1, 1)?.squeeze(1)?.linear(&self.wte, None)
    }

    /// Room for the keys and values of one sequence.
    pub fn cache(&self) -> tilewright::Result<Cache> {
        let (channels, device) = (self.wte.dims()[1], self.wte.device());
        let shape = (2, self.heads, self.block_size, channels / self.heads);
        let layers = self.blocks.iter().map(|_| Tensor::zeros(shape, self.wte.dtype(), &device));
        Ok(Cache { layers: layers.collect::<tilewright::Result<_>>()?, len: 0 })
    }

    /// [`Gpt::next_logits`] of sequences of which the caches know all but the last tokens, `ids` `[B, T]`; which they then
    /// know too. Each sequence has a cache, and the caches may have different lengths.
    ///
    /// # Errors
    /// If a cache has no room for T more tokens.
    pub fn next_logits_cached(&self, ids: &Tensor, caches: &mut [&mut Cache]) -> tilewright::Result<Tensor> {
        let ((b, t), channels) = (ids.dims2()?, self.wte.dims()[1]);
        let positions = caches.iter().flat_map(|cache| cache.len..cache.len + t).map(|i| i as u32).collect();
        let positions = Tensor::from_vec(positions, (b, t), &ids.device())?;
        let embedded = self.wte.embedding(ids)?.add(&self.wpe.embedding(&positions)?)?;
        let mode = self.mode(false);
        let hidden = self.trunk(embedded, mode, |layer, block, x, next_norm| {
            block.forward(x, next_norm, mode, |qkv| {
                let rows = caches.iter().enumerate().map(|(row, cache)| {
                    let qkv = qkv.narrow(0, row, 1)?.reshape((t, 3, self.heads, channels / self.heads))?;
                    self.cached_attention(&qkv.permute(&[1, 2, 0, 3])?, &cache.layers[layer], cache.len)
                });
                Tensor::cat(&rows.collect::<tilewright::Result<Vec<_>>>()?, 0)
            })
        })?;
        caches.iter_mut().for_each(|cache| cache.len += t);
        hidden.narrow(1, t - 1, 1)?.squeeze(1)?.linear(&self.wte, None)
    }

    /// The final norm's output `[B, T, C]` for `ids` `[B, T]`, under dropout if `train`.
    fn hidden(&self, ids: &Tensor, train: bool) -> tilewright::Result<Tensor> {
        let positions = self.wpe.narrow(0, 0, ids.dims()[1])?;
        let embedded = self.wte.embedding(ids)?.add(&positions)?;
        let (mode, heads) = (self.mode(train), self.heads);
        self.trunk(embedded, mode, |_, block, x, next_norm| {
            let attend = move |qkv: &Tensor| self_attention(qkv, heads, mode.p);
            if !(self.recompute && train) {
                return block.forward(x, next_norm, mode, attend);
            }
            let (block, next_norm) = (block.clone(), next_norm.clone());
            let again = move |x: &[Tensor]| {
                let (x, normed) = block.forward([&x[0], &x[1]], &next_norm, mode, attend)?;
                Ok(vec![x, normed])
            };
            let mut out = checkpoint(&x, again)?;
            let normed = out.remove(1);
            Ok((out.remove(0), normed))
        })
    }

    fn mode(&self, train: bool) -> Mode {
        Mode { train, p: if train { self.dropout } else { 0.0 }, activation: self.activation }
    }

    /// The blocks and the final norm over embeddings `[B, T, C]`. `pass` is [`Block::forward`] of a layer.
    fn trunk(
        &self,
        embedded: Tensor,
        mode: Mode,
        mut pass: impl FnMut(usize, &Block, [&Tensor; 2], &Norm) -> tilewright::Result<(Tensor, Tensor)>,
    ) -> tilewright::Result<Tensor> {
        let mut x = embedded.dropout(mode.p)?;
        // Every sum of a branch and the residual stream is followed by a norm: the next block's first
        // or the final one. So the loop carries the stream and its norm, and adds inside the norms.
        let next_norms = self.blocks.iter().skip(1).map(|block| &block.ln_1).chain([&self.ln_f]);
        let mut normed = self.blocks[0].ln_1.forward(&x)?;
        for (layer, (block, next_norm)) in self.blocks.iter().zip(next_norms).enumerate() {
            (x, normed) = pass(layer, block, [&x, &normed], next_norm)?;
        }
        Ok(normed)
    }

    /// Causal attention `[1, T, C]` of one sequence's `[3, NH, T, HS]`, which goes on after the `len` tokens that a layer's
    /// cache `[2, NH, block_size, HS]` knows.
    fn cached_attention(&self, qkv: &Tensor, cache: &Tensor, len: usize) -> tilewright::Result<Tensor> {
        let (t, size) = (qkv.dims()[2], qkv.dims()[3]);
        cache.narrow(2, len, t)?.assign(&qkv.narrow(0, 1, 2)?)?;
        let known = |i: usize| cache.narrow(0, i, 1)?.narrow(2, 0, len + t);
        let options = AttentionOptions { causal: true, ..Default::default() };
        let y = qkv.narrow(0, 0, 1)?.attention(&known(0)?, &known(1)?, &options)?;
        y.transpose(1, 2)?.reshape((1, t, self.heads * size))
    }
}

/// What attention needs of the tokens of a sequence that have been computed: `[2, NH, block_size, HS]` for each layer, keys
/// and values, written in place.
pub struct Cache {
    layers: Vec<Tensor>,
    len: usize,
}

impl Cache {
    /// Tokens that it knows.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Header;
    use crate::config::tests::config;
    use crate::tokenizer::Tokenizer;

    fn tiny() -> Config {
        config(&["--n-layer", "2", "--n-head", "2", "--n-embd", "16", "--block-size", "8", "--bias"])
    }

    fn model() -> Gpt {
        let _alone = crate::tests::alone();
        Gpt::new(&tiny(), 5, None, &Device::Cpu).unwrap()
    }

    fn checkpoint(model: &Gpt) -> Checkpoint {
        let tokenizer = Tokenizer::Characters("abcde".to_owned().into());
        let header = Header { config: tiny(), tokenizer, step: 1, val_loss: f32::NAN, base: None };
        Checkpoint { header, tensors: model.values().unwrap() }
    }

    #[test]
    fn names_and_shapes_are_nanogpts() {
        let model = model();
        let shapes: BTreeMap<&str, &[usize]> =
            model.parameters().iter().map(|(name, var)| (name.as_str(), var.dims())).collect();
        assert_eq!(shapes.len(), 2 + 2 * 12 + 2);
        assert_eq!(shapes["transformer.wte.weight"], [5, 16]);
        assert_eq!(shapes["transformer.wpe.weight"], [8, 16]);
        assert_eq!(shapes["transformer.h.1.attn.c_attn.weight"], [48, 16]);
        assert_eq!(shapes["transformer.h.0.mlp.c_fc.bias"], [64]);
        assert_eq!(shapes["transformer.h.1.mlp.c_proj.weight"], [16, 64]);
        assert_eq!(shapes["transformer.ln_f.weight"], [16]);
    }

    #[test]
    fn later_tokens_change_no_earlier_logits() {
        let model = model();
        let logits = |ids: &[u32]| -> Vec<f32> {
            let ids = Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
            model.next_logits(&ids).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let hidden = |ids: &[u32]| -> Vec<f32> {
            let ids = Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
            model
                .hidden(&ids, false)
                .unwrap()
                .narrow(1, 0, 2)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        assert_eq!(logits(&[1, 2]).len(), 5);
        let (short, long) = (hidden(&[1, 2, 3]), hidden(&[1, 2, 4]));
        assert!(short.iter().zip(&long).all(|(a, b)| (a - b).abs() < 1e-6));
        assert_ne!(logits(&[1, 2, 3]), logits(&[2, 1, 3]), "positions matter");
    }

    /// GPT-2's sizes, one sequence of 64 tokens: the embedding is more than a binding of many adapters shows.
    /// `cargo test --release --example gpt -- --ignored gpt2`
    #[cfg(feature = "wgpu")]
    #[test]
    #[ignore = "takes a minute and 4 GB"]
    fn gpt2_has_the_gradients_of_the_cpu_on_a_software_adapter() {
        let sizes = "--n-layer 12 --n-head 12 --n-embd 768 --block-size 64 --vocab-size 50257 --bias";
        let config = config(&sizes.split(' ').collect::<Vec<_>>());
        let ids: Vec<u32> = (0..65).map(|i| i * i * 7919 % 50_257).collect();
        let run = |model: &Gpt, device: &Device| {
            let at = |from: usize| Tensor::from_slice(&ids[from..from + 64], (1, 64), device).unwrap();
            let loss = model.loss(&Batch { inputs: at(0), targets: at(1) }).unwrap();
            loss.backward().unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        let here = {
            let _alone = crate::tests::alone();
            Gpt::new(&config, 1, None, &Device::Cpu).unwrap()
        };
        let device = Device::wgpu("software").unwrap();
        let header = Header {
            config,
            tokenizer: Tokenizer::Characters("a".to_owned().into()),
            step: 0,
            val_loss: f32::NAN,
            base: None,
        };
        let copy = Checkpoint { header, tensors: here.values().unwrap() };
        let there = Gpt::from_checkpoint(copy, Path::new("x"), &device).unwrap();
        let (loss, other) = (run(&here, &Device::Cpu), run(&there, &device));
        println!("loss {loss} and {other}");
        assert!((loss - other).abs() < 1e-3 * loss);
        let mut worst = (0.0, "");
        for ((name, a), (_, b)) in here.parameters().iter().zip(there.parameters()) {
            let grad = |var: &Var| var.grad().unwrap().to_vec::<f32>().unwrap();
            let (a, b) = (grad(a), grad(b));
            let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
            let error = a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
            assert!(error < 1e-3, "{name}: {error}");
            worst = if error > worst.0 { (error, name.as_str()) } else { worst };
        }
        println!("the worst gradient, relative to its largest element: {worst:?}");
    }

    #[test]
    fn a_model_comes_back_from_its_checkpoint() {
        let model = model();
        let again = Gpt::from_checkpoint(checkpoint(&model), Path::new("x"), &Device::Cpu).unwrap();
        assert_eq!(model.values().unwrap(), again.values().unwrap());
    }

    #[test]
    fn a_checkpoint_that_does_not_fit_names_the_tensor() {
        let model = model();
        let error = |change: &dyn Fn(&mut BTreeMap<String, Values>)| {
            let mut checkpoint = checkpoint(&model);
            change(&mut checkpoint.tensors);
            Gpt::from_checkpoint(checkpoint, Path::new("x"), &Device::Cpu).err().unwrap().to_string()
        };
        let name = "transformer.h.0.ln_1.weight";
        assert_eq!(error(&|t| drop(t.remove(name))), format!("x: tensor {name} is missing"));
        let other = Values { shape: vec![2, 8], data: vec![0.0; 16] };
        assert_eq!(
            error(&|t| drop(t.insert(name.into(), other.clone()))),
            format!("x: tensor {name} has shape [2, 8], expected [16]")
        );
        assert_eq!(
            error(&|t| drop(t.insert("lm_head.weight".into(), other.clone()))),
            "x: tensor lm_head.weight has no place in the model"
        );
    }
}
