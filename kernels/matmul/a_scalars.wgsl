// Reads A one element at a time: any strides, any alignment. a_quads.wgsl is faster where it applies.
//
// Constants: A_ALONG_M: bool, true where M has the smaller stride
// Bindings:  1 A

@group(0) @binding(1) var<storage, read> a: array<T>;

fn a_element(start: u32, m: u32, k: u32) -> f32 {
    let v = f32(a[start + min(m, p.M - 1u) * p.a.x + min(k, p.K - 1u) * p.a.y]);
    return select(0.0, v, k < p.K);
}

// A[m, k .. k + 3], or with A_ALONG_M A[m .. m + 3, k]. Zero beyond K; beyond M it repeats the last.
fn a_quad(start: u32, m: u32, k: u32) -> vec4<f32> {
    if (A_ALONG_M) {
        return vec4(
            a_element(start, m, k),
            a_element(start, m + 1u, k),
            a_element(start, m + 2u, k),
            a_element(start, m + 3u, k),
        );
    }
    return vec4(
        a_element(start, m, k),
        a_element(start, m, k + 1u),
        a_element(start, m, k + 2u),
        a_element(start, m, k + 3u),
    );
}
