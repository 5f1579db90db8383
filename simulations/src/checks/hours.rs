//! Hours: none of `steps` is ordered on a node whose site is shut, and none starts there once that is known everywhere; no gate
//! opens before its time, and nothing begins that has expired. A second account, kept from the durable records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_proto::coordinator::{Created, Record};
use shoal_proto::id::DeploymentId;
use shoal_proto::manifest::Phase;
use shoal_proto::rollout::when::When;
use shoal_proto::rollout::{Actor, Change, Record as RolloutRecord};
use shoal_proto::time::{Time, WallTime};
use shoal_proto::wire::StepRun;

use crate::scenario::Scenario;

/// Many times what an order is under way, and a start takes to be written down.
const TOLD: Duration = Duration::from_secs(2);

/// What is known of the hours.
#[derive(Debug, Default)]
pub(crate) struct Hours {
    /// When the coordinator was told that each site is shut, and that it is open.
    told: BTreeMap<usize, Vec<(Time, bool)>>,
    deployments: BTreeMap<DeploymentId, Known>,
}

#[derive(Debug)]
struct Known {
    when: When,
    /// Whether its steps start at any hour.
    free: bool,
    hurried: bool,
    begun: bool,
}

impl Hours {
    /// The coordinator is told which sites are shut.
    pub(crate) fn told(&mut self, shut: &[bool], now: Time) {
        for (site, shut) in shut.iter().enumerate() {
            let told = self.told.entry(site).or_default();
            if told.last().is_none_or(|(_, known)| known != shut) {
                told.push((now, *shut));
            }
        }
    }

    /// Whether a site is shut at a moment, and was for a while before.
    fn is_shut(&self, site: usize, at: WallTime, since: Duration) -> bool {
        let ms = |time: Time| WallTime(u64::try_from(time.since(Time::ZERO).as_millis()).unwrap_or(u64::MAX));
        let told = self.told.get(&site).map(Vec::as_slice).unwrap_or_default();
        // What is told in the same millisecond may be told before or after.
        let before = |(time, _): &&(Time, bool)| ms(*time) < at;
        let beside = told.iter().any(|(time, _)| ms(*time) == at);
        let last = told.iter().rev().find(before);
        !beside && last.is_some_and(|(time, shut)| *shut && at.since(ms(*time)) >= since)
    }

    pub(crate) fn durable(&mut self, record: &Record, scenario: &Scenario) -> Result<(), String> {
        match record {
            Record::Created(created) => self.created(created),
            Record::Rollout { deployment, record } => self.changed(*deployment, record, scenario)?,
            _ => {}
        }
        Ok(())
    }

    fn created(&mut self, created: &Created) {
        let Ok(manifest) = created.signed.open(|_, _| true) else { return };
        let when = created.options.when;
        let free = when.any_hour || manifest.rollback.is_some();
        self.deployments.insert(manifest.deployment, Known { when, free, hurried: false, begun: false });
    }

    fn changed(&mut self, id: DeploymentId, record: &RolloutRecord, scenario: &Scenario) -> Result<(), String> {
        let at = record.at;
        match &record.change {
            Change::Ordered { step, actors, .. } if step.phase == Phase::Steps => {
                let sites: BTreeSet<usize> = actors.iter().filter_map(|actor| site_of(*actor, scenario)).collect();
                let free = self.deployments.get(&id).is_some_and(|known| known.free);
                if let Some(site) = sites.into_iter().find(|site| !free && self.is_shut(*site, at, Duration::ZERO)) {
                    return Err(format!("{id} {step:?} is ordered at {at:?} while site{site} is shut"));
                }
                let Some(known) = self.deployments.get_mut(&id) else { return Ok(()) };
                if !known.begun && known.when.expires.is_some_and(|expires| expires <= at) {
                    return Err(format!("{id} begins at {at:?}, and expired before"));
                }
                known.begun = true;
            }
            Change::GateOpened => {
                let known = self.deployments.get(&id).filter(|known| !known.hurried);
                if known.is_some_and(|known| known.when.at.is_some_and(|time| at < time)) {
                    return Err(format!("the gate of {id} opens at {at:?}, before its time"));
                }
            }
            Change::HoursKept => {
                if let Some(known) = self.deployments.get_mut(&id) {
                    known.free = false;
                }
            }
            change @ (Change::AnyHour | Change::Hurried) => {
                if let Some(known) = self.deployments.get_mut(&id) {
                    known.free |= *change == Change::AnyHour;
                    known.hurried |= *change == Change::Hurried;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A step's process starts.
    pub(crate) fn started(&self, actor: Actor, run: StepRun, scenario: &Scenario, now: Time) -> Result<(), String> {
        let free = self.deployments.get(&run.deployment).is_some_and(|known| known.free);
        let now = WallTime(u64::try_from(now.since(Time::ZERO).as_millis()).unwrap_or(u64::MAX));
        match site_of(actor, scenario).filter(|_| run.step.phase == Phase::Steps && !free) {
            Some(site) if self.is_shut(site, now, TOLD) => {
                Err(format!("{actor:?} starts {run:?} while site{site} is shut"))
            }
            _ => Ok(()),
        }
    }
}

fn site_of(actor: Actor, scenario: &Scenario) -> Option<usize> {
    let node = scenario.node(actor.node()?)?;
    Some(scenario.nodes[node].site)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_shut_from_when_it_was_told_and_for_how_long() {
        let mut hours = Hours::default();
        let at = |ms| Time::from_millis(ms);
        hours.told(&[true, false], at(100));
        hours.told(&[true, true], at(200));
        hours.told(&[false, true], at(300));
        let shut = |site, ms, since| hours.is_shut(site, WallTime(ms), Duration::from_millis(since));
        assert!(!shut(0, 99, 0) && !shut(0, 100, 0) && shut(0, 101, 0), "the same moment may be before");
        assert!(shut(0, 299, 199) && !shut(0, 299, 200), "told again is not anew");
        assert!(!shut(0, 300, 0) && !shut(0, 301, 0) && !shut(1, 150, 0) && shut(1, 1_000, 800));
    }
}
