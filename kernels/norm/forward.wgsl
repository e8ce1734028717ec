// Layer norm and RMS norm, forward, each with or without the residual add before it.
//
//   h    = x + residual                         RESIDUAL; else h = x. With DROPOUT, of x what dropout.wgsl leaves
//   mean = sum(h) / C                           RMS: 0
//   rstd = 1 / sqrt(sum((h - mean)^2) / C + eps)
//   y    = (h - mean) * rstd * weight + bias    no bias unless HAS_BIAS
//
// The variance takes a second pass over the row: E[h^2] - E[h]^2 cancels when |mean| is much larger than the
// deviation. With RESIDUAL, h is what `sum` holds, after rounding to T: later layers and backward see that value.
//
// Constants: BLOCK  workgroup size, a power of two
//            RMS, HAS_BIAS, RESIDUAL: bool
//            DROPOUT  bool: only by quads, each of which is one block of random bits
//            T = U  f32 or f16
// Parts:     common/reduce[_subgroup].wgsl, common/scalars.wgsl or common/quads.wgsl, common/held.wgsl,
//            common/philox.wgsl
// Bindings:  1 x [rows, C]         2 residual [rows, C] (any buffer unless RESIDUAL)
//            3 weight [C]          4 bias [C] (any buffer unless HAS_BIAS)
//            5 y [rows, C] out     6 stats [rows, 2] out, f32: mean, rstd
//            7 sum [rows, C] out   (any spare buffer unless RESIDUAL)
// Grid:      one workgroup a row, folded over x and y

struct Params {
    rows: u32,
    C: u32, // in items, as every index of a column
    eps: f32,
    threshold: u32,    // of what dropout.wgsl says, as what follows
    key: vec2<u32>,
    offset: vec2<u32>,
    scale: f32,
    first: u32,        // the block of random bits of item 0
    pad: vec2<u32>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;
@group(0) @binding(2) var<storage, read> residual: array<In>;
@group(0) @binding(3) var<storage, read> weight: array<In>;
@group(0) @binding(4) var<storage, read> bias: array<In>;
@group(0) @binding(5) var<storage, read_write> y: array<Out>;
@group(0) @binding(6) var<storage, read_write> stats: array<f32>;
@group(0) @binding(7) var<storage, read_write> sum: array<Out>;

var<private> held: array<vec4<f32>, HELD_ROOM>;

// Item i of h, the invocation's k-th. What it reads back from `sum` it wrote there itself: that needs no barrier.
fn item(k: u32, i: u32) -> vec4<f32> {
    if (HELD > 0u) {
        return held[k];
    }
    if (RESIDUAL) {
        return widen(sum[i]);
    }
    return widen(x[i]);
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
    let count = f32(p.C * W);

    var total = 0.0;
    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            var h = widen(x[base + c]);
            if (DROPOUT) {
                let bits = philox(vec4(p.first + base + c, 0u, p.offset), p.key);
                h = select(vec4(0.0), h * p.scale, bits >= vec4(p.threshold));
            }
            if (RESIDUAL) {
                let rounded = narrow(h + widen(residual[base + c]));
                sum[base + c] = rounded;
                h = widen(rounded);
            }
            if (HELD > 0u) {
                held[k] = h;
            }
            total += item_sum(h);
        }
    }
    var mean = 0.0;
    if (!RMS) {
        mean = group_sum(total, lid) / count;
    }

    var squares = 0.0;
    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            let d = item(k, base + c) - mean;
            squares += item_sum(d * d);
        }
    }
    let rstd = 1.0 / sqrt(group_sum(squares, lid) / count + p.eps);

    for (var k = 0u; k < rounds(); k++) {
        let c = lid + k * BLOCK;
        if (c < p.C) {
            var v = (item(k, base + c) - mean) * rstd * widen(weight[c]);
            if (HAS_BIAS) {
                v += widen(bias[c]);
            }
            y[base + c] = narrow(v);
        }
    }
    if (lid == 0u) {
        stats[row * 2u] = mean;
        stats[row * 2u + 1u] = rstd;
    }
}
