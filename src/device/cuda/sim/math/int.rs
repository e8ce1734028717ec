//! The integer and bit instructions for which Rust has no operator (sections 9.7.1, 9.7.2, 9.7.8 and, for `prmt`,
//! 9.7.9.7).
//!
//! `add`, `sub`, `mul.lo`, `neg` and `abs` are Rust's wrapping operations; `add.sat` and `sub.sat` its
//! saturating ones; `popc`, `clz` and `brev` are `count_ones`, `leading_zeros` and `reverse_bits`.
//!
//! The ISA leaves division by zero open; here, as GPUs do, quotient and remainder are all ones. The smallest
//! integer divided by -1 is itself, remainder 0; `abs` and `neg` of it are itself too.

/// The instructions that exist for several widths and signs. The names are PTX's.
pub trait Int: Copy {
    /// The quotient, towards zero.
    fn div(self, b: Self) -> Self;

    /// The remainder of `div`; its sign is that of `self`.
    fn rem(self, b: Self) -> Self;

    /// `mul.hi`: the upper half of the product of double width.
    fn mul_hi(self, b: Self) -> Self;

    /// c + |a - b|, where the difference does not overflow and the sum wraps.
    fn sad(self, b: Self, c: Self) -> Self;

    /// `len` bits from `pos` on, of signed types sign-extended from the last of them. Only the lower bytes
    /// of `pos` and `len` count; bits past the end are zeros, or the sign.
    fn bfe(self, pos: u32, len: u32) -> Self;

    /// `bfi`: `b` with `len` bits from `pos` on replaced by the lowest of `self`. Only the lower bytes of
    /// `pos` and `len` count; bits past the end are dropped.
    fn bfi(self, b: Self, pos: u32, len: u32) -> Self;

    /// The position of the highest bit that is not a copy of the sign, or with `shiftamt` how far it is from
    /// the top; all ones if there is none.
    fn bfind(self, shiftamt: bool) -> u32;

    /// Shifts by the width or more give 0.
    fn shl(self, by: u32) -> Self;

    /// Shifts by the width or more give 0, or of signed types the sign in every bit.
    fn shr(self, by: u32) -> Self;
}

macro_rules! int {
    ($($type:ty, $unsigned:ty, $wide:ty;)*) => { $(
        impl Int for $type {
            #[inline(always)]
            fn div(self, b: Self) -> Self {
                if b == 0 { !0 } else { self.wrapping_div(b) }
            }

            #[inline(always)]
            fn rem(self, b: Self) -> Self {
                if b == 0 { !0 } else { self.wrapping_rem(b) }
            }

            #[inline(always)]
            fn mul_hi(self, b: Self) -> Self {
                ((self as $wide * b as $wide) >> <$type>::BITS) as $type
            }

            #[inline(always)]
            fn sad(self, b: Self, c: Self) -> Self {
                c.wrapping_add(self.abs_diff(b) as $type)
            }

            #[inline(always)]
            fn bfe(self, pos: u32, len: u32) -> Self {
                const WIDTH: u32 = <$type>::BITS;
                let (pos, len) = (pos & 0xff, (len & 0xff).min(WIDTH));
                // Down to the bottom, where zeros or the sign come in from past the end; then up to the top
                // and down again, so that the field's last bit fills what is above it.
                let field = Int::shr(self, pos);
                let above = (WIDTH - len) & (WIDTH - 1);
                if len == 0 { 0 } else { field << above >> above }
            }

            #[inline(always)]
            fn bfi(self, b: Self, pos: u32, len: u32) -> Self {
                let (pos, len) = (pos & 0xff, len & 0xff);
                let mask = Int::shl(!Int::shl(!0 as $unsigned, len), pos) as $type;
                b & !mask | Int::shl(self, pos) & mask
            }

            #[inline(always)]
            fn bfind(self, shiftamt: bool) -> u32 {
                let sign = Int::shr(self, <$type>::BITS) as $unsigned;
                let above = (self as $unsigned ^ sign).leading_zeros();
                let found = if shiftamt { above } else { (<$type>::BITS - 1).wrapping_sub(above) };
                if above == <$type>::BITS { !0 } else { found }
            }

            #[inline(always)]
            fn shl(self, by: u32) -> Self {
                if by < <$type>::BITS { self << (by & (<$type>::BITS - 1)) } else { 0 }
            }

            #[inline(always)]
            fn shr(self, by: u32) -> Self {
                let sign = self >> (<$type>::BITS - 1);
                let past = if <$type>::MIN == 0 { 0 } else { sign };
                if by < <$type>::BITS { self >> (by & (<$type>::BITS - 1)) } else { past }
            }
        }
    )* };
}

