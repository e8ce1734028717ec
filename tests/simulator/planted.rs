//! Bugs planted in kernels, each found and named; and each kernel without its bug, which passes with all checks on and
//! computes what it should.
//!
//! A kernel in `planted/` has its bug if the constant `BUG` is true. The line that the report must name is marked `FOUND`,
//! that of the other party `AGAINST`: where a function of `ptx.cuh` is at fault, the line that calls it.

use tilewright::device::cuda::Kernel;
use tilewright::device::cuda::sim::{Error, Options, Report, ReportKind, Result, Source};

use crate::bench::{Bench, PTX};

/// A kernel of `planted/`.
struct Planted {
    entry: &'static str,
    file: &'static str,
    parts: &'static [&'static str],
}

macro_rules! planted {
    ($name:literal) => {
        Planted {
            entry: $name,
            file: concat!($name, ".cu"),
            parts: &[PTX, include_str!(concat!("planted/", $name, ".cu"))],
        }
    };
}

/// Whom a report must name.
#[derive(Debug, Default, PartialEq)]
struct Parties {
    block: [u32; 3],
    thread: Option<[u32; 3]>,
    /// The other party's block and thread.
    against: Option<([u32; 3], [u32; 3])>,
}

/// A thread of the first block.
fn thread(x: u32) -> Parties {
    Parties { thread: Some([x, 0, 0]), ..Parties::default() }
}

/// Two threads of the first block.
fn threads(x: u32, against: u32) -> Parties {
    Parties { against: Some(([0; 3], [against, 0, 0])), ..thread(x) }
}

impl Planted {
    /// The line with a mark.
    fn line(&self, mark: &str) -> Option<Source> {
        let text = self.parts.last()?;
        let marked =
            |line: &str| line.split_once("// ").is_some_and(|(_, marks)| marks.split(' ').any(|m| m == mark));
        let line = 1 + text.lines().position(marked)? as u32;
        Some(Source { file: self.file.into(), line })
    }

    /// Runs the kernel without its bug, which must pass, and with it: what the check reported then. `None` without NVRTC.
    fn report(&self, options: Options, run: impl Fn(&Bench, bool) -> Result<()>) -> Option<Report> {
        let bench = |bug: bool| {
            Bench::new(&Kernel::new(self.file, self.parts, self.entry).with("BUG", bug), options.clone())
        };
        if let Err(error) = run(&bench(false)?, false) {
            panic!("{} without its bug: {error}", self.entry);
        }
        match run(&bench(true)?, true) {
            Err(Error::Report(report)) => {
                println!("{report}\n");
                Some(*report)
            }
            other => panic!("{} with its bug: {other:?}", self.entry),
        }
    }

    /// Asserts that the bug is found, as what, where and by whom.
    fn found(&self, kind: ReportKind, parties: Parties, run: impl Fn(&Bench, bool) -> Result<()>) {
        let Some(report) = self.report(Options::default(), run) else { return };
        assert_eq!(report.kind, kind, "{report}");
        assert_eq!(report.kernel.as_deref(), Some(self.entry), "{report}");
        let against = report.other.as_ref();
        let named = Parties {
            block: report.block,
            thread: report.thread,
            against: against.map(|other| (other.block, other.thread.expect("the other thread is known"))),
        };
        assert_eq!(named, parties, "{report}");
        assert!(report.ptx_line.is_some(), "{report}");
        let own = |source: &Option<Source>, inlined: &[Source]| inlined.last().or(source.as_ref()).cloned();
        assert_eq!(own(&report.source, &report.inlined), self.line("FOUND"), "{report}");
        let against = against.and_then(|other| own(&other.source, &other.inlined));
        assert_eq!(against, self.line("AGAINST"), "{report}");
    }
}

/// 0, 1, 2 ... as floats.
fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32).collect()
}

#[test]
fn a_store_past_the_end() {
    let parties = Parties { block: [1, 0, 0], thread: Some([36, 0, 0]), against: None };
    planted!("off_by_one").found(ReportKind::OutOfBounds, parties, |bench, _| {
        let y = bench.output::<f32>(100);
        bench.launch([2, 1, 1], [64, 1, 1], &[y, 1.5f32.to_bits().into(), 100])?;
        assert_eq!(bench.read::<f32>(y, 100)?, [1.5; 100]);
        Ok(())
    });
}

