//! AdamW: one fused pass over parameters, gradients and moments. LAMB: the same pass, and then the size of its step.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

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
    /// How parameters of f16 and bf16 keep what a step changes in them.
    pub low_precision: LowPrecision,
    /// Makes AdamW to LAMB (You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020):
    /// the update of each parameter, weight decay included, is multiplied by the parameter's norm over its own, or by 1
    /// where one of them is 0. A step needs memory for another copy of the parameters.
    pub trust_ratio: bool,
}

impl AdamWConfig {
    /// LAMB, with its authors' values.
    pub fn lamb() -> Self {
        AdamWConfig { eps: 1e-6, weight_decay: 0.01, trust_ratio: true, ..Default::default() }
    }
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
            low_precision: LowPrecision::Masters,
            trust_ratio: false,
        }
    }
}

/// What a step multiplies all gradients by.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    One,
    By(f64),
    /// What makes their norm at most this, and 1 if it is no more.
    Bounded(f64),
}

/// How [`AdamW`] keeps what a step changes in a parameter of 16 bits: as a rule less than its last place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LowPrecision {
    /// In an f32 master of each (Micikevicius et al., "Mixed precision training", 2018): the parameter is its
    /// master, rounded to nearest even.
    #[default]
    Masters,
    /// In the mean (Gupta et al., "Deep learning with limited numerical precision", 2015): a parameter of bf16 is
    /// rounded to one of the two bf16 beside what a step gives, at random, so that the expected value is exact. That
    /// saves the masters' 4 bytes an element.
    ///
    /// Step `t` (from 1 on) takes its random numbers from the [`Stream`](crate::random::Stream) of this seed and
    /// offset `t`, so that every device draws the same. Parameters follow one another in it in the order of
    /// [`AdamW::vars`], each from a multiple of 128 elements on.
    StochasticRounding {
        /// The key of the random numbers.
        seed: u64,
    },
}

/// Parameters with a weight decay of their own.
#[derive(Clone, Debug)]
pub struct ParamGroup {
    /// The parameters.
    pub vars: Vec<Var>,
    /// Their decoupled weight decay.
    pub weight_decay: f64,
}

/// What a step takes its constants from.
#[derive(Clone, Copy, Debug)]
struct Step {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    /// 1 - beta1^t and 1 - beta2^t at step t = 1, 2, ...
    correction1: f64,
    correction2: f64,
    /// The random numbers of stochastic rounding.
    random: crate::random::Stream,
}

/// What the steps of a parameter are taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exact {
    /// The parameter: f32 or f64.
    Itself,
    /// Its f32 master, of which the parameter is the rounding.
    Master,
    /// The parameter, a bf16, which is rounded stochastically; with the first of its random numbers.
    Nothing { random: u64 },
}

/// The random numbers of a parameter start at a multiple of this.
const RANDOM_ROOM: usize = 128;

/// A parameter before memory is found for what the optimizer keeps.
struct Plan {
    var: Var,
    weight_decay: f64,
    exact: Exact,
}

impl Plan {
    /// The dtype of moments and of a step's arithmetic.
    fn dtype(&self) -> DType {
        if self.var.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// With memory of its own.
    fn place(self) -> Result<Parameter> {
        let zeros = || Tensor::zeros(self.var.shape(), self.dtype(), &self.var.device());
        let (m, v) = (zeros()?, zeros()?);
        let master = match self.exact {
            Exact::Master => Some(self.var.detach().to_dtype(DType::F32)?),
            _ => None,
        };
        Ok(self.place_at(m, v, master))
    }

    /// With moments of zeros and a master that has the parameter's values.
    fn place_at(self, m: Tensor, v: Tensor, master: Option<Tensor>) -> Parameter {
        let Plan { var, weight_decay, exact } = self;
        let version = var.storage().version();
        Parameter { var, weight_decay, exact, m, v, master, version }
    }
}

/// A parameter and what the optimizer keeps for it.
struct Parameter {
    var: Var,
    weight_decay: f64,
    exact: Exact,
    m: Tensor,
    v: Tensor,
    /// If the steps are taken on one.
    master: Option<Tensor>,
    /// The parameter's version when it last was its master's rounding.
    version: u64,
}

impl Parameter {
    /// Gives a parameter that somebody else has written the master that it would start with.
    fn refresh(&self) -> Result<()> {
        match &self.master {
            Some(master) if self.var.storage().version() != self.version => master.assign(&self.var),
            _ => Ok(()),
        }
    }

