//! Against `transformers` and PyTorch: what they made is in tests/fixtures/gpt2, with the script that made it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use tilewright::optim::{AdamW, AdamWConfig, ParamGroup};
use tilewright::{Device, Tensor, no_grad};

use super::*;
use crate::checkpoint::{Checkpoint, Header, Values};
use crate::config::tests::config;
use crate::data::Batch;
use crate::model::Gpt;
use crate::tests::{alone, devices, scratch};
use crate::tokenizer::Tokenizer;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn fixture() -> PathBuf {
    fixtures().join("gpt2")
}

/// The model of the fixture.
pub fn gpt2(device: &Device) -> Gpt {
    let checkpoint = import::read(&fixture(), None).unwrap();
    Gpt::from_checkpoint(checkpoint, Path::new("fixture"), device).unwrap()
}

/// What transformers and PyTorch say about it.
struct Expected(Vec<u8>);

impl Expected {
    fn read() -> Expected {
        Expected(fs::read(fixture().join("expected.safetensors")).unwrap())
    }

    /// The four bytes of each element of a tensor.
    fn words(&self, name: &str) -> Vec<[u8; 4]> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).unwrap().data().as_chunks().0.to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_le_bytes).collect()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name).into_iter().map(u32::from_le_bytes).collect()
    }

    fn batch(&self, device: &Device) -> Batch {
        let tensor = |name| Tensor::from_vec(self.ids(name), (2, 24), device).unwrap();
        Batch { inputs: tensor("ids"), targets: tensor("targets") }
    }
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |largest, x| if x.abs() > largest || x.is_nan() { x.abs() } else { largest })
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    largest(a.iter().zip(b).map(|(a, b)| a - b))
}

#[test]
fn logits_are_those_of_transformers() {
    let expected = Expected::read();
    let (ids, logits) = (expected.ids("ids"), expected.floats("logits"));
    for device in devices() {
        let model = gpt2(device);
        for len in [1, 2, 7, 16, 23, 24] {
            let context: Vec<u32> = ids.chunks(24).flat_map(|row| row[..len].to_vec()).collect();
            let context = Tensor::from_vec(context, (2, len), device).unwrap();
            let found = no_grad(|| model.next_logits(&context)).unwrap().to_vec::<f32>().unwrap();
            let at = |row: usize| &logits[(row * 24 + len - 1) * 100..][..100];
            let error = largest_difference(&found, &[at(0), at(1)].concat());
            assert!(error < 1e-4, "{device}, {len} tokens: {error}");
        }
    }
}

#[test]
fn loss_and_gradients_are_those_of_pytorch() {
    let expected = Expected::read();
    for device in devices() {
        let model = gpt2(device);
        let loss = model.loss(&expected.batch(device)).unwrap();
        loss.backward().unwrap();
        let error = loss.to_scalar::<f32>().unwrap() - expected.floats("loss")[0];
        assert!(error.abs() < 1e-5, "{device}: the loss differs by {error}");
        for (name, var) in model.parameters() {
            let mut theirs = expected.floats(&format!("gradient.{name}"));
            if let (true, &[outputs, inputs]) = (is_conv1d(name), var.dims()) {
                theirs = transposed(&theirs, inputs, outputs);
            }
            let ours = var.grad().unwrap().to_vec::<f32>().unwrap();
            let error = largest_difference(&ours, &theirs) / largest(theirs.iter().copied());
            assert!(error < 1e-4, "{device}, {name}: {error} of the largest element");
        }
    }
}

#[test]
fn ten_steps_of_adamw_are_those_of_pytorch() {
    let expected = Expected::read();
    for device in devices() {
        let model = gpt2(device);
        let vars = model.parameters().iter().map(|(_, var)| var.clone());
        let (matrices, others) = vars.partition(|var| var.rank() >= 2);
        let groups = vec![
            ParamGroup { vars: matrices, weight_decay: 0.1 },
            ParamGroup { vars: others, weight_decay: 0.0 },
        ];
        let config = AdamWConfig { lr: 3e-3, beta1: 0.9, beta2: 0.95, ..Default::default() };
        let mut optimizer = AdamW::with_groups(groups, config).unwrap();
        for (step, theirs) in expected.floats("adamw").into_iter().enumerate() {
            let loss = model.loss(&expected.batch(device)).unwrap();
            optimizer.zero_grad();
            loss.backward().unwrap();
            optimizer.step_clipped(1.0).unwrap();
            let ours = loss.to_scalar::<f32>().unwrap();
            assert!((ours - theirs).abs() < 1e-4, "{device}, step {step}: {ours}, PyTorch {theirs}");
        }
    }
}

