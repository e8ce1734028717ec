// Instructions that C++ has no words for, one function each. The PTX ISA 9.0 says more under their names.
//
// sm_75 has ldmatrix and an mma of half the depth, but no asynchronous copies: there a copy is done when the function
// returns, and the groups are empty.

// The address in the shared window, which the instructions below take.
inline u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

// cp.async: 16 bytes from global to shared memory past the first cache, or zeros unless `there`: then the source is
// not read and may lie anywhere. Both addresses are multiples of 16.
inline void copy_async16(u32 to, const void* from, bool there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("{ .reg .pred missing; setp.eq.u32 missing, %2, 0;"
                 " cp.async.cg.shared.global [%0], [%1], 16, missing; }" ::"r"(to), "l"(from), "r"((u32)there)
                 : "memory");
#else
    const uint4 v = there ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
#endif
}

// Ends a group of this thread's copies.
inline void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the newest `PENDING` groups of this thread are on their way. A barrier must follow before other
// threads read what they brought.
template <u32 PENDING> inline void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

inline void store_shared16(u32 to, const u32 (&v)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

inline void store_shared8(u32 to, float a, float b) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(a), "f"(b) : "memory");
}

inline void load_shared16(u32 (&v)[4], u32 from) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(from)
                 : "memory");
}

inline u32 load_shared(u32 from) {
    u32 v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
    return v;
}

// ldmatrix: four 8 x 8 matrices of 16 bits. Lane 8 i + r has the address of row r of matrix i, 16 bytes; register i
// of lane 4 r + c is the pair c of row r of matrix i. With `TRANSPOSED` it is of the matrices' transposes: elements
// (2 c, r) and (2 c + 1, r).
template <bool TRANSPOSED> inline void load_matrices(u32 (&v)[4], u32 row) {
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                     : "r"(row)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                     : "r"(row)
                     : "memory");
    }
}

// mma.sync: c += a b on tensor cores, with c 16 x 8 in f32 and a depth of 32 bytes: a 16 x 16 and b 16 x 8 of
// 16 bits, or a 16 x 8 and b 8 x 8 of tf32. With g = lane / 4 and t = lane % 4 a lane holds, a word being 4 bytes
// along the depth:
//   a: word t of rows g and g + 8, then word t + 4 of rows g and g + 8
//   b: words t and t + 4 of column g
//   c: columns 2 t and 2 t + 1 of row g, then of row g + 8
template <typename T> inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1);

template <> inline void mma<f16>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

#if __CUDA_ARCH__ >= 800
template <> inline void mma<bf16>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The words are f32 rounded to tf32 by `to_tf32`.
template <> inline void mma<float>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// f32 to the 10 bits of tf32's mantissa, to nearest, ties away from zero. Devices without tf32 leave it as it is.
inline u32 to_tf32(u32 bits) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(__uint_as_float(bits)));
#endif
    return bits;
}

// 2^x within 2 ulp; 0 for minus infinity and where the result is subnormal.
inline float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log2(x) within 2^-22, absolutely or relatively; minus infinity for 0.
inline float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
