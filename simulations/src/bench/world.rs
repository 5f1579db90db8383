//! The event loop: messages, blocks that arrive, and what the cores make of them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use shoal_proto::content::BlockSet;
use shoal_proto::exchange::{self, Arrived, Exchange, FetchError};
use shoal_proto::id::{BlockIndex, Epoch};
use shoal_proto::limits::GATHER_MAX;
use shoal_proto::rng::{Rng, mix};
use shoal_proto::time::Time;
use shoal_proto::wan::{self, Absence, Lacking, Outcome as LeaseOutcome, WanLedger};

use super::host::{HeldLease, Host, Next, id, number};
use super::wires::{Arrival, Part, Sender, Wires};
use super::{Case, Outcome};
use crate::net::Topology;
use crate::queue::Queue;

/// How often the coordinator names other neighbours after nodes went, at most.
const ROSTER_EVERY: Duration = Duration::from_millis(500);

/// How often invariants are checked, in events.
const CHECK_EVERY: u64 = 997;

/// Bounds after which a site that is not done is given up: it waits for more budget, or for good.
const BOUNDS_MAX: f64 = 30.0;

#[derive(Debug)]
pub(super) enum Event {
    Ledger(wan::Input),
    /// From the coordinator.
    Order(usize, wan::Output),
    Node(usize, exchange::Input),
    /// A request of `from` reaches `to`.
    Asked {
        from: usize,
        to: usize,
        block: BlockIndex,
    },
    WakeLedger,
    WakeNode(usize),
    Report(usize),
    Kill(usize),
    Rosters,
}

/// One site while it runs.
pub(super) struct World {
    case: Case,
    speeds: Vec<f64>,
    now: Time,
    ledger: WanLedger,
    ledger_wake: Option<Time>,
    hosts: Vec<Host>,
    wires: Wires,
    queue: Queue<Event>,
    rosters_due: bool,
    alive: usize,
    done: usize,
    wan_bytes: f64,
    wasted_bytes: f64,
    messages: u64,
    in_flight_max: usize,
    events: u64,
}

impl World {
    pub(super) fn new(case: &Case) -> Self {
        let mut rng = Rng::new(case.seed);
        let sizes = vec![case.block_bytes; case.blocks as usize];
        let speeds = case.speeds(&mut rng);
        let mut topology = Topology::default();
        let trunk = topology.add_site(case.wan_rate());
        speeds.iter().for_each(|speed| {
            topology.add_node(trunk, *speed, *speed);
        });
        let none = BlockSet::new(case.blocks);
        let host = |node: usize| Host::new(Exchange::new(&sizes, &none, mix(case.seed) ^ node as u64));
        let mut world = Self {
            case: case.clone(),
            now: Time::ZERO,
            ledger: WanLedger::new(
                &wan::Config { epoch: Epoch(1), swarm: true, seed: case.seed, resumed: false },
                &sizes,
            ),
            ledger_wake: None,
            hosts: (0..case.nodes).map(host).collect(),
            wires: Wires::new(topology, case.nodes),
            queue: Queue::new(),
            rosters_due: false,
            alive: case.nodes,
            done: 0,
            wan_bytes: 0.0,
            wasted_bytes: 0.0,
            messages: 0,
            in_flight_max: 0,
            events: 0,
            speeds,
        };
        world.begin(&mut rng);
        world
    }

    fn begin(&mut self, rng: &mut Rng) {
        let nodes = (0..self.case.nodes).map(id).collect();
        self.tell_ledger(wan::Input::Await { nodes, until: Time::ZERO + GATHER_MAX });
        self.name_neighbours();
        let (blocks, bytes) = (self.case.blocks, self.case.block_bytes);
        for node in 0..self.case.nodes {
            let lacking = (0..blocks).map(|block| Lacking { block: BlockIndex(block), bytes }).collect();
            self.send_to_ledger(wan::Input::Wants { node: id(node), lacking, held: Vec::new() });
        }
        let bound = self.case.bound(&self.speeds);
        for (node, part) in self.case.victims(rng) {
            self.queue.push(Time::ZERO + Duration::from_secs_f64(part * bound), Event::Kill(node));
        }
    }

