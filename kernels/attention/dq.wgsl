// Attention, backward to the queries, see backward.wgsl: queries are owned, and visit keys.
//
// Bindings:  those of backward.wgsl, and 7 dq [B, NH, Tq, D] out, strided
// Grid:      ceil(Tq / BAND) * B * NH workgroups, folded, heads fastest, last queries first

@group(0) @binding(7) var<storage, read_write> dq_out: array<vec4<T>>;

var<private> sum: Rows;

// Of the rows that this member has scores of: which keys they see, and delta. Of all rows of the team: where parts start.
var<private> keys: array<Interval, OWN>;
var<private> minus_delta: array<f32, OWN>;
var<private> stats: array<vec2<f32>, ROWS>;

// Takes in the keys of a span.
fn attend(span: Visit, reader: u32, lid: u32) {
    for (var j0 = span.start; j0 < span.end; j0 += TILE) {
        load_tile(j0, lid);
        tile_ready();

        for (var step = 0u; step < TILE; step += STEP) {
            var step_k = step_a(j0, step, reader);
            var step_v = step_b(j0, step, reader);
            var parts_k: Parts;
            var parts_v: Parts;
            for (var r = 0u; r < ROWS; r++) {
                for (var j = 0u; j < STEP; j++) {
                    parts_k[r][j] = stats[r].x;
                    parts_v[r][j] = stats[r].y;
                }
            }
            products(&parts_k, &parts_v, &step_k, &step_v, lid);
            for (var n = 0u; n < OWN; n++) {
                for (var x = 0u; x < RUN; x++) {
                    var d = dp[n][x];
                    if (DROPOUT) {
                        let bits = kept[kept_at(j0 - span.start + step, x, n)];
                        d = merged(d, minus_delta[n], mask(bits, bit_of(step, x)));
                    }
                    s[n][x] = softmax(s[n][x], contains(keys[n], j0 + step + seat.run + x)) * d;
                }
            }
            let ds = of_team(s);
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
}

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
    let team = lid / SPLIT;
    let reader = reader(lid);
    sit(lid);
    visit_head(b, h / (p.NH / p.NKV));

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let i = i0 + r * TEAMS + team;
            if (i < p.Tq) {
                var quads_a: Round;
                var quads_b: Round;
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + seat.member;
                    if (quad < D / 4u) {
                        quads_a[x] = vec4<f32>(q[q_start + i * p.q.z + quad]) * (p.scale * LOG2_E);
                        quads_b[x] = vec4<f32>(dout[dout_start + i * p.dout.z + quad]) * keep_scale();
                    }
                }
                put(&own_a, r, round, &quads_a);
                put(&own_b, r, round, &quads_b);
            }
        }
    }
    for (var n = 0u; n < OWN; n++) {
        let i = i0 + owned(n);
        if (i < p.Tq) {
            keys[n] = keys_of(i);
            minus_delta[n] = -delta[head * p.Tq + i];
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + r * TEAMS + team;
        if (i < p.Tq) {
            stats[r] = stats_of(head * p.Tq + i);
        }
    }

    let visited = visit(keys_of(i0), keys_of(min(i0 + BAND, p.Tq) - 1u));
    var span = visited;
    loop {
        if (DROPOUT) {
            span.end = min(span.start + DRAWN, visited.end);
            draw(span.start, i0, head, lid);
        }
        attend(span, reader, lid);
        span.start = span.end;
        if (span.start >= visited.end) {
            break;
        }
    }

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let i = i0 + r * TEAMS + team;
            if (i < p.Tq) {
                var quads = take(&sum, r, round);
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + seat.member;
                    if (quad < D / 4u) {
                        dq_out[dq_start + i * p.dq.z + quad] = vec4<T>(quads[x] * p.scale);
                    }
                }
            }
        }
    }
}
