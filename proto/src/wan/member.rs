//! What a ledger knows of one node.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Absence;
use super::late::Progress;
use crate::content::BlockSet;
use crate::id::{BlockIndex, LeaseId, NodeId};
use crate::limits::{READ_BACKOFF_MAX, READ_BACKOFF_MIN};
use crate::time::Time;

/// How long a block waits for the node that has the greatest part of it: it costs nothing, and another node would have to
/// read that part again.
const PART_WAIT_MAX: Duration = Duration::from_secs(2);

/// One node of the site.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: NodeId,
    /// Whether it is connected and said what it has since it was lost.
    pub(super) up: bool,
    /// Until when its leases and blocks count though it is down.
    pub(super) away_until: Option<Time>,
    /// How its last connection ended.
    pub(super) absence: Absence,
    /// Whether it wants the content.
    pub(super) interested: bool,
    pub(super) has: BlockSet,
    /// What it lacks of blocks of which it has a part; of others that it does not have, it lacks all.
    pub(super) partial: BTreeMap<BlockIndex, u32>,
    /// The leases that own blocks, in the order in which it reads them.
    pub(super) queue: Vec<LeaseId>,
    /// Charged for blocks that its leases own.
    pub(super) leased_bytes: u64,
    /// Charged for blocks that its leases own, and for those that it landed and nobody else has.
    pub(super) at_stake_bytes: u64,
    /// When what is at stake last changed.
    pub(super) stake_changed: Time,
    /// Charged to it, ever.
    pub(super) granted_bytes: u64,
    /// Since when it has said that it is stuck, with nothing landed.
    pub(super) stuck_since: Option<Time>,
    /// Failures since it last landed a leased block.
    pub(super) failures: u32,
    /// No lease before this.
    pub(super) rests_until: Time,
    pub(super) speed: Speed,
    pub(super) progress: Progress,
}

impl Member {
    pub(super) fn new(id: NodeId, blocks: u32) -> Self {
        Self {
            id,
            up: false,
            away_until: None,
            absence: Absence::Unheard,
            interested: false,
            has: BlockSet::new(blocks),
            partial: BTreeMap::new(),
            queue: Vec::new(),
            leased_bytes: 0,
            at_stake_bytes: 0,
            stake_changed: Time::ZERO,
            granted_bytes: 0,
            stuck_since: None,
            failures: 0,
            rests_until: Time::ZERO,
            speed: Speed::default(),
            progress: Progress::default(),
        }
    }

    /// Whether what it has and holds counts: it is up, or away for less than the time of grace.
    pub(super) fn counts(&self) -> bool {
        self.up || self.away_until.is_some()
    }

    /// Whether it may be granted leases, apart from rests.
    pub(super) fn reads(&self) -> bool {
        self.up && self.interested && !self.has.is_full()
    }

    /// Whether others leave to it the blocks of which it lacks the fewest bytes.
    pub(super) fn trusted(&self) -> bool {
        self.reads() && self.failures < 2
    }

    /// Whether the blocks of which it has a part are left to it: it may read them soon.
    pub(super) fn leads(&self, now: Time) -> bool {
        self.trusted() && self.rests_until <= now + PART_WAIT_MAX
    }

    /// Bytes that it lacks of a block of `block_bytes`.
    pub(super) fn lacking(&self, block: BlockIndex, block_bytes: u32) -> u32 {
        if self.has.contains(block) { 0 } else { self.partial.get(&block).copied().unwrap_or(block_bytes) }
    }

    /// Notes a failure, after which it rests.
    pub(super) fn fail(&mut self, retryable: bool, now: Time) {
        self.failures =
            if retryable { self.failures.saturating_add(1) } else { self.failures.max(1).saturating_add(1) };
        let rest = if retryable { backoff(self.failures) } else { READ_BACKOFF_MAX };
        self.rests_until = self.rests_until.max(now + rest);
    }
}

/// The wait after this many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (READ_BACKOFF_MIN * (1 << doublings)).min(READ_BACKOFF_MAX)
}

/// How fast a node reads over the WAN, from when its leased blocks land.
#[derive(Debug, Default)]
pub(super) struct Speed {
    rate: Option<u64>,
    since: Option<Time>,
    /// What was read since the last measurement, over however many leases, and in which time.
    bytes: u64,
    busy: Duration,
}

impl Speed {
    /// The least span of one measurement: landings come in bursts.
    const SPAN: Duration = Duration::from_millis(100);

    /// Bytes a second, once that was measured.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// The node begins to read.
    pub(super) fn begin(&mut self, now: Time) {
        self.since = Some(now);
    }

    /// It landed `bytes`.
    pub(super) fn landed(&mut self, bytes: u32, now: Time) {
        let since = *self.since.get_or_insert(now);
        self.bytes += u64::from(bytes);
        self.busy += now.since(since);
        self.begin(now);
        if self.busy < Self::SPAN {
            return;
        }
        let sample = u128::from(self.bytes) * 1_000_000_000 / self.busy.as_nanos();
        let sample = u64::try_from(sample).unwrap_or(u64::MAX);
        self.rate = Some(self.rate.map_or(sample, |rate| rate / 4 * 3 + sample / 4));
        (self.bytes, self.busy) = (0, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_bound() {
        let seconds: Vec<_> = [0, 1, 2, 3, 9, 10, 1000].map(|failures| backoff(failures).as_secs()).into();
        assert_eq!(seconds, [1, 1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn speed_is_measured_from_when_reading_began() {
        let mut speed = Speed::default();
        speed.begin(Time::from_millis(1000));
        speed.landed(1_000, Time::from_millis(1050));
        assert_eq!(speed.rate(), None, "too short a time");
        // Another lease, after a pause that does not count.
        speed.begin(Time::from_millis(9000));
        speed.landed(1_000, Time::from_millis(9050));
        assert_eq!(speed.rate(), Some(20_000));
    }
}
