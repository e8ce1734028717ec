//! CUDA without a GPU: a transpose is written, mended and made faster on the simulator.
//! `cargo run --example simulate --features cuda-sim`
//!
//! It needs NVIDIA's compiler NVRTC on the library path, and neither a GPU nor a driver: docs/simulator.md.

use std::error::Error;

use tilewright::device::cuda::sim::{Architecture, Counters, Function, Options, Simulator};
use tilewright::device::cuda::{Kernel, compile_ptx};

/// y[c][r] = x[r][c], in tiles of 32 x 32 that pass through shared memory, so that both sides of global memory are
/// walked along their rows. A block has 32 x 8 threads. PAD widens the tile's rows; SYNC is the barrier.
const TRANSPOSE: &str = r#"
extern "C" __global__ void transpose(const float* x, float* y, unsigned rows, unsigned columns) {
    __shared__ float tile[32][32 + PAD];
    const unsigned left = 32 * blockIdx.x, top = 32 * blockIdx.y;
    for (unsigned i = threadIdx.y; i < 32; i += 8) {
        if (top + i < rows && left + threadIdx.x < columns) {
            tile[i][threadIdx.x] = x[(top + i) * columns + left + threadIdx.x];
        }
    }
    if constexpr (SYNC) {
        __syncthreads();
    }
    for (unsigned i = threadIdx.y; i < 32; i += 8) {
        if (left + i < columns && top + threadIdx.x < rows) {
            y[(left + i) * rows + top + threadIdx.x] = tile[threadIdx.x][i];
        }
    }
}
"#;

/// Neither is a multiple of 32: the last tiles are ragged.
const ROWS: usize = 200;
const COLUMNS: usize = 330;

/// A version of the kernel.
fn version(pad: u32, sync: bool) -> Kernel {
    Kernel::new("transpose.cu", &[TRANSPOSE], "transpose").with("PAD", pad).with("SYNC", sync)
}

/// Compiles the kernel, runs it with all checks on, and checks what it computed.
fn run(simulator: &Simulator, kernel: &Kernel) -> Result<Counters, Box<dyn Error>> {
    let function: Function = simulator.load(&compile_ptx(kernel)?)?.function("transpose")?;
    let values: Vec<f32> = (0..ROWS * COLUMNS).map(|i| i as f32).collect();
    let bytes = 4 * values.len() as u64;
    let (x, y) = (simulator.alloc(bytes)?, simulator.alloc(bytes)?);
    simulator.write(x, bytemuck::cast_slice(&values))?;

    // The arguments as CUDA packs them: two pointers and two integers.
    let mut arguments = [x, y].map(u64::to_le_bytes).concat();
    arguments.extend([ROWS as u32, COLUMNS as u32].map(u32::to_le_bytes).concat());
    let grid = [COLUMNS.div_ceil(32) as u32, ROWS.div_ceil(32) as u32, 1];
    let counters = simulator.launch(&function, grid, [32, 8, 1], 0, &arguments);

    let mut transposed = vec![0f32; values.len()];
    if counters.is_ok() {
        simulator.read(y, bytemuck::cast_slice_mut(&mut transposed))?;
        let right = |i: usize| transposed[i] == values[i % ROWS * COLUMNS + i / ROWS];
        assert!((0..values.len()).all(right), "the transpose is wrong");
    }
    simulator.free(x)?;
    simulator.free(y)?;
    Ok(counters?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let simulator = Simulator::new(Options::default());

    println!("1. Without the barrier a warp reads the tile before the others have filled it:\n");
    match run(&simulator, &version(0, false)) {
        Err(report) => println!("{report}\n"),
        Ok(_) => unreachable!("the bug is found in every run"),
    }

    println!(
        "2. With it the kernel is right, but every read of the tile's columns wants one bank 32 times:\n"
    );
    let naive = run(&simulator, &version(0, true))?;
    println!("{naive}");

    println!("3. Rows of 33 elements spread the columns over the banks:\n");
    let padded = run(&simulator, &version(1, true))?;
    println!("{:<34}{:>12}{:>12}", "", "32 x 32", "32 x 33");
    let row = |name: &str, number: &dyn Fn(&Counters) -> String| {
        println!("{name:<34}{:>12}{:>12}", number(&naive), number(&padded));
    };
    row("warp instructions", &|c| c.total().warps.to_string());
    row("sectors loaded, of the fewest", &|c| {
        format!("{:.2}", ratio(c.global_loads.moved, c.global_loads.fewest))
    });
    row("sectors stored, of the fewest", &|c| {
        format!("{:.2}", ratio(c.global_stores.moved, c.global_stores.fewest))
    });
    row("wavefronts of shared memory", &|c| c.shared.moved.to_string());
    row("  of the fewest", &|c| format!("{:.2}", ratio(c.shared.moved, c.shared.fewest)));
    // Registers are the compiler's for the GPU: 26 is what ptxas says for this kernel on sm_80.
    let limits = Architecture::Sm80.limits();
    row("warps a multiprocessor, of 64", &|c| c.occupancy(&limits, 26).warps.to_string());
    Ok(())
}

fn ratio(moved: u64, fewest: u64) -> f64 {
    moved as f64 / fewest as f64
}
