// Cross entropy of logits against class ids: the loss, its log-sum-exp and the gradient, in one visit to a row.
//
//   lse         = max(z) + log(sum(exp(z - max(z))))                 z one row of logits, V wide
//   loss[row]   = lse - z[label]                                     0 if the label is ignored
//   dlogits     = factor * (exp(z - lse) - onehot(label))            0 if the label is ignored
//
// The maximum and the sum come from one reading (online softmax, Milakov and Gimelshein 2018), the gradient from a
// second one while the row is warm. `factor` is one number in a buffer, because the mean over rows that count is
// known to the device alone: `count` below writes it. IN_PLACE writes the gradient over the logits: for a large
// vocabulary the logits are the largest tensor of a training step, and a second copy would double that.
//
// A label that is neither ignored nor below V reads nothing and yields NaN, in the loss and in the row's gradient.
//
// Constants: BLOCK       workgroup size, a power of two
//            HAS_IGNORE  bool: rows whose label is p.ignore do not count
//            GRADIENT    bool: write dlogits
//            IN_PLACE    bool: the logits are in dlogits, and binding 1 is any buffer
//            T = U       f32 or f16
// Parts:     common/reduce[_subgroup].wgsl, common/scalars.wgsl or common/quads.wgsl, common/online_softmax.wgsl
//
// Entry count: factor = 1 / (number of rows that count), 0 if there are none
//   Bindings: 1 labels [rows] u32     2 factor [1] out, f32
//   Grid:     one workgroup
// Entry forward
//   Bindings: 1 logits [rows, V]     2 labels [rows] u32     3 factor [1] f32
//             4 loss [rows] out, f32     5 lse [rows] out, f32     6 dlogits [rows, V] out (a spare buffer unless GRADIENT)
//   Grid:     one workgroup a row, folded over x and y
// Entry mean: out = factor * sum(loss)
//   Bindings: 1 loss [rows] f32     2 factor [1] f32     3 out [1] out, f32
//   Grid:     one workgroup

struct Params {
    rows: u32,
    V: u32, // a multiple of W
    ignore: u32,
    pad: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

@group(0) @binding(1) var<storage, read> logits: array<In>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> factor: array<f32>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
@group(0) @binding(6) var<storage, read_write> dlogits: array<Out>;

fn load(i: u32) -> vec4<f32> {
    if (IN_PLACE) {
        return widen(dlogits[i]);
    }
    return widen(logits[i]);
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
    let items = p.V / W;
    let base = row * items;
    let label = labels[row];
    let ignored = HAS_IGNORE && label == p.ignore;

    var seen = NOTHING_SEEN;
    for (var c = lid; c < items; c += BLOCK) {
        seen = with_item(seen, load(base + c));
    }
    let row_top = group_max(seen.x, lid);
    let row_total = group_sum(seen.y * exp(seen.x - row_top), lid);
    let log_total = log(row_total);

    // Runtime bits, as a NaN may not be written as a constant.
    let invalid = bitcast<f32>(label | 0x7fc00000u);
    if (lid == 0u) {
        lse[row] = row_top + log_total;
        var v = 0.0;
        if (!ignored) {
            v = invalid;
            if (label < p.V) {
                // Large terms first: they cancel exactly where the target is the maximum.
                v = (row_top - load(base + label / W)[label % W]) + log_total;
            }
        }
        loss[row] = v;
    }
    if (GRADIENT) {
        // The invocation that owns the label's column may overwrite the logit that the loss above still needs.
        storageBarrier();
        var scale = factor[0];
        if (!ignored && label >= p.V) {
            scale = invalid;
        }
        for (var c = lid; c < items; c += BLOCK) {
            // exp(z - top) / total, not exp(z - lse): log rounds, and on some devices coarsely.
            let softmax = exp(load(base + c) - row_top) / row_total;
            let columns = vec4(c * W) + vec4(0u, 1u, 2u, 3u);
            let d = scale * (softmax - vec4<f32>(columns == vec4(label)));
            dlogits[base + c] = narrow(select(d, vec4(0.0), ignored));
        }
    }
}

@group(0) @binding(1) var<storage, read> count_labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> count_factor: array<f32>;

// Sums of ones stay exact in f32 up to 2^24 an invocation.
@compute @workgroup_size(BLOCK)
fn count(@builtin(local_invocation_index) lid: u32) {
    var n = 0.0;
    for (var row = lid; row < p.rows; row += BLOCK) {
        n += select(1.0, 0.0, HAS_IGNORE && count_labels[row] == p.ignore);
    }
    let total = group_sum(n, lid);
    if (lid == 0u) {
        count_factor[0] = select(0.0, 1.0 / max(total, 1.0), total > 0.0);
    }
}

@group(0) @binding(1) var<storage, read> mean_loss: array<f32>;
@group(0) @binding(2) var<storage, read> mean_factor: array<f32>;
@group(0) @binding(3) var<storage, read_write> mean_out: array<f32>;

@compute @workgroup_size(BLOCK)
fn mean(@builtin(local_invocation_index) lid: u32) {
    var sum = 0.0;
    for (var row = lid; row < p.rows; row += BLOCK) {
        sum += mean_loss[row];
    }
    let total = group_sum(sum, lid);
    if (lid == 0u) {
        mean_out[0] = total * mean_factor[0];
    }
}
