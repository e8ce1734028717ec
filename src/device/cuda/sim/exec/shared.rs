//! Shared memory of a block, and the shadow that finds races in it.
//!
//! Every granule (as many bytes as the kernel's narrowest access) remembers its last writer and two readers since then:
//! thread, instruction, and the time on the clock of the thread's warp. A warp's clock ticks at each of its barriers, and
//! each warp knows up to which time of every other warp it has heard of at barriers. An access is in order with an earlier
//! one by another thread if that was before such a time; else the two race. Lanes of a warp are ordered only by barriers of
//! the warp or the block.

/// A writer or reader: flags, clock, thread, instruction. 0: nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Entry(u64);

impl Entry {
    /// A `cp.async` that has not been waited for.
    const PENDING: u64 = 1 << 63;
    /// An atomic or volatile access, which does not race with its like.
    const ATOMIC: u64 = 1 << 62;

    pub fn new(clock: u32, thread: u32, pc: u32) -> Self {
        Self(u64::from(clock & 0x3fff_ffff) << 32 | u64::from(thread) << 22 | u64::from(pc & 0x3f_ffff))
    }

    pub fn pending(self) -> Self {
        Self(self.0 | Self::PENDING)
    }

    pub fn atomic(self) -> Self {
        Self(self.0 | Self::ATOMIC)
    }

    pub fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    pub fn is_atomic(self) -> bool {
        self.0 & Self::ATOMIC != 0
    }

    pub fn clock(self) -> u32 {
        (self.0 >> 32) as u32 & 0x3fff_ffff
    }

    pub fn thread(self) -> u32 {
        (self.0 >> 22) as u32 & 0x3ff
    }

    pub fn pc(self) -> u32 {
        self.0 as u32 & 0x3f_ffff
    }
}

/// What a warp knows of time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    pub now: u32,
    /// When the lanes of this warp last waited for each other.
    pub synced: u32,
    /// What this warp has heard of each warp's clock: accesses before that are in order.
    pub heard: Vec<u32>,
    /// Accesses before this are in order, whoever made them.
    bound: u64,
}

impl Clock {
    pub fn new(warp: usize, warps: usize) -> Self {
        let mut clock = Self { now: 1, synced: 1, heard: vec![1; warps], bound: 0 };
        clock.update(warp);
        clock
    }

    /// After a barrier of this warp alone.
    pub fn tick(&mut self, warp: usize) {
        self.now += 1;
        self.synced = self.now;
        self.update(warp);
    }

    pub fn update(&mut self, warp: usize) {
        let others = self.heard.iter().enumerate().filter(|(other, _)| *other != warp);
        let least = others.map(|(_, &heard)| heard).fold(self.synced, u32::min);
        self.bound = u64::from(least) << 32;
    }

    /// Whether an entry of another thread happened before now, as far as this warp can tell.
    fn ordered(&self, warp: usize, entry: Entry) -> bool {
        let other = entry.thread() as usize / 32;
        entry.clock() < if other == warp { self.synced } else { self.heard[other] }
    }
}

/// Who accesses shared memory, and how.
pub struct Accessor<'a> {
    pub clock: &'a Clock,
    pub warp: usize,
    pub thread: u32,
    pub pc: u32,
    pub races: bool,
    pub uninitialised: bool,
    pub copies: bool,
}

/// What is wrong with an access.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nobody has written here.
    Unwritten,
    /// The data of somebody's `cp.async` has not been waited for.
    Pending(Entry),
    /// An access of another thread that is not in order with this one: its entry, whether it wrote.
    Race(Entry, bool),
}

#[derive(Default)]
pub struct Shared {
    pub bytes: Vec<u8>,
    shift: u32,
    writes: Vec<Entry>,
    reads: Vec<[Entry; 2]>,
}

impl Shared {
    pub fn new(bytes: usize, granule: u32) -> Self {
        let shift = granule.trailing_zeros();
        // Sixteen more bytes than there are: where a row of a matrix goes that is out of bounds unchecked.
        let bytes = bytes.next_multiple_of(16) + 16;
        let granules = bytes / granule as usize;
        Self {
            bytes: vec![0; bytes],
            shift,
            writes: vec![Entry::default(); granules],
            reads: vec![Default::default(); granules],
        }
    }

    /// Forgets everything: a new block begins.
    pub fn clear(&mut self) {
        self.writes.fill(Entry::default());
        self.reads.fill(Default::default());
    }

