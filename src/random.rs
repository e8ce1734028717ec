//! Random numbers: Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw,
//! "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
//!
//! A random number is a pure function of a seed and a position, so every device gives the same bits in
//! any order, and a backward pass draws the forward's dropout mask again instead of keeping it.

use half::bf16;

use crate::device::cpu::real::{Real, parallel, simd};

/// The generator under one key: 128 bits of counter in, 128 random bits out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    /// The key: a seed's low and high word.
    pub key: [u32; 2],
}

impl Philox {
    /// The generator of a seed.
    pub const fn new(seed: u64) -> Self {
        Philox { key: [seed as u32, (seed >> 32) as u32] }
    }

    #[inline(always)]
    /// The 128 bits at one counter.
    pub fn block(&self, counter: [u32; 4]) -> [u32; 4] {
        let [mut c0, mut c1, mut c2, mut c3] = counter;
        let [mut k0, mut k1] = self.key;
        for _ in 0..10 {
            let a = c0 as u64 * 0xD251_1F53;
            let b = c2 as u64 * 0xCD9E_8D57;
            [c0, c1, c2, c3] = [(b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32];
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        [c0, c1, c2, c3]
    }

    /// The bits of consecutive counters: `out[4 k + lane]` is that lane of the block of counter
    /// `[first + k lo, first + k hi, high[0], high[1]]`.
    pub fn fill(&self, first: u64, high: [u32; 2], out: &mut [u32]) {
        fill(*self, first, high, out)
    }
}

simd! {
    fn fill[](philox: Philox, first: u64, high: [u32; 2], out: &mut [u32]) {
        let block = |k: usize| {
            let counter = first.wrapping_add(k as u64);
            philox.block([counter as u32, (counter >> 32) as u32, high[0], high[1]])
        };
        let (blocks, rest) = out.as_chunks_mut::<4>();
        for (k, out) in blocks.iter_mut().enumerate() {
            *out = block(k);
        }
        rest.copy_from_slice(&block(blocks.len())[..rest.len()]);
    }
}

/// The random numbers of one op: element `i` of its flat random tensor is lane `i % 4` of the block of
/// counter `[i / 4 lo, i / 4 hi, offset lo, offset hi]` under the seed's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The key of the generator.
    pub seed: u64,
    /// Which op of the seed's sequence this is.
    pub offset: u64,
}

/// Elements that one task draws: a multiple of 4, so that no block is cut in two.
const CHUNK: usize = 16 * 1024;

impl Stream {
    /// The generator under this stream's key.
    pub const fn philox(&self) -> Philox {
        Philox::new(self.seed)
    }

    /// The bits of elements `first..first + out.len()`; `first` must be a multiple of 4.
    pub fn bits(&self, first: u64, out: &mut [u32]) {
        debug_assert_eq!(first % 4, 0);
        self.philox().fill(first / 4, [self.offset as u32, (self.offset >> 32) as u32], out);
    }

    /// Draws every element of `out` with `f`, which makes floats of a chunk of bits.
    fn draw<R: Real>(&self, out: &mut [R], f: impl Fn(&[u32], &mut [R]) + Sync + Send) {
        parallel(out.len(), out.chunks_mut(CHUNK).enumerate(), |(i, out)| {
            // Whole blocks, as normals are made of pairs.
            let mut bits = vec![0; out.len().next_multiple_of(4)];
            self.bits((i * CHUNK) as u64, &mut bits);
            f(&bits, out);
        });
    }

    /// Uniform on [low, high): `low + (high - low) * uniform(bits)`, and less than `high` whatever the
    /// rounding.
    pub fn fill_uniform<R: Real>(&self, low: f64, high: f64, out: &mut [R]) {
        let (base, scale, end) = (R::from_f64(low), R::from_f64(high - low), R::from_f64(high));
        self.draw(out, |bits, out| {
            for (out, &bits) in out.iter_mut().zip(bits) {
                let x = base + scale * R::from_f64(uniform(bits) as f64);
                *out = if x < end { x } else { base };
            }
        });
    }

    /// Normal with the given mean and standard deviation, by Box and Muller: elements 2 k and 2 k + 1
    /// are `r cos(t)` and `r sin(t)` of the bits a and b at the same places, with
    /// `r = sqrt(-2 ln((a + 1) / 2^32))` and `t = 2 pi b / 2^32`. Computed in f64 and rounded once.
    ///
    /// Unlike the bits, `ln`, `cos` and `sin` are not the same everywhere to the last place: so normals
    /// are drawn on the CPU for every device, and are as reproducible as its mathematics library.
    pub fn fill_normal<R: Real>(&self, mean: f64, std: f64, out: &mut [R]) {
        self.draw(out, |bits, out| {
            for (out, bits) in out.chunks_mut(2).zip(bits.as_chunks::<2>().0) {
                let [a, b] = bits.map(|b| b as f64 / 4294967296.0);
                let radius = (-2.0 * (a + 1.0 / 4294967296.0).ln()).sqrt();
                let (sin, cos) = (std::f64::consts::TAU * b).sin_cos();
                for (out, z) in out.iter_mut().zip([radius * cos, radius * sin]) {
                    *out = R::from_f64(mean + std * z);
                }
            }
        });
    }
}

/// 24 random bits as a float in [0, 1).
#[inline(always)]
pub fn uniform(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16777216.0)
}

/// A drop probability as the bound that [`keep`] compares with: `round(p 2^32)`.
pub fn drop_threshold(p: f64) -> u32 {
    // The cast saturates, for a p that rounds to 1.
    (p * 4294967296.0).round() as u32
}

