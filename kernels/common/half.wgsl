// 16-bit floats in plain integers, two a word, for adapters without f16 and for bf16 everywhere.
// Rounding is to nearest, ties to even: pack2x16float leaves it to the implementation.

fn bf16_value(bits: u32) -> f32 {
    return bitcast<f32>(bits << 16u);
}

fn bf16_bits(v: f32) -> u32 {
    let x = bitcast<u32>(v);
    if ((x & 0x7fffffffu) > 0x7f800000u) {
        return (x >> 16u) | 0x40u; // keep a NaN a NaN
    }
    return (x + 0x7fffu + ((x >> 16u) & 1u)) >> 16u;
}

fn f16_value(bits: u32) -> f32 {
    let sign = (bits & 0x8000u) << 16u;
    let magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) { // infinity, NaN
        return bitcast<f32>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13u));
    }
    if (magnitude < 0x0400u) { // subnormal: a multiple of 2^-24, exact in f32
        let v = f32(magnitude) * 5.9604644775390625e-8;
        return bitcast<f32>(sign | bitcast<u32>(v));
    }
    return bitcast<f32>(sign | ((magnitude + 0x1c000u) << 13u));
}

fn f16_bits(v: f32) -> u32 {
    let x = bitcast<u32>(v);
    let sign = (x >> 16u) & 0x8000u;
    let magnitude = x & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    if (magnitude >= 0x477ff000u) { // rounds to 65536 or more
        return sign | 0x7c00u;
    }
    if (magnitude < 0x38800000u) { // subnormal: round to a multiple of 2^-24
        return sign | u32(round(bitcast<f32>(magnitude) * 16777216.0)); // round() is half to even
    }
    return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
}