    /// Runs until the quorum is done, or for [`BOUNDS_MAX`].
    pub(super) fn run(mut self) -> Outcome {
        let limit = Time::ZERO + Duration::from_secs_f64(self.case.bound(&self.speeds) * BOUNDS_MAX);
        while self.done < self.case.needed(self.alive) && self.now < limit {
            self.step();
            self.events += 1;
            if self.case.check && self.events.is_multiple_of(CHECK_EVERY) {
                self.ledger.check();
                self.hosts.iter().for_each(|host| host.core.check());
            }
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        let package = self.case.package_bytes();
        let stats: Vec<_> = self.hosts.iter().map(|host| host.core.stats()).collect();
        let fetched: u64 = stats.iter().map(|stats| stats.fetched_bytes).sum();
        let duplicate: u64 = stats.iter().map(|stats| stats.duplicate_bytes).sum();
        let had: u64 = stats.iter().map(|stats| u64::from(stats.have_blocks)).sum();
        let living = self.hosts.iter().filter(|host| host.alive);
        let mut done_at: Vec<_> =
            living.filter_map(|host| host.done_at).map(|at| at.since(Time::ZERO).as_secs_f64()).collect();
        done_at.sort_unstable_by(f64::total_cmp);
        Outcome {
            seconds: self.now.since(Time::ZERO).as_secs_f64(),
            bound_seconds: self.case.bound(&self.speeds),
            wan_copies: self.wan_bytes / package,
            wasted: (duplicate as f64 + self.wasted_bytes) / (fetched as f64 + self.wasted_bytes).max(1.0),
            in_flight_max: self.in_flight_max,
            messages_per_block: self.messages as f64 / had.max(1) as f64,
            steals: stats.iter().map(|stats| stats.steals).sum(),
            done: [self.done, self.alive],
            done_at,
            events: self.events,
        }
    }

    /// The next message or arrival, whichever comes first.
    fn step(&mut self) {
        let message = self.queue.next();
        match self.wires.next() {
            Some(at) if message.is_none_or(|message| at <= message) => {
                self.now = at.max(self.now);
                while let Some(arrival) = self.wires.arrival(self.now) {
                    self.arrived(arrival);
                }
            }
            _ => {
                let Some((at, event)) = self.queue.pop() else {
                    panic!("nothing happens any more: {:?}", self.ledger.stats())
                };
                self.now = at;
                self.happens(event);
            }
        }
        self.wires.settle(self.now);
    }

    fn arrived(&mut self, Arrival { from, to, part }: Arrival) {
        let (block, bytes) = (part.block, self.case.part_bytes());
        if from == Sender::Wan {
            self.wan_bytes += bytes;
            self.hosts[to].leases.front_mut().into_iter().for_each(|lease| lease.read_bytes += bytes);
            if part.index + 1 < self.case.parts() {
                self.read_on(to);
            }
        }
        let new = self.hosts[to].came(part);
        for at in self.hosts[to].waiting_for(block).filter(|_| new) {
            let waits = self.hosts[to].waits(at);
            if self.hosts[waits].alive {
                self.send(Sender::Node(to), waits, block, part.index..part.index + 1);
            }
        }
        if part.index + 1 < self.case.parts() {
            return self.arrives(from, to, part);
        }
        self.hosts[to].pass_on_only(|other, _| other != block);
        match from {
            Sender::Wan => self.leased_block_read(to, block),
            Sender::Node(from) => {
                let asked = self.hosts[to].asked_no_more(from, block);
                let first = self.hosts[to].core.is_awaited(block);
                self.fetched(to, block, first);
                let took = asked.map_or(Duration::ZERO, |asked| self.now.since(asked.at));
                let bytes = u64::from(self.case.block_bytes);
                self.tell(to, exchange::Input::Fetched { node: id(from), block, bytes, took });
                self.tell(from, exchange::Input::UploadDone { node: id(to), request: u64::from(block.0) });
            }
        }
    }

    /// A part came that is not the last one.
    fn arrives(&mut self, from: Sender, to: usize, part: Part) {
        let host = &self.hosts[to];
        let since = match from {
            Sender::Wan => host.reading,
            Sender::Node(from) => host.asked_since(from, part.block),
        };
        // What came of an earlier request to the same node was counted before.
        let Some(since) = since.filter(|since| since.parts <= part.index) else { return };
        let bytes = |parts: u32| (f64::from(parts) * self.case.part_bytes()) as u64;
        let arrived = Arrived {
            from: if let Sender::Node(from) = from { Some(id(from)) } else { None },
            bytes: bytes(part.index + 1 - since.parts),
            of: bytes(self.case.parts() - since.parts),
            took: self.now.since(since.at),
        };
        self.tell(to, exchange::Input::Arrives { block: part.block, arrived });
    }

    /// A node has one block more.
    fn fetched(&mut self, node: usize, block: BlockIndex, first: bool) {
        let host = &mut self.hosts[node];
        if host.core.have().contains(block) {
            return;
        }
        if let Some(at) = host.landed(block, first, self.now) {
            self.queue.push(at, Event::Report(node));
        }
    }

    fn leased_block_read(&mut self, reader: usize, block: BlockIndex) {
        self.hosts[reader].reading = None;
        self.fetched(reader, block, false);
        let ended = self.hosts[reader].leases.front_mut().and_then(|lease| {
            lease.blocks.pop_front();
            lease.blocks.is_empty().then_some((lease.lease, lease.read_bytes as u64))
        });
        self.tell(reader, exchange::Input::Landed { block, from: exchange::Source::Wan });
        if let Some((lease, read_bytes)) = ended {
            self.hosts[reader].leases.pop_front();
            self.lease_ends(reader, lease, read_bytes, Vec::new(), LeaseOutcome::Done);
        }
        self.read_on(reader);
    }

    fn lease_ends(
        &mut self,
        reader: usize,
        lease: shoal_proto::id::LeaseId,
        read_bytes: u64,
        begun: Vec<Lacking>,
        outcome: LeaseOutcome,
    ) {
        let landed = self.hosts[reader].report();
        self.hosts[reader].credits.ended(lease);
        let node = id(reader);
        self.send_to_ledger(wan::Input::LeaseEnded {
            node,
            lease,
            read_bytes,
            landed,
            begun,
            outcome,
            whole_rest: false,
        });
    }

    fn read_on(&mut self, reader: usize) {
        let (parts, part_bytes) = (self.case.parts(), self.case.part_bytes());
        let Some(Next { block, parts, asks }) = self.hosts[reader].read_on(parts, part_bytes, self.now) else { return };
        self.send(Sender::Wan, reader, block, parts);
        if let Some((lease, bytes)) = asks {
            self.send_to_ledger(wan::Input::CreditWanted { node: id(reader), lease, bytes });
        }
        self.ask_for_leases_behind(reader);
    }

    fn ask_for_leases_behind(&mut self, reader: usize) {
        while let Some((lease, bytes)) = self.hosts[reader].credits.due() {
            self.send_to_ledger(wan::Input::CreditWanted { node: id(reader), lease, bytes });
        }
    }

    fn send(&mut self, from: Sender, to: usize, block: BlockIndex, parts: Range<u32>) {
        self.wires.send(from, to, block, parts, self.case.part_bytes(), self.now);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Ledger(input) => self.tell_ledger(input),
            Event::WakeLedger => {
                if self.ledger_wake == Some(self.now) {
                    self.ledger_wake = None;
                    self.tell_ledger(wan::Input::Tick);
                }
            }
            Event::WakeNode(node) => {
                if self.hosts[node].wake == Some(self.now) {
                    self.hosts[node].wake = None;
                    self.tell(node, exchange::Input::Tick);
                }
            }
            Event::Node(node, input) => self.tell(node, input),
            Event::Order(node, order) => self.obey(node, order),
            Event::Asked { from, to, block } => {
                let (request, bytes) = (u64::from(block.0), u64::from(self.case.block_bytes));
                self.tell(to, exchange::Input::UploadAsked { node: id(from), request, block, bytes });
            }
            Event::Report(node) => {
                if self.hosts[node].alive && self.hosts[node].report_at == Some(self.now) {
                    let blocks = self.hosts[node].report();
                    self.send_to_ledger(wan::Input::Landed { node: id(node), blocks });
                }
            }
            Event::Kill(node) => self.kill(node),
            Event::Rosters => {
                self.rosters_due = false;
                self.name_neighbours();
            }
        }
    }

