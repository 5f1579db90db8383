//! The messages of the control mesh: node to coordinator, coordinator to node, neighbour to neighbour.
//!
//! A connection delivers in order or breaks; whatever was under way when it broke may be lost. So each side says its
//! whole state again when a connection comes up (hello, wants, outcomes; roster, deployments, orders), and every message
//! is harmless when it arrives twice. Package bytes never travel here (see [`crate::bulk`]).

use serde::{Deserialize, Serialize};

use crate::content::BlockSet;
use crate::id::{ContentId, DeploymentId, Epoch, Generation, LeaseId, Name, NodeId, PackageId, PackageIndex, RecipeId};
use crate::manifest::{Signed, StepRef};
use crate::origin::HttpOrigin;
use crate::outputs::{ByStep, Outputs};
use crate::rollout::StepOutcome;
use crate::rollout::variables::Told;
use crate::wan::credit::Terms;
use crate::wan::{self, BlockRange, HeldLease, Lacking};

/// What a node tells its coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCoordinator {
    /// The first message on a connection.
    Hello(Hello),
    /// The node wants a content, or wants it again after a new connection; replaces what was known of it.
    Wants {
        /// The content.
        content: ContentId,
        /// Bytes lacking of each incomplete block; every other block is complete.
        lacking: Vec<Lacking>,
        /// Leases that the node still works on.
        held: Vec<HeldLease>,
    },
    /// Blocks became complete.
    Landed {
        /// The content.
        content: ContentId,
        /// Which blocks.
        blocks: Vec<BlockRange>,
    },
    /// A lease is over.
    LeaseEnded {
        /// How.
        end: LeaseEnd,
        /// What is still lacking of blocks that were begun.
        begun: Vec<Lacking>,
    },
    /// No neighbour has what the node lacks, for longer than it should take.
    Stuck {
        /// The content.
        content: ContentId,
        /// The first of the blocks.
        blocks: Vec<BlockRange>,
    },
    /// The node no longer works on a content. What it holds, it still holds.
    Left {
        /// The content.
        content: ContentId,
    },
    /// A package is complete and verified.
    Acquired {
        /// For which deployment.
        deployment: DeploymentId,
        /// Which package.
        package: PackageIndex,
        /// Where its bytes came from.
        stats: AcquireStats,
    },
    /// A package cannot be had; trying again will not help.
    AcquireFailed {
        /// For which deployment.
        deployment: DeploymentId,
        /// Which package.
        package: PackageIndex,
        /// For people.
        cause: String,
    },
    /// A step began to run.
    StepStarted(StepRun),
    /// A step is over.
    StepEnded {
        /// Which run of which step.
        run: StepRun,
        /// How it ended.
        outcome: StepOutcome,
    },
    /// What a step wrote.
    StepOutput {
        /// Which run of which step.
        run: StepRun,
        /// Where it wrote it.
        stream: OutputStream,
        /// The text, at most [`crate::limits::OUTPUT_CHUNK_BYTES_MAX`] bytes.
        text: String,
    },
    /// A neighbour sent wrong bytes and is asked for nothing: for a while the first time, then for good.
    Lied {
        /// The neighbour.
        neighbour: NodeId,
        /// The content.
        content: ContentId,
    },
    /// How fast the node read over the WAN of late; said while it has leases and a limit.
    WanRate {
        /// Bytes a second.
        rate: u64,
    },
    /// What the node has in its cache: said once it is welcome, and when packages were dropped.
    Inventory(Inventory),
    /// The answer to [`ToNode::Offer`]: the node can run the step, and never started it.
    StepReady(StepRun),
    /// A step that is about to end well wrote values for later steps.
    StepWrote {
        /// Which run of which step.
        run: StepRun,
        /// What.
        outputs: Outputs,
    },
    /// The origin of a lease refuses what came with the lease: a signature or token has ended. The lease goes on once the node
    /// is told of another ([`ToNode::Renewed`]).
    Denied {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
    },
    /// The node is about to read up to this many bytes for a lease, and waits until that is confirmed ([`ToNode::Credit`]).
    CreditWanted {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
        /// Of all that it reads for the lease.
        bytes: u64,
    },
    /// Neighbours sent parts of blocks, and none of them brings the rest.
    Begun {
        /// The content.
        content: ContentId,
        /// Bytes lacking of each of the blocks.
        lacking: Vec<Lacking>,
    },
}

/// What a node has in its cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Packages that are there as a whole, at most [`crate::limits::INVENTORY_PACKAGES_MAX`] of them: the last used ones.
    pub packages: Vec<PackageId>,
    /// Bytes of all that is in the cache.
    pub cache_bytes: u64,
    /// Bytes that the node may still write, if its disk says.
    pub free_bytes: Option<u64>,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The program's version, for people.
    pub version: String,
    /// Proof that it was invited; needed until the coordinator knows it as a member.
    pub join: Option<JoinProof>,
    /// What its operator calls it.
    pub name: Name,
    /// The site that its operator says it is in, if any; must agree with the join token.
    pub site: Option<Name>,
    /// What its operator says of it, in addition to the token's roles.
    pub labels: Vec<(Name, String)>,
    /// Where its neighbours reach its control mesh, as multiaddresses.
    pub control: Vec<String>,
    /// Where its neighbours reach its bulk mesh, as multiaddresses.
    pub bulk: Vec<String>,
}

