// delta = rowsum(dO O), for the backward of attention: one invocation a query.
//
// Constants: D      head size, a multiple of 8
//            BLOCK  workgroup size
//            T      f32 or f16: o and dO
// Parts:     attention/params.wgsl, then this
// Bindings:  1 o, 2 dO [B, NH, Tq, D] strided     3 delta [B, NH, Tq] out, f32
// Grid:      ceil(B NH Tq / BLOCK) workgroups, folded

@group(0) @binding(1) var<storage, read> o: array<vec4<T>>;
@group(0) @binding(2) var<storage, read> dout: array<vec4<T>>;
@group(0) @binding(3) var<storage, read_write> delta: array<f32>;

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
    let o_start = place(p.o, n / p.Tq / p.NH, n / p.Tq % p.NH, n % p.Tq);
    let dout_start = place(p.dout, n / p.Tq / p.NH, n / p.Tq % p.NH, n % p.Tq);
    var sums = vec4<f32>();
    for (var c = 0u; c < D / 4u; c++) {
        sums += vec4<f32>(o[o_start + c]) * vec4<f32>(dout[dout_start + c]);
    }
    delta[n] = across(sums);
}