    fn obey(&mut self, node: usize, order: wan::Output) {
        if !self.hosts[node].alive {
            return;
        }
        match order {
            wan::Output::Grant { lease, blocks, terms, .. } => {
                let has = self.hosts[node].core.have();
                let all: Vec<_> = blocks.iter().flat_map(|range| range.iter()).collect();
                let blocks: std::collections::VecDeque<_> =
                    all.iter().copied().filter(|block| !has.contains(*block)).collect();
                if blocks.is_empty() {
                    return self.lease_ends(node, lease, 0, Vec::new(), LeaseOutcome::Done);
                }
                let bytes = blocks.len() as u64 * u64::from(self.case.block_bytes);
                self.hosts[node].granted(lease, blocks, terms, bytes);
                self.tell(node, exchange::Input::LeaseHeld { blocks: all });
                self.read_on(node);
            }
            wan::Output::Credit { lease, bytes, .. } => {
                if let Some(held) = self.hosts[node].leases.iter_mut().find(|held| held.lease == lease) {
                    held.confirm(bytes);
                    self.hosts[node].credits.confirmed(lease);
                    self.read_on(node);
                }
            }
            wan::Output::Revoke { lease, .. } => self.revoked(node, lease),
            // Nothing restarts here.
            wan::Output::Came { .. } | wan::Output::Notice(_) => {}
        }
    }

