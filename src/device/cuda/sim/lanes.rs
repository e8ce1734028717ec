//! Registers of a warp, and functions over all its lanes at once.
//!
//! [`map!`] and [`test!`] turn a function of one lane into a function of 32, compiled for the plain instruction set and for
//! AVX2 with FMA; the decoder takes the one that the processor can run.

use std::cell::Cell;

/// Lanes of a warp.
pub const WARP: usize = 32;
/// The mask with every lane.
pub const FULL: u32 = u32::MAX;

/// One register of all lanes. Cells, so that destination and sources may be the same register.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Lanes<T: Copy>([Cell<T>; WARP]);

/// A register of up to 32 bits, of 64 bits.
pub type Word = Lanes<u32>;
pub type Long = Lanes<u64>;

impl<T: Copy> Lanes<T> {
    pub fn splat(value: T) -> Self {
        Self(std::array::from_fn(|_| Cell::new(value)))
    }

    #[inline(always)]
    pub fn get(&self, lane: usize) -> T {
        self.0[lane].get()
    }

    #[inline(always)]
    pub fn all(&self) -> [T; WARP] {
        std::array::from_fn(|lane| self.0[lane].get())
    }

    /// Writes the lanes of `mask`. Every function of registers ends so; inlined into each it would be most of their code.
    #[inline(never)]
    pub fn store(&self, mask: u32, values: &[T; WARP]) {
        if mask == FULL {
            for (cell, &value) in self.0.iter().zip(values) {
                cell.set(value);
            }
        } else {
            for (lane, (cell, &value)) in self.0.iter().zip(values).enumerate() {
                cell.set(if mask >> lane & 1 == 1 { value } else { cell.get() });
            }
        }
    }
}

/// A type that an instruction reads from or writes to a register.
pub trait Lane: Copy {
    type Bits: Copy + Default;
    fn read(bits: Self::Bits) -> Self;
    fn bits(self) -> Self::Bits;
}

macro_rules! integer_lanes {
    ($($type:ty: $bits:ty),*) => {$(
        impl Lane for $type {
            type Bits = $bits;
            #[inline(always)]
            fn read(bits: $bits) -> Self {
                bits as Self
            }
            #[inline(always)]
            fn bits(self) -> $bits {
                self as $bits
            }
        }
    )*};
}

integer_lanes!(u32: u32, i32: u32, u64: u64, i64: u64, u16: u32, u8: u32);

/// Narrow registers hold their bits zero-extended.
impl Lane for i16 {
    type Bits = u32;
    #[inline(always)]
    fn read(bits: u32) -> Self {
        bits as Self
    }
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self as u16)
    }
}

impl Lane for i8 {
    type Bits = u32;
    #[inline(always)]
    fn read(bits: u32) -> Self {
        bits as Self
    }
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self as u8)
    }
}

impl Lane for f32 {
    type Bits = u32;
    #[inline(always)]
    fn read(bits: u32) -> Self {
        Self::from_bits(bits)
    }
    #[inline(always)]
    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Lane for f64 {
    type Bits = u64;
    #[inline(always)]
    fn read(bits: u64) -> Self {
        Self::from_bits(bits)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

/// Functions over registers: destination, sources, mask of the lanes to write.
///
/// They are unsafe because they may need AVX2 and FMA; whoever takes one out of [`map!`] may call it on this machine.
pub type F1<D, A> = unsafe fn(&Lanes<D>, &Lanes<A>, u32);
pub type F2<D, A, B> = unsafe fn(&Lanes<D>, &Lanes<A>, &Lanes<B>, u32);
pub type F3<D, A, B, C> = unsafe fn(&Lanes<D>, &Lanes<A>, &Lanes<B>, &Lanes<C>, u32);
pub type F4<D, A, B, C, E> = unsafe fn(&Lanes<D>, &Lanes<A>, &Lanes<B>, &Lanes<C>, &Lanes<E>, u32);
/// Comparisons: the lanes for which they hold.
pub type T1<A> = unsafe fn(&Lanes<A>) -> u32;
pub type T2<A, B> = unsafe fn(&Lanes<A>, &Lanes<B>) -> u32;

/// Whether functions compiled for AVX2 and FMA may be called.
#[cfg(target_arch = "x86_64")]
pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Takes the vectorised form of a function where the processor can run it. On x86-64 that is the one for AVX2, and the other
/// calls the function lane by lane: it is for processors of another age, and this keeps it small.
macro_rules! pick {
    ($function:ty, |$($x:ident: $X:ty),*| $result:ty, $lanes:ident, $one:ident, $each:ident) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn wide($($x: $X),*) -> $result {
                $lanes($($x),*, $one)
            }
            fn narrow($($x: $X),*) -> $result {
                $lanes($($x),*, $each)
            }
            let function: $function = if $crate::device::cuda::sim::lanes::has_avx2() { wide } else { narrow };
            $crate::device::cuda::sim::program::Code::from(function)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            fn wide($($x: $X),*) -> $result {
                $lanes($($x),*, $one)
            }
            let function: $function = wide;
            $crate::device::cuda::sim::program::Code::from(function)
        }
    }};
}

