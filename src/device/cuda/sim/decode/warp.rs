//! Control flow, barriers, and what the lanes of a warp do together.

use super::inline::BUILTINS;
use super::types::{Opcode, Type};
use super::{Decoder, Result};
use crate::device::cuda::sim::math::mma::{Accumulator, Mma, Operand as Matrix};
use crate::device::cuda::sim::program::{
    Barrier, Class, Code, Kind, Matrix as Form, Reduce, Shuffle, Slot, Tensor, Vote,
};
use crate::device::cuda::sim::ptx::Operand;

pub(super) fn decode(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<bool> {
    match op.name {
        "bra" => {
            op.ignore(&["uni"]);
            let [Operand::Label(label)] = operands else { return decoder.fail("bra takes a label") };
            decoder.emit(Code::Branch { target: label.0 }, Some(Kind::Control), &[], &[]);
        }
        "brx" => {
            op.ignore(&["idx", "uni"]);
            let [index, Operand::Targets(labels)] = operands else {
                return decoder.fail("brx.idx takes an index and a list of targets");
            };
            let index = decoder.source(index, Type::U32)?;
            let targets = labels.iter().map(|label| label.0).collect();
            decoder.emit(Code::BranchTable(targets), Some(Kind::Control), &[], &[index]);
        }
        "ret" | "exit" => {
            op.ignore(&["uni"]);
            decoder.emit(Code::Exit, Some(Kind::Control), &[], &[]);
        }
        "trap" => decoder.emit(Code::Trap, Some(Kind::Control), &[], &[]),
        "nanosleep" => {
            op.ty()?;
            decoder.emit(Code::Nop, Some(Kind::Control), &[], &[]);
        }
        "brkpt" => decoder.emit(Code::Nop, Some(Kind::Control), &[], &[]),
        "call" => call(decoder, op, operands)?,
        "bar" | "barrier" => barrier(decoder, op, operands)?,
        "membar" | "fence" => {
            let block = op.flag("cta");
            op.ignore(&["gl", "sys", "gpu", "cluster", "sc", "acq_rel", "acquire", "release"]);
            op.ignore_prefix("proxy");
            op.ignore_prefix("async");
            decoder.facts.fences |= !block;
            decoder.emit(Code::Fence, Some(Kind::Barrier), &[], &[]);
        }
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => collective(decoder, op, operands)?,
        "ldmatrix" | "stmatrix" | "movmatrix" => matrix(decoder, op, operands)?,
        "mma" => mma(decoder, op, operands)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A call of a function that the simulator provides; all others have been inlined.
fn call(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    op.ignore(&["uni"]);
    let name = operands.iter().find_map(|operand| match operand {
        Operand::Name(name) => Some(name.as_str()),
        _ => None,
    });
    let position = operands.iter().position(|operand| matches!(operand, Operand::Name(_)));
    let (Some(name), Some(position)) = (name, position) else { return decoder.fail("an indirect call") };
    if !BUILTINS.contains(&name) {
        return decoder.fail(format!("call of `{name}`, which is not in the module"));
    }
    let list = |operand: Option<&Operand>| match operand {
        Some(Operand::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let results = if position > 0 { list(operands.first()) } else { Vec::new() };
    let mut arguments = Vec::new();
    for argument in list(operands.get(position + 1)) {
        let Operand::Local(variable) = argument else {
            return decoder.fail("an argument that is no `.param`");
        };
        let found = [8, 4].iter().find_map(|&bytes| decoder.arguments.get(&(variable, 0, bytes)));
        let Some(&slot) = found else { return decoder.fail("an argument that was not written") };
        arguments.push(slot);
    }
    let mut dsts = Vec::new();
    for result in results {
        let Operand::Local(variable) = result else { return decoder.fail("a result that is no `.param`") };
        let to = decoder.temporary(Class::Word);
        decoder.arguments.insert((variable, 0, 4), to);
        dsts.push(to);
    }
    let (code, expected) = if name == "vprintf" { (Code::Print, 2) } else { (Code::Assert, 5) };
    if arguments.len() != expected {
        return decoder.fail("wrong number of arguments");
    }
    decoder.emit(code, Some(Kind::Control), &dsts, &arguments);
    Ok(())
}

fn barrier(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    if op.flag("warp") {
        op.ignore(&["sync"]);
        let [mask] = decoder.sources(operands, [Type::B32])?;
        decoder.emit(Code::WarpSync, Some(Kind::Barrier), &[], &[mask]);
        return Ok(());
    }
    if op.flag("cluster") {
        return Err(op.unsupported("clusters are not supported"));
    }
    op.ignore(&["cta", "aligned"]);
    let reduction = op.flag("red");
    let code = if reduction {
        op.choice(&[("popc", Barrier::Popc), ("and", Barrier::And), ("or", Barrier::Or)])
    } else {
        op.choice(&[("sync", Barrier::Sync), ("arrive", Barrier::Arrive)])
    };
    let Some(code) = code else { return Err(op.unsupported("the form is not supported")) };
    if operands.len() <= usize::from(reduction) {
        return decoder.fail("wrong number of operands");
    }
    let (dsts, sources) = if reduction {
        op.ty()?;
        let [dst, rest @ .., value] = operands else { return decoder.fail("wrong number of operands") };
        let class = if code == Barrier::Popc { Class::Word } else { Class::Pred };
        let dst = decoder.destination(dst, class)?;
        let mut sources = Vec::new();
        for operand in rest {
            sources.push(decoder.source(operand, Type::U32)?);
        }
        sources.push(decoder.source(value, Type::Pred)?);
        (vec![dst], sources)
    } else {
        let sources = operands.iter().map(|operand| decoder.source(operand, Type::U32));
        (Vec::new(), sources.collect::<Result<Vec<_>>>()?)
    };
    decoder.emit(Code::Barrier(code), Some(Kind::Barrier), &dsts, &sources);
    Ok(())
}

fn collective(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    let kind = Some(Kind::Warp);
    if op.name == "activemask" {
        op.ty()?;
        let [dst] = operands else { return decoder.fail("wrong number of operands") };
        let dst = decoder.destination(dst, Class::Word)?;
        decoder.emit(Code::Activemask, kind, &[dst], &[]);
        return Ok(());
    }
    if !op.flag("sync") {
        return Err(op.unsupported("only the `.sync` form is supported"));
    }
    let [dst, rest @ ..] = operands else { return decoder.fail("wrong number of operands") };
    match op.name {
        "shfl" => {
            let mode = op.choice(&[
                ("up", Shuffle::Up),
                ("down", Shuffle::Down),
                ("bfly", Shuffle::Butterfly),
                ("idx", Shuffle::Index),
            ]);
            let Some(mode) = mode else { return Err(op.unsupported("the mode is not known")) };
            op.ty()?;
            let sources = decoder.sources(rest, [Type::B32; 4])?;
            let dsts = decoder.pair(dst, Class::Word)?;
            decoder.emit(Code::Shuffle(mode), kind, &dsts, &sources);
        }
        "vote" => {
            let mode = op.choice(&[
                ("all", Vote::All),
                ("any", Vote::Any),
                ("uni", Vote::Uniform),
                ("ballot", Vote::Ballot),
            ]);
            let Some(mode) = mode else { return Err(op.unsupported("the mode is not known")) };
            op.ty()?;
            let class = if mode == Vote::Ballot { Class::Word } else { Class::Pred };
            let sources = decoder.sources(rest, [Type::Pred, Type::B32])?;
            let dst = decoder.destination(dst, class)?;
            decoder.emit(Code::Vote(mode), kind, &[dst], &sources);
        }
        "match" => {
            let all = op.flag("all");
            op.ignore(&["any"]);
            let ty = op.ty()?;
            let sources = decoder.sources(rest, [ty, Type::B32])?;
            let dsts = decoder.pair(dst, Class::Word)?;
            decoder.emit(if all { Code::MatchAll } else { Code::MatchAny }, kind, &dsts, &sources);
        }
        "redux" => {
            let name = op.choice(&[("add", 0), ("min", 1), ("max", 2), ("and", 3), ("or", 4), ("xor", 5)]);
            let signed = op.ty()?.signed();
            let reduce = match (name, signed) {
                (Some(0), _) => Reduce::Add,
                (Some(1), false) => Reduce::MinU,
                (Some(1), true) => Reduce::MinS,
                (Some(2), false) => Reduce::MaxU,
                (Some(2), true) => Reduce::MaxS,
                (Some(3), _) => Reduce::And,
                (Some(4), _) => Reduce::Or,
                (Some(5), _) => Reduce::Xor,
                _ => return Err(op.unsupported("the operation is not supported")),
            };
            let sources = decoder.sources(rest, [Type::B32; 2])?;
            let dst = decoder.destination(dst, Class::Word)?;
            decoder.emit(Code::Redux(reduce), kind, &[dst], &sources);
        }
        _ => {
            let sources = decoder.sources(rest, [Type::B32])?;
            let dsts = decoder.pair(dst, Class::Word)?;
            decoder.emit(Code::Elect, kind, &dsts, &sources);
        }
    }
    Ok(())
}

impl Decoder {
    /// `d|p`, or `d` alone.
    fn pair(&mut self, operand: &Operand, class: Class) -> Result<Vec<Slot>> {
        match operand {
            Operand::Pair(d, p) => Ok(vec![self.destination(d, class)?, self.destination(p, Class::Pred)?]),
            d => Ok(vec![self.destination(d, class)?]),
        }
    }

    /// The registers of a fragment.
    fn fragment(&mut self, operand: &Operand, ty: Type, write: bool) -> Result<Vec<Slot>> {
        let parts = match operand {
            Operand::Vector(list) => &list[..],
            one => std::slice::from_ref(one),
        };
        let mut slots = Vec::with_capacity(parts.len());
        for part in parts {
            slots.push(if write { self.destination(part, ty.class())? } else { self.source(part, ty)? });
        }
        Ok(slots)
    }
}

fn matrix(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    op.ignore(&["sync", "aligned", "shared", "shared::cta"]);
    if !op.flag("m8n8") {
        return Err(op.unsupported("only 8 x 8 matrices are supported"));
    }
    let count = op.choice(&[("x1", 1), ("x2", 2), ("x4", 4)]).unwrap_or(1);
    let transposed = op.flag("trans");
    if op.ty()? != Type::B16 {
        return Err(op.unsupported("only 16-bit elements are supported"));
    }
    let [first, second] = operands else { return decoder.fail("wrong number of operands") };
    if op.name == "movmatrix" {
        let [src] = decoder.sources(std::slice::from_ref(second), [Type::B32])?;
        let dst = decoder.destination(first, Class::Word)?;
        decoder.emit(Code::MoveMatrix, Some(Kind::Tensor), &[dst], &[src]);
        return Ok(());
    }
    let load = op.name == "ldmatrix";
    let (registers, address) = if load { (first, second) } else { (second, first) };
    decoder.shared_access(16);
    let address = decoder.shared_address(address)?;
    let registers = decoder.fragment(registers, Type::B32, load)?;
    if registers.len() != count {
        return decoder.fail("the vector has another length than the opcode says");
    }
    let form = Form { transposed, offset: address.offset };
    if load {
        decoder.emit(Code::LoadMatrix(form), Some(Kind::Shared), &registers, &[address.base]);
    } else {
        let mut sources = vec![address.base];
        sources.extend(registers);
        decoder.emit(Code::StoreMatrix(form), Some(Kind::Shared), &[], &sources);
    }
    Ok(())
}

fn mma(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    op.ignore(&["sync", "aligned", "row", "col"]);
    if op.flag("m8n8k4") {
        return mma_f64(decoder, op, operands);
    }
    let satfinite = op.flag("satfinite");
    let shape = op.choice(&[
        ("m8n8k16", [8, 8, 16]),
        ("m8n8k32", [8, 8, 32]),
        ("m16n8k4", [16, 8, 4]),
        ("m16n8k8", [16, 8, 8]),
        ("m16n8k16", [16, 8, 16]),
        ("m16n8k32", [16, 8, 32]),
        ("m16n8k64", [16, 8, 64]),
    ]);
    let Some(shape) = shape else { return Err(op.unsupported("the shape is not supported")) };
    let accumulators = [("f32", Accumulator::F32), ("f16", Accumulator::F16), ("s32", Accumulator::S32)];
    let elements = [
        ("f16", Matrix::F16),
        ("bf16", Matrix::Bf16),
        ("tf32", Matrix::Tf32),
        ("e4m3", Matrix::E4m3),
        ("e5m2", Matrix::E5m2),
        ("u8", Matrix::U8),
        ("s8", Matrix::S8),
        ("u4", Matrix::U4),
        ("s4", Matrix::S4),
    ];
    let types = op.rest();
    let [d, a, b, c] = types[..] else { return Err(op.unsupported("four types are expected")) };
    let types_name = if a == b { a.to_owned() } else { format!("{a} {b}") };
    let accumulator =
        |name: &str| accumulators.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let element = |name: &str| elements.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let found = match (accumulator(c), element(a), element(b)) {
        (Some(accumulator), Some(a), Some(b)) if c == d => Mma::find(shape, a, b, accumulator, satfinite),
        _ => None,
    };
    let [m, n, k] = shape;
    let name = format!("m{m}n{n}k{k} {types_name}");
    let Some(mma) = found else { return Err(op.unsupported("the types are not supported")) };
    let [d, a, b, c] = operands else { return decoder.fail("mma takes four operands") };
    let dsts = decoder.fragment(d, Type::B32, true)?;
    let mut sources = Vec::new();
    let mut counts = Vec::new();
    for operand in [a, b, c] {
        let words = decoder.fragment(operand, Type::B32, false)?;
        counts.push(words.len());
        sources.extend(words);
    }
    let [for_a, for_b, for_c] = mma.registers();
    if counts != [for_a, for_b, for_c] || dsts.len() != for_c {
        return decoder.fail("a fragment has the wrong number of registers");
    }
    decoder.emit(Code::Mma(Box::new(Tensor { mma, name })), Some(Kind::Tensor), &dsts, &sources);
    Ok(())
}

/// `mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64`
fn mma_f64(decoder: &mut Decoder, op: &mut Opcode, operands: &[Operand]) -> Result<()> {
    if op.rest() != ["f64"; 4] {
        return Err(op.unsupported("this shape is supported for f64 alone"));
    }
    let [d, a, b, c] = operands else { return decoder.fail("mma takes four operands") };
    let dsts = decoder.fragment(d, Type::F64, true)?;
    let mut sources = decoder.fragment(a, Type::F64, false)?;
    sources.extend(decoder.fragment(b, Type::F64, false)?);
    sources.extend(decoder.fragment(c, Type::F64, false)?);
    if dsts.len() != 2 || sources.len() != 4 {
        return decoder.fail("a fragment has the wrong number of registers");
    }
    decoder.emit(Code::MmaF64, Some(Kind::Tensor), &dsts, &sources);
    Ok(())
}
