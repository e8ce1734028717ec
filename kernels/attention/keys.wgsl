// What is visited where queries are owned: rows of k and of v.

const HAS_STATS: bool = false;
const QUERIES: u32 = BAND;

var<private> k_start: u32;
var<private> v_start: u32;

// From now on, those of key head h of batch b.
fn visit_head(b: u32, h: u32) {
    k_start = place(p.k, b, h, 0u);
    v_start = place(p.v, b, h, 0u);
}

fn visited_rows() -> u32 {
    return p.Tk;
}

fn read_a(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(k[k_start + row * p.k.z + quad]);
}

fn read_b(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(v[v_start + row * p.v.z + quad]);
}

fn read_stats(row: u32) -> vec2<f32> {
    return vec2<f32>();
}
