// Workgroup memory that cooperative matrices are loaded from, written one element at a time: the twin of halves_quads.wgsl, which
// see. For Metal, where naga loads matrices from scalars alone.

const WIDE: u32 = 1u;

var<workgroup> halves: array<f16, HALVES>;

fn put(at: u32, quad: vec4<f16>) {
    for (var c = 0u; c < 4u; c++) {
        halves[at + c] = quad[c];
    }
}
