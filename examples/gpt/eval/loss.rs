//! The loss of a model on tokens, each scored once.

use tilewright::{Device, Tensor, no_grad};

use crate::data::{Batch, IGNORED};
use crate::error::AppError;
use crate::model::Gpt;
use crate::shards::Tokens;
use crate::tokenizer::Tokenizer;

/// How tokens are cut.
#[derive(Clone, Copy)]
pub struct Windows {
    pub block_size: usize,
    /// From the start of one to that of the next; at most `block_size`.
    pub stride: usize,
    pub batch_size: usize,
}

/// What was scored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    pub tokens: usize,
    bytes: usize,
    nats: f64,
}

impl Total {
    pub fn report(&self, unit: &str) -> String {
        let loss = self.nats / self.tokens as f64;
        let bits = self.nats / std::f64::consts::LN_2 / self.bytes.max(1) as f64;
        format!(
            "tokens         {}\nloss           {loss:.5} nats per {unit}\nperplexity     {:.4}\n\
             bits per byte  {bits:.5} over {} bytes of text\n",
            self.tokens,
            loss.exp(),
            self.bytes
        )
    }
}

/// Scores every token but the first, or the first `most` of them.
pub fn measure(
    model: &Gpt,
    tokenizer: &Tokenizer,
    tokens: &Tokens,
    windows: Windows,
    most: usize,
    device: &Device,
) -> Result<Total, AppError> {
    let Windows { block_size, stride, batch_size } = windows;
    // Target i is token i + 1, and token i the last of its context.
    let targets = tokens.len().saturating_sub(1).min(most);
    let mut total = Total::default();
    let mut scored = 0;
    let mut start = 0;
    while scored < targets {
        let mut batch = Rows::new(block_size);
        while batch.rows < batch_size && scored < targets {
            let end = (start + block_size).min(targets);
            let ids = tokens.read(start, end - start + 1);
            batch.push(&ids, scored - start);
            total.bytes += tokenizer.bytes(&ids[scored - start + 1..]);
            (scored, start) = (end, start + stride);
        }
        total.nats += batch.losses(model, device)?.iter().flatten().map(|&loss| f64::from(loss)).sum::<f64>();
    }
    total.tokens = targets;
    Ok(total)
}

/// Rows of ids of different lengths, filled up to one.
pub struct Rows {
    columns: usize,
    rows: usize,
    inputs: Vec<u32>,
    targets: Vec<u32>,
}

impl Rows {
    pub fn new(columns: usize) -> Self {
        Rows { columns, rows: 0, inputs: Vec::new(), targets: Vec::new() }
    }

    /// Adds `ids`, at most one more than there are columns, whose first `unscored + 1` are only context.
    pub fn push(&mut self, ids: &[u32], unscored: usize) {
        self.rows += 1;
        let len = ids.len() - 1;
        self.inputs.extend(&ids[..len]);
        self.targets
            .extend(std::iter::repeat_n(IGNORED, unscored).chain(ids[unscored + 1..].iter().copied()));
        self.inputs.resize(self.rows * self.columns, 0);
        self.targets.resize(self.rows * self.columns, IGNORED);
    }

    /// The losses of each row, 0 where nothing is scored.
    pub fn losses(self, model: &Gpt, device: &Device) -> tilewright::Result<Vec<Vec<f32>>> {
        let shape = (self.rows, self.columns);
        let inputs = Tensor::from_vec(self.inputs, shape, device)?;
        let targets = Tensor::from_vec(self.targets, shape, device)?;
        no_grad(|| model.losses(&Batch { inputs, targets })?.to_vec2())
    }
}
