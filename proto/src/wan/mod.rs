//! Who reads what over the WAN: the leases of one site for one content (DESIGN.md section 5).
//!
//! [`WanLedger`] is run by the coordinator, one for each site and content. It knows which blocks the site has, which are
//! leased and which are missing, and grants each missing block to one node. Its invariants (`WanLedger::check`):
//!
//! - A block is leased at most once at a time.
//! - WAN-ONCE. A block's first grant is free: it charges the bytes that the node lacks of it, its *allowance*. A charge
//!   beyond the allowance is paid from the budget: 1 % of all allowances (those of blocks that were never granted are
//!   estimated by what the site lacks), at least [`WAN_BUDGET_BYTES_MIN`](crate::limits::WAN_BUDGET_BYTES_MIN), and what
//!   an operator added. No grant is made that the budget does not cover.
//!   What was spent of the budget outlives the run of the coordinator, and so does which blocks came to the site, since
//!   reading them again is paid from it: [`WanLedger::budgets`], [`Output::Came`], [`WanLedger::carry`].
//! - What was granted and not read is refunded when the holder says how much it read. Of a holder that ends without a
//!   word, what it had no credit to read is refunded ([`credit`]), and the rest once it comes back and says what it has.
//!   One that may be reading on where nobody hears it keeps its charge.
//! - While a site has a second candidate, one node never has more at stake (granted to it, not yet held by a second live
//!   node) than the budget could pay for again; but always one block, so that a small budget does not stop a site, and a
//!   second one behind it that it has no credit for yet, so that it does not wait between the two.
//!
//! - What was read under leases that this ledger did not grant (an earlier run's, a deputy's own) is charged as a fact, once,
//!   when its end is told.
//!
//! Not guaranteed: that nodes tell the truth. Left to the shell: carrying messages, the WAN limit of the hour, and which
//! request a lease becomes. With `swarm` off each node is a site of its own.

mod absent;
mod budget;
pub mod calendar;
mod came;
mod check;
pub mod credit;
pub mod credits;
mod facts;
mod grant;
mod late;
mod lease;
mod ledger;
mod member;
mod meter;
mod readers;
mod settle;
pub mod shares;
mod site;

use serde::{Deserialize, Serialize};

pub use budget::BudgetSums;
pub use ledger::{OverBudget, Rates, WanLedger};

use credit::Terms;

use crate::id::{BlockIndex, Epoch, LeaseId, NodeId};
use crate::time::Time;

/// How one ledger is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The run of the coordinator: the upper half of each lease's number, so that no two runs use the same one.
    pub epoch: Epoch,
    /// Whether the site's nodes trade; if not, each is granted all that it lacks.
    pub swarm: bool,
    /// Where random choices start from.
    pub seed: u64,
    /// Whether an earlier run of the coordinator may have granted of the content: then what the site has may have been read
    /// over the WAN before, and to read it again is beyond what the site lacked.
    pub resumed: bool,
}

/// Adjacent blocks: `start` and all up to, but not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockRange {
    /// The first.
    pub start: BlockIndex,
    /// The one after the last.
    pub end: BlockIndex,
}

impl BlockRange {
    /// The blocks, in order.
    pub fn iter(self) -> impl Iterator<Item = BlockIndex> {
        (self.start.0..self.end.0).map(BlockIndex)
    }

    /// Ascending blocks as runs, none of which touches the next.
    pub fn runs(blocks: impl IntoIterator<Item = BlockIndex>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for block in blocks {
            let end = BlockIndex(block.0 + 1);
            match runs.last_mut().filter(|run| run.end >= block) {
                Some(run) => run.end = end,
                None => runs.push(Self { start: block, end }),
            }
        }
        runs
    }
}

