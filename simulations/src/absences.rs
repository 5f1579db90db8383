//! The coordinator away for hours while a deployment is acquiring, runs its steps or bakes: in two of thirteen seeds, so that
//! the others mean what they meant.
//!
//! It goes when the operator sees that a deployment has come there, so that none of the three is left to chance.

use std::time::Duration;

use shoal_proto::coordinator::DeploymentView;
use shoal_proto::manifest::{Offline, Source};
use shoal_proto::rng::{Rng, mix};
use shoal_proto::rollout::view::{Stage, Waiting};
use shoal_proto::rollout::when::When;

use crate::scenario::{Scenario, step};
use crate::waves;
use crate::world::{Event, World};

/// Tells the random numbers of this file from those of the scenario.
const SALT: u64 = 0xab5e;

const HOUR: Duration = Duration::from_secs(3600);

/// What a deployment is doing when the coordinator goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum During {
    Acquire,
    Steps,
    Bake,
}

/// An absence that is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absence {
    during: During,
    span: Duration,
}

/// Has the coordinator of a scenario go away for hours, and gives it something to do then.
pub(crate) fn set(scenario: &mut Scenario, seed: u64) {
    let mut rng = Rng::new(mix(seed ^ SALT));
    waves::set(scenario, seed);
    for deployment in &mut scenario.deployments {
        (deployment.stage_only, deployment.when) = (false, When::default());
        deployment.source = if rng.below(4) == 0 { Source::Coordinator } else { Source::Feed };
        while deployment.steps.len() < 2 {
            let name = format!("more{}", deployment.steps.len());
            deployment.steps.push(step(&name, false, &mut rng));
        }
        waves::bake(&mut deployment.waves, &mut rng);
        // Hours are long for whoever is away as well, where that is not what is to be seen.
        if rng.below(2) == 0 {
            deployment.offline = Offline::Wait;
        }
    }
    // Slow enough that it is seen that packages are on their way.
    for site in &mut scenario.sites {
        site.wan_rate = site.wan_rate.min(200_000);
    }
    for during in [During::Acquire, During::Steps, During::Bake] {
        let span = HOUR + Duration::from_secs(rng.below(3 * HOUR.as_secs()));
        scenario.absences.push(Absence { during, span });
        scenario.calm_at = scenario.calm_at + span + Duration::from_secs(120);
    }
}

impl World {
    /// The coordinator goes if a deployment does what one of the absences to come is for; whether it went.
    pub(crate) fn go_for_hours(&mut self, views: &[DeploymentView]) -> bool {
        let open = || views.iter().map(|view| &view.rollout).filter(|view| view.outcome.is_none());
        let bakes = |waiting: &Waiting| matches!(waiting, Waiting::Bake { .. });
        let has_come = |absence: &Absence| match absence.during {
            During::Acquire => open().any(|view| view.stage == Stage::Acquire),
            During::Bake => open().any(|view| view.waiting.iter().any(bakes)),
            During::Steps => open().any(|view| view.stage == Stage::Steps && !view.waiting.iter().any(bakes)),
        };
        let Some(place) = self.scenario.absences.iter().position(has_come).filter(|_| !self.calm) else { return false };
        let Absence { during, span } = self.scenario.absences.remove(place);
        *self.totals.hours_away.entry(during).or_default() += 1;
        self.crash_coordinator();
        self.control.away_until = self.now + span;
        self.queue.push(self.now + span, Event::StartCoordinator);
        true
    }
}