    /// Refuses tensors of another shape, and those that are no floats.
    fn check(&self, tensors: &[&Tensor]) -> Result<()> {
        if let Some(wrong) = tensors.iter().find(|t| t.shape() != self.var.shape()) {
            let reason = "what is restored must have its parameter's shape";
            return Err(Error::shape("adamw", &[self.var.shape(), wrong.shape()], reason));
        }
        if let Some(wrong) = tensors.iter().find(|t| !t.dtype().is_float()) {
            return Err(Error::dtype("adamw", &[wrong.dtype()], "what is restored must be floats"));
        }
        Ok(())
    }

    /// What steps are taken on.
    fn exact(&self) -> &Tensor {
        self.master.as_ref().unwrap_or(self.var.as_tensor())
    }

    /// From `before` by LAMB, given AdamW's step of learning rate 1 from zero.
    fn trust(&self, before: &Tensor, lr: f64) -> Result<()> {
        let exact = &self.exact().detach();
        let update = before.affine(self.weight_decay, 0.0)?.sub(exact)?;
        let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt();
        let (size, step) = (norm(before)?, norm(&update)?);
        let (zero, one) = (size.zeros_like()?, size.ones_like()?);
        // Neither is negative, so that their product is zero where one of them is.
        let ratio = size.mul(&step)?.gt(&zero)?.where_cond(&size.div(&step)?, &one)?;
        exact.assign(&before.sub(&update.mul(&ratio.affine(lr, 0.0)?)?)?)?;
        if self.master.is_some() { self.var.set(exact) } else { Ok(()) }
    }
}

/// AdamW (Loshchilov and Hutter, 2019) with PyTorch's arithmetic: decoupled weight decay, bias-corrected
/// moments, all in f32 (f64 for f64).
///
/// Parameters may be of f32, f16 and bf16 in any mixture; what steps change in those of 16 bits is kept as
/// [`AdamWConfig::low_precision`] says. Gradients have the parameter's dtype or f32, as
/// [`Var::set_grad_dtype`] chose.
///
/// On wgpu the parameters of a group, their f32 gradients, moments and masters each move into one allocation
/// when the optimizer is made, so that a step is one kernel over all of one dtype; views and clones follow. On
/// CUDA a step is one kernel over all groups, and everything stays where it is.
/// Parameters without a gradient are left alone, as in PyTorch.
pub struct AdamW {
    config: AdamWConfig,
    parameters: Vec<Parameter>,
    device: Device,
    steps: u64,
    /// On wgpu.
    #[cfg(feature = "wgpu")]
    arenas: Option<wgpu::Arenas>,
}

impl AdamW {
    /// An optimizer of one group.
    pub fn new(vars: Vec<Var>, config: AdamWConfig) -> Result<Self> {
        Self::with_groups(vec![ParamGroup { vars, weight_decay: config.weight_decay }], config)
    }

    /// An optimizer of several groups.
    ///
    /// # Errors
    /// [`Error::Argument`] for constants out of range, no parameter at all, one that is named
    /// twice, or a trust ratio together with stochastic rounding; [`Error::DType`] unless all are f32, f16 or bf16, or all f64 (on the CPU), and for f16 under
    /// stochastic rounding; [`Error::DeviceMismatch`] if they are on several devices.
    pub fn with_groups(groups: Vec<ParamGroup>, config: AdamWConfig) -> Result<Self> {
        let op = "adamw";
        let AdamWConfig { lr, beta1, beta2, eps, weight_decay: _, low_precision, trust_ratio } = config;
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
        if trust_ratio && low_precision != LowPrecision::Masters {
            return Err(Error::argument(op, "trust_ratio", "needs masters of parameters of 16 bits"));
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
            if (var.dtype() == DType::F64) != (dtype == DType::F64) {
                return Err(Error::dtype(op, &[dtype, var.dtype()], "either all parameters are f64 or none"));
            }
            if var.dtype() == DType::F16 && low_precision != LowPrecision::Masters {
                let reason = "stochastic rounding is for bf16; parameters of f16 need masters";
                return Err(Error::dtype(op, &[DType::F16], reason));
            }
            if vars[..i].iter().any(|other| other.same(var)) {
                return Err(Error::argument(op, "vars", format!("name parameter {i} twice")));
            }
        }
        let plans = plans(groups, low_precision);
        #[cfg(feature = "wgpu")]
        if let Device::Wgpu(gpu) = &device {
            let (parameters, arenas) = wgpu::Arenas::new(gpu, plans)?;
            return Ok(AdamW { config, parameters, device, steps: 0, arenas: Some(arenas) });
        }
        Ok(AdamW {
            config,
            parameters: plans.into_iter().map(Plan::place).collect::<Result<_>>()?,
            device,
            steps: 0,
            #[cfg(feature = "wgpu")]
            arenas: None,
        })
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
        self.parameters.iter().map(|p| &p.var)
    }

