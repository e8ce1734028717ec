use super::Random;
use crate::device::cuda::sim::math::int::*;

fn random_u32(random: &mut Random) -> u32 {
    let any = random.next() as u32;
    match random.below(6) {
        0 => [0, 1, 2, 31, 32, 33, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, u32::MAX][random.below(10)],
        1 => any % 70,
        2 => any & 0xff,
        _ => any,
    }
}

fn random_u64(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => [0, 1, 63, 64, 65, i64::MAX as u64, 1 << 63, u64::MAX][random.below(8)],
        1 => random_u32(random) as u64,
        _ => random.next(),
    }
}

/// Sections 9.7.1.8 and 9.7.1.9, and what this crate decides for zero and for overflow.
#[test]
fn division() {
    assert_eq!((Int::div(-7i32, 2), Int::rem(-7i32, 2)), (-3, -1));
    assert_eq!((Int::div(7i32, -2), Int::rem(7i32, -2)), (-3, 1));
    assert_eq!((Int::div(7u32, 2), Int::rem(7u32, 2)), (3, 1));
    assert_eq!((Int::div(5u32, 0), Int::rem(5u32, 0)), (u32::MAX, u32::MAX));
    assert_eq!((Int::div(5i64, 0), Int::rem(5i64, 0)), (-1, -1));
    assert_eq!((Int::div(i32::MIN, -1), Int::rem(i32::MIN, -1)), (i32::MIN, 0));
    assert_eq!((Int::div(i16::MIN, -1), Int::rem(i64::MIN, -1)), (i16::MIN, 0));
}

/// Section 9.7.1.3: the upper half, here by the schoolbook method on half words.
#[test]
fn mul_hi() {
    assert_eq!(u32::MAX.mul_hi(u32::MAX), u32::MAX - 1);
    assert_eq!((-1i32).mul_hi(1), -1);
    assert_eq!(i32::MIN.mul_hi(i32::MIN), 1 << 30);
    assert_eq!(u64::MAX.mul_hi(u64::MAX), u64::MAX - 1);
    assert_eq!(i64::MIN.mul_hi(2), -1);
    assert_eq!(0x1234u16.mul_hi(0x5678), 0x0626);
    assert_eq!((-2i16).mul_hi(3), -1);
    let mut random = Random(1);
    for _ in 0..10_000 {
        let (a, b) = (random_u64(&mut random), random_u64(&mut random));
        let [a1, a0, b1, b0] = [a >> 32, a & 0xffff_ffff, b >> 32, b & 0xffff_ffff];
        let middle = a1 * b0 + ((a0 * b0) >> 32);
        let other = a0 * b1 + (middle & 0xffff_ffff);
        let high = a1 * b1 + (middle >> 32) + (other >> 32);
        assert_eq!(a.mul_hi(b), high);
        // A negative factor counts 2^64 less, so the other factor is taken away from the upper half.
        let signed = high.wrapping_sub(if a >> 63 == 1 { b } else { 0 }).wrapping_sub(if b >> 63 == 1 {
            a
        } else {
            0
        });
        assert_eq!((a as i64).mul_hi(b as i64), signed as i64);
    }
}

/// Sections 9.7.1.4 to 9.7.1.6
#[test]
fn mad_and_24_bits() {
    assert_eq!(mad_hi_sat(i32::MIN, i32::MIN, i32::MAX), i32::MAX);
    assert_eq!(mad_hi_sat(1 << 30, 4, -3), -2);
    assert_eq!(mad_hi_sat(i32::MIN, 2, i32::MIN), i32::MIN);
    // 0xffffff^2 = 0xfffffe000001
    assert_eq!(mul24_lo_u32(0xabff_ffff, 0xcdff_ffff), 0xfe00_0001);
    assert_eq!(mul24_hi_u32(0xabff_ffff, 0xcdff_ffff), 0xffff_fe00);
    // As signed numbers of 24 bits both are -1.
    assert_eq!(mul24_lo_s32(0x00ff_ffff, 0x12ff_ffff), 1);
    assert_eq!(mul24_hi_s32(0x00ff_ffff, 0x12ff_ffff), 0);
    // -2^23 * (2^23 - 1) = -0x3fffff800000
    assert_eq!(mul24_lo_s32(0x0080_0000, 0x007f_ffff), 0x0080_0000);
    assert_eq!(mul24_hi_s32(0x0080_0000, 0x007f_ffff), -0x3fff_ff80);
    assert_eq!(mad24_hi_sat(0x0080_0000, 0x007f_ffff, i32::MIN), i32::MIN);
    assert_eq!(mad24_hi_sat(-1, -1, 5), 5);
}

