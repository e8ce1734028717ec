// How a row of a matrix is divided over threads, for kernels that visit one more than once: norm and softmax.
//
// A team of TEAM threads works on a row, each thread on the lines member, member + TEAM, .. of WIDTH neighbours, so
// that a warp's loads are contiguous. With STEPS = ceil(C / (TEAM * WIDTH)) rows are read once and stay in registers;
// with STEPS = 0 rows are of any length and are read again in every pass, from a cache if they fit.
//
// Constants: BLOCK  threads a block, a multiple of 32, at most 1024
//            TEAM   threads a row: 32 (BLOCK / 32 rows at a time, no barriers) or BLOCK
//            WIDTH  elements a load, 16 bytes of them if C and every buffer's start are multiples of that, else 1
//            STEPS  lines of a row that a thread keeps, or 0
//            T      float, f16 or bf16

constexpr u32 TEAMS = BLOCK / TEAM;
constexpr bool RESIDENT = STEPS > 0;
constexpr u32 KEPT = RESIDENT ? STEPS : 1;
constexpr u32 UNROLL = RESIDENT ? STEPS : 1;

using Line = Vec<T, WIDTH>;

struct Share {
    u32 member; // this thread's place in its team
    u32 C;

    u32 lines() const {
        return RESIDENT ? STEPS : (C + TEAM * WIDTH - 1) / (TEAM * WIDTH);
    }

    // The column where a line begins.
    u32 column(u32 line) const {
        return (line * TEAM + member) * WIDTH;
    }

    // Whether this thread has that line. Of rows in registers only the last line is not everyone's, which saves the
    // comparisons and the predicates of the others.
    bool has(u32 line) const {
        return line + 1 < STEPS || column(line) < C;
    }
};
