//! What happened in each deployment, for watchers: a reading of the journal's records, so that it is the same after a
//! restart.

use std::collections::BTreeMap;

use shoal_proto::coordinator::{Created, Record};
use shoal_proto::hours::{Closed, Shut};
use shoal_proto::id::{DeploymentId, LaneIndex, Name, NodeId, WaveIndex};
use shoal_proto::manifest::{Manifest, StepRef};
use shoal_proto::rollout::{Actor, Change, End, Exclusion, Failure, Outcome, StepOutcome};
use shoal_proto::time::WallTime;

use crate::api::types::{Event, EventKind};

/// Events kept per deployment: 20,000 nodes through a step; older ones are dropped.
const EVENTS_KEPT_MAX: usize = 50_000;

/// The events of every deployment.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    deployments: BTreeMap<DeploymentId, Log>,
}

#[derive(Debug, Default)]
struct Log {
    events: std::collections::VecDeque<Event>,
    last: u64,
    ended: bool,
}

/// An event without its place in the sequence.
struct Draft {
    kind: EventKind,
    actor: Option<Actor>,
    step: Option<(StepRef, u32)>,
    /// Which site it is about, if about no actor.
    site: Option<String>,
    exit_code: Option<i32>,
    message: String,
}

impl EventLog {
    /// The events that `records` tell of.
    pub(super) fn of_records(records: &[Record]) -> Self {
        let mut log = Self::default();
        let mut known = BTreeMap::new();
        for record in records {
            match record {
                Record::Created(created) => {
                    if let Ok(manifest) = created.signed.open(|_, _| true) {
                        known.insert(manifest.deployment, (manifest, created));
                    }
                }
                Record::Rollout { deployment, .. } => {
                    if let Some((manifest, created)) = known.get(deployment) {
                        log.note(record, Some(manifest), Some(created));
                    }
                }
                _ => {}
            }
        }
        log
    }

    /// Adds what a record tells of.
    pub(super) fn note(&mut self, record: &Record, manifest: Option<&Manifest>, created: Option<&Created>) {
        let (Record::Rollout { deployment, record }, Some(manifest), Some(created)) = (record, manifest, created)
        else {
            return;
        };
        let log = self.deployments.entry(*deployment).or_default();
        if log.last == 0 {
            let message = format!("{} {} started", manifest.name, manifest.release);
            log.push(*deployment, record.at, manifest, created, Draft::plain(EventKind::Started, message));
        }
        if let Some(draft) = draft(&record.change, manifest, created) {
            log.push(*deployment, record.at, manifest, created, draft);
        }
        log.ended |= matches!(record.change, Change::Finished { .. });
    }

    /// Events after number `after`, at most `max`, and whether none will follow them.
    pub(super) fn after(&self, id: DeploymentId, after: u64, max: usize) -> (Vec<Event>, bool) {
        let Some(log) = self.deployments.get(&id) else { return (Vec::new(), false) };
        let start = log.events.partition_point(|event| event.seq <= after);
        let events: Vec<_> = log.events.range(start..).take(max).cloned().collect();
        let last = events.last().map_or(after, |event| event.seq);
        (events, log.ended && last >= log.last)
    }
}

impl Log {
    fn push(&mut self, id: DeploymentId, at: WallTime, manifest: &Manifest, created: &Created, draft: Draft) {
        self.last += 1;
        let node = draft.actor.map(|actor| actor_name(actor, created));
        let site = draft.actor.and_then(Actor::node).and_then(|node| created.sites.get(&node));
        self.events.push_back(Event {
            time: at.into(),
            event: draft.kind,
            deployment: id,
            seq: self.last,
            site: site.map(ToString::to_string).or(draft.site),
            node,
            step: draft.step.map(|(step, _)| step_name(step, manifest)),
            attempt: draft.step.map(|(_, attempt)| attempt).filter(|attempt| *attempt > 0),
            exit_code: draft.exit_code,
            message: draft.message,
        });
        if self.events.len() > EVENTS_KEPT_MAX {
            self.events.pop_front();
        }
    }
}

impl Draft {
    fn plain(kind: EventKind, message: impl Into<String>) -> Self {
        Self { kind, actor: None, step: None, site: None, exit_code: None, message: message.into() }
    }

    fn of(kind: EventKind, node: NodeId, message: impl Into<String>) -> Self {
        Self { actor: Some(Actor::Node(node)), ..Self::plain(kind, message) }
    }
}

