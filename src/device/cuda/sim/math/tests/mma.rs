use super::Random;
use crate::device::cuda::sim::math::half::{Bf16, F16, Half};
use crate::device::cuda::sim::math::mma::*;

/// Where element i of a lane's fragment lies, as the ISA has it: (row, column) from groupID, threadID_in_group
/// and i.
type Layout = fn(usize, usize, usize) -> (usize, usize);

/// An instruction with the layouts of A and B copied from its formulas in section 9.7.14.5. That of C is the same
/// for all of them.
struct Case {
    shape: [usize; 3],
    bits: usize,
    a: Layout,
    b: Layout,
}

/// "row = groupID for a_i where ..., groupID + 8 otherwise"
fn eight_below(g: usize, first: bool) -> usize {
    if first { g } else { g + 8 }
}

const CASES: [Case; 10] = [
    // .f16 and .bf16
    Case {
        shape: [16, 8, 8],
        bits: 16,
        a: |g, t, i| (eight_below(g, i < 2), 2 * t + (i & 1)),
        b: |g, t, i| (2 * t + i, g),
    },
    Case {
        shape: [16, 8, 16],
        bits: 16,
        a: |g, t, i| {
            (eight_below(g, i < 2 || (4..6).contains(&i)), 2 * t + (i & 1) + if i < 4 { 0 } else { 8 })
        },
        b: |g, t, i| (2 * t + (i & 1) + if i < 2 { 0 } else { 8 }, g),
    },
    // .tf32
    Case { shape: [16, 8, 4], bits: 32, a: |g, t, i| (eight_below(g, i == 0), t), b: |g, t, _| (t, g) },
    Case {
        shape: [16, 8, 8],
        bits: 32,
        a: |g, t, i| (eight_below(g, i == 0 || i == 2), if i < 2 { t } else { t + 4 }),
        b: |g, t, i| (if i == 0 { t } else { t + 4 }, g),
    },
    // .u8, .s8, .e4m3, .e5m2
    Case { shape: [8, 8, 16], bits: 8, a: |g, t, i| (g, 4 * t + i), b: |g, t, i| (4 * t + i, g) },
    Case {
        shape: [16, 8, 16],
        bits: 8,
        a: |g, t, i| (eight_below(g, i < 4), 4 * t + (i & 3)),
        b: |g, t, i| (4 * t + i, g),
    },
    Case {
        shape: [16, 8, 32],
        bits: 8,
        a: |g, t, i| {
            (eight_below(g, i < 4 || (8..12).contains(&i)), 4 * t + (i & 3) + if i < 8 { 0 } else { 16 })
        },
        b: |g, t, i| (4 * t + (i & 3) + if i < 4 { 0 } else { 16 }, g),
    },
    // .u4, .s4
    Case { shape: [8, 8, 32], bits: 4, a: |g, t, i| (g, 8 * t + i), b: |g, t, i| (8 * t + i, g) },
    Case {
        shape: [16, 8, 32],
        bits: 4,
        a: |g, t, i| (eight_below(g, i < 8), 8 * t + (i & 7)),
        b: |g, t, i| (8 * t + i, g),
    },
    Case {
        shape: [16, 8, 64],
        bits: 4,
        a: |g, t, i| {
            (eight_below(g, i < 8 || (16..24).contains(&i)), 8 * t + (i & 7) + if i < 16 { 0 } else { 32 })
        },
        b: |g, t, i| (8 * t + (i & 7) + if i < 8 { 0 } else { 32 }, g),
    },
];

/// "row = groupID for c_i where i < 2, groupID + 8 for i >= 2; col = threadID_in_group * 2 + (i & 1)"
fn c_layout(g: usize, t: usize, i: usize) -> (usize, usize) {
    (eight_below(g, i < 2), 2 * t + (i & 1))
}

type Matrix = Vec<Vec<f64>>;

