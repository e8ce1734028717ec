// Memory by single elements: the twin of quads.wgsl, for sizes and places that are no multiples of four.
//
// Kernels compute in vec4<f32> whatever the width. Only the first lane counts here, and compilers drop the others.
//
// Constants: W  1
//            T  f32, f16 or u32: elements that are read
//            U  the same: elements that are written
//
// `Full` is an item in f32.

alias In = T;
alias Out = U;
alias Full = f32;

fn widen(x: In) -> vec4<f32> {
    return vec4(f32(x));
}

fn widen_out(x: Out) -> vec4<f32> {
    return vec4(f32(x));
}

fn narrow(v: vec4<f32>) -> Out {
    return Out(v.x);
}

fn splat(x: In, lane: u32) -> In {
    return x;
}

fn full(v: vec4<f32>) -> Full {
    return v.x;
}

fn item_sum(v: vec4<f32>) -> f32 {
    return v.x;
}

fn item_max(v: vec4<f32>) -> f32 {
    return v.x;
}
