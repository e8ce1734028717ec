// out[i] = mask[i] != 0 ? a[i] : b[i], three views of one shape.
//
// Constants: RANK (strided.wgsl), W, T = u32, of the mask, U: the element type.
// Parts:     common/strided.wgsl, common/scalars.wgsl or common/quads.wgsl
// Grid:      one thread an item, 256 a workgroup, folded over x and y. p.n and the offsets are in items.

struct Params {
    n: u32,
    mask_offset: u32,
    a_offset: u32,
    b_offset: u32,
    sizes: Dims,
    mask: Dims,
    a: Dims,
    b: Dims,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> mask: array<In>;
@group(0) @binding(2) var<storage, read> a: array<Out>;
@group(0) @binding(3) var<storage, read> b: array<Out>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i < p.n) {
        let chosen = mask[p.mask_offset + walk(i, p.sizes, p.mask)] != In(0u);
        let yes = a[p.a_offset + walk(i, p.sizes, p.a)];
        let no = b[p.b_offset + walk(i, p.sizes, p.b)];
        out[i] = select(no, yes, chosen);
    }
}
