// Reads A four elements at a time, along its unit stride.
//
// That stride is along K (A_ALONG_M false: K, the offset and the other strides are multiples of 4) or along M
// (A_ALONG_M true: M, the offset and the other strides are multiples of 4). a_scalars.wgsl reads all else.
//
// Constants: A_ALONG_M: bool
// Bindings:  1 A

@group(0) @binding(1) var<storage, read> a: array<vec4<T>>;

// Where row m begins, or with A_ALONG_M the rows m .. m + 3. What does not change along K is worked out once.
fn a_line(start: u32, m: u32) -> vec4<u32> {
    if (A_ALONG_M) {
        return vec4(start + min(m, p.M - 4u));
    }
    return vec4(start + min(m, p.M - 1u) * p.a.x);
}

// A[m, k .. k + 3], or with A_ALONG_M A[m .. m + 3, k]. Beyond M and K it repeats others.
fn a_quad(line: vec4<u32>, k: u32) -> vec4<T> {
    if (A_ALONG_M) {
        return a[(line.x + min(k, p.K - 1u) * p.a.y) / 4u];
    }
    return a[(line.x + min(k, p.K - 4u)) / 4u];
}
