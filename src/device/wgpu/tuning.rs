//! What a user may decide about the kernels of a device.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use super::fault::UNCAPTURED;
use super::timing::Timer;
use super::{Inner, WgpuDevice};
use crate::device::cache;
use crate::{DType, Error, Result};

/// The part of a matrix product that one workgroup computes. By default each product gets the largest of which there are
/// enough to fill the device; see [`WgpuDevice::set_matmul_tile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulTile {
    rows: u32,
    columns: u32,
}

impl MatmulTile {
    /// All that there are, the largest first.
    pub const ALL: [MatmulTile; 5] = [
        MatmulTile { rows: 128, columns: 128 },
        MatmulTile { rows: 128, columns: 64 },
        MatmulTile { rows: 64, columns: 64 },
        MatmulTile { rows: 32, columns: 64 },
        MatmulTile { rows: 32, columns: 32 },
    ];

    /// Of the product.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Of the product.
    pub fn columns(&self) -> u32 {
        self.columns
    }
}

impl fmt::Display for MatmulTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.columns)
    }
}

impl FromStr for MatmulTile {
    type Err = Error;

    /// From rows and columns as they are displayed: `64x64`.
    fn from_str(text: &str) -> Result<Self> {
        let wanted = text.trim();
        let all = MatmulTile::ALL;
        all.into_iter().find(|tile| tile.to_string() == wanted).ok_or_else(|| {
            let all: Vec<String> = all.iter().map(MatmulTile::to_string).collect();
            Error::argument("matmul", "tile", format!("is `{wanted}`, there are {}", all.join(", ")))
        })
    }
}

/// What becomes of a device's cooperative matrices, which its driver may call tensor cores. They multiply f16 and add f32.
///
/// They are an experimental feature of wgpu's, and drivers have computed wrong numbers by them. So the first product that could use
/// them is preceded by two small ones of whole numbers, whose results must be those of the plain kernel, bit by bit. Attention is
/// compared with its own plain kernels before the first use of a head size, forward and backward, up to what rounding to f16 explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CooperativeMatrices {
    /// There are none that the kernels could use (16 x 16 x 16 or 8 x 8 x 8), or `TILEWRIGHT_COOPERATIVE_MATRIX=0` turned them
    /// off, or the adapter is a software one, which has them only with `TILEWRIGHT_COOPERATIVE_MATRIX=1`.
    Absent,
    /// There are some, and no product has needed them yet.
    Untried,
    /// They compute what the plain kernel does: large products of f16 use them.
    Used,
    /// They do not, or do not compile: nothing uses them.
    Refused,
}

/// The kernels that may use cooperative matrices: each is tried by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MatrixUse {
    Products,
    Attention { head_dim: usize },
    AttentionBackward { head_dim: usize },
}

/// The cooperative matrices of a device, as kernels use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Matrices {
    /// Rows and columns of each: 8 or 16.
    pub edge: u32,
    /// Invocations of a workgroup of at least four subgroups, whatever size the driver picks for these.
    pub threads: u32,
    /// They are loaded from quads of workgroup memory as well as from scalars: everywhere but in what naga writes for Metal.
    pub quads: bool,
}

#[cfg(test)]
impl Matrices {
    /// A software adapter that has some; else says that the test does not run.
    pub fn of_software() -> Option<(WgpuDevice, Matrices)> {
        let device = WgpuDevice::new(&"software".into()).ok();
        let found = device.and_then(|device| Some((device.clone(), device.matrices()?)));
        if found.is_none() {
            println!("NOT RUN: there is no software adapter with cooperative matrices, or they are off");
            let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name == "cooperative"),
                "TILEWRIGHT_REQUIRE names cooperative"
            );
        }
        found
    }

    /// Those of lavapipe, Apple, NVIDIA and AMD.
    pub const ALL: [Matrices; 4] = [
        Matrices { edge: 8, threads: 32, quads: true },
        Matrices { edge: 8, threads: 128, quads: false },
        Matrices { edge: 16, threads: 128, quads: true },
        Matrices { edge: 16, threads: 256, quads: true },
    ];
}

/// Matrix products that are served by one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MatmulClass {
    /// M, N, K and the batches.
    pub sizes: [usize; 4],
    /// Whether A's smaller stride is along M, and B's along N.
    pub across: [bool; 2],
    /// Which of them are read four elements at a time.
    pub quads: [bool; 2],
    pub dtype: DType,
    /// Whether they are multiplied in f16.
    pub f16: bool,
}

