//! `cvt` and its packed forms.

use super::arithmetic::with_round;
use super::types::{Opcode, Type};
use super::{Decoder, Result};
use crate::device::cuda::sim::lanes::map;
use crate::device::cuda::sim::math::convert::{self, Cvt};
use crate::device::cuda::sim::math::half::{self, Bf16, F16, Half};
use crate::device::cuda::sim::math::{Round, float};
use crate::device::cuda::sim::program::{Code, Conversion, Kind};
use crate::device::cuda::sim::ptx::Operand;

pub(super) fn decode(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<bool> {
    if op.name != "cvt" {
        return Ok(false);
    }
    if op.flag("pack") {
        pack(decoder, op, operands)?;
        return Ok(true);
    }
    let integral =
        op.choice(&[("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
    let modifiers = Cvt {
        round: integral.or(op.round()).unwrap_or(Round::Nearest),
        integral: integral.is_some(),
        away: op.flag("rna"),
        ftz: op.flag("ftz"),
        sat: op.flag("sat"),
        relu: op.flag("relu"),
        satfinite: op.flag("satfinite"),
    };
    let (to, from) = (op.ty()?, op.ty()?);
    let [dst, sources @ ..] = operands else { return decoder.fail("wrong number of operands") };
    let code = match fast(to, from, modifiers) {
        Some(code) => code,
        None => {
            let (Some(to), Some(from)) = (element(to), element(from)) else {
                return Err(op.unsupported("the type is not supported"));
            };
            let pair = matches!(operands.len(), 3) || packed(op);
            Code::Convert(Box::new(Conversion { from, to, modifiers, pair }))
        }
    };
    let mut slots = Vec::new();
    for source in sources {
        // A source may be wider than its type says.
        let slot = match source {
            Operand::Reg(register) => decoder.register(*register),
            other => decoder.source(other, from)?,
        };
        if slot.class() != from.class() {
            return Err(op.unsupported("a source of another size than its type"));
        }
        slots.push(slot);
    }
    let dst = decoder.destination(dst, to.class())?;
    decoder.emit(code, Some(Kind::Conversion), &[dst], &slots);
    Ok(true)
}

/// Whether the instruction converts a register of two values.
fn packed(op: &Opcode) -> bool {
    op.has("e4m3x2") || op.has("e5m2x2")
}

fn element(ty: Type) -> Option<convert::Type> {
    Some(match ty {
        Type::U8 => convert::Type::U8,
        Type::U16 => convert::Type::U16,
        Type::U32 => convert::Type::U32,
        Type::U64 => convert::Type::U64,
        Type::S8 => convert::Type::S8,
        Type::S16 => convert::Type::S16,
        Type::S32 => convert::Type::S32,
        Type::S64 => convert::Type::S64,
        Type::F16 | Type::F16x2 => convert::Type::F16,
        Type::Bf16 | Type::Bf16x2 => convert::Type::Bf16,
        Type::Tf32 => convert::Type::Tf32,
        Type::F32 => convert::Type::F32,
        Type::F64 => convert::Type::F64,
        Type::E4m3x2 => convert::Type::E4m3,
        Type::E5m2x2 => convert::Type::E5m2,
        _ => return None,
    })
}

/// The conversions that kernels spend time in.
fn fast(to: Type, from: Type, m: Cvt) -> Option<Code> {
    let plain = Cvt { round: m.round, integral: m.integral, ..Cvt::NEAREST } == m;
    let float = plain && !m.integral;
    let nearest = float && m.round == Round::Nearest;
    Some(match (to, from) {
        (Type::F32, Type::F32) if m.sat && !m.integral && !m.ftz => {
            map!(|a: f32| -> f32 { float::saturate(a) })
        }
        (Type::F32, Type::F32) if plain && m.integral => {
            with_round!(m.round, R => map!(|a: f32| -> f32 { convert::round_to_integral(a, R) }))
        }
        (Type::F16, Type::F32) if float => {
            with_round!(m.round, R => map!(|a: f32| -> u16 { F16::narrow_toward(a, R) }))
        }
        (Type::Bf16, Type::F32) if float => {
            with_round!(m.round, R => map!(|a: f32| -> u16 { Bf16::narrow_toward(a, R) }))
        }
        (Type::F32, Type::F16) if nearest => map!(|a: u16| -> f32 { float::canonical(F16::widen(a)) }),
        (Type::F32, Type::Bf16) if nearest => map!(|a: u16| -> f32 { float::canonical(Bf16::widen(a)) }),
        (Type::F16x2, Type::F32) if float => with_round!(m.round, R => map!(|a: f32, b: f32| -> u32 {
            half::pack([F16::narrow_toward(b, R), F16::narrow_toward(a, R)])
        })),
        (Type::Bf16x2, Type::F32) if float => with_round!(m.round, R => map!(|a: f32, b: f32| -> u32 {
            half::pack([Bf16::narrow_toward(b, R), Bf16::narrow_toward(a, R)])
        })),
        (Type::F64, Type::F32) if plain => map!(|a: f32| -> f64 { convert::f32_to_f64(a) }),
        (Type::F32, Type::F64) if float => {
            with_round!(m.round, R => map!(|a: f64| -> f32 { float::canonical(float::narrow(a, R)) }))
        }
        (Type::F32, Type::S32) if float => {
            with_round!(m.round, R => map!(|a: i32| -> f32 { convert::s32_to_f32(a, R) }))
        }
        (Type::F32, Type::U32) if float => {
            with_round!(m.round, R => map!(|a: u32| -> f32 { convert::u32_to_f32(a, R) }))
        }
        (Type::F32, Type::S64) if nearest => map!(|a: i64| -> f32 { a as f32 }),
        (Type::F32, Type::U64) if nearest => map!(|a: u64| -> f32 { a as f32 }),
        (Type::F64, Type::S32) if plain => map!(|a: i32| -> f64 { a.into() }),
        (Type::F64, Type::U32) if plain => map!(|a: u32| -> f64 { a.into() }),
        (Type::S32, Type::F32) if plain => {
            with_round!(m.round, R => map!(|a: f32| -> i32 { convert::f32_to_s32(a, R) }))
        }
        (Type::U32, Type::F32) if plain => {
            with_round!(m.round, R => map!(|a: f32| -> u32 { convert::f32_to_u32(a, R) }))
        }
        (Type::Tf32, Type::F32) if m == (Cvt { away: true, ..Cvt::NEAREST }) => {
            map!(|a: f32| -> f32 { half::tf32_rna(a) })
        }
        _ if m == Cvt::NEAREST => return integers(to, from),
        _ => return None,
    })
}

/// From integer to integer without `.sat`.
fn integers(to: Type, from: Type) -> Option<Code> {
    macro_rules! table {
        ($($from:ident $source:ty),*) => {
            match (from, to) {
                $(
                    (Type::$from, Type::U8) => map!(|a: $source| -> u8 { a as u8 }),
                    (Type::$from, Type::S8) => map!(|a: $source| -> i32 { i32::from(a as i8) }),
                    (Type::$from, Type::U16) => map!(|a: $source| -> u16 { a as u16 }),
                    (Type::$from, Type::S16) => map!(|a: $source| -> i32 { i32::from(a as i16) }),
                    (Type::$from, Type::U32 | Type::S32) => map!(|a: $source| -> u32 { a as u32 }),
                    (Type::$from, Type::U64 | Type::S64) => map!(|a: $source| -> u64 { a as u64 }),
                )*
                _ => return None,
            }
        };
    }
    Some(table!(U8 u8, S8 i8, U16 u16, S16 i16, U32 u32, S32 i32, U64 u64, S64 i64))
}

/// `cvt.pack.sat.s8.s32.b32 d, a, b, c`
fn pack(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    op.ignore(&["sat"]);
    let to = op.choice(&[
        ("u16", (16, false)),
        ("s16", (16, true)),
        ("u8", (8, false)),
        ("s8", (8, true)),
        ("u4", (4, false)),
        ("s4", (4, true)),
        ("u2", (2, false)),
        ("s2", (2, true)),
    ]);
    let (from, third) = (op.ty()?, op.take_type());
    macro_rules! onto {
        ($bits:literal, $signed:literal) => {
            map!(|a: i32, b: i32, c: u32| -> u32 { convert::pack(a, b, c, $bits, $signed) })
        };
    }
    let code = match (to, from, third) {
        (Some((16, false)), Type::S32, None) => {
            map!(|a: i32, b: i32| -> u32 { convert::pack16(a, b, false) })
        }
        (Some((16, true)), Type::S32, None) => map!(|a: i32, b: i32| -> u32 { convert::pack16(a, b, true) }),
        (Some((8, false)), Type::S32, Some(Type::B32)) => onto!(8, false),
        (Some((8, true)), Type::S32, Some(Type::B32)) => onto!(8, true),
        (Some((4, false)), Type::S32, Some(Type::B32)) => onto!(4, false),
        (Some((4, true)), Type::S32, Some(Type::B32)) => onto!(4, true),
        (Some((2, false)), Type::S32, Some(Type::B32)) => onto!(2, false),
        (Some((2, true)), Type::S32, Some(Type::B32)) => onto!(2, true),
        _ => return Err(op.unsupported("the type is not supported")),
    };
    let [dst, sources @ ..] = operands else { return decoder.fail("wrong number of operands") };
    let mut slots = Vec::new();
    for source in sources {
        slots.push(decoder.source(source, Type::S32)?);
    }
    let dst = decoder.destination(dst, Type::S32.class())?;
    decoder.emit(code, Some(Kind::Conversion), &[dst], &slots);
    Ok(())
}
