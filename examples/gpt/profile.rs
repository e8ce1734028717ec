//! `--profile`: what training steps cost, on the device and on the host.

use tilewright::Device;
use tilewright::device::{HostCost, Profile, Profiling};

use crate::error::AppError;

/// The first third of a run warms up; in the second the host is measured, and in the last, where that slows the host
/// down, the kernels.
pub struct Profiler {
    device: Device,
    steps: usize,
    /// Of each step.
    host: Vec<HostCost>,
    /// Of so many steps.
    kernels: (usize, Profile),
}

impl Profiler {
    /// For a run of so many steps.
    ///
    /// # Errors
    /// If the device cannot be measured.
    pub fn new(device: &Device, steps: usize) -> Result<Self, AppError> {
        device.profile(Profiling::Kernels)?;
        device.profile(Profiling::Off)?;
        Ok(Profiler { device: device.clone(), steps, host: Vec::new(), kernels: Default::default() })
    }

    /// Takes step number `step`, counted from 1, and measures what it is the turn of.
    pub fn measure<T>(
        &mut self,
        step: usize,
        take: impl FnOnce() -> Result<T, AppError>,
    ) -> Result<T, AppError> {
        let profiling = match 3 * step.saturating_sub(1) / self.steps.max(1) {
            0 => return take(),
            1 => Profiling::Host,
            _ => Profiling::Kernels,
        };
        self.device.profile(profiling)?;
        let out = take()?;
        let profile = self.device.take_profile()?;
        self.device.profile(Profiling::Off)?;
        if profiling == Profiling::Host {
            self.host.push(profile.host);
        } else {
            self.kernels.0 += 1;
            self.kernels.1.add(profile);
        }
        Ok(out)
    }

    /// The table of kernels, and the host's work in the step of median cost.
    pub fn report(&self) -> String {
        let mut host = self.host.clone();
        host.sort_by_key(|host| host.recording);
        let fastest = host.first().map_or(0.0, |host| host.recording_per_dispatch().as_secs_f64() * 1e6);
        let median = host.get(host.len() / 2).copied().unwrap_or_default();
        let (steps, profile) = &self.kernels;
        format!(
            "{steps} steps by kernel:\n{}\nthe median of {} steps, {median}; in the fastest {fastest:.2} us\n",
            profile.table(),
            host.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_no_device_to_profile() {
        let error = Profiler::new(&Device::Cpu, 3).err().unwrap().to_string();
        assert!(error.contains("profile is not supported on cpu"), "{error}");
    }
}
