// The index of the extreme element down a column: out[o, j] = argmax over i of x[o, i, j], the first of
// equal ones, for x [outer, n, inner]. One thread an output.
//
// Constants: KIND: u32 (1 max, 2 min), T: the element type of x.
// Grid:      outer * inner threads, 256 a workgroup, folded over x and y

struct Params {
    n: u32,
    inner: u32,
    threads: u32,
    pad: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let thread = (wid.x + wid.y * nwg.x) * 256u + lid;
    if (thread >= p.threads) {
        return;
    }
    let first = (thread / p.inner) * p.n * p.inner + thread % p.inner;
    var best = 0u;
    var extreme = f32(x[first]);
    for (var i = 1u; i < p.n; i++) {
        let v = f32(x[first + i * p.inner]);
        // Without the inner parentheses `v < extreme, v >` would be a list of template arguments.
        if (select((v < extreme), (v > extreme), KIND == 1u)) {
            extreme = v;
            best = i;
        }
    }
    out[thread] = best;
}
