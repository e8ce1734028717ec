//! Integer, logic, floating-point and comparison instructions, moves and selections.

use super::types::{Opcode, Type};
use super::{Decoder, Result};
use crate::device::cuda::sim::lanes::{map, test};
use crate::device::cuda::sim::math::float::{self, Compare, Property};
use crate::device::cuda::sim::math::half::{self, Bf16, Extreme, F16, Half, Modifiers};
use crate::device::cuda::sim::math::int::{self, Bound, Int, Permute};
use crate::device::cuda::sim::math::{Mode, Round, approx};
use crate::device::cuda::sim::program::{Class, Code, Kind, PredOp, Slot, Special};
use crate::device::cuda::sim::ptx::Operand;

/// A function over integers of any type.
macro_rules! integers {
    ($op:expr, $ty:expr, |$($x:ident),+| $body:expr) => {
        match $ty {
            Type::U16 | Type::B16 => map!(|$($x: u16),+| -> u16 { $body }),
            Type::S16 => map!(|$($x: i16),+| -> i16 { $body }),
            Type::U32 | Type::B32 => map!(|$($x: u32),+| -> u32 { $body }),
            Type::S32 => map!(|$($x: i32),+| -> i32 { $body }),
            Type::U64 | Type::B64 => map!(|$($x: u64),+| -> u64 { $body }),
            Type::S64 => map!(|$($x: i64),+| -> i64 { $body }),
            _ => return Err($op.unsupported("the type is not supported")),
        }
    };
}

/// A function over integers whose second operand is a count of bits.
macro_rules! shifts {
    ($op:expr, $ty:expr, |$x:ident, $by:ident| $body:expr) => {
        match $ty {
            Type::U16 | Type::B16 => map!(|$x: u16, $by: u32| -> u16 { $body }),
            Type::S16 => map!(|$x: i16, $by: u32| -> i16 { $body }),
            Type::U32 | Type::B32 => map!(|$x: u32, $by: u32| -> u32 { $body }),
            Type::S32 => map!(|$x: i32, $by: u32| -> i32 { $body }),
            Type::U64 | Type::B64 => map!(|$x: u64, $by: u32| -> u64 { $body }),
            Type::S64 => map!(|$x: i64, $by: u32| -> i64 { $body }),
            _ => return Err($op.unsupported("the type is not supported")),
        }
    };
}

/// Evaluates `$make` with `$M` a constant of the given mode, so that the modifiers cost nothing at run time.
macro_rules! with_mode {
    ($mode:expr, $M:ident => $make:expr) => {
        with_mode!(@ $mode, $M => $make;
            Nearest false false, Nearest false true, Nearest true false, Nearest true true,
            Zero false false, Zero false true, Zero true false, Zero true true,
            Down false false, Down false true, Down true false, Down true true,
            Up false false, Up false true, Up true false, Up true true)
    };
    (@ $mode:expr, $M:ident => $make:expr; $($round:ident $ftz:literal $sat:literal),*) => {
        match ($mode.round, $mode.ftz, $mode.sat) {
            $((Round::$round, $ftz, $sat) => {
                const $M: Mode = Mode { round: Round::$round, ftz: $ftz, sat: $sat };
                $make
            })*
        }
    };
}

/// Evaluates `$make` with `$M` a constant of the given rounding.
macro_rules! with_round {
    ($round:expr, $M:ident => $make:expr) => {
        with_round!(@ $round, $M => $make; Nearest, Zero, Down, Up)
    };
    (@ $round:expr, $M:ident => $make:expr; $($name:ident),*) => {
        match $round {
            $(Round::$name => {
                const $M: Round = Round::$name;
                $make
            })*
        }
    };
}

pub(super) use with_round;

/// Evaluates `$make` with `$B` a constant of the given flag.
macro_rules! with_flag {
    ($flag:expr, $B:ident => $make:expr) => {
        if $flag {
            const $B: bool = true;
            $make
        } else {
            const $B: bool = false;
            $make
        }
    };
}

