//! Sites' WAN limits in a storm: some sites have one, an operator changes it at times, and readers keep to what they are told.

use std::time::Duration;

use shoal_proto::coordinator::Input;
use shoal_proto::id::NodeId;
use shoal_proto::limits::RATE_LIMIT_MIN;
use shoal_proto::rng::{Rng, mix};
use shoal_proto::time::Time;
use shoal_proto::wire::{ToCoordinator, WanRates};

use crate::faults::Fault;
use crate::links::Place;
use crate::scenario::Scenario;
use crate::world::World;

/// Tells the random numbers of this file from those of the scenario.
const SALT: u64 = 0x1141;

/// With less, bytes a second, a site would not come to its end within the calm.
const LIMIT_IN_CALM_MIN: u64 = 50_000;

/// Gives sites of a scenario limits, and changes of them.
pub(crate) fn set(scenario: &mut Scenario, seed: u64) {
    let mut rng = Rng::new(mix(seed ^ SALT));
    let until_ms = u64::try_from(scenario.calm_at.since(Time::ZERO).as_millis()).unwrap_or(u64::MAX);
    for site in 0..scenario.sites.len() {
        let changes = rng.below(5);
        for change in 0..changes {
            let at_ms = if change == 0 { 0 } else { rng.below(until_ms) };
            let rate = (scenario.sites[site].wan_rate >> rng.below(8)).max(RATE_LIMIT_MIN);
            let limit = (rng.below(5) > 0).then_some(rate);
            scenario.faults.push((Time::from_millis(at_ms), Fault::Limit { site, limit }));
        }
    }
}

impl World {
    /// The limit of a site changes: by its calendar, or by an operator. Without a coordinator nobody sees to it before it
    /// is back.
    pub(crate) fn change_limit(&mut self, site: usize, limit: Option<u64>) {
        self.limits[site] = limit;
        if self.control.process.is_some() {
            let name = self.scenario.sites[site].name.clone();
            self.checks.limit.changed(site, limit);
            self.feed_coordinator(Input::WanLimit { site: name, limit });
        }
    }

    /// A coordinator that starts is told what holds.
    pub(crate) fn say_limits(&mut self) {
        for site in 0..self.limits.len() {
            self.change_limit(site, self.limits[site]);
        }
    }

    /// In the calm, a limit goes where many bytes are still to come or where it is low: everything has to come to its end in
    /// time.
    pub(crate) fn end_limits(&mut self) {
        let away = |(_, fault): &(Time, Fault)| matches!(fault, Fault::Away { .. });
        let many = !self.scenario.swarm || self.scenario.faults.iter().any(away);
        for site in 0..self.limits.len() {
            if many || self.limits[site].is_some_and(|limit| limit < LIMIT_IN_CALM_MIN) {
                self.change_limit(site, None);
            }
        }
    }

    pub(crate) fn wan_rates_sent(&mut self, to: NodeId, rates: WanRates) {
        if let Some(node) = self.scenario.node(to) {
            self.checks.limit.sent(node, self.scenario.nodes[node].site, rates);
        }
    }

    /// A node's shell is told how fast it may read. A piece that is being read goes on as it began.
    pub(crate) fn set_wan_rate(&mut self, node: usize, rate: Option<u64>) {
        if let Some(process) = &mut self.hosts[node].process {
            process.wan_rate = rate;
            self.read_on(node);
        }
    }

    /// A node says how fast it read, as it does under a limit.
    pub(crate) fn say_wan_rate(&mut self, node: usize, bytes: u32, took: Duration) {
        if self.hosts[node].process.as_ref().is_some_and(|process| process.wan_rate.is_some()) {
            let rate = u128::from(bytes) * 1_000_000_000 / took.as_nanos().max(1);
            let rate = u64::try_from(rate).unwrap_or(u64::MAX);
            self.tell_coordinator(node, ToCoordinator::WanRate { rate });
        }
    }

    /// Judges each site that has a limit by what its nodes keep to that have something to read.
    pub(crate) fn judge_limits(&mut self) {
        let mut verdict = Ok(());
        for site in 0..self.limits.len() {
            if self.checks.limit.limit(site).is_none() {
                continue;
            }
            let of_site = |node: &usize| self.scenario.nodes[*node].site == site;
            let readers = (0..self.hosts.len()).filter(of_site).filter_map(|node| {
                let process = self.hosts[node].process.as_ref().filter(|process| !process.reads.is_empty())?;
                let control = self.links.whole_at(Place::Coordinator);
                let connected = control.iter().any(|link| self.links.link(*link).ends.contains(&Place::Node(node)));
                Some((node, process.wan_rate, connected))
            });
            let readers: Vec<_> = readers.collect();
            verdict = verdict.and(self.checks.limit.judge(site, &readers, self.now));
        }
        self.verify("LIMIT", verdict);
    }
}
