// Attention, backward to the queries, see backward.wgsl: queries are owned, and visit keys.
//
// Bindings:  those of backward.wgsl, and 7 dq [B, NH, Tq, D] out, strided
// Grid:      ceil(Tq / BAND) * B * NH workgroups, folded, heads fastest, last queries first

@group(0) @binding(7) var<storage, read_write> dq_out: array<vec4<T>>;

var<private> sum: Rows;

@compute @workgroup_size(BLOCK)
fn dq(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
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
    let i0 = (bands - 1u - group / heads) * BAND;
    let q_start = place(p.q, b, h, 0u);
    let dout_start = place(p.dout, b, h, 0u);
    let dq_start = place(p.dq, b, h, 0u);
    let member = lid % SPLIT;
    let team = lid / SPLIT;
    let reader = reader(lid);
    visit_head(b, h / (p.NH / p.NKV));

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let i = i0 + r * TEAMS + team;
            if (i < p.Tq) {
                var quads_a: Round;
                var quads_b: Round;
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + member;
                    if (quad < D / 4u) {
                        quads_a[x] = vec4<f32>(q[q_start + i * p.q.z + quad]) * (p.scale * LOG2_E);
                        quads_b[x] = vec4<f32>(dout[dout_start + i * p.dout.z + quad]);
                    }
                }
                put(&own_a, r, round, &quads_a);
                put(&own_b, r, round, &quads_b);
            }
        }
    }
    var keys: array<Interval, OWN>;
    var lse_row: array<f32, OWN>;
    var delta_row: array<f32, OWN>;
    for (var n = 0u; n < OWN; n++) {
        let i = i0 + row_of(n, lid) * TEAMS + team;
        if (i < p.Tq) {
            keys[n] = keys_of(i);
            lse_row[n] = lse[head * p.Tq + i] * LOG2_E;
            delta_row[n] = delta[head * p.Tq + i];
        }
    }

    let visited = visit(keys_of(i0), keys_of(min(i0 + BAND, p.Tq) - 1u));
    for (var j0 = visited.start; j0 < visited.end; j0 += TILE) {
        load_tile(j0, lid);
        let drawn = (j0 - visited.start) % DRAWN;
        if (DROPOUT && drawn == 0u) {
            for (var n = lid; n < DRAWN / 4u * BAND; n += BLOCK) {
                kept[n] = kept_keys(j0 / 4u + n / BAND, i0 + n % BAND, head);
            }
        }
        tile_ready();

        for (var step = 0u; step < TILE; step += STEP) {
            var step_k = step_a(j0, step, reader);
            var step_v = step_b(j0, step, reader);
            products(&step_k, &step_v, lid);
            for (var n = 0u; n < OWN; n++) {
                for (var x = 0u; x < RUN; x++) {
                    let j = step + run_of(lid) + x;
                    let w = softmax(s[n][x], lse_row[n], contains(keys[n], j0 + j));
                    var d = dp[n][x];
                    if (DROPOUT) {
                        let bits = kept[(drawn + j) / 4u * BAND + row_of(n, lid) * TEAMS + team];
                        d = select(0.0, d * p.keep_scale, keeps(bits, j));
                    }
                    s[n][x] = w * (d - delta_row[n]);
                }
            }
            let ds = of_team(s, lid);
            for (var c = 0u; c < QUADS; c++) {
                for (var j = 0u; j < STEP; j++) {
                    let k4 = pick(&step_k, c, j);
                    for (var r = 0u; r < ROWS; r++) {
                        sum[r][c] += k4 * ds[r][j];
                    }
                }
            }
        }
    }

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let i = i0 + r * TEAMS + team;
            if (i < p.Tq) {
                var quads = take(&sum, r, round);
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + member;
                    if (quad < D / 4u) {
                        dq_out[dq_start + i * p.dq.z + quad] = vec4<T>(quads[x] * p.scale);
                    }
                }
            }
        }
    }
}
