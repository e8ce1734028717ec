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
//            STEP     rows a step, a power of two, of teams of several 4 or more
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
// row_of(n) with the visited ones from seat.run on.
alias Parts = array<array<f32, STEP>, ROWS>;
alias Own = array<array<f32, RUN>, OWN>;

// Where members meet; teams of one need no such place. All arrays are as long as some quads are: else what comes after
// them in memory is not aligned to one, and takes more instructions to read.
var<workgroup> shares: array<f32, select(4u, ROWS * FOURS * BLOCK * 4u, SPLIT > 1u)>;   // [row][four][invocation][4]
var<workgroup> shared_weights: array<f32, select(4u, TEAMS * ROWS * STEP, SPLIT > 1u)>; // [team][row][visited]

// What depends on the invocation alone: its own rows and visited ones, and where in memory what it has of the first of
// them lies. It is worked out once, as compilers do it again in each step.
struct Seat {
    member: u32,
    row: u32,    // of the team
    owned: u32,  // the same, of the workgroup
    run: u32,    // of the step
    share: u32,  // in shares
    weight: u32, // in shared_weights
    team: u32,   // of all of the team's there
}

var<private> seat: Seat;

fn sit(lid: u32) {
    let team = lid / SPLIT;
    let row = lid % SPLIT % ROWS;
    let run = lid % SPLIT / ROWS * RUN % STEP;
    seat.member = lid % SPLIT;
    seat.row = row;
    seat.owned = row * TEAMS + team;
    seat.run = run;
    seat.share = ((row * FOURS + run / 4u) * BLOCK + team * SPLIT) * 4u + run % 4u;
    seat.weight = (team * ROWS + row) * STEP + run;
    seat.team = team * ROWS * STEP;
}

// The nth of the rows that a member has scores of: of the team, and of the workgroup.
fn row_of(n: u32) -> u32 {
    return n * SPLIT + seat.row;
}

fn owned(n: u32) -> u32 {
    return n * BLOCK + seat.owned;
}

// The sums over the team, of the scores that are this member's. A barrier must come before the next call.
fn added_up(parts: Parts, lid: u32) -> Own {
    var sums: Own;
    if (SPLIT == 1u) {
        for (var n = 0u; n < OWN; n++) {
            for (var x = 0u; x < RUN; x++) {
                sums[n][x] = parts[n][x];
            }
        }
        return sums;
    }
    for (var n = 0u; n < ROWS * STEP; n++) {
        shares[(n / STEP * FOURS + n % STEP / 4u) * BLOCK * 4u + n % 4u + lid * 4u] = parts[n / STEP][n % STEP];
    }
    workgroupBarrier();
    for (var n = 0u; n < OWN; n++) {
        for (var x = 0u; x < RUN; x++) {
            for (var member = 0u; member < SPLIT; member++) {
                let at = (n * SPLIT * FOURS + x / 4u) * BLOCK * 4u + x % 4u + member * 4u;
                sums[n][x] += shares[seat.share + at];
            }
        }
    }
    return sums;
}

// What members have each for their scores, for all of them. A barrier must come before the next call.
fn of_team(own: Own) -> Parts {
    var all: Parts;
    if (SPLIT == 1u) {
        for (var n = 0u; n < OWN; n++) {
            for (var x = 0u; x < RUN; x++) {
                all[n][x] = own[n][x];
            }
        }
        return all;
    }
    if (MAKERS == SPLIT || seat.member < MAKERS) {
        for (var n = 0u; n < OWN; n++) {
            for (var x = 0u; x < RUN; x++) {
                shared_weights[seat.weight + n * SPLIT * STEP + x] = own[n][x];
            }
        }
    }
    workgroupBarrier();
    for (var n = 0u; n < ROWS * STEP; n++) {
        all[n / STEP][n % STEP] = shared_weights[seat.team + n];
    }
    return all;
}

// The four keys from 4 * quad on that query i of a head keeps, as bits 0 to 3.
fn kept_keys(quad: u32, i: u32, head: u32) -> u32 {
    let random = philox(vec4(quad, i, p.first_head + head, p.offset), p.seed);
    let bits = select(vec4(0u), vec4(1u, 2u, 4u, 8u), random >= vec4(p.threshold));
    return bits.x | bits.y | bits.z | bits.w;
}

// Those of a workgroup's queries, and of a span.
var<workgroup> kept: array<u32, select(4u, DRAWN / 4u * BAND, DROPOUT)>; // [keys / 4][query], QUERIES of these

// Draws them, from a key on, a multiple of 4, and from a query on. Until a barrier nobody may read them.
fn draw(key: u32, query: u32, head: u32, lid: u32) {
    workgroupBarrier();
    for (var n = 0u; n < DRAWN / 4u * BAND; n += BLOCK) {
        // As sums of what is the same for all invocations, which a GPU computes once, and of what is not.
        let quad = n / QUERIES + select(lid / QUERIES, 0u, QUERIES >= BLOCK);
        let i = n % QUERIES + lid % QUERIES;
        kept[n + lid] = kept_keys(key / 4u + quad, query + i, head);
    }
}

// Of the xth of the keys that a member has scores of, in a step that many keys into the span, and of its nth row: where
// its bit lies, and which it is.
fn kept_at(step: u32, x: u32, n: u32) -> u32 {
    return (step + seat.run) / 4u * QUERIES + seat.owned + x / 4u * QUERIES + n * BLOCK;
}

fn bit_of(step: u32, x: u32) -> u32 {
    // What is not shorter than four keys begins where four begin.
    let run = select(seat.run, 0u, RUN >= 4u);
    return (select(step, 0u, STEP >= 4u) + run + x) % 4u;
}

// All ones if bit n is set, else zeros.
fn mask(bits: u32, n: u32) -> u32 {
    return u32(extractBits(i32(bits), n, 1u));
}

// x where the mask has ones, 0 where it has zeros.
fn masked(x: f32, mask: u32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & mask);
}

// x where the mask has ones, y where it has zeros.
fn merged(x: f32, y: f32, mask: u32) -> f32 {
    return bitcast<f32>((bitcast<u32>(x) & mask) | (bitcast<u32>(y) & ~mask));
}
