// Memory by four elements at a time, which is the widest load and store that GPUs have: the twin of scalars.wgsl.
//
// An item, four neighbouring elements, starts at a multiple of four. Hosts count items and offsets of them.
//
// Constants: W  4
//            T  f32, f16 or u32: elements that are read
//            U  the same: elements that are written
//
// `Full` is an item in f32.

alias In = vec4<T>;
alias Out = vec4<U>;
alias Full = vec4<f32>;

fn widen(x: In) -> vec4<f32> {
    return vec4<f32>(x);
}

fn widen_out(x: Out) -> vec4<f32> {
    return vec4<f32>(x);
}

fn narrow(v: vec4<f32>) -> Out {
    return Out(v);
}

// An item of one element of x alone.
fn splat(x: In, lane: u32) -> In {
    return In(x[lane]);
}

fn full(v: vec4<f32>) -> Full {
    return v;
}

fn item_sum(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn item_max(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}
