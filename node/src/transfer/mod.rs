//! Moves payload: from neighbours (`fetch`), to neighbours (`serve`), from outside the site under a lease (`read`).
//!
//! Each runs as tasks that own their connections and buffers and report to the driver by bounded channels. What is moved
//! is decided elsewhere; here every segment is verified and written the moment it is complete (VERIFIED), so that memory
//! per transfer is a segment or two, whatever the size of a block.

mod assemble;
pub mod buffers;
pub mod credit;
pub mod fetch;
pub mod pacer;
pub mod read;
pub mod serve;

use std::ops::Range;

use shoal_proto::bulk::SegmentRun;
use shoal_proto::limits::RUNS_PER_REQUEST_MAX;

/// Runs of segments as a request wants them. Where there are more than a request may hold, one run spans them all: what is
/// fetched twice within a site costs less than another round trip.
fn runs(missing: &[Range<usize>]) -> Vec<SegmentRun> {
    let run = |range: Range<usize>| SegmentRun {
        first: u32::try_from(range.start).unwrap_or(u32::MAX),
        count: u32::try_from(range.len()).unwrap_or(u32::MAX),
    };
    match (missing.first(), missing.last()) {
        (Some(first), Some(last)) if missing.len() > RUNS_PER_REQUEST_MAX => vec![run(first.start..last.end)],
        _ => missing.iter().cloned().map(run).collect(),
    }
}

/// The segments of runs, in order.
fn segments(runs: &[SegmentRun]) -> impl Iterator<Item = usize> + '_ {
    runs.iter().flat_map(|run| run.first as usize..run.first as usize + run.count as usize)
}

#[cfg(test)]
mod passing_tests;

#[cfg(test)]
mod tests {
    use shoal_proto::content::{Cutter, Recipe, ZipScan};

    use super::*;

    /// A package of several blocks, and its recipe.
    pub(super) fn package() -> (Vec<u8>, Recipe) {
        let mut bytes = vec![0; 3_000_000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let mut scan = ZipScan::new(bytes.len() as u64);
        while let Some(range) = scan.wants() {
            scan.provide(&bytes[range.start as usize..range.end as usize]);
        }
        let mut cutter = Cutter::new(scan.finish()).unwrap();
        cutter.push(&bytes);
        (bytes, cutter.finish().unwrap())
    }

    #[test]
    fn too_many_runs_become_one() {
        let few = [1..3, 5..6];
        assert_eq!(segments(&runs(&few)).collect::<Vec<_>>(), [1, 2, 5]);
        let many: Vec<_> = (0..=RUNS_PER_REQUEST_MAX).map(|i| i * 2..i * 2 + 1).collect();
        let [run] = runs(&many)[..] else { panic!("one run") };
        assert_eq!((run.first, run.count as usize), (0, RUNS_PER_REQUEST_MAX * 2 + 1));
        assert_eq!(runs(&[]), []);
    }
}
