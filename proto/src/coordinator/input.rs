//! What a [`super::Coordinator`] is told by its shell, and what it tells its shell to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::directory::DirectoryRecord;
use crate::hours::{Freeze, Frozen, Shut};
use crate::id::{ContentId, DeploymentId, Name, NodeId, PackageIndex};
use crate::manifest::{Manifest, Signed};
use crate::outputs::{Named, Outputs};
use crate::rollout::back::Back;
use crate::rollout::join::Joins;
use crate::rollout::variables::Variables;
use crate::rollout::{self, Options, Outcome, StepOutcome};
use crate::runs::StepRecord;
use crate::wan::calendar::Override;
use crate::wan::{self, Absence, BlockRange, BudgetSums};
use crate::wire::{AcquireStats, Grant, OutputStream, Standby, StepRun, ToCoordinator, ToNode};

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A node said something; the first thing on a connection is a hello.
    Node {
        /// Which node.
        from: NodeId,
        /// What.
        message: ToCoordinator,
    },
    /// A node's connection is gone.
    NodeDown {
        /// Which node.
        node: NodeId,
        /// How that came.
        absence: Absence,
    },
    /// An operator made or revoked a token.
    Directory(DirectoryRecord),
    /// An operator started a deployment. Nothing happens if another one of its name has one of its nodes.
    Create(Box<Created>),
    /// A deployment has one target node more, as [`super::Coordinator::joining`] says. Nothing happens if it does not by now.
    Join {
        /// The node.
        node: NodeId,
        /// The deployment.
        created: Box<Created>,
    },
    /// A step that runs on the coordinator, and is about to end well, wrote values for later steps.
    StepWrote {
        /// Which run of which step.
        run: StepRun,
        /// What.
        outputs: Outputs,
    },
    /// A step that runs on the coordinator is over.
    StepEnded {
        /// Which run of which step.
        run: StepRun,
        /// How it ended.
        outcome: StepOutcome,
    },
    /// A deployment cannot go on: its feed's package changed, for instance.
    Stop {
        /// Which deployment.
        deployment: DeploymentId,
        /// Why, for people.
        cause: String,
    },
    /// The time that [`super::Coordinator::next_wake`] named has come.
    Tick,
    /// An operator sets a site's WAN limit in place of its calendar, or goes back to that.
    OverrideLimit {
        /// Which site.
        site: Name,
        /// None for what the calendar says.
        limit: Option<Override>,
    },
    /// An operator has nothing start at a site, or anywhere, or ends that.
    Freeze {
        /// Which site; all if none is given.
        site: Option<Name>,
        /// None if it ends.
        freeze: Option<Freeze>,
    },
    /// The sites that are shut at this time, and no others: by their windows, by freezes of the configuration and of operators.
    Hours(BTreeMap<Name, Shut>),
    /// What a site's calendar and its override come to at this time.
    WanLimit {
        /// Which site.
        site: Name,
        /// Bytes a second; none for no limit.
        limit: Option<u64>,
    },
}

/// A deployment as it begins: all that it will ever be told by its file and its feeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The signed manifest.
    pub signed: Signed,
    /// What the manifest does not say because nodes need not know.
    pub options: Options,
    /// The site of each target node.
    pub sites: BTreeMap<NodeId, Name>,
    /// Bytes of each block of each package.
    pub blocks: Vec<Vec<u32>>,
    /// For the shell: where packages are read. Not looked at here.
    pub sources: Vec<u8>,
    /// Its variables, without the secrets' own text.
    pub variables: Variables,
    /// What runs when a later deployment goes back to it.
    pub back: Back,
    /// Which nodes that join later it means.
    pub joins: Joins,
}

impl Created {
    /// Whether `node` is one of its targets.
    pub fn has_target(&self, node: NodeId) -> bool {
        self.sites.contains_key(&node)
    }
}

/// A change that survives a restart; the journal is these, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Of a token or a membership.
    Directory(DirectoryRecord),
    /// A deployment began.
    Created(Box<Created>),
    /// It has one target node more.
    Joined(Box<Created>),
    /// Of a deployment.
    Rollout {
        /// Which.
        deployment: DeploymentId,
        /// What.
        record: rollout::Record,
    },
    /// Of a step that runs on the coordinator.
    Step(StepRecord),
    /// Where a package on a node came from.
    Acquired {
        /// For which deployment.
        deployment: DeploymentId,
        /// Which node.
        node: NodeId,
        /// Which package.
        package: PackageIndex,
        /// Where its bytes came from.
        stats: AcquireStats,
    },
    /// How much a site has read over its WAN for a deployment so far.
    Read {
        /// For which deployment.
        deployment: DeploymentId,
        /// Which site.
        site: Name,
        /// How much.
        wan: WanTotals,
    },
    /// An operator's WAN limit for a site.
    SiteLimit {
        /// Which site.
        site: Name,
        /// None for what the calendar says.
        limit: Option<Override>,
    },
    /// An operator has nothing start at a site, or anywhere.
    Freeze {
        /// Which site; all if none is given.
        site: Option<Name>,
        /// None if it ended.
        freeze: Option<Freeze>,
    },
    /// How much of a budget is spent, and what operators added to it (WAN-ONCE): on record before the grant that spends it.
    Budget {
        /// For which deployment.
        deployment: DeploymentId,
        /// Whose budget.
        of: BudgetOf,
        /// How it stands.
        sums: BudgetSums,
    },
    /// Blocks came to a site: if nobody there has them any more, reading them again is paid from the budget (WAN-ONCE).
    Came {
        /// For which deployment.
        deployment: DeploymentId,
        /// Whose budget.
        of: BudgetOf,
        /// The blocks, without those of earlier records.
        blocks: Vec<BlockRange>,
    },
}

