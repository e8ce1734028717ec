//! The warp's matrix instructions, on registers of all 32 lanes (section 9.7.14.5): `mma`, `ldmatrix`,
//! `stmatrix`, `movmatrix`.
//!
//! Fragments are made of pieces of 8 x 4 words, a register each: lane 4 g + t holds word t of line g. A line
//! is a row of A, a column of B, a row of C, whose elements of 32 bits take two registers a word. So a
//! register, its lanes in order, is a piece of a dense matrix, and there is little to rearrange.
//!
//! Sums are f32 fused multiply-adds, beginning with c and ascending in k, each rounded to nearest; products
//! are exact, and an f16 accumulator is rounded once, at the end. With u = 2^-24 the result is, to first
//! order, within K u (|c| + sum |a b|) of the exact one. Tensor cores form exact products too, but align
//! groups of them (8 of f16 on sm_80) with the largest and cut off what is about 24 bits below it: their
//! bound is of the same kind and size, their last bits are different. Integer sums are exact; c is added
//! last, and wraps or with `.satfinite` clamps.
//!
//! NaN results are 0x7fffffff, of f16 0x7fff.

use std::array;

use super::float::{NAN_F64, canonical};
use super::half::{Bf16, F16, Half, truncate_tf32, widen_e4m3, widen_e5m2};
use crate::device::cpu::real::simd;

/// A 32-bit register of all lanes of a warp.
pub type Register = [u32; 32];

/// The types of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    U8,
    S8,
    U4,
    S4,
}

/// The types of C and D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulator {
    F16,
    F32,
    S32,
}

impl Operand {
    /// Elements of a word.
    fn per_word(self) -> usize {
        match self {
            Operand::Tf32 => 1,
            Operand::F16 | Operand::Bf16 => 2,
            Operand::E4m3 | Operand::E5m2 | Operand::U8 | Operand::S8 => 4,
            Operand::U4 | Operand::S4 => 8,
        }
    }

    /// What A and B must share, except for signs and the two 8-bit floats.
    fn family(self) -> u32 {
        match self {
            Operand::F16 => 0,
            Operand::Bf16 => 1,
            Operand::Tf32 => 2,
            Operand::E4m3 | Operand::E5m2 => 3,
            Operand::U8 | Operand::S8 => 4,
            Operand::U4 | Operand::S4 => 5,
        }
    }
}

/// An `mma.sync.aligned.row.col` instruction of 16-bit and smaller types or tf32. For f64 see [`mma_f64`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mma {
    shape: [usize; 3],
    a: Operand,
    b: Operand,
    c: Accumulator,
    satfinite: bool,
}

impl Mma {
    /// The instruction of a shape (m, n, k), or `None` if the ISA has none of these types. D has the type of
    /// C; `.satfinite` is for integers.
    pub fn find(shape: [usize; 3], a: Operand, b: Operand, c: Accumulator, satfinite: bool) -> Option<Mma> {
        use Operand::*;
        let shapes: &[[usize; 3]] = match (a, c) {
            (F16, Accumulator::F16 | Accumulator::F32) | (Bf16, Accumulator::F32) => {
                &[[16, 8, 8], [16, 8, 16]]
            }
            (Tf32, Accumulator::F32) => &[[16, 8, 4], [16, 8, 8]],
            (E4m3 | E5m2, Accumulator::F16 | Accumulator::F32) => &[[16, 8, 16], [16, 8, 32]],
            (U8 | S8, Accumulator::S32) => &[[8, 8, 16], [16, 8, 16], [16, 8, 32]],
            (U4 | S4, Accumulator::S32) => &[[8, 8, 32], [16, 8, 32], [16, 8, 64]],
            _ => &[],
        };
        let exists =
            shapes.contains(&shape) && a.family() == b.family() && (!satfinite || c == Accumulator::S32);
        exists.then_some(Mma { shape, a, b, c, satfinite })
    }

    /// Multiplications, each with an addition.
    pub fn products(&self) -> usize {
        self.shape.iter().product()
    }

    /// Registers of A, of B, and of C, which are those of D.
    pub fn registers(&self) -> [usize; 3] {
        let (tall, wide) = (self.tall(), self.wide());
        [tall * wide, wide, if self.c == Accumulator::F16 { tall } else { 2 * tall }]
    }

    /// Pieces above each other in A and C.
    fn tall(&self) -> usize {
        self.shape[0] / 8
    }

    /// Pieces beside each other in A, above each other in B.
    fn wide(&self) -> usize {
        self.shape[2] / (4 * self.a.per_word())
    }

