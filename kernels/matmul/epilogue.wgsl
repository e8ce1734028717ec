// What the matmul kernels share: parameters, outputs and the epilogue.
//
//   v   = (A B)[m, n]
//   v  += bias[n]                       BIAS
//   pre = v                             SAVE_PRE: kept for the backward of the activation
//   v   = activate(v)                   ACTIVATION, see activation/functions.wgsl
//   v  += residual[m, n]                RESIDUAL
//   v  += d[m, n]                       ACCUMULATE
//   d   = v
//
// A is [batch, M, K] and B is [batch, K, N], read through any strides, so transposed, permuted and broadcast
// operands stay where they are. bias is [N]; residual, pre and d are [batch, M, N], each from its offset on: contiguous,
// or of one batch columns of wider rows.
//
// Constants: BIAS, SAVE_PRE, RESIDUAL, ACCUMULATE: bool
//            ACTIVATION: u32
//            T  f32 or f16: A, B, bias, residual
//            U  T or f32: d and pre. Gradients of f16 weights may be f32.
// Parts:     activation/functions.wgsl, and common/quads.wgsl if N, d_stride and the offsets are multiples of 4, else
//            common/scalars.wgsl; then this
// Bindings:  1 A     2 B: declared by the parts below that read them
//            3 bias (any buffer unless BIAS)     4 residual (any buffer unless RESIDUAL)
//            5 d out (in and out if ACCUMULATE)     6 pre out (a spare buffer unless SAVE_PRE)

struct Params {
    M: u32,
    N: u32,
    K: u32,
    batch: u32,
    inner: u32,     // the batch index b is two: b / inner and b % inner
    a_offset: u32,
    b_offset: u32,
    d_offset: u32,
    a: vec4<u32>,   // strides of A: along M, along K, of b / inner, of b % inner
    b: vec4<u32>,   // strides of B: along K, along N, of b / inner, of b % inner
    residual_offset: u32,
    pre_offset: u32,
    d_stride: u32,  // along M, of residual, pre and d
    share: u32,     // the part of K of one workgroup: all of it, or else splits.wgsl adds the shares up
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> bias: array<In>;
@group(0) @binding(4) var<storage, read> residual: array<In>;
@group(0) @binding(5) var<storage, read_write> d: array<Out>;
@group(0) @binding(6) var<storage, read_write> pre: array<Out>;

// Finishes the columns n .. n + 3 of row m of a batch's product; those beyond N are not there.
fn finish(sums: vec4<f32>, batch: u32, m: u32, n: u32) {
    let start = (batch * p.M + m) * p.d_stride + n;
    for (var c = 0u; c < 4u; c += W) {
        if (n + c < p.N) {
            let to = (p.d_offset + start + c) / W;
            var v = sums;
            if (W == 1u) {
                v = vec4(sums[c]);
            }
            if (BIAS) {
                v += widen(bias[(n + c) / W]);
            }
            if (SAVE_PRE) {
                pre[(p.pre_offset + start + c) / W] = narrow(v);
            }
            v = vec4(activate(v.x), activate(v.y), activate(v.z), activate(v.w));
            if (RESIDUAL) {
                v += widen(residual[(p.residual_offset + start + c) / W]);
            }
            if (ACCUMULATE) {
                v += widen_out(d[to]);
            }
            d[to] = narrow(v);
        }
    }
}
