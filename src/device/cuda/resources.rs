//! What every kernel becomes on the architectures that there are: registers, spills, shared memory, resident blocks
//! and instructions, held against kernels/resources.txt. It takes the compiler, and no GPU.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::process::Command;

use rayon::prelude::*;

use super::compile::{Nvrtc, Target, key, source};
use super::driver::Image;
use super::sim::Architecture;
use super::{Grid, Kernel};
use crate::device::cache;
use crate::device::table::hold;
use crate::ops;

/// Those whose machine code is read: the two of the fast paths. Spills and stack are ptxas's to tell of all.
const DISASSEMBLED: [Architecture; 2] = [Architecture::Sm80, Architecture::Sm90];

/// The compiler and disassembler whose choices the table holds.
const NVRTC: (i32, i32) = (13, 0);

const TABLE: &str = "kernels/resources.txt";

const HEADER: &str = "\
# What each specialisation becomes on sm_75 sm_80 sm_86 sm_89 sm_90 sm_120: registers a thread / resident blocks a multiprocessor,
# or a dash where it is never launched; then static and dynamic shared memory a block, in bytes. NVRTC 13.0. None spills.
# `TILEWRIGHT_WRITE_RESOURCES=1 cargo test --features cuda-sim resources` writes this file anew.
";

/// A kernel as it is launched on a device, with what its machine code must contain.
pub(crate) struct Launched {
    pub kernel: Kernel,
    pub grid: Grid,
    /// Its products are the tensor cores' work.
    pub tensor_cores: bool,
    /// It loads 16 bytes at once.
    pub wide: bool,
    /// It may use local memory.
    pub local: bool,
}

impl Launched {
    /// One that leaves the tensor cores alone, of so many threads a block; `wide` if it loads 16 bytes at once.
    pub fn plain(kernel: Kernel, threads: u32, wide: bool) -> Launched {
        let grid = Grid { blocks: [1; 3], threads, shared: 0 };
        Launched { kernel, grid, tensor_cores: false, wide, local: false }
    }
}

/// All that the crate can launch on a device of this architecture.
fn launched(architecture: Architecture) -> Vec<Launched> {
    let lists = [
        ops::attention::cuda::launched(architecture),
        ops::binary::cuda::launched(),
        ops::copy::cuda::launched(),
        ops::cross_entropy::cuda::launched(),
        ops::dropout::cuda::launched(),
        ops::embedding::cuda::launched(),
        ops::gather::cuda::launched(),
        ops::matmul::cuda::launched(architecture),
        ops::norm::cuda::launched(),
        ops::reduce::cuda::launched(),
        ops::rotary::cuda::launched(),
        ops::select::cuda::launched(),
        ops::softmax::cuda::launched(),
        ops::unary::cuda::launched(),
        crate::optim::adamw::cuda::launched(),
    ];
    // Plans may share kernels.
    let mut seen = HashSet::new();
    lists.into_iter().flatten().filter(|launched| seen.insert(launched.kernel.clone())).collect()
}

/// What ptxas and the disassembler say.
struct Compiled {
    registers: u32,
    shared: u32,
    /// Bytes of stack and of spills.
    local: u32,
    /// Empty where nobody reads it.
    code: String,
}

/// What ptxas says, and the machine code where it is read. Kept on disk as compiled kernels are: all of them together take
/// minutes.
fn report(nvrtc: &Nvrtc, kernel: &Kernel, architecture: Architecture) -> Result<(String, String), String> {
    const BETWEEN: &str = "\0";
    let target = Target { compute_capability: architecture.compute_capability(), image: Image::Cubin };
    let mut options = target.options();
    options.push("--ptxas-options=-v".into());
    let text = source(kernel)?;
    let entry = cache::folder().map(|folder| folder.join(key(&text, &options, nvrtc.version())));
    let kept = entry.as_deref().and_then(cache::load).and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((log, code)) = kept.as_deref().and_then(|text| text.split_once(BETWEEN)) {
        return Ok((log.into(), code.into()));
    }
    let (cubin, log) = nvrtc.compile(kernel.name(), &text, &options, Image::Cubin)?;
    let read = DISASSEMBLED.contains(&architecture);
    let code = if read { disassemble(&cubin, kernel.entry)? } else { String::new() };
    if let Some(entry) = entry {
        // A full disk costs time, nothing else.
        let _ = cache::store(&entry, [&log, BETWEEN, &code].concat().as_bytes());
    }
    Ok((log, code))
}

