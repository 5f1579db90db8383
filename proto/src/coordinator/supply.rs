//! One content's way into one site: the ledger of its leases, and for which deployment they are granted.

use super::input::WanTotals;
use crate::id::{ContentId, DeploymentId, NodeId, PackageIndex};
use crate::limits::WRONG_READS_MAX;
use crate::rollout::cut;
use crate::time::Time;
use crate::wan::{self, WanLedger};
use crate::wire::{Fault, FaultKind, LeaseEnd};

/// Leases of one ledger before its numbers reach those of the next deployment's: sixteen times those of the largest package.
const LEASES_PER_LEDGER: u32 = 1 << 20;

/// Deployments in a row whose ledgers number their leases differently; half of what fits, so that the last has room too.
const LEDGERS_TOLD_APART: u64 = 1 << 11;

/// Which part of a deployment a content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purpose {
    pub(super) deployment: DeploymentId,
    pub(super) package: PackageIndex,
    /// The package's recipe, rather than the package.
    pub(super) recipe: bool,
}

#[derive(Debug)]
pub(super) struct Supply {
    pub(super) ledger: WanLedger,
    pub(super) purpose: Purpose,
    /// How many blocks the content has.
    pub(super) blocks: u32,
    /// The origin ignores ranges.
    pub(super) whole: bool,
    /// How fast a reader of the site may be, as the ledger knows it.
    pub(super) allowed: Option<u64>,
    /// When the ledger is due, as [`super::ledgers::Ledgers`] knows it.
    pub(super) due: Option<Time>,
    /// Reads that brought wrong bytes.
    wrong: u32,
    /// Whose read failed last and why, if none brought anything since.
    pub(super) trouble: Option<(NodeId, String)>,
}

impl Supply {
    pub(super) fn new(ledger: WanLedger, blocks: u32, purpose: Purpose) -> Self {
        // A content's next ledger is for another deployment: what nodes still say of leases of this one is not its.
        let first = u32::try_from(purpose.deployment.0 % LEDGERS_TOLD_APART).unwrap_or(0) * LEASES_PER_LEDGER;
        let ledger = ledger.with_first_lease(first);
        Self { ledger, purpose, blocks, whole: false, allowed: None, due: None, wrong: 0, trouble: None }
    }

    /// What the ledger is to know of a lease's end.
    pub(super) fn ended(&mut self, node: NodeId, end: &LeaseEnd, begun: Vec<wan::Lacking>) -> wan::Input {
        let ignores_ranges = matches!(&end.fault, Some(Fault { kind: FaultKind::IgnoresRanges, .. }));
        self.whole |= ignores_ranges;
        if end.outcome == wan::Outcome::Done || !end.landed.is_empty() {
            self.trouble = None;
        }
        // Whoever ignores ranges is read in another way.
        if let Some(fault) = end.fault.as_ref().filter(|_| !ignores_ranges) {
            self.trouble = Some((node, cut(fault.cause.clone())));
        }
        wan::Input::LeaseEnded {
            node,
            lease: end.lease,
            read_bytes: end.read_bytes,
            landed: end.landed.iter().flat_map(|range| range.iter()).take(self.blocks as usize).collect(),
            begun,
            outcome: end.outcome,
            whole_rest: ignores_ranges,
        }
    }

    /// Why the deployments that want this content cannot go on after a read that failed like this, if they cannot.
    ///
    /// Wrong bytes may be an accident on one way, so the first ones are read again; a changed package is final.
    pub(super) fn verdict(&mut self, fault: &Fault, content: ContentId) -> Option<String> {
        match fault.kind {
            FaultKind::Changed => Some(fault.cause.clone()),
            FaultKind::WrongBytes => {
                self.wrong += 1;
                let cause = &fault.cause;
                (self.wrong >= WRONG_READS_MAX).then(|| {
                    format!("{cause} (content {}, {} times): check the feed or its mirror", content.short(), self.wrong)
                })
            }
            FaultKind::Passing | FaultKind::IgnoresRanges | FaultKind::Denied | FaultKind::Unanswered => None,
        }
    }

    /// What the site lacked, and what it read. What a lost holder was granted and never accounted for counts as read.
    pub(super) fn totals(&self) -> WanTotals {
        let stats = self.ledger.stats();
        let accounted = stats.read_bytes;
        let charged = if stats.leases == 0 { stats.charged_bytes + stats.gap_bytes } else { 0 };
        WanTotals { missing_bytes: stats.base_bytes, read_bytes: accounted.max(charged) }
    }
}
