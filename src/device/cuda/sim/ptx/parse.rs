//! Tokens to tree.

use std::collections::HashMap;

use super::lex::{Token, lex};
use super::{
    Body, Function, Instruction, Label, Loc, Module, Operand, Reg, RegType, Space, Statement, Variable,
};
use crate::device::cuda::sim::Error;

type Result<T> = std::result::Result<T, Error>;

/// Reads a translation unit.
pub fn parse(source: &str) -> Result<Module> {
    let mut parser = Parser { tokens: lex(source)?, at: 0, calls: Vec::new() };
    let mut module = Module::default();
    while parser.peek() != Token::End {
        parser.item(&mut module)?;
    }
    module.calls = parser.calls;
    Ok(module)
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
    /// [`Module::calls`], each once.
    calls: Vec<Loc>,
}

/// The names that one `{ }` declares.
#[derive(Default)]
struct Scope {
    parent: Option<usize>,
    registers: HashMap<String, Reg>,
    /// `%r<12>`: prefix, first register, count.
    ranges: Vec<(String, u32, u32)>,
    variables: HashMap<String, u32>,
    labels: HashMap<String, Label>,
    targets: HashMap<String, Vec<String>>,
}

/// A function body in the making.
struct Builder {
    body: Body,
    scopes: Vec<Scope>,
    scope: usize,
    loc: Loc,
    /// What `.loc` said last of a file, line and column.
    positions: HashMap<[u32; 3], Loc>,
    /// Scope of each instruction that still names labels by text: (statement, operand).
    pending: Vec<(usize, usize, usize)>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at].0
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.tokens[self.at].0;
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::parse(self.line(), message))
    }

    fn accept(&mut self, punct: u8) -> bool {
        let found = self.peek() == Token::Punct(punct);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, punct: u8) -> Result<()> {
        if self.accept(punct) {
            return Ok(());
        }
        self.fail(format!("expected `{}`, found {:?}", punct as char, self.peek()))
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Token::Word(word);
        if found {
            self.next();
        }
        found
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.next() {
            Token::Word(word) => Ok(word),
            other => {
                self.at -= 1;
                self.fail(format!("expected a word, found {other:?}"))
            }
        }
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        let line = self.line();
        match self.operand_number()? {
            Operand::Int(value) => {
                T::try_from(value).map_err(|_| Error::parse(line, format!("{value} is out of range")))
            }
            _ => Err(Error::parse(line, "expected an integer")),
        }
    }

    fn skip_to(&mut self, punct: u8) -> Result<()> {
        loop {
            match self.next() {
                Token::Punct(found) if found == punct => return Ok(()),
                Token::End => return self.fail(format!("expected `{}`", punct as char)),
                _ => {}
            }
        }
    }

    fn item(&mut self, module: &mut Module) -> Result<()> {
        let line = self.line();
        match self.word()? {
            ".version" => {
                self.word()?;
            }
            ".target" => loop {
                let word = self.word()?;
                if let Some(target) = word.strip_prefix("sm_") {
                    let digits = target.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                    module.target = digits.parse().map_err(|_| Error::parse(line, "malformed .target"))?;
                }
                if !self.accept(b',') {
                    break;
                }
            },
            ".address_size" => {
                if self.word()? != "64" {
                    return Err(Error::parse(line, "only 64-bit addresses are supported"));
                }
            }
            ".file" => {
                let index = self.number()?;
                let Token::Text(name) = self.next() else { return self.fail("expected a file name") };
                module.files.insert(index, name.to_owned());
                while self.accept(b',') {
                    self.next();
                }
            }
            ".section" => self.skip_section()?,
            ".pragma" => self.skip_to(b';')?,
            ".extern" | ".visible" | ".weak" | ".common" => {}
            ".entry" => {
                let function = self.function(true, line)?;
                module.functions.push(function);
            }
            ".func" => {
                let function = self.function(false, line)?;
                module.functions.push(function);
            }
            ".global" => self.variables(Space::Global, &mut module.variables)?,
            ".const" => self.variables(Space::Const, &mut module.variables)?,
            ".shared" => self.variables(Space::Shared, &mut module.variables)?,
            other => return Err(Error::parse(line, format!("unknown directive `{other}`"))),
        }
        Ok(())
    }

    /// Debug information: `.section .debug_str { ... }`.
    fn skip_section(&mut self) -> Result<()> {
        self.skip_to(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next() {
                Token::Punct(b'{') => depth += 1,
                Token::Punct(b'}') => depth -= 1,
                Token::End => return self.fail("a section does not end"),
                _ => {}
            }
        }
        Ok(())
    }

    /// What follows the state space in a declaration, up to the semicolon.
    fn variables(&mut self, space: Space, into: &mut Vec<Variable>) -> Result<()> {
        let (align, element) = self.variable_type()?;
        loop {
            let mut variable = self.declarator(space, align, element)?;
            if self.accept(b'=') {
                self.initialiser(element, &mut variable)?;
            }
            into.push(variable);
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    /// `.align 4 .v2 .b32`: alignment and bytes of an element.
    fn variable_type(&mut self) -> Result<(u32, Element)> {
        let (mut align, mut vector) = (None, 1);
        loop {
            match self.word()? {
                ".align" => align = Some(self.number()?),
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".ptr" | ".space" | ".global" | ".const" | ".shared" | ".local" => {}
                ".attribute" => self.skip_to(b')')?,
                name => {
                    let Some((bytes, float)) = element_type(name) else {
                        self.at -= 1;
                        return self.fail(format!("unknown type `{name}`"));
                    };
                    let element = Element { bytes: bytes * vector, scalar: bytes, float };
                    return Ok((align.unwrap_or(element.bytes), element));
                }
            }
        }
    }

    fn declarator(&mut self, space: Space, mut align: u32, element: Element) -> Result<Variable> {
        let line = self.line();
        // A parameter that points: `.param .u64 .ptr .global .align 4 name`.
        while let Token::Word(".ptr" | ".global" | ".const" | ".shared" | ".local" | ".align") = self.peek() {
            if self.word()? == ".align" {
                align = self.number::<u32>()?.min(align);
            }
        }
        let name = self.word()?.to_owned();
        let mut size = u64::from(element.bytes);
        while self.accept(b'[') {
            let count = if self.peek() == Token::Punct(b']') { 0 } else { self.number::<u64>()? };
            self.expect(b']')?;
            size = size.checked_mul(count).ok_or_else(|| Error::parse(line, "the array is too large"))?;
        }
        Ok(Variable { name, space, align, size, init: Vec::new(), pointers: Vec::new(), line })
    }

    fn initialiser(&mut self, element: Element, variable: &mut Variable) -> Result<()> {
        if self.accept(b'{') {
            while !self.accept(b'}') {
                self.initialiser(element, variable)?;
                if !self.accept(b',') {
                    self.expect(b'}')?;
                    break;
                }
            }
            return Ok(());
        }
        let bytes = element.scalar as usize;
        let at = variable.init.len() as u64;
        let value = match self.peek() {
            Token::Word("generic") => {
                self.next();
                self.expect(b'(')?;
                variable.pointers.push((at, self.word()?.to_owned(), true));
                self.expect(b')')?;
                self.initialiser_offset()?
            }
            Token::Word(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
                self.next();
                variable.pointers.push((at, word.to_owned(), false));
                self.initialiser_offset()?
            }
            _ => match self.operand_number()? {
                Operand::F32(bits) => u64::from(bits),
                Operand::F64(bits) if bytes == 4 => u64::from((f64::from_bits(bits) as f32).to_bits()),
                Operand::F64(bits) => bits,
                Operand::Int(value) if element.float && bytes == 4 => {
                    u64::from((value as i64 as f32).to_bits())
                }
                Operand::Int(value) if element.float => (value as i64 as f64).to_bits(),
                Operand::Int(value) => value,
                _ => return self.fail("expected a constant"),
            },
        };
        variable.init.extend_from_slice(&value.to_le_bytes()[..bytes]);
        Ok(())
    }

    fn initialiser_offset(&mut self) -> Result<u64> {
        if self.accept(b'+') { self.number() } else { Ok(0) }
    }

    fn function(&mut self, entry: bool, line: u32) -> Result<Function> {
        let mut results = Vec::new();
        if self.peek() == Token::Punct(b'(') {
            results = self.parameters()?;
        }
        let name = self.word()?.to_owned();
        let params = if self.peek() == Token::Punct(b'(') { self.parameters()? } else { Vec::new() };
        let mut max_threads = None;
        loop {
            match self.peek() {
                Token::Word(".maxntid" | ".reqntid") => {
                    self.next();
                    let mut threads: u32 = self.number()?;
                    while self.accept(b',') {
                        threads = threads.saturating_mul(self.number()?);
                    }
                    max_threads = Some(threads);
                }
                Token::Word(".minnctapersm" | ".maxnctapersm" | ".maxnreg" | ".maxclusterrank") => {
                    self.next();
                    self.number::<u32>()?;
                }
                Token::Word(".noreturn" | ".blocksareclusters") => {
                    self.next();
                }
                Token::Word(".pragma") => self.skip_to(b';')?,
                _ => break,
            }
        }
        let mut function = Function { name, entry, results, params, max_threads, body: None, line };
        if self.accept(b'{') {
            function.body = Some(self.body(&function)?);
        } else {
            self.expect(b';')?;
        }
        Ok(function)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>> {
        let mut all = Vec::new();
        self.expect(b'(')?;
        while !self.accept(b')') {
            match self.word()? {
                ".param" => {}
                other => return self.fail(format!("expected `.param`, found `{other}`")),
            }
            let (align, element) = self.variable_type()?;
            all.push(self.declarator(Space::Param, align, element)?);
            self.accept(b',');
        }
        Ok(all)
    }

    fn body(&mut self, function: &Function) -> Result<Body> {
        let mut builder = Builder {
            body: Body::default(),
            scopes: vec![Scope::default()],
            scope: 0,
            loc: Loc::default(),
            positions: HashMap::new(),
            pending: Vec::new(),
        };
        // Parameters of the function are its first variables: results, then parameters.
        for variable in function.results.iter().chain(&function.params) {
            builder.variable(variable.clone());
        }
        let mut depth = 1;
        while depth > 0 {
            if self.accept(b'{') {
                depth += 1;
                builder.scopes.push(Scope { parent: Some(builder.scope), ..Scope::default() });
                builder.scope = builder.scopes.len() - 1;
            } else if self.accept(b'}') {
                depth -= 1;
                builder.scope = builder.scopes[builder.scope].parent.unwrap_or(0);
            } else {
                self.statement(&mut builder)?;
            }
        }
        builder.finish(self)
    }

    fn statement(&mut self, builder: &mut Builder) -> Result<()> {
        if self.accept(b';') {
            return Ok(());
        }
        let line = self.line();
        let mut guard = None;
        if self.accept(b'@') {
            let negated = self.accept(b'!');
            let name = self.word()?;
            let Some(register) = builder.register(name) else {
                return Err(Error::parse(line, format!("unknown predicate `{name}`")));
            };
            guard = Some((register, negated));
        }
        let word = self.word()?;
        match word {
            ".reg" => self.registers(builder),
            ".local" | ".shared" | ".param" | ".const" | ".global" => {
                let space = match word {
                    ".local" => Space::Local,
                    ".shared" => Space::Shared,
                    ".param" => Space::Param,
                    ".const" => Space::Const,
                    _ => Space::Global,
                };
                let mut variables = Vec::new();
                self.variables(space, &mut variables)?;
                variables.into_iter().for_each(|variable| builder.variable(variable));
                Ok(())
            }
            ".loc" => self.loc(builder),
            ".pragma" => self.skip_to(b';'),
            _ if word.starts_with('.') => Err(Error::parse(line, format!("unknown directive `{word}`"))),
            _ if self.accept(b':') => self.label(word, builder),
            _ => self.instruction(guard, word, line, builder),
        }
    }

    fn registers(&mut self, builder: &mut Builder) -> Result<()> {
        let name = self.word()?;
        let kind = match name {
            ".pred" => RegType::Pred,
            ".b8" | ".u8" | ".s8" | ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => RegType::Bits16,
            ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => RegType::Bits32,
            ".b64" | ".u64" | ".s64" | ".f64" => RegType::Bits64,
            other => return self.fail(format!("registers of type `{other}` are not supported")),
        };
        loop {
            let name = self.word()?.to_owned();
            let first = builder.body.registers.len() as u32;
            if self.accept(b'<') {
                let count: u32 = self.number()?;
                self.expect(b'>')?;
                if count > 1 << 20 {
                    return self.fail("too many registers");
                }
                builder.body.registers.extend(std::iter::repeat_n(kind, count as usize));
                builder.scopes[builder.scope].ranges.push((name, first, count));
            } else {
                builder.body.registers.push(kind);
                builder.scopes[builder.scope].registers.insert(name, Reg(first));
            }
            if !self.accept(b',') {
                return self.expect(b';');
            }
        }
    }

    /// `.loc 1 13 5` and perhaps `, function_name $L__info_string0, inlined_at 1 17 3`.
    fn loc(&mut self, builder: &mut Builder) -> Result<()> {
        let file = self.number()?;
        let line = self.number()?;
        let column = self.number()?;
        let mut call = None;
        while self.accept(b',') {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    if self.accept(b'+') {
                        self.number::<u32>()?;
                    }
                }
                "inlined_at" => {
                    let at: [u32; 3] = [self.number()?, self.number()?, self.number()?];
                    // If the call was inlined itself, a `.loc` before this one says where.
                    let unknown = Loc { file: at[0], line: at[1], call: None };
                    call = Some(self.call(builder.positions.get(&at).copied().unwrap_or(unknown)));
                }
                other => return self.fail(format!("unknown `.loc` attribute `{other}`")),
            }
        }
        // Line 0 marks code that the compiler moved: the line before it is the better guess.
        if line != 0 {
            builder.loc = Loc { file, line, call };
            builder.positions.insert([file, line, column], builder.loc);
        }
        Ok(())
    }

    /// The index of an inlined call.
    fn call(&mut self, at: Loc) -> u32 {
        let known = self.calls.iter().rposition(|&call| call == at).unwrap_or_else(|| {
            self.calls.push(at);
            self.calls.len() - 1
        });
        known as u32
    }

    fn label(&mut self, name: &str, builder: &mut Builder) -> Result<()> {
        if self.accept_word(".branchtargets") {
            let mut targets = vec![self.word()?.to_owned()];
            while self.accept(b',') {
                targets.push(self.word()?.to_owned());
            }
            builder.scopes[builder.scope].targets.insert(name.to_owned(), targets);
            return self.expect(b';');
        }
        if let Token::Word(".callprototype") = self.peek() {
            return self.fail("indirect calls are not supported");
        }
        let label = Label(builder.body.labels);
        builder.body.labels += 1;
        if builder.scopes[builder.scope].labels.insert(name.to_owned(), label).is_some() {
            return self.fail(format!("label `{name}` is defined twice"));
        }
        builder.body.statements.push(Statement::Label(label));
        Ok(())
    }

    fn instruction(
        &mut self,
        guard: Option<(Reg, bool)>,
        opcode: &str,
        line: u32,
        builder: &mut Builder,
    ) -> Result<()> {
        let mut operands = Vec::new();
        while self.peek() != Token::Punct(b';') {
            operands.push(self.operand(builder)?);
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')?;
        let branches = opcode == "bra" || opcode.starts_with("bra.") || opcode.starts_with("brx.");
        if branches {
            let Some(last) = operands.len().checked_sub(1) else {
                return Err(Error::parse(line, "a branch to nowhere"));
            };
            builder.pending.push((builder.body.statements.len(), last, builder.scope));
        }
        let opcode = opcode.to_owned();
        let instruction = Instruction { guard, opcode, operands, line, loc: builder.loc };
        builder.body.statements.push(Statement::Instruction(instruction));
        Ok(())
    }

    fn operand(&mut self, builder: &Builder) -> Result<Operand> {
        match self.peek() {
            Token::Punct(b'[') => {
                self.next();
                let base = self.operand(builder)?;
                let mut offset = 0;
                while let Token::Punct(sign @ (b'+' | b'-')) = self.peek() {
                    self.next();
                    let value: u64 = self.number()?;
                    let value = value as i64;
                    offset += if sign == b'-' { -value } else { value };
                }
                let address = Operand::Address(Box::new(base), offset);
                let mut parts = vec![address];
                while self.accept(b',') {
                    parts.push(self.operand(builder)?);
                }
                self.expect(b']')?;
                Ok(if parts.len() == 1 { parts.remove(0) } else { Operand::List(parts) })
            }
            Token::Punct(open @ (b'{' | b'(')) => {
                self.next();
                let close = if open == b'{' { b'}' } else { b')' };
                let mut all = Vec::new();
                while !self.accept(close) {
                    all.push(self.operand(builder)?);
                    if !self.accept(b',') {
                        self.expect(close)?;
                        break;
                    }
                }
                Ok(if open == b'{' { Operand::Vector(all) } else { Operand::List(all) })
            }
            Token::Punct(b'!') => {
                self.next();
                let name = self.word()?;
                let unknown = format!("unknown predicate `{name}`");
                builder.register(name).map_or_else(|| self.fail(unknown), |reg| Ok(Operand::Not(reg)))
            }
            Token::Punct(b'-') => self.operand_number(),
            Token::Word(word) if word.starts_with(|c: char| c.is_ascii_digit()) => self.operand_number(),
            Token::Word(word) => {
                self.next();
                let first = builder.name(word);
                if self.accept(b'|') {
                    let second = builder.name(self.word()?);
                    return Ok(Operand::Pair(Box::new(first), Box::new(second)));
                }
                Ok(first)
            }
            other => self.fail(format!("unexpected {other:?} in an operand")),
        }
    }

    fn operand_number(&mut self) -> Result<Operand> {
        let negative = self.accept(b'-');
        let line = self.line();
        let word = self.word()?;
        let malformed = || Error::parse(line, format!("malformed number `{word}`"));
        let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).map_err(|_| malformed());
        let lower = word.to_ascii_lowercase();
        let sign = |value: u64| if negative { value.wrapping_neg() } else { value };
        if let Some(hex) = lower.strip_prefix("0f").filter(|hex| hex.len() == 8) {
            return Ok(Operand::F32(radix(hex, 16)? as u32 ^ (u32::from(negative) << 31)));
        }
        if let Some(hex) = lower.strip_prefix("0d").filter(|hex| hex.len() == 16) {
            return Ok(Operand::F64(radix(hex, 16)? ^ (u64::from(negative) << 63)));
        }
        if lower.contains('.') {
            let value: f64 = lower.parse().map_err(|_| malformed())?;
            return Ok(Operand::F64((if negative { -value } else { value }).to_bits()));
        }
        let digits = lower.strip_suffix('u').unwrap_or(&lower);
        let value = match digits.as_bytes() {
            [b'0', b'x', ..] => radix(&digits[2..], 16)?,
            [b'0', b'b', ..] => radix(&digits[2..], 2)?,
            [b'0', _, ..] => radix(&digits[1..], 8)?,
            _ => radix(digits, 10)?,
        };
        Ok(Operand::Int(sign(value)))
    }
}

