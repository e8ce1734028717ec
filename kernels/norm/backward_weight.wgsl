// Layer norm and RMS norm, backward to weight and bias:
//
//   dweight = sum over rows of dy * (h - mean) * rstd
//   dbias   = sum over rows of dy
//
// Sums over rows, in two stages with chunks of a fixed number of rows: the order of additions, and with it the
// bits, is the same every time, and many workgroups share the reading.
//
// Constants: BLOCK  workgroup size
//            ITEMS  items of columns an invocation of chunk_sums, BLOCK apart
//            HAS_BIAS, ACCUMULATE: bool
//            T      f32 or f16: h and dy
//            U      T or f32: dweight and dbias
// Parts:     common/scalars.wgsl or common/quads.wgsl
//
// Entry chunk_sums: the shares of p.chunk rows each
//   Bindings: 1 h [rows, C]     2 dy [rows, C]     3 stats [rows] vec2: mean, rstd     4 partials [chunks, 2, C] out, f32
//   Grid:     ceil(C / (BLOCK * ITEMS)) * chunks workgroups, folded, columns fastest
// Entry totals: the sum over chunks, one invocation an item of columns; ACCUMULATE adds to what the outputs hold
//   Bindings: 1 partials [chunks, 2, C] f32     2 dweight [C] out     3 dbias [C] out (a spare buffer unless HAS_BIAS)
//   Grid:     ceil(C / BLOCK) workgroups, folded

struct Params {
    rows: u32,
    C: u32, // in items, as every index of a column
    chunk: u32,  // rows a chunk
    chunks: u32, // ceil(rows / chunk)
}

@group(0) @binding(0) var<uniform> p: Params;

@group(0) @binding(1) var<storage, read> h: array<In>;
@group(0) @binding(2) var<storage, read> dy: array<In>;
@group(0) @binding(3) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> partials: array<Full>;

@compute @workgroup_size(BLOCK)
fn chunk_sums(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = wid.x + wid.y * nwg.x;
    let column_groups = (p.C + BLOCK * ITEMS - 1u) / (BLOCK * ITEMS);
    let chunk = group / column_groups;
    let first = (group % column_groups) * BLOCK * ITEMS + lid;
    if (chunk >= p.chunks) {
        return;
    }
    let last = min((chunk + 1u) * p.chunk, p.rows);
    var dw: array<vec4<f32>, ITEMS>;
    var db: array<vec4<f32>, ITEMS>;
    for (var row = chunk * p.chunk; row < last; row++) {
        let moments = stats[row];
        for (var k = 0u; k < ITEMS; k++) {
            let c = first + k * BLOCK;
            if (c < p.C) {
                let d = widen(dy[row * p.C + c]);
                let xhat = (widen(h[row * p.C + c]) - moments.x) * moments.y;
                dw[k] += d * xhat;
                db[k] += d;
            }
        }
    }
    for (var k = 0u; k < ITEMS; k++) {
        let c = first + k * BLOCK;
        if (c < p.C) {
            let out = chunk * 2u * p.C + c;
            partials[out] = full(dw[k]);
            if (HAS_BIAS) {
                partials[out + p.C] = full(db[k]);
            }
        }
    }
}

@group(0) @binding(1) var<storage, read> shares: array<Full>;
@group(0) @binding(2) var<storage, read_write> dweight: array<Out>;
@group(0) @binding(3) var<storage, read_write> dbias: array<Out>;

@compute @workgroup_size(BLOCK)
fn totals(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let c = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    if (c >= p.C) {
        return;
    }
    var dw = vec4(0.0);
    var db = vec4(0.0);
    for (var chunk = 0u; chunk < p.chunks; chunk++) {
        let at = chunk * 2u * p.C + c;
        dw += vec4<f32>(shares[at]);
        if (HAS_BIAS) {
            db += vec4<f32>(shares[at + p.C]);
        }
    }
    if (ACCUMULATE) {
        dw += widen_out(dweight[c]);
    }
    dweight[c] = narrow(dw);
    if (HAS_BIAS) {
        if (ACCUMULATE) {
            db += widen_out(dbias[c]);
        }
        dbias[c] = narrow(db);
    }
}
