//! What a node keeps for deployments: from its manifest to its end, and for what was staged to the next success; never on
//! guesswork after a restart.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_proto::content::Outline;
use shoal_proto::coordinator::{self, Config, Coordinator, Created};
use shoal_proto::directory::{DirectoryRecord, Token};
use shoal_proto::id::{ContentId, DeploymentId, Epoch, Generation, Name, NodeId, PackageId, PackageIndex};
use shoal_proto::id::{RecipeId, SegmentHash};
use shoal_proto::manifest::{Acquire, Gate, Group, Manifest, Package, Signed, Source};
use shoal_proto::node::{self, Node, Opened, Pin};
use shoal_proto::rollout::{Actor, Now, Operator, Options, Which};
use shoal_proto::time::{Time, WallTime};
use shoal_proto::wan::Absence;
use shoal_proto::wire::{AcquireStats, Hello, JoinProof, Roster, ToCoordinator, ToNode};

const ME: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn package(number: u8) -> Package {
    Package {
        name: name(&format!("package{number}")),
        reference: format!("feed package{number} 1"),
        id: PackageId([number; 32]),
        size: 1000,
        recipe: Outline { recipe: recipe(number), size: 100, pieces: vec![SegmentHash([number; 32])] },
    }
}

fn recipe(number: u8) -> RecipeId {
    RecipeId([100 + number; 32])
}

/// A deployment of `packages` to [`ME`], and of one package more to [`OTHER`].
fn manifest(deployment: u64, of: &str, packages: &[u8]) -> Manifest {
    let count = u16::try_from(packages.len()).unwrap();
    let group = |node, packages| Group { nodes: vec![node], packages };
    Manifest {
        deployment: DeploymentId(deployment),
        coordinator: NodeId([9; 32]),
        name: name(of),
        release: name("1"),
        packages: packages.iter().chain(&[50]).map(|number| package(*number)).collect(),
        groups: vec![group(ME, (0..count).map(PackageIndex).collect()), group(OTHER, vec![PackageIndex(count)])],
        acquire: Acquire { source: Source::Feed, swarm: true },
        gate: Gate::default(),
        before_acquire: Vec::new(),
        steps: Vec::new(),
        waves: Vec::new(),
        offline: shoal_proto::manifest::Offline::Wait,
        rollback: None,
    }
}

fn pins(pins: &[(u64, u8)]) -> BTreeSet<Pin> {
    let pin = |(deployment, number): &(u64, u8)| Pin {
        package: PackageId([*number; 32]),
        deployment: DeploymentId(*deployment),
        recipe: recipe(*number),
    };
    pins.iter().map(pin).collect()
}

/// What matters here of what a node does.
#[derive(Debug, PartialEq)]
enum Does {
    Pins(BTreeSet<Pin>),
    Open(ContentId),
    Close(ContentId),
    MakeRoom,
}

use Does::{Close, MakeRoom, Open, Pins};

/// A node that the coordinator talks to.
struct Told(Node);

impl Told {
    fn fresh() -> Self {
        Self(Node::new(ME, 1, []))
    }

    /// One that knows that it keeps nothing.
    fn heard() -> Self {
        let mut told = Self::fresh();
        assert_eq!(told.welcome(), []);
        assert_eq!(told.roster(), [Pins(pins(&[])), MakeRoom]);
        told
    }

    fn tell(&mut self, input: node::Input) -> Vec<Does> {
        self.0.handle(input, Time::from_millis(1));
        self.0.check();
        let does = |output| match output {
            node::Output::Pins(pins) => Some(Pins(pins)),
            node::Output::Open(what) => Some(Open(what.content())),
            node::Output::Close { content } => Some(Close(content)),
            node::Output::MakeRoom => Some(MakeRoom),
            _ => None,
        };
        std::iter::from_fn(|| self.0.poll()).filter_map(does).collect()
    }

    fn hears(&mut self, message: ToNode) -> Vec<Does> {
        self.tell(node::Input::Coordinator(message))
    }

    fn welcome(&mut self) -> Vec<Does> {
        self.hears(ToNode::Welcome { epoch: Epoch(1), site: name("syd") })
    }

    fn roster(&mut self) -> Vec<Does> {
        self.hears(ToNode::Roster(Roster { number: 1, coordinator_bulk: Vec::new(), neighbours: Vec::new() }))
    }

    fn deploy(&mut self, deployment: u64, packages: &[u8]) -> Vec<Does> {
        let manifest = Box::new(manifest(deployment, "web", packages));
        self.tell(node::Input::Deploy { manifest, generation: Generation(1) })
    }

