// Reduces pieces of rows: out[o, c] = f over x[o, c * piece ..], for x [outer, n] and pieces c of a row.
// One workgroup a piece; the host reduces the pieces of a row once more.
//
// Constants: BLOCK, KIND: u32 (0 sum, 1 max, 2 min), T, U: element types of x and of out.
// Parts:     common/reduce[_subgroup].wgsl, common/scalars.wgsl or common/quads.wgsl
// Grid:      outer * pieces workgroups, folded over x and y

struct Params {
    n: u32,     // in items, as
    piece: u32, // this is
    pieces: u32,
    groups: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;
@group(0) @binding(2) var<storage, read_write> out: array<U>;

@compute @workgroup_size(BLOCK)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = wid.x + wid.y * nwg.x;
    if (group >= p.groups) {
        return;
    }
    let row = group / p.pieces;
    let first = (group % p.pieces) * p.piece;
    let end = min(first + p.piece, p.n);
    // There is an element, so that every lane can start from one: no infinity is needed.
    var sum = 0.0;
    var extreme = widen(x[row * p.n + first]);
    for (var i = first + lid; i < end; i += BLOCK) {
        let v = widen(x[row * p.n + i]);
        if (KIND == 0u) {
            sum += item_sum(v);
        } else {
            extreme = select(min(extreme, v), max(extreme, v), KIND == 1u);
        }
    }
    var result = 0.0;
    if (KIND == 0u) {
        result = group_sum(sum, lid);
    } else if (KIND == 1u) {
        result = group_max(item_max(extreme), lid);
    } else {
        result = -group_max(item_max(-extreme), lid);
    }
    if (lid == 0u) {
        out[group] = U(result);
    }
}
