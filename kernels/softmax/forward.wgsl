// Softmax and log softmax over the last dimension, forward.
//
//   y = exp(x - max(x)) / sum(exp(x - max(x)))               LOG: x - max(x) - log(sum(exp(x - max(x))))
//
// The maximum and the sum come from one reading of the row (online softmax, Milakov and Gimelshein 2018).
// A row of -infinity alone gives NaN, as in PyTorch.
//
// Constants: BLOCK  workgroup size, a power of two
//            LOG    bool
//            T      f32 or f16
// Parts:     common/reduce[_subgroup].wgsl
// Bindings:  1 x [rows, C]     2 y [rows, C] out
// Grid:      one workgroup a row, folded over x and y

struct Params {
    rows: u32,
    C: u32,
    pad0: u32,
    pad1: u32,
}

// A finite stand-in for -infinity: the difference of two of them is 0, not NaN.
const LOWEST: f32 = -3.4e38;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read_write> y: array<T>;

@compute @workgroup_size(BLOCK)
fn forward(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.rows) {
        return;
    }
    let base = row * p.C;

    // `total` is the sum of exp(v - top) over what this invocation has seen, rescaled when `top` rises.
    var top = LOWEST;
    var total = 0.0;
    for (var c = lid; c < p.C; c += BLOCK) {
        let v = f32(x[base + c]);
        let e = exp(-abs(v - top));
        total = select(total + e, total * e + 1.0, v > top);
        top = max(top, v);
    }
    let row_top = group_max(top, lid);
    let row_total = group_sum(total * exp(top - row_top), lid);

    if (LOG) {
        let log_total = log(row_total);
        for (var c = lid; c < p.C; c += BLOCK) {
            y[base + c] = T(f32(x[base + c]) - row_top - log_total);
        }
    } else {
        for (var c = lid; c < p.C; c += BLOCK) {
            y[base + c] = T(exp(f32(x[base + c]) - row_top) / row_total);
        }
    }
}
