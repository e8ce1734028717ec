// Which keys a query sees, by attention/params.wgsl, which comes before this.

// A masked score. It is so far below LOWEST, where the largest score starts, that its weight is 0 even so.
const MASKED: f32 = -2e38;

// Some rows first .. first + count - 1 that a row visits.
struct Interval {
    first: u32,
    count: u32,
}

fn between(first: i32, end: i32, len: u32) -> Interval {
    let start = clamp(first, 0, i32(len));
    return Interval(u32(start), u32(max(min(end, i32(len)) - start, 0)));
}

fn keys_of(i: u32) -> Interval {
    return between(i32(i) + p.low, i32(i) + p.high, p.Tk);
}

fn queries_of(j: u32) -> Interval {
    return between(i32(j) - p.high + 1, i32(j) - p.low + 1, p.Tq);
}

// Below `first` the difference wraps around to a large number.
fn contains(x: Interval, n: u32) -> bool {
    return n - x.first < x.count;
}

// A workgroup visits all rows that one of its rows visits: both ends grow with the row, so they are the first one's
// start and the last one's end. The start is rounded down to where a block of random bits begins.
struct Visit {
    start: u32,
    end: u32,
}

fn visit(first: Interval, last: Interval) -> Visit {
    return Visit(first.first & ~3u, last.first + last.count);
}

// The softmax of a score from which the log-sum-exp, or what else stands for it, is subtracted. A masked one may be far above that.
fn softmax(s: f32, seen: bool) -> f32 {
    return exp2(select(MASKED, s, seen));
}
