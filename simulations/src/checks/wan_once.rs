//! WAN-ONCE: what really crossed the WAN of a site for a content stays within what the site lacked, and its budget.
//!
//! A second account, kept from what was read and not from what was leased. Each block may be read once, as much as its
//! first reader lacked of it. On top comes the budget of 1 % of the content with its floor, once for each deployment, however
//! often the coordinator is restarted. Allowances are for each ledger that there was, which is one for each run of the coordinator and
//! each deployment: a later ledger may not know what was read before it, so a block may be read once more for it, but only
//! if it is not on record as come for the deployment, and if no node of the site that was connected when the lease was
//! granted, and still is, holds it or reads it. Bytes that were
//! read in vain and that nobody could report (their reader crashed, or the report was lost) are nobody's fault; those
//! that were reported are the budget's.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::id::{BlockIndex, ContentId, LeaseId};
use shoal_proto::limits::{WAN_BUDGET_BYTES_MIN, WAN_BUDGET_DIVISOR};
use shoal_proto::wan::BlockRange;

/// A content's way into a site, or to one node where nodes do not trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) site: usize,
    pub(crate) alone: Option<usize>,
    pub(crate) content: ContentId,
}

/// What was read by whom.
#[derive(Debug, Default)]
pub(crate) struct WanOnce {
    ways: BTreeMap<Way, Account>,
    /// Bytes that were read in vain for a lease, and are not yet reported.
    waste: BTreeMap<LeaseId, (Way, u64)>,
    /// Blocks that nodes said that they have, by whatever way.
    said: BTreeSet<(usize, ContentId, BlockIndex)>,
    runs: u64,
    contents: BTreeMap<ContentId, Brought>,
    overrides: BTreeMap<Way, u64>,
}

/// How a content came into the world.
#[derive(Debug)]
struct Brought {
    deployments: u64,
    /// Which run of the coordinator saw the first.
    first_run: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Account {
    /// For which ledger each block was last allowed to be read.
    allowances: BTreeMap<BlockIndex, u64>,
    allowed: u64,
    read: u64,
    unreported: u64,
    /// Blocks that deputies read.
    own: BTreeSet<BlockIndex>,
    /// Blocks that are on record as come, and for which deployment that was.
    came: BTreeMap<BlockIndex, u64>,
}

impl WanOnce {
    /// A coordinator started: its ledgers know of no block that it was read.
    pub(crate) fn coordinator_started(&mut self) {
        self.runs += 1;
    }

    /// A deployment brings `content`, which has `bytes`.
    pub(crate) fn deployed(&mut self, content: ContentId, bytes: u64) {
        let first_run = self.runs;
        self.contents.entry(content).or_insert(Brought { deployments: 0, first_run, bytes }).deployments += 1;
    }

    /// An operator allows `bytes` more.
    pub(crate) fn allowed(&mut self, way: Way, bytes: u64) {
        *self.overrides.entry(way).or_default() += bytes;
    }

    /// What may be read in vain of a content in each site: a share for each deployment that brought it.
    fn budget(&self, content: ContentId) -> u64 {
        let share = |brought: &Brought| (brought.bytes / WAN_BUDGET_DIVISOR).max(WAN_BUDGET_BYTES_MIN);
        self.contents.get(&content).map_or(0, |brought| brought.deployments * share(brought))
    }

    /// How many deployments brought a content.
    fn deployments(&self, content: ContentId) -> u64 {
        self.contents.get(&content).map_or(0, |brought| brought.deployments)
    }

    /// How many ledgers a content has had in each site, at most.
    fn ledgers(&self, content: ContentId) -> u64 {
        self.contents.get(&content).map_or(1, |brought| brought.deployments + self.runs - brought.first_run)
    }

    /// A node reads some of the `lacking` bytes that it lacks of a block; `there` says whether the site had it otherwise, when
    /// the lease was granted and when it was begun: a block that a deputy read is not to be granted if so.
    pub(crate) fn begin(&mut self, way: Way, block: BlockIndex, lacking: u32, there: [bool; 2]) {
        let ledger = self.ledgers(way.content);
        let deployments = self.deployments(way.content);
        let account = self.ways.entry(way).or_default();
        let before = account.allowances.get(&block).copied();
        let forgotten = account.came.get(&block).is_none_or(|came| *came < deployments);
        let first = before.is_none() && !(there[0] && account.own.contains(&block));
        if first || before.is_some_and(|before| before < ledger) && forgotten && there != [true; 2] {
            account.allowances.insert(block, ledger);
            account.allowed += u64::from(lacking);
        }
    }

    /// A deputy reads some of the `lacking` bytes that it lacks of a block. Whether it may is judged by what it knows, when
    /// it grants itself the lease (see [`super::away`]); if so it is allowed beside what the ledgers allow.
    pub(crate) fn begin_own(&mut self, way: Way, block: BlockIndex, lacking: u32) {
        let account = self.ways.entry(way).or_default();
        account.own.insert(block);
        account.allowed += u64::from(lacking);
    }

