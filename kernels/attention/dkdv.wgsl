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
    let member = lid % SPLIT;
    let team = lid / SPLIT;
    let reader = reader(lid);

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let j = j0 + r * TEAMS + team;
            if (j < p.Tk) {
                var quads_a: Round;
                var quads_b: Round;
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + member;
                    if (quad < D / 4u) {
                        quads_a[x] = vec4<f32>(k[k_start + j * p.k.z + quad]) * (p.scale * LOG2_E);
                        quads_b[x] = vec4<f32>(v[v_start + j * p.v.z + quad]);
                    }
                }
                put(&own_a, r, round, &quads_a);
                put(&own_b, r, round, &quads_b);
            }
        }
    }
    var queries: array<Interval, OWN>;
    for (var n = 0u; n < OWN; n++) {
        let j = j0 + row_of(n, lid) * TEAMS + team;
        if (j < p.Tk) {
            queries[n] = queries_of(j);
        }
    }

    let visited = visit(queries_of(j0), queries_of(min(j0 + BAND, p.Tk) - 1u));
    for (var h = kv_head * readers; h < (kv_head + 1u) * readers; h++) {
        let head = b * p.NH + h;
        visit_head(b, h);
        for (var i0 = visited.start; i0 < visited.end; i0 += TILE) {
            load_tile(i0, lid);
            let drawn = (i0 - visited.start) % DRAWN;
            if (DROPOUT && drawn == 0u) {
                for (var n = lid; n < BAND / 4u * DRAWN; n += BLOCK) {
                    kept[n] = kept_keys(j0 / 4u + n / DRAWN, i0 + n % DRAWN, head);
                }
            }
            tile_ready();

            for (var step = 0u; step < TILE; step += STEP) {
                var step_q = step_a(i0, step, reader);
                var step_dout = step_b(i0, step, reader);
                products(&step_q, &step_dout, lid);
                let at = step + run_of(lid);
                var of_step = step_stats(i0, at, reader);
                for (var x = 0u; x < RUN; x++) {
                    let stats = pick_stats(&of_step, x);
                    for (var n = 0u; n < OWN; n++) {
                        let w = softmax(s[n][x], stats.x, contains(queries[n], i0 + at + x));
                        var d = dp[n][x];
                        var dropped = w;
                        if (DROPOUT) {
                            let key = row_of(n, lid) * TEAMS + team;
                            let keep = keeps(kept[key / 4u * DRAWN + drawn + at + x], key);
                            d = select(0.0, d * p.keep_scale, keep);
                            dropped = select(0.0, w * p.keep_scale, keep);
                        }
                        s[n][x] = w * (d - stats.y);
                        dp[n][x] = dropped;
                    }
                }
                let ds = of_team(s, lid);
                if (SPLIT > 1u) {
                    workgroupBarrier();
                }
                let dropped = of_team(dp, lid);
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

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let j = j0 + r * TEAMS + team;
            if (j < p.Tk) {
                var quads_k = take(&sum_k, r, round);
                var quads_v = take(&sum_v, r, round);
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + member;
                    if (quad < D / 4u) {
                        dk_out[out_start + j * p.dk.z + quad] = vec4<T>(quads_k[x] * p.scale);
                        dv_out[out_start + j * p.dk.z + quad] = vec4<T>(quads_v[x]);
                    }
                }
            }
        }
    }
}
