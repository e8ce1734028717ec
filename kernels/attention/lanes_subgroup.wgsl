// How an invocation reads STEP rows of the tile, for software adapters: those load workgroup memory lane by lane, so
// each lane loads one of the rows and hands it round. Needs subgroups of at least STEP; further lanes of wider ones
// load the same again and nobody asks them. SPLIT must be 1.

fn in_tile(row: u32) -> u32 {
    return row;
}

// This invocation's place among those of its subgroup, from 0 to STEP - 1.
fn lane_index() -> u32 {
    return subgroupExclusiveAdd(1u) % STEP;
}

fn fetch(at: u32, lane: u32) -> vec4<f32> {
    return tile[at + lane];
}

// The tile's quad at + i.
fn pick(part: vec4<f32>, at: u32, i: u32) -> vec4<f32> {
    return subgroupShuffle(part, i);
}

// sum + dot(x, y), with few additions that wait for one another: there are no multiply-adds here.
fn with_dot(sum: f32, x: vec4<f32>, y: vec4<f32>) -> f32 {
    return sum + ((x.x * y.x + x.y * y.y) + (x.z * y.z + x.w * y.w));
}