/// What a ledger is told. Blocks that the content does not have, nodes that never sent [`Input::Wants`] and leases that
/// were never granted are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A node wants the content: it joined, or came back, or had its coordinator come back. Replaces all that was known
    /// of it and means that it is up. A lease of it that is not in `held` is over.
    Wants {
        /// Which node.
        node: NodeId,
        /// The blocks that it does not have complete, with the bytes that it lacks of each. It has all others.
        lacking: Vec<Lacking>,
        /// The leases that it is still reading, also those of an earlier run of the coordinator.
        held: Vec<HeldLease>,
    },
    /// A node has these blocks complete and verified, from wherever.
    Landed {
        /// Which node.
        node: NodeId,
        /// The blocks.
        blocks: Vec<BlockIndex>,
    },
    /// A node got parts of blocks from others that do not send it the rest. Told of a block that a lost holder was reading,
    /// this is what the next lease of the block costs.
    Begun {
        /// Which node.
        node: NodeId,
        /// What it still lacks of each. Others lack what they did.
        lacking: Vec<Lacking>,
    },
    /// A node stopped reading for a lease.
    LeaseEnded {
        /// Which node.
        node: NodeId,
        /// Its lease.
        lease: LeaseId,
        /// Bytes that it read over the WAN for this lease, gaps and repeats included.
        read_bytes: u64,
        /// Blocks of the lease that it has complete; those told by [`Input::Landed`] before may be left out.
        landed: Vec<BlockIndex>,
        /// Blocks of the lease that it has begun: what it still lacks of each. Others lack what they did.
        begun: Vec<Lacking>,
        /// How it ended.
        outcome: Outcome,
        /// The origin ignores ranges: the next lease is one for all the rest of the package, to one node.
        whole_rest: bool,
    },
    /// A node is about to read up to this many bytes of a lease, and waits until that is confirmed ([`Output::Credit`]).
    CreditWanted {
        /// Which node.
        node: NodeId,
        /// Its lease.
        lease: LeaseId,
        /// Of all that it reads for the lease.
        bytes: u64,
    },
    /// A node is connected (again). What it has and holds still counts; it gets no lease until it sends [`Input::Wants`].
    NodeUp {
        /// Which node.
        node: NodeId,
    },
    /// A node is not connected. After a time of grace its leases are lost, and what it alone has is missing again.
    NodeDown {
        /// Which node.
        node: NodeId,
        /// How that came.
        absence: Absence,
    },
    /// A node no longer wants the content. It gets no lease; what it has still counts while it is up.
    Release {
        /// Which node.
        node: NodeId,
    },
    /// A node finds nobody who serves it these blocks.
    Stuck {
        /// Which node.
        node: NodeId,
        /// The blocks.
        blocks: Vec<BlockIndex>,
    },
    /// The coordinator was restarted: these nodes may hold blocks, or read under leases that it does not know. Nothing is
    /// granted before each has sent [`Input::Wants`], or before `until`.
    Await {
        /// Which nodes.
        nodes: Vec<NodeId>,
        /// Until when at the latest.
        until: Time,
    },
    /// An operator lets the site read this many bytes more.
    Override {
        /// Which node; with `swarm` off, where each node has a budget of its own, and only then.
        node: Option<NodeId>,
        /// Bytes on top of the budget.
        bytes: u64,
    },
    /// Nothing but time passed.
    Tick,
    /// How fast one node of the site may read at present, in bytes a second: a lease that is slow for that is not late.
    Allowed {
        /// None for no limit.
        rate: Option<u64>,
    },
}

/// How a node's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Absence {
    /// The node's side closed it, as a process that ends does, and then reads no more. Where a device on the way closed it
    /// instead, the node dials again at once, or reads on for as long as [`Absence::Unheard`] would have let it: the budget
    /// pays for that.
    Closed,
    /// Nothing was heard of the node, or this side hung up: it may be reading.
    Unheard,
}

/// What a node lacks of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacking {
    /// The block.
    pub block: BlockIndex,
    /// Bytes that it lacks, 1 to the block's size; other values are brought into these bounds.
    pub bytes: u32,
}

/// A lease that a node is still reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// Its number.
    pub lease: LeaseId,
    /// Those of its blocks that are not complete.
    pub blocks: Vec<BlockRange>,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Everything was read.
    Done,
    /// The origin or the way to it failed.
    Failed {
        /// Whether this node may try again soon. If not, it is asked again only after the longest back-off.
        retryable: bool,
    },
    /// The ledger revoked it.
    Revoked,
}