pub(super) fn decode(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<bool> {
    match op.name {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "abs" | "neg" => {
            arithmetic(decoder, op, operands)?
        }
        "addc" | "subc" | "madc" => carry(decoder, op, operands, true)?,
        "sad" => {
            let ty = op.ty()?;
            let code = integers!(op, ty, |a, b, c| a.sad(b, c));
            simple(decoder, code, Kind::Integer, operands, ty.class(), &[ty; 3])?;
        }
        "mul24" | "mad24" => product24(decoder, op, operands)?,
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" => logic(decoder, op, operands)?,
        "shl" | "shr" => {
            let ty = op.ty()?;
            let code = match op.name {
                "shl" => shifts!(op, ty, |a, by| Int::shl(a, by)),
                _ => shifts!(op, ty, |a, by| Int::shr(a, by)),
            };
            simple(decoder, code, Kind::Integer, operands, ty.class(), &[ty, Type::U32])?;
        }
        "shf" | "prmt" | "bfe" | "bfi" | "bfind" | "clz" | "popc" | "brev" | "fns" | "bmsk" | "szext"
        | "dp4a" | "dp2a" => bits(decoder, op, operands)?,
        "setp" => setp(decoder, op, operands)?,
        "set" => set(decoder, op, operands)?,
        "testp" => testp(decoder, op, operands)?,
        "selp" => {
            let ty = op.ty()?;
            let [dst, a, b, p] = operands else { return decoder.fail("selp takes four operands") };
            let [a, b, p] = decoder.sources(&[a.clone(), b.clone(), p.clone()], [ty, ty, Type::Pred])?;
            let dst = decoder.destination(dst, ty.class())?;
            decoder.emit(select(ty.class()), Some(Kind::Integer), &[dst], &[a, b, p]);
        }
        "slct" => {
            let ftz = op.flag("ftz");
            let (ty, by) = (op.ty()?, op.ty()?);
            let positive = match by {
                Type::S32 if !ftz => test!(|c: i32| { c >= 0 }),
                Type::F32 if ftz => test!(|c: f32| { float::flush(c) >= 0.0 }),
                Type::F32 => test!(|c: f32| { c >= 0.0 }),
                _ => return Err(op.unsupported("the type is not supported")),
            };
            let [dst, sources @ ..] = operands else { return decoder.fail("slct takes four operands") };
            let [a, b, c] = decoder.sources(sources, [ty, ty, by])?;
            let dst = decoder.destination(dst, ty.class())?;
            let p = decoder.temporary(Class::Pred);
            decoder.emit(positive, None, &[p], &[c]);
            decoder.emit(select(ty.class()), Some(Kind::Integer), &[dst], &[a, b, p]);
        }
        "copysign" => {
            let ty = op.ty()?;
            let code = match ty {
                Type::F32 => map!(|a: f32, b: f32| -> f32 { float::copysign(a, b) }),
                Type::F64 => map!(|a: f64, b: f64| -> f64 { float::copysign_f64(a, b) }),
                _ => return Err(op.unsupported("the type is not supported")),
            };
            simple(decoder, code, ty.kind(), operands, ty.class(), &[ty; 2])?;
        }
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => function(decoder, op, operands)?,
        "mov" => mov(decoder, op, operands)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Selection of registers of a class by a predicate.
fn select(class: Class) -> Code {
    if class == Class::Long { Code::SelectLong } else { Code::SelectWord }
}

/// An instruction `d, a, b...` that is one function of its operands.
fn simple(
    decoder: &mut Decoder,
    code: Code,
    kind: Kind,
    operands: &[Operand],
    class: Class,
    types: &[Type],
) -> Result<()> {
    if operands.len() != types.len() + 1 {
        return decoder.fail("wrong number of operands");
    }
    let mut sources = Vec::with_capacity(types.len());
    for (operand, ty) in operands[1..].iter().zip(types) {
        sources.push(decoder.source(operand, *ty)?);
    }
    let dst = decoder.destination(&operands[0], class)?;
    decoder.emit(code, Some(kind), &[dst], &sources);
    Ok(())
}

fn arithmetic(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    if op.flag("cc") {
        return carry(decoder, op, operands, false);
    }
    let (full, approximate) = (op.flag("full"), op.flag("approx"));
    let (lo, hi, wide) = (op.flag("lo"), op.flag("hi"), op.flag("wide"));
    let (nan, xorsign, relu) = (op.flag("NaN"), op.flag("xorsign") & op.flag("abs"), op.flag("relu"));
    if xorsign && decoder.target < 86 {
        return Err(op.unsupported("`.xorsign.abs` needs `.target sm_86`"));
    }
    let mode = op.mode();
    let ty = op.ty()?;
    let kind = ty.kind();
    let class = ty.class();
    let code = match (op.name, ty) {
        ("add", Type::F32) => with_mode!(mode, M => map!(|a: f32, b: f32| -> f32 { float::add(a, b, M) })),
        ("sub", Type::F32) => with_mode!(mode, M => map!(|a: f32, b: f32| -> f32 { float::sub(a, b, M) })),
        ("mul", Type::F32) => with_mode!(mode, M => map!(|a: f32, b: f32| -> f32 { float::mul(a, b, M) })),
        ("mad" | "fma", Type::F32) => {
            with_mode!(mode, M => map!(|a: f32, b: f32, c: f32| -> f32 { float::fma(a, b, c, M) }))
        }
        ("div", Type::F32) if approximate => {
            with_flag!(mode.ftz, FTZ => map!(|a: f32, b: f32| -> f32 { approx::div(a, b, FTZ) }))
        }
        ("div", Type::F32) => with_mode!(mode, M => map!(|a: f32, b: f32| -> f32 { float::div(a, b, M) })),
        ("add", Type::F64) => {
            with_round!(mode.round, R => map!(|a: f64, b: f64| -> f64 { float::add_f64(a, b, R) }))
        }
        ("sub", Type::F64) => {
            with_round!(mode.round, R => map!(|a: f64, b: f64| -> f64 { float::sub_f64(a, b, R) }))
        }
        ("mul", Type::F64) => {
            with_round!(mode.round, R => map!(|a: f64, b: f64| -> f64 { float::mul_f64(a, b, R) }))
        }
        ("mad" | "fma", Type::F64) => {
            with_round!(mode.round, R => map!(|a: f64, b: f64, c: f64| -> f64 { float::fma_f64(a, b, c, R) }))
        }
        ("div", Type::F64) => {
            with_round!(mode.round, R => map!(|a: f64, b: f64| -> f64 { float::div_f64(a, b, R) }))
        }
        ("min" | "max", Type::F32) => extreme_f32(op, operands.len() == 4, nan, xorsign, mode.ftz)?,
        ("min", Type::F64) => map!(|a: f64, b: f64| -> f64 { float::min_f64(a, b, false) }),
        ("max", Type::F64) => map!(|a: f64, b: f64| -> f64 { float::max_f64(a, b, false) }),
        ("abs", Type::F32) => with_flag!(mode.ftz, FTZ => map!(|a: f32| -> f32 {
            float::abs(if FTZ { float::flush(a) } else { a })
        })),
        ("neg", Type::F32) => with_flag!(mode.ftz, FTZ => map!(|a: f32| -> f32 {
            float::neg(if FTZ { float::flush(a) } else { a })
        })),
        ("abs", Type::F64) => map!(|a: f64| -> f64 { float::abs_f64(a) }),
        ("neg", Type::F64) => map!(|a: f64| -> f64 { float::neg_f64(a) }),
        (name, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) => {
            let modifiers = Modifiers { ftz: mode.ftz, sat: mode.sat, relu };
            let extreme = Extreme { ftz: mode.ftz, nan, xorsign_abs: xorsign };
            halves(op, name, ty, modifiers, extreme)?
        }
        ("add", Type::S32) if mode.sat => map!(|a: i32, b: i32| -> i32 { a.saturating_add(b) }),
        ("sub", Type::S32) if mode.sat => map!(|a: i32, b: i32| -> i32 { a.saturating_sub(b) }),
        ("mad", Type::S32) if mode.sat && hi => {
            map!(|a: i32, b: i32, c: i32| -> i32 { int::mad_hi_sat(a, b, c) })
        }
        ("add", Type::U16x2 | Type::S16x2) => map!(|a: u32, b: u32| -> u32 {
            (a & 0xffff_0000).wrapping_add(b & 0xffff_0000) | a.wrapping_add(b) & 0xffff
        }),
        ("min" | "max", Type::U16x2 | Type::S16x2) => extreme_pairs(op.name == "min", ty == Type::S16x2),
        ("min", Type::S32) if relu => map!(|a: i32, b: i32| -> i32 { a.min(b).max(0) }),
        ("max", Type::S32) if relu => map!(|a: i32, b: i32| -> i32 { a.max(b).max(0) }),
        _ if mode.sat || mode.ftz || nan || xorsign || relu || full || approximate => {
            return Err(op.unsupported("these modifiers are not supported together"));
        }
        ("add", _) => integers!(op, ty, |a, b| a.wrapping_add(b)),
        ("sub", _) => integers!(op, ty, |a, b| a.wrapping_sub(b)),
        ("mul", _) if wide => return wide_product(decoder, op, operands, ty),
        ("mad", _) if wide => return wide_product(decoder, op, operands, ty),
        ("mul", _) if hi => integers!(op, ty, |a, b| a.mul_hi(b)),
        ("mul", _) if lo => integers!(op, ty, |a, b| a.wrapping_mul(b)),
        ("mad", _) if hi => integers!(op, ty, |a, b, c| a.mul_hi(b).wrapping_add(c)),
        ("mad", _) if lo => integers!(op, ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("div", _) => integers!(op, ty, |a, b| a.div(b)),
        ("rem", _) => integers!(op, ty, |a, b| a.rem(b)),
        ("min", _) => integers!(op, ty, |a, b| a.min(b)),
        ("max", _) => integers!(op, ty, |a, b| a.max(b)),
        ("abs", Type::S16) => map!(|a: i16| -> i16 { a.wrapping_abs() }),
        ("abs", Type::S32) => map!(|a: i32| -> i32 { a.wrapping_abs() }),
        ("abs", Type::S64) => map!(|a: i64| -> i64 { a.wrapping_abs() }),
        ("neg", _) => integers!(op, ty, |a| a.wrapping_neg()),
        _ => return Err(op.unsupported("the type is not supported")),
    };
    simple(decoder, code, kind, operands, class, &vec![ty; operands.len().saturating_sub(1)])
}

fn extreme_f32(op: &Opcode, three: bool, nan: bool, xorsign: bool, ftz: bool) -> Result<Code> {
    let min = op.name == "min";
    if three {
        if xorsign {
            return Err(op.unsupported("`.xorsign.abs` of three operands"));
        }
        return Ok(with_flag!(nan, NAN => with_flag!(ftz, FTZ => if min {
            map!(|a: f32, b: f32, c: f32| -> f32 {
                let [a, b, c] = [a, b, c].map(|x| if FTZ { float::flush(x) } else { x });
                float::min(float::min(a, b, NAN), c, NAN)
            })
        } else {
            map!(|a: f32, b: f32, c: f32| -> f32 {
                let [a, b, c] = [a, b, c].map(|x| if FTZ { float::flush(x) } else { x });
                float::max(float::max(a, b, NAN), c, NAN)
            })
        })));
    }
    Ok(with_flag!(nan, NAN => with_flag!(ftz, FTZ => with_flag!(xorsign, SIGN => if min {
        map!(|a: f32, b: f32| -> f32 {
            let [a, b] = [a, b].map(|x| if FTZ { float::flush(x) } else { x });
            if SIGN { float::xorsign_abs(a, b, |a, b| float::min(a, b, NAN)) } else { float::min(a, b, NAN) }
        })
    } else {
        map!(|a: f32, b: f32| -> f32 {
            let [a, b] = [a, b].map(|x| if FTZ { float::flush(x) } else { x });
            if SIGN { float::xorsign_abs(a, b, |a, b| float::max(a, b, NAN)) } else { float::max(a, b, NAN) }
        })
    }))))
}

fn extreme_pairs(min: bool, signed: bool) -> Code {
    match (min, signed) {
        (true, false) => map!(|a: u32, b: u32| -> u32 {
            (a & 0xffff_0000).min(b & 0xffff_0000) | (a & 0xffff).min(b & 0xffff)
        }),
        (false, false) => map!(|a: u32, b: u32| -> u32 {
            (a & 0xffff_0000).max(b & 0xffff_0000) | (a & 0xffff).max(b & 0xffff)
        }),
        (true, true) => map!(|a: u32, b: u32| -> u32 {
            let low = (a as i16).min(b as i16) as u16;
            let high = ((a >> 16) as i16).min((b >> 16) as i16) as u16;
            u32::from(high) << 16 | u32::from(low)
        }),
        (false, true) => map!(|a: u32, b: u32| -> u32 {
            let low = (a as i16).max(b as i16) as u16;
            let high = ((a >> 16) as i16).max((b >> 16) as i16) as u16;
            u32::from(high) << 16 | u32::from(low)
        }),
    }
}

/// f16 and bf16, alone or in pairs. Rare modifiers are arguments here, not constants.
fn halves(op: &Opcode, name: &str, ty: Type, modifiers: Modifiers, extreme: Extreme) -> Result<Code> {
    macro_rules! of_type {
        ($single:ident, $packed:ident, |$($x:ident),+|, $M:ident) => {
            match ty {
                Type::F16 => map!(|$($x: u16),+| -> u16 { half::$single::<F16>($($x),+, $M) }),
                Type::Bf16 => map!(|$($x: u16),+| -> u16 { half::$single::<Bf16>($($x),+, $M) }),
                Type::F16x2 => map!(|$($x: u32),+| -> u32 { half::$packed::<F16>($($x),+, $M) }),
                _ => map!(|$($x: u32),+| -> u32 { half::$packed::<Bf16>($($x),+, $M) }),
            }
        };
    }
    macro_rules! arithmetic {
        ($single:ident, $packed:ident, |$($x:ident),+|) => {
            match (modifiers.ftz, modifiers.sat, modifiers.relu) {
                (false, false, false) => {
                    const M: Modifiers = Modifiers { ftz: false, sat: false, relu: false };
                    of_type!($single, $packed, |$($x),+|, M)
                }
                (true, false, false) => {
                    const M: Modifiers = Modifiers { ftz: true, sat: false, relu: false };
                    of_type!($single, $packed, |$($x),+|, M)
                }
                (false, true, false) => {
                    const M: Modifiers = Modifiers { ftz: false, sat: true, relu: false };
                    of_type!($single, $packed, |$($x),+|, M)
                }
                (true, true, false) => {
                    const M: Modifiers = Modifiers { ftz: true, sat: true, relu: false };
                    of_type!($single, $packed, |$($x),+|, M)
                }
                (false, false, true) => {
                    const M: Modifiers = Modifiers { ftz: false, sat: false, relu: true };
                    of_type!($single, $packed, |$($x),+|, M)
                }
                (true, false, true) => {
                    const M: Modifiers = Modifiers { ftz: true, sat: false, relu: true };
                    of_type!($single, $packed, |$($x),+|, M)
                }
                (_, true, true) => return Err(op.unsupported("`.sat` together with `.relu`")),
            }
        };
    }
    macro_rules! extremes {
        ($single:ident, $packed:ident) => {
            with_flag!(extreme.ftz, FTZ => with_flag!(extreme.nan, NAN => with_flag!(extreme.xorsign_abs, SIGN => {
                const M: Extreme = Extreme { ftz: FTZ, nan: NAN, xorsign_abs: SIGN };
                of_type!($single, $packed, |a, b|, M)
            })))
        };
    }
    Ok(match name {
        "add" => arithmetic!(add, add_x2, |a, b|),
        "sub" => arithmetic!(sub, sub_x2, |a, b|),
        "mul" => arithmetic!(mul, mul_x2, |a, b|),
        "fma" | "mad" => arithmetic!(fma, fma_x2, |a, b, c|),
        "min" => extremes!(min, min_x2),
        "max" => extremes!(max, max_x2),
        "abs" => with_flag!(modifiers.ftz, FTZ => of_type!(abs, abs_x2, |a|, FTZ)),
        "neg" => with_flag!(modifiers.ftz, FTZ => of_type!(neg, neg_x2, |a|, FTZ)),
        _ => return Err(op.unsupported("not supported for halves")),
    })
}

fn wide_product(decoder: &mut Decoder, op: &Opcode, operands: &[Operand], ty: Type) -> Result<()> {
    let mad = op.name == "mad";
    let (code, wide) = match (mad, ty) {
        (false, Type::U16) => (map!(|a: u16, b: u16| -> u32 { u32::from(a) * u32::from(b) }), Type::U32),
        (false, Type::S16) => (map!(|a: i16, b: i16| -> i32 { i32::from(a) * i32::from(b) }), Type::S32),
        (false, Type::U32) => (map!(|a: u32, b: u32| -> u64 { u64::from(a) * u64::from(b) }), Type::U64),
        (false, Type::S32) => (map!(|a: i32, b: i32| -> i64 { i64::from(a) * i64::from(b) }), Type::S64),
        (true, Type::U16) => (
            map!(|a: u16, b: u16, c: u32| -> u32 { (u32::from(a) * u32::from(b)).wrapping_add(c) }),
            Type::U32,
        ),
        (true, Type::S16) => (
            map!(|a: i16, b: i16, c: i32| -> i32 { (i32::from(a) * i32::from(b)).wrapping_add(c) }),
            Type::S32,
        ),
        (true, Type::U32) => (
            map!(|a: u32, b: u32, c: u64| -> u64 { (u64::from(a) * u64::from(b)).wrapping_add(c) }),
            Type::U64,
        ),
        (true, Type::S32) => (
            map!(|a: i32, b: i32, c: i64| -> i64 { (i64::from(a) * i64::from(b)).wrapping_add(c) }),
            Type::S64,
        ),
        _ => return Err(op.unsupported("the type is not supported")),
    };
    let types: &[Type] = if mad { &[ty, ty, wide] } else { &[ty, ty] };
    simple(decoder, code, Kind::Integer, operands, wide.class(), types)
}

fn product24(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let (lo, hi, sat) = (op.flag("lo"), op.flag("hi"), op.flag("sat"));
    let ty = op.ty()?;
    let code = match (op.name, ty, lo, hi, sat) {
        ("mul24", Type::U32, true, _, false) => map!(|a: u32, b: u32| -> u32 { int::mul24_lo_u32(a, b) }),
        ("mul24", Type::S32, true, _, false) => map!(|a: i32, b: i32| -> i32 { int::mul24_lo_s32(a, b) }),
        ("mul24", Type::U32, _, true, false) => map!(|a: u32, b: u32| -> u32 { int::mul24_hi_u32(a, b) }),
        ("mul24", Type::S32, _, true, false) => map!(|a: i32, b: i32| -> i32 { int::mul24_hi_s32(a, b) }),
        ("mad24", Type::U32, true, _, false) => {
            map!(|a: u32, b: u32, c: u32| -> u32 { int::mul24_lo_u32(a, b).wrapping_add(c) })
        }
        ("mad24", Type::S32, true, _, false) => {
            map!(|a: i32, b: i32, c: i32| -> i32 { int::mul24_lo_s32(a, b).wrapping_add(c) })
        }
        ("mad24", Type::U32, _, true, false) => {
            map!(|a: u32, b: u32, c: u32| -> u32 { int::mul24_hi_u32(a, b).wrapping_add(c) })
        }
        ("mad24", Type::S32, _, true, false) => {
            map!(|a: i32, b: i32, c: i32| -> i32 { int::mul24_hi_s32(a, b).wrapping_add(c) })
        }
        ("mad24", Type::S32, _, true, true) => {
            map!(|a: i32, b: i32, c: i32| -> i32 { int::mad24_hi_sat(a, b, c) })
        }
        _ => return Err(op.unsupported("the type is not supported")),
    };
    simple(decoder, code, Kind::Integer, operands, Class::Word, &vec![ty; operands.len().saturating_sub(1)])
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc.hi`...
fn carry(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand], reads: bool) -> Result<()> {
    let writes = !reads || op.flag("cc");
    let (lo, hi) = (op.flag("lo"), op.flag("hi"));
    let ty = op.ty()?;
    let class = ty.class();
    let flag = match decoder.carry {
        Some(flag) => flag,
        None => *decoder.carry.insert(Slot::register(Class::Pred, decoder.registers.len() as u32)),
    };
    if flag.index() == decoder.registers.len() {
        decoder.temporary(Class::Pred);
    }
    let mut sources = Vec::new();
    for operand in operands.iter().skip(1) {
        sources.push(decoder.source(operand, ty)?);
    }
    if op.name.starts_with("mad") {
        let [a, b, c] = sources[..] else { return decoder.fail("wrong number of operands") };
        let product = decoder.temporary(class);
        let code = match (lo, hi) {
            (true, false) => integers!(op, ty, |a, b| a.wrapping_mul(b)),
            (false, true) => integers!(op, ty, |a, b| a.mul_hi(b)),
            _ => return Err(op.unsupported("`.lo` or `.hi` is missing")),
        };
        decoder.emit(code, None, &[product], &[a, b]);
        sources = vec![product, c];
    }
    let [a, b] = sources[..] else { return decoder.fail("wrong number of operands") };
    let none = decoder.source(&Operand::Int(0), Type::Pred)?;
    let dst = decoder.destination(&operands[0], class)?;
    let out = if writes { flag } else { decoder.temporary(Class::Pred) };
    let subtract = op.name.starts_with("sub");
    let code = if class == Class::Word { Code::CarryWord { subtract } } else { Code::CarryLong { subtract } };
    decoder.emit(code, Some(Kind::Integer), &[dst, out], &[a, b, if reads { flag } else { none }]);
    Ok(())
}

fn logic(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let ty = op.ty()?;
    if ty == Type::Pred {
        let code = match op.name {
            "and" => PredOp::And,
            "or" => PredOp::Or,
            "xor" => PredOp::Xor,
            "not" => PredOp::Not,
            _ => return Err(op.unsupported("the type is not supported")),
        };
        let types = vec![ty; operands.len().saturating_sub(1)];
        return simple(decoder, Code::Pred(code), Kind::Integer, operands, Class::Pred, &types);
    }
    let code = match op.name {
        "and" => integers!(op, ty, |a, b| a & b),
        "or" => integers!(op, ty, |a, b| a | b),
        "xor" => integers!(op, ty, |a, b| a ^ b),
        "not" => integers!(op, ty, |a| !a),
        "cnot" => integers!(op, ty, |a| (a == 0).into()),
        _ => map!(|a: u32, b: u32, c: u32, table: u32| -> u32 { int::lop3(a, b, c, table as u8) }),
    };
    simple(decoder, code, Kind::Integer, operands, ty.class(), &vec![ty; operands.len().saturating_sub(1)])
}

fn bits(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let bound = op.choice(&[("clamp", Bound::Clamp), ("wrap", Bound::Wrap)]);
    let (left, right) = (op.flag("l"), op.flag("r"));
    let shiftamt = op.flag("shiftamt");
    let (low, high) = (op.flag("lo"), op.flag("hi"));
    let permute = op.choice(&[
        ("f4e", Permute::Forward4),
        ("b4e", Permute::Backward4),
        ("rc8", Permute::Replicate8),
        ("ecl", Permute::EdgeClampLeft),
        ("ecr", Permute::EdgeClampRight),
        ("rc16", Permute::Replicate16),
    ]);
    let ty = op.ty()?;
    let wrap = bound == Some(Bound::Wrap);
    let word = Type::U32;
    let (code, class, types): (Code, Class, Vec<Type>) = match (op.name, ty) {
        ("shf", Type::B32) if left => (
            with_flag!(wrap, WRAP => map!(|a: u32, b: u32, c: u32| -> u32 {
                int::shf_l(a, b, c, if WRAP { Bound::Wrap } else { Bound::Clamp })
            })),
            Class::Word,
            vec![word; 3],
        ),
        ("shf", Type::B32) if right => (
            with_flag!(wrap, WRAP => map!(|a: u32, b: u32, c: u32| -> u32 {
                int::shf_r(a, b, c, if WRAP { Bound::Wrap } else { Bound::Clamp })
            })),
            Class::Word,
            vec![word; 3],
        ),
        ("bmsk", Type::B32) => (
            with_flag!(wrap, WRAP => map!(|a: u32, b: u32| -> u32 {
                int::bmsk(a, b, if WRAP { Bound::Wrap } else { Bound::Clamp })
            })),
            Class::Word,
            vec![word; 2],
        ),
        ("szext", Type::U32) => (
            with_flag!(wrap, WRAP => map!(|a: u32, b: u32| -> u32 {
                int::szext_u32(a, b, if WRAP { Bound::Wrap } else { Bound::Clamp })
            })),
            Class::Word,
            vec![word; 2],
        ),
        ("szext", Type::S32) => (
            with_flag!(wrap, WRAP => map!(|a: i32, b: u32| -> i32 {
                int::szext_s32(a, b, if WRAP { Bound::Wrap } else { Bound::Clamp })
            })),
            Class::Word,
            vec![word; 2],
        ),
        ("prmt", Type::B32) => {
            let code = match permute.unwrap_or(Permute::Index) {
                Permute::Index => {
                    map!(|a: u32, b: u32, c: u32| -> u32 { int::prmt(a, b, c, Permute::Index) })
                }
                Permute::Forward4 => {
                    map!(|a: u32, b: u32, c: u32| -> u32 { int::prmt(a, b, c, Permute::Forward4) })
                }
                Permute::Backward4 => {
                    map!(|a: u32, b: u32, c: u32| -> u32 { int::prmt(a, b, c, Permute::Backward4) })
                }
                Permute::Replicate8 => {
                    map!(|a: u32, b: u32, c: u32| -> u32 { int::prmt(a, b, c, Permute::Replicate8) })
                }
                Permute::EdgeClampLeft => {
                    map!(|a: u32, b: u32, c: u32| -> u32 { int::prmt(a, b, c, Permute::EdgeClampLeft) })
                }
                Permute::EdgeClampRight => {
                    map!(|a: u32, b: u32, c: u32| -> u32 { int::prmt(a, b, c, Permute::EdgeClampRight) })
                }
                Permute::Replicate16 => {
                    map!(|a: u32, b: u32, c: u32| -> u32 { int::prmt(a, b, c, Permute::Replicate16) })
                }
            };
            (code, Class::Word, vec![word; 3])
        }
        ("bfe", _) => {
            let code = match ty {
                Type::U32 => map!(|a: u32, b: u32, c: u32| -> u32 { a.bfe(b, c) }),
                Type::S32 => map!(|a: i32, b: u32, c: u32| -> i32 { a.bfe(b, c) }),
                Type::U64 => map!(|a: u64, b: u32, c: u32| -> u64 { a.bfe(b, c) }),
                Type::S64 => map!(|a: i64, b: u32, c: u32| -> i64 { a.bfe(b, c) }),
                _ => return Err(op.unsupported("the type is not supported")),
            };
            (code, ty.class(), vec![ty, word, word])
        }
        ("bfi", Type::B32) => {
            (map!(|a: u32, b: u32, c: u32, d: u32| -> u32 { a.bfi(b, c, d) }), Class::Word, vec![word; 4])
        }
        ("bfi", Type::B64) => (
            map!(|a: u64, b: u64, c: u32, d: u32| -> u64 { a.bfi(b, c, d) }),
            Class::Long,
            vec![ty, ty, word, word],
        ),
        ("bfind", _) => {
            let code = with_flag!(shiftamt, SHIFT => match ty {
                Type::U32 => map!(|a: u32| -> u32 { a.bfind(SHIFT) }),
                Type::S32 => map!(|a: i32| -> u32 { a.bfind(SHIFT) }),
                Type::U64 => map!(|a: u64| -> u32 { a.bfind(SHIFT) }),
                Type::S64 => map!(|a: i64| -> u32 { a.bfind(SHIFT) }),
                _ => return Err(op.unsupported("the type is not supported")),
            });
            (code, Class::Word, vec![ty])
        }
        ("clz", Type::B32) => (map!(|a: u32| -> u32 { a.leading_zeros() }), Class::Word, vec![ty]),
        ("clz", Type::B64) => (map!(|a: u64| -> u32 { a.leading_zeros() }), Class::Word, vec![ty]),
        ("popc", Type::B32) => (map!(|a: u32| -> u32 { a.count_ones() }), Class::Word, vec![ty]),
        ("popc", Type::B64) => (map!(|a: u64| -> u32 { a.count_ones() }), Class::Word, vec![ty]),
        ("brev", Type::B32) => (map!(|a: u32| -> u32 { a.reverse_bits() }), Class::Word, vec![ty]),
        ("brev", Type::B64) => (map!(|a: u64| -> u64 { a.reverse_bits() }), Class::Long, vec![ty]),
        ("fns", Type::B32) => {
            (map!(|a: u32, b: u32, c: i32| -> u32 { int::fns(a, b, c) }), Class::Word, vec![word; 3])
        }
        ("dp4a", _) => {
            let (a, b) = (ty.signed(), op.ty()?.signed());
            let code = with_flag!(a, A => with_flag!(b, B => map!(|a: u32, b: u32, c: u32| -> u32 {
                int::dp4a(a, b, c, A, B)
            })));
            (code, Class::Word, vec![word; 3])
        }
        ("dp2a", _) if low || high => {
            let (a, b) = (ty.signed(), op.ty()?.signed());
            let code = with_flag!(high, HIGH => with_flag!(a, A => with_flag!(b, B => {
                map!(|a: u32, b: u32, c: u32| -> u32 { int::dp2a(a, b, c, HIGH, A, B) })
            })));
            (code, Class::Word, vec![word; 3])
        }
        _ => return Err(op.unsupported("the type is not supported")),
    };
    simple(decoder, code, Kind::Integer, operands, class, &types)
}

/// The comparison of `setp` and `set` for a type; of packed halves it is that of the lower ones.
fn comparison(op: &mut Opcode) -> Result<(Code, Type)> {
    let ftz = op.flag("ftz");
    const NAMES: [(&str, Compare); 18] = [
        ("eq", Compare::Eq),
        ("ne", Compare::Ne),
        ("lt", Compare::Lt),
        ("le", Compare::Le),
        ("gt", Compare::Gt),
        ("ge", Compare::Ge),
        ("lo", Compare::Lt),
        ("ls", Compare::Le),
        ("hi", Compare::Gt),
        ("hs", Compare::Ge),
        ("equ", Compare::Equ),
        ("neu", Compare::Neu),
        ("ltu", Compare::Ltu),
        ("leu", Compare::Leu),
        ("gtu", Compare::Gtu),
        ("geu", Compare::Geu),
        ("num", Compare::Num),
        ("nan", Compare::Nan),
    ];
    let Some(compare) = op.choice(&NAMES) else { return Err(op.unsupported("the comparison is not known")) };
    let ty = op.ty()?;
    let half = matches!(ty, Type::F16 | Type::F16x2);
    if ftz && !half && ty != Type::F32 {
        return Err(op.unsupported("`.ftz` is for f32 and f16"));
    }
    macro_rules! of_type {
        ($C:ident) => {
            match ty {
                Type::U16 | Type::B16 => test!(|a: u16, b: u16| { float::compare($C, a, b) }),
                Type::S16 => test!(|a: i16, b: i16| { float::compare($C, a, b) }),
                Type::U32 | Type::B32 => test!(|a: u32, b: u32| { float::compare($C, a, b) }),
                Type::S32 => test!(|a: i32, b: i32| { float::compare($C, a, b) }),
                Type::U64 | Type::B64 => test!(|a: u64, b: u64| { float::compare($C, a, b) }),
                Type::S64 => test!(|a: i64, b: i64| { float::compare($C, a, b) }),
                Type::F32 if ftz => {
                    test!(|a: f32, b: f32| { float::compare($C, float::flush(a), float::flush(b)) })
                }
                Type::F32 => test!(|a: f32, b: f32| { float::compare($C, a, b) }),
                Type::F64 => test!(|a: f64, b: f64| { float::compare($C, a, b) }),
                Type::F16 | Type::F16x2 if ftz => test!(|a: u16, b: u16| {
                    float::compare($C, F16::widen(half::flush::<F16>(a)), F16::widen(half::flush::<F16>(b)))
                }),
                Type::F16 | Type::F16x2 => {
                    test!(|a: u16, b: u16| { float::compare($C, F16::widen(a), F16::widen(b)) })
                }
                Type::Bf16 | Type::Bf16x2 => {
                    test!(|a: u16, b: u16| { float::compare($C, Bf16::widen(a), Bf16::widen(b)) })
                }
                _ => return Err(op.unsupported("the type is not supported")),
            }
        };
    }
    macro_rules! each {
        ($($name:ident),*) => {
            match compare {
                $(Compare::$name => {
                    const C: Compare = Compare::$name;
                    of_type!(C)
                })*
            }
        };
    }
    Ok((each!(Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan), ty))
}

/// The operands of `setp` and `set`.
struct Compared<'o> {
    dst: &'o Operand,
    sources: [Slot; 2],
    /// What the outcome is combined with.
    combined: Option<(PredOp, Slot)>,
}

fn compared<'o>(
    decoder: &mut Decoder,
    op: &mut Opcode,
    operands: &'o [Operand],
    ty: Type,
) -> Result<Compared<'o>> {
    let combine = op.choice(&[("and", PredOp::And), ("or", PredOp::Or), ("xor", PredOp::Xor)]);
    let (dst, a, b, combined) = match (operands, combine) {
        ([dst, a, b], None) => (dst, a, b, None),
        ([dst, a, b, c], Some(combine)) => (dst, a, b, Some((combine, decoder.source(c, Type::Pred)?))),
        _ => return decoder.fail("wrong number of operands"),
    };
    Ok(Compared { dst, sources: [decoder.source(a, ty)?, decoder.source(b, ty)?], combined })
}

/// The comparison of the upper halves of packed operands.
fn compare_upper(decoder: &mut Decoder, compare: Code, sources: [Slot; 2], to: Slot) {
    let upper = sources.map(|source| {
        let upper = decoder.temporary(Class::Word);
        decoder.emit(map!(|a: u32| -> u32 { a >> 16 }), None, &[upper], &[source]);
        upper
    });
    decoder.emit(compare, None, &[to], &upper);
}

/// `setp.lt.and.f32 p|q, a, b, c`: p = (a < b) and c, q = !(a < b) and c; of packed halves p is for the lower ones
/// and q for the upper ones.
fn setp(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let (compare, ty) = comparison(op)?;
    let kind = Some(ty.kind());
    let Compared { dst, sources, combined } = compared(decoder, op, operands, ty)?;
    let Operand::Pair(p, q) = dst else {
        if ty.packed() {
            return decoder.fail("packed halves give two predicates");
        }
        let p = decoder.destination(dst, Class::Pred)?;
        match combined {
            None => decoder.emit(compare, kind, &[p], &sources),
            Some((combine, c)) => {
                let held = decoder.temporary(Class::Pred);
                decoder.emit(compare, kind, &[held], &sources);
                decoder.emit(Code::Pred(combine), None, &[p], &[held, c]);
            }
        }
        return Ok(());
    };
    let (p, q) = (decoder.destination(p, Class::Pred)?, decoder.destination(q, Class::Pred)?);
    let (first, second) = (decoder.temporary(Class::Pred), decoder.temporary(Class::Pred));
    decoder.emit(compare.clone(), kind, &[first], &sources);
    if ty.packed() {
        compare_upper(decoder, compare, sources, second);
    } else {
        decoder.emit(Code::Pred(PredOp::Not), None, &[second], &[first]);
    }
    if let Some((combine, c)) = combined {
        for result in [first, second] {
            decoder.emit(Code::Pred(combine), None, &[result], &[result, c]);
        }
    }
    let mut results = [(p, first), (q, second)];
    // An instruction may overwrite its own guard, which then must be the last to go.
    if decoder.guard.is_some_and(|(guard, _)| guard == p) {
        results.reverse();
    }
    for (to, result) in results {
        decoder.emit(Code::Pred(PredOp::Move), None, &[to], &[result]);
    }
    Ok(())
}

/// `set.lt.u32.f32`: all ones or 1.0 where the comparison holds, of packed halves in each half.
fn set(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    // The destination's type comes first in the opcode; the comparison takes the one after it.
    let to = op.ty()?;
    let (compare, ty) = comparison(op)?;
    let yes = match (to, ty.packed()) {
        (Type::U32 | Type::S32, false) => u32::MAX,
        (Type::U16 | Type::S16, false) | (Type::U32 | Type::S32, true) => 0xffff,
        (Type::F32, false) => 1f32.to_bits(),
        (Type::F16, false) | (Type::F16x2, true) => F16::narrow(1.0).into(),
        (Type::Bf16, false) | (Type::Bf16x2, true) => Bf16::narrow(1.0).into(),
        _ => return Err(op.unsupported("the type is not supported")),
    };
    let Compared { dst, sources, combined } = compared(decoder, op, operands, ty)?;
    let dst = decoder.destination(dst, Class::Word)?;
    let (yes, no) = (decoder.word(yes), decoder.word(0));
    let choose = |decoder: &mut Decoder, to: Slot, held: Slot| {
        if let Some((combine, c)) = combined {
            decoder.emit(Code::Pred(combine), None, &[held], &[held, c]);
        }
        decoder.emit(Code::SelectWord, None, &[to], &[yes, no, held]);
    };
    let held = decoder.temporary(Class::Pred);
    decoder.emit(compare.clone(), Some(ty.kind()), &[held], &sources);
    if !ty.packed() {
        choose(decoder, dst, held);
        return Ok(());
    }
    let halves = [decoder.temporary(Class::Word), decoder.temporary(Class::Word)];
    choose(decoder, halves[0], held);
    compare_upper(decoder, compare, sources, held);
    choose(decoder, halves[1], held);
    decoder.emit(Code::Pack { bits: 16 }, None, &[dst], &halves);
    Ok(())
}

fn testp(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    const NAMES: [(&str, Property); 6] = [
        ("finite", Property::Finite),
        ("infinite", Property::Infinite),
        ("number", Property::Number),
        ("notanumber", Property::NotANumber),
        ("normal", Property::Normal),
        ("subnormal", Property::Subnormal),
    ];
    let Some(property) = op.choice(&NAMES) else { return Err(op.unsupported("the property is not known")) };
    let ty = op.ty()?;
    macro_rules! each {
        ($($name:ident),*) => {
            match (property, ty) {
                $((Property::$name, Type::F32) => test!(|a: f32| { float::testp(Property::$name, a) }),)*
                $((Property::$name, Type::F64) => test!(|a: f64| { float::testp_f64(Property::$name, a) }),)*
                _ => return Err(op.unsupported("the type is not supported")),
            }
        };
    }
    let code = each!(Finite, Infinite, Number, NotANumber, Normal, Subnormal);
    simple(decoder, code, ty.kind(), operands, Class::Pred, &[ty])
}

/// Reciprocals, roots and the approximate functions.
fn function(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let approximate = op.flag("approx");
    let mode = op.mode();
    let ty = op.ty()?;
    let ftz = mode.ftz;
    let code = match (op.name, ty, approximate) {
        ("rcp", Type::F32, false) => with_mode!(mode, M => map!(|a: f32| -> f32 { float::rcp(a, M) })),
        ("sqrt", Type::F32, false) => with_mode!(mode, M => map!(|a: f32| -> f32 { float::sqrt(a, M) })),
        ("rcp", Type::F64, false) => {
            with_round!(mode.round, R => map!(|a: f64| -> f64 { float::rcp_f64(a, R) }))
        }
        ("sqrt", Type::F64, false) => {
            with_round!(mode.round, R => map!(|a: f64| -> f64 { float::sqrt_f64(a, R) }))
        }
        ("rcp", Type::F32, true) => with_flag!(ftz, FTZ => map!(|a: f32| -> f32 { approx::rcp(a, FTZ) })),
        ("sqrt", Type::F32, true) => with_flag!(ftz, FTZ => map!(|a: f32| -> f32 { approx::sqrt(a, FTZ) })),
        ("rsqrt", Type::F32, true) => with_flag!(ftz, FTZ => map!(|a: f32| -> f32 { approx::rsqrt(a, FTZ) })),
        ("sin", Type::F32, true) => with_flag!(ftz, FTZ => map!(|a: f32| -> f32 { approx::sin(a, FTZ) })),
        ("cos", Type::F32, true) => with_flag!(ftz, FTZ => map!(|a: f32| -> f32 { approx::cos(a, FTZ) })),
        ("lg2", Type::F32, true) => with_flag!(ftz, FTZ => map!(|a: f32| -> f32 { approx::lg2(a, FTZ) })),
        ("ex2", Type::F32, true) => with_flag!(ftz, FTZ => map!(|a: f32| -> f32 { approx::ex2(a, FTZ) })),
        ("tanh", Type::F32, true) => map!(|a: f32| -> f32 { approx::tanh(a) }),
        ("rcp", Type::F64, true) if ftz => map!(|a: f64| -> f64 { approx::rcp_f64(a) }),
        ("rsqrt", Type::F64, true) => {
            with_flag!(ftz, FTZ => map!(|a: f64| -> f64 { approx::rsqrt_f64(a, FTZ) }))
        }
        ("ex2", Type::F16, true) => {
            with_flag!(ftz, FTZ => map!(|a: u16| -> u16 { half::ex2::<F16>(a, FTZ) }))
        }
        ("ex2", Type::Bf16, true) => map!(|a: u16| -> u16 { half::ex2::<Bf16>(a, true) }),
        ("ex2", Type::F16x2, true) => {
            with_flag!(ftz, FTZ => map!(|a: u32| -> u32 { half::ex2_x2::<F16>(a, FTZ) }))
        }
        ("ex2", Type::Bf16x2, true) => map!(|a: u32| -> u32 { half::ex2_x2::<Bf16>(a, true) }),
        ("tanh", Type::F16, true) => map!(|a: u16| -> u16 { half::tanh::<F16>(a) }),
        ("tanh", Type::Bf16, true) => map!(|a: u16| -> u16 { half::tanh::<Bf16>(a) }),
        ("tanh", Type::F16x2, true) => map!(|a: u32| -> u32 { half::tanh_x2::<F16>(a) }),
        ("tanh", Type::Bf16x2, true) => map!(|a: u32| -> u32 { half::tanh_x2::<Bf16>(a) }),
        _ => return Err(op.unsupported("the type is not supported")),
    };
    simple(decoder, code, Kind::Special, operands, ty.class(), &[ty])
}

fn mov(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let ty = op.ty()?;
    let [dst, src] = operands else { return decoder.fail("mov takes two operands") };
    match (dst, src) {
        (Operand::Vector(parts), src) => {
            let bits = part_bits(decoder, ty, parts)?;
            let src = decoder.source(src, ty)?;
            let class = if bits == 64 { Class::Long } else { Class::Word };
            let parts =
                parts.iter().map(|part| decoder.destination(part, class)).collect::<Result<Vec<_>>>()?;
            decoder.emit(Code::Unpack { bits }, Some(Kind::Move), &parts, &[src]);
        }
        (dst, Operand::Vector(parts)) => {
            let bits = part_bits(decoder, ty, parts)?;
            let part = if bits == 64 { Type::B64 } else { Type::B32 };
            let parts =
                parts.iter().map(|source| decoder.source(source, part)).collect::<Result<Vec<_>>>()?;
            let dst = decoder.destination(dst, ty.class())?;
            decoder.emit(Code::Pack { bits }, Some(Kind::Move), &[dst], &parts);
        }
        (dst, Operand::Special(name)) => {
            let Some(special) = special(name) else {
                return decoder.fail(format!("the special register `{name}` is not supported"));
            };
            let dst = decoder.destination(dst, ty.class())?;
            decoder.emit(Code::Special(special), Some(Kind::Move), &[dst], &[]);
        }
        (dst, src) => {
            let src = decoder.source(src, ty)?;
            let dst = decoder.destination(dst, ty.class())?;
            let code = match ty.class() {
                Class::Word => map!(|a: u32| -> u32 { a }),
                Class::Long => map!(|a: u64| -> u64 { a }),
                Class::Pred => Code::Pred(PredOp::Move),
            };
            decoder.emit(code, Some(Kind::Move), &[dst], &[src]);
        }
    }
    Ok(())
}

/// Bits of each of the parts that a register is packed of.
fn part_bits(decoder: &Decoder, ty: Type, parts: &[Operand]) -> Result<u8> {
    match (parts.len(), 8 * ty.bytes()) {
        (2, bits @ (16 | 32 | 64)) => Ok(bits / 2),
        (4, bits @ (32 | 64)) => Ok(bits / 4),
        _ => decoder.fail("a vector of the wrong length"),
    }
}

fn special(name: &str) -> Option<Special> {
    let axis = |name: &str| ["x", "y", "z"].iter().position(|axis| *axis == name).map(|axis| axis as u8);
    if let Some((register, component)) = name.rsplit_once('.') {
        let axis = axis(component)?;
        return Some(match register {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NwarpId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%clock" => Special::Clock,
        "%clock_hi" => Special::ClockHi,
        "%clock64" => Special::Clock64,
        "%globaltimer" => Special::GlobalTimer,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NsmId,
        "%gridid" => Special::GridId,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}
