//! When steps may start in a storm: sites that are shut and open at any time, deployments that wait for a time or expire, and
//! an operator who goes past either.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_proto::coordinator::Input;
use shoal_proto::hours::{Closed, Shut};
use shoal_proto::id::Name;
use shoal_proto::rng::{Rng, mix};
use shoal_proto::rollout::when::When;
use shoal_proto::time::{Time, WallTime};

use crate::faults::Fault;
use crate::scenario::Scenario;
use crate::world::World;

/// Tells the random numbers of this file from those of the scenario.
const SALT: u64 = 0x4053;

/// Has sites of a scenario shut and open, and deployments wait and expire.
pub(crate) fn set(scenario: &mut Scenario, seed: u64) {
    let mut rng = Rng::new(mix(seed ^ SALT));
    let until_ms = u64::try_from(scenario.calm_at.since(Time::ZERO).as_millis()).unwrap_or(u64::MAX);
    for site in 0..scenario.sites.len() {
        for change in 0..rng.below(8) {
            let at = Time::from_millis(if change == 0 { 0 } else { rng.below(until_ms) });
            scenario.faults.push((at, Fault::Shut { site, shut: rng.below(3) > 0 }));
        }
    }
    for deployment in &mut scenario.deployments {
        let after = |rng: &mut Rng, most_s| wall(deployment.at + Duration::from_secs(1 + rng.below(most_s)));
        deployment.when = When {
            at: (rng.below(2) == 0).then(|| after(&mut rng, 90)),
            expires: (rng.below(3) == 0).then(|| after(&mut rng, 200)),
            any_hour: rng.below(6) == 0,
        };
    }
}

fn wall(at: Time) -> WallTime {
    WallTime(u64::try_from(at.since(Time::ZERO).as_millis()).unwrap_or(u64::MAX))
}

impl World {
    /// A site is shut, or opens: by its windows, or by an operator. Without a coordinator nobody sees to it before it is back.
    pub(crate) fn shut_site(&mut self, site: usize, shut: bool) {
        self.shut[site] = shut;
        self.say_hours();
    }

    /// In the calm every site is open, so that all comes to its end.
    pub(crate) fn open_sites(&mut self) {
        self.shut.fill(false);
        self.say_hours();
    }

    fn say_hours(&mut self) {
        if self.control.process.is_some() {
            self.checks.hours.told(&self.shut, self.now);
            let hours = self.hours();
            self.feed_coordinator(Input::Hours(hours));
        }
    }

    /// What a coordinator that starts is told.
    pub(crate) fn hours_at_start(&mut self) -> BTreeMap<Name, Shut> {
        self.checks.hours.told(&self.shut, self.now);
        self.hours()
    }

    fn hours(&self) -> BTreeMap<Name, Shut> {
        let sites = self.scenario.sites.iter().zip(&self.shut).filter(|(_, shut)| **shut);
        sites.map(|(site, _)| (site.name.clone(), Shut { why: Closed::Window, until: None })).collect()
    }
}