/// Registers of a fragment whose elements have `bits` bits, the first element in the lowest bits.
fn fragment(matrix: &Matrix, bits: usize, layout: Layout, encode: &dyn Fn(f64) -> u32) -> Vec<Register> {
    let elements = matrix.len() * matrix[0].len() / 32;
    let mut registers = vec![[0u32; 32]; elements * bits / 32];
    for i in 0..elements {
        for (lane, word) in registers[i * bits / 32].iter_mut().enumerate() {
            let (row, column) = layout(lane / 4, lane % 4, i);
            *word |= encode(matrix[row][column]) << (i * bits % 32);
        }
    }
    registers
}

fn matrix(rows: usize, columns: usize, mut element: impl FnMut() -> f64) -> Matrix {
    (0..rows).map(|_| (0..columns).map(|_| element()).collect()).collect()
}

/// The elements of D by row and column, each register element as its bits.
fn elements(d: &[Register], rows: usize, bits: usize) -> Vec<Vec<u32>> {
    let mut dense = vec![vec![0; 8]; rows];
    for i in 0..rows * 8 / 32 {
        for (lane, word) in d[i * bits / 32].iter().enumerate() {
            let (row, column) = c_layout(lane / 4, lane % 4, i);
            let word = word >> (i * bits % 32);
            dense[row][column] = if bits == 16 { word & 0xffff } else { word };
        }
    }
    dense
}

/// Small integers in an operand's type, by definition of the type.
fn encode(operand: Operand, x: f64) -> u32 {
    match operand {
        Operand::F16 => ::half::f16::from_f64(x).to_bits().into(),
        Operand::Bf16 => ::half::bf16::from_f64(x).to_bits().into(),
        // The lower 13 bits do not count.
        Operand::Tf32 => (x as f32).to_bits() | 0x1abc,
        Operand::U8 | Operand::S8 => x as i32 as u32 & 0xff,
        Operand::U4 | Operand::S4 => x as i32 as u32 & 0xf,
        Operand::E4m3 | Operand::E5m2 => {
            let (bias, fraction) = if operand == Operand::E4m3 { (7, 3) } else { (15, 2) };
            if x == 0.0 {
                return 0;
            }
            let exponent = x.abs().log2().floor();
            let significand = x.abs() / exponent.exp2() - 1.0;
            let bits =
                ((exponent as i32 + bias) << fraction) as u32 + (significand * (1 << fraction) as f64) as u32;
            bits | if x < 0.0 { 0x80 } else { 0 }
        }
    }
}

/// Smallest and largest integer to test an operand with; integers, their whole range.
fn range(operand: Operand) -> (i64, i64) {
    match operand {
        Operand::U8 => (0, 255),
        Operand::S8 => (-128, 127),
        Operand::U4 => (0, 15),
        Operand::S4 => (-8, 7),
        _ => (-8, 8),
    }
}

const FLOATS: [Operand; 5] = [Operand::F16, Operand::Bf16, Operand::Tf32, Operand::E4m3, Operand::E5m2];
const OPERANDS: [Operand; 9] = [
    Operand::F16,
    Operand::Bf16,
    Operand::Tf32,
    Operand::E4m3,
    Operand::E5m2,
    Operand::U8,
    Operand::S8,
    Operand::U4,
    Operand::S4,
];

fn bits(operand: Operand) -> usize {
    match operand {
        Operand::Tf32 => 32,
        Operand::F16 | Operand::Bf16 => 16,
        Operand::E4m3 | Operand::E5m2 | Operand::U8 | Operand::S8 => 8,
        Operand::U4 | Operand::S4 => 4,
    }
}

