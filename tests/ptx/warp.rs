//! Sections 9.7.9.6, 9.7.13 and 9.7.14.5: shuffles, votes, barriers, matrices.

use crate::harness::*;

fn iota() -> [u64; 32] {
    std::array::from_fn(|lane| lane as u64 + 100)
}

/// Section 9.7.9.6, its program in Rust: the source lane and whether it is within the segment.
fn source(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, mask) = (b & 31, c & 31, c >> 8 & 31);
    let (low, high) = (lane & mask, lane & mask | clamp & !mask);
    match mode {
        "up" => (lane.wrapping_sub(b), lane as i32 - b as i32 >= high as i32),
        "down" => (lane + b, lane + b <= high),
        "bfly" => (lane ^ b, (lane ^ b) <= high),
        _ => (low | b & !mask, (low | b & !mask) <= high),
    }
}

#[test]
fn shuffles() {
    let cases = [
        ("up", 3, 0),
        ("down", 5, 31),
        ("bfly", 6, 31),
        ("idx", 9, 31),
        ("down", 3, 0x181f),
        ("up", 1, 0x1800),
        ("idx", 5, 0x181f),
        ("bfly", 4, 0x1c03),
    ];
    for (mode, b, c) in cases {
        let body =
            format!("shfl.sync.{mode}.b32 %d|%p, %a, {b}, {c}, 0xffffffff;\n@%p add.u32 %d, %d, 1000;");
        let results = lanes(&body, [32], 32, [iota()]);
        for (lane, result) in results.into_iter().enumerate() {
            let (from, within) = source(mode, lane as u32, b, c);
            let expected = if within { from as u64 + 1100 } else { lane as u64 + 100 };
            assert_eq!(result, expected, "shfl.{mode} {b}, {c:#x} in lane {lane}");
        }
    }
    // By hand: a rotation by one within groups of four, by a register.
    let body = "{ .reg .b32 %x;\nadd.u32 %x, %lane, 1;\nshfl.sync.idx.b32 %d, %a, %x, 0x1c1f, -1; }";
    let results = lanes(body, [32], 32, [iota()]);
    assert!(results.iter().enumerate().all(|(lane, x)| *x == (lane / 4 * 4 + (lane + 1) % 4) as u64 + 100));
}

#[test]
fn votes() {
    let third = "{ .reg .b32 %x;\nrem.u32 %x, %lane, 3;\nsetp.eq.u32 %p, %x, 0; }\n";
    let ballot = (0..32).step_by(3).map(|lane| 1u64 << lane).sum::<u64>();
    let all = |body: &str| {
        let results = lanes(body, [], 32, []);
        assert!(results.iter().all(|x| *x == results[0]), "{body}");
        results[0]
    };
    assert_eq!(all(&format!("{third}vote.sync.ballot.b32 %d, %p, 0xffffffff;")), ballot);
    assert_eq!(all(&format!("{third}vote.sync.any.pred %p, %p, -1;\nselp.b32 %d, 1, 0, %p;")), 1);
    assert_eq!(all(&format!("{third}vote.sync.all.pred %p, %p, -1;\nselp.b32 %d, 1, 0, %p;")), 0);
    assert_eq!(all(&format!("{third}vote.sync.uni.pred %p, %p, -1;\nselp.b32 %d, 1, 0, %p;")), 0);
    assert_eq!(all(&format!("{third}vote.sync.ballot.b32 %d, !%p, -1;")), ballot ^ 0xffff_ffff);
    assert_eq!(all("activemask.b32 %d;"), 0xffff_ffff);
    // Only the lanes of the mask take part.
    let half = "setp.lt.u32 %p, %lane, 16;\nmov.b32 %d, 0;\n@%p bra LOW;\nbra END;\nLOW:
{ .reg .pred %q;\nsetp.gt.u32 %q, %lane, 11;\nvote.sync.ballot.b32 %d, %q, 0xffff; }\nEND:";
    let results = lanes(half, [], 32, []);
    assert!(results.iter().enumerate().all(|(lane, x)| *x == if lane < 16 { 0xf000 } else { 0 }));
}

