// out[i] = mask[i] != 0 ? a[i] : b[i], three views of one shape.
//
// Constants: RANK (strided.wgsl), T: the element type.
// Grid: one thread an element, 256 a workgroup, folded over x and y.

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
@group(0) @binding(1) var<storage, read> mask: array<u32>;
@group(0) @binding(2) var<storage, read> a: array<T>;
@group(0) @binding(3) var<storage, read> b: array<T>;
@group(0) @binding(4) var<storage, read_write> out: array<T>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i >= p.n) {
        return;
    }
    if (mask[p.mask_offset + walk(i, p.sizes, p.mask)] != 0u) {
        out[i] = a[p.a_offset + walk(i, p.sizes, p.a)];
    } else {
        out[i] = b[p.b_offset + walk(i, p.sizes, p.b)];
    }
}
