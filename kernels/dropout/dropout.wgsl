// Dropout, forward and backward alike: out = x * scale where the element is kept, else 0.
//
// Element i (counted from that of block 0) is kept if lane i % 4 of Philox4x32-10 at counter (i / 4, 0, offset lo, offset hi) under the seed's key
// is at least p.threshold = round(probability * 2^32). The mask is never stored: backward draws it again.
//
// Constants: BLOCK  workgroup size
//            T = U  f32 or f16
// Parts:     common/philox.wgsl, common/quads.wgsl or, if count is no multiple of four, common/scalars.wgsl
// Bindings:  1 x [count]     2 out [count] out
// Grid:      ceil(count / 4 / BLOCK) workgroups, folded: one invocation a block of four elements

struct Params {
    count: u32,
    threshold: u32,
    scale: f32, // 1 / (1 - probability)
    first: u32, // the block of element 0: not 0 if x is a part of a larger tensor
    key: vec2<u32>,    // seed, low word first
    offset: vec2<u32>, // stream offset, low word first
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;
@group(0) @binding(2) var<storage, read_write> out: array<Out>;

// x times what is kept of it; an infinity that is dropped is 0.
fn dropped(x: vec4<f32>, kept: vec4<f32>) -> vec4<f32> {
    return select(x * kept, vec4(0.0), kept == vec4(0.0));
}

@compute @workgroup_size(BLOCK)
fn dropout(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let block = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    let first = block * 4u;
    if (first >= p.count) {
        return;
    }
    let bits = philox(vec4(p.first + block, 0u, p.offset), p.key);
    let kept = select(vec4(0.0), vec4(p.scale), bits >= vec4(p.threshold));
    if (W == 4u) {
        out[block] = narrow(dropped(widen(x[block]), kept));
        return;
    }
    let last = min(4u, p.count - first);
    for (var lane = 0u; lane < last; lane++) {
        out[first + lane] = narrow(dropped(widen(x[first + lane]), vec4(kept[lane])));
    }
}