#[test]
fn matches_and_reductions() {
    // Lanes with the same value as one's own.
    let input = std::array::from_fn(|lane| lane as u64 % 5);
    let masks = lanes("match.any.sync.b32 %d, %a, 0xffffffff;", [32], 32, [input]);
    for (lane, mask) in masks.into_iter().enumerate() {
        assert_eq!(mask, (0..32).filter(|other| other % 5 == lane % 5).map(|other| 1 << other).sum());
    }
    let body = "match.all.sync.b32 %d|%p, %a, -1;\n@%p add.u32 %d, %d, 1;";
    assert_eq!(lanes(body, [32], 32, [[7; 32]])[3], 0);
    assert_eq!(lanes(body, [32], 32, [input])[3], 0);
    assert_eq!(lanes("match.all.sync.b64 %d|%p, %a, -1;", [64], 32, [[7 << 40; 32]])[3], 0xffff_ffff);
    let minus = std::array::from_fn(|lane| (lane as u64).wrapping_sub(5) & 0xffff_ffff);
    let redux = |op: &str| lanes(&format!("redux.sync.{op} %d, %a, 0xffffffff;"), [32], 32, [minus])[9];
    assert_eq!(redux("add.s32"), 31 * 32 / 2 - 5 * 32);
    assert_eq!((redux("min.s32"), redux("max.s32")), (0xffff_fffb, 26));
    assert_eq!((redux("min.u32"), redux("max.u32")), (0, 0xffff_ffff));
    assert_eq!(
        (redux("and.b32"), redux("or.b32"), redux("xor.b32")),
        (0, 0xffff_ffff, (0..32u64).fold(0, |x, lane| x ^ lane.wrapping_sub(5) & 0xffff_ffff))
    );
}

/// Barriers of two warps, and the reductions of `barrier.red`.
#[test]
fn barriers() {
    let text = |body: &str| {
        format!(
            "{HEADER}.shared .align 4 .b8 tile[256];
.visible .entry k(.param .u64 out) {{
.reg .b64 %at, %step;
.reg .b32 %i, %a, %d, %x;
.reg .pred %p, %q;
ld.param.u64 %at, [out];
cvta.to.global.u64 %at, %at;
mov.u32 %i, %tid.x;
mul.wide.u32 %step, %i, 4;
add.s64 %at, %at, %step;
{body}
st.global.b32 [%at], %d;
ret;
}}"
        )
    };
    let run = |body: &str| {
        let after =
            launch(&text(body), 1, 64, 0, &[0; 256]).unwrap_or_else(|error| panic!("{body}: {error}"));
        let words: Vec<u32> =
            after.chunks_exact(4).map(|x| u32::from_le_bytes(x.try_into().unwrap())).collect();
        words
    };
    for barrier in [
        "bar.sync 0;",
        "barrier.sync 0;",
        "barrier.cta.sync 1;",
        "bar.sync 2, 64;",
        "barrier.sync.aligned 3, 64;",
    ] {
        let body = format!(
            "mov.u32 %a, tile;\nmad.lo.u32 %x, %i, 4, %a;\nst.shared.b32 [%x], %i;\n{barrier}
xor.b32 %d, %i, 63;\nmad.lo.u32 %x, %d, 4, %a;\nld.shared.b32 %d, [%x];"
        );
        assert!(run(&body).iter().enumerate().all(|(i, x)| *x == 63 - i as u32), "{barrier}");
    }
    assert!(run("setp.lt.u32 %p, %i, 37;\nbar.red.popc.u32 %d, 0, %p;").iter().all(|x| *x == 37));
    assert!(
        run("setp.lt.u32 %p, %i, 37;\nbar.red.and.pred %q, 0, %p;\nselp.b32 %d, 1, 0, %q;")
            .iter()
            .all(|x| *x == 0)
    );
    assert!(
        run("setp.lt.u32 %p, %i, 37;\nbar.red.or.pred %q, 0, %p;\nselp.b32 %d, 1, 0, %q;")
            .iter()
            .all(|x| *x == 1)
    );
    // Warp barriers order what lanes of a warp do in shared memory.
    let body = "mov.u32 %a, tile;\nmad.lo.u32 %x, %i, 4, %a;\nst.shared.b32 [%x], %i;\nbar.warp.sync -1;
xor.b32 %d, %i, 31;\nmad.lo.u32 %x, %d, 4, %a;\nld.shared.b32 %d, [%x];";
    assert!(run(body).iter().enumerate().all(|(i, x)| *x == i as u32 ^ 31));
    // The first warp waits for the second to arrive.
    let body = "mov.u32 %a, tile;\nmad.lo.u32 %x, %i, 4, %a;\nmov.b32 %d, 0;
setp.lt.u32 %p, %i, 32;\n@%p bra FIRST;
st.shared.b32 [%x], %i;\nbar.arrive 1, 64;\nbra END;\nFIRST:\nbar.sync 1, 64;
ld.shared.b32 %d, [%x+128];\nEND:";
    assert!(run(body).iter().enumerate().all(|(i, x)| *x == if i < 32 { i as u32 + 32 } else { 0 }));
}

