//! The CPU's arithmetic: the float types its kernels compute in, vectorised elementary functions,
//! reductions of a fixed order, and the two ways to run a loop well: [`simd`] compiles it for every
//! instruction set, [`parallel`] spreads it over threads.
//!
//! Results never depend on the number of threads, and each function documents its error.

use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use crate::Element;

/// A float type that kernels compute in: f32, written so that loops over it vectorise, and f64, the
/// reference that f32 is held against.
///
/// None of the functions branches on a value for f32: a loop of them becomes straight vector code.
pub trait Real:
    Element
    + Default
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Positive infinity.
    const INFINITY: Self;

    /// e^x. For f32 within 1 ulp, subnormal results included; overflows to inf, underflows to 0.
    fn exp(self) -> Self;
    /// tanh(x). For f32 within 2 ulp.
    fn tanh(self) -> Self;
    /// The error function. For f32 within 2 ulp, for f64 within 1e-15 of the exact value.
    fn erf(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// |x|
    fn abs(self) -> Self;

    /// The larger of two; `other` if either is NaN (one instruction, unlike `f32::max`).
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    /// 1 / (1 + e^-x), relative accuracy kept in both tails.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }

    /// A count or other small integer, rounded to nearest.
    #[inline(always)]
    fn from_usize(n: usize) -> Self {
        Self::from_f64(n as f64)
    }
}

/// c[0] + c[1] x + c[2] x^2 ...
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    c.iter().rev().fold(0.0, |sum, &c| sum * x + c)
}

/// 2^n for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

