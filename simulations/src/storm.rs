//! The storm: many seeds, each run twice.
//!
//! A seed fails if a promise is broken, if a core's own `check` or anything else panics, or if its two runs differ.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use shoal_proto::time::Time;

use crate::checks::Violation;
use crate::report::Totals;
use crate::world::World;

/// A seed that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Which promise was broken, and how.
    pub what: String,
    /// When in simulated time.
    pub at: Duration,
}

/// The result of many seeds.
#[derive(Debug, Default)]
pub struct Storm {
    passed: u64,
    failures: Vec<Failure>,
    totals: Totals,
}

impl Storm {
    /// Runs one seed more; says what failed.
    pub fn run(&mut self, seed: u64, print: bool) -> Option<&Failure> {
        match twice(seed, print) {
            Ok(totals) => {
                self.totals.add(totals);
                self.passed += 1;
                None
            }
            Err(failure) => {
                self.failures.push(failure);
                self.failures.last()
            }
        }
    }

    /// Seeds that failed.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }
}

impl std::fmt::Display for Storm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.totals)?;
        write!(f, "{} passed, {} failed", self.passed, self.failures.len())
    }
}

/// Runs a seed twice; the second run is printed if one is.
fn twice(seed: u64, print: bool) -> Result<Totals, Failure> {
    let (first, _, _) = once(seed, print);
    let (totals, hash) = first?;
    let (second, at, _) = once(seed, false);
    if second? != (totals.clone(), hash) {
        return Err(Failure { seed, what: "the same seed ran differently the second time".to_owned(), at });
    }
    Ok(totals)
}

type Verdict = Result<(Totals, String), Failure>;

fn once(seed: u64, print: bool) -> (Verdict, Duration, String) {
    let mut world = World::new(seed, print);
    let verdict = catch_unwind(AssertUnwindSafe(|| world.run()));
    let verdict = verdict.unwrap_or_else(|panic| Err(Violation::new("CHECK", text_of(panic.as_ref()))));
    let at = world.now.since(Time::ZERO);
    let hash = world.trace.hash();
    let verdict = match verdict {
        Ok(()) => Ok((world.totals.clone(), hash.clone())),
        Err(violation) => Err(Failure { seed, what: violation.to_string(), at }),
    };
    (verdict, at, hash)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds that fail when a rule that a storm once found missing is taken out again: a start is remembered across a crash
    /// (3, 17), a lease for what the site has is paid for (7, 23, 33), a second lease is (46, 59), a restarted coordinator
    /// waits for its nodes (82, 142, 161), what is staged while a later deployment succeeds is kept (19), connections begin
    /// with what nodes keep (122, 141), nobody joins past a step before `acquire` (271, 1513), who joins keeps the release
    /// before (991), a site that joins gets its steps (487), a reader is woken though little is at stake (420) and gets
    /// no more than a block then (1281), parts of two reckonings keep a limit (1285), and a deputy that opens a package
    /// waits for what others have of it (807).
    const REGRESSIONS: [u64; 21] =
        [3, 7, 17, 19, 23, 33, 46, 59, 82, 122, 141, 142, 161, 271, 420, 487, 807, 991, 1281, 1285, 1513];

    #[test]
    fn seeds_that_failed_once_pass() {
        let mut storm = Storm::default();
        for seed in REGRESSIONS {
            assert_eq!(storm.run(seed, false), None);
        }
    }
}
