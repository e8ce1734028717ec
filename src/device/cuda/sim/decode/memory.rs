//! Loads, stores, atomics, asynchronous copies and addresses.

use super::types::{Opcode, Type};
use super::{Address, Decoder, Result};
use crate::device::cuda::sim::lanes::map;
use crate::device::cuda::sim::program::{
    Access, Atom, AtomOp, AtomType, Class, Code, Kind, MemSpace, ParamConstant, Slot,
};
use crate::device::cuda::sim::ptx::{Operand, Space};

/// Modifiers that choose a cache or a scope: nothing that a simulation in program order could show.
const HINTS: [&str; 14] =
    ["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "cta", "cluster", "gpu", "sys", "unified"];

pub(super) fn decode(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<bool> {
    match op.name {
        "ld" | "ldu" => load(decoder, op, operands)?,
        "st" => store(decoder, op, operands)?,
        "atom" | "red" => atom(decoder, op, operands)?,
        "cp" => copy(decoder, op, operands)?,
        "cvta" => {
            let to = op.flag("to");
            let space = space(op);
            let ty = op.ty()?;
            let [dst, src] = operands else { return decoder.fail("cvta takes two operands") };
            let src = decoder.source(src, ty)?;
            let dst = decoder.destination(dst, Class::Long)?;
            let code = match (space, to) {
                (MemSpace::Global, _) => map!(|a: u64| -> u64 { a }),
                (space, true) => Code::FromGeneric(space),
                (space, false) => Code::ToGeneric(space),
            };
            decoder.emit(code, Some(Kind::Integer), &[dst], &[src]);
        }
        "isspacep" => {
            let space = space(op);
            let [dst, src] = operands else { return decoder.fail("isspacep takes two operands") };
            let src = decoder.source(src, Type::U64)?;
            let dst = decoder.destination(dst, Class::Pred)?;
            decoder.emit(Code::IsSpace(space), Some(Kind::Integer), &[dst], &[src]);
        }
        "prefetch" | "prefetchu" | "discard" | "applypriority" => {
            let space = space(op);
            op.ignore(&["L1", "L2", "tensormap"]);
            op.ignore_prefix("L2::");
            decoder.emit(Code::Nop, Some(kind(space)), &[], &[]);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn space(op: &mut Opcode) -> MemSpace {
    op.choice(&[
        ("global", MemSpace::Global),
        ("shared", MemSpace::Shared),
        ("shared::cta", MemSpace::Shared),
        ("shared::cluster", MemSpace::Shared),
        ("local", MemSpace::Local),
        ("const", MemSpace::Const),
        ("param", MemSpace::Param),
        ("param::entry", MemSpace::Param),
        ("param::func", MemSpace::Param),
    ])
    .unwrap_or(MemSpace::Generic)
}

fn kind(space: MemSpace) -> Kind {
    match space {
        MemSpace::Global | MemSpace::Generic => Kind::Global,
        MemSpace::Shared => Kind::Shared,
        MemSpace::Local => Kind::Local,
        MemSpace::Const | MemSpace::Param => Kind::Constant,
    }
}

/// What `ld` and `st` have in common: space, vector, type, whether it takes part in the memory model's ordering.
struct Form {
    space: MemSpace,
    ty: Type,
    count: u8,
    strong: bool,
}

fn form(decoder: &mut Decoder, op: &mut Opcode) -> Result<Form> {
    let strong = ["volatile", "relaxed", "acquire", "release", "mmio"]
        .iter()
        .fold(false, |any, name| op.flag(name) | any);
    let space = space(op);
    op.ignore(&HINTS);
    op.ignore_prefix("L1::");
    op.ignore_prefix("L2::");
    let count = op.choice(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    let ty = op.ty()?;
    if ty == Type::Pred || count * ty.bytes() > 32 {
        return Err(op.unsupported("the type is not supported"));
    }
    if strong && matches!(space, MemSpace::Global | MemSpace::Generic) {
        decoder.facts.fences = true;
    }
    if matches!(space, MemSpace::Shared | MemSpace::Generic) {
        decoder.shared_access(u32::from(ty.bytes()) * u32::from(count));
    }
    if matches!(space, MemSpace::Global | MemSpace::Generic) {
        let narrowest = &mut decoder.facts.global_granule;
        *narrowest = Some(narrowest.unwrap_or(u32::MAX).min(u32::from(ty.bytes()) * u32::from(count)));
    }
    Ok(Form { space, ty, count, strong })
}

/// The elements of a vector operand, or the operand alone.
fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(list) => list,
        one => std::slice::from_ref(one),
    }
}

impl Decoder {
    pub(super) fn shared_access(&mut self, bytes: u32) {
        let narrowest = self.facts.shared_granule.unwrap_or(u32::MAX);
        self.facts.shared_granule = Some(narrowest.min(bytes));
    }

    /// A register that a load writes or a store reads: it may be wider than the type.
    fn data(&mut self, operand: &Operand, ty: Type, write: bool) -> Result<Slot> {
        match operand {
            Operand::Reg(register) => {
                let slot = self.register(*register);
                if slot.class() == Class::Pred || ty.class() == Class::Long && slot.class() == Class::Word {
                    return self.fail("the register is too narrow");
                }
                Ok(slot)
            }
            Operand::Sink if write => Ok(self.temporary(ty.class())),
            other => self.source(other, ty),
        }
    }

    /// The piece of a call's `.param` variable that `[param0+4]` names, if it is one.
    fn argument(&self, operand: &Operand) -> Option<(u32, i64)> {
        let Operand::Address(base, offset) = operand else { return None };
        match **base {
            Operand::Local(variable) if self.locals[variable as usize].is_none() => Some((variable, *offset)),
            _ => None,
        }
    }

    pub(super) fn shared_address(&mut self, operand: &Operand) -> Result<Address> {
        let address = self.address(operand)?;
        match address.space {
            None | Some(Space::Shared) => Ok(address),
            Some(_) => self.fail("the address is not in shared memory"),
        }
    }
}

fn load(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let form = form(decoder, op)?;
    let [dst, address] = operands else { return decoder.fail("ld takes two operands") };
    let parts = elements(dst);
    if parts.len() != usize::from(form.count) {
        return decoder.fail("the vector has another length than the opcode says");
    }
    let dsts = parts.iter().map(|part| decoder.data(part, form.ty, true)).collect::<Result<Vec<_>>>()?;
    let bytes = form.ty.bytes();
    if form.space == MemSpace::Param {
        if let Some((variable, offset)) = decoder.argument(address) {
            for (i, &dst) in dsts.iter().enumerate() {
                let key = (variable, offset + i as i64 * i64::from(bytes), bytes);
                let Some(&from) = decoder.arguments.get(&key) else {
                    return Err(
                        op.unsupported("a parameter of a call read in other pieces than it was written")
                    );
                };
                decoder.copy(dst, from, Kind::Move);
            }
            return Ok(());
        }
        let from = decoder.address(address)?;
        if from.base.is_constant() {
            for (i, &dst) in dsts.iter().enumerate() {
                let start = decoder.longs.values[from.base.index()].wrapping_add_signed(from.offset);
                let offset = start as u32 + i as u32 * u32::from(bytes);
                let constant = decoder.param(dst.class(), offset, bytes, form.ty.signed());
                decoder.copy(dst, constant, Kind::Constant);
            }
            return Ok(());
        }
    }
    let from = decoder.address(address)?;
    let access = Access {
        space: form.space,
        offset: from.offset,
        bytes,
        count: form.count,
        signed: form.ty.signed(),
        strong: form.strong,
    };
    decoder.emit(Code::Load(access), Some(kind(form.space)), &dsts, &[from.base]);
    Ok(())
}

impl Decoder {
    fn copy(&mut self, to: Slot, from: Slot, kind: Kind) {
        let code = match (to.class(), from.class()) {
            (Class::Long, Class::Long) => map!(|a: u64| -> u64 { a }),
            (Class::Long, _) => map!(|a: u32| -> u64 { u64::from(a) }),
            (_, Class::Long) => map!(|a: u64| -> u32 { a as u32 }),
            _ => map!(|a: u32| -> u32 { a }),
        };
        self.emit(code, Some(kind), &[to], &[from]);
    }

    /// The constant that the launch fills with these bytes of the parameters.
    fn param(&mut self, class: Class, offset: u32, bytes: u8, signed: bool) -> Slot {
        let known = self.param_constants.iter().find(|known| {
            (known.slot.class(), known.offset, known.bytes, known.signed) == (class, offset, bytes, signed)
        });
        if let Some(known) = known {
            return known.slot;
        }
        let index = match class {
            Class::Long => self.longs.reserve(0),
            _ => self.words.reserve(0),
        };
        let slot = Slot::constant(class, index);
        self.param_constants.push(ParamConstant { slot, offset, bytes, signed });
        slot
    }
}

fn store(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let form = form(decoder, op)?;
    let [address, value] = operands else { return decoder.fail("st takes two operands") };
    let parts = elements(value);
    if parts.len() != usize::from(form.count) {
        return decoder.fail("the vector has another length than the opcode says");
    }
    let values = parts.iter().map(|part| decoder.data(part, form.ty, false)).collect::<Result<Vec<_>>>()?;
    let bytes = form.ty.bytes();
    if form.space == MemSpace::Param {
        let Some((variable, offset)) = decoder.argument(address) else {
            return Err(op.unsupported("a store to a kernel's parameter"));
        };
        for (i, &value) in values.iter().enumerate() {
            let key = (variable, offset + i as i64 * i64::from(bytes), bytes);
            let to = match decoder.arguments.get(&key) {
                Some(&to) => to,
                None => {
                    let to = decoder.temporary(value.class());
                    *decoder.arguments.entry(key).or_insert(to)
                }
            };
            decoder.copy(to, value, Kind::Move);
        }
        return Ok(());
    }
    let to = decoder.address(address)?;
    let access = Access {
        space: form.space,
        offset: to.offset,
        bytes,
        count: form.count,
        signed: false,
        strong: form.strong,
    };
    let mut sources = vec![to.base];
    sources.extend(values);
    decoder.emit(Code::Store(access), Some(kind(form.space)), &[], &sources);
    Ok(())
}

fn atom(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    op.ignore(&["relaxed", "acquire", "release", "acq_rel", "noftz"]);
    let space = space(op);
    op.ignore(&HINTS);
    op.ignore_prefix("L2::");
    let Some(operation) = op.choice(&[
        ("add", AtomOp::Add),
        ("min", AtomOp::Min),
        ("max", AtomOp::Max),
        ("and", AtomOp::And),
        ("or", AtomOp::Or),
        ("xor", AtomOp::Xor),
        ("exch", AtomOp::Exch),
        ("cas", AtomOp::Cas),
        ("inc", AtomOp::Inc),
        ("dec", AtomOp::Dec),
    ]) else {
        return Err(op.unsupported("the operation is not supported"));
    };
    let ty = op.ty()?;
    let kind_of = match ty {
        Type::F32 => AtomType::F32,
        Type::F64 => AtomType::F64,
        Type::F16 => AtomType::F16,
        Type::Bf16 => AtomType::Bf16,
        Type::F16x2 => AtomType::F16x2,
        Type::Bf16x2 => AtomType::Bf16x2,
        Type::S32 | Type::S64 => AtomType::Signed,
        Type::U32 | Type::U64 | Type::B16 | Type::B32 | Type::B64 => AtomType::Unsigned,
        _ => return Err(op.unsupported("the type is not supported")),
    };
    let integer = matches!(kind_of, AtomType::Unsigned | AtomType::Signed);
    if !integer && operation != AtomOp::Add {
        return Err(op.unsupported("the type is not supported"));
    }
    if space != MemSpace::Shared {
        decoder.facts.atomics = true;
    }
    if space != MemSpace::Global {
        decoder.shared_access(ty.bytes().into());
    }
    let returns = op.name == "atom";
    let (dst, operands) = if returns {
        let [dst, rest @ ..] = operands else { return decoder.fail("wrong number of operands") };
        (Some(decoder.destination(dst, ty.class())?), rest)
    } else {
        (None, operands)
    };
    let [address, values @ ..] = operands else { return decoder.fail("wrong number of operands") };
    if values.len() != if operation == AtomOp::Cas { 2 } else { 1 } {
        return decoder.fail("wrong number of operands");
    }
    let address = decoder.address(address)?;
    let mut sources = vec![address.base];
    for value in values {
        sources.push(decoder.source(value, ty)?);
    }
    let code =
        Atom { space, offset: address.offset, op: operation, kind: kind_of, bytes: ty.bytes(), returns };
    let dsts = dst.as_slice();
    decoder.emit(Code::Atom(code), Some(kind(space)), dsts, &sources);
    Ok(())
}

/// `cp.async` and its groups.
fn copy(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    if !op.flag("async") {
        return Err(op.unsupported("the instruction is not supported"));
    }
    let constant = |operand: &Operand| match operand {
        Operand::Int(value) => Some(*value),
        _ => None,
    };
    if op.flag("commit_group") {
        decoder.emit(Code::AsyncCommit, Some(Kind::Global), &[], &[]);
        return Ok(());
    }
    if op.flag("wait_all") {
        decoder.emit(Code::AsyncWaitAll, Some(Kind::Barrier), &[], &[]);
        return Ok(());
    }
    if op.flag("wait_group") {
        let Some(pending) = operands.first().and_then(constant) else {
            return decoder.fail("wait_group takes a number");
        };
        decoder.emit(Code::AsyncWait { pending: pending as u32 }, Some(Kind::Barrier), &[], &[]);
        return Ok(());
    }
    let cache = op.flag("ca") | op.flag("cg");
    let shared = op.flag("shared") | op.flag("shared::cta");
    if !(cache && shared && op.flag("global")) {
        return Err(op.unsupported("the form is not supported"));
    }
    op.ignore_prefix("L2::");
    let [dst, src, size, rest @ ..] = operands else { return decoder.fail("wrong number of operands") };
    let Some(bytes @ (4 | 8 | 16)) = constant(size) else {
        return decoder.fail("cp.async copies 4, 8 or 16 bytes");
    };
    decoder.shared_access(bytes as u32);
    let (dst, src) = (decoder.shared_address(dst)?, decoder.address(src)?);
    let size = match rest {
        [] => decoder.word(bytes as u32),
        [size, ..] => match size {
            Operand::Reg(register) if decoder.register(*register).class() == Class::Pred => {
                // The source is ignored where the predicate holds.
                let ignore = decoder.register(*register);
                let (none, all) = (decoder.word(0), decoder.word(bytes as u32));
                let size = decoder.temporary(Class::Word);
                decoder.emit(Code::SelectWord, None, &[size], &[none, all, ignore]);
                size
            }
            size => decoder.source(size, Type::U32)?,
        },
    };
    let code = Code::AsyncCopy { bytes: bytes as u8, dst_offset: dst.offset, src_offset: src.offset };
    decoder.emit(code, Some(Kind::Global), &[], &[dst.base, src.base, size]);
    Ok(())
}
