//! The gradient graph: recorded by forward, consumed by backward.
//!
//! A tensor that requires a gradient points at the node that made it (or is a leaf); a node
//! points at its inputs' makers and holds what its backward needs. Backward walks the nodes from the
//! newest to the oldest, which is a topological order because a node is younger than its inputs,
//! and frees what each node saved as soon as that node is done.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use super::Tensor;
use super::op::{Op, Saves};
use crate::{DType, Error, Result, Shape};

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// Runs `f` without recording gradients on this thread.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    recording(false, f)
}

fn recording<T>(on: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// Runs `f` with recording on, as a backward that repeats a forward needs it.
pub(crate) fn with_recording<T>(f: impl FnOnce() -> T) -> T {
    recording(true, f)
}

/// False inside [`no_grad`].
pub fn is_recording() -> bool {
    RECORDING.get()
}

/// Where a tensor's gradient goes.
#[derive(Clone, Default)]
pub(crate) enum Edge {
    #[default]
    None,
    Leaf(Arc<Leaf>),
    /// Output number `.1` of the node.
    Node(Arc<Node>, usize),
}

impl Edge {
    fn same(&self, other: &Edge) -> bool {
        match (self, other) {
            (Edge::Leaf(a), Edge::Leaf(b)) => Arc::ptr_eq(a, b),
            (Edge::Node(a, i), Edge::Node(b, j)) => Arc::ptr_eq(a, b) && i == j,
            _ => false,
        }
    }
}

/// The gradient of a [`Var`](crate::Var).
pub(crate) struct Leaf(pub Mutex<Slot>);

/// A gradient's memory outlives the gradient: after `zero_grad` the next one is written over it.
pub(crate) struct Slot {
    /// Of the gradient: the parameter's own, or f32.
    pub dtype: DType,
    pub memory: Option<Tensor>,
    /// False if `memory` holds no gradient, only room for one.
    pub live: bool,
}

impl Leaf {
    pub fn new(dtype: DType) -> Self {
        Leaf(Mutex::new(Slot { dtype, memory: None, live: false }))
    }

    fn accumulate(&self, grad: Tensor) -> Result<()> {
        let mut slot = self.0.lock();
        // Not through `to_dtype` if that were the same: a second handle would make a copy of it.
        let grad = if grad.dtype() == slot.dtype { grad } else { grad.to_dtype(slot.dtype)? };
        match &slot.memory {
            Some(memory) if slot.live => memory.add_assign(&grad)?,
            // Of two that nobody else sees one is enough; others, such as an optimizer's, are to see the new values.
            Some(memory) if !(memory.is_owned() && grad.is_owned()) => memory.assign(&grad)?,
            _ => slot.memory = Some(grad.into_owned()?),
        }
        slot.live = true;
        Ok(())
    }
}

/// Runs a part of the forward pass again.
type Repeat = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;

/// How a node's gradients are found.
enum Source {
    /// By the backward of an op.
    Op(Box<dyn Op>),
    /// By going back through what comes of repeating it (see [`crate::checkpoint`]).
    Repeat(Repeat),
}

impl Source {
    fn name(&self) -> &'static str {
        match self {
            Source::Op(op) => op.name(),
            Source::Repeat(_) => super::recompute::NAME,
        }
    }
}

/// Something for each input or output of an op: most have few, and need no allocation for it.
type Each<T> = SmallVec<[T; 3]>;

/// One recorded op, or a part of the forward pass to be repeated.
pub(crate) struct Node {
    id: u64,
    source: Source,
    inputs: Each<Input>,
    /// Shape and dtype of each visible output.
    outputs: SmallVec<[(Shape, DType); 1]>,
    /// Taken by the backward that consumes the node.
    saved: Mutex<Option<Saved>>,
}

struct Input {
    edge: Edge,
    shape: Shape,
    dtype: DType,
}

struct Saved {
    inputs: Each<Option<SavedTensor>>,
    outputs: Each<Option<SavedTensor>>,
}

/// A detached tensor and the version its storage had.
struct SavedTensor(Tensor, u64);

impl SavedTensor {
    fn new(t: &Tensor) -> Self {
        SavedTensor(t.detach(), t.storage().version())
    }
}

