//! Kernels: sources and the constants that specialise them, in WGSL or in CUDA C++.

use std::fmt;
use std::hash::{Hash, Hasher};

use smallvec::SmallVec;

use crate::DType;

/// A value that a kernel is specialised by.
#[derive(Clone, Copy, Debug)]
pub enum Constant {
    /// `const NAME: u32`; `constexpr unsigned NAME`
    U32(u32),
    /// `const NAME: f32`; `constexpr float NAME`. Must be finite, as WGSL has no other literals.
    F32(f32),
    /// `const NAME: bool`; `constexpr bool NAME`
    Bool(bool),
    /// `alias NAME`, of `f32`, `f16` or `u32`; `using NAME`, of `float`, `f16`, `bf16` or `unsigned`
    Type(DType),
}

impl PartialEq for Constant {
    /// By bits: -0.0 and 0.0 make different kernels.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Constant::U32(a), Constant::U32(b)) => a == b,
            (Constant::F32(a), Constant::F32(b)) => a.to_bits() == b.to_bits(),
            (Constant::Bool(a), Constant::Bool(b)) => a == b,
            (Constant::Type(a), Constant::Type(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Constant {}

impl Hash for Constant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Constant::U32(x) => x.hash(state),
            Constant::F32(x) => x.to_bits().hash(state),
            Constant::Bool(x) => x.hash(state),
            Constant::Type(x) => x.hash(state),
        }
    }
}

impl From<u32> for Constant {
    fn from(x: u32) -> Self {
        Constant::U32(x)
    }
}

impl From<f32> for Constant {
    fn from(x: f32) -> Self {
        Constant::F32(x)
    }
}

impl From<bool> for Constant {
    fn from(x: bool) -> Self {
        Constant::Bool(x)
    }
}

impl From<DType> for Constant {
    fn from(x: DType) -> Self {
        Constant::Type(x)
    }
}

/// What one launch of a kernel has to do, for the profile, and for a GPU's batches: wgpu submits them before they would take seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations; an addition and a multiplication are two. 0 if nobody counts them.
    pub flops: u64,
    /// Bytes to be read and written; `None` for all that is bound, once.
    pub bytes: Option<u64>,
}

/// A compute kernel: its source, its entry point, and the constants that specialise it.
///
/// The constants are put in front of the source as declarations (`const BLOCK: u32 = 256u;` in WGSL,
/// `constexpr unsigned BLOCK = 256u;` in CUDA C++), and the parts of the source follow in order. Equal
/// kernels are compiled once a device.
///
/// In WGSL, `enable f16;` comes first where a constant needs it; the kernel finds its parameters at
/// `@group(0) @binding(0) var<uniform>` and its buffers at the bindings from 1 on, in the order they are
/// bound. It runs with wgpu's bounds, loop and division checks unless its author vouches for it with
/// [`Kernel::trusted`].
///
/// In CUDA C++, `kernels/common/types.cuh` comes first, and a part that does not begin with a `#line` of its own
/// is a file with the kernel's name to compilers, profilers and the simulator; the entry point is an `extern "C" __global__`
/// function that takes the buffers as pointers, in the order they are bound, and then its parameters by
/// value.
#[derive(Clone, Debug, Eq)]
pub struct Kernel {
    pub(super) name: &'static str,
    pub(super) source: &'static [&'static str],
    pub(super) entry: &'static str,
    pub(super) constants: SmallVec<[(&'static str, Constant); 8]>,
    pub(super) trusted: bool,
    /// One of this crate's: on wgpu it binds arrays without an end, of items of at most 16 bytes.
    pub(super) builtin: bool,
    pub(super) work: Work,
}

impl Kernel {
    /// A kernel of the parts of `source`, named `name` in errors, that starts at `entry`.
    pub fn new(name: &'static str, source: &'static [&'static str], entry: &'static str) -> Self {
        let constants = SmallVec::new();
        Kernel { name, source, entry, constants, trusted: false, builtin: false, work: Work::default() }
    }

    /// A kernel of this crate: trusted. Its op validates each launch, and the tests run it checked.
    pub(crate) fn builtin(name: &'static str, source: &'static [&'static str], entry: &'static str) -> Self {
        Kernel { trusted: true, builtin: true, ..Kernel::new(name, source, entry) }
    }

    /// Adds a constant.
    pub fn with(mut self, name: &'static str, value: impl Into<Constant>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// Adds constants.
    pub fn with_all(mut self, constants: impl IntoIterator<Item = (&'static str, Constant)>) -> Self {
        self.constants.extend(constants);
        self
    }

    /// Runs the kernel without run-time checks and with workgroup memory unspecified at the start,
    /// unless the device is in checked mode.
    ///
    /// # Safety
    /// At every launch the kernel must stay inside its buffers, its loops must end, it must not divide
    /// integers by zero or overflow doing so, and it must write workgroup memory before reading it.
    pub unsafe fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// Says what the next launch has to do, see [`Work`]. Kernels that differ in this alone are equal.
    pub fn work(mut self, work: Work) -> Self {
        self.work = work;
        self
    }

    /// The name that errors give it.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        // Text is mostly one and the same; where it is not, that it is elsewhere does not make it another.
        let same = |a: &str, b: &str| std::ptr::eq(a, b) || a == b;
        let same_constant = |(a, b): (&(&str, Constant), &(&str, Constant))| a.1 == b.1 && same(a.0, b.0);
        same(self.name, other.name)
            && same(self.entry, other.entry)
            && self.trusted == other.trusted
            && self.builtin == other.builtin
            && self.constants.len() == other.constants.len()
            && self.constants.iter().zip(&other.constants).all(same_constant)
            && (std::ptr::eq(self.source, other.source)
                || self.source.len() == other.source.len()
                    && self.source.iter().zip(other.source).all(|(a, b)| same(a, b)))
    }
}

impl Hash for Kernel {
    /// Leaves out the source, which is long, and the names of constants: values and the kernel's name tell kernels apart.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.entry.hash(state);
        self.constants.iter().for_each(|(_, value)| value.hash(state));
    }
}

impl fmt::Display for Kernel {
    /// Its name, its entry point and its constants: `norm/forward BLOCK=128 RMS=false T=f32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.entry)?;
        self.constants.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Constant::U32(x) => x.fmt(f),
            Constant::F32(x) => x.fmt(f),
            Constant::Bool(x) => x.fmt(f),
            Constant::Type(x) => x.fmt(f),
        }
    }
}
