//! Exact intermediate results and their one rounding, in integers.
//!
//! Whatever is too rare to be worth a fast path ends here: directed rounding of f64, conversions between
//! f64 and the small formats, integers beyond a float's precision.

use super::Round;

/// A binary floating-point format whose encodings grow with the values they stand for.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Stored bits of the significand.
    fraction: u32,
    bias: i32,
    /// The encoding of the largest finite value.
    largest: u64,
    /// Where the sign goes.
    sign: u32,
    /// How far an encoding is shifted up in its container: tf32 is the upper 19 bits of an f32.
    shift: u32,
    /// Whether the encoding after the largest is infinity; otherwise what overflows is NaN.
    infinite: bool,
    /// The NaN that results carry.
    nan: u64,
}

impl Format {
    const fn ieee(exponent: u32, fraction: u32, nan: u64) -> Format {
        Format {
            fraction,
            bias: (1 << (exponent - 1)) - 1,
            largest: (((1 << exponent) - 1) << fraction) - 1,
            sign: exponent + fraction,
            shift: 0,
            infinite: true,
            nan,
        }
    }

    pub const F64: Format = Format::ieee(11, 52, super::float::NAN_F64);
    pub const F32: Format = Format::ieee(8, 23, super::float::NAN_F32 as u64);
    pub const TF32: Format = Format { shift: 13, ..Format::ieee(8, 10, 0x7fff_e000) };
    pub const F16: Format = Format::ieee(5, 10, super::half::NAN as u64);
    pub const BF16: Format = Format::ieee(8, 7, super::half::NAN as u64);
    pub const E5M2: Format = Format::ieee(5, 2, 0x7f);
    /// No infinities, and one NaN of each sign: the largest value is 448.
    pub const E4M3: Format = Format { largest: 0x7e, infinite: false, ..Format::ieee(4, 3, 0x7f) };

    pub(super) fn nan(self) -> u64 {
        self.nan
    }

    fn signed(self, negative: bool, magnitude: u64) -> u64 {
        (magnitude | (negative as u64) << self.sign) << self.shift
    }

    pub(super) fn zero(self, negative: bool) -> u64 {
        self.signed(negative, 0)
    }

    pub(super) fn infinity(self, negative: bool) -> u64 {
        if self.infinite { self.signed(negative, self.largest + 1) } else { self.nan }
    }

    /// The largest finite value.
    pub(super) fn largest(self, negative: bool) -> u64 {
        self.signed(negative, self.largest)
    }

    /// Whether these bits are beyond the largest finite value, on either side.
    pub(super) fn overflowed(self, bits: u64) -> bool {
        (bits >> self.shift) & ((1 << self.sign) - 1) > self.largest
    }
}

/// A number that is not zero: `(-1)^negative * (significand + rest) * 2^exponent`, where the rest is
/// between 0 and 1, both excluded, if `inexact`, and 0 otherwise. An inexact number has at least 60 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    pub negative: bool,
    pub exponent: i32,
    pub significand: u128,
    pub inexact: bool,
}

impl Exact {
    /// A finite number other than zero.
    pub fn new(x: f64) -> Exact {
        let bits = x.to_bits();
        let (biased, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let significand = if biased == 0 { fraction } else { fraction | 1 << 52 };
        Exact {
            negative: x.is_sign_negative(),
            exponent: biased.max(1) - 1075,
            significand: significand.into(),
            inexact: false,
        }
    }

    /// An integer other than zero.
    pub fn integer(x: i128) -> Exact {
        Exact { negative: x < 0, exponent: 0, significand: x.unsigned_abs(), inexact: false }
    }

    /// The same number with the top bit of the significand at position `top`, at or above where it was.
    fn normalised(self, top: u32) -> Exact {
        let up = top - (127 - self.significand.leading_zeros());
        Exact { exponent: self.exponent - up as i32, significand: self.significand << up, ..self }
    }

    fn product(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative ^ other.negative,
            exponent: self.exponent + other.exponent,
            significand: self.significand * other.significand,
            inexact: false,
        }
    }

    /// The sum of two exact numbers of up to 106 bits, or `None` if it is zero.
    fn sum(self, other: Exact) -> Option<Exact> {
        // Bit 126 leaves room for a carry, and 20 bits below a product of two f64.
        let (a, b) = (self.normalised(126), other.normalised(126));
        let (large, small) =
            if (a.exponent, a.significand) >= (b.exponent, b.significand) { (a, b) } else { (b, a) };
        // Bits are lost only where the exponents differ by more than 20, and then the sum keeps at
        // least 124 bits.
        let distance = (large.exponent - small.exponent) as u32;
        let shifted = small.significand.checked_shr(distance).unwrap_or(0);
        let inexact = distance > 127 || shifted << distance != small.significand;
        let significand = if large.negative == small.negative {
            large.significand + shifted
        } else {
            // What lies below the last bit is taken away too: borrow one, and a rest is left.
            large.significand - shifted - inexact as u128
        };
        (significand != 0).then_some(Exact { significand, inexact, ..large })
    }

