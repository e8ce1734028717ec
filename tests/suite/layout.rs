//! Views against a model that knows nothing of strides: for every element, where in the base it lies.

use tilewright::{DType, Device, Error, MAX_RANK, Result, Shape, Tensor};

use crate::harness::{Rng, every_device};

/// A view as the position in the base of each of its elements, in row-major order.
#[derive(Clone, Debug)]
struct Model {
    dims: Vec<usize>,
    at: Vec<usize>,
}

/// Every index of `dims`, in row-major order.
fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &n in dims {
        all = all.iter().flat_map(|index: &Vec<usize>| (0..n).map(|i| [&index[..], &[i]].concat())).collect();
    }
    all
}

fn flat(dims: &[usize], index: &[usize]) -> usize {
    dims.iter().zip(index).fold(0, |flat, (&n, &i)| flat * n + i)
}

impl Model {
    fn new(dims: &[usize]) -> Self {
        Model { dims: dims.to_vec(), at: (0..dims.iter().product()).collect() }
    }

    /// The view of `dims` whose element at an index is this one's at `source(index)`.
    fn map(&self, dims: Vec<usize>, source: impl Fn(&[usize]) -> Vec<usize>) -> Model {
        let at = indices(&dims).iter().map(|index| self.at[flat(&self.dims, &source(index))]).collect();
        Model { dims, at }
    }

    /// True if some strides say this: position differences add up over the dimensions.
    fn strided(&self) -> bool {
        if self.at.is_empty() {
            return true;
        }
        let strides: Vec<i64> = (0..self.dims.len())
            .map(|d| {
                let mut one = vec![0; self.dims.len()];
                one[d] = 1;
                if self.dims[d] > 1 { self.at[flat(&self.dims, &one)] as i64 - self.at[0] as i64 } else { 0 }
            })
            .collect();
        strides.iter().all(|&s| s >= 0)
            && indices(&self.dims).iter().zip(&self.at).all(|(index, &at)| {
                let moved: i64 = index.iter().zip(&strides).map(|(&i, &s)| i as i64 * s).sum();
                self.at[0] as i64 + moved == at as i64
            })
    }
}

/// One of the ways to write `n` as a product, of at most six sizes.
fn factorisation(rng: &mut Rng, n: usize) -> Vec<usize> {
    if n == 0 {
        let mut dims: Vec<usize> = (0..rng.below(4)).map(|_| rng.below(4)).collect();
        dims.insert(rng.below(dims.len() + 1), 0);
        return dims;
    }
    let mut dims = Vec::new();
    let mut rest = n;
    while dims.len() < 5 && (rest > 1 || rng.below(4) == 0) {
        let divisors: Vec<usize> = (1..=rest).filter(|d| rest.is_multiple_of(*d)).collect();
        let d = divisors[rng.below(divisors.len())];
        dims.push(d);
        rest /= d;
    }
    if rest > 1 {
        dims.push(rest);
    }
    dims
}

fn random_dims(rng: &mut Rng) -> Vec<usize> {
    let rank = rng.below(5);
    (0..rank).map(|_| if rng.below(12) == 0 { 0 } else { 1 + rng.below(5) }).collect()
}

