//! Windows inside a step, and steps that start together.

use super::*;
use crate::manifest::Share;
use crate::rollout::barrier::together;
use crate::rollout::view::State;

fn with(nodes: u8, pace: Pace) -> Live {
    let mut live = Live::started(manifest(nodes, vec![], vec![Step { pace, ..script("one") }, script("two")]));
    live.acquire_all();
    live
}

fn window(nodes: u8, share: &str) -> Live {
    with(nodes, Pace::Window(share.parse().unwrap()))
}

fn in_flight(live: &Live) -> Vec<Actor> {
    live.rollout.state.flying().map(|(_, actor, _)| actor).collect()
}

#[test]
fn a_window_slides_and_never_waits_for_the_slowest() {
    let mut live = window(5, "2");
    assert_eq!(in_flight(&live), [on(1), on(2)]);
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(3), nth(0), 1)], "node 1 is slow");
    assert_eq!(runs(&live.succeed(on(3), nth(0)).effects), [(on(4), nth(0), 1)]);
    assert_eq!(runs(&live.succeed(on(4), nth(0)).effects), [(on(5), nth(0), 1)]);
    assert_eq!(runs(&live.succeed(on(5), nth(0)).effects), [], "each had its turn");
    assert_eq!(runs(&live.succeed(on(1), nth(0)).effects).len(), 5, "the next step has no window");
}

#[test]
fn a_window_is_of_the_nodes_that_take_part_and_at_least_one() {
    for (nodes, share, wanted) in
        [(1, "1%", 1), (3, "1%", 1), (4, "25%", 1), (5, "25%", 2), (3, "100%", 3), (3, "9", 3)]
    {
        assert_eq!(in_flight(&window(nodes, share)).len(), wanted, "{share} of {nodes}");
    }
    let mut live = window(4, "50%");
    for number in [3, 4] {
        live.operator(Operator::Exclude(Which { actor: Some(on(number)), step: None }));
    }
    assert_eq!(in_flight(&live).len(), 2, "what runs is let run");
    live.succeed(on(1), nth(0));
    assert_eq!(in_flight(&live), [on(2)]);
}

#[test]
fn a_failed_node_stops_new_starts_at_once() {
    let mut live = window(4, "2");
    live.end(on(1), nth(0), 1, failed(1));
    assert_eq!(live.rollout.view().state, State::Paused);
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), []);
    let answered = runs(&live.operator(Operator::Ignore(Which::default())).effects);
    assert_eq!(answered, [(on(3), nth(0), 1), (on(4), nth(0), 1)]);
}

#[test]
fn a_node_that_is_away_takes_no_place_in_a_window() {
    let mut live =
        Live::started(manifest(3, vec![], vec![Step { pace: Pace::Window(Share::Count(1)), ..script("one") }]));
    live.acquire(1);
    live.acquire(2);
    live.tell(Input::NodeOffline(node(1)));
    assert_eq!(runs(&live.acquire(3).effects), [(on(2), nth(0), 1)]);
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(3), nth(0), 1)]);
    assert_eq!(runs(&live.succeed(on(3), nth(0)).effects), [], "it is awaited");
    assert_eq!(live.outcome(), None);
    assert_eq!(runs(&live.tell(Input::NodeOnline(node(1))).effects), [(on(1), nth(0), 1)]);
    live.succeed(on(1), nth(0));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn nodes_that_start_together_wait_for_each_other() {
    assert_eq!(in_flight(&with(3, Pace::Together)).len(), 3);
    let mut live =
        Live::started(manifest(3, vec![], vec![script("one"), Step { pace: Pace::Together, ..script("two") }]));
    live.acquire_all();
    live.succeed(on(1), nth(0));
    live.succeed(on(2), nth(0));
    live.tell(Input::NodeOffline(node(1)));
    assert_eq!(runs(&live.succeed(on(3), nth(0)).effects), [], "node 1 could not start");
    assert_eq!(live.rollout.view().state, State::Blocked);
    assert_eq!(runs(&live.tell(Input::NodeOnline(node(1))).effects).len(), 3);
}

#[test]
fn the_sites_that_a_barrier_needs_open_together_are_those_of_a_lane() {
    let sites: BTreeMap<_, _> = [(1, "a"), (2, "b"), (3, "c")].map(|(number, site)| (node(number), name(site))).into();
    let steps = || vec![script("one"), Step { pace: Pace::Together, ..script("swap") }];
    let of = |manifest: &Manifest| {
        let (step, lanes) = together(manifest, &sites)?;
        let lanes =
            lanes.into_iter().map(|lane| lane.into_iter().map(ToString::to_string).collect::<Vec<_>>().concat());
        Some((step.to_string(), lanes.collect::<Vec<_>>()))
    };
    let swap = |lanes: &[&str]| Some(("swap".to_owned(), lanes.iter().map(|lane| (*lane).to_owned()).collect()));
    assert_eq!(of(&manifest(3, vec![], steps())), swap(&["abc"]));
    let waves = vec![waves::wave("first", &[&[1, 2]]), waves::wave("rest", &[&[3]])];
    assert_eq!(of(&Manifest { waves, ..manifest(3, vec![], steps()) }), swap(&["ab"]));
    let per_site = vec![waves::wave("sites", &[&[1], &[2], &[3]])];
    assert_eq!(of(&Manifest { waves: per_site, ..manifest(3, vec![], steps()) }), None, "each by itself");
    assert_eq!(of(&manifest(3, vec![], vec![script("one")])), None, "no barrier");
}
