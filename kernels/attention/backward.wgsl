// Attention, backward. With P the softmax, Z what dropout multiplies it by (1 without), and dO the gradient of o:
//
//   dV = (P Z)^T dO      dP = (dO V^T) Z      dS = P (dP - delta)      dQ = dS K scale      dK = dS^T Q scale
//
// where delta = rowsum(dP P), which is rowsum(dO O). P is computed again as exp(score - lse), tile by tile, so nothing
// of size Tq x Tk is stored. dQ sums over keys while dK and dV sum over queries: two kernels, each owning what it sums,
// compute P twice, but need no atomics, and give the same bits every time (Dao, "FlashAttention-2", 2023, has the
// formulas). Both do the same steps: a team owns rows of a pair of matrices, q and dO for dq, k and v for dkdv, and
// visits rows of the other pair.
//
// Constants, parts, parameters: see common.wgsl
//
// Entry rowsum: delta = rowsum(dO O), one invocation a query
//   Bindings: 1 o, 2 dO [B, NH, Tq, D] strided     3 delta [B, NH, Tq] out, f32
//   Grid:     ceil(B NH Tq / BLOCK) workgroups, folded
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

@group(0) @binding(1) var<storage, read> delta_o: array<vec4<T>>;
@group(0) @binding(2) var<storage, read> delta_dout: array<vec4<T>>;
@group(0) @binding(3) var<storage, read_write> delta_out: array<f32>;

@compute @workgroup_size(BLOCK)
fn rowsum(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let n = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    if (n >= p.B * p.NH * p.Tq) {
        return;
    }
    let index = vec4(n / p.Tq / p.NH, n / p.Tq % p.NH, n % p.Tq, 1u);
    let o_start = dot(p.o, index);
    let d_start = dot(p.dout, index);
    var sums = vec4<f32>();
    for (var c = 0u; c < D / 4u; c++) {
        sums += vec4<f32>(delta_o[o_start + c]) * vec4<f32>(delta_dout[d_start + c]);
    }
    delta_out[n] = across(sums);
}

const B_PLACE: u32 = MATRIX;      // the tile's second matrix
const STATS: u32 = 2u * MATRIX;   // dkdv: a quad a query, of lse log2(e) and delta

var<workgroup> shares: array<vec4<f32>, select(1u, 2u * FOURS * ROWS * BLOCK, SPLIT > 1u)>;
var<workgroup> kept: array<u32, select(1u, TILE / 4u * BAND, DROPOUT)>; // [keys / 4][query]

// What a team owns: its rows of a, times scale log2(e), and of b. And its rows' products with STEP visited rows:
// a's are the scores, b's are dO V^T.
var<private> own_a: array<array<vec4<f32>, QUADS>, ROWS>;
var<private> own_b: array<array<vec4<f32>, QUADS>, ROWS>;
var<private> s: array<array<vec4<f32>, FOURS>, ROWS>;
var<private> dp: array<array<vec4<f32>, FOURS>, ROWS>;

fn products(step: u32, member: u32, team: u32, lane: u32) {
    for (var r = 0u; r < ROWS; r++) {
        for (var g = 0u; g < FOURS; g++) {
            s[r][g] = vec4(0.0);
            dp[r][g] = vec4(0.0);
        }
    }
    for (var c = 0u; c < QUADS; c++) {
        let at = (c * SPLIT + member) * STRIDE + step;
        let part_a = fetch(at, lane);
        let part_b = fetch(B_PLACE + at, lane);
        for (var g = 0u; g < FOURS; g++) {
            let a4 = four(part_a, at, g);
            let b4 = four(part_b, B_PLACE + at, g);
            for (var r = 0u; r < ROWS; r++) {
                s[r][g] = with_dots(s[r][g], own_a[r][c], a4);
                dp[r][g] = with_dots(dp[r][g], own_b[r][c], b4);
            }
        }
    }
    if (SPLIT > 1u) {
        let mine = team * SPLIT + member;
        for (var n = 0u; n < FOURS * ROWS; n++) {
            shares[2u * n * BLOCK + mine] = s[n / FOURS][n % FOURS];
            shares[(2u * n + 1u) * BLOCK + mine] = dp[n / FOURS][n % FOURS];
        }
        workgroupBarrier();
        for (var n = 0u; n < FOURS * ROWS; n++) {
            // All members add in the same order, and so agree to the last bit.
            var x = vec4<f32>();
            var y = vec4<f32>();
            for (var m = 0u; m < SPLIT; m++) {
                x += shares[2u * n * BLOCK + team * SPLIT + m];
                y += shares[(2u * n + 1u) * BLOCK + team * SPLIT + m];
            }
            s[n / FOURS][n % FOURS] = x;
            dp[n / FOURS][n % FOURS] = y;
        }
        workgroupBarrier();
    }
}