    fn acquire(&mut self, deployment: u64) -> Vec<Does> {
        self.hears(ToNode::Acquire { deployment: DeploymentId(deployment), generation: Generation(1) })
    }

    fn end(&mut self, deployment: u64) -> Vec<Does> {
        self.hears(ToNode::End { deployment: DeploymentId(deployment) })
    }

    /// The store has all of a content.
    fn opened(&mut self, content: ContentId) -> Vec<Does> {
        let opened = Opened { block_bytes: vec![1000], lacking: Vec::new(), local_bytes: 1000, sealed: true };
        self.tell(node::Input::Opened { content, opened })
    }
}

fn content(number: u8) -> ContentId {
    PackageId([number; 32]).into()
}

#[test]
fn a_package_is_pinned_before_it_is_opened_and_until_its_deployment_is_over() {
    let mut told = Told::heard();
    assert_eq!(told.deploy(1, &[7]), [Pins(pins(&[(1, 7)]))], "and not what others get");
    assert_eq!(told.acquire(1), [Open(content(7))]);
    assert_eq!(told.opened(content(7)), [Open(recipe(7).into())]);
    assert_eq!(told.opened(recipe(7).into()), []);
    let stop = ToNode::StopAcquire { deployment: DeploymentId(1), generation: Generation(2) };
    assert_eq!(told.hears(stop), [Close(content(7)), Close(recipe(7).into())], "it is not over");
    assert_eq!(told.deploy(2, &[8]), [Pins(pins(&[(1, 7), (2, 8)]))]);
    assert_eq!(told.end(1), [Pins(pins(&[(2, 8)])), MakeRoom]);
    assert_eq!(told.end(1), []);
}

#[test]
fn what_is_closed_at_the_end_makes_room_after_that() {
    let mut told = Told::heard();
    told.deploy(1, &[7]);
    told.acquire(1);
    told.opened(content(7));
    told.opened(recipe(7).into());
    assert_eq!(told.end(1), [Pins(pins(&[])), Close(content(7)), Close(recipe(7).into()), MakeRoom]);
}

#[test]
fn a_package_that_two_deployments_share_stays_until_both_are_over() {
    let mut told = Told::heard();
    told.deploy(1, &[6, 7]);
    assert_eq!(told.deploy(2, &[7]), [Pins(pins(&[(1, 6), (1, 7), (2, 7)]))]);
    assert_eq!(told.end(1), [Pins(pins(&[(2, 7)])), MakeRoom]);
    assert_eq!(told.end(2), [Pins(pins(&[])), MakeRoom]);
}

#[test]
fn after_a_restart_nothing_is_said_before_the_coordinator_has_said_all() {
    let mut told = Told::fresh();
    told.welcome();
    assert_eq!(told.deploy(1, &[7]), []);
    assert_eq!(told.acquire(1), [Open(content(7))]);
    // The connection breaks: what came may not have been all.
    told.tell(node::Input::CoordinatorDown);
    told.welcome();
    assert_eq!(told.deploy(1, &[7]), []);
    assert_eq!(told.deploy(2, &[8]), []);
    assert_eq!(told.end(3), []);
    assert_eq!(told.roster(), [Pins(pins(&[(1, 7), (2, 8)]))]);
    // Room is made once nothing can be filled any more from what goes.
    assert_eq!(told.opened(content(7)), [Open(recipe(7).into())]);
    assert_eq!(told.opened(recipe(7).into()), [MakeRoom]);

    // The next connection of the same process brings what changed, and no more.
    told.tell(node::Input::CoordinatorDown);
    told.welcome();
    assert_eq!(told.deploy(1, &[7]), []);
    assert_eq!(told.end(2), [Pins(pins(&[(1, 7)])), MakeRoom]);
    assert_eq!(told.roster(), []);
}

#[test]
fn what_a_connection_does_not_begin_with_is_over() {
    let mut told = Told::heard();
    told.deploy(1, &[7]);
    told.deploy(2, &[8]);
    told.acquire(1);
    told.tell(node::Input::CoordinatorDown);
    told.welcome();
    assert_eq!(told.deploy(2, &[8]), [], "there may be more to come");
    assert_eq!(told.roster(), [Pins(pins(&[(2, 8)])), Close(content(7)), MakeRoom]);
    assert_eq!(told.deploy(3, &[9]), [Pins(pins(&[(2, 8), (3, 9)]))]);
    assert_eq!(told.roster(), [], "a later roster says nothing of deployments");
}

