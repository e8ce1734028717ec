// Attention, forward: o = dropout(softmax(q k^T scale + mask)) v, without ever storing the scores.
//
// A team owns queries and walks over the keys they see, with the softmax computed online: `top` is about the largest score
// so far, `total` and `sum` are the sums of exp(score - top) and of exp(score - top) * v. When a much larger score comes,
// both are rescaled (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022). Tiles that no query of the
// workgroup sees are skipped. For backward it keeps the log-sum-exp of each query's scores.
//
// A query that sees no key gets o = 0 and lse = LOWEST.
//
// Rows are the queries of a head. A few queries of many keys, as when text is generated, would occupy little of a GPU and
// read the keys once for each head. Then p.chunk is not 0, and rows are the queries of all heads that read one key head,
// row n query n / sharers of the n % sharers-th of them; and the keys that a workgroup's rows see are cut into chunks, a
// workgroup each (Dao et al., "Flash-Decoding for long-context inference", 2023). If there are several, each gives the o
// and the lse of its part of the keys, and combine.wgsl makes one softmax of them.
//
// Constants, parts: see common.wgsl, with keys.wgsl, and
//            O: what o holds, T, or f32 where it is of chunks
// Bindings:  1 q [B, NH, Tq, D], 2 k and 3 v [B, NKV, Tk, D], 4 o [B, NH, Tq, D] out: strided, unit stride along D
//            5 lse [B, NH, Tq] out, f32; of several chunks o and lse are [chunks, B, NH, Tq ..], o without gaps
// Grid:      bands * B * NH (or B * NKV) * chunks workgroups, folded over x and y, heads fastest, chunks slowest, with
//            bands = ceil(rows / BAND). The last queries come first: when causal they have the most to do.

@group(0) @binding(1) var<storage, read> q: array<vec4<T>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<T>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<T>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<O>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

// Scores may be above the top, and weights so many powers of two, before sums are rescaled, which is then rare.
const SLACK: f32 = 8.0;

// Whether every member knows the top of all rows of its team: it has the only row, or is alone.
const KNOWN: bool = SPLIT == 1u || ROWS == 1u;

// The queries, times scale log2(e), and for each the sum of weighted values.
var<private> query: Rows;
var<private> sum: Rows;

// Of the rows that this member has scores of: the top, 0 before a key is seen; how far above it a score may be, LOWEST
// before; the sum of weights, of the keys that are this member's; and which keys the row sees.
var<private> top: array<f32, OWN>;
var<private> slack: array<f32, OWN>;
var<private> total: array<f32, OWN>;
var<private> keys: array<Interval, OWN>;

var<private> factors: array<f32, OWN>;
var<workgroup> shared_factors: array<f32, select(4u, TEAMS * ROWS, !KNOWN)>; // [team][row]
var<workgroup> shared_runs: array<f32, select(4u, TEAMS * ROWS * RUNS, RUNS > 1u)>; // [team][row][run]

// Tells the team what the nth row of this member is to be multiplied by.
fn tell(n: u32, factor: f32, lid: u32) {
    if (KNOWN) {
        factors[n] = factor;
    } else if (ROWS == SPLIT || seat.member < ROWS) {
        shared_factors[lid / SPLIT * ROWS + row_of(n)] = factor;
    }
}

// What the team was told of a row, after a barrier.
fn told(row: u32, lid: u32) -> f32 {
    if (KNOWN) {
        return factors[row];
    }
    return shared_factors[lid / SPLIT * ROWS + row];
}

// The sum and the largest of what the members have that share a row. A barrier must come before the next call.
fn of_runs(x: f32, n: u32, lid: u32) -> vec2<f32> {
    var both = vec2(x);
    if (RUNS > 1u) {
        let row = (lid / SPLIT * ROWS + row_of(n)) * RUNS;
        if (MAKERS == SPLIT || seat.member < MAKERS) {
            shared_runs[row + seat.run / RUN] = x;
        }
        workgroupBarrier();
        both = vec2(0.0, x);
        for (var run = 0u; run < RUNS; run++) {
            both.x += shared_runs[row + run];
            both.y = max(both.y, shared_runs[row + run]);
        }
    }
    return both;
}

