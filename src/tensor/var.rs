//! Trainable leaves of the gradient graph.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::Tensor;
use super::autograd::{Edge, Leaf, Slot};
use crate::{Error, Result};

/// A tensor whose gradient is wanted: a parameter. Clones are the same parameter.
///
/// It derefs to its [`Tensor`], so that it is used wherever a tensor is.
#[derive(Clone)]
pub struct Var {
    tensor: Tensor,
    leaf: Arc<Leaf>,
}

impl Var {
    /// A parameter that starts with a copy of `tensor`'s values.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        if !tensor.dtype().is_float() {
            return Err(Error::dtype("var", &[tensor.dtype()], "only float tensors have gradients"));
        }
        let leaf = Arc::new(Leaf::default());
        let tensor = tensor.detach().copy()?.with_edge(Edge::Leaf(leaf.clone()));
        Ok(Var { tensor, leaf })
    }

    /// The parameter's values, as part of the gradient graph.
    pub fn as_tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The gradient that backward passes have accumulated since the last [`Var::zero_grad`].
    pub fn grad(&self) -> Option<Tensor> {
        let slot = self.leaf.0.lock();
        if slot.live { slot.memory.clone() } else { None }
    }

    /// Forgets the gradient. Its memory is kept: the next backward writes over it.
    pub fn zero_grad(&self) {
        self.leaf.0.lock().live = false;
    }

    /// Forgets the gradient and frees its memory.
    pub fn clear_grad(&self) {
        *self.leaf.0.lock() = Slot::default();
    }

    /// Overwrites the values. A graph that saved the old ones refuses to run backward.
    pub fn set(&self, values: &Tensor) -> Result<()> {
        self.tensor.assign(values)
    }

    /// True if both are the same parameter.
    pub fn same(&self, other: &Var) -> bool {
        Arc::ptr_eq(&self.leaf, &other.leaf)
    }

    #[cfg_attr(not(feature = "wgpu"), expect(dead_code, reason = "arenas are for wgpu"))]
    pub(crate) fn leaf(&self) -> &Leaf {
        &self.leaf
    }
}

impl Deref for Var {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Var({:?})", self.tensor)
    }
}