/// A join token's number and secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinProof {
    /// The token.
    pub token: u64,
    /// Its secret.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for JoinProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinProof(token {})", self.token)
    }
}

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEnd {
    /// The content.
    pub content: ContentId,
    /// The lease.
    pub lease: LeaseId,
    /// Bytes that crossed the WAN for it, wrong and unneeded ones included.
    pub read_bytes: u64,
    /// The leased blocks that are complete.
    pub landed: Vec<BlockRange>,
    /// Why it ended.
    pub outcome: wan::Outcome,
    /// What was wrong, if it failed.
    pub fault: Option<Fault>,
}

/// What was wrong with an origin or the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What it means for the deployment.
    pub kind: FaultKind,
    /// For people.
    pub cause: String,
}

/// What a fault means for the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// Trying again, here or elsewhere, may help.
    Passing,
    /// The origin ignores ranges: it has to be read from the start, by one node.
    IgnoresRanges,
    /// The origin's package is another one than was resolved.
    Changed,
    /// The origin sent bytes that do not match their hash.
    WrongBytes,
    /// The origin wants other credentials: those that came with the lease may have expired.
    Denied,
    /// The origin did not give the bytes: another place that has them may.
    Unanswered,
}

/// Where the bytes of a package on a node came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireStats {
    /// Bytes that crossed the WAN, recipe included.
    pub wan_bytes: u64,
    /// Bytes from neighbours, recipe included.
    pub peer_bytes: u64,
    /// Bytes that the node already had.
    pub local_bytes: u64,
    /// Milliseconds from the order to the verified file.
    pub took_ms: u64,
}

/// Where a step's output was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Said by Shoal about the output.
    Notice,
}

/// One run of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepRun {
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// Which step.
    pub step: StepRef,
    /// Which attempt, from 1.
    pub attempt: u32,
}

/// What the coordinator tells a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNode {
    /// The answer to a hello that was accepted.
    Welcome {
        /// This run of the coordinator.
        epoch: Epoch,
        /// The site that the node is in.
        site: Name,
    },
    /// The answer to a hello that was not; the connection is closed after it.
    Refused {
        /// For people.
        reason: String,
    },
    /// Who else is in the site; replaces the roster before. The first one of a connection comes when the manifests of all
    /// deployments were sent that the node keeps packages for: it holds for no others.
    Roster(Roster),
    /// The manifest of a deployment that the node is a target of; comes before any other order for it. The node keeps its
    /// packages until it is told the end.
    Deploy {
        /// Which version of the orders; older ones are refused.
        generation: Generation,
        /// The manifest.
        signed: Signed,
    },
    /// Acquire the packages of a deployment, and report each one, also those that are there.
    Acquire {
        /// Which deployment.
        deployment: DeploymentId,
        /// Which version of the orders.
        generation: Generation,
    },
    /// Stop acquiring for a deployment.
    StopAcquire {
        /// Which deployment.
        deployment: DeploymentId,
        /// Which version of the orders.
        generation: Generation,
    },
    /// The right to read blocks from outside the site.
    Grant(Grant),
    /// Stop reading for a lease, and say how far it came.
    Revoke {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
    },
    /// Run a step, unless that run was started before: then say how it ended.
    Run {
        /// Which run of which step.
        run: StepRun,
        /// Orders older than the newest are refused.
        generation: Generation,
    },
    /// Kill a step's processes; if it was never started, it is not to start.
    Kill {
        /// Which run of which step.
        run: StepRun,
        /// Orders older than the newest are refused.
        generation: Generation,
    },
    /// The deployment is over, or what it staged is: stop whatever is done for it, forget it, keep nothing for it. So is
    /// each that a connection does not begin with, as its first roster says.
    End {
        /// Which.
        deployment: DeploymentId,
    },
    /// Who reads a content without leases if the coordinator is out of reach, and where; replaces what was said of it
    /// before. Told to those who are named, and to one that was and is not any more.
    Standby(Standby),
    /// How fast the node may read over the WAN, for all leases together. Said on each connection, and again when
    /// it changes; what was said last holds meanwhile.
    WanRate(WanRates),
    /// The variables of a deployment that this node may see; comes after its manifest, on every connection.
    Variables {
        /// Which deployment.
        deployment: DeploymentId,
        /// Them.
        told: Told,
    },
    /// Say whether a step can be run, which is not to start yet; if it was started before, how that stands.
    Offer {
        /// Which run of which step.
        run: StepRun,
        /// Orders older than the newest are refused.
        generation: Generation,
    },
    /// What steps on the coordinator and on the node's site wrote that its later steps see; comes before the order to run
    /// one, and replaces what was said before.
    Outputs {
        /// Of which deployment.
        deployment: DeploymentId,
        /// What, by step.
        outputs: ByStep,
    },
    /// How a lease is read from here on: the same package at the same place, with another signature or token.
    Renewed {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
        /// Where, and with what.
        origin: HttpOrigin,
    },
    /// What the receiver's site may read over its WAN, of which its rates are parts; no limit before it is told on a
    /// connection.
    WanLimit {
        /// Bytes a second; none for no limit.
        limit: Option<u64>,
    },
    /// Up to so many bytes may be read for a lease, all that was read for it included.
    Credit {
        /// The content.
        content: ContentId,
        /// The lease.
        lease: LeaseId,
        /// As the node asked for.
        bytes: u64,
    },
}

