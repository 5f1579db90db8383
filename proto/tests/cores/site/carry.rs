//! Carries out what the cores of a [`Site`] want done, and joins the nodes that name each other.

use std::time::Duration;

use shoal_proto::coordinator::{self, Coordinator};
use shoal_proto::exchange::FetchError;
use shoal_proto::id::{BlockIndex, ContentId, DeploymentId, NodeId};
use shoal_proto::manifest::Signed;
use shoal_proto::node;
use shoal_proto::origin::HttpOrigin;
use shoal_proto::time::Time;
use shoal_proto::wan::Outcome;
use shoal_proto::wire::{Origin, ToNode};

use super::{Flight, Site};
use crate::agent::{Read, Stored};
use crate::plan::id;

impl Site {
    pub(super) fn tell_coordinator(&mut self, input: coordinator::Input) {
        let now = self.at();
        if let Some(core) = &mut self.coordinator {
            core.handle(input, now);
            core.check();
        }
    }

    pub(super) fn tell(&mut self, node: usize, input: node::Input) {
        let now = self.now;
        if let Some(process) = &mut self.agents[node].process {
            process.core.handle(input, Time::ZERO + now.since(process.started));
            process.core.check();
        }
    }

    /// Does all that the cores want done, until they want nothing.
    pub(super) fn settle(&mut self) {
        loop {
            self.poll_coordinator();
            (0..self.agents.len()).for_each(|node| self.poll_node(node));
            match self.flights.pop_front() {
                Some(flight) => self.land(flight),
                None => return,
            }
        }
    }

    fn land(&mut self, flight: Flight) {
        match flight {
            Flight::ToCoordinator(from, message) => {
                self.reports.push((from, message.clone()));
                self.tell_coordinator(coordinator::Input::Node { from: id(from), message });
            }
            Flight::ToNode(to, message) if self.deaf.contains(&to) => self.waiting.push_back((to, message)),
            Flight::ToNode(to, message) => {
                self.orders.push((to, message.clone()));
                let input = match message {
                    ToNode::Deploy { generation, signed } => {
                        let manifest = Box::new(signed.open(|_, _| true).unwrap());
                        node::Input::Deploy { manifest, generation }
                    }
                    other => node::Input::Coordinator(other),
                };
                self.tell(to, input);
            }
            talk @ Flight::ToNeighbour { .. } if self.slow_talk => self.talk.push_back(talk),
            Flight::ToNeighbour { from, to, message } => {
                if self.agents[from].process.as_ref().is_some_and(|process| process.links.contains(&to)) {
                    self.tell(to, node::Input::Neighbour { from: id(from), message });
                }
            }
            Flight::AtNode(node, input) => self.tell(node, input),
        }
    }

    fn poll_coordinator(&mut self) {
        while let Some(output) = self.coordinator.as_mut().and_then(Coordinator::poll) {
            match output {
                coordinator::Output::Persist(record) => self.journal.push(record),
                coordinator::Output::Node { to, message } => self.send(to, message),
                coordinator::Output::Grant { to, mut grant, .. } => {
                    grant.origin = origin();
                    self.send(to, ToNode::Grant(grant));
                }
                coordinator::Output::Standby { to, mut standby, .. } => {
                    standby.origin = origin();
                    self.send(to, ToNode::Standby(standby));
                }
                coordinator::Output::Variables { .. } => {}
                coordinator::Output::RollBack { of } => self.take_back(of),
                coordinator::Output::Join { deployment, node } => self.join(deployment, node),
                coordinator::Output::Notice(notice) => self.notices.push(notice),
                coordinator::Output::Disconnect(_)
                | coordinator::Output::Run { .. }
                | coordinator::Output::Kill { .. }
                | coordinator::Output::StepOutput { .. } => {}
            }
        }
    }

    /// Signs a deployment anew, as the shell does.
    fn join(&mut self, deployment: DeploymentId, node: NodeId) {
        let joining = self.coordinator.as_ref().and_then(|core| core.joining(deployment, node)).unwrap();
        let signed = Signed::seal(&joining.manifest, |_| Vec::new()).unwrap();
        let created = Box::new(joining.created(signed));
        self.tell_coordinator(coordinator::Input::Join { node, created });
    }

