//! Properties over arbitrary inputs: whatever is said in whatever order, the invariants hold, and a replay is the same.

use proptest::prelude::*;

use super::*;
use crate::id::TargetIndex;
use crate::manifest::{Offline, Quorum, Share, Stragglers, Wave};
use crate::time::WallTime;

fn any_step() -> impl Strategy<Value = Step> {
    let ons = prop_oneof![4 => Just(On::Node), 1 => Just(On::Site), 1 => Just(On::Coordinator), 1 => Just(On::Always)];
    let windows = any_share().prop_map(Pace::Window);
    let paces = prop_oneof![2 => Just(Pace::Each), 2 => windows, 1 => Just(Pace::Together)];
    let backoffs = (0u64..3).prop_map(|seconds| Duration::from_secs(seconds * 7));
    let failures = prop_oneof![Just(OnFailure::Pause), Just(OnFailure::Fail), Just(OnFailure::Ignore)];
    (ons, failures, 0u32..3, any::<bool>(), any::<bool>(), paces, backoffs).prop_map(
        |(on, on_failure, retries, idempotent, after, pace, backoff)| {
            let always_after = after.then(|| "down".to_owned());
            let pace = if on == On::Node { pace } else { Pace::Each };
            Step { on, on_failure, retries, idempotent, always_after, pace, backoff, ..script("s") }
        },
    )
}

fn any_share() -> impl Strategy<Value = Share> {
    prop_oneof![(0u32..4).prop_map(Share::Count), (0u8..=100).prop_map(Share::Percent)]
}

/// Waves of which the nodes from 1 are cut at `at`, with a lane for each node or one for all.
fn any_waves(nodes: u8) -> impl Strategy<Value = Vec<Wave>> {
    let details = || (any::<bool>(), 1u16..3, 0u64..2, any_share(), prop::option::of(any_share()));
    let wave = move |from: u8, to: u8, (lanes, max_parallel, bake, max_failures, per_site): (bool, _, u64, _, _)| {
        let all: Vec<_> = (from..to).map(|number| TargetIndex(number.into())).collect();
        let lanes = if lanes { all.into_iter().map(|node| vec![node]).collect() } else { vec![all] };
        let max_failures_per_site: Option<Share> = per_site;
        let bake = Duration::from_secs(bake * 9);
        Wave { lanes, max_parallel, bake, max_failures, max_failures_per_site, ..waves::wave("w", &[]) }
    };
    (any::<bool>(), 0..nodes, details(), details()).prop_map(move |(some, at, first, second)| match (some, at) {
        (false, _) => Vec::new(),
        (true, 0) => vec![wave(0, nodes, second)],
        (true, at) => vec![wave(0, at, first), wave(at, nodes, second)],
    })
}

fn any_offline() -> impl Strategy<Value = Offline> {
    let after = (1u64..40).prop_map(Duration::from_secs);
    (0u8..6, after, 1u32..5).prop_map(|(kind, after, times)| match kind {
        0 => Offline::SkipAfter(after),
        1 => Offline::FailAfter(after),
        2 | 3 => Offline::CatchUp { after, until: after * times },
        _ => Offline::Wait,
    })
}

/// Times that come soon, or have passed.
fn any_when() -> impl Strategy<Value = When> {
    let at = || prop::option::weighted(0.3, (0u64..200).prop_map(|seconds| WallTime(seconds * 1_000)));
    (at(), at(), any::<u8>()).prop_map(|(at, expires, hour)| When { at, expires, any_hour: hour < 25 })
}

fn any_manifest() -> impl Strategy<Value = Manifest> {
    let steps = || prop::collection::vec(any_step(), 0..3);
    let quorums = prop_oneof![(1u8..=100).prop_map(Quorum::Percent), (0u32..3).prop_map(Quorum::AllBut)];
    let exclude = (0u64..100).prop_map(|s| Stragglers::ExcludeAfter(Duration::from_secs(s)));
    let stragglers = prop_oneof![Just(Stragglers::Wait), exclude];
    let waves = (1u8..4).prop_flat_map(|nodes| (Just(nodes), any_waves(nodes)));
    let gates = (quorums, stragglers, any::<bool>());
    let before = prop::collection::vec(any_step().prop_filter("at the end", |step| step.on != On::Always), 0..3);
    (waves, before, steps(), gates, any_offline()).prop_map(
        |((nodes, waves), before, steps, (quorum, stragglers, manual), offline)| {
            let gate = Gate { quorum, stragglers, manual };
            let before = before.into_iter().map(|step| Step { pace: Pace::Each, ..step }).collect();
            Manifest { gate, waves, offline, ..manifest(nodes, before, steps) }
        },
    )
}

