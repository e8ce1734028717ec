// How the invocations of direct.wgsl come by blocks of A that all of them need: each reads for itself, at addresses
// that are the same in all of them. lanes_subgroup.wgsl reads each element once a subgroup.

fn lane_index() -> u32 {
    return 0u;
}

// What one invocation reads ahead of A[m .. m + LANES - 1, k .. k + 3]: nothing.
fn a_part(start: u32, m: u32, k: u32, lane: u32) -> vec4<f32> {
    return vec4(0.0);
}

// Column j is A[m + 4 i + j, k .. k + 3].
fn a_rows(part: vec4<f32>, i: u32, start: u32, m: u32, k: u32) -> mat4x4<f32> {
    return transpose(in_f32(within(a_block(a_lines(start, m + i * 4u), k), k)));
}