impl Builder {
    fn variable(&mut self, variable: Variable) {
        let index = self.body.variables.len() as u32;
        self.scopes[self.scope].variables.insert(variable.name.clone(), index);
        self.body.variables.push(variable);
    }

    /// Scopes from the innermost outwards.
    fn visible(&self, from: usize) -> impl Iterator<Item = &Scope> {
        std::iter::successors(Some(from), |&scope| self.scopes[scope].parent).map(|scope| &self.scopes[scope])
    }

    fn register(&self, name: &str) -> Option<Reg> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let index = name[prefix.len()..].parse::<u32>().ok();
        self.visible(self.scope).find_map(|scope| {
            scope.registers.get(name).copied().or_else(|| {
                let range = scope.ranges.iter().rev();
                index.and_then(|index| {
                    range
                        .filter(|(known, _, count)| known == prefix && index < *count)
                        .map(|(_, first, _)| Reg(first + index))
                        .next()
                })
            })
        })
    }

    fn name(&self, word: &str) -> Operand {
        if word == "_" {
            return Operand::Sink;
        }
        if word == "WARP_SZ" {
            return Operand::Int(32);
        }
        if let Some(reg) = self.register(word) {
            return Operand::Reg(reg);
        }
        if let Some(&index) = self.visible(self.scope).find_map(|scope| scope.variables.get(word)) {
            return Operand::Local(index);
        }
        if word.starts_with('%') { Operand::Special(word.to_owned()) } else { Operand::Name(word.to_owned()) }
    }

    /// Gives the label operands of branches their labels, which may be defined after them.
    fn finish(mut self, parser: &Parser) -> Result<Body> {
        for (statement, operand, scope) in std::mem::take(&mut self.pending) {
            let Statement::Instruction(instruction) = &self.body.statements[statement] else { continue };
            let line = instruction.line;
            let Operand::Name(name) = &instruction.operands[operand] else {
                return Err(Error::parse(line, "expected a label"));
            };
            let find = |name: &String| {
                let label = self.visible(scope).find_map(|scope| scope.labels.get(name));
                label.copied().ok_or_else(|| Error::parse(line, format!("unknown label `{name}`")))
            };
            let targets = self.visible(scope).find_map(|scope| scope.targets.get(name));
            let resolved = match targets {
                Some(names) => Operand::Targets(names.iter().map(find).collect::<Result<_>>()?),
                None => Operand::Label(find(name)?),
            };
            if let Statement::Instruction(instruction) = &mut self.body.statements[statement] {
                instruction.operands[operand] = resolved;
            }
        }
        if self.body.statements.is_empty() {
            return parser.fail("the function is empty");
        }
        Ok(self.body)
    }
}

