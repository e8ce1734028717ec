//! What a device spent its time on.

use std::fmt;
use std::time::Duration;

/// What [`Device::profile`](super::Device::profile) measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profiling {
    /// Nothing.
    #[default]
    Off,
    /// What the host does and how long it takes for it. Commands are recorded as they are without.
    Host,
    /// The time of each kernel on the device as well. Kernels then run one after the other, and recording costs more.
    Kernels,
}

/// Measurements since [`Device::profile`](super::Device::profile) or the last
/// [`Device::take_profile`](super::Device::take_profile). Displayed, they are a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// The work of the host.
    pub host: HostCost,
    /// The kernels, the one that took longest first; empty unless they were measured.
    pub kernels: Vec<KernelCost>,
}

/// What the host did to keep the device busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCost {
    /// Kernels launched.
    pub dispatches: u64,
    /// Batches of commands handed to the driver.
    pub submits: u64,
    /// Buffers allocated from the driver, and not reused.
    pub buffers: u64,
    /// Bind groups made, and not found in the cache.
    pub bind_groups: u64,
    /// Kernels compiled.
    pub compiled: u64,
    /// Time for recording commands, and for the driver's buffers.
    pub recording: Duration,
    /// Time in the driver's submission of commands. A software adapter may well run them there.
    pub submitting: Duration,
}

/// All calls of one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelCost {
    /// Its name and entry point.
    pub kernel: String,
    /// How often it was launched.
    pub calls: u64,
    /// The device's time for it.
    pub time: Duration,
    /// Floating-point operations, where the launcher says how many there are to do; an addition and a multiplication are two.
    pub flops: u64,
    /// Bytes it had to read and write: as the launcher says, or else all that was bound, once.
    pub bytes: u64,
}

impl Profile {
    /// Adds what was measured at another time.
    pub fn add(&mut self, other: Profile) {
        self.host.dispatches += other.host.dispatches;
        self.host.submits += other.host.submits;
        self.host.buffers += other.host.buffers;
        self.host.bind_groups += other.host.bind_groups;
        self.host.compiled += other.host.compiled;
        self.host.recording += other.host.recording;
        self.host.submitting += other.host.submitting;
        for k in other.kernels {
            match self.kernels.iter_mut().find(|own| own.kernel == k.kernel) {
                Some(own) => {
                    own.calls += k.calls;
                    own.time += k.time;
                    own.flops += k.flops;
                    own.bytes += k.bytes;
                }
                None => self.kernels.push(k),
            }
        }
        self.sort();
    }

    /// The kernels, the one that took longest first.
    fn sort(&mut self) {
        self.kernels.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.kernel.cmp(&b.kernel)));
    }

    /// The kernels as a table.
    pub fn table(&self) -> impl fmt::Display {
        Table(&self.kernels)
    }
}

impl KernelCost {
    /// Operations a second.
    pub fn flops_per_second(&self) -> f64 {
        rate(self.flops, self.time)
    }

    /// Bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        rate(self.bytes, self.time)
    }
}

impl HostCost {
    /// The time for recording one dispatch, with its share of the other commands.
    pub fn recording_per_dispatch(&self) -> Duration {
        self.recording.div_f64(self.dispatches.max(1) as f64)
    }
}

fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

impl fmt::Display for HostCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostCost { dispatches, submits, buffers, bind_groups, compiled, .. } = self;
        write!(
            f,
            "host: {dispatches} dispatches, {submits} submits, {buffers} buffers allocated, {bind_groups} bind groups made, \
             {compiled} kernels compiled; recording {:.2} us a dispatch, submitting {:.2} ms in all",
            self.recording_per_dispatch().as_secs_f64() * 1e6,
            self.submitting.as_secs_f64() * 1e3
        )
    }
}

struct Table<'a>(&'a [KernelCost]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: Duration = self.0.iter().map(|k| k.time).sum();
        let width = self.0.iter().map(|k| k.kernel.len()).max().unwrap_or(0).max(6);
        writeln!(
            f,
            "{:<width$} {:>8} {:>10} {:>7} {:>9} {:>8}",
            "kernel", "calls", "ms", "share", "GFLOP/s", "GB/s"
        )?;
        for k in self.0 {
            let share = 100.0 * k.time.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
            let flops = match k.flops {
                0 => "-".to_string(),
                _ => format!("{:.1}", k.flops_per_second() / 1e9),
            };
            writeln!(
                f,
                "{:<width$} {:>8} {:>10.3} {share:>6.1}% {flops:>9} {:>8.2}",
                k.kernel,
                k.calls,
                k.time.as_secs_f64() * 1e3,
                k.bytes_per_second() / 1e9
            )?;
        }
        writeln!(f, "{:<width$} {:>8} {:>10.3}", "all", "", total.as_secs_f64() * 1e3)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.kernels.is_empty() {
            self.table().fmt(f)?;
        }
        self.host.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_reads_as_a_table() {
        let kernel = |name: &str, ms, flops| KernelCost {
            kernel: name.into(),
            calls: 3,
            time: Duration::from_millis(ms),
            flops,
            bytes: 6_000_000,
        };
        let mut profile = Profile {
            host: HostCost {
                dispatches: 4,
                submits: 1,
                recording: Duration::from_micros(10),
                ..Default::default()
            },
            kernels: vec![kernel("matmul/tiled", 3, 6_000_000_000), kernel("copy/main", 1, 0)],
        };
        let expected = "\
kernel          calls         ms   share   GFLOP/s     GB/s
matmul/tiled        3      3.000   75.0%    2000.0     2.00
copy/main           3      1.000   25.0%         -     6.00
all                        4.000
host: 4 dispatches, 1 submits, 0 buffers allocated, 0 bind groups made, 0 kernels compiled; \
recording 2.50 us a dispatch, submitting 0.00 ms in all";
        assert_eq!(profile.to_string(), expected);
        // The order is by time, added up.
        profile.add(Profile { kernels: vec![kernel("copy/main", 5, 0)], ..Default::default() });
        assert_eq!((profile.kernels[0].calls, profile.kernels[0].time), (6, Duration::from_millis(6)));
        // Nothing measured is no division by zero.
        assert!(Profile::default().to_string().contains("recording 0.00 us a dispatch"));
    }
}
