//! A site in a test: the coordinator's core and those of a few nodes, joined by hand. Messages arrive at once unless a
//! test holds them back, neighbours send blocks at once, and the WAN is read when a test says so.

mod carry;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_proto::coordinator::{self, AllowReading, Config, Coordinator, Created, DeploymentView, Notice, Record};
use shoal_proto::directory::{DirectoryRecord, Token};
use shoal_proto::id::{BlockIndex, ContentId, DeploymentId, Epoch, LeaseId};
use shoal_proto::manifest::{Manifest, Package, Signed};
use shoal_proto::node;
use shoal_proto::rollout::back::Back;
use shoal_proto::rollout::join::Joins;
use shoal_proto::rollout::{Now, Operator, Options, StepOutcome};
use shoal_proto::time::{Time, WallTime};
use shoal_proto::wan::{self, Absence, Lacking, Outcome};
use shoal_proto::wire::{Hello, JoinProof, LeaseEnd, StepRun, ToCoordinator, ToNeighbour, ToNode};

use crate::agent::{Agent, Read, Stored};
use crate::plan::{MIB, content, id, name};

/// What is under way or to be done.
enum Flight {
    ToCoordinator(usize, ToCoordinator),
    ToNode(usize, ToNode),
    ToNeighbour { from: usize, to: usize, message: ToNeighbour },
    AtNode(usize, node::Input),
}

/// One site, in which the site `syd` is meant where none is named.
pub(crate) struct Site {
    pub(crate) now: Time,
    pub(crate) coordinator: Option<Coordinator>,
    pub(crate) journal: Vec<Record>,
    runs: u64,
    pub(crate) agents: Vec<Agent>,
    contents: BTreeMap<ContentId, Vec<u32>>,
    /// Whether neighbours send what they are asked for.
    pub(crate) trades: bool,
    /// Which nodes that join later deployments mean.
    pub(crate) joins: Joins,
    /// Whether what neighbours say to each other is on its way until they are let.
    pub(crate) slow_talk: bool,
    /// Nodes that send wrong bytes.
    pub(crate) liars: BTreeSet<usize>,
    /// Nodes whose reads do not stop when they are told to.
    pub(crate) linger: BTreeSet<usize>,
    /// Nodes that hear nothing of what the coordinator says until they are let.
    pub(crate) deaf: BTreeSet<usize>,
    /// Requests between neighbours: who asked whom for what.
    requests: BTreeMap<u64, (usize, usize, ContentId, BlockIndex)>,
    requested: u64,
    flights: VecDeque<Flight>,
    waiting: VecDeque<(usize, ToNode)>,
    talk: VecDeque<Flight>,
    /// All that was said to the coordinator, and to nodes.
    pub(crate) reports: Vec<(usize, ToCoordinator)>,
    pub(crate) orders: Vec<(usize, ToNode)>,
    pub(crate) notices: Vec<Notice>,
    /// Every block that was read over the WAN, with the bytes of it that were.
    pub(crate) wan: Vec<(ContentId, u32, u32)>,
}

impl Site {
    /// A coordinator and `count` nodes, all of which have just connected.
    pub(crate) fn new(count: usize) -> Self {
        let mut site = Self {
            now: Time::from_millis(1000),
            coordinator: None,
            journal: Vec::new(),
            runs: 0,
            agents: (0..count).map(Agent::new).collect(),
            contents: BTreeMap::new(),
            trades: true,
            joins: Joins::default(),
            slow_talk: false,
            liars: BTreeSet::new(),
            requests: BTreeMap::new(),
            requested: 0,
            linger: BTreeSet::new(),
            deaf: BTreeSet::new(),
            flights: VecDeque::new(),
            waiting: VecDeque::new(),
            talk: VecDeque::new(),
            reports: Vec::new(),
            orders: Vec::new(),
            notices: Vec::new(),
            wan: Vec::new(),
        };
        site.journal.push(Record::Directory(DirectoryRecord::TokenCreated(token())));
        site.start_coordinator();
        for node in 0..count {
            site.start(node);
            site.connect(node);
        }
        site.pass(Duration::from_millis(300));
        site
    }

