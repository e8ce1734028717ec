//! What every kernel becomes on the architectures that there are: registers, spills, shared memory, resident blocks
//! and instructions, held against kernels/resources.txt. It takes the compiler, and no GPU.
//!
//! To compile all takes ten minutes. So each line of the table ends in a fingerprint of what it depends on and of itself, and
//! only lines are compiled that it does not fit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::compile::{Nvrtc, Target, key, source};
use super::driver::Image;
use super::sim::Architecture;
use super::{Grid, Kernel};
use crate::device::cache;
use crate::device::table;
use crate::ops;

/// Those whose machine code is read: the two of the fast paths. Spills and stack are ptxas's to tell of all.
const DISASSEMBLED: [Architecture; 2] = [Architecture::Sm80, Architecture::Sm90];

/// The compiler and disassembler whose choices the table holds.
const NVRTC: (i32, i32) = (13, 0);

const TABLE: &str = "kernels/resources.txt";

const HEADER: &str = "\
# What each specialisation becomes on sm_75 sm_80 sm_86 sm_89 sm_90 sm_120: registers a thread / resident blocks a multiprocessor,
# or a dash where it is never launched; then static and dynamic shared memory a block, in bytes. NVRTC 13.0. None spills.
# Last comes a fingerprint of the source, its options and the line: only what it does not fit is compiled, or with
# TILEWRIGHT_ALL_RESOURCES=1 everything.
# `TILEWRIGHT_WRITE_RESOURCES=1 cargo test --features cuda-sim resources` writes this file anew.
";

/// The environment variable that has lines compiled whose fingerprints fit.
const EVERYTHING: &str = "TILEWRIGHT_ALL_RESOURCES";

/// A part of every fingerprint: another number for whatever [`faults`] asks of a kernel otherwise.
const EDITION: u32 = 1;

const ARCHITECTURES: usize = Architecture::ALL.len();

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

/// The text and the options that the compiler gets.
fn request(kernel: &Kernel, architecture: Architecture) -> Result<(String, Vec<String>), String> {
    let target = Target { compute_capability: architecture.compute_capability(), image: Image::Cubin };
    let mut options = target.options();
    options.push("--ptxas-options=-v".into());
    Ok((source(kernel)?, options))
}

/// What ptxas says, and the machine code where it is read. Kept on disk as compiled kernels are.
fn report(nvrtc: &Nvrtc, kernel: &Kernel, architecture: Architecture) -> Result<(String, String), String> {
    const BETWEEN: &str = "\0";
    let (text, options) = request(kernel, architecture)?;
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

/// What the table holds of a specialisation on one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    registers: u32,
    /// Bytes of static shared memory.
    shared: u32,
}

/// Those of a line of the table.
fn figures(line: &str) -> Option<[Option<Figures>; ARCHITECTURES]> {
    let fields: Vec<&str> = line.split_once(": ")?.1.split(' ').collect();
    let [cells @ .., memory, _fingerprint] = &fields[..] else { return None };
    let shared = memory.split_once('+')?.0.parse().ok()?;
    let cell = |cell: &&str| Some(Figures { registers: cell.split_once('/')?.0.parse().ok()?, shared });
    cells.iter().map(cell).collect::<Vec<_>>().try_into().ok()
}

/// A specialisation, and as what it is launched on each of [`Architecture::ALL`].
struct Row {
    name: String,
    launched: [Option<Launched>; ARCHITECTURES],
}

impl Row {
    /// Every row of the table, by name.
    fn all() -> Vec<Row> {
        let mut rows: BTreeMap<String, [Option<Launched>; ARCHITECTURES]> = BTreeMap::new();
        for (i, architecture) in Architecture::ALL.into_iter().enumerate() {
            for launched in launched(architecture) {
                let name = launched.kernel.to_string();
                let other = rows.entry(name.clone()).or_default()[i].replace(launched);
                assert!(other.is_none(), "two kernels are called {name}");
            }
        }
        rows.into_iter().map(|(name, launched)| Row { name, launched }).collect()
    }

    fn launches(&self) -> impl Iterator<Item = (usize, Architecture, &Launched)> {
        let on = |(i, launched)| Some((i, Architecture::ALL[i], Option::as_ref(launched)?));
        self.launched.iter().enumerate().filter_map(on)
    }

    /// The row's line of the table.
    fn line(
        &self,
        version: (i32, i32),
        figures: &[Option<Figures>; ARCHITECTURES],
    ) -> Result<String, String> {
        let mut cells = ["-"; ARCHITECTURES].map(String::from);
        let mut memory = None;
        for (i, architecture, launched) in self.launches() {
            let Some(Figures { registers, shared }) = figures[i] else { continue };
            let Grid { threads, shared: dynamic, .. } = launched.grid;
            let blocks = architecture.limits().occupancy(threads, registers, shared + dynamic).blocks;
            if blocks == 0 {
                return Err(format!(
                    "{architecture:?}: {threads} threads of {registers} registers, {shared}+{dynamic} bytes do not fit"
                ));
            }
            cells[i] = format!("{registers}/{blocks}");
            memory.get_or_insert((shared, dynamic));
        }
        let (shared, dynamic) = memory.ok_or("nothing is known of it")?;
        let line = format!("{}: {} {shared}+{dynamic}", self.name, cells.join(" "));
        let fingerprint = self.fingerprint(version, &line)?;
        Ok(format!("{line} {fingerprint}"))
    }

