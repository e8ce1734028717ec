// Layer norm and RMS norm, backward to the input. The gradients of weight and bias are in backward_weight.wgsl.
//
// With xhat = (h - mean) * rstd and g = dy * weight, over a row of C:
//
//   dh  = rstd * (g - mean(g) - xhat * mean(g * xhat))     RMS: without mean(g)
//   dh += dsum                                             HAS_DSUM: the gradient that reached `sum` directly
//
// h is the forward's `sum` if it added a residual, else x; dh is the gradient of x and of the residual alike.
//
// Constants: BLOCK  workgroup size, a power of two
//            RMS, HAS_DSUM: bool
//            T = U  f32 or f16
// Parts:     common/reduce[_subgroup].wgsl, common/scalars.wgsl or common/quads.wgsl, common/held.wgsl
// Bindings:  1 h [rows, C]     2 weight [C]     3 dy [rows, C]     4 stats [rows, 2] f32: mean, rstd
//            5 dsum [rows, C] (any buffer unless HAS_DSUM)         6 dh [rows, C] out
// Grid:      one workgroup a row, folded over x and y

struct Params {
    rows: u32,
    C: u32, // in items, as every index of a column
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> h: array<In>;
@group(0) @binding(2) var<storage, read> weight: array<In>;
@group(0) @binding(3) var<storage, read> dy: array<In>;
@group(0) @binding(4) var<storage, read> stats: array<f32>;
@group(0) @binding(5) var<storage, read> dsum: array<In>;
@group(0) @binding(6) var<storage, read_write> dh: array<Out>;

var<private> held_xhat: array<vec4<f32>, HELD_ROOM>;
var<private> held_g: array<vec4<f32>, HELD_ROOM>;

// Item c of the row, which the invocation holds as its k-th.
fn xhat_item(k: u32, base: u32, c: u32, mean: f32, rstd: f32) -> vec4<f32> {
    if (HELD > 0u) {
        return held_xhat[k];
    }
    return (widen(h[base + c]) - mean) * rstd;
}

fn g_item(k: u32, base: u32, c: u32) -> vec4<f32> {
    if (HELD > 0u) {
        return held_g[k];
    }
    return widen(dy[base + c]) * widen(weight[c]);
}

@compute @workgroup_size(BLOCK)
fn backward(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.rows) {
        return;
    }
    let base = row * p.C;
    let mean = stats[row * 2u];
    let rstd = stats[row * 2u + 1u];

    var sums = vec2(0.0);
    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            let xhat = (widen(h[base + c]) - mean) * rstd;
            let g = widen(dy[base + c]) * widen(weight[c]);
            if (HELD > 0u) {
                held_xhat[k] = xhat;
                held_g[k] = g;
            }
            sums += vec2(item_sum(g), item_sum(g * xhat));
        }
    }
    var means = group_sum2(sums, lid) / f32(p.C * W);
    if (RMS) {
        means.x = 0.0;
    }

    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            let xhat = xhat_item(k, base, c, mean, rstd);
            var v = rstd * (g_item(k, base, c) - means.x - xhat * means.y);
            if (HAS_DSUM) {
                v += widen(dsum[base + c]);
            }
            dh[base + c] = narrow(v);
        }
    }
}