/// Every instruction there is on integers, whose sums are exact in any order: the layouts are the ISA's.
#[test]
fn every_layout() {
    let mut random = Random(1);
    let mut found = 0;
    for case in &CASES {
        for (a_type, b_type) in OPERANDS.into_iter().flat_map(|a| OPERANDS.map(|b| (a, b))) {
            for c_type in [Accumulator::F16, Accumulator::F32, Accumulator::S32] {
                let Some(mma) = Mma::find(case.shape, a_type, b_type, c_type, false) else { continue };
                if bits(a_type) != case.bits {
                    continue;
                }
                found += 1;
                let [m, n, k] = case.shape;
                let mut pick =
                    |(low, high): (i64, i64)| (low + random.below((high - low + 1) as usize) as i64) as f64;
                let a = matrix(m, k, || pick(range(a_type)));
                let b = matrix(k, n, || pick(range(b_type)));
                let c = matrix(m, n, || pick((-100, 100)));
                let c_bits = if c_type == Accumulator::F16 { 16 } else { 32 };
                let encode_c = |x: f64| match c_type {
                    Accumulator::F16 => ::half::f16::from_f64(x).to_bits().into(),
                    Accumulator::F32 => (x as f32).to_bits(),
                    Accumulator::S32 => x as i32 as u32,
                };
                let a_registers = fragment(&a, case.bits, case.a, &|x| encode(a_type, x));
                let b_registers = fragment(&b, case.bits, case.b, &|x| encode(b_type, x));
                let c_registers = fragment(&c, c_bits, c_layout, &encode_c);
                assert_eq!(mma.registers(), [a_registers.len(), b_registers.len(), c_registers.len()]);
                assert_eq!(mma.products(), m * n * k);
                let mut d = c_registers.clone();
                mma.run(&a_registers, &b_registers, &c_registers, &mut d);
                let d = elements(&d, m, c_bits);
                for row in 0..m {
                    for column in 0..n {
                        let sum: f64 = (0..k).map(|i| a[row][i] * b[i][column]).sum::<f64>() + c[row][column];
                        // Of f16 sums, some are beyond 2048 and are rounded.
                        assert_eq!(d[row][column], encode_c(sum), "{mma:?} at {row}, {column}");
                    }
                }
            }
        }
    }
    // f16 2 shapes with 2 accumulators, bf16 2, tf32 2, fp8 2 shapes, 4 mixes, 2 accumulators, 8 and 4 bits 3
    // shapes and 4 mixes each.
    assert_eq!(found, 4 + 2 + 2 + 16 + 12 + 12);
}

#[test]
fn no_other_instruction() {
    use Accumulator as C;
    use Operand::*;
    assert!(Mma::find([16, 8, 4], F16, F16, C::F32, false).is_none());
    assert!(Mma::find([16, 8, 16], F16, Bf16, C::F32, false).is_none());
    assert!(Mma::find([16, 8, 16], Bf16, Bf16, C::F16, false).is_none());
    assert!(Mma::find([16, 8, 16], Tf32, Tf32, C::F32, false).is_none());
    assert!(Mma::find([16, 8, 32], S8, E4m3, C::S32, false).is_none());
    assert!(Mma::find([16, 8, 32], S8, S8, C::F32, false).is_none());
    assert!(Mma::find([16, 8, 16], F16, F16, C::F32, true).is_none());
    assert!(Mma::find([16, 8, 32], S8, U8, C::S32, true).is_some());
}

