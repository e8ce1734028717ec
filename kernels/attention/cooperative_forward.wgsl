// Attention, forward, by cooperative matrices: forward.wgsl has the method. Queries are owned, and visit keys and values, which take
// turns in the same rows of workgroup memory.
//
// Sums have to shrink when a much larger score comes, and matrices do not tell which of their elements belong to which query. So
// they go through workgroup memory, in that rare case alone: with D = 64 and matrices of 16 x 16 it moves 32 KiB, where sums that
// are added up outside of matrices would move 16 KiB every tile, nearly as much as its scores and weights do (18 KiB).
//
// Constants, parts: see cooperative.wgsl; TILE is 2 EDGE
// Bindings:  those of cooperative.wgsl, 4 o [B, NH, Tq, D] out, strided     5 lse [B, NH, Tq] out, f32
// Grid:      ceil(Tq / BAND) * B * NH workgroups, folded, heads fastest, last queries first

@group(0) @binding(4) var<storage, read_write> o: array<vec4<T>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

const QUERIES: u32 = BAND;
const KEYS: u32 = TILE;
const SCORE_LINE: u32 = KEYS + 4u;
const LAYERS: u32 = 1u;
const WEIGHT_LAYERS: u32 = 1u;
// Rows of workgroup memory: the queries, then what is visited.
const VISITED: u32 = BAND;
const ROWS: u32 = BAND + TILE;
// See forward.wgsl.
const SLACK: f32 = 8.0;

var<workgroup> shared_parts: array<f32, THREADS>; // [query][member]
var<workgroup> factors: array<f32, BAND>;
// The last tile whose sums had to shrink, counted from 1; and padding, so that in whatever order a compiler lays them out, matrices begin
// at multiples of 16 bytes.
var<workgroup> rescaled: array<atomic<u32>, 4>;

// Where the band's outputs start.
var<private> o_start: u32;
var<private> first_query: u32;

fn read_quad(which: u32, at: u32) -> vec4<T> {
    switch (which) {
        case 0u: { return q[at]; }
        case 1u: { return k[at]; }
        default: { return v[at]; }
    }
}

fn finish(which: u32, row: u32, quad: u32, sums: vec4<f32>) {
    if (first_query + row < p.Tq) {
        o[o_start + (first_query + row) * p.o.z + quad] = vec4<T>(sums * factors[row]);
    }
}

// One matrix of each part, from `row` of the band on, with its rows times their factors.
fn rescale(sums: Sums, turn: Turn, row: u32, lid: u32) -> Sums {
    let at = turn.slot * MATRIX;
    if (has_part(turn)) {
        coopStoreT(sums, &scores[at], EDGE);
    }
    workgroupBarrier();
    for (var n = lid; n < turn.workers * MATRIX; n += THREADS) {
        scores[n] *= factors[row + n % MATRIX / EDGE];
    }
    workgroupBarrier();
    var rescaled_sums = sums;
    if (has_part(turn)) {
        rescaled_sums = coopLoadT<Sums>(&scores[at], EDGE);
    }
    workgroupBarrier();
    return rescaled_sums;
}

@compute @workgroup_size(THREADS)
fn forward_cooperative(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let bands = (p.Tq + BAND - 1u) / BAND;
    let heads = p.B * p.NH;
    let group = wid.x + wid.y * nwg.x;
    if (group >= bands * heads) {
        return;
    }
    let head = group % heads;
    let b = head / p.NH;
    let h = head % p.NH;
    let kv_head = h / (p.NH / p.NKV);
    first_query = (bands - 1u - group / heads) * BAND;
    o_start = place(p.o, b, h, 0u);
    load(queries(b, h), first_query, BAND, 0u, lid);
    if (lid == 0u) {
        atomicStore(&rescaled[0], 0u);
    }

    // The query of this invocation's team. One beyond the last sees nothing.
    let scale2 = p.scale * LOG2_E;
    let row = lid / TEAM;
    let i = first_query + row;
    var seen: Interval;
    if (i < p.Tq) {
        seen = keys_of(i);
    }
    let visited = visit(keys_of(first_query), keys_of(min(first_query + BAND, p.Tq) - 1u));
    var tiles = 0u;
    for (var first = 0u; first < PARTS; first += min(subgroups, WORKERS)) {
        let mine = take_turn(first, subgroup, subgroups);
        var part00: Sums;
        var part01: Sums;
        var part10: Sums;
        var part11: Sums;
        var top = LOWEST;
        var total = 0.0;
        for (var j0 = visited.start; j0 < visited.end; j0 += TILE) {
            workgroupBarrier();
            load(keys(b, kv_head), j0, TILE, VISITED, lid);
            workgroupBarrier();
            for (var n = subgroup; n < SCORES; n += subgroups) {
                score(n, 0u, 0u, VISITED);
            }
            workgroupBarrier();

            // The largest score of each query, and in the meantime the values.
            var s: array<f32, SHARE>;
            var highest = LOWEST;
            for (var n = 0u; n < SHARE; n++) {
                let j = n * TEAM + lid % TEAM;
                s[n] = MASKED;
                if ((WHOLE || j < TILE) && contains(seen, j0 + j)) {
                    s[n] = scores[row * SCORE_LINE + j] * scale2;
                }
                highest = max(highest, s[n]);
            }
            shared_parts[lid] = highest;
            load(values(b, kv_head), j0, TILE, VISITED, lid);
            workgroupBarrier();

            // Weights, not yet divided by the total.
            for (var m = 0u; m < TEAM; m++) {
                highest = max(highest, shared_parts[row * TEAM + m]);
            }
            let new_top = select(top, highest, highest > top + SLACK);
            let shrink = exp2(top - new_top);
            if (lid % TEAM == 0u) {
                factors[row] = shrink;
            }
            tiles++;
            if (shrink < 1.0 && top > LOWEST) {
                atomicStore(&rescaled[0], tiles);
            }
            top = new_top;
            total *= shrink;
            for (var n = 0u; n < SHARE; n++) {
                let j = n * TEAM + lid % TEAM;
                if (WHOLE || j < TILE) {
                    let weight = T(exp2(s[n] - top));
                    weights[row * WEIGHT_LINE + j] = weight;
                    total += f32(weight);
                }
            }
            workgroupBarrier();
            if (atomicLoad(&rescaled[0]) == tiles) {
                part00 = rescale(part00, mine, 0u, lid);
                part10 = rescale(part10, mine, EDGE, lid);
                if (OWN > 1u) {
                    part01 = rescale(part01, mine, 0u, lid);
                    part11 = rescale(part11, mine, EDGE, lid);
                }
            }
            if (has_part(mine)) {
                add_weighted(&part00, &part01, &part10, &part11, 0u, VISITED, mine.column);
            }
        }

        workgroupBarrier();
        shared_parts[lid] = total;
        workgroupBarrier();
        total = 0.0;
        for (var m = 0u; m < TEAM; m++) {
            total += shared_parts[row * TEAM + m];
        }
        // About 1 or more if a key is seen: the largest score's weight.
        let whole = max(total, 0.5);
        if (lid % TEAM == 0u) {
            factors[row] = select(0.0, 1.0 / whole, top > LOWEST);
            if (i < p.Tq) {
                lse[head * p.Tq + i] = select(LOWEST, (top + log2(whole)) * LN_2, top > LOWEST);
            }
        }
        workgroupBarrier();
        finish_part(part00, part01, part10, part11, 0u, mine, lid);
    }
}
