//! A part of a forward pass that backward repeats, so that what it saves is in memory for a moment only.

use super::Tensor;
use super::autograd::{record_repeat, with_recording};
use crate::{Error, Result};

/// The name in errors.
pub(crate) const NAME: &str = "checkpoint";

/// `f(inputs)`, of which only the inputs stay in memory for backward: what `f`'s ops save is dropped, and backward runs `f`
/// again, with the same random numbers (Chen et al., "Training deep nets with sublinear memory cost", 2016). All gradients are
/// those of `f(inputs)` to the bit.
///
/// `f` must give the same results whenever it is called. It is called in backward too, while which no other thread should
/// draw random numbers of the device, or overwrite what `f` uses besides `inputs`: that would not be noticed.
///
/// # Errors
/// [`Error::Argument`] without inputs; whatever `f` returns. In backward [`Error::ModifiedInPlace`] if an input was
/// overwritten, and [`Error::Backward`] if `f` then has another number of results.
pub fn checkpoint<F>(inputs: &[&Tensor], f: F) -> Result<Vec<Tensor>>
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
{
    let Some(first) = inputs.first() else {
        return Err(Error::argument(NAME, "inputs", "must not be empty"));
    };
    let device = first.device();
    let random = device.generator_state();
    let own: Vec<Tensor> = inputs.iter().map(|&x| x.clone()).collect();
    // Recorded, to see whether anything wants a gradient; what was recorded goes with these outputs.
    let outputs = f(&own)?;
    if !outputs.iter().any(Tensor::requires_grad) {
        return Ok(outputs);
    }
    let count = outputs.len();
    let repeat = move |inputs: &[Tensor]| {
        let after = device.generator_state();
        device.set_generator(random);
        let outputs = with_recording(|| f(inputs));
        device.set_generator(after);
        let outputs = outputs?;
        if outputs.len() != count {
            let reason =
                format!("{NAME} had {count} results in forward and has {} in backward", outputs.len());
            return Err(Error::backward(reason));
        }
        Ok(outputs)
    };
    Ok(record_repeat(repeat, inputs, outputs.iter().map(Tensor::detach).collect()))
}
