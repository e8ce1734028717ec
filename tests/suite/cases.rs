//! The table of cases: every op, at awkward shapes, as views, and with its naive twin where low
//! precision needs one. A case is a function of float tensors, generic over device and dtype.

use std::sync::Arc;

use tilewright::{
    Activation, AttentionOptions, CrossEntropyOptions, D, DType, Device, Reduction, Result, RotaryPairs,
    Tensor,
};

use crate::harness::{Rng, seeded};

pub type Function = Arc<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;

/// Which values an input has.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    Normal,
    /// Within [0.3, 2.3].
    Positive,
    /// Within [0.3, 2.3] or its negative.
    Apart,
    /// Normal around 100, with standard deviation 8: beyond what `exp` of f32 can say.
    Large,
    /// Normal, but at least 0.01 from these points, where the function has a kink.
    Away(&'static [f64]),
    /// Multiples of 1/8 in steps that never meet: for order statistics, where ties are kinks.
    Distinct,
}

pub struct Case {
    pub name: String,
    pub inputs: Vec<(Vec<usize>, Range)>,
    pub f: Function,
    /// The same made of elementary ops, each rounded to the dtype: what low precision is held against.
    /// Without one it is held against the reference rounded [`Case::roundings`] times.
    pub naive: Option<Function>,
    /// Terms of the longest sum that an output or gradient element is made of.
    pub terms: usize,
    pub roundings: usize,
    /// How large results would be without cancellation, if that is more than they are.
    pub scale: f64,
}

impl Case {
    pub fn new(
        name: impl Into<String>,
        inputs: &[(&[usize], Range)],
        f: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Case {
        let name = name.into();
        let shapes: Vec<String> = inputs.iter().map(|(shape, _)| format!("{shape:?}")).collect();
        Case {
            name: format!("{name} {}", shapes.join(" ")),
            inputs: inputs.iter().map(|(shape, range)| (shape.to_vec(), *range)).collect(),
            f: Arc::new(f),
            naive: None,
            terms: 1,
            roundings: 1,
            scale: 1e-3,
        }
    }

    pub fn terms(self, terms: usize) -> Case {
        Case { terms, ..self }
    }

    pub fn roundings(self, roundings: usize) -> Case {
        Case { roundings, ..self }
    }

    pub fn scale(self, scale: f64) -> Case {
        Case { scale, ..self }
    }

    pub fn naive(self, f: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static) -> Case {
        Case { naive: Some(Arc::new(f)), ..self }
    }

    /// The values of the inputs, f64 on the CPU, the same every time.
    pub fn values(&self) -> Vec<Tensor> {
        let mut rng = Rng::named(&self.name);
        let tensor = |(shape, range): &(Vec<usize>, Range)| {
            let n: usize = shape.iter().product();
            let mut values: Vec<f64> = (0..n).map(|i| draw(&mut rng, *range, i)).collect();
            if matches!(range, Range::Distinct) {
                // Fisher and Yates.
                (1..n).rev().for_each(|i| values.swap(i, rng.below(i + 1)));
            }
            Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap()
        };
        self.inputs.iter().map(tensor).collect()
    }

    /// The same case on each kind of view of its inputs.
    pub fn in_views(self) -> Vec<Case> {
        let viewed = |view: View| {
            let shapes: Vec<Vec<usize>> = self.inputs.iter().map(|(shape, _)| shape.clone()).collect();
            let inputs = (self.inputs.iter()).map(|(shape, range)| (view.base(shape), *range)).collect();
            let wrap = |f: Function| -> Function {
                let shapes = shapes.clone();
                Arc::new(move |bases| {
                    let views: Vec<Tensor> =
                        bases.iter().zip(&shapes).map(|(b, s)| view.of(b, s)).collect::<Result<_>>()?;
                    f(&views)
                })
            };
            Case {
                name: format!("{}, {view:?}", self.name),
                inputs,
                f: wrap(self.f.clone()),
                naive: self.naive.clone().map(wrap),
                // A broadcast's gradient sums over what it repeats, in one more pass and rounding.
                terms: self.terms * shapes.iter().flatten().copied().max().unwrap_or(1).max(1),
                scale: self.scale,
                roundings: self.roundings
                    + usize::from(matches!(view, View::FirstRepeated | View::LastRepeated)),
            }
        };
        let mut cases: Vec<Case> = View::ALL.into_iter().map(viewed).collect();
        cases.push(self);
        cases
    }
}

/// False for rows of equal elements: where rows are normalised, their gradients are all cancellation, and
/// have no digit to compare.
fn varied(case: &Case) -> bool {
    !case.name.ends_with("LastRepeated")
}

fn draw(rng: &mut Rng, range: Range, i: usize) -> f64 {
    match range {
        Range::Normal => rng.normal(),
        Range::Positive => 0.3 + 2.0 * rng.uniform(),
        Range::Apart => (0.3 + 2.0 * rng.uniform()).copysign(rng.normal()),
        Range::Large => 100.0 + 8.0 * rng.normal(),
        Range::Away(points) => loop {
            let x = rng.normal();
            if points.iter().all(|p| (x - p).abs() > 0.01) {
                return x;
            }
        },
        Range::Distinct => i as f64 / 8.0 - 2.0,
    }
}

/// A kind of view, made from a base that has just the elements it needs and, around them, some it must
/// not read.
#[derive(Clone, Copy, Debug)]
pub enum View {
    /// The last two dimensions swapped.
    Transposed,
    /// Odd offsets in the first and last dimension, and rows with gaps.
    Narrowed,
    /// Stride 0 in the first dimension.
    FirstRepeated,
    /// Stride 0 in the last dimension.
    LastRepeated,
}

impl View {
    pub const ALL: [View; 4] = [View::Transposed, View::Narrowed, View::FirstRepeated, View::LastRepeated];

    pub fn base(self, shape: &[usize]) -> Vec<usize> {
        let mut base = shape.to_vec();
        let Some(last) = base.len().checked_sub(1) else { return base };
        match self {
            View::Transposed if last > 0 => base.swap(last - 1, last),
            View::Transposed => {}
            View::Narrowed => {
                base[last] += 3;
                if last > 0 {
                    base[0] += 2;
                }
            }
            View::FirstRepeated => base[0] = 1,
            View::LastRepeated => base[last] = 1,
        }
        base
    }

