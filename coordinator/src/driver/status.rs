//! From the core's view of a deployment to what the API tells of it.

use std::collections::BTreeMap;

use shoal_proto::coordinator::{BudgetWait, Created, DeploymentView, ReadTrouble, SiteView};
use shoal_proto::id::{DeploymentId, NodeId, PackageIndex};
use shoal_proto::manifest::{Manifest, Package, Phase};
use shoal_proto::rollout::view::{self, NodeView, PackageState, StepView, View, Waiting};
use shoal_proto::rollout::{Exclusion, Failure, Outcome, StepOutcome};
use shoal_proto::time::WallTime;

use super::Server;
use super::events::{actor_name, outcome_words, step_name};
use super::operator::no_deployment;
use crate::api::limits::{DEPLOYMENTS_LISTED_MAX, TAIL_LINES_MAX};
use crate::api::types::{
    Deployment, DeploymentSchema, DeploymentState, Deployments, DeploymentsSchema, Gate, NodeState, NodeStatus,
    SiteFigures, SiteStatus, Stage, Status, StatusSchema, StepPhase, StepState, StepStatus, WaveState, WaveStatus,
};
use crate::api::{ApiError, ErrorCode};
use crate::cli::units;

impl Server {
    pub(super) fn deployment(&self, id: DeploymentId) -> Option<Deployment> {
        let view = self.core.view(id, self.now().time)?.rollout;
        Some(Deployment {
            schema: DeploymentSchema::V1,
            id,
            name: view.name.to_string(),
            release: view.release.to_string(),
            state: state(view.state),
            stage: stage(view.stage),
            nodes: count(view.nodes.len()),
            started: view.times.began.unwrap_or_else(|| self.now().wall).into(),
            ended: view.times.finished.map(Into::into),
            at: view.when.at.map(Into::into),
            expires: view.when.expires.map(Into::into),
            unchanged: false,
        })
    }

    pub(super) fn deployments(&self) -> Deployments {
        let ids: Vec<_> = self.core.deployments().collect();
        let newest = ids.into_iter().rev().take(DEPLOYMENTS_LISTED_MAX);
        let deployments = newest.filter_map(|id| self.deployment(id)).collect();
        Deployments { schema: DeploymentsSchema::V1, deployments }
    }

    pub(super) fn status(&mut self, id: Option<DeploymentId>) -> Result<Box<Status>, ApiError> {
        let none = || {
            ApiError::new(ErrorCode::NotFound, "nothing was deployed yet")
                .next("start with `shoal deploy -f deploy.yaml`")
        };
        let id = id.or_else(|| self.core.deployments().last()).ok_or_else(none)?;
        let now = self.now();
        let view = self.core.view(id, now.time).ok_or_else(|| no_deployment(id))?;
        let DeploymentView { rollout, sites, held_bytes } = view;
        let (Some(manifest), Some(created)) = (self.core.manifest(id), self.core.created(id)) else {
            return Err(no_deployment(id));
        };
        let now = now.wall;
        let times = rollout.times;
        let began = times.began.unwrap_or(now);
        let bound = |site: &SiteView| self.core.wan_bound(id, &site.site);
        let mut nodes: Vec<_> =
            rollout.nodes.iter().map(|node| node_status(node, &rollout, manifest, &held_bytes)).collect();
        nodes.sort_by(|a, b| (&a.site, &a.name).cmp(&(&b.site, &b.name)));
        let sites = sites.iter().map(|site| {
            let of_site = nodes.iter().filter(|node| node.site == site.site.as_str());
            site_status(site, of_site.map(|node| node.have_bytes).sum(), bound(site), &rollout, now)
        });
        let sites = sites.collect();
        let mut status = Status {
            schema: StatusSchema::V1,
            id,
            name: rollout.name.to_string(),
            release: rollout.release.to_string(),
            takes_back: manifest.rollback.as_ref().map(|rollback| rollback.of.to_string()),
            taken_back_by: self.core.taken_back_by(id).map(|id| id.to_string()).collect(),
            left_out: self.left_out(id),
            state: state(rollout.state),
            stage: stage(rollout.stage),
            started: began.into(),
            ended: times.finished.map(Into::into),
            duration_ms: times.finished.unwrap_or(now).0.saturating_sub(began.0),
            nodes_total: count(rollout.nodes.len()),
            steps_total: count(manifest.steps.len()),
            gate: Gate {
                manual: rollout.gate.manual,
                quorum: manifest.gate.quorum.to_string(),
                wanted: rollout.gate.needed,
                acquired: rollout.gate.ready,
                open: rollout.gate.open,
            },
            at: rollout.when.at.map(Into::into),
            expires: rollout.when.expires.map(Into::into),
            any_hour: rollout.when.any_hour,
            shut: rollout.shut.iter().map(|(site, shut)| self.shut_site(site, shut)).collect(),
            waiting: [
                self.waiting(&rollout, manifest, created),
                self.read_troubles(id, manifest),
                self.budget_waits(id, manifest),
            ]
            .concat(),
            waves: rollout.waves.iter().map(wave_status).collect(),
            nodes,
            steps: Vec::new(),
            coordinator_steps: rollout.coordinator.iter().map(step_status).collect(),
            sites,
            summary: None,
        };
        self.add_tails(id, &mut status);
        Ok(Box::new(status))
    }

