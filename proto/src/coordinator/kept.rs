//! Which deployments nodes keep packages for: those that are not over, what was staged, and the release before.
//!
//! What was staged is kept until a deployment of the same name that began after that has succeeded. The release before,
//! which a rollback goes back to, is kept from when the next deployment of its name begins, until one has succeeded
//! everywhere; while nothing follows it, it is a package like others in the cache. Of releases that came to all nodes but
//! some, the newest two count.
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

/// After so many later deployments that came to all nodes but some, a release is not kept any more.
const PARTLY_MAX: usize = 2;

impl Coordinator {
    /// The deployments that a node keeps packages for.
    pub(super) fn kept_by(&self, node: NodeId) -> impl Iterator<Item = DeploymentId> {
        let kept = move |(id, deployment): &(&DeploymentId, &Deployment)| {
            let goes_on = deployment.rollout.keeps(node) && !self.is_superseded(**id, node);
            goes_on || (self.is_release_of(**id, node) && self.is_followed(**id, node))
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
        let before: Vec<_> = before.map(|(id, _)| id).filter(|id| self.is_release_of(*id, node)).collect();
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

    /// Tells a node that a deployment is over. One that is away is told when it is back.
    pub(super) fn tell_end(&mut self, node: NodeId, id: DeploymentId) {
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

    fn may_be_gone_back_to(&self, id: DeploymentId, node: NodeId) -> bool {
        let deployment = &self.deployments[&id];
        let later = self.of_name(&deployment.manifest.name, (Bound::Excluded(id), Bound::Unbounded));
        let mut releases = later.filter(|(_, later)| later.rollout.released_to(node));
        deployment.rollout.released_to(node) && releases.nth(1).is_none()
    }

    /// Whether a deployment brought its release to a node, and none has superseded it there.
    fn is_release_of(&self, id: DeploymentId, node: NodeId) -> bool {
        self.deployments[&id].rollout.released_to(node) && !self.is_superseded(id, node)
    }

    /// Whether another deployment of the same name followed on a node, however far it came.
    fn is_followed(&self, id: DeploymentId, node: NodeId) -> bool {
        let mut later = self.of_name(&self.deployments[&id].manifest.name, (Bound::Excluded(id), Bound::Unbounded));
        later.any(|(_, later)| later.created.has_target(node))
    }

    /// A deployment is over: tells connected nodes that what it supersedes is.
    pub(super) fn end_superseded(&mut self, by: DeploymentId) {
        let known = self.told.iter().flat_map(|(node, told)| told.range(..by).map(|id| (*node, *id)));
        let ends: Vec<_> = known.filter(|(node, id)| self.is_superseded(*id, *node)).collect();
        ends.into_iter().for_each(|(node, id)| self.tell_end(node, id));
    }

    fn is_superseded(&self, id: DeploymentId, node: NodeId) -> bool {
        let earlier = &self.deployments[&id];
        let staged = earlier.created.options.stage_only;
        let Some(over) = earlier.rollout.times().finished else { return false };
        let mut partly = 0;
        for (_, later) in self.of_name(&earlier.manifest.name, (Bound::Excluded(id), Bound::Unbounded)) {
            let follows = later.created.has_target(node) && later.rollout.times().began >= Some(over);
            match later.rollout.outcome().filter(|_| follows) {
                // What is staged ahead changes nothing that runs.
                Some(_) if later.created.options.stage_only && !staged => {}
                Some(Outcome::Succeeded) => return true,
                Some(Outcome::SucceededWithout { .. }) if staged => return true,
                Some(Outcome::SucceededWithout { .. }) => partly += 1,
                _ => {}
            }
        }
        partly >= PARTLY_MAX
    }
}