int! {
    u16, u16, u32;
    i16, u16, i32;
    u32, u32, u64;
    i32, u32, i64;
    u64, u64, u128;
    i64, u64, i128;
}

/// `mad.hi.sat.s32`
#[inline(always)]
pub fn mad_hi_sat(a: i32, b: i32, c: i32) -> i32 {
    a.mul_hi(b).saturating_add(c)
}

/// The product of the lower 24 bits of each, of 48 bits.
#[inline(always)]
fn product24_u32(a: u32, b: u32) -> u64 {
    (a & 0xff_ffff) as u64 * (b & 0xff_ffff) as u64
}

#[inline(always)]
fn product24_s32(a: i32, b: i32) -> i64 {
    (a << 8 >> 8) as i64 * (b << 8 >> 8) as i64
}

/// `mul24.lo.u32`: the lower 32 of the 48 bits
#[inline(always)]
pub fn mul24_lo_u32(a: u32, b: u32) -> u32 {
    product24_u32(a, b) as u32
}

/// `mul24.lo.s32`
#[inline(always)]
pub fn mul24_lo_s32(a: i32, b: i32) -> i32 {
    product24_s32(a, b) as i32
}

/// `mul24.hi.u32`: the upper 32 of the 48 bits
#[inline(always)]
pub fn mul24_hi_u32(a: u32, b: u32) -> u32 {
    (product24_u32(a, b) >> 16) as u32
}

/// `mul24.hi.s32`
#[inline(always)]
pub fn mul24_hi_s32(a: i32, b: i32) -> i32 {
    (product24_s32(a, b) >> 16) as i32
}

/// `mad24.hi.sat.s32`
#[inline(always)]
pub fn mad24_hi_sat(a: i32, b: i32, c: i32) -> i32 {
    mul24_hi_s32(a, b).saturating_add(c)
}

/// a + b + carry and the carry out: `add.cc`, `addc` and, with a product for `a`, `mad.cc`, `madc`
#[inline(always)]
pub fn add_carry(a: u32, b: u32, carry: bool) -> (u32, bool) {
    let sum = a as u64 + b as u64 + carry as u64;
    (sum as u32, sum >> 32 != 0)
}

/// a - b - borrow and the borrow out: `sub.cc`, `subc`
#[inline(always)]
pub fn sub_borrow(a: u32, b: u32, borrow: bool) -> (u32, bool) {
    let difference = (a as u64).wrapping_sub(b as u64).wrapping_sub(borrow as u64);
    (difference as u32, difference >> 63 != 0)
}

/// [`add_carry`] of 64 bits
#[inline(always)]
pub fn add_carry_u64(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let (sum, over) = a.overflowing_add(b);
    let (sum, again) = sum.overflowing_add(carry as u64);
    (sum, over | again)
}

/// [`sub_borrow`] of 64 bits
#[inline(always)]
pub fn sub_borrow_u64(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let (difference, under) = a.overflowing_sub(b);
    let (difference, again) = difference.overflowing_sub(borrow as u64);
    (difference, under | again)
}

/// `fns.b32`: the position of the |offset|-th set bit from `base` on, upwards for a positive offset,
/// downwards for a negative one; all ones if there is none. With offset 0, `base` if its bit is set.
#[inline(always)]
pub fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    if base > 31 {
        return !0;
    }
    let candidates = match offset {
        0 => mask & 1 << base,
        1.. => mask >> base << base,
        _ => mask << (31 - base) >> (31 - base),
    };
    let count = offset.unsigned_abs().max(1);
    if candidates.count_ones() < count {
        return !0;
    }
    let mut rest = candidates;
    for _ in 1..count {
        rest &= if offset > 0 { rest - 1 } else { !(1 << (31 - rest.leading_zeros())) };
    }
    if offset > 0 { rest.trailing_zeros() } else { 31 - rest.leading_zeros() }
}

/// What to do with positions and shifts of 32 and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// They count as 32.
    Clamp,
    /// Only their lower five bits count.
    Wrap,
}

impl Bound {
    #[inline(always)]
    fn apply(self, n: u32) -> u32 {
        match self {
            Bound::Clamp => n.min(32),
            Bound::Wrap => n & 31,
        }
    }
}

/// `shf.l.b32 d, a, b, c`: the upper half of b:a, shifted left
#[inline(always)]
pub fn shf_l(a: u32, b: u32, by: u32, bound: Bound) -> u32 {
    (((b as u64) << 32 | a as u64) << bound.apply(by) >> 32) as u32
}

