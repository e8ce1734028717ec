//! A GPT to train.

use tilewright::optim::{AdamW, AdamWConfig};
use tilewright::{Activation, AttentionOptions, CrossEntropyOptions, D, DType, Device, Result, Tensor, Var};

/// The sizes of a GPT and of its batches.
#[derive(Clone, Copy)]
pub struct GptSize {
    pub vocabulary: usize,
    pub steps: usize,
    pub layers: usize,
    pub heads: usize,
    pub channels: usize,
    pub batch: usize,
    /// Of weights and activations; if it has 16 bits, gradients of weights and masters are f32.
    pub dtype: DType,
}

pub const GPT_SMALL: GptSize =
    GptSize { vocabulary: 256, steps: 128, layers: 4, heads: 4, channels: 128, batch: 8, dtype: DType::F32 };
pub const GPT_CHAR: GptSize =
    GptSize { vocabulary: 256, steps: 256, layers: 6, heads: 6, channels: 384, batch: 4, dtype: DType::F32 };
/// With its vocabulary rounded up to a multiple of 128, as everybody trains it.
pub const GPT2_124M: GptSize = GptSize {
    vocabulary: 50304,
    steps: 1024,
    layers: 12,
    heads: 12,
    channels: 768,
    batch: 8,
    dtype: DType::BF16,
};

struct Block {
    ln1: [Var; 2],
    qkv: [Var; 2],
    proj: [Var; 2],
    ln2: [Var; 2],
    fc: [Var; 2],
    out: [Var; 2],
}

/// A pre-norm GPT with biases, learned positions and an untied head, as PyTorch users write it, with
/// this crate's fused ops; no dropout.
pub struct Gpt {
    size: GptSize,
    device: Device,
    tokens: Var,
    positions: Var,
    blocks: Vec<Block>,
    ln: [Var; 2],
    head: Var,
    optimizer: AdamW,
}

impl Gpt {
    pub fn new(size: GptSize, device: &Device) -> Result<Self> {
        let c = size.channels;
        let var = |values: &Tensor| -> Result<Var> {
            let var = Var::new(values)?;
            var.set_grad_dtype(DType::F32)?;
            Ok(var)
        };
        let weight = |shape: (usize, usize)| var(&Tensor::randn(0.0, 0.02, shape, size.dtype, device)?);
        let constant = |value, n: usize| var(&Tensor::full(value, n, size.dtype, device)?);
        let linear = |n, k| Ok([weight((n, k))?, constant(0.0, n)?]);
        let norm = || Ok([constant(1.0, c)?, constant(0.0, c)?]);
        let block = |_| {
            Ok(Block {
                ln1: norm()?,
                qkv: linear(3 * c, c)?,
                proj: linear(c, c)?,
                ln2: norm()?,
                fc: linear(4 * c, c)?,
                out: linear(c, 4 * c)?,
            })
        };
        let blocks: Vec<Block> = (0..size.layers).map(block).collect::<Result<_>>()?;
        let (tokens, positions) = (weight((size.vocabulary, c))?, weight((size.steps, c))?);
        let (ln, head) = (norm()?, weight((size.vocabulary, c))?);
        let mut vars = vec![tokens.clone(), positions.clone(), head.clone()];
        vars.extend(ln.iter().cloned());
        for Block { ln1, qkv, proj, ln2, fc, out } in &blocks {
            vars.extend([ln1, qkv, proj, ln2, fc, out].into_iter().flatten().cloned());
        }
        let config = AdamWConfig { lr: 1e-3, weight_decay: 0.1, ..AdamWConfig::default() };
        let optimizer = AdamW::new(vars, config)?;
        Ok(Gpt { size, device: device.clone(), tokens, positions, blocks, ln, head, optimizer })
    }

    fn loss(&self, ids: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let GptSize { steps: t, heads, channels: c, batch: b, .. } = self.size;
        let causal = AttentionOptions { causal: true, ..AttentionOptions::default() };
        let mut x = self.tokens.embedding(ids)?.add(&self.positions)?;
        for block in &self.blocks {
            let normed = x.layer_norm(&block.ln1[0], Some(&block.ln1[1]), 1e-5)?;
            let qkv = normed.linear(&block.qkv[0], Some(&block.qkv[1]))?.chunk(3, D::Minus1)?;
            let head = |x: &Tensor| x.reshape((b, t, heads, c / heads))?.transpose(1, 2);
            let attended = head(&qkv[0])?.attention(&head(&qkv[1])?, &head(&qkv[2])?, &causal)?;
            let joined = attended.transpose(1, 2)?.reshape((b, t, c))?;
            x = joined.linear_residual(&block.proj[0], Some(&block.proj[1]), &x)?;
            let normed = x.layer_norm(&block.ln2[0], Some(&block.ln2[1]), 1e-5)?;
            let hidden = normed.linear_activation(&block.fc[0], Some(&block.fc[1]), Activation::GeluErf)?;
            x = hidden.linear_residual(&block.out[0], Some(&block.out[1]), &x)?;
        }
        let normed = x.layer_norm(&self.ln[0], Some(&self.ln[1]), 1e-5)?;
        normed.linear(&self.head, None)?.into_cross_entropy(targets, CrossEntropyOptions::default())
    }

    /// One training step on made-up tokens, their upload included; the loss.
    pub fn step(&mut self) -> Result<Tensor> {
        let GptSize { vocabulary, steps, batch, .. } = self.size;
        let mut state = 1u64;
        let mut token = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % vocabulary as u64) as u32
        };
        let rows: Vec<Vec<u32>> = (0..batch).map(|_| (0..=steps).map(|_| token()).collect()).collect();
        let upload = |from: usize| {
            let ids: Vec<u32> = rows.iter().flat_map(|row| row[from..from + steps].to_vec()).collect();
            Tensor::from_vec(ids, (batch, steps), &self.device)
        };
        let loss = self.loss(&upload(0)?, &upload(1)?)?;
        self.optimizer.zero_grad();
        loss.backward()?;
        self.optimizer.step()?;
        Ok(loss)
    }
}
