//! The counters of small kernels, against numbers worked out by hand.

use tilewright::DType;
use tilewright::device::cuda::Kernel;
use tilewright::device::cuda::sim::{
    Architecture, Count, Counters, Kind, Limit, Options, Simulator, TensorCount, Traffic,
};

use crate::bench::{Bench, PTX};

const ONE: [u32; 3] = [1, 1, 1];
const WARP: [u32; 3] = [32, 1, 1];

/// Loads of the vector type V, `stride` apart and from element `offset` on.
const STRIDED: &str = r#"extern "C" __global__ void strided(const V* x, V* y, u32 stride, u32 offset) {
    y[threadIdx.x] = x[stride * threadIdx.x + offset];
}"#;

/// The traffic of one warp's loads, for every stride and offset.
fn loads(vector: &'static str, bytes: usize, strides: &[(u64, u64)]) -> Option<Vec<Traffic>> {
    let parts: &'static [&'static str] = match vector {
        "float" => &["using V = float;", STRIDED],
        "float2" => &["using V = float2;", STRIDED],
        _ => &["using V = float4;", STRIDED],
    };
    let bench = Bench::new(&Kernel::new("strided.cu", parts, "strided"), Options::default())?;
    let x = bench.input(&vec![0u8; 34 * 34 * bytes]);
    let y = bench.output::<u8>(32 * bytes);
    let run = |&(stride, offset): &(u64, u64)| {
        let counters = bench.launch(ONE, WARP, &[x, y, stride, offset]).unwrap();
        let stored =
            Traffic { accesses: 1, bytes: 32 * bytes as u64, moved: bytes as u64, fewest: bytes as u64 };
        assert_eq!(counters.global_stores, stored);
        counters.global_loads
    };
    Some(strides.iter().map(run).collect())
}

#[test]
fn sectors_of_global_memory() {
    let traffic = |bytes, moved, fewest| Traffic { accesses: 1, bytes, moved, fewest };
    let cases = [
        ((1, 0), traffic(128, 4, 4)),
        // Misaligned by an element: a fifth sector.
        ((1, 1), traffic(128, 5, 4)),
        ((1, 8), traffic(128, 4, 4)),
        ((2, 0), traffic(128, 8, 4)),
        ((3, 0), traffic(128, 12, 4)),
        // A sector for each lane.
        ((8, 0), traffic(128, 32, 4)),
        ((33, 0), traffic(128, 32, 4)),
        // A broadcast.
        ((0, 5), traffic(4, 1, 1)),
    ];
    let (strides, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let Some(counted) = loads("float", 4, &strides) else { return };
    assert_eq!(counted, expected);
    assert_eq!(
        loads("float2", 8, &[(1, 0), (1, 1), (2, 0)]).unwrap(),
        [traffic(256, 8, 8), traffic(256, 9, 8), traffic(256, 16, 8)]
    );
    assert_eq!(
        loads("float4", 16, &[(1, 0), (1, 1), (2, 0)]).unwrap(),
        [traffic(512, 16, 16), traffic(512, 17, 16), traffic(512, 32, 16)]
    );
}

#[test]
fn sectors_of_scattered_and_of_few_lanes() {
    const GATHER: &str = r#"extern "C" __global__ void gather(const float* x, const u32* ids, float* y) {
    y[threadIdx.x] = x[ids[threadIdx.x]];
}"#;
    let Some(bench) = Bench::new(&Kernel::new("gather.cu", &[GATHER], "gather"), Options::default()) else {
        return;
    };
    let (x, y) = (bench.input(&[0.0f32; 256]), bench.output::<f32>(64));
    // Backwards: 4 sectors for x and 4 for the ids.
    let ids = bench.input(&(0..32).rev().collect::<Vec<u32>>());
    let loads = bench.launch(ONE, WARP, &[x, ids, y]).unwrap().global_loads;
    assert_eq!(loads, Traffic { accesses: 2, bytes: 256, moved: 8, fewest: 8 });
    // Two places, 128 elements apart, taken in turn.
    let ids = bench.input(&(0..32).map(|i| i % 2 * 128).collect::<Vec<u32>>());
    let loads = bench.launch(ONE, WARP, &[x, ids, y]).unwrap().global_loads;
    assert_eq!(loads, Traffic { accesses: 2, bytes: 128 + 8, moved: 4 + 2, fewest: 4 + 1 });
    // A block of 40: the second warp has 8 lanes.
    let ids = bench.input(&(0..40).collect::<Vec<u32>>());
    let stores = bench.launch(ONE, [40, 1, 1], &[x, ids, y]).unwrap().global_stores;
    assert_eq!(stores, Traffic { accesses: 2, bytes: 160, moved: 5, fewest: 5 });
}

