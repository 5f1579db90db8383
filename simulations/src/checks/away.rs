//! WAN-ONCE while the coordinator is away: no deputy begins to read what it must know to be read or to be there, nor while
//! it must know that the coordinator reaches somebody.
//!
//! *Must know*: a node of its site has been connected with it, has had the block, has read it or has been reached for
//! [`TOLD`]. So a second reading of a block is explained by a view that changed within that time, by a connection that was
//! not there, or by a crash; without these each block is read once.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_proto::id::{BlockIndex, ContentId};
use shoal_proto::limits::{COORDINATOR_GRACE, LIES_MAX};
use shoal_proto::time::Time;
use shoal_proto::wire::Grant;

use crate::world::World;

/// Many times what a message takes and waits to be sent.
const TOLD: Duration = Duration::from_secs(2);

/// When nodes stored blocks.
#[derive(Debug, Default)]
pub(crate) struct Away {
    stored: BTreeMap<(usize, ContentId, BlockIndex), Time>,
    /// How often one of two nodes sent the other wrong bytes.
    lies: BTreeMap<(usize, usize), u32>,
}

impl Away {
    pub(crate) fn stored(&mut self, node: usize, content: ContentId, block: BlockIndex, at: Time) {
        self.stored.insert((node, content, block), at);
    }

    pub(crate) fn lied(&mut self, liar: usize, node: usize) {
        let pair = (liar.min(node), liar.max(node));
        *self.lies.entry(pair).or_default() += 1;
    }

    /// Whether one of them may have lied so often that they trade no more.
    fn estranged(&self, one: usize, two: usize) -> bool {
        self.lies.get(&(one.min(two), one.max(two))).is_some_and(|lies| *lies >= LIES_MAX)
    }
}

impl World {
    /// Judges a lease that a deputy granted itself, as its reading is to begin.
    pub(crate) fn judge_own_lease(&mut self, node: usize, grant: &Grant) {
        self.totals.own_leases += 1;
        let verdict = self.may_read(node, grant);
        self.verify("AWAY-ONCE", verdict);
    }

    fn may_read(&self, node: usize, grant: &Grant) -> Result<(), String> {
        let Some(process) = &self.hosts[node].process else { return Ok(()) };
        let content = grant.content;
        let lease = grant.lease;
        if !process.standbys.contains(&content) {
            return Err(format!("node{node} reads {content:?}, and is no deputy for it"));
        }
        if process.reached.is_some() || self.now.since(process.cut_at) < COORDINATOR_GRACE {
            return Err(format!("node{node} grants itself {lease:?}, and was not cut off for long enough"));
        }
        let blocks: Vec<_> = grant.blocks.iter().flat_map(|range| range.iter()).collect();
        // One of its roster that was reached before it was cut off, and has been since, never said anything else.
        let reached = |other: &&usize| {
            let near = self.hosts[**other].process.as_ref();
            near.and_then(|near| near.reached).is_some_and(|at| at + TOLD < process.cut_at)
        };
        if let Some(other) = process.wanted.iter().find(reached) {
            return Err(format!("node{node} grants itself {lease:?}, and the coordinator never lost node{other}"));
        }
        let told = |at: Time| at + TOLD <= self.now;
        for other in (0..self.hosts.len()).filter(|other| self.have_met(node, *other, told)) {
            let Some(near) = &self.hosts[other].process else { continue };
            if near.reached.is_some_and(told) {
                return Err(format!("node{node} grants itself {lease:?}, and the coordinator reaches node{other}"));
            }
            let trades = !self.checks.away.estranged(node, other);
            let opened = near.open.get(&content).copied().flatten().filter(|at| trades && told(*at));
            let stored =
                |block: &BlockIndex| self.checks.away.stored.get(&(other, content, *block)).is_none_or(|at| told(*at));
            let has = |block: &&BlockIndex| self.hosts[other].disk.has(content, **block) && stored(block);
            if let Some(block) = blocks.iter().find(|block| opened.is_some() && has(block)) {
                return Err(format!("node{node} reads block {block} again: node{other} has it"));
            }
            let cut = near.reached.is_none() && told(near.cut_at);
            if let Some(block) = blocks.iter().find(|block| cut && near.reads(content, **block, told)) {
                return Err(format!("node{node} reads block {block} beside node{other}"));
            }
        }
        Ok(())
    }

    /// Whether two nodes of a site have been connected for long enough to have told each other everything.
    fn have_met(&self, node: usize, other: usize, told: impl Fn(Time) -> bool) -> bool {
        let met = |one: usize, two: usize| {
            let process = self.hosts[one].process.as_ref();
            process.and_then(|process| Some((*process.neighbours.get(&two)?, *process.met.get(&two)?)))
        };
        match (met(node, other), met(other, node)) {
            (Some((link, at)), Some((same, at_other))) => {
                link == same && told(at) && told(at_other) && !self.links.link(link).broken
            }
            _ => false,
        }
    }
}
