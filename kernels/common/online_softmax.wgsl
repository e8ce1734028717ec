// Maximum and sum of exponentials of a row from one reading of it: online softmax (Milakov and Gimelshein 2018).
//
// Parts: common/scalars.wgsl or common/quads.wgsl before this

// The lowest finite f32, for -infinity: the difference of two of them is 0, not NaN, and a row of such elements, as masks leave it, is
// a row of equals.
const LOWEST: f32 = -3.4028234663852886e38;

// What an invocation has seen of a row: x the maximum, y the sum of exp(z - maximum).
const NOTHING_SEEN = vec2(LOWEST, 0.0);

// `seen`, and then the item z. The sum is rescaled when the maximum rises.
fn with_item(seen: vec2<f32>, z: vec4<f32>) -> vec2<f32> {
    if (W == 1u) {
        // One exponential serves both cases: one of the two factors is 1.
        let e = exp(-abs(z.x - seen.x));
        return vec2(max(seen.x, z.x), select(seen.y + e, seen.y * e + 1.0, z.x > seen.x));
    }
    let top = max(seen.x, item_max(z));
    return vec2(top, seen.y * exp(seen.x - top) + item_sum(exp(z - top)));
}