/// Stores of N words by each lane, `stride` words apart.
const BANKS: &str = r#"extern "C" __global__ void banks(u32 stride) {
    __shared__ __align__(16) u32 tile[34 * 32];
    const u32 to = shared_address(&tile[stride * threadIdx.x]);
    if constexpr (WORDS == 1) {
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(0));
    } else if constexpr (WORDS == 2) {
        asm volatile("st.shared.v2.u32 [%0], {%1, %1};" ::"r"(to), "r"(0));
    } else {
        asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0));
    }
}"#;

#[test]
fn bank_conflicts() {
    /// Stride in words, distinct bytes, wavefronts, and the fewest.
    type Strided = (u64, u64, u64, u64);
    // By words a lane.
    let cases: [(u32, &[Strided]); 3] = [
        (
            1,
            &[
                (0, 4, 1, 1),
                (1, 128, 1, 1),
                (2, 128, 2, 1),
                (4, 128, 4, 1),
                (32, 128, 32, 1),
                (33, 128, 1, 1),
            ],
        ),
        // Half warps take turns. With a stride of 4, lanes i and i + 8 of a half want the same banks.
        (2, &[(2, 256, 2, 2), (4, 256, 4, 2), (32, 256, 32, 2), (34, 256, 2, 2)]),
        // Quarters take turns. With a stride of 8, lanes i and i + 4 of a quarter want the same banks.
        (4, &[(4, 512, 4, 4), (8, 512, 8, 4), (32, 512, 32, 4)]),
    ];
    for (words, strides) in cases {
        let kernel = Kernel::new("banks.cu", &[PTX, BANKS], "banks").with("WORDS", words);
        let Some(bench) = Bench::new(&kernel, Options::default()) else { return };
        for &(stride, bytes, moved, fewest) in strides {
            let counters = bench.launch(ONE, WARP, &[stride]).unwrap();
            let expected = Traffic { accesses: 1, bytes, moved, fewest };
            assert_eq!(counters.shared, expected, "{words} words, stride {stride}");
        }
    }
}

/// A tile of 16 x 64 elements of 16 bits, rows PITCH apart, of which a warp loads four matrices side by side. SWIZZLE
/// moves the pieces of 16 bytes within their rows.
const MATRICES: &str = r#"extern "C" __global__ void matrices(uint4* y) {
    __shared__ __align__(16) u16 tile[16 * PITCH];
    const u32 lane = threadIdx.x, start = shared_address(tile);
    const u32 zeros[4] = {0, 0, 0, 0};
    for (u32 i = 0; i < 4; i += 1) {
        const u32 row = 4 * i + lane / 8, piece = lane % 8;
        store_shared16(start + 2 * PITCH * row + 16 * (SWIZZLE ? piece ^ row % 8 : piece), zeros);
    }
    __syncwarp();
    const u32 row = lane % 16, piece = lane / 16;
    u32 v[4];
    load_matrices<false>(v, start + 2 * PITCH * row + 16 * (SWIZZLE ? piece ^ row % 8 : piece));
    y[lane] = make_uint4(v[0], v[1], v[2], v[3]);
}"#;

