//! The simulated world: time, the processes with the real cores in them, and what is under way between them.
//!
//! A handler of an event may feed cores; carrying out what they say only makes events, so that nothing recurses and every
//! event is checked by itself. Everything random comes from one generator: a seed is a run.

use std::time::Duration;

use shoal_proto::exchange::FetchError;
use shoal_proto::id::{ContentId, LeaseId};
use shoal_proto::rng::{Rng, mix};
use shoal_proto::time::Time;
use shoal_proto::wire::StepRun;

use crate::away::Progress;
use crate::checks::{Checks, Violation};
use crate::control::Control;
use crate::faults::Fault;
use crate::host::Host;
use crate::links::{Links, Payload, Place};
use crate::queue::Queue;
use crate::report::Totals;
use crate::scenario::Scenario;
use crate::trace::Trace;

/// After the calm began, everything has come to its end within this.
const CALM_MAX: Duration = Duration::from_secs(3600);

/// Events of one run, at most: more means that something goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// How many wake-ups a core may ask for at one moment.
const WAKES_PER_MOMENT_MAX: u32 = 100;

/// How often the operator looks.
pub(crate) const OPERATOR_LOOKS: Duration = Duration::from_secs(3);

/// What is going to happen. A `life` says which run of a process it is for; it is nothing to a later one.
#[derive(Debug)]
pub(crate) enum Event {
    StartNode { node: usize },
    StartCoordinator,
    Strike(Fault),
    JudgeProgress,
    Calm,
    Create { plan: usize },
    OperatorLooks,
    Dial { node: usize, life: u32 },
    DialNeighbour { one: usize, other: usize },
    Deliver { link: usize, to: Place, payload: Payload },
    LinkDown { link: usize, end: Place, quick: bool },
    Wake { place: Place, life: u32 },
    Flushed { place: Place, life: u32 },
    StepOver { place: Place, life: u32, run: StepRun },
    StepKilled { place: Place, life: u32, run: StepRun },
    Answers { node: usize, life: u32, run: StepRun },
    NeighbourGone { node: usize, life: u32, other: usize },
    Opened { node: usize, life: u32, content: ContentId },
    Sealed { node: usize, life: u32, content: ContentId },
    Piece { node: usize, life: u32, lease: LeaseId, piece: u64 },
    HalfRead { node: usize, life: u32, lease: LeaseId, piece: u64 },
    ReadStopped { node: usize, life: u32, content: ContentId, lease: LeaseId },
    Asked { node: usize, life: u32, request: u64 },
    Withdrawn { server: usize, node: usize, request: u64 },
    Sent { server: usize, server_life: u32, node: usize, life: u32, request: u64 },
    HalfSent { node: usize, life: u32, request: u64 },
    FetchOver { node: usize, life: u32, request: u64, why: FetchError },
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) queue: Queue<Event>,
    pub(crate) trace: Trace,
    pub(crate) scenario: Scenario,
    pub(crate) hosts: Vec<Host>,
    pub(crate) control: Control,
    pub(crate) links: Links,
    pub(crate) checks: Checks,
    pub(crate) totals: Totals,
    pub(crate) calm: bool,
    pub(crate) origin_down_until: Time,
    /// When the WAN of each site is free again.
    pub(crate) wan_free: Vec<Time>,
    /// Each site's WAN limit, in bytes a second.
    pub(crate) limits: Vec<Option<u64>>,
    /// Which sites are shut.
    pub(crate) shut: Vec<bool>,
    pub(crate) numbers: u64,
    pub(crate) progress: Progress,
    pub(crate) over: bool,
    broken: Option<Violation>,
    wakes: (Time, u32),
}

