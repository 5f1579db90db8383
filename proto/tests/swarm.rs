//! A small deterministic site: one ledger and many exchanges over links of fixed rates, without faults and with a
//! holder that dies. Shows that all nodes complete, what crosses the WAN, and how far from the least possible time.
//!
//! Links are fluid: a flow gets the smaller of its shares of the sender's uplink and of the receiver's downlink. Messages
//! take a fixed time and are never lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_proto::content::BlockSet;
use shoal_proto::exchange::{self, Exchange};
use shoal_proto::id::{BlockIndex, Epoch, LeaseId, NodeId};
use shoal_proto::limits::{HOLDER_GRACE, WAN_BUDGET_BYTES_MIN};
use shoal_proto::time::Time;
use shoal_proto::wan::{self, Absence, Lacking, Outcome, WanLedger};

const BLOCK_BYTES: u32 = 256 * 1024;
const TO_PEER: Duration = Duration::from_micros(500);
const TO_COORDINATOR: Duration = Duration::from_millis(10);

/// What one run is made of; rates in bytes a second.
#[derive(Clone, Copy)]
struct Scenario {
    nodes: usize,
    blocks: u32,
    wan: f64,
    lan: f64,
    /// A node that reads over the WAN dies when the site has this part of the blocks.
    kill_at: Option<f64>,
    swarm: bool,
    check_every: u64,
}

const PLAIN: Scenario =
    Scenario { nodes: 4, blocks: 256, wan: 6.25e6, lan: 25e6, kill_at: None, swarm: true, check_every: 1 };

struct Outcomes {
    seconds: f64,
    bound: f64,
    wan_copies: f64,
    duplicates: f64,
}

#[derive(Clone, Debug)]
enum Event {
    Ledger(wan::Input),
    Node(usize, exchange::Input),
    /// From the coordinator.
    Order(usize, wan::Output),
    /// A request of a node reaches another.
    Asked {
        from: usize,
        to: usize,
        block: BlockIndex,
    },
    Cancelled {
        from: usize,
        to: usize,
        block: BlockIndex,
    },
    WakeLedger,
    WakeNode(usize),
}

struct Host {
    core: Exchange,
    alive: bool,
    leases: VecDeque<(LeaseId, VecDeque<BlockIndex>, u64)>,
    asked: BTreeMap<(usize, BlockIndex), Time>,
    wake: Option<Time>,
    done_at: Option<Time>,
}

/// Bytes on their way to `to`: a block from a node, or over the WAN.
struct Flow {
    from: Option<usize>,
    to: usize,
    block: BlockIndex,
    left: f64,
    rate: f64,
}

struct Site {
    scenario: Scenario,
    now: Time,
    ledger: WanLedger,
    ledger_wake: Option<Time>,
    hosts: Vec<Host>,
    flows: Vec<Flow>,
    queue: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    wan_bytes: f64,
    notices: Vec<wan::Notice>,
}

fn id(node: usize) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(node as u64 + 1).to_le_bytes());
    NodeId(bytes)
}

fn node(id: NodeId) -> usize {
    usize::from(id.0[0]) - 1 + usize::from(id.0[1]) * 256
}

