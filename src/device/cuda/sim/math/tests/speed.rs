//! How long things take: `cargo test --release speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use crate::device::cpu::real::simd;
use crate::device::cuda::sim::math::half::{Extreme, Modifiers};
use crate::device::cuda::sim::math::mma::{Accumulator, Mma, Operand, Register};
use crate::device::cuda::sim::math::{Mode, Round, approx, convert, float, half, int};

/// Prints the shortest of many measurements, in nanoseconds of one call.
fn measure(name: &str, mut f: impl FnMut()) {
    const CALLS: u32 = 2000;
    let time = (0..200).map(|_| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| f());
        start.elapsed()
    });
    println!("{name:<24} {:7.1} ns", time.min().expect("measurements").as_secs_f64() / CALLS as f64 * 1e9);
}

#[test]
#[ignore = "a measurement"]
fn mma_speed() {
    for (name, k, operand, c) in [
        ("f16, f32", 16, Operand::F16, Accumulator::F32),
        ("f16, f16", 16, Operand::F16, Accumulator::F16),
        ("bf16, f32", 16, Operand::Bf16, Accumulator::F32),
        ("tf32, f32", 8, Operand::Tf32, Accumulator::F32),
        ("e4m3, f32", 32, Operand::E4m3, Accumulator::F32),
        ("s8, s32", 32, Operand::S8, Accumulator::S32),
        ("s4, s32", 64, Operand::S4, Accumulator::S32),
    ] {
        let mma = Mma::find([16, 8, k], operand, operand, c, false).expect("an instruction");
        let (a, b, c): ([Register; 4], [Register; 2], [Register; 4]) =
            ([[0x3c00_3c00; 32]; 4], [[0x3c00_3c00; 32]; 2], [[0; 32]; 4]);
        let mut d = c;
        measure(&format!("mma m16n8k{k} {name}"), || {
            mma.run(black_box(&a), black_box(&b), black_box(&c), &mut d);
            black_box(&d);
        });
    }
}

/// A function of three registers of a warp, as an interpreter would run it.
macro_rules! lanes {
    ($($name:literal: |$a:ident, $b:ident, $c:ident| $value:expr;)*) => {
        $({
            simd! {
                #[inline(never)]
                fn run[](x: &[Register; 3], d: &mut Register) {
                    for i in 0..32 {
                        let ($a, $b, $c) = (x[0][i], x[1][i], x[2][i]);
                        d[i] = $value;
                    }
                }
            }
            let x: [Register; 3] = std::array::from_fn(|j| {
                std::array::from_fn(|i| (1.0 + 0.37 * i as f32 + j as f32).to_bits())
            });
            let mut d = [0; 32];
            measure($name, || {
                run(black_box(&x), &mut d);
                black_box(&d);
            });
        })*
    };
}

const NEAREST: Mode = Mode::NEAREST;
const FTZ: Mode = Mode { ftz: true, ..NEAREST };
const DOWN: Mode = Mode::rounding(Round::Down);
const PLAIN: Modifiers = Modifiers { ftz: false, sat: false, relu: false };
const EXTREME: Extreme = Extreme { ftz: false, nan: false, xorsign_abs: false };

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

#[test]
#[ignore = "a measurement"]
fn lane_speed() {
    use float::{add, div, fma};
    use half::{Bf16, F16, Half};
    lanes! {
        "add.u32": |a, b, _c| a.wrapping_add(b);
        "add.rn.f32": |a, b, _c| add(f(a), f(b), NEAREST).to_bits();
        "add.rn.ftz.f32": |a, b, _c| add(f(a), f(b), FTZ).to_bits();
        "fma.rn.f32": |a, b, c| fma(f(a), f(b), f(c), NEAREST).to_bits();
        "fma.rm.f32": |a, b, c| fma(f(a), f(b), f(c), DOWN).to_bits();
        "div.rn.f32": |a, b, _c| div(f(a), f(b), NEAREST).to_bits();
        "min.f32": |a, b, _c| float::min(f(a), f(b), false).to_bits();
        "ex2.approx.f32": |a, _b, _c| approx::ex2(f(a), false).to_bits();
        "lg2.approx.f32": |a, _b, _c| approx::lg2(f(a), false).to_bits();
        "rsqrt.approx.f32": |a, _b, _c| approx::rsqrt(f(a), false).to_bits();
        "sin.approx.f32": |a, _b, _c| approx::sin(f(a), false).to_bits();
        "tanh.approx.f32": |a, _b, _c| approx::tanh(f(a)).to_bits();
        "cvt.f32.f16": |a, _b, _c| F16::widen(a as u16).to_bits();
        "cvt.rn.f16.f32": |a, _b, _c| F16::narrow(f(a)) as u32;
        "cvt.rn.bf16.f32": |a, _b, _c| Bf16::narrow(f(a)) as u32;
        "cvt.rz.f16.f32": |a, _b, _c| F16::narrow_toward(f(a), Round::Zero) as u32;
        "cvt.rzi.s32.f32": |a, _b, _c| convert::f32_to_s32(f(a), Round::Zero) as u32;
        "cvt.rni.u32.f32": |a, _b, _c| convert::f32_to_u32(f(a), Round::Nearest);
        "cvt.rn.f32.s32": |a, _b, _c| convert::s32_to_f32(a as i32, Round::Nearest).to_bits();
        "cvt.rn.f32.u32": |a, _b, _c| convert::u32_to_f32(a, Round::Nearest).to_bits();
        "cvt.rna.tf32.f32": |a, _b, _c| half::tf32_rna(f(a)).to_bits();
        "add.f16x2": |a, b, _c| half::add_x2::<F16>(a, b, PLAIN);
        "fma.rn.f16x2": |a, b, c| half::fma_x2::<F16>(a, b, c, PLAIN);
        "fma.rn.bf16x2": |a, b, c| half::fma_x2::<Bf16>(a, b, c, PLAIN);
        "max.f16x2": |a, b, _c| half::max_x2::<F16>(a, b, EXTREME);
        "ex2.approx.f16x2": |a, _b, _c| half::ex2_x2::<F16>(a, false);
        "div.u32": |a, b, _c| int::Int::div(a, b);
        "shl.b32": |a, b, _c| int::Int::shl(a, b);
        "bfe.u32": |a, b, c| int::Int::bfe(a, b, c);
        "lop3.b32": |a, b, c| int::lop3(a, b, c, 0x96);
        "prmt.b32": |a, b, c| int::prmt(a, b, c, int::Permute::Index);
        "shf.l.wrap.b32": |a, b, c| int::shf_l(a, b, c, int::Bound::Wrap);
        "dp4a.s32.s32": |a, b, c| int::dp4a(a, b, c, true, true);
    }
}
