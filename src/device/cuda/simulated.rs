//! The simulator as a driver.

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::driver::{Driver, Fault, Function, Grid, Image, Properties, check_arguments};
use super::sim::{self, Architecture, Options, Simulator};

/// Bytes of memory that it says it has; the host's own is the true limit.
const MEMORY: u64 = 40 << 30;

pub struct Simulated {
    simulator: Simulator,
    properties: Properties,
    functions: Mutex<Vec<sim::Function>>,
}

/// What a simulated device with so many multiprocessors is, to kernels and to the compiler.
pub fn properties(architecture: Architecture, multiprocessors: u32) -> Properties {
    Properties {
        name: "cuda-sim".into(),
        compute_capability: architecture.compute_capability(),
        image: Image::Ptx,
        cuda: None,
        multiprocessors,
        memory: MEMORY,
        shared_per_block: architecture.limits().shared_per_block(),
    }
}

/// The text of an image that was compiled for [`properties`].
pub fn ptx(image: &[u8]) -> Result<&str, Fault> {
    let text = std::str::from_utf8(image).map_err(|error| Fault::Refused(error.to_string()))?;
    // NVRTC ends its text with a NUL.
    Ok(text.trim_end_matches('\0'))
}

impl Simulated {
    pub fn new(options: Options, multiprocessors: u32) -> Self {
        let properties = properties(options.architecture, multiprocessors);
        Simulated { simulator: Simulator::new(options), properties, functions: Mutex::default() }
    }

    pub fn simulator(&self) -> &Simulator {
        &self.simulator
    }
}

/// A fault that the checks find ends its launch, and the device goes on.
fn refused(error: sim::Error) -> Fault {
    Fault::Refused(error.to_string())
}

impl Driver for Simulated {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        self.simulator.alloc(bytes).map_err(|_| Fault::OutOfMemory(bytes))
    }

    fn free(&self, address: u64) {
        let freed = self.simulator.free(address);
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.simulator.write(to, bytes).map_err(refused)
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.simulator.read(from, bytes).map_err(refused)
    }

    fn zero(&self, at: u64, bytes: u64) -> Result<(), Fault> {
        self.simulator.fill(at, bytes, 0).map_err(refused)
    }

    fn load(&self, image: &[u8], entry: &str) -> Result<Function, Fault> {
        let module = self.simulator.load(ptx(image)?).map_err(refused)?;
        let function = module.function(entry).map_err(refused)?;
        let mut functions = self.functions.lock();
        functions.push(function);
        Ok(Function(functions.len() as u64 - 1))
    }

    fn launch(&self, function: Function, grid: Grid, arguments: &[&[u8]]) -> Result<(), Fault> {
        let function = self.functions.lock()[function.0 as usize].clone();
        let layout = function.param_layout();
        let sizes: SmallVec<[usize; 13]> = layout.iter().map(|param| param.size as usize).collect();
        check_arguments(function.name(), &sizes, arguments)?;
        let mut params = vec![0; function.param_bytes() as usize];
        for (param, bytes) in layout.iter().zip(arguments) {
            params[param.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        let block = [grid.threads, 1, 1];
        self.simulator.launch(&function, grid.blocks, block, grid.shared, &params).map(drop).map_err(refused)
    }

    fn synchronize(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn cached(&self) -> u64 {
        0
    }

    fn release(&self) -> Result<(), Fault> {
        Ok(())
    }
}
