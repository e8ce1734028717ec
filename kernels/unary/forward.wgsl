// y[i] = f(x[i]), x any view.
//
// Constants: RANK (strided.wgsl), KIND (functions.wgsl), T: the element type.
// Grid: one thread an element, 256 a workgroup, folded over x and y.

struct Params {
    n: u32,
    x_offset: u32,
    a: f32,
    b: f32,
    sizes: Dims,
    x: Dims,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read_write> y: array<T>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i < p.n) {
        y[i] = T(value(f32(x[p.x_offset + walk(i, p.sizes, p.x)]), p.a, p.b));
    }
}
