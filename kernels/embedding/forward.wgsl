// Embedding, forward: out[i, :] = table[ids[i], :].
//
// An id that is not below V reads nothing and yields a row of NaN.
//
// Constants: BLOCK  workgroup size
//            PART   bool: the table is only its rows from p.first on; tokens of other rows are left to other launches
//            T = U  f32 or f16
// Parts:     common/scalars.wgsl or common/quads.wgsl
// Bindings:  1 table [V, C], or its rows p.first .. p.first + p.shown     2 ids [tokens] u32     3 out [tokens, C] out
// Grid:      ceil(tokens * C / W / BLOCK) workgroups, folded over x and y

struct Params {
    tokens: u32,
    C: u32, // in items, as every index of a column
    V: u32,
    first: u32,
    shown: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<In>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<Out>;

@compute @workgroup_size(BLOCK)
fn forward(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    if (i >= p.tokens * p.C) {
        return;
    }
    let id = ids[i / p.C];
    if (id < p.V) {
        let row = id - p.first;
        // Of an id before the first the difference is a very large number.
        if (!PART || row < p.shown) {
            out[i] = table[row * p.C + i % p.C];
        }
    } else {
        // Runtime bits, as a NaN may not be written as a constant.
        out[i] = narrow(vec4(bitcast<f32>(id | 0x7fc00000u)));
    }
}
