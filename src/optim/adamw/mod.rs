//! AdamW: one fused pass over parameters, gradients and moments.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "wgpu")]
mod wgpu;

use crate::{DType, Device, Error, Result, Tensor, Var};

/// The constants of [`AdamW`]; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// The learning rate; [`AdamW::set_lr`] changes it.
    pub lr: f64,
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, for groups that name none of their own.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// Parameters with a weight decay of their own.
#[derive(Clone, Debug)]
pub struct ParamGroup {
    /// The parameters.
    pub vars: Vec<Var>,
    /// Their decoupled weight decay.
    pub weight_decay: f64,
}

/// One step's constants.
#[derive(Clone, Copy, Debug)]
struct Step {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    /// 1 - beta1^t and 1 - beta2^t at step t = 1, 2, ...
    correction1: f64,
    correction2: f64,
}

/// Where a group's parameters and moments are.
enum State {
    Cpu(cpu::State),
    #[cfg(feature = "cuda")]
    Cuda(cuda::State),
    #[cfg(feature = "wgpu")]
    Wgpu(wgpu::State),
}

/// AdamW (Loshchilov and Hutter, 2019) with PyTorch's arithmetic: decoupled weight decay, bias-corrected
/// moments in the parameters' precision.
///
/// On wgpu the parameters of a group, their gradients and moments each move into one allocation when
/// the optimizer is made, so that a step is one kernel over all of them; views and clones follow. On CUDA a
/// step is one kernel over all groups, and everything stays where it is.
/// Parameters without a gradient are left alone, as in PyTorch.
pub struct AdamW {
    config: AdamWConfig,
    groups: Vec<ParamGroup>,
    states: Vec<State>,
    device: Device,
    steps: u64,
}

impl AdamW {
    /// An optimizer of one group.
    pub fn new(vars: Vec<Var>, config: AdamWConfig) -> Result<Self> {
        Self::with_groups(vec![ParamGroup { vars, weight_decay: config.weight_decay }], config)
    }

    /// An optimizer of several groups.
    ///
    /// # Errors
    /// [`Error::Argument`] for constants out of range, no parameter at all, or one that is named
    /// twice; [`Error::DType`] unless all are f32 (f64 on the CPU), the type that moments and updates
    /// need; [`Error::DeviceMismatch`] if they are on several devices.
    pub fn with_groups(groups: Vec<ParamGroup>, config: AdamWConfig) -> Result<Self> {
        let op = "adamw";
        let AdamWConfig { lr, beta1, beta2, eps, weight_decay: _ } = config;
        for (argument, value, fits) in [
            ("lr", lr, lr >= 0.0),
            ("beta1", beta1, (0.0..1.0).contains(&beta1)),
            ("beta2", beta2, (0.0..1.0).contains(&beta2)),
            ("eps", eps, eps >= 0.0),
        ] {
            if !fits {
                return Err(Error::argument(op, argument, format!("({value}) is out of range")));
            }
        }
        let vars: Vec<&Var> = groups.iter().flat_map(|g| &g.vars).collect();
        let Some(first) = vars.first() else {
            return Err(Error::argument(op, "vars", "must not be empty"));
        };
        let (device, dtype) = (first.device(), first.dtype());
        for (i, var) in vars.iter().enumerate() {
            if var.device() != device {
                let (left, right) = (device.to_string(), var.device().to_string());
                return Err(Error::DeviceMismatch { op, left, right });
            }
            if var.dtype() != dtype || !matches!(dtype, DType::F32 | DType::F64) {
                return Err(Error::dtype(
                    op,
                    &[dtype, var.dtype()],
                    "all parameters must be f32, or all f64",
                ));
            }
            if vars[..i].iter().any(|other| other.same(var)) {
                return Err(Error::argument(op, "vars", format!("name parameter {i} twice")));
            }
        }
        let state = |group: &ParamGroup| match &device {
            Device::Cpu => cpu::State::new(&group.vars).map(State::Cpu),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => cuda::State::new(&group.vars).map(State::Cuda),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => wgpu::State::new(device, &group.vars).map(State::Wgpu),
        };
        let states = groups.iter().map(state).collect::<Result<_>>()?;
        Ok(AdamW { config, groups, states, device, steps: 0 })
    }

    /// The learning rate of the steps that follow.
    pub fn set_lr(&mut self, lr: f64) {
        self.config.lr = lr;
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The parameters, group by group.
    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.groups.iter().flat_map(|g| &g.vars)
    }

    /// Forgets all gradients and keeps their memory.
    pub fn zero_grad(&self) {
        self.vars().for_each(Var::zero_grad);
    }