    /// Forgets all gradients and keeps their memory.
    pub fn zero_grad(&self) {
        self.vars().for_each(Var::zero_grad);
    }

    /// Updates every parameter that has a gradient.
    pub fn step(&mut self) -> Result<()> {
        self.advance(Scale::One).map(drop)
    }

    /// The Euclidean norm of all gradients together, a scalar on the device, of f32 (f64 for f64). With it, once it was
    /// read back, [`AdamW::step_scaled`] clips, undoes a loss scale, or is left out.
    pub fn grad_norm(&self) -> Result<Tensor> {
        match &self.device {
            Device::Cpu => cpu::norm(&self.parameters),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => cuda::norm(device, &self.parameters),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => self.arenas().norm(device, &self.parameters),
        }
    }

    /// [`AdamW::step`] with all gradients multiplied by `factor`; the gradients themselves stay as they are.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `factor` is finite.
    pub fn step_scaled(&mut self, factor: f64) -> Result<()> {
        if !factor.is_finite() {
            return Err(Error::argument("adamw", "factor", format!("({factor}) must be finite")));
        }
        self.advance(Scale::By(factor)).map(drop)
    }

    /// [`AdamW::step`] with all gradients scaled by `min(1, max_norm / (norm + 1e-6))`, where `norm` is
    /// the Euclidean norm of all of them together, as PyTorch's `clip_grad_norm_`. Returns the norm, a
    /// scalar on the device, of f32 (f64 for f64): nothing is read back, and the gradients themselves stay as
    /// they are.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `max_norm` is positive.
    pub fn step_clipped(&mut self, max_norm: f64) -> Result<Tensor> {
        if max_norm.is_nan() || max_norm <= 0.0 {
            return Err(Error::argument("adamw", "max_norm", format!("({max_norm}) must be positive")));
        }
        self.advance(Scale::Bounded(max_norm))
    }

    #[cfg(feature = "wgpu")]
    fn arenas(&self) -> &wgpu::Arenas {
        self.arenas.as_ref().expect("an optimizer on wgpu has arenas")
    }

    /// A step. Returns the norm of the gradients, which is computed only if it has a bound.
    fn advance(&mut self, scale: Scale) -> Result<Tensor> {
        let t = self.steps + 1;
        let AdamWConfig { lr, beta1, beta2, eps, low_precision, trust_ratio, .. } = self.config;
        let seed = match low_precision {
            LowPrecision::Masters => 0,
            LowPrecision::StochasticRounding { seed } => seed,
        };
        let parameters = &self.parameters;
        parameters.iter().try_for_each(Parameter::refresh)?;
        let mut before = Vec::new();
        if trust_ratio {
            for p in parameters.iter().filter(|p| p.var.grad().is_some()) {
                let exact = p.exact().detach();
                before.push((p, exact.copy()?));
                exact.assign(&exact.zeros_like()?)?;
            }
        }
        let step = Step {
            lr: if trust_ratio { 1.0 } else { lr },
            beta1,
            beta2,
            eps,
            correction1: 1.0 - beta1.powi(t as i32),
            correction2: 1.0 - beta2.powi(t as i32),
            random: crate::random::Stream { seed, offset: t },
        };
        let norm = match &self.device {
            Device::Cpu => cpu::step_all(parameters, &step, scale)?,
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => cuda::step_all(device, parameters, &step, scale)?,
            #[cfg(feature = "wgpu")]
            Device::Wgpu(device) => self.arenas().step_all(device, parameters, &step, scale)?,
        };
        before.iter().try_for_each(|(p, before)| p.trust(before, lr))?;
        self.parameters.iter_mut().for_each(|p| p.version = p.var.storage().version());
        self.steps = t;
        Ok(norm)
    }

