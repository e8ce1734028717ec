// y = x - the first column of x's tile, rows x columns elements in tiles of 8 x 32.
extern "C" __global__ void ragged_row(const float* x, float* y, u32 rows, u32 columns) {
    __shared__ float tile[8][32];
    const u32 row = blockIdx.y * 8 + threadIdx.y, column = blockIdx.x * 32 + threadIdx.x;
    tile[threadIdx.y][threadIdx.x] = row < rows && column < columns ? x[row * columns + column] : 0.0f;
    __syncthreads();
    // The last tile ends before its eight rows do.
    if ((BUG ? row <= rows : row < rows) && column < columns) {
        y[row * columns + column] = tile[threadIdx.y][threadIdx.x] - tile[threadIdx.y][0]; // FOUND
    }
}