#[test]
fn a_store_past_the_last_row_of_a_ragged_tile() {
    // Of the third row of tiles four rows are there.
    let parties = Parties { block: [0, 2, 0], thread: Some([0, 4, 0]), against: None };
    planted!("ragged_row").found(ReportKind::OutOfBounds, parties, |bench, _| {
        let (rows, columns) = (20, 40);
        let x = bench.input(&ramp(rows * columns));
        let y = bench.output::<f32>(rows * columns);
        bench.launch([2, 3, 1], [32, 8, 1], &[x, y, rows as u64, columns as u64])?;
        let expected: Vec<f32> = (0..rows * columns).map(|i| (i % columns % 32) as f32).collect();
        assert_eq!(bench.read::<f32>(y, rows * columns)?, expected);
        Ok(())
    });
}

#[test]
fn a_missing_barrier() {
    planted!("missing_barrier").found(ReportKind::SharedRace, threads(1, 0), |bench, _| {
        let x = bench.input(&ramp(128));
        let y = bench.output::<f32>(128);
        bench.launch([2, 1, 1], [64, 1, 1], &[x, y])?;
        let expected: Vec<f32> = (0..128).map(|i| f32::from(i % 64 != 0)).collect();
        assert_eq!(bench.read::<f32>(y, 128)?, expected);
        Ok(())
    });
}

#[test]
fn a_barrier_in_a_divergent_branch() {
    // Eight lanes of the second warp take the branch.
    planted!("divergent_barrier").found(ReportKind::Barrier, thread(32), |bench, _| {
        let x = bench.input(&ramp(40));
        let y = bench.output::<f32>(40);
        bench.launch([1, 1, 1], [64, 1, 1], &[x, y, 40])?;
        let expected: Vec<f32> = ramp(40).into_iter().rev().collect();
        assert_eq!(bench.read::<f32>(y, 40)?, expected);
        Ok(())
    });
}

#[test]
fn a_read_of_unwritten_shared_memory() {
    planted!("unwritten_shared").found(ReportKind::Uninitialised, thread(63), |bench, _| {
        let x = bench.input(&[1.0f32; 100]);
        let y = bench.output::<f32>(100);
        bench.launch([2, 1, 1], [64, 1, 1], &[x, y, 100])?;
        let expected: Vec<f32> = (0..100).map(|i| if i == 0 || i == 99 { 2.0 } else { 3.0 }).collect();
        assert_eq!(bench.read::<f32>(y, 100)?, expected);
        Ok(())
    });
}

#[test]
fn an_asynchronous_copy_without_a_wait() {
    planted!("missing_wait").found(ReportKind::AsyncCopy, threads(0, 63), |bench, _| {
        let values: Vec<[u32; 4]> = (0..64).map(|i| [i, i + 1, i + 2, i + 3]).collect();
        let x = bench.input(&values);
        let y = bench.output::<[u32; 4]>(64);
        bench.launch([1, 1, 1], [64, 1, 1], &[x, y])?;
        let expected: Vec<[u32; 4]> = values.into_iter().rev().collect();
        assert_eq!(bench.read::<[u32; 4]>(y, 64)?, expected);
        Ok(())
    });
}

#[test]
fn a_misaligned_vector_load() {
    // Rows of 30 elements: the second begins in the middle of a vector.
    let parties = Parties { block: [1, 0, 0], thread: Some([0; 3]), against: None };
    planted!("misaligned").found(ReportKind::Misaligned, parties, |bench, _| {
        let x = bench.input(&[1.0f32; 90]);
        let y = bench.output::<f32>(3);
        bench.launch([3, 1, 1], [32, 1, 1], &[x, y, 30])?;
        assert_eq!(bench.read::<f32>(y, 3)?, [30.0; 3]);
        Ok(())
    });
}

#[test]
fn a_wrong_row_address_of_ldmatrix() {
    // Lane 16 names a row past the tile.
    planted!("ldmatrix_row").found(ReportKind::OutOfBounds, thread(16), |bench, _| {
        let values: Vec<u16> = (0..256).collect();
        let x = bench.input(&values);
        let fragments = bench.output::<[u32; 4]>(32);
        bench.launch([1, 1, 1], [32, 1, 1], &[x, fragments])?;
        // PTX ISA 9.0, section 9.7.14.5.15: row and pair of columns by lane, quarter of the matrix by register.
        let pair = |row: u32, column: u32| (16 * row + column) | ((16 * row + column + 1) << 16);
        let expected: Vec<[u32; 4]> = (0..32)
            .map(|lane| {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                [pair(row, column), pair(row + 8, column), pair(row, column + 8), pair(row + 8, column + 8)]
            })
            .collect();
        assert_eq!(bench.read::<[u32; 4]>(fragments, 32)?, expected);
        Ok(())
    });
}