/// `shf.r.b32 d, a, b, c`: the lower half of b:a, shifted right
#[inline(always)]
pub fn shf_r(a: u32, b: u32, by: u32, bound: Bound) -> u32 {
    (((b as u64) << 32 | a as u64) >> bound.apply(by)) as u32
}

/// `bmsk.b32`: ones from bit `pos` on, `len` of them as far as they fit
#[inline(always)]
pub fn bmsk(pos: u32, len: u32, bound: Bound) -> u32 {
    (!Int::shl(!0u32, bound.apply(len))).shl(bound.apply(pos))
}

/// `szext.u32`: the lowest `bits` bits, zero-extended
#[inline(always)]
pub fn szext_u32(x: u32, bits: u32, bound: Bound) -> u32 {
    x & !Int::shl(!0u32, bound.apply(bits))
}

/// `szext.s32`: the lowest `bits` bits, sign-extended
#[inline(always)]
pub fn szext_s32(x: i32, bits: u32, bound: Bound) -> i32 {
    let above = 32 - bound.apply(bits);
    x.shl(above).shr(above)
}

/// `lop3.b32`: bit 4a + 2b + c of the table, for every bit of the operands
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    // The eight combinations as masks: in a loop they do not change.
    let on = |i: u32| 0u32.wrapping_sub((table >> i & 1) as u32);
    let select = |c1: u32, c0: u32| c & c1 | !c & c0;
    let (b1a1, b0a1) = (select(on(7), on(6)), select(on(5), on(4)));
    let (b1a0, b0a0) = (select(on(3), on(2)), select(on(1), on(0)));
    a & (b & b1a1 | !b & b0a1) | !a & (b & b1a0 | !b & b0a0)
}

/// The modes of `prmt` (section 9.7.9.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permute {
    /// Four selectors of four bits; the upper one replicates the sign of the byte.
    Index,
    Forward4,
    Backward4,
    Replicate8,
    EdgeClampLeft,
    EdgeClampRight,
    Replicate16,
}

/// `prmt.b32`: four of the eight bytes of b:a
#[inline(always)]
pub fn prmt(a: u32, b: u32, selector: u32, mode: Permute) -> u32 {
    // Which bytes the other modes take, for each value of the lower two bits of the selector.
    let table = match mode {
        Permute::Index => return prmt_index(a, b, selector),
        Permute::Forward4 => [0x3210, 0x4321, 0x5432, 0x6543],
        Permute::Backward4 => [0x5670, 0x6701, 0x7012, 0x0123],
        Permute::Replicate8 => [0x0000, 0x1111, 0x2222, 0x3333],
        Permute::EdgeClampLeft => [0x3210, 0x3211, 0x3222, 0x3333],
        Permute::EdgeClampRight => [0x0000, 0x1110, 0x2210, 0x3210],
        Permute::Replicate16 => [0x1010, 0x3232, 0x1010, 0x3232],
    };
    prmt_index(a, b, table[selector as usize & 3])
}

#[inline(always)]
fn prmt_index(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    let byte = |i: u32| {
        let nibble = selector >> (4 * i);
        let byte = (bytes >> (8 * (nibble & 7))) as u32 & 0xff;
        let sign = (byte >> 7) * 0xff;
        (if nibble & 8 == 0 { byte } else { sign }) << (8 * i)
    };
    byte(0) | byte(1) | byte(2) | byte(3)
}

/// One operand of `dp4a` and `dp2a`, whose parts are signed or not.
#[inline(always)]
fn part(x: u32, bits: u32, i: u32, signed: bool) -> i32 {
    let top = x << (32 - bits - bits * i);
    if signed { top as i32 >> (32 - bits) } else { (top >> (32 - bits)) as i32 }
}

/// `dp4a`: c plus the four products of bytes; wraps
#[inline(always)]
pub fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let product = |i| part(a, 8, i, a_signed).wrapping_mul(part(b, 8, i, b_signed)) as u32;
    c.wrapping_add(product(0)).wrapping_add(product(1)).wrapping_add(product(2)).wrapping_add(product(3))
}

/// `dp2a.lo`, `dp2a.hi`: c plus the products of a's two halves with the lower or upper two bytes of b; wraps
#[inline(always)]
pub fn dp2a(a: u32, b: u32, c: u32, high: bool, a_signed: bool, b_signed: bool) -> u32 {
    let b = if high { b >> 16 } else { b };
    let product = |i| part(a, 16, i, a_signed).wrapping_mul(part(b, 8, i, b_signed)) as u32;
    c.wrapping_add(product(0)).wrapping_add(product(1))
}
