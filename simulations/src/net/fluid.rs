//! Max-min fair rates, kept up to date by bounded relaxation.
//!
//! A link is *solved* by filling it with its flows, each up to the least level of the other links on its way: that gives
//! the link's level and its flows' rates. Solving a link leaves room on other links or asks too much of them; these are
//! solved next. The levels so reached are the fair ones, the least first (Charny, Clark and Jain, "Congestion control with
//! explicit rate indication", 1995). What keeps it cheap, and how far off it may be:
//!
//! - Room that would not move a link's level by more than [`LEVEL_TOLERANCE`] is left until more of it has gathered.
//! - A trunk is solved at most every [`TRUNK_EVERY`]. Meanwhile its flows get no more than the room that it has.
//! - A link is solved at most [`SOLVES_MAX`] times in one `settle`.
//!
//! Invariant (`Fluid::check`): no link's flows add up to more than its capacity, but for rounding. A link that is asked
//! too much is always solved, at last by lowering rates only.

use std::collections::VecDeque;
use std::time::Duration;

use shoal_proto::time::Time;

use super::topology::{ROUTE_LINKS_MAX, Route, Topology};

/// Part of a link's level that it may move by without being looked at.
pub(crate) const LEVEL_TOLERANCE: f64 = 0.01;

/// How often a trunk is solved at most.
pub(crate) const TRUNK_EVERY: Duration = Duration::from_millis(5);

/// How often one link is solved at most in one `settle`: levels mostly stand after two or three.
const SOLVES_MAX: u8 = 16;

/// Part of a capacity that sums of rates may be wrong by.
const ROUNDING: f64 = 1e-9;

/// A flow, by its number, which a later flow may get again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowId(pub(crate) u32);

#[derive(Clone, Debug)]
struct Link {
    capacity: f64,
    trunk: bool,
    level: f64,
    used: f64,
    flows: Vec<u32>,
    queued: bool,
    solves: u8,
    /// Not solved before this, if it is a trunk.
    due: Time,
}

#[derive(Clone, Debug)]
struct Flow {
    links: [u32; ROUTE_LINKS_MAX],
    /// Where the flow stands among the flows of each of its links.
    places: [u32; ROUTE_LINKS_MAX],
    count: u8,
    changed: bool,
    rate: f64,
}

/// Links, flows and their rates.
#[derive(Clone, Debug)]
pub(crate) struct Fluid {
    links: Vec<Link>,
    flows: Vec<Flow>,
    free: Vec<u32>,
    queue: VecDeque<u32>,
    /// Trunks that wait until they are due.
    waiting: Vec<u32>,
    solved: Vec<u32>,
    changed: Vec<FlowId>,
    demands: Vec<f64>,
    sorted: Vec<f64>,
    /// How many links were solved, ever.
    solves: u64,
}

impl Fluid {
    pub(crate) fn new(topology: &Topology) -> Self {
        let link = |link: &super::topology::Link| Link {
            capacity: link.capacity,
            trunk: link.trunk,
            level: f64::INFINITY,
            used: 0.0,
            flows: Vec::new(),
            queued: false,
            solves: 0,
            due: Time::ZERO,
        };
        Self {
            links: topology.links().iter().map(link).collect(),
            flows: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            waiting: Vec::new(),
            solved: Vec::new(),
            changed: Vec::new(),
            demands: Vec::new(),
            sorted: Vec::new(),
            solves: 0,
        }
    }

    /// A flow that sends as fast as it may; its rate is 0 until [`Fluid::settle`].
    pub(crate) fn open(&mut self, route: &Route) -> FlowId {
        let flow = self.free.pop().unwrap_or(self.flows.len() as u32);
        let mut links = [0; ROUTE_LINKS_MAX];
        let mut places = [0; ROUTE_LINKS_MAX];
        for (hop, link) in route.links().iter().enumerate() {
            let flows = &mut self.links[link.0 as usize].flows;
            (links[hop], places[hop]) = (link.0, flows.len() as u32);
            flows.push(flow);
            self.enqueue(link.0);
        }
        let opened = Flow { links, places, count: route.links().len() as u8, changed: false, rate: 0.0 };
        if flow as usize == self.flows.len() {
            self.flows.push(opened)
        } else {
            self.flows[flow as usize] = opened
        }
        FlowId(flow)
    }

