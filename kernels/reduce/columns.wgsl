// Reduces down columns: out[o, c, j] = f over i of x[o, c * piece + i, j], for x [outer, n, inner].
// One thread an item of outputs, neighbours in neighbouring columns; the host reduces the pieces once more.
//
// Constants: KIND: u32 (0 sum, 1 max, 2 min), T, U: element types of x and of out.
// Parts:     common/scalars.wgsl or common/quads.wgsl
// Grid:      outer * pieces * inner threads, 256 a workgroup, folded over x and y

struct Params {
    n: u32,
    piece: u32,
    pieces: u32,
    inner: u32, // in items
    threads: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;
@group(0) @binding(2) var<storage, read_write> out: array<Out>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let thread = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (thread >= p.threads) {
        return;
    }
    let column = thread % p.inner;
    let group = thread / p.inner;
    let first = (group % p.pieces) * p.piece;
    let end = min(first + p.piece, p.n);
    let base = (group / p.pieces) * p.n;
    var result = widen(x[(base + first) * p.inner + column]);
    for (var i = first + 1u; i < end; i++) {
        let v = widen(x[(base + i) * p.inner + column]);
        switch (KIND) {
            case 0u: { result += v; }
            case 1u: { result = max(result, v); }
            default: { result = min(result, v); }
        }
    }
    out[thread] = narrow(result);
}
