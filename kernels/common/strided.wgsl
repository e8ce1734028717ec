// Walking a strided view. A view has up to 8 dimensions; RANK is how many of them are left after the
// host joined those that lie evenly in every operand, so that a contiguous tensor has rank 1 or 0.
//
// Sizes and strides are in items of W elements, which lie along the last dimension.
//
// Constants: RANK: u32

alias Dims = array<vec4<u32>, 2>;

// Where item i (row-major in `sizes`) of a view with these strides lies, counted from its start.
fn walk(i: u32, sizes: Dims, strides: Dims) -> u32 {
    // One division a dimension, and none for the outermost: a contiguous view has no other.
    var rest = i;
    var at = 0u;
    for (var d = max(RANK, 1u) - 1u; d > 0u; d--) {
        let size = sizes[d / 4u][d % 4u];
        let next = rest / size;
        at += (rest - next * size) * strides[d / 4u][d % 4u];
        rest = next;
    }
    return at + rest * strides[0][0];
}