/// A warp's program on shared memory: `setup` stores, `body` sets %d0 to %d3.
fn matrix_program(body: &str) -> String {
    format!(
        "{HEADER}.shared .align 16 .b8 tile[1024];
.visible .entry k(.param .u64 memory) {{
.reg .b64 %at, %mine;
.reg .b32 %lane, %s, %t, %a<8>, %b<4>, %c<4>, %d<4>;
.reg .f64 %fa, %fb, %f<4>;
ld.param.u64 %at, [memory];
cvta.to.global.u64 %at, %at;
mov.u32 %lane, %tid.x;
mov.u32 %s, tile;
mul.wide.u32 %mine, %lane, 16;
add.s64 %mine, %at, %mine;
{body}
ret;
}}"
    )
}

/// 512 bytes of shared memory as four 8 x 8 matrices of halves, row r of matrix m being lane 8 m + r's row.
const FILL: &str = "ld.global.v4.b32 {%a0, %a1, %a2, %a3}, [%mine];
mad.lo.u32 %t, %lane, 16, %s;
st.shared.v4.b32 [%t], {%a0, %a1, %a2, %a3};
bar.warp.sync -1;\n";

const STORE: &str = "st.global.v4.b32 [%mine], {%d0, %d1, %d2, %d3};";

fn halves(memory: &[u8]) -> Vec<u16> {
    memory.chunks_exact(2).map(|x| u16::from_le_bytes(x.try_into().unwrap())).collect()
}

/// Section 9.7.14.5.15: lane i gets elements 2 (i % 4) and the next of row i / 4, transposed of column i / 4.
#[test]
fn ldmatrix() {
    let memory: Vec<u8> = (0..256u16).flat_map(|i| (i * 77 + 5).to_le_bytes()).collect();
    let source = halves(&memory);
    for (count, trans) in [(1, ""), (2, ""), (4, ""), (1, ".trans"), (2, ".trans"), (4, ".trans")] {
        let destinations = ["%d0", "%d1", "%d2", "%d3"][..count].join(", ");
        let body = format!(
            "{FILL}mov.b32 %d0, 0;\nmov.b32 %d1, 0;\nmov.b32 %d2, 0;\nmov.b32 %d3, 0;
ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{destinations}}}, [%t];\n{STORE}"
        );
        let after = halves(&launch(&matrix_program(&body), 1, 32, 0, &memory).unwrap());
        for lane in 0..32 {
            for register in 0..4 {
                for j in 0..2 {
                    let (line, place) = (lane / 4, 2 * (lane % 4) + j);
                    let (row, column) = if trans.is_empty() { (line, place) } else { (place, line) };
                    let expected =
                        if register < count { source[register * 64 + row * 8 + column] } else { 0 };
                    assert_eq!(
                        after[lane * 8 + register * 2 + j],
                        expected,
                        "x{count}{trans} lane {lane} register {register}"
                    );
                }
            }
        }
    }
}

#[test]
fn movmatrix() {
    let memory: Vec<u8> = (0..256u16).flat_map(|i| (i * 77 + 5).to_le_bytes()).collect();
    let source = halves(&memory);
    let body = format!(
        "ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%mine];
movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;\nmov.b32 %d1, 0;\nmov.b32 %d2, 0;\nmov.b32 %d3, 0;
{STORE}"
    );
    let after = halves(&launch(&matrix_program(&body), 1, 32, 0, &memory).unwrap());
    let element = |row: usize, column: usize| source[(row * 4 + column / 2) * 8 + column % 2];
    for lane in 0..32 {
        for j in 0..2 {
            assert_eq!(after[lane * 8 + j], element(2 * (lane % 4) + j, lane / 4));
        }
    }
}

/// Section 9.7.14.5.8: d = a b + c of f16 with its layout written out: integers, so that any order of sums is
/// exact.
#[test]
fn mma_f16() {
    let (a, b) = (
        |row: usize, k: usize| ((row * 5 + k * 3) % 17) as f32 - 8.0,
        |k: usize, n: usize| ((k * 7 + n * 11) % 13) as f32 - 6.0,
    );
    let c = |row: usize, n: usize| (row * 8 + n) as f32;
    // 32 lanes x (4 words of a, 2 of b, 4 of c as f32), each block 512 bytes.
    let mut words = vec![0u32; 3 * 128];
    let pair = |low: f32, high: f32| x2(h(low), h(high)) as u32;
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for r in 0..4 {
            let (row, k) = (g + 8 * (r % 2), 2 * t + 8 * (r / 2));
            words[lane * 4 + r] = pair(a(row, k), a(row, k + 1));
            words[256 + lane * 4 + r] = c(g + 8 * (r / 2), 2 * t + r % 2).to_bits();
        }
        for r in 0..2 {
            let k = 2 * t + 8 * r;
            words[128 + lane * 4 + r] = pair(b(k, g), b(k + 1, g));
        }
    }
    let memory: Vec<u8> = words.iter().flat_map(|x| x.to_le_bytes()).collect();
    let load = "ld.global.v4.b32 {%a0, %a1, %a2, %a3}, [%mine];
