// Attention, backward to the keys and the values, see backward.wgsl: a key head's rows are owned, and visit the queries
// of each query head that reads it, in order.
//
// Bindings:  those of backward.wgsl, and 7 dk, 8 dv [B, NKV, Tk, D] out, both with p.dk's strides
// Grid:      ceil(Tk / BAND) * B * NKV workgroups, folded, heads fastest. When causal, the first keys have the most to do
//            and come first.

@group(0) @binding(7) var<storage, read_write> dk_out: array<vec4<T>>;
@group(0) @binding(8) var<storage, read_write> dv_out: array<vec4<T>>;

var<private> sum_k: Rows;
var<private> sum_v: Rows;

// Which queries see the keys that this member has scores of.
var<private> queries: array<Interval, OWN>;

// Takes in the queries of a span.
fn attend(span: Visit, reader: u32, lid: u32) {
    for (var i0 = span.start; i0 < span.end; i0 += TILE) {
        load_tile(i0, lid);
        tile_ready();

        for (var step = 0u; step < TILE; step += STEP) {
            var step_q = step_a(i0, step, reader);
            var step_dout = step_b(i0, step, reader);
            var of_step = step_stats(i0, step, reader);
            var parts_q: Parts;
            var parts_dout: Parts;
            for (var i = 0u; i < STEP; i++) {
                let stats = pick_stats(&of_step, i);
                for (var r = 0u; r < ROWS; r++) {
                    parts_q[r][i] = stats.x;
                    parts_dout[r][i] = stats.y;
                }
            }
            products(&parts_q, &parts_dout, &step_q, &step_dout, lid);
            for (var x = 0u; x < RUN; x++) {
                let at = seat.run + x;
                for (var n = 0u; n < OWN; n++) {
                    let w = softmax(s[n][x], contains(queries[n], i0 + step + at));
                    var d = dp[n][x];
                    dp[n][x] = w;
                    if (DROPOUT) {
                        let key = owned(n);
                        let keep = mask(kept[key / 4u * QUERIES + i0 - span.start + step + at], key % 4u);
                        d = merged(d, pick_stats(&of_step, at).y * f32(SPLIT), keep);
                        dp[n][x] = masked(w, keep);
                    }
                    s[n][x] = w * d;
                }
            }
            let ds = of_team(s);
            if (SPLIT > 1u) {
                workgroupBarrier();
            }
            let dropped = of_team(dp);
            for (var c = 0u; c < QUADS; c++) {
                for (var i = 0u; i < STEP; i++) {
                    let q4 = pick(&step_q, c, i);
                    let dout4 = pick(&step_dout, c, i);
                    for (var r = 0u; r < ROWS; r++) {
                        sum_k[r][c] += q4 * ds[r][i];
                        sum_v[r][c] += dout4 * dropped[r][i];
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(BLOCK)
fn dkdv(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
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
    let j0 = group / heads * BAND;
    let k_start = place(p.k, b, kv_head, 0u);
    let v_start = place(p.v, b, kv_head, 0u);
    let out_start = place(p.dk, b, kv_head, 0u);
    let team = lid / SPLIT;
    let reader = reader(lid);
    sit(lid);

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let j = j0 + r * TEAMS + team;
            if (j < p.Tk) {
                var quads_a: Round;
                var quads_b: Round;
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + seat.member;
                    if (quad < D / 4u) {
                        quads_a[x] = vec4<f32>(k[k_start + j * p.k.z + quad]) * (p.scale * LOG2_E);
                        quads_b[x] = vec4<f32>(v[v_start + j * p.v.z + quad]) * keep_scale();
                    }
                }
                put(&own_a, r, round, &quads_a);
                put(&own_b, r, round, &quads_b);
            }
        }
    }
    for (var n = 0u; n < OWN; n++) {
        let j = j0 + owned(n);
        if (j < p.Tk) {
            queries[n] = queries_of(j);
        }
    }

    let visited = visit(queries_of(j0), queries_of(min(j0 + BAND, p.Tk) - 1u));
    for (var h = kv_head * readers; h < (kv_head + 1u) * readers; h++) {
        let head = b * p.NH + h;
        visit_head(b, h);
        var span = visited;
        loop {
            if (DROPOUT) {
                span.end = min(span.start + DRAWN, visited.end);
                draw(j0, span.start, head, lid);
            }
            attend(span, reader, lid);
            span.start = span.end;
            if (span.start >= visited.end) {
                break;
            }
        }
    }

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let j = j0 + r * TEAMS + team;
            if (j < p.Tk) {
                var quads_k = take(&sum_k, r, round);
                var quads_v = take(&sum_v, r, round);
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + seat.member;
                    if (quad < D / 4u) {
                        dk_out[out_start + j * p.dk.z + quad] = vec4<T>(quads_k[x] * p.scale);
                        dv_out[out_start + j * p.dk.z + quad] = vec4<T>(quads_v[x] * keep_scale());
                    }
                }
            }
        }
    }
}
