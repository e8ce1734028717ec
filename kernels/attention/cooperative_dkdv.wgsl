// Attention, backward to the keys and the values, by cooperative matrices, see cooperative_backward.wgsl: a key head's rows are
// owned, and visit the queries of each query head that reads it, in order.
//
// Workgroup memory is full with D = 128 and matrices of 16 x 16, so that scores have no padding and the statistics of the queries
// are read where they lie.
//
// Bindings:  those of cooperative_backward.wgsl, and 7 dk, 8 dv [B, NKV, Tk, D] out, both with p.dk's strides
// Grid:      ceil(Tk / BAND) * B * NKV workgroups, folded, heads fastest, first keys first

@group(0) @binding(7) var<storage, read_write> dk_out: array<vec4<T>>;
@group(0) @binding(8) var<storage, read_write> dv_out: array<vec4<T>>;

const QUERIES: u32 = TILE;
const KEYS: u32 = BAND;
const SCORE_LINE: u32 = KEYS;
const WEIGHT_LAYERS: u32 = 2u; // P and dS

// Where the band's outputs start.
var<private> out_start: u32;
var<private> first_key: u32;

fn finish(which: u32, row: u32, quad: u32, sums: vec4<f32>) {
    if (first_key + row < p.Tk) {
        let at = out_start + (first_key + row) * p.dk.z + quad;
        if (which == 0u) {
            dv_out[at] = vec4<T>(sums);
        } else {
            dk_out[at] = vec4<T>(sums * p.scale);
        }
    }
}

@compute @workgroup_size(THREADS)
fn dkdv_cooperative(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let bands = (p.Tk + BAND - 1u) / BAND;
    let heads = p.B * p.NKV;
    let group = wid.x + wid.y * nwg.x;
    if (group >= bands * heads) {
        return;
    }
    let b = group % heads / p.NKV;
    let kv_head = group % heads % p.NKV;
    let readers = p.NH / p.NKV;
    first_key = group / heads * BAND;
    out_start = place(p.dk, b, kv_head, 0u);
    load(keys(b, kv_head), first_key, BAND, 0u, lid);
    load(values(b, kv_head), first_key, BAND, BAND, lid);

    // The key of this invocation, of which it takes every TEAMth query of a tile. One beyond the last is seen by none.
    let scale2 = p.scale * LOG2_E;
    let row = lid % BAND;
    let j = first_key + row;
    var seeing: Interval;
    if (j < p.Tk) {
        seeing = queries_of(j);
    }
    let visited = visit(queries_of(first_key), queries_of(min(first_key + BAND, p.Tk) - 1u));
    for (var first = 0u; first < PARTS; first += min(subgroups, WORKERS)) {
        let mine = take_turn(first, subgroup, subgroups);
        var dv00: Sums;
        var dv01: Sums;
        var dv10: Sums;
        var dv11: Sums;
        var dk00: Sums;
        var dk01: Sums;
        var dk10: Sums;
        var dk11: Sums;
        for (var h = kv_head * readers; h < (kv_head + 1u) * readers; h++) {
            let stats = (b * p.NH + h) * p.Tq;
            for (var i0 = visited.start; i0 < visited.end; i0 += TILE) {
                workgroupBarrier();
                load(queries(b, h), i0, TILE, VISITED, lid);
                load(gradients(b, h), i0, TILE, VISITED + TILE, lid);
                workgroupBarrier();
                for (var n = subgroup; n < LAYERS * SCORES; n += subgroups) {
                    let layer = n / SCORES;
                    score(n % SCORES, layer, VISITED + layer * TILE, layer * BAND);
                }
                workgroupBarrier();
                for (var n = 0u; n < SHARE; n++) {
                    let i = n * TEAM + lid / BAND;
                    let query = min(i0 + i, p.Tq - 1u);
                    let seen = contains(seeing, i0 + i);
                    if (WHOLE || i < TILE) {
                        let at = i * SCORE_LINE + row;
                        let made = weights_at(at, scale2, lse[stats + query] * LOG2_E, delta[stats + query], seen);
                        weights[row * WEIGHT_LINE + i] = T(made.x);
                        weights[WEIGHT_LAYER + row * WEIGHT_LINE + i] = T(made.y);
                    }
                }
                workgroupBarrier();
                if (has_part(mine)) {
                    add_weighted(&dv00, &dv01, &dv10, &dv11, 0u, VISITED + TILE, mine.column);
                    add_weighted(&dk00, &dk01, &dk10, &dk11, 1u, VISITED, mine.column);
                }
            }
        }
        workgroupBarrier();
        finish_part(dv00, dv01, dv10, dv11, 0u, mine, lid);
        finish_part(dk00, dk01, dk10, dk11, 1u, mine, lid);
    }
}
