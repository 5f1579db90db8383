//! What a [`super::Node`] is told by its shell, and what it tells its shell to do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Pin, What};
use crate::exchange::{Arrived, FetchError};
use crate::id::{BlockIndex, ContentId, Epoch, Generation, LeaseId, Name, NodeId};
use crate::manifest::Manifest;
use crate::origin::HttpOrigin;
use crate::outputs::{Named, Outputs};
use crate::rollout::StepOutcome;
use crate::runs::{RunEffect, StepRecord};
use crate::wan::Lacking;
use crate::wire::{Grant, LeaseEnd, Neighbour, OutputStream, StepRun, ToCoordinator, ToNeighbour, ToNode};

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// The connection to the coordinator broke.
    CoordinatorDown,
    /// The coordinator said something (a signed manifest comes as [`Input::Deploy`]).
    Coordinator(ToNode),
    /// The coordinator sent a deployment's manifest, and its signature is good.
    Deploy {
        /// The manifest.
        manifest: Box<Manifest>,
        /// Which version of the orders.
        generation: Generation,
    },
    /// A connection to a neighbour of the roster came up.
    NeighbourUp(NodeId),
    /// It broke.
    NeighbourDown(NodeId),
    /// A neighbour said something.
    Neighbour {
        /// Which neighbour.
        from: NodeId,
        /// What.
        message: ToNeighbour,
    },
    /// [`Output::Open`] is done.
    Opened {
        /// The content.
        content: ContentId,
        /// What is there.
        opened: Opened,
    },
    /// [`Output::Open`] failed.
    OpenFailed {
        /// The content.
        content: ContentId,
        /// For people.
        cause: String,
    },
    /// [`Output::Open`] of a package needs its recipe first.
    RecipeWanted {
        /// The package's content.
        content: ContentId,
    },
    /// A block that was read for a lease is verified and stored.
    Landed {
        /// The content.
        content: ContentId,
        /// The block.
        block: BlockIndex,
    },
    /// The origin refuses what came with a lease; the read waits for [`Output::Renew`].
    Denied {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
    },
    /// A read is about to come to this many bytes of its lease, and waits for [`Output::Credit`].
    CreditWanted {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
        /// Of all that is read for the lease.
        bytes: u64,
    },
    /// [`Output::Read`] is over.
    ReadEnded {
        /// How; `landed` is filled in by the core.
        end: LeaseEnd,
        /// What is still lacking of blocks that were begun.
        begun: Vec<Lacking>,
    },
    /// [`Output::Fetch`] is done: the block is verified and stored.
    Fetched {
        /// From whom.
        node: NodeId,
        /// The content.
        content: ContentId,
        /// The block.
        block: BlockIndex,
        /// Bytes that were moved.
        bytes: u64,
        /// From the request to the last byte.
        took: Duration,
    },
    /// A part of a block is verified and stored that is fetched or read, and more of it comes.
    Arrives {
        /// The content.
        content: ContentId,
        /// The block.
        block: BlockIndex,
        /// How much of it.
        arrived: Arrived,
    },
    /// [`Output::Fetch`] failed.
    FetchFailed {
        /// From whom.
        node: NodeId,
        /// The content.
        content: ContentId,
        /// The block.
        block: BlockIndex,
        /// Why.
        why: FetchError,
    },
    /// A neighbour asks for a block, or a part of one.
    UploadAsked {
        /// Who.
        node: NodeId,
        /// The shell's number for the request.
        request: u64,
        /// The content.
        content: ContentId,
        /// The block.
        block: BlockIndex,
        /// How much, in bytes.
        bytes: u64,
    },
    /// [`Output::Serve`] is over, one way or the other.
    UploadDone {
        /// Who asked.
        node: NodeId,
        /// The shell's number for the request.
        request: u64,
        /// The content.
        content: ContentId,
    },
    /// [`Output::Seal`] is done: the content is durable.
    Sealed {
        /// The content.
        content: ContentId,
    },
    /// [`Output::Seal`] failed.
    SealFailed {
        /// The content.
        content: ContentId,
        /// For people.
        cause: String,
    },
    /// A step wrote something.
    StepOutput {
        /// Which run of which step.
        run: StepRun,
        /// Where.
        stream: OutputStream,
        /// The text.
        text: String,
    },
    /// A step that is about to end well wrote values for later steps.
    StepWrote {
        /// Which run of which step.
        run: StepRun,
        /// What.
        outputs: Outputs,
    },
    /// A step is over.
    StepEnded {
        /// Which run of which step.
        run: StepRun,
        /// How it ended.
        outcome: StepOutcome,
    },
    /// The time that [`super::Node::next_wake`] named has come.
    Tick,
}

