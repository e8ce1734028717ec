// Copy with conversion, four neighbouring elements a thread: dst[i] = converted(src[i]) for all quads i of one shape.
//
// Four elements are two words if a type has 16 bits, and four if it has 32.
//
// Constants: RANK (strided.wgsl), SRC and DST (convert.wgsl).
// Parts:     common/strided.wgsl, common/half.wgsl, convert.wgsl
// Grid:      one thread a quad, 256 a workgroup, folded over x and y. All of the parameters are in quads.

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
@group(0) @binding(1) var<storage, read> src: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> dst: array<vec2<u32>>;

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
    let source = p.src_offset + walk(i, p.sizes, p.src);
    var x: vec4<u32>;
    if (is_half(SRC)) {
        let words = src[source];
        x = vec4(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
    } else {
        x = vec4(src[source * 2u], src[source * 2u + 1u]);
    }
    x = vec4(converted(x.x), converted(x.y), converted(x.z), converted(x.w));
    let to = p.dst_offset + walk(i, p.sizes, p.dst);
    if (is_half(DST)) {
        dst[to] = x.xz | (x.yw << vec2(16u));
    } else {
        dst[to * 2u] = x.xy;
        dst[to * 2u + 1u] = x.zw;
    }
}
