// Reads A one element at a time: any strides, any alignment. a_quads.wgsl is faster where it applies.
//
// Constants: A_ALONG_M: bool, true where M has the smaller stride
// Bindings:  1 A

@group(0) @binding(1) var<storage, read> a: array<T>;

// Where the rows m .. m + 3 begin. What does not change along K is worked out once.
fn a_line(start: u32, m: u32) -> vec4<u32> {
    return start + min(m + vec4(0u, 1u, 2u, 3u), vec4(p.M - 1u)) * p.a.x;
}

// A[m, k .. k + 3], or with A_ALONG_M A[m .. m + 3, k]. Beyond M and K it repeats the last.
fn a_quad(line: vec4<u32>, k: u32) -> vec4<T> {
    if (A_ALONG_M) {
        let at = line + min(k, p.K - 1u) * p.a.y;
        return vec4(a[at.x], a[at.y], a[at.z], a[at.w]);
    }
    let at = line.x + min(k + vec4(0u, 1u, 2u, 3u), vec4(p.K - 1u)) * p.a.y;
    return vec4(a[at.x], a[at.y], a[at.z], a[at.w]);
}