ld.global.v2.b32 {%b0, %b1}, [%mine+512];
ld.global.v4.b32 {%c0, %c1, %c2, %c3}, [%mine+1024];\n";
    let product = |row: usize, n: usize, depth: usize| (0..depth).map(|k| a(row, k) * b(k, n)).sum::<f32>();
    let run = |mma: &str| {
        let after = launch(&matrix_program(&format!("{load}{mma}\n{STORE}")), 1, 32, 0, &memory);
        let after = after.unwrap_or_else(|error| panic!("{mma}: {error}"));
        let words: Vec<u32> =
            after.chunks_exact(4).map(|x| u32::from_le_bytes(x.try_into().unwrap())).collect();
        words
    };
    for (mma, depth) in [
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%d0, %d1, %d2, %d3}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1, %c2, %c3};",
            16,
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%d0, %d1, %d2, %d3}, {%a0, %a1}, {%b0}, {%c0, %c1, %c2, %c3};",
            8,
        ),
    ] {
        let after = run(mma);
        for lane in 0..32 {
            for r in 0..4 {
                let (row, n) = (lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2);
                assert_eq!(
                    f32::from_bits(after[lane * 4 + r]),
                    product(row, n, depth) + c(row, n),
                    "{mma} lane {lane} register {r}"
                );
            }
        }
    }
    // f16 accumulators: pairs of columns in a register, here starting from zero.
    let mma = "mov.b32 %c0, 0;\nmov.b32 %c1, 0;\nmov.b32 %d2, 0;\nmov.b32 %d3, 0;
mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%d0, %d1}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1};";
    let after = run(mma);
    for lane in 0..32 {
        for r in 0..2 {
            let (row, n) = (lane / 4 + 8 * r, 2 * (lane % 4));
            assert_eq!(after[lane * 4 + r], pair(product(row, n, 16), product(row, n + 1, 16)));
        }
    }
}

