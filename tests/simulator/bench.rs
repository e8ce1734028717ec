//! A simulated device with one kernel on it.

use std::io::Write;

use bytemuck::{NoUninit, Pod};
use tilewright::Error;
use tilewright::device::cuda::sim::{Counters, Function, Options, Result, Simulator};
use tilewright::device::cuda::{Kernel, compile_ptx};

/// The crate's own names for instructions that C++ has no words for.
pub const PTX: &str = concat!("#line 1 \"ptx.cuh\"\n", include_str!("../../kernels/common/ptx.cuh"));

/// A device and a kernel on it.
pub struct Bench {
    pub simulator: Simulator,
    function: Function,
}

impl Bench {
    /// The kernel on a device of its own; `None`, said on stderr, without NVRTC, unless `TILEWRIGHT_REQUIRE` names
    /// the simulator.
    pub fn new(kernel: &Kernel, options: Options) -> Option<Bench> {
        let ptx = match compile_ptx(kernel) {
            Ok(ptx) => ptx,
            Err(error @ Error::NoDevice { .. }) => {
                let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
                assert!(!required.contains("cuda-sim"), "TILEWRIGHT_REQUIRE names {required}: {error}");
                let _ = writeln!(std::io::stderr(), "NOT RUN: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let simulator = Simulator::new(options);
        let module = simulator.load(&ptx).unwrap_or_else(|error| panic!("{}: {error}\n{ptx}", kernel.name()));
        let [entry] = module.functions()[..] else { panic!("{} has one entry point", kernel.name()) };
        let function = module.function(entry).expect("the module has just named it");
        Some(Bench { simulator, function })
    }

    /// Device memory with these values.
    pub fn input<T: NoUninit>(&self, values: &[T]) -> u64 {
        let address = self.output::<T>(values.len());
        self.simulator.write(address, bytemuck::cast_slice(values)).expect("the allocation is as large");
        address
    }

    /// Device memory for so many values, which nobody has written.
    pub fn output<T>(&self, count: usize) -> u64 {
        self.simulator.alloc((count * size_of::<T>()) as u64).expect("there is memory")
    }

    /// Launches the kernel with these pointers, integers and bits of floats.
    pub fn launch(&self, grid: [u32; 3], block: [u32; 3], arguments: &[u64]) -> Result<Counters> {
        let layout = self.function.param_layout();
        assert_eq!(layout.len(), arguments.len(), "arguments of `{}`", self.function.name());
        let mut params = vec![0; self.function.param_bytes() as usize];
        for (param, argument) in layout.iter().zip(arguments) {
            let bytes = &argument.to_le_bytes()[..param.size as usize];
            params[param.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        self.simulator.launch(&self.function, grid, block, 0, &params)
    }

    /// The values at an address.
    pub fn read<T: Pod>(&self, address: u64, count: usize) -> Result<Vec<T>> {
        let mut bytes = vec![0; count * size_of::<T>()];
        self.simulator.read(address, &mut bytes)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}
