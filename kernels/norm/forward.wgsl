// Layer norm and RMS norm, forward, each with or without the residual add before it.
//
//   h    = x + residual                         RESIDUAL; else h = x
//   mean = sum(h) / C                           RMS: 0
//   rstd = 1 / sqrt(sum((h - mean)^2) / C + eps)
//   y    = (h - mean) * rstd * weight + bias    no bias unless HAS_BIAS
//
// The variance takes a second pass over the row: E[h^2] - E[h]^2 cancels when |mean| is much larger than the
// deviation. With RESIDUAL, h is what `sum` holds, after rounding to T: later layers and backward see that value.
//
// Constants: BLOCK  workgroup size, a power of two
//            RMS, HAS_BIAS, RESIDUAL: bool
//            T      f32 or f16
// Parts:     common/reduce[_subgroup].wgsl
// Bindings:  1 x [rows, C]         2 residual [rows, C] (any buffer unless RESIDUAL)
//            3 weight [C]          4 bias [C] (any buffer unless HAS_BIAS)
//            5 y [rows, C] out     6 stats [rows, 2] out, f32: mean, rstd
//            7 sum [rows, C] out   (any spare buffer unless RESIDUAL)
// Grid:      one workgroup a row, folded over x and y

struct Params {
    rows: u32,
    C: u32,
    eps: f32,
    pad: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read> residual: array<T>;
@group(0) @binding(3) var<storage, read> weight: array<T>;
@group(0) @binding(4) var<storage, read> bias: array<T>;
@group(0) @binding(5) var<storage, read_write> y: array<T>;
@group(0) @binding(6) var<storage, read_write> stats: array<f32>;
@group(0) @binding(7) var<storage, read_write> sum: array<T>;

// An invocation reads back only what it wrote to `sum` itself, so no barrier is needed in between.
fn load(i: u32) -> f32 {
    if (RESIDUAL) {
        return f32(sum[i]);
    }
    return f32(x[i]);
}

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

    if (RESIDUAL) {
        for (var c = lid; c < p.C; c += BLOCK) {
            sum[base + c] = T(f32(x[base + c]) + f32(residual[base + c]));
        }
    }

    var mean = 0.0;
    if (!RMS) {
        var total = 0.0;
        for (var c = lid; c < p.C; c += BLOCK) {
            total += load(base + c);
        }
        mean = group_sum(total, lid) / f32(p.C);
    }

    var squares = 0.0;
    for (var c = lid; c < p.C; c += BLOCK) {
        let d = load(base + c) - mean;
        squares += d * d;
    }
    let rstd = 1.0 / sqrt(group_sum(squares, lid) / f32(p.C) + p.eps);

    for (var c = lid; c < p.C; c += BLOCK) {
        var v = (load(base + c) - mean) * rstd * f32(weight[c]);
        if (HAS_BIAS) {
            v += f32(bias[c]);
        }
        y[base + c] = T(v);
    }
    if (lid == 0u) {
        stats[row * 2u] = mean;
        stats[row * 2u + 1u] = rstd;
    }
}
