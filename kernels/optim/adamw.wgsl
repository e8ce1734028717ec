// AdamW (Loshchilov and Hutter 2019): one step of one parameter tensor, in place. Moments are f32 whatever T is.
//
//   g' = g * coefficient                       the clipping coefficient that norm.wgsl left on the device
//   m  = beta1 m + (1 - beta1) g'
//   v  = beta2 v + (1 - beta2) g'^2
//   w  = w - lr * decay * w - lr * (m * correction1) / (sqrt(v * correction2) + eps)
//
// Constants: BLOCK     workgroup size
//            HAS_CLIP  bool
//            T         f32 or f16
// Bindings:  1 g [count]     2 clip [1 or more] f32, clip[0] = coefficient (any buffer unless HAS_CLIP)
//            3 w [count] in and out     4 m [count] f32 in and out     5 v [count] f32 in and out
// Grid:      ceil(count / BLOCK) workgroups, folded over x and y

struct Params {
    count: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    correction1: f32, // 1 / (1 - beta1^step)
    correction2: f32, // 1 / (1 - beta2^step)
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> g: array<T>;
@group(0) @binding(2) var<storage, read> clip: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<T>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(BLOCK)
fn adamw(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    if (i >= p.count) {
        return;
    }
    var grad = f32(g[i]);
    if (HAS_CLIP) {
        grad *= clip[0];
    }
    let m1 = p.beta1 * m[i] + (1.0 - p.beta1) * grad;
    let v1 = p.beta2 * v[i] + (1.0 - p.beta2) * grad * grad;
    m[i] = m1;
    v[i] = v1;
    let old = f32(w[i]);
    let step = (m1 * p.correction1) / (sqrt(v1 * p.correction2) + p.eps);
    w[i] = T(old - p.lr * (p.decay * old + step));
}