impl World {
    pub(crate) fn new(seed: u64, print: bool) -> Self {
        let scenario = Scenario::new(seed);
        let mut queue = Queue::new();
        for (at, fault) in &scenario.faults {
            queue.push(*at, Event::Strike(*fault));
        }
        queue.push(scenario.calm_at, Event::Calm);
        queue.push(Time::ZERO, Event::StartCoordinator);
        for (plan, deployment) in scenario.deployments.iter().enumerate() {
            queue.push(deployment.at, Event::Create { plan });
        }
        let mut rng = Rng::new(mix(seed));
        for node in 0..scenario.nodes.len() {
            queue.push(Time::from_millis(rng.below(3000)), Event::StartNode { node });
        }
        queue.push(Time::ZERO + OPERATOR_LOOKS, Event::OperatorLooks);
        Self {
            now: Time::ZERO,
            rng,
            queue,
            trace: Trace::new(print),
            hosts: scenario.nodes.iter().map(|_| Host::default()).collect(),
            control: Control::new(&scenario, seed),
            links: Links::default(),
            checks: Checks::default(),
            totals: Totals::default(),
            calm: false,
            origin_down_until: Time::ZERO,
            wan_free: vec![Time::ZERO; scenario.sites.len()],
            limits: vec![None; scenario.sites.len()],
            shut: vec![false; scenario.sites.len()],
            numbers: 0,
            progress: Progress::default(),
            over: false,
            broken: None,
            wakes: (Time::ZERO, 0),
            scenario,
        }
    }

