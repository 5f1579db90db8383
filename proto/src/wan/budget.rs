//! What each block has cost, and what the budget still pays for (WAN-ONCE, see the head of [`super`]).
//!
//! Invariant: the sums equal what the blocks' entries add up to plus what earlier runs of the coordinator spent, and what is
//! charged beyond allowances never passed the limit that held when it was charged.

use serde::{Deserialize, Serialize};

use crate::id::BlockIndex;
use crate::limits::{WAN_BUDGET_BYTES_MIN, WAN_BUDGET_DIVISOR};

/// What of a budget outlives the run of the coordinator that kept it, in bytes.
///
/// A restart forgets what each block cost, and with it which nodes' reports are still to come: what is told again of such
/// reads may be counted a second time, so that a budget is rather empty too early than spent twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSums {
    /// Charged beyond allowances.
    pub used_bytes: u64,
    /// What might be charged beyond them, without what operators added: 1 % of all that the site lacked at first.
    pub share_bytes: u64,
    /// What operators added.
    pub added_bytes: u64,
}

/// The charges of one site for one content.
#[derive(Debug)]
pub(super) struct Budget {
    blocks: Vec<Entry>,
    base_bytes: u64,
    /// What blocks that were never granted will have as allowance.
    expected_bytes: u64,
    charged_bytes: u64,
    used_bytes: u64,
    /// Of these, by earlier runs of the coordinator.
    carried_bytes: u64,
    /// What earlier runs' share was: what the site has since is no part of the estimate any more.
    carried_share_bytes: u64,
    granted_by_operator: u64,
    /// The most that `used_bytes` was ever allowed to be.
    used_bytes_allowed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// What the first grant charged; 0 before it.
    allowance: u32,
    /// What the first grant would charge, while there was none and the site lacks the block.
    expected: u32,
    /// Charged and not refunded.
    spent: u64,
    /// Came to the site by a grant of an earlier run of the coordinator: what is granted of it is beyond what the site lacked.
    read_before: bool,
}

impl Entry {
    fn over(&self) -> u64 {
        self.spent.saturating_sub(u64::from(self.allowance))
    }
}