/// How fast a node may read over its site's WAN, in bytes a second: none for as fast as it can, 0 for not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WanRates {
    /// While the coordinator is there.
    pub rate: Option<u64>,
    /// While it is out of reach: with deputies and those that still hold leases.
    pub away: Option<u64>,
    /// The same once only deputies read.
    pub alone: Option<u64>,
}

/// What a site's deputies for a content are to know (see `node/deputy.rs`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// The content.
    pub content: ContentId,
    /// The deputies, at most [`crate::limits::DEPUTIES_MAX`], neighbours of each other; none if there are to be none.
    pub deputies: Vec<NodeId>,
    /// Where they read. With the coordinator as origin they read nothing.
    pub origin: Origin,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The content.
    pub content: ContentId,
    /// Its number.
    pub lease: LeaseId,
    /// The blocks.
    pub blocks: Vec<BlockRange>,
    /// Where to read them.
    pub origin: Origin,
    /// Whether the origin ignores ranges, so that it has to be read from the start.
    pub whole: bool,
    /// How much may be read before more is asked for.
    pub terms: Terms,
}

/// Where leased blocks are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The coordinator, over the bulk mesh; also where every recipe is read.
    Coordinator {
        /// A recipe related to the one that is read, to compress it against if the node has it.
        dictionary: Option<RecipeId>,
    },
    /// An HTTP server.
    Http(HttpOrigin),
}

/// What a node knows of its site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Grows with each change.
    pub number: u64,
    /// Where the coordinator's bulk mesh is reached from this site, as multiaddresses.
    pub coordinator_bulk: Vec<String>,
    /// The members that the receiver trades with; it serves nobody else.
    pub neighbours: Vec<Neighbour>,
}

/// A member to trade with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its key.
    pub node: NodeId,
    /// Where its control mesh is reached, as multiaddresses.
    pub control: Vec<String>,
    /// Where its bulk mesh is reached, as multiaddresses.
    pub bulk: Vec<String>,
}

/// What neighbours tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNeighbour {
    /// The sender trades this content and may be asked for these blocks of it. Answered with the same if the receiver trades it too
    /// and did not know that the sender does.
    Has {
        /// The content.
        content: ContentId,
        /// Those that are complete, and those that are about to be: what is there of them is sent at once.
        blocks: BlockSet,
    },
    /// The sender may be asked for more blocks.
    Landed {
        /// The content.
        content: ContentId,
        /// Which blocks.
        blocks: Vec<BlockRange>,
    },
    /// The sender no longer trades this content.
    Left {
        /// The content.
        content: ContentId,
    },
    /// How far the sender is from a node that the coordinator reaches. A neighbour that never said so is 0 hops from one.
    Reach {
        /// Hops: 0 if it reaches the sender, [`crate::limits::REACH_HOPS_MAX`] if it reaches nobody in sight.
        hops: u8,
    },
    /// What the sender, which is cut off from the coordinator, reads of a content; replaces what it said before.
    Reading {
        /// The content.
        content: ContentId,
        /// Blocks of leases that the coordinator granted.
        granted: Vec<BlockRange>,
        /// Blocks that it reads as a deputy.
        own: Vec<BlockRange>,
        /// Whether its reads as a deputy fail, so that others are to read in its place.
        fails: bool,
    },
    /// The sender refused to serve the receiver blocks of this content, and has room by now.
    Room {
        /// The content.
        content: ContentId,
    },
    /// How fast the sender, which is cut off from the coordinator, may read over the WAN by what that told it; replaces what
    /// it said before.
    WanRate {
        /// Bytes a second: 0 if it has nothing to read, or is not cut off any more.
        rate: u64,
    },
}

/// One frame of the control mesh: who says it decides which arm is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// From a node, to the coordinator.
    ToCoordinator(ToCoordinator),
    /// From the coordinator.
    ToNode(ToNode),
    /// From a neighbour.
    ToNeighbour(ToNeighbour),
}