impl Drop for Node {
    /// Frees long chains of nodes in a loop: the recursion of nested drops would overflow the stack.
    fn drop(&mut self) {
        let mut pending: Each<Input> = std::mem::take(&mut self.inputs);
        while let Some(input) = pending.pop() {
            if let Edge::Node(node, _) = input.edge
                && let Some(mut node) = Arc::into_inner(node)
            {
                pending.append(&mut node.inputs);
            }
        }
    }
}

/// Gives `outputs` their place in the graph and keeps what `saves` names.
pub(crate) fn record(op: impl Op, saves: Saves, inputs: &[&Tensor], mut outputs: Vec<Tensor>) -> Vec<Tensor> {
    fn keep<'a>(tensors: impl Iterator<Item = &'a Tensor>, wanted: &[usize]) -> Each<Option<SavedTensor>> {
        let saved = |(i, t)| wanted.contains(&i).then(|| SavedTensor::new(t));
        tensors.enumerate().map(saved).collect()
    }
    let saved = Saved {
        inputs: keep(inputs.iter().copied(), saves.inputs),
        outputs: keep(outputs.iter(), saves.outputs),
    };
    outputs.truncate(op.outputs());
    attach(Source::Op(Box::new(op)), saved, inputs, outputs)
}

/// Gives `outputs` their place in the graph, behind which `repeat` makes them of `inputs` once more.
pub(crate) fn record_repeat(
    repeat: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    inputs: &[&Tensor],
    outputs: Vec<Tensor>,
) -> Vec<Tensor> {
    let saved =
        Saved { inputs: inputs.iter().map(|&t| Some(SavedTensor::new(t))).collect(), outputs: Each::new() };
    attach(Source::Repeat(Box::new(repeat)), saved, inputs, outputs)
}

fn attach(source: Source, saved: Saved, inputs: &[&Tensor], outputs: Vec<Tensor>) -> Vec<Tensor> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(0);
    let node = Arc::new(Node {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        source,
        inputs: (inputs.iter())
            .map(|t| Input { edge: t.edge().clone(), shape: t.shape().clone(), dtype: t.dtype() })
            .collect(),
        outputs: outputs.iter().map(|t| (t.shape().clone(), t.dtype())).collect(),
        saved: Mutex::new(Some(saved)),
    });
    let attach = |(i, t): (usize, Tensor)| match t.dtype().is_float() {
        true => t.with_edge(Edge::Node(node.clone(), i)),
        false => t,
    };
    outputs.into_iter().enumerate().map(attach).collect()
}

/// What an op's backward sees: the saved tensors, the gradients of its outputs, and where the
/// gradients of its inputs may be accumulated in place.
pub struct Backward<'a> {
    node: &'a Node,
    saved: Saved,
    grads: Each<Option<Tensor>>,
    /// The 1 that backward started from, if it started from a scalar.
    one: Option<&'a Tensor>,
    device: crate::Device,
    targets: Each<Option<Target>>,
}

/// A place for a gradient: contiguous, of the input's shape and of [`Backward::grad_dtype`].
#[derive(Clone)]
pub struct Target {
    /// The place; an op that has written there returns this very tensor.
    pub grad: Tensor,
    /// True: add to what `grad` holds. False: overwrite it.
    pub add: bool,
}