/// On any numbers: the documented sums bit for bit, and the documented bound.
#[test]
fn sums_are_as_documented() {
    let mut random = Random(2);
    for case in &CASES {
        for operand in FLOATS {
            for c_type in [Accumulator::F32, Accumulator::F16] {
                let Some(mma) = Mma::find(case.shape, operand, operand, c_type, false) else { continue };
                if bits(operand) != case.bits {
                    continue;
                }
                for _ in 0..20 {
                    let [m, n, k] = case.shape;
                    // Significands of at most three bits, which all types have, and exponents apart.
                    let mut pick = || {
                        let magnitude = (4 + random.below(4)) as f64 * (random.below(10) as f64 - 8.0).exp2();
                        if random.below(2) == 0 { magnitude } else { -magnitude }
                    };
                    let (a, b, c) =
                        (matrix(m, k, &mut pick), matrix(k, n, &mut pick), matrix(m, n, &mut pick));
                    let c_bits = if c_type == Accumulator::F16 { 16 } else { 32 };
                    let encode_c = |x: f64| match c_type {
                        Accumulator::F16 => ::half::f16::from_f64(x).to_bits().into(),
                        _ => (x as f32).to_bits(),
                    };
                    let c_registers = fragment(&c, c_bits, c_layout, &encode_c);
                    let mut d = c_registers.clone();
                    mma.run(
                        &fragment(&a, case.bits, case.a, &|x| encode(operand, x)),
                        &fragment(&b, case.bits, case.b, &|x| encode(operand, x)),
                        &c_registers,
                        &mut d,
                    );
                    let d = elements(&d, m, c_bits);
                    for row in 0..m {
                        for column in 0..n {
                            let start = c[row][column] as f32;
                            let sum = (0..k)
                                .fold(start, |sum, i| (a[row][i] as f32).mul_add(b[i][column] as f32, sum));
                            let exact: f64 =
                                (0..k).map(|i| a[row][i] * b[i][column]).sum::<f64>() + c[row][column];
                            let sizes: f64 = (0..k).map(|i| (a[row][i] * b[i][column]).abs()).sum::<f64>()
                                + c[row][column].abs();
                            assert!((sum as f64 - exact).abs() <= k as f64 * (-24f64).exp2() * sizes);
                            let expected = match c_type {
                                Accumulator::F16 => ::half::f16::from_f32(sum).to_bits().into(),
                                _ => sum.to_bits(),
                            };
                            assert_eq!(d[row][column], expected, "{mma:?} at {row}, {column}");
                        }
                    }
                }
            }
        }
    }
}

fn constant(x: u32, registers: usize) -> Vec<Register> {
    vec![[x; 32]; registers]
}

/// Overflow, infinities and NaN.
#[test]
fn special_values() {
    let mma = Mma::find([16, 8, 16], Operand::F16, Operand::F16, Accumulator::F32, false).unwrap();
    let run = |mma: &Mma, a: u32, b: u32, c: u32| {
        let [a_count, b_count, c_count] = mma.registers();
        let mut d = constant(0, c_count);
        mma.run(&constant(a, a_count), &constant(b, b_count), &constant(c, c_count), &mut d);
        assert!(d.iter().flatten().all(|x| *x == d[0][0]));
        d[0][0]
    };
    let f32_bits = |x: f32| x.to_bits();
    // 16 * 2^15 * 2^15: no infinity.
    assert_eq!(run(&mma, 0x7800_7800, 0x7800_7800, 0), f32_bits(34f32.exp2()));
    assert_eq!(run(&mma, 0x7c00_7c00, 0x3c00_3c00, 0), f32_bits(f32::INFINITY));
    assert_eq!(run(&mma, 0x7c00_7c00, 0, 0), 0x7fff_ffff);
    assert_eq!(run(&mma, 0x7c00_7c00, 0x3c00_3c00, f32_bits(f32::NEG_INFINITY)), 0x7fff_ffff);
    assert_eq!(run(&mma, 0, 0, 0xff80_0001), 0x7fff_ffff);
    // Subnormal f16 count: 2^-24 * 1, 16 times.
    assert_eq!(run(&mma, 0x0001_0001, 0x3c00_3c00, 0), f32_bits((-20f32).exp2()));
    // An f16 accumulator overflows at the end alone: 65504 + 16 * 16 - 65504 would not, but 65504 + 256 does.
    let halves = Mma::find([16, 8, 16], Operand::F16, Operand::F16, Accumulator::F16, false).unwrap();
    assert_eq!(run(&halves, 0x4400_4400, 0x4400_4400, 0x7bff_7bff), 0x7c00_7c00);
    assert_eq!(run(&halves, 0x4c00_cc00, 0x4c00_4c00, 0x7bff_7bff), 0x7bff_7bff);
    assert_eq!(run(&halves, 0x7c00_7c00, 0, 0), 0x7fff_7fff);
    // bf16 products beyond f32's range are not lost before the sum is: 2^127 * 2^-127 16 times.
    let bf16 = Mma::find([16, 8, 16], Operand::Bf16, Operand::Bf16, Accumulator::F32, false).unwrap();
    assert_eq!(run(&bf16, 0x7f00_7f00, 0x0040_0040, 0), f32_bits(16.0));
    // s32: 32 products of 127 * 127, 516128, wrap or are clamped.
    for satfinite in [false, true] {
        let s8 = Mma::find([16, 8, 32], Operand::S8, Operand::S8, Accumulator::S32, satfinite).unwrap();
        assert_eq!(run(&s8, 0x7f7f_7f7f, 0x7f7f_7f7f, 1), 516_129);
        let over = run(&s8, 0x7f7f_7f7f, 0x7f7f_7f7f, i32::MAX as u32) as i32;
        assert_eq!(over, if satfinite { i32::MAX } else { i32::MIN + 516_127 });
        let under = run(&s8, 0x7f7f_7f7f, 0x8080_8080, i32::MIN as u32) as i32;
        assert_eq!(under, if satfinite { i32::MIN } else { i32::MIN.wrapping_sub(32 * 127 * 128) });
        // The largest sum there is, 32 * 255 * 255.
        let u8 = Mma::find([16, 8, 32], Operand::U8, Operand::U8, Accumulator::S32, satfinite).unwrap();
        assert_eq!(run(&u8, u32::MAX, u32::MAX, 0), 2_080_800);
    }
}