/// What people call an actor of a deployment.
pub(super) fn actor_name(actor: Actor, created: &Created) -> String {
    match actor {
        Actor::Coordinator => "coordinator".to_owned(),
        Actor::Node(node) => created.options.names.get(&node).map_or_else(|| node.short(), ToString::to_string),
    }
}

/// What people call a step.
pub(super) fn step_name(step: StepRef, manifest: &Manifest) -> String {
    manifest.step(step).map_or_else(|| step.index.to_string(), |step| step.name.to_string())
}

/// What people call a wave; none where the deployment file has no waves.
pub(super) fn wave_name(wave: WaveIndex, manifest: &Manifest) -> Option<String> {
    manifest.waves.get(wave.index()).map(|wave| wave.name.to_string())
}

fn wave_of_lane(lane: LaneIndex, manifest: &Manifest) -> Option<&Name> {
    let names = manifest.waves.iter().flat_map(|wave| wave.lanes.iter().map(|_| &wave.name));
    names.into_iter().nth(lane.index())
}

/// How a step ended, in words that follow its name.
pub(super) fn outcome_words(outcome: &StepOutcome) -> String {
    match outcome {
        StepOutcome::Succeeded => "succeeded".to_owned(),
        StepOutcome::Failed(Failure::Exit(code)) => format!("failed with exit code {code}"),
        StepOutcome::Failed(Failure::Cause(cause)) => format!("failed: {cause}"),
        StepOutcome::TimedOut => "took too long and was killed".to_owned(),
        StepOutcome::Killed => "was killed".to_owned(),
        StepOutcome::Unknown => "ended in a way that nobody saw".to_owned(),
    }
}

fn draft(change: &Change, manifest: &Manifest, created: &Created) -> Option<Draft> {
    Some(match change {
        Change::StepOpened { .. } | Change::Elected { .. } | Change::Started { .. } | Change::Ended { .. } => {
            return of_step(change, manifest, created);
        }
        Change::WaveOpened { .. } | Change::WaveEnded { .. } | Change::Promoted { .. } => {
            return of_wave(change, manifest);
        }
        Change::AcquireBegan => Draft::plain(EventKind::Stage, "the nodes begin to acquire"),
        Change::Paused => Draft::plain(EventKind::Operator, "an operator paused it"),
        Change::Resumed => Draft::plain(EventKind::Operator, "an operator resumed it"),
        Change::Released => Draft::plain(EventKind::Operator, "an operator released the gate"),
        Change::Hurried => Draft::plain(EventKind::Operator, "an operator has the gate not wait for its time"),
        Change::AnyHour => {
            let message = "an operator lets steps start also outside of maintenance windows and in freezes";
            Draft::plain(EventKind::Operator, message)
        }
        Change::HoursKept => {
            Draft::plain(EventKind::Operator, "an operator has steps wait for maintenance windows and freezes again")
        }
        Change::Shut { site, shut } => return of_site(site, Some(shut)),
        Change::Opened { site } => return of_site(site, None),
        Change::GateOpened => Draft::plain(EventKind::GateOpened, "the gate is open"),
        Change::Closing { end: End::Failure { cause } } => Draft::plain(EventKind::Stage, format!("failing: {cause}")),
        Change::Closing { end: End::Rollback { cause } } => {
            Draft::plain(EventKind::Stage, format!("failing, and to be rolled back: {cause}"))
        }
        Change::Closing { end: End::Cancel } => Draft::plain(EventKind::Operator, "an operator cancelled it"),
        Change::Killing => Draft::plain(EventKind::Stage, "what still runs is killed"),
        Change::Finished { outcome } => Draft::plain(
            EventKind::Ended,
            match outcome {
                Outcome::Succeeded => "succeeded".to_owned(),
                Outcome::SucceededWithout { excluded } => format!("succeeded without {excluded} nodes"),
                Outcome::Failed { cause } => format!("failed: {cause}"),
                Outcome::Cancelled => "cancelled".to_owned(),
            },
        ),
        _ => return of_node(change, manifest, created),
    })
}

fn of_site(site: &Name, shut: Option<&Shut>) -> Option<Draft> {
    let message = match shut.map(|shut| &shut.why) {
        Some(Closed::Window) => format!("no step starts at {site}: it is outside its maintenance windows"),
        Some(Closed::Freeze { reason }) => format!("no step starts at {site}, which is frozen: {reason}"),
        None => format!("steps may start at {site}"),
    };
    Some(Draft { site: Some(site.to_string()), ..Draft::plain(EventKind::Waiting, message) })
}

