//! A CUDA device in software: it runs, checks and counts kernels given as PTX.
//!
//! ```text
//! PTX --ptx--> tree --decode--> program --launch--> blocks --exec--> memory, counters, reports
//! ```
//!
//! - `ptx`: text to tree.
//! - `decode`: tree to `program`s, whose instructions have all their modifiers baked in; `flow` orders their blocks and
//!   assigns registers.
//! - `lanes`: registers of 32 lanes and functions over them.
//! - `math`: what PTX instructions compute.
//! - `memory`: global memory.
//! - `exec`: warps, shared memory, barriers.
//! - `launch`: blocks on the host's threads; `count`: what they did; `report`: what they did wrong; `source`: on which line.
//!
//! Section numbers are those of the PTX ISA 9.0.

mod count;
mod decode;
mod exec;
mod flow;
mod lanes;
mod launch;

mod math;
mod memory;
mod program;
mod ptx;
mod report;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

pub use count::{Architecture, Count, Counters, Limit, Limits, Occupancy, Shape, TensorCount, Traffic};
pub use program::{Kind, Param};
pub use report::{Error, Other, Report, ReportKind, Source};

use decode::Symbol;
use memory::Memory;
use program::Program;
use ptx::Space;
use source::Sources;

/// A result of the simulator.
pub type Result<T> = std::result::Result<T, Error>;

/// Which faults a launch looks for. All by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Accesses outside of allocations, or of freed ones. Without it such loads give 0 and such stores do nothing.
    pub bounds: bool,
    /// Addresses that are no multiple of an access's size.
    pub alignment: bool,
    /// Reads of global, shared and local memory that nobody has written.
    pub uninitialised: bool,
    /// Races in shared memory between barriers, and in global memory between blocks. Of several racing pairs of blocks
    /// any may be reported if the blocks run on several host threads. Two threads of one block in global memory are not
    /// looked at: the shadow knows which block accessed a place last, but not before which of its barriers.
    pub races: bool,
    /// Barriers that a part of a warp reaches.
    pub barriers: bool,
    /// Data of `cp.async` that is touched before it is waited for.
    pub async_copies: bool,
    /// Lanes that a member mask names and that are not there.
    pub lanes: bool,
}

impl Checks {
    /// All of them.
    pub const ALL: Self = Self {
        bounds: true,
        alignment: true,
        uninitialised: true,
        races: true,
        barriers: true,
        async_copies: true,
        lanes: true,
    };

    /// None but those without which a launch could not go on.
    pub const NONE: Self = Self {
        bounds: false,
        alignment: false,
        uninitialised: false,
        races: false,
        barriers: false,
        async_copies: false,
        lanes: false,
    };

    /// Whether shared memory needs its shadow.
    fn shared(self) -> bool {
        self.uninitialised || self.races || self.async_copies
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self::ALL
    }
}

/// Where the text of `printf` goes.
pub type Output = Arc<dyn Fn(&str) + Send + Sync>;

/// How a simulator works.
#[derive(Clone)]
pub struct Options {
    /// The GPU that is simulated: what kernels are compiled for, and how much shared memory a block may have. 8.0 by
    /// default.
    pub architecture: Architecture,
    /// What a launch looks for.
    pub checks: Checks,
    /// Host threads; None: as many as rayon has. Results, counters and text do not depend on it. Nor do reports, but for
    /// races in global memory, where other threads, addresses and sometimes blocks of those that race may be named.
    pub threads: Option<usize>,
    /// Warp instructions that one block may take before the launch is given up. The default of 2^28 is about a minute.
    pub budget: u64,
    /// Gets what kernels print, launch by launch, in the order of their blocks. By default it goes to standard output.
    pub output: Output,
    /// Keep the counters of every launch, for [`Simulator::launches`].
    pub keep_counters: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            architecture: Architecture::default(),
            checks: Checks::ALL,
            threads: None,
            budget: 1 << 28,
            output: Arc::new(|text| print!("{text}")),
            keep_counters: false,
        }
    }
}

struct Device {
    options: Options,
    memory: Memory,
    launches: AtomicU32,
    history: Mutex<Vec<Counters>>,
}

/// A simulated device. Clones are the same device.
#[derive(Clone)]
pub struct Simulator {
    device: Arc<Device>,
}

impl Simulator {
    /// A device without memory and kernels.
    pub fn new(options: Options) -> Self {
        let memory = Memory::new(options.checks.uninitialised);
        let device = Device { options, memory, launches: AtomicU32::new(0), history: Mutex::default() };
        Self { device: Arc::new(device) }
    }

    /// Allocates device memory, at a multiple of 256. It holds nothing: to read it before it is written is a fault.
    pub fn alloc(&self, bytes: u64) -> Result<u64> {
        self.device.memory.alloc(bytes)
    }

