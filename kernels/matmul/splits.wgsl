// Adds up the shares of a product whose K was cut, in their order, and finishes it.
//
// A product of few tiles and a large K leaves most of a GPU idle. tiled.wgsl and thin.wgsl then cut K, each share a workgroup's,
// and write the shares' sums here as they are.
//
// Constants: BLOCK      workgroup size
//            and those of epilogue.wgsl
// Parts:     those of epilogue.wgsl, then this
// Bindings:  1 sums [shares, batch, M, ceil(N / 4)], four columns an element     2 is not used
//            and those of epilogue.wgsl
// Grid:      ceil(batch * M * ceil(N / 4) / BLOCK) workgroups, folded over x and y

@group(0) @binding(1) var<storage, read> shares: array<vec4<f32>>;

@compute @workgroup_size(BLOCK)
fn splits(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + lid;
    let quads = (p.N + 3u) / 4u;
    let size = p.batch * p.M * quads;
    if (i >= size) {
        return;
    }
    var sum = shares[i];
    for (var s = 1u; s * p.share < p.K; s++) {
        sum += shares[s * size + i];
    }
    let row = i / quads;
    finish(sum, row / p.M, row % p.M, i % quads * 4u);
}
