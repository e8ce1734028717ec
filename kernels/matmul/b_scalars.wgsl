// Reads B one element at a time: any strides, any alignment. b_quads.wgsl is faster where it applies.
//
// Constants: B_ALONG_N: bool, true where N has the smaller stride
// Bindings:  2 B

@group(0) @binding(2) var<storage, read> b: array<T>;

fn b_element(start: u32, n: u32, k: u32) -> f32 {
    let v = f32(b[start + min(n, p.N - 1u) * p.b.y + min(k, p.K - 1u) * p.b.x]);
    return select(0.0, v, k < p.K);
}

// B[k .. k + 3, n], or with B_ALONG_N B[k, n .. n + 3]. Zero beyond K; beyond N it repeats the last.
fn b_quad(start: u32, n: u32, k: u32) -> vec4<f32> {
    if (B_ALONG_N) {
        return vec4(
            b_element(start, n, k),
            b_element(start, n + 1u, k),
            b_element(start, n + 2u, k),
            b_element(start, n + 3u, k),
        );
    }
    return vec4(
        b_element(start, n, k),
        b_element(start, n, k + 1u),
        b_element(start, n, k + 2u),
        b_element(start, n, k + 3u),
    );
}