/// What is known of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tuned {
    /// It came once: its first result waited for no measurement.
    Once,
    /// The fastest tile; none if there was nothing to choose from.
    Tile(Option<MatmulTile>),
}

/// What has been decided on a device.
#[derive(Debug, Default)]
pub(super) struct Tuning {
    tile: Option<MatmulTile>,
    f16_arithmetic: bool,
    measures: bool,
    tuned: FxHashMap<MatmulClass, Tuned>,
}

impl Tuning {
    pub fn from_environment() -> Result<Self> {
        let tile = std::env::var("TILEWRIGHT_MATMUL_TILE").ok().filter(|text| !text.trim().is_empty());
        let measures = std::env::var("TILEWRIGHT_TUNE").is_ok_and(|v| v == "1");
        Ok(Tuning { tile: tile.map(|text| text.parse()).transpose()?, measures, ..Tuning::default() })
    }
}

impl WgpuDevice {
    /// Has every matrix product of the device computed by tiles of this shape, or by what the crate finds best for it.
    /// `TILEWRIGHT_MATMUL_TILE=64x64` in the environment does it for every device that is opened.
    pub fn set_matmul_tile(&self, tile: Option<MatmulTile>) {
        self.0.tuning.lock().tile = tile;
    }

    /// The tile of every product, if one was set.
    pub fn matmul_tile(&self) -> Option<MatmulTile> {
        self.0.tuning.lock().tile
    }

    /// Whether the tiles of matrix products are measured, and not chosen by a table. Off by default; `TILEWRIGHT_TUNE=1` in the
    /// environment turns it on for every device that is opened.
    ///
    /// The second product of some sizes, strides and dtype then waits until each tile has computed a few like it, and all
    /// later ones use the tile that was fastest. A tile may be chosen only if its results were those of the plain kernel bit by bit, for
    /// matrices of whole numbers. Choices are kept on disk, in the folder of compiled kernels (`TILEWRIGHT_CACHE`), for this
    /// adapter, driver, and version of the crate and its kernels.
    ///
    /// Tiles differ in how they cut K, and so in the last bits of sums: results are the same from run to run only as long as
    /// the choices on disk are. A tile that was set ([`WgpuDevice::set_matmul_tile`]) comes first, and products that have no
    /// tiles, of a few rows, by cooperative matrices or on software adapters, are not measured.
    pub fn set_tune_matmul(&self, measure: bool) {
        self.0.tuning.lock().measures = measure;
    }

    /// See [`WgpuDevice::set_tune_matmul`].
    pub fn tunes_matmul(&self) -> bool {
        self.0.tuning.lock().measures
    }

    /// What is known of a class, if it came before.
    pub(crate) fn tuned(&self, class: &MatmulClass) -> Option<Tuned> {
        self.0.tuning.lock().tuned.get(class).copied()
    }

    pub(crate) fn set_tuned(&self, class: MatmulClass, tuned: Tuned) {
        self.0.tuning.lock().tuned.insert(class, tuned);
    }

    /// Where on disk a choice is kept that depends on the device and how it was opened, the crate and `what`; nowhere if the cache is off.
    pub(crate) fn choice_entry(&self, what: &str) -> Option<PathBuf> {
        let Inner { adapter, features, limits, checked, .. } = &*self.0;
        let wgpu::AdapterInfo { name, driver, driver_info, backend, .. } = adapter;
        let version = env!("CARGO_PKG_VERSION");
        let opened = format!("{features:?}\0{limits:?}\0{checked}");
        let key = format!("{name}\0{driver}\0{driver_info}\0{backend:?}\0{opened}\0{version}\0{what}");
        Some(cache::folder()?.join(format!("{:x}", Sha256::digest(key))))
    }