#[test]
fn bank_conflicts_of_ldmatrix() {
    // Rows of 128 bytes begin at the same bank: eight wavefronts a matrix.
    for (pitch, swizzle, each) in [(64, false, 8), (72, false, 1), (64, true, 1), (80, false, 2)] {
        let kernel = Kernel::new("matrices.cu", &[PTX, MATRICES], "matrices");
        let kernel = kernel.with("PITCH", pitch as u32).with("SWIZZLE", swizzle);
        let Some(bench) = Bench::new(&kernel, Options::default()) else { return };
        let y = bench.output::<[u32; 4]>(32);
        let shared = bench.launch(ONE, WARP, &[y]).unwrap().shared;
        // Four stores of 512 bytes and four matrices of 128.
        let expected =
            Traffic { accesses: 4 + 4, bytes: 4 * 512 + 4 * 128, moved: 16 + 4 * each, fewest: 16 + 4 };
        assert_eq!(shared, expected, "pitch {pitch}, swizzle {swizzle}");
    }
}

#[test]
fn tensor_cores() {
    const PRODUCTS: &str = r#"extern "C" __global__ void products(float4* y) {
    float c[4] = {0, 0, 0, 0};
    const u32 a[4] = {0, 0, 0, 0};
    for (u32 i = 0; i < 3; i += 1) {
        mma<T>(c, a, threadIdx.x, 0);
    }
    y[blockIdx.x * blockDim.x + threadIdx.x] = make_float4(c[0], c[1], c[2], c[3]);
}"#;
    let cases = [
        (DType::F16, "m16n8k16 f16", 2 * 16 * 8 * 16),
        (DType::BF16, "m16n8k16 bf16", 2 * 16 * 8 * 16),
        (DType::F32, "m16n8k8 tf32", 2 * 16 * 8 * 8),
    ];
    for (dtype, name, flops) in cases {
        let kernel = Kernel::new("products.cu", &[PTX, PRODUCTS], "products").with("T", dtype);
        let Some(bench) = Bench::new(&kernel, Options::default()) else { return };
        let y = bench.output::<[f32; 4]>(5 * 64);
        let counters = bench.launch([5, 1, 1], [64, 1, 1], &[y]).unwrap();
        // Five blocks of two warps, three products each.
        let expected = TensorCount { instructions: 30, flops: 30 * flops };
        assert_eq!(counters.tensor.iter().collect::<Vec<_>>(), [(&name.to_string(), &expected)]);
        assert_eq!(counters.tensor_flops(), 30 * flops);
        assert_eq!(counters.kind(Kind::Tensor), Count { warps: 30, lanes: 30 * 32 });
    }
}

/// Instructions of known number, and branches: one that splits the warp, one that half of it takes, one that all do,
/// one that none does.
const BRANCHES: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry branches() {
    .reg .pred %p<4>;
    .reg .b32 %r<4>;
    .reg .f32 %f<3>;
    mov.u32 %r1, %tid.x;
    setp.lt.u32 %p1, %r1, 16;
    @%p1 bra LOW;
    add.u32 %r2, %r1, 1;
    cvt.rn.f32.u32 %f1, %r2;
    bra.uni JOIN;
LOW:
    sub.u32 %r2, %r1, 1;
    mul.lo.u32 %r2, %r2, %r1;
    mov.f32 %f1, 0f3F800000;
JOIN:
    setp.lt.u32 %p2, %r1, 1024;
    @!%p2 bra END;
    sqrt.approx.f32 %f2, %f1;
    fma.rn.f32 %f2, %f2, %f2, %f1;
    bar.sync 0;
END:
    ret;
}";

