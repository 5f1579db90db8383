//! A node's shell: feeds its core, carries out what that says in order, and keeps its connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_proto::exchange::FetchError;
use shoal_proto::id::{BlockIndex, ContentId};
use shoal_proto::manifest::{Phase, Signed};
use shoal_proto::node::{Input, Node, Output, Pin, What};
use shoal_proto::outputs::{Named, Outputs};
use shoal_proto::rollout::{Actor, Failure, StepOutcome};
use shoal_proto::runs::StepRecord;
use shoal_proto::time::Time;
use shoal_proto::wire::{Hello, JoinProof, StepRun, ToCoordinator, ToNeighbour, ToNode};

use crate::disk::Disk;
use crate::links::{Payload, Place};
use crate::scenario::name;
use crate::transfer::{Fetch, Read, Upload};
use crate::world::{Event, World};

/// A machine: what outlives its process, and the process.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) disk: Disk,
    /// Counts its processes.
    pub(crate) life: u32,
    pub(crate) process: Option<Process>,
    /// It does not reach the coordinator before this.
    pub(crate) cut_until: Time,
    /// It is slow until then.
    pub(crate) slow_until: Time,
    pub(crate) up_free: Time,
    pub(crate) down_free: Time,
}

/// What a crash loses.
#[derive(Debug)]
pub(crate) struct Process {
    core: Node,
    started: Time,
    outputs: VecDeque<Output>,
    flushing: Option<StepRecord>,
    pub(crate) wake: Option<Time>,
    control: Option<usize>,
    /// Since when the coordinator reaches it.
    pub(crate) reached: Option<Time>,
    /// Since when it does not, if it does not.
    pub(crate) cut_at: Time,
    /// Contents that it opened, and when that was done.
    pub(crate) open: BTreeMap<ContentId, Option<Time>>,
    /// Contents that it could not open when it last tried: what it has of them is no use to anybody.
    pub(crate) unopened: BTreeSet<ContentId>,
    /// Contents that it is a deputy for.
    pub(crate) standbys: BTreeSet<ContentId>,
    /// Since when each neighbour is connected.
    pub(crate) met: BTreeMap<usize, Time>,
    dials: u32,
    pub(crate) wanted: BTreeSet<usize>,
    /// The connection to each neighbour.
    pub(crate) neighbours: BTreeMap<usize, usize>,
    pub(crate) reads: VecDeque<Read>,
    /// How fast it may read over the WAN.
    pub(crate) wan_rate: Option<u64>,
    pub(crate) fetches: BTreeMap<u64, Fetch>,
    pub(crate) uploads: BTreeMap<(usize, u64), Upload>,
    running: BTreeSet<StepRun>,
    /// What it was asked and hangs before it answers, and since when.
    pub(crate) unsaid: BTreeMap<StepRun, Time>,
    /// What its store was told to keep; `None` before it was.
    pub(crate) pins: Option<BTreeSet<Pin>>,
}

impl Process {
    /// Whether it has worked on a lease for a block since a time that is `told`.
    pub(crate) fn reads(&self, content: ContentId, block: BlockIndex, told: impl Fn(Time) -> bool) -> bool {
        self.reads.iter().any(|read| told(read.since) && read.has_yet(content, block))
    }
}

impl World {
    pub(crate) fn start_node(&mut self, node: usize) {
        let seed = self.rng.next_u64();
        let host = &mut self.hosts[node];
        if host.process.is_some() {
            return;
        }
        host.life += 1;
        let life = host.life;
        let process = Process {
            core: Node::new(self.scenario.nodes[node].id, seed, host.disk.steps.clone()),
            started: self.now,
            outputs: VecDeque::new(),
            flushing: None,
            wake: None,
            control: None,
            reached: None,
            cut_at: self.now,
            open: BTreeMap::new(),
            unopened: BTreeSet::new(),
            standbys: BTreeSet::new(),
            met: BTreeMap::new(),
            dials: 0,
            wanted: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            reads: VecDeque::new(),
            wan_rate: None,
            fetches: BTreeMap::new(),
            uploads: BTreeMap::new(),
            running: BTreeSet::new(),
            unsaid: BTreeMap::new(),
            pins: None,
        };
        host.process = Some(process);
        self.queue.push(self.now, Event::Dial { node, life });
        self.settle_node(node);
    }