impl Site {
    fn new(scenario: Scenario) -> Self {
        let sizes = vec![BLOCK_BYTES; scenario.blocks as usize];
        let config = wan::Config { epoch: Epoch(1), swarm: scenario.swarm, seed: 1 };
        let host = |index| Host {
            core: Exchange::new(&sizes, &BlockSet::new(scenario.blocks), index as u64),
            alive: true,
            leases: VecDeque::new(),
            asked: BTreeMap::new(),
            wake: None,
            done_at: None,
        };
        let mut site = Self {
            scenario,
            now: Time::ZERO,
            ledger: WanLedger::new(&config, &sizes),
            ledger_wake: None,
            hosts: (0..scenario.nodes).map(host).collect(),
            flows: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            wan_bytes: 0.0,
            notices: Vec::new(),
        };
        for index in 0..scenario.nodes {
            let others = (0..scenario.nodes).filter(|other| scenario.swarm && *other != index);
            others.for_each(|other| {
                site.push(TO_PEER, Event::Node(index, exchange::Input::NeighbourUp { node: id(other) }))
            });
            let lacking = (0..scenario.blocks).map(|block| Lacking { block: BlockIndex(block), bytes: BLOCK_BYTES });
            let wants = wan::Input::Wants { node: id(index), lacking: lacking.collect(), held: Vec::new() };
            site.push(TO_COORDINATOR, Event::Ledger(wants));
        }
        site
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), event);
    }

    /// Runs until every living node has everything.
    fn run(mut self) -> Outcomes {
        let mut events = 0u64;
        let mut kill = self.scenario.kill_at;
        while self.hosts.iter().any(|host| host.alive && host.done_at.is_none()) {
            self.step();
            events += 1;
            if events.is_multiple_of(self.scenario.check_every) {
                self.ledger.check();
                self.hosts.iter().for_each(|host| host.core.check());
            }
            if kill.is_some_and(|part| self.landed_part() >= part)
                && self.hosts.iter().any(|host| !host.leases.is_empty())
            {
                self.kill_a_reader();
                kill = None;
            }
            assert!(self.now < Time::from_millis(3_600_000), "an hour, and not done: {:?}", self.ledger.stats());
        }
        if kill.is_none() && self.scenario.kill_at.is_none() {
            assert_eq!(self.notices, [], "nothing for an operator to know");
        }
        self.outcomes()
    }

    fn landed_part(&self) -> f64 {
        let stats = self.ledger.stats();
        stats.in_site_bytes as f64 / (f64::from(self.scenario.blocks) * f64::from(BLOCK_BYTES))
    }

    fn outcomes(&self) -> Outcomes {
        let Scenario { wan, lan, nodes, blocks, .. } = self.scenario;
        let package = f64::from(blocks) * f64::from(BLOCK_BYTES);
        let last = self.hosts.iter().filter_map(|host| host.done_at).max().expect("somebody is done");
        let fetched: u64 = self.hosts.iter().map(|host| host.core.stats().fetched_bytes).sum();
        let duplicate: u64 = self.hosts.iter().map(|host| host.core.stats().duplicate_bytes).sum();
        let up = package * (nodes as f64 - 1.0) / (nodes as f64 * lan);
        Outcomes {
            seconds: last.since(Time::ZERO).as_secs_f64(),
            bound: (package / wan).max(package / lan).max(up),
            wan_copies: self.wan_bytes / package,
            duplicates: duplicate as f64 / fetched.max(1) as f64,
        }
    }

    /// The next message or the next end of a flow, whichever comes first.
    fn step(&mut self) {
        let finishing =
            self.flows.iter().enumerate().min_by(|a, b| (a.1.left / a.1.rate).total_cmp(&(b.1.left / b.1.rate)));
        let finishing = finishing.map(|(index, flow)| (index, Duration::from_secs_f64(flow.left / flow.rate)));
        let message = self.queue.first_key_value().map(|((at, _), _)| *at);
        match (finishing, message) {
            (Some((flow, after)), message) if message.is_none_or(|at| self.now + after <= at) => {
                self.pass(self.now + after);
                self.flow_ends(flow);
            }
            (_, Some(at)) => {
                self.pass(at);
                let (_, event) = self.queue.pop_first().expect("it was peeked at");
                self.happens(event);
            }
            (_, None) => panic!("nothing happens any more: {:?}", self.ledger.stats()),
        }
    }

    fn pass(&mut self, until: Time) {
        let seconds = until.since(self.now).as_secs_f64();
        for flow in &mut self.flows {
            flow.left = (flow.left - flow.rate * seconds).max(0.0);
            self.wan_bytes += if flow.from.is_none() { flow.rate * seconds } else { 0.0 };
        }
        self.now = until;
    }

    /// Near enough to max-min fairness: what one end of a flow cannot use, others get in the next round.
    fn share_links(&mut self) {
        const ROUNDS: usize = 4;
        let Scenario { lan, wan, .. } = self.scenario;
        // The last uplink is the WAN.
        let mut up = vec![lan; self.hosts.len() + 1];
        up[self.hosts.len()] = wan;
        let mut down = vec![lan; self.hosts.len()];
        let sender = |flow: &Flow| flow.from.unwrap_or(self.hosts.len());
        self.flows.iter_mut().for_each(|flow| flow.rate = 0.0);
        for _ in 0..ROUNDS {
            let mut senders = vec![0.0; up.len()];
            let mut receivers = vec![0.0; down.len()];
            let open = |flow: &Flow| up[sender(flow)] > 1.0 && down[flow.to] > 1.0;
            for flow in self.flows.iter().filter(|flow| open(flow)) {
                senders[sender(flow)] += 1.0;
                receivers[flow.to] += 1.0;
            }
            let (up_before, down_before) = (up.clone(), down.clone());
            for flow in &mut self.flows {
                let from = flow.from.unwrap_or(self.hosts.len());
                if up_before[from] > 1.0 && down_before[flow.to] > 1.0 {
                    let share = (up_before[from] / senders[from]).min(down_before[flow.to] / receivers[flow.to]);
                    flow.rate += share;
                    up[from] -= share;
                    down[flow.to] -= share;
                }
            }
        }
    }

    fn flow_ends(&mut self, index: usize) {
        let Flow { from, to, block, .. } = self.flows.remove(index);
        match from {
            None => self.leased_block_read(to, block),
            Some(from) => {
                let asked = self.hosts[to].asked.remove(&(from, block)).expect("what flows was asked for");
                let (bytes, took) = (u64::from(BLOCK_BYTES), self.now.since(asked));
                self.tell(to, exchange::Input::Fetched { node: id(from), block, bytes, took });
                let landed = wan::Input::Landed { node: id(to), blocks: vec![block] };
                self.push(TO_COORDINATOR, Event::Ledger(landed));
                self.tell(from, exchange::Input::UploadDone { node: id(to), request: u64::from(block.0) });
            }
        }
        self.share_links();
    }

    fn leased_block_read(&mut self, reader: usize, block: BlockIndex) {
        let (lease, blocks, read) = self.hosts[reader].leases.front_mut().expect("what flows is leased");
        assert_eq!(blocks.pop_front(), Some(block));
        *read += u64::from(BLOCK_BYTES);
        let ended = blocks.is_empty().then_some((*lease, *read));
        self.tell(reader, exchange::Input::Landed { block, from: exchange::Source::Wan });
        let landed = wan::Input::Landed { node: id(reader), blocks: vec![block] };
        self.push(TO_COORDINATOR, Event::Ledger(landed));
        if let Some((lease, read_bytes)) = ended {
            self.hosts[reader].leases.pop_front();
            self.lease_ends(reader, lease, read_bytes, Outcome::Done);
        }
        self.read_on(reader);
    }

    fn lease_ends(&mut self, reader: usize, lease: LeaseId, read_bytes: u64, outcome: Outcome) {
        let ended = wan::Input::LeaseEnded {
            node: id(reader),
            lease,
            read_bytes,
            landed: Vec::new(),
            begun: Vec::new(),
            outcome,
            whole_rest: false,
        };
        self.push(TO_COORDINATOR, Event::Ledger(ended));
    }

    fn read_on(&mut self, reader: usize) {
        let reads = self.flows.iter().any(|flow| flow.from.is_none() && flow.to == reader);
        let next = self.hosts[reader].leases.front().and_then(|(_, blocks, _)| blocks.front().copied());
        if let Some(block) = next.filter(|_| !reads) {
            self.flows.push(Flow { from: None, to: reader, block, left: f64::from(BLOCK_BYTES), rate: 1.0 });
            self.share_links();
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Ledger(input) => self.tell_ledger(input),
            Event::WakeLedger => self.tell_ledger(wan::Input::Tick),
            Event::WakeNode(node) => self.tell(node, exchange::Input::Tick),
            Event::Node(node, input) => self.tell(node, input),
            Event::Order(node, order) => self.obey(node, order),
            Event::Asked { from, to, block } => {
                let (request, bytes) = (u64::from(block.0), u64::from(BLOCK_BYTES));
                self.tell(to, exchange::Input::UploadAsked { node: id(from), request, block, bytes });
            }
            Event::Cancelled { from, to, block } => {
                self.flows.retain(|flow| (flow.from, flow.to, flow.block) != (Some(to), from, block));
                self.share_links();
                self.tell(to, exchange::Input::UploadDone { node: id(from), request: u64::from(block.0) });
            }
        }
    }

    fn obey(&mut self, node: usize, order: wan::Output) {
        if !self.hosts[node].alive {
            return;
        }
        match order {
            wan::Output::Grant { lease, blocks, .. } => {
                let blocks: VecDeque<_> = blocks.iter().flat_map(|range| range.iter()).collect();
                let held = exchange::Input::LeaseHeld { blocks: blocks.iter().copied().collect() };
                self.hosts[node].leases.push_back((lease, blocks, 0));
                self.tell(node, held);
                self.read_on(node);
            }
            wan::Output::Revoke { lease, .. } => {
                let Some(at) = self.hosts[node].leases.iter().position(|(held, _, _)| *held == lease) else { return };
                let (_, blocks, read) = self.hosts[node].leases.remove(at).expect("it was found");
                self.flows.retain(|flow| flow.from.is_some() || flow.to != node);
                self.tell(node, exchange::Input::LeaseOver { blocks: blocks.into() });
                self.lease_ends(node, lease, read, Outcome::Revoked);
                self.read_on(node);
            }
            wan::Output::Notice(_) => unreachable!("notices are not orders"),
        }
    }

    fn tell_ledger(&mut self, input: wan::Input) {
        self.ledger.handle(input, self.now);
        while let Some(output) = self.ledger.poll() {
            match &output {
                wan::Output::Grant { node: to, .. } | wan::Output::Revoke { node: to, .. } => {
                    self.push(TO_COORDINATOR, Event::Order(node(*to), output.clone()));
                }
                wan::Output::Notice(notice) => self.notices.push(*notice),
            }
        }
        let wake = self.ledger.next_wake().map(|(at, _)| at.max(self.now));
        if let Some(at) = wake.filter(|at| self.ledger_wake.is_none_or(|set| *at < set || set <= self.now)) {
            self.ledger_wake = Some(at);
            self.push(at.since(self.now), Event::WakeLedger);
        }
    }

    fn tell(&mut self, index: usize, input: exchange::Input) {
        if !self.hosts[index].alive {
            return;
        }
        self.hosts[index].core.handle(input, self.now);
        while let Some(output) = self.hosts[index].core.poll() {
            self.act(index, output);
        }
        let host = &mut self.hosts[index];
        let wake = host.core.next_wake().map(|(at, _)| at.max(self.now));
        if let Some(at) = wake.filter(|at| host.wake.is_none_or(|set| *at < set || set <= self.now)) {
            host.wake = Some(at);
            self.push(at.since(self.now), Event::WakeNode(index));
        }
    }

    fn act(&mut self, index: usize, output: exchange::Output) {
        use exchange::{Input, Output};
        match output {
            Output::Fetch { node: from, block } => {
                self.hosts[index].asked.insert((node(from), block), self.now);
                self.push(TO_PEER, Event::Asked { from: index, to: node(from), block });
            }
            Output::Cancel { node: from, block } => {
                self.hosts[index].asked.remove(&(node(from), block));
                self.flows.retain(|flow| (flow.from, flow.to, flow.block) != (Some(node(from)), index, block));
                self.push(TO_PEER, Event::Cancelled { from: index, to: node(from), block });
            }
            Output::Announce { to, blocks } => {
                self.push(TO_PEER, Event::Node(node(to), Input::NeighbourLanded { node: id(index), blocks }));
            }
            Output::AnnounceAll { to } => {
                let blocks = self.hosts[index].core.have().clone();
                self.push(TO_PEER, Event::Node(node(to), Input::NeighbourHas { node: id(index), blocks }));
            }
            Output::Serve { node: to, request } => self.serve(index, node(to), BlockIndex(request as u32)),
            Output::Refuse { node: to, request } => {
                let (block, why) = (BlockIndex(request as u32), exchange::FetchError::Refused);
                self.hosts[node(to)].asked.remove(&(index, block));
                self.push(TO_PEER, Event::Node(node(to), Input::FetchFailed { node: id(index), block, why }));
            }
            Output::Stuck { blocks } => {
                self.push(TO_COORDINATOR, Event::Ledger(wan::Input::Stuck { node: id(index), blocks }));
            }
            Output::Complete => self.hosts[index].done_at = Some(self.now),
            Output::Lied { node, .. } => panic!("{node} sent nothing wrong"),
        }
    }

    fn serve(&mut self, from: usize, to: usize, block: BlockIndex) {
        // A request that was taken back: the word of it is on its way.
        if self.hosts[to].asked.contains_key(&(from, block)) {
            self.flows.push(Flow { from: Some(from), to, block, left: f64::from(BLOCK_BYTES), rate: 1.0 });
            self.share_links();
        }
    }

    fn kill_a_reader(&mut self) {
        let most = |host: &&(usize, &Host)| host.1.leases.iter().map(|(_, blocks, _)| blocks.len()).sum::<usize>();
        let hosts: Vec<_> = self.hosts.iter().enumerate().collect();
        let (victim, _) = *hosts.iter().max_by_key(most).expect("a site has nodes");
        self.hosts[victim].alive = false;
        self.flows.retain(|flow| flow.to != victim && flow.from != Some(victim));
        self.share_links();
        for other in (0..self.hosts.len()).filter(|other| *other != victim) {
            self.hosts[other].asked.retain(|(from, _), _| *from != victim);
            self.push(TO_COORDINATOR, Event::Node(other, exchange::Input::NeighbourDown { node: id(victim) }));
        }
        self.push(TO_COORDINATOR, Event::Ledger(wan::Input::NodeDown { node: id(victim), absence: Absence::Closed }));
    }
}

