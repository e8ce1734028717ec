// Reads A four elements at a time, along its unit stride.
//
// That stride is along K (A_ALONG_M false: K, the offset and the other strides are multiples of 4) or along M
// (A_ALONG_M true: M, the offset and the other strides are multiples of 4). a_scalars.wgsl reads all else.
//
// Constants: A_ALONG_M: bool
// Bindings:  1 A

@group(0) @binding(1) var<storage, read> a: array<vec4<T>>;

// A[m, k .. k + 3], or with A_ALONG_M A[m .. m + 3, k]. Zero beyond K; beyond M it repeats others.
fn a_quad(start: u32, m: u32, k: u32) -> vec4<f32> {
    var i = start;
    if (A_ALONG_M) {
        i += min(m, p.M - 4u) + min(k, p.K - 1u) * p.a.y;
    } else {
        i += min(m, p.M - 1u) * p.a.x + min(k, p.K - 4u);
    }
    return select(vec4(0.0), vec4<f32>(a[i / 4u]), k < p.K);
}
