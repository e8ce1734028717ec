// Matmul of few rows, for GPUs: what a decoder multiplies with its weights, token by token.
//
// Each element of B is used for ROWS multiply-adds at most, so that reading B is what takes time, and a tile's detour through
// workgroup memory would only delay it. Here the invocations lie along K and N, whichever is B's unit stride coming first: each reads
// blocks of 4x4 of B, and keeps ROWS x 4 sums, which the workgroup adds up in the end.
//
// Constants: ROWS       M rounded up to a power of two, at most 8
//            BLOCK      workgroup size, a power of two
//            LANES_N    of which so many lie along N, each with four columns
//            A_ALONG_M, B_ALONG_N: bool, which way to read
//            and those of epilogue.wgsl
// Parts:     those of epilogue.wgsl, matmul/a_quads.wgsl or a_scalars.wgsl, matmul/b_quads.wgsl
//            or b_scalars.wgsl, matmul/blocks.wgsl, then this
// Bindings:  see epilogue.wgsl
// Grid:      ceil(N / (4 LANES_N)) * batch * shares workgroups, folded over x and y; shares as in tiled.wgsl
// Workgroup memory: 16 BLOCK min(ROWS, 4) bytes

const LANES_K: u32 = BLOCK / LANES_N;
const TOGETHER: u32 = min(ROWS, 4u); // rows that are read, and added up, at a time
const QUADS: u32 = ROWS / TOGETHER;

var<workgroup> parts: array<vec4<f32>, BLOCK * TOGETHER>; // [row][k][n]

@compute @workgroup_size(BLOCK)
fn thin(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = wid.x + wid.y * nwg.x;
    let column_groups = (p.N + 4u * LANES_N - 1u) / (4u * LANES_N);
    let batch = group / column_groups % p.batch;
    let share = group / (column_groups * p.batch);
    let first = share * p.share;
    if (first >= p.K) {
        return;
    }
    let end = min(p.K, first + p.share);
    let a_start = p.a_offset + (batch / p.inner) * p.a.z + (batch % p.inner) * p.a.w;
    let b_start = p.b_offset + (batch / p.inner) * p.b.z + (batch % p.inner) * p.b.w;
    let lane_n = select(lid / LANES_K, lid % LANES_N, B_ALONG_N);
    let lane_k = select(lid % LANES_K, lid / LANES_N, B_ALONG_N);
    let n = (group % column_groups * LANES_N + lane_n) * 4u;

    let columns = b_lines(b_start, n);
    var rows: array<array<vec4<u32>, 4>, QUADS>;
    for (var q = 0u; q < QUADS; q++) {
        rows[q] = a_lines(a_start, q * 4u);
    }
    var sums: array<vec4<f32>, ROWS>;
    for (var k = first + lane_k * 4u; k < end; k += LANES_K * 4u) {
        let b4 = in_f32(within(b_block(columns, k), k));
        for (var q = 0u; q < QUADS; q++) {
            let a4 = in_f32(within(a_block(rows[q], k), k));
            // Of rows that are not wanted, nothing is read.
            for (var i = 0u; i < TOGETHER; i++) {
                for (var j = 0u; j < 4u; j++) {
                    sums[q * 4u + i] += a4[j][i] * b4[j];
                }
            }
        }
    }

    for (var q = 0u; q < QUADS; q++) {
        for (var i = 0u; i < TOGETHER; i++) {
            parts[i * BLOCK + lane_k * LANES_N + lane_n] = sums[q * 4u + i];
        }
        for (var half = BLOCK / 2u; half >= LANES_N; half /= 2u) {
            workgroupBarrier();
            if (lid < half) {
                for (var i = 0u; i < TOGETHER; i++) {
                    parts[i * BLOCK + lid] += parts[i * BLOCK + lid + half];
                }
            }
        }
        workgroupBarrier();
        // One invocation for each row and four columns.
        let row = lid / LANES_N;
        let m = q * 4u + row;
        if (row < TOGETHER && m < p.M) {
            let column = (group % column_groups * LANES_N + lid % LANES_N) * 4u;
            finish(parts[row * BLOCK + lid % LANES_N], share * p.batch + batch, m, column);
        }
        workgroupBarrier();
    }
}