/// What the store has of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Bytes of each block.
    pub block_bytes: Vec<u32>,
    /// Bytes lacking of each incomplete block.
    pub lacking: Vec<Lacking>,
    /// Bytes that were there already.
    pub local_bytes: u64,
    /// Whether it is complete and durable; then nothing is lacking.
    pub sealed: bool,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Tell the coordinator.
    Coordinator(ToCoordinator),
    /// The coordinator accepted this node.
    Welcomed {
        /// This run of the coordinator.
        epoch: Epoch,
        /// The site that the node is in.
        site: Name,
    },
    /// Tell a neighbour.
    Neighbour {
        /// Whom.
        to: NodeId,
        /// What.
        message: ToNeighbour,
    },
    /// Keep connections to exactly these neighbours, and serve nobody else.
    Neighbours {
        /// The neighbours.
        neighbours: Vec<Neighbour>,
        /// Where the coordinator's bulk mesh is.
        coordinator_bulk: Vec<String>,
    },
    /// Open a content in the store, filling it from what is there. Answer: `Opened`, `RecipeWanted` or `OpenFailed`.
    Open(What),
    /// Close a content: nothing of it is wanted any more.
    Close {
        /// The content.
        content: ContentId,
    },
    /// Fetch what is lacking of a block from a neighbour. Answer: `Fetched` or `FetchFailed`.
    Fetch {
        /// From whom.
        node: NodeId,
        /// The content.
        content: ContentId,
        /// The block.
        block: BlockIndex,
    },
    /// Give up a fetch; no answer is expected, one that comes is ignored.
    CancelFetch {
        /// From whom.
        node: NodeId,
        /// The content.
        content: ContentId,
        /// The block.
        block: BlockIndex,
    },
    /// Read what is lacking of the blocks of a lease. Answer: `Landed` for each block, then `ReadEnded`.
    Read(Grant),
    /// Go on reading for a lease, if it is still read, with what this origin has.
    Renew {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
        /// Where it was read before, with another signature or token.
        origin: HttpOrigin,
    },
    /// Read up to so many bytes for a lease, if it is still read or is going to be.
    Credit {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
        /// All that was read for it included.
        bytes: u64,
    },
    /// Stop reading. Answer: `ReadEnded`.
    CancelRead {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
    },
    /// Send a neighbour what it asked for; parts of a block that still arrives as they come. Answer: `UploadDone`.
    Serve {
        /// The neighbour.
        node: NodeId,
        /// The shell's number for the request.
        request: u64,
    },
    /// Tell a neighbour that is served that what it was not sent yet does not come. Answer: `UploadDone`, unless that was said.
    BreakOff {
        /// The neighbour.
        node: NodeId,
        /// The shell's number for the request.
        request: u64,
    },
    /// Tell a neighbour that what it asks for is not here.
    Decline {
        /// The neighbour.
        node: NodeId,
        /// The shell's number for the request.
        request: u64,
    },
    /// Tell a neighbour that it does not get what it asked for at this time.
    Refuse {
        /// The neighbour.
        node: NodeId,
        /// The shell's number for the request.
        request: u64,
    },
    /// Make a complete content durable. Answer: `Sealed` or `SealFailed`.
    Seal {
        /// The content.
        content: ContentId,
    },
    /// Keep exactly these packages, held or not yet, whatever the store's size; replaces what was said before, durably and
    /// before any later output is carried out. Until it is said for the first time, nothing is dropped.
    Pins(BTreeSet<Pin>),
    /// Make the store as small as it shall be, without what is pinned or open.
    MakeRoom,
    /// Make a record durable before any later output is carried out.
    Persist(StepRecord),
    /// Read over the WAN at most this fast, in bytes a second; none for as fast as can be.
    WanRate(Option<u64>),
    /// Run a step. Answer: `StepEnded`, after `StepWrote` if it wrote anything.
    Run {
        /// Which run of which step.
        run: StepRun,
        /// The manifest it belongs to.
        manifest: Arc<Manifest>,
        /// What earlier steps wrote that it sees.
        outputs: Named,
    },
    /// Kill a step's processes. Answer: `StepEnded`.
    Kill {
        /// Which run of which step.
        run: StepRun,
    },
}

impl From<RunEffect> for Output {
    fn from(effect: RunEffect) -> Self {
        match effect {
            RunEffect::Persist(record) => Self::Persist(record),
            RunEffect::Run { run, manifest, outputs } => Self::Run { run, manifest, outputs },
            RunEffect::Wrote { run, outputs } => Self::Coordinator(ToCoordinator::StepWrote { run, outputs }),
            RunEffect::Kill(run) => Self::Kill { run },
            RunEffect::Ready(run) => Self::Coordinator(ToCoordinator::StepReady(run)),
            RunEffect::Started(run) => Self::Coordinator(ToCoordinator::StepStarted(run)),
            RunEffect::Ended { run, outcome } => Self::Coordinator(ToCoordinator::StepEnded { run, outcome }),
        }
    }
}
