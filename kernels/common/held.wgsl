// What an invocation holds of a row in registers, so that the row is read once: one item every BLOCK, up to HELD of them.
//
// A longer row has HELD = 0 and is read anew in each pass. `p.C` is the row's number of items.
//
// Constants: BLOCK  workgroup size
//            HELD   u32

// Compilers unroll loops over all of an array, and it takes that to keep it in registers.
const HELD_ROOM = max(HELD, 1u);

fn rounds() -> u32 {
    if (HELD > 0u) {
        return HELD;
    }
    return (p.C + BLOCK - 1u) / BLOCK;
}