    /// Ends a flow.
    pub(crate) fn close(&mut self, flow: FlowId) {
        let Flow { links, places, count, rate, .. } = self.flows[flow.0 as usize];
        for hop in 0..usize::from(count) {
            let link = &mut self.links[links[hop] as usize];
            link.flows.swap_remove(places[hop] as usize);
            link.used = if link.flows.is_empty() { 0.0 } else { link.used - rate };
            if let Some(moved) = link.flows.get(places[hop] as usize).copied() {
                let moved = &mut self.flows[moved as usize];
                let at = moved.links[..usize::from(moved.count)].iter().position(|over| *over == links[hop]);
                moved.places[at.expect("a flow of a link goes over it")] = places[hop];
            }
            self.look_at(links[hop]);
        }
        if self.flows[flow.0 as usize].changed {
            self.changed.retain(|changed| *changed != flow);
        }
        self.free.push(flow.0);
    }

    /// Bytes a second.
    pub(crate) fn rate(&self, flow: FlowId) -> f64 {
        self.flows[flow.0 as usize].rate
    }

    /// Links solved, ever.
    pub(crate) fn solves(&self) -> u64 {
        self.solves
    }

    /// When `settle` is due for the sake of trunks that wait.
    pub(crate) fn due(&self) -> Option<Time> {
        self.waiting.iter().map(|link| self.links[*link as usize].due).min()
    }

    /// Brings the rates up to date; puts the flows whose rates changed since the last time into `changed`.
    pub(crate) fn settle(&mut self, now: Time, changed: &mut Vec<FlowId>) {
        let (links, queue) = (&self.links, &mut self.queue);
        self.waiting.retain(|link| {
            let waits = links[*link as usize].due > now;
            if !waits {
                queue.push_back(*link);
            }
            waits
        });
        while let Some(link) = self.queue.pop_front() {
            let entry = &mut self.links[link as usize];
            if entry.trunk && entry.due > now {
                self.waiting.push(link);
                continue;
            }
            entry.queued = false;
            if entry.solves == 0 {
                self.solved.push(link);
            }
            entry.solves = entry.solves.saturating_add(1);
            let lower_only = entry.solves > SOLVES_MAX;
            self.solve(link, lower_only, now);
        }
        for link in self.solved.drain(..) {
            let entry = &mut self.links[link as usize];
            entry.solves = 0;
            if entry.trunk {
                entry.due = now + TRUNK_EVERY;
            }
        }
        for flow in &self.changed {
            self.flows[flow.0 as usize].changed = false;
        }
        changed.clear();
        std::mem::swap(&mut self.changed, changed);
    }

    fn enqueue(&mut self, link: u32) {
        let entry = &mut self.links[link as usize];
        if !entry.queued {
            entry.queued = true;
            self.queue.push_back(link);
        }
    }

    /// The rates over a link changed: it is solved if it is asked too much, or if its level would move.
    fn look_at(&mut self, link: u32) {
        let entry = &self.links[link as usize];
        let room = entry.capacity - entry.used;
        let over = room < -ROUNDING * entry.capacity;
        // No fewer than one flow would share the room.
        if over || entry.level.is_finite() && room > LEVEL_TOLERANCE * entry.level {
            self.enqueue(link);
        }
    }

    fn solve(&mut self, link: u32, lower_only: bool, now: Time) {
        self.solves += 1;
        let flows = std::mem::take(&mut self.links[link as usize].flows);
        let mut demands = std::mem::take(&mut self.demands);
        demands.clear();
        demands.extend(
            flows.iter().map(|flow| if lower_only { self.rate(FlowId(*flow)) } else { self.demand(*flow, link) }),
        );
        let level = self.fill(link, &demands);
        if !lower_only {
            self.links[link as usize].level = level;
        }
        for (flow, demand) in flows.iter().zip(&demands) {
            self.set_rate(*flow, level.min(*demand), link, now);
        }
        let entry = &mut self.links[link as usize];
        entry.used = flows.iter().map(|flow| self.flows[*flow as usize].rate).sum();
        entry.flows = flows;
        self.demands = demands;
    }