impl Record {
    /// What operators froze, as the records of a journal say.
    pub fn frozen<'a>(records: impl IntoIterator<Item = &'a Self>) -> Frozen {
        let mut frozen = Frozen::new();
        records.into_iter().for_each(|record| record.note_frozen(&mut frozen));
        frozen
    }

    pub(super) fn note_frozen(&self, frozen: &mut Frozen) {
        match self {
            Self::Freeze { site, freeze: Some(freeze) } => drop(frozen.insert(site.clone(), freeze.clone())),
            Self::Freeze { site, freeze: None } => drop(frozen.remove(site)),
            _ => {}
        }
    }
}

/// Whose budget for reading beyond what was lacking: a site's for a content, or a node's where nodes do not trade.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BudgetOf {
    /// Which site.
    pub site: Name,
    /// Of which content.
    pub content: ContentId,
    /// Which node, with `swarm` off.
    pub node: Option<NodeId>,
}

/// What an operator lets a site read beyond its budget (WAN-ONCE: only this goes past it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowReading {
    /// Which site.
    pub site: Name,
    /// Of which package; of whatever waits for its budget if none is given.
    pub package: Option<PackageIndex>,
    /// How many bytes more, for each package that it is about; with `swarm` off, for each node.
    pub bytes: u64,
}

/// What a site lacked and read, in bytes, packages and recipes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WanTotals {
    /// What the site lacked and so had to read once.
    pub missing_bytes: u64,
    /// What it read.
    pub read_bytes: u64,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Make a record durable before any later output is carried out (ACKED-IS-KEPT).
    Persist(Record),
    /// Tell a node.
    Node {
        /// Whom.
        to: NodeId,
        /// What.
        message: ToNode,
    },
    /// Grant a node a lease. The shell fills in the origin: for the node's site, if it is a package of a feed; for a
    /// recipe, a related one as dictionary.
    Grant {
        /// Whom.
        to: NodeId,
        /// The node's site.
        site: Name,
        /// For which deployment.
        deployment: DeploymentId,
        /// Which package.
        package: PackageIndex,
        /// What of it is read from whom.
        part: Part,
        /// The lease; its origin is still [`crate::wire::Origin::Coordinator`] without a dictionary.
        grant: Grant,
    },
    /// Tell a node whether it is a deputy for a package. The shell fills in the origin for the node's site if it is one; if
    /// there is none beside the coordinator, there is nothing to tell.
    Standby {
        /// Whom.
        to: NodeId,
        /// The node's site.
        site: Name,
        /// For which deployment.
        deployment: DeploymentId,
        /// Which package.
        package: PackageIndex,
        /// What; its origin is still [`crate::wire::Origin::Coordinator`] without a dictionary.
        standby: Standby,
    },
    /// Tell a node the variables of a deployment that it may see: the shell has the secrets.
    Variables {
        /// Whom.
        to: NodeId,
        /// Of which deployment.
        deployment: DeploymentId,
    },
    /// Sign a deployment anew, with a node that it means and that joined, as [`super::Coordinator::joining`] says. Answer:
    /// [`Input::Join`].
    Join {
        /// The deployment.
        deployment: DeploymentId,
        /// The node.
        node: NodeId,
    },
    /// Have what a deployment changed taken back, as [`super::Coordinator::way_back`] says: the shell has the key that signs.
    RollBack {
        /// The deployment, which is over.
        of: DeploymentId,
    },
    /// End a node's connection, after what was said to it before.
    Disconnect(NodeId),
    /// Run a step here. Answer: `StepEnded`, after `StepWrote` if it wrote anything.
    Run {
        /// Which run of which step.
        run: StepRun,
        /// The manifest it belongs to.
        manifest: Arc<Manifest>,
        /// What earlier steps wrote that it sees.
        outputs: Named,
    },
    /// Kill the processes of a step that runs here. Answer: `StepEnded`.
    Kill {
        /// Which run of which step.
        run: StepRun,
    },
    /// Keep what a step wrote.
    StepOutput {
        /// Who ran it.
        from: NodeId,
        /// Which run of which step.
        run: StepRun,
        /// Where it wrote it.
        stream: OutputStream,
        /// The text.
        text: String,
    },
    /// Something that an operator may want to know.
    Notice(Notice),
}

/// What of a package a lease is for, and who is its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The recipe, which only the coordinator has.
    Recipe,
    /// The package, from its feed.
    FromFeed,
    /// The package, from the coordinator.
    FromCoordinator,
}

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A node connected.
    NodeOnline(NodeId),
    /// A node's connection is gone.
    NodeOffline(NodeId),
    /// A node was refused.
    Refused {
        /// Which node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// A node sent another node wrong bytes.
    Lied {
        /// Who noticed.
        by: NodeId,
        /// Who sent them.
        neighbour: NodeId,
        /// Of which content.
        content: ContentId,
    },
    /// Reading from an origin failed.
    ReadFailed {
        /// Which node.
        node: NodeId,
        /// Of which content.
        content: ContentId,
        /// Why.
        cause: String,
    },
    /// A site's reading needs attention.
    Wan {
        /// Which site.
        site: Name,
        /// Of which content.
        content: ContentId,
        /// What.
        notice: wan::Notice,
    },
    /// A deployment's records changed: whoever watches it may look.
    Changed(DeploymentId),
    /// A deployment is over.
    Finished {
        /// Which.
        deployment: DeploymentId,
        /// How it ended.
        outcome: Outcome,
    },
}