    /// Runs to the end, or to the first broken promise.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        while !self.over {
            let Some((at, event)) = self.queue.pop() else { break };
            self.now = at;
            self.totals.events += 1;
            self.trace.note(at, format_args!("{event:?}"));
            self.happen(event);
            self.judge_limits();
            if let Some(violation) = self.broken.take() {
                return Err(violation);
            }
            let calm_until = self.scenario.calm_at + CALM_MAX;
            if at > calm_until || self.totals.events > EVENTS_MAX {
                return Err(Violation::new("LIVENESS", self.what_is_unfinished()));
            }
        }
        self.judge_end();
        self.broken.take().map_or(Ok(()), Err)
    }

    /// Notes a broken promise; the first one counts.
    pub(crate) fn verify(&mut self, promise: &'static str, verdict: Result<(), String>) {
        if let (Err(what), None) = (verdict, &self.broken) {
            self.broken = Some(Violation::new(promise, what));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::StartNode { node } => self.start_node(node),
            Event::StartCoordinator => self.start_coordinator(),
            Event::Strike(fault) => self.strike(fault),
            Event::JudgeProgress => self.judge_progress(),
            Event::Calm => self.calm_down(),
            Event::Create { plan } => self.create(plan),
            Event::OperatorLooks => self.operator_looks(),
            Event::Dial { node, life } if self.lives(Place::Node(node), life) => self.dial(node),
            Event::DialNeighbour { one, other } => self.dial_neighbour(one, other),
            Event::Deliver { link, to, payload } => self.deliver(link, to, payload),
            Event::LinkDown { link, end: Place::Node(node), .. } => self.node_link_down(node, link),
            Event::LinkDown { link, end: Place::Coordinator, quick } => self.coordinator_link_down(link, quick),
            Event::Wake { place, life } if self.lives(place, life) => self.wake(place),
            Event::Flushed { place, life } if self.lives(place, life) => match place {
                Place::Coordinator => self.coordinator_flushed(),
                Place::Node(node) => self.node_flushed(node),
            },
            Event::StepOver { place, life, run } if self.lives(place, life) => self.step_over(place, run, false),
            Event::StepKilled { place, life, run } if self.lives(place, life) => self.step_over(place, run, true),
            Event::NeighbourGone { node, life, other } if self.lives(Place::Node(node), life) => {
                self.neighbour_gone(node, other);
            }
            Event::Answers { node, life, run } if self.lives(Place::Node(node), life) => self.answers(node, run),
            Event::Opened { node, life, content } if self.lives(Place::Node(node), life) => self.opened(node, content),
            Event::Sealed { node, life, content } if self.lives(Place::Node(node), life) => self.sealed(node, content),
            Event::Piece { node, life, lease, piece } if self.lives(Place::Node(node), life) => {
                self.piece_read(node, lease, piece);
            }
            Event::HalfRead { node, life, lease, piece } if self.lives(Place::Node(node), life) => {
                self.half_read(node, lease, piece);
            }
            Event::HalfSent { node, life, request } if self.lives(Place::Node(node), life) => {
                self.half_sent(node, request);
            }
            Event::ReadStopped { node, life, content, lease } if self.lives(Place::Node(node), life) => {
                self.read_stopped(node, content, lease);
            }
            Event::Asked { node, life, request } if self.lives(Place::Node(node), life) => self.asked(node, request),
            Event::Withdrawn { server, node, request } => self.withdrawn(server, node, request),
            Event::Sent { server, server_life, node, life, request } => {
                self.sent((server, server_life), (node, life), request);
            }
            Event::FetchOver { node, life, request, why } if self.lives(Place::Node(node), life) => {
                self.fetch_over(node, request, why);
            }
            // For a process that is no more.
            _ => {}
        }
    }

    pub(crate) fn life(&self, place: Place) -> u32 {
        match place {
            Place::Coordinator => self.control.life,
            Place::Node(node) => self.hosts[node].life,
        }
    }

    fn lives(&self, place: Place, life: u32) -> bool {
        let runs = match place {
            Place::Coordinator => self.control.process.is_some(),
            Place::Node(node) => self.hosts[node].process.is_some(),
        };
        runs && self.life(place) == life
    }

    fn wake(&mut self, place: Place) {
        let wake = match place {
            Place::Coordinator => self.control.process.as_mut().map(|process| &mut process.wake),
            Place::Node(node) => self.hosts[node].process.as_mut().map(|process| &mut process.wake),
        };
        let Some(wake) = wake.filter(|wake| **wake == Some(self.now)) else { return };
        *wake = None;
        let count = if self.wakes.0 == self.now { self.wakes.1 + 1 } else { 1 };
        self.wakes = (self.now, count);
        if count > WAKES_PER_MOMENT_MAX {
            self.verify("BOUNDED", Err(format!("{place:?} asks to be woken again and again at the same moment")));
        }
        match place {
            Place::Coordinator => self.feed_coordinator(shoal_proto::coordinator::Input::Tick),
            Place::Node(node) => self.feed_node(node, shoal_proto::node::Input::Tick),
        }
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.origin_down_until = self.now;
        for host in &mut self.hosts {
            host.cut_until = host.cut_until.min(self.now);
            host.slow_until = host.slow_until.min(self.now);
        }
        self.end_limits();
        self.open_sites();
        self.queue.push(self.now, Event::StartCoordinator);
        for node in 0..self.hosts.len() {
            self.queue.push(self.now, Event::StartNode { node });
        }
    }

    /// Sends a payload over a connection; lost if that is broken.
    pub(crate) fn send(&mut self, link: usize, from: Place, payload: Payload) {
        let to = self.links.other(link, from);
        let at = self.now + self.latency();
        if let Some(at) = self.links.send(link, to, at) {
            self.queue.push(at, Event::Deliver { link, to, payload });
        }
    }

    fn deliver(&mut self, link: usize, to: Place, payload: Payload) {
        if self.links.link(link).broken {
            return;
        }
        match (to, payload) {
            (Place::Coordinator, Payload::ToCoordinator(message)) => self.hear_node(link, message),
            (Place::Node(node), Payload::ToNode(message)) => self.hear_coordinator(node, message),
            (Place::Node(node), payload) => self.hear_neighbour(node, link, payload),
            (Place::Coordinator, _) => {}
        }
    }

    pub(crate) fn latency(&mut self) -> Duration {
        let (least, most) = self.scenario.latency;
        self.within(least, most)
    }

    pub(crate) fn within(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
        least + Duration::from_nanos(self.rng.below(span.saturating_add(1)))
    }

    pub(crate) fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.rng.below(count as u64)).expect("below a count")
    }

    /// Whether something that happens `permille` times in a thousand happens here; never after the calm began.
    pub(crate) fn mishap(&mut self, permille: u64) -> bool {
        !self.calm && self.rng.below(1000) < permille
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}
