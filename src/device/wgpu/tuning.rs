//! What a user may decide about the kernels of a device.

use std::fmt;
use std::str::FromStr;

use super::WgpuDevice;
use crate::{Error, Result};

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
/// them is preceded by two small ones of whole numbers, whose results must be those of the plain kernel, bit by bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CooperativeMatrices {
    /// There are none that the kernels could use (16 x 16 x 16, in subgroups of one size), or
    /// `TILEWRIGHT_COOPERATIVE_MATRIX=0` turned them off.
    Absent,
    /// There are some, and no product has needed them yet.
    Untried,
    /// They compute what the plain kernel does: large products of f16 use them.
    Used,
    /// They do not, or do not compile: nothing uses them.
    Refused,
}

impl CooperativeMatrices {
    /// Of a device as it was opened; one that the crate has not opened may have the feature with other sizes.
    pub(super) fn of(device: &wgpu::Device, ours: bool) -> Self {
        let there = device.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        if ours && there { CooperativeMatrices::Untried } else { CooperativeMatrices::Absent }
    }
}

/// What has been decided on a device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tuning {
    tile: Option<MatmulTile>,
    f16_arithmetic: bool,
}

impl Tuning {
    pub fn from_environment() -> Result<Self> {
        let tile = std::env::var("TILEWRIGHT_MATMUL_TILE").ok().filter(|text| !text.trim().is_empty());
        Ok(Tuning { tile: tile.map(|text| text.parse()).transpose()?, ..Tuning::default() })
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
        *self.0.cooperative.lock()
    }

    /// The subgroup size of cooperative matrices, if they may be used: `agrees` is asked once, where there are some.
    pub(crate) fn cooperative_subgroup(&self, agrees: impl FnOnce(u32) -> bool) -> Option<u32> {
        let subgroup = self.0.adapter.subgroup_min_size;
        // Others who ask meanwhile wait for the answer.
        let mut state = self.0.cooperative.lock();
        if *state == CooperativeMatrices::Untried {
            *state = if agrees(subgroup) { CooperativeMatrices::Used } else { CooperativeMatrices::Refused };
        }
        (*state == CooperativeMatrices::Used).then_some(subgroup)
    }

    /// About how many workgroups keep the device busy: WebGPU tells the kind of a device, not how many cores it has.
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