// The softmax of scores. Rounding may lift a score a little above its log-sum-exp, and a masked one may be far above:
// the bound keeps infinities out.
fn weights(s: vec4<f32>, lse: vec4<f32>, seen: vec4<bool>) -> vec4<f32> {
    return select(vec4(0.0), exp2(min(s - lse, vec4(0.0))), seen);
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
    let q_start = dot(p.q, vec4(b, h, 0u, 1u));
    let k_start = dot(p.k, vec4(b, kv_head, 0u, 1u));
    let v_start = dot(p.v, vec4(b, kv_head, 0u, 1u));
    let dout_start = dot(p.dout, vec4(b, h, 0u, 1u));
    let dq_start = dot(p.dq, vec4(b, h, 0u, 1u));
    let member = lid % SPLIT;
    let team = lid / SPLIT;
    let lane = lane_index();

    var keys: array<Interval, ROWS>;
    var lse_row: array<f32, ROWS>;
    var delta_row: array<f32, ROWS>;
    var sum: array<array<vec4<f32>, QUADS>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + r * TEAMS + team;
        if (i < p.Tq) {
            keys[r] = keys_of(i);
            lse_row[r] = lse[head * p.Tq + i] * LOG2_E;
            delta_row[r] = delta[head * p.Tq + i];
            for (var c = 0u; c < QUADS; c++) {
                let quad = c * SPLIT + member;
                if (quad < D / 4u) {
                    own_a[r][c] = vec4<f32>(q[q_start + i * p.q.z + quad]) * (p.scale * LOG2_E);
                    own_b[r][c] = vec4<f32>(dout[dout_start + i * p.dout.z + quad]);
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
            tile[B_PLACE + at] = v4;
        }
        if (DROPOUT) {
            for (var n = lid; n < TILE / 4u * BAND; n += BLOCK) {
                kept[n] = kept_keys(j0 / 4u + n / BAND, i0 + n % BAND, head);
            }
        }
        workgroupBarrier();

        for (var step = 0u; step < TILE; step += STEP) {
            products(step, member, team, lane);
            for (var r = 0u; r < ROWS; r++) {
                for (var g = 0u; g < FOURS; g++) {
                    let w = weights(s[r][g], vec4(lse_row[r]), contains(keys[r], j0 + step + g * 4u));
                    var d = dp[r][g];
                    if (DROPOUT) {
                        let bits = kept[(step / 4u + g) * BAND + r * TEAMS + team];
                        let keep = (vec4(bits) & vec4(1u, 2u, 4u, 8u)) != vec4(0u);
                        d = select(vec4(0.0), d * p.keep_scale, keep);
                    }
                    s[r][g] = w * (d - delta_row[r]);
                }
            }
            for (var c = 0u; c < QUADS; c++) {
                let at = (c * SPLIT + member) * STRIDE + step;
                let part = fetch(at, lane);
                for (var g = 0u; g < FOURS; g++) {
                    let k4 = four(part, at, g);
                    for (var r = 0u; r < ROWS; r++) {
                        sum[r][c] = with_rows(sum[r][c], k4, s[r][g]);
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
    let k_start = dot(p.k, vec4(b, kv_head, 0u, 1u));
    let v_start = dot(p.v, vec4(b, kv_head, 0u, 1u));
    let out_start = dot(p.dk, vec4(b, kv_head, 0u, 1u));
    let member = lid % SPLIT;
    let team = lid / SPLIT;
    let lane = lane_index();

    var queries: array<Interval, ROWS>;
    var sum_k: array<array<vec4<f32>, QUADS>, ROWS>;
    var sum_v: array<array<vec4<f32>, QUADS>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let j = j0 + r * TEAMS + team;
        if (j < p.Tk) {
            queries[r] = queries_of(j);
            for (var c = 0u; c < QUADS; c++) {
                let quad = c * SPLIT + member;
                if (quad < D / 4u) {
                    own_a[r][c] = vec4<f32>(k[k_start + j * p.k.z + quad]) * (p.scale * LOG2_E);
                    own_b[r][c] = vec4<f32>(v[v_start + j * p.v.z + quad]);
                }
            }
        }
    }

    let visited = visit(queries_of(j0), queries_of(min(j0 + BAND, p.Tk) - 1u));
    for (var h = kv_head * readers; h < (kv_head + 1u) * readers; h++) {
        let head = b * p.NH + h;
        let q_start = dot(p.q, vec4(b, h, 0u, 1u));
        let dout_start = dot(p.dout, vec4(b, h, 0u, 1u));
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
            if (DROPOUT) {
                for (var n = lid; n < BAND / 4u * TILE; n += BLOCK) {
                    kept[n] = kept_keys(j0 / 4u + n / TILE, i0 + n % TILE, head);
                }
            }
            workgroupBarrier();

            for (var step = 0u; step < TILE; step += STEP) {
                products(step, member, team, lane);
                let part = fetch(STATS + step, lane);
                for (var g = 0u; g < FOURS; g++) {
                    let stats = transpose(four(part, STATS + step, g));
                    for (var r = 0u; r < ROWS; r++) {
                        let w = weights(s[r][g], stats[0], contains(queries[r], i0 + step + g * 4u));
                        var d = dp[r][g];
                        var dropped = w;
                        if (DROPOUT) {
                            let key = r * TEAMS + team;
                            let at = key / 4u * TILE + step + g * 4u;
                            let bits = vec4(kept[at], kept[at + 1u], kept[at + 2u], kept[at + 3u]);
                            let keep = (bits & vec4(1u << (key % 4u))) != vec4(0u);
                            d = select(vec4(0.0), d * p.keep_scale, keep);
                            dropped = select(vec4(0.0), w * p.keep_scale, keep);
                        }
                        s[r][g] = w * (d - stats[1]);
                        dp[r][g] = dropped;
                    }
                }
                for (var c = 0u; c < QUADS; c++) {
                    let at = (c * SPLIT + member) * STRIDE + step;
                    let part_a = fetch(at, lane);
                    let part_b = fetch(B_PLACE + at, lane);
                    for (var g = 0u; g < FOURS; g++) {
                        let q4 = four(part_a, at, g);
                        let dout4 = four(part_b, B_PLACE + at, g);
                        for (var r = 0u; r < ROWS; r++) {
                            sum_k[r][c] = with_rows(sum_k[r][c], q4, s[r][g]);
                            sum_v[r][c] = with_rows(sum_v[r][c], dout4, dp[r][g]);
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