    pub fn of(self, base: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let Some(last) = shape.len().checked_sub(1) else { return Ok(base.clone()) };
        match self {
            View::Transposed if last > 0 => base.t(),
            View::Transposed => Ok(base.clone()),
            View::Narrowed => {
                let inner = base.narrow(last, 1, shape[last])?;
                if last > 0 { inner.narrow(0, 1, shape[0]) } else { Ok(inner) }
            }
            View::FirstRepeated | View::LastRepeated => base.broadcast_as(shape),
        }
    }
}

pub fn unary() -> Vec<Case> {
    use Range::{Apart, Away, Normal, Positive};
    type Unary = fn(&Tensor) -> Result<Tensor>;
    const ZERO: Range = Away(&[0.0]);
    let functions: [(&str, Range, Unary); 21] = [
        ("affine", Normal, |x| x.affine(-1.7, 0.3)),
        ("neg", Normal, Tensor::neg),
        ("abs", ZERO, Tensor::abs),
        ("exp", Normal, Tensor::exp),
        ("log", Positive, Tensor::log),
        ("sin", Normal, Tensor::sin),
        ("cos", Normal, Tensor::cos),
        ("tanh", Normal, Tensor::tanh),
        ("sqrt", Positive, Tensor::sqrt),
        ("sqr", Normal, Tensor::sqr),
        ("recip", Apart, Tensor::recip),
        ("relu", ZERO, Tensor::relu),
        ("sigmoid", Normal, Tensor::sigmoid),
        ("powf 1.7", Positive, |x| x.powf(1.7)),
        ("powf 3 of any sign", Apart, |x| x.powf(3.0)),
        ("powf -2 of any sign", Apart, |x| x.powf(-2.0)),
        ("clamp", Away(&[-0.5, 0.8]), |x| x.clamp(-0.5, 0.8)),
        ("gelu", Normal, Tensor::gelu),
        ("gelu_erf", Normal, Tensor::gelu_erf),
        ("silu", Normal, Tensor::silu),
        ("erf", Normal, Tensor::erf),
    ];
    let mut cases = Vec::new();
    for (name, range, f) in functions {
        // powf rounds its logarithm, which its exponential multiplies; so does the naive one.
        let roundings = if name.starts_with("powf") { 2 } else { 1 };
        for shape in [&[67][..], &[3, 0]] {
            cases.push(Case::new(name, &[(shape, range)], move |x| f(&x[0])).roundings(roundings));
        }
    }
    for (name, range, f) in [functions[3], functions[17]] {
        for shape in [&[1][..], &[], &[5, 63], &[2, 3, 2, 5]] {
            cases.extend(Case::new(name, &[(shape, range)], move |x| f(&x[0])).in_views());
        }
    }
    cases.push(Case::new("gelu", &[(&[70_001], Normal)], |x| x[0].gelu()));
    // A gelu that is not fused rounds half a dozen times.
    cases.into_iter().map(|c| if c.name.starts_with("gelu") { c.roundings(2) } else { c }).collect()
}

pub fn binary() -> Vec<Case> {
    use Range::{Apart, Normal};
    type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let functions: [(&str, Range, Binary, usize); 6] = [
        ("add", Normal, Tensor::add, 1),
        ("sub", Normal, Tensor::sub, 1),
        ("mul", Normal, Tensor::mul, 2),
        // Its gradient is -a dy / b^2, four ops.
        ("div", Apart, Tensor::div, 4),
        ("maximum", Normal, Tensor::maximum, 1),
        ("minimum", Normal, Tensor::minimum, 1),
    ];
    let shapes: [(&[usize], &[usize]); 10] = [
        (&[1], &[1]),
        (&[], &[]),
        (&[5, 63], &[5, 63]),
        (&[5, 7], &[7]),
        (&[5, 1], &[1, 7]),
        (&[3, 1, 5], &[2, 5]),
        (&[4, 3], &[]),
        (&[1, 1], &[3, 2, 1, 5]),
        (&[0, 3], &[3]),
        (&[2, 0], &[1, 1]),
    ];
    let mut cases = Vec::new();
    for (name, range, f, roundings) in functions {
        for (a, b) in shapes {
            let case = Case::new(name, &[(a, Normal), (b, range)], move |x| f(&x[0], &x[1])).terms(64);
            // A broadcast operand's gradient is summed, over one dimension after the other.
            cases.push(if a == b {
                case.roundings(roundings)
            } else {
                case.roundings(roundings + 2).scale(4.0)
            });
        }
    }
    for (name, range, f, roundings) in [functions[2], functions[3]] {
        let case = Case::new(name, &[(&[3, 5], Normal), (&[3, 5], range)], move |x| f(&x[0], &x[1]));
        cases.extend(case.terms(16).roundings(roundings).in_views());
        let mixed =
            Case::new(format!("{name} of a view"), &[(&[65, 4], Normal), (&[4, 65], range)], move |x| {
                f(&x[0].t()?, &x[1])
            });
        cases.push(mixed.roundings(roundings));
    }
    let twice = |name: &str, f: Binary| {
        Case::new(format!("{name} with itself"), &[(&[3, 5], Normal)], move |x| f(&x[0], &x[0])).roundings(5)
    };
    cases.extend([twice("add", Tensor::add), twice("mul", Tensor::mul)]);
    cases.push(
        Case::new("scalar operators", &[(&[3, 5], Normal)], |x| &(&(&(&x[0] * 2.0)? + 1.0)? / 3.0)? - 0.5)
            .roundings(4),
    );
    cases
}

pub fn select() -> Vec<Case> {
    let shapes: [(&[usize], &[usize], &[usize]); 5] = [
        (&[7], &[7], &[7]),
        (&[5, 1], &[5, 63], &[63]),
        (&[1, 3], &[4, 1], &[]),
        (&[2, 3, 5], &[1], &[2, 1, 1]),
        (&[0, 3], &[0, 3], &[1]),
    ];
    let mut cases = Vec::new();
    for (mask, a, b) in shapes {
        let (n, mask) = (mask.iter().product::<usize>(), mask.to_vec());
        let f = move |x: &[Tensor]| {
            let bits: Vec<u32> = (0..n as u32).map(|i| (i * 7 % 5) % 2 * 3).collect();
            Tensor::from_vec(bits, mask.clone(), &x[0].device())?.where_cond(&x[0], &x[1])
        };
        cases.push(
            Case::new("where_cond", &[(a, Range::Normal), (b, Range::Normal)], f).terms(64).roundings(3),
        );
    }
    let f = |x: &[Tensor]| x[0].gt(&x[1])?.where_cond(&x[0].sqr()?, &x[1].affine(3.0, 0.0)?);
    cases.extend(
        Case::new("where a > b", &[(&[5, 7], Range::Distinct), (&[5, 7], Range::Normal)], f)
            .roundings(2)
            .in_views(),
    );
    cases
}

pub fn reductions() -> Vec<Case> {
    use Range::{Distinct, Normal};
    let mut cases = Vec::new();
    let shapes: [&[usize]; 9] =
        [&[1], &[7], &[5, 63], &[3, 5, 4], &[2, 129, 3], &[1, 1, 1], &[2, 3, 2, 3], &[1, 9001], &[301, 3]];
    for shape in shapes {
        for dim in 0..shape.len() {
            let terms = shape[dim];
            cases.push(
                Case::new(format!("sum({dim})"), &[(shape, Normal)], move |x| x[0].sum(dim)).terms(terms),
            );
            let mean = Case::new(format!("mean({dim})"), &[(shape, Normal)], move |x| x[0].mean_keepdim(dim));
            cases.push(mean.terms(terms).roundings(2));
            cases
                .push(Case::new(format!("max({dim})"), &[(shape, Distinct)], move |x| x[0].max_keepdim(dim)));
            cases.push(Case::new(format!("min({dim})"), &[(shape, Distinct)], move |x| x[0].min(dim)));
        }
    }
    for shape in [&[][..], &[1], &[5, 63], &[3, 0], &[0]] {
        let terms = shape.iter().product();
        cases.push(Case::new("sum_all", &[(shape, Normal)], |x| x[0].sum_all()).terms(terms));
    }
    cases.push(Case::new("mean_all", &[(&[5, 63], Normal)], |x| x[0].mean_all()).terms(315).roundings(2));
    for (shape, dim) in [(&[0, 3][..], 0), (&[0, 3], 1), (&[2, 0, 3], 1), (&[2, 0, 3], 2)] {
        cases.push(Case::new(format!("sum({dim}) of nothing"), &[(shape, Normal)], move |x| x[0].sum(dim)));
    }
    for dim in 0..3 {
        let sum = Case::new(format!("sum({dim})"), &[(&[3, 5, 7], Normal)], move |x| x[0].sum(dim)).terms(7);
        cases.extend(sum.in_views());
    }
    let permuted =
        Case::new("max of a view", &[(&[3, 5, 7], Distinct)], |x| x[0].permute(&[2, 0, 1])?.max(1));
    cases.push(permuted);
    let to = |name: &str, shape: &'static [usize]| {
        let f = move |x: &[Tensor]| x[0].sum_to(&shape.into());
        Case::new(format!("sum_to {name}"), &[(&[2, 3, 5], Normal)], f).terms(30).roundings(3)
    };
    cases.extend([
        to("5", &[5]),
        to("3x1", &[3, 1]),
        to("scalar", &[]),
        to("2x1x5", &[2, 1, 5]),
        to("1", &[1]),
    ]);
    cases
}