    /// The device's time for what `record` records on this thread: by timestamps, or where it has none by the clock, with what other
    /// threads record meanwhile. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the timestamps stand still.
    pub(crate) fn time_of(&self, record: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let Inner { gpu, recorder, timing, .. } = &*self.0;
        let _alone = timing.lock();
        self.synchronize()?;
        let timer = match Timer::of_this_thread(gpu) {
            Err(Error::NotSupported { .. }) => {
                let start = Instant::now();
                record()?;
                self.synchronize()?;
                return Ok(start.elapsed());
            }
            timer => timer?,
        };
        let (others, submitted) = recorder.lock().set_timer(gpu, Some(timer));
        let recorded = submitted.and_then(|()| record());
        let (timer, submitted) = recorder.lock().set_timer(gpu, others);
        recorded.and(submitted)?;
        let kernels = timer.map_or(Ok(Vec::new()), |mut timer| timer.take(gpu))?;
        let time: Duration = kernels.iter().map(|kernel| kernel.time).sum();
        if time.is_zero() {
            let reason = "no time passed between timestamps".to_string();
            return Err(Error::Kernel { kernel: "(time)", device: gpu.name.clone(), reason });
        }
        Ok(time)
    }

    /// Whether products of f16 matrices may be multiplied, and added up eight at a time, in f16, with f32 sums of those: up to
    /// twice the rate of f32, at the price of a few more bits of error. Off by default. On devices without f16
    /// arithmetic nothing changes.
    pub fn set_allow_f16_arithmetic(&self, allow: bool) {
        self.0.tuning.lock().f16_arithmetic = allow;
    }

    /// See [`WgpuDevice::set_allow_f16_arithmetic`].
    pub fn allows_f16_arithmetic(&self) -> bool {
        self.0.tuning.lock().f16_arithmetic
    }

    /// Whether products of f16 use cooperative matrices, as far as that is known.
    pub fn cooperative_matrices(&self) -> CooperativeMatrices {
        match self.0.matrices {
            None => CooperativeMatrices::Absent,
            Some(_) => match self.0.cooperative.lock().get(&MatrixUse::Products) {
                None => CooperativeMatrices::Untried,
                Some(true) => CooperativeMatrices::Used,
                Some(false) => CooperativeMatrices::Refused,
            },
        }
    }

    /// The cooperative matrices that there are, whatever they compute.
    pub(crate) fn matrices(&self) -> Option<Matrices> {
        self.0.matrices
    }

    /// Whether they may be used so: `agrees` is asked once. What it launches may fail, which is a no.
    ///
    /// # Errors
    /// What went wrong in earlier commands, or for want of memory: it says nothing of the matrices.
    pub(crate) fn matrices_serve(
        &self,
        by: MatrixUse,
        agrees: impl FnOnce() -> Result<bool>,
    ) -> Result<bool> {
        // Others who ask meanwhile wait for the answer.
        let mut known = self.0.cooperative.lock();
        if let Some(&serves) = known.get(&by) {
            return Ok(serves);
        }
        let serves = self.attempt(agrees)?.unwrap_or(false);
        known.insert(by, serves);
        Ok(serves)
    }

    /// What `launch` makes; none if a kernel of it does not compile or cannot be launched, which is no error of the caller's.
    ///
    /// # Errors
    /// What went wrong in earlier commands; in batches and outside of all calls, where it may be another thread's; and all that is
    /// no kernel's failure.
    pub(crate) fn attempt<T>(&self, launch: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        self.flush()?;
        let refused = || self.0.recorder.lock().refused;
        let before = refused();
        match launch().and_then(|made| self.flush().map(|()| made)) {
            Ok(made) => Ok(Some(made)),
            Err(Error::Kernel { kernel, .. }) if kernel != UNCAPTURED && refused() == before => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// About how many workgroups keep the device busy: WebGPU tells the kind of a device, not how many cores it has.
    ///
    /// | kind | workgroups | |
    /// |---|---|---|
    /// | discrete | 128 | arithmetic: some two workgroups on each of 40 to 80 cores |
    /// | integrated, virtual, others | 32 | arithmetic: some two on each of 8 to 16 |
    /// | software | 32 | only for the kernels of GPUs, in tests; its own (kernels/matmul/direct.wgsl) are chosen by measurements on lavapipe |
    pub(crate) fn workgroups_to_fill(&self) -> usize {
        match self.0.adapter.device_type {
            wgpu::DeviceType::DiscreteGpu => 128,
            _ => 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_read_as_they_are_written() {
        for tile in MatmulTile::ALL {
            assert_eq!(tile.to_string().parse::<MatmulTile>().unwrap(), tile);
        }
        for nonsense in ["", "64", "64x", "64x65", "64 x 64", "1024x1024"] {
            let error = nonsense.parse::<MatmulTile>().unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{error}");
            assert!(error.to_string().contains("128x128, 128x64"), "{error}");
        }
    }
}
