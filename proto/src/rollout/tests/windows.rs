//! Windows inside a step, and steps that start together.

use super::*;
use crate::manifest::Share;
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