    /// What the other links on its way let the flow have.
    fn demand(&self, flow: u32, link: u32) -> f64 {
        let flow = &self.flows[flow as usize];
        let others = flow.links[..usize::from(flow.count)].iter().filter(|over| **over != link);
        others.map(|over| self.links[*over as usize].level).fold(f64::INFINITY, f64::min)
    }

    /// The level at which these demands use up the link; infinite if they do not.
    fn fill(&mut self, link: u32, demands: &[f64]) -> f64 {
        self.sorted.clear();
        self.sorted.extend_from_slice(demands);
        self.sorted.sort_unstable_by(f64::total_cmp);
        let mut left = self.links[link as usize].capacity;
        for (index, demand) in self.sorted.iter().enumerate() {
            let share = left / (self.sorted.len() - index) as f64;
            if *demand > share {
                return share;
            }
            left -= demand;
        }
        f64::INFINITY
    }

    /// Gives a flow its rate, because `solved` was solved, and looks at the other links on its way.
    fn set_rate(&mut self, flow: u32, rate: f64, solved: u32, now: Time) {
        let Flow { links, count, rate: before, .. } = self.flows[flow as usize];
        let others = links[..usize::from(count)].iter().copied().filter(|over| *over != solved);
        let mut rate = rate;
        for over in others.clone() {
            let entry = &self.links[over as usize];
            if entry.trunk && entry.due > now && rate > before {
                rate = rate.min(before + (entry.capacity - entry.used).max(0.0));
                self.enqueue(over);
            }
        }
        if (rate - before).abs() <= ROUNDING * rate {
            return;
        }
        let entry = &mut self.flows[flow as usize];
        entry.rate = rate;
        if !std::mem::replace(&mut entry.changed, true) {
            self.changed.push(FlowId(flow));
        }
        for over in others {
            self.links[over as usize].used += rate - before;
            self.look_at(over);
        }
    }

