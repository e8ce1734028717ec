// Attention, backward. With P the softmax, Z what dropout multiplies it by (1 without), and dO the gradient of o:
//
//   dV = (P Z)^T dO      dP = (dO V^T) Z      dS = P (dP - delta)      dQ = dS K scale      dK = dS^T Q scale
//
// where delta = rowsum(dP P), which is rowsum(dO O) and comes from rowsum.wgsl. P is computed again as exp(score - lse),
// tile by tile, so nothing of size Tq x Tk is stored. dQ sums over keys while dK and dV sum over queries: two kernels,
// each owning what it sums, compute P twice, but need no atomics, and give the same bits every time (Dao,
// "FlashAttention-2", 2023, has the formulas). Both do the same steps: a team owns rows of a pair of matrices, q and dO
// for dq, k and v for dkdv, and visits rows of the other pair.
//
// Constants, parts, parameters: see common.wgsl
//
// Entry dq
//   Bindings: 1 q, 4 dO [B, NH, Tq, D], 2 k, 3 v [B, NKV, Tk, D] strided     5 lse, 6 delta [B, NH, Tq] f32
//             7 dq [B, NH, Tq, D] out, strided
//   Grid:     ceil(Tq / BAND) * B * NH workgroups, folded, heads fastest, last queries first
// Entry dkdv: a key head's rows visit the queries of each query head that reads it, in order
//   Bindings: 1 to 6 as for dq                     7 dk, 8 dv [B, NKV, Tk, D] out, both with p.dk's strides
//   Grid:     ceil(Tk / BAND) * B * NKV workgroups, folded, heads fastest. When causal, the first keys have the most
//             to do and come first.

@group(0) @binding(1) var<storage, read> q: array<vec4<T>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<T>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<T>>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<T>>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dq_out: array<vec4<T>>;
@group(0) @binding(7) var<storage, read_write> dk_out: array<vec4<T>>;
@group(0) @binding(8) var<storage, read_write> dv_out: array<vec4<T>>;

const B_PLACE: u32 = MATRIX;      // the tile's second matrix
const STATS: u32 = 2u * MATRIX;   // dkdv: a quad a query, of lse log2(e) and delta

var<workgroup> kept: array<u32, select(1u, DRAWN / 4u * BAND, DROPOUT)>; // [keys / 4][query]

// What a team owns: its rows of a, times scale log2(e), and of b. And of their products with STEP visited rows those that
// are this member's: of a they are the scores, of b dO V^T.
var<private> own_a: array<array<vec4<f32>, QUADS>, ROWS>;
var<private> own_b: array<array<vec4<f32>, QUADS>, ROWS>;
var<private> s: Own;
var<private> dp: Own;

fn products(step: u32, lid: u32, lane: u32) {
    var a: Parts;
    var b: Parts;
    for (var c = 0u; c < QUADS; c++) {
        let at = (c * SPLIT + lid % SPLIT) * STRIDE + step;
        let part_a = fetch(at, lane);
        let part_b = fetch(B_PLACE + at, lane);
        for (var n = 0u; n < STEP; n++) {
            let a4 = pick(part_a, at, n);
            let b4 = pick(part_b, B_PLACE + at, n);
            for (var r = 0u; r < ROWS; r++) {
                a[r][n] = with_dot(a[r][n], own_a[r][c], a4);
                b[r][n] = with_dot(b[r][n], own_b[r][c], b4);
            }
        }
    }
    s = added_up(a, lid);
    if (SPLIT > 1u) {
        workgroupBarrier();
    }
    dp = added_up(b, lid);
}

