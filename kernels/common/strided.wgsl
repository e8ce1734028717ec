// Walking a strided view. A view has up to 8 dimensions; RANK is how many of them are left after the
// host joined those that lie evenly in every operand, so that a contiguous tensor has rank 1 or 0.
//
// Constants: RANK: u32.

alias Dims = array<vec4<u32>, 2>;

// Where element i (row-major in `sizes`) of a view with these strides lies, counted from its start.
fn walk(i: u32, sizes: Dims, strides: Dims) -> u32 {
    var rest = i;
    var at = 0u;
    for (var d = RANK; d > 0u; d--) {
        let size = sizes[(d - 1u) / 4u][(d - 1u) % 4u];
        let stride = strides[(d - 1u) / 4u][(d - 1u) % 4u];
        at += (rest % size) * stride;
        rest /= size;
    }
    return at;
}
