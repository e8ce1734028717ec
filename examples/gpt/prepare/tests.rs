//! The whole command: its bytes, its resumption, its errors.

use std::process::{Child, Command, Stdio};

use clap::Parser;

use super::*;
use crate::shards::Tokens;
use crate::shards::tests::by_hand;
use crate::tests::{Scratch, scratch};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: PrepareArgs,
}

pub fn args(input: &Path, out: &Path, more: &str) -> PrepareArgs {
    let paths = [input.as_os_str(), "--out".as_ref(), out.as_os_str()];
    let more = more.split_whitespace().map(AsRef::as_ref);
    Cli::parse_from(["prepare".as_ref()].into_iter().chain(paths).chain(more)).args
}

fn prepare(input: &Path, out: &Path, more: &str) -> Result<String, AppError> {
    let mut table = Vec::new();
    run(&args(input, out, more), &mut table)?;
    Ok(String::from_utf8(table).unwrap())
}

/// A folder with `input.jsonl`: documents of which some are duplicates and some are too short.
fn corpus(name: &str, documents: usize) -> Scratch {
    let root = scratch(name);
    let document = |i: usize| match i % 7 {
        3 => "short".to_owned(),
        5 => format!("document {} with its words, mail {}@example.org", i / 14, i / 14),
        _ => format!("document {i} with words {} of its own {}, mail {i}@example.org", i * i, i * 31),
    };
    let lines = (0..documents).map(|i| serde_json::json!({ "text": document(i) }).to_string() + "\n");
    fs::write(root.join("input.jsonl"), lines.collect::<String>()).unwrap();
    root
}

const SMALL: &str = "--tokenizer bytes --shard-tokens 700 --val-fraction 0.2 --min-chars 10 --mask --duplicates \
                     --near-duplicates --memory-mb 1";

/// The files of a folder with their contents.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn gpt2_shards_are_what_llm_c_would_write() {
    let root = scratch("prepare-gpt2");
    fs::write(root.join("a.txt"), "Hello world<|split|>Hello<|split|>Hello world<|split|>Hello").unwrap();
    let more = "--split-on <|split|> --val-fraction 0.5";
    let table = prepare(&root.join("a.txt"), &root.join("out"), more).unwrap();
    let files = contents(&root.join("out"));
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        [REPORT, "tokenizer.json", "train_000000.bin", "val_000000.bin"]
    );
    assert_eq!(files["train_000000.bin"], by_hand(&[50256, 15496, 995, 50256, 15496]));
    assert_eq!(files["val_000000.bin"], by_hand(&[50256, 15496, 50256, 15496, 995]));
    let report: Report = serde_json::from_slice(&files[REPORT]).unwrap();
    assert_eq!((report.read.documents, report.train.tokens, report.val.shards), (4, 5, 1));
    assert!(table.contains("train: 5 tokens of 2 documents, 0.0 MB, in 1 shard\n"), "{table}");
}

#[test]
fn the_report_counts_every_document_once() {
    let root = corpus("prepare-report", 140);
    prepare(&root.join("input.jsonl"), &root.join("out"), SMALL).unwrap();
    let report: Report = serde_json::from_slice(&contents(&root.join("out"))[REPORT]).unwrap();
    let dropped = |stage: usize| report.stages[stage].dropped.values().sum::<u64>();
    assert_eq!(report.read.documents, 140);
    assert_eq!(report.stages[TEXT].dropped, BTreeMap::from([("too short".into(), 20)]));
    // i / 14 is the same for two documents that leave a remainder of 5.
    assert_eq!(report.stages[DUPLICATES].dropped, BTreeMap::from([("word for word".into(), 10)]));
    assert_eq!(report.stages[DUPLICATES].kept, 140 - 20 - 10);
    let kept = report.train.documents + report.val.documents;
    assert_eq!(kept, 140 - 20 - 10 - dropped(NEAR_DUPLICATES));
    assert_eq!(report.masked, BTreeMap::from([("e-mail addresses".into(), 120)]));
    let share = report.val.bytes as f64 / (report.train.bytes + report.val.bytes) as f64;
    assert!((share - 0.2).abs() < 0.02, "{share}");
}

