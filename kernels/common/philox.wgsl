// Philox4x32-10: the counter-based random numbers of Salmon, Moraes, Dror and Shaw,
// "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). 128 bits of counter and 64 of key in,
// 128 random bits out, the same bits as src/random.rs, which also says which counter belongs to
// which element.
//
// Expects no constants and no bindings.

const PHILOX_M0: u32 = 0xD2511F53u;
const PHILOX_M1: u32 = 0xCD9E8D57u;

// The high 32 bits of a 32 x 32 bit product. WGSL has no 64-bit integers, so it is made of the four
// products of 16-bit halves; `mid` cannot overflow: (2^16 - 1)^2 + 2 (2^16 - 1) < 2^32.
fn mul_high(a: u32, b: u32) -> u32 {
  let al = a & 0xFFFFu;
  let ah = a >> 16u;
  let bl = b & 0xFFFFu;
  let bh = b >> 16u;
  let cross = ah * bl + ((al * bl) >> 16u);
  let mid = al * bh + (cross & 0xFFFFu);
  return ah * bh + (cross >> 16u) + (mid >> 16u);
}

fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
  var c = counter;
  var k = key;
  for (var round = 0u; round < 10u; round++) {
    c = vec4<u32>(
      mul_high(PHILOX_M1, c.z) ^ c.y ^ k.x,
      PHILOX_M1 * c.z,
      mul_high(PHILOX_M0, c.x) ^ c.w ^ k.y,
      PHILOX_M0 * c.x,
    );
    k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}