    pub(crate) fn start_coordinator(&mut self) {
        self.runs += 1;
        let config = Config { epoch: Epoch(self.runs), bulk: Vec::new(), seed: self.runs, shut: BTreeMap::new() };
        let core = Coordinator::new(config, self.journal.iter().cloned(), self.at()).unwrap();
        self.coordinator = Some(core);
        self.settle();
    }

    pub(crate) fn crash_coordinator(&mut self) {
        self.coordinator = None;
        self.waiting.clear();
        for node in 0..self.agents.len() {
            if self.agents[node].process.as_ref().is_some_and(|process| process.online) {
                self.agents[node].running().online = false;
                self.tell(node, node::Input::CoordinatorDown);
            }
        }
        self.settle();
    }

    pub(crate) fn start(&mut self, node: usize) {
        let now = self.now;
        self.agents[node].start(node, now);
        self.settle();
    }

    /// A node's process ends; only its disk stays.
    pub(crate) fn crash(&mut self, node: usize) {
        let Some(process) = self.agents[node].process.take() else { return };
        self.waiting.retain(|(to, _)| *to != node);
        if process.online {
            self.tell_coordinator(coordinator::Input::NodeDown { node: id(node), absence: Absence::Closed });
        }
        for other in process.links {
            self.agents[other].running().links.remove(&node);
            self.tell(other, node::Input::NeighbourDown(id(node)));
        }
        self.settle();
    }

    pub(crate) fn connect(&mut self, node: usize) {
        self.agents[node].running().online = true;
        self.flights.push_back(Flight::ToCoordinator(node, ToCoordinator::Hello(hello(node))));
        self.meet();
        self.settle();
    }

    /// The connection between a node and the coordinator breaks.
    pub(crate) fn disconnect(&mut self, node: usize) {
        self.agents[node].running().online = false;
        self.waiting.retain(|(to, _)| *to != node);
        self.tell_coordinator(coordinator::Input::NodeDown { node: id(node), absence: Absence::Unheard });
        self.tell(node, node::Input::CoordinatorDown);
        self.settle();
    }

    /// Says something to the coordinator that no node's core said.
    pub(crate) fn say(&mut self, node: usize, message: ToCoordinator) {
        self.tell_coordinator(coordinator::Input::Node { from: id(node), message });
        self.settle();
    }

    /// Says something to a node that the coordinator's core did not say.
    pub(crate) fn order(&mut self, node: usize, message: ToNode) {
        self.flights.push_back(Flight::ToNode(node, message));
        self.settle();
    }

    pub(crate) fn tell_node(&mut self, node: usize, input: node::Input) {
        self.tell(node, input);
        self.settle();
    }

    /// Lets a node hear what it was told meanwhile.
    pub(crate) fn hears_again(&mut self, node: usize) {
        self.deaf.remove(&node);
        let (mine, others) = std::mem::take(&mut self.waiting).into_iter().partition(|(to, _)| *to == node);
        self.waiting = others;
        let mine: VecDeque<_> = mine;
        self.flights.extend(mine.into_iter().map(|(to, message)| Flight::ToNode(to, message)));
        self.settle();
    }

    /// What neighbours said to each other arrives.
    pub(crate) fn talk_arrives(&mut self) {
        self.slow_talk = false;
        self.flights.append(&mut self.talk);
        self.settle();
    }

    /// Cuts a package into blocks of so many bytes, and has every node know its recipe.
    pub(crate) fn publish(&mut self, package: &Package, block_bytes: u32) {
        if self.contents.contains_key(&content(package)) {
            return;
        }
        let blocks = usize::try_from(package.size / u64::from(block_bytes)).unwrap();
        self.contents.insert(content(package), vec![block_bytes; blocks]);
        let size = u32::try_from(package.recipe.size).unwrap();
        self.contents.insert(package.recipe.recipe.into(), vec![size]);
        let recipe = Stored { block_bytes: vec![size], lacking: vec![0], sealed: true };
        for agent in &mut self.agents {
            agent.disk.insert(package.recipe.recipe.into(), recipe.clone());
        }
    }