    /// What it waits for, or why it failed.
    fn waiting(&self, view: &View, manifest: &Manifest, created: &Created) -> Vec<String> {
        if let Some(Outcome::Failed { cause }) = &view.outcome {
            return vec![cause.clone()];
        }
        let said = |waiting: &Waiting| match waiting {
            Waiting::Time { at } => self.not_before(*at, view),
            Waiting::Hours { site, shut } => self.describe_shut(site, shut),
            other => sentence(other, view.deployment, manifest, created),
        };
        view.waiting.iter().map(said).collect()
    }

    /// Nodes that joined too late, and nodes that a rollback cannot bring back to anything.
    fn left_out(&self, id: DeploymentId) -> Vec<String> {
        let joined = self
            .core
            .left_out(id)
            .map(|(node, why)| format!("{} joined, and is left out: {why}", self.node_name(node)));
        let of = self.core.manifest(id).and_then(|manifest| manifest.rollback.as_ref()).map(|rollback| rollback.of);
        let taken = of.or_else(|| self.core.taken_back_by(id).next().map(|_| id));
        joined.chain(taken.and_then(|of| self.stay_as_they_are(of))).collect()
    }

    /// Reads that fail: they are tried again, but an operator may have to see to the cause.
    fn read_troubles(&self, id: DeploymentId, manifest: &Manifest) -> Vec<String> {
        let sentence = |trouble: ReadTrouble| {
            let package = manifest.packages.get(trouble.package.index()).map_or("?", |package| package.name.as_str());
            let node = self.node_name(trouble.node);
            format!("{node} cannot read {package} for {}: {}; it is tried again", trouble.site, trouble.cause)
        };
        self.core.read_troubles(id).map(sentence).collect()
    }

    /// What is not read because the budget for reading again is spent (WAN-ONCE).
    fn budget_waits(&self, id: DeploymentId, manifest: &Manifest) -> Vec<String> {
        let sentence = |wait: BudgetWait| {
            let package = manifest.packages.get(wait.package.index()).map_or("?", |package| package.name.as_str());
            let reader = wait.of.node.map_or_else(|| wait.of.site.to_string(), |node| self.node_name(node));
            let more = wait.wanted_bytes.saturating_sub(wait.left_bytes).max(1);
            format!(
                "{reader} would have to read {} of {package} again, and its budget has {} left: it waits for nodes that \
                 have them, or for `shoal allow {id} --site {} --package {package} --bytes {more}B`",
                units::bytes(wait.wanted_bytes),
                units::bytes(wait.left_bytes),
                wait.of.site,
            )
        };
        self.core.budget_waits(id).map(sentence).collect()
    }