/// `mma.m8n8k4.f64`: a is (groupID, threadID_in_group), b (threadID_in_group, groupID), c as elsewhere.
#[test]
fn f64_layout() {
    let mut random = Random(3);
    let mut pick = || random.below(2001) as f64 - 1000.0;
    let (a, b, c) = (matrix(8, 4, &mut pick), matrix(4, 8, &mut pick), matrix(8, 8, &mut pick));
    let lanes = |f: &dyn Fn(usize, usize) -> f64| std::array::from_fn(|lane| f(lane / 4, lane % 4));
    let c_registers = [lanes(&|g, t| c[g][2 * t]), lanes(&|g, t| c[g][2 * t + 1])];
    let d = mma_f64(&lanes(&|g, t| a[g][t]), &lanes(&|g, t| b[t][g]), &c_registers);
    for row in 0..8 {
        for column in 0..8 {
            let sum: f64 = (0..4).map(|k| a[row][k] * b[k][column]).sum::<f64>() + c[row][column];
            assert_eq!(d[column % 2][row * 4 + column / 2], sum);
        }
    }
    let nan = mma_f64(&[f64::INFINITY; 32], &[0.0; 32], &[[1.0; 32]; 2]);
    assert_eq!(nan[1][31].to_bits(), 0xfff8_0000_0000_0000);
}

/// Sections 9.7.14.5.15 to 9.7.14.5.17 (`ldmatrix`, `stmatrix`, `movmatrix`): lane i holds elements 2 (i % 4) and
/// 2 (i % 4) + 1 of row i / 4; with `.trans` of column i / 4.
#[test]
fn matrices_of_halves() {
    let element = |row: usize, column: usize| (row * 8 + column) as u16 * 257 + 13;
    let rows: [[u8; 16]; 8] =
        std::array::from_fn(|row| std::array::from_fn(|byte| element(row, byte / 2).to_le_bytes()[byte % 2]));
    let pair = |low: u16, high: u16| low as u32 | (high as u32) << 16;
    let (plain, transposed) = (load_matrix(&rows), load_matrix_transposed(&rows));
    for i in 0..32 {
        let (line, first) = (i / 4, 2 * (i % 4));
        assert_eq!(plain[i], pair(element(line, first), element(line, first + 1)));
        assert_eq!(transposed[i], pair(element(first, line), element(first + 1, line)));
    }
    assert_eq!(transpose(&plain), transposed);
    assert_eq!(store_matrix(&plain), rows);
    assert_eq!(store_matrix(&transpose(&transposed)), rows);
}

/// What the tests above take for granted.
#[test]
fn encodings() {
    assert_eq!((encode(Operand::E4m3, 1.0), encode(Operand::E4m3, -6.0)), (0x38, 0xcc));
    assert_eq!((encode(Operand::E5m2, 1.0), encode(Operand::E5m2, -6.0)), (0x3c, 0xc6));
    assert_eq!((F16::widen(0x4600), Bf16::widen(0x40c0)), (6.0, 6.0));
}