    /// d = a b + c
    ///
    /// # Panics
    /// If there are fewer registers than [`Mma::registers`] says.
    pub fn run(&self, a: &[Register], b: &[Register], c: &[Register], d: &mut [Register]) {
        let [a_count, b_count, c_count] = self.registers();
        let (a, b, c, d) = (&a[..a_count], &b[..b_count], &c[..c_count], &mut d[..c_count]);
        match self.a.per_word() {
            1 => run(PerWord::<1>, self, a, b, c, d),
            2 => run(PerWord::<2>, self, a, b, c, d),
            4 => run(PerWord::<4>, self, a, b, c, d),
            _ => run(PerWord::<8>, self, a, b, c, d),
        }
    }
}

/// The elements of a word of A and B.
#[derive(Clone, Copy)]
struct PerWord<const E: usize>;

simd! {
    // The loops over elements run over all registers at once, as many as there are: of a known number the
    // compiler would unroll them before it could make vectors of them.
    fn run[const E: usize](
        _elements: PerWord<E>,
        mma: &Mma,
        a: &[Register],
        b: &[Register],
        c: &[Register],
        d: &mut [Register],
    ) {
        // Words of a column of A and of a row of B come beside each other; of B first the columns 0, 2, 4, 6,
        // then 1, 3, 5, 7, as C has the even ones in one register and the odd ones in another.
        let (mut rows, mut columns) = ([[0; 32]; 4], [[0; 32]; 2]);
        for (a, rows) in a.iter().zip(&mut rows) {
            *rows = array::from_fn(|i| a[i % 8 * 4 + i / 8]);
        }
        for (b, columns) in b.iter().zip(&mut columns) {
            *columns = array::from_fn(|i| b[(i % 4 * 2 + i / 4 % 2) * 4 + i / 8]);
        }
        let (mut left, mut right) = ([[0.0; 128]; E], [[0.0; 64]; E]);
        decode(mma.a, &rows.as_flattened()[..32 * a.len()], &mut left);
        decode(mma.b, &columns.as_flattened()[..32 * b.len()], &mut right);

        let tall = mma.tall();
        let mut sums = [[0.0; 32]; 4];
        match mma.c {
            Accumulator::F32 => {
                for (sum, c) in sums.as_flattened_mut().iter_mut().zip(c.as_flattened()) {
                    *sum = f32::from_bits(*c);
                }
            }
            Accumulator::F16 => {
                let mut halves = [[0.0; 64]; 2];
                decode(Operand::F16, c.as_flattened(), &mut halves);
                for (j, sums) in sums.iter_mut().enumerate() {
                    sums.copy_from_slice(&halves[j % 2][j / 2 * 32..][..32]);
                }
            }
            Accumulator::S32 => {}
        }
        for (i, [even, odd]) in sums.as_chunks_mut().0[..tall].iter_mut().enumerate() {
            multiply(i, tall, &left, &right, b.len(), even, odd);
        }
        let sums = &sums.as_flattened()[..64 * tall];
        match mma.c {
            Accumulator::F32 => {
                for (d, sum) in d.as_flattened_mut().iter_mut().zip(sums) {
                    *d = canonical(*sum).to_bits();
                }
            }
            Accumulator::F16 => {
                let mut halves = [[0; 32]; 4];
                for (half, sum) in halves.as_flattened_mut().iter_mut().zip(sums) {
                    *half = F16::narrow(*sum) as u32;
                }
                for (d, [even, odd]) in d.iter_mut().zip(halves.as_chunks().0) {
                    for (d, (even, odd)) in d.iter_mut().zip(even.iter().zip(odd)) {
                        *d = even | odd << 16;
                    }
                }
            }
            Accumulator::S32 => {
                for ((d, c), sum) in d.as_flattened_mut().iter_mut().zip(c.as_flattened()).zip(sums) {
                    // As in `approx::ex2`: in the low bits of the sum with 1.5 * 2^23 is the integer. Unlike
                    // Rust's conversion it makes vector code.
                    const SHIFT: f32 = 12582912.0;
                    let (c, sum) = (*c as i32, (sum + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i32);
                    *d = if mma.satfinite { c.saturating_add(sum) } else { c.wrapping_add(sum) } as u32;
                }
            }
        }
    }
}

/// Element i of every word to plane i. Integers fit f32, and so do the sums of 64 of their products.
#[inline(always)]
fn decode<const E: usize, const N: usize>(operand: Operand, words: &[u32], planes: &mut [[f32; N]; E]) {
    for (i, plane) in planes.iter_mut().enumerate() {
        let shift = 32 / E * i;
        macro_rules! each {
            ($element:expr) => {
                for (x, word) in plane.iter_mut().zip(words) {
                    *x = $element(*word >> shift);
                }
            };
        }
        match operand {
            Operand::F16 => each!(|word| F16::widen(word as u16)),
            Operand::Bf16 => each!(|word| Bf16::widen(word as u16)),
            Operand::Tf32 => each!(truncate_tf32),
            Operand::E4m3 => each!(|word| widen_e4m3(word as u8)),
            Operand::E5m2 => each!(|word| widen_e5m2(word as u8)),
            Operand::U8 => each!(|word: u32| (word & 0xff) as i32 as f32),
            Operand::S8 => each!(|word: u32| ((word << 24) as i32 >> 24) as f32),
            Operand::U4 => each!(|word: u32| (word & 0xf) as i32 as f32),
            Operand::S4 => each!(|word: u32| ((word << 28) as i32 >> 28) as f32),
        }
    }
}

/// An array of eight, written out so that no loop is left.
macro_rules! eight {
    ($i:ident => $value:expr) => {
        eight!($i => $value; 0 1 2 3 4 5 6 7)
    };
    ($i:ident => $value:expr; $($index:literal)*) => {
        [$({ const $i: usize = $index; $value }),*]
    };
}

/// Adds to rows 8 i and following the products of `wide` pieces of A and B, in ascending k.
#[inline(always)]
fn multiply<const E: usize>(
    i: usize,
    tall: usize,
    a: &[[f32; 128]; E],
    b: &[[f32; 64]; E],
    wide: usize,
    even: &mut [f32; 32],
    odd: &mut [f32; 32],
) {
    let mut sums = [[0.0; 8]; 8];
    for (g, sums) in sums.iter_mut().enumerate() {
        sums[..4].copy_from_slice(&even[4 * g..][..4]);
        sums[4..].copy_from_slice(&odd[4 * g..][..4]);
    }
    for piece in 0..wide {
        for t in 0..4 {
            for (a, b) in a.iter().zip(b) {
                let a: &[f32; 8] = a[32 * (piece * tall + i) + 8 * t..].first_chunk().expect("a column of A");
                let b: &[f32; 8] = b[32 * piece + 8 * t..].first_chunk().expect("a row of B");
                sums = eight!(G => eight!(N => a[G].mul_add(b[N], sums[G][N])));
            }
        }
    }
    for (g, sums) in sums.iter().enumerate() {
        even[4 * g..][..4].copy_from_slice(&sums[..4]);
        odd[4 * g..][..4].copy_from_slice(&sums[4..]);
    }
}

/// `mma.m8n8k4.f64`: four fused multiply-adds in ascending k. Lane 4 g + t holds A's row g, column t, B's row
/// t, column g, and C's row g, columns 2 t and 2 t + 1.
pub fn mma_f64(a: &[f64; 32], b: &[f64; 32], c: &[[f64; 32]; 2]) -> [[f64; 32]; 2] {
    let mut d = *c;
    for (j, d) in d.iter_mut().enumerate() {
        for (lane, d) in d.iter_mut().enumerate() {
            let (row, column) = (lane / 4, lane % 4 * 2 + j);
            *d = (0..4).fold(*d, |sum, k| a[4 * row + k].mul_add(b[4 * column + k], sum));
            if d.is_nan() {
                *d = f64::from_bits(NAN_F64);
            }
        }
    }
    d
}

/// The register that `ldmatrix` fills from 8 rows of 16 bytes: lane 4 g + t gets elements 2 t and 2 t + 1 of
/// row g.
#[inline]
pub fn load_matrix(rows: &[[u8; 16]; 8]) -> Register {
    array::from_fn(|lane| {
        let row = &rows[lane / 4];
        u32::from_le_bytes(array::from_fn(|i| row[lane % 4 * 4 + i]))
    })
}

/// `ldmatrix.trans`: lane 4 g + t gets element g of rows 2 t and 2 t + 1.
#[inline]
pub fn load_matrix_transposed(rows: &[[u8; 16]; 8]) -> Register {
    transpose(&load_matrix(rows))
}

/// The 8 rows of 16 bytes that `stmatrix` writes; with `.trans` from the [`transpose`]d register.
#[inline]
pub fn store_matrix(register: &Register) -> [[u8; 16]; 8] {
    array::from_fn(|row| array::from_fn(|byte| (register[4 * row + byte / 4] >> (byte % 4 * 8)) as u8))
}

/// `movmatrix.trans`: the 8 x 8 matrix of 16-bit elements across its diagonal
#[inline]
pub fn transpose(register: &Register) -> Register {
    let element = |row: usize, column: usize| register[4 * row + column / 2] >> (column % 2 * 16) & 0xffff;
    array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    })
}
