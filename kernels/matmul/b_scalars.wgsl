// Reads B one element at a time: any strides, any alignment. b_quads.wgsl is faster where it applies.
//
// Constants: B_ALONG_N: bool, true where N has the smaller stride
// Bindings:  2 B

@group(0) @binding(2) var<storage, read> b: array<T>;

// Where the columns n .. n + 3 begin. What does not change along K is worked out once.
fn b_line(start: u32, n: u32) -> vec4<u32> {
    return start + min(n + vec4(0u, 1u, 2u, 3u), vec4(p.N - 1u)) * p.b.y;
}

// B[k .. k + 3, n], or with B_ALONG_N B[k, n .. n + 3]. Beyond N and K it repeats the last.
fn b_quad(line: vec4<u32>, k: u32) -> vec4<T> {
    if (B_ALONG_N) {
        let at = line + min(k, p.K - 1u) * p.b.x;
        return vec4(b[at.x], b[at.y], b[at.z], b[at.w]);
    }
    let at = line.x + min(k + vec4(0u, 1u, 2u, 3u), vec4(p.K - 1u)) * p.b.x;
    return vec4(b[at.x], b[at.y], b[at.z], b[at.w]);
}