    pub(crate) fn crash_node(&mut self, node: usize) {
        if self.hosts[node].process.is_none() {
            return;
        }
        self.totals.node_crashes += 1;
        self.drop_transfers(node);
        self.hosts[node].life += 1;
        let Some(process) = self.hosts[node].process.take() else { return };
        if let Some(record) = process.flushing.filter(|_| self.rng.below(2) == 0) {
            self.hosts[node].disk.steps.push(record);
        }
        self.checks.gate.crashed(Actor::Node(self.scenario.nodes[node].id));
        for link in self.links.whole_at(Place::Node(node)) {
            self.break_link(link, Duration::from_secs(12));
        }
    }

    /// Tells a node's core something, and has done what follows.
    pub(crate) fn feed_node(&mut self, node: usize, input: Input) {
        let Some(process) = &mut self.hosts[node].process else { return };
        let now = Time::ZERO + self.now.since(process.started);
        self.trace.note(self.now, format_args!("node{node} <- {input:?}"));
        process.core.handle(input, now);
        self.settle_node(node);
    }

    fn settle_node(&mut self, node: usize) {
        let life = self.hosts[node].life;
        let Some(process) = &mut self.hosts[node].process else { return };
        while let Some(output) = process.core.poll() {
            self.trace.note(self.now, format_args!("node{node} -> {output:?}"));
            process.outputs.push_back(output);
        }
        process.core.check();
        let wake = process.core.next_wake().map(|(at, _)| (process.started + at.since(Time::ZERO)).max(self.now));
        if process.wake != wake {
            process.wake = wake;
            if let Some(at) = wake {
                self.queue.push(at, Event::Wake { place: Place::Node(node), life });
            }
        }
        self.carry_out_node(node);
    }

    /// Carries out what is to be done, up to a record that is not durable yet.
    fn carry_out_node(&mut self, node: usize) {
        loop {
            let Some(process) = self.hosts[node].process.as_mut().filter(|p| p.flushing.is_none()) else { return };
            match process.outputs.pop_front() {
                None => return,
                Some(Output::Persist(record)) => {
                    process.flushing = Some(record);
                    let at = self.now + self.within(Duration::from_micros(100), Duration::from_millis(30));
                    let life = self.hosts[node].life;
                    self.queue.push(at, Event::Flushed { place: Place::Node(node), life });
                }
                Some(output) => self.do_for_node(node, output),
            }
        }
    }

    pub(crate) fn node_flushed(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if let Some(record) = host.process.as_mut().and_then(|process| process.flushing.take()) {
            host.disk.steps.push(record);
        }
        self.carry_out_node(node);
    }

