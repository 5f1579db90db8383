//! What nodes say, and what is kept of their connections.

use std::collections::BTreeSet;

use super::{Coordinator, Input, Notice, Output, ROSTER_DELAY, Record};
use crate::id::{ContentId, DeploymentId, NodeId};
use crate::rollout::{self, Actor, Now};
use crate::wan::{self, Absence};
use crate::wire::{Hello, StepRun, ToCoordinator, ToNode};

impl Coordinator {
    pub(super) fn on_node(&mut self, from: NodeId, message: ToCoordinator, now: Now) {
        if let ToCoordinator::Hello(hello) = message {
            return self.on_hello(from, &hello, now);
        }
        if !self.told.contains_key(&from) {
            return self.refuse(from, "the first message of a connection is a hello".to_owned());
        }
        match message {
            ToCoordinator::Hello(_) => {}
            // Who is no target is granted nothing, whatever it says that it wants.
            ToCoordinator::Wants { content, .. } if !self.brings(content, from) => {}
            ToCoordinator::Wants { content, lacking, held } => {
                self.wants(from, content, wan::Input::Wants { node: from, lacking, held }, now);
            }
            ToCoordinator::Landed { content, blocks } => self.landed(from, content, &blocks, now),
            ToCoordinator::LeaseEnded { end, begun } => {
                self.ended_late(from, &end);
                self.lease_ended(from, end, begun, now);
            }
            ToCoordinator::CreditWanted { content, lease, bytes } => {
                self.credit_wanted(from, content, lease, bytes, now);
            }
            ToCoordinator::Begun { content, lacking } => {
                self.with_ledger(from, content, now, |_| wan::Input::Begun { node: from, lacking });
            }
            ToCoordinator::Stuck { content, blocks } => self.stuck(from, content, &blocks, now),
            ToCoordinator::Left { content } => {
                self.with_ledger(from, content, now, |_| wan::Input::Release { node: from });
            }
            ToCoordinator::Acquired { deployment, package, stats } => {
                let target = self.is_target(deployment, from);
                if target {
                    self.record(Record::Acquired { deployment, node: from, package, stats });
                    self.record_totals(deployment);
                    self.stocked_one(from, deployment, package);
                }
                self.decide(deployment, rollout::Input::Acquired { node: from, package }, now);
            }
            ToCoordinator::AcquireFailed { deployment, package, cause } => {
                self.decide(deployment, rollout::Input::AcquireFailed { node: from, package, cause }, now);
            }
            ToCoordinator::StepReady(StepRun { deployment, step, .. }) => {
                self.decide(deployment, rollout::Input::StepReady { node: from, step }, now);
            }
            ToCoordinator::StepStarted(StepRun { deployment, step, attempt }) => {
                let actor = Actor::Node(from);
                self.decide(deployment, rollout::Input::StepStarted { actor, step, attempt }, now);
            }
            ToCoordinator::StepWrote { run: StepRun { deployment, step, attempt }, outputs } => {
                let actor = Actor::Node(from);
                self.decide(deployment, rollout::Input::StepWrote { actor, step, attempt, outputs }, now);
            }
            ToCoordinator::StepEnded { run: StepRun { deployment, step, attempt }, outcome } => {
                let actor = Actor::Node(from);
                self.decide(deployment, rollout::Input::StepEnded { actor, step, attempt, outcome }, now);
            }
            ToCoordinator::StepOutput { run, stream, text } => {
                if self.is_target(run.deployment, from) {
                    self.outbox.push_back(Output::StepOutput { from, run, stream, text });
                }
            }
            // The shell, which alone knows of feeds, tells the node of another signature.
            ToCoordinator::Denied { .. } => {}
            ToCoordinator::WanRate { rate } => self.wan_used(from, rate, now.time),
            ToCoordinator::Inventory(inventory) => self.stocked(from, inventory),
            ToCoordinator::Lied { neighbour, content } => {
                self.outbox.push_back(Output::Notice(Notice::Lied { by: from, neighbour, content }));
            }
        }
    }

