//! Who asks whom for which block: one content's trade with the neighbours, run by each node that fetches or holds it
//! (DESIGN.md section 5).
//!
//! The invariant (`Exchange::check`): **a block is in exactly one state.**
//!
//! | state | meaning | leaves it when |
//! | --- | --- | --- |
//! | missing | this node lacks it and nobody is bringing it | it is asked for, leased, or landed |
//! | leased | this node reads it over the WAN; no neighbour is asked | the lease is over, or it landed |
//! | requested | one neighbour was asked, at the end two | it arrived, failed, was cancelled, or landed |
//! | have | it is stored and verified, and served to neighbours | never |
//!
//! Of a block that is leased or requested, the parts that are there may be served already (`arriving.rs`).
//!
//! The core moves no bytes and verifies none: the shell says [`Input::Fetched`] or [`Input::Landed`] after the hash of
//! each segment matched (VERIFIED). Which neighbours a node has is the coordinator's choice.

mod announce;
mod arriving;
mod ask;
mod inflight;
mod neighbours;
mod peers;
mod pick;
mod serve;
mod stats;
mod transfer;
mod wake;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use stats::Stats;
pub use transfer::Exchange;

use crate::content::BlockSet;
use crate::id::{BlockIndex, NodeId};

/// Where a block came from that no neighbour sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Read under a lease: probably the site's only copy, so it is announced at once.
    Wan,
    /// Filled from another package of this node.
    Local,
}

/// How much of a block has arrived and is verified and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// The neighbour that sends it; none if it is read over the WAN.
    pub from: Option<NodeId>,
    /// Bytes that came, of those that were lacking when the block was asked for.
    pub bytes: u64,
    /// How many were lacking then.
    pub of: u64,
    /// Since it was asked for.
    pub took: Duration,
}

/// Why a neighbour did not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchError {
    /// It has no room for more requests.
    Refused,
    /// It does not have the block.
    Gone,
    /// It sent bytes that do not match their hash.
    Corrupt,
    /// It sent nothing for too long, or the connection broke.
    Timeout,
}

/// What an exchange is told. Nodes that are no neighbours, requests that were never made and blocks that the content
/// does not have are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A neighbour is connected. It is sent all that this node has; what it has is unknown until it says so.
    NeighbourUp {
        /// Which node.
        node: NodeId,
    },
    /// A neighbour is not connected, or no neighbour any more. All its transfers have ended, both ways.
    NeighbourDown {
        /// Which node.
        node: NodeId,
    },
    /// All that a neighbour has.
    NeighbourHas {
        /// Which node.
        node: NodeId,
        /// Its blocks.
        blocks: BlockSet,
    },
    /// What a neighbour has beyond what it said before.
    NeighbourLanded {
        /// Which node.
        node: NodeId,
        /// Its blocks.
        blocks: Vec<BlockIndex>,
    },
    /// This node has a block verified and stored that no neighbour sent.
    Landed {
        /// Which block.
        block: BlockIndex,
        /// Where it came from.
        from: Source,
    },
    /// A neighbour sent a block, and it is verified and stored.
    Fetched {
        /// Which node.
        node: NodeId,
        /// Which block.
        block: BlockIndex,
        /// Bytes that travelled.
        bytes: u64,
        /// From the request to the last byte.
        took: Duration,
    },
    /// A part of a block is there, of which more comes.
    Arrives {
        /// Which block.
        block: BlockIndex,
        /// How much of it.
        arrived: Arrived,
    },
    /// A neighbour did not deliver a block.
    FetchFailed {
        /// Which node.
        node: NodeId,
        /// Which block.
        block: BlockIndex,
        /// Why.
        why: FetchError,
    },
    /// This node reads these blocks over the WAN itself. Requests for them are cancelled.
    LeaseHeld {
        /// The blocks.
        blocks: Vec<BlockIndex>,
    },
    /// This node does not read these blocks over the WAN any more; those that did not land are missing.
    LeaseOver {
        /// The blocks.
        blocks: Vec<BlockIndex>,
    },
    /// A neighbour asks for a block. It is answered by [`Output::Serve`], [`Output::Refuse`] or [`Output::Decline`] at once.
    UploadAsked {
        /// Which node.
        node: NodeId,
        /// The shell's number for it; unique among the neighbour's open requests.
        request: u64,
        /// Which block.
        block: BlockIndex,
        /// Bytes that it asks of the block.
        bytes: u64,
    },
    /// A request of a neighbour is over: it was served, or was cancelled while it was.
    UploadDone {
        /// Which node.
        node: NodeId,
        /// Which request.
        request: u64,
    },
    /// A neighbour that refused has room for a request by now.
    Offered {
        /// Which node.
        node: NodeId,
    },
    /// Nothing but time passed.
    Tick,
}

