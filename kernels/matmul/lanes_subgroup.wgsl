// How the invocations of direct.wgsl come by blocks of A that all of them need: each lane of a subgroup reads one
// quad, and hands it round. A software adapter then loads lane by lane once instead of LANES times.
//
// Constants: LANES  lanes that read, a multiple of 4; no subgroup may be smaller (4 always holds)
//
// Wider subgroups are as right: their further lanes read the same again and nobody asks them.

// This invocation's place among those of its subgroup.
fn lane_index() -> u32 {
    return subgroupExclusiveAdd(1u);
}

// What this lane reads of A[m .. m + LANES - 1, k .. k + 3].
fn a_part(start: u32, m: u32, k: u32, lane: u32) -> vec4<f32> {
    let l = lane % LANES;
    if (A_ALONG_M) {
        let quad = a_quad(a_line(start, m + (l / 4u) * 4u), k + l % 4u);
        return select(vec4(0.0), vec4<f32>(quad), k + l % 4u < p.K);
    }
    let quad = a_quad(a_line(start, m + l), k);
    return select(vec4(0.0), vec4<f32>(quad), k + vec4(0u, 1u, 2u, 3u) < vec4(p.K));
}

// Column j is A[m + 4 i + j, k .. k + 3].
fn a_rows(part: vec4<f32>, i: u32, start: u32, m: u32, k: u32) -> mat4x4<f32> {
    let block = mat4x4(
        subgroupShuffle(part, i * 4u),
        subgroupShuffle(part, i * 4u + 1u),
        subgroupShuffle(part, i * 4u + 2u),
        subgroupShuffle(part, i * 4u + 3u),
    );
    if (A_ALONG_M) {
        return transpose(block);
    }
    return block;
}
