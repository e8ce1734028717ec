// What is visited where keys are owned: rows of q and of dO, and of each query the log-sum-exp and delta, see backward.wgsl.

const HAS_STATS: bool = true;
const QUERIES: u32 = DRAWN;

var<private> q_start: u32;
var<private> dout_start: u32;
var<private> stats_start: u32;

// From now on, those of query head h of batch b.
fn visit_head(b: u32, h: u32) {
    q_start = place(p.q, b, h, 0u);
    dout_start = place(p.dout, b, h, 0u);
    stats_start = (b * p.NH + h) * p.Tq;
}

fn visited_rows() -> u32 {
    return p.Tq;
}

fn read_a(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(q[q_start + row * p.q.z + quad]);
}

fn read_b(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(dout[dout_start + row * p.dout.z + quad]);
}

fn read_stats(row: u32) -> vec2<f32> {
    return stats_of(stats_start + row);
}