    /// Begins all that takes a deployment back, as the shell does.
    fn take_back(&mut self, of: DeploymentId) {
        while let Some(way) = self.coordinator.as_ref().and_then(|core| core.way_back(of, false).ok()) {
            let signed = Signed::seal(&way.manifest, |_| Vec::new()).unwrap();
            let to = way.to;
            let created = self.coordinator.as_ref().and_then(|core| Some(way.created(signed, core.created(to)?)));
            self.tell_coordinator(coordinator::Input::Create(Box::new(created.unwrap())));
        }
    }

    fn send(&mut self, to: NodeId, message: ToNode) {
        let connected = |process: &crate::agent::Process| process.online;
        let Some(node) = (0..self.agents.len()).find(|node| id(*node) == to) else { return };
        if self.agents[node].process.as_ref().is_some_and(connected) {
            self.flights.push_back(Flight::ToNode(node, message));
        }
    }

    fn poll_node(&mut self, node: usize) {
        while let Some(output) = self.agents[node].process.as_mut().and_then(|process| process.core.poll()) {
            self.do_for(node, output);
        }
    }

    fn do_for(&mut self, node: usize, output: node::Output) {
        use node::{Input, Output};
        let agent = &mut self.agents[node];
        match output {
            Output::Coordinator(message) => {
                if agent.running().online {
                    self.flights.push_back(Flight::ToCoordinator(node, message));
                }
            }
            Output::Neighbour { to, message } => {
                self.flights.push_back(Flight::ToNeighbour { from: node, to: number(to), message });
            }
            Output::Neighbours { neighbours, .. } => {
                agent.running().roster = neighbours.iter().map(|neighbour| number(neighbour.node)).collect();
                self.meet();
            }
            Output::Open(what) => {
                let content = what.content();
                let blocks = &self.contents[&content];
                let fresh = || Stored { block_bytes: blocks.clone(), lacking: blocks.clone(), sealed: false };
                let opened = agent.disk.entry(content).or_insert_with(fresh).opened();
                self.flights.push_back(Flight::AtNode(node, Input::Opened { content, opened }));
            }
            Output::Close { content } => agent.running().closed.push(content),
            Output::Fetch { node: from, content, block } => {
                agent.running().fetches.push((number(from), content, block));
                if self.trades {
                    self.ask(node, number(from), content, block);
                }
            }
            Output::CancelFetch { node: from, content, block } => {
                agent.running().fetches.retain(|fetch| *fetch != (number(from), content, block));
            }
            Output::Read(grant) => {
                let credit_bytes = grant.terms.first_bytes;
                agent.running().reads.push(Read { grant, bytes: 0, credit_bytes });
            }
            Output::Credit { content, lease, bytes } => {
                let mut reads = agent.running().reads.iter_mut();
                let read = reads.find(|read| (read.grant.content, read.grant.lease) == (content, lease));
                read.into_iter().for_each(|read| read.credit_bytes = read.credit_bytes.max(bytes));
            }
            Output::Renew { lease, .. } => agent.running().renewed.push(lease),
            Output::WanRate(rate) => agent.running().wan_rate = rate,
            Output::CancelRead { lease, .. } if self.linger.contains(&node) => agent.running().stopping.push(lease),
            Output::CancelRead { lease, .. } => self.stop_read(node, lease, Outcome::Revoked),
            Output::Seal { content } => {
                agent.disk.get_mut(&content).unwrap().sealed = true;
                self.flights.push_back(Flight::AtNode(node, Input::Sealed { content }));
            }
            Output::Persist(record) => agent.records.push(record),
            Output::Run { run, .. } => agent.running().started_steps.push(run),
            Output::Kill { run } => agent.running().killed_steps.push(run),
            Output::Serve { request, .. } => self.answer(request, None),
            Output::Refuse { request, .. } => self.answer(request, Some(FetchError::Refused)),
            Output::Decline { request, .. } => self.answer(request, Some(FetchError::Gone)),
            Output::BreakOff { .. } => unreachable!("blocks come whole"),
            // The disk has room for all, and the WAN has no limit.
            Output::Pins(_) | Output::MakeRoom | Output::Welcomed { .. } => {}
        }
    }

