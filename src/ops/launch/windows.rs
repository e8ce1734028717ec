//! Launches on tensors that are larger than a binding.
//!
//! A binding shows at most [`WgpuDevice::max_binding_bytes`] of a buffer, 128 MiB on the weakest devices; GPT-2's token
//! embedding has 147. So a launch is written for any part of its tensors, and runs on all of them at once if bindings
//! can show them, or else once for each of the pieces made here: views of some neighbouring indices of the dimensions that
//! the tensors have in common, in ascending order. [`Tensor::wgpu`] and [`Tensor::wgpu_window`] then bind a window that
//! shows the piece.
//!
//! [`WgpuDevice::max_binding_bytes`]: crate::device::wgpu::WgpuDevice::max_binding_bytes

use crate::device::wgpu::ALIGNMENT;
use crate::tensor::Data;
use crate::{Layout, Result, Shape, Tensor};

/// What a launch does with a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Walks it from an offset in its window, or has it copied to where a binding may start.
    Anywhere,
    /// Writes it in whole words of 4 bytes, from an offset.
    Words,
    /// Writes all of it, from the start of its binding.
    Output,
    /// Reads it and writes it, from the start of its binding.
    Update,
}

/// One tensor of a launch, and how it is cut.
#[derive(Clone)]
pub struct Part<'a> {
    tensor: &'a Tensor,
    role: Use,
    each: usize,
    rows: Option<usize>,
}

/// A tensor that the launch reads; or that it writes by an offset, as views are written.
pub fn view(tensor: &Tensor) -> Part<'_> {
    Part { tensor, role: Use::Anywhere, each: 1, rows: None }
}

/// A contiguous tensor that the launch writes by an offset, 4 bytes at a time.
pub fn words(tensor: &Tensor) -> Part<'_> {
    Part { role: Use::Words, ..view(tensor) }
}

/// A contiguous tensor, all of which the launch writes, from its binding's start on.
pub fn output(tensor: &Tensor) -> Part<'_> {
    Part { role: Use::Output, ..view(tensor) }
}

/// A contiguous tensor that the launch changes, from its binding's start on.
pub fn update(tensor: &Tensor) -> Part<'_> {
    Part { role: Use::Update, ..view(tensor) }
}

impl<'a> Part<'a> {
    /// Of its `rows` rows, `each` (the last time fewer) belong to one index of the loop.
    pub fn in_groups(self, each: usize, rows: usize) -> Part<'a> {
        Part { each, rows: Some(rows), ..self }
    }
}

