//! From PTX instructions to [`Program`]s.
//!
//! Every operand becomes a [`Slot`]: a register or a constant. Every opcode becomes a [`Code`], with its modifiers baked
//! in. An opcode, a type or a modifier that is not known here is an error that names the line, never a guess.

mod arithmetic;
mod convert;
mod inline;
mod memory;
mod types;
mod warp;

use std::collections::HashMap;

use super::Error;
use super::flow;
use super::lanes::test;
use super::program::{Class, Code, Inst, Kind, Param, ParamConstant, Place, PredOp, Program, Slot};
use super::ptx::{Function, Instruction, Module, Operand, Reg, RegType, Space, Statement, Variable};
use types::{Opcode, Type};

pub type Result<T> = std::result::Result<T, Error>;

/// Where a module variable lies: an address in its own space.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    pub space: Space,
    pub address: u64,
}

/// Decodes one kernel. `symbols` holds the module's variables in global and constant memory.
pub fn decode(module: &Module, function: &Function, symbols: &HashMap<String, Symbol>) -> Result<Program> {
    let body = inline::inline(module, function)?;
    let (params, param_bytes) = layout_params(&function.params);
    let mut decoder = Decoder {
        registers: body.registers.clone(),
        insts: Vec::new(),
        slots: Vec::new(),
        places: Vec::new(),
        words: Pool::default(),
        longs: Pool::default(),
        param_constants: Vec::new(),
        arguments: HashMap::new(),
        labels: vec![u32::MAX; body.labels as usize],
        symbols: symbols.clone(),
        locals: Vec::new(),
        carry: None,
        guard: None,
        facts: Facts::default(),
        target: module.target,
        line: function.line,
        opcode: String::new(),
    };
    let memory = decoder.layout_variables(module, &body, &params)?;
    for statement in &body.statements {
        match statement {
            Statement::Label(label) => decoder.labels[label.0 as usize] = decoder.insts.len() as u32,
            Statement::Instruction(instruction) => decoder.instruction(instruction)?,
        }
    }
    if decoder.param_constants.iter().any(|read| read.offset + u32::from(read.bytes) > param_bytes) {
        return Err(Error::unsupported(function.line, "the kernel reads past its parameters"));
    }
    // Falling off the end of a kernel ends it.
    decoder.guard = None;
    decoder.emit(Code::Exit, None, &[], &[]);
    decoder.resolve_labels();
    let facts = decoder.facts;
    let mut program = Program {
        name: function.name.clone(),
        insts: decoder.insts,
        slots: decoder.slots,
        places: decoder.places,
        words: decoder.words.values,
        longs: decoder.longs.values,
        param_constants: decoder.param_constants,
        registers: [0; 3],
        params,
        param_bytes,
        static_shared: memory.shared,
        local_bytes: memory.local,
        max_threads: function.max_threads,
        shared_granule: facts.shared_granule.unwrap_or(4).min(4),
        global_shift: facts.global_granule.unwrap_or(4).min(4).trailing_zeros(),
        ordered: facts.atomics || facts.fences,
        fences: facts.fences,
    };
    flow::arrange(&mut program);
    Ok(program)
}

/// Constants of one class, each once.
#[derive(Default)]
struct Pool<T> {
    values: Vec<T>,
    index: HashMap<T, u32>,
}

impl<T: Copy + Eq + std::hash::Hash> Pool<T> {
    fn get(&mut self, value: T) -> u32 {
        *self.index.entry(value).or_insert_with(|| {
            self.values.push(value);
            self.values.len() as u32 - 1
        })
    }

    /// A constant of its own, whose value comes later.
    fn reserve(&mut self, value: T) -> u32 {
        self.values.push(value);
        self.values.len() as u32 - 1
    }
}

/// What is learnt about a kernel on the way.
#[derive(Clone, Copy, Default)]
struct Facts {
    /// The narrowest access to shared memory, in bytes.
    shared_granule: Option<u32>,
    /// The narrowest plain access to global memory.
    global_granule: Option<u32>,
    /// Atomic operations that may reach global memory.
    atomics: bool,
    /// Fences beyond the block, volatile and ordered accesses.
    fences: bool,
}

struct MemoryUse {
    shared: u32,
    local: u32,
}

struct Decoder {
    /// Virtual registers: the body's own, then temporaries.
    registers: Vec<RegType>,
    insts: Vec<Inst>,
    slots: Vec<Slot>,
    places: Vec<Place>,
    words: Pool<u32>,
    longs: Pool<u64>,
    param_constants: Vec<ParamConstant>,
    /// `.param` variables of calls, piece by piece: (variable, offset, bytes).
    arguments: HashMap<(u32, i64, u8), Slot>,
    labels: Vec<u32>,
    symbols: HashMap<String, Symbol>,
    /// The address of each function-scope variable in its space; None for the `.param` variables of calls.
    locals: Vec<Option<Symbol>>,
    /// The carry flag, once an instruction has used it.
    carry: Option<Slot>,
    guard: Option<(Slot, bool)>,
    facts: Facts,
    /// `80` of `.target sm_80`.
    target: u32,
    /// The instruction being decoded.
    line: u32,
    opcode: String,
}