    /// Frees what [`Simulator::alloc`] gave. Its addresses are not given again.
    pub fn free(&self, address: u64) -> Result<()> {
        self.device.memory.free(address)
    }

    /// Writes device memory.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.device.memory.write(address, bytes)
    }

    /// Reads device memory. Bytes that nobody has written are a fault if [`Checks::uninitialised`] is on.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.device.memory.read(address, into)
    }

    /// Sets every byte of a range.
    pub fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<()> {
        self.device.memory.fill(address, bytes, value)
    }

    /// Copies within the device, through a buffer. Bytes that were not written stay so.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.device.memory.copy(to, from, bytes)
    }

    /// Makes a range as if nobody had written it, for allocators that hand memory out again.
    pub fn forget(&self, address: u64, bytes: u64) -> Result<()> {
        self.device.memory.forget(address, bytes)
    }

    /// Decodes all kernels of a PTX text and makes its global variables.
    ///
    /// # Errors
    /// What is not PTX, and every instruction, modifier or feature that the simulator does not know.
    pub fn load(&self, text: &str) -> Result<Module> {
        let tree = ptx::parse(text)?;
        let mut symbols = HashMap::new();
        let mut constants = Vec::new();
        let mut allocations = Vec::new();
        let mut globals = Vec::new();
        for variable in &tree.variables {
            let size = variable.size.max(variable.init.len() as u64);
            let address = match variable.space {
                Space::Const => {
                    let start = constants.len().next_multiple_of(variable.align.max(1) as usize);
                    constants.resize(start + size as usize, 0u8);
                    constants[start..start + variable.init.len()].copy_from_slice(&variable.init);
                    start as u64
                }
                Space::Global => {
                    let address = self.alloc(size.max(1))?;
                    allocations.push(address);
                    // Variables without an initialiser are zero (section 5.4.4).
                    self.fill(address, size, 0)?;
                    self.write(address, &variable.init)?;
                    globals.push((variable.name.clone(), address, size));
                    address
                }
                _ => continue,
            };
            symbols.insert(variable.name.clone(), Symbol { space: variable.space, address });
        }
        // Pointers in initialisers, now that everything has its address.
        for variable in &tree.variables {
            for (offset, name, generic) in &variable.pointers {
                let target = symbols.get(name).copied();
                let Some(target) = target else {
                    let message = format!("the address of `{name}` in an initialiser");
                    return Err(Error::unsupported(variable.line, message));
                };
                let base = if *generic && target.space == Space::Const { exec::CONST_WINDOW } else { 0 };
                let at = symbols[&variable.name].address + offset;
                let bytes = |own: u64| (own + base + target.address).to_le_bytes();
                match variable.space {
                    Space::Const => {
                        let place = &mut constants[at as usize..at as usize + 8];
                        let own = u64::from_le_bytes(place.try_into().unwrap_or_default());
                        place.copy_from_slice(&bytes(own));
                    }
                    _ => {
                        let mut own = [0; 8];
                        self.read(at, &mut own)?;
                        self.write(at, &bytes(u64::from_le_bytes(own)))?;
                    }
                }
            }
        }
        let mut functions = HashMap::new();
        for function in tree.functions.iter().filter(|function| function.entry) {
            let program = decode::decode(&tree, function, &symbols)?;
            functions.insert(function.name.clone(), Arc::new(program));
        }
        let files = tree.files.into_iter().map(|(index, name)| (index, relative(name))).collect();
        let sources = Sources { files, calls: tree.calls };
        let device = self.device.clone();
        let contents = Contents { device, functions, sources, constants, allocations, globals };
        Ok(Module { contents: Arc::new(contents) })
    }

    /// Runs a kernel to its end. `params` holds its parameters as [`Function::param_layout`] says.
    ///
    /// # Errors
    /// [`Error::Launch`] for what CUDA would refuse, [`Error::Report`] for faults that the checks find.
    pub fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[u8],
    ) -> Result<Counters> {
        let program = &*function.program;
        self.validate(program, grid, block, dynamic_shared, params)?;
        let device = &*self.device;
        let launch = device.launches.fetch_add(1, Relaxed) + 1;
        let view = device.memory.view();
        // Entries of the race shadow keep ten bits of the launch; from time to time old ones are wiped.
        let tag = launch % 1023 + 1;
        if tag == 1 {
            view.allocations.iter().for_each(|allocation| allocation.forget_accesses());
        }
        let launch = exec::Launch {
            program,
            view: &view,
            constants: &function.contents.constants,
            sources: &function.contents.sources,
            params,
            grid,
            block,
            dynamic_shared,
            checks: device.options.checks,
            budget: device.options.budget,
            tag,
        };
        let threads = device.options.threads.unwrap_or_else(rayon::current_num_threads);
        let outcome = launch::run(&launch, threads);
        if !outcome.printed.is_empty() {
            (device.options.output)(&outcome.printed);
        }
        if let Some(fault) = outcome.fault {
            return Err(Error::Report(fault));
        }
        if device.options.keep_counters {
            device.history.lock().push(outcome.counters.clone());
        }
        Ok(outcome.counters)
    }

    fn validate(
        &self,
        program: &Program,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[u8],
    ) -> Result<()> {
        let fail = |message: String| Err(Error::Launch { kernel: program.name.clone(), message });
        let threads = block.iter().try_fold(1u32, |product, &extent| product.checked_mul(extent));
        let [_, y, z] = grid;
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || y > 65535 || z > 65535 {
            return fail(format!("a grid of {grid:?} blocks"));
        }
        match threads {
            Some(1..=1024) if block[2] <= 64 => {}
            _ => return fail(format!("a block of {block:?} threads")),
        }
        if let (Some(threads), Some(most)) = (threads, program.max_threads)
            && threads > most
        {
            return fail(format!("a block of {threads} threads, but the kernel is compiled for {most}"));
        }
        let most = self.device.options.architecture.limits().shared_per_block();
        if program.static_shared > STATIC_SHARED || program.static_shared + dynamic_shared > most {
            return fail(format!(
                "{} bytes of static and {dynamic_shared} of dynamic shared memory",
                program.static_shared
            ));
        }
        if params.len() != program.param_bytes as usize {
            return fail(format!("{} bytes of parameters instead of {}", params.len(), program.param_bytes));
        }
        Ok(())
    }

    /// The counters of all launches so far, if [`Options::keep_counters`] is on; the list starts anew.
    pub fn launches(&self) -> Vec<Counters> {
        std::mem::take(&mut *self.device.history.lock())
    }
}

