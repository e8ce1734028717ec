// The backward of gather.wgsl: dx[o, v, j] = sum of dy[o, i, j] over all i with ids[o, i, j] == v.
//
// A thread owns a whole column [o, :, j] and adds in the order of i, so that repeated ids race with
// nobody and the bits are the same every time. dx is f32 whatever T is: a sum is rounded once. What belongs to an id that is not
// below size is left out.
//
// Constants: T, the element type of dy.
// Bindings:  1 dy     2 ids u32     3 dx in and out, f32: zeros at the start
// Grid:      outer * inner threads, 256 a workgroup, folded over x and y

struct Params {
    threads: u32, // outer * inner
    n: u32,
    inner: u32,
    size: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<T>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

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
    let o = thread / p.inner;
    let j = thread % p.inner;
    for (var i = 0u; i < p.n; i++) {
        let at = (o * p.n + i) * p.inner + j;
        let id = ids[at];
        if (id < p.size) {
            dx[(o * p.size + id) * p.inner + j] += f32(dy[at]);
        }
    }
}