/// The other types, on operands that are all the same: every element is k products.
#[test]
fn mma_types() {
    let case = |mma: &str, a: u32, b: u32, c: u32| {
        let registers = "mov.b32 %a0, A;\nmov.b32 %a1, A;\nmov.b32 %a2, A;\nmov.b32 %a3, A;
mov.b32 %b0, B;\nmov.b32 %b1, B;\nmov.b32 %c0, C;\nmov.b32 %c1, C;\nmov.b32 %c2, C;\nmov.b32 %c3, C;
mov.b32 %d2, C;\nmov.b32 %d3, C;\n";
        let registers = registers
            .replace("A;", &format!("{a};"))
            .replace("B;", &format!("{b};"))
            .replace("C;", &format!("{c};"));
        let after = launch(&matrix_program(&format!("{registers}{mma}\n{STORE}")), 1, 32, 0, &[0; 512]);
        let after = after.unwrap_or_else(|error| panic!("{mma}: {error}"));
        let words: Vec<u32> =
            after.chunks_exact(4).map(|x| u32::from_le_bytes(x.try_into().unwrap())).collect();
        assert!(words.iter().enumerate().all(|(i, x)| *x == words[i % 2]), "{mma}");
        words[0]
    };
    let d = "{%d0, %d1, %d2, %d3}";
    let (a4, a2, a1) = ("{%a0, %a1, %a2, %a3}", "{%a0, %a1}", "{%a0}");
    let (b2, b1) = ("{%b0, %b1}", "{%b0}");
    let c = "{%c0, %c1, %c2, %c3}";
    let float = |x: f32| x.to_bits();
    let mma = |shape: &str, types: &str, a: &str, b: &str| {
        format!("mma.sync.aligned.{shape}.row.col.{types} {d}, {a}, {b}, {c};")
    };
    let two_bf16 = x2(b(2.0), b(2.0)) as u32;
    assert_eq!(
        case(&mma("m16n8k16", "f32.bf16.bf16.f32", a4, b2), two_bf16, two_bf16, float(1.0)),
        float(65.0)
    );
    assert_eq!(
        case(&mma("m16n8k8", "f32.bf16.bf16.f32", a2, b1), two_bf16, two_bf16, float(1.0)),
        float(33.0)
    );
    assert_eq!(
        case(&mma("m16n8k4", "f32.tf32.tf32.f32", a2, b1), float(3.0), float(2.0), float(1.0)),
        float(25.0)
    );
    assert_eq!(
        case(&mma("m16n8k8", "f32.tf32.tf32.f32", a4, b2), float(3.0), float(2.0), float(1.0)),
        float(49.0)
    );
    assert_eq!(
        case(&mma("m16n8k16", "s32.s8.s8.s32", a2, b1), 0xffff_ffff, 0x0303_0303, 5),
        (5 - 48i32) as u32
    );
    assert_eq!(
        case(&mma("m16n8k32", "s32.s8.s8.s32", a4, b2), 0xffff_ffff, 0x0303_0303, 5),
        (5 - 96i32) as u32
    );
    assert_eq!(case(&mma("m16n8k32", "s32.u8.u8.s32", a4, b2), 0xffff_ffff, 0xffff_ffff, 0), 32 * 255 * 255);
    assert_eq!(
        case(&mma("m16n8k32", "s32.u8.s8.s32", a4, b2), 0xffff_ffff, 0xffff_ffff, 0),
        (-32 * 255) as u32
    );
    assert_eq!(
        case(
            &mma("m16n8k32.row.col.satfinite", "s32.s8.s8.s32", a4, b2)
                .replace("satfinite.row.col", "satfinite"),
            0x7f7f_7f7f,
            0x7f7f_7f7f,
            0x7fff_fff0
        ),
        0x7fff_ffff
    );
    assert_eq!(
        case(&mma("m16n8k32", "s32.s4.s4.s32", a2, b1), 0xffff_ffff, 0x3333_3333, 5),
        (5 - 96i32) as u32
    );
    assert_eq!(case(&mma("m16n8k64", "s32.u4.u4.s32", a4, b2), 0xffff_ffff, 0xffff_ffff, 0), 64 * 225);
    let small = |shape: &str, types: &str| {
        format!(
            "mma.sync.aligned.{shape}.row.col.{types} {{%d0, %d1}}, {a1}, {b1}, {{%c0, %c1}};
mov.b32 %d2, %d0;\nmov.b32 %d3, %d1;"
        )
    };
    assert_eq!(case(&small("m8n8k16", "s32.s8.s8.s32"), 0x0202_0202, 0x0303_0303, 1), 97);
    assert_eq!(case(&small("m8n8k32", "s32.s4.s4.s32"), 0x2222_2222, 0x3333_3333, 1), 193);
    let f64s = "mov.f64 %fa, 0d4000000000000000;\nmov.f64 %fb, 0d4008000000000000;
mov.f64 %f0, 0d3FF0000000000000;\nmov.f64 %f1, %f0;
mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%f2, %f3}, {%fa}, {%fb}, {%f0, %f1};
mov.b64 {%d0, %d1}, %f2;\nmov.b64 {%d2, %d3}, %f3;";
    let after = launch(&matrix_program(&format!("{f64s}\n{STORE}")), 1, 32, 0, &[0; 512]).unwrap();
    assert!(after.chunks_exact(8).all(|x| f64::from_le_bytes(x.try_into().unwrap()) == 25.0));
}

/// Section 9.7.14.5.2: lane 4 g + t has A's row g in column t, B's column g in row t, and of row g of C columns
/// 2 t and 2 t + 1.
#[test]
fn mma_f64_layout() {
    let body = "cvt.rn.f64.u32 %fa, %lane;\nmul.f64 %fb, %fa, %fa;\nneg.f64 %f0, %fa;\nmov.f64 %f1, %fb;
mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%f0, %f1}, {%fa}, {%fb}, {%f0, %f1};
mov.b64 {%d0, %d1}, %f0;\nmov.b64 {%d2, %d3}, %f1;";
    let after = launch(&matrix_program(&format!("{body}\n{STORE}")), 1, 32, 0, &[0; 512]).unwrap();
    for (i, bytes) in after.chunks_exact(8).enumerate() {
        let (lane, j) = (i / 2, i % 2);
        let (row, column) = (lane / 4, 2 * (lane % 4) + j);
        let c = if j == 0 { -(lane as f64) } else { (lane * lane) as f64 };
        let product = |k: usize| ((4 * row + k) * (4 * column + k) * (4 * column + k)) as f64;
        let expected = c + (0..4).map(product).sum::<f64>();
        assert_eq!(f64::from_le_bytes(bytes.try_into().unwrap()), expected, "lane {lane}, {j}");
    }
}
