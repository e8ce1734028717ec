// Attention, forward: o = dropout(softmax(q k^T scale + mask)) v, without ever storing the scores.
//
// A team owns queries and walks over the keys they see, with the softmax computed online: `top` is the largest score
// so far, `total` and `sum` are the sums of exp(score - top) and of exp(score - top) * v. When a larger score comes,
// both are rescaled (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022). Tiles that no query of the
// workgroup sees are skipped. For backward it keeps the log-sum-exp of each query's scores.
//
// A query that sees no key gets o = 0 and lse = LOWEST.
//
// Constants, parts, parameters: see common.wgsl
// Bindings:  1 q [B, NH, Tq, D], 2 k and 3 v [B, NKV, Tk, D], 4 o [B, NH, Tq, D] out: strided, unit stride along D
//            5 lse [B, NH, Tq] out, f32
// Grid:      ceil(Tq / BAND) * B * NH workgroups, folded over x and y, heads fastest. The last queries come first:
//            when causal they have the most to do.

@group(0) @binding(1) var<storage, read> q: array<vec4<T>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<T>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<T>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<T>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

const V_PLACE: u32 = MATRIX; // v's part of the tile, behind k's

var<workgroup> shares: array<vec4<f32>, select(1u, FOURS * ROWS * BLOCK, SPLIT > 1u)>;
var<workgroup> kept: array<u32, select(1u, TILE / 4u * BAND, DROPOUT)>; // [keys / 4][query]

@compute @workgroup_size(BLOCK)
fn forward(
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
    let kv_head = h / (p.NH / p.NKV);
    let i0 = (bands - 1u - group / heads) * BAND;
    let q_start = dot(p.q, vec4(b, h, 0u, 1u));
    let k_start = dot(p.k, vec4(b, kv_head, 0u, 1u));
    let v_start = dot(p.v, vec4(b, kv_head, 0u, 1u));
    let o_start = dot(p.o, vec4(b, h, 0u, 1u));
    let member = lid % SPLIT;
    let team = lid / SPLIT;
    let lane = lane_index();

    var query: array<array<vec4<f32>, QUADS>, ROWS>;
    var sum: array<array<vec4<f32>, QUADS>, ROWS>;
    var top: array<f32, ROWS>;
    var total: array<f32, ROWS>;
    var keys: array<Interval, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + r * TEAMS + team;
        top[r] = LOWEST;
        // A query beyond Tq sees nothing, like any that sees no key.
        if (i < p.Tq) {
            keys[r] = keys_of(i);
            for (var c = 0u; c < QUADS; c++) {
                let quad = c * SPLIT + member;
                if (quad < D / 4u) {
                    query[r][c] = vec4<f32>(q[q_start + i * p.q.z + quad]) * (p.scale * LOG2_E);
                }
            }
        }
    }

    let visited = visit(keys_of(i0), keys_of(min(i0 + BAND, p.Tq) - 1u));
    for (var j0 = visited.start; j0 < visited.end; j0 += TILE) {
        workgroupBarrier(); // the last tile is read to its end
        for (var n = lid; n < TILE * LINE; n += BLOCK) {
            let j = j0 + n / LINE;
            let quad = n % LINE;
            // Zeros beyond Tk: workgroup memory may hold NaN, and 0 * NaN is NaN.
            var k4 = vec4<f32>();
            var v4 = vec4<f32>();
            if (j < p.Tk && quad < D / 4u) {
                k4 = vec4<f32>(k[k_start + j * p.k.z + quad]);
                v4 = vec4<f32>(v[v_start + j * p.v.z + quad]);
            }
            let at = quad * STRIDE + n / LINE;
            tile[at] = k4;
            tile[V_PLACE + at] = v4;
        }
        if (DROPOUT) {
            // One block of random bits serves four keys, so they are drawn here, once for the whole team.
            for (var n = lid; n < TILE / 4u * BAND; n += BLOCK) {
                kept[n] = kept_keys(j0 / 4u + n / BAND, i0 + n % BAND, head);
            }
        }
        workgroupBarrier();

        for (var step = 0u; step < TILE; step += STEP) {
            // Scores with STEP keys.
            var s = array<array<vec4<f32>, FOURS>, ROWS>();
            for (var c = 0u; c < QUADS; c++) {
                let at = (c * SPLIT + member) * STRIDE + step;
                let part = fetch(at, lane);
                for (var g = 0u; g < FOURS; g++) {
                    let k4 = four(part, at, g);
                    for (var r = 0u; r < ROWS; r++) {
                        s[r][g] = with_dots(s[r][g], query[r][c], k4);
                    }
                }
            }
            if (SPLIT > 1u) {
                for (var n = 0u; n < FOURS * ROWS; n++) {
                    shares[n * BLOCK + lid] = s[n / FOURS][n % FOURS];
                }
                workgroupBarrier();
                for (var n = 0u; n < FOURS * ROWS; n++) {
                    // All members add in the same order, and so agree to the last bit.
                    var x = vec4<f32>();
                    for (var m = 0u; m < SPLIT; m++) {
                        x += shares[n * BLOCK + team * SPLIT + m];
                    }
                    s[n / FOURS][n % FOURS] = x;
                }
                workgroupBarrier();
            }

            // Their weights, not yet divided by the total.
            for (var r = 0u; r < ROWS; r++) {
                var new_top = top[r];
                for (var g = 0u; g < FOURS; g++) {
                    let x = select(vec4(LOWEST), s[r][g], contains(keys[r], j0 + step + g * 4u));
                    new_top = max(new_top, max(max(x.x, x.y), max(x.z, x.w)));
                    s[r][g] = x;
                }
                let shrink = exp2(top[r] - new_top);
                top[r] = new_top;
                var added = vec4<f32>();
                for (var g = 0u; g < FOURS; g++) {
                    var w = select(vec4(0.0), exp2(s[r][g] - new_top), s[r][g] > vec4(LOWEST));
                    // The softmax's total counts what dropout drops.
                    added += w;
                    if (DROPOUT) {
                        let bits = kept[(step / 4u + g) * BAND + r * TEAMS + team];
                        w = select(vec4(0.0), w, (vec4(bits) & vec4(1u, 2u, 4u, 8u)) != vec4(0u));
                    }
                    s[r][g] = w;
                }
                total[r] = total[r] * shrink + across(added);
                for (var c = 0u; c < QUADS; c++) {
                    sum[r][c] *= shrink;
                }
            }

            // Their values.
            for (var c = 0u; c < QUADS; c++) {
                let at = V_PLACE + (c * SPLIT + member) * STRIDE + step;
                let part = fetch(at, lane);
                for (var g = 0u; g < FOURS; g++) {
                    let v4 = four(part, at, g);
                    for (var r = 0u; r < ROWS; r++) {
                        sum[r][c] = with_rows(sum[r][c], v4, s[r][g]);
                    }
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + r * TEAMS + team;
        if (i < p.Tq) {
            var norm = 0.0;
            var log_sum = LOWEST;
            if (total[r] > 0.0) {
                norm = p.keep_scale / total[r];
                log_sum = (top[r] + log2(total[r])) * LN_2;
            }
            for (var c = 0u; c < QUADS; c++) {
                let quad = c * SPLIT + member;
                if (quad < D / 4u) {
                    o[o_start + i * p.o.z + quad] = vec4<T>(sum[r][c] * norm);
                }
            }
            if (member == 0u) {
                lse[head * p.Tq + i] = log_sum;
            }
        }
    }
}
