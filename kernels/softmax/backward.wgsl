// Softmax and log softmax over the last dimension, backward, from the forward's output y.
//
//   dx = y * (dy - sum(dy * y))               LOG: dy - exp(y) * sum(dy)
//
// Constants: BLOCK  workgroup size, a power of two
//            LOG    bool
//            T      f32 or f16
// Parts:     common/reduce[_subgroup].wgsl
// Bindings:  1 y [rows, C]     2 dy [rows, C]     3 dx [rows, C] out
// Grid:      one workgroup a row, folded over x and y

struct Params {
    rows: u32,
    C: u32,
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<T>;
@group(0) @binding(2) var<storage, read> dy: array<T>;
@group(0) @binding(3) var<storage, read_write> dx: array<T>;

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
    for (var c = lid; c < p.C; c += BLOCK) {
        if (LOG) {
            sum += f32(dy[base + c]);
        } else {
            sum += f32(dy[base + c]) * f32(y[base + c]);
        }
    }
    let row_sum = group_sum(sum, lid);

    for (var c = lid; c < p.C; c += BLOCK) {
        let v = f32(y[base + c]);
        let d = f32(dy[base + c]);
        if (LOG) {
            dx[base + c] = T(d - exp(v) * row_sum);
        } else {
            dx[base + c] = T(v * (d - row_sum));
        }
    }
}
