// Reads B four elements at a time, along its unit stride.
//
// That stride is along K (B_ALONG_N false: K, the offset and the other strides are multiples of 4) or along N
// (B_ALONG_N true: N, the offset and the other strides are multiples of 4). b_scalars.wgsl reads all else.
//
// Constants: B_ALONG_N: bool
// Bindings:  2 B

@group(0) @binding(2) var<storage, read> b: array<vec4<T>>;

// B[k .. k + 3, n], or with B_ALONG_N B[k, n .. n + 3]. Zero beyond K; beyond N it repeats others.
fn b_quad(start: u32, n: u32, k: u32) -> vec4<f32> {
    var i = start;
    if (B_ALONG_N) {
        i += min(n, p.N - 4u) + min(k, p.K - 1u) * p.b.x;
    } else {
        i += min(n, p.N - 1u) * p.b.y + min(k, p.K - 4u);
    }
    return select(vec4(0.0), vec4<f32>(b[i / 4u]), k < p.K);
}