fn run(name: &str, scenario: Scenario) -> Outcomes {
    let outcomes = Site::new(scenario).run();
    let Outcomes { seconds, bound, wan_copies, duplicates } = outcomes;
    let ratio = seconds / bound;
    println!("{name}: {seconds:.2} s, {ratio:.3} x bound, {wan_copies:.4} WAN copies, {duplicates:.4} duplicates");
    outcomes
}

/// Sites of different sizes: nodes, blocks, how often invariants are checked, and the most that a run may take, in
/// bounds. With few blocks for many nodes the last ones weigh more.
const SITES: [(usize, u32, u64, f64); 4] =
    [(1, 256, 1, 1.05), (4, 256, 10, 1.2), (24, 192, 1_000, 1.35), (64, 64, 10_000, 1.9)];

#[test]
fn a_site_reads_each_byte_once_whatever_its_size() {
    for (nodes, blocks, check_every, ratio_max) in SITES {
        for (speed, wan) in [("1/4", 6.25e6), ("1", 25e6), ("4", 100e6)] {
            let name = format!("{nodes} nodes, WAN {speed} x LAN");
            let outcomes = run(&name, Scenario { nodes, blocks, wan, check_every, ..PLAIN });
            assert!((outcomes.wan_copies - 1.0).abs() < 1e-6, "{name}: WAN-ONCE");
            assert!(
                outcomes.seconds < ratio_max * outcomes.bound,
                "{name}: {} of {} s",
                outcomes.seconds,
                outcomes.bound
            );
        }
    }
}

