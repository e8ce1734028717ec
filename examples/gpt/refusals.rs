//! What every command says of files that are not what they should be, and of disks without room.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use clap::Parser;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tilewright::Device;

use crate::Cli;
use crate::checkpoint::{Checkpoint, Header};
use crate::config::tests::config;
use crate::hugging_face::tests::{fixture, gpt2};
use crate::shards::tests::by_hand;
use crate::tests::{Scratch, alone, program, scratch};
use crate::tokenizer::Tokenizer;

/// A command line of which the words in capitals are files of a folder.
fn words(folder: &Path, line: &str) -> Vec<String> {
    let is_file = |word: &str| !word.contains(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let word = |word: &str| match is_file(word) {
        true => folder.join(word.to_lowercase()).display().to_string(),
        false => word.to_owned(),
    };
    std::iter::once("gpt".into()).chain(line.split_whitespace().map(word)).collect()
}

fn refusal(folder: &Path, line: &str) -> String {
    let cli = Cli::try_parse_from(words(folder, line)).unwrap();
    let _alone = alone();
    let ended = crate::run(&cli, &mut std::io::sink());
    ended.err().unwrap_or_else(|| panic!("{line}: no error")).to_string()
}

/// What is in a file's place.
#[derive(Clone)]
enum Found {
    Nothing,
    Folder,
    Bytes(Vec<u8>),
}

use Found::{Folder, Nothing};

fn bytes(bytes: impl AsRef<[u8]>) -> Found {
    Found::Bytes(bytes.as_ref().into())
}

impl Found {
    fn put(&self, path: &Path) {
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir_all(path);
        match self {
            Nothing => {}
            Folder => fs::create_dir(path).unwrap(),
            Found::Bytes(bytes) => fs::write(path, bytes).unwrap(),
        }
    }
}

/// Each of the commands names `file` and says the words for whatever is found in its place.
fn all_refuse(folder: &Path, commands: &[&str], file: &str, faults: &[(Found, &str)]) {
    let path = folder.join(file);
    let good = fs::read(&path).map_or(Nothing, bytes);
    for (found, message) in faults {
        found.put(&path);
        for command in commands {
            let error = refusal(folder, command);
            let message = message.replace("FILE", &path.display().to_string());
            assert!(error.starts_with(&message), "{command}: {error}; not {message}");
        }
    }
    good.put(&path);
}

/// What the system says of a file that it cannot read.
fn unreadable() -> [(Found, &'static str); 2] {
    [(Nothing, "cannot read FILE: "), (Folder, "cannot read FILE: ")]
}

/// A folder with `model`, a checkpoint of the fixture; `text`; `tokens`, a folder with a shard and its tokenizer; and `hf`, a copy
/// of the fixture's folder.
fn folder(name: &str) -> Scratch {
    let folder = scratch(name);
    let sizes =
        "--n-layer 2 --n-head 4 --n-embd 32 --block-size 24 --vocab-size 100 --bias --activation gelu_tanh";
    let config = config(&sizes.split(' ').collect::<Vec<_>>());
    let tokenizer = Tokenizer::load(&fixture().join("tokenizer.json")).unwrap();
    let header = Header { config, tokenizer, step: 0, val_loss: f32::NAN, base: None };
    let model = Checkpoint { header, tensors: gpt2(&Device::Cpu).values().unwrap() };
    model.save(&folder.join("model")).unwrap();
    fs::write(folder.join("text"), "The quick brown fox jumps over the lazy dog.\n".repeat(9)).unwrap();
    for name in ["tokens", "hf"] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::copy(fixture().join("tokenizer.json"), folder.join(name).join("tokenizer.json")).unwrap();
    }
    fs::write(folder.join("tokens/a.bin"), by_hand(&[7; 400])).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture().join(name), folder.join("hf").join(name)).unwrap();
    }
    folder
}

