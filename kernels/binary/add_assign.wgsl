// to[i] += values[i], two views of one shape in two memories.
//
// Constants: RANK (strided.wgsl), W, T = U: the element type.
// Parts:     common/strided.wgsl, common/scalars.wgsl or common/quads.wgsl
// Grid:      one thread an item, 256 a workgroup, folded over x and y. p.n and the offsets are in items.

struct Params {
    n: u32,
    values_offset: u32,
    to_offset: u32,
    pad: u32,
    sizes: Dims,
    values: Dims,
    to: Dims,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<In>;
@group(0) @binding(2) var<storage, read_write> to: array<Out>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i < p.n) {
        let at = p.to_offset + walk(i, p.sizes, p.to);
        to[at] = narrow(widen(to[at]) + widen(values[p.values_offset + walk(i, p.sizes, p.values)]));
    }
}