/// Whether dropout keeps an element, given its random bits.
#[inline(always)]
pub fn keep(bits: u32, threshold: u32) -> bool {
    bits >= threshold
}

/// One of the two bf16 beside `x`: the one farther from 0 if `x` lies so far beyond the other, in parts of their
/// distance, as 16 random bits, the upper ones of `bits`, exceed. So the mean over all bits is `x` itself.
#[inline(always)]
pub fn round_stochastically(x: f32, bits: u32) -> bf16 {
    if x.is_nan() {
        return bf16::NAN;
    }
    // The sum carries into the exponent where it should, and an infinity's lower half is zero.
    bf16::from_bits((x.to_bits().wrapping_add(bits >> 16) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The three vectors of philox4x32-10 in Random123's own test.
        let ones = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(Philox { key }.block(counter), expected);
        }
    }

    #[test]
    fn fill_is_the_blocks_in_order_whatever_the_length() {
        let philox = Philox::new(0x0123_4567_89ab_cdef);
        // Across a carry into the counter's second word.
        let first = u32::MAX as u64 - 3;
        for len in [0, 1, 3, 4, 5, 63, 64, 65, 130] {
            let mut out = vec![0; len];
            philox.fill(first, [7, 9], &mut out);
            for (i, &bits) in out.iter().enumerate() {
                let c = first + i as u64 / 4;
                assert_eq!(bits, philox.block([c as u32, (c >> 32) as u32, 7, 9])[i % 4]);
            }
        }
    }

    #[test]
    fn an_element_depends_on_its_position_only() {
        let stream = Stream { seed: 42, offset: 1 << 40 | 3 };
        let n = 3 * CHUNK + 5;
        let (mut long, mut short) = (vec![0f32; n], vec![0f32; n - CHUNK - 1]);
        stream.fill_normal(0.0, 1.0, &mut long);
        stream.fill_normal(0.0, 1.0, &mut short);
        assert_eq!(long[..short.len()], short);
        let mut wide = vec![0f64; n];
        stream.fill_normal(0.0, 1.0, &mut wide);
        assert!(wide.iter().zip(&long).all(|(&w, &l)| w as f32 == l));
        let mut bits = vec![0; 8];
        stream.bits(CHUNK as u64, &mut bits);
        stream.fill_uniform(0.0, 1.0, &mut long);
        assert_eq!(long[CHUNK..CHUNK + 8], bits.iter().map(|&b| uniform(b)).collect::<Vec<_>>());
    }

    #[test]
    fn moments() {
        let n = 1 << 18;
        let mut x = vec![0f64; n];
        let mean = |x: &[f64], f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(x)).sum::<f64>() / n as f64;
        Stream { seed: 1, offset: 0 }.fill_normal(3.0, 2.0, &mut x);
        assert!((mean(&x, &|x| x) - 3.0).abs() < 0.02);
        assert!((mean(&x, &|x| (x - 3.0).powi(2)) - 4.0).abs() < 0.05);
        assert!((mean(&x, &|x| (x - 3.0).powi(4)) - 48.0).abs() < 2.0);
        Stream { seed: 1, offset: 1 }.fill_uniform(-1.0, 3.0, &mut x);
        assert!(x.iter().all(|&x| (-1.0..3.0).contains(&x)));
        assert!((mean(&x, &|x| x) - 1.0).abs() < 0.01);
        assert!((mean(&x, &|x| (x - 1.0).powi(2)) - 16.0 / 12.0).abs() < 0.02);
    }

    #[test]
    fn dropout_keeps_the_right_share() {
        let mut bits = vec![0; 1 << 18];
        Stream { seed: 5, offset: 2 }.bits(0, &mut bits);
        for p in [0.0, 0.1, 0.5, 0.9] {
            let kept =
                bits.iter().filter(|&&b| keep(b, drop_threshold(p))).count() as f64 / bits.len() as f64;
            assert!((kept - (1.0 - p)).abs() < 0.005, "{p}: {kept}");
        }
        assert_eq!(drop_threshold(0.0), 0);
        assert_eq!(drop_threshold(0.5), 1 << 31);
        assert_eq!(drop_threshold(1.0), u32::MAX);
    }

    #[test]
    fn stochastic_rounding_keeps_the_mean() {
        let up = 2f32.powi(-7);
        for x in [1.0, 1.25 * up, -3e-39, 0.0, -1.0 - up / 3.0, 65280.0 + 1.0, 1e30, f32::MIN_POSITIVE / 3.0]
        {
            let (low, high) = (round_stochastically(x, 0), round_stochastically(x, u32::MAX));
            assert!(low.to_f32().abs() <= x.abs() && x.abs() <= high.to_f32().abs(), "{x}: {low}, {high}");
            // All there is of 16 bits.
            let all = (0..=0xFFFFu32).map(|bits| round_stochastically(x, bits << 16).to_f64());
            let mean =
                all.inspect(|&y| assert!(y == low.to_f64() || y == high.to_f64())).sum::<f64>() / 65536.0;
            assert_eq!(mean as f32, x);
        }
        for bits in [0, 1 << 16, u32::MAX] {
            assert_eq!(round_stochastically(f32::INFINITY, bits), bf16::INFINITY);
            assert_eq!(round_stochastically(f32::NEG_INFINITY, bits), bf16::NEG_INFINITY);
            assert!(round_stochastically(-f32::NAN, bits).is_nan());
            assert_eq!(round_stochastically(-1.5, bits), bf16::from_f32(-1.5));
        }
    }
}