    /// The first digits of a hash of the line before it, and of what it depends on.
    fn fingerprint(&self, version: (i32, i32), line: &str) -> Result<String, String> {
        let mut hash = Sha256::new_with_prefix(format!("edition {EDITION}\0{line}\0"));
        for (_, architecture, launched) in self.launches() {
            let (text, options) = request(&launched.kernel, architecture)?;
            hash.update(key(&text, &options, version));
            let read = DISASSEMBLED.contains(&architecture);
            hash.update([launched.tensor_cores, launched.wide, launched.local, read].map(u8::from));
        }
        Ok(format!("{:x}", hash.finalize())[..8].into())
    }

    /// Whether a line of the table, and what it depends on, are as when it was written.
    fn fits(&self, version: (i32, i32), line: &str) -> bool {
        figures(line).is_some_and(|figures| self.line(version, &figures).is_ok_and(|now| now == line))
    }
}

/// One specialisation on one architecture, as a child process tells its parent.
struct Told {
    name: String,
    /// Or what is wrong.
    figures: Result<Figures, String>,
}

impl Told {
    const START: &str = "resources: ";

    fn of(nvrtc: &Nvrtc, launched: &Launched, architecture: Architecture) -> Told {
        let figures = compile(nvrtc, &launched.kernel, architecture).and_then(|compiled| {
            let wrong = faults(launched, &compiled);
            let Compiled { registers, shared, .. } = compiled;
            if wrong.is_empty() { Ok(Figures { registers, shared }) } else { Err(wrong.join(", ")) }
        });
        Told { name: launched.kernel.to_string(), figures }
    }

    fn print(&self) {
        match &self.figures {
            Ok(Figures { registers, shared }) => {
                println!("{}{}\t{registers}\t{shared}", Self::START, self.name);
            }
            Err(fault) => println!("{}{}\t{}", Self::START, self.name, fault.replace(['\n', '\t'], " ")),
        }
    }

    fn parse(line: &str) -> Option<Told> {
        let fields: Vec<&str> = line.split_once(Self::START)?.1.split('\t').collect();
        let (name, figures) = match fields[..] {
            [name, fault] => (name, Err(fault.to_owned())),
            [name, registers, shared] => {
                (name, Ok(Figures { registers: registers.parse().ok()?, shared: shared.parse().ok()? }))
            }
            _ => return None,
        };
        Some(Told { name: name.to_owned(), figures })
    }
}

/// The environment variable by which a child process is told its architecture's place in [`Architecture::ALL`].
const CHILD: &str = "TILEWRIGHT_RESOURCES_OF";

/// A child's part: NVRTC compiles one kernel at a time in a process, so that each architecture gets one. It reads the names of
/// what to compile.
#[test]
#[ignore = "runs in a process of its own, started by `resources`"]
fn of_one_architecture() {
    let place: usize = std::env::var(CHILD).expect("the parent names it").parse().expect("a number");
    let nvrtc = Nvrtc::find("the tests").expect("the parent has found it");
    let names: HashSet<String> = std::io::stdin().lines().map(|name| name.expect("text")).collect();
    let architecture = Architecture::ALL[place];
    for launched in launched(architecture) {
        if names.contains(&launched.kernel.to_string()) {
            Told::of(&nvrtc, &launched, architecture).print();
        }
    }
}

