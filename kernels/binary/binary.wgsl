// Elementwise functions and comparisons of two views of one shape: out[i] = f(a[i], b[i]).
//
// Constants: RANK (strided.wgsl), W, KIND: u32 one of the numbers below, T: the element type, U: the
//            type of the result (T, or u32 for comparisons)
//            A_SPLAT, B_SPLAT: bool, with W = 4: this view's last stride is 0, and its offset and strides are in elements
// Parts:     common/strided.wgsl, common/scalars.wgsl or common/quads.wgsl
// Grid:      one thread an item, 256 a workgroup, folded over x and y. p.n and the offsets are in items.

struct Params {
    n: u32,
    a_offset: u32,
    b_offset: u32,
    pad: u32,
    sizes: Dims,
    a: Dims,
    b: Dims,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<In>;
@group(0) @binding(2) var<storage, read> b: array<In>;
@group(0) @binding(3) var<storage, read_write> out: array<Out>;

const ADD = 0u;
const SUB = 1u;
const MUL = 2u;
const DIV = 3u;
const MAXIMUM = 4u;
const MINIMUM = 5u;
const EQ = 10u;
const NE = 11u;
const LT = 12u;
const LE = 13u;
const GT = 14u;
const GE = 15u;

fn arithmetic(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
    switch (KIND) {
        case ADD: { return x + y; }
        case SUB: { return x - y; }
        case MUL: { return x * y; }
        case DIV: { return x / y; }
        case MAXIMUM: { return select(y, x, x >= y); }
        default: { return select(y, x, x <= y); }
    }
}

// 1 or 0. Ids do not fit into f32.
fn compare(x: In, y: In) -> Out {
    switch (KIND) {
        case EQ: { return Out(x == y); }
        case NE: { return Out(x != y); }
        case LT: { return Out(x < y); }
        case LE: { return Out(x <= y); }
        case GT: { return Out(x > y); }
        default: { return Out(x >= y); }
    }
}

fn item_of_a(i: u32) -> In {
    let at = p.a_offset + walk(i, p.sizes, p.a);
    if (A_SPLAT) {
        return splat(a[at / W], at % W);
    }
    return a[at];
}

fn item_of_b(i: u32) -> In {
    let at = p.b_offset + walk(i, p.sizes, p.b);
    if (B_SPLAT) {
        return splat(b[at / W], at % W);
    }
    return b[at];
}

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
    let x = item_of_a(i);
    let y = item_of_b(i);
    if (KIND >= EQ) {
        out[i] = compare(x, y);
    } else {
        out[i] = narrow(arithmetic(widen(x), widen(y)));
    }
}