impl Backward<'_> {
    fn saved<'s>(&self, list: &'s [Option<SavedTensor>], i: usize, what: &str) -> Result<&'s Tensor> {
        let op = self.node.source.name();
        match list.get(i) {
            Some(Some(SavedTensor(t, version))) if t.storage().version() == *version => Ok(t),
            Some(Some(_)) => Err(Error::ModifiedInPlace { op }),
            _ => Err(Error::backward(format!("{op} uses {what} {i}, which its `saves` does not name"))),
        }
    }

    /// Input `i` of the forward pass, if [`Op::saves`] names it.
    pub fn input(&self, i: usize) -> Result<&Tensor> {
        self.saved(&self.saved.inputs, i, "input")
    }

    /// Output `i` of the forward pass (statistics included), if [`Op::saves`] names it.
    pub fn output(&self, i: usize) -> Result<&Tensor> {
        self.saved(&self.saved.outputs, i, "output")
    }

    /// The shape of input `i`.
    pub fn input_shape(&self, i: usize) -> &Shape {
        &self.node.inputs[i].shape
    }

    /// The dtype of input `i`.
    pub fn input_dtype(&self, i: usize) -> DType {
        self.node.inputs[i].dtype
    }

    /// The gradient of output `i`; zeros if nothing that follows depends on that output.
    pub fn grad(&self, i: usize) -> Result<Tensor> {
        match self.grads.get(i) {
            Some(Some(grad)) => Ok(grad.clone()),
            Some(None) => {
                let (shape, dtype) = &self.node.outputs[i];
                Tensor::zeros(shape, *dtype, &self.device)
            }
            None => Err(Error::backward(format!("{} has no output {i}", self.node.source.name()))),
        }
    }

    /// The gradient of output `i`, if anything that follows depends on it.
    pub fn grad_if_any(&self, i: usize) -> Option<&Tensor> {
        self.grads.get(i)?.as_ref()
    }

    /// True if backward started at output `i`, a scalar: its gradient is 1, and need not be multiplied by.
    pub fn grad_is_one(&self, i: usize) -> bool {
        self.grad_if_any(i).zip(self.one).is_some_and(|(grad, one)| grad.is(one))
    }

    /// True if input `i` wants a gradient.
    pub fn needs(&self, i: usize) -> bool {
        !matches!(self.node.inputs[i].edge, Edge::None)
    }

    /// The dtype in which the gradient of input `i` is kept: the input's own, or f32 for a 16-bit
    /// [`Var`](crate::Var) that [chose it](crate::Var::set_grad_dtype). Gradients of other dtypes are converted.
    pub fn grad_dtype(&self, i: usize) -> DType {
        match &self.node.inputs[i].edge {
            Edge::Leaf(leaf) => leaf.0.lock().dtype,
            _ => self.input_dtype(i),
        }
    }

    /// Frees the saved tensors and the consumed gradients before the next op allocates.
    fn finish(self) -> Each<Option<Target>> {
        self.targets
    }

    /// Where the gradient of input `i` has its place, if it has one. An op that can accumulate while it
    /// computes writes there and returns `target.grad` itself; others ignore it.
    pub fn target(&self, i: usize) -> Option<&Target> {
        self.targets[i].as_ref()
    }
}

/// The gradients on their way, by node and output, the newest node last.
type Pending = BTreeMap<u64, (Arc<Node>, Each<Option<Tensor>>)>;

/// The place of input `i`'s gradient, if it has one and the op alone may write there.
fn target(node: &Node, i: usize, pending: &Pending, device: &crate::Device) -> Result<Option<Target>> {
    let input = &node.inputs[i];
    if node.inputs.iter().enumerate().any(|(j, other)| j != i && other.edge.same(&input.edge)) {
        return Ok(None);
    }
    match &input.edge {
        Edge::None => Ok(None),
        Edge::Leaf(leaf) => {
            let slot = leaf.0.lock();
            let grad = match &slot.memory {
                Some(memory) => memory.clone(),
                // What an op makes of its own would be rounded to the input's dtype.
                None if slot.dtype != input.dtype => Tensor::uninit(&input.shape, slot.dtype, device)?,
                None => return Ok(None),
            };
            Ok(Some(Target { grad, add: slot.live }))
        }
        Edge::Node(source, output) => {
            let grad = pending.get(&source.id).and_then(|(_, grads)| grads[*output].clone());
            // One handle is in `pending`, one is ours: nobody else sees this memory change.
            let ours =
                |grad: &Tensor| grad.handles() == 2 && grad.storage_handles() == 1 && grad.is_contiguous();
            Ok(grad.filter(ours).map(|grad| Target { grad, add: true }))
        }
    }
}

/// What a node was made from, in its old place in the graph.
fn repeated_inputs(node: &Node, saved: Saved) -> Result<Vec<Tensor>> {
    let input = |(saved, input): (SavedTensor, &Input)| match saved.0.storage().version() == saved.1 {
        true => Ok(saved.0.with_edge(input.edge.clone())),
        false => Err(Error::ModifiedInPlace { op: node.source.name() }),
    };
    saved.inputs.into_iter().flatten().zip(&node.inputs).map(input).collect()
}

fn deliver(edge: &Edge, grad: Tensor, pending: &mut Pending) -> Result<()> {
    match edge {
        Edge::None => Ok(()),
        Edge::Leaf(leaf) => leaf.accumulate(grad),
        Edge::Node(node, output) => {
            let grad = grad.to_dtype(node.outputs[*output].1)?;
            let slot = &mut pending
                .entry(node.id)
                .or_insert_with(|| (node.clone(), smallvec![None; node.outputs.len()]))
                .1[*output];
            *slot = Some(match slot.take() {
                None => grad,
                Some(sum) => {
                    let sum = sum.into_owned()?;
                    sum.add_assign(&grad)?;
                    sum
                }
            });
            Ok(())
        }
    }
}

