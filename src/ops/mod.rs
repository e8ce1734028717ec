//! The operations, one folder each: contract, checks and gradient in `mod.rs`, and a body a backend.

macro_rules! ops {
    ($($name:ident),* $(,)?) => { $(pub(crate) mod $name;)* };
}

// An op is registered by its line here.
ops! {
    attention,
    binary,
    cat,
    copy,
    cross_entropy,
    dropout,
    embedding,
    fill,
    gather,
    linear_cross_entropy,
    matmul,
    norm,
    reduce,
    rotary,
    select,
    softmax,
    unary,
    view,
}

pub(crate) mod launch;

/// Runs a block with `$t` as the Rust type of a compute dtype of the CPU.
macro_rules! with_real {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            _ => {
                type $t = f32;
                $body
            }
        }
    };
}
pub(crate) use with_real;