/// Section 9.7.1.7: c + |a - b|
#[test]
fn sad() {
    assert_eq!(Int::sad(3u32, 10, 100), 107);
    assert_eq!(Int::sad(-3i32, 10, 100), 113);
    assert_eq!(Int::sad(i32::MIN, i32::MAX, 1), 0);
    assert_eq!(Int::sad(u64::MAX, 0, 2), 1);
    assert_eq!(Int::sad(-1i16, 1, 0), 2);
}

/// Section 9.7.2: chains of words are wider integers.
#[test]
fn carries() {
    let mut random = Random(2);
    for _ in 0..10_000 {
        let (a, b) = (random_u64(&mut random), random_u64(&mut random));
        let carry = random.below(2) == 1;
        let split = |x: u64| (x as u32, (x >> 32) as u32);
        let ((a0, a1), (b0, b1)) = (split(a), split(b));
        let (low, middle) = add_carry(a0, b0, carry);
        let (high, out) = add_carry(a1, b1, middle);
        let sum = a as u128 + b as u128 + carry as u128;
        assert_eq!((((high as u64) << 32 | low as u64), out), (sum as u64, sum >> 64 == 1));
        assert_eq!(add_carry_u64(a, b, carry), (sum as u64, sum >> 64 == 1));
        let (low, middle) = sub_borrow(a0, b0, carry);
        let (high, out) = sub_borrow(a1, b1, middle);
        let difference = a as i128 - b as i128 - carry as i128;
        assert_eq!((((high as u64) << 32 | low as u64), out), (difference as u64, difference < 0));
        assert_eq!(sub_borrow_u64(a, b, carry), (difference as u64, difference < 0));
    }
}

/// The program of section 9.7.1.19, bit by bit.
fn bfe_by_bits(a: u64, b: u32, c: u32, msb: u32, signed: bool) -> u64 {
    let (pos, len) = (b & 0xff, c & 0xff);
    let bit = |i: u32| a >> i & 1 == 1;
    let sbit = if !signed || len == 0 { false } else { bit((pos + len - 1).min(msb)) };
    let mut d = 0;
    for i in 0..=msb {
        let set = if i < len && pos + i <= msb { bit(pos + i) } else { sbit };
        d |= (set as u64) << i;
    }
    d
}

/// The program of section 9.7.1.20.
fn bfi_by_bits(a: u64, b: u64, c: u32, d: u32, msb: u32) -> u64 {
    let (pos, len) = (c & 0xff, d & 0xff);
    let mut f = b;
    let mut i = 0;
    while i < len && pos + i <= msb {
        f = f & !(1 << (pos + i)) | (a >> i & 1) << (pos + i);
        i += 1;
    }
    f
}

#[test]
fn bit_fields() {
    // Bits 8 to 15 of 0x12348678 are 0x86.
    assert_eq!(0x1234_8678u32.bfe(8, 8), 0x86);
    assert_eq!(0x1234_8678i32.bfe(8, 8), 0x86 - 0x100);
    assert_eq!((-1i32).bfe(0, 0), 0);
    assert_eq!(0x0000_00abu32.bfi(0x1111_1111, 12, 8), 0x111a_b111);
    let mut random = Random(3);
    for _ in 0..50_000 {
        let (a, b) = (random_u64(&mut random), random_u64(&mut random));
        let (pos, len) = (random_u32(&mut random), random_u32(&mut random));
        let low = a & 0xffff_ffff;
        assert_eq!((a as u32).bfe(pos, len) as u64, bfe_by_bits(low, pos, len, 31, false));
        assert_eq!(
            (a as i32).bfe(pos, len) as u32 as u64,
            bfe_by_bits(low, pos, len, 31, true),
            "{a:x} {pos} {len}"
        );
        assert_eq!(a.bfe(pos, len), bfe_by_bits(a, pos, len, 63, false));
        assert_eq!((a as i64).bfe(pos, len) as u64, bfe_by_bits(a, pos, len, 63, true));
        assert_eq!(
            (a as u32).bfi(b as u32, pos, len) as u64,
            bfi_by_bits(low, b & 0xffff_ffff, pos, len, 31)
        );
        assert_eq!(a.bfi(b, pos, len), bfi_by_bits(a, b, pos, len, 63));
    }
}

