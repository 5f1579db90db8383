//! Which deployments nodes keep packages for: those that are not over, and what was staged until a deployment of the same
//! name that began after that has succeeded.
//!
//! A node pins the packages of the deployments whose manifests it was sent, until it is told their end. So each of its
//! connections begins with all of these manifests, and the roster that follows says that there are no others: what else the
//! node knows of is over, and it is not told so one by one.

use std::ops::Bound;

use super::{Coordinator, Deployment, Output};
use crate::id::{DeploymentId, Generation, NodeId};
use crate::rollout::{Outcome, Rollout};
use crate::wire::ToNode;

impl Coordinator {
    /// The deployments that a node keeps packages for.
    pub(super) fn kept_by(&self, node: NodeId) -> impl Iterator<Item = DeploymentId> {
        let kept = move |(id, deployment): &(&DeploymentId, &Deployment)| {
            deployment.rollout.keeps(node) && !self.is_superseded(**id, node)
        };
        self.deployments.iter().filter(kept).map(|(id, _)| *id)
    }

    /// Tells a connected node of a deployment that it keeps packages for.
    pub(super) fn tell_kept(&mut self, node: NodeId, id: DeploymentId) {
        let rollout =
            self.deployments.get(&id).map(|deployment| &deployment.rollout).filter(|rollout| rollout.keeps(node));
        if let Some(generation) = rollout.map(Rollout::generation) {
            self.tell_manifest(node, id, generation);
        }
    }

    /// Sends a connected node a manifest, unless it was sent on its connection.
    pub(super) fn tell_manifest(&mut self, node: NodeId, id: DeploymentId, generation: Generation) {
        let (Some(told), Some(deployment)) = (self.told.get_mut(&node), self.deployments.get(&id)) else { return };
        if told.insert(id) {
            let signed = deployment.created.signed.clone();
            let tells = !deployment.created.variables.is_empty();
            self.outbox.push_back(Output::Node { to: node, message: ToNode::Deploy { generation, signed } });
            self.outbox.extend(tells.then_some(Output::Variables { to: node, deployment: id }));
        }
    }

    /// Tells a node that a deployment is over. One that is away is told when it is back.
    pub(super) fn tell_end(&mut self, node: NodeId, id: DeploymentId) {
        if let Some(told) = self.told.get_mut(&node) {
            told.remove(&id);
            self.outbox.push_back(Output::Node { to: node, message: ToNode::End { deployment: id } });
        }
    }

    /// A deployment is over: tells connected nodes that what it supersedes is.
    pub(super) fn end_superseded(&mut self, by: DeploymentId) {
        let known = self.told.iter().flat_map(|(node, told)| told.range(..by).map(|id| (*node, *id)));
        let kept = known.filter(|(node, id)| self.deployments[id].rollout.keeps(*node));
        let ends: Vec<_> = kept.filter(|(node, id)| self.is_superseded_by(*id, *node, by)).collect();
        ends.into_iter().for_each(|(node, id)| self.tell_end(node, id));
    }

    fn is_superseded(&self, id: DeploymentId, node: NodeId) -> bool {
        let mut later = self.deployments.range((Bound::Excluded(id), Bound::Unbounded));
        later.any(|(by, _)| self.is_superseded_by(id, node, *by))
    }

    /// Whether a deployment of the same name that began when the other was over has succeeded, of which the node was a
    /// target.
    fn is_superseded_by(&self, id: DeploymentId, node: NodeId, by: DeploymentId) -> bool {
        let (earlier, later) = (&self.deployments[&id], &self.deployments[&by]);
        earlier.manifest.name == later.manifest.name
            && later.created.has_target(node)
            && matches!(later.rollout.outcome(), Some(Outcome::Succeeded | Outcome::SucceededWithout { .. }))
            && earlier.rollout.times().finished.is_some_and(|over| later.rollout.times().began >= Some(over))
    }
}
