// A warp takes a 16 x 16 matrix of 16 bits as an operand of mma, through a tile whose rows are 24 elements apart.
extern "C" __global__ void ldmatrix_row(const u16* x, uint4* fragments) {
    __shared__ __align__(16) u16 tile[16][24];
    const u32 lane = threadIdx.x;
    for (u32 i = lane; i < 16 * 16; i += 32) {
        tile[i / 16][i % 16] = x[i];
    }
    __syncwarp();
    // Lanes 0 to 15 name the rows of the left half, 16 to 31 those of the right.
    const u32 row = BUG ? lane : lane % 16, column = lane / 16 * 8;
    const u32 from = shared_address(&tile[0][0]) + 2 * (24 * row + column);
    uint4 v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from) // FOUND
                 : "memory");
    fragments[lane] = v;
}