    /// Puts some blocks of a package on a node's disk; if it is all, the package is sealed.
    pub(crate) fn store(&mut self, node: usize, package: &Package, blocks: impl Iterator<Item = u32>) {
        self.publish(package, MIB);
        let block_bytes = self.contents[&content(package)].clone();
        let mut lacking = block_bytes.clone();
        blocks.for_each(|block| lacking[block as usize] = 0);
        let sealed = lacking.iter().all(|bytes| *bytes == 0);
        self.agents[node].disk.insert(content(package), Stored { block_bytes, lacking, sealed });
    }

    pub(crate) fn create(&mut self, manifest: &Manifest) {
        self.create_with(manifest, false);
    }

    /// The same; `stage_only` ends it before the gate.
    pub(crate) fn create_with(&mut self, manifest: &Manifest, stage_only: bool) {
        manifest.packages.iter().for_each(|package| self.publish(package, MIB));
        let created = Created {
            signed: Signed::seal(manifest, |_| Vec::new()).unwrap(),
            options: Options { stage_only, ..Options::default() },
            sites: manifest.targets().into_iter().map(|node| (node, name("syd"))).collect(),
            blocks: manifest.packages.iter().map(|package| self.contents[&content(package)].clone()).collect(),
            sources: Vec::new(),
            variables: Default::default(),
            back: Back::same(manifest),
            joins: self.joins.clone(),
        };
        self.tell_coordinator(coordinator::Input::Create(Box::new(created)));
        self.settle();
        self.pass(Duration::from_millis(600));
    }

    pub(crate) fn operate(&mut self, deployment: u64, command: Operator) {
        let now = self.at();
        let core = self.coordinator.as_mut().expect("the coordinator runs");
        core.operate(DeploymentId(deployment), command, now).unwrap();
        self.settle();
    }

    /// The operator lets the site read more of a package.
    pub(crate) fn allow_reading(&mut self, package: &Package, bytes: u64) {
        let now = self.at();
        let core = self.coordinator.as_mut().expect("the coordinator runs");
        let live = core.deployments().find_map(|id| Some((id, core.manifest(id)?.part(content(package))?.0)));
        let (id, package) = live.expect("a deployment brings it");
        core.allow_reading(id, &AllowReading { site: name("syd"), package: Some(package), bytes }, now).unwrap();
        self.settle();
    }

    /// The site's WAN limit changes.
    pub(crate) fn limit(&mut self, limit: Option<u64>) {
        self.operator_says(coordinator::Input::WanLimit { site: name("syd"), limit });
    }

    /// Tells the coordinator something that comes from no node.
    pub(crate) fn operator_says(&mut self, input: coordinator::Input) {
        self.tell_coordinator(input);
        self.settle();
    }

    pub(crate) fn view(&self, deployment: u64) -> DeploymentView {
        self.coordinator.as_ref().and_then(|core| core.view(DeploymentId(deployment), self.now)).expect("there is one")
    }

