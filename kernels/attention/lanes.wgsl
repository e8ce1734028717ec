// How an invocation reads STEP rows of the tile: from workgroup memory, all invocations at the same address.
// lanes_subgroup.wgsl is the other way.

// The same row of the tile, but seen to be small by a compiler, which then puts offsets from it into instructions.
fn in_tile(row: u32) -> u32 {
    return row % TILE;
}

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

// sum + dot(x, y). Every product is added to the sum at once, as a GPU does in one instruction; of a dot product on its
// own the first is multiplied, and the sum of the four then added.
fn with_dot(sum: f32, x: vec4<f32>, y: vec4<f32>) -> f32 {
    return sum + x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
}
