//! Which sites are shut, told to every deployment, and what operators froze.
//!
//! A deployment hears of the hours before anything else is decided of it, in each run of the coordinator: what was open when
//! the last one ended may be shut.

use std::collections::BTreeMap;

use super::Coordinator;
use crate::hours::{Frozen, Shut};
use crate::id::{DeploymentId, Name, NodeId};
use crate::rollout::{self, Now};

impl Coordinator {
    /// What operators froze; it may be over.
    pub fn frozen(&self) -> &Frozen {
        &self.frozen
    }

    /// The sites that are shut, as the shell said last.
    pub fn shut(&self) -> &BTreeMap<Name, Shut> {
        &self.shut
    }

    pub(super) fn set_hours(&mut self, shut: BTreeMap<Name, Shut>, now: Now) {
        if self.shut == shut {
            return;
        }
        self.shut = shut;
        let live: Vec<_> = self.live().collect();
        live.into_iter().for_each(|id| self.tell_hours(id, now));
    }

    /// A deployment begins: it is told what holds, and which of its nodes are not there. What that has others do they hear when
    /// they are said to be there.
    pub(super) fn begin_when_it_may(&mut self, id: DeploymentId, now: Now) {
        let Some(deployment) = self.deployments.get(&id) else { return };
        let targets = deployment.created.sites.keys().copied();
        let absent: Vec<NodeId> = targets.filter(|node| !self.told.contains_key(node)).collect();
        for input in [rollout::Input::Hours(self.shut.clone()), rollout::Input::Absent(absent)] {
            let Some(deployment) = self.deployments.get(&id) else { return };
            let mut decision = deployment.rollout.decide(input, now);
            decision.effects.retain(|effect| effect.node().is_none());
            self.commit(id, decision);
        }
    }

    /// A deployment that an earlier run began goes on.
    pub(super) fn go_on(&mut self, id: DeploymentId, now: Now) {
        let Some(deployment) = self.deployments.get_mut(&id) else { return };
        deployment.rollout.resume(now);
        self.tell_hours(id, now);
        if let Some(deployment) = self.deployments.get(&id).filter(|deployment| !deployment.over) {
            let effects = deployment.rollout.pending_effects();
            self.carry_out(id, effects);
        }
    }

    pub(super) fn tell_hours(&mut self, id: DeploymentId, now: Now) {
        self.decide(id, rollout::Input::Hours(self.shut.clone()), now);
    }
}