    /// Updates every parameter that has a gradient.
    pub fn step(&mut self) -> Result<()> {
        self.advance(None).map(drop)
    }

    /// [`AdamW::step`] with all gradients scaled by `min(1, max_norm / (norm + 1e-6))`, where `norm` is
    /// the Euclidean norm of all of them together, as PyTorch's `clip_grad_norm_`. Returns the norm, a
    /// scalar on the device: nothing is read back, and the gradients themselves stay as they are.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `max_norm` is positive.
    pub fn step_clipped(&mut self, max_norm: f64) -> Result<Tensor> {
        if max_norm.is_nan() || max_norm <= 0.0 {
            return Err(Error::argument("adamw", "max_norm", format!("({max_norm}) must be positive")));
        }
        self.advance(Some(max_norm))
    }

    /// A step, clipped if there is a bound. Returns the norm of the gradients, which is computed only
    /// if there is one.
    fn advance(&mut self, max_norm: Option<f64>) -> Result<Tensor> {
        let t = (self.steps + 1) as i32;
        let AdamWConfig { lr, beta1, beta2, eps, .. } = self.config;
        let step = |group: &ParamGroup| Step {
            lr,
            beta1,
            beta2,
            eps,
            weight_decay: group.weight_decay,
            correction1: 1.0 - beta1.powi(t),
            correction2: 1.0 - beta2.powi(t),
        };
        let steps: Vec<Step> = self.groups.iter().map(step).collect();
        let norm = match &self.device {
            Device::Cpu => {
                let states = self.states.iter_mut().map(|s| match s {
                    State::Cpu(state) => state,
                    #[cfg(any(feature = "cuda", feature = "wgpu"))]
                    _ => unreachable!("all groups are on one device"),
                });
                cpu::step_all(states.zip(&self.groups).zip(steps).collect(), max_norm)?
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let states = self.states.iter().map(|s| match s {
                    State::Cuda(state) => state,
                    _ => unreachable!("all groups are on one device"),
                });
                cuda::step_all(device, &states.zip(&self.groups).zip(steps).collect::<Vec<_>>(), max_norm)?
            }
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => {
                let states = self.states.iter().map(|s| match s {
                    State::Wgpu(state) => state,
                    _ => unreachable!("all groups are on one device"),
                });
                wgpu::step_all(device, &states.zip(&self.groups).zip(steps).collect::<Vec<_>>(), max_norm)?
            }
        };
        self.steps += 1;
        Ok(norm)
    }

    /// First and second moments, in the order of [`AdamW::vars`]: what a checkpoint has to keep,
    /// beside [`AdamW::steps`].
    pub fn moments(&self) -> Result<Vec<(Tensor, Tensor)>> {
        let mut moments = Vec::new();
        for (state, group) in self.states.iter().zip(&self.groups) {
            for (i, var) in group.vars.iter().enumerate() {
                moments.push(match state {
                    State::Cpu(state) => state.moments(i),
                    #[cfg(feature = "cuda")]
                    State::Cuda(state) => state.moments(i),
                    #[cfg(feature = "wgpu")]
                    State::Wgpu(state) => state.moments(i, var)?,
                });
                debug_assert_eq!(moments.last().map(|(m, _)| m.dims()), Some(var.dims()));
            }
        }
        Ok(moments)
    }

    /// Continues from a checkpoint's [`AdamW::steps`] and [`AdamW::moments`].
    ///
    /// # Errors
    /// [`Error::Argument`] if their number differs, [`Error::Shape`] if a shape does; then nothing has
    /// changed.
    pub fn restore(&mut self, steps: u64, moments: &[(Tensor, Tensor)]) -> Result<()> {
        let own = self.moments()?;
        if own.len() != moments.len() {
            let reason = format!("are {} pairs for {} parameters", moments.len(), own.len());
            return Err(Error::argument("adamw", "moments", reason));
        }
        for ((m, _), (new_m, new_v)) in own.iter().zip(moments) {
            if new_m.shape() != m.shape() || new_v.shape() != m.shape() {
                let shapes = [m.shape(), new_m.shape(), new_v.shape()];
                return Err(Error::shape("adamw", &shapes, "moments must have their parameter's shape"));
            }
        }
        for ((m, v), (new_m, new_v)) in own.iter().zip(moments) {
            m.assign(&new_m.to_device(&self.device)?)?;
            v.assign(&new_v.to_device(&self.device)?)?;
        }
        self.steps = steps;
        Ok(())
    }
}
