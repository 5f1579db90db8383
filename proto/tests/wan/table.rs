//! A ledger with a clock, and what it says.

use std::time::Duration;

use shoal_proto::id::{BlockIndex, Epoch, LeaseId, NodeId};
use shoal_proto::time::Time;
use shoal_proto::wan::credit::Terms;
use shoal_proto::wan::{self, BlockRange, HeldLease, Input, Lacking, Notice, Outcome, Output, WanLedger};

pub(crate) const MIB: u32 = 1024 * 1024;
pub(crate) const A: NodeId = NodeId([1; 32]);
pub(crate) const B: NodeId = NodeId([2; 32]);

/// So many nodes, the first two of which are [`A`] and [`B`].
pub(crate) fn nodes(count: u8) -> Vec<NodeId> {
    (1..=count).map(|number| NodeId([number; 32])).collect()
}

/// A ledger with a clock, and what it granted.
pub(crate) struct Table {
    pub(crate) ledger: WanLedger,
    pub(crate) now: Time,
    blocks: u32,
    /// Leases, with their blocks.
    pub(crate) terms: Vec<Terms>,
    pub(crate) grants: Vec<(NodeId, LeaseId, Vec<u32>)>,
    pub(crate) revoked: Vec<LeaseId>,
    /// What was confirmed of leases.
    pub(crate) credits: Vec<(LeaseId, u64)>,
    pub(crate) notices: Vec<Notice>,
    /// What is to be put on record as come.
    pub(crate) came: Vec<BlockRange>,
}

impl Table {
    /// A content of `blocks` blocks of 1 MiB.
    pub(crate) fn new(blocks: u32) -> Self {
        Self::of_blocks(blocks, MIB)
    }

    /// A content of `blocks` blocks of so many bytes.
    pub(crate) fn of_blocks(blocks: u32, bytes: u32) -> Self {
        let config = wan::Config { epoch: Epoch(3), swarm: true, seed: 5, resumed: false };
        let ledger = WanLedger::new(&config, &vec![bytes; blocks as usize]);
        let (terms, grants, revoked, credits, notices, came) = Default::default();
        Self { ledger, now: Time::ZERO, blocks, terms, grants, revoked, credits, notices, came }
    }

    /// The coordinator is restarted: all that it keeps is what was put on record.
    pub(crate) fn restarted(self) -> Self {
        let config = wan::Config { epoch: Epoch(4), swarm: true, seed: 5, resumed: true };
        let mut ledger = WanLedger::new(&config, &vec![MIB; self.blocks as usize]);
        ledger.carry(None, self.ledger.budget(None).unwrap_or_default(), &self.came);
        Self { ledger, now: self.now, ..Self::new(self.blocks) }
    }

    pub(crate) fn tell(&mut self, input: Input) {
        self.ledger.handle(input, self.now);
        self.ledger.check();
        while let Some(output) = self.ledger.poll() {
            match output {
                Output::Grant { node, lease, blocks, terms, .. } => {
                    self.terms.push(terms);
                    let blocks = blocks.iter().flat_map(|range| range.iter()).map(|block| block.0).collect();
                    self.grants.push((node, lease, blocks));
                }
                Output::Revoke { lease, .. } => self.revoked.push(lease),
                Output::Credit { lease, bytes, .. } => self.credits.push((lease, bytes)),
                Output::Came { blocks, .. } => self.came.extend(blocks),
                Output::Notice(notice) => self.notices.push(notice),
            }
        }
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some((at, _)) = self.ledger.next_wake().filter(|(at, _)| *at <= until) {
            self.now = at;
            self.tell(Input::Tick);
        }
        self.now = until;
    }

    pub(crate) fn wants(&mut self, node: NodeId, lacking: impl Fn(u32) -> u32, held: Vec<HeldLease>) {
        let lacks = |block: &u32| lacking(*block) > 0;
        let lacking = (0..self.blocks).filter(lacks).map(|b| Lacking { block: BlockIndex(b), bytes: lacking(b) });
        let lacking = lacking.collect();
        self.tell(Input::Wants { node, lacking, held });
    }

    pub(crate) fn lands(&mut self, node: NodeId, blocks: &[u32]) {
        self.tell(Input::Landed { node, blocks: blocks.iter().copied().map(BlockIndex).collect() });
    }

    pub(crate) fn ends(&mut self, node: NodeId, lease: LeaseId, read_bytes: u64, landed: &[u32], outcome: Outcome) {
        let landed = landed.iter().copied().map(BlockIndex).collect();
        self.tell(Input::LeaseEnded { node, lease, read_bytes, landed, begun: Vec::new(), outcome, whole_rest: false });
    }

    /// All that was granted since the last call, with the blocks of each node joined.
    pub(crate) fn granted_to(&mut self, node: NodeId) -> Vec<u32> {
        let mine = self.grants.iter().filter(|(to, _, _)| *to == node);
        let mut blocks: Vec<_> = mine.flat_map(|(_, _, blocks)| blocks.clone()).collect();
        self.grants.retain(|(to, _, _)| *to != node);
        blocks.sort_unstable();
        blocks
    }

    /// All of `nodes` want everything at once.
    pub(crate) fn together(nodes: &[NodeId], blocks: u32) -> Self {
        let mut table = Self::new(blocks);
        table.tell(Input::Await { nodes: nodes.to_vec(), until: Time::from_millis(500) });
        nodes.iter().for_each(|node| table.wants(*node, |_| MIB, Vec::new()));
        table
    }

    /// Lets those of `nodes` read for this long that `stalled` does not name: a block each 20 ms. What one read all have.
    pub(crate) fn read(&mut self, nodes: &[NodeId], stalled: &[NodeId], span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.pass(Duration::from_millis(20));
            for node in nodes.iter().filter(|node| !stalled.contains(node)) {
                let Some(at) = self.grants.iter().position(|(to, ..)| to == node) else { continue };
                let block = self.grants[at].2.remove(0);
                nodes.iter().for_each(|node| self.lands(*node, &[block]));
                if self.grants[at].2.is_empty() {
                    let (_, lease, _) = self.grants.remove(at);
                    self.ends(*node, lease, u64::from(MIB), &[block], Outcome::Done);
                }
            }
        }
    }
}
