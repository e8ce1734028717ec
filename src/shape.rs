//! Shapes, dimension arguments, and the strided layout of a view.

use std::fmt;

use smallvec::SmallVec;

use crate::{Error, Result};

/// The most dimensions a tensor can have.
pub const MAX_RANK: usize = 8;

/// Sizes or strides, one a dimension, without an allocation.
pub type Dims = SmallVec<[usize; MAX_RANK]>;

/// The sizes of a tensor, outermost first. The empty shape is a scalar.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Dims);

impl Shape {
    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The number of elements; 1 for a scalar. Saturates, and [`Shape::check`] refuses such shapes.
    pub fn elements(&self) -> usize {
        // A zero anywhere makes the tensor empty, even beside sizes whose product overflows.
        if self.0.contains(&0) { 0 } else { self.0.iter().fold(1, |n, &d| n.saturating_mul(d)) }
    }

    /// Refuses more than [`MAX_RANK`] dimensions and sizes whose bytes overflow the address space.
    pub fn check(&self, op: &'static str) -> Result<()> {
        if self.rank() > MAX_RANK {
            return Err(Error::shape(op, &[self], format!("at most {MAX_RANK} dimensions are supported")));
        }
        // Sizes beside a zero count too, so that the product of any of them fits a usize.
        if self.0.iter().fold(1, |n: usize, &d| n.saturating_mul(d.max(1))) > isize::MAX as usize / 8 {
            return Err(Error::shape(op, &[self], "the number of elements overflows"));
        }
        Ok(())
    }

    /// Row-major strides, in elements.
    pub fn contiguous_strides(&self) -> Dims {
        let mut strides: Dims = SmallVec::from_elem(1, self.rank());
        for i in (1..self.rank()).rev() {
            strides[i - 1] = strides[i].saturating_mul(self.0[i].max(1));
        }
        strides
    }

    /// The shape that both broadcast to: sizes match from the right, or one of them is 1 or absent.
    pub fn broadcast(&self, other: &Shape, op: &'static str) -> Result<Shape> {
        let rank = self.rank().max(other.rank());
        let size = |s: &Shape, i: usize| (i + s.rank()).checked_sub(rank).map_or(1, |i| s.0[i]);
        let mut dims = Dims::new();
        for i in 0..rank {
            dims.push(match (size(self, i), size(other, i)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return Err(Error::shape(op, &[self, other], "shapes do not broadcast")),
            });
        }
        Ok(Shape(dims))
    }

    /// The same shape with dimension `dim` of size `size`.
    pub fn with(&self, dim: usize, size: usize) -> Shape {
        let mut dims = self.0.clone();
        dims[dim] = size;
        Shape(dims)
    }

    /// The same shape without dimension `dim`.
    pub fn without(&self, dim: usize) -> Shape {
        let mut dims = self.0.clone();
        dims.remove(dim);
        Shape(dims)
    }

    /// The shape seen as `[outer, dims[dim], inner]`.
    pub fn around(&self, dim: usize) -> (usize, usize, usize) {
        (self.0[..dim].iter().product(), self.0[dim], self.0[dim + 1..].iter().product())
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = usize;
    fn index(&self, i: usize) -> &usize {
        &self.0[i]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape(SmallVec::from_slice(dims))
    }
}

impl From<Dims> for Shape {
    fn from(dims: Dims) -> Self {
        Shape(dims)
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape(SmallVec::from_vec(dims))
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape(SmallVec::from_slice(&dims))
    }
}

impl From<usize> for Shape {
    fn from(size: usize) -> Self {
        Shape::from([size])
    }
}

impl From<()> for Shape {
    fn from(_: ()) -> Self {
        Shape::default()
    }
}

macro_rules! shape_from_tuple {
    ($($name:ident),+) => {
        impl From<($(shape_from_tuple!(@usize $name),)+)> for Shape {
            fn from(($($name,)+): ($(shape_from_tuple!(@usize $name),)+)) -> Self {
                Shape::from([$($name),+])
            }
        }
    };
    (@usize $name:ident) => { usize };
}
shape_from_tuple!(a);
shape_from_tuple!(a, b);
shape_from_tuple!(a, b, c);
shape_from_tuple!(a, b, c, d);
shape_from_tuple!(a, b, c, d, e);
shape_from_tuple!(a, b, c, d, e, f);

/// A dimension counted from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum D {
    /// The last.
    Minus1,
    /// The last but one.
    Minus2,
    /// `Minus(3)` is the third from the end.
    Minus(usize),
}

/// Anything that names one dimension of a shape: a `usize` from the front or a [`D`] from the end.
pub trait Dim: Copy {
    /// The dimension counted from the front, or [`Error::Dim`].
    fn index(self, shape: &Shape, op: &'static str) -> Result<usize>;
}

impl Dim for usize {
    fn index(self, shape: &Shape, op: &'static str) -> Result<usize> {
        if self < shape.rank() {
            return Ok(self);
        }
        Err(Error::Dim { op, dim: self as isize, shape: shape.clone() })
    }
}

impl Dim for D {
    fn index(self, shape: &Shape, op: &'static str) -> Result<usize> {
        let back = match self {
            D::Minus1 => 1,
            D::Minus2 => 2,
            D::Minus(n) => n,
        };
        match shape.rank().checked_sub(back) {
            Some(i) if back > 0 => Ok(i),
            _ => Err(Error::Dim { op, dim: -(back as isize), shape: shape.clone() }),
        }
    }
}

/// Where the elements of a view lie in its storage: `offset + sum(index[i] * strides[i])`, in elements.
/// A stride of 0 repeats elements (broadcast).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// The sizes of the view.
    pub shape: Shape,
    /// The distance of neighbours along each dimension, in elements.
    pub strides: Dims,
    /// The first element's index in the storage.
    pub offset: usize,
}

