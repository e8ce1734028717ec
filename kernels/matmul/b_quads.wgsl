// Reads B four elements at a time, along its unit stride.
//
// That stride is along K (B_ALONG_N false: K, the offset and the other strides are multiples of 4) or along N
// (B_ALONG_N true: N, the offset and the other strides are multiples of 4). b_scalars.wgsl reads all else.
//
// Constants: B_ALONG_N: bool
// Bindings:  2 B

@group(0) @binding(2) var<storage, read> b: array<vec4<T>>;

// Where column n begins, or with B_ALONG_N the columns n .. n + 3. What does not change along K is worked out once.
fn b_line(start: u32, n: u32) -> vec4<u32> {
    if (B_ALONG_N) {
        return vec4(start + min(n, p.N - 4u));
    }
    return vec4(start + min(n, p.N - 1u) * p.b.y);
}

// B[k .. k + 3, n], or with B_ALONG_N B[k, n .. n + 3]. Beyond N and K it repeats others.
fn b_quad(line: vec4<u32>, k: u32) -> vec4<T> {
    if (B_ALONG_N) {
        return b[(line.x + min(k, p.K - 1u) * p.b.x) / 4u];
    }
    return b[(line.x + min(k, p.K - 4u)) / 4u];
}
