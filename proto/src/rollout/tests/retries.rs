//! Retries: after a while that grows, and as often as is said.

use super::*;
use crate::limits::{BACKOFF_MAX, TEMPFAIL_RERUNS_MAX};
use crate::rollout::view::{State, Waiting};

const FIRST: Duration = Duration::from_secs(5);

fn with(step: Step) -> Live {
    let mut live = Live::started(manifest(2, vec![], vec![step]));
    live.acquire_all();
    live
}

#[test]
fn a_retry_waits_twice_as_long_each_time() {
    let mut live = with(Step { retries: 9, backoff: FIRST, ..script("one") });
    for (attempt, wait) in [(1, FIRST), (2, FIRST * 2), (3, FIRST * 4)] {
        assert_eq!(runs(&live.end(on(1), nth(0), attempt, failed(1)).effects), []);
        assert_eq!(live.rollout.next_wake(), Some((live.now.time + wait, Why::Retry)));
        let view = live.rollout.view();
        let left_ms = u64::try_from(wait.as_millis()).unwrap();
        let waits = Waiting::Retry { actor: on(1), step: nth(0), attempts: attempt, left_ms };
        assert_eq!((view.state, view.waiting[0].clone()), (State::Running, waits));
        assert_eq!(live.wait(wait - Duration::from_secs(1)).records, []);
        assert_eq!(runs(&live.wait(Duration::from_secs(1)).effects), [(on(1), nth(0), attempt + 1)]);
    }
    for attempt in 4..9 {
        live.end(on(1), nth(0), attempt, failed(1));
        live.wait(BACKOFF_MAX);
    }
    live.end(on(1), nth(0), 9, failed(1));
    assert_eq!(live.rollout.next_wake(), Some((live.now.time + BACKOFF_MAX, Why::Retry)), "not for days");
}

#[test]
fn exit_code_75_means_try_again_and_is_no_failure_of_its_own() {
    let mut live = with(Step { retries: 1, ..script("one") });
    for attempt in 1..=3 {
        assert_eq!(runs(&live.end(on(1), nth(0), attempt, failed(75)).effects), [(on(1), nth(0), attempt + 1)]);
    }
    assert_eq!(runs(&live.end(on(1), nth(0), 4, failed(1)).effects), [(on(1), nth(0), 5)], "the only retry");
    assert_eq!(runs(&live.end(on(1), nth(0), 5, failed(75)).effects), [(on(1), nth(0), 6)]);
    assert_eq!(runs(&live.end(on(1), nth(0), 6, failed(1)).effects), []);
    assert_eq!(live.rollout.view().state, State::Paused);

    let mut live = with(script("one"));
    for attempt in 1..=TEMPFAIL_RERUNS_MAX {
        assert_eq!(runs(&live.end(on(2), nth(0), attempt, failed(75)).effects).len(), 1, "attempt {attempt}");
    }
    assert_eq!(runs(&live.end(on(2), nth(0), TEMPFAIL_RERUNS_MAX + 1, failed(75)).effects), [], "not for ever");
}

#[test]
fn nothing_more_starts_in_a_window_next_to_a_failure_that_is_tried_again() {
    let pace = Pace::Window(crate::manifest::Share::Count(2));
    let mut live = Live::started(manifest(4, vec![], vec![Step { retries: 1, backoff: FIRST, pace, ..script("one") }]));
    live.acquire_all();
    live.end(on(1), nth(0), 1, failed(1));
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), []);
    assert_eq!(runs(&live.wait(FIRST).effects), [(on(1), nth(0), 2), (on(3), nth(0), 1)]);
}
