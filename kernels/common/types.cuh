// Element types, their conversions, and vectors of them that move in one instruction.
//
// f16 and bf16 are storage: 16 bits without arithmetic. Kernels load with `to_float`, compute in f32, and store with
// `from_float<T>`, which rounds to nearest even. This text comes before the constants of every kernel.

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;

constexpr u32 WARP_SIZE = 32;
constexpr u32 FULL_WARP = 0xffffffff;

struct f16 {
    u16 bits;
};

struct bf16 {
    u16 bits;
};

template <typename A, typename B> constexpr bool same = false;
template <typename A> constexpr bool same<A, A> = true;

inline float to_float(float x) {
    return x;
}

inline float to_float(u32 x) {
    return __uint2float_rn(x);
}

inline float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

// The upper half of an f32.
inline float to_float(bf16 x) {
    return __uint_as_float((u32)x.bits << 16);
}

// bf16 by integer arithmetic, for devices before sm_80, which have no conversion to it.
inline u16 bf16_bits(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fff; // what the instruction makes of any NaN
    }
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <typename T> T from_float(float x);

template <> inline float from_float<float>(float x) {
    return x;
}

// Towards zero, at the bounds of u32 where it is beyond them, and 0 for NaN.
template <> inline u32 from_float<u32>(float x) {
    return __float2uint_rz(x);
}

template <> inline f16 from_float<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

template <> inline bf16 from_float<bf16>(float x) {
    bf16 y;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    y.bits = bf16_bits(x);
#endif
    return y;
}

// Rounded at most once; the same bits if the type is the same.
template <typename To, typename From> To convert(From x) {
    if constexpr (same<To, From>) {
        return x;
    } else {
        return from_float<To>(to_float(x));
    }
}

// Two 16-bit elements in a word, `low` at the lower address: how fragments of tensor cores hold them.
template <typename T> u32 pack(float low, float high);

template <> inline u32 pack<f16>(float low, float high) {
    u32 y;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
#else
    y = from_float<f16>(low).bits | (u32)from_float<f16>(high).bits << 16;
#endif
    return y;
}

template <> inline u32 pack<bf16>(float low, float high) {
    u32 y;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
#else
    y = bf16_bits(low) | (u32)bf16_bits(high) << 16;
#endif
    return y;
}

// Stores of 8 and 16 bytes to global memory, by name: of plain C++ the compiler sometimes makes one store a word. The
// compiler does not know that they write memory, see `settle`.
inline void store8(void* to, u32 a, u32 b) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(a), "r"(b));
}

inline void store16(void* to, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(a), "r"(b),
                 "r"(c), "r"(d));
}

// Between stores of vectors and loads, by the same thread, of what they stored.
inline void settle() {
    asm volatile("" ::: "memory");
}

// N neighbours in global memory, kept as they lie there. `load` and `store` take one instruction for every 16 bytes;
// the address must be a multiple of the vector's size, or of 16 if that is less.
template <typename T, u32 N> struct Vec {
    static constexpr u32 BYTES = N * sizeof(T);
    static constexpr u32 WORDS = (BYTES + 3) / 4;
    u32 words[WORDS];

    static Vec load(const T* from) {
        Vec v;
        if constexpr (BYTES % 16 == 0) {
#pragma unroll
            for (u32 i = 0; i < BYTES / 16; i++) {
                uint4 w = reinterpret_cast<const uint4*>(from)[i];
                v.words[4 * i] = w.x, v.words[4 * i + 1] = w.y, v.words[4 * i + 2] = w.z, v.words[4 * i + 3] = w.w;
            }
        } else if constexpr (BYTES == 8) {
            uint2 w = *reinterpret_cast<const uint2*>(from);
            v.words[0] = w.x, v.words[1] = w.y;
        } else if constexpr (BYTES == 4) {
            v.words[0] = *reinterpret_cast<const u32*>(from);
        } else {
            static_assert(BYTES == 2, "a vector is 2, 4, 8 or a multiple of 16 bytes");
            v.words[0] = *reinterpret_cast<const u16*>(from);
        }
        return v;
    }

    void store(T* to) const {
        if constexpr (BYTES % 16 == 0) {
#pragma unroll
            for (u32 i = 0; i < BYTES / 16; i++) {
                store16(to + i * (16 / sizeof(T)), words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
            }
        } else if constexpr (BYTES == 8) {
            store8(to, words[0], words[1]);
        } else if constexpr (BYTES == 4) {
            *reinterpret_cast<u32*>(to) = words[0];
        } else {
            *reinterpret_cast<u16*>(to) = words[0];
        }
    }

    T get(u32 i) const {
        if constexpr (sizeof(T) == 2) {
            return T{(u16)(words[i / 2] >> 16 * (i % 2))};
        } else if constexpr (same<T, float>) {
            return __uint_as_float(words[i]);
        } else {
            return words[i];
        }
    }

    // Into a vector of zeros.
    void set(u32 i, T x) {
        if constexpr (sizeof(T) == 2) {
            words[i / 2] |= (u32)x.bits << 16 * (i % 2);
        } else if constexpr (same<T, float>) {
            words[i] = __float_as_uint(x);
        } else {
            words[i] = x;
        }
    }

    static Vec zeros() {
        Vec v;
#pragma unroll
        for (u32 i = 0; i < WORDS; i++) {
            v.words[i] = 0;
        }
        return v;
    }

    void to_floats(float (&out)[N]) const {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            out[i] = to_float(get(i));
        }
    }

    template <typename To> Vec<To, N> converted() const {
        if constexpr (same<To, T>) {
            return *this;
        } else {
            float v[N];
            to_floats(v);
            return Vec<To, N>::of_floats(v);
        }
    }

    static Vec of_floats(const float (&x)[N]) {
        Vec v;
        if constexpr (sizeof(T) == 2 && N > 1) {
#pragma unroll
            for (u32 i = 0; i < N / 2; i++) {
                v.words[i] = pack<T>(x[2 * i], x[2 * i + 1]);
            }
        } else if constexpr (sizeof(T) == 2) {
            v.words[0] = from_float<T>(x[0]).bits;
        } else if constexpr (same<T, float>) {
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                v.words[i] = __float_as_uint(x[i]);
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                v.words[i] = from_float<T>(x[i]);
            }
        }
        return v;
    }
};
