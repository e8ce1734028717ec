// Matmul without workgroup memory, for software adapters.
//
// A CPU that runs WGSL (lavapipe) loads memory lane by lane, each lane with its own bounds check, so loads are what
// costs, and workgroup memory is loaded no faster than any other. Hence the opposite of a tile in workgroup memory:
// the lanes lie along N, each reads its own four columns of B, one part of the rows of A, and gets the rest of A
// from its neighbours (lanes_subgroup.wgsl). Each keeps ROWS x 4 sums, far more than a GPU's registers would hold.
//
// Constants: BLOCK      workgroup size
//            ROWS       rows an invocation, a multiple of LANES; at most 32, or lavapipe stops unrolling
//            LANES      lanes that share their reading of A, a multiple of 4; 4 with lanes.wgsl
//            A_ALONG_M, B_ALONG_N: bool, which way to read
//            and those of epilogue.wgsl
// Parts:     those of epilogue.wgsl, matmul/a_quads.wgsl or a_scalars.wgsl, matmul/b_quads.wgsl
//            or b_scalars.wgsl, matmul/blocks.wgsl, matmul/lanes.wgsl or lanes_subgroup.wgsl, then this
// Bindings:  see epilogue.wgsl
// Grid:      ceil(M / ROWS) * ceil(N / (4 * BLOCK)) * batch workgroups, folded over x and y, rows fastest

@compute @workgroup_size(BLOCK)
fn direct(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = wid.x + wid.y * nwg.x;
    let row_groups = (p.M + ROWS - 1u) / ROWS;
    let column_groups = (p.N + 4u * BLOCK - 1u) / (4u * BLOCK);
    let m0 = (group % row_groups) * ROWS;
    let n = (((group / row_groups) % column_groups) * BLOCK + lid) * 4u;
    let batch = group / (row_groups * column_groups);
    if (batch >= p.batch) {
        return;
    }
    let a_start = p.a_offset + (batch / p.inner) * p.a.z + (batch % p.inner) * p.a.w;
    let b_start = p.b_offset + (batch / p.inner) * p.b.z + (batch % p.inner) * p.b.w;

    let columns = b_lines(b_start, n);
    let lane = lane_index();
    var sums: array<vec4<f32>, ROWS>;
    for (var k = 0u; k < p.K; k += 4u) {
        let b4 = in_f32(within(b_block(columns, k), k));
        var parts: array<vec4<f32>, ROWS / LANES>;
        for (var i = 0u; i < ROWS / LANES; i++) {
            parts[i] = a_part(a_start, m0 + i * LANES, k, lane);
        }
        for (var i = 0u; i < ROWS / LANES; i++) {
            for (var j = 0u; j < LANES / 4u; j++) {
                let a4 = a_rows(parts[i], j, a_start, m0 + i * LANES, k);
                let r = i * LANES + j * 4u;
                sums[r] += b4 * a4[0];
                sums[r + 1u] += b4 * a4[1];
                sums[r + 2u] += b4 * a4[2];
                sums[r + 3u] += b4 * a4[3];
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        if (m0 + r < p.M) {
            finish(sums[r], batch, m0 + r, n);
        }
    }
}