/// An input, made from numbers only when the state is known, so that most of them fit it.
#[derive(Clone, Copy, Debug)]
struct Seed {
    kind: u8,
    pick: u8,
    outcome: u8,
}

fn any_seeds() -> impl Strategy<Value = Vec<Seed>> {
    let seed = (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(kind, pick, outcome)| Seed { kind, pick, outcome });
    prop::collection::vec(seed, 0..120)
}

fn outcome(number: u8) -> StepOutcome {
    match number % 8 {
        0 => failed(1),
        1 => StepOutcome::TimedOut,
        2 => StepOutcome::Killed,
        3 => StepOutcome::Unknown,
        4 => StepOutcome::Failed(Failure::Cause("no".to_owned())),
        _ => StepOutcome::Succeeded,
    }
}

impl Seed {
    fn input(self, live: &Live) -> Input {
        let runs: Vec<_> = live.rollout.state.runs.iter().map(|((s, a), run)| (*s, *a, run.attempt)).collect();
        let run = runs.get(usize::from(self.pick) % runs.len().max(1)).copied();
        let (step, actor, attempt) = run.unwrap_or((nth(u16::from(self.pick % 3)), on(self.pick % 5), 1));
        let attempt = if self.outcome > 240 { attempt.wrapping_sub(1) } else { attempt };
        let node = node(self.pick % 4 + 1);
        let which = match self.outcome % 3 {
            0 => Which { actor: Some(actor), step: Some(step) },
            1 => Which { actor: Some(actor), step: None },
            _ => Which::default(),
        };
        let asked: Vec<_> = live.rollout.state.elected.iter().copied().collect();
        let asked = asked.get(usize::from(self.pick) % asked.len().max(1)).copied();
        match self.kind % 64 {
            // Often who is asked, at times anybody.
            0..=1 => Input::StepReady { node, step },
            26..=27 => asked.map_or(Input::Tick, |(step, node)| Input::StepReady { node, step }),
            2..=7 => Input::NodeOnline(node),
            8..=11 => Input::NodeOffline(node),
            12..=23 => Input::Acquired { node, package: PackageIndex(u16::from(self.outcome > 250)) },
            24..=25 => Input::AcquireFailed { node, package: PackageIndex(0), cause: "full".to_owned() },
            28 => {
                let outputs = [("key".to_owned(), self.outcome.to_string())].into();
                Input::StepWrote { actor, step, attempt, outputs }
            }
            29..=31 => Input::StepStarted { actor, step, attempt },
            32..=51 => Input::StepEnded { actor, step, attempt, outcome: outcome(self.outcome) },
            52..=53 => Input::Operator(Operator::Release),
            54..=55 => Input::Operator(Operator::Retry(which)),
            56..=57 => Input::Operator(Operator::Ignore(which)),
            58 => Input::Operator(Operator::Exclude(which)),
            59 if self.outcome < 64 => Input::Operator(Operator::Cancel),
            59 if self.outcome < 80 => Input::Operator(Operator::Rollback),
            60 if self.outcome < 64 => Input::Operator(Operator::Fail(which)),
            62 => Input::Operator(if self.outcome < 128 { Operator::Pause } else { Operator::Promote }),
            63 => Input::Operator(Operator::Resume),
            60 | 61 if self.outcome >= 128 => {
                when::hours([&[][..], &["a"], &["b"], &["a", "b"]][usize::from(self.pick % 4)])
            }
            61 if self.outcome < 64 => Input::Stop { cause: "changed".to_owned() },
            _ => Input::Tick,
        }
    }
}

fn advance(live: &mut Live, seed: Seed) {
    let span = Duration::from_secs(u64::from(seed.kind / 64) * 10);
    live.now = Now { time: live.now.time + span, wall: live.now.wall + span + Duration::from_millis(1) };
}