/// A random view of the view, and what the model says of it.
fn step(rng: &mut Rng, t: &Tensor, m: &Model) -> Result<(&'static str, Tensor, Model)> {
    let rank = m.dims.len();
    Ok(match rng.below(8) {
        0 | 1 => {
            let dims = factorisation(rng, m.at.len());
            ("reshape", t.reshape(dims.clone())?, Model { dims, at: m.at.clone() })
        }
        2 => {
            let mut order: Vec<usize> = (0..rank).collect();
            (1..rank).rev().for_each(|i| order.swap(i, rng.below(i + 1)));
            let dims = order.iter().map(|&o| m.dims[o]).collect();
            let model = m.map(dims, |index| {
                let mut source = vec![0; rank];
                order.iter().zip(index).for_each(|(&o, &i)| source[o] = i);
                source
            });
            ("permute", t.permute(&order)?, model)
        }
        3 | 4 if rank > 0 => {
            let dim = rng.below(rank);
            let start = rng.below(m.dims[dim] + 1);
            let len = rng.below(m.dims[dim] - start + 1);
            let mut dims = m.dims.clone();
            dims[dim] = len;
            let model = m.map(dims, |index| {
                let mut source = index.to_vec();
                source[dim] += start;
                source
            });
            ("narrow", t.narrow(dim, start, len)?, model)
        }
        5 if rank < 6 => {
            let grown = |rng: &mut Rng, n: usize| if n == 1 && rng.below(2) == 0 { rng.below(4) } else { n };
            let mut dims: Vec<usize> = m.dims.iter().map(|&n| grown(rng, n)).collect();
            let added = rng.below(2);
            (0..added).for_each(|_| dims.insert(0, rng.below(4)));
            let model = m.map(dims.clone(), |index| {
                index[added..].iter().zip(&m.dims).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect()
            });
            ("broadcast_as", t.broadcast_as(dims)?, model)
        }
        6 if rank < 6 => {
            let dim = rng.below(rank + 1);
            let mut dims = m.dims.clone();
            dims.insert(dim, 1);
            ("unsqueeze", t.unsqueeze(dim)?, Model { dims, at: m.at.clone() })
        }
        7 if m.dims.contains(&1) => {
            let dim = m.dims.iter().position(|&n| n == 1).unwrap();
            let mut dims = m.dims.clone();
            dims.remove(dim);
            ("squeeze", t.squeeze(dim)?, Model { dims, at: m.at.clone() })
        }
        _ => ("as it is", t.clone(), m.clone()),
    })
}

fn assert_same(base: &Tensor, t: &Tensor, m: &Model, trail: &[String]) {
    assert_eq!(t.dims(), m.dims, "{trail:?}");
    let expected: Vec<u32> = m.at.iter().map(|&at| at as u32).collect();
    assert_eq!(t.to_vec::<u32>().unwrap(), expected, "{trail:?} on {t:?}");
    let layout = t.layout();
    // Not so for copies, which lie otherwise than the model's positions.
    if !m.at.is_empty() && t.same_storage(base) {
        assert_eq!(layout.is_contiguous(), m.at.windows(2).all(|w| w[1] == w[0] + 1), "{trail:?}");
    }
}

/// A random view of a base with elements 0, 1, 2 ..., and the steps that led to it. Only the last step
/// is checked, so that mistakes are found where they are made.
fn random_view(rng: &mut Rng, device: &Device, dtype: DType) -> (Tensor, Tensor, Model, Vec<String>) {
    let dims = random_dims(rng);
    let n: usize = dims.iter().product();
    let values: Vec<u32> = (0..n as u32).collect();
    let base = Tensor::from_vec(values, dims.clone(), device).unwrap().to_dtype(dtype).unwrap();
    let (mut view, mut model) = (base.clone(), Model::new(&dims));
    let mut trail = vec![format!("{dims:?}")];
    for _ in 0..rng.below(6) {
        if model.at.len() > 400 {
            break;
        }
        let (name, t, m) = step(rng, &view, &model).unwrap_or_else(|e| panic!("{trail:?}: {e}"));
        // A reshape that must copy starts over from a base of its own.
        if !t.same_storage(&base) {
            break;
        }
        trail.push(format!("{name} to {:?}", m.dims));
        (view, model) = (t, m);
    }
    (base, view, model, trail)
}

#[test]
fn views_are_what_the_model_says() {
    let mut rng = Rng::new(1);
    for device in every_device() {
        let rounds = if device.is_cpu() { 20_000 } else { 150 };
        for _ in 0..rounds {
            let (base, view, model, mut trail) = random_view(&mut rng, device, DType::U32);
            assert_same(&base, &view, &model, &trail);
            let (name, t, m) = step(&mut rng, &view, &model).unwrap();
            trail.push(format!("{name} to {:?}", m.dims));
            assert_same(&base, &t, &m, &trail);
            // Views share memory wherever strides can say them, and copies are contiguous.
            assert_eq!(t.same_storage(&base), m.strided(), "{trail:?}");
            assert!(t.same_storage(&base) || t.is_contiguous(), "{trail:?}");
            assert_eq!(t.contiguous().unwrap().to_vec::<u32>().unwrap(), t.to_vec::<u32>().unwrap());
        }
    }
}