pub fn views() -> Vec<Case> {
    let one = |name: &str, shape: &[usize], f: fn(&Tensor) -> Result<Tensor>| {
        Case::new(name, &[(shape, Range::Normal)], move |x| f(&x[0])).terms(64).roundings(2)
    };
    let mut cases = vec![
        one("reshape", &[3, 8], |x| x.reshape((2, 3, 4))),
        one("reshape to a scalar", &[1, 1], |x| x.reshape(())),
        one("reshape of a scalar", &[], |x| x.reshape((1, 1, 1))),
        one("reshape of a transposed view", &[5, 6], |x| x.t()?.reshape((3, 10))),
        one("reshape of a narrowed view", &[5, 6], |x| x.narrow(1, 1, 4)?.reshape((2, 10))),
        one("reshape of an empty tensor", &[3, 0], |x| x.reshape((0, 7))),
        one("permute", &[2, 3, 5], |x| x.permute(&[2, 0, 1])),
        one("transpose", &[2, 3, 5], |x| x.transpose(0, D::Minus1)),
        one("transpose of an empty tensor", &[3, 0], |x| x.t()),
        one("narrow", &[5, 7], |x| x.narrow(1, 3, 3)),
        one("narrow of the first dimension", &[5, 7], |x| x.narrow(0, 1, 3)),
        one("narrow to nothing", &[5, 7], |x| x.narrow(0, 5, 0)),
        one("narrow of a view", &[5, 7], |x| x.t()?.narrow(0, 3, 3)?.narrow(1, 1, 2)),
        one("get", &[3, 5], |x| x.get(1)),
        one("squeeze", &[3, 1, 5], |x| x.squeeze(1)),
        one("unsqueeze", &[3, 5], |x| x.unsqueeze(2)),
        one("flatten", &[2, 3, 5], |x| x.flatten(0, 1)),
        one("flatten_all of a view", &[3, 5], |x| x.t()?.flatten_all()),
        one("broadcast_as", &[3, 1], |x| x.broadcast_as((2, 3, 5))),
        one("broadcast_as from a scalar", &[], |x| x.broadcast_as((3, 5))),
        one("broadcast_as to nothing", &[1, 3], |x| x.broadcast_as((0, 3))),
        one("broadcast_as of a view", &[4, 3], |x| x.narrow(0, 1, 1)?.t()?.broadcast_as((2, 3, 5))),
        one("contiguous", &[3, 5], |x| x.t()?.contiguous()),
        one("copy", &[3, 5], |x| x.copy()),
        one("one part of a split", &[3, 8], |x| Ok(x.split(&[3, 0, 5], 1)?[2].clone())),
        one("all parts of a split", &[3, 9], |x| {
            let parts = x.split(&[2, 3, 4], 1)?;
            parts[2].narrow(1, 0, 2)?.mul(&parts[0])?.add(&parts[1].narrow(1, 1, 2)?)
        }),
        one("chunk", &[7, 3], |x| {
            let parts = x.chunk(3, 0)?;
            parts[0].narrow(0, 0, 2)?.mul(&parts[2])
        }),
    ];
    // Overlapping uses of one tensor: gradients of parts add up in the whole.
    cases.push(
        one("overlapping views", &[4, 4], |x| {
            x.narrow(0, 0, 3)?.add(&x.narrow(0, 1, 3)?)?.mul(&x.t()?.narrow(0, 0, 3)?)
        })
        .roundings(4),
    );
    cases
}

pub fn joins() -> Vec<Case> {
    use Range::Normal;
    let cat = |a: &'static [usize], b: &'static [usize], dim: usize| {
        let f = move |x: &[Tensor]| Tensor::cat(&[&x[0], &x[1], &x[0]], dim);
        Case::new(format!("cat({dim})"), &[(a, Normal), (b, Normal)], f).roundings(2)
    };
    let mut cases = vec![
        cat(&[3], &[4], 0),
        cat(&[3, 5], &[1, 5], 0),
        cat(&[3, 5], &[3, 2], 1),
        cat(&[2, 3, 5], &[2, 1, 5], 1),
        cat(&[0, 5], &[3, 5], 0),
        cat(&[3, 0], &[3, 0], 1),
    ];
    for dim in 0..3 {
        let f = move |x: &[Tensor]| Tensor::stack(&[&x[0], &x[1], &x[0]], dim);
        cases.push(
            Case::new(format!("stack({dim})"), &[(&[3, 5], Normal), (&[3, 5], Normal)], f).roundings(2),
        );
    }
    let views =
        |x: &[Tensor]| Tensor::cat(&[x[0].t()?, x[1].narrow(1, 1, 3)?, x[2].broadcast_as((2, 3))?], 0);
    cases.push(
        Case::new("cat of views", &[(&[3, 4], Normal), (&[5, 5], Normal), (&[1, 3], Normal)], views)
            .roundings(2),
    );
    cases
}

pub fn casts() -> Vec<Case> {
    // Through the compute dtype and back: exact, whatever the dtype.
    let wide = |x: &Tensor| if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let mut cases = Vec::new();
    for shape in [&[1][..], &[5, 63], &[0]] {
        let f = move |x: &[Tensor]| x[0].to_dtype(wide(&x[0]))?.affine(2.0, 0.0)?.to_dtype(x[0].dtype());
        cases.extend(Case::new("to_dtype", &[(shape, Range::Normal)], f).in_views());
        let f = move |x: &[Tensor]| x[0].to_dtype(wide(&x[0]));
        cases.extend(Case::new("to_dtype and no further", &[(shape, Range::Normal)], f).in_views());
        let f = |x: &[Tensor]| x[0].to_device(&Device::Cpu)?.sqr()?.to_device(&x[0].device());
        cases.push(Case::new("to_device", &[(shape, Range::Normal)], f));
    }
    cases
}

