// Elementwise functions and comparisons of two views of one shape: out[i] = f(a[i], b[i]).
//
// Constants: RANK (strided.wgsl), KIND: u32 one of the numbers below, T: the element type, U: the
// type of the result (T, or u32 for comparisons).
// Grid: one thread an element, 256 a workgroup, folded over x and y.

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
@group(0) @binding(1) var<storage, read> a: array<T>;
@group(0) @binding(2) var<storage, read> b: array<T>;
@group(0) @binding(3) var<storage, read_write> out: array<U>;

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

// ARITHMETIC: float operands, computed in f32.
fn arithmetic(x: f32, y: f32) -> f32 {
    switch (KIND) {
        case ADD: { return x + y; }
        case SUB: { return x - y; }
        case MUL: { return x * y; }
        case DIV: { return x / y; }
        case MAXIMUM: { return select(y, x, x >= y); }
        default: { return select(y, x, x <= y); }
    }
}

fn compare(x: T, y: T) -> bool {
    switch (KIND) {
        case EQ: { return x == y; }
        case NE: { return x != y; }
        case LT: { return x < y; }
        case LE: { return x <= y; }
        case GT: { return x > y; }
        default: { return x >= y; }
    }
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
    let x = a[p.a_offset + walk(i, p.sizes, p.a)];
    let y = b[p.b_offset + walk(i, p.sizes, p.b)];
    if (KIND >= EQ) {
        out[i] = U(compare(x, y));
    } else {
        out[i] = U(arithmetic(f32(x), f32(y)));
    }
}
