//! Trainable leaves of the gradient graph.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::Tensor;
use super::autograd::{Edge, Leaf};
use crate::{DType, Error, Result};

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
        let leaf = Arc::new(Leaf::new(tensor.dtype()));
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

    /// The dtype of the gradient: the parameter's own, unless [`Var::set_grad_dtype`] chose f32.
    pub fn grad_dtype(&self) -> DType {
        self.leaf.0.lock().dtype
    }

    /// Keeps the gradient in `dtype` (PyTorch: `Tensor.grad_dtype`): a 16-bit parameter's own, or f32, in which many
    /// small gradients add up without loss. Ops that make sums, such as matrix products, embeddings, norms and biases, add
    /// them there unrounded; what else arrives is widened. A gradient that is there is converted.
    ///
    /// # Errors
    /// [`Error::DType`] unless `dtype` is the parameter's own, or f32 for a parameter of f16 or bf16.
    pub fn set_grad_dtype(&self, dtype: DType) -> Result<()> {
        let own = self.dtype();
        if dtype != own && !(dtype == DType::F32 && own.size() == 2) {
            let reason = "a gradient has its parameter's dtype, or f32 beside f16 and bf16";
            return Err(Error::dtype("set_grad_dtype", &[own, dtype], reason));
        }
        let mut slot = self.leaf.0.lock();
        if slot.dtype != dtype {
            let live = slot.live;
            slot.memory = slot.memory.take().filter(|_| live).map(|grad| grad.to_dtype(dtype)).transpose()?;
            slot.dtype = dtype;
        }
        Ok(())
    }

    /// Forgets the gradient. Its memory is kept for the next one, which whoever still holds it will see there.
    pub fn zero_grad(&self) {
        self.leaf.0.lock().live = false;
    }

    /// Forgets the gradient and frees its memory.
    pub fn clear_grad(&self) {
        let mut slot = self.leaf.0.lock();
        (slot.memory, slot.live) = (None, false);
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
