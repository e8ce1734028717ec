// Reductions over a workgroup, through workgroup memory. Runs on every adapter.
//
// Constants: BLOCK  invocations of the workgroup, a power of two
//
// Every invocation of the workgroup calls these together, with `lid` its local index, and all get the result.
// The tree has one shape for one BLOCK, so the bits are the same run after run. reduce_subgroup.wgsl has the
// same functions for adapters with subgroups.

// Two lanes wide so that two sums share their barriers.
var<workgroup> reduce_scratch: array<vec2<f32>, BLOCK>;

fn group_sum2(v: vec2<f32>, lid: u32) -> vec2<f32> {
    reduce_scratch[lid] = v;
    workgroupBarrier();
    for (var width = BLOCK / 2u; width > 0u; width = width / 2u) {
        if (lid < width) {
            reduce_scratch[lid] += reduce_scratch[lid + width];
        }
        workgroupBarrier();
    }
    let total = reduce_scratch[0];
    // The next reduction writes where slower invocations still read.
    workgroupBarrier();
    return total;
}

fn group_sum(v: f32, lid: u32) -> f32 {
    return group_sum2(vec2(v, 0.0), lid).x;
}

fn group_max(v: f32, lid: u32) -> f32 {
    reduce_scratch[lid].x = v;
    workgroupBarrier();
    for (var width = BLOCK / 2u; width > 0u; width = width / 2u) {
        if (lid < width) {
            reduce_scratch[lid].x = max(reduce_scratch[lid].x, reduce_scratch[lid + width].x);
        }
        workgroupBarrier();
    }
    let top = reduce_scratch[0].x;
    workgroupBarrier();
    return top;
}
