// The slices of cooperative.wgsl in workgroup memory, four elements at a time: the twin of slices_scalars.wgsl. A quarter of the
// stores, which would otherwise take as long as the arithmetic.

const WIDE: u32 = 4u; // elements at an index

var<workgroup> slice_a: array<vec4<f16>, SLICE / WIDE>;
var<workgroup> slice_b: array<vec4<f16>, SLICE / WIDE>;

fn put_a(at: u32, quad: vec4<f16>) {
    slice_a[at / WIDE] = quad;
}

fn put_b(at: u32, quad: vec4<f16>) {
    slice_b[at / WIDE] = quad;
}
