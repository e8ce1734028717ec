// Softmax and log softmax over the last dimension, forward.
//
//   y = exp(x - max(x)) / sum(exp(x - max(x)))               LOG: x - max(x) - log(sum(exp(x - max(x))))
//
// A row of -infinity alone gives NaN, as in PyTorch.
//
// Constants: BLOCK  workgroup size, a power of two
//            LOG    bool
//            T = U  f32 or f16
// Parts:     common/reduce[_subgroup].wgsl, common/scalars.wgsl or common/quads.wgsl, common/online_softmax.wgsl, common/held.wgsl
// Bindings:  1 x [rows, C]     2 y [rows, C] out
// Grid:      one workgroup a row, folded over x and y

struct Params {
    rows: u32,
    C: u32, // in items, as every index of a column
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;
@group(0) @binding(2) var<storage, read_write> y: array<Out>;

var<private> held: array<vec4<f32>, HELD_ROOM>;

// Item i, the invocation's k-th of its row.
fn item(k: u32, i: u32) -> vec4<f32> {
    if (HELD > 0u) {
        return held[k];
    }
    return widen(x[i]);
}

@compute @workgroup_size(BLOCK)
fn forward(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.rows) {
        return;
    }
    let base = row * p.C;

    var seen = NOTHING_SEEN;
    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            let v = widen(x[base + c]);
            if (HELD > 0u) {
                held[k] = v;
            }
            seen = with_item(seen, v);
        }
    }
    let top = group_max(seen.x, lid);
    let total = group_sum(seen.y * exp(seen.x - top), lid);
    let log_total = log(total);

    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            let v = item(k, base + c);
            if (LOG) {
                y[base + c] = narrow(v - top - log_total);
            } else {
                y[base + c] = narrow(exp(v - top) / total);
            }
        }
    }
}
