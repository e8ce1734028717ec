// Cross entropy, backward: scales the gradient that the forward has already written, in place, by the upstream one.
//
//   dlogits[row, v] *= upstream[row]     PER_ROW, for losses that were not reduced; else upstream[0]
//
// Constants: BLOCK    workgroup size
//            PER_ROW  bool
//            T        f32 or f16
// Bindings:  1 upstream [rows] or [1] f32     2 dlogits [rows, V] in and out
// Grid:      ceil(rows * V / BLOCK) workgroups, folded over x and y

struct Params {
    count: u32, // rows * V
    V: u32,
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> upstream: array<f32>;
@group(0) @binding(2) var<storage, read_write> dlogits: array<T>;

@compute @workgroup_size(BLOCK)
fn backward(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    if (i >= p.count) {
        return;
    }
    let scale = upstream[select(0u, i / p.V, PER_ROW)];
    // Training ends with a loss whose upstream gradient is 1: nothing to rewrite then.
    if (scale != 1.0) {
        dlogits[i] = T(f32(dlogits[i]) * scale);
    }
}