// The polynomials below are minimax fits (Remez's algorithm in 50 digits); beside each stands the
// largest error of the fit itself, which is far below the rounding of f32 (6e-8).
#[allow(clippy::excessive_precision)]
impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const INFINITY: f32 = f32::INFINITY;

    #[inline(always)]
    fn exp(self) -> f32 {
        // Cody and Waite: x = n ln 2 + r with |r| <= ln 2 / 2, and e^x = 2^n e^r.
        // Beyond the bounds the result is inf or 0 all the same. A NaN passes both comparisons.
        let x = if self > 89.0 { 89.0 } else { self };
        let x = if x < -104.0 { -104.0 } else { x };
        // 1.5 * 2^23 pushes the fraction out of the mantissa: what stays in its low bits is n.
        const ROUND: f32 = 12582912.0;
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        // ln 2 in two parts; the first has so few bits that n times it is exact.
        let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
        // Relative error 3.1e-9.
        const P: [f32; 5] =
            [0.499999934122, 0.166665201075, 0.0416683942927, 0.00836878045456, 0.00138144626226];
        let e = 1.0 + (r + r * r * polynomial(r, P));
        let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        // In two steps, as 2^n itself may be subnormal or beyond the largest float.
        let half = n >> 1;
        e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
    }

    #[inline(always)]
    fn tanh(self) -> f32 {
        let (a, z) = (self.abs(), self * self);
        // Relative error 4.2e-9 up to 0.625.
        const P: [f32; 5] =
            [-0.333332839249, 0.133314912741, -0.0537434970584, 0.0206505842092, -0.00571704184613];
        let near = a + a * z * polynomial(z, P);
        let far = 1.0 - 2.0 / (Real::exp(2.0 * a) + 1.0);
        (if a < 0.625 { near } else { far }).copysign(self)
    }

    #[inline(always)]
    fn erf(self) -> f32 {
        let a = self.abs();
        // erf(x) / x - 1 in x^2, an error of 1.3e-9 of erf up to 1.
        const P: [f32; 7] = [
            0.12837916573,
            -0.376126258233,
            0.112835851377,
            -0.026853811493,
            0.00518832688287,
            -0.000801018685123,
            7.85383972159e-5,
        ];
        let near = a + a * polynomial(a * a, P);
        // ln(1 - erf(x)) from 1 to 4, where it makes an error of 1.1e-9 in erf. erf(4) rounds to 1.
        const Q: [f32; 7] = [
            -0.000353733322218,
            -1.12703997804,
            -0.638225776174,
            -0.103037280907,
            0.0218052755147,
            -0.00293959644652,
            0.000185572890727,
        ];
        let clamped = if a > 4.0 { 4.0 } else { a };
        let far = 1.0 - Real::exp(polynomial(clamped, Q));
        (if a < 1.0 { near } else { far }).copysign(self)
    }

    #[inline(always)]
    fn ln(self) -> f32 {
        self.ln()
    }

    #[inline(always)]
    fn sqrt(self) -> f32 {
        self.sqrt()
    }

    #[inline(always)]
    fn abs(self) -> f32 {
        self.abs()
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const INFINITY: f64 = f64::INFINITY;

    #[inline(always)]
    fn exp(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn tanh(self) -> f64 {
        self.tanh()
    }

    fn erf(self) -> f64 {
        use std::f64::consts::FRAC_2_SQRT_PI;
        let (a, z) = (self.abs(), self * self);
        if a < 2.0 {
            // 2 / sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (1 3 5 .. (2n+1)) (Abramowitz and Stegun
            // 7.1.6): unlike the plain Taylor series all its terms have one sign, so nothing cancels.
            let (mut term, mut sum, mut n) = (self, self, 1.0);
            while term.abs() > 1e-17 * sum.abs() {
                n += 2.0;
                term *= 2.0 * z / n;
                sum += term;
            }
            FRAC_2_SQRT_PI * (-z).exp() * sum
        } else if a < 6.0 {
            // The continued fraction of erfc (7.1.14): x + (1/2)/(x + 1/(x + (3/2)/(x + ...))), from
            // its tail. 60 levels leave 1e-16 of erfc(2), and less further out.
            let fraction = (1..=60).rev().fold(a, |tail, k| a + 0.5 * k as f64 / tail);
            (1.0 - 0.5 * FRAC_2_SQRT_PI * (-z).exp() / fraction).copysign(self)
        } else {
            // erfc(6) is 2e-17. NaN comes here too.
            if self.is_nan() { self } else { self.signum() }
        }
    }

    #[inline(always)]
    fn ln(self) -> f64 {
        self.ln()
    }

    #[inline(always)]
    fn sqrt(self) -> f64 {
        self.sqrt()
    }

    #[inline(always)]
    fn abs(self) -> f64 {
        self.abs()
    }
}

/// Marks the copy of a [`simd`] function for AVX-512.
///
/// Every copy has a type of its own. This makes the closures in its body its own too: called from one
/// place only, they are inlined, whatever their size.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx512;

/// Marks the copy for AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx2;

/// Marks the copy for the target of the build: NEON on every aarch64.
#[derive(Clone, Copy)]
pub struct Baseline;

/// Defines a function whose body is compiled for AVX-512, for AVX2 and for the build's own target, and
/// that runs the best of them that this processor has.
///
/// ```ignore
/// simd! {
///     fn scale[R: Real](x: &mut [R], by: R) { x.iter_mut().for_each(|x| *x *= by) }
/// }
/// ```
///
/// Generic parameters stand in square brackets and must follow from the arguments. Functions that the
/// body calls must be `#[inline(always)]`: one left out of line is compiled for the build's target only.
/// The same goes for closures that come in as arguments, which cannot be marked so; see [`Map`].
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident[$($generics:tt)*]($($arg:ident: $ty:ty),* $(,)?)
     $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take what they take")]
        $vis fn $name<$($generics)*>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$($generics)*>(_copy: impl Copy, $($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2")]
                fn avx512<$($generics)*>($($arg: $ty),*) $(-> $ret)? {
                    body($crate::device::cpu::real::Avx512, $($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
                fn avx2<$($generics)*>($($arg: $ty),*) $(-> $ret)? {
                    body($crate::device::cpu::real::Avx2, $($arg),*)
                }
                use $crate::device::cpu::real::InstructionSet;
                match InstructionSet::detect() {
                    // SAFETY: the processor has the features that the functions ask for.
                    InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    InstructionSet::Baseline => {}
                }
            }
            body($crate::device::cpu::real::Baseline, $($arg),*)
        }
    };
}
pub(crate) use simd;

/// A function of one number, as an argument of [`simd`] functions. A cheap closure is one. What takes more
/// than about forty instructions (`erf`, and all that calls it) must be a type of its own, as only a method
/// can be `#[inline(always)]`: a closure would be left out of line, where it is twenty times slower.
pub trait Map<R>: Copy + Send + Sync {
    fn at(self, x: R) -> R;
}

impl<R, F: Fn(R) -> R + Copy + Send + Sync> Map<R> for F {
    #[inline(always)]
    fn at(self, x: R) -> R {
        self(x)
    }
}

/// [`Real::erf`] as a [`Map`].
#[derive(Clone, Copy)]
pub struct Erf;

impl<R: Real> Map<R> for Erf {
    #[inline(always)]
    fn at(self, x: R) -> R {
        x.erf()
    }
}

/// The x86-64 instruction sets that [`simd`] tells apart.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstructionSet {
    Avx512,
    Avx2,
    Baseline,
}

#[cfg(target_arch = "x86_64")]
impl InstructionSet {
    /// What this processor has; the standard library keeps the answer, so asking again is a few loads.
    #[inline]
    pub fn detect() -> Self {
        macro_rules! has {
            ($($feature:tt),*) => { $(is_x86_feature_detected!($feature))&&* };
        }
        if !has!("avx2", "fma", "f16c", "bmi1", "bmi2") {
            InstructionSet::Baseline
        } else if has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl") {
            InstructionSet::Avx512
        } else {
            InstructionSet::Avx2
        }
    }
}

