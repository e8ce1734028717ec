// What the passes of attention share: how rows are owned and visited.
//
// Rows of D elements are handled as quads (vec4). A team of SPLIT neighbours *owns* ROWS rows and keeps them, with what
// it sums up for them, in registers: member m the quads m, m + SPLIT, m + 2 SPLIT .. of each. The rows that are visited
// (keys for queries, queries for keys) come TILE at a time, through workgroup memory (tile.wgsl) or from lane to lane
// (lanes.wgsl), and are used STEP at a time. A quad that comes that way meets all ROWS rows, so that reading, which is
// slower than arithmetic, is not what everything waits for.
//
// A step has three parts. Each member multiplies its quads with those of the visited rows, which gives parts of scores
// (`Parts`). These are added up over the team in such a way that each member gets some of the scores (`Own`), of which it
// makes weights: so each exponential is taken once. Then all members get all weights, and add up weighted quads.
//
// Constants: D        head size, a multiple of 8
//            SPLIT    invocations a team, a power of two
//            ROWS     rows a team owns, a power of two
//            BLOCK    workgroup size, a multiple of 4 SPLIT, so that a band of keys starts at a multiple of 4
//            TILE     rows a tile, a power of two
//            STEP     rows a step, 4 or more and a power of two
//            DROPOUT: bool
//            T        f32 or f16: q, k, v, o and their gradients; arithmetic is f32
// Parts:     common/philox.wgsl, attention/params.wgsl, attention/mask.wgsl, this, attention/tile.wgsl or lanes.wgsl, what is visited
//            (attention/keys.wgsl or queries.wgsl), then a pass

const QUADS: u32 = (D / 4u + SPLIT - 1u) / SPLIT; // of a row that one invocation holds
const TEAMS: u32 = BLOCK / SPLIT;
const BAND: u32 = TEAMS * ROWS; // rows a workgroup owns
const FOURS: u32 = (STEP + 3u) / 4u;
// Of which scores one member makes weights: of those of OWN rows with RUN visited ones. Members that share a row share
// what it visits; beyond MAKERS they do the same again.
const OWN: u32 = max(ROWS / SPLIT, 1u);
const RUN: u32 = max(STEP * ROWS / max(SPLIT, ROWS), 1u);
const RUNS: u32 = STEP / RUN;
const MAKERS: u32 = min(SPLIT, ROWS * RUNS);
// Visited rows for which dropout's random bits are drawn at a time, so that all invocations have some to draw.
const DRAWN: u32 = max(TILE, 4u * BLOCK / BAND);

// What a team owns of a matrix, or sums up for its rows.
alias Rows = array<array<vec4<f32>, QUADS>, ROWS>;

// A number for each of the STEP visited rows, for all rows of a team; and for the scores of one member, those of rows
// row_of(n) with the visited ones from run_of on.
alias Parts = array<array<f32, STEP>, ROWS>;
alias Own = array<array<f32, RUN>, OWN>;

fn row_of(n: u32, lid: u32) -> u32 {
    return n * SPLIT + lid % SPLIT % ROWS;
}

fn run_of(lid: u32) -> u32 {
    return lid % SPLIT / ROWS * RUN % STEP;
}

// Where members meet; teams of one need no such place.
var<workgroup> shares: array<vec4<f32>, select(1u, ROWS * FOURS * BLOCK, SPLIT > 1u)>;   // [row][four][invocation]
var<workgroup> shared_weights: array<f32, select(1u, TEAMS * ROWS * STEP, SPLIT > 1u)>; // [team][row][visited]

// The sums over the team, of the scores that are this member's. A barrier must come before the next call.
fn added_up(parts: Parts, lid: u32) -> Own {
    var sums: Own;
    if (SPLIT == 1u) {
        for (var n = 0u; n < OWN; n++) {
            for (var j = 0u; j < RUN; j++) {
                sums[n][j] = parts[n][j];
            }
        }
        return sums;
    }
    for (var n = 0u; n < ROWS * FOURS; n++) {
        let row = parts[n / FOURS];
        let j = n % FOURS * 4u;
        shares[n * BLOCK + lid] = vec4(row[j], row[j + 1u], row[j + 2u], row[j + 3u]);
    }
    workgroupBarrier();
    for (var n = 0u; n < OWN; n++) {
        for (var j = 0u; j < RUN; j++) {
            let visited = run_of(lid) + j;
            let at = (row_of(n, lid) * FOURS + visited / 4u) * BLOCK + lid / SPLIT * SPLIT;
            for (var member = 0u; member < SPLIT; member++) {
                sums[n][j] += shares[at + member][visited % 4u];
            }
        }
    }
    return sums;
}

// What members have each for their scores, for all of them. A barrier must come before the next call.
fn of_team(own: Own, lid: u32) -> Parts {
    var all: Parts;
    if (SPLIT == 1u) {
        for (var n = 0u; n < OWN; n++) {
            for (var j = 0u; j < RUN; j++) {
                all[n][j] = own[n][j];
            }
        }
        return all;
    }
    let team = lid / SPLIT * ROWS;
    if (lid % SPLIT < MAKERS) {
        for (var n = 0u; n < OWN * RUN; n++) {
            shared_weights[(team + row_of(n / RUN, lid)) * STEP + run_of(lid) + n % RUN] = own[n / RUN][n % RUN];
        }
    }
    workgroupBarrier();
    for (var n = 0u; n < ROWS * STEP; n++) {
        all[n / STEP][n % STEP] = shared_weights[team * STEP + n];
    }
    return all;
}

// The four keys from 4 * quad on that query i of a head keeps, as bits 0 to 3.
fn kept_keys(quad: u32, i: u32, head: u32) -> u32 {
    let random = philox(vec4(quad, i, p.first_head + head, p.offset), p.seed);
    let bits = select(vec4(0u), vec4(1u, 2u, 4u, 8u), random >= vec4(p.threshold));
    return bits.x | bits.y | bits.z | bits.w;
}

// Whether a key is among those.
fn keeps(bits: u32, key: u32) -> bool {
    return (bits & (1u << (key % 4u))) != 0u;
}