impl Budget {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            blocks: vec![Entry::default(); blocks],
            base_bytes: 0,
            expected_bytes: 0,
            charged_bytes: 0,
            used_bytes: 0,
            carried_bytes: 0,
            carried_share_bytes: 0,
            granted_by_operator: 0,
            used_bytes_allowed: 0,
        }
    }

    pub(super) fn base_bytes(&self) -> u64 {
        self.base_bytes
    }

    pub(super) fn charged_bytes(&self) -> u64 {
        self.charged_bytes
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// What may be charged beyond allowances.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.share_bytes().saturating_add(self.granted_by_operator)
    }

    fn share_bytes(&self) -> u64 {
        let share = (self.base_bytes + self.expected_bytes) / WAN_BUDGET_DIVISOR;
        share.max(WAN_BUDGET_BYTES_MIN).max(self.carried_share_bytes)
    }

    /// What the next run of the coordinator is to go on from.
    pub(super) fn sums(&self) -> BudgetSums {
        let (used_bytes, added_bytes) = (self.used_bytes, self.granted_by_operator);
        BudgetSums { used_bytes, share_bytes: self.share_bytes(), added_bytes }
    }

    /// Goes on from what an earlier run left; nothing is charged yet.
    pub(super) fn carry(&mut self, sums: BudgetSums) {
        debug_assert_eq!(self.charged_bytes, 0, "a ledger that begins");
        (self.used_bytes, self.carried_bytes) = (sums.used_bytes, sums.used_bytes);
        self.used_bytes_allowed = sums.used_bytes;
        self.carried_share_bytes = sums.share_bytes;
        self.granted_by_operator = sums.added_bytes;
    }

    pub(super) fn left_bytes(&self) -> u64 {
        self.limit_bytes().saturating_sub(self.used_bytes)
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.granted_by_operator = self.granted_by_operator.saturating_add(bytes);
    }

    /// Says that the first grant of `block` would charge `bytes`; 0 for a block that the site has.
    pub(super) fn expect(&mut self, block: BlockIndex, bytes: u32) {
        let entry = &mut self.blocks[block.index()];
        let bytes = if entry.allowance == 0 && !entry.read_before { bytes } else { 0 };
        self.expected_bytes = self.expected_bytes - u64::from(entry.expected) + u64::from(bytes);
        entry.expected = bytes;
    }

    /// Says that all of a block of which nothing was charged is beyond what the site lacked.
    pub(super) fn was_read_before(&mut self, block: BlockIndex) {
        let entry = &mut self.blocks[block.index()];
        entry.read_before |= entry.allowance == 0;
        self.expect(block, 0);
    }

    /// What the budget would pay if `bytes` more of `block` were charged.
    pub(super) fn cost(&self, block: BlockIndex, bytes: u32) -> u64 {
        let entry = self.blocks[block.index()];
        if entry.spent == 0 && !entry.read_before { 0 } else { self.cost_again(block, bytes) }
    }

    /// The same for a block that the site has: all of it is beyond what the site lacked, also if nothing was charged.
    pub(super) fn cost_again(&self, block: BlockIndex, bytes: u32) -> u64 {
        let entry = self.blocks[block.index()];
        let after = Entry { spent: entry.spent + u64::from(bytes), ..entry };
        after.over() - entry.over()
    }

    /// Charges a grant of a block that the site has.
    pub(super) fn charge_again(&mut self, block: BlockIndex, bytes: u32) {
        self.used_bytes_allowed = self.used_bytes_allowed.max(self.limit_bytes());
        self.change(block, |entry| entry.spent += u64::from(bytes));
    }

    /// Charges a grant that the ledger chose to make. The caller has seen that [`Budget::cost`] is within what is left.
    pub(super) fn charge(&mut self, block: BlockIndex, bytes: u32) {
        self.used_bytes_allowed = self.used_bytes_allowed.max(self.limit_bytes());
        self.expect(block, 0);
        self.change(block, |entry| {
            if entry.spent == 0 && !entry.read_before {
                entry.allowance = bytes;
            }
            entry.spent += u64::from(bytes);
        });
    }

    /// Charges what a node reads already, granted by an earlier run of the coordinator: a fact, whatever is left. The first
    /// that is told of a block is what that run granted for nothing.
    pub(super) fn charge_fact(&mut self, block: BlockIndex, bytes: u32) {
        self.expect(block, 0);
        self.change(block, |entry| {
            if entry.spent == 0 || entry.read_before && entry.allowance == 0 {
                entry.allowance = bytes;
            }
            entry.spent += u64::from(bytes);
        });
        self.used_bytes_allowed = self.used_bytes_allowed.max(self.used_bytes);
    }

    /// Takes back a charge for what was not read.
    pub(super) fn refund(&mut self, block: BlockIndex, bytes: u32) {
        self.change(block, |entry| entry.spent = entry.spent.saturating_sub(u64::from(bytes)));
    }

    fn change(&mut self, block: BlockIndex, change: impl FnOnce(&mut Entry)) {
        let entry = &mut self.blocks[block.index()];
        let before = *entry;
        change(entry);
        self.base_bytes = self.base_bytes - u64::from(before.allowance) + u64::from(entry.allowance);
        self.charged_bytes = self.charged_bytes - before.spent + entry.spent;
        self.used_bytes = self.used_bytes - before.over() + entry.over();
    }

    pub(super) fn check(&self) {
        let sum = |of: fn(&Entry) -> u64| self.blocks.iter().map(of).sum::<u64>();
        assert_eq!(self.base_bytes, sum(|entry| u64::from(entry.allowance)), "allowances");
        assert_eq!(self.expected_bytes, sum(|entry| u64::from(entry.expected)), "expected allowances");
        assert_eq!(self.charged_bytes, sum(|entry| entry.spent), "charges");
        assert_eq!(self.used_bytes, self.carried_bytes + sum(Entry::over), "charges beyond allowances");
        assert!(self.used_bytes <= self.used_bytes_allowed, "WAN-ONCE: {} over", self.used_bytes);
        assert!(self.charged_bytes <= self.base_bytes + self.used_bytes, "WAN-ONCE: charged beyond base and budget");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1024 * 1024;

    #[test]
    fn the_first_grant_is_free_and_a_second_is_not() {
        let mut budget = Budget::new(2);
        (0..2).for_each(|block| budget.expect(BlockIndex(block), 100 * MIB));
        assert_eq!(budget.limit_bytes(), u64::from(2 * MIB), "1 % of both blocks, granted or not");
        assert_eq!(budget.cost(BlockIndex(0), 100 * MIB), 0);
        budget.charge(BlockIndex(0), 100 * MIB);
        assert_eq!(budget.limit_bytes(), u64::from(2 * MIB), "as before: the estimate became the base");
        assert_eq!(budget.cost(BlockIndex(0), MIB), u64::from(MIB));
        budget.charge(BlockIndex(0), MIB);
        assert_eq!((budget.used_bytes(), budget.left_bytes()), (u64::from(MIB), u64::from(MIB)));
        budget.check();
    }

    #[test]
    fn what_was_not_read_is_free_again() {
        let mut budget = Budget::new(1);
        budget.charge(BlockIndex(0), 10 * MIB);
        budget.refund(BlockIndex(0), 7 * MIB);
        assert_eq!(budget.cost(BlockIndex(0), 7 * MIB), 0, "the same node reads the rest");
        assert_eq!(budget.cost(BlockIndex(0), 10 * MIB), u64::from(3 * MIB), "another node reads it again");
        budget.refund(BlockIndex(0), 3 * MIB);
        assert_eq!(budget.cost(BlockIndex(0), 20 * MIB), 0, "nothing was read: a first grant again");
        budget.check();
    }

    #[test]
    fn facts_are_charged_whatever_is_left_and_an_operator_adds_to_it() {
        let mut budget = Budget::new(1);
        budget.charge(BlockIndex(0), 10 * MIB);
        budget.charge_fact(BlockIndex(0), 10 * MIB);
        assert_eq!((budget.used_bytes(), budget.left_bytes()), (u64::from(10 * MIB), 0));
        budget.add(u64::from(20 * MIB));
        assert_eq!(budget.left_bytes(), WAN_BUDGET_BYTES_MIN + u64::from(10 * MIB));
        budget.check();
    }

    #[test]
    fn what_an_earlier_run_read_is_paid_for() {
        let mut budget = Budget::new(2);
        (0..2).for_each(|block| budget.expect(BlockIndex(block), 100 * MIB));
        budget.charge(BlockIndex(1), MIB);
        (0..2).for_each(|block| budget.was_read_before(BlockIndex(block)));
        assert_eq!(budget.cost(BlockIndex(0), MIB), u64::from(MIB));
        budget.expect(BlockIndex(0), 100 * MIB);
        budget.charge(BlockIndex(0), MIB);
        assert_eq!((budget.base_bytes(), budget.used_bytes()), (u64::from(MIB), u64::from(MIB)));
        budget.refund(BlockIndex(1), MIB);
        assert_eq!(budget.cost(BlockIndex(1), MIB), 0, "this run knows what that cost");
        budget.check();
    }

    #[test]
    fn what_an_earlier_run_granted_for_nothing_is_told_late_and_not_paid_for() {
        let mut budget = Budget::new(1);
        budget.was_read_before(BlockIndex(0));
        budget.charge_fact(BlockIndex(0), MIB);
        assert_eq!((budget.base_bytes(), budget.used_bytes()), (u64::from(MIB), 0), "the reading that made it come");
        budget.charge_fact(BlockIndex(0), MIB);
        assert_eq!(budget.used_bytes(), u64::from(MIB), "another one");
        budget.check();
    }

    #[test]
    fn a_restart_gives_back_no_budget_and_takes_none_of_its_share() {
        let mut budget = Budget::new(2);
        (0..2).for_each(|block| budget.expect(BlockIndex(block), 100 * MIB));
        budget.charge(BlockIndex(0), 100 * MIB);
        budget.charge(BlockIndex(0), MIB);
        budget.add(u64::from(MIB));
        let sums = budget.sums();
        let mut later = Budget::new(2);
        later.carry(sums);
        later.expect(BlockIndex(1), MIB);
        assert_eq!((later.limit_bytes(), later.left_bytes()), (budget.limit_bytes(), budget.left_bytes()));
        later.charge(BlockIndex(1), MIB);
        later.charge(BlockIndex(1), MIB);
        assert_eq!(later.left_bytes(), budget.left_bytes() - u64::from(MIB));
        assert_eq!(later.sums(), BudgetSums { used_bytes: u64::from(2 * MIB), ..sums }, "and so on in a third run");
        later.check();
    }
}
