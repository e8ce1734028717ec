//! The register file of a block: constants, then the registers of each warp.

use std::cell::Cell;

use crate::device::cuda::sim::lanes::{Long, Word};
use crate::device::cuda::sim::program::{Class, Program, Slot};

pub struct Registers {
    words: Vec<Word>,
    longs: Vec<Long>,
    preds: Vec<Cell<u32>>,
    /// Constants of each class.
    constants: [usize; 2],
    /// Registers of a warp, by class.
    per_warp: [usize; 3],
    /// Where the current warp's begin.
    base: [usize; 3],
}

impl Registers {
    pub fn new(program: &Program, params: &[u8], warps: usize) -> Self {
        let mut words: Vec<Word> = program.words.iter().map(|&value| Word::splat(value)).collect();
        let mut longs: Vec<Long> = program.longs.iter().map(|&value| Long::splat(value)).collect();
        for constant in &program.param_constants {
            let at = constant.offset as usize;
            let mut bytes = [0; 8];
            bytes[..constant.bytes.into()].copy_from_slice(&params[at..at + usize::from(constant.bytes)]);
            let value = extend(u64::from_le_bytes(bytes), constant.bytes, constant.signed);
            match constant.slot.class() {
                Class::Long => longs[constant.slot.index()] = Long::splat(value),
                _ => words[constant.slot.index()] = Word::splat(value as u32),
            }
        }
        let constants = [words.len(), longs.len()];
        let per_warp = program.registers;
        words.resize(constants[0] + per_warp[0] * warps, Word::splat(0));
        longs.resize(constants[1] + per_warp[1] * warps, Long::splat(0));
        let preds = vec![Cell::new(0); per_warp[2] * warps];
        Self { words, longs, preds, constants, per_warp, base: [0; 3] }
    }

    pub fn select(&mut self, warp: usize) {
        let [words, longs] = self.constants;
        let [w, l, p] = self.per_warp;
        self.base = [words + w * warp, longs + l * warp, p * warp];
    }

    #[inline(always)]
    pub fn word(&self, slot: Slot) -> &Word {
        let base = if slot.is_constant() { 0 } else { self.base[0] };
        &self.words[base + slot.index()]
    }

    #[inline(always)]
    pub fn long(&self, slot: Slot) -> &Long {
        let base = if slot.is_constant() { 0 } else { self.base[1] };
        &self.longs[base + slot.index()]
    }

    #[inline(always)]
    pub fn pred(&self, slot: Slot) -> u32 {
        self.preds[self.base[2] + slot.index()].get()
    }

    #[inline(always)]
    pub fn set_pred(&self, slot: Slot, mask: u32, value: u32) {
        let cell = &self.preds[self.base[2] + slot.index()];
        cell.set(cell.get() & !mask | value & mask);
    }

    /// The values of a register of either size, zero-extended.
    #[inline(always)]
    pub fn values(&self, slot: Slot) -> [u64; 32] {
        match slot.class() {
            Class::Long => self.long(slot).all(),
            _ => self.word(slot).all().map(u64::from),
        }
    }

    /// Writes values to a register of either size.
    #[inline(always)]
    pub fn set_values(&self, slot: Slot, mask: u32, values: &[u64; 32]) {
        match slot.class() {
            Class::Long => self.long(slot).store(mask, values),
            _ => self.word(slot).store(mask, &values.map(|value| value as u32)),
        }
    }
}

/// The lower `bytes` of a value, zero- or sign-extended.
#[inline(always)]
pub fn extend(value: u64, bytes: u8, signed: bool) -> u64 {
    let above = 64 - 8 * u32::from(bytes);
    if signed { ((value << above) as i64 >> above) as u64 } else { value << above >> above }
}
