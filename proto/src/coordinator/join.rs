//! Nodes that join while deployments run that mean them.
//!
//! Asked on each of a node's connections, so that a coordinator's restart loses none. A deployment of whose name another
//! one has the node is not joined; one that is ending neither, nor one whose steps before `acquire` the node missed.

use std::sync::Arc;

use thiserror::Error;

use super::{Coordinator, Created, Deployment, Held, Notice, Output, Record};
use crate::id::{DeploymentId, Name, NodeId, StepIndex};
use crate::limits::NODES_MAX;
use crate::manifest::{Manifest, On, Signed};
use crate::rollout::plan::NodeFacts;
use crate::rollout::{self, Now};

/// Why a deployment goes on without a node that joined and that its `select` means.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LeftOut {
    /// It began before the node was there.
    #[error("it missed step `{0}`, which runs before packages are acquired: deploy again, once this is over")]
    Missed(Name),
    /// The node is in other hands.
    #[error("{0}: it is not waited for, so deploy again once that is over")]
    Held(Held),
    /// Its variables are not known.
    #[error("variables of this deployment differ between nodes: deploy again, once this is over")]
    Variables,
    /// There are too many.
    #[error("a deployment has at most {NODES_MAX} target nodes")]
    TooMany,
}

/// A deployment with one target node more, but for its signature.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Its manifest.
    pub manifest: Manifest,
    created: Created,
}

impl Joining {
    /// The deployment, with its manifest signed.
    pub fn created(self, signed: Signed) -> Created {
        Created { signed, ..self.created }
    }
}

impl Coordinator {
    /// A deployment with a node in it that is no target yet and that it means.
    pub fn joining(&self, id: DeploymentId, node: NodeId) -> Option<Joining> {
        let (deployment, facts) = self.meant(id, node)?;
        if self.why_left_out(deployment, &facts).is_some() {
            return None;
        }
        let manifest = deployment.created.joins.manifest(&deployment.manifest, &facts, &deployment.created.sites)?;
        let mut created = Created::clone(&deployment.created);
        created.sites.insert(node, facts.site);
        created.options.names.insert(node, facts.name);
        created.variables.admit(node);
        Some(Joining { manifest, created })
    }

    /// The connected nodes that a deployment under way means and that it cannot take any more, and why.
    pub fn left_out(&self, id: DeploymentId) -> impl Iterator<Item = (NodeId, LeftOut)> {
        let meant = self.told.keys().filter_map(move |node| Some((*node, self.meant(id, *node)?)));
        meant.filter_map(|(node, (deployment, facts))| Some((node, self.why_left_out(deployment, &facts)?)))
    }

    /// A deployment that may be joined, and a node that is no target of it and that its selectors mean.
    fn meant(&self, id: DeploymentId, node: NodeId) -> Option<(&Deployment, NodeFacts)> {
        let deployment = self.deployments.get(&id).filter(|deployment| deployment.rollout.may_be_joined())?;
        if deployment.created.has_target(node) {
            return None;
        }
        let facts = NodeFacts::of(&self.directory.member(node)?.membership);
        deployment.created.joins.means(&facts).then_some((deployment, facts))
    }

    fn why_left_out(&self, deployment: &Deployment, node: &NodeFacts) -> Option<LeftOut> {
        let (created, manifest) = (&deployment.created, &deployment.manifest);
        let runs = |on: On| match on {
            On::Node | On::Always => true,
            On::Site => !created.sites.values().any(|site| *site == node.site),
            On::Coordinator => false,
        };
        let mut before = manifest.before_acquire.iter().zip((0..).map(StepIndex));
        if let Some((step, _)) = before.find(|(step, index)| runs(step.on) && deployment.rollout.has_passed(*index)) {
            return Some(LeftOut::Missed(step.name.clone()));
        }
        if created.joins.variables_differ {
            return Some(LeftOut::Variables);
        }
        let held = self.holder(&manifest.name, &[node.id].into()).map(LeftOut::Held);
        held.or_else(|| (created.sites.len() >= NODES_MAX).then_some(LeftOut::TooMany))
    }

    /// A node connected: has the deployments that mean it made anew.
    pub(super) fn ask_to_join(&mut self, node: NodeId) {
        let meant: Vec<_> = self.live().filter(|id| self.joining(*id, node).is_some()).collect();
        self.outbox.extend(meant.into_iter().map(|deployment| Output::Join { deployment, node }));
    }

    /// A deployment was signed anew, with a node more.
    pub(super) fn on_join(&mut self, node: NodeId, created: Box<Created>, now: Now) {
        let Ok(manifest) = created.signed.open(|_, _| true) else { return };
        let id = manifest.deployment;
        // One that left meanwhile, and is perhaps waited for if it joins, is asked again when it is back.
        let joins = self.told.contains_key(&node) && self.joining(id, node).is_some_and(|j| j.manifest == manifest);
        if !joins {
            return;
        }
        self.record(Record::Joined(created));
        // Its site may be one that the deployment had no node of.
        self.tell_hours(id, now);
        self.outbox.push_back(Output::Notice(Notice::Changed(id)));
        self.tell_releases_before(node, id);
        self.tell_kept(node, id);
        self.decide(id, rollout::Input::NodeOnline(node), now);
        self.decide(id, rollout::Input::Tick, now);
    }

    pub(super) fn apply_joined(&mut self, created: &Created) -> Result<(), String> {
        let manifest = Arc::new(created.signed.open(|_, _| true).map_err(|error| error.to_string())?);
        if let Some(deployment) = self.deployments.get_mut(&manifest.deployment) {
            deployment.rollout.join(Arc::clone(&manifest), &created.options, &created.sites);
            *deployment.created = created.clone();
            deployment.manifest = manifest;
        }
        Ok(())
    }
}