    fn do_for_node(&mut self, node: usize, output: Output) {
        match output {
            Output::Coordinator(message) if self.hangs(node, &message) => {}
            Output::Coordinator(message) => self.tell_coordinator(node, message),
            Output::Neighbour { to, message } => self.tell_neighbour(node, to, message),
            Output::Neighbours { neighbours, .. } => {
                let wanted = neighbours.iter().filter_map(|neighbour| self.scenario.node(neighbour.node)).collect();
                self.keep_neighbours(node, wanted);
            }
            Output::Open(what) => {
                if let Some(process) = &mut self.hosts[node].process {
                    process.open.insert(what.content(), None);
                }
                self.open(node, &what);
            }
            Output::Close { content } => {
                if let Some(process) = &mut self.hosts[node].process {
                    process.open.remove(&content);
                    process.standbys.remove(&content);
                }
                self.close(node, content);
            }
            Output::Fetch { node: from, content, block } => self.fetch(node, from, content, block),
            Output::CancelFetch { node: from, content, block } => self.cancel_fetch(node, from, content, block),
            Output::Read(grant) => self.read(node, grant),
            // Simulated origins want no proof.
            Output::Renew { .. } => {}
            Output::Credit { content, lease, bytes } => self.credit(node, content, lease, bytes),
            Output::CancelRead { content, lease } => {
                let (at, life) = (self.now + Duration::from_millis(1), self.hosts[node].life);
                self.queue.push(at, Event::ReadStopped { node, life, content, lease });
            }
            Output::Serve { node: to, request } => self.serve(node, to, request),
            Output::BreakOff { node: to, request } => self.break_off(node, to, request),
            Output::Refuse { node: to, request } => self.refuse(node, to, request, FetchError::Refused),
            Output::Decline { node: to, request } => self.refuse(node, to, request, FetchError::Gone),
            Output::Seal { content } => {
                let at = self.now + self.within(Duration::from_millis(1), Duration::from_millis(200));
                let life = self.hosts[node].life;
                self.queue.push(at, Event::Sealed { node, life, content });
            }
            Output::Run { run, outputs, .. } => {
                let life = self.hosts[node].life;
                if let Some(process) = &mut self.hosts[node].process {
                    process.running.insert(run);
                }
                self.start_step(Place::Node(node), life, run, &outputs);
            }
            Output::Kill { run } => {
                let (at, life) = (self.now + Duration::from_millis(20), self.hosts[node].life);
                self.queue.push(at, Event::StepKilled { place: Place::Node(node), life, run });
            }
            Output::Pins(pins) => self.pin(node, pins),
            Output::WanRate(rate) => self.set_wan_rate(node, rate),
            // Disks in storms are large enough.
            Output::Welcomed { .. } | Output::MakeRoom | Output::Persist(_) => {}
        }
    }

    /// A step's process begins, wherever it runs: the moment that GATE is about.
    pub(crate) fn start_step(&mut self, place: Place, life: u32, run: StepRun, outputs: &Named) {
        self.totals.steps += 1;
        let actor = self.actor(place);
        let written = match place {
            Place::Node(node) => self.hosts[node].disk.steps.contains(&StepRecord::Started(run)),
            Place::Coordinator => self.control.wrote_start(run),
        };
        self.verify("GATE", written.then_some(()).ok_or(format!("{actor:?} starts {run:?} before it wrote that down")));
        let ready = match place {
            Place::Node(node) => run.step.phase != Phase::Steps || self.holds_all(node, run),
            Place::Coordinator => true,
        };
        let verdict = self.checks.hours.started(actor, run, &self.scenario, self.now);
        self.verify("HOURS", verdict);
        let verdict = self.checks.gate.started(actor, run, ready);
        self.verify("GATE", verdict);
        let verdict = self.checks.handed.started(actor, run, outputs);
        self.verify("OUTPUTS", verdict);
        let at = self.now + self.within(Duration::from_millis(5), Duration::from_secs(4));
        self.queue.push(at, Event::StepOver { place, life, run });
    }

    fn actor(&self, place: Place) -> Actor {
        match place {
            Place::Coordinator => Actor::Coordinator,
            Place::Node(node) => Actor::Node(self.scenario.nodes[node].id),
        }
    }

    fn holds_all(&self, node: usize, run: StepRun) -> bool {
        let manifest = self.checks.gate.manifest(run.deployment);
        let id = self.scenario.nodes[node].id;
        let sealed = |content: ContentId| self.hosts[node].disk.is_sealed(content);
        manifest.is_some_and(|manifest| manifest.packages_of(id).all(|(_, package)| sealed(package.id.into())))
    }

