// Strided copy between buffers of one 16-bit type: dst[i] = src[i], where the destination may be any
// view. It needs an adapter that can store a single 16-bit element; copy.wgsl serves the rest.
//
// Constants: RANK (strided.wgsl), T: the element type.
// Grid: one thread an element, 256 a workgroup, folded over x and y.

struct Params {
    n: u32,
    src_offset: u32,
    dst_offset: u32,
    pad: u32,
    sizes: Dims,
    src: Dims,
    dst: Dims,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> src: array<T>;
@group(0) @binding(2) var<storage, read_write> dst: array<T>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i < p.n) {
        dst[p.dst_offset + walk(i, p.sizes, p.dst)] = src[p.src_offset + walk(i, p.sizes, p.src)];
    }
}