    fn revoked(&mut self, node: usize, lease: shoal_proto::id::LeaseId) {
        let Some(at) = self.hosts[node].leases.iter().position(|held| held.lease == lease) else { return };
        let Some(HeldLease { blocks, mut read_bytes, .. }) = self.hosts[node].leases.remove(at) else { return };
        let mut begun = Vec::new();
        if let Some(block) = blocks.front().copied().filter(|_| at == 0 && self.hosts[node].reading.is_some()) {
            self.hosts[node].reading = None;
            let sent = self.wires.take_back(Sender::Wan, node, block, self.now).unwrap_or(0.0);
            self.wan_bytes += sent;
            read_bytes += sent;
            // It keeps the parts that it read of the block, and lacks the rest.
            let lacking = f64::from(self.case.parts() - self.hosts[node].parts[block.index()]) * self.case.part_bytes();
            begun.push(Lacking { block, bytes: (lacking as u32).max(1) });
        }
        self.tell(node, exchange::Input::LeaseOver { blocks: blocks.into() });
        self.lease_ends(node, lease, read_bytes as u64, begun, LeaseOutcome::Revoked);
        self.read_on(node);
    }

    fn send_to_ledger(&mut self, input: wan::Input) {
        self.messages += 1;
        self.queue.push(self.now + self.case.to_coordinator, Event::Ledger(input));
    }

    fn tell_ledger(&mut self, input: wan::Input) {
        self.ledger.handle(input, self.now);
        while let Some(output) = self.ledger.poll() {
            if let wan::Output::Grant { node, .. }
            | wan::Output::Credit { node, .. }
            | wan::Output::Revoke { node, .. } = &output
            {
                self.messages += 1;
                self.queue.push(self.now + self.case.to_coordinator, Event::Order(number(*node), output));
            }
        }
        let wake = self.ledger.next_wake().map(|(at, _)| at.max(self.now));
        if let Some(at) = wake.filter(|at| self.ledger_wake.is_none_or(|set| *at < set)) {
            self.ledger_wake = Some(at);
            self.queue.push(at, Event::WakeLedger);
        }
    }

    fn tell(&mut self, node: usize, input: exchange::Input) {
        if !self.hosts[node].alive {
            return;
        }
        self.hosts[node].core.handle(input, self.now);
        while let Some(output) = self.hosts[node].core.poll() {
            self.act(node, output);
        }
        let host = &mut self.hosts[node];
        self.in_flight_max = self.in_flight_max.max(host.open_requests());
        let wake = host.core.next_wake().map(|(at, _)| at.max(self.now));
        if let Some(at) = wake.filter(|at| host.wake.is_none_or(|set| *at < set)) {
            host.wake = Some(at);
            self.queue.push(at, Event::WakeNode(node));
        }
    }

    fn act(&mut self, node: usize, output: exchange::Output) {
        use exchange::{Input, Output};
        match output {
            Output::Fetch { node: from, block } => {
                let to = number(from);
                let since = self.hosts[node].since(block, self.now);
                self.hosts[node].ask(to, block, since);
                self.send_to_neighbour(Event::Asked { from: node, to, block });
            }
            // What is asked for comes all the same, as in the node.
            Output::Cancel { .. } => {}
            Output::Announce { to, blocks } => {
                self.send_to_neighbour(Event::Node(number(to), Input::NeighbourLanded { node: id(node), blocks }));
            }
            Output::AnnounceAll { to } => {
                let blocks = self.hosts[node].core.offers().clone();
                self.send_to_neighbour(Event::Node(number(to), Input::NeighbourHas { node: id(node), blocks }));
            }
            Output::Serve { node: to, request } => self.serve(node, number(to), BlockIndex(request as u32)),
            Output::BreakOff { node: to, request } => self.break_off(node, number(to), BlockIndex(request as u32)),
            Output::Refuse { node: to, request } => {
                self.fail(node, number(to), BlockIndex(request as u32), FetchError::Refused);
            }
            Output::Decline { node: to, request } => {
                self.fail(node, number(to), BlockIndex(request as u32), FetchError::Gone);
            }
            Output::LeftOff { lacking } => {
                let lacking = lacking.into_iter().map(|(block, bytes)| Lacking { block, bytes }).collect();
                self.send_to_ledger(wan::Input::Begun { node: id(node), lacking });
            }
            Output::Stuck { blocks } => self.send_to_ledger(wan::Input::Stuck { node: id(node), blocks }),
            Output::Offer { to } => self.send_to_neighbour(Event::Node(number(to), Input::Offered { node: id(node) })),
            Output::Complete => {
                self.hosts[node].done_at = Some(self.now);
                self.done += 1;
            }
            Output::Lied { node, .. } => panic!("{node} sent nothing wrong"),
        }
    }