    #[inline(always)]
    pub fn load(&self, at: usize, bytes: usize) -> u64 {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&self.bytes[at..at + bytes]);
        u64::from_le_bytes(value)
    }

    #[inline(always)]
    pub fn store(&mut self, at: usize, bytes: usize, value: u64) {
        self.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    #[inline(always)]
    fn granules(&self, at: usize, bytes: usize) -> std::ops::Range<usize> {
        at >> self.shift..((at + bytes - 1) >> self.shift) + 1
    }

    /// Checks a read and takes note of it.
    #[inline(always)]
    pub fn read(&mut self, at: usize, bytes: usize, by: &Accessor) -> Result<(), Wrong> {
        let range = self.granules(at, bytes);
        let bound = by.clock.bound;
        let mine = Entry::new(by.clock.now, by.thread, by.pc);
        let mut wrong = Ok(());
        for &write in &self.writes[range.clone()] {
            if write.0.wrapping_sub(1) >= bound.wrapping_sub(1) {
                wrong = wrong.and(check_written(write, by, false));
            }
        }
        if by.races {
            for read in &mut self.reads[range] {
                if read[0].0 < bound || read[0].thread() == by.thread {
                    read[0] = mine;
                } else {
                    read[1] = mine;
                }
            }
        }
        wrong
    }

    /// Checks a write of these bytes and takes note of it. Writing the value that is there already is no race.
    #[inline(always)]
    pub fn write(
        &mut self,
        at: usize,
        value: &[u8],
        by: &Accessor,
        kind: fn(Entry) -> Entry,
    ) -> Result<(), Wrong> {
        let range = self.granules(at, value.len());
        let bound = by.clock.bound;
        let mine = kind(Entry::new(by.clock.now, by.thread, by.pc));
        for i in range {
            let (write, reads) = (self.writes[i], self.reads[i]);
            if write.0 >= bound {
                let same = || self.bytes[at..at + value.len()] == *value;
                match check_written(write, by, mine.is_atomic()) {
                    Err(Wrong::Race(..)) if same() => {}
                    Err(Wrong::Unwritten) | Ok(()) => {}
                    wrong => return wrong,
                }
            }
            if by.races {
                for read in reads {
                    let concurrent =
                        read.0 >= bound && read != Entry::default() && read.thread() != by.thread;
                    let same = || self.bytes[at..at + value.len()] == *value;
                    if concurrent && !by.clock.ordered(by.warp, read) && !same() {
                        return Err(Wrong::Race(read, false));
                    }
                }
            }
            self.writes[i] = mine;
            self.reads[i] = Default::default();
        }
        Ok(())
    }

    /// An atomic access: it reads and writes.
    pub fn atomic(&mut self, at: usize, bytes: usize, by: &Accessor) -> Result<(), Wrong> {
        for i in self.granules(at, bytes) {
            check_written(self.writes[i], by, true)?;
            for read in self.reads[i] {
                let concurrent = by.races && read != Entry::default() && read.thread() != by.thread;
                if concurrent && !by.clock.ordered(by.warp, read) {
                    return Err(Wrong::Race(read, false));
                }
            }
            self.writes[i] = Entry::new(by.clock.now, by.thread, by.pc).atomic();
            self.reads[i] = Default::default();
        }
        Ok(())
    }

    /// Marks the destination of a `cp.async` as written at last, with its data in place.
    pub fn land(&mut self, at: usize, data: &[u8], entry: Entry) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
        let range = self.granules(at, data.len());
        self.writes[range].fill(entry);
    }

    /// Checks a volatile read, which only must not be of what nobody wrote.
    pub fn volatile_read(&self, at: usize, bytes: usize, by: &Accessor) -> Result<(), Wrong> {
        let unwritten = self.writes[self.granules(at, bytes)].iter().any(|&write| write == Entry::default());
        if unwritten && by.uninitialised { Err(Wrong::Unwritten) } else { Ok(()) }
    }
}

/// Whether the last write lets this thread access the granule.
#[inline(never)]
fn check_written(write: Entry, by: &Accessor, atomic: bool) -> Result<(), Wrong> {
    if write == Entry::default() {
        return if by.uninitialised { Err(Wrong::Unwritten) } else { Ok(()) };
    }
    if write.is_pending() {
        return if by.copies { Err(Wrong::Pending(write)) } else { Ok(()) };
    }
    let harmless = !by.races
        || write.thread() == by.thread
        || atomic && write.is_atomic()
        || by.clock.ordered(by.warp, write);
    if harmless { Ok(()) } else { Err(Wrong::Race(write, true)) }
}