#[derive(Clone, Copy)]
struct Element {
    /// Of the element, with all components of a vector.
    bytes: u32,
    /// Of one component.
    scalar: u32,
    float: bool,
}

fn element_type(name: &str) -> Option<(u32, bool)> {
    Some(match name {
        ".b8" | ".u8" | ".s8" => (1, false),
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => (2, false),
        ".b32" | ".u32" | ".s32" | ".f16x2" | ".bf16x2" => (4, false),
        ".b64" | ".u64" | ".s64" => (8, false),
        ".b128" => (16, false),
        ".f32" => (4, true),
        ".f64" => (8, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Body {
        let module =
            parse(&format!(".version 9.0\n.target sm_90a, debug\n.address_size 64\n.entry k() {{ {text} }}"));
        module.unwrap().functions.remove(0).body.unwrap()
    }

    fn instructions(body: &Body) -> Vec<&Instruction> {
        let mut all = Vec::new();
        for statement in &body.statements {
            if let Statement::Instruction(instruction) = statement {
                all.push(instruction);
            }
        }
        all
    }

    #[test]
    fn modules() {
        let module = parse(
            ".version 9.0 .target sm_80 .address_size 64 /* of
             two lines */ .const .align 8 .b8 c[6] = {1, 0x2, 0b11, 010}; .visible .global .align 8 .u64 p[2] = {generic(c)+4, c};
             .extern .shared .align 16 .b8 s[]; .global .f32 f[2] = {1, 0f40000000};
             .func (.param .b32 r) g(.param .align 8 .b8 x[16], .param .b64 y);
             .visible .entry k(.param .u64 .ptr .global .align 4 a) .maxntid 8, 4, 2 .minnctapersm 2 { ret; }
             .file 1 \"a b.cu\", 0, 7
             .section .debug_str { L: .b8 95 }",
        )
        .unwrap();
        assert_eq!(module.target, 80);
        assert_eq!(module.files[&1], "a b.cu");
        let [c, p, s, f] = &module.variables[..] else { panic!("four variables") };
        assert_eq!((&c.init[..], c.size, c.align), (&[1, 2, 3, 8][..], 6, 8));
        assert_eq!(p.pointers, [(0, "c".to_owned(), true), (8, "c".to_owned(), false)]);
        assert_eq!(p.init, [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((s.size, s.space), (0, Space::Shared));
        assert_eq!(f.init, [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
        let [g, k] = &module.functions[..] else { panic!("two functions") };
        assert_eq!((g.params[0].size, g.results.len(), g.body.is_none()), (16, 1, true));
        assert_eq!((k.max_threads, k.entry, &*k.params[0].name), (Some(64), true, "a"));
    }

    #[test]
    fn operands() {
        let body = body(
            ".reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred p, q; .shared .b32 s[4];
             @!p ld.shared.v2.u32 {%r1, _}, [%rd1+-8]; setp.lt.or.f32 p|q, %r1, 0fBF800000, !p; mov.u32 %r2, %tid.x;
             mov.u64 %rd2, s; st.shared.u32 [s+4], -5; add.f64 %rd1, %rd1, 0d3FF0000000000000;",
        );
        let all = instructions(&body);
        let [r1, r2, rd1, rd2, p, q] = [1, 2, 9, 10, 12, 13].map(|index| Operand::Reg(Reg(index)));
        assert_eq!(all[0].guard, Some((Reg(12), true)));
        assert_eq!(
            all[0].operands,
            [Operand::Vector(vec![r1.clone(), Operand::Sink]), Operand::Address(Box::new(rd1.clone()), -8)]
        );
        assert_eq!(
            all[1].operands,
            [Operand::Pair(Box::new(p), Box::new(q)), r1, Operand::F32(0xbf80_0000), Operand::Not(Reg(12))]
        );
        assert_eq!(all[2].operands, [r2, Operand::Special("%tid.x".to_owned())]);
        assert_eq!(all[3].operands, [rd2, Operand::Local(0)]);
        let address = Operand::Address(Box::new(Operand::Local(0)), 4);
        assert_eq!(all[4].operands, [address, Operand::Int(-5i64 as u64)]);
        assert_eq!(all[5].operands[2], Operand::F64(1f64.to_bits()));
    }

    #[test]
    fn inner_scopes_hide_names() {
        let body =
            body(".reg .b32 %r<2>; L: { .reg .b32 %r1; L: mov.u32 %r1, %r0; bra L; } mov.u32 %r1, 0; bra L;");
        let all = instructions(&body);
        assert_eq!(all[0].operands, [Operand::Reg(Reg(2)), Operand::Reg(Reg(0))]);
        assert_eq!(all[1].operands, [Operand::Label(Label(1))]);
        assert_eq!(all[2].operands[0], Operand::Reg(Reg(1)));
        assert_eq!(all[3].operands, [Operand::Label(Label(0))]);
    }

    #[test]
    fn places() {
        let body = body(
            ".reg .b32 r;\n.loc 1 7 3\nmov.u32 r, 1;\n.loc 1 0 3\nmov.u32 r, 2;\n.loc 2 9 1\nmov.u32 r, 3;",
        );
        let places: Vec<(u32, u32, u32)> =
            instructions(&body).iter().map(|i| (i.line, i.loc.file, i.loc.line)).collect();
        assert_eq!(places, [(6, 1, 7), (8, 1, 7), (10, 2, 9)]);
    }

    #[test]
    fn inlined_calls() {
        // f, called in lines 4 and 5, calls g in line 9.
        let text = ".version 9.0 .target sm_80 .entry k() { .reg .b32 r;
            .loc 1 4 2 .loc 2 9 1, function_name $f, inlined_at 1 4 2 .loc 2 20 1, function_name $g+8, inlined_at 2 9 1
            mov.u32 r, 1; .loc 2 9 1, function_name $f, inlined_at 1 5 2 mov.u32 r, 2;
            .loc 2 20 1, function_name $g+8, inlined_at 2 9 1 mov.u32 r, 3; .loc 1 6 2 mov.u32 r, 4; }";
        let mut module = parse(text).unwrap();
        let body = module.functions.remove(0).body.unwrap();
        let chain = |loc: Loc| {
            std::iter::successors(Some(loc), |loc| loc.call.map(|call| module.calls[call as usize]))
                .map(|loc| (loc.file, loc.line))
                .collect::<Vec<_>>()
        };
        let chains: Vec<Vec<(u32, u32)>> = instructions(&body).iter().map(|i| chain(i.loc)).collect();
        assert_eq!(
            chains,
            [
                vec![(2, 20), (2, 9), (1, 4)],
                vec![(2, 9), (1, 5)],
                vec![(2, 20), (2, 9), (1, 5)],
                vec![(1, 6)]
            ]
        );
        assert_eq!(module.calls.len(), 4);
    }

    #[test]
    fn malformed_text_is_an_error_with_its_line() {
        for (text, line) in [
            (".version 9.0\n.address_size 32", 2),
            (".entry k() {\n bra NOWHERE; }", 2),
            (".entry k() {\n\n add.u32 %r1 %r2; }", 3),
            (".entry k() {\n @%p1 ret; }", 2),
            (".entry k() {\n bra; }", 2),
            (".entry k() {", 1),
            ("/* ", 1),
            (".global .b32 x = 99999999999999999999;", 1),
        ] {
            match parse(text) {
                Err(Error::Parse { line: found, .. }) => assert_eq!(found, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