    pub(crate) fn step_over(&mut self, place: Place, run: StepRun, killed: bool) {
        let running = match place {
            Place::Coordinator => self.control.process.as_mut().map(|process| &mut process.running),
            Place::Node(node) => self.hosts[node].process.as_mut().map(|process| &mut process.running),
        };
        if !running.is_some_and(|running| running.remove(&run)) {
            return;
        }
        let actor = self.actor(place);
        self.checks.gate.over(actor, run);
        let outcome = if killed {
            StepOutcome::Killed
        } else if self.mishap(self.scenario.mishaps.step_fails) {
            match self.rng.below(3) {
                0 => StepOutcome::TimedOut,
                1 => StepOutcome::Failed(Failure::Exit(3)),
                _ => StepOutcome::Failed(Failure::Cause("no such file".to_owned())),
            }
        } else {
            StepOutcome::Succeeded
        };
        // Two of three steps write something.
        let writes = outcome == StepOutcome::Succeeded && !run.step.index.index().is_multiple_of(3);
        let outputs = writes.then(|| Outputs::from([("by".to_owned(), format!("{actor:?} {run:?}"))]));
        match place {
            Place::Coordinator => {
                use shoal_proto::coordinator::Input;
                if let Some(outputs) = outputs {
                    self.feed_coordinator(Input::StepWrote { run, outputs });
                }
                self.feed_coordinator(Input::StepEnded { run, outcome });
            }
            Place::Node(node) => {
                if let Some(outputs) = outputs {
                    self.feed_node(node, Input::StepWrote { run, outputs });
                }
                self.feed_node(node, Input::StepEnded { run, outcome });
            }
        }
    }

    fn open(&mut self, node: usize, what: &What) {
        let content = what.content();
        if let Some(plan) = self.scenario.package_of(content) {
            let blocks = match what {
                What::Recipe(outline) => crate::transfer::recipe_blocks(outline),
                What::Package { .. } => plan.blocks.clone(),
            };
            let old = self.scenario.nodes[node].old_version && matches!(what, What::Package { .. });
            let lacking = if old { &plan.changed } else { &blocks };
            self.hosts[node].disk.add(content, &blocks, lacking);
        }
        let at = self.now + self.within(Duration::from_millis(1), Duration::from_millis(300));
        let life = self.hosts[node].life;
        self.queue.push(at, Event::Opened { node, life, content });
    }

    pub(crate) fn opened(&mut self, node: usize, content: ContentId) {
        let Some(plan) = self.scenario.package_of(content) else { return };
        let recipe: ContentId = plan.package.recipe.recipe.into();
        let disk = &self.hosts[node].disk;
        let input = if content != recipe && !disk.is_sealed(recipe) {
            Input::RecipeWanted { content }
        } else if self.mishap(self.scenario.mishaps.store_fails) {
            if let Some(process) = &mut self.hosts[node].process {
                process.unopened.insert(content);
            }
            Input::OpenFailed { content, cause: "no space left on device".to_owned() }
        } else {
            let Some(opened) = self.hosts[node].disk.opened(content) else { return };
            let at = self.now;
            if let Some(process) = &mut self.hosts[node].process {
                process.unopened.remove(&content);
                process.open.entry(content).and_modify(|since| *since = Some(at));
            }
            Input::Opened { content, opened }
        };
        self.feed_node(node, input);
    }

    pub(crate) fn sealed(&mut self, node: usize, content: ContentId) {
        let input = if self.mishap(self.scenario.mishaps.store_fails) {
            Input::SealFailed { content, cause: "no space left on device".to_owned() }
        } else {
            let whole = self.hosts[node].disk.seal(content);
            self.verify("VERIFIED", whole.then_some(()).ok_or(format!("node{node} seals {content:?} with holes")));
            Input::Sealed { content }
        };
        self.feed_node(node, input);
    }

    pub(crate) fn dial(&mut self, node: usize) {
        let (at_once, cut) = (self.latency(), self.hosts[node].cut_until > self.now);
        let life = self.hosts[node].life;
        let Some(process) = self.hosts[node].process.as_mut().filter(|process| process.control.is_none()) else {
            return;
        };
        if cut || self.control.process.is_none() {
            process.dials = (process.dials + 1).min(6);
            let wait = Duration::from_millis(100 << process.dials);
            let at = self.now + self.within(wait / 2, wait);
            return self.queue.push(at, Event::Dial { node, life });
        }
        process.dials = 0;
        let link = self.links.add([Place::Node(node), Place::Coordinator]);
        process.control = Some(link);
        let plan = &self.scenario.nodes[node];
        let hello = Hello {
            version: "0".to_owned(),
            join: Some(JoinProof { token: plan.site as u64 + 1, secret: [7; 32] }),
            name: plan.name.clone(),
            site: None,
            labels: vec![(name("n"), node.to_string())],
            control: vec![format!("node{node}")],
            bulk: vec![format!("node{node}")],
        };
        let at = self.now + at_once + at_once;
        let payload = Payload::ToCoordinator(ToCoordinator::Hello(hello));
        if let Some(at) = self.links.send(link, Place::Coordinator, at) {
            self.queue.push(at, Event::Deliver { link, to: Place::Coordinator, payload });
        }
    }