#[test]
fn instructions_and_branches() {
    let simulator = Simulator::new(Options::default());
    let function = simulator.load(BRANCHES).unwrap().function("branches").unwrap();
    // The second of the two warps has no lane below 16, so none of its branches diverges.
    let counters = simulator.launch(&function, [3, 1, 1], [64, 1, 1], 0, &[]).unwrap();
    let blocks = |warps: u64, lanes: u64| Count { warps: 3 * warps, lanes: 3 * lanes };
    assert_eq!(counters.divergent_branches, 3);
    assert_eq!(counters.kind(Kind::Conversion), blocks(2, 16 + 32));
    assert_eq!(counters.kind(Kind::Special), blocks(2, 64));
    assert_eq!(counters.kind(Kind::F32), blocks(2, 64));
    assert_eq!(counters.kind(Kind::Barrier), blocks(2, 64));
    // Two comparisons a warp, one sum, and a difference and a product in the first.
    assert_eq!(counters.kind(Kind::Integer), blocks(2 * 2 + 2 + 2, 2 * 64 + 16 + 32 + 2 * 16));
    // %tid.x, and the constant of the first warp's lower half.
    assert_eq!(counters.kind(Kind::Move), blocks(2 + 1, 64 + 16));
    // The first conditional branch is issued by both warps and taken by 16 lanes, the jump by both and 48, the second
    // conditional by both and none.
    assert_eq!(counters.branches, blocks(6, 16 + 48));
    assert_eq!(counters.kind(Kind::Control), blocks(6 + 2, 16 + 48 + 64));
    let sum = counters.kinds.values().fold(Count::default(), |sum, count| Count {
        warps: sum.warps + count.warps,
        lanes: sum.lanes + count.lanes,
    });
    assert_eq!(counters.total(), sum);
}

#[test]
fn source_lines() {
    const LINES: &str = r#"extern "C" __global__ void lines(const float* x, float* y) {
    const u32 i = threadIdx.x;
    const float v = x[i];
    if (i < 8) {
        y[i] = v;
    }
}"#;
    let Some(bench) = Bench::new(&Kernel::new("lines.cu", &[LINES], "lines"), Options::default()) else {
        return;
    };
    let (x, y) = (bench.input(&[1.0f32; 32]), bench.output::<f32>(8));
    let counters = bench.launch(ONE, WARP, &[x, y]).unwrap();
    assert!(
        counters.lines.keys().all(|(file, line)| file == "lines.cu" && (1..=7).contains(line)),
        "{counters:?}"
    );
    // The store is among what line 5 became; only 8 lanes do any of it.
    let stores = counters.lines[&("lines.cu".into(), 5)];
    assert_eq!(stores.lanes, 8 * stores.warps);
}

#[test]
fn source_lines_of_inlined_functions() {
    // What ptx.cuh does counts where the kernel calls it; its own function where that is.
    const LINES: &str = r#"inline float twice(float x) {
    return x * 2.0f + 1.0f;
}
extern "C" __global__ void lines(const uint4* x, float* y) {
    __shared__ uint4 tile[32];
    copy_async16(shared_address(tile + threadIdx.x), x + threadIdx.x, true);
    copy_commit();
    copy_wait<0>();
    y[threadIdx.x] = twice(tile[threadIdx.x].x);
}"#;
    let kernel = Kernel::new("lines.cu", &[PTX, LINES], "lines");
    let Some(bench) = Bench::new(&kernel, Options::default()) else { return };
    let (x, y) = (bench.input(&[[1u32; 4]; 32]), bench.output::<f32>(32));
    let counters = bench.launch(ONE, WARP, &[x, y]).unwrap();
    for line in [2, 6, 7, 8] {
        let count = counters.lines.get(&("lines.cu".into(), line)).copied().unwrap_or_default();
        assert!(count.warps > 0, "line {line} of {:?}", counters.lines);
    }
    assert!(counters.lines.keys().all(|(file, _)| file == "lines.cu"), "{:?}", counters.lines);
}

#[test]
fn kept_counters() {
    let simulator = Simulator::new(Options { keep_counters: true, ..Options::default() });
    let function = simulator.load(BRANCHES).unwrap().function("branches").unwrap();
    let launch = |blocks| simulator.launch(&function, [blocks, 1, 1], WARP, 0, &[]).unwrap();
    let counted: Vec<Counters> = vec![launch(1), launch(2)];
    assert_eq!(simulator.launches(), counted);
    assert_eq!(simulator.launches(), []);
}

/// Threads of a block, registers of a thread, bytes of shared memory of a block; blocks and warps of a multiprocessor, and
/// what limits them. By the rules of the CUDA C++ Programming Guide, technical specifications per compute capability,
/// and of the occupancy calculator: registers come in units of 256 for each warp and from one of four partitions of
/// 16384, shared memory in units of 128 bytes with 1 KiB more for each block.
type Occupied = (u32, u32, u32, u32, u32, Limit);

