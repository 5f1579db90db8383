//! Which deployments nodes keep packages for: those that are not over, what was staged, and the releases that a rollback may
//! go back to.
//!
//! What was staged is kept until a deployment of the same name that began after that has succeeded. Of the releases of a
//! name that came to a node, the newest two are kept: the one that runs there, which the next deployment may go back to, and
//! the one before it, to which that one does. So whatever may be gone back to is there. The only release of a name that
//! nothing follows is a package like others in the cache: else a node would keep what was deployed once for ever.
//!
//! A node pins the packages of the deployments whose manifests it was sent, until it is told their end. So each of its
//! connections begins with all of these manifests, and the roster that follows says that there are no others: what else the
//! node knows of is over, and it is not told so one by one.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::{Coordinator, Deployment, Output};
use crate::id::{DeploymentId, Generation, NodeId};
use crate::rollout::{Outcome, Rollout};
use crate::wire::ToNode;

/// Releases of a name that a node keeps: what runs, and what that goes back to.
const RELEASES_KEPT: usize = 2;

impl Coordinator {
    /// The deployments that a node keeps packages for.
    pub(super) fn kept_by(&self, node: NodeId) -> impl Iterator<Item = DeploymentId> {
        let kept = move |(id, deployment): &(&DeploymentId, &Deployment)| {
            let goes_on = deployment.rollout.keeps(node) && !self.is_superseded(**id, node);
            goes_on || self.is_kept_release(**id, node)
        };
        self.deployments.iter().filter(kept).map(|(id, _)| *id)
    }

    /// Tells a connected node of a deployment that it keeps packages for.
    pub(super) fn tell_kept(&mut self, node: NodeId, id: DeploymentId) {
        let rollout = self.deployments.get(&id).map(|deployment| &deployment.rollout);
        let rollout = rollout.filter(|rollout| rollout.keeps(node) || rollout.released_to(node));
        if let Some(generation) = rollout.map(Rollout::generation) {
            self.tell_manifest(node, id, generation);
        }
    }

    /// Has a connected node keep what `of`, which begins, may have to go back to.
    pub(super) fn tell_releases_before(&mut self, node: NodeId, of: DeploymentId) {
        let Some(next) = self.deployments.get(&of).filter(|next| next.created.has_target(node)) else { return };
        let before = self.of_name(&next.manifest.name, (Bound::Unbounded, Bound::Excluded(of)));
        let before: Vec<_> = before.map(|(id, _)| id).filter(|id| self.is_kept_release(*id, node)).collect();
        before.into_iter().for_each(|id| self.tell_kept(node, id));
    }

    /// Sends a connected node a manifest, unless it was sent on its connection.
    pub(super) fn tell_manifest(&mut self, node: NodeId, id: DeploymentId, generation: Generation) {
        let (Some(told), Some(deployment)) = (self.told.get_mut(&node), self.deployments.get(&id)) else { return };
        if told.insert(id) {
            let signed = deployment.created.signed.clone();
            let tells = !deployment.created.variables.is_empty() && !deployment.over;
            self.outbox.push_back(Output::Node { to: node, message: ToNode::Deploy { generation, signed } });
            self.outbox.extend(tells.then_some(Output::Variables { to: node, deployment: id }));
        }
    }

    /// A deployment is over for a node, which forgets it unless it may have to go back to it: then it keeps the packages,
    /// and neither trades them nor knows secrets any more.
    pub(super) fn end_at(&mut self, node: NodeId, id: DeploymentId, generation: Generation) {
        if !self.is_kept_release(id, node) {
            return self.tell_end(node, id);
        }
        if self.told.get(&node).is_some_and(|told| told.contains(&id)) {
            let message = ToNode::StopAcquire { deployment: id, generation };
            self.outbox.push_back(Output::Node { to: node, message });
            let tells = !self.deployments[&id].created.variables.is_empty();
            self.outbox.extend(tells.then_some(Output::Variables { to: node, deployment: id }));
        }
    }

    /// Tells a node that a deployment is over. One that is away is told when it is back.
    fn tell_end(&mut self, node: NodeId, id: DeploymentId) {
        if let Some(told) = self.told.get_mut(&node) {
            told.remove(&id);
            self.outbox.push_back(Output::Node { to: node, message: ToNode::End { deployment: id } });
        }
    }

    /// The deployments whose steps may run yet, be it in one that goes back to them: those that are under way, and of each
    /// node and name the newest two that brought their release there.
    pub fn needed(&self) -> BTreeSet<DeploymentId> {
        let wants = |(id, deployment): &(&DeploymentId, &Deployment)| {
            !deployment.over || deployment.created.sites.keys().any(|node| self.may_be_gone_back_to(**id, *node))
        };
        self.deployments.iter().filter(wants).flat_map(|(id, _)| [*id, self.origin_of(*id)]).collect()
    }

    /// Whether a deployment brought its release to a node, and is one of the newest of its name that did.
    fn may_be_gone_back_to(&self, id: DeploymentId, node: NodeId) -> bool {
        let later = self.later(id).filter(|(_, later)| later.rollout.released_to(node));
        self.deployments[&id].rollout.released_to(node) && later.count() < RELEASES_KEPT
    }

    /// The same, where it is not the only one that ever came to the node.
    fn is_kept_release(&self, id: DeploymentId, node: NodeId) -> bool {
        let followed = || self.later(id).any(|(_, later)| later.created.has_target(node));
        self.may_be_gone_back_to(id, node) && (self.release_before(id, node).is_some() || followed())
    }

    fn later(&self, id: DeploymentId) -> impl Iterator<Item = (DeploymentId, &Deployment)> {
        self.of_name(&self.deployments[&id].manifest.name, (Bound::Excluded(id), Bound::Unbounded))
    }

    /// A deployment is over: tells connected nodes that what it supersedes is.
    pub(super) fn end_superseded(&mut self, by: DeploymentId) {
        let known = self.told.iter().flat_map(|(node, told)| told.range(..by).map(|id| (*node, *id)));
        let is_over = |id: DeploymentId, node: NodeId| match self.deployments[&id].rollout.released_to(node) {
            true => !self.is_kept_release(id, node),
            false => self.is_superseded(id, node),
        };
        let ends: Vec<_> = known.filter(|(node, id)| is_over(*id, *node)).collect();
        ends.into_iter().for_each(|(node, id)| self.tell_end(node, id));
    }

    /// Whether what was staged by a deployment that is over has been deployed, or something after it.
    fn is_superseded(&self, id: DeploymentId, node: NodeId) -> bool {
        let Some(over) = self.deployments[&id].rollout.times().finished else { return false };
        let follows = |later: &Deployment| later.created.has_target(node) && later.rollout.times().began >= Some(over);
        let well = |later: &Deployment| {
            matches!(later.rollout.outcome(), Some(Outcome::Succeeded | Outcome::SucceededWithout { .. }))
        };
        self.later(id).any(|(_, later)| follows(later) && well(later))
    }
}