/// A coordinator that both nodes can join; only what it tells [`ME`] is looked at.
struct Control {
    core: Coordinator,
    records: Vec<coordinator::Record>,
    now: Now,
}

#[derive(Debug, PartialEq)]
enum Says {
    Welcome,
    Manifest(u64),
    Acquire(u64),
    Stop(u64),
    End(u64),
    Roster,
}

use Says::{End, Manifest as Sent, Roster as Neighbours, Stop, Welcome};

impl Control {
    fn new() -> Self {
        let token = Token {
            id: 1,
            secret_hash: *blake3::hash(&[5; 32]).as_bytes(),
            site: name("syd"),
            roles: Vec::new(),
            expires: WallTime(u64::MAX),
            coordinator_bulk: Vec::new(),
        };
        Self::from_records(vec![coordinator::Record::Directory(DirectoryRecord::TokenCreated(token))], Now::default())
    }

    fn from_records(records: Vec<coordinator::Record>, now: Now) -> Self {
        let config = Config { epoch: Epoch(1), bulk: Vec::new(), seed: 1, shut: BTreeMap::new() };
        let core = Coordinator::new(config, records.clone(), now).unwrap();
        Self { core, records, now }
    }

    fn tell(&mut self, input: coordinator::Input) -> Vec<Says> {
        self.now.wall.0 += 1;
        self.core.handle(input, self.now);
        self.core.check();
        let mut says = Vec::new();
        while let Some(output) = self.core.poll() {
            says.extend(match output {
                coordinator::Output::Persist(record) => {
                    self.records.push(record);
                    None
                }
                coordinator::Output::Node { to: ME, message } => match message {
                    ToNode::Welcome { .. } => Some(Welcome),
                    ToNode::Deploy { signed, .. } => Some(Sent(signed.open(|_, _| true).unwrap().deployment.0)),
                    ToNode::Acquire { deployment, .. } => Some(Says::Acquire(deployment.0)),
                    ToNode::StopAcquire { deployment, .. } => Some(Stop(deployment.0)),
                    ToNode::End { deployment } => Some(End(deployment.0)),
                    ToNode::Roster(_) => Some(Neighbours),
                    _ => None,
                },
                _ => None,
            });
        }
        says
    }

    fn hears(&mut self, from: NodeId, message: ToCoordinator) -> Vec<Says> {
        self.tell(coordinator::Input::Node { from, message })
    }

    /// A node connects; what is said until the rosters are.
    fn connect(&mut self, node: NodeId) -> Vec<Says> {
        let hello = Hello {
            version: "1".to_owned(),
            join: Some(JoinProof { token: 1, secret: [5; 32] }),
            name: name(if node == ME { "me" } else { "other" }),
            site: None,
            labels: Vec::new(),
            control: Vec::new(),
            bulk: Vec::new(),
        };
        let mut says = self.hears(node, ToCoordinator::Hello(hello));
        self.now.time = self.now.time + Duration::from_secs(1);
        says.extend(self.tell(coordinator::Input::Tick));
        says
    }

    fn create(&mut self, deployment: u64, of: &str, stage_only: bool) -> Vec<Says> {
        let manifest = manifest(deployment, of, &[7]);
        let created = Created {
            signed: Signed::seal(&manifest, |_| Vec::new()).unwrap(),
            options: Options { stage_only, ..Options::default() },
            sites: BTreeMap::from([(ME, name("syd")), (OTHER, name("syd"))]),
            blocks: vec![vec![1000]; 2],
            sources: Vec::new(),
            variables: Default::default(),
            back: Default::default(),
            joins: Default::default(),
        };
        self.tell(coordinator::Input::Create(Box::new(created)))
    }

    /// Both nodes have what they are to have.
    fn acquired(&mut self, deployment: u64) -> Vec<Says> {
        let stats = AcquireStats::default();
        let report = |package| ToCoordinator::Acquired {
            deployment: DeploymentId(deployment),
            package: PackageIndex(package),
            stats,
        };
        let mut says = self.hears(ME, report(0));
        says.extend(self.hears(OTHER, report(1)));
        says
    }

    /// A deployment fails.
    fn stop(&mut self, deployment: u64) -> Vec<Says> {
        let (deployment, cause) = (DeploymentId(deployment), "no more".to_owned());
        self.tell(coordinator::Input::Stop { deployment, cause })
    }

    fn reconnect(&mut self, node: NodeId) -> Vec<Says> {
        self.tell(coordinator::Input::NodeDown { node, absence: Absence::Unheard });
        self.connect(node)
    }

