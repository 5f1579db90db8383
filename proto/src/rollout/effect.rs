//! What a rollout wants done: orders for nodes and for the coordinator.
//!
//! Every effect is idempotent and may come again: after a reconnect, after a restart. Its receiver keeps this contract:
//! - an order for a node goes with the signed manifest if the node lacks it; one for a node that is not connected is
//!   dropped, since it comes again with [`super::Input::NodeOnline`];
//! - whoever gets [`Effect::RunStep`] writes (step, attempt) down before it starts it, starts it only if it has never seen
//!   it, and otherwise reports what it knows: started, the outcome, or `Unknown` if it was interrupted;
//! - whoever gets [`Effect::CancelStep`] kills the attempt if it runs, marks it as seen, and reports its outcome, which is
//!   `Killed` if it never started;
//! - an order with a generation lower than one seen before for the same deployment is dropped.

use serde::{Deserialize, Serialize};

use super::input::{Actor, Now, Refusal};
use super::record::{Outcome, Record};
use crate::id::{Generation, NodeId};
use crate::manifest::StepRef;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// The node shall acquire, verify and pin its packages, and report each one, also those that it already holds.
    Acquire {
        /// Which node.
        node: NodeId,
        /// The order's generation.
        generation: Generation,
    },
    /// The node shall stop fetching for this deployment.
    StopAcquire {
        /// Which node.
        node: NodeId,
        /// The order's generation.
        generation: Generation,
    },
    /// The actor shall run this attempt, unless it has seen it before.
    RunStep {
        /// Who.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// Which attempt, from 1.
        attempt: u32,
        /// The order's generation.
        generation: Generation,
    },
    /// The node shall say whether it can run this first attempt of a step `on: site`: with
    /// [`super::Input::StepReady`] if it has never seen it, and otherwise as on [`Effect::RunStep`]. It starts nothing.
    OfferStep {
        /// Which node.
        node: NodeId,
        /// Which step.
        step: StepRef,
        /// The order's generation.
        generation: Generation,
    },
    /// The actor shall kill this attempt.
    CancelStep {
        /// Who.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// Which attempt, from 1.
        attempt: u32,
        /// The order's generation.
        generation: Generation,
    },
    /// The deployment is over.
    Finished {
        /// How it ended.
        outcome: Outcome,
    },
    /// The node shall drop all that it keeps for the deployment: transfers, attempts, pins of packages that nothing else
    /// pins.
    Forget {
        /// Which node.
        node: NodeId,
        /// The order's generation.
        generation: Generation,
    },
}

impl Effect {
    /// The node that must be connected for this, if it is an order to one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Acquire { node, .. }
            | Self::StopAcquire { node, .. }
            | Self::OfferStep { node, .. }
            | Self::Forget { node, .. } => Some(*node),
            Self::RunStep { actor, .. } | Self::CancelStep { actor, .. } => actor.node(),
            Self::Finished { .. } => None,
        }
    }
}

/// What follows from an input. Append `records` to the journal and flush, then pass it to
/// [`super::Rollout::commit`], then do the effects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "nothing has happened before it is journaled and committed"]
pub struct Decision {
    /// For the journal; often none.
    pub records: Vec<Record>,
    /// To be done after that, in this order.
    pub effects: Vec<Effect>,
    /// Why the operator's command changed nothing.
    pub refused: Option<Refusal>,
    /// A node came or went.
    pub(super) presence: Option<(NodeId, bool)>,
    /// When it was decided.
    pub(super) now: Now,
}
