//! Nodes that join while deployments run that mean them.
//!
//! Asked on each of a node's connections, so that a coordinator's restart loses none. A deployment of whose name another
//! one has the node is not joined; one that is ending neither, nor one whose steps before `acquire` the node missed.

use std::sync::Arc;

use super::{Coordinator, Created, Notice, Output, Record};
use crate::id::{DeploymentId, NodeId};
use crate::manifest::{Manifest, On, Signed};
use crate::rollout::plan::NodeFacts;
use crate::rollout::{self, Now};

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
        let deployment = self.deployments.get(&id).filter(|deployment| deployment.rollout.may_be_joined())?;
        let facts = NodeFacts::of(&self.directory.member(node)?.membership);
        let created = &deployment.created;
        let missed = |on: On| match on {
            On::Node | On::Always => true,
            On::Site => !created.sites.values().any(|site| *site == facts.site),
            On::Coordinator => false,
        };
        let began = deployment.rollout.times().acquire_began.is_some();
        if began && deployment.manifest.before_acquire.iter().any(|step| missed(step.on)) {
            return None;
        }
        let manifest = created.joins.manifest(&deployment.manifest, &facts, &created.sites)?;
        if self.holder(&manifest.name, &[node].into()).is_some() {
            return None;
        }
        let mut created = Created::clone(created);
        created.sites.insert(node, facts.site);
        created.options.names.insert(node, facts.name);
        created.variables.admit(node);
        Some(Joining { manifest, created })
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
        if self.joining(id, node).is_none_or(|joining| joining.manifest != manifest) {
            return;
        }
        self.record(Record::Joined(created));
        // Its site may be one that the deployment had no node of.
        self.tell_hours(id, now);
        self.outbox.push_back(Output::Notice(Notice::Changed(id)));
        if self.told.contains_key(&node) {
            self.tell_kept(node, id);
            self.decide(id, rollout::Input::NodeOnline(node), now);
        }
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