// Takes in the keys of a span.
fn attend(span: Visit, reader: u32, lid: u32) {
    for (var j0 = span.start; j0 < span.end; j0 += TILE) {
        load_tile(j0, lid);
        tile_ready();

        for (var step = 0u; step < TILE; step += STEP) {
            // Parts of the scores with STEP keys. They start so that the sum is how far a score is above the top.
            var parts: Parts;
            if (KNOWN) {
                for (var r = 0u; r < ROWS; r++) {
                    for (var j = 0u; j < STEP; j++) {
                        parts[r][j] = top[r] / -f32(SPLIT);
                    }
                }
            }
            var step_k = step_a(j0, step, reader);
            for (var c = 0u; c < QUADS; c++) {
                for (var j = 0u; j < STEP; j++) {
                    let k4 = pick(&step_k, c, j);
                    for (var r = 0u; r < ROWS; r++) {
                        parts[r][j] = with_dot(parts[r][j], query[r][c], k4);
                    }
                }
            }

            // Weights, not yet divided by the total.
            var s = added_up(parts, lid);
            turn_tile(j0, lid);
            for (var n = 0u; n < OWN; n++) {
                let above = select(top[n], 0.0, KNOWN);
                var highest = LOWEST;
                for (var x = 0u; x < RUN; x++) {
                    s[n][x] = select(MASKED, s[n][x], contains(keys[n], j0 + step + seat.run + x));
                    highest = max(highest, s[n][x]);
                }
                highest = of_runs(highest, n, lid).y - above;
                let rises = highest > slack[n];
                let rise = select(0.0, highest, rises);
                slack[n] = select(slack[n], SLACK, rises);
                // The first top may be below 0, but then there is nothing to rescale.
                let shrink = exp2(min(-rise, 0.0));
                tell(n, shrink, lid);
                top[n] += rise;
                total[n] *= shrink;
                for (var x = 0u; x < RUN; x++) {
                    s[n][x] = exp2(s[n][x] - (above + rise));
                    // The softmax's total counts what dropout drops.
                    total[n] += s[n][x];
                    if (DROPOUT) {
                        let bits = kept[kept_at(j0 - span.start + step, x, n)];
                        s[n][x] = masked(s[n][x], mask(bits, bit_of(step, x)));
                    }
                }
            }

            let weights = of_team(s);
            var shrinks: array<f32, ROWS>;
            var shrunk = SPLIT == 1u;
            for (var r = 0u; r < ROWS; r++) {
                shrinks[r] = told(r, lid);
                shrunk |= shrinks[r] < 1.0;
            }
            if (shrunk) {
                for (var r = 0u; r < ROWS; r++) {
                    for (var c = 0u; c < QUADS; c++) {
                        sum[r][c] *= shrinks[r];
                    }
                }
            }

            // The values, weighted.
            var step_v = step_b(j0, step, reader);
            for (var c = 0u; c < QUADS; c++) {
                for (var j = 0u; j < STEP; j++) {
                    let v4 = pick(&step_v, c, j);
                    for (var r = 0u; r < ROWS; r++) {
                        sum[r][c] += v4 * weights[r][j];
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(BLOCK)
fn forward(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let sharers = select(1u, p.NH / p.NKV, p.chunk > 0u && !DROPOUT);
    let rows = p.Tq * sharers;
    let bands = (rows + BAND - 1u) / BAND;
    let heads = p.B * p.NH / sharers;
    let group = wid.x + wid.y * nwg.x;
    if (group >= bands * heads * p.chunks) {
        return;
    }
    let head = group % heads * sharers;
    let b = head / p.NH;
    let h = head % p.NH;
    let band = bands - 1u - group / heads % bands;
    let chunk = group / heads / bands;
    let team = lid / SPLIT;
    let reader = reader(lid);
    sit(lid);
    visit_head(b, h / (p.NH / p.NKV));

    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let row = band * BAND + r * TEAMS + team;
            if (row < rows) {
                let start = place(p.q, b, h + row % sharers, row / sharers);
                var quads: Round;
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + seat.member;
                    if (quad < D / 4u) {
                        quads[x] = vec4<f32>(q[start + quad]) * (p.scale * LOG2_E);
                    }
                }
                put(&query, r, round, &quads);
            }
        }
    }
    for (var n = 0u; n < OWN; n++) {
        let row = band * BAND + owned(n);
        slack[n] = LOWEST;
        // A row beyond the last sees nothing, like any that sees no key.
        if (row < rows) {
            keys[n] = keys_of(row / sharers);
        }
    }

    let last_row = min(band * BAND + BAND, rows) - 1u;
    var visited = visit(keys_of(band * BAND / sharers), keys_of(last_row / sharers));
    if (p.chunk > 0u) {
        visited.start += chunk * p.chunk;
        visited.end = min(visited.end, visited.start + p.chunk);
    }
    var span = visited;
    loop {
        if (DROPOUT) {
            span.end = min(span.start + DRAWN, visited.end);
            draw(span.start, band * BAND, head, lid);
        }
        attend(span, reader, lid);
        span.start = span.end;
        if (span.start >= visited.end) {
            break;
        }
    }

    // Totals are known to those that made weights, and every member divides by them.
    workgroupBarrier();
    let part = chunk * p.B * p.NH + head;
    for (var n = 0u; n < OWN; n++) {
        let row = band * BAND + owned(n);
        let seen = slack[n] > LOWEST;
        // About 1 or more if a key is seen: the largest score's weight.
        let whole = max(of_runs(total[n], n, lid).x, 0.5);
        tell(n, select(0.0, p.keep_scale / whole, seen), lid);
        if (row < rows && seat.member < ROWS) {
            let log_sum = select(LOWEST, (top[n] + log2(whole)) * LN_2, seen);
            lse[(part + row % sharers) * p.Tq + row / sharers] = log_sum;
        }
    }
    workgroupBarrier();
    for (var round = 0u; round < QUADS; round += ROUND) {
        for (var r = 0u; r < ROWS; r++) {
            let row = band * BAND + r * TEAMS + team;
            if (row < rows) {
                let start = place(p.o, b + chunk * p.B, h + row % sharers, row / sharers);
                var quads = take(&sum, r, round);
                for (var x = 0u; x < ROUND; x++) {
                    let quad = (round + x) * SPLIT + seat.member;
                    if (quad < D / 4u) {
                        o[start + quad] = vec4<O>(quads[x] * told(r, lid));
                    }
                }
            }
        }
    }
}
