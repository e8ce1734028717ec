// Embedding, backward: dtable[v, :] = sum of dout[i, :] over the tokens i with ids[i] == v, in the order of i.
//
// The order of additions has to be the same every time, which rules out float atomics. So the tokens are grouped by
// id first, by a counting sort that keeps their order, and then each row of the table adds its own. Four dispatches:
//
//   count   counts[v] = tokens with id v. Integer atomics: any order gives the same counts.
//   scan    starts[v] = counts[0] + ... + counts[v - 1].
//   place   slots[starts[id] + k] = the k-th token with that id. The ids are dealt out over the invocations (owner =
//           id mod invocations); each walks over all tokens and places its own, so nobody races and order is kept.
//           Each placing moves starts[id] on, so at the end starts[v] is the end of v's slots.
//   sum     dtable[v, c] = sum of dout[slots[...], c]. A row's tokens are dealt out over LANES lanes and the lanes
//           added in order, so that a frequent id does not leave one invocation a long chain alone.
//
// Ids that are not below V add nothing.
//
// Constants: BLOCK       workgroup size
//            LANES       power of two that divides BLOCK: lanes a column, in `sum` alone
//            ACCUMULATE  bool: add to what dtable holds instead of overwriting all of it
//            T           f32 or f16: dout
//            U           T or f32: dtable. Gradients of f16 tables may be f32.
// Parts:     common/scalars.wgsl or common/quads.wgsl
//
// Entry count: 1 ids [tokens] u32     2 counts [V] u32, zero at the start
//              ceil(tokens / BLOCK) workgroups, folded
// Entry scan:  1 counts [V]     2 starts [V] out
//              one workgroup
// Entry place: 1 ids [tokens]     2 starts [V] in and out     3 slots [tokens] out
//              any number of workgroups, enough to own V ids if V is small; x alone
// Entry sum:   1 counts [V]     2 starts [V], as place left it     3 slots [tokens]     4 dout [tokens, C]
//              5 dtable [V, C] in and out; or the same rows of counts, starts and dtable
//              ceil(V * C / W / (BLOCK / LANES)) workgroups, folded, columns fastest

struct Params {
    tokens: u32,
    C: u32,   // in items, as every index of a column
    V: u32,   // in `sum`: of its part of dtable
    pad: u32, // and four more, which the forward uses
    pads: vec4<u32>,
}

@group(0) @binding(0) var<uniform> p: Params;

@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> tally: array<atomic<u32>>;

@compute @workgroup_size(BLOCK)
fn count(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    if (i < p.tokens) {
        let id = ids[i];
        if (id < p.V) {
            atomicAdd(&tally[id], 1u);
        }
    }
}

@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read_write> starts: array<u32>;

var<workgroup> run_totals: array<u32, BLOCK>;

// Each invocation takes a run of consecutive ids: it sums the run, adds the runs before its own, and writes.
@compute @workgroup_size(BLOCK)
fn scan(@builtin(local_invocation_index) lid: u32) {
    let run = (p.V + BLOCK - 1u) / BLOCK;
    let first = min(lid * run, p.V);
    let last = min(first + run, p.V);
    var total = 0u;
    for (var v = first; v < last; v++) {
        total += counts[v];
    }
    run_totals[lid] = total;
    workgroupBarrier();
    var start = 0u;
    for (var i = 0u; i < lid; i++) {
        start += run_totals[i];
    }
    for (var v = first; v < last; v++) {
        starts[v] = start;
        start += counts[v];
    }
}

@group(0) @binding(3) var<storage, read_write> slots: array<u32>;

var<workgroup> tile: array<u32, BLOCK>;

@compute @workgroup_size(BLOCK)
fn place(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let owners = nwg.x * BLOCK;
    let owner = wid.x * BLOCK + lid;
    for (var base = 0u; base < p.tokens; base += BLOCK) {
        // p.V stands for "no id" beyond the end.
        var mine = p.V;
        if (base + lid < p.tokens) {
            mine = ids[base + lid];
        }
        tile[lid] = mine;
        workgroupBarrier();
        let n = min(BLOCK, p.tokens - base);
        for (var i = 0u; i < n; i++) {
            let id = tile[i];
            if (id < p.V && id % owners == owner) {
                let slot = starts[id];
                slots[slot] = base + i;
                starts[id] = slot + 1u;
            }
        }
        workgroupBarrier();
    }
}

@group(0) @binding(2) var<storage, read> ends: array<u32>;
@group(0) @binding(3) var<storage, read> sorted: array<u32>;
@group(0) @binding(4) var<storage, read> dout: array<In>;
@group(0) @binding(5) var<storage, read_write> dtable: array<Out>;

const COLUMNS: u32 = BLOCK / LANES;
var<workgroup> lane_sums: array<Full, BLOCK>;

@compute @workgroup_size(BLOCK)
fn sum(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let lane = lid / COLUMNS;
    let at = (wid.x + wid.y * nwg.x) * COLUMNS + lid % COLUMNS;
    let inside = at < p.V * p.C;
    let v = min(at / p.C, p.V - 1u);
    let c = at - v * p.C;
    let end = ends[v];
    let n = counts[v];

    var total = vec4(0.0);
    if (inside) {
        for (var i = end - n + lane; i < end; i += LANES) {
            total += widen(dout[sorted[i] * p.C + c]);
        }
    }
    lane_sums[lid] = full(total);
    workgroupBarrier();
    if (lane == 0u && inside) {
        for (var l = 1u; l < LANES; l++) {
            total += vec4<f32>(lane_sums[l * COLUMNS + lid]);
        }
        if (!ACCUMULATE) {
            dtable[at] = narrow(total);
        } else if (n > 0u) {
            dtable[at] = narrow(widen_out(dtable[at]) + total);
        }
    }
}