/// What an exchange wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Ask a neighbour for what this node lacks of a block.
    Fetch {
        /// Which node.
        node: NodeId,
        /// Which block.
        block: BlockIndex,
    },
    /// Take back a request. Nothing more is expected of it; an answer that was on its way is welcome.
    Cancel {
        /// Which node.
        node: NodeId,
        /// Which block.
        block: BlockIndex,
    },
    /// Tell a neighbour that it may ask for these blocks.
    Announce {
        /// Which node.
        to: NodeId,
        /// The blocks.
        blocks: Vec<BlockIndex>,
    },
    /// Tell a neighbour everything that it may ask for ([`Exchange::offers`]).
    AnnounceAll {
        /// Which node.
        to: NodeId,
    },
    /// Send a neighbour what it asked for, parts that still arrive as they come, then say [`Input::UploadDone`].
    Serve {
        /// Which node.
        node: NodeId,
        /// Which request.
        request: u64,
    },
    /// Tell a neighbour that is served that what it was not sent yet does not come ([`FetchError::Gone`]), then say
    /// [`Input::UploadDone`]. It may be over already.
    BreakOff {
        /// Which node.
        node: NodeId,
        /// Which request.
        request: u64,
    },
    /// Tell a neighbour that there is no room for its request ([`FetchError::Refused`]).
    Refuse {
        /// Which node.
        node: NodeId,
        /// Which request.
        request: u64,
    },
    /// Tell a neighbour that this node does not have what it asks for ([`FetchError::Gone`]).
    Decline {
        /// Which node.
        node: NodeId,
        /// Which request.
        request: u64,
    },
    /// Tell a neighbour that was refused that there is room by now.
    Offer {
        /// Which node.
        to: NodeId,
    },
    /// A neighbour sent wrong bytes: report it. It is asked for nothing for [`LIAR_REST`](crate::limits::LIAR_REST); the
    /// second time it is asked for nothing and served nothing ever again, whatever it says and however it connects.
    Lied {
        /// Which node.
        node: NodeId,
        /// The block that was wrong.
        block: BlockIndex,
    },
    /// Parts of blocks are here, and nobody brings the rest: what this node lacks of each, in bytes. The coordinator is to
    /// know, since whoever reads the rest over the WAN then reads no more than that.
    LeftOff {
        /// Each block, and the bytes that are lacking of it.
        lacking: Vec<(BlockIndex, u32)>,
    },
    /// This node has every block. Said once.
    Complete,
    /// Nothing has arrived for a while and these blocks are missing; said again, ever more rarely, while it lasts.
    Stuck {
        /// The first of the missing blocks.
        blocks: Vec<BlockIndex>,
    },
}

/// Why an exchange wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Why {
    /// Announcements are due.
    Announce,
    /// A neighbour that refused or failed may be asked again.
    Retry(NodeId),
    /// A slot may be offered to a neighbour that was refused, or to the next one.
    Offer,
    /// A request is so old that it is time to look for a faster neighbour.
    Slow,
    /// If nothing arrives until then, this node is stuck.
    Stuck,
}
