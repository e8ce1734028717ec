// y[o, i, j] = x[o, ids[o, i, j], j] for x [outer, size, inner] and ids [outer, n, inner].
//
// An id that is not below size reads nothing and yields NaN.
//
// Constants: T, the element type of x and y.
// Bindings:  1 x     2 ids u32     3 y out
// Grid:      one thread an element of y, 256 a workgroup, folded over x and y

struct Params {
    threads: u32, // outer * n * inner
    n: u32,
    inner: u32,
    size: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<T>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (i < p.threads) {
        let o = i / (p.n * p.inner);
        let id = ids[i];
        if (id < p.size) {
            y[i] = x[(o * p.size + id) * p.inner + i % p.inner];
        } else {
            // Runtime bits, as a NaN may not be written as a constant.
            y[i] = T(bitcast<f32>(id | 0x7fc00000u));
        }
    }
}
