// Philox4x32-10: the counter-based random numbers of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
// as 1, 2, 3" (SC 2011). 128 bits of counter and 64 of key in, 128 random bits out: the same bits as src/random.rs,
// which also says which counter belongs to which element.

inline uint4 philox(uint4 counter, uint2 key) {
    constexpr u32 M0 = 0xD2511F53, M1 = 0xCD9E8D57;
    uint4 c = counter;
#pragma unroll
    for (u32 round = 0; round < 10; round++) {
        c = make_uint4(__umulhi(M1, c.z) ^ c.y ^ key.x, M1 * c.z, __umulhi(M0, c.x) ^ c.w ^ key.y, M0 * c.x);
        key.x += 0x9E3779B9;
        key.y += 0xBB67AE85;
    }
    return c;
}
