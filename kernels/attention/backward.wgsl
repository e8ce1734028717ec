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

var<workgroup> kept: array<u32, select(1u, DRAWN / 4u * BAND, DROPOUT)>; // [keys / 4][query]

// What a team owns: its rows of a, times scale log2(e), and of b. And of their products with STEP visited rows those that
// are this member's: of a they are the scores, of b dO V^T.
var<private> own_a: Rows;
var<private> own_b: Rows;
var<private> s: Own;
var<private> dp: Own;

fn products(step_a: ptr<function, Step>, step_b: ptr<function, Step>, lid: u32) {
    var a: Parts;
    var b: Parts;
    for (var c = 0u; c < QUADS; c++) {
        for (var n = 0u; n < STEP; n++) {
            let a4 = pick(step_a, c, n);
            let b4 = pick(step_b, c, n);
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
