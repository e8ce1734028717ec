// Workgroup memory that cooperative matrices are loaded from, written four elements at a time: the twin of halves_scalars.wgsl. It takes a
// quarter of the stores, which would otherwise take as long as the arithmetic.
//
// Constants: HALVES  elements, a multiple of 4

const WIDE: u32 = 4u; // elements at an index

var<workgroup> halves: array<vec4<f16>, HALVES / WIDE>;

fn put(at: u32, quad: vec4<f16>) {
    halves[at / WIDE] = quad;
}
