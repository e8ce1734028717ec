// What both passes of attention's backward by cooperative matrices share: backward.wgsl has the formulas. Of a pair of tiles they
// compute two layers of scores, q k^T and dO V^T, and of these the weights.
//
// Parts:     cooperative.wgsl, this, then cooperative_dq.wgsl or cooperative_dkdv.wgsl
// Bindings:  those of cooperative.wgsl, 4 dO [B, NH, Tq, D] strided     5 lse, 6 delta [B, NH, Tq] f32

@group(0) @binding(4) var<storage, read> dout: array<vec4<T>>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;

const LAYERS: u32 = 2u;
// Rows of workgroup memory: the pair that is owned, and the pair that is visited.
const VISITED: u32 = 2u * BAND;
const ROWS: u32 = 2u * (BAND + TILE);

fn gradients(b: u32, h: u32) -> Source {
    return Source(3u, place(p.dout, b, h, 0u), p.dout.z, p.Tq);
}

fn read_quad(which: u32, at: u32) -> vec4<T> {
    switch (which) {
        case 0u: { return q[at]; }
        case 1u: { return k[at]; }
        case 2u: { return v[at]; }
        default: { return dout[at]; }
    }
}

// P, and dS of a score and of dO V^T, which lie n places into their layers. Scores and log-sum-exps are kept times log2(e).
fn weights_at(n: u32, scale2: f32, lse2: f32, delta: f32, seen: bool) -> vec2<f32> {
    let weight = softmax(scores[n] * scale2 - lse2, seen);
    return vec2(weight, weight * (scores[SCORE_LAYER + n] - delta));
}
