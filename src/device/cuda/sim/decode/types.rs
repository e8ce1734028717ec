//! Opcodes taken apart: types, modifiers, and the certainty that none was overlooked.

use crate::device::cuda::sim::Error;
use crate::device::cuda::sim::math::{Mode, Round};
use crate::device::cuda::sim::program::{Class, Kind};
use crate::device::cuda::sim::ptx::Instruction;

/// A fundamental type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    U16x2,
    S16x2,
    E4m3x2,
    E5m2x2,
}

impl Type {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "u16x2" => Self::U16x2,
            "s16x2" => Self::S16x2,
            "e4m3x2" => Self::E4m3x2,
            "e5m2x2" => Self::E5m2x2,
            _ => return None,
        })
    }

    pub fn bytes(self) -> u8 {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 | Self::E4m3x2 | Self::E5m2x2 => 2,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            _ => 4,
        }
    }

    pub fn class(self) -> Class {
        match self {
            Self::Pred => Class::Pred,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => Class::Long,
            _ => Class::Word,
        }
    }

    pub fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// Two halves in a register.
    pub fn packed(self) -> bool {
        matches!(self, Self::F16x2 | Self::Bf16x2)
    }

    /// The counters' kind of arithmetic on this type.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 | Self::Tf32 => Kind::F32,
            Self::F64 => Kind::F64,
            Self::F16 | Self::F16x2 | Self::Bf16 | Self::Bf16x2 => Kind::Half,
            _ => Kind::Integer,
        }
    }
}

/// An opcode as its dotted parts. Every part must be taken by somebody: what is left over is an error.
pub struct Opcode<'a> {
    pub name: &'a str,
    parts: Vec<(&'a str, bool)>,
    instruction: &'a Instruction,
}

impl<'a> Opcode<'a> {
    pub fn new(instruction: &'a Instruction) -> Self {
        let mut parts = instruction.opcode.split('.');
        let name = parts.next().unwrap_or_default();
        Self { name, parts: parts.map(|part| (part, false)).collect(), instruction }
    }

    /// An error that names the instruction.
    pub fn unsupported(&self, why: impl std::fmt::Display) -> Error {
        let instruction = self.instruction;
        Error::unsupported(instruction.line, format!("`{}`: {why}", instruction.opcode))
    }

    /// Takes a modifier, if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let part = self.parts.iter_mut().find(|(part, used)| !used && *part == name);
        part.map(|part| part.1 = true).is_some()
    }

    /// Takes the first of these modifiers that is there.
    pub fn choice<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(name, _)| self.flag(name)).map(|(_, value)| *value)
    }

    /// Whether a modifier is there, taken or not.
    pub fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|(part, _)| *part == name)
    }

    /// Takes everything that is left, in order.
    pub fn rest(&mut self) -> Vec<&'a str> {
        let left = self.parts.iter_mut().filter(|(_, used)| !used);
        left.map(|part| {
            part.1 = true;
            part.0
        })
        .collect()
    }

    /// Takes all of these that are there: modifiers without meaning for a simulation.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.flag(name);
        }
    }

    /// Takes every modifier that begins so.
    pub fn ignore_prefix(&mut self, prefix: &str) {
        self.parts.iter_mut().filter(|(part, _)| part.starts_with(prefix)).for_each(|part| part.1 = true);
    }

    /// Takes the first type that is left.
    pub fn take_type(&mut self) -> Option<Type> {
        let (part, parsed) = self
            .parts
            .iter_mut()
            .filter(|(_, used)| !used)
            .find_map(|part| Type::parse(part.0).map(|parsed| (part, parsed)))?;
        part.1 = true;
        Some(parsed)
    }

    pub fn ty(&mut self) -> Result<Type, Error> {
        self.take_type().ok_or_else(|| self.unsupported("a type is missing"))
    }

    pub fn round(&mut self) -> Option<Round> {
        self.choice(&[("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)])
    }

    /// Rounding, `.ftz` and `.sat` of floating-point arithmetic.
    pub fn mode(&mut self) -> Mode {
        let round = self.round().unwrap_or(Round::Nearest);
        Mode { round, ftz: self.flag("ftz"), sat: self.flag("sat") }
    }

    /// Fails on a modifier that nobody took.
    pub fn finish(&self) -> Result<(), Error> {
        match self.parts.iter().find(|(_, used)| !used) {
            Some((part, _)) => Err(self.unsupported(format!("modifier `.{part}` is not supported"))),
            None => Ok(()),
        }
    }
}
