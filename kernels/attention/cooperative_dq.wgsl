// Attention, backward to the queries, by cooperative matrices, see cooperative_backward.wgsl: queries are owned, and visit keys.
//
// Bindings:  those of cooperative_backward.wgsl, and 7 dq [B, NH, Tq, D] out, strided
// Grid:      ceil(Tq / BAND) * B * NH workgroups, folded, heads fastest, last queries first

@group(0) @binding(7) var<storage, read_write> dq_out: array<vec4<T>>;

const QUERIES: u32 = BAND;
const KEYS: u32 = TILE;
const SCORE_LINE: u32 = KEYS + 4u;
const WEIGHT_LAYERS: u32 = 1u;

// Where the band's outputs start.
var<private> dq_start: u32;
var<private> first_query: u32;

fn finish(which: u32, row: u32, quad: u32, sums: vec4<f32>) {
    if (first_query + row < p.Tq) {
        dq_out[dq_start + (first_query + row) * p.dq.z + quad] = vec4<T>(sums * p.scale);
    }
}

@compute @workgroup_size(THREADS)
fn dq_cooperative(
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
    dq_start = place(p.dq, b, h, 0u);
    load(queries(b, h), first_query, BAND, 0u, lid);
    load(gradients(b, h), first_query, BAND, BAND, lid);

    // The query of this invocation's team. One beyond the last sees nothing.
    let scale2 = p.scale * LOG2_E;
    let row = lid / TEAM;
    let i = first_query + row;
    var seen: Interval;
    var lse2 = 0.0;
    var row_delta = 0.0;
    if (i < p.Tq) {
        seen = keys_of(i);
        lse2 = lse[head * p.Tq + i] * LOG2_E;
        row_delta = delta[head * p.Tq + i];
    }
    let visited = visit(keys_of(first_query), keys_of(min(first_query + BAND, p.Tq) - 1u));
    for (var first = 0u; first < PARTS; first += min(subgroups, WORKERS)) {
        let mine = take_turn(first, subgroup, subgroups);
        var part00: Sums;
        var part01: Sums;
        var part10: Sums;
        var part11: Sums;
        for (var j0 = visited.start; j0 < visited.end; j0 += TILE) {
            workgroupBarrier();
            load(keys(b, kv_head), j0, TILE, VISITED, lid);
            load(values(b, kv_head), j0, TILE, VISITED + TILE, lid);
            workgroupBarrier();
            for (var n = subgroup; n < LAYERS * SCORES; n += subgroups) {
                let layer = n / SCORES;
                score(n % SCORES, layer, layer * BAND, VISITED + layer * TILE);
            }
            workgroupBarrier();
            for (var n = 0u; n < SHARE; n++) {
                let j = n * TEAM + lid % TEAM;
                if (WHOLE || j < TILE) {
                    let made = weights_at(row * SCORE_LINE + j, scale2, lse2, row_delta, contains(seen, j0 + j));
                    weights[row * WEIGHT_LINE + j] = T(made.y);
                }
            }
            workgroupBarrier();
            if (has_part(mine)) {
                add_weighted(&part00, &part01, &part10, &part11, 0u, VISITED, mine.column);
            }
        }
        workgroupBarrier();
        finish_part(part00, part01, part10, part11, 0u, mine, lid);
    }
}