#[test]
fn a_shuffle_with_absent_lanes() {
    planted!("absent_lane").found(ReportKind::AbsentLane, thread(0), |bench, _| {
        let x = bench.input(&ramp(20));
        let y = bench.output::<f32>(1);
        bench.launch([1, 1, 1], [32, 1, 1], &[x, y, 20])?;
        assert_eq!(bench.read::<f32>(y, 1)?, [190.0]);
        Ok(())
    });
}

#[test]
fn a_double_buffer_refilled_in_use() {
    planted!("double_buffer").found(ReportKind::SharedRace, threads(32, 31), |bench, _| {
        let x = bench.input(&ramp(64 * 5));
        let y = bench.output::<f32>(64);
        bench.launch([1, 1, 1], [64, 1, 1], &[x, y, 5])?;
        let expected: Vec<f32> = (0..64).map(|t| (5 * (63 - t) + 64 * 10) as f32).collect();
        assert_eq!(bench.read::<f32>(y, 64)?, expected);
        Ok(())
    });
}

#[test]
fn a_use_after_free() {
    planted!("use_after_free").found(ReportKind::UseAfterFree, thread(0), |bench, bug| {
        let (x, y) = (bench.input(&ramp(64)), bench.input(&ramp(64)));
        if bug {
            bench.simulator.free(x)?;
        }
        bench.launch([1, 1, 1], [64, 1, 1], &[x, y, 64])?;
        let expected: Vec<f32> = ramp(64).iter().map(|x| x + x).collect();
        assert_eq!(bench.read::<f32>(y, 64)?, expected);
        bench.simulator.free(x)
    });
}

#[test]
fn an_output_that_is_not_all_written() {
    let planted = planted!("uninitialised_output");
    let report = planted.report(Options::default(), |bench, _| {
        let x = bench.input(&ramp(103));
        let y = bench.output::<f32>(103);
        bench.launch([1, 1, 1], [32, 1, 1], &[x, y, 103])?;
        let expected: Vec<f32> = ramp(103).iter().map(|x| 2.0 * x).collect();
        assert_eq!(bench.read::<f32>(y, 103)?, expected);
        Ok(())
    });
    let Some(report) = report else { return };
    // The host's read finds it, at the first byte after 25 vectors.
    assert_eq!((report.kind, &report.kernel, &report.source), (ReportKind::Uninitialised, &None, &None));
    assert!(report.message.contains("byte 400 of the allocation of 412 bytes"), "{report}");
}

#[test]
fn a_race_between_blocks_in_global_memory() {
    let against = Some(([0; 3], [0; 3]));
    let parties = Parties { block: [1, 0, 0], thread: Some([0; 3]), against };
    planted!("global_race").found(ReportKind::GlobalRace, parties, |bench, _| {
        let (x, total) = (bench.input(&[1.0f32; 64]), bench.input(&[0.0f32]));
        bench.launch([2, 1, 1], [32, 1, 1], &[x, total])?;
        assert_eq!(bench.read::<f32>(total, 1)?, [64.0]);
        Ok(())
    });
}

#[test]
fn lanes_that_do_not_wait_for_each_other() {
    planted!("missing_syncwarp").found(ReportKind::SharedRace, threads(0, 16), |bench, _| {
        let x = bench.input(&ramp(32));
        let y = bench.output::<f32>(1);
        bench.launch([1, 1, 1], [32, 1, 1], &[x, y])?;
        assert_eq!(bench.read::<f32>(y, 1)?, [496.0]);
        Ok(())
    });
}

#[test]
fn two_values_for_one_address() {
    planted!("same_address").found(ReportKind::SharedRace, threads(9, 3), |bench, _| {
        let mut values = ramp(32);
        (values[3], values[9]) = (50.0, 50.0);
        let x = bench.input(&values);
        let y = bench.output::<u32>(1);
        bench.launch([1, 1, 1], [32, 1, 1], &[x, y])?;
        assert_eq!(bench.read::<u32>(y, 1)?, [3]);
        Ok(())
    });
}