// The softmax of a score. A masked one may be far above the log-sum-exp.
fn softmax(s: f32, lse: f32, seen: bool) -> f32 {
    return exp2(select(MASKED, s, seen) - lse);
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
    let kv_head = h / (p.NH / p.NKV);
    let i0 = (bands - 1u - group / heads) * BAND;
    let q_start = place(p.q, b, h, 0u);
    let k_start = place(p.k, b, kv_head, 0u);
    let v_start = place(p.v, b, kv_head, 0u);
    let dout_start = place(p.dout, b, h, 0u);
    let dq_start = place(p.dq, b, h, 0u);
    let member = lid % SPLIT;
    let team = lid / SPLIT;
    let lane = lane_index();

    var sum: array<array<vec4<f32>, QUADS>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + r * TEAMS + team;
        if (i < p.Tq) {
            for (var c = 0u; c < QUADS; c++) {
                let quad = c * SPLIT + member;
                if (quad < D / 4u) {
                    own_a[r][c] = vec4<f32>(q[q_start + i * p.q.z + quad]) * (p.scale * LOG2_E);
                    own_b[r][c] = vec4<f32>(dout[dout_start + i * p.dout.z + quad]);
                }
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
            tile[B_PLACE + at] = v4;
        }
        let drawn = (j0 - visited.start) % DRAWN;
        if (DROPOUT && drawn == 0u) {
            for (var n = lid; n < DRAWN / 4u * BAND; n += BLOCK) {
                kept[n] = kept_keys(j0 / 4u + n / BAND, i0 + n % BAND, head);
            }
        }
        workgroupBarrier();

        for (var first = 0u; first < TILE; first += STEP) {
            let step = in_tile(first);
            products(step, lid, lane);
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
                let at = (c * SPLIT + member) * STRIDE + step;
                let part = fetch(at, lane);
                for (var j = 0u; j < STEP; j++) {
                    let k4 = pick(part, at, j);
                    for (var r = 0u; r < ROWS; r++) {
                        sum[r][c] += k4 * ds[r][j];
                    }
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + r * TEAMS + team;
        if (i < p.Tq) {
            for (var c = 0u; c < QUADS; c++) {
                let quad = c * SPLIT + member;
                if (quad < D / 4u) {
                    dq_out[dq_start + i * p.dq.z + quad] = vec4<T>(sum[r][c] * p.scale);
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
    let member = lid % SPLIT;
    let team = lid / SPLIT;
    let lane = lane_index();

    var sum_k: array<array<vec4<f32>, QUADS>, ROWS>;
    var sum_v: array<array<vec4<f32>, QUADS>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let j = j0 + r * TEAMS + team;
        if (j < p.Tk) {
            for (var c = 0u; c < QUADS; c++) {
                let quad = c * SPLIT + member;
                if (quad < D / 4u) {
                    own_a[r][c] = vec4<f32>(k[k_start + j * p.k.z + quad]) * (p.scale * LOG2_E);
                    own_b[r][c] = vec4<f32>(v[v_start + j * p.v.z + quad]);
                }
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
        let q_start = place(p.q, b, h, 0u);
        let dout_start = place(p.dout, b, h, 0u);
        for (var i0 = visited.start; i0 < visited.end; i0 += TILE) {
            workgroupBarrier(); // the last tile is read to its end
            for (var n = lid; n < TILE * LINE; n += BLOCK) {
                let i = i0 + n / LINE;
                let quad = n % LINE;
                var q4 = vec4<f32>();
                var dout4 = vec4<f32>();
                if (i < p.Tq && quad < D / 4u) {
                    q4 = vec4<f32>(q[q_start + i * p.q.z + quad]);
                    dout4 = vec4<f32>(dout[dout_start + i * p.dout.z + quad]);
                }
                let at = quad * STRIDE + n / LINE;
                tile[at] = q4;
                tile[B_PLACE + at] = dout4;
            }
            for (var n = lid; n < TILE; n += BLOCK) {
                var stats = vec4<f32>();
                if (i0 + n < p.Tq) {
                    stats.x = lse[head * p.Tq + i0 + n] * LOG2_E;
                    stats.y = delta[head * p.Tq + i0 + n];
                }
                tile[STATS + n] = stats;
            }
            let drawn = (i0 - visited.start) % DRAWN;
            if (DROPOUT && drawn == 0u) {
                for (var n = lid; n < BAND / 4u * DRAWN; n += BLOCK) {
                    kept[n] = kept_keys(j0 / 4u + n / DRAWN, i0 + n % DRAWN, head);
                }
            }
            workgroupBarrier();

            for (var first = 0u; first < TILE; first += STEP) {
                let step = in_tile(first);
                products(step, lid, lane);
                let at = step + run_of(lid);
                let part = fetch(STATS + at, lane);
                for (var x = 0u; x < RUN; x++) {
                    let stats = pick(part, STATS + at, x);
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
                    let at = (c * SPLIT + member) * STRIDE + step;
                    let part_a = fetch(at, lane);
                    let part_b = fetch(B_PLACE + at, lane);
                    for (var i = 0u; i < STEP; i++) {
                        let q4 = pick(part_a, at, i);
                        let dout4 = pick(part_b, B_PLACE + at, i);
                        for (var r = 0u; r < ROWS; r++) {
                            sum_k[r][c] += q4 * ds[r][i];
                            sum_v[r][c] += dout4 * dropped[r][i];
                        }
                    }
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let j = j0 + r * TEAMS + team;
        if (j < p.Tk) {
            for (var c = 0u; c < QUADS; c++) {
                let quad = c * SPLIT + member;
                if (quad < D / 4u) {
                    dk_out[out_start + j * p.dk.z + quad] = vec4<T>(sum_k[r][c] * p.scale);
                    dv_out[out_start + j * p.dk.z + quad] = vec4<T>(sum_v[r][c]);
                }
            }
        }
    }
}
