// The global norm of all gradients and the coefficient that clips it, without reading anything back.
//
//   norm        = sqrt(sum over all gradients of g^2)
//   coefficient = min(1, max_norm / (norm + 1e-6))
//
// Each tensor is cut into chunks of p.chunk elements, a fixed number, and each chunk's sum goes to a slot of its
// own; the last dispatch adds the slots in one fixed order.
//
// Constants: BLOCK  workgroup size, a power of two
// Parts:     common/reduce[_subgroup].wgsl
//
// Entry squares: once a tensor
//   Bindings: 1 g [count] f32, read by quads: count and chunk are multiples of 4     2 partials out, f32: slots p.slot .. p.slot + ceil(count / chunk)
//   Grid:     ceil(count / chunk) workgroups, folded over x and y
// Entry clip: once; here count is the number of slots
//   Bindings: 1 partials [count] f32     2 clip [2] out, f32: coefficient, norm
//   Grid:     one workgroup

struct Params {
    count: u32,
    chunk: u32,
    slot: u32,
    max_norm: f32, // used by clip
}

@group(0) @binding(0) var<uniform> p: Params;

@group(0) @binding(1) var<storage, read> g: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;

@compute @workgroup_size(BLOCK)
fn squares(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = wid.x + wid.y * nwg.x;
    if (group >= (p.count + p.chunk - 1u) / p.chunk) {
        return;
    }
    let first = group * p.chunk / 4u;
    let last = min(first + p.chunk / 4u, p.count / 4u);
    var total = 0.0;
    for (var i = first + lid; i < last; i += BLOCK) {
        total += dot(g[i], g[i]);
    }
    let sum = group_sum(total, lid);
    if (lid == 0u) {
        partials[p.slot + group] = sum;
    }
}

@group(0) @binding(1) var<storage, read> slots: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(BLOCK)
fn clip(@builtin(local_invocation_index) lid: u32) {
    var total = 0.0;
    for (var i = lid; i < p.count; i += BLOCK) {
        total += slots[i];
    }
    let norm = sqrt(group_sum(total, lid));
    if (lid == 0u) {
        out[0] = min(1.0, p.max_norm / (norm + 1e-6));
        out[1] = norm;
    }
}
