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
// Constants, parts: see common.wgsl, then this, then dq.wgsl or dkdv.wgsl
// Bindings:  1 q, 4 dO [B, NH, Tq, D], 2 k, 3 v [B, NKV, Tk, D] strided     5 lse, 6 delta [B, NH, Tq] f32

@group(0) @binding(1) var<storage, read> q: array<vec4<T>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<T>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<T>>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<T>>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;

// What a team owns: its rows of a, times scale log2(e), and of b, times dropout's scale. And what is this member's of
// their products with STEP visited rows: of a scores less the log-sum-exp, of b dP less delta, where nothing is dropped.
const APART: bool = false;

var<private> own_a: Rows;
var<private> own_b: Rows;
var<private> s: Own;
var<private> dp: Own;

// 1 without dropout, which compilers then know.
fn keep_scale() -> f32 {
    return select(1.0, p.keep_scale, DROPOUT);
}

// Those of a query, as each member starts its part with them: the sum over the team is then as above.
fn stats_of(row: u32) -> vec2<f32> {
    return vec2(lse[row] * LOG2_E, delta[row]) / -f32(SPLIT);
}

// Adds the products to where the members' parts start.
fn products(
    parts_a: ptr<function, Parts>,
    parts_b: ptr<function, Parts>,
    step_a: ptr<function, Step>,
    step_b: ptr<function, Step>,
    lid: u32,
) {
    for (var c = 0u; c < QUADS; c++) {
        for (var n = 0u; n < STEP; n++) {
            let a4 = pick(step_a, c, n);
            let b4 = pick(step_b, c, n);
            for (var r = 0u; r < ROWS; r++) {
                (*parts_a)[r][n] = with_dot((*parts_a)[r][n], own_a[r][c], a4);
                (*parts_b)[r][n] = with_dot((*parts_b)[r][n], own_b[r][c], b4);
            }
        }
    }
    s = added_up(*parts_a, lid);
    if (SPLIT > 1u) {
        workgroupBarrier();
    }
    dp = added_up(*parts_b, lid);
}