    fn is_target(&self, id: DeploymentId, node: NodeId) -> bool {
        self.deployments.get(&id).is_some_and(|deployment| deployment.created.has_target(node))
    }

    /// Whether a live deployment brings a content to a node.
    fn brings(&self, content: ContentId, node: NodeId) -> bool {
        self.live().any(|id| {
            let manifest = &self.deployments[&id].manifest;
            manifest.part(content).is_some_and(|(package, _)| manifest.gets(node, package))
        })
    }

    fn on_hello(&mut self, from: NodeId, hello: &Hello, now: Now) {
        let records = match self.directory.admit(from, hello, now.wall) {
            Ok(records) => records,
            Err(refusal) => return self.refuse(from, refusal.to_string()),
        };
        for record in records {
            self.record(Record::Directory(record));
        }
        self.directory.set_online(from, hello);
        self.standby_gone(from);
        let Some(site) = self.directory.site_of(from).cloned() else { return };
        if !self.told.keys().any(|node| self.directory.site_of(*node) == Some(&site)) {
            self.await_site(&site, now);
        }
        self.told.insert(from, BTreeSet::new());
        let welcome = ToNode::Welcome { epoch: self.config.epoch, site: site.clone() };
        self.outbox.push_back(Output::Node { to: from, message: welcome });
        self.heard_of(from, &site);
        self.wan_limits_told.remove(&from);
        self.wan_node_up(from, &site);
        self.outbox.push_back(Output::Notice(Notice::NodeOnline(from)));
        self.stale_rosters.insert(site);
        self.rosters_at.get_or_insert(now.time + ROSTER_DELAY);
        self.for_each_ledger_of(from, &wan::Input::NodeUp { node: from }, now);
        self.ask_to_join(from);
        let kept: Vec<_> = self.kept_by(from).collect();
        for id in kept {
            self.tell_kept(from, id);
            if self.deployments[&id].rollout.keeps(from) {
                self.decide(id, rollout::Input::NodeOnline(from), now);
            }
        }
    }

    fn refuse(&mut self, node: NodeId, reason: String) {
        self.outbox.push_back(Output::Notice(Notice::Refused { node, reason: reason.clone() }));
        self.outbox.push_back(Output::Node { to: node, message: ToNode::Refused { reason } });
        self.outbox.push_back(Output::Disconnect(node));
    }

    pub(super) fn on_node_down(&mut self, node: NodeId, absence: Absence, now: Now) {
        if self.told.remove(&node).is_none() {
            return;
        }
        self.directory.set_offline(node);
        self.wan_told.remove(&node);
        self.wan_limits_told.remove(&node);
        self.inventories.remove(&node);
        self.standby_gone(node);
        self.late.retain(|_, (holder, _)| *holder != node);
        self.outbox.push_back(Output::Notice(Notice::NodeOffline(node)));
        if let Some(site) = self.directory.site_of(node) {
            self.stale_rosters.insert(site.clone());
            self.rosters_at.get_or_insert(now.time + ROSTER_DELAY);
        }
        self.for_each_ledger_of(node, &wan::Input::NodeDown { node, absence }, now);
        let kept: Vec<_> = self.kept_by(node).collect();
        for id in kept {
            self.decide(id, rollout::Input::NodeOffline(node), now);
        }
    }

    /// Tells the connected nodes of every site whose roster changed.
    pub(super) fn tell_rosters(&mut self) {
        let stale = std::mem::take(&mut self.stale_rosters);
        let rosters = stale.iter().flat_map(|site| self.directory.rosters(site, &self.config.bulk));
        for (to, roster) in rosters.filter(|(node, _)| self.told.contains_key(node)) {
            self.outbox.push_back(Output::Node { to, message: ToNode::Roster(roster) });
        }
        stale.iter().for_each(|site| self.tell_standbys(site));
    }
}

impl Input {
    /// Whether it came from a node's connection, for recordings.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node { from, .. } => Some(*from),
            Self::NodeDown { node, .. } => Some(*node),
            _ => None,
        }
    }
}