#[test]
fn an_assertion_of_the_kernel() {
    let parties = Parties { block: [2, 0, 0], thread: Some([0; 3]), against: None };
    planted!("device_assert").found(ReportKind::Assertion, parties, |bench, _| {
        let (table, ids) = (bench.input(&ramp(5 * 8)), bench.input(&[1u32, 4, 5, 0]));
        let y = bench.output::<f32>(4 * 8);
        bench.launch([4, 1, 1], [8, 1, 1], &[table, ids, y, 5])?;
        let expected: Vec<f32> =
            [1, 4, 4, 0].iter().flat_map(|id| (0..8).map(move |i| (8 * id + i) as f32)).collect();
        assert_eq!(bench.read::<f32>(y, 4 * 8)?, expected);
        Ok(())
    });
}

#[test]
fn an_access_past_the_end_of_shared_memory() {
    let parties = Parties { block: [1, 0, 0], thread: Some([63, 0, 0]), against: None };
    planted!("shared_bounds").found(ReportKind::OutOfBounds, parties, |bench, _| {
        // From 0 to 1 in steps of 1/127: the last is 1 itself.
        let values: Vec<f32> = (0..128).map(|i| i as f32 / 127.0).collect();
        let (x, histogram) = (bench.input(&values), bench.input(&[0u32; 64]));
        bench.launch([2, 1, 1], [64, 1, 1], &[x, histogram])?;
        let mut expected = [0u32; 64];
        values.iter().for_each(|x| expected[((64.0 * x) as usize).min(63)] += 1);
        assert_eq!(bench.read::<u32>(histogram, 64)?, expected);
        Ok(())
    });
}

#[test]
fn a_loop_without_an_end() {
    let planted = planted!("endless");
    let options = Options { budget: 1 << 20, ..Options::default() };
    let report = planted.report(options, |bench, _| {
        // The first two lie below x[0]: their threads leave the loop, and wait behind it for the others.
        let values: Vec<f32> = (0..32).map(|i| i as f32 / 2.0 - 1.0).collect();
        let (x, values) = (bench.input(&ramp(10)), bench.input(&values));
        let y = bench.output::<u32>(32);
        bench.launch([1, 1, 1], [32, 1, 1], &[x, values, y, 10])?;
        let expected: Vec<u32> = (0..32).map(|i| (i / 2u32).min(10)).collect();
        assert_eq!(bench.read::<u32>(y, 32)?, expected);
        Ok(())
    });
    let Some(report) = report else { return };
    assert_eq!((report.kind, report.kernel.as_deref()), (ReportKind::Budget, Some("endless")));
    assert_eq!(report.thread, Some([2, 0, 0]), "{report}");
    let (source, from, to) = (report.source.clone(), planted.line("FROM"), planted.line("TO"));
    let line = |source: &Option<Source>| source.as_ref().map(|source| source.line);
    assert!(line(&from) <= line(&source) && line(&source) <= line(&to), "{report}");
}

#[test]
fn a_null_pointer() {
    planted!("null_pointer").found(ReportKind::OutOfBounds, thread(0), |bench, _| {
        let x = bench.input(&ramp(32));
        let y = bench.output::<f32>(32);
        bench.launch([1, 1, 1], [32, 1, 1], &[x, 0, y])?;
        assert_eq!(bench.read::<f32>(y, 32)?, ramp(32));
        Ok(())
    });
}

#[test]
fn a_barrier_that_too_few_threads_reach() {
    planted!("deadlock").found(ReportKind::Barrier, thread(32), |bench, _| {
        let x = bench.input(&ramp(32));
        let y = bench.output::<f32>(32);
        bench.launch([1, 1, 1], [64, 1, 1], &[x, y])?;
        let expected: Vec<f32> = ramp(32).into_iter().rev().collect();
        assert_eq!(bench.read::<f32>(y, 32)?, expected);
        Ok(())
    });
}

#[test]
fn an_access_past_the_end_of_an_array_of_the_thread() {
    planted!("local_bounds").found(ReportKind::OutOfBounds, thread(0), |bench, _| {
        let x = bench.input(&ramp(32 * 20));
        let y = bench.output::<f32>(32 * 20);
        bench.launch([1, 1, 1], [32, 1, 1], &[x, y, 20, 8])?;
        assert_eq!(bench.read::<f32>(y, 32 * 20)?, ramp(32 * 20));
        Ok(())
    });
}