/// Section 9.7.1.16
#[test]
fn bfind() {
    assert_eq!((0u32.bfind(false), 0u32.bfind(true)), (u32::MAX, u32::MAX));
    assert_eq!((1u32.bfind(false), 1u32.bfind(true)), (0, 31));
    assert_eq!((0x8000_0000u32.bfind(false), 0x8000_0000u32.bfind(true)), (31, 0));
    // The highest bit that differs from the sign.
    assert_eq!((0x7fff_ffffi32.bfind(false), (-1i32).bfind(false), (-2i32).bfind(false)), (30, u32::MAX, 0));
    assert_eq!(i32::MIN.bfind(false), 30);
    assert_eq!((0x100i64.bfind(false), (-0x101i64).bfind(true)), (8, 55));
    assert_eq!((u64::MAX.bfind(false), u64::MAX.bfind(true)), (63, 0));
}

/// Sections 9.7.8.8 and 9.7.8.9: shifts are clamped to the width.
#[test]
fn shifts() {
    assert_eq!((1u32.shl(31), 1u32.shl(32), 1u32.shl(u32::MAX)), (1 << 31, 0, 0));
    assert_eq!((u32::MAX.shr(31), u32::MAX.shr(32)), (1, 0));
    assert_eq!(((-8i32).shr(1), (-8i32).shr(32), (-8i32).shr(u32::MAX), 8i32.shr(40)), (-4, -1, -1, 0));
    assert_eq!((1u64.shl(63), 1u64.shl(64), i64::MIN.shr(64), u64::MAX.shr(64)), (1 << 63, 0, -1, 0));
    assert_eq!((1u16.shl(15), 1u16.shl(16), (-1i16).shr(16), u16::MAX.shr(16)), (1 << 15, 0, -1, 0));
}

/// The program of section 9.7.1.17.
fn fns_by_bits(mask: u32, base: u32, offset: i32) -> u32 {
    let set = |pos: i64| mask >> pos & 1 == 1;
    if offset == 0 {
        return if set(base.into()) { base } else { u32::MAX };
    }
    let (mut pos, mut count) = (base as i64, (offset as i64).abs() - 1);
    while (0..32).contains(&pos) {
        if set(pos) {
            if count == 0 {
                return pos as u32;
            }
            count -= 1;
        }
        pos += offset.signum() as i64;
    }
    u32::MAX
}

#[test]
fn fns_finds_the_nth_set_bit() {
    assert_eq!(fns(0b1011_0100, 2, 2), 4);
    assert_eq!(fns(0b1011_0100, 5, -3), 2);
    assert_eq!(fns(0b1011_0100, 3, 0), u32::MAX);
    let mut random = Random(4);
    for _ in 0..50_000 {
        let mask = random_u32(&mut random);
        let (base, offset) = (random.below(32) as u32, random.below(80) as i32 - 40);
        assert_eq!(fns(mask, base, offset), fns_by_bits(mask, base, offset), "{mask:x} {base} {offset}");
    }
}

/// Sections 9.7.8.7 (`shf`), 9.7.1.22 (`bmsk`), 9.7.1.21 (`szext`), from their definitions.
#[test]
fn clamped_and_wrapped() {
    use Bound::*;
    assert_eq!(shf_l(0x8000_0001, 0x1234_5678, 4, Wrap), 0x2345_6788);
    assert_eq!(shf_r(0x8000_0001, 0x1234_5678, 4, Wrap), 0x8800_0000);
    assert_eq!((shf_l(1, 2, 32, Clamp), shf_l(1, 2, 32, Wrap)), (1, 2));
    assert_eq!((shf_r(1, 2, 33, Clamp), shf_r(1, 2, 33, Wrap)), (2, 0));
    assert_eq!((bmsk(4, 8, Clamp), bmsk(28, 8, Clamp)), (0xff0, 0xf000_0000));
    assert_eq!((bmsk(32, 8, Clamp), bmsk(4, 32, Clamp)), (0, 0xffff_fff0));
    assert_eq!((bmsk(33, 33, Wrap), bmsk(3, 0, Wrap)), (2, 0));
    assert_eq!((szext_u32(0xabcd, 8, Clamp), szext_u32(0xabcd, 40, Clamp)), (0xcd, 0xabcd));
    assert_eq!((szext_u32(0xabcd, 40, Wrap), szext_u32(0xabcd, 0, Wrap)), (0xcd, 0));
    assert_eq!((szext_s32(0xabcd, 8, Clamp), szext_s32(-5, 32, Clamp)), (0xcd - 0x100, -5));
    assert_eq!((szext_s32(-5, 32, Wrap), szext_s32(0x7f, 7, Wrap)), (0, -1));
}

