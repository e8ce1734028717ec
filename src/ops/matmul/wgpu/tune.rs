//! Tiles by measurement: [`WgpuDevice::set_tune_matmul`].

use std::time::Duration;

use super::*;
use crate::Error;
use crate::device::cache;
use crate::device::wgpu::Tuned;

/// The time that is spent on each measurement, and how many there are of each candidate, of which the shortest counts.
const ENOUGH: Duration = Duration::from_millis(4);
const ROUNDS: usize = 3;

/// The most launches of one measurement: a batch of commands, and half as many where K is cut.
const LAUNCHES: u128 = 64;

/// Larger sizes are compared by their rests.
const COMPARED: usize = 512;

/// The tile that was measured to be the fastest for a class, if tiles are measured and this is not its first product.
pub(super) fn tile(device: &WgpuDevice, class: MatmulClass) -> Result<Option<MatmulTile>> {
    if !device.tunes_matmul() {
        return Ok(None);
    }
    let known = match device.tuned(&class) {
        Some(Tuned::Tile(tile)) => return Ok(tile),
        Some(Tuned::Once) => {
            let tile = match fastest(device, &class, &candidates(device, &class)) {
                // What is measured takes memory beside the caller's own, and more of it: repeated matrices are made one by one.
                Err(Error::OutOfMemory { .. } | Error::TooLarge { .. }) => None,
                tile => tile?,
            };
            tile.into_iter().for_each(|tile| keep(device, &class, tile));
            Tuned::Tile(tile)
        }
        None => kept(device, &class).map_or(Tuned::Once, |tile| Tuned::Tile(Some(tile))),
    };
    device.set_tuned(class, known);
    Ok(match known {
        Tuned::Once => None,
        Tuned::Tile(tile) => tile,
    })
}

fn candidates(device: &WgpuDevice, class: &MatmulClass) -> Vec<(MatmulTile, Plan)> {
    let plan = |tile| Plan::of(Kind::tiled(Tile::named(tile), class.f16), device, class.sizes);
    MatmulTile::ALL.into_iter().map(|tile| (tile, plan(tile))).collect()
}

/// The fastest of those that compute what the plain kernel does. One whose kernels fail is none.
fn fastest(
    device: &WgpuDevice,
    class: &MatmulClass,
    candidates: &[(MatmulTile, Plan)],
) -> Result<Option<MatmulTile>> {
    let mut fastest: Option<(Duration, MatmulTile)> = None;
    for &(tile, plan) in candidates {
        let measured = device.attempt(|| {
            let right = agrees(device, class, plan)?;
            right.then(|| time(device, class, plan)).transpose()
        })?;
        if let Some(time) = measured.flatten()
            && fastest.is_none_or(|(least, _)| time < least)
        {
            fastest = Some((time, tile));
        }
    }
    Ok(fastest.map(|(_, tile)| tile))
}

fn operands(device: &WgpuDevice, class: &MatmulClass, [m, n, k, batch]: [usize; 4]) -> Result<(Tensor, Tensor)> {
    let MatmulClass { across: [a, b], quads: [a_quads, b_quads], dtype, .. } = *class;
    Ok((
        whole_numbers(device, [batch, m, k], a, a_quads, dtype)?,
        whole_numbers(device, [batch, k, n], !b, b_quads, dtype)?,
    ))
}

/// Whether a plan computes what the plain kernel does, bit by bit, of whole numbers.
fn agrees(device: &WgpuDevice, class: &MatmulClass, plan: Plan) -> Result<bool> {
    let [m, n, k, batch] = class.sizes;
    let [m, n] = [m, n].map(|size| if size > COMPARED { COMPARED / 2 + size % (COMPARED / 2) } else { size });
    let (a, b) = operands(device, class, [m, n, k, batch.min(3)])?;
    // It has neither workgroup memory nor anything else in common with tiles but how it reads and writes.
    let plain = Plan { kind: Kind::Direct { rows: 8, sharing: None }, shares: 1 };
    Ok(Task::result(device, &a, &b, plan)? == Task::result(device, &a, &b, plain)?)
}

/// The device's time for one product.
fn time(device: &WgpuDevice, class: &MatmulClass, plan: Plan) -> Result<Duration> {
    let [m, n, _, batch] = class.sizes;
    let (a, b) = operands(device, class, class.sizes)?;
    let d = output("matmul", device, &Shape::from((1, batch, m, n)), class.dtype)?;
    let task = Task::plain(&a, &b, &d);
    let (mut shortest, mut launches) = (Duration::MAX, 1);
    for _ in 0..ROUNDS {
        let all = device.time_of(|| (0..launches).try_for_each(|_| task.clone().launch_as(device, plan)))?;
        shortest = shortest.min(all / launches);
        launches = (ENOUGH.as_nanos() / shortest.as_nanos().max(1)).clamp(1, LAUNCHES) as u32;
    }
    Ok(shortest)
}

/// What a choice depends on beside the device: the class, and the kernels that were measured.
fn depends_on(class: &MatmulClass) -> String {
    let kernels = [ACTIVATIONS, EPILOGUE, A_QUADS, A_SCALARS, B_QUADS, B_SCALARS, BLOCKS, TILED, SPLITS].concat();
    format!("the tile of {class:?}, edition 1, of {TILES:?}\0{kernels}")
}

/// The choice on disk.
fn kept(device: &WgpuDevice, class: &MatmulClass) -> Option<MatmulTile> {
    let content = cache::load(&device.choice_entry(&depends_on(class))?)?;
    std::str::from_utf8(&content).ok()?.parse().ok()
}