#[test]
fn writing_a_view_changes_these_elements_and_no_others() {
    let mut rng = Rng::new(2);
    for device in every_device() {
        let rounds = if device.is_cpu() { 5_000 } else { 100 };
        for _ in 0..rounds {
            let (base, view, model, trail) = random_view(&mut rng, device, DType::F32);
            let mut sorted = model.at.clone();
            sorted.sort_unstable();
            sorted.dedup();
            // Which of several values lands in a repeated element is nobody's promise.
            if sorted.len() < model.at.len() {
                continue;
            }
            let mut expected = base.to_vec::<f32>().unwrap();
            let values: Vec<f32> = (0..model.at.len()).map(|i| 1000.0 + i as f32).collect();
            let values = Tensor::from_vec(values, model.dims.clone(), device).unwrap();
            view.assign(&values).unwrap();
            model.at.iter().enumerate().for_each(|(i, &at)| expected[at] = 1000.0 + i as f32);
            assert_eq!(base.to_vec::<f32>().unwrap(), expected, "assign, {trail:?}");
            view.add_assign(&values).unwrap();
            model.at.iter().enumerate().for_each(|(i, &at)| expected[at] += 1000.0 + i as f32);
            assert_eq!(base.to_vec::<f32>().unwrap(), expected, "add_assign, {trail:?}");
            // Values from the same memory, in another order.
            if model.dims.len() == 2 && model.dims[0] == model.dims[1] {
                view.assign(&view.t().unwrap()).unwrap();
                let turned = model.map(model.dims.clone(), |i| vec![i[1], i[0]]);
                let before = expected.clone();
                model.at.iter().zip(&turned.at).for_each(|(&to, &from)| expected[to] = before[from]);
                assert_eq!(base.to_vec::<f32>().unwrap(), expected, "onto itself, {trail:?}");
            }
        }
    }
}

#[test]
fn kernels_walk_any_view() {
    let mut rng = Rng::new(3);
    for device in every_device() {
        let rounds = if device.is_cpu() { 5_000 } else { 60 };
        for _ in 0..rounds {
            let (_, a, a_model, trail) = random_view(&mut rng, device, DType::F32);
            // A second view of the same shape, strided differently.
            let b = match a_model.dims.len() {
                0 => Tensor::full(7.0, (), DType::F32, device).unwrap(),
                rank => {
                    let turned: Vec<usize> = a_model.dims.iter().rev().copied().collect();
                    let n: usize = turned.iter().product();
                    let values: Vec<f32> = (0..n).map(|i| (i * i % 101) as f32).collect();
                    let order: Vec<usize> = (0..rank).rev().collect();
                    Tensor::from_vec(values, turned, device).unwrap().permute(&order).unwrap()
                }
            };
            let (x, y) = (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap());
            assert_eq!(x, a_model.at.iter().map(|&at| at as f32).collect::<Vec<_>>(), "{trail:?}");
            let zip =
                |f: fn(f32, f32) -> f32| -> Vec<f32> { x.iter().zip(&y).map(|(&x, &y)| f(x, y)).collect() };
            let values =
                |t: Result<Tensor>| t.unwrap_or_else(|e| panic!("{trail:?}: {e}")).to_vec::<f32>().unwrap();
            assert_eq!(values(a.sub(&b)), zip(|x, y| x - y), "{trail:?}");
            assert_eq!(values(b.maximum(&a)), zip(f32::max), "{trail:?}");
            assert_eq!(
                values(a.affine(2.0, 1.0)),
                x.iter().map(|x| 2.0 * x + 1.0).collect::<Vec<_>>(),
                "{trail:?}"
            );
            let chosen: Vec<f32> = x.iter().zip(&y).map(|(&x, &y)| if x < y { y } else { x }).collect();
            assert_eq!(values(a.lt(&b).unwrap().where_cond(&b, &a)), chosen, "{trail:?}");
            for dim in 0..a_model.dims.len() {
                let dims = &a_model.dims;
                let mut sums =
                    vec![0.0; dims.iter().enumerate().filter(|(d, _)| *d != dim).map(|(_, n)| n).product()];
                let rest: Vec<usize> = (0..dims.len()).filter(|&d| d != dim).collect();
                let small: Vec<usize> = rest.iter().map(|&d| dims[d]).collect();
                for (index, &x) in indices(dims).iter().zip(&x) {
                    let at: Vec<usize> = rest.iter().map(|&d| index[d]).collect();
                    sums[flat(&small, &at)] += x;
                }
                assert_eq!(values(a.sum(dim)), sums, "sum({dim}), {trail:?}");
            }
        }
    }
}

