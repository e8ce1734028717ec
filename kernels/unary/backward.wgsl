// dx[i] = f'(v[i]) * dy[i], where v is the forward's input or output, as functions.wgsl says. v and dy
// are any views of one shape.
//
// Constants: RANK (strided.wgsl), W, KIND (functions.wgsl), T = U: the element type.
// Parts:     common/strided.wgsl, common/scalars.wgsl or common/quads.wgsl, functions.wgsl
// Grid:      one thread an item, 256 a workgroup, folded over x and y. p.n and the offsets are in items.

struct Params {
    n: u32,
    v_offset: u32,
    dy_offset: u32,
    pad: u32,
    a: f32,
    b: f32,
    pad2: vec2<u32>,
    sizes: Dims,
    v: Dims,
    dy: Dims,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> v: array<In>;
@group(0) @binding(2) var<storage, read> dy: array<In>;
@group(0) @binding(3) var<storage, read_write> dx: array<Out>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i < p.n) {
        let saved = widen(v[p.v_offset + walk(i, p.sizes, p.v)]);
        let grad = widen(dy[p.dy_offset + walk(i, p.sizes, p.dy)]);
        dx[i] = narrow(derivative(saved, p.a, p.b) * grad);
    }
}
