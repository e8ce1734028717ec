// Blocks of 4x4 of A and B, as the matmul kernels consume them, from the quads that a_*.wgsl and b_*.wgsl read.

// Column j is A[m .. m + 3, k + j].
fn a_block(start: u32, m: u32, k: u32) -> mat4x4<f32> {
    if (A_ALONG_M) {
        return mat4x4(
            a_quad(start, m, k),
            a_quad(start, m, k + 1u),
            a_quad(start, m, k + 2u),
            a_quad(start, m, k + 3u),
        );
    }
    return transpose(mat4x4(
        a_quad(start, m, k),
        a_quad(start, m + 1u, k),
        a_quad(start, m + 2u, k),
        a_quad(start, m + 3u, k),
    ));
}

// Column j is B[k + j, n .. n + 3].
fn b_block(start: u32, n: u32, k: u32) -> mat4x4<f32> {
    if (B_ALONG_N) {
        return mat4x4(
            b_quad(start, n, k),
            b_quad(start, n, k + 1u),
            b_quad(start, n, k + 2u),
            b_quad(start, n, k + 3u),
        );
    }
    return transpose(mat4x4(
        b_quad(start, n, k),
        b_quad(start, n + 1u, k),
        b_quad(start, n + 2u, k),
        b_quad(start, n + 3u, k),
    ));
}