/// Backward from several tensors at once, each with the gradient it starts from.
///
/// The gradients are added into the `grad` of every [`Var`](crate::Var) on the way. The graph is
/// consumed: what it saved is freed as it is used.
pub fn backward(roots: &[(&Tensor, Tensor)]) -> Result<()> {
    run(roots, None)
}

fn run(roots: &[(&Tensor, Tensor)], one: Option<&Tensor>) -> Result<()> {
    no_grad(|| {
        let mut pending = Pending::new();
        for (root, grad) in roots {
            if !root.requires_grad() {
                return Err(Error::backward("the tensor does not depend on any Var"));
            }
            if grad.shape() != root.shape() || grad.dtype() != root.dtype() {
                return Err(Error::shape(
                    "backward",
                    &[root.shape(), grad.shape()],
                    "the gradient to start from must have the tensor's shape and dtype",
                ));
            }
            if grad.device() != root.device() {
                let (left, right) = (root.device().to_string(), grad.device().to_string());
                return Err(Error::DeviceMismatch { op: "backward", left, right });
            }
            deliver(root.edge(), grad.clone(), &mut pending)?;
        }
        while let Some((_, (node, grads))) = pending.pop_last() {
            let saved = node.saved.lock().take().ok_or_else(|| {
                Error::backward("this graph was consumed by an earlier backward; run the forward pass again")
            })?;
            let op = match &node.source {
                Source::Op(op) => op,
                Source::Repeat(repeat) => {
                    // The fresh nodes are younger than all that are pending, and so the next ones.
                    for (output, grad) in repeat(&repeated_inputs(&node, saved)?)?.iter().zip(grads) {
                        grad.map_or(Ok(()), |grad| deliver(output.edge(), grad, &mut pending))?;
                    }
                    continue;
                }
            };
            let device = grads.iter().flatten().next().expect("a pending node has a gradient").device();
            // A gradient's memory that the op also reads, because the caller made it an operand, is no
            // place to write to while it runs.
            let read = |t: &Target| {
                let saved = saved.inputs.iter().chain(&saved.outputs).flatten().map(|s| &s.0);
                grads.iter().flatten().chain(saved).any(|r| r.same_storage(&t.grad))
            };
            let targets = (0..node.inputs.len())
                .map(|i| Ok(target(&node, i, &pending, &device)?.filter(|t| !read(t))))
                .collect::<Result<_>>()?;
            let ctx = Backward { node: &node, saved, grads, one, device, targets };
            let results = op.backward(&ctx)?;
            let targets = ctx.finish();
            if results.len() != node.inputs.len() {
                let (name, given, inputs) = (op.name(), results.len(), node.inputs.len());
                return Err(Error::backward(format!("{name} gave {given} gradients for {inputs} inputs")));
            }
            for ((input, grad), target) in node.inputs.iter().zip(results).zip(targets) {
                let Some(grad) = grad else { continue };
                if target.is_some_and(|t| t.grad.is(&grad)) {
                    // The op has accumulated in place: the gradient is where it belongs.
                    if let Edge::Leaf(leaf) = &input.edge {
                        let mut slot = leaf.0.lock();
                        (slot.memory, slot.live) = (Some(grad), true);
                    }
                    continue;
                }
                if grad.shape() != &input.shape {
                    let reason = format!("the gradient of {} has the wrong shape", op.name());
                    return Err(Error::shape("backward", &[&input.shape, grad.shape()], reason));
                }
                deliver(&input.edge, grad, &mut pending)?;
            }
        }
        Ok(())
    })
}

impl Tensor {
    /// Computes the gradients of this scalar with respect to every [`Var`](crate::Var) it depends
    /// on, and adds each into the var's [`grad`](crate::Var::grad).
    ///
    /// # Errors
    /// [`Error::Backward`] if this is no scalar, depends on no var, or was consumed by an earlier
    /// backward; [`Error::ModifiedInPlace`] if a tensor it needs was overwritten since.
    pub fn backward(&self) -> Result<()> {
        if self.elements() != 1 {
            let reason = format!("the tensor has shape {}, and a scalar is needed", self.shape());
            return Err(Error::Backward { reason });
        }
        let one = Tensor::ones(self.shape(), self.dtype(), &self.device())?;
        run(&[(self, one.clone())], Some(&one))
    }
}