/// A safetensors file with its tensors and texts changed.
fn changed(
    file: &[u8],
    change: impl FnOnce(&mut Vec<(String, TensorView<'_>)>, &mut HashMap<String, String>),
) -> Vec<u8> {
    let mut texts = SafeTensors::read_metadata(file).unwrap().1.metadata().clone().unwrap_or_default();
    let file = SafeTensors::deserialize(file).unwrap();
    let mut tensors = file.tensors();
    change(&mut tensors, &mut texts);
    safetensors::serialize(tensors, Some(texts)).unwrap()
}

/// A safetensors file without the tensor whose name ends so, and with one of another shape and of another type in its place.
fn without(file: &[u8], tensor: &str) -> [Found; 3] {
    let in_place = |other: fn(&TensorView<'_>) -> TensorView<'static>| {
        bytes(changed(file, |tensors, _| {
            let (_, view) = tensors.iter_mut().find(|(name, _)| name.ends_with(tensor)).unwrap();
            *view = other(view);
        }))
    };
    const ZEROS: [u8; 8 * 32] = [0; 8 * 32];
    let missing = bytes(changed(file, |tensors, _| tensors.retain(|(name, _)| !name.ends_with(tensor))));
    let shape = in_place(|_| TensorView::new(Dtype::F32, vec![8, 4], &ZEROS[..4 * 32]).unwrap());
    let dtype = in_place(|view| {
        let size = 8 * view.shape().iter().product::<usize>();
        TensorView::new(Dtype::F64, view.shape().to_vec(), &ZEROS[..size]).unwrap()
    });
    [missing, shape, dtype]
}

/// Files that are not of safetensors' format.
fn damaged(file: &[u8]) -> Vec<(Found, &'static str)> {
    let all =
        [&[], &file[..6], &file[..100], &file[..file.len() / 2], b"GIF89a, or something else altogether"];
    all.map(|contents: &[u8]| (bytes(contents), "FILE: not a readable safetensors file: ")).into()
}

#[test]
fn of_checkpoints() {
    let folder = folder("refusals-checkpoint");
    let good = fs::read(folder.join("model")).unwrap();
    let header = |from: &str, to: &str| {
        bytes(changed(&good, |_, texts| {
            let header = texts.values_mut().next().unwrap();
            assert!(header.contains(from), "{header}");
            *header = header.replace(from, to);
        }))
    };
    let [missing, shape, dtype] = without(&good, "ln_f.weight");
    let mut faults = damaged(&good);
    faults.extend(unreadable());
    faults.extend([
        (dtype, "FILE: tensor transformer.ln_f.weight is of type F64, expected F32"),
        (bytes(changed(&good, |_, texts| texts.clear())), "FILE: not a checkpoint of this program: "),
        (
            header("\"n_head\":4", "\"n_head\":5"),
            "FILE: its config key `n_head` is 5, which does not divide ",
        ),
        (
            header("\"n_head\"", "\"heads\""),
            "FILE: its header does not fit this program: unknown field `heads`",
        ),
        (header("\"model\"", "\"modal\""), "FILE: its header does not fit this program: "),
    ]);
    let of_models = [
        (missing, "FILE: tensor transformer.ln_f.weight is missing"),
        (shape, "FILE: tensor transformer.ln_f.weight has shape [8, 4], expected [32]"),
    ];
    let commands = [
        "generate --device cpu --max-new-tokens 1 --checkpoint BAD",
        "eval --device cpu --data TEXT --checkpoint BAD",
        "export --checkpoint BAD --out EXPORTED",
        "train --device cpu --init-from BAD --data TEXT --block-size 8 --out RUN",
    ];
    all_refuse(&folder, &commands, "bad", &of_models);
    all_refuse(&folder, &[&commands[..], &["info --checkpoint BAD"]].concat(), "bad", &faults);
    assert!(!folder.join("exported").exists());
}

#[test]
fn of_text() {
    let folder = folder("refusals-text");
    let train = "train --device cpu --block-size 8 --data BAD --out RUN";
    let eval = "eval --device cpu --checkpoint MODEL --data BAD";
    let prepare = "prepare BAD --tokenizer bytes --out SHARDS --overwrite";
    let learn = "tokenizer train BAD --out TOKENIZER";
    all_refuse(&folder, &[train, eval, prepare, learn], "bad", &unreadable()[..1]);
    let faults = [
        (Folder, "FILE: holds no text"),
        (bytes(""), "FILE: holds no text"),
        (bytes(b"a\nb\xff"), "FILE: not UTF-8 text: an invalid byte in line 2, at offset 3"),
    ];
    all_refuse(&folder, &[train, eval], "bad", &faults);
    all_refuse(
        &folder,
        &[train],
        "bad",
        &[(bytes("short"), "FILE: too short: its training split has 4 characters")],
    );
    let lines = [(bytes(b"a\nb\xff"), "FILE, line 2: not UTF-8 text; --lossy reads such bytes as U+FFFD")];
    all_refuse(&folder, &[prepare, learn], "bad", &lines);
    for (name, contents, message) in [
        ("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": ", "FILE, line 2: not JSON: "),
        ("bad.jsonl", "{\"body\": \"a\"}", "FILE, line 1: without the field \"text\"; --text-field names "),
        ("bad.jsonl", "{\"text\": 1}", "FILE, line 1: its field \"text\" is not a string"),
        ("bad.gz", "not packed at all", "cannot read FILE: "),
        ("bad.zst", "not packed at all", "cannot read FILE: "),
    ] {
        let commands = [prepare, learn].map(|line| line.replace("BAD", &name.to_uppercase()));
        all_refuse(&folder, &commands.each_ref().map(String::as_str), name, &[(bytes(contents), message)]);
    }
    let answers = train.replace("BAD", "BAD.JSONL");
    let faults = [
        (bytes("{\"prompt\": \"a\"}"), "FILE, line 1: not an example: it needs `prompt` and `response`, or "),
        (bytes(""), "FILE: holds 0 examples; at least 2 are needed"),
        (Folder, "cannot read FILE: "),
    ];
    all_refuse(&folder, &[&answers], "bad.jsonl", &faults);
    let list = "prepare TEXT --tokenizer bytes --out SHARDS --overwrite --blocklist BAD";
    all_refuse(&folder, &[list], "bad", &unreadable());
    all_refuse(&folder, &[list], "bad", &[(bytes("# none\n"), "FILE: holds no entry: ")]);
    let prompts = "generate --device cpu --checkpoint MODEL --prompts BAD";
    all_refuse(&folder, &[prompts], "bad", &unreadable());
    all_refuse(&folder, &[prompts], "bad", &[(bytes(""), "FILE: holds no prompt")]);
    let choices = "eval --device cpu --checkpoint MODEL --choices BAD";
    all_refuse(&folder, &[choices], "bad", &unreadable());
    all_refuse(
        &folder,
        &[choices],
        "bad",
        &[(bytes("{}"), "FILE, line 1: not a question: missing field `ctx`")],
    );
    assert!(!folder.join("tokenizer").exists() && !folder.join("run/checkpoint.safetensors").exists());
}

#[test]
fn of_shards_and_tokenizers() {
    let folder = folder("refusals-shards");
    let good = fs::read(folder.join("tokens/a.bin")).unwrap();
    let field = |at: usize, value: i32| {
        let mut changed = good.clone();
        changed[4 * at..][..4].copy_from_slice(&value.to_le_bytes());
        bytes(changed)
    };
    let commands = [
        "train --device cpu --block-size 8 --data TOKENS --out RUN",
        "eval --device cpu --checkpoint MODEL --data TOKENS",
    ];
    let faults = [
        (bytes(""), "FILE: not a token shard: 0 bytes are less than its header's 1024"),
        (field(0, 7), "FILE: not a token shard: its magic number is 7, not 20240520"),
        (field(1, 2), "FILE: a token shard of version 2; version 1 is understood"),
        (
            bytes(&good[..good.len() - 1]),
            "FILE: damaged: its header promises 400 tokens and 799 bytes follow, ",
        ),
        (field(2, -1), "FILE: damaged: its header promises -1 tokens and 800 bytes follow, "),
    ];
    all_refuse(&folder, &commands, "tokens/a.bin", &faults);
    let pattern = ["train --device cpu --data TOKENS/*.BIN --out RUN"];
    all_refuse(&folder, &pattern, "tokens/a.bin", &[(Folder, "cannot read FILE: is a directory")]);

    // A token beyond those that the tokenizer has.
    let tokens = folder.join("tokens").display().to_string();
    let unknown = format!(
        "{tokens}: holds a token that the model does not have: embedding: index 7000 is out of range"
    );
    all_refuse(&folder, &commands, "tokens/a.bin", &[(bytes(by_hand(&[7000; 400])), &unknown)]);

    let damaged = ["", "{", "{\"model\": {\"type\": \"Pigeon\"}}", "\"pigeons\"", "[1]"];
    let damaged = damaged.map(|text| (bytes(text), "FILE: not a tokenizer: "));
    all_refuse(&folder, &commands, "tokens/tokenizer.json", &damaged);
    let named =
        ["prepare TEXT --out SHARDS --tokenizer BAD.JSON", "import HF --out IMPORTED --tokenizer BAD.JSON"];
    all_refuse(&folder, &named, "bad.json", &damaged);
    all_refuse(&folder, &named, "bad.json", &unreadable());
    assert!(!folder.join("shards").exists() && !folder.join("imported").exists());
}

#[test]
fn of_models_to_import() {
    let folder = folder("refusals-import");
    let import = ["import HF --out IMPORTED"];
    let good = fs::read(folder.join("hf/model.safetensors")).unwrap();
    let [missing, shape, dtype] = without(&good, "ln_f.weight");
    let hf = folder.join("hf").display().to_string();
    let is_missing = format!("{hf}: tensor transformer.ln_f.weight is missing");
    let holds_neither = format!("{hf}: holds neither model.safetensors nor ");
    let mut faults = damaged(&good);
    faults.extend([
        (missing, is_missing.as_str()),
        (shape, "FILE: tensor transformer.ln_f.weight has shape [8, 4], expected [32]"),
        (dtype, "FILE: tensor transformer.ln_f.weight is of type F64, expected F32, F16 or BF16"),
        (Folder, "cannot read FILE: is a directory"),
        (Nothing, holds_neither.as_str()),
    ]);
    all_refuse(&folder, &import, "hf/model.safetensors", &faults);
    let config = fs::read_to_string(folder.join("hf/config.json")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(config.contains(from), "{config}");
        bytes(config.replace(from, to))
    };
    let mut faults = vec![
        (bytes(""), "FILE: not the config of a GPT-2: EOF while parsing "),
        (bytes("{}"), "FILE: `model_type` is \"\"; \"gpt2\" is supported"),
        (
            with("\"n_layer\": 2", "\"n_layer\": \"two\""),
            "FILE: not the config of a GPT-2: invalid type: string",
        ),
        (with("\"n_head\": 4", "\"n_head\": 5"), "FILE: `n_head` is 5, which does not divide n_embd, 32"),
        (with("\"n_layer\": 2", "\"n_layer\": 3"), &hf),
    ];
    faults.extend(unreadable());
    all_refuse(&folder, &import, "hf/config.json", &faults);
    all_refuse(&folder, &import, "hf/tokenizer.json", &[(bytes("{"), "FILE: not a tokenizer: EOF")]);
    all_refuse(&folder, &["import BAD/ --out IMPORTED"], "bad", &[(bytes(""), "FILE")]);
    assert!(!folder.join("imported").exists());
}

#[test]
fn of_configs_and_saves() {
    let folder = folder("refusals-saves");
    let tiny = "--device cpu --n-layer 1 --n-head 2 --n-embd 16 --block-size 8 --batch-size 2 --max-iters 2 --eval-iters 1 \
                --sample-tokens 0 --data TEXT --out RUN";
    let config = ["train --config BAD.TOML --data TEXT --out OTHER"];
    all_refuse(&folder, &config, "bad.toml", &unreadable());
    let faults = [
        (bytes("n_layer = "), "FILE: not a valid TOML file\n"),
        (bytes("n_layer = 1.5"), "FILE, line 1: config key `n_layer` cannot be 1.5: "),
        (bytes("layers = 1"), "FILE, line 1: unknown config key `layers`; did you mean "),
    ];
    all_refuse(&folder, &config, "bad.toml", &faults);

    let cli = Cli::try_parse_from(words(&folder, &format!("train {tiny}"))).unwrap();
    {
        let _alone = alone();
        crate::run(&cli, &mut std::io::sink()).unwrap();
    }
    let resume = ["train --device cpu --out RUN --resume --max-iters 3"];
    let save = "run/checkpoints/step-00000002";
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let file = format!("{save}/{name}");
        let good = fs::read(folder.join(&file)).unwrap();
        let norm = if name.starts_with('m') { "transformer" } else { "first.transformer" };
        let norm = format!("{norm}.ln_f.weight");
        let [missing, shape, dtype] = without(&good, &norm);
        let mut faults = damaged(&good);
        faults.extend(unreadable());
        let words = |what: &str| format!("FILE: tensor {norm} {what}");
        let [is_missing, has_shape, has_type] =
            ["is missing", "has shape [8, 4], expected [16]", "is of type F64, expected F32"].map(words);
        faults.extend([(missing, &*is_missing), (shape, &*has_shape), (dtype, &*has_type)]);
        all_refuse(&folder, &resume, &file, &faults);
    }
    let mut faults = vec![(bytes("{"), "FILE: does not fit this program: EOF")];
    faults.extend(unreadable());
    all_refuse(&folder, &resume, &format!("{save}/state.json"), &faults);
    let faults = [
        (bytes(""), "FILE: shorter than the "),
        (bytes("{}\n".repeat(999)), "FILE, line 1: missing field `step`"),
    ];
    all_refuse(&folder, &resume, "run/log.jsonl", &faults);
    // What is refused costs nothing of what was there.
    let cli = Cli::try_parse_from(words(&folder, resume[0])).unwrap();
    let _alone = alone();
    crate::run(&cli, &mut std::io::sink()).unwrap();
}

#[test]
fn of_places_that_cannot_be_written() {
    let folder = folder("refusals-places");
    let commands = [
        "train --device cpu --block-size 8 --data TEXT --out BAD",
        "tokenizer train TEXT --out BAD/X",
        "import HF --out BAD/X",
        "export --checkpoint MODEL --out BAD",
    ];
    all_refuse(&folder, &commands, "bad", &[(bytes("mine"), "cannot create FILE: ")]);
    let prepare = ["prepare TEXT --tokenizer bytes --out BAD"];
    all_refuse(&folder, &prepare, "bad", &[(bytes("mine"), "cannot read FILE: ")]);
    let there = ["tokenizer train TEXT --out BAD", "import HF --out BAD"];
    all_refuse(&folder, &there, "bad", &[(bytes("mine"), "FILE holds a "), (Folder, "FILE holds a ")]);
}

/// Files may be so long that what comes before the one that is named fits, and it does not.
#[cfg(unix)]
#[test]
fn of_full_disks() {
    let folder = folder("refusals-full");
    fs::write(
        folder.join("text"),
        (0..9999).map(|i: u64| format!("{} words\n", i * i * i)).collect::<String>(),
    )
    .unwrap();
    let tiny = "train --device cpu --n-layer 1 --n-head 2 --n-embd 16 --block-size 8 --batch-size 2 --max-iters 2 \
                --eval-iters 1 --sample-tokens 0 --data TEXT --out RUN";
    let commands = [
        (tiny, "run/checkpoint.safetensors", 8),
        (tiny, "run/report.html", 40),
        ("prepare TEXT --tokenizer bytes --out SHARDS", "shards/train_000000.bin.part", 64),
        ("tokenizer train TEXT --vocab-size 1000 --out TOKENIZER", "tokenizer", 16),
        ("import HF --out IMPORTED/CHECKPOINT", "imported/checkpoint", 64),
        ("export --checkpoint MODEL --out EXPORTED", "exported/model.safetensors", 64),
    ];
    for (line, file, kilobytes) in commands {
        let line = if file.ends_with("html") { format!("{line} --overwrite") } else { line.into() };
        let line = words(&folder, &line);
        let output = program(&line, Some(kilobytes << 10)).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line:?}: {error}");
        let message = format!("error: cannot write {}: File too large", folder.join(file).display());
        assert!(error.contains(&message), "{line:?}: {error}");
        let written = folder.join(file);
        assert_eq!(written.exists(), file.ends_with(".bin.part"), "what goes on with --resume alone stays");
        let left = fs::read_dir(written.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains(".part")).collect();
        assert_eq!(left.len(), usize::from(written.exists()), "{left:?}");
    }
}

/// A standard output that has no room.
#[cfg(target_os = "linux")]
#[test]
fn of_a_full_standard_output() {
    let folder = folder("refusals-output");
    for line in [
        "generate --device cpu --checkpoint MODEL --max-new-tokens 1",
        "eval --device cpu --checkpoint MODEL --data TEXT",
        "info --checkpoint MODEL",
        "prepare TEXT --tokenizer bytes --out SHARDS",
    ] {
        let cli = Cli::try_parse_from(words(&folder, line)).unwrap();
        let mut full = fs::File::options().write(true).open("/dev/full").unwrap();
        let error = crate::run(&cli, &mut full).unwrap_err().to_string();
        assert!(error.starts_with("cannot write standard output: No space left"), "{line}: {error}");
    }
}
