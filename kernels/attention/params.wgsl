// What all kernels of attention are told.
//
// Constants: D  head size, a multiple of 8
//
// Query i sees the keys j with i + low <= j < i + high, an interval that moves by one a query. The launcher chooses
//   high = Tk - Tq + 1 if causal, so that the last query sees the last key; else Tk, which is above every j - i
//   low  = high - window with a window; else -Tq, which is below every j - i

// Scores, log-sum-exps and dropout's random bits belong to query head b * NH + h.
struct Params {
    // In quads: strides of batch, head and position, and the place of the first element.
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    o: vec4<u32>,
    dout: vec4<u32>,
    dq: vec4<u32>,
    dk: vec4<u32>, // of dv too
    B: u32,
    NH: u32,
    NKV: u32,
    Tq: u32,
    Tk: u32,
    low: i32,
    high: i32,
    scale: f32,
    seed: vec2<u32>,
    offset: u32,     // of the random stream
    threshold: u32,  // random bits below it drop
    keep_scale: f32, // 1 / (1 - p)
    first_head: u32, // of dropout's random bits
    chunk: u32,      // of the forward: keys that a workgroup visits, or 0 where it visits all; see forward.wgsl
    chunks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

// Where row i of head h in batch b starts.
fn place(x: vec4<u32>, b: u32, h: u32, i: u32) -> u32 {
    return dot(x, vec4(b, h, i, 0u)) + x.w;
}

// WGSL lets a device assume that there are no infinities, so this stands for minus infinity: as the log-sum-exp of a
// query that sees no key.
const LOWEST: f32 = -1e38;

// Scores are kept times log2(e), as exp2 is what the hardware has.
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;

fn across(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}