fn of_step(change: &Change, manifest: &Manifest, created: &Created) -> Option<Draft> {
    let name = |actor: &Actor| actor_name(*actor, created);
    let step_named = |step: &StepRef| step_name(*step, manifest);
    Some(match change {
        Change::StepOpened { step, lane } => {
            let wave = lane.and_then(|lane| wave_of_lane(lane, manifest));
            let wave = wave.map_or_else(String::new, |wave| format!(" in wave {wave}"));
            let message = format!("step {} begins{wave}", step_named(step));
            Draft { step: Some((*step, 0)), ..Draft::plain(EventKind::Stage, message) }
        }
        Change::Elected { step, nodes } => {
            let names: Vec<_> = nodes.iter().map(|node| name(&Actor::Node(*node))).collect();
            let message = format!("{} is to run on {}, if that answers", step_named(step), names.join(", "));
            Draft { step: Some((*step, 0)), ..Draft::plain(EventKind::Stage, message) }
        }
        Change::Started { actor, step, attempt } => Draft {
            actor: Some(*actor),
            step: Some((*step, *attempt)),
            ..Draft::plain(EventKind::StepStarted, format!("{} runs on {}", step_named(step), name(actor)))
        },
        Change::Ended { actor, step, attempt, outcome } => {
            let (kind, exit_code) = match outcome {
                StepOutcome::Succeeded => (EventKind::StepSucceeded, Some(0)),
                StepOutcome::Unknown => (EventKind::StepUnknown, None),
                StepOutcome::Failed(Failure::Exit(code)) => (EventKind::StepFailed, Some(*code)),
                _ => (EventKind::StepFailed, None),
            };
            let message = format!("{} {} on {}", step_named(step), outcome_words(outcome), name(actor));
            Draft { actor: Some(*actor), step: Some((*step, *attempt)), exit_code, ..Draft::plain(kind, message) }
        }
        _ => return None,
    })
}

fn of_wave(change: &Change, manifest: &Manifest) -> Option<Draft> {
    let name = |wave: &WaveIndex| wave_name(*wave, manifest);
    Some(match change {
        Change::WaveOpened { wave } => Draft::plain(EventKind::Wave, format!("wave {} begins", name(wave)?)),
        Change::WaveEnded { wave } => Draft::plain(EventKind::Wave, format!("wave {} is through", name(wave)?)),
        Change::Promoted { wave } => {
            Draft::plain(EventKind::Operator, format!("an operator promoted wave {}", name(wave)?))
        }
        _ => return None,
    })
}

fn of_node(change: &Change, manifest: &Manifest, created: &Created) -> Option<Draft> {
    let name = |node: &NodeId| actor_name(Actor::Node(*node), created);
    let package = |index: &shoal_proto::id::PackageIndex| {
        manifest.packages.get(index.index()).map_or_else(|| index.to_string(), |package| package.name.to_string())
    };
    let (kind, node, message) = match change {
        Change::Acquired { node, package: index } => {
            (EventKind::Acquired, node, format!("{} is on {}", package(index), name(node)))
        }
        Change::AcquireFailed { node, package: index, cause } => {
            (EventKind::Waiting, node, format!("{} cannot have {}: {cause}", name(node), package(index)))
        }
        Change::Excluded { node, why } => {
            let why = match why {
                Exclusion::Straggler => "it lacks packages for too long",
                Exclusion::Operator => "an operator said so",
                Exclusion::Offline => "it was offline for too long",
                Exclusion::Failed => "a step failed on it, and `max_failures` allows that",
            };
            (EventKind::Node, node, format!("goes on without {}: {why}", name(node)))
        }
        Change::Behind { node } => {
            (EventKind::Node, node, format!("the others go on without {}, which is offline", name(node)))
        }
        Change::Withdrawn { node, step } => {
            let message = format!("{} was not told to run {}, and does not", name(node), step_name(*step, manifest));
            (EventKind::Node, node, message)
        }
        Change::NotBegun { actor: Actor::Node(node), step } => {
            let message = format!("{} has not begun {}, and does not", name(node), step_name(*step, manifest));
            (EventKind::Node, node, message)
        }
        Change::CaughtUp { node } => (EventKind::Node, node, format!("{} has caught up", name(node))),
        _ => return None,
    };
    Some(Draft::of(kind, *node, message))
}
