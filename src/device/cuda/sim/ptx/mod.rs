//! PTX as a tree: what the text says, before anything is known of what it means.
//!
//! Register names, function-scope variables and labels are resolved while parsing, because PTX lets an inner `{ }` hide
//! the names of an outer one. Opcodes stay text; [`super::decode`] gives them a meaning.

mod lex;
mod parse;

pub use parse::parse;

use std::collections::BTreeMap;

/// A state space that holds variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// The width and kind of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegType {
    Pred,
    Bits16,
    Bits32,
    Bits64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(pub u32);

/// A translation unit.
#[derive(Debug, Default)]
pub struct Module {
    /// `80` of `.target sm_80`.
    pub target: u32,
    pub files: BTreeMap<u32, String>,
    /// Calls that the compiler inlined: see [`Loc::call`].
    pub calls: Vec<Loc>,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}

#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub align: u32,
    /// Bytes; 0 for an `.extern` array whose size the launch decides.
    pub size: u64,
    pub init: Vec<u8>,
    /// Pointers within `init`: (offset, name, whether the address is to be generic).
    pub pointers: Vec<(u64, String, bool)>,
    pub line: u32,
}

#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub entry: bool,
    pub results: Vec<Variable>,
    pub params: Vec<Variable>,
    /// `.maxntid` or `.reqntid`.
    pub max_threads: Option<u32>,
    pub body: Option<Body>,
    pub line: u32,
}

#[derive(Debug, Default)]
pub struct Body {
    pub registers: Vec<RegType>,
    pub variables: Vec<Variable>,
    /// Number of labels; each occurs once in `statements`.
    pub labels: u32,
    pub statements: Vec<Statement>,
}

#[derive(Clone, Debug)]
pub enum Statement {
    Label(Label),
    Instruction(Instruction),
}

/// Where in the CUDA source an instruction comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Loc {
    pub file: u32,
    /// 0: unknown.
    pub line: u32,
    /// The call in whose place the compiler put the function that this line is in: an index into [`Module::calls`].
    pub call: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Instruction {
    /// `@p` or `@!p`: (register, negated).
    pub guard: Option<(Reg, bool)>,
    /// The opcode with all its modifiers: `add.rn.f32`.
    pub opcode: String,
    pub operands: Vec<Operand>,
    /// Line in the PTX text.
    pub line: u32,
    pub loc: Loc,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Reg(Reg),
    /// `!p`
    Not(Reg),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    Int(u64),
    F32(u32),
    F64(u64),
    /// `%tid.x` and the like.
    Special(String),
    /// A variable of this function.
    Local(u32),
    /// Something declared at module scope.
    Name(String),
    Label(Label),
    /// A `.branchtargets` list.
    Targets(Vec<Label>),
    Address(Box<Operand>, i64),
    Vector(Vec<Operand>),
    /// `(a, b)` of a call, `[a, {b, c}]` of a texture.
    List(Vec<Operand>),
    /// `_`
    Sink,
}
