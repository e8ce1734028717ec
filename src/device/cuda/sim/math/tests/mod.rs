//! Tests of the numerics, and what they share: numbers to test with, and an oracle for rounding.
//!
//! The oracle knows what "rounded down" and "nearest" mean, not how to round: it looks at a result and its
//! two neighbours, and compares them with the exact value in integers wide enough for any sum of products of
//! f64. It shares no code with the implementation.

mod approx;
mod convert;
mod float;
mod half;
mod int;
mod mma;

use std::cmp::Ordering;

use super::{Mode, Round};

pub const ROUNDS: [Round; 4] = [Round::Nearest, Round::Zero, Round::Down, Round::Up];

impl Mode {
    /// `.rn` without further modifiers.
    const NEAREST: Mode = Mode::rounding(Round::Nearest);

    const fn rounding(round: Round) -> Mode {
        Mode { round, ftz: false, sat: false }
    }
}

/// SplitMix64
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// The bits of a number of a format: any bits, few significant bits, or an edge.
    pub fn bits(&mut self, format: Binary) -> u64 {
        let width = format.width();
        let any = self.next() & (u64::MAX >> (64 - width));
        let fraction = (1u64 << format.fraction) - 1;
        match self.below(8) {
            // Any number.
            0 | 1 => any,
            // Close to one, so that exponents meet.
            2 | 3 => {
                let exponent = (format.bias() as u64 + self.next() % 9).wrapping_sub(4);
                any & (fraction | 1 << (width - 1)) | exponent << format.fraction
            }
            // Few significant bits: ties.
            4 => any & !(fraction >> 3),
            // Ones or zeros down to a few of the last bits.
            5 => (any | fraction) ^ (self.next() & 7),
            // Subnormal.
            6 => any & (fraction | 1 << (width - 1)),
            // Zeros, infinities, NaN, one, and the neighbours of the smallest and the largest normal number.
            _ => {
                let infinity = ((1 << format.exponent) - 1) << format.fraction;
                let one = (format.bias() as u64) << format.fraction;
                let edges = [
                    0,
                    1,
                    fraction,
                    fraction + 1,
                    infinity - 1,
                    infinity,
                    infinity + 1,
                    one,
                    one - 1,
                    one + 1,
                ];
                edges[self.below(edges.len())] | (any >> (width - 1)) << (width - 1)
            }
        }
    }

    pub fn f32(&mut self) -> f32 {
        f32::from_bits(self.bits(F32) as u32)
    }

    pub fn f64(&mut self) -> f64 {
        f64::from_bits(self.bits(F64))
    }

    pub fn u16(&mut self, format: Binary) -> u16 {
        self.bits(format) as u16
    }
}

/// A binary format as IEEE 754 describes it.
#[derive(Clone, Copy, Debug)]
pub struct Binary {
    pub exponent: u32,
    pub fraction: u32,
}

pub const F64: Binary = Binary { exponent: 11, fraction: 52 };
pub const F32: Binary = Binary { exponent: 8, fraction: 23 };
pub const TF32: Binary = Binary { exponent: 8, fraction: 10 };
pub const F16: Binary = Binary { exponent: 5, fraction: 10 };
pub const BF16: Binary = Binary { exponent: 8, fraction: 7 };
pub const E5M2: Binary = Binary { exponent: 5, fraction: 2 };

impl Binary {
    pub fn width(self) -> u32 {
        1 + self.exponent + self.fraction
    }

    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    pub fn is_nan(self, bits: u64) -> bool {
        bits & (u64::MAX >> (65 - self.width())) > self.infinity()
    }

    pub fn is_finite(self, bits: u64) -> bool {
        bits & (u64::MAX >> (65 - self.width())) < self.infinity()
    }

    /// The value of a finite number's magnitude, and of infinity the power of two after the largest.
    fn magnitude(self, magnitude: u64) -> Dyadic {
        let (biased, fraction) =
            ((magnitude >> self.fraction) as i32, magnitude & ((1 << self.fraction) - 1));
        let significand = if biased == 0 { fraction } else { fraction | 1 << self.fraction };
        Dyadic {
            significand: significand.into(),
            exponent: biased.max(1) - self.bias() - self.fraction as i32,
        }
    }

