// Strided copy with conversion: dst[i] = converted(src[i]) for all i of one shape. quads.wgsl is faster where it serves.
//
// Both buffers are seen as 32-bit words, so that 16-bit types need no feature of the adapter. Where
// the destination is 16 bits wide, a thread makes one word of two neighbours, and the destination
// must be contiguous; the half after an odd last element is padding.
//
// Constants: RANK (strided.wgsl), SRC and DST (convert.wgsl).
// Parts:     common/strided.wgsl, common/half.wgsl, convert.wgsl
// Grid:      one thread a destination word, 256 a workgroup, folded over x and y.

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
@group(0) @binding(1) var<storage, read> src: array<u32>;
@group(0) @binding(2) var<storage, read_write> dst: array<u32>;

// Element i of the shape, as the destination has it.
fn element(i: u32) -> u32 {
    let at = p.src_offset + walk(i, p.sizes, p.src);
    if (is_half(SRC)) {
        return converted((src[at / 2u] >> ((at & 1u) * 16u)) & 0xffffu);
    }
    return converted(src[at]);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let word = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (is_half(DST)) {
        let i = word * 2u;
        if (i >= p.n) {
            return;
        }
        var bits = element(i);
        if (i + 1u < p.n) {
            bits |= element(i + 1u) << 16u;
        }
        dst[p.dst_offset / 2u + word] = bits;
    } else if (word < p.n) {
        dst[p.dst_offset + walk(word, p.sizes, p.dst)] = element(word);
    }
}