    /// First and second moments, in the order of [`AdamW::vars`]: what a checkpoint has to keep,
    /// beside [`AdamW::steps`] and [`AdamW::masters`].
    pub fn moments(&self) -> Result<Vec<(Tensor, Tensor)>> {
        Ok(self.parameters.iter().map(|p| (p.m.clone(), p.v.clone())).collect())
    }

    /// What steps are taken on, in the order of [`AdamW::vars`]: the f32 master of a parameter of 16 bits, and a
    /// parameter that has none itself. A checkpoint keeps these in place of the parameters.
    pub fn masters(&self) -> Result<Vec<Tensor>> {
        let master = |p: &Parameter| {
            p.refresh()?;
            Ok(p.exact().detach())
        };
        self.parameters.iter().map(master).collect()
    }

    /// Continues from a checkpoint's [`AdamW::steps`] and [`AdamW::moments`].
    ///
    /// # Errors
    /// [`Error::Argument`] if their number differs, [`Error::Shape`] if a shape does, [`Error::DType`] for ids; then
    /// nothing has changed.
    pub fn restore(&mut self, steps: u64, moments: &[(Tensor, Tensor)]) -> Result<()> {
        self.check("moments", moments.len())?;
        for (p, (m, v)) in self.parameters.iter().zip(moments) {
            p.check(&[m, v])?;
        }
        for (p, (m, v)) in self.parameters.iter().zip(moments) {
            overwrite(&p.m, m)?;
            overwrite(&p.v, v)?;
        }
        self.steps = steps;
        Ok(())
    }

    /// Sets every parameter to a checkpoint's [`AdamW::masters`], and to the same bits: what is overwritten in
    /// another way, as by [`Var::set`], starts with a new master, which has but the 16 bits of the parameter.
    ///
    /// # Errors
    /// [`Error::Argument`] if their number differs, [`Error::Shape`] if a shape does, [`Error::DType`] for ids; then
    /// nothing has changed.
    pub fn restore_masters(&mut self, masters: &[Tensor]) -> Result<()> {
        self.check("masters", masters.len())?;
        for (p, master) in self.parameters.iter().zip(masters) {
            p.check(&[master])?;
        }
        for (p, new) in self.parameters.iter_mut().zip(masters) {
            if let Some(master) = &p.master {
                overwrite(master, new)?;
                p.var.set(master)?;
            } else {
                overwrite(&p.var, new)?;
            }
            p.version = p.var.storage().version();
        }
        Ok(())
    }

    fn check(&self, what: &'static str, count: usize) -> Result<()> {
        if count != self.parameters.len() {
            let reason = format!("are of {count} parameters, and there are {}", self.parameters.len());
            return Err(Error::argument("adamw", what, reason));
        }
        Ok(())
    }
}

/// Sets `tensor` to `values` of any float dtype, from any device.
fn overwrite(tensor: &Tensor, values: &Tensor) -> Result<()> {
    let values = values.detach().to_dtype(tensor.dtype())?;
    tensor.assign(&values.to_device(&tensor.device())?)
}

/// The groups' parameters, and how they are kept.
fn plans(groups: Vec<ParamGroup>, low_precision: LowPrecision) -> Vec<Plan> {
    let mut random = 0;
    let mut plans = Vec::new();
    for ParamGroup { vars, weight_decay } in groups {
        for var in vars {
            let exact = match low_precision {
                _ if var.dtype().size() > 2 => Exact::Itself,
                LowPrecision::Masters => Exact::Master,
                LowPrecision::StochasticRounding { .. } => Exact::Nothing { random },
            };
            if let Exact::Nothing { .. } = exact {
                random += var.elements().next_multiple_of(RANDOM_ROOM) as u64;
            }
            plans.push(Plan { var, weight_decay, exact });
        }
    }
    plans
}
