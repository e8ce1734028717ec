//! What the decoder makes and the executor runs: instructions with resolved operands.

use super::lanes::{F1, F2, F3, F4, T1, T2};
use super::math::convert::{Cvt, Type as CvtType};
use super::math::mma::Mma;
use super::ptx::{Loc, RegType};

/// An operand: a register or a constant, of 32 or 64 bits or a predicate.
///
/// While decoding the index counts virtual registers; afterwards it is a place in the register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Word,
    Long,
    Pred,
}

impl Slot {
    const CONSTANT: u32 = 1 << 29;

    pub const fn register(class: Class, index: u32) -> Self {
        Self((class as u32) << 30 | index)
    }

    pub const fn constant(class: Class, index: u32) -> Self {
        Self((class as u32) << 30 | Self::CONSTANT | index)
    }

    pub const fn class(self) -> Class {
        match self.0 >> 30 {
            0 => Class::Word,
            1 => Class::Long,
            _ => Class::Pred,
        }
    }

    pub const fn is_constant(self) -> bool {
        self.0 & Self::CONSTANT != 0
    }

    pub const fn index(self) -> usize {
        (self.0 & (Self::CONSTANT - 1)) as usize
    }
}

impl From<RegType> for Class {
    fn from(kind: RegType) -> Self {
        match kind {
            RegType::Pred => Self::Pred,
            RegType::Bits16 | RegType::Bits32 => Self::Word,
            RegType::Bits64 => Self::Long,
        }
    }
}

/// What the counters file an instruction under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Integers and bits, addresses included.
    Integer,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// f16 and bf16, one or two at a time.
    Half,
    /// `cvt`.
    Conversion,
    /// The special function unit: `ex2`, `rsqrt`, `sin`...
    Special,
    /// Moves and selections.
    Move,
    /// Branches, calls and returns.
    Control,
    /// Global memory, asynchronous copies included.
    Global,
    /// Shared memory, `ldmatrix` included.
    Shared,
    /// Local memory.
    Local,
    /// Constant memory and parameters.
    Constant,
    /// Exchanges within a warp: shuffles, votes, matches.
    Warp,
    /// Barriers, fences and waits.
    Barrier,
    /// `mma`.
    Tensor,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::Integer,
        Self::F32,
        Self::F64,
        Self::Half,
        Self::Conversion,
        Self::Special,
        Self::Move,
        Self::Control,
        Self::Global,
        Self::Shared,
        Self::Local,
        Self::Constant,
        Self::Warp,
        Self::Barrier,
        Self::Tensor,
    ];

    /// As tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Half => "half",
            Self::Conversion => "conversion",
            Self::Special => "special function",
            Self::Move => "move",
            Self::Control => "control",
            Self::Global => "global memory",
            Self::Shared => "shared memory",
            Self::Local => "local memory",
            Self::Constant => "constant memory",
            Self::Warp => "warp",
            Self::Barrier => "barrier",
            Self::Tensor => "tensor",
        }
    }
}

/// One decoded instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    pub code: Code,
    /// The predicate under which it runs, and whether that is negated.
    pub guard: Option<(Slot, bool)>,
    /// Its operands in [`Program::slots`]: destinations, then sources.
    pub first: u32,
    pub dsts: u8,
    pub srcs: u8,
    /// None for the parts of an instruction that was taken apart, so that it counts once.
    pub kind: Option<Kind>,
    /// Index into [`Program::places`].
    pub place: u32,
}

/// Where an instruction is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub ptx_line: u32,
    pub loc: Loc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemSpace {
    Global,
    Shared,
    Local,
    Const,
    Param,
    Generic,
}

/// A load, a store or a prefetch: what the address means and what moves.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub space: MemSpace,
    pub offset: i64,
    /// Bytes of one element.
    pub bytes: u8,
    /// Elements, each in a register of its own.
    pub count: u8,
    /// Loads of fewer bits than the register has extend the sign.
    pub signed: bool,
    /// `.volatile`, `.relaxed`, `.acquire`...: takes no part in race checks.
    pub strong: bool,
}