/// A file's name as `#line` gave it: NVRTC puts the working directory before names that are relative.
fn relative(name: String) -> String {
    let directory = std::env::current_dir().unwrap_or_default();
    let stripped = std::path::Path::new(&name).strip_prefix(directory).ok().and_then(|path| path.to_str());
    stripped.map_or_else(|| name.clone(), str::to_owned)
}

/// Bytes of shared memory that a kernel may declare; more than these it asks for at the launch.
const STATIC_SHARED: u32 = 48 * 1024;

struct Contents {
    device: Arc<Device>,
    functions: HashMap<String, Arc<Program>>,
    sources: Sources,
    constants: Vec<u8>,
    /// The module's global variables.
    allocations: Vec<u64>,
    globals: Vec<(String, u64, u64)>,
}

impl Drop for Contents {
    fn drop(&mut self) {
        for &address in &self.allocations {
            // The module made them and nobody else can free them without breaking it.
            let freed = self.device.memory.free(address);
            debug_assert!(freed.is_ok(), "a module's variable was freed by somebody else");
        }
    }
}

/// Kernels and global variables of a PTX text.
#[derive(Clone)]
pub struct Module {
    contents: Arc<Contents>,
}

impl Module {
    /// The kernel of this name.
    pub fn function(&self, name: &str) -> Result<Function> {
        let program = self.contents.functions.get(name).ok_or_else(|| Error::NoFunction(name.to_owned()))?;
        Ok(Function { program: program.clone(), contents: self.contents.clone() })
    }

    /// The names of the kernels.
    pub fn functions(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.contents.functions.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Address and bytes of a `__device__` variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        let found = self.contents.globals.iter().find(|(known, ..)| known == name)?;
        Some((found.1, found.2))
    }
}

/// A kernel that can be launched. It keeps its module's variables alive.
#[derive(Clone)]
pub struct Function {
    program: Arc<Program>,
    contents: Arc<Contents>,
}

impl Function {
    /// The entry point's name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Where each parameter lies in the bytes that [`Simulator::launch`] takes.
    pub fn param_layout(&self) -> &[Param] {
        &self.program.params
    }

    /// Bytes of all parameters.
    pub fn param_bytes(&self) -> u32 {
        self.program.param_bytes
    }

    /// Bytes of shared memory that the kernel declares.
    pub fn static_shared(&self) -> u32 {
        self.program.static_shared
    }

    /// Bytes of local memory of one thread.
    pub fn local_bytes(&self) -> u32 {
        self.program.local_bytes
    }

    /// Threads of a block at most, if the kernel says.
    pub fn max_threads(&self) -> Option<u32> {
        self.program.max_threads
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let [words, longs, predicates] = self.program.registers;
        f.debug_struct("Function")
            .field("name", &self.program.name)
            .field("instructions", &self.program.insts.len())
            .field("registers", &[words, longs, predicates])
            .field("constants", &[self.program.words.len(), self.program.longs.len()])
            .field("static_shared", &self.program.static_shared)
            .field("local_bytes", &self.program.local_bytes)
            .finish()
    }
}