pub fn matmul() -> Vec<Case> {
    use Range::Normal;
    let mut cases = Vec::new();
    let mut push = |a: &[usize], b: &[usize]| {
        let terms = a.iter().chain(b).copied().max().unwrap_or(1) * 4;
        cases.push(Case::new("matmul", &[(a, Normal), (b, Normal)], |x| x[0].matmul(&x[1])).terms(terms));
    };
    // Sizes beside those of tiles, thin ones, one long sum, and empty ones on each side.
    for (m, k, n) in [
        (1, 1, 1),
        (7, 5, 3),
        (16, 16, 16),
        (63, 33, 65),
        (65, 129, 63),
        (130, 17, 129),
        (1, 65, 1),
        (129, 1, 67),
        (1, 67, 129),
        (131, 7, 1),
        (5, 2003, 9),
        // Multiples of eight, which kernels read in lines.
        (136, 72, 264),
        (40, 1096, 72),
        (24, 264, 136),
        (0, 3, 2),
        (3, 0, 2),
        (3, 2, 0),
    ] {
        push(&[m, k], &[k, n]);
    }
    push(&[2, 3, 5, 7], &[2, 3, 7, 4]);
    push(&[2, 3, 5, 7], &[7, 4]);
    push(&[5, 7], &[3, 7, 4]);
    push(&[1, 3, 5, 7], &[2, 1, 7, 4]);
    push(&[2, 1, 2, 1, 3, 2], &[2, 2, 3, 2, 4]);
    push(&[0, 5, 7], &[7, 4]);
    push(&[2, 0, 7], &[2, 7, 4]);
    push(&[3, 65, 33], &[3, 33, 17]);
    type Views = fn(&[Tensor]) -> Result<Tensor>;
    let views: [(&str, &[usize], &[usize], Views); 11] = [
        ("a^T b", &[72, 136], &[72, 264], |x| x[0].t()?.matmul(&x[1])),
        ("a b^T", &[136, 72], &[264, 72], |x| x[0].matmul(&x[1].t()?)),
        ("a^T b^T", &[72, 136], &[264, 72], |x| x[0].t()?.matmul(&x[1].t()?)),
        ("a^T b", &[65, 33], &[65, 17], |x| x[0].t()?.matmul(&x[1])),
        ("a b^T", &[33, 65], &[17, 65], |x| x[0].matmul(&x[1].t()?)),
        ("a^T b^T", &[35, 13], &[9, 35], |x| x[0].t()?.matmul(&x[1].t()?)),
        ("batched a b^T", &[2, 3, 5, 7], &[2, 3, 4, 7], |x| x[0].matmul(&x[1].t()?)),
        // Heads of one [B, T, C] projection, as attention without a kernel would have it.
        ("heads", &[2, 5, 12], &[2, 7, 12], |x| {
            let heads = |x: &Tensor| -> Result<Tensor> {
                let (b, t, _) = x.dims3()?;
                x.reshape((b, t, 3, 4))?.transpose(1, 2)
            };
            heads(&x[0])?.matmul(&heads(&x[1])?.t()?)
        }),
        ("narrowed", &[9, 11], &[8, 9], |x| {
            x[0].narrow(1, 3, 7)?.narrow(0, 1, 5)?.matmul(&x[1].narrow(0, 1, 7)?)
        }),
        ("every other column", &[5, 14], &[7, 2], |x| {
            x[0].reshape((5, 7, 2))?.narrow(2, 1, 1)?.squeeze(2)?.matmul(&x[1])
        }),
        ("with itself", &[7, 7], &[7, 7], |x| x[0].matmul(&x[0].t()?)?.matmul(&x[1])),
    ];
    for (name, a, b, f) in views {
        let roundings = if name == "with itself" { 4 } else { 2 };
        let case = Case::new(format!("matmul, {name}"), &[(a, Normal), (b, Normal)], f);
        cases.push(case.terms(256).roundings(roundings));
    }
    let case = Case::new("matmul", &[(&[3, 6, 5], Normal), (&[3, 5, 4], Normal)], |x| x[0].matmul(&x[1]));
    cases.extend(case.terms(8).roundings(2).in_views());
    cases
}

pub fn linear() -> Vec<Case> {
    use Range::Normal;
    let activations = [
        ("identity", Activation::Identity),
        ("gelu", Activation::Gelu),
        ("gelu_erf", Activation::GeluErf),
        ("silu", Activation::Silu),
    ];
    let apply = |x: Tensor, activation: Activation| match activation {
        Activation::Identity => Ok(x),
        Activation::Gelu => x.gelu(),
        Activation::GeluErf => x.gelu_erf(),
        Activation::Silu => x.silu(),
    };
    let mut cases = Vec::new();
    let sizes: [(&[usize], usize, usize); 9] = [
        (&[1], 1, 1),
        (&[5], 7, 3),
        (&[], 7, 3),
        (&[2, 3], 16, 16),
        (&[65], 33, 63),
        (&[129], 64, 20),
        (&[0], 3, 2),
        (&[3], 0, 2),
        (&[3], 2, 0),
    ];
    for (rows, k, n) in sizes {
        let (x, y) = ([rows, &[k]].concat(), [rows, &[n]].concat());
        let (w, terms) = ([n, k], 4 * rows.iter().product::<usize>().max(k).max(n).max(1));
        let inputs: [(&[usize], Range); 4] = [(&x, Normal), (&w, Normal), (&[n], Normal), (&y, Normal)];
        let plain = Case::new("linear", &inputs[..2], |x| x[0].linear(&x[1], None));
        cases.push(plain.terms(terms));
        let bias = Case::new("linear, bias", &inputs[..3], |x| x[0].linear(&x[1], Some(&x[2])))
            .naive(|x| x[0].linear(&x[1], None)?.add(&x[2]));
        cases.push(bias.terms(terms));
        for (name, activation) in activations {
            let fused = Case::new(format!("linear, bias, {name}"), &inputs[..3], move |x| {
                x[0].linear_activation(&x[1], Some(&x[2]), activation)
            });
            let naive = move |x: &[Tensor]| apply(x[0].linear(&x[1], None)?.add(&x[2])?, activation);
            cases.push(fused.naive(naive).terms(terms));
        }
        let gelu = Case::new("linear, gelu", &inputs[..2], |x| {
            x[0].linear_activation(&x[1], None, Activation::Gelu)
        })
        .naive(|x| x[0].linear(&x[1], None)?.gelu());
        cases.push(gelu.terms(terms));
        let residual =
            Case::new("linear, bias, residual", &inputs, |x| x[0].linear_residual(&x[1], Some(&x[2]), &x[3]));
        cases.push(residual.naive(|x| x[0].linear(&x[1], None)?.add(&x[2])?.add(&x[3])).terms(terms));
    }
    // The residual is x itself, as in a block.
    let own = Case::new("linear onto itself", &[(&[3, 5], Normal), (&[5, 5], Normal)], |x| {
        x[0].linear_residual(&x[1], None, &x[0])
    });
    cases.push(own.naive(|x| x[0].linear(&x[1], None)?.add(&x[0])).terms(16));
    let inputs: [(&[usize], Range); 4] =
        [(&[6, 5], Normal), (&[7, 5], Normal), (&[7], Normal), (&[6, 7], Normal)];
    let residual =
        Case::new("linear, residual", &inputs, |x| x[0].linear_residual(&x[1], Some(&x[2]), &x[3]));
    let naive = |x: &[Tensor]| x[0].linear(&x[1], None)?.add(&x[2])?.add(&x[3]);
    cases.extend(residual.naive(naive).terms(8).scale(2.0).in_views());
    let fused = Case::new("linear, gelu", &inputs[..3], |x| {
        x[0].linear_activation(&x[1], Some(&x[2]), Activation::Gelu)
    });
    let naive = |x: &[Tensor]| x[0].linear(&x[1], None)?.add(&x[2])?.gelu();
    cases.extend(fused.naive(naive).terms(8).scale(2.0).in_views());
    cases
}