    /// Lets time pass, with a wake-up whenever a core wants one.
    pub(crate) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            let own = self.coordinator.as_ref().and_then(Coordinator::next_wake).map(|(at, _)| (at, None));
            let nodes = self.agents.iter().zip(0..).filter_map(|(agent, node)| {
                let process = agent.process.as_ref()?;
                let (at, _) = process.core.next_wake()?;
                Some((process.started + at.since(Time::ZERO), Some(node)))
            });
            let Some((at, who)) = own.into_iter().chain(nodes).min().filter(|(at, _)| *at <= until) else { break };
            self.now = self.now.max(at);
            match who {
                None => self.tell_coordinator(coordinator::Input::Tick),
                Some(node) => self.tell(node, node::Input::Tick),
            }
            self.settle();
        }
        self.now = until;
    }

    /// A node reads up to `blocks` blocks for its leases, in order; says how many.
    pub(crate) fn read(&mut self, node: usize, blocks: usize) -> usize {
        for done in 0..blocks {
            let Some(block) = self.next_block(node) else { return done };
            if !self.may_read(node, block) {
                return done;
            }
            let read = &mut self.agents[node].running().reads[0];
            let (content, lease) = (read.grant.content, read.grant.lease);
            let stored = self.agents[node].disk.get_mut(&content).unwrap();
            let bytes = std::mem::take(&mut stored.lacking[block.index()]);
            self.agents[node].running().reads[0].bytes += u64::from(bytes);
            self.wan.push((content, block.0, bytes));
            self.flights.push_back(Flight::AtNode(node, node::Input::Landed { content, block }));
            if self.next_of(node, 0).is_none() {
                self.stop_read(node, lease, Outcome::Done);
            }
            self.settle();
        }
        blocks
    }

    /// Every node reads up to `blocks` blocks; says how many all of them read.
    pub(crate) fn all_read(&mut self, blocks: usize) -> usize {
        (0..self.agents.len()).map(|node| self.read(node, blocks)).sum()
    }

    /// A node reads a part of its next block, which is verified so far.
    pub(crate) fn read_part(&mut self, node: usize, bytes: u32) {
        let block = self.next_block(node).expect("it reads");
        assert!(self.may_read(node, block), "it reads on");
        let content = self.agents[node].running().reads[0].grant.content;
        self.agents[node].disk.get_mut(&content).unwrap().lacking[block.index()] -= bytes;
        self.agents[node].running().reads[0].bytes += u64::from(bytes);
        self.wan.push((content, block.0, bytes));
    }

    /// What a node is told from here on is on its way. It may read all that it was leased.
    pub(crate) fn goes_deaf(&mut self, node: usize) {
        for read in &self.agents[node].process.as_ref().expect("the node runs").reads {
            let (content, lease) = (read.grant.content, read.grant.lease);
            let wanted = node::Input::CreditWanted { content, lease, bytes: u64::MAX };
            self.flights.push_back(Flight::AtNode(node, wanted));
        }
        self.settle();
        self.deaf.insert(node);
    }

    /// Whether a node may read a block of its first lease; it asks if it has to.
    fn may_read(&mut self, node: usize, block: BlockIndex) -> bool {
        let read = &self.agents[node].running().reads[0];
        let (content, lease, bytes, credit_bytes) =
            (read.grant.content, read.grant.lease, read.bytes, read.credit_bytes);
        let wanted = bytes + u64::from(self.agents[node].disk[&content].lacks(block));
        if wanted > credit_bytes {
            let asks = node::Input::CreditWanted { content, lease, bytes: wanted };
            self.flights.push_back(Flight::AtNode(node, asks));
            self.settle();
        }
        self.agents[node].running().reads.first().is_some_and(|read| read.credit_bytes >= wanted)
    }

    /// The next block that a node is to read, once the leases before it that have nothing left are over.
    fn next_block(&mut self, node: usize) -> Option<BlockIndex> {
        loop {
            let lease = self.agents[node].process.as_ref()?.reads.first()?.grant.lease;
            if let Some(block) = self.next_of(node, 0) {
                return Some(block);
            }
            self.stop_read(node, lease, Outcome::Done);
            self.settle();
        }
    }

    fn next_of(&self, node: usize, read: usize) -> Option<BlockIndex> {
        let grant = &self.agents[node].process.as_ref()?.reads.get(read)?.grant;
        let stored = &self.agents[node].disk[&grant.content];
        grant.blocks.iter().flat_map(|range| range.iter()).find(|block| stored.lacks(*block) > 0)
    }

    /// A node stops to read for a lease, if it does.
    /// The reads of a node that were told to stop do so.
    pub(crate) fn stops(&mut self, node: usize) {
        self.linger.remove(&node);
        for lease in std::mem::take(&mut self.agents[node].running().stopping) {
            self.stop_read(node, lease, Outcome::Revoked);
        }
        self.settle();
    }

    fn stop_read(&mut self, node: usize, lease: LeaseId, outcome: Outcome) {
        let reads = &mut self.agents[node].running().reads;
        let Some(place) = reads.iter().position(|read| read.grant.lease == lease) else { return };
        let Read { grant, bytes: read_bytes, .. } = reads.remove(place);
        let stored = &self.agents[node].disk[&grant.content];
        let blocks = grant.blocks.iter().flat_map(|range| range.iter());
        let begun = blocks.map(|block| Lacking { block, bytes: stored.lacks(block) });
        let begun = begun.filter(|part| part.bytes > 0 && part.bytes < stored.block_bytes[part.block.index()]);
        let begun = begun.collect();
        let (content, landed) = (grant.content, Vec::new());
        let end = LeaseEnd { content, lease, read_bytes, landed, outcome, fault: None };
        self.flights.push_back(Flight::AtNode(node, node::Input::ReadEnded { end, begun }));
    }

    /// Everybody reads, a block each in turn, until nobody has anything to read for some time.
    pub(crate) fn finish(&mut self) {
        let mut idle = 0;
        while idle < 200 {
            idle = if self.all_read(1) == 0 { idle + 1 } else { 0 };
            self.pass(Duration::from_millis(100));
        }
    }

    /// Bytes of a content that crossed the WAN.
    pub(crate) fn wan_bytes(&self, content: ContentId) -> u64 {
        self.wan.iter().filter(|(of, _, _)| *of == content).map(|(_, _, bytes)| u64::from(*bytes)).sum()
    }

    /// What a node was told and has not heard.
    pub(crate) fn unheard(&self, node: usize) -> Vec<&ToNode> {
        self.waiting.iter().filter(|(to, _)| *to == node).map(|(_, message)| message).collect()
    }

    /// The grants that a node was sent for a content.
    pub(crate) fn granted(&self, node: usize, content: ContentId) -> Vec<(LeaseId, Vec<u32>)> {
        let grants = self.orders.iter().filter_map(|(to, order)| match order {
            ToNode::Grant(grant) if *to == node && grant.content == content => {
                let blocks = grant.blocks.iter().flat_map(|range| range.iter()).map(|block| block.0).collect();
                Some((grant.lease, blocks))
            }
            _ => None,
        });
        grants.collect()
    }

    /// The ledgers' sums for a deployment while it goes on.
    pub(crate) fn live(&self, deployment: u64) -> wan::Stats {
        self.view(deployment).sites[0].live.expect("something is on its way")
    }

    pub(crate) fn at(&self) -> Now {
        Now { time: self.now, wall: WallTime(self.now.as_nanos() / 1_000_000) }
    }

    /// The connection between two neighbours breaks, and comes up again.
    pub(crate) fn reconnect(&mut self, one: usize, two: usize) {
        self.unlink(one, two);
        self.settle();
        self.meet();
        self.settle();
    }

    /// A step's process ends on a node.
    pub(crate) fn end_step(&mut self, node: usize, run: StepRun, outcome: StepOutcome) {
        self.tell_node(node, node::Input::StepEnded { run, outcome });
    }
}

fn token() -> Token {
    Token {
        id: 1,
        secret_hash: *blake3::hash(&[7; 32]).as_bytes(),
        site: name("syd"),
        roles: Vec::new(),
        expires: WallTime(u64::MAX),
        coordinator_bulk: Vec::new(),
    }
}

/// What a node says of itself; it brings the token whenever it connects.
pub(crate) fn hello(node: usize) -> Hello {
    Hello {
        version: "1.0.0".to_owned(),
        join: Some(JoinProof { token: 1, secret: [7; 32] }),
        name: name(&format!("node{node}")),
        site: None,
        labels: Vec::new(),
        control: Vec::new(),
        bulk: Vec::new(),
    }
}
