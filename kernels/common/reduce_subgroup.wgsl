// Reductions over a workgroup, by subgroup: the twin of reduce.wgsl where the adapter has subgroups.
//
// Constants: BLOCK  invocations of the workgroup
//
// Right at any subgroup size, known or not, and for any layout of subgroups over local indices: each subgroup's
// total goes to the slot of its first invocation, all other slots get the neutral element, and every subgroup
// then reduces all BLOCK slots. Two barriers instead of log2(BLOCK) + 2. For one assignment of invocations to
// subgroups, which is what one device gives for one pipeline, the order of additions is fixed.

var<workgroup> reduce_scratch: array<vec2<f32>, BLOCK>;

fn group_sum2(v: vec2<f32>, lid: u32) -> vec2<f32> {
    let part = subgroupAdd(v);
    let lane = subgroupExclusiveAdd(1u);
    let lanes = subgroupAdd(1u);
    reduce_scratch[lid] = select(vec2(0.0), part, lane == 0u);
    workgroupBarrier();
    var total = vec2(0.0);
    for (var i = lane; i < BLOCK; i += lanes) {
        total += reduce_scratch[i];
    }
    total = subgroupAdd(total);
    // The next reduction writes where slower invocations still read.
    workgroupBarrier();
    return total;
}

fn group_sum(v: f32, lid: u32) -> f32 {
    return group_sum2(vec2(v, 0.0), lid).x;
}

fn group_max(v: f32, lid: u32) -> f32 {
    let part = subgroupMax(v);
    // Every lane's slot may hold its subgroup's maximum: a maximum does not mind seeing a value twice.
    reduce_scratch[lid].x = part;
    let lane = subgroupExclusiveAdd(1u);
    let lanes = subgroupAdd(1u);
    workgroupBarrier();
    var top = part;
    for (var i = lane; i < BLOCK; i += lanes) {
        top = max(top, reduce_scratch[i].x);
    }
    top = subgroupMax(top);
    workgroupBarrier();
    return top;
}