impl Layout {
    /// Row-major, from the start of the storage.
    pub fn contiguous(shape: Shape) -> Self {
        Layout { strides: shape.contiguous_strides(), shape, offset: 0 }
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// True if the elements lie in row-major order without gaps (from `offset` on).
    pub fn is_contiguous(&self) -> bool {
        if self.elements() == 0 {
            return true;
        }
        let mut expected = 1;
        for (&size, &stride) in self.shape.dims().iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }

    /// One past the largest element index the view touches; 0 if it is empty.
    pub fn end(&self) -> usize {
        if self.elements() == 0 {
            return 0;
        }
        let span: usize = self.shape.dims().iter().zip(&self.strides).map(|(&n, &s)| (n - 1) * s).sum();
        self.offset + span + 1
    }

    /// The view whose dimension `i` is dimension `order[i]` of this one.
    pub fn permute(&self, order: &[usize]) -> Layout {
        Layout {
            shape: Shape(order.iter().map(|&i| self.shape[i]).collect()),
            strides: order.iter().map(|&i| self.strides[i]).collect(),
            offset: self.offset,
        }
    }

    /// The view of `len` indices of `dim` from `start` on.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Layout {
        Layout {
            shape: self.shape.with(dim, len),
            strides: self.strides.clone(),
            offset: self.offset + start * self.strides[dim],
        }
    }

    /// The view broadcast to `shape`, which must be what [`Shape::broadcast`] allows.
    pub fn broadcast(&self, shape: &Shape) -> Layout {
        let missing = shape.rank() - self.shape.rank();
        let strides = (0..shape.rank())
            .map(|i| match i.checked_sub(missing) {
                Some(j) if self.shape[j] == shape[i] => self.strides[j],
                _ => 0,
            })
            .collect();
        Layout { shape: shape.clone(), strides, offset: self.offset }
    }

    /// The view with another shape over the same elements in the same order, if strides can say it.
    pub fn reshape(&self, shape: &Shape) -> Option<Layout> {
        if self.is_contiguous() {
            return Some(Layout {
                strides: shape.contiguous_strides(),
                shape: shape.clone(),
                offset: self.offset,
            });
        }
        // Walk both shapes from the left in groups of equal element counts: a group of old
        // dimensions can be regrouped if it is evenly strided inside.
        let old: Vec<(usize, usize)> = (self.shape.dims().iter().copied())
            .zip(self.strides.iter().copied())
            .filter(|&(size, _)| size != 1)
            .collect();
        let new = shape.dims();
        let mut strides: Dims = SmallVec::from_elem(0, new.len());
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            let (mut old_count, mut last) = (old[i].0, i);
            let first_new = j;
            let mut new_count = 1;
            while new_count != old_count || new_count == 1 {
                if new_count < old_count {
                    new_count *= new[j];
                    j += 1;
                } else {
                    last += 1;
                    if old[last - 1].1 != old[last].1 * old[last].0 {
                        return None;
                    }
                    old_count *= old[last].0;
                }
            }
            let mut stride = old[last].1;
            for k in (first_new..j).rev() {
                strides[k] = stride;
                stride *= new[k];
            }
            i = last + 1;
        }
        Some(Layout { shape: shape.clone(), strides, offset: self.offset })
    }

    /// The same walk over the elements with the fewest dimensions: neighbours that are evenly
    /// strided become one. `layouts` share one shape and are merged only where all of them allow it.
    pub fn collapse(layouts: &[&Layout]) -> (Dims, Vec<Dims>) {
        let shape = &layouts[0].shape;
        let mut sizes = Dims::new();
        let mut strides = vec![Dims::new(); layouts.len()];
        for i in 0..shape.rank() {
            if shape[i] == 1 {
                continue;
            }
            let joins = !sizes.is_empty()
                && layouts.iter().zip(&strides).all(|(l, s)| s[s.len() - 1] == l.strides[i] * shape[i]);
            if joins {
                *sizes.last_mut().unwrap() *= shape[i];
                layouts.iter().zip(&mut strides).for_each(|(l, s)| *s.last_mut().unwrap() = l.strides[i]);
            } else {
                sizes.push(shape[i]);
                layouts.iter().zip(&mut strides).for_each(|(l, s)| s.push(l.strides[i]));
            }
        }
        (sizes, strides)
    }
}

/// Up to eight sizes or strides as GPU kernels take them: eight u32, in WGSL `array<vec4<u32>, 2>`.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Dims8([u32; 8]);

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl From<&Dims> for Dims8 {
    fn from(dims: &Dims) -> Self {
        let mut out = [0; 8];
        out.iter_mut().zip(dims).for_each(|(o, &d)| *o = d as u32);
        Dims8(out)
    }
}