    fn restarted(self) -> Self {
        Self::from_records(self.records, self.now)
    }
}

#[test]
fn a_connection_begins_with_every_deployment_that_the_node_keeps_packages_for() {
    let mut control = Control::new();
    assert_eq!(control.connect(ME), [Welcome, Neighbours]);
    control.connect(OTHER);
    assert_eq!(control.create(1, "staged", true), [Sent(1), Says::Acquire(1)]);
    assert_eq!(control.acquired(1), [], "what was staged is kept");
    assert_eq!(control.create(2, "web", false), [Sent(2), Says::Acquire(2)]);
    assert_eq!(control.reconnect(ME), [Welcome, Sent(1), Sent(2), Says::Acquire(2), Neighbours]);
    assert_eq!(control.acquired(2), [End(2)]);

    let mut control = control.restarted();
    assert_eq!(control.connect(ME), [Welcome, Sent(1), Neighbours], "the node takes what it is not told of for over");
}

#[test]
fn what_was_staged_is_kept_until_a_deployment_that_began_after_it_has_succeeded() {
    let mut control = Control::new();
    control.connect(ME);
    control.connect(OTHER);
    control.create(1, "web", true);
    assert_eq!(control.create(2, "web", false), [], "1 has the nodes");
    control.acquired(1);
    control.create(2, "other", false);
    assert_eq!(control.acquired(2), [End(2)], "of another name");
    control.create(3, "web", false);
    assert_eq!(control.stop(3), [Stop(3), End(3)], "it failed");
    control.create(4, "web", true);
    assert_eq!(control.acquired(4), [End(1)]);
    control.create(5, "web", false);
    assert_eq!(control.acquired(5), [End(4), End(5)]);

    let mut control = control.restarted();
    assert_eq!(control.connect(ME), [Welcome, Neighbours]);
}

/// What a rollback goes back to is there whenever somebody may want that: before, in and after the next deployment.
#[test]
fn the_newest_two_releases_are_kept_once_there_are_two() {
    let mut control = Control::new();
    control.connect(ME);
    control.connect(OTHER);
    control.create(1, "web", false);
    assert_eq!(control.acquired(1), [End(1)], "nothing follows it");
    assert_eq!(control.create(2, "other", false), [Sent(2), Says::Acquire(2)], "of another name");
    assert_eq!(control.create(3, "web", false), [Sent(1), Sent(3), Says::Acquire(3)]);
    assert_eq!(control.stop(3), [Stop(3), End(3)]);
    assert_eq!(control.reconnect(ME), [Welcome, Sent(1), Sent(2), Says::Acquire(2), Neighbours], "3 came nowhere");
    control.create(4, "web", true);
    assert_eq!(control.acquired(4), [], "a stage changes nothing that runs");
    let mut control = control.restarted();
    control.connect(ME);
    control.connect(OTHER);
    assert_eq!(control.create(5, "web", false), [Sent(5), Says::Acquire(5)], "4 and 1 were told with the connection");
    assert_eq!(control.acquired(5), [End(4), Stop(5)], "5 runs, and goes back to 1");
    assert_eq!(control.reconnect(ME), [Welcome, Sent(1), Sent(2), Says::Acquire(2), Sent(5), Neighbours]);
    assert_eq!(control.create(6, "web", false), [Sent(6), Says::Acquire(6)]);
    assert_eq!(control.stop(6), [Stop(6), End(6)], "5 still runs");
    control.create(7, "web", false);
    assert_eq!(control.acquired(7), [End(1), Stop(7)]);
    let mut control = control.restarted();
    assert_eq!(control.connect(ME), [Welcome, Sent(2), Says::Acquire(2), Sent(5), Sent(7), Neighbours]);
}

/// A node that a deployment goes on without stays with what it has.
#[test]
fn what_is_kept_is_what_came_to_the_node() {
    let mut control = Control::new();
    control.connect(ME);
    control.connect(OTHER);
    control.create(1, "web", false);
    control.acquired(1);
    control.create(2, "web", false);
    control.acquired(2);
    control.create(3, "web", false);
    let which = Which { actor: Some(Actor::Node(ME)), step: None };
    control.core.operate(DeploymentId(3), Operator::Exclude(which), control.now).unwrap();
    assert_eq!(control.acquired(3), [Stop(3), End(3)]);
    assert_eq!(control.reconnect(ME), [Welcome, Sent(1), Sent(2), Neighbours]);
}