fn check_occupancy(architecture: Architecture, of_warps: u32, cases: &[Occupied]) {
    let limits = architecture.limits();
    for &(threads, registers, shared, blocks, warps, limit) in cases {
        let occupancy = limits.occupancy(threads, registers, shared);
        let counted = (occupancy.blocks, occupancy.warps, occupancy.of_warps, occupancy.limit);
        let case = format!("{architecture:?}: {threads} threads, {registers} registers, {shared} bytes");
        assert_eq!(counted, (blocks, warps, of_warps, limit), "{case}");
    }
}

#[test]
fn occupancy_of_8_0() {
    let kib = 1024;
    check_occupancy(
        Architecture::Sm80,
        64,
        &[
            (256, 32, 0, 8, 64, Limit::Warps),
            (1024, 32, 0, 2, 64, Limit::Warps),
            (32, 16, 0, 32, 32, Limit::Blocks),
            // 2048 registers a warp, 8 warps a partition.
            (256, 64, 0, 4, 32, Limit::Registers),
            // 2080 registers become 2304, so 7 warps a partition and 28 in all: three blocks of 8.
            (256, 65, 0, 3, 24, Limit::Registers),
            (128, 255, 0, 2, 8, Limit::Registers),
            (1024, 64, 0, 1, 32, Limit::Registers),
            // 1280 registers a warp: 12 warps a partition, 48 in all.
            (96, 40, 0, 16, 48, Limit::Registers),
            // 48 + 1 KiB of 164.
            (128, 32, 48 * kib, 3, 12, Limit::Shared),
            (128, 32, 40 * kib, 4, 16, Limit::Shared),
            (128, 32, 40 * kib + 1, 3, 12, Limit::Shared),
            (128, 32, 163 * kib, 1, 4, Limit::Shared),
        ],
    );
}

#[test]
fn occupancy_of_8_6() {
    let kib = 1024;
    check_occupancy(
        Architecture::Sm86,
        48,
        &[
            (256, 32, 0, 6, 48, Limit::Warps),
            (1024, 32, 0, 1, 32, Limit::Warps),
            (64, 32, 0, 16, 32, Limit::Blocks),
            // 40 registers a thread are the most with which all 48 warps fit.
            (192, 40, 0, 8, 48, Limit::Warps),
            (192, 41, 0, 6, 36, Limit::Registers),
            (128, 32, 24 * kib, 4, 16, Limit::Shared),
            (128, 32, 99 * kib, 1, 4, Limit::Shared),
        ],
    );
}

#[test]
fn occupancy_of_9_0() {
    let kib = 1024;
    check_occupancy(
        Architecture::Sm90,
        64,
        &[
            (256, 32, 0, 8, 64, Limit::Warps),
            (64, 24, 0, 32, 64, Limit::Warps),
            (384, 168, 0, 1, 12, Limit::Registers),
            (128, 168, 0, 3, 12, Limit::Registers),
            (128, 32, 227 * kib, 1, 4, Limit::Shared),
            (128, 32, 113 * kib, 2, 8, Limit::Shared),
            (128, 32, 56 * kib, 4, 16, Limit::Shared),
        ],
    );
}

#[test]
fn occupancy_of_a_launch() {
    const SHARED: &str = r#"extern "C" __global__ void shared(u32* y) {
    __shared__ u32 tile[10 * 1024];
    for (u32 i = threadIdx.x; i < 10 * 1024; i += 128) {
        tile[i] = i;
    }
    __syncthreads();
    y[threadIdx.x] = tile[127 - threadIdx.x];
}"#;
    let Some(bench) = Bench::new(&Kernel::new("shared.cu", &[SHARED], "shared"), Options::default()) else {
        return;
    };
    let y = bench.output::<u32>(128);
    let counters = bench.launch(ONE, [128, 1, 1], &[y]).unwrap();
    assert_eq!(counters.shape.shared_bytes, 40 * 1024);
    let occupancy = counters.occupancy(&Architecture::Sm80.limits(), 32);
    assert_eq!((occupancy.blocks, occupancy.limit), (4, Limit::Shared));
}
