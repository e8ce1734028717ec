//! The road every op takes, a user's own as well as the built-in ones.

use smallvec::SmallVec;

use crate::autograd::{Backward, no_grad, record};
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
#[cfg(feature = "wgpu")]
use crate::device::wgpu::WgpuDevice;
use crate::{DType, Device, Error, Result, Tensor};

/// What a backward needs of its forward, by position.
#[derive(Clone, Copy, Debug, Default)]
pub struct Saves {
    /// Positions of inputs.
    pub inputs: &'static [usize],
    /// Positions of outputs, statistics included.
    pub outputs: &'static [usize],
}

impl Saves {
    /// For an op that is linear in its inputs: shapes are all that backward needs.
    pub const NOTHING: Saves = Saves { inputs: &[], outputs: &[] };

    /// Only inputs.
    pub const fn inputs(inputs: &'static [usize]) -> Saves {
        Saves { inputs, outputs: &[] }
    }

    /// Only outputs.
    pub const fn outputs(outputs: &'static [usize]) -> Saves {
        Saves { inputs: &[], outputs }
    }
}

/// An operation with a body for each backend and, if it has one, a gradient.
///
/// Shapes and dtypes are checked by the function that calls [`apply`]; the bodies may rely on it.
/// The bodies see *compute* dtypes only (see [`Device::compute_dtype`]): f32 or f64 on the CPU, f32
/// or f16 on wgpu, f32, f16 or bf16 on CUDA, unless [`Op::any_dtype`] says otherwise. They run with recording off.
/// There are no default bodies: one that cannot be had returns [`Error::NotSupported`].
pub trait Op: Send + Sync + 'static {
    /// The name in errors.
    fn name(&self) -> &'static str;

    /// The outputs, computed on the CPU.
    fn cpu(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>>;

    /// The outputs, computed on wgpu.
    #[cfg(feature = "wgpu")]
    fn wgpu(&self, device: &WgpuDevice, inputs: &[Tensor]) -> Result<Vec<Tensor>>;

    /// The outputs, computed on a CUDA device.
    #[cfg(feature = "cuda")]
    fn cuda(&self, device: &CudaDevice, inputs: &[Tensor]) -> Result<Vec<Tensor>>;

    /// How many of the bodies' outputs the caller gets. The ones after these are statistics, kept in
    /// their own dtype for the backward alone.
    fn outputs(&self) -> usize {
        1
    }

    /// True if the bodies take every dtype as it is, such as views and casts.
    fn any_dtype(&self) -> bool {
        false
    }

    /// The dtype of visible output `i`, given the dtype of the first float input.
    fn output_dtype(&self, _i: usize, dtype: DType) -> DType {
        dtype
    }

    /// What backward needs; `None` if the op has no gradient. Such an op refuses inputs that
    /// require one, so that no gradient is lost in silence.
    fn saves(&self) -> Option<Saves> {
        None
    }

    /// The gradients of the inputs, in their order; `None` where there is none to give.
    /// Runs with recording off.
    fn backward(&self, _ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Err(Error::NoGradient { op: self.name() })
    }
}

/// Runs `op` where its inputs live and records it in the gradient graph.
///
/// # Errors
/// [`Error::DeviceMismatch`] if the inputs are on different devices, [`Error::NoGradient`] if one
/// requires gradients and the op has none, and whatever the op's body returns.
pub fn apply(op: impl Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let name = op.name();
    let Some(first) = inputs.first() else {
        return Err(Error::argument(name, "inputs", "must not be empty"));
    };
    let device = first.device();
    for other in &inputs[1..] {
        if other.device() != device {
            let (left, right) = (device.to_string(), other.device().to_string());
            return Err(Error::DeviceMismatch { op: name, left, right });
        }
    }
    let recording = crate::autograd::is_recording() && inputs.iter().any(|t| t.requires_grad());
    let saves = match (recording, op.saves()) {
        (true, None) => return Err(Error::NoGradient { op: name }),
        (true, saves) => saves,
        (false, _) => None,
    };

    let dtype = inputs.iter().map(|t| t.dtype()).find(|d| d.is_float());
    let mut outputs = no_grad(|| {
        let widen = |t: &&Tensor| match t.dtype() {
            d if d.is_float() && !op.any_dtype() => t.to_dtype(device.compute_dtype(d)),
            _ => Ok((*t).clone()),
        };
        let inputs = inputs.iter().map(widen).collect::<Result<SmallVec<[Tensor; 8]>>>()?;
        match &device {
            Device::Cpu => op.cpu(&inputs),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => op.cuda(device, &inputs),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => op.wgpu(device, &inputs),
        }
    })?;
    if outputs.len() < op.outputs() {
        let reason = format!("are {} where the op has {}", outputs.len(), op.outputs());
        return Err(Error::argument(name, "outputs", reason));
    }
    if let (Some(dtype), false) = (dtype, op.any_dtype()) {
        for (i, output) in outputs.iter_mut().take(op.outputs()).enumerate() {
            if output.dtype().is_float() {
                *output = no_grad(|| output.to_dtype(op.output_dtype(i, dtype)))?;
            }
        }
    }
    match saves {
        Some(saves) => Ok(record(op, saves, inputs, outputs)),
        None => {
            outputs.truncate(op.outputs());
            Ok(outputs)
        }
    }
}

/// [`apply`] for an op with one visible output.
pub fn apply1(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let mut outputs = apply(op, inputs)?;
    Ok(outputs.swap_remove(0))
}
