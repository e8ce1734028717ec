//! From a trained model to another: all of its parameters go on learning, or low-rank adapters beside frozen ones
//! (LoRA, Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021).
//!
//! A layer `y = W x + b` with an adapter computes `W x + b + (alpha / rank) B A x`, A `[rank, in]`, B `[out, rank]`.
//! B starts as zeros: the model starts as the one it was made from. A checkpoint of such a run holds A and B alone,
//! and the path and fingerprint of the model that they belong to; whoever only computes with it adds the product to W
//! first.

use std::path::{Path, PathBuf};

use tilewright::{DType, Device, Tensor};

use crate::checkpoint::{Checkpoint, Header, Stored, Values};
use crate::config::{Config, Flags};
use crate::error::AppError;
use crate::report::note;

/// The linear layers of a block, by their names in it.
pub const TARGETS: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];

const POSITIONS: &str = "transformer.wpe.weight";

/// The adapters that a config asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    pub rank: usize,
    /// What `B A` is multiplied by.
    pub scale: f64,
    pub dropout: f64,
    targets: Vec<&'static str>,
}

impl Lora {
    /// Of the keys `lora_*`; none if the rank is 0.
    ///
    /// # Errors
    /// A target that is no linear layer of a block.
    pub fn of(config: &Config) -> Result<Option<Lora>, String> {
        let rank = config.lora_rank;
        if rank == 0 {
            return Ok(None);
        }
        let target = |name: &str| {
            let found = TARGETS.iter().find(|target| **target == name.trim()).copied();
            found.ok_or_else(|| format!("names {name:?}, which is none of {}", TARGETS.join(", ")))
        };
        let targets = config.lora_targets.split(',').map(target).collect::<Result<Vec<_>, _>>()?;
        let scale = config.lora_alpha / rank as f64;
        Ok(Some(Lora { rank, scale, dropout: config.lora_dropout, targets }))
    }

    /// Whether the layer of this name has an adapter.
    pub fn adapts(&self, layer: &str) -> bool {
        self.targets.iter().any(|target| layer.ends_with(target))
    }
}

/// The names of a layer's A and B.
pub fn adapter_names(layer: &str) -> [String; 2] {
    [format!("{layer}.lora_a"), format!("{layer}.lora_b")]
}

/// Whether a parameter is an A or a B.
pub fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_a") || name.ends_with(".lora_b")
}

/// A model that another starts from.
pub struct Base {
    pub path: PathBuf,
    pub checkpoint: Checkpoint,
    /// Of the checkpoint as it was on disk: neither merged nor cut.
    pub fingerprint: String,
}

impl From<Base> for Stored {
    fn from(base: Base) -> Self {
        Stored { path: base.path, tensors: base.checkpoint.tensors }
    }
}

impl Base {
    fn read(path: &Path) -> Result<Base, AppError> {
        let checkpoint = Checkpoint::load(path)?;
        let fingerprint = checkpoint.fingerprint();
        Ok(Base { path: path.into(), checkpoint: merged(checkpoint, path)?, fingerprint })
    }

    /// What the adapters with this header, read from `path`, belong to.
    ///
    /// # Errors
    /// Another model in its place.
    pub fn of(header: &Header, path: &Path) -> Result<Base, AppError> {
        let base = Base::read(Path::new(&header.config.init_from))?;
        match &header.base {
            Some(expected) if *expected != base.fingerprint => Err(AppError::OtherBase {
                adapters: path.into(),
                base: base.path,
                expected: expected.clone(),
                found: base.fingerprint,
            }),
            _ => Ok(base.cut(header.config.block_size)),
        }
    }

    /// With no more positions than `block_size`.
    fn cut(mut self, block_size: usize) -> Base {
        if let Some(Values { shape, data }) = self.checkpoint.tensors.get_mut(POSITIONS)
            && shape[0] > block_size
        {
            data.truncate(block_size * shape[1]);
            shape[0] = block_size;
        }
        self
    }
}

/// The path of a checkpoint as one that outlives the directory that the run was started in.
pub fn absolute(path: &str) -> Result<String, AppError> {
    let path = Path::new(path);
    Ok(path.canonicalize().map_err(AppError::io("read", path))?.to_string_lossy().into_owned())
}