/// Once every node is there and does what it is told, a deployment ends, if an operator answers.
fn bring_to_an_end(live: &mut Live) {
    live.tell(when::hours(&[]));
    live.connect();
    for _ in 0..400 {
        if live.outcome().is_some() {
            return;
        }
        let view = live.rollout.view();
        let in_flight = live.rollout.state.runs.iter().find(|(_, run)| run.in_flight());
        let asked = live.rollout.state.elected.first().copied();
        let lacking = view.nodes.iter().find(|node| !node.acquired && node.excluded.is_none());
        let waits_for = |wanted: fn(&view::Waiting) -> bool| view.waiting.iter().any(wanted);
        let input = if waits_for(|waiting| *waiting == view::Waiting::Resume) {
            Input::Operator(Operator::Resume)
        } else if let Some((step, node)) = asked {
            Input::StepReady { node, step }
        } else if let Some(((step, actor), run)) = in_flight {
            let (actor, step, attempt) = (*actor, *step, run.attempt);
            Input::StepEnded { actor, step, attempt, outcome: StepOutcome::Succeeded }
        } else if view.waiting.iter().any(|waiting| matches!(waiting, view::Waiting::Answer { .. })) {
            Input::Operator(Operator::Ignore(Which::default()))
        } else if let Some(node) = lacking.filter(|_| view.stage != view::Stage::BeforeAcquire) {
            Input::Acquired { node: node.node, package: PackageIndex(0) }
        } else if waits_for(|waiting| matches!(waiting, view::Waiting::Promote { .. })) {
            Input::Operator(Operator::Promote)
        } else if let Some((at, _)) = live.rollout.next_wake() {
            live.now = Now { time: live.now.time.max(at), wall: live.now.wall + at.since(live.now.time) };
            Input::Tick
        } else {
            Input::Operator(Operator::Release)
        };
        live.tell(input);
    }
    panic!("it does not end: {:#?}", live.rollout.view());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_said_invariants_hold_and_replay_is_the_same(
        manifest in any_manifest(), seeds in any_seeds(), stage_only: bool, when in any_when(), cut: prop::sample::Index,
    ) {
        let mut live = Live::planned(manifest, stage_only, when);
        live.tell(Input::Tick);
        for seed in seeds {
            advance(&mut live, seed);
            let input = seed.input(&live);
            live.tell(input);
        }
        let again = live.restarted(live.journal.len());
        prop_assert_eq!(&again.rollout.state, &live.rollout.state, "replay is the same as live");
        let mut cut = live.restarted(cut.index(live.journal.len() + 1));
        bring_to_an_end(&mut cut);
        bring_to_an_end(&mut live);
    }

    /// The rest of a decision that the journal holds half of is the same, if nothing else happened.
    #[test]
    fn half_a_decision_leads_to_the_other_half(
        manifest in any_manifest(), seeds in any_seeds(), stage_only: bool, when in any_when(),
    ) {
        let mut live = Live::planned(manifest, stage_only, when);
        live.tell(Input::Tick);
        for seed in seeds {
            advance(&mut live, seed);
            let before = live.journal.len();
            let operators = matches!(seed.input(&live), Input::Operator(_));
            let input = seed.input(&live);
            // After a restart the hours are said again.
            let again = if matches!(input, Input::Hours(_)) { input.clone() } else { Input::Tick };
            // What a decision looks at: what is forgotten by a restart, as it was before.
            let mut soft = live.rollout.soft.clone();
            soft.advance(live.now, live.rollout.presence(&input), &live.rollout.state);
            live.tell(input);
            for len in before + 1..live.journal.len() {
                let mut half = live.restarted(len);
                half.now = live.now;
                half.rollout.soft = soft.clone();
                half.tell(again.clone());
                let same = half.rollout.state == live.rollout.state;
                prop_assert!(same || operators, "{:#?}\n{:#?}", half.journal, live.journal);
            }
        }
    }

    #[test]
    fn any_records_apply_without_panic(manifest in any_manifest(), other in any_manifest(), seeds in any_seeds()) {
        let mut live = Live::with(other, false);
        live.tell(Input::Tick);
        for seed in &seeds {
            let input = seed.input(&live);
            live.tell(input);
        }
        let mut foreign = fresh(Arc::new(manifest), false);
        live.journal.iter().rev().chain(&live.journal).for_each(|record| foreign.apply(record));
        let _ = (foreign.view(), foreign.pending_effects(), foreign.next_wake());
    }
}