const EPS: f64 = 1e-5;

/// A norm of the sum of a residual and of what dropout leaves, beside the three ops that it is made of.
fn dropped_norm(shape: &[usize], p: f64) -> Case {
    let cols = *shape.last().expect("a norm has columns");
    let (x, v) = ((shape, Range::Normal), (&[cols][..], Range::Normal));
    let both = |(sum, normed): (Tensor, Tensor)| sum.sqr()?.add(&normed);
    Case::new(format!("dropout_add_layer_norm {p}"), &[x, x, v, v], move |x| {
        seeded(&x[0].device(), 4, || both(x[0].dropout_add_layer_norm(p, &x[1], &x[2], Some(&x[3]), EPS)?))
    })
    .naive(move |x| {
        let dropped = seeded(&x[0].device(), 4, || x[0].dropout(p))?;
        both(dropped.add_layer_norm(&x[1], &x[2], Some(&x[3]), EPS)?)
    })
    .terms(cols)
}

pub fn norms() -> Vec<Case> {
    use Range::Normal;
    let naive_layer = |x: &Tensor, w: &Tensor, b: Option<&Tensor>| -> Result<Tensor> {
        let d = x.sub(&x.mean_keepdim(D::Minus1)?)?;
        let rstd = d.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, EPS)?.sqrt()?.recip()?;
        let y = d.mul(&rstd)?.mul(w)?;
        if let Some(b) = b { y.add(b) } else { Ok(y) }
    };
    let naive_rms = |x: &Tensor, w: &Tensor| -> Result<Tensor> {
        x.mul(&x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, EPS)?.sqrt()?.recip()?)?.mul(w)
    };
    // Both outputs in one, exactly.
    let both = |(a, b): (Tensor, Tensor)| Tensor::cat(&[a, b], 0);
    let mut cases = Vec::new();
    let shapes: [&[usize]; 9] =
        [&[4, 1], &[7, 5], &[5], &[2, 3, 17], &[4, 63], &[2, 65], &[3, 129], &[67, 33], &[0, 5]];
    for shape in shapes {
        let c = *shape.last().unwrap();
        let terms = 4 * shape.iter().product::<usize>().max(c);
        let (x, v) = ((shape, Normal), (&[c][..], Normal));
        // The gradients of weight and bias are sums over rows.
        let scale = (terms as f64 / c as f64).sqrt().max(1.0);
        let mut add = |case: Case| cases.push(case.terms(terms).scale(scale));
        add(Case::new("layer_norm", &[x, v, v], |x| x[0].layer_norm(&x[1], Some(&x[2]), EPS))
            .naive(move |x| naive_layer(&x[0], &x[1], Some(&x[2]))));
        add(Case::new("layer_norm without bias", &[x, v], |x| x[0].layer_norm(&x[1], None, EPS))
            .naive(move |x| naive_layer(&x[0], &x[1], None)));
        add(Case::new("rms_norm", &[x, v], |x| x[0].rms_norm(&x[1], EPS))
            .naive(move |x| naive_rms(&x[0], &x[1])));
        let fused = Case::new("add_layer_norm", &[x, x, v, v], move |x| {
            both(x[0].add_layer_norm(&x[1], &x[2], Some(&x[3]), EPS)?)
        });
        let fused = fused.naive(move |x| {
            let sum = x[0].add(&x[1])?;
            both((sum.clone(), naive_layer(&sum, &x[2], Some(&x[3]))?))
        });
        // The sum that backward reads is rounded, its mean is not: in a row of one, that is all there is.
        if c > 1 {
            add(fused);
        }
        add(Case::new("add_rms_norm", &[x, x, v], move |x| both(x[0].add_rms_norm(&x[1], &x[2], EPS)?))
            .naive(move |x| {
                let sum = x[0].add(&x[1])?;
                both((sum.clone(), naive_rms(&sum, &x[2])?))
            }));
    }
    let (x, v) = ((&[6, 10][..], Normal), (&[10][..], Normal));
    cases.extend([
        Case::new("add_layer_norm, the sum alone", &[x, x, v, v], |x| {
            Ok(x[0].add_layer_norm(&x[1], &x[2], Some(&x[3]), EPS)?.0)
        })
        .terms(64),
        Case::new("add_layer_norm, the norm alone", &[x, x, v], |x| {
            Ok(x[0].add_layer_norm(&x[1], &x[2], None, EPS)?.1)
        })
        .naive(move |x| naive_layer(&x[0].add(&x[1])?, &x[2], None))
        .terms(64),
        Case::new("add_rms_norm, the sum alone", &[x, x, v], |x| Ok(x[0].add_rms_norm(&x[1], &x[2], EPS)?.0))
            .terms(64),
        Case::new("add_rms_norm, the norm alone", &[x, x, v], |x| {
            Ok(x[0].add_rms_norm(&x[1], &x[2], EPS)?.1)
        })
        .naive(move |x| naive_rms(&x[0].add(&x[1])?, &x[2]))
        .terms(64),
        // In quads, and one by one.
        dropped_norm(&[6, 12], 0.3),
        dropped_norm(&[37, 768], 0.1),
        dropped_norm(&[5, 2, 63], 0.5),
        dropped_norm(&[3, 8], 0.0),
        // One tensor is both x and the residual.
        Case::new("add_layer_norm onto itself", &[x, v, v], move |x| {
            both(x[0].add_layer_norm(&x[0], &x[1], Some(&x[2]), EPS)?)
        })
        .naive(move |x| {
            let sum = x[0].add(&x[0])?;
            both((sum.clone(), naive_layer(&sum, &x[1], Some(&x[2]))?))
        })
        .terms(64),
        // A mean far from 0: the variance must not be a difference of squares.
        Case::new("layer_norm far from 0", &[x, v, v], |x| {
            x[0].affine(1.0, 64.0)?.layer_norm(&x[1], Some(&x[2]), EPS)
        })
        .naive(move |x| naive_layer(&x[0].affine(1.0, 64.0)?, &x[1], Some(&x[2])))
        .terms(20_000),
    ]);
    let viewed = Case::new("add_layer_norm", &[x, x, v, v], move |x| {
        both(x[0].add_layer_norm(&x[1], &x[2], Some(&x[3]), EPS)?)
    });
    let viewed = viewed.naive(move |x| {
        let sum = x[0].add(&x[1])?;
        both((sum.clone(), naive_layer(&sum, &x[2], Some(&x[3]))?))
    });
    cases.extend(viewed.terms(64).scale(4.0).in_views().into_iter().filter(varied));
    cases
}