    fn send_to_neighbour(&mut self, event: Event) {
        self.messages += 1;
        self.queue.push_in_order(self.now + self.case.to_neighbour, event);
    }

    /// Sends what `from` has of what `to` lacked when it asked, and the rest when it comes.
    fn serve(&mut self, from: usize, to: usize, block: BlockIndex) {
        let Some(since) = self.hosts[to].asked_since(from, block).filter(|_| self.hosts[to].alive) else {
            return;
        };
        let there = self.hosts[from].parts[block.index()];
        self.send(Sender::Node(from), to, block, since.parts..there);
        if there < self.case.parts() {
            self.hosts[from].pass_on(block, to);
        }
    }

    /// `to` gets no more of a block.
    fn break_off(&mut self, from: usize, to: usize, block: BlockIndex) {
        if self.hosts[from].pass_on_no_more(block, to) {
            self.wasted_bytes += self.wires.take_back(Sender::Node(from), to, block, self.now).unwrap_or(0.0);
            self.fail(from, to, block, FetchError::Gone);
            self.queue.push(
                self.now,
                Event::Node(from, exchange::Input::UploadDone { node: id(to), request: u64::from(block.0) }),
            );
        }
    }

    fn fail(&mut self, from: usize, to: usize, block: BlockIndex, why: FetchError) {
        self.hosts[to].asked_no_more(from, block);
        self.send_to_neighbour(Event::Node(to, exchange::Input::FetchFailed { node: id(from), block, why }));
    }

    /// A process dies: its connections break, and everyone at their other ends sees it.
    fn kill(&mut self, victim: usize) {
        let host = &mut self.hosts[victim];
        host.alive = false;
        self.alive -= 1;
        self.done -= usize::from(host.done_at.is_some());
        self.wasted_bytes += self.wires.drop_node(victim, self.now);
        let neighbours = std::mem::take(&mut host.neighbours);
        for other in neighbours {
            self.hosts[other].neighbours.remove(&victim);
            self.hosts[other].asks_nothing_of(victim);
            let down = exchange::Input::NeighbourDown { node: id(victim) };
            self.queue.push(self.now + self.case.to_neighbour, Event::Node(other, down));
        }
        let down = wan::Input::NodeDown { node: id(victim), absence: Absence::Closed };
        self.queue.push(self.now + self.case.to_coordinator, Event::Ledger(down));
        if !std::mem::replace(&mut self.rosters_due, true) {
            self.queue.push(self.now + ROSTER_EVERY, Event::Rosters);
        }
    }

    /// Connects each node with the neighbours that the coordinator names, and with no others.
    fn name_neighbours(&mut self) {
        let alive: BTreeSet<_> = (0..self.hosts.len()).filter(|node| self.hosts[*node].alive).map(id).collect();
        for (node, neighbours) in shoal_proto::directory::neighbourhoods(&alive) {
            let node = number(node);
            let neighbours: BTreeSet<_> = neighbours.into_iter().map(number).collect();
            let before = std::mem::replace(&mut self.hosts[node].neighbours, neighbours.clone());
            let after = self.now + 2 * self.case.to_neighbour;
            for other in neighbours.difference(&before) {
                self.queue.push_in_order(after, Event::Node(node, exchange::Input::NeighbourUp { node: id(*other) }));
            }
            for other in before.difference(&neighbours) {
                self.part(node, *other);
            }
        }
    }

    /// `node` has no connection to `other` any more.
    fn part(&mut self, node: usize, other: usize) {
        self.hosts[other].pass_on_only(|_, to| to != node);
        for block in self.hosts[node].asks_nothing_of(other) {
            self.wasted_bytes += self.wires.take_back(Sender::Node(other), node, block, self.now).unwrap_or(0.0);
        }
        self.tell(node, exchange::Input::NeighbourDown { node: id(other) });
    }
}