/// Makes `config` one of a run that starts from the model that it names, if it names one: the sizes become that
/// model's. Returns the model, whose tokenizer the data must have.
///
/// # Errors
/// A checkpoint that cannot be read; a flag that asks for other sizes, but for a shorter context.
pub fn start(config: &mut Config, flags: &Flags) -> Result<Option<Base>, AppError> {
    if config.init_from.is_empty() {
        return Ok(None);
    }
    let path = Path::new(&config.init_from);
    let whole = absolute(&config.init_from)?;
    let start = Base::read(path)?;
    let base = &start.checkpoint.header.config;
    let sizes: [(&'static str, String, String); 6] = [
        ("n_layer", config.n_layer.to_string(), base.n_layer.to_string()),
        ("n_head", config.n_head.to_string(), base.n_head.to_string()),
        ("n_embd", config.n_embd.to_string(), base.n_embd.to_string()),
        ("vocab_size", config.vocab_size.to_string(), base.vocab_size.to_string()),
        ("bias", config.bias.to_string(), base.bias.to_string()),
        ("activation", format!("{:?}", config.activation), format!("{:?}", base.activation)),
    ];
    let refused = |key: &str, reason| {
        let origin = format!("--{}", key.replace('_', "-"));
        Err(AppError::Key { origin, key: key.into(), reason })
    };
    for (key, asked, found) in sizes {
        if flags.has(key) && asked != found {
            return refused(key, format!("is {asked}, and that of {} is {found}", path.display()));
        }
    }
    let shorter = flags.has("block_size").then_some(config.block_size);
    if let Some(block_size) = shorter.filter(|&block_size| block_size > base.block_size) {
        let reason = format!("is {block_size}, and {} has positions for {}", path.display(), base.block_size);
        return refused("block_size", reason);
    }
    *config = Config {
        n_layer: base.n_layer,
        n_head: base.n_head,
        n_embd: base.n_embd,
        vocab_size: base.vocab_size,
        bias: base.bias,
        activation: base.activation,
        block_size: shorter.unwrap_or(base.block_size),
        init_from: whole,
        ..config.clone()
    };
    config.check().map_err(|(key, reason)| AppError::Key {
        origin: "config".into(),
        key: key.into(),
        reason,
    })?;
    note(format_args!("starting from {}", config.init_from));
    Ok(Some(start.cut(config.block_size)))
}

/// A checkpoint to compute with: one of adapters is merged with the model that they belong to.
pub fn load(path: &Path) -> Result<Checkpoint, AppError> {
    merged(Checkpoint::load(path)?, path)
}

fn merged(checkpoint: Checkpoint, path: &Path) -> Result<Checkpoint, AppError> {
    match lora(&checkpoint.header.config, path)? {
        None => Ok(checkpoint),
        Some(lora) => {
            let base = Base::of(&checkpoint.header, path)?;
            merge(checkpoint, base.checkpoint, &lora, path)
        }
    }
}

fn lora(config: &Config, path: &Path) -> Result<Option<Lora>, AppError> {
    Lora::of(config)
        .map_err(|reason| AppError::contents(path, format!("its config key `lora_targets` {reason}")))
}

/// The model of `base` with `W + scale B A` in place of each adapted W.
fn merge(adapters: Checkpoint, base: Checkpoint, lora: &Lora, path: &Path) -> Result<Checkpoint, AppError> {
    let Checkpoint { mut header, tensors: mut left } = adapters;
    let mut tensors = base.tensors;
    let tensor = |values: Values| Tensor::from_vec(values.data, values.shape, &Device::Cpu);
    for (name, values) in &mut tensors {
        let Some(layer) = name.strip_suffix(".weight").filter(|layer| lora.adapts(layer)) else { continue };
        let [a, b] = adapter_names(layer).map(|name| {
            left.remove(&name).ok_or_else(|| AppError::contents(path, format!("tensor {name} is missing")))
        });
        // A sum of products in f64, to be rounded once.
        let wide = |values: Values| tensor(values)?.to_dtype(DType::F64);
        let product = wide(b?)?.matmul(&wide(a?)?)?.affine(lora.scale, 0.0)?;
        values.data = wide(values.clone())?.add(&product)?.to_dtype(DType::F32)?.to_vec()?;
    }
    if let Some(name) = left.keys().next() {
        return Err(AppError::contents(path, format!("tensor {name} has no place in the model")));
    }
    (header.config.lora_rank, header.base) = (0, None);
    Ok(Checkpoint { header, tensors })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tilewright::no_grad;

    use super::*;
    use crate::checkpoint::Header;
    use crate::config::tests::{config, flags};
    use crate::data::Batch;
    use crate::generate::{self, Sampling};
    use crate::hugging_face::tests::{fixture, gpt2};
    use crate::model::Gpt;
    use crate::tests::{alone, devices, scratch};
    use crate::tokenizer::Tokenizer;

    /// The fixture's model as a checkpoint.
    fn base_checkpoint(folder: &Path) -> String {
        let path = folder.join("base.safetensors");
        let tokenizer = Tokenizer::load(&fixture().join("tokenizer.json")).unwrap();
        let sizes = "--n-layer 2 --n-head 4 --n-embd 32 --block-size 24 --vocab-size 100 --bias --activation gelu_tanh";
        let config = config(&sizes.split(' ').collect::<Vec<_>>());
        let header = Header { config, tokenizer, step: 0, val_loss: f32::NAN, base: None };
        Checkpoint { header, tensors: gpt2(&Device::Cpu).values().unwrap() }.save(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The config of a run with these flags from the fixture's model, and that run's model at its start.
    fn started(base: &str, line: &str, device: &Device) -> (Config, Gpt) {
        let line: Vec<&str> = line.split_whitespace().chain(["--init-from", base]).collect();
        let mut config = config(&line);
        let base = start(&mut config, &flags(&line)).unwrap();
        let model = Gpt::new(&config, 97, base, device).unwrap();
        (config, model)
    }

    fn batch(device: &Device) -> Batch {
        let ids = |from: u32| (from..from + 24).map(|i| i * i % 97).collect::<Vec<u32>>();
        let tensor = |from| Tensor::from_vec(ids(from), (2, 12), device).unwrap();
        Batch { inputs: tensor(3), targets: tensor(4) }
    }

    fn losses(model: &Gpt, device: &Device) -> Vec<f32> {
        no_grad(|| model.losses(&batch(device))?.flatten_all()?.to_vec1()).unwrap()
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn adapters_start_as_nothing_and_merge_into_what_they_have_become() {
        let folder = scratch("lora");
        let base = base_checkpoint(&folder);
        let all = TARGETS.join(",");
        let line = format!("--lora-rank 4 --lora-alpha 6 --lora-targets {all}");
        for device in devices() {
            let _alone = alone();
            let (config, model) = started(&base, &line, device);
            // Two blocks of four adapted layers, 4 (in + out) each.
            assert_eq!(model.parameter_count(), 2 * 4 * (128 + 64 + 160 + 160));
            assert!(model.parameters().iter().all(|(name, _)| is_adapter(name)));
            let before = losses(&model, device);
            assert_eq!(before, losses(&gpt2(device), device), "{device}: B is zero");

            for (_, var) in model.parameters().iter().filter(|(name, _)| name.ends_with("lora_b")) {
                var.set(&Tensor::randn(0.0, 0.1, var.shape(), DType::F32, device).unwrap()).unwrap();
            }
            let unmerged = losses(&model, device);
            assert!(largest_difference(&unmerged, &before) > 0.1, "{device}: the adapters do something");
            let header = Header {
                config,
                tokenizer: Checkpoint::load(Path::new(&base)).unwrap().header.tokenizer,
                step: 1,
                val_loss: f32::NAN,
                base: model.base().map(Into::into),
            };
            let path = folder.join("adapters.safetensors");
            Checkpoint { header, tensors: model.values().unwrap() }.save(&path).unwrap();
            // What was saved goes on as it was, and what is merged computes the same.
            let again = Gpt::from_checkpoint(Checkpoint::load(&path).unwrap(), &path, device).unwrap();
            assert_eq!(losses(&again, device), unmerged, "{device}");
            let merged = load(&path).unwrap();
            assert_eq!((merged.header.config.lora_rank, merged.tensors.len()), (0, 28));
            let merged = Gpt::from_checkpoint(merged, &path, device).unwrap();
            let error = largest_difference(&losses(&merged, device), &unmerged);
            assert!(error < 2e-5, "{device}: {error}");
        }
        // What belongs to another model is not taken.
        let mut other = Checkpoint::load(&folder.join("adapters.safetensors")).unwrap();
        other.header.config.lora_targets = "attn.c_attn".into();
        other.save(&folder.join("other.safetensors")).unwrap();
        let error = load(&folder.join("other.safetensors")).err().unwrap().to_string();
        assert!(error.ends_with("attn.c_proj.lora_a has no place in the model"), "{error}");
        // Nor is another model in the place of theirs.
        let adapters = folder.join("adapters.safetensors");
        let mut changed = Checkpoint::load(Path::new(&base)).unwrap();
        changed.tensors.get_mut(POSITIONS).unwrap().data[0] += 1.0;
        changed.save(Path::new(&base)).unwrap();
        let as_it_is = |path: &Path| {
            Gpt::from_checkpoint(Checkpoint::load(path).unwrap(), path, &Device::Cpu).err().unwrap()
        };
        for error in [load(&adapters).err().unwrap(), as_it_is(&adapters)] {
            assert!(matches!(error, AppError::OtherBase { .. }), "{error}");
            let (of, than) = (adapters.to_string_lossy(), fs::canonicalize(&base).unwrap());
            let expected =
                format!("{of} belongs to another model than {}, whose fingerprint is ", than.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
        fs::remove_file(&base).unwrap();
        let error = load(&adapters).err().unwrap().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("base.safetensors"), "{error}");
    }

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        train: crate::train::TrainArgs,
    }

    /// The folder of a run of adapters beside the folder's base that learns answers.
    fn train(folder: &Path, out: &str, more: &str) -> Result<PathBuf, AppError> {
        let answers = folder.join("answers.jsonl");
        let line = |i: usize| format!("{{\"prompt\": \"{i}?\", \"response\": \"yes\"}}\n");
        fs::write(&answers, (0..30).map(line).collect::<String>()).unwrap();
        let (base, out) = (folder.join("base.safetensors"), folder.join(out));
        let flags = "gpt --device cpu --lora-rank 4 --warmup-iters 5 --learning-rate 1e-2 --batch-size 4 \
                     --eval-interval 50 --eval-iters 1 --block-size 8";
        let paths = [("--init-from", &base), ("--data", &answers), ("--out", &out)];
        let paths = paths.iter().flat_map(|(flag, path)| [flag.to_string(), path.display().to_string()]);
        let flags = flags.split_whitespace().chain(more.split_whitespace()).map(str::to_owned);
        let line = <Cli as clap::Parser>::parse_from(flags.chain(paths));
        let _alone = alone();
        crate::train::run(&line.train, &mut std::io::sink())?;
        Ok(out)
    }

    #[test]
    fn a_resumed_run_of_adapters_ends_in_the_same_bits() {
        let folder = scratch("lora-resume");
        let base = base_checkpoint(&folder);
        for dtype in ["float32", "bfloat16"] {
            let more = format!("--overwrite --dtype {dtype} --lora-dropout 0.2 --dropout 0.1");
            let whole = train(&folder, "whole", &format!("{more} --max-iters 7")).unwrap();
            let cut = train(&folder, "cut", &format!("{more} --max-iters 2")).unwrap();
            // Flags that a config was started with may stand there again.
            for steps in [5, 7] {
                train(&folder, "cut", &format!("--resume --max-iters {steps}")).unwrap();
            }
            let saved =
                |out: &Path, name| fs::read(out.join("checkpoints/step-00000007").join(name)).unwrap();
            for name in ["model.safetensors", "optimizer.safetensors"] {
                assert!(saved(&cut, name) == saved(&whole, name), "{dtype}: {name}");
            }
        }
        // Another model in the base's place.
        let mut changed = Checkpoint::load(Path::new(&base)).unwrap();
        changed.tensors.get_mut(POSITIONS).unwrap().data[0] += 1.0;
        changed.save(Path::new(&base)).unwrap();
        let error = train(&folder, "cut", "--resume --max-iters 9").unwrap_err();
        assert!(matches!(error, AppError::OtherBase { .. }), "{error}");
    }

    #[test]
    fn a_run_of_adapters_learns_answers_and_saves_nothing_else() {
        let folder = scratch("lora-run");
        base_checkpoint(&folder);
        let out = train(&folder, "run", "--max-iters 200").unwrap();

        let checkpoint = out.join("checkpoint.safetensors");
        let saved = Checkpoint::load(&checkpoint).unwrap();
        assert_eq!(saved.tensors.len(), 16);
        assert!(saved.tensors.keys().all(|name| is_adapter(name)));
        // Frozen random embeddings bound how sure the model can be.
        let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
        let first: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
        let (before, after) = (first["loss"].as_f64().unwrap(), saved.header.val_loss);
        assert!(before > 3.0 && after < 1.2, "from {before} to {after}");
        let sampling = Sampling {
            temperature: 0.0,
            stop: vec!["<|endoftext|>".into()],
            max_new_tokens: 6,
            ..Default::default()
        };
        assert_eq!(generate::continued(&checkpoint, "77?", sampling).unwrap(), "77?yes\n");
    }

    #[test]
    fn only_adapters_have_gradients_and_dropout_is_theirs() {
        let folder = scratch("lora-gradients");
        let base = base_checkpoint(&folder);
        let _alone = alone();
        let device = Device::Cpu;
        let model = started(&base, "--lora-rank 2 --lora-targets mlp.c_fc", &device).1;
        let loss = |model: &Gpt| model.scaled_loss(&batch(&device), 1.0).unwrap();
        loss(&model).backward().unwrap();
        let names: Vec<&str> = model.parameters().iter().map(|(name, _)| name.as_str()).collect();
        let layer = "transformer.h.0.mlp.c_fc";
        assert_eq!(names[..2], adapter_names(layer));
        assert_eq!(names.len(), 4);
        let grad = |i: usize| model.parameters()[i].1.grad().unwrap().to_vec::<f32>().unwrap();
        assert!(grad(0).iter().all(|&x| x == 0.0), "A has no gradient while B is zero");
        assert!(grad(1).iter().any(|&x| x != 0.0));

        let dropped = started(&base, "--lora-rank 2 --lora-dropout 0.5", &device).1;
        for (_, var) in dropped.parameters() {
            var.set(&Tensor::randn(0.0, 0.3, var.shape(), DType::F32, &device).unwrap()).unwrap();
        }
        let value = |tensor: Tensor| tensor.to_scalar::<f32>().unwrap();
        assert_ne!(value(loss(&dropped)), value(loss(&dropped)), "another mask each time");
        let evaluated = || value(dropped.loss(&batch(&device)).unwrap());
        assert_eq!(evaluated(), evaluated());
    }

    #[test]
    fn a_run_takes_its_sizes_from_where_it_starts() {
        let folder = scratch("lora-start");
        let base = base_checkpoint(&folder);
        let _alone = alone();
        let line = "--block-size 10 --learning-rate 1e-4 --dropout 0.1";
        let (config, model) = started(&base, line, &Device::Cpu);
        assert_eq!((config.n_layer, config.n_embd, config.block_size, config.bias), (2, 32, 10, true));
        assert_eq!((config.learning_rate, config.dropout), (1e-4, 0.1));
        assert!(Path::new(&config.init_from).is_absolute());
        let whole = gpt2(&Device::Cpu);
        let (short, whole) = (model.values().unwrap(), whole.values().unwrap());
        assert_eq!(short[POSITIONS].data, whole[POSITIONS].data[..320]);
        assert_eq!(short["transformer.h.1.mlp.c_fc.weight"], whole["transformer.h.1.mlp.c_fc.weight"]);

        let error = |line: &str| {
            let line: Vec<&str> = line.split(' ').chain(["--init-from", &base]).collect();
            start(&mut crate::config::tests::config(&line), &flags(&line)).err().unwrap().to_string()
        };
        assert!(error("--n-layer 3").starts_with("--n-layer: config key `n_layer` is 3, and that of "));
        assert!(
            error("--block-size 25").contains("is 25, and ")
                && error("--block-size 25").ends_with("has positions for 24")
        );
        let mut nowhere = crate::config::tests::config(&["--init-from", "nowhere"]);
        assert!(
            start(&mut nowhere, &Flags::default())
                .err()
                .unwrap()
                .to_string()
                .starts_with("cannot read nowhere")
        );
    }
}