    /// Asserts the invariant.
    pub(crate) fn check(&self) {
        for link in &self.links {
            let sum: f64 = link.flows.iter().map(|flow| self.flows[*flow as usize].rate).sum();
            assert!(sum <= link.capacity * (1.0 + 1e-6), "{sum} over a link of {}", link.capacity);
            assert!((sum - link.used).abs() <= link.capacity * 1e-6, "{sum} flow, not {}", link.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shoal_proto::rng::Rng;

    use super::super::exact;
    use super::super::topology::LinkId;
    use super::*;

    /// A random network with flows that come and go.
    struct Churn {
        rng: Rng,
        topology: Topology,
        nodes: u64,
        fluid: Fluid,
        flows: BTreeMap<FlowId, Route>,
        now: Time,
        changed: Vec<FlowId>,
    }

    impl Churn {
        fn new(seed: u64) -> Self {
            let mut rng = Rng::new(seed);
            let mut topology = Topology::default();
            let sites: Vec<_> = (0..=rng.below(3)).map(|_| topology.add_site(speed(&mut rng, 4e6))).collect();
            let nodes = 2 + rng.below(60);
            for node in 0..nodes as usize {
                let (up, down) = (speed(&mut rng, 1e6), speed(&mut rng, 1e6));
                topology.add_node(sites[node % sites.len()], up, down);
            }
            let fluid = Fluid::new(&topology);
            Self { rng, topology, nodes, fluid, flows: BTreeMap::new(), now: Time::ZERO, changed: Vec::new() }
        }

        fn change(&mut self) {
            let wanted = 1 + self.rng.below(6 * self.nodes);
            if self.flows.len() as u64 > wanted {
                let at = self.rng.below(self.flows.len() as u64) as usize;
                let flow = *self.flows.keys().nth(at).unwrap();
                self.flows.remove(&flow);
                self.fluid.close(flow);
                return;
            }
            let (from, to) = (self.rng.below(self.nodes) as usize, self.rng.below(self.nodes) as usize);
            let route = if from == to { self.topology.over_wan(to) } else { self.topology.between(from, to) };
            let links: Vec<LinkId> = route.links().to_vec();
            // Some networks have sites whose flows never leave them.
            if links.iter().enumerate().all(|(at, link)| !links[..at].contains(link)) {
                let flow = self.fluid.open(&route);
                assert!(self.flows.insert(flow, route).is_none(), "an open flow's number is nobody else's");
            }
        }

        fn settle(&mut self, after: Duration) {
            self.now = self.now + after;
            let before: Vec<_> = self.flows.keys().map(|flow| (*flow, self.fluid.rate(*flow))).collect();
            let mut changed = std::mem::take(&mut self.changed);
            self.fluid.settle(self.now, &mut changed);
            for (flow, rate) in before {
                assert!(rate == self.fluid.rate(flow) || changed.contains(&flow), "a change is told");
            }
            assert!(changed.iter().all(|flow| self.flows.contains_key(flow)), "closed flows are not told of");
            self.changed = changed;
            self.fluid.check();
        }

        /// The relative errors of all rates against the oracle.
        fn errors(&self) -> Vec<f64> {
            let routes: Vec<_> = self.flows.values().copied().collect();
            let exact = exact::rates(self.topology.links(), &routes);
            let error = |(flow, exact): (&FlowId, f64)| (self.fluid.rate(*flow) - exact).abs() / exact;
            self.flows.keys().zip(exact).map(error).collect()
        }
    }

    /// A tenth to ten times `mean`.
    fn speed(rng: &mut Rng, mean: f64) -> f64 {
        mean * 10f64.powf(rng.below(2001) as f64 / 1000.0 - 1.0)
    }

    #[test]
    fn rates_are_the_oracles_under_churn() {
        let mut errors = Vec::new();
        for seed in 0..60 {
            let mut churn = Churn::new(seed);
            for step in 0..400u64 {
                churn.change();
                churn.settle(Duration::from_micros(churn.rng.clone().below(3000)));
                if step % 10 == 9 {
                    churn.settle(TRUNK_EVERY);
                    errors.extend(churn.errors());
                }
            }
        }
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let far = errors.iter().filter(|error| **error > 0.05).count() as f64 / errors.len() as f64;
        println!("{} rates: mean error {mean:.6}, {far:.6} of them off by more than 5 %", errors.len());
        assert!(mean < 0.001, "mean error {mean}");
        assert!(far < 0.001, "{far} of the rates are off by more than 5 %");
    }

    #[test]
    fn a_change_far_away_moves_nothing_here() {
        let mut topology = Topology::default();
        let site = topology.add_site(1e6);
        (0..1000).for_each(|_| {
            topology.add_node(site, 1e6, 1e6);
        });
        let mut fluid = Fluid::new(&topology);
        let mut changed = Vec::new();
        // Pairs that share nothing with each other.
        let flows: Vec<_> = (0..500).map(|pair| fluid.open(&topology.between(2 * pair, 2 * pair + 1))).collect();
        fluid.settle(Time::ZERO, &mut changed);
        assert_eq!(changed.len(), flows.len());
        let solves = fluid.solves();
        let second = fluid.open(&topology.between(0, 3));
        fluid.settle(Time::ZERO, &mut changed);
        changed.sort_unstable();
        assert_eq!(changed, [flows[0], flows[1], second]);
        assert!(fluid.solves() - solves <= 6, "{} links solved", fluid.solves() - solves);
        assert_eq!([flows[0], flows[1], second].map(|flow| fluid.rate(flow)), [0.5e6; 3]);
    }

    #[test]
    fn a_trunk_waits_for_its_turn_and_then_shares() {
        let mut topology = Topology::default();
        let site = topology.add_site(1e6);
        (0..2).for_each(|_| {
            topology.add_node(site, 9e6, 9e6);
        });
        let mut fluid = Fluid::new(&topology);
        let mut changed = Vec::new();
        let first = fluid.open(&topology.over_wan(0));
        fluid.settle(Time::ZERO, &mut changed);
        let second = fluid.open(&topology.over_wan(1));
        fluid.settle(Time::from_millis(1), &mut changed);
        assert_eq!((fluid.rate(first), fluid.rate(second)), (1e6, 0.0));
        assert_eq!(fluid.due(), Some(Time::ZERO + TRUNK_EVERY));
        fluid.settle(Time::ZERO + TRUNK_EVERY, &mut changed);
        assert_eq!((fluid.rate(first), fluid.rate(second)), (0.5e6, 0.5e6));
        assert_eq!(fluid.due(), None);
    }
}
