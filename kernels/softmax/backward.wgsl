// Softmax and log softmax over the last dimension, backward, from the forward's output y.
//
//   dx = y * (dy - sum(dy * y))               LOG: dy - exp(y) * sum(dy)
//
// Constants: BLOCK  workgroup size, a power of two
//            LOG    bool
//            T = U  f32 or f16
// Parts:     common/reduce[_subgroup].wgsl, common/scalars.wgsl or common/quads.wgsl, common/held.wgsl
// Bindings:  1 y [rows, C]     2 dy [rows, C]     3 dx [rows, C] out
// Grid:      one workgroup a row, folded over x and y

struct Params {
    rows: u32,
    C: u32, // in items, as every index of a column
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<In>;
@group(0) @binding(2) var<storage, read> dy: array<In>;
@group(0) @binding(3) var<storage, read_write> dx: array<Out>;

var<private> held_y: array<vec4<f32>, HELD_ROOM>;
var<private> held_dy: array<vec4<f32>, HELD_ROOM>;

// Item i, the invocation's k-th of its row.
fn y_item(k: u32, i: u32) -> vec4<f32> {
    if (HELD > 0u) {
        return held_y[k];
    }
    return widen(y[i]);
}

fn dy_item(k: u32, i: u32) -> vec4<f32> {
    if (HELD > 0u) {
        return held_dy[k];
    }
    return widen(dy[i]);
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

    var sum = 0.0;
    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            let v = widen(y[base + c]);
            let d = widen(dy[base + c]);
            if (HELD > 0u) {
                held_y[k] = v;
                held_dy[k] = d;
            }
            if (LOG) {
                sum += item_sum(d);
            } else {
                sum += item_sum(d * v);
            }
        }
    }
    let row_sum = group_sum(sum, lid);

    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            let v = y_item(k, base + c);
            let d = dy_item(k, base + c);
            if (LOG) {
                dx[base + c] = narrow(d - exp(v) * row_sum);
            } else {
                dx[base + c] = narrow(v * (d - row_sum));
            }
        }
    }
}