fn compile(nvrtc: &Nvrtc, kernel: &Kernel, architecture: Architecture) -> Result<Compiled, String> {
    let (log, code) = report(nvrtc, kernel, architecture)?;
    // A source may have several entry points; ptxas reports on each in turn.
    let start = format!("Compiling entry function '{}'", kernel.entry);
    let report = log.split_once(&start).ok_or_else(|| format!("no report on `{}`: {log}", kernel.entry))?.1;
    let report = report.split("Compiling entry function").next().unwrap_or_default();
    let number = |after: &str| {
        let digits = |text: &str| {
            let digits: String = text.chars().rev().take_while(char::is_ascii_digit).collect();
            digits.chars().rev().collect::<String>().parse::<u32>().ok()
        };
        report.split_once(after).and_then(|(before, _)| digits(before)).unwrap_or(0)
    };
    let local = number(" bytes stack frame") + number(" bytes spill stores") + number(" bytes spill loads");
    let registers = number(" registers");
    if registers == 0 {
        return Err(format!("no registers in the report on `{}`: {log}", kernel.entry));
    }
    Ok(Compiled { registers, shared: number(" bytes smem"), local, code })
}

/// The instructions of one function.
fn disassemble(cubin: &[u8], entry: &str) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(file.path(), cubin).map_err(|error| error.to_string())?;
    let output = Command::new("nvdisasm").args(["-c", "-ndf"]).arg(file.path()).output();
    let output = output.map_err(|error| format!("nvdisasm: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let section = format!("\n.text.{entry}:");
    let code = text.split_once(&section).ok_or_else(|| format!("no code of `{entry}`"))?.1;
    Ok(code.split("\n.text.").next().unwrap_or_default().to_owned())
}

/// What is wrong with a compiled kernel.
fn faults(launched: &Launched, compiled: &Compiled) -> Vec<String> {
    let code = compiled.code.as_str();
    let has = |instruction: &str| code.contains(instruction);
    let mut faults = Vec::new();
    if !launched.local && (compiled.local > 0 || has("LDL") || has("STL")) {
        faults.push(format!("{} bytes of stack and spills, or local memory in its code", compiled.local));
    }
    if code.is_empty() {
        return faults;
    }
    if launched.tensor_cores && !has("HMMA") {
        faults.push("no HMMA".into());
    }
    if launched.wide && !has("LDG.E.128") && !has("LDGSTS.E.BYPASS.128") && !has("LDGSTS.E.128") {
        faults.push("no load of 16 bytes".into());
    }
    faults
}

/// One line a specialisation on one architecture, by which a child process tells its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    name: String,
    /// Registers and resident blocks, static and dynamic shared memory; or what is wrong.
    cell: Result<(String, String), String>,
}

impl Line {
    const START: &str = "resources: ";

    fn of(nvrtc: &Nvrtc, launched: &Launched, architecture: Architecture) -> Line {
        let name = launched.kernel.to_string();
        let cell = compile(nvrtc, &launched.kernel, architecture).and_then(|compiled| {
            let wrong = faults(launched, &compiled);
            if !wrong.is_empty() {
                return Err(wrong.join(", "));
            }
            let Grid { threads, shared, .. } = launched.grid;
            let occupancy =
                architecture.limits().occupancy(threads, compiled.registers, compiled.shared + shared);
            let cell = format!("{}/{}", compiled.registers, occupancy.blocks);
            let memory = format!("{}+{shared}", compiled.shared);
            if occupancy.blocks > 0 {
                Ok((cell, memory))
            } else {
                Err(format!("does not fit: {cell}, {memory} bytes"))
            }
        });
        Line { name, cell }
    }

