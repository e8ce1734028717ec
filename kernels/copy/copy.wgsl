// Strided copy with conversion: dst[i] = convert(src[i]) for all i of one shape.
//
// Both buffers are seen as 32-bit words, so that 16-bit types need no feature of the adapter. Where
// the destination is 16 bits wide, a thread makes one word of two neighbours, and the destination
// must be contiguous; the half after an odd last element is padding.
//
// Constants: RANK (strided.wgsl), SRC and DST: u32, one of the types below.
// Grid: one thread a destination word, 256 a workgroup, folded over x and y.

const F32 = 0u;
const U32 = 1u;
const F16 = 2u;
const BF16 = 3u;

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

fn load_half(i: u32) -> u32 {
    return (src[i / 2u] >> ((i & 1u) * 16u)) & 0xffffu;
}

// Element i of the shape, as f32; ids are read in full by the u32 -> u32 path.
fn load(i: u32) -> f32 {
    let at = p.src_offset + walk(i, p.sizes, p.src);
    switch (SRC) {
        case U32: { return f32(src[at]); }
        case F16: { return f16_value(load_half(at)); }
        case BF16: { return bf16_value(load_half(at)); }
        default: { return bitcast<f32>(src[at]); }
    }
}

// The 16 bits of element i, converted only if the types differ: a NaN's payload survives a copy.
fn half_bits(i: u32) -> u32 {
    if (SRC == DST) {
        return load_half(p.src_offset + walk(i, p.sizes, p.src));
    }
    let v = load(i);
    return select(bf16_bits(v), f16_bits(v), DST == F16);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let word = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (DST == F16 || DST == BF16) {
        let i = word * 2u;
        if (i >= p.n) {
            return;
        }
        var bits = half_bits(i);
        if (i + 1u < p.n) {
            bits |= half_bits(i + 1u) << 16u;
        }
        dst[p.dst_offset / 2u + word] = bits;
        return;
    }
    if (word >= p.n) {
        return;
    }
    let to = p.dst_offset + walk(word, p.sizes, p.dst);
    if (SRC == DST) {
        dst[to] = src[p.src_offset + walk(word, p.sizes, p.src)];
    } else if (DST == U32) {
        // Truncates and saturates; NaN becomes 0. 4294967040 is the last f32 below 2^32.
        let v = load(word);
        let id = select(u32(clamp(v, 0.0, 4294967040.0)), 0xffffffffu, v >= 4294967296.0);
        dst[to] = select(id, 0u, v != v);
    } else {
        dst[to] = bitcast<u32>(load(word));
    }
}