    /// `bytes` crossed the WAN for a lease, `wasted` of them for nothing.
    pub(crate) fn read(&mut self, way: Way, lease: LeaseId, bytes: u64, wasted: u64) -> Result<(), String> {
        let budget = self.budget(way.content);
        let overrides = self.overrides.get(&way).copied().unwrap_or(0);
        let account = self.ways.entry(way).or_default();
        account.read += bytes;
        account.unreported += wasted;
        self.waste.entry(lease).or_insert((way, 0)).1 += wasted;
        let most = account.allowed + budget + overrides + account.unreported;
        if account.read <= most {
            return Ok(());
        }
        Err(format!(
            "{way:?} read {} bytes where {} were lacking and {most} are allowed",
            account.read, account.allowed
        ))
    }

    /// A node's report that it has a block arrived.
    pub(crate) fn said(&mut self, node: usize, content: ContentId, block: BlockIndex) {
        self.said.insert((node, content, block));
    }

    /// It is on record that blocks came: a restart is no reason to read them again.
    pub(crate) fn came(&mut self, way: Way, blocks: &[BlockRange]) {
        let deployments = self.deployments(way.content);
        let account = self.ways.entry(way).or_default();
        account.came.extend(blocks.iter().flat_map(|range| range.iter()).map(|block| (block, deployments)));
    }

    /// A node lost what it had of a block: nobody can know that it was read, unless it was said.
    pub(crate) fn lost(&mut self, way: Way, node: usize, block: BlockIndex, bytes: u64) {
        if !self.said.remove(&(node, way.content, block)) {
            self.ways.entry(way).or_default().unreported += bytes;
        }
    }

    /// A lease's end is reported, with what was read in vain for it.
    pub(crate) fn waste_said(&mut self, lease: LeaseId) {
        if let Some((way, wasted)) = self.waste.remove(&lease) {
            let account = self.ways.entry(way).or_default();
            account.unreported = account.unreported.saturating_sub(wasted);
        }
    }

    /// What each site read for each content, in thousandths of what it lacked.
    pub(crate) fn ratios(&self) -> Vec<u64> {
        let lacked = self.ways.values().filter(|account| account.allowed > 0);
        lacked.map(|account| account.read * 1000 / account.allowed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way { site: 0, alone: None, content: ContentId([1; 32]) };

    fn begun(lacking: u32) -> WanOnce {
        let mut check = WanOnce::default();
        check.coordinator_started();
        check.deployed(WAY.content, u64::from(lacking));
        check.begin(WAY, BlockIndex(0), lacking, [false; 2]);
        check
    }

    #[test]
    fn a_second_reading_is_caught_once_the_budget_is_spent() {
        let mut check = begun(1_000_000);
        assert_eq!(check.read(WAY, LeaseId(1), 1_000_000, 0), Ok(()));
        check.begin(WAY, BlockIndex(0), 1_000_000, [false; 2]);
        assert_eq!(check.read(WAY, LeaseId(2), WAN_BUDGET_BYTES_MIN, 0), Ok(()), "one ledger's budget");
        assert!(check.read(WAY, LeaseId(2), 1, 0).is_err());
    }

    #[test]
    fn a_restart_allows_what_the_site_lost_and_nothing_that_it_holds() {
        for there in [true, false] {
            let mut check = begun(5_000_000);
            assert_eq!(check.read(WAY, LeaseId(1), 5_000_000, 0), Ok(()));
            check.coordinator_started();
            check.begin(WAY, BlockIndex(0), 5_000_000, [there; 2]);
            assert_eq!(check.read(WAY, LeaseId(2), 5_000_000, 0).is_err(), there);
        }
    }

    #[test]
    fn a_restart_allows_nothing_that_is_on_record_but_another_deployment_does() {
        for deployments in [1, 2] {
            let mut check = begun(5_000_000);
            assert_eq!(check.read(WAY, LeaseId(1), 5_000_000, 0), Ok(()));
            check.came(WAY, &[BlockRange { start: BlockIndex(0), end: BlockIndex(1) }]);
            check.coordinator_started();
            (1..deployments).for_each(|_| check.deployed(WAY.content, 5_000_000));
            check.begin(WAY, BlockIndex(0), 5_000_000, [false; 2]);
            assert_eq!(check.read(WAY, LeaseId(2), 5_000_000, 0).is_err(), deployments == 1);
        }
    }

    #[test]
    fn a_restart_brings_no_budget() {
        let mut check = begun(1_000_000);
        assert_eq!(check.read(WAY, LeaseId(1), 1_000_000 + WAN_BUDGET_BYTES_MIN, 0), Ok(()));
        check.coordinator_started();
        assert!(check.read(WAY, LeaseId(2), 1, 0).is_err());
        check.allowed(WAY, 1);
        assert_eq!(check.read(WAY, LeaseId(2), 0, 0), Ok(()), "an operator does");
    }

    #[test]
    fn waste_is_free_until_it_is_reported() {
        let mut check = begun(100);
        assert_eq!(check.read(WAY, LeaseId(1), 5_000_000, 5_000_000), Ok(()));
        check.waste_said(LeaseId(1));
        assert!(check.read(WAY, LeaseId(2), 1, 0).is_err());
    }
}