    /// Shows the last lines of steps that failed.
    fn add_tails(&mut self, id: DeploymentId, status: &mut Status) {
        let on_nodes = status.nodes.iter_mut().flat_map(|node| {
            let name = node.name.clone();
            node.steps.iter_mut().map(move |step| (name.clone(), step))
        });
        let own = status.coordinator_steps.iter_mut().map(|step| ("coordinator".to_owned(), step));
        for (node, step) in on_nodes.chain(own).filter(|(_, step)| step.is_trouble()) {
            step.tail = self.logs.tail(id, &node, &step.name, TAIL_LINES_MAX);
        }
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn state(state: view::State) -> DeploymentState {
    match state {
        view::State::Running => DeploymentState::Running,
        view::State::Paused => DeploymentState::Paused,
        view::State::Blocked => DeploymentState::Blocked,
        view::State::Succeeded => DeploymentState::Succeeded,
        view::State::Failed => DeploymentState::Failed,
        view::State::Cancelled => DeploymentState::Cancelled,
    }
}

fn stage(stage: view::Stage) -> Stage {
    match stage {
        view::Stage::BeforeAcquire => Stage::BeforeAcquire,
        view::Stage::Acquire => Stage::Acquire,
        view::Stage::Release => Stage::Release,
        view::Stage::Steps => Stage::Steps,
        view::Stage::Done => Stage::Done,
    }
}

fn wave_status(wave: &view::WaveView) -> WaveStatus {
    WaveStatus {
        name: wave.name.to_string(),
        state: match wave.state {
            view::WaveState::Pending => WaveState::Pending,
            view::WaveState::Running => WaveState::Running,
            view::WaveState::Baking => WaveState::Baking,
            view::WaveState::Short => WaveState::Short,
            view::WaveState::Done => WaveState::Done,
        },
        nodes: wave.nodes,
        done: wave.done,
        failed: wave.failed,
        excluded: wave.excluded,
        needed: wave.needed,
    }
}

fn node_status(
    node: &NodeView,
    view: &View,
    manifest: &Manifest,
    held_bytes: &BTreeMap<(NodeId, PackageIndex), u64>,
) -> NodeStatus {
    let packages = || manifest.packages_of(node.node);
    let is_there = |index| {
        let state = node.packages.iter().find(|package| package.package == index).map(|package| &package.state);
        matches!(state, Some(PackageState::Acquired { .. }))
    };
    let have = |(index, package): (PackageIndex, &Package)| {
        // Of a package on its way: what no block has, stands in the recipe.
        let held = || held_bytes.get(&(node.node, index)).map_or(0, |held| *held.min(&package.size));
        if is_there(index) { package.size } else { held() }
    };
    let failed = node.packages.iter().find_map(|package| match &package.state {
        PackageState::Failed { cause } => Some(cause.clone()),
        PackageState::Missing | PackageState::Acquired { .. } => None,
    });
    let excluded = node.excluded.map(|why| match why {
        Exclusion::Straggler => "excluded: it lacked packages for too long".to_owned(),
        Exclusion::Operator => "excluded by an operator".to_owned(),
        Exclusion::Offline => "excluded: it was offline for too long".to_owned(),
        Exclusion::Failed => "excluded: a step failed on it, and `max_failures` allows that".to_owned(),
    });
    NodeStatus {
        name: node.name.to_string(),
        site: node.site.to_string(),
        wave: super::events::wave_name(node.wave, manifest),
        state: node_state(node, view, failed.is_some()),
        online: node.online,
        acquired: node.acquired,
        package_bytes: packages().map(|(_, package)| package.size).sum(),
        have_bytes: packages().map(have).sum(),
        error: excluded.or(failed),
        steps: node.steps.iter().map(step_status).collect(),
    }
}

fn node_state(node: &NodeView, view: &View, lacks: bool) -> NodeState {
    let any = |wanted: fn(&StepView) -> bool| node.steps.iter().any(wanted);
    let unanswered =
        |step: &StepView| matches!(step.state, view::StepState::Failed | view::StepState::Unknown) && !step.ignored;
    let over = view.outcome.is_some();
    if node.excluded.is_some() {
        NodeState::Excluded
    } else if lacks || any(unanswered) {
        if over { NodeState::Failed } else { NodeState::NeedsAnswer }
    } else if any(|step| step.state == view::StepState::Running) {
        NodeState::Running
    } else if over {
        let well = matches!(view.outcome, Some(Outcome::Succeeded | Outcome::SucceededWithout { .. }));
        if well { NodeState::Succeeded } else { NodeState::Ready }
    } else if node.acquired {
        NodeState::Ready
    } else if view.stage == view::Stage::BeforeAcquire {
        NodeState::Pending
    } else {
        NodeState::Acquiring
    }
}

fn step_status(step: &StepView) -> StepStatus {
    let exit_code = match &step.outcome {
        Some(StepOutcome::Succeeded) => Some(0),
        Some(StepOutcome::Failed(Failure::Exit(code))) => Some(*code),
        _ => None,
    };
    let error = step.outcome.as_ref().filter(|outcome| **outcome != StepOutcome::Succeeded).map(outcome_words);
    let began = step.started.or(step.ordered);
    StepStatus {
        name: step.name.to_string(),
        phase: match step.step.phase {
            Phase::Before => StepPhase::BeforeAcquire,
            Phase::Steps => StepPhase::Steps,
            Phase::Always => StepPhase::Always,
            Phase::After => StepPhase::AlwaysAfter,
        },
        state: match step.state {
            view::StepState::Pending => StepState::Pending,
            view::StepState::Running => StepState::Running,
            view::StepState::Succeeded => StepState::Succeeded,
            view::StepState::Failed => StepState::Failed,
            view::StepState::Skipped => StepState::Skipped,
            view::StepState::Unknown => StepState::Unknown,
        },
        attempts: step.attempts,
        exit_code,
        ignored: step.ignored,
        ordered: step.ordered.map(Into::into),
        started: step.started.map(Into::into),
        error,
        duration_ms: began.zip(step.ended).map(|(began, ended)| ended.0.saturating_sub(began.0)),
        outputs: step.outputs.clone(),
        tail: Vec::new(),
    }
}

fn site_status(site: &SiteView, have_bytes: u64, wan_limit: Option<u64>, rollout: &View, now: WallTime) -> SiteStatus {
    let began = rollout.times.acquire_began;
    let so_far = began.map_or(0, |began| rollout.times.finished.unwrap_or(now).0.saturating_sub(began.0));
    let bound_ms =
        wan_limit.filter(|limit| *limit > 0).map(|limit| site.wan.missing_bytes.saturating_mul(1000) / limit);
    let figures = SiteFigures {
        site: site.site.to_string(),
        nodes: site.nodes,
        package_bytes: site.package_bytes,
        wanted_bytes: site.wanted_bytes,
        wan_bytes: site.wan.read_bytes,
        copies: 0.0,
        peer_bytes: site.peer_bytes,
        local_bytes: site.local_bytes,
        acquire_ms: site.acquire_ms.unwrap_or(so_far),
        bound_ms,
        of_bound: None,
    };
    SiteStatus {
        figures: figures.with_ratios(),
        nodes_acquired: site.acquired,
        have_bytes,
        missing_bytes: site.live.map_or(0, |live| live.missing_bytes),
        wan_rate: site.rates.wan,
        peer_rate: site.rates.peers,
    }
}

fn sentence(waiting: &Waiting, id: DeploymentId, manifest: &Manifest, created: &Created) -> String {
    let name = |actor| actor_name(actor, created);
    let node_name = |node: &shoal_proto::id::NodeId| name(shoal_proto::rollout::Actor::Node(*node));
    let step_named = |step: &_| step_name(*step, manifest);
    let wave_named = |wave| super::events::wave_name(wave, manifest).unwrap_or_else(|| wave.to_string());
    match waiting {
        Waiting::Resume => format!("an operator paused it: `shoal resume {id}` goes on"),
        Waiting::Answer { actor, step, outcome, .. } => format!(
            "step {} {} on {}: answer with `shoal retry|ignore|exclude|fail {id} --node {}`",
            step_named(step),
            outcome_words(outcome),
            name(*actor),
            name(*actor),
        ),
        Waiting::Package { node, package, cause } => {
            let package = manifest.packages.get(package.index()).map_or("?", |package| package.name.as_str());
            let node = node_name(node);
            format!("{node} cannot have {package}: {cause}; answer with `shoal retry|exclude|fail {id} --node {node}`")
        }
        Waiting::Release => format!("the gate waits for `shoal release {id}`"),
        // Said by the server, which knows the clocks.
        Waiting::Time { .. } | Waiting::Hours { .. } => String::new(),
        Waiting::Bake { wave, left_ms } => {
            let left = units::duration(*left_ms);
            format!("wave {} bakes for {left} more, or until `shoal promote {id}`", wave_named(*wave))
        }
        Waiting::Promote { wave, succeeded, needed } => format!(
            "too few nodes came through wave {}, {succeeded} of {needed} wanted: answer with `shoal promote|cancel {id}`",
            wave_named(*wave),
        ),
        Waiting::Retry { actor, step, attempts, left_ms } => {
            let (step, actor, left) = (step_named(step), name(*actor), units::duration(*left_ms));
            format!("step {step} failed on {actor} {attempts} times and is tried again in {left}")
        }
        Waiting::CatchingUp { node } => format!("{} was offline and has to catch up", node_name(node)),
        Waiting::Offline { node } => format!("{} is offline", node_name(node)),
        Waiting::Silent { node, step } => {
            let (node, step) = (node_name(node), step_named(step));
            format!(
                "{node} is connected, but does not answer whether it can run {step} for its site: \
                     `shoal exclude {id} --node {node}` goes on without it"
            )
        }
        Waiting::Site { site, step } => format!("no node of {site} is online to run {}", step_named(step)),
        Waiting::Acquiring { nodes: 1 } => "1 node acquires its packages".to_owned(),
        Waiting::Acquiring { nodes } => format!("{nodes} nodes acquire their packages"),
        Waiting::Running { step, actors: 1 } => format!("step {} runs on 1 machine", step_named(step)),
        Waiting::Running { step, actors } => format!("step {} runs on {actors} machines", step_named(step)),
    }
}