/// A parent's part: what the compiler makes of the rows on the architecture at this place.
fn told(rows: &[&Row], place: usize) -> Vec<Told> {
    let names: String = rows
        .iter()
        .filter(|row| row.launched[place].is_some())
        .map(|row| format!("{}\n", row.name))
        .collect();
    if names.is_empty() {
        return Vec::new();
    }
    let child = concat!(module_path!(), "::of_one_architecture");
    let child = child.split_once("::").expect("the crate comes first").1;
    let mut process = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--ignored", "--exact", "--nocapture", child])
        .env(CHILD, place.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program can be started");
    // The pipe is closed here, which ends the names. It reads them all before it writes.
    process.stdin.take().expect("it is piped").write_all(names.as_bytes()).expect("the child reads");
    let output = process.wait_with_output().expect("the child ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Vec<Told> = String::from_utf8_lossy(&output.stdout).lines().filter_map(Told::parse).collect();
    assert_eq!(told.len(), names.lines().count(), "{:?}", Architecture::ALL[place]);
    told
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

    // Threads of their own: those of the pool are wanted by other tests while these wait.
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads can be started");
    let rows = Row::all();
    let kept = table::read(TABLE);
    let kept: HashMap<&str, &str> =
        kept.lines().filter_map(|line| Some((line.split_once(": ")?.0, line))).collect();
    let everything = std::env::var(EVERYTHING).is_ok();
    let fitting =
        |row: &Row| kept.get(&*row.name).copied().filter(|line| !everything && row.fits(NVRTC, line));
    let taken: Vec<Option<&str>> = pool.install(|| rows.par_iter().map(fitting).collect());
    let new: Vec<&Row> =
        rows.iter().zip(&taken).filter(|(_, taken)| taken.is_none()).map(|(row, _)| row).collect();
    println!("{} lines of {TABLE} are taken as they stand, {} compiled", rows.len() - new.len(), new.len());

    let places = (0..ARCHITECTURES).into_par_iter().with_max_len(1);
    let told: Vec<Vec<Told>> = pool.install(|| places.map(|place| told(&new, place)).collect());
    let mut compiled: HashMap<&str, [Option<Figures>; ARCHITECTURES]> = HashMap::new();
    let mut wrong = Vec::new();
    for (i, told) in told.iter().enumerate() {
        for Told { name, figures } in told {
            match figures {
                Ok(figures) => compiled.entry(name).or_default()[i] = Some(*figures),
                Err(fault) => wrong.push(format!("{name}, {:?}: {fault}", Architecture::ALL[i])),
            }
        }
    }

    let mut table = String::from(HEADER);
    for (row, taken) in rows.iter().zip(taken) {
        let line = match (taken, compiled.get(&*row.name)) {
            (Some(line), _) => Ok(line.to_owned()),
            (None, Some(figures)) => row.line(NVRTC, figures),
            // Wrong on every architecture.
            (None, None) => continue,
        };
        match line {
            Ok(line) => table.extend([&line, "\n"]),
            Err(fault) => wrong.push(format!("{}, {fault}", row.name)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} faults, among them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(30)].join("\n")
    );
    table::hold(TABLE, &table);
}

#[test]
fn what_changed_is_compiled_anew() {
    const SOURCE: &[&str] =
        &["extern \"C\" __global__ void fill(T* x) { x[threadIdx.x] = from_float<T>(0.f); }"];
    const EDITED: &[&str] =
        &["extern \"C\" __global__ void fill(T* x) { x[threadIdx.x] = from_float<T>(1.f); }"];
    let row = |source, value: f32| {
        let kernel = Kernel::builtin("fill", source, "fill").with("VALUE", value);
        let launched = [true, true, true, true, false, true]
            .map(|there| there.then(|| Launched::plain(kernel.clone(), 256, false)));
        Row { name: "fill/fill".into(), launched }
    };
    let known = row(SOURCE, 1.0);
    let figures =
        known.launched.each_ref().map(|there| there.as_ref().map(|_| Figures { registers: 40, shared: 16 }));
    let line = known.line(NVRTC, &figures).unwrap();
    assert!(line.starts_with("fill/fill: 40/4 40/6 40/6 40/6 - 40/6 16+0 "), "{line}");
    assert!(known.fits(NVRTC, &line));

    // The line by hand: registers, blocks, a dash, shared memory, the fingerprint, its absence.
    let (start, fingerprint) = line.rsplit_once(' ').unwrap();
    for (old, new) in [("40/4", "39/4"), ("40/6", "40/5"), ("-", "40/6"), ("16+", "8+"), ("+0", "+64")] {
        let edited = line.replacen(old, new, 1);
        assert!(edited != line && !known.fits(NVRTC, &edited), "{edited}");
    }
    let other = if fingerprint.starts_with('0') { "1" } else { "0" };
    for edited in [start.to_owned(), format!("{start} "), format!("{start} {other}{}", &fingerprint[1..])] {
        assert!(!known.fits(NVRTC, &edited), "{edited}");
    }
    // What it was compiled from and with.
    assert!(!row(EDITED, 1.0).fits(NVRTC, &line));
    assert!(!row(SOURCE, 2.0).fits(NVRTC, &line));
    assert!(!known.fits((NVRTC.0, NVRTC.1 + 1), &line));
    // Where it is launched, with how many threads, and what is asked of its code.
    let changed = |change: fn(&mut [Option<Launched>; ARCHITECTURES])| {
        let mut row = row(SOURCE, 1.0);
        change(&mut row.launched);
        assert!(!row.fits(NVRTC, &line));
    };
    changed(|launched| launched[0] = None);
    changed(|launched| launched.swap(3, 4));
    changed(|launched| launched[1].as_mut().unwrap().grid.threads = 512);
    changed(|launched| launched[1].as_mut().unwrap().grid.shared = 48 << 10);
    changed(|launched| launched[1].as_mut().unwrap().tensor_cores = true);
    changed(|launched| launched[1].as_mut().unwrap().wide = true);
}