/// `new` more ids, each the likeliest.
fn greedy(model: &Gpt, prompt: &[u32], new: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..new {
        let context = Tensor::from_slice(&ids, (1, ids.len()), &Device::Cpu).unwrap();
        let next = no_grad(|| model.next_logits(&context)?.argmax(1)?.to_vec1::<u32>()).unwrap();
        ids.extend(next);
    }
    ids
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let theirs = Expected::read().ids("greedy");
    assert_eq!(greedy(&gpt2(&Device::Cpu), &theirs[..8], 16), theirs);
}

/// Tensors by the names in their file: dtypes, shapes and bytes.
type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// What the folder holds.
fn tensors(folder: &Path) -> Stored {
    let bytes = fs::read(folder.join(MODEL)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter();
    all.map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))).collect()
}

fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a String, &'a (Dtype, Vec<usize>, Vec<u8>))>,
) {
    let views = tensors
        .into_iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A copy of the fixture's config and tokenizer.
fn copy(folder: &Path) {
    for name in [CONFIG, "tokenizer.json", MODEL] {
        fs::copy(fixture().join(name), folder.join(name)).unwrap();
    }
}

#[test]
fn every_way_to_keep_a_gpt2_is_read() {
    let folder = scratch("hf-ways");
    let whole = import::read(&fixture(), None).unwrap();
    assert_eq!(whole.header.tokenizer.encode("ab").unwrap(), [67, 68]);
    let original = tensors(&fixture());
    let same = |what: &str| {
        let read = import::read(&folder, None).unwrap();
        assert_eq!(read.tensors, whole.tensors, "{what}");
    };
    // Without the prefix, as in the oldest files, with the masks that they have, and with the head.
    copy(&folder);
    let short = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let mut old: BTreeMap<_, _> =
        original.iter().map(|(name, tensor)| (short(name), tensor.clone())).collect();
    old.insert("h.0.attn.bias".into(), (Dtype::U8, vec![1, 1, 24, 24], vec![1; 576]));
    old.insert("h.1.attn.masked_bias".into(), (Dtype::F32, vec![], vec![0; 4]));
    old.insert(HEAD.into(), old["wte.weight"].clone());
    write_tensors(&folder.join(MODEL), &old);
    same("old names");
    // In several files.
    fs::remove_file(folder.join(MODEL)).unwrap();
    let part =
        |name: &str| format!("model-0000{}-of-00002.safetensors", 1 + usize::from(name.contains(".h.1.")));
    for file in ["a.h.0.", "a.h.1."].map(part) {
        write_tensors(&folder.join(&file), original.iter().filter(|(name, _)| part(name) == file));
    }
    let map: BTreeMap<&String, String> = original.keys().map(|name| (name, part(name))).collect();
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(folder.join(INDEX), index.to_string()).unwrap();
    same("shards");
    fs::remove_file(folder.join(INDEX)).unwrap();

    // In 16 bits.
    for dtype in [Dtype::F16, Dtype::BF16] {
        let round = |bytes: &[u8; 4]| match (dtype, f32::from_le_bytes(*bytes)) {
            (Dtype::F16, x) => f16::from_f32(x).to_le_bytes(),
            (_, x) => bf16::from_f32(x).to_le_bytes(),
        };
        let rounded: BTreeMap<_, _> = original
            .iter()
            .map(|(name, (_, shape, data))| {
                (name.clone(), (dtype, shape.clone(), data.as_chunks().0.iter().flat_map(round).collect()))
            })
            .collect();
        write_tensors(&folder.join(MODEL), &rounded);
        let read = import::read(&folder, None).unwrap();
        for (name, values) in &whole.tensors {
            let error = largest_difference(&values.data, &read.tensors[name].data);
            assert!(error > 0.0 && error < 0.01, "{dtype:?}, {name}: {error}");
        }
    }

    // With a vocabulary and merges instead of tokenizer.json, and with neither.
    copy(&folder);
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    fs::write(folder.join("vocab.json"), r#"{"h": 0, "i": 1, "hi": 2, "<|endoftext|>": 3}"#).unwrap();
    fs::write(folder.join("merges.txt"), "#version: 0.2\nh i\n").unwrap();
    let read = import::read(&folder, None).unwrap();
    assert_eq!(read.header.tokenizer.encode("hihh").unwrap(), [2, 0, 0]);
    assert_eq!(read.header.tokenizer.separator(), Some(3));
    fs::remove_file(folder.join("vocab.json")).unwrap();
    let error = import::read(&folder, None).err().unwrap().to_string();
    assert!(error.contains("has neither tokenizer.json nor vocab.json"), "{error}");
    let error = import::read(&folder, Some("bytes")).err().unwrap().to_string();
    assert!(error.ends_with("`vocab_size` is 100, less than the tokenizer's 257 ids"), "{error}");
}

#[test]
fn what_cannot_be_imported_is_named() {
    let folder = scratch("hf-bad");
    let with_config = |key: &str, value: serde_json::Value| {
        copy(&folder);
        let mut config: serde_json::Value =
            serde_json::from_slice(&fs::read(fixture().join(CONFIG)).unwrap()).unwrap();
        config[key] = value;
        fs::write(folder.join(CONFIG), config.to_string()).unwrap();
        import::read(&folder, None).err().unwrap().to_string()
    };
    for (key, value, words) in [
        ("activation_function", "relu".into(), "`activation_function` is \"relu\"; a GELU is supported"),
        ("model_type", "llama".into(), "`model_type` is \"llama\"; \"gpt2\" is supported"),
        ("n_inner", 64.into(), "`n_inner` is 64; 4 n_embd, 128, is supported"),
        ("layer_norm_epsilon", 1e-6.into(), "`layer_norm_epsilon` is 0.000001; 1e-5 is supported"),
        ("tie_word_embeddings", false.into(), "`tie_word_embeddings` is false; true is supported"),
        ("n_head", 5.into(), "`n_head` is 5, which does not divide n_embd, 32"),
        ("n_layer", "two".into(), "not the config of a GPT-2: "),
        ("n_layer", 3.into(), "tensor transformer.h.2.ln_1.weight is missing"),
        ("n_layer", 1.into(), "tensor transformer.h.1.attn.c_attn.bias has no place in a GPT-2"),
    ] {
        let error = with_config(key, value);
        assert!(error.contains(words), "{key}: {error}");
    }

    let with_tensors = |change: &dyn Fn(&mut Stored)| {
        copy(&folder);
        let mut changed = tensors(&fixture());
        change(&mut changed);
        write_tensors(&folder.join(MODEL), &changed);
        import::read(&folder, None).err().unwrap().to_string()
    };
    let name = "transformer.h.0.mlp.c_fc.weight";
    let error = with_tensors(&|tensors| drop(tensors.remove(name)));
    assert!(error.ends_with(&format!("tensor {name} is missing")), "{error}");
    let error = with_tensors(&|tensors| tensors.get_mut(name).unwrap().1.reverse());
    let expected = format!("{MODEL}: tensor {name} has shape [128, 32], expected [32, 128]");
    assert!(error.ends_with(&expected), "{error}");
    let error = with_tensors(&|tensors| tensors.get_mut(name).unwrap().0 = Dtype::U32);
    assert!(error.ends_with("is of type U32, expected F32, F16 or BF16"), "{error}");
    let error = with_tensors(&|tensors| {
        let mut head = tensors["transformer.wte.weight"].clone();
        head.2[0] ^= 1;
        tensors.insert(HEAD.into(), head);
    });
    assert!(error.contains("lm_head.weight is not the token embedding"), "{error}");

    copy(&folder);
    let bytes = fs::read(folder.join(MODEL)).unwrap();
    fs::write(folder.join(MODEL), &bytes[..bytes.len() - 1]).unwrap();
    let error = import::read(&folder, None).err().unwrap().to_string();
    assert!(error.contains("model.safetensors: not a readable safetensors file"), "{error}");
    fs::remove_file(folder.join(MODEL)).unwrap();
    let error = import::read(&folder, None).err().unwrap().to_string();
    assert!(error.ends_with("holds neither model.safetensors nor model.safetensors.index.json"), "{error}");
    fs::write(folder.join(INDEX), r#"{"weight_map": {"a": "../b.safetensors"}}"#).unwrap();
    let error = import::read(&folder, None).err().unwrap().to_string();
    assert!(error.contains("\"../b.safetensors\" is not the name of a file beside it"), "{error}");
    fs::remove_file(folder.join(CONFIG)).unwrap();
    assert!(import::read(&folder, None).err().unwrap().to_string().starts_with("cannot read "));
}

/// A model without biases, whose tokens are the characters of `text`.
fn characters(text: &str) -> Checkpoint {
    let flags = "--n-layer 2 --n-head 2 --n-embd 32 --block-size 32 --dropout 0.1 --seed 3";
    let config = config(&flags.split(' ').collect::<Vec<_>>());
    let tokenizer = Tokenizer::Characters(text.to_owned().into());
    let _alone = alone();
    Device::Cpu.set_seed(3);
    let model = Gpt::new(&config, tokenizer.len(), None, &Device::Cpu).unwrap();
    let header = Header { config, tokenizer, step: 5, val_loss: 1.0, base: None };
    Checkpoint { header, tensors: model.values().unwrap() }
}

#[test]
fn an_exported_model_comes_back() {
    let folder = scratch("hf-back");
    let original = import::read(&fixture(), None).unwrap();
    let out = folder.join("exported");
    export::write(import::read(&fixture(), None).unwrap(), Path::new("x"), &out).unwrap();
    let back = import::read(&out, None).unwrap();
    assert_eq!(back.header.config, original.header.config);
    assert_eq!(back.header.tokenizer, original.header.tokenizer);
    assert_eq!(back.tensors, original.tensors);
    assert_eq!(tensors(&out), tensors(&fixture()), "the same tensors under the same names");
    let error = export::write(characters("ab"), Path::new("x"), &out).err().unwrap().to_string();
    assert!(error.ends_with("exported holds a model; remove it or choose another --out"), "{error}");

    // GPT-2 has biases, and the tokenizer becomes a tokenizer.json: the model computes what it did.
    let own = characters("hello, world\n");
    let out = folder.join("own");
    let text = own.header.tokenizer.encode("low world").unwrap();
    export::write(characters("hello, world\n"), Path::new("x"), &out).unwrap();
    let back = import::read(&out, None).unwrap();
    assert_eq!(back.header.config.activation, Activation::Gelu);
    assert_eq!(back.header.config.dropout, 0.1);
    assert_eq!(back.header.tokenizer.encode("low world").unwrap(), text);
    let zeros = Values { shape: vec![96], data: vec![0.0; 96] };
    assert_eq!(back.tensors["transformer.h.1.attn.c_attn.bias"], zeros);
    let model = |checkpoint| Gpt::from_checkpoint(checkpoint, Path::new("x"), &Device::Cpu).unwrap();
    assert_eq!(greedy(&model(own), &text, 20), greedy(&model(back), &text, 20));
}

/// Fails where Python has no transformers with PyTorch, without the time that importing them takes.
const FIND: &str =
    "from importlib.util import find_spec as f; assert f('torch') and f('transformers') and f('tokenizers')";

/// Runs where Python has `transformers`: `TILEWRIGHT_PYTHON` names the interpreter, else it is `python3`.
#[test]
fn transformers_loads_what_is_exported_and_continues_it_alike() {
    let python = std::env::var("TILEWRIGHT_PYTHON").unwrap_or_else(|_| "python3".into());
    let present = Command::new(&python).args(["-c", FIND]).output();
    if !present.is_ok_and(|output| output.status.success()) {
        let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name.trim() == "transformers"), "transformers is required");
        // Straight to stderr: the harness captures what the print macros write.
        let _ = writeln!(std::io::stderr(), "NOT RUN with transformers: {python} has none");
        return;
    }
    let _ = writeln!(std::io::stderr(), "RUN with transformers of {python}");
    let folder = scratch("hf-transformers");
    let bytes = || {
        let mut checkpoint = characters("x");
        checkpoint.header.tokenizer = Tokenizer::Bytes;
        checkpoint.header.config.vocab_size = 0;
        let _alone = alone();
        let model = Gpt::new(&checkpoint.header.config, 257, None, &Device::Cpu).unwrap();
        Checkpoint { tensors: model.values().unwrap(), ..checkpoint }
    };
    let cases = [
        ("gpt2", import::read(&fixture(), None).unwrap(), "a cat"),
        ("characters", characters("hello, world\n"), "low world"),
        ("bytes", bytes(), "naïve 🦀"),
    ];
    let mut command = Command::new(&python);
    command.arg(fixtures().join("load_exported.py")).arg("12");
    let mut expected = Vec::new();
    for (name, checkpoint, text) in cases {
        let out = folder.join(name);
        command.arg(&out).arg(text);
        let Checkpoint { header, tensors } = checkpoint;
        let copy = Checkpoint { header: header.clone(), tensors: tensors.clone() };
        export::write(copy, Path::new("x"), &out).unwrap();
        let tokenizer = header.tokenizer.clone();
        let prompt = tokenizer.encode(text).unwrap();
        let model =
            Gpt::from_checkpoint(Checkpoint { header, tensors }, Path::new("x"), &Device::Cpu).unwrap();
        let greedy = greedy(&model, &prompt, 12);
        let text = tokenizer.decode(&greedy);
        expected.push(json!({ "problems": {}, "prompt": prompt, "greedy": greedy, "text": text }));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(theirs, serde_json::Value::from(expected));
}