pub fn softmax() -> Vec<Case> {
    use Range::Normal;
    let naive = |x: &Tensor, dim: usize| -> Result<Tensor> {
        let e = x.sub(&x.max_keepdim(dim)?.detach())?.exp()?;
        e.div(&e.sum_keepdim(dim)?)
    };
    let naive_log = |x: &Tensor, dim: usize| -> Result<Tensor> {
        let x = x.sub(&x.max_keepdim(dim)?.detach())?;
        x.sub(&x.exp()?.sum_keepdim(dim)?.log()?)
    };
    let mut cases = Vec::new();
    let shapes: [&[usize]; 8] = [&[1], &[7], &[3, 5, 4], &[5, 65], &[2, 129], &[3, 1025], &[0, 3], &[3, 0]];
    for shape in shapes {
        for dim in 0..shape.len() {
            let terms = 4 * shape[dim].max(1);
            let f = move |x: &[Tensor]| x[0].affine(3.0, 0.0)?.softmax(dim);
            let case = Case::new(format!("softmax({dim})"), &[(shape, Normal)], f);
            if shape[dim] == 0 {
                // There is no largest element to subtract.
                cases.push(case);
                continue;
            }
            cases.push(case.naive(move |x| naive(&x[0].affine(3.0, 0.0)?, dim)).terms(terms));
            let f = move |x: &[Tensor]| x[0].affine(3.0, 0.0)?.log_softmax(dim);
            let case = Case::new(format!("log_softmax({dim})"), &[(shape, Normal)], f);
            cases.push(case.naive(move |x| naive_log(&x[0].affine(3.0, 0.0)?, dim)).terms(terms));
        }
    }
    let case = Case::new("softmax", &[(&[5, 6], Normal)], |x| x[0].softmax(D::Minus1))
        .naive(move |x| naive(&x[0], 1));
    cases.extend(case.terms(24).in_views().into_iter().filter(varied));
    let large = Case::new("softmax", &[(&[4, 9], Range::Large)], |x| x[0].softmax(1));
    cases.push(large.naive(move |x| naive(&x[0], 1)).terms(36));
    let large = Case::new("log_softmax", &[(&[4, 9], Range::Large)], |x| x[0].log_softmax(1));
    cases.push(large.naive(move |x| naive_log(&x[0], 1)).terms(36));
    cases
}

pub fn cross_entropy() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [&[usize]; 8] =
        [&[1, 1], &[5, 7], &[3, 65], &[4, 257], &[2, 1031], &[2, 3, 11], &[7], &[0, 5]];
    let reductions = [("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)];
    for shape in shapes {
        let (&v, rows) = shape.split_last().unwrap();
        let (rows, n) = (rows.to_vec(), rows.iter().product::<usize>());
        for (name, reduction) in reductions {
            let ignored = [None, Some(2u32), Some(u32::MAX)];
            for (ignore_index, in_place) in ignored.into_iter().flat_map(|i| [(i, false), (i, true)]) {
                let targets: Vec<u32> = (0..n)
                    .map(|i| match (i, ignore_index) {
                        (1, Some(ignore)) => ignore,
                        _ => (i * 5 + 3) as u32 % v as u32,
                    })
                    .collect();
                let name = format!("cross_entropy {name}, ignore {ignore_index:?}, in place {in_place}");
                let (rows, to) = (rows.clone(), targets.clone());
                let f = move |x: &[Tensor]| {
                    let targets = Tensor::from_slice(&to, rows.clone(), &x[0].device())?;
                    let options = CrossEntropyOptions { ignore_index, reduction, scale: 1.0 };
                    let logits = x[0].affine(2.0, 0.0)?;
                    if in_place {
                        logits.into_cross_entropy(&targets, options)
                    } else {
                        logits.cross_entropy_with(&targets, options)
                    }
                };
                let rows = shape[..shape.len() - 1].to_vec();
                // The loss is f32 even of narrower logits, so the naive one is widened at its end.
                let naive = move |x: &[Tensor]| {
                    let x = x[0].affine(2.0, 0.0)?;
                    let x = x.sub(&x.max_keepdim(D::Minus1)?.detach())?;
                    let log_p = x.sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
                    let mut one_hot = vec![0f32; n * v];
                    for (i, &t) in targets.iter().enumerate().filter(|&(_, &t)| Some(t) != ignore_index) {
                        one_hot[i * v + t as usize] = -1.0;
                    }
                    let counted = targets.iter().filter(|&&t| Some(t) != ignore_index).count().max(1);
                    let one_hot = Tensor::from_vec(one_hot, [&rows[..], &[v]].concat(), &x.device())?;
                    let losses = log_p.mul(&one_hot.to_dtype(x.dtype())?)?.sum(D::Minus1)?;
                    let loss = match reduction {
                        Reduction::None => losses,
                        Reduction::Sum => losses.sum_all()?,
                        Reduction::Mean => losses.sum_all()?.affine(1.0 / counted as f64, 0.0)?,
                    };
                    loss.to_dtype(if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 })
                };
                let case = Case::new(name, &[(shape, Range::Normal)], f).terms(4 * v * n.max(1));
                cases.push(if n == 0 { case } else { case.naive(naive) });
            }
        }
    }
    let f = |x: &[Tensor]| {
        let targets = Tensor::from_slice(&[1u32, 9, 0, 4, 4, 9, 2, 1], 8, &x[0].device())?;
        x[0].cross_entropy(&targets.narrow(0, 1, 6)?)
    };
    // A narrowed view of targets too.
    cases.extend(
        (Case::new("cross_entropy", &[(&[6, 10], Range::Normal)], f).terms(64).roundings(4).in_views())
            .into_iter()
            .filter(varied),
    );
    cases
}

pub fn linear_cross_entropy() -> Vec<Case> {
    let mut cases = Vec::new();
    // Rows of x, C, V, and rows of logits at a time.
    let sizes: [(&[usize], usize, usize, Option<usize>); 5] = [
        (&[1], 1, 1, None),
        (&[2, 7], 5, 11, None),
        (&[2, 7], 5, 11, Some(4)),
        (&[33], 16, 65, Some(1)),
        (&[0], 5, 7, Some(3)),
    ];
    for (shape, c, v, chunk) in sizes {
        let n = shape.iter().product::<usize>();
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
            for (ignore_index, scale) in [(None, 1.0), (Some(2u32), 1.0), (Some(u32::MAX), 0.25), (None, 8.0)]
            {
                let targets: Vec<u32> = (0..n)
                    .map(|i| match (i, ignore_index) {
                        (1, Some(ignore)) => ignore,
                        _ => (i * 5 + 3) as u32 % v as u32,
                    })
                    .collect();
                let options = CrossEntropyOptions { ignore_index, reduction, scale };
                let name = format!("linear_cross_entropy {options:?}, {chunk:?} rows at a time");
                let to = targets.clone();
                let targets_on =
                    move |x: &Tensor| Tensor::from_slice(&targets, &x.dims()[..x.rank() - 1], &x.device());
                let f = move |x: &[Tensor]| {
                    let targets = Tensor::from_slice(&to, &x[0].dims()[..x[0].rank() - 1], &x[0].device())?;
                    x[0].linear_cross_entropy(&x[1], &targets, options, chunk)
                };
                let naive = move |x: &[Tensor]| {
                    x[0].linear(&x[1], None)?.cross_entropy_with(&targets_on(&x[0])?, options)
                };
                let x = [shape, &[c]].concat();
                let case = Case::new(name, &[(&x, Range::Normal), (&[v, c], Range::Normal)], f);
                cases.push(case.naive(naive).terms(4 * v.max(c) * n.max(1)).roundings(4));
            }
        }
    }
    let f = |x: &[Tensor]| {
        let targets = Tensor::from_slice(&[1u32, 9, 0, 4, 4, 9], 6, &x[0].device())?;
        x[0].linear_cross_entropy(&x[1], &targets, CrossEntropyOptions::default(), Some(4))
    };
    let naive = |x: &[Tensor]| {
        let targets = Tensor::from_slice(&[1u32, 9, 0, 4, 4, 9], 6, &x[0].device())?;
        x[0].linear(&x[1], None)?.cross_entropy(&targets)
    };
    let inputs: [(&[usize], Range); 2] = [(&[6, 5], Range::Normal), (&[10, 5], Range::Normal)];
    let case = Case::new("linear_cross_entropy", &inputs, f).naive(naive).terms(240).roundings(8).scale(4.0);
    cases.extend(case.in_views().into_iter().filter(varied));
    // One tensor is the table and the head, and its gradient the sum of both.
    let f = |x: &[Tensor]| {
        let ids = Tensor::from_slice(&[1u32, 1, 4, 0, 2], 5, &x[0].device())?;
        x[0].embedding(&ids)?.linear_cross_entropy(&x[0], &ids, CrossEntropyOptions::default(), Some(2))
    };
    let naive = |x: &[Tensor]| {
        let ids = Tensor::from_slice(&[1u32, 1, 4, 0, 2], 5, &x[0].device())?;
        x[0].embedding(&ids)?.linear(&x[0], None)?.cross_entropy(&ids)
    };
    let case = Case::new("linear_cross_entropy, tied", &[(&[6, 5], Range::Normal)], f).naive(naive);
    cases.push(case.terms(120).roundings(8).scale(4.0));
    cases
}