/// Below this many elements of work a loop stays on the calling thread: waking others costs more.
pub const PARALLEL_MIN: usize = 16 * 1024;

/// Runs `f` on every item, on all threads if there are at least 16 Ki elements of `work`.
///
/// An item is one task with everything it writes to, such as a chunk of each output; cut the work by
/// its size alone, never by the number of threads, and the results are the same on any machine.
pub fn parallel<T: Send>(work: usize, items: impl Iterator<Item = T>, f: impl Fn(T) + Sync + Send) {
    use rayon::prelude::*;
    if work < PARALLEL_MIN {
        return items.for_each(f);
    }
    let items: Vec<T> = items.collect();
    if items.len() < 2 { items.into_iter().for_each(f) } else { items.into_par_iter().for_each(f) }
}

/// How many rows of `cols` elements make a task: a few thousand elements, and at most 64 tasks, whose
/// results are each as large as a row when they are summed over rows.
pub fn rows_a_task(rows: usize, cols: usize) -> usize {
    rows.div_ceil(64).max(PARALLEL_MIN / 2 / cols.max(1)).max(1)
}

/// An endless supply of chunks of an output, or of `None` where there is no such output.
pub fn optional_chunks<T>(x: Option<&mut [T]>, size: usize) -> impl Iterator<Item = Option<&mut [T]>> {
    let mut chunks = x.map(|x| x.chunks_mut(size));
    std::iter::repeat_with(move || chunks.as_mut().map(|c| c.next().unwrap_or_default()))
}

/// out[j] = sum over rows of x[i, j], added to what `out` holds if `accumulate`. The sum is made of
/// the sums of [`rows_a_task`] rows.
pub fn sum_rows<R: Real>(x: &[R], out: &mut [R], accumulate: bool) {
    let cols = out.len();
    if cols == 0 {
        return;
    }
    let task = rows_a_task(x.len() / cols, cols) * cols;
    let mut partial = vec![R::ZERO; x.len().div_ceil(task) * cols];
    parallel(x.len(), x.chunks(task).zip(partial.chunks_mut(cols)), |(x, sum)| add_rows(x, sum));
    if !accumulate {
        out.fill(R::ZERO);
    }
    add_rows(&partial, out);
}