#[test]
fn a_holder_that_dies_costs_at_most_the_budget() {
    for (nodes, blocks, check_every, ratio_max) in &SITES[1..] {
        for part in [0.05, 0.5, 0.9] {
            let name = format!("{nodes} nodes, one dies at {part}");
            let scenario = Scenario { kill_at: Some(part), check_every: *check_every, ..PLAIN };
            let outcomes = run(&name, Scenario { nodes: *nodes, blocks: *blocks, ..scenario });
            let package = f64::from(*blocks) * f64::from(BLOCK_BYTES);
            let budget = WAN_BUDGET_BYTES_MIN as f64 / package;
            assert!(outcomes.wan_copies <= 1.0 + budget.max(0.01), "{name}: WAN-ONCE");
            let most = ratio_max * outcomes.bound + HOLDER_GRACE.as_secs_f64();
            assert!(outcomes.seconds < most, "{name}: {} s", outcomes.seconds);
        }
    }
}

#[test]
fn without_swarm_every_node_reads_its_own_copy() {
    let outcomes = run("4 nodes apart", Scenario { swarm: false, ..PLAIN });
    assert!((outcomes.wan_copies - 4.0).abs() < 1e-6);
}

#[test]
fn runs_repeat() {
    let seconds: BTreeSet<_> = (0..2).map(|_| Site::new(PLAIN).run().seconds.to_bits()).collect();
    assert_eq!(seconds.len(), 1);
}
