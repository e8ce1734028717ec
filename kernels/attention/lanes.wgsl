// How an invocation reads STEP rows of the tile: from workgroup memory, all invocations at the same address.
// lanes_subgroup.wgsl is the other way.

fn lane_index() -> u32 {
    return 0u;
}

fn fetch(at: u32, lane: u32) -> vec4<f32> {
    return vec4<f32>();
}

// The tile's quad at + i.
fn pick(part: vec4<f32>, at: u32, i: u32) -> vec4<f32> {
    return tile[at + i];
}