/// `ldmatrix` or `stmatrix`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub transposed: bool,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomType {
    Unsigned,
    Signed,
    F32,
    F64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
}

#[derive(Clone, Copy, Debug)]
pub struct Atom {
    pub space: MemSpace,
    pub offset: i64,
    pub op: AtomOp,
    pub kind: AtomType,
    pub bytes: u8,
    /// `red` has no destination.
    pub returns: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredOp {
    Move,
    Not,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

/// What a block barrier does besides waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    Sync,
    Arrive,
    /// Reductions of a predicate over the block; the destination is a predicate, or a count.
    And,
    Or,
    Popc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    SmId,
    NsmId,
    GridId,
    DynamicShared,
    TotalShared,
}

/// An `mma` and what to call it in the counters.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub mma: Mma,
    /// `m16n8k16 bf16`
    pub name: String,
}

/// `cvt` by way of [`math::convert::cvt`](super::math::convert::cvt).
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    pub from: CvtType,
    pub to: CvtType,
    pub modifiers: Cvt,
    /// Two values at once: from one packed register, or from two registers, the upper one first.
    pub pair: bool,
}

/// What an instruction does. `W` is a register of up to 32 bits, `L` one of 64, `P` a predicate: `LofWW` makes a 64-bit
/// register of two 32-bit ones.
#[derive(Clone, Debug)]
pub enum Code {
    WofW(F1<u32, u32>),
    WofL(F1<u32, u64>),
    LofW(F1<u64, u32>),
    LofL(F1<u64, u64>),
    WofWW(F2<u32, u32, u32>),
    WofLL(F2<u32, u64, u64>),
    LofWW(F2<u64, u32, u32>),
    LofLW(F2<u64, u64, u32>),
    LofLL(F2<u64, u64, u64>),
    WofWWW(F3<u32, u32, u32, u32>),
    LofWWL(F3<u64, u32, u32, u64>),
    LofLWW(F3<u64, u64, u32, u32>),
    LofLLL(F3<u64, u64, u64, u64>),
    WofWWWW(F4<u32, u32, u32, u32, u32>),
    LofLLWW(F4<u64, u64, u64, u32, u32>),
    PofW(T1<u32>),
    PofL(T1<u64>),
    PofWW(T2<u32, u32>),
    PofLL(T2<u64, u64>),
    Pred(PredOp),
    SelectWord,
    SelectLong,
    /// Sum or difference with carry: destination, carry out, a, b, carry in.
    CarryWord {
        subtract: bool,
    },
    CarryLong {
        subtract: bool,
    },
    /// Pieces of `bits` bits each, lowest first, into one register; and back.
    Pack {
        bits: u8,
    },
    Unpack {
        bits: u8,
    },
    Special(Special),
    Activemask,
    Branch {
        target: u32,
    },
    BranchTable(Box<[u32]>),
    Exit,
    Trap,
    Load(Access),
    Store(Access),
    Atom(Atom),
    /// Whether a generic address lies in a window.
    IsSpace(MemSpace),
    /// Adds or takes away the base of a window.
    ToGeneric(MemSpace),
    FromGeneric(MemSpace),
    Shuffle(Shuffle),
    Vote(Vote),
    MatchAny,
    MatchAll,
    Redux(Reduce),
    Elect,
    WarpSync,
    Barrier(Barrier),
    Fence,
    AsyncCopy {
        bytes: u8,
        dst_offset: i64,
        src_offset: i64,
    },
    AsyncCommit,
    AsyncWait {
        pending: u32,
    },
    AsyncWaitAll,
    LoadMatrix(Matrix),
    StoreMatrix(Matrix),
    MoveMatrix,
    Mma(Box<Tensor>),
    /// m8n8k4 of f64.
    MmaF64,
    /// A conversion too rare to have a function of its own.
    Convert(Box<Conversion>),
    Print,
    Assert,
    Nop,
}

macro_rules! code_from {
    ($($variant:ident: $function:ty),* $(,)?) => {$(
        impl From<$function> for Code {
            fn from(function: $function) -> Self {
                Self::$variant(function)
            }
        }
    )*};
}