    fn print(&self) {
        match &self.cell {
            Ok((cell, memory)) => println!("{}{}\t{cell}\t{memory}", Self::START, self.name),
            Err(fault) => println!("{}{}\t{}", Self::START, self.name, fault.replace(['\n', '\t'], " ")),
        }
    }

    fn parse(line: &str) -> Option<Line> {
        let mut fields = line.split_once(Self::START)?.1.split('\t').map(str::to_owned);
        let (name, first) = (fields.next()?, fields.next()?);
        let cell = match fields.next() {
            Some(memory) => Ok((first, memory)),
            None => Err(first),
        };
        Some(Line { name, cell })
    }
}

/// The environment variable by which a child process is told its architecture's place in [`Architecture::ALL`].
const CHILD: &str = "TILEWRIGHT_RESOURCES_OF";

/// A child's part: NVRTC compiles one kernel at a time in a process, so that each architecture gets one.
#[test]
#[ignore = "runs in a process of its own, started by `resources`"]
fn of_one_architecture() {
    let place: usize = std::env::var(CHILD).expect("the parent names it").parse().expect("a number");
    let nvrtc = Nvrtc::find("the tests").expect("the parent has found it");
    let architecture = Architecture::ALL[place];
    for launched in launched(architecture) {
        Line::of(&nvrtc, &launched, architecture).print();
    }
}

#[test]
fn resources() {
    let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default().contains("cuda");
    let not_run = |reason: String| {
        println!("NOT RUN: {reason}");
        assert!(!required, "TILEWRIGHT_REQUIRE names CUDA's tools: {reason}");
    };
    let nvrtc = match Nvrtc::find("the tests") {
        Ok(nvrtc) => nvrtc,
        Err(error) => return not_run(error.to_string()),
    };
    if nvrtc.version() != NVRTC {
        return not_run(format!("NVRTC is {:?}, the table is of {NVRTC:?}", nvrtc.version()));
    }
    if Command::new("nvdisasm").arg("--version").output().is_err() {
        return not_run("nvdisasm is not on the path".into());
    }

    let program = std::env::current_exe().expect("this program has a path");
    let compile_all = |place: usize| -> Vec<Line> {
        let child = concat!(module_path!(), "::of_one_architecture");
        let child = child.split_once("::").expect("the crate comes first").1;
        let output = Command::new(&program)
            .args(["--ignored", "--exact", "--nocapture", child])
            .env(CHILD, place.to_string())
            .output()
            .expect("this program can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().filter_map(Line::parse).collect()
    };
    // Threads of their own: those of the pool are wanted by other tests while these wait.
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads can be started");
    let places = (0..Architecture::ALL.len()).into_par_iter().with_max_len(1);
    let lines: Vec<Vec<Line>> = pool.install(|| places.map(compile_all).collect());

    // Rows by name, a cell an architecture.
    let mut rows: BTreeMap<&str, (Vec<&str>, &str)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (i, lines) in lines.iter().enumerate() {
        let architecture = Architecture::ALL[i];
        assert_eq!(lines.len(), launched(architecture).len(), "{architecture:?}");
        for Line { name, cell } in lines {
            match cell {
                Ok((cell, memory)) => {
                    let row =
                        rows.entry(name).or_insert_with(|| (vec!["-"; Architecture::ALL.len()], memory));
                    row.0[i] = cell;
                }
                Err(fault) => wrong.push(format!("{name}, {architecture:?}: {fault}")),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} faults, among them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(30)].join("\n")
    );

    let mut table = String::from(HEADER);
    for (name, (cells, memory)) in &rows {
        let _ = writeln!(table, "{name}: {} {memory}", cells.join(" "));
    }
    hold(TABLE, &table);
}
