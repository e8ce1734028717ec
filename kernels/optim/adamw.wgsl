// AdamW (Loshchilov and Hutter 2019): one step of one parameter tensor, or of many that lie one after another, in place
// and in f32.
//
//   g' = g * coefficient                       the clipping coefficient that norm.wgsl left on the device
//   m  = beta1 m + (1 - beta1) g'
//   v  = beta2 v + (1 - beta2) g'^2
//   w  = w - lr * decay * w - lr * (m * correction1) / (sqrt(v * correction2) + eps)
//
// For parameters of 16 bits w is a master in f32, and the parameter is that, rounded to nearest even. Without a master w
// is the parameter, and what becomes of it is rounded stochastically: to the bf16 below it in magnitude, or to the one
// above with the probability of its distance from the one below, so that the mean is exact. Element i takes the upper
// half of lane i % 4 of Philox4x32-10 at counter (p.random + i / 4 lo, hi, step lo, hi) under the seed's key.
//
// Constants: BLOCK     workgroup size
//            HAS_CLIP  bool
//            ROUNDED   u32: the type of 16 bits that the parameters have, F16 or BF16, or 0 if they are f32
//            MASTER    bool: w is there, as it is for all but bf16 without masters
// Parts:     common/half.wgsl, common/philox.wgsl, then this
// Bindings:  1 g [count] f32, count a multiple of 4     2 clip [1 or more] f32, clip[0] = coefficient (any buffer unless HAS_CLIP)
//            3 w [count] f32 in and out (a spare buffer unless MASTER)     4 m, 5 v [count] f32 in and out
//            6 rounded [count] of 16 bits, two a word, in and out (a spare buffer if ROUNDED is 0)
// Grid:      ceil(count / 4 / BLOCK) workgroups, folded over x and y: an invocation takes four elements

const F16 = 1u;
const BF16 = 2u;

struct Params {
    count: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    correction1: f32, // 1 / (1 - beta1^step)
    correction2: f32, // 1 / (1 - beta2^step)
    key: vec2<u32>,    // seed, low word first, as are the others
    step: vec2<u32>,
    random: vec2<u32>, // the first block of random bits
    pad: vec2<u32>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> clip: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> rounded: array<vec2<u32>>;

// What becomes of elements 4 i to 4 i + 3.
fn updated(i: u32, old: vec4<f32>) -> vec4<f32> {
    var grad = g[i];
    if (HAS_CLIP) {
        grad *= clip[0];
    }
    // What is fused is said: a compiler may do either, in each specialisation as it likes.
    let m1 = fma(vec4(p.beta1), m[i], (1.0 - p.beta1) * grad);
    let v1 = fma(vec4(p.beta2), v[i], (1.0 - p.beta2) * grad * grad);
    m[i] = m1;
    v[i] = v1;
    let step = (m1 * p.correction1) / (sqrt(v1 * p.correction2) + p.eps);
    return fma(vec4(-p.lr), fma(vec4(p.decay), old, step), old);
}

fn stochastic_bits(x: f32, bits: u32) -> u32 {
    let sum = (bitcast<u32>(x) + (bits >> 16u)) >> 16u;
    let is_nan = (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
    return select(sum, bf16_bits(x), is_nan);
}

fn rounded_bits(x: f32) -> u32 {
    if (ROUNDED == F16) {
        return f16_bits(x);
    }
    return bf16_bits(x);
}

@compute @workgroup_size(BLOCK)
fn adamw(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    if (i >= p.count / 4u) {
        return;
    }
    if (MASTER) {
        let x = updated(i, w[i]);
        w[i] = x;
        if (ROUNDED != 0u) {
            let bits = vec4(rounded_bits(x.x), rounded_bits(x.y), rounded_bits(x.z), rounded_bits(x.w));
            rounded[i] = bits.xz | (bits.yw << vec2(16u));
        }
        return;
    }
    let low = p.random.x + i;
    let random = philox(vec4(low, p.random.y + u32(low < i), p.step), p.key);
    let old = rounded[i];
    let even = vec2(bf16_value(old.x & 0xffffu), bf16_value(old.y & 0xffffu));
    let odd = vec2(bf16_value(old.x >> 16u), bf16_value(old.y >> 16u));
    let x = updated(i, vec4(even.x, odd.x, even.y, odd.y));
    let bits = vec4(
        stochastic_bits(x.x, random.x),
        stochastic_bits(x.y, random.y),
        stochastic_bits(x.z, random.z),
        stochastic_bits(x.w, random.w),
    );
    rounded[i] = bits.xz | (bits.yw << vec2(16u));
}