/// A full or read-only disk costs time at the next start, nothing else.
fn keep(device: &WgpuDevice, class: &MatmulClass, tile: MatmulTile) {
    if let Some(entry) = device.choice_entry(&depends_on(class)) {
        let _ = cache::store(&entry, tile.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::wgpu::Selector;

    /// A software adapter that launches what GPUs do.
    fn device() -> Option<WgpuDevice> {
        opened(Selector::from("software").gpu_kernels())
    }

    fn opened(selector: Selector) -> Option<WgpuDevice> {
        match WgpuDevice::new(&selector) {
            Ok(device) => Some(device),
            Err(error) => {
                println!("NOT RUN: {error}");
                assert!(std::env::var("TILEWRIGHT_REQUIRE").is_err(), "wgpu is required here");
                None
            }
        }
    }

    fn class(sizes: [usize; 4]) -> MatmulClass {
        MatmulClass { sizes, across: [false, true], quads: [true, true], dtype: DType::F32, f16: false }
    }

    #[test]
    fn a_wrong_candidate_is_refused() -> Result<()> {
        let Some(device) = device() else { return Ok(()) };
        let class = class([40, 64, 32, 1]);
        let [large, .., small] = MatmulTile::ALL;
        // Eight rows of forty: much the fastest.
        let wrong = (large, Plan { kind: Kind::Thin { rows: 8 }, shares: 1 });
        let right = (small, Plan::of(Kind::tiled(Tile::named(small), false), &device, class.sizes));
        assert_eq!(fastest(&device, &class, &[wrong, right])?, Some(small));
        assert_eq!(fastest(&device, &class, &[wrong])?, None);
        Ok(())
    }

    /// Every candidate is right, in all orientations and widths, for sizes that leave rests.
    #[test]
    fn right_candidates_are_accepted() -> Result<()> {
        let Some(device) = device() else { return Ok(()) };
        for (sizes, quads) in [([70, 50, 45, 2], [false, false]), ([36, 68, 1100, 1], [true, true])] {
            for across in [[false, false], [true, true]] {
                let class = MatmulClass { across, quads, ..class(sizes) };
                let (a, b) = operands(&device, &class, sizes)?;
                let access = Access::new(&a, &b);
                assert_eq!((access.across, access.quads), (across, quads), "what is measured is what was asked for");
                for (tile, plan) in candidates(&device, &class) {
                    assert!(agrees(&device, &class, plan)?, "{tile} {class:?}");
                }
            }
        }
        Ok(())
    }

    /// A batch that repeats one matrix fits where it is not made in full.
    #[test]
    fn what_is_too_large_to_measure_is_left_to_the_table() -> Result<()> {
        let selector = Selector::from("software").gpu_kernels().binding_bytes(1 << 20);
        let Some(device) = opened(selector) else { return Ok(()) };
        device.set_tune_matmul(true);
        let [a, b] = [(1, 8, 16, 256), (1, 1, 256, 512)];
        let [a, b] = [a, b].map(|shape| Tensor::ones(shape, DType::F32, &crate::Device::Wgpu(device.clone())));
        let (a, b) = (a?, b?);
        for _ in 0..3 {
            assert!(a.matmul(&b)?.to_vec::<f32>()?.iter().all(|&sum| sum == 256.0));
        }
        let class = class([16, 512, 256, 8]);
        device.set_tuned(class, Tuned::Once);
        assert_eq!(tile(&device, class)?, None);
        assert!(matches!(device.tuned(&class), Some(Tuned::Tile(None))));
        Ok(())
    }

    #[test]
    fn choices_are_measured_at_the_second_product_kept_and_used() -> Result<()> {
        let Some(device) = device() else { return Ok(()) };
        device.set_tune_matmul(true);
        let class = class([33, 36, 44, 1]);
        let Some(entry) = device.choice_entry(&depends_on(&class)) else { return Ok(()) };
        let _ = std::fs::remove_file(&entry);
        let (a, b) = operands(&device, &class, class.sizes)?;
        assert_eq!(tile(&device, class)?, None);
        let chosen = tile(&device, class)?.expect("one of them is the fastest");
        assert_eq!(kept(&device, &class), Some(chosen));

        // What is on disk is what another device of the process uses, from the first product on.
        for other in MatmulTile::ALL {
            keep(&device, &class, other);
            let device = WgpuDevice::new(&Selector::from("software").gpu_kernels())?;
            device.set_tune_matmul(true);
            let access = Access::new(&a, &b);
            let plan = Plan::new(&device, class.dtype, class.sizes, access)?;
            assert_eq!(plan.kind, Kind::tiled(Tile::named(other), false));
        }

        // What is damaged, torn, empty, or says nothing, is nothing, and is written anew.
        let whole = std::fs::read(&entry).expect("the entry is there");
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("it is not empty") ^= 1;
        for bytes in [&damaged[..], &whole[..whole.len() - 1], &whole[..7], &[]] {
            std::fs::write(&entry, bytes).expect("the folder can be written");
            assert_eq!(kept(&device, &class), None);
        }
        cache::store(&entry, b"1024x1024").expect("the folder can be written");
        assert_eq!(kept(&device, &class), None);
        device.set_tuned(class, Tuned::Once);
        let chosen = tile(&device, class)?;
        assert_eq!(kept(&device, &class), chosen);
        let _ = std::fs::remove_file(&entry);
        Ok(())
    }
}