    pub fn value(self, bits: u64) -> Dyadic {
        let sign = 1 << (self.width() - 1);
        let value = self.magnitude(bits & (sign - 1));
        if bits & sign == 0 { value } else { value.negated() }
    }
}

/// significand * 2^exponent
#[derive(Clone, Copy, Debug)]
pub struct Dyadic {
    pub significand: i128,
    pub exponent: i32,
}

impl Dyadic {
    pub fn negated(self) -> Dyadic {
        Dyadic { significand: -self.significand, ..self }
    }

    pub fn times(self, other: Dyadic) -> Dyadic {
        Dyadic { significand: self.significand * other.significand, exponent: self.exponent + other.exponent }
    }
}

/// A sum of dyadic numbers: an integer of 4352 bits in two's complement, in units of 2^-2200.
#[derive(Clone)]
pub struct Sum([u64; 68]);

impl Sum {
    pub fn of(terms: &[Dyadic]) -> Sum {
        let mut sum = Sum([0; 68]);
        for term in terms {
            sum.add(*term);
        }
        sum
    }

    fn add(&mut self, term: Dyadic) {
        let shift = usize::try_from(term.exponent + 2200).expect("no term is that small");
        let (word, bit) = (shift / 64, shift % 64);
        let fill = if term.significand < 0 { u64::MAX } else { 0 };
        let parts = [term.significand as u64, (term.significand >> 64) as u64];
        let part = |i: isize| if i < 0 { 0 } else { parts.get(i as usize).copied().unwrap_or(fill) };
        let mut carry = false;
        for i in word..68 {
            let j = (i - word) as isize;
            let low = if bit == 0 { 0 } else { part(j - 1) >> (64 - bit) };
            let (sum, first) = self.0[i].overflowing_add(part(j) << bit | low);
            let (sum, second) = sum.overflowing_add(carry.into());
            self.0[i] = sum;
            carry = first | second;
        }
    }

    pub fn sign(&self) -> Ordering {
        if self.0[67] >> 63 == 1 {
            Ordering::Less
        } else if self.0.iter().all(|word| *word == 0) {
            Ordering::Equal
        } else {
            Ordering::Greater
        }
    }
}

/// Compares the exact sum of some terms with a number.
pub fn sum_against(terms: &[Dyadic]) -> impl Fn(Dyadic) -> Ordering + use<> {
    let sum = Sum::of(terms);
    move |y| {
        let mut difference = sum.clone();
        difference.add(y.negated());
        difference.sign()
    }
}

/// Compares the exact quotient a / b with a number.
pub fn quotient_against(a: Dyadic, b: Dyadic) -> impl Fn(Dyadic) -> Ordering {
    move |y| {
        let order = Sum::of(&[a, b.times(y).negated()]).sign();
        if b.significand < 0 { order.reverse() } else { order }
    }
}

/// Compares the root of a positive number with a number.
pub fn root_against(x: Dyadic) -> impl Fn(Dyadic) -> Ordering {
    move |y| if y.significand < 0 { Ordering::Greater } else { Sum::of(&[x, y.times(y).negated()]).sign() }
}