simd! {
    /// sum[j] += x[i, j] for every row i.
    pub fn add_rows[R: Real](x: &[R], sum: &mut [R]) {
        for row in x.chunks_exact(sum.len()) {
            sum.iter_mut().zip(row).for_each(|(s, &x)| *s += x);
        }
    }
}

/// Accumulators of a reduction: element i goes to accumulator i % LANES, whatever the instruction set.
const LANES: usize = 32;

/// Joins f(x[i], y[i]) over all i: in LANES lanes, that are then folded pairwise.
#[inline(always)]
fn reduce<R: Real>(x: &[R], y: &[R], init: R, f: impl Fn(R, R) -> R, join: impl Fn(R, R) -> R) -> R {
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [init; LANES];
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] = join(lanes[i], f(x[i], y[i]));
        }
    }
    if !x_tail.is_empty() {
        // Lanes of their own: with a variable index the others would live in memory.
        let mut tail = [init; LANES];
        tail.iter_mut().zip(x_tail).zip(y_tail).for_each(|((lane, &x), &y)| *lane = f(x, y));
        for i in 0..LANES {
            lanes[i] = join(lanes[i], tail[i]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of f(x[i]).
#[inline(always)]
pub fn sum_of<R: Real>(x: &[R], f: impl Fn(R) -> R) -> R {
    sum_of2(x, x, |x, _| f(x))
}

/// Sum of f(x[i], y[i]) over slices of one length.
#[inline(always)]
pub fn sum_of2<R: Real>(x: &[R], y: &[R], f: impl Fn(R, R) -> R) -> R {
    debug_assert_eq!(x.len(), y.len());
    reduce(x, y, R::ZERO, f, |a, b| a + b)
}

#[inline(always)]
pub fn sum<R: Real>(x: &[R]) -> R {
    sum_of(x, |x| x)
}

#[inline(always)]
pub fn dot<R: Real>(x: &[R], y: &[R]) -> R {
    sum_of2(x, y, |x, y| x * y)
}

/// The largest element, -inf of none. NaNs may be passed over.
#[inline(always)]
pub fn max<R: Real>(x: &[R]) -> R {
    reduce(x, x, -R::INFINITY, |x, _| x, |max, x| x.max(max))
}

/// A matrix operand: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, R> {
    pub data: &'a [R],
    pub row_stride: usize,
    pub col_stride: usize,
}

/// c = alpha a b + beta c with a `[m,k]`, b `[k,n]`, c `[m,n]` (strides `c_strides` = row, column).
/// With beta = 0 what c held does not matter. Every element is summed in one fixed order over k.
///
/// # Panics
/// If an operand's data is too short for its sizes and strides.
#[allow(clippy::too_many_arguments)]
pub fn gemm<R: Real>(
    (m, n, k): (usize, usize, usize),
    alpha: R,
    a: Matrix<'_, R>,
    b: Matrix<'_, R>,
    beta: R,
    c: &mut [R],
    c_strides: (usize, usize),
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let fits = |len: usize, rows: usize, cols: usize, (rs, cs): (usize, usize)| {
        rows == 0 || cols == 0 || (rows - 1) * rs + (cols - 1) * cs < len
    };
    assert!(fits(a.data.len(), m, k, (a.row_stride, a.col_stride)), "gemm: a is too short");
    assert!(fits(b.data.len(), k, n, (b.row_stride, b.col_stride)), "gemm: b is too short");
    assert!(fits(c.len(), m, n, c_strides), "gemm: c is too short");
    // Else two threads might write the same element.
    let (rows, cols) = ((c_strides.0, m), (c_strides.1, n));
    let (inner, outer) = if rows.0 < cols.0 { (rows, cols) } else { (cols, rows) };
    let disjoint = (inner.1 == 1 || inner.0 > 0) && (outer.1 == 1 || outer.0 > inner.0 * (inner.1 - 1));
    assert!(disjoint, "gemm: c overlaps itself");
    let threads = if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: every element that the sizes and strides reach lies in its slice, as checked above; the
    // element type is f32 or f64, which the crate supports.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_strides.1 as isize,
            c_strides.0 as isize,
            beta != R::ZERO,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            // The crate's names are the other way round: its alpha scales what c held.
            beta,
            alpha,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    simd! {
        fn map[F: Fn(f32) -> f32](x: &[f32], y: &mut [f32], f: F) {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x))
        }
    }

    /// Every 211th finite float of either sign, so every exponent and all kinds of mantissa.
    fn floats() -> Vec<f32> {
        (0..0x7f80_0000u32).step_by(211).flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)]).collect()
    }

    /// The largest error in units of the last place of the exact result (for subnormals, of 2^-149).
    fn worst_ulp(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let x = floats();
        let mut y = vec![0.0; x.len()];
        map(&x, &mut y, f);
        let mut worst = 0.0f64;
        for (&x, &y) in x.iter().zip(&y) {
            let exact = exact(x as f64);
            if exact.abs() > f32::MAX as f64 * (1.0 + 2f64.powi(-25)) {
                assert_eq!(y, f32::INFINITY, "at {x}");
                continue;
            }
            let exponent = (exact.abs().max(f32::MIN_POSITIVE as f64)).log2().floor();
            worst = worst.max((y as f64 - exact).abs() / 2f64.powf(exponent - 23.0));
        }
        worst
    }

    #[test]
    fn f32_functions_are_accurate_everywhere() {
        let exp = worst_ulp(Real::exp, f64::exp);
        let tanh = worst_ulp(Real::tanh, f64::tanh);
        let erf = worst_ulp(Real::erf, Real::erf);
        let sigmoid = worst_ulp(
            // Its reciprocal overflows below ln of the smallest normal number.
            |x| if x < -87.0 { 0.0 } else { Real::sigmoid(x) },
            |x| if x < -87.0 { 0.0 } else { 1.0 / (1.0 + (-x).exp()) },
        );
        assert!(exp < 1.0 && tanh < 2.0 && erf < 2.0 && sigmoid < 3.0, "{exp} {tanh} {erf} {sigmoid}");
    }

    fn special_values<R: Real>() {
        let nan = R::from_f64(f64::NAN);
        for f in [R::exp, R::tanh, R::erf, R::sigmoid] {
            assert!(f(nan).to_f64().is_nan() && f(-nan).to_f64().is_nan());
        }
        let huge = [1e4, 1e30, f64::INFINITY];
        for x in huge.map(R::from_f64) {
            assert_eq!((x.exp(), (-x).exp()), (R::INFINITY, R::ZERO));
            assert_eq!((x.tanh(), (-x).tanh()), (R::ONE, -R::ONE));
            assert_eq!((x.erf(), (-x).erf()), (R::ONE, -R::ONE));
            assert_eq!((x.sigmoid(), (-x).sigmoid()), (R::ONE, R::ZERO));
        }
        assert_eq!(R::ZERO.exp(), R::ONE);
        // The sign of zero survives, as odd functions should have it.
        for f in [R::tanh, R::erf] {
            assert_eq!(f(R::ZERO), R::ZERO);
            assert!((R::ONE / f(-R::ZERO)).to_f64() < 0.0);
        }
    }

    #[test]
    fn infinities_nan_and_zero() {
        special_values::<f32>();
        special_values::<f64>();
        // The ends of the f32 range: the largest finite result, the first inf, the smallest subnormal.
        assert!(Real::exp(88.722_83f32).is_finite() && Real::exp(88.722_84f32).is_infinite());
        assert_eq!(Real::exp(-103.0f32), f32::from_bits(1));
        assert_eq!(Real::exp(-103.98f32), 0.0);
    }

    #[test]
    #[allow(clippy::excessive_precision)]
    fn erf_f64_matches_published_values() {
        // To 17 digits by arbitrary-precision arithmetic; both sides of the joins at 2 and 6.
        let table = [
            (1e-10, 1.1283791670955126e-10),
            (0.1, 0.1124629160182849),
            (0.5, 0.52049987781304654),
            (1.0, 0.84270079294971487),
            (1.5, 0.96610514647531073),
            (1.999, 0.99530155665137051),
            (2.0, 0.99532226501895273),
            (2.5, 0.99959304798255504),
            (3.0, 0.99997790950300141),
            (4.0, 0.9999999845827421),
            (5.999, 0.99999999999999998),
            (6.0, 0.99999999999999998),
        ];
        for (x, exact) in table {
            let y = Real::erf(x);
            assert!((y - exact).abs() <= 1e-15 * exact, "erf({x}) = {y}");
            assert_eq!(Real::erf(-x), -y);
        }
    }

    #[test]
    fn reductions_agree_with_plain_loops() {
        for n in [0, 1, 2, 31, 32, 33, 63, 64, 65, 1000, 1037] {
            let x: Vec<f64> = (0..n).map(|i| ((i * 37 % 101) as f64) - 50.0).collect();
            let y: Vec<f64> = (0..n).map(|i| ((i * 53 % 97) as f64) / 8.0).collect();
            // Small integers and eighths: every order of summation is exact.
            assert_eq!(sum(&x), x.iter().sum::<f64>());
            assert_eq!(dot(&x, &y), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f64>());
            assert_eq!(max(&x), x.iter().fold(f64::NEG_INFINITY, |m, &x| f64::max(m, x)));
        }
    }

    #[test]
    fn sum_rows_adds_up_whatever_the_shape() {
        for (rows, cols) in [(0, 3), (1, 1), (7, 5), (1000, 3), (130, 517), (3, 20_001), (4, 0)] {
            let x: Vec<f64> = (0..rows * cols).map(|i| (i * 7 % 1013) as f64).collect();
            let expected: Vec<f64> =
                (0..cols).map(|j| (0..rows).map(|i| x[i * cols + j]).sum::<f64>()).collect();
            let mut out = vec![f64::NAN; cols];
            sum_rows(&x, &mut out, false);
            assert_eq!(out, expected);
            sum_rows(&x, &mut out, true);
            assert!(out.iter().zip(&expected).all(|(o, e)| *o == 2.0 * e));
        }
    }

    #[test]
    fn gemm_reads_any_strides_and_ignores_c_under_beta_zero() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 1, 33), (64, 31, 0), (0, 4, 4), (65, 70, 129)] {
            let a: Vec<f64> = (0..m * k).map(|i| (i % 13) as f64 - 6.0).collect();
            let b: Vec<f64> = (0..n * k).map(|i| (i % 7) as f64 - 3.0).collect();
            for beta in [0.0, 2.0] {
                let mut c = vec![if beta == 0.0 { f64::NAN } else { 5.0 }; m * n];
                // a is stored [k,m], b [n,k]: both are read transposed.
                let a = Matrix { data: &a, row_stride: 1, col_stride: m };
                let b = Matrix { data: &b, row_stride: 1, col_stride: k };
                gemm((m, n, k), 0.5, a, b, beta, &mut c, (n, 1), beta == 0.0);
                for i in 0..m {
                    for j in 0..n {
                        let ab: f64 = (0..k).map(|l| a.data[l * m + i] * b.data[j * k + l]).sum();
                        assert_eq!(c[i * n + j], 0.5 * ab + if beta == 0.0 { 0.0 } else { beta * 5.0 });
                    }
                }
            }
        }
    }

    #[test]
    fn parallel_runs_every_item_once() {
        for work in [1, 10 * PARALLEL_MIN] {
            let mut seen = vec![0; 1000];
            parallel(work, seen.chunks_mut(7).enumerate(), |(i, chunk)| {
                chunk.iter_mut().for_each(|s| *s += i + 1)
            });
            assert!(seen.iter().enumerate().all(|(i, &s)| s == i / 7 + 1));
        }
    }
}
