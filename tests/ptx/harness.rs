//! Programs around single instructions.

use std::fmt::Write;

use tilewright::device::cuda::sim::{Error, Options, Result, Simulator};

/// The bits of an f32, of an f64, of an f16 and of a bf16.
pub fn f(x: f32) -> u64 {
    x.to_bits().into()
}

pub fn d(x: f64) -> u64 {
    x.to_bits()
}

pub fn h(x: f32) -> u64 {
    half::f16::from_f32(x).to_bits().into()
}

pub fn b(x: f32) -> u64 {
    half::bf16::from_f32(x).to_bits().into()
}

/// Two halves in a register, the lower one first.
pub fn x2(low: u64, high: u64) -> u64 {
    low | high << 16
}

const NAMES: [&str; 4] = ["%a", "%b", "%c", "%e"];

/// What starts every module.
pub const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Runs kernel `k` of a module with one parameter, the address of `memory`, and returns what is there
/// afterwards.
pub fn launch(text: &str, grid: u32, block: u32, shared: u32, memory: &[u8]) -> Result<Vec<u8>> {
    assemble(text);
    let simulator = Simulator::new(Options::default());
    let kernel = simulator.load(text)?.function("k")?;
    let address = simulator.alloc(memory.len() as u64)?;
    simulator.write(address, memory)?;
    simulator.launch(&kernel, [grid, 1, 1], [block, 1, 1], shared, &address.to_le_bytes())?;
    let mut after = vec![0; memory.len()];
    simulator.read(address, &mut after)?;
    Ok(after)
}

/// Fails if ptxas is at hand and refuses the program.
fn assemble(text: &str) {
    let Some(ptxas) = std::env::var_os("PTXAS") else { return };
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ptx-test-{}-{count}.ptx", std::process::id()));
    std::fs::write(&path, text).expect("a temporary file");
    let target = text.split_whitespace().find(|word| word.starts_with("sm_")).expect("a target");
    let arch = format!("-arch={target}");
    let run = std::process::Command::new(ptxas).args([&arch, "-o", "/dev/null"]).arg(&path).output();
    let output = run.expect("ptxas runs");
    std::fs::remove_file(&path).expect("the temporary file is there");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// A kernel whose lanes read `%a`, `%b`, `%c` and `%e`, of these widths, run `body` and write `%d`. There are
/// also a predicate `%p` and the lane's number `%lane`.
fn lanes_program(body: &str, widths: &[u32], out: u32) -> String {
    let mut text = String::from(HEADER);
    text += ".visible .entry k(.param .u64 k_0) {\n.reg .b64 %at, %step;\n.reg .b32 %lane;\n.reg .pred %p;\n";
    writeln!(text, ".reg .b{out} %d;").expect("a string");
    for (name, width) in NAMES.iter().zip(widths) {
        writeln!(text, ".reg .b{width} {name};").expect("a string");
    }
    text += "ld.param.u64 %at, [k_0];\ncvta.to.global.u64 %at, %at;\nmov.u32 %lane, %tid.x;\n";
    text += "mul.wide.u32 %step, %lane, 8;\nadd.s64 %at, %at, %step;\n";
    for (i, (name, width)) in NAMES.iter().zip(widths).enumerate() {
        writeln!(text, "ld.global.b{width} {name}, [%at+{}];", (i + 1) * 256).expect("a string");
    }
    writeln!(text, "{body}\nst.global.b{out} [%at], %d;\nret;\n}}").expect("a string");
    text
}

/// Runs `body` on a full warp; `inputs` holds the lanes of each operand.
#[track_caller]
pub fn lanes<const N: usize>(body: &str, widths: [u32; N], out: u32, inputs: [[u64; 32]; N]) -> [u64; 32] {
    lanes_for("sm_80", body, widths, out, inputs)
}

/// As [`lanes`], for another `.target`.
#[track_caller]
pub fn lanes_for<const N: usize>(
    target: &str,
    body: &str,
    widths: [u32; N],
    out: u32,
    inputs: [[u64; 32]; N],
) -> [u64; 32] {
    let mut memory = vec![0; 256];
    memory.extend(inputs.as_flattened().iter().flat_map(|x| x.to_le_bytes()));
    let program = lanes_program(body, &widths, out).replacen("sm_80", target, 1);
    let after = launch(&program, 1, 32, 0, &memory);
    let after = after.unwrap_or_else(|error| panic!("{body}: {error}"));
    std::array::from_fn(|lane| u64::from_le_bytes(after[8 * lane..][..8].try_into().expect("eight bytes")))
}

/// Asserts what an instruction gives for rows of operands, a lane each.
#[track_caller]
pub fn check<const N: usize>(body: &str, widths: [u32; N], out: u32, rows: &[([u64; N], u64)]) {
    for rows in rows.chunks(32) {
        let mut inputs = [[0; 32]; N];
        for (lane, (operands, _)) in rows.iter().enumerate() {
            for (input, operand) in inputs.iter_mut().zip(operands) {
                input[lane] = *operand;
            }
        }
        let results = lanes(body, widths, out, inputs);
        for ((operands, expected), result) in rows.iter().zip(results) {
            assert!(result == *expected, "{body} {operands:#x?}: {result:#x} instead of {expected:#x}");
        }
    }
}

/// Asserts that a program around one line is refused, and that the error names the line and says what.
#[track_caller]
pub fn refused(body: &str, widths: &[u32], out: u32, what: &str) {
    let program = lanes_program(body, widths, out);
    let expected = program.lines().position(|line| line == body).expect("one line") + 1;
    match Simulator::new(Options::default()).load(&program) {
        Ok(_) => panic!("`{body}` was accepted"),
        Err(Error::Unsupported { line, message }) => {
            assert!(line as usize == expected && message.contains(what), "{body}: line {line}: {message}");
        }
        Err(error) => panic!("{body}: {error}"),
    }
}