/// An operand that is an address.
struct Address {
    base: Slot,
    offset: i64,
    /// The space of the variable it names.
    space: Option<Space>,
}

impl Decoder {
    fn layout_variables(
        &mut self,
        module: &Module,
        body: &super::ptx::Body,
        params: &[Param],
    ) -> Result<MemoryUse> {
        let (mut shared, mut local) = (0u64, 0u64);
        let place = |at: &mut u64, variable: &Variable| {
            let address = at.next_multiple_of(u64::from(variable.align.max(1)));
            *at = address + variable.size;
            address
        };
        for (index, variable) in body.variables.iter().enumerate() {
            let symbol = match variable.space {
                Space::Shared => Some(place(&mut shared, variable)),
                Space::Local => Some(place(&mut local, variable)),
                Space::Param => {
                    params.get(index).filter(|param| param.name == variable.name).map(|p| p.offset.into())
                }
                Space::Global | Space::Const => {
                    return Err(Error::unsupported(variable.line, "global variables within functions"));
                }
            };
            self.locals.push(symbol.map(|address| Symbol { space: variable.space, address }));
        }
        // Shared variables at module scope take room only in the kernels that name them.
        let mut dynamic = Vec::new();
        for variable in module.variables.iter().filter(|variable| variable.space == Space::Shared) {
            if !body.statements.iter().any(|statement| names(statement, &variable.name)) {
                continue;
            }
            if variable.size == 0 {
                dynamic.push(variable);
            } else {
                let address = place(&mut shared, variable);
                self.symbols.insert(variable.name.clone(), Symbol { space: Space::Shared, address });
            }
        }
        let align = dynamic.iter().map(|variable| u64::from(variable.align)).max().unwrap_or(1).max(16);
        if !dynamic.is_empty() {
            shared = shared.next_multiple_of(align);
        }
        for variable in dynamic {
            self.symbols.insert(variable.name.clone(), Symbol { space: Space::Shared, address: shared });
        }
        let fit = |bytes: u64| {
            u32::try_from(bytes).map_err(|_| Error::unsupported(self.line, "variables of more than 4 GiB"))
        };
        Ok(MemoryUse { shared: fit(shared)?, local: fit(local.next_multiple_of(16))? })
    }

    fn resolve_labels(&mut self) {
        for inst in &mut self.insts {
            match &mut inst.code {
                Code::Branch { target } => *target = self.labels[*target as usize],
                Code::BranchTable(targets) => {
                    targets.iter_mut().for_each(|target| *target = self.labels[*target as usize]);
                }
                _ => {}
            }
        }
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<()> {
        self.line = instruction.line;
        self.opcode.clone_from(&instruction.opcode);
        self.places.push(Place { ptx_line: instruction.line, loc: instruction.loc });
        self.guard = instruction.guard.map(|(register, negated)| (self.register(register), negated));
        let mut op = Opcode::new(instruction);
        let operands = &instruction.operands[..];
        let before = self.insts.len();
        let known = arithmetic::decode(self, &mut op, operands)?
            || convert::decode(self, &mut op, operands)?
            || memory::decode(self, &mut op, operands)?
            || warp::decode(self, &mut op, operands)?;
        if !known {
            return Err(op.unsupported("the instruction is not supported"));
        }
        if !self.insts[before..].iter().all(|inst| self.fits(inst)) {
            return Err(op.unsupported("wrong operands"));
        }
        op.finish()
    }

    /// Whether an instruction has as many operands as its code takes, each of the right size.
    fn fits(&self, inst: &Inst) -> bool {
        let Some((dst, srcs)) = inst.code.signature() else { return true };
        let slots = &self.slots[inst.first as usize..];
        let classes = slots[..usize::from(inst.dsts + inst.srcs)].iter().map(|slot| slot.class());
        classes.eq(std::iter::once(dst).chain(srcs.iter().copied()))
    }

    fn emit(&mut self, code: Code, kind: Option<Kind>, dsts: &[Slot], srcs: &[Slot]) {
        let first = self.slots.len() as u32;
        self.slots.extend_from_slice(dsts);
        self.slots.extend_from_slice(srcs);
        let place = self.places.len().saturating_sub(1) as u32;
        let guard = self.guard;
        self.insts.push(Inst {
            code,
            guard,
            first,
            dsts: dsts.len() as u8,
            srcs: srcs.len() as u8,
            kind,
            place,
        });
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::unsupported(self.line, format!("`{}`: {}", self.opcode, message.into())))
    }

    fn register(&self, register: Reg) -> Slot {
        Slot::register(self.registers[register.0 as usize].into(), register.0)
    }

    fn temporary(&mut self, class: Class) -> Slot {
        self.registers.push(match class {
            Class::Word => RegType::Bits32,
            Class::Long => RegType::Bits64,
            Class::Pred => RegType::Pred,
        });
        Slot::register(class, self.registers.len() as u32 - 1)
    }

    fn word(&mut self, value: u32) -> Slot {
        Slot::constant(Class::Word, self.words.get(value))
    }