    /// Whether a node's connection to the coordinator is whole.
    pub(crate) fn is_connected(&self, node: usize) -> bool {
        let link = self.hosts[node].process.as_ref().and_then(|process| process.control);
        link.is_some_and(|link| !self.links.link(link).broken)
    }

    pub(crate) fn tell_coordinator(&mut self, node: usize, message: ToCoordinator) {
        let verdict = self.check_claim(node, &message);
        self.verify("VERIFIED", verdict);
        let link = self.hosts[node].process.as_ref().and_then(|process| process.control);
        if let Some(link) = link {
            self.send(link, Place::Node(node), Payload::ToCoordinator(message));
        }
    }

    /// Whether a node has what it says that it has.
    fn check_claim(&self, node: usize, message: &ToCoordinator) -> Result<(), String> {
        let disk = &self.hosts[node].disk;
        match message {
            ToCoordinator::Landed { content, blocks } => {
                let lacks = blocks.iter().flat_map(|range| range.iter()).find(|block| !disk.has(*content, *block));
                lacks.map_or(Ok(()), |block| {
                    Err(format!("node{node} reports block {block} of {content:?}, and lacks it"))
                })
            }
            ToCoordinator::Acquired { deployment, package, .. } => {
                let manifest = self.checks.gate.manifest(*deployment);
                let package = manifest.and_then(|manifest| manifest.packages.get(package.index()));
                let sealed = package.is_some_and(|package| disk.is_sealed(package.id.into()));
                sealed.then_some(()).ok_or_else(|| format!("node{node} reports {message:?}, and lacks it"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn hear_coordinator(&mut self, node: usize, message: ToNode) {
        let (now, me) = (self.now, self.scenario.nodes[node].id);
        if let Some(process) = &mut self.hosts[node].process {
            match &message {
                ToNode::Welcome { .. } => process.reached = Some(now),
                ToNode::Standby(standby) if standby.deputies.contains(&me) => {
                    process.standbys.insert(standby.content);
                }
                ToNode::Standby(standby) => drop(process.standbys.remove(&standby.content)),
                _ => {}
            }
        }
        if let ToNode::WanRate(rates) = &message {
            self.checks.limit.heard(node, *rates);
        }
        match message {
            ToNode::Deploy { generation, signed } => {
                let opened = Signed::open(&signed, |_, _| true);
                let Ok(manifest) = opened else { return };
                self.feed_node(node, Input::Deploy { manifest: Box::new(manifest), generation });
            }
            other => self.feed_node(node, Input::Coordinator(other)),
        }
    }

    pub(crate) fn node_link_down(&mut self, node: usize, link: usize) {
        let life = self.hosts[node].life;
        let Some(process) = &mut self.hosts[node].process else { return };
        if process.control == Some(link) {
            process.control = None;
            if process.reached.take().is_some() {
                process.cut_at = self.now;
            }
            let at = self.now + self.within(Duration::from_millis(50), Duration::from_secs(1));
            self.queue.push(at, Event::Dial { node, life });
            return self.feed_node(node, Input::CoordinatorDown);
        }
        let lost = process.neighbours.iter().find(|(_, of)| **of == link).map(|(other, _)| *other);
        if let Some(other) = lost {
            self.neighbour_gone(node, other);
        }
    }

    pub(crate) fn neighbour_gone(&mut self, node: usize, other: usize) {
        let Some(process) = &mut self.hosts[node].process else { return };
        if process.neighbours.remove(&other).is_some() {
            self.drop_uploads_to(node, other);
            self.feed_node(node, Input::NeighbourDown(self.scenario.nodes[other].id));
            let at = self.now + self.within(Duration::from_millis(10), Duration::from_secs(1));
            self.queue.push(at, Event::DialNeighbour { one: node, other });
        }
    }

    fn keep_neighbours(&mut self, node: usize, wanted: BTreeSet<usize>) {
        let life = self.hosts[node].life;
        let Some(process) = &mut self.hosts[node].process else { return };
        process.wanted = wanted.clone();
        let unwanted: Vec<_> = process.neighbours.iter().filter(|(other, _)| !wanted.contains(other)).collect();
        let unwanted: Vec<_> = unwanted.into_iter().map(|(other, link)| (*other, *link)).collect();
        for (other, link) in unwanted {
            self.break_link(link, Duration::from_millis(100));
            self.queue.push(self.now, Event::NeighbourGone { node, life, other });
        }
        for other in wanted {
            let at = self.now + self.latency();
            self.queue.push(at, Event::DialNeighbour { one: node, other });
        }
    }

    /// Two nodes connect when each has the other in its roster and neither has a connection that it believes in.
    pub(crate) fn dial_neighbour(&mut self, one: usize, other: usize) {
        let wants = |node: usize, other: usize| {
            let process = self.hosts[node].process.as_ref();
            process.is_some_and(|process| process.wanted.contains(&other) && !process.neighbours.contains_key(&other))
        };
        let ends = [Place::Node(one), Place::Node(other)];
        let connected = || {
            let links = self.links.whole_at(ends[0]);
            links.into_iter().any(|link| self.links.link(link).ends.contains(&ends[1]))
        };
        if !wants(one, other)
            || !self.hosts[other].process.as_ref().is_some_and(|p| p.wanted.contains(&one))
            || connected()
        {
            return;
        }
        let link = self.links.add(ends);
        self.send(link, ends[0], Payload::Up);
        self.send(link, ends[1], Payload::Up);
    }

    pub(crate) fn hear_neighbour(&mut self, node: usize, link: usize, payload: Payload) {
        let Place::Node(from) = self.links.other(link, Place::Node(node)) else { return };
        let id = self.scenario.nodes[from].id;
        match payload {
            Payload::Up => {
                let Some(process) = &mut self.hosts[node].process else { return };
                if !process.wanted.contains(&from) {
                    return self.break_link(link, Duration::from_millis(100));
                }
                process.met.insert(from, self.now);
                if process.neighbours.insert(from, link).is_some() {
                    self.feed_node(node, Input::NeighbourDown(id));
                }
                self.feed_node(node, Input::NeighbourUp(id));
            }
            Payload::ToNeighbour(message) => self.feed_node(node, Input::Neighbour { from: id, message }),
            Payload::ToCoordinator(_) | Payload::ToNode(_) => {}
        }
    }

    fn tell_neighbour(&mut self, node: usize, to: shoal_proto::id::NodeId, message: ToNeighbour) {
        let host = &self.hosts[node];
        let lacks = match &message {
            ToNeighbour::Has { content, blocks } => blocks.iter().find(|block| !host.brings(*content, *block)),
            ToNeighbour::Landed { content, blocks } => {
                blocks.iter().flat_map(|range| range.iter()).find(|block| !host.brings(*content, *block))
            }
            ToNeighbour::Left { .. }
            | ToNeighbour::Room { .. }
            | ToNeighbour::WanRate { .. }
            | ToNeighbour::Reach { .. }
            | ToNeighbour::Reading { .. } => None,
        };
        let verdict =
            lacks.map_or(Ok(()), |block| Err(format!("node{node} offers block {block}, and nobody brings it")));
        self.verify("VERIFIED", verdict);
        let Some(to) = self.scenario.node(to) else { return };
        let link = self.hosts[node].process.as_ref().and_then(|process| process.neighbours.get(&to).copied());
        if let Some(link) = link {
            self.send(link, Place::Node(node), Payload::ToNeighbour(message));
        }
    }
}
