// Blocks of 4x4 of A and B, as the matmul kernels consume them, from the quads that a_*.wgsl and b_*.wgsl read.

// The lines of a block: of four rows of A, or with A_ALONG_M one for all of them.
fn a_lines(start: u32, m: u32) -> array<vec4<u32>, 4> {
    return array(a_line(start, m), a_line(start, m + 1u), a_line(start, m + 2u), a_line(start, m + 3u));
}

// Column j is A[m .. m + 3, k + j].
fn a_block(lines: array<vec4<u32>, 4>, k: u32) -> mat4x4<T> {
    if (A_ALONG_M) {
        return mat4x4(
            a_quad(lines[0], k),
            a_quad(lines[0], k + 1u),
            a_quad(lines[0], k + 2u),
            a_quad(lines[0], k + 3u),
        );
    }
    return transpose(mat4x4(a_quad(lines[0], k), a_quad(lines[1], k), a_quad(lines[2], k), a_quad(lines[3], k)));
}

// The lines of a block: of four columns of B, or with B_ALONG_N one for all of them.
fn b_lines(start: u32, n: u32) -> array<vec4<u32>, 4> {
    return array(b_line(start, n), b_line(start, n + 1u), b_line(start, n + 2u), b_line(start, n + 3u));
}

// Column j is B[k + j, n .. n + 3].
fn b_block(lines: array<vec4<u32>, 4>, k: u32) -> mat4x4<T> {
    if (B_ALONG_N) {
        return mat4x4(
            b_quad(lines[0], k),
            b_quad(lines[0], k + 1u),
            b_quad(lines[0], k + 2u),
            b_quad(lines[0], k + 3u),
        );
    }
    return transpose(mat4x4(b_quad(lines[0], k), b_quad(lines[1], k), b_quad(lines[2], k), b_quad(lines[3], k)));
}

// A block that begins at k, with zeros for what lies beyond K.
fn within(block: mat4x4<T>, k: u32) -> mat4x4<T> {
    let zero = vec4<T>();
    return mat4x4(
        select(zero, block[0], k < p.K),
        select(zero, block[1], k + 1u < p.K),
        select(zero, block[2], k + 2u < p.K),
        select(zero, block[3], k + 3u < p.K),
    );
}

fn in_f32(block: mat4x4<T>) -> mat4x4<f32> {
    return mat4x4(vec4<f32>(block[0]), vec4<f32>(block[1]), vec4<f32>(block[2]), vec4<f32>(block[3]));
}