    /// A node asks a neighbour for a block.
    fn ask(&mut self, node: usize, from: usize, content: ContentId, block: BlockIndex) {
        if !self.agents[node].running().links.contains(&from) {
            let failed = node::Input::FetchFailed { node: id(from), content, block, why: FetchError::Timeout };
            return self.flights.push_back(Flight::AtNode(node, failed));
        }
        self.requested += 1;
        let request = self.requested;
        self.requests.insert(request, (node, from, content, block));
        let bytes = u64::from(self.agents[node].disk[&content].lacks(block));
        let asked = node::Input::UploadAsked { node: id(node), request, content, block, bytes };
        self.flights.push_back(Flight::AtNode(from, asked));
    }

    /// The neighbour sends it, or says why not.
    fn answer(&mut self, request: u64, refused: Option<FetchError>) {
        let Some((node, from, content, block)) = self.requests.remove(&request) else { return };
        let done = node::Input::UploadDone { node: id(node), request, content };
        self.flights.push_back(Flight::AtNode(from, done));
        let has = self.agents[from].disk.get(&content).is_some_and(|stored| stored.lacks(block) == 0);
        assert!(has || refused.is_some(), "VERIFIED: node {from} serves what it lacks");
        let lies = self.liars.contains(&from);
        let Some(process) = &mut self.agents[node].process else { return };
        process.fetches.retain(|fetch| *fetch != (from, content, block));
        let failed = |why| node::Input::FetchFailed { node: id(from), content, block, why };
        let input = match refused {
            Some(why) => failed(why),
            None if lies => failed(FetchError::Corrupt),
            None => {
                let stored = self.agents[node].disk.get_mut(&content).unwrap();
                let bytes = u64::from(std::mem::take(&mut stored.lacking[block.index()]));
                let took = Duration::from_millis(10);
                node::Input::Fetched { node: id(from), content, block, bytes, took }
            }
        };
        self.flights.push_back(Flight::AtNode(node, input));
    }

    /// Connects the nodes that name each other, and no others.
    pub(super) fn meet(&mut self) {
        let wants = |site: &Self, one: usize, two: usize| {
            site.agents[one].process.as_ref().is_some_and(|process| process.roster.contains(&two))
        };
        for one in 0..self.agents.len() {
            for two in one + 1..self.agents.len() {
                let met = wants(self, one, two) && wants(self, two, one);
                let linked = self.agents[one].process.as_ref().is_some_and(|process| process.links.contains(&two));
                match (met, linked) {
                    (true, false) => self.link(one, two),
                    (false, true) => self.unlink(one, two),
                    _ => {}
                }
            }
        }
    }

    fn link(&mut self, one: usize, two: usize) {
        for (node, other) in [(one, two), (two, one)] {
            self.agents[node].running().links.insert(other);
            self.flights.push_back(Flight::AtNode(node, node::Input::NeighbourUp(id(other))));
        }
    }

    pub(super) fn unlink(&mut self, one: usize, two: usize) {
        for (node, other) in [(one, two), (two, one)] {
            let process = self.agents[node].running();
            process.links.remove(&other);
            process.fetches.retain(|(from, _, _)| *from != other);
            self.flights.push_back(Flight::AtNode(node, node::Input::NeighbourDown(id(other))));
        }
    }
}

fn number(node: NodeId) -> usize {
    usize::from(node.0[0]) - 1
}

fn origin() -> Origin {
    let (url, size) = ("http://origin.invalid/package".to_owned(), 1);
    Origin::Http(HttpOrigin { url, headers: Vec::new(), size, etag: None, last_modified: None, ca_pem: None })
}
