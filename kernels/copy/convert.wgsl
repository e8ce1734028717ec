// Elements as bits, the lowest 32 or 16 of a word, from one type to another.
//
// Constants: SRC and DST: u32, one of the types below.
// Parts:     common/half.wgsl

const F32 = 0u;
const U32 = 1u;
const F16 = 2u;
const BF16 = 3u;

fn is_half(code: u32) -> bool {
    return code == F16 || code == BF16;
}

// Ids are read in full where SRC is DST.
fn value_of(bits: u32) -> f32 {
    switch (SRC) {
        case U32: { return f32(bits); }
        case F16: { return f16_value(bits); }
        case BF16: { return bf16_value(bits); }
        default: { return bitcast<f32>(bits); }
    }
}

fn bits_of(v: f32) -> u32 {
    switch (DST) {
        case U32: {
            // Truncates and saturates; NaN becomes 0. 4294967040 is the last f32 below 2^32. By bits, as compilers may assume that
            // there is no NaN and no infinity.
            let bits = bitcast<u32>(v);
            let id = select(u32(clamp(v, 0.0, 4294967040.0)), 0xffffffffu, bits >= 0x4f800000u && bits <= 0x7f800000u);
            return select(id, 0u, (bits & 0x7fffffffu) > 0x7f800000u);
        }
        case F16: { return f16_bits(v); }
        case BF16: { return bf16_bits(v); }
        default: { return bitcast<u32>(v); }
    }
}

// Converted only if the types differ: a NaN's payload survives a copy.
fn converted(bits: u32) -> u32 {
    if (SRC == DST) {
        return bits;
    }
    return bits_of(value_of(bits));
}