pub fn embedding() -> Vec<Case> {
    let mut cases = Vec::new();
    let sizes: [(usize, usize, &[usize]); 7] = [
        (1, 1, &[1]),
        (11, 5, &[2, 9]),
        (3, 65, &[40]),
        (65, 129, &[2, 33]),
        (7, 4, &[]),
        (7, 4, &[0]),
        (5, 0, &[3]),
    ];
    for (v, c, ids) in sizes {
        let (n, shape) = (ids.iter().product::<usize>(), ids.to_vec());
        let f = move |x: &[Tensor]| {
            // Squares leave some rows without an id and give others many.
            let values: Vec<u32> = (0..n).map(|i| (i * i % v) as u32).collect();
            x[0].embedding(&Tensor::from_vec(values, shape.clone(), &x[0].device())?)
        };
        let case = Case::new(format!("embedding by {ids:?}"), &[(&[v, c], Range::Normal)], f);
        cases.push(case.terms(n.max(1)));
    }
    let f = |x: &[Tensor]| {
        let ids = Tensor::from_slice(&[5u32, 0, 3, 3, 1, 2], (2, 3), &x[0].device())?;
        x[0].embedding(&ids.t()?)
    };
    cases.extend(Case::new("embedding by a view", &[(&[6, 5], Range::Normal)], f).terms(6).in_views());
    // Tied weights: one table looked up and multiplied by, so that gradients meet in it.
    let f = |x: &[Tensor]| {
        let ids = Tensor::from_slice(&[1u32, 1, 4, 0], 4, &x[0].device())?;
        x[0].embedding(&ids)?.linear(&x[0], None)
    };
    cases.push(
        Case::new("embedding with tied weights", &[(&[6, 5], Range::Normal)], f).terms(24).roundings(4),
    );
    cases
}

pub fn gather() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [&[usize]; 6] = [&[1], &[7], &[5, 63], &[3, 5, 4], &[2, 3, 2, 5], &[3, 0]];
    for shape in shapes {
        for dim in 0..shape.len() {
            // None, fewer and more than there are, some of them repeated.
            for n in [0, shape[dim].div_ceil(2), 2 * shape[dim]] {
                let (size, mut dims) = (shape[dim], shape.to_vec());
                dims[dim] = n;
                let ids = move |i: usize| (i * i + 1) as u32 % size as u32;
                let all: Vec<u32> = (0..dims.iter().product()).map(ids).collect();
                let f = move |x: &[Tensor]| {
                    x[0].gather(&Tensor::from_slice(&all, dims.clone(), &x[0].device())?, dim)
                };
                let case = Case::new(format!("gather({dim}) of {n}"), &[(shape, Range::Normal)], f);
                cases.push(case.terms(8).scale(1.0));
                let all: Vec<u32> = (0..n).map(ids).collect();
                let f = move |x: &[Tensor]| x[0].index_select(&Tensor::new(&all, &x[0].device())?, dim);
                let case = Case::new(format!("index_select({dim}) of {n}"), &[(shape, Range::Normal)], f);
                cases.push(case.terms(8).scale(1.0));
            }
        }
    }
    let f = |x: &[Tensor]| {
        let ids = Tensor::from_slice(&[4u32, 0, 2, 2, 1, 3, 0, 0], (2, 4), &x[0].device())?;
        x[0].gather(&ids.t()?.broadcast_as((3, 4, 2))?, D::Minus1)
    };
    cases.extend(
        Case::new("gather by a view", &[(&[3, 4, 5], Range::Normal)], f).terms(8).scale(1.0).in_views(),
    );
    cases
}

pub fn rotary() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, pairs) in [("halves", RotaryPairs::Halves), ("interleaved", RotaryPairs::Interleaved)] {
        let f = move |x: &[Tensor]| {
            let (steps, d) = (x[0].dim(D::Minus2)?, x[0].dim(D::Minus1)?);
            let wide = if x[0].dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let (cos, sin) = Tensor::rotary_tables(3, steps, d, 10_000.0, &x[0].device())?;
            x[0].rotary(&cos.to_dtype(wide)?, &sin.to_dtype(wide)?, pairs)
        };
        for shape in [&[1, 2][..], &[5, 6], &[2, 3, 7, 8], &[2, 33, 66], &[0, 3, 4], &[3, 0]] {
            cases.push(Case::new(format!("rotary {name}"), &[(shape, Range::Normal)], f));
        }
        cases.extend(Case::new(format!("rotary {name}"), &[(&[2, 6, 6], Range::Normal)], f).in_views());
        let heads = move |x: &[Tensor]| f(&[x[0].reshape((2, 5, 3, 4))?.transpose(1, 2)?]);
        cases.push(Case::new(format!("rotary {name} of heads"), &[(&[2, 5, 12], Range::Normal)], heads));
    }
    cases
}

pub fn dropout() -> Vec<Case> {
    let mut cases = Vec::new();
    for p in [0.0, 0.3, 0.9] {
        let f = move |x: &[Tensor]| seeded(&x[0].device(), 3, || x[0].dropout(p));
        for shape in [&[1][..], &[7], &[5, 63], &[2, 129], &[0, 3]] {
            cases.push(Case::new(format!("dropout {p}"), &[(shape, Range::Normal)], f));
        }
        cases.extend(Case::new(format!("dropout {p}"), &[(&[5, 6], Range::Normal)], f).in_views());
    }
    // Past the block that a task of the CPU or a workgroup draws.
    let f = |x: &[Tensor]| seeded(&x[0].device(), u64::MAX - 1, || x[0].dropout(0.5));
    cases.push(Case::new("dropout 0.5", &[(&[40_003], Range::Normal)], f));
    cases
}

