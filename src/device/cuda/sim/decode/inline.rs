//! Calls of functions of the same module, replaced by the functions' bodies.
//!
//! A parameter of the callee becomes another name of the caller's variable, and `ret` a branch behind the call. What a
//! call costs on hardware is not counted.

use crate::device::cuda::sim::Error;
use crate::device::cuda::sim::ptx::{Body, Function, Instruction, Label, Module, Operand, Reg, Statement};

type Result<T> = std::result::Result<T, Error>;

/// The functions that the simulator itself provides.
pub const BUILTINS: [&str; 2] = ["vprintf", "__assertfail"];

/// The body of `function` with every call of a module function replaced by its body.
pub fn inline(module: &Module, function: &Function) -> Result<Body> {
    let Some(body) = &function.body else {
        return Err(Error::unsupported(function.line, format!("`{}` has no body", function.name)));
    };
    let mut into = Body {
        registers: body.registers.clone(),
        variables: body.variables.clone(),
        labels: body.labels,
        statements: Vec::with_capacity(body.statements.len()),
    };
    let renaming = Renaming { register: 0, label: 0, variables: (0..body.variables.len() as u32).collect() };
    Inliner { module, into: &mut into, active: vec![&function.name] }.append(body, &renaming, None)?;
    Ok(into)
}

struct Inliner<'a> {
    module: &'a Module,
    into: &'a mut Body,
    /// Functions being inlined, against recursion.
    active: Vec<&'a str>,
}

struct Renaming {
    register: u32,
    label: u32,
    variables: Vec<u32>,
}

impl<'a> Inliner<'a> {
    /// Appends a body, with `ret` as a branch to `end` unless the body is the kernel's own.
    fn append(&mut self, body: &'a Body, renaming: &Renaming, end: Option<Label>) -> Result<()> {
        for statement in &body.statements {
            let instruction = match statement {
                Statement::Label(label) => {
                    self.into.statements.push(Statement::Label(Label(label.0 + renaming.label)));
                    continue;
                }
                Statement::Instruction(instruction) => renaming.instruction(instruction),
            };
            let name = instruction.opcode.split('.').next();
            match (name, end) {
                (Some("ret"), Some(end)) => self.into.statements.push(Statement::Instruction(Instruction {
                    opcode: "bra".to_owned(),
                    operands: vec![Operand::Label(end)],
                    ..instruction
                })),
                (Some("call"), _) => self.call(instruction)?,
                _ => self.into.statements.push(Statement::Instruction(instruction)),
            }
        }
        Ok(())
    }

    fn call(&mut self, instruction: Instruction) -> Result<()> {
        let line = instruction.line;
        let name = instruction.operands.iter().find_map(|operand| match operand {
            Operand::Name(name) => Some(name.clone()),
            _ => None,
        });
        let Some(name) = name else {
            return Err(Error::unsupported(line, "indirect calls are not supported"));
        };
        if BUILTINS.contains(&name.as_str()) {
            self.into.statements.push(Statement::Instruction(instruction));
            return Ok(());
        }
        let module = self.module;
        let found = module.functions.iter().find(|function| function.name == name && function.body.is_some());
        let Some((function, body)) = found.and_then(|function| Some((function, function.body.as_ref()?)))
        else {
            return Err(Error::unsupported(line, format!("call of `{name}`, which is not in the module")));
        };
        if self.active.contains(&name.as_str()) {
            return Err(Error::unsupported(line, format!("recursive call of `{name}`")));
        }
        let mut arguments = Vec::new();
        for operand in &instruction.operands {
            let Operand::List(list) = operand else { continue };
            for argument in list {
                let Operand::Local(variable) = argument else {
                    return Err(Error::unsupported(
                        line,
                        "an argument of a call that is not a `.param` variable",
                    ));
                };
                arguments.push(*variable);
            }
        }
        if arguments.len() != function.results.len() + function.params.len() {
            return Err(Error::unsupported(line, format!("`{name}` takes other arguments")));
        }
        let own = body.variables.len() - arguments.len();
        let first = self.into.variables.len() as u32;
        self.into.variables.extend(body.variables[arguments.len()..].iter().cloned());
        arguments.extend((0..own as u32).map(|index| first + index));
        let renaming = Renaming {
            register: self.into.registers.len() as u32,
            label: self.into.labels,
            variables: arguments,
        };
        self.into.registers.extend_from_slice(&body.registers);
        let end = Label(self.into.labels + body.labels);
        self.into.labels += body.labels + 1;
        let before = self.into.statements.len();
        let skip = instruction.guard.map(|(register, negated)| {
            let label = end;
            Statement::Instruction(Instruction {
                guard: Some((register, !negated)),
                opcode: "bra".to_owned(),
                operands: vec![Operand::Label(label)],
                ..instruction.clone()
            })
        });
        self.into.statements.extend(skip);
        self.active.push(&function.name);
        self.append(body, &renaming, Some(end))?;
        self.active.pop();
        // A `ret` at the very end needs no branch.
        if let Some(Statement::Instruction(last)) = self.into.statements.get(before..).and_then(<[_]>::last)
            && last.opcode == "bra"
            && last.guard.is_none()
            && last.operands == [Operand::Label(end)]
        {
            self.into.statements.pop();
        }
        self.into.statements.push(Statement::Label(end));
        Ok(())
    }
}

impl Renaming {
    fn instruction(&self, instruction: &Instruction) -> Instruction {
        Instruction {
            guard: instruction.guard.map(|(register, negated)| (self.register(register), negated)),
            opcode: instruction.opcode.clone(),
            operands: instruction.operands.iter().map(|operand| self.operand(operand)).collect(),
            ..*instruction
        }
    }

    fn register(&self, register: Reg) -> Reg {
        Reg(register.0 + self.register)
    }

    fn label(&self, label: Label) -> Label {
        Label(label.0 + self.label)
    }

    fn operand(&self, operand: &Operand) -> Operand {
        let all = |list: &[Operand]| list.iter().map(|operand| self.operand(operand)).collect();
        match operand {
            Operand::Reg(register) => Operand::Reg(self.register(*register)),
            Operand::Not(register) => Operand::Not(self.register(*register)),
            Operand::Pair(a, b) => Operand::Pair(Box::new(self.operand(a)), Box::new(self.operand(b))),
            Operand::Local(variable) => Operand::Local(self.variables[*variable as usize]),
            Operand::Label(label) => Operand::Label(self.label(*label)),
            Operand::Targets(labels) => {
                Operand::Targets(labels.iter().map(|&label| self.label(label)).collect())
            }
            Operand::Address(base, offset) => Operand::Address(Box::new(self.operand(base)), *offset),
            Operand::Vector(list) => Operand::Vector(all(list)),
            Operand::List(list) => Operand::List(all(list)),
            other => other.clone(),
        }
    }
}