code_from! {
    WofW: F1<u32, u32>, WofL: F1<u32, u64>, LofW: F1<u64, u32>, LofL: F1<u64, u64>,
    WofWW: F2<u32, u32, u32>, WofLL: F2<u32, u64, u64>, LofWW: F2<u64, u32, u32>, LofLW: F2<u64, u64, u32>,
    LofLL: F2<u64, u64, u64>,
    WofWWW: F3<u32, u32, u32, u32>, LofWWL: F3<u64, u32, u32, u64>, LofLWW: F3<u64, u64, u32, u32>,
    LofLLL: F3<u64, u64, u64, u64>,
    WofWWWW: F4<u32, u32, u32, u32, u32>, LofLLWW: F4<u64, u64, u64, u32, u32>,
    PofW: T1<u32>, PofL: T1<u64>, PofWW: T2<u32, u32>, PofLL: T2<u64, u64>,
}

impl Code {
    /// The sizes of destination and sources, of codes that have one destination and so many sources.
    pub fn signature(&self) -> Option<(Class, &'static [Class])> {
        use Class::{Long as L, Pred as P, Word as W};
        Some(match self {
            Self::WofW(_) => (W, &[W]),
            Self::WofL(_) => (W, &[L]),
            Self::LofW(_) => (L, &[W]),
            Self::LofL(_) => (L, &[L]),
            Self::WofWW(_) => (W, &[W, W]),
            Self::WofLL(_) => (W, &[L, L]),
            Self::LofWW(_) => (L, &[W, W]),
            Self::LofLW(_) => (L, &[L, W]),
            Self::LofLL(_) => (L, &[L, L]),
            Self::WofWWW(_) => (W, &[W, W, W]),
            Self::LofWWL(_) => (L, &[W, W, L]),
            Self::LofLWW(_) => (L, &[L, W, W]),
            Self::LofLLL(_) => (L, &[L, L, L]),
            Self::WofWWWW(_) => (W, &[W, W, W, W]),
            Self::LofLLWW(_) => (L, &[L, L, W, W]),
            Self::PofW(_) => (P, &[W]),
            Self::PofL(_) => (P, &[L]),
            Self::PofWW(_) => (P, &[W, W]),
            Self::PofLL(_) => (P, &[L, L]),
            Self::Pred(PredOp::Move | PredOp::Not) => (P, &[P]),
            Self::Pred(_) => (P, &[P, P]),
            Self::SelectWord => (W, &[W, W, P]),
            Self::SelectLong => (L, &[L, L, P]),
            _ => return None,
        })
    }

    /// Whether control may leave for somewhere else than the next instruction.
    pub fn ends_block(&self) -> bool {
        matches!(self, Self::Branch { .. } | Self::BranchTable(_) | Self::Exit | Self::Trap)
    }
}

/// A value that the launch puts into a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamConstant {
    pub slot: Slot,
    /// Bytes from the start.
    pub offset: u32,
    pub bytes: u8,
    pub signed: bool,
}

/// A parameter of a kernel: where in the parameter buffer it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// As the PTX names it.
    pub name: String,
    /// Bytes from the start.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Its offset is a multiple of so many bytes.
    pub align: u32,
}

/// A kernel, ready to run.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub insts: Vec<Inst>,
    pub slots: Vec<Slot>,
    pub places: Vec<Place>,
    pub words: Vec<u32>,
    pub longs: Vec<u64>,
    pub param_constants: Vec<ParamConstant>,
    /// Registers of a warp, by class.
    pub registers: [usize; 3],
    pub params: Vec<Param>,
    pub param_bytes: u32,
    /// Dynamic shared memory follows.
    pub static_shared: u32,
    pub local_bytes: u32,
    pub max_threads: Option<u32>,
    /// Bytes that one entry of the shared-memory shadow covers: the narrowest access that the kernel makes.
    pub shared_granule: u32,
    /// log2 of the bytes that one entry of global memory's race shadow covers, likewise.
    pub global_shift: u32,
    /// Blocks may talk to each other, so they run in order on one thread.
    pub ordered: bool,
    /// Memory fences or volatile accesses occur: plain accesses of different blocks may be ordered by them.
    pub fences: bool,
}