/// Runs an elementwise launch of views of one shape.
pub fn elements<const N: usize>(
    parts: [Part<'_>; N],
    mut launch: impl FnMut([&Tensor; N]) -> Result<()>,
) -> Result<()> {
    let whole = parts.each_ref().map(|part| part.tensor);
    if whole.iter().all(|t| fits(t)) {
        return launch(whole);
    }
    let (sizes, strides) = Layout::collapse(&whole.map(Tensor::layout));
    let tensors: [Tensor; N] = std::array::from_fn(|i| {
        let offset = whole[i].layout().offset;
        whole[i].with_layout(Layout { shape: Shape::from(&sizes[..]), strides: strides[i].clone(), offset })
    });
    let parts = std::array::from_fn(|i| Part { tensor: &tensors[i], ..parts[i].clone() });
    cut(sizes.len(), &parts, &mut launch)
}

/// Runs a launch over `count` rows, of which each tensor has an equal share in row-major order. The pieces are
/// contiguous and have two dimensions, the rows and what is left.
pub fn rows<const N: usize>(
    count: usize,
    parts: [Part<'_>; N],
    mut launch: impl FnMut([&Tensor; N]) -> Result<()>,
) -> Result<()> {
    let whole = parts.each_ref().map(|part| part.tensor);
    if whole.iter().all(|t| fits(t)) {
        return launch(whole);
    }
    let mut tensors: Vec<Tensor> = Vec::with_capacity(N);
    for part in &parts {
        let (rows, x) = (part.rows.unwrap_or(count), part.tensor.contiguous()?);
        let offset = x.layout().offset;
        let shape = Shape::from((rows, x.elements().checked_div(rows).unwrap_or(0)));
        tensors.push(x.with_layout(Layout { offset, ..Layout::contiguous(shape) }));
    }
    let parts = std::array::from_fn(|i| Part { tensor: &tensors[i], ..parts[i].clone() });
    cut(1, &parts, &mut launch)
}

/// Runs a launch on views whose dimension 0 is one of independent batches.
pub fn batches<const N: usize>(
    parts: [Part<'_>; N],
    mut launch: impl FnMut([&Tensor; N]) -> Result<()>,
) -> Result<()> {
    let whole = parts.each_ref().map(|part| part.tensor);
    if whole.iter().all(|t| fits(t)) {
        return launch(whole);
    }
    cut(1, &parts, &mut launch)
}

/// Launches the tensors if bindings can show them, or else one half of them after the other: halves along that of the
/// first `dims` dimensions which makes most of the span of a tensor that is too large. What cannot be cut is launched as
/// it is: the device refuses it with the size in its error.
fn cut<const N: usize>(
    dims: usize,
    parts: &[Part<'_>; N],
    launch: &mut dyn FnMut([&Tensor; N]) -> Result<()>,
) -> Result<()> {
    let too_large = parts.iter().filter(|part| !fits(part.tensor));
    let spans = too_large.flat_map(|part| (0..dims).map(|dim| (part.span(dim), dim)));
    let Some((_, dim)) = spans.filter(|&(span, _)| span > 0).max_by_key(|&(span, dim)| (span, dims - dim))
    else {
        return in_place(parts, launch);
    };
    let count = parts[0].count(dim);
    let aligned = parts.iter().map(|part| part.alignment(dim)).max().unwrap_or(1);
    let half = match count.div_ceil(2).next_multiple_of(aligned) {
        half if half < count => half,
        _ => count.div_ceil(2),
    };
    for (start, len) in [(0, half), (half, count - half)] {
        let pieces = parts.each_ref().map(|part| part.narrow(dim, start, len));
        let parts = std::array::from_fn(|i| Part { tensor: &pieces[i], ..parts[i].clone() });
        cut(dims, &parts, launch)?;
    }
    Ok(())
}

/// Launches pieces; those that it can not write where they are, it writes elsewhere, to be copied.
fn in_place<const N: usize>(
    parts: &[Part<'_>; N],
    launch: &mut dyn FnMut([&Tensor; N]) -> Result<()>,
) -> Result<()> {
    let elsewhere: Vec<Option<Tensor>> = parts.iter().map(Part::elsewhere).collect::<Result<_>>()?;
    launch(std::array::from_fn(|i| elsewhere[i].as_ref().unwrap_or(parts[i].tensor)))?;
    for (part, place) in parts.iter().zip(&elsewhere) {
        place.as_ref().map_or(Ok(()), |place| part.tensor.assign(place))?;
    }
    Ok(())
}

impl Part<'_> {
    /// How many indices of dimension 0 are one index of the loop.
    fn each(&self, dim: usize) -> usize {
        if dim == 0 { self.each } else { 1 }
    }

    fn count(&self, dim: usize) -> usize {
        self.tensor.dims()[dim].div_ceil(self.each(dim))
    }

    /// How far apart the first and the last index of a dimension lie; 0 if they cannot be cut apart.
    fn span(&self, dim: usize) -> usize {
        if self.count(dim) < 2 {
            0
        } else {
            self.tensor.layout().strides[dim] * (self.tensor.dims()[dim] - 1)
        }
    }

    /// A number of indices of the loop, multiples of which start where they may.
    fn alignment(&self, dim: usize) -> usize {
        let bytes = self.tensor.layout().strides[dim] * self.each(dim) * self.tensor.dtype().size();
        let unit = match self.role {
            Use::Anywhere => 1,
            Use::Words => 4,
            Use::Output | Use::Update => ALIGNMENT,
        };
        unit as usize >> bytes.trailing_zeros().min(unit.ilog2())
    }

    fn narrow(&self, dim: usize, start: usize, len: usize) -> Tensor {
        let (each, size) = (self.each(dim), self.tensor.dims()[dim]);
        let first = (start * each).min(size);
        self.tensor.with_layout(self.tensor.layout().narrow(dim, first, (len * each).min(size - first)))
    }

    /// What is written in the place of a piece that no binding starts at, or that has gaps.
    fn elsewhere(&self) -> Result<Option<Tensor>> {
        let piece = self.tensor;
        let start = piece.layout().offset * piece.dtype().size();
        if start.is_multiple_of(ALIGNMENT as usize) && piece.is_contiguous() {
            return Ok(None);
        }
        match self.role {
            Use::Anywhere | Use::Words => Ok(None),
            Use::Output => Tensor::uninit(piece.shape(), piece.dtype(), &piece.device()).map(Some),
            Use::Update => piece.copy().map(Some),
        }
    }
}

/// The most bytes that a binding of the tensor's device shows.
fn limit(x: &Tensor) -> usize {
    match &x.storage().data {
        Data::Wgpu { device, .. } => device.max_binding_bytes(),
        _ => usize::MAX,
    }
}

/// True if one binding can show what a launch sees of the tensor.
pub fn fits(x: &Tensor) -> bool {
    let limit = limit(x);
    x.storage().elements * x.dtype().size() <= limit
        || x.wgpu_window().is_ok_and(|(window, _)| window.bytes() <= limit)
}
