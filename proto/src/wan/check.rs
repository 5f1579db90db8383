//! The invariants of a site's ledger, derived a second time from the raw tables; and its sums.

use std::collections::BTreeMap;

use super::Stats;
use super::lease::State;
use super::site::Site;
use crate::id::BlockIndex;

impl Site {
    pub(super) fn check(&self) {
        self.budget.check();
        self.came.check();
        self.check_blocks();
        self.check_leases();
        self.check_members();
    }

    fn check_blocks(&self) {
        let mut in_site_bytes = 0;
        for (index, entry) in self.blocks.iter().enumerate() {
            let block = BlockIndex(index as u32);
            let holders = self.members.iter().filter(|member| member.counts() && member.has.contains(block)).count();
            assert_eq!(entry.holders as usize, holders, "holders of block {block}");
            let missing = entry.holders == 0 && entry.lease.is_none();
            assert_eq!(self.missing.contains(block), missing, "block {block} is in the site, leased or missing");
            if entry.holders > 0 {
                assert!(self.came.contains(block), "block {block} came");
                in_site_bytes += u64::from(self.block_bytes[index]);
            }
            if let Some((reader, _)) = entry.at_stake.filter(|_| entry.lease.is_none()) {
                assert!(entry.holders == 1, "block {block} at stake has one holder");
                assert!(self.members[reader].has.contains(block), "block {block}: its reader has it");
            }
            if let Some(id) = entry.lease {
                let lease = &self.leases[&id];
                assert!(lease.state != State::Lost, "block {block}: a lost lease owns nothing");
                assert!(lease.blocks.iter().any(|(of, _)| *of == block), "block {block} is of its lease");
                assert!(!self.members[lease.node].has.contains(block), "block {block}: its holder does not have it");
                let at_stake = entry.at_stake.is_some_and(|(reader, _)| reader == lease.node);
                let alone = entry.holders == 0 && !lease.for_stuck;
                assert!(at_stake || !alone, "block {block} is read, and at stake");
                assert!(!at_stake || entry.holders == 0, "block {block} is at stake while nobody else has it");
            }
        }
        assert_eq!(self.in_site_bytes, in_site_bytes, "bytes in the site");
    }

    fn check_leases(&self) {
        for (id, lease) in &self.leases {
            let queued = self.members[lease.node].queue.iter().filter(|queued| *queued == id).count();
            assert_eq!(queued, usize::from(lease.state != State::Lost), "lease {id:?} is in its holder's queue once");
            assert!(lease.blocks.is_sorted_by(|a, b| a.0 < b.0), "lease {id:?} lists each block once");
        }
        let active = self.members.iter().filter(|member| !member.queue.is_empty()).count();
        assert_eq!(self.active as usize, active, "members that read");
        let late = self.members.iter().filter(|member| member.progress.late);
        assert_eq!(self.late as usize, late.clone().count(), "members that are late");
        late.for_each(|member| assert!(!member.queue.is_empty(), "{} is late and reads nothing", member.id));
    }

    fn check_members(&self) {
        let mut leased: BTreeMap<usize, u64> = BTreeMap::new();
        let mut at_stake: BTreeMap<usize, u64> = BTreeMap::new();
        for (index, entry) in self.blocks.iter().enumerate() {
            if let Some(lease) = entry.lease.map(|id| &self.leases[&id]) {
                *leased.entry(lease.node).or_default() += u64::from(lease.charge(BlockIndex(index as u32)));
            }
            if let Some((reader, bytes)) = entry.at_stake {
                *at_stake.entry(reader).or_default() += u64::from(bytes);
            }
        }
        for (slot, member) in self.members.iter().enumerate() {
            assert_eq!(self.slots[&member.id], slot, "slot of a node");
            assert!(!member.up || member.away_until.is_none(), "a member is up or down");
            assert_eq!(member.leased_bytes, leased.get(&slot).copied().unwrap_or(0), "bytes leased to {slot}");
            assert_eq!(member.at_stake_bytes, at_stake.get(&slot).copied().unwrap_or(0), "bytes at stake with {slot}");
            for queued in &member.queue {
                assert_eq!(self.leases[queued].node, slot, "a queued lease is its holder's");
            }
            for (block, bytes) in &member.partial {
                assert!(!member.has.contains(*block) && *bytes > 0, "a part of block {block}");
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let missing = self.blocks.iter().zip(&self.least).filter(|(block, _)| block.holders == 0);
        let owned = self.blocks.iter().filter(|block| block.lease.is_some()).count();
        let held = self.leases.values().filter(|lease| lease.state != State::Lost).count();
        Stats {
            base_bytes: self.budget.base_bytes(),
            charged_bytes: self.budget.charged_bytes(),
            budget_used_bytes: self.budget.used_bytes(),
            budget_bytes: self.budget.limit_bytes(),
            read_bytes: self.read_bytes,
            gap_bytes: self.gap_bytes,
            in_site_bytes: self.in_site_bytes,
            missing_bytes: missing.map(|(_, least)| u64::from(*least)).sum(),
            leased_blocks: u32::try_from(owned).unwrap_or(u32::MAX),
            missing_blocks: self.missing.len(),
            leases: u32::try_from(held).unwrap_or(u32::MAX),
        }
    }
}