    fn long(&mut self, value: u64) -> Slot {
        Slot::constant(Class::Long, self.longs.get(value))
    }

    /// A register or an immediate, as an instruction of this type reads it.
    fn source(&mut self, operand: &Operand, ty: Type) -> Result<Slot> {
        let class = ty.class();
        let slot = match operand {
            Operand::Reg(register) => self.register(*register),
            Operand::Not(register) => {
                let (from, to) = (self.register(*register), self.temporary(Class::Pred));
                self.emit(Code::Pred(PredOp::Not), None, &[to], &[from]);
                to
            }
            Operand::Int(value) => match (class, ty) {
                (Class::Word, Type::F32) => self.word((*value as i64 as f32).to_bits()),
                (Class::Long, Type::F64) => self.long((*value as i64 as f64).to_bits()),
                (Class::Word, _) => self.word(*value as u32),
                (Class::Long, _) => self.long(*value),
                // Predicates are words of lanes.
                (Class::Pred, _) => {
                    let to = self.temporary(Class::Pred);
                    let bits = self.word(*value as u32);
                    self.emit(test!(|a: u32| { a != 0 }), None, &[to], &[bits]);
                    to
                }
            },
            Operand::F32(bits) if class == Class::Word => self.word(*bits),
            Operand::F32(bits) => self.long(f64::from(f32::from_bits(*bits)).to_bits()),
            Operand::F64(bits) if class == Class::Long => self.long(*bits),
            Operand::F64(bits) => self.word((f64::from_bits(*bits) as f32).to_bits()),
            Operand::Local(_) | Operand::Name(_) => {
                let address = self.symbol(operand)?.address;
                match class {
                    Class::Long => self.long(address),
                    Class::Word => self.word(address as u32),
                    Class::Pred => return self.fail("an address is no predicate"),
                }
            }
            other => return self.fail(format!("unexpected operand {other:?}")),
        };
        if slot.class() != class {
            return self.fail(format!("an operand of `{ty:?}` is a register of another size"));
        }
        Ok(slot)
    }

    fn sources<const N: usize>(&mut self, operands: &[Operand], types: [Type; N]) -> Result<[Slot; N]> {
        if operands.len() != N {
            return self.fail("wrong number of operands");
        }
        let mut slots = [Slot::register(Class::Word, 0); N];
        for i in 0..N {
            slots[i] = self.source(&operands[i], types[i])?;
        }
        Ok(slots)
    }

    /// The register that an instruction writes; `_` is one that nobody reads.
    fn destination(&mut self, operand: &Operand, class: Class) -> Result<Slot> {
        let slot = match operand {
            Operand::Reg(register) => self.register(*register),
            Operand::Sink => self.temporary(class),
            other => return self.fail(format!("{other:?} cannot be written")),
        };
        if slot.class() != class {
            return self.fail("the destination is a register of another size");
        }
        Ok(slot)
    }

    fn symbol(&self, operand: &Operand) -> Result<Symbol> {
        match operand {
            Operand::Local(index) => match self.locals[*index as usize] {
                Some(symbol) => Ok(symbol),
                None => self.fail("the address of a call's parameter is not supported"),
            },
            Operand::Name(name) => match self.symbols.get(name) {
                Some(symbol) => Ok(*symbol),
                None => self.fail(format!("unknown name `{name}`")),
            },
            other => self.fail(format!("{other:?} is not a variable")),
        }
    }

    /// `[%rd1+8]`, `[variable+4]`, `[4096]`.
    fn address(&mut self, operand: &Operand) -> Result<Address> {
        let Operand::Address(base, offset) = operand else {
            return self.fail(format!("{operand:?} is not an address"));
        };
        match &**base {
            Operand::Reg(register) => {
                let base = self.register(*register);
                if base.class() == Class::Pred {
                    return self.fail("a predicate is not an address");
                }
                Ok(Address { base, offset: *offset, space: None })
            }
            Operand::Int(address) => Ok(Address { base: self.long(*address), offset: *offset, space: None }),
            variable => {
                let symbol = self.symbol(variable)?;
                let base = self.long(symbol.address.wrapping_add_signed(*offset));
                Ok(Address { base, offset: 0, space: Some(symbol.space) })
            }
        }
    }
}

fn names(statement: &Statement, name: &str) -> bool {
    fn within(operand: &Operand, name: &str) -> bool {
        match operand {
            Operand::Name(found) => found == name,
            Operand::Address(base, _) => within(base, name),
            Operand::Vector(list) => list.iter().any(|operand| within(operand, name)),
            _ => false,
        }
    }
    match statement {
        Statement::Label(_) => false,
        Statement::Instruction(instruction) => {
            instruction.operands.iter().any(|operand| within(operand, name))
        }
    }
}

/// Parameters lie one after another, each at its alignment.
fn layout_params(params: &[Variable]) -> (Vec<Param>, u32) {
    let mut at = 0u32;
    let all = params
        .iter()
        .map(|param| {
            let offset = at.next_multiple_of(param.align.max(1));
            let size = param.size as u32;
            at = offset + size;
            Param { name: param.name.clone(), offset, size, align: param.align }
        })
        .collect();
    (all, at)
}