/// Section 9.7.8.6: the table is the operation on 0xf0, 0xcc and 0xaa.
#[test]
fn lop3_tables() {
    let mut random = Random(5);
    for table in 0..=255u8 {
        let [a, b, c] = [random.next() as u32, random.next() as u32, random.next() as u32];
        for bit in 0..32 {
            let index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | c >> bit & 1;
            assert_eq!(lop3(a, b, c, table) >> bit & 1, (table >> index & 1) as u32);
        }
    }
    assert_eq!(lop3(0xff00, 0x0ff0, 0x00ff, 0xf0 & 0xcc | 0xaa), 0xff00 & 0x0ff0 | 0x00ff);
    assert_eq!(lop3(0xff00, 0x0ff0, 0x00ff, 0xf0 ^ 0xcc ^ 0xaa), 0xff00 ^ 0x0ff0 ^ 0x00ff);
}

/// Section 9.7.9.7, its tables with the bytes of b:a numbered 7 to 0.
#[test]
fn prmt_modes() {
    use Permute::*;
    let (a, b) = (0x3322_1100, 0x7766_5544);
    assert_eq!(prmt(a, b, 0x7531, Index), 0x7755_3311);
    assert_eq!(prmt(a, b, 0x0426, Index), 0x0044_2266);
    // Replicated signs: of byte 0x80 ones, of 0x7f zeros.
    assert_eq!(prmt(0x0000_807f, 0, 0x9818, Index), 0xff00_8000);
    let cases = [
        (Forward4, [0x3322_1100, 0x4433_2211, 0x5544_3322, 0x6655_4433]),
        (Backward4, [0x5566_7700, 0x6677_0011, 0x7700_1122, 0x0011_2233]),
        (Replicate8, [0x0000_0000, 0x1111_1111, 0x2222_2222, 0x3333_3333]),
        (EdgeClampLeft, [0x3322_1100, 0x3322_1111, 0x3322_2222, 0x3333_3333]),
        (EdgeClampRight, [0x0000_0000, 0x1111_1100, 0x2222_1100, 0x3322_1100]),
        (Replicate16, [0x1100_1100, 0x3322_3322, 0x1100_1100, 0x3322_3322]),
    ];
    for (mode, expected) in cases {
        for (i, expected) in expected.into_iter().enumerate() {
            assert_eq!(prmt(a, b, i as u32 | 0xabc0, mode), expected, "{mode:?} {i}");
        }
    }
}

/// Sections 9.7.1.23 and 9.7.1.24
#[test]
fn dot_products() {
    // 0xff is 255 or -1, 0x80 is 128 or -128.
    let (a, b) = (0xff02_0380, 0x0405_ff80);
    let sum =
        |a: [i64; 4], b: [i64; 4], c: i64| (a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>() + c) as u32;
    let (au, as_) = ([255, 2, 3, 128], [-1, 2, 3, -128]);
    let (bu, bs) = ([4, 5, 255, 128], [4, 5, -1, -128]);
    assert_eq!(dp4a(a, b, 7, false, false), sum(au, bu, 7));
    assert_eq!(dp4a(a, b, 7, false, true), sum(au, bs, 7));
    assert_eq!(dp4a(a, b, 7, true, false), sum(as_, bu, 7));
    assert_eq!(dp4a(a, b, 7, true, true), sum(as_, bs, 7));
    assert_eq!(dp4a(0x0101_0101, 0x0101_0101, u32::MAX, true, true), 3);
    // a's halves are 0xfffe (65534 or -2) above 0x0003.
    let a = 0xfffe_0003;
    assert_eq!(dp2a(a, b, 7, false, false, false), sum([0, 0, 3, 65534], [0, 0, 128, 255], 7));
    assert_eq!(dp2a(a, b, 7, true, false, false), sum([0, 0, 3, 65534], [0, 0, 5, 4], 7));
    assert_eq!(dp2a(a, b, 7, false, true, true), sum([0, 0, 3, -2], [0, 0, -128, -1], 7));
    assert_eq!(dp2a(a, b, 7, true, true, false), sum([0, 0, 3, -2], [0, 0, 5, 4], 7));
    assert_eq!(dp2a(a, b, 7, false, false, true), sum([0, 0, 3, 65534], [0, 0, -128, -1], 7));
}
