// How many of the n sorted elements of x are at most each value: a binary search.
extern "C" __global__ void endless(const float* x, const float* values, u32* y, u32 n) {
    const float value = values[threadIdx.x];
    u32 low = 0, high = n;
    while (low < high) { // FROM
        const u32 middle = (low + high) / 2;
        if (x[middle] <= value) {
            low = BUG ? middle : middle + 1;
        } else {
            high = middle;
        }
    } // TO
    y[threadIdx.x] = low;
}