/// Interrupted after any number of batches, wherever that is in a shard.
#[test]
fn a_resumed_run_writes_the_same_bytes() {
    let root = corpus("prepare-resume", 140);
    let (input, whole) = (root.join("input.jsonl"), root.join("whole"));
    prepare(&input, &whole, SMALL).unwrap();
    let expected = contents(&whole);
    assert!(expected.len() > 10, "{:?}", expected.keys());
    let batch = 800;
    let (mut resumed, mut interruptions) = (true, 0);
    while resumed {
        resumed = false;
        let out = root.join(format!("cut-{interruptions}"));
        let mut job = Job::start(&args(&input, &out, SMALL), batch).unwrap();
        for _ in 0..interruptions {
            resumed = job.step().unwrap();
        }
        drop(job);
        // And once more, soon after.
        let mut job = Job::start(&args(&input, &out, &format!("{SMALL} --resume")), batch).unwrap();
        job.step().unwrap();
        drop(job);
        prepare(&input, &out, &format!("{SMALL} --resume")).unwrap();
        assert!(contents(&out) == expected, "cut after {interruptions} batches: {:?}", contents(&out).keys());
        interruptions += 1;
        resumed |= interruptions == 1;
    }
    assert!(interruptions > 10, "{interruptions}");
}

/// One of the two tests below in a process of its own, which are no tests when they are run otherwise.
fn child(test: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("prepare::tests::{test}"), "--ignored"])
        .env(ROOT, root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

const ROOT: &str = "TILEWRIGHT_GPT_PREPARE_ROOT";

#[test]
#[ignore = "run by a_killed_run_resumes"]
fn to_be_killed() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    prepare(&root.join("input.jsonl"), &root.join("killed"), KILLED).unwrap();
}

const KILLED: &str = "--tokenizer bytes --shard-tokens 20000 --val-fraction 0.1 --duplicates --memory-mb 1";

#[test]
fn a_killed_run_resumes() {
    let root = corpus("prepare-kill", 100_000);
    let (input, whole, killed) = (root.join("input.jsonl"), root.join("whole"), root.join("killed"));
    prepare(&input, &whole, KILLED).unwrap();
    let mut child = child("to_be_killed", &root);
    while !killed.join("train_000030.bin").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(killed.join(STATE).exists() && !killed.join(REPORT).exists());
    prepare(&input, &killed, &format!("{KILLED} --resume")).unwrap();
    assert!(contents(&killed) == contents(&whole));
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "run by a_long_input_takes_little_memory"]
fn to_be_measured() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    prepare(&root.join("input.txt"), &root.join("out"), MEASURED).unwrap();
    fs::copy("/proc/self/status", root.join("status")).unwrap();
}

const MEASURED: &str = "--tokenizer bytes --mask --duplicates --near-duplicates --memory-mb 4";

/// The most that a run had in memory is less than its input, and would be the same for any more.
#[cfg(target_os = "linux")]
#[test]
fn a_long_input_takes_little_memory() {
    let root = scratch("prepare-memory");
    let lines = (0..1u64 << 20)
        .map(|i| format!("line {i} of the text that nobody will have to read and be {}\n", i * i));
    let mut file = std::io::BufWriter::new(fs::File::create(root.join("input.txt")).unwrap());
    lines.into_iter().for_each(|line| file.write_all(line.as_bytes()).unwrap());
    drop(file);
    assert!(child("to_be_measured", &root).wait().unwrap().success());
    let status = fs::read_to_string(root.join("status")).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    let peak: u64 = 1024 * peak.parse::<u64>().unwrap();
    let input = fs::metadata(root.join("input.txt")).unwrap().len();
    println!("{input} bytes of input, {peak} of memory");
    assert!(peak < input / 4 * 3, "{input} bytes of input took {peak} of memory");
}

#[test]
fn runs_of_one_and_of_many_threads_write_the_same_bytes() {
    let root = corpus("prepare-threads", 140);
    let input = root.join("input.jsonl");
    prepare(&input, &root.join("many"), SMALL).unwrap();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    one.install(|| prepare(&input, &root.join("one"), SMALL)).unwrap();
    assert!(contents(&root.join("one")) == contents(&root.join("many")));
}