    fn quotient(self, other: Exact) -> Exact {
        // 127 bits by at most 53: a quotient of at least 74.
        let a = self.normalised(126);
        Exact {
            negative: a.negative ^ other.negative,
            exponent: a.exponent - other.exponent,
            significand: a.significand / other.significand,
            inexact: !a.significand.is_multiple_of(other.significand),
        }
    }

    /// The square root of a positive number.
    fn root(self) -> Exact {
        let mut a = self.normalised(126);
        if a.exponent % 2 != 0 {
            a = Exact { exponent: a.exponent + 1, significand: a.significand >> 1, ..a };
        }
        let root = a.significand.isqrt();
        Exact {
            negative: false,
            exponent: a.exponent / 2,
            significand: root,
            inexact: root * root != a.significand,
        }
    }

    /// The encoding of this number rounded to a format. Overflow gives infinity, or the largest finite
    /// value where the mode rounds towards zero.
    pub fn round(self, format: Format, round: Round) -> u64 {
        let top = 127 - self.significand.leading_zeros() as i32;
        // The exponent of the leading bit, or of the lowest normal number if that is higher.
        let lead = (self.exponent + top).max(1 - format.bias);
        let magnitude = if lead > format.bias + 1 {
            format.largest + 1
        } else {
            let dropped = lead - format.fraction as i32 - self.exponent;
            let (kept, half, rest) = match dropped {
                ..=0 => (self.significand << -dropped, false, self.inexact),
                1..=128 => {
                    let kept = self.significand.checked_shr(dropped as u32).unwrap_or(0);
                    let half = self.significand >> (dropped - 1) & 1 == 1;
                    let low = self.significand & ((1 << (dropped - 1)) - 1);
                    (kept, half, low != 0 || self.inexact)
                }
                _ => (0, false, true),
            };
            let kept = kept as u64;
            let up = match round {
                Round::Nearest => half && (rest || kept & 1 == 1),
                Round::Zero => false,
                Round::Down => self.negative && (half || rest),
                Round::Up => !self.negative && (half || rest),
            };
            // The leading bit, where there is one, counts the exponent up by one.
            (((lead + format.bias - 1) as u64) << format.fraction) + kept + up as u64
        };
        if magnitude <= format.largest {
            return format.signed(self.negative, magnitude);
        }
        let to_infinity = match round {
            Round::Nearest => true,
            Round::Zero => false,
            Round::Down => self.negative,
            Round::Up => !self.negative,
        };
        if to_infinity { format.infinity(self.negative) } else { format.largest(self.negative) }
    }
}

/// `x` rounded to a format: NaN to the format's NaN, infinities to its infinities.
pub fn round(x: f64, format: Format, round: Round) -> u64 {
    let negative = x.is_sign_negative();
    match x {
        _ if x.is_nan() => format.nan,
        _ if x == 0.0 => format.zero(negative),
        _ if x.is_infinite() => format.infinity(negative),
        _ => Exact::new(x).round(format, round),
    }
}

/// `x` rounded to a format.
pub fn round_integer(x: i128, format: Format, round: Round) -> u64 {
    if x == 0 { 0 } else { Exact::integer(x).round(format, round) }
}

/// a b + c, rounded once. Infinities, NaN and zero products are left to the caller.
pub fn fma(a: f64, b: f64, c: f64, format: Format, round: Round) -> u64 {
    let product = Exact::new(a).product(Exact::new(b));
    let sum = if c == 0.0 { Some(product) } else { product.sum(Exact::new(c)) };
    match sum {
        Some(sum) => sum.round(format, round),
        // Terms that cancel leave -0 only when rounding down (IEEE 754, 6.3).
        None => format.zero(round == Round::Down),
    }
}

/// a / b for finite operands other than zero.
pub fn div(a: f64, b: f64, format: Format, round: Round) -> u64 {
    Exact::new(a).quotient(Exact::new(b)).round(format, round)
}

/// The root of a positive finite number.
pub fn sqrt(x: f64, format: Format, round: Round) -> u64 {
    Exact::new(x).root().round(format, round)
}