pub fn attention() -> Vec<Case> {
    use Range::Normal;
    let mut cases = Vec::new();
    let causal = AttentionOptions { causal: true, ..Default::default() };
    let window = |n| AttentionOptions { window: Some(n), ..causal };
    // B, NH, NKV, Tq, Tk, D
    let sizes: [([usize; 6], AttentionOptions); 32] = [
        ([1, 1, 1, 1, 1, 8], Default::default()),
        ([2, 2, 2, 5, 5, 8], Default::default()),
        ([2, 2, 2, 5, 5, 8], causal),
        ([1, 4, 2, 3, 7, 8], Default::default()),
        ([1, 4, 2, 3, 7, 8], causal),
        ([1, 3, 1, 7, 3, 8], causal),
        ([1, 2, 1, 7, 7, 8], window(3)),
        ([1, 2, 1, 7, 7, 8], window(1)),
        ([1, 2, 1, 4, 9, 8], window(2)),
        ([1, 1, 1, 6, 6, 8], AttentionOptions { scale: Some(-0.7), ..causal }),
        ([1, 2, 1, 5, 6, 8], AttentionOptions { dropout: 0.4, ..Default::default() }),
        ([2, 2, 2, 6, 6, 8], AttentionOptions { dropout: 0.2, ..causal }),
        ([1, 2, 2, 65, 65, 16], causal),
        ([1, 2, 1, 33, 129, 64], Default::default()),
        ([2, 2, 1, 63, 67, 40], AttentionOptions { dropout: 0.1, ..causal }),
        ([1, 2, 1, 35, 39, 64], AttentionOptions { dropout: 0.2, ..causal }),
        ([1, 1, 1, 130, 130, 128], window(17)),
        ([1, 2, 1, 19, 35, 136], causal),
        ([1, 2, 1, 33, 21, 160], AttentionOptions { dropout: 0.1, ..Default::default() }),
        ([1, 1, 1, 37, 37, 200], window(9)),
        ([1, 4, 2, 9, 40, 256], Default::default()),
        ([2, 1, 1, 35, 35, 256], AttentionOptions { dropout: 0.2, ..causal }),
        // A few queries of many keys.
        ([1, 2, 2, 1, 701, 64], causal),
        ([1, 8, 2, 1, 530, 64], Default::default()),
        ([2, 3, 1, 5, 611, 40], causal),
        ([1, 4, 1, 16, 1100, 128], causal),
        ([1, 6, 2, 4, 777, 72], window(333)),
        ([1, 2, 1, 7, 301, 16], window(5)),
        ([1, 1, 1, 9, 300, 256], Default::default()),
        ([1, 6, 2, 4, 300, 136], AttentionOptions { scale: Some(-0.1), ..causal }),
        ([1, 2, 1, 0, 3, 8], Default::default()),
        ([1, 2, 1, 3, 0, 8], Default::default()),
    ];
    for ([b, nh, nkv, tq, tk, d], options) in sizes {
        let AttentionOptions { causal, scale, window, dropout } = options;
        let name =
            format!("attention, causal {causal}, window {window:?}, scale {scale:?}, dropout {dropout}");
        let f = move |x: &[Tensor]| seeded(&x[0].device(), 5, || x[0].attention(&x[1], &x[2], &options));
        let (q, k) = ([b, nh, tq, d], [b, nkv, tk, d]);
        let case = Case::new(name, &[(&q, Normal), (&k, Normal), (&k, Normal)], f)
            .terms(4 * tq.max(tk).max(d))
            .scale(1.0);
        cases.push(match options.dropout > 0.0 || tq * tk == 0 {
            // The mask of the probabilities is not drawn anywhere else: three times as many roundings as
            // the two products and the softmax have.
            true => case.roundings(8),
            false => case.naive(move |x| naive_attention(x, &options)),
        });
    }
    // Read in place from one projection [B, T, 3 C], and joined again.
    let f = |x: &[Tensor]| {
        let heads = |x: &Tensor| x.reshape((2, 5, 2, 8))?.transpose(1, 2);
        let parts = x[0].split(&[16, 16, 16], 2)?;
        let o = heads(&parts[0])?.attention(
            &heads(&parts[1])?,
            &heads(&parts[2])?,
            &AttentionOptions { causal: true, ..Default::default() },
        )?;
        o.transpose(1, 2)?.reshape((2, 5, 16))
    };
    cases.push(Case::new("attention of one projection", &[(&[2, 5, 48], Normal)], f).terms(64).roundings(8));
    let f = |x: &[Tensor]| x[0].attention(&x[1], &x[2], &AttentionOptions::default());
    let shape: (&[usize], Range) = (&[2, 2, 8, 8], Normal);
    let naive = |x: &[Tensor]| naive_attention(x, &AttentionOptions::default());
    cases.extend(Case::new("attention", &[shape; 3], f).naive(naive).terms(64).in_views());
    // One tensor is q, k and v.
    let f =
        |x: &[Tensor]| x[0].attention(&x[0], &x[0], &AttentionOptions { causal: true, ..Default::default() });
    cases.push(Case::new("attention of one tensor", &[(&[1, 2, 6, 8], Normal)], f).terms(64).roundings(8));
    cases
}

/// Attention with every score in memory, each step rounded.
fn naive_attention(x: &[Tensor], options: &AttentionOptions) -> Result<Tensor> {
    let (q, k, v) = (&x[0], &x[1], &x[2]);
    let (b, nh, tq, d) = q.dims4()?;
    let (_, nkv, tk, _) = k.dims4()?;
    let repeated = |x: &Tensor| {
        x.reshape((b, nkv, 1, tk, d))?.broadcast_as((b, nkv, nh / nkv, tk, d))?.reshape((b, nh, tk, d))
    };
    let scale = options.scale.unwrap_or(1.0 / (d as f64).sqrt());
    let scores = q.matmul(&repeated(k)?.t()?)?.affine(scale, 0.0)?;
    let sees = |i: usize, j: usize| {
        let (j, last) = (j as isize, i as isize + tk as isize - tq as isize);
        !options.causal || (j <= last && options.window.is_none_or(|w| j > last - w as isize))
    };
    let mask: Vec<u32> = (0..tq * tk).map(|ij| u32::from(sees(ij / tk, ij % tk))).collect();
    let mask = Tensor::from_vec(mask, (tq, tk), &q.device())?;
    let nothing = Tensor::full(-1e4, (), q.dtype(), &q.device())?;
    let zero = Tensor::zeros((), q.dtype(), &q.device())?;
    let scores = mask.where_cond(&scores, &nothing)?;
    let e = scores.sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    // Again, for the queries that see nothing.
    mask.where_cond(&e.div(&e.sum_keepdim(D::Minus1)?)?, &zero)?.matmul(&repeated(v)?)
}

/// One test a group of cases, which gives them to the `check_all` of the module that asks for it. A group is
/// registered by its name here.
macro_rules! test_every_group {
    () => {
        $crate::cases::test_every_group!(
            unary, binary, select, reductions, views, joins, casts, matmul, linear, norms, softmax,
            cross_entropy, linear_cross_entropy, embedding, gather, rotary, dropout, attention
        );
    };
    ($($group:ident),*) => {$(
        #[test]
        fn $group() {
            check_all($crate::cases::$group());
        }
    )*};
}
pub(crate) use test_every_group;
