// The second half of a forward whose keys were cut into chunks (forward.wgsl): makes one softmax of theirs. Chunk c has o_c
// and lse_c; with the weights w_c = exp(lse_c - max lse), whose sum is n,
//
//   o = sum w_c o_c / n      lse = max lse + log(n)
//
// One invocation a quad of o, which adds up the chunks in order.
//
// Constants: D      head size, a multiple of 8
//            BLOCK  workgroup size
//            T      f32 or f16: o
// Parts:     attention/params.wgsl, then this
// Bindings:  1 o_c [chunks, B, NH, Tq, D], 2 lse_c [chunks, B, NH, Tq] f32
//            3 o [B, NH, Tq, D] out, strided     4 lse [B, NH, Tq] out, f32
// Grid:      ceil(B NH Tq D / 4 BLOCK) workgroups, folded

@group(0) @binding(1) var<storage, read> chunk_o: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> chunk_lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> o: array<vec4<T>>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;

const LINE: u32 = D / 4u;

@compute @workgroup_size(BLOCK)
fn combine(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let queries = p.B * p.NH * p.Tq;
    let n = ((wid.x + wid.y * nwg.x) * BLOCK + lid) / LINE;
    let quad = ((wid.x + wid.y * nwg.x) * BLOCK + lid) % LINE;
    if (n >= queries) {
        return;
    }
    var top = LOWEST;
    for (var c = 0u; c < p.chunks; c++) {
        top = max(top, chunk_lse[c * queries + n]);
    }
    // Of chunks in which the query sees no key o_c is 0. Where all are such, so is the sum.
    var total = 0.0;
    var sum = vec4<f32>();
    for (var c = 0u; c < p.chunks; c++) {
        let weight = exp2((chunk_lse[c * queries + n] - top) * LOG2_E);
        total += weight;
        sum += weight * chunk_o[(c * queries + n) * LINE + quad];
    }
    o[place(p.o, n / p.Tq / p.NH, n / p.Tq % p.NH, n % p.Tq) + quad] = vec4<T>(sum / total);
    if (quad == 0u) {
        lse[n] = select(LOWEST, top + log2(total) * LN_2, top > LOWEST);
    }
}
