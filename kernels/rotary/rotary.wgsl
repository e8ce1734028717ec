// Rotary position embedding (Su et al. 2021), forward and backward.
//
// Each pair (a, b) of a head's first R dimensions turns by the angle of its position; the dimensions from R on
// are copied:
//
//   a' = a cos - b sin        b' = b cos + a sin        DIRECTION = 1.0
//
// The backward of a rotation is the rotation by the opposite angle: DIRECTION = -1.0 on the gradient.
// Pairs are (i, i + R/2), as GPT-NeoX and Llama have them, or with INTERLEAVED (2i, 2i + 1), as GPT-J and the paper.
//
// Constants: BLOCK        workgroup size
//            INTERLEAVED  bool
//            DIRECTION    f32, 1.0 or -1.0
//            T = U        f32 or f16
// Parts:     common/scalars.wgsl or, if R/2 and D are multiples of four and pairs are halves, common/quads.wgsl
// Bindings:  1 x [B, NH, T, D], any strides but 1 along D     2 cos [positions, R/2] f32     3 sin, alike
//            4 out [B, NH, T, D] contiguous
// Grid:      ceil(B * NH * T * (R/2 + D - R) / BLOCK) workgroups, folded: one invocation an item of pairs, or a copied item

struct Params {
    B: u32,
    NH: u32,
    steps: u32, // T
    D: u32,     // in items, as is all that follows but the position
    R: u32,     // rotated dimensions, even, at most D
    start: u32, // position of the first step
    x_offset: u32,
    x_b: u32,
    x_h: u32,
    x_t: u32,
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;
@group(0) @binding(2) var<storage, read> cos_table: array<Full>;
@group(0) @binding(3) var<storage, read> sin_table: array<Full>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;

@compute @workgroup_size(BLOCK)
fn rotary(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    let pairs = p.R / 2u;
    let items = p.D - pairs;
    let row = index / items;
    let item = index % items;
    if (row >= p.B * p.NH * p.steps) {
        return;
    }
    let t = row % p.steps;
    let h = (row / p.steps) % p.NH;
    let b = row / (p.steps * p.NH);
    let source = p.x_offset + b * p.x_b + h * p.x_h + t * p.x_t;
    let dest = row * p.D;

    if (item >= pairs) {
        let d = item + pairs;
        out[dest + d] = narrow(widen(x[source + d]));
        return;
    }
    var first = item;
    var second = item + pairs;
    if (INTERLEAVED) {
        first = item * 2u;
        second = first + 1u;
    }
    let angle = (p.start + t) * pairs + item;
    let c = vec4<f32>(cos_table[angle]);
    let s = vec4<f32>(sin_table[angle]) * DIRECTION;
    let a = widen(x[source + first]);
    let z = widen(x[source + second]);
    out[dest + first] = narrow(a * c - z * s);
    out[dest + second] = narrow(z * c + a * s);
}