#[test]
fn characters_come_from_all_of_the_input() {
    let root = scratch("prepare-characters");
    fs::write(root.join("a.txt"), "ab\n\nb@c.de\n\nçé").unwrap();
    let out = root.join("out");
    prepare(&root.join("a.txt"), &out, "--tokenizer characters --split-on \\n\\n --mask --val-fraction 0")
        .unwrap();
    let tokenizer = Tokenizer::load(&out.join("tokenizer.json")).unwrap();
    let tokens = Tokens::open(&[out.join("train_000000.bin")]).unwrap();
    assert_eq!(tokenizer.decode(&tokens.read(0, tokens.len())), "\nab\n<EMAIL>\nçé");
}

#[test]
fn output_that_is_there_is_neither_lost_nor_mixed() {
    let root = corpus("prepare-exists", 70);
    let (input, out) = (root.join("input.jsonl"), root.join("out"));
    let error = |more: &str| prepare(&input, &out, &format!("{SMALL} {more}")).unwrap_err().to_string();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine.txt"), "mine").unwrap();
    assert!(error("").ends_with("out holds files; --overwrite replaces those of an earlier run"));
    assert!(error("--resume").ends_with("out: holds no interrupted run to go on with"));
    prepare(&input, &out, &format!("{SMALL} --overwrite")).unwrap();
    let before = contents(&out);
    assert_eq!(before["mine.txt"], b"mine");
    prepare(&input, &out, &format!("{SMALL} --overwrite --shard-tokens 100000")).unwrap();
    assert!(!contents(&out).contains_key("train_000001.bin"));

    let mut job = Job::start(&args(&input, &out, &format!("{SMALL} --overwrite")), 500).unwrap();
    job.step().unwrap();
    drop(job);
    assert!(
        error("")
            .ends_with("out holds an interrupted run; --resume goes on with it, --overwrite begins again")
    );
    assert!(error("--resume --bands 3").contains("state.json: the interrupted run had other options; "));
    fs::write(&input, "{\"text\": \"another\"}\n").unwrap();
    assert!(error("--resume").contains("state.json: the interrupted run had other input files; "));
    fs::write(out.join(STATE), "{}").unwrap();
    assert!(error("--resume").contains("state.json: not the state of a run"));
}

#[test]
fn what_makes_no_shards_is_an_error_that_says_why() {
    let root = scratch("prepare-errors");
    let input = root.join("a.txt");
    let error = |text: &str, more: &str| {
        fs::write(&input, text).unwrap();
        prepare(&input, &root.join("out"), &format!("--overwrite {more}")).unwrap_err().to_string()
    };
    assert!(error("", "").ends_with("out: no text for training: the table shows where it was dropped"));
    assert!(error("text", "--min-chars 9").contains("no text for training"));
    assert!(
        error("text", "--val-fraction 1")
            .starts_with("--val-fraction: must be at least 0 and below 1, not 1")
    );
    assert!(
        error("text", "--tokenizer gpt3")
            .starts_with("--tokenizer: gpt3 is neither the name of a tokenizer nor a file")
    );
    assert!(error("text", "--tokenizer gpt3.json").starts_with("cannot read gpt3.json: "));
    let many: String = (0x20000..0x30100).filter_map(char::from_u32).collect();
    let message = error(&many, "--tokenizer characters --unicode none");
    assert_eq!(message, "characters: has 65793 ids; a shard's uint16 has room for 65536");
}

/// A disk that is really full, where there is one at hand.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_a_run_which_then_resumes() {
    let root = corpus("prepare-full", 140);
    let (input, out) = (root.join("input.jsonl"), root.join("out"));
    let mut job = Job::start(&args(&input, &out, SMALL), 500).unwrap();
    let part = out.join("train_000001.bin.part");
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = loop {
        match job.step() {
            Ok(more) => assert!(more),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.starts_with(&format!("cannot write {}: No space left", part.display())), "{error}");
    drop(job);
    fs::remove_file(&part).unwrap();
    prepare(&input, &out, &format!("{SMALL} --resume")).unwrap();
    prepare(&input, &root.join("whole"), SMALL).unwrap();
    assert!(contents(&out) == contents(&root.join("whole")));
}