/// Asserts that `bits` is what the exact value of `against` rounds to, in one of the formats. Of zeros any
/// sign will do. NaN is refused.
#[track_caller]
pub fn assert_rounded(
    bits: u64,
    format: Binary,
    round: Round,
    against: impl Fn(Dyadic) -> Ordering,
    what: impl Fn() -> String,
) {
    let sign = 1u64 << (format.width() - 1);
    let (negative, magnitude) = (bits & sign != 0, bits & (sign - 1));
    assert!(!format.is_nan(bits), "{}: NaN", what());
    // Turned so that the result is not negative.
    let exact = |y: Dyadic| if negative { against(y.negated()).reverse() } else { against(y) };
    let round = match round {
        Round::Down if negative => Round::Up,
        Round::Up if negative => Round::Down,
        other => other,
    };
    let infinite = magnitude == format.infinity();
    let value = format.magnitude(magnitude);
    // Midpoints to the neighbours; below zero lies the first subnormal number's mirror image.
    let middle = |lower: u64| {
        let (lower, upper) = (format.magnitude(lower), format.magnitude(lower + 1));
        // Neighbours have the same exponent, or the upper one is the power of two that ends the lower's.
        let scale = upper.exponent - lower.exponent;
        Dyadic { significand: lower.significand + (upper.significand << scale), exponent: lower.exponent - 1 }
    };
    let fine = match round {
        Round::Nearest => {
            let even = magnitude & 1 == 0;
            let below = match magnitude {
                0 => exact(middle(0).negated()),
                _ => exact(middle(magnitude - 1)),
            };
            let above = if infinite { Ordering::Less } else { exact(middle(magnitude)) };
            (below == Ordering::Greater || even && below == Ordering::Equal)
                && (above == Ordering::Less || even && above == Ordering::Equal)
        }
        Round::Down | Round::Zero => {
            let next = magnitude + 1;
            // Zero stands for the numbers on its other side too when rounding towards it.
            let from = exact(value) != Ordering::Less
                || magnitude == 0
                    && round == Round::Zero
                    && exact(format.magnitude(1).negated()) == Ordering::Greater;
            !infinite
                && from
                && (next == format.infinity() || exact(format.magnitude(next)) == Ordering::Less)
        }
        Round::Up => {
            let previous = match magnitude {
                0 => format.magnitude(1).negated(),
                _ => format.magnitude(magnitude - 1),
            };
            exact(previous) == Ordering::Greater && (infinite || exact(value) != Ordering::Greater)
        }
    };
    assert!(fine, "{}: {bits:#x} is not the exact value rounded ({round:?})", what());
}

/// The oracle itself, on results that IEEE 754 settles by hand.
#[test]
fn oracle_tells_right_from_wrong() {
    let accepts = |bits: u64, round, terms: &[Dyadic]| {
        let result = std::panic::catch_unwind(|| {
            assert_rounded(bits, F16, round, sum_against(terms), || "expected".into());
        });
        result.is_ok()
    };
    // 2049 = 2^11 + 1 lies between 2048 (0x6800) and 2050 (0x6801) in f16, 2051 between 2050 and 2052.
    let tie = [Dyadic { significand: 2049, exponent: 0 }];
    let odd = [Dyadic { significand: 2051, exponent: 0 }];
    assert!(accepts(0x6800, Round::Nearest, &tie) && !accepts(0x6801, Round::Nearest, &tie));
    assert!(accepts(0x6802, Round::Nearest, &odd) && !accepts(0x6801, Round::Nearest, &odd));
    assert!(accepts(0x6800, Round::Down, &tie) && !accepts(0x6801, Round::Down, &tie));
    assert!(accepts(0x6801, Round::Up, &tie) && !accepts(0x6800, Round::Up, &tie));
    assert!(accepts(0x6800, Round::Zero, &tie) && !accepts(0x6801, Round::Zero, &tie));
    // 65520 is the midpoint of 65504 (0x7bff) and 65536, which is infinity; 65519 is below it.
    let over = [Dyadic { significand: 65520, exponent: 0 }];
    assert!(accepts(0x7c00, Round::Nearest, &over) && !accepts(0x7bff, Round::Nearest, &over));
    assert!(accepts(0x7bff, Round::Zero, &over) && !accepts(0x7c00, Round::Zero, &over));
    let under = [Dyadic { significand: 65519, exponent: 0 }];
    assert!(accepts(0x7bff, Round::Nearest, &under) && !accepts(0x7c00, Round::Nearest, &under));
    // -2^-25 is half of the smallest number's negative.
    let tiny = [Dyadic { significand: -1, exponent: -25 }];
    assert!(accepts(0x8000, Round::Nearest, &tiny) && !accepts(0x8001, Round::Nearest, &tiny));
    assert!(accepts(0x8001, Round::Down, &tiny) && !accepts(0x8000, Round::Down, &tiny));
    assert!(accepts(0x8000, Round::Up, &tiny) && !accepts(0x8001, Round::Up, &tiny));
    assert!(!accepts(0x0001, Round::Up, &tiny) && !accepts(0x3c00, Round::Nearest, &tie));
}