/// A function of one lane as [`Code`](super::program::Code) over 32.
macro_rules! map {
    (|$($x:ident: $X:ty),+| -> $R:ty $body:block) => {{
        use $crate::device::cuda::sim::lanes::{Lane, Lanes, WARP};
        #[inline(always)]
        fn one($($x: $X),+) -> $R $body
        #[cfg(target_arch = "x86_64")]
        #[inline(never)]
        fn each($($x: $X),+) -> $R {
            one($($x),+)
        }
        #[inline(always)]
        fn lanes(
            out: &Lanes<<$R as Lane>::Bits>,
            $($x: &Lanes<<$X as Lane>::Bits>,)+
            mask: u32,
            lane: impl Fn($($X),+) -> $R,
        ) {
            let mut result = [<$R as Lane>::Bits::default(); WARP];
            for (i, result) in result.iter_mut().enumerate() {
                *result = lane($(<$X as Lane>::read($x.get(i))),+).bits();
            }
            out.store(mask, &result);
        }
        type Function = unsafe fn(&Lanes<<$R as Lane>::Bits>, $(&Lanes<<$X as Lane>::Bits>),+, u32);
        $crate::device::cuda::sim::lanes::pick!(
            Function,
            |out: &Lanes<<$R as Lane>::Bits>, $($x: &Lanes<<$X as Lane>::Bits>,)+ mask: u32| (),
            lanes,
            one,
            each
        )
    }};
}

/// A predicate of one lane as [`Code`](super::program::Code) over 32.
macro_rules! test {
    (|$($x:ident: $X:ty),+| $body:block) => {{
        use $crate::device::cuda::sim::lanes::{Lane, Lanes, WARP};
        #[inline(always)]
        fn one($($x: $X),+) -> bool $body
        #[cfg(target_arch = "x86_64")]
        #[inline(never)]
        fn each($($x: $X),+) -> bool {
            one($($x),+)
        }
        #[inline(always)]
        fn lanes($($x: &Lanes<<$X as Lane>::Bits>,)+ lane: impl Fn($($X),+) -> bool) -> u32 {
            let mut bits = [0u32; WARP];
            for (i, bit) in bits.iter_mut().enumerate() {
                *bit = u32::from(lane($(<$X as Lane>::read($x.get(i))),+)) << i;
            }
            bits.iter().fold(0, |all, bit| all | bit)
        }
        type Function = unsafe fn($(&Lanes<<$X as Lane>::Bits>),+) -> u32;
        $crate::device::cuda::sim::lanes::pick!(Function, |$($x: &Lanes<<$X as Lane>::Bits>),+| u32, lanes, one, each)
    }};
}

pub(in crate::device::cuda::sim) use {map, pick, test};

/// The lanes of a mask, ascending.
#[inline(always)]
pub fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            lane
        })
    })
}
