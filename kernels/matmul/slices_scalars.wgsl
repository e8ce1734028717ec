// The slices of cooperative.wgsl in workgroup memory, one element at a time: the twin of slices_quads.wgsl. For Metal, where naga
// loads matrices from scalars alone.

const WIDE: u32 = 1u; // elements at an index

var<workgroup> slice_a: array<f16, SLICE>;
var<workgroup> slice_b: array<f16, SLICE>;

fn put_a(at: u32, quad: vec4<f16>) {
    for (var c = 0u; c < 4u; c++) {
        slice_a[at + c] = quad[c];
    }
}

fn put_b(at: u32, quad: vec4<f16>) {
    for (var c = 0u; c < 4u; c++) {
        slice_b[at + c] = quad[c];
    }
}
