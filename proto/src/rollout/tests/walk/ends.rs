//! Walks in which a deployment is ended early: what is to run at every end does, whatever crashes.

use super::*;

/// Cancelled at any moment, with crashes of the node and of the coordinator at any moment, before and after that.
#[test]
fn what_always_runs_does_after_a_crash_of_either_side() {
    let vpn = || Step { always_after: Some("down".to_owned()), ..script("vpn") };
    let always = || Step { on: On::Always, ..script("always") };
    let alone = || World::new(manifest(1, vec![vpn()], vec![script("one"), always()]));
    for (coordinator_crashes, node_crashes) in [(1, 1), (2, 0), (0, 2)] {
        let first = World { coordinator_crashes, node_crashes, cancels: 1, slow_orders: true, ..alone() };
        assert_long(walk(first, none_twice, cleaned_up));
    }
    let two = World::new(manifest(2, vec![vpn()], vec![script("one"), always()]));
    let first = World { coordinator_crashes: 0, cancels: 1, ..two };
    assert_long(walk(first, none_twice, cleaned_up));
}
