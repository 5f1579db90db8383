//! The promises of DESIGN.md section 2, one file each, and that caches keep what deployments need. VERIFIED is checked where nodes speak and serve, by their disks.

pub(crate) mod acked;
pub(crate) mod away;
pub(crate) mod gate;
pub(crate) mod hours;
pub(crate) mod limit;
pub(crate) mod outputs;
pub(crate) mod pinned;
pub(crate) mod wan_once;
pub(crate) mod waves;

use std::fmt;

/// Every promise's check.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) wan: wan_once::WanOnce,
    pub(crate) gate: gate::Gate,
    pub(crate) acked: acked::Acked,
    pub(crate) away: away::Away,
    pub(crate) pinned: pinned::Pinned,
    pub(crate) limit: limit::Limit,
    pub(crate) handed: outputs::Handed,
    pub(crate) hours: hours::Hours,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which.
    pub(crate) promise: &'static str,
    /// What was seen.
    pub(crate) what: String,
}

impl Violation {
    pub(crate) fn new(promise: &'static str, what: impl Into<String>) -> Self {
        Self { promise, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}
