// y[i] = f(x[i]), x any view.
//
// Constants: RANK (strided.wgsl), W, KIND (functions.wgsl), T = U: the element type.
// Parts:     common/strided.wgsl, common/scalars.wgsl or common/quads.wgsl, functions.wgsl
// Grid:      one thread an item, 256 a workgroup, folded over x and y. p.n and the offsets are in items.

struct Params {
    n: u32,
    x_offset: u32,
    a: f32,
    b: f32,
    sizes: Dims,
    x: Dims,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;
@group(0) @binding(2) var<storage, read_write> y: array<Out>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i < p.n) {
        y[i] = narrow(value(widen(x[p.x_offset + walk(i, p.sizes, p.x)]), p.a, p.b));
    }
}