/// What a ledger wants done or known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// A node is to read these blocks over the WAN, in this order, after the leases that it holds already.
    Grant {
        /// Which node.
        node: NodeId,
        /// The lease.
        lease: LeaseId,
        /// The blocks, mostly one run of them.
        blocks: Vec<BlockRange>,
        /// How much it may read before it asks for more.
        terms: Terms,
        /// When it is expected to have ended, three times over.
        deadline: Time,
    },
    /// A node may read up to this many bytes of a lease, all that it has read for it included.
    Credit {
        /// Which node.
        node: NodeId,
        /// The lease.
        lease: LeaseId,
        /// As it asked for.
        bytes: u64,
    },
    /// A node is to stop reading for this lease and to say how far it came ([`Input::LeaseEnded`]).
    Revoke {
        /// Which node.
        node: NodeId,
        /// The lease.
        lease: LeaseId,
    },
    /// Blocks are in the site, or were, and were not told before: to be put on record, and given to [`WanLedger::carry`]
    /// with the budget after a restart.
    Came {
        /// Which node's, with `swarm` off.
        node: Option<NodeId>,
        /// The blocks, as ascending runs.
        blocks: Vec<BlockRange>,
    },
    /// Something that an operator may want to know; each is said when it begins.
    Notice(Notice),
}

/// What an operator may want to know of a site's WAN reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// Blocks are missing that only the budget could pay for, and it is spent: they wait for their holder to come back,
    /// or for [`Input::Override`].
    BudgetEmpty {
        /// Bytes that the blocks cost beyond their allowance.
        wanted_bytes: u64,
        /// Bytes left of the budget.
        left_bytes: u64,
    },
    /// Blocks are missing, and no node that wants them is up and allowed to read.
    NoReader {
        /// How many blocks.
        missing_blocks: u32,
    },
    /// The origin failed for every node that tried since it last answered.
    OriginFailing {
        /// Failures since it last answered.
        failures: u32,
        /// When the next node tries.
        retry_at: Time,
    },
    /// The origin answers again.
    OriginBack,
}

/// Why a ledger wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Why {
    /// A lease should have ended, or its revocation been answered.
    LeaseDeadline(LeaseId),
    /// A node reads for so long that it may be late.
    ReaderLate(NodeId),
    /// A node has been down for the time of grace.
    GraceOver(NodeId),
    /// A node that failed may try again.
    CooledDown(NodeId),
    /// The origin may be tried again.
    OriginRetry,
    /// Nodes are waited for no longer after a restart.
    AwaitOver,
    /// What came to the site is to be put on record.
    Came,
}

/// The sums of one ledger, in bytes unless named otherwise. With `swarm` off, of all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Allowances of the blocks granted so far: what the site lacked of them.
    pub base_bytes: u64,
    /// Charged for all grants, less refunds.
    pub charged_bytes: u64,
    /// Charged beyond allowances.
    pub budget_used_bytes: u64,
    /// What may be charged beyond allowances, overrides included.
    pub budget_bytes: u64,
    /// Read over the WAN, as the holders said, gaps and repeats included.
    pub read_bytes: u64,
    /// Of these, beyond what was charged: gaps and repeats.
    pub gap_bytes: u64,
    /// Blocks that a live node of the site has, whole.
    pub in_site_bytes: u64,
    /// What the site still has to read: leased or missing.
    pub missing_bytes: u64,
    /// Blocks that are leased.
    pub leased_blocks: u32,
    /// Blocks that are missing and not leased.
    pub missing_blocks: u32,
    /// Leases that nodes hold.
    pub leases: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_maximal() {
        let runs = |blocks: &[u32]| -> Vec<(u32, u32)> {
            let runs = BlockRange::runs(blocks.iter().copied().map(BlockIndex));
            runs.iter().map(|run| (run.start.0, run.end.0)).collect()
        };
        assert_eq!(runs(&[1, 2, 2, 3, 7, 9, 10]), [(1, 4), (7, 8), (9, 11)]);
        assert_eq!(runs(&[]), []);
    }
}
