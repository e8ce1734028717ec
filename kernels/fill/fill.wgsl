// y[i] = value for all i: four words a thread, whatever they hold, so that one kernel serves every type.
//
// Bindings are whole quads: behind the last element is padding.
//
// Grid:      one thread a quad, 256 a workgroup, folded over x and y.

struct Params {
    quads: u32,
    // The bits of an element of 32 bits, or of two of 16.
    word: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i < p.quads) {
        y[i] = vec4(p.word);
    }
}