#[test]
fn broadcasting_follows_numpy() {
    let mut rng = Rng::new(4);
    let (mut fits, mut fails) = (0, 0);
    for _ in 0..20_000 {
        let (a, b) = (random_dims(&mut rng), random_dims(&mut rng));
        let rank = a.len().max(b.len());
        let size = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
        let expected: Option<Vec<usize>> = (0..rank)
            .map(|i| match (size(&a, i), size(&b, i)) {
                (x, y) if x == y || y == 1 => Some(x),
                (1, y) => Some(y),
                _ => None,
            })
            .collect();
        let found = Shape::from(a.clone()).broadcast(&Shape::from(b.clone()), "test");
        match &expected {
            Some(expected) => assert_eq!(found.unwrap().dims(), expected),
            None => assert!(matches!(found, Err(Error::Shape { op: "test", .. }))),
        }
        let one = Tensor::zeros(a.clone(), DType::F32, &Device::Cpu).unwrap();
        match (expected, one.broadcast_as(b.clone())) {
            (Some(to), Ok(t)) if to == b => {
                assert_eq!(t.dims(), b);
                fits += 1;
            }
            (Some(to), Err(Error::Shape { .. })) if to != b => fails += 1,
            (None, Err(Error::Shape { .. })) => fails += 1,
            (expected, found) => panic!("{a:?} to {b:?}: {expected:?}, {found:?}"),
        }
    }
    assert!(fits > 100 && fails > 100);
}

/// Any arguments at all: an error or the right shape, never a panic.
#[test]
fn no_argument_panics() {
    let mut rng = Rng::new(5);
    let huge = [
        0,
        1,
        2,
        3,
        5,
        7,
        1 << 20,
        1 << 31,
        1 << 32,
        1 << 40,
        1 << 61,
        usize::MAX / 2,
        usize::MAX - 1,
        usize::MAX,
    ];
    let pick = |rng: &mut Rng| huge[rng.below(huge.len())];
    let some =
        |rng: &mut Rng, most: usize| -> Vec<usize> { (0..rng.below(most)).map(|_| pick(rng)).collect() };
    for round in 0..20_000 {
        let (_, x, model, trail) = random_view(&mut rng, &Device::Cpu, DType::F32);
        let (dims, order, sizes) = (some(&mut rng, 11), some(&mut rng, 5), some(&mut rng, 4));
        let (dim, start, len) = (pick(&mut rng), pick(&mut rng), pick(&mut rng));
        // Small enough to be computed, whatever it is.
        let shape_only = |result: Result<Tensor>| {
            if let Ok(t) = result {
                assert!(t.rank() <= MAX_RANK);
                assert!(t.elements() <= isize::MAX as usize / 8);
            }
        };
        shape_only(x.reshape(dims.clone()));
        shape_only(x.broadcast_as(dims.clone()));
        shape_only(x.permute(&order));
        shape_only(x.narrow(dim, start, len));
        shape_only(x.transpose(dim, start));
        shape_only(x.flatten(dim, start));
        shape_only(x.squeeze(dim));
        shape_only(x.unsqueeze(dim));
        shape_only(x.get(start));
        shape_only(x.sum(dim));
        shape_only(x.sum_to(&dims.clone().into()));
        shape_only(x.softmax(dim));
        for part in x.split(&sizes, dim).into_iter().flatten() {
            assert!(part.elements() <= model.at.len(), "{trail:?}");
        }
        for part in x.chunk(start, dim).into_iter().flatten() {
            assert!(part.elements() <= model.at.len(), "{trail:?}");
        }
        // An empty tensor may have any other sizes, and so may what is made of it.
        if round % 4 == 0 {
            let Ok(empty) = Tensor::zeros([&dims[..], &[0]].concat(), DType::F32, &Device::Cpu) else {
                continue;
            };
            let rank = empty.rank();
            let (a, b) = (rng.below(rank), rng.below(rank));
            shape_only(empty.flatten(a.min(b), a.max(b)));
            shape_only(empty.transpose(a, b));
            shape_only(empty.narrow(a, start.min(empty.dims()[a]), 0));
            shape_only(empty.narrow(a, empty.dims()[a] / 2, empty.dims()[a] / 3));
            shape_only(empty.reshape(0));
            shape_only(empty.sum_all());
            shape_only(empty.copy());
            shape_only(empty.add(&empty));
            // A sum over the dimension of size 0 has elements: keep it to what memory holds.
            if empty.dims()[a] != 0 || empty.shape().without(a).elements() < 1 << 20 {
                shape_only(empty.sum(a));
                shape_only(empty.softmax(a));
            }
        }
    }
}
